//! Records on their way to the server: nothing is lost without a number that says so.

use whodunit_flight::Counters;
use whodunit_model::record::Kind;

use crate::app::App;
use crate::client::fetch;
use crate::mesh::{Setup, at, end, wait_for};
use crate::server::Server;

/// Waits until the accounts of a proxy balance, as they do whenever nothing moves.
pub(crate) async fn conserved(proxy: &whodunit_proxy::Running) {
    wait_for("the accounts to balance", || {
        let counters = proxy.counters();
        (balance(&counters)).then_some(())
    })
    .await;
}

/// Checks both equations of the accounting. The numbers must be at rest.
#[track_caller]
pub(crate) fn check_conservation(counters: &Counters) {
    assert!(balance(counters), "{counters:?}");
}

fn balance(counters: &Counters) -> bool {
    let requests = counters.recorded
        + counters.in_flight
        + counters.dropped_abandoned
        + counters.dropped_queue_full;
    let rows = counters.acknowledged
        + counters.buffered
        + counters.discarded_buffer_full
        + counters.discarded_queue_full
        + counters.discarded_mode;
    (counters.started, counters.rows) == (requests, rows)
}

fn finals(server: &Server) -> usize {
    server
        .records()
        .iter()
        .filter(|row| row.kind == Kind::Request)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_survive_a_server_that_goes_away_and_comes_back() {
    let app = App::start().await;
    let mut server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http1", app.address)
        .start();
    let mut sent = 0;
    for round in 0..3 {
        for i in 0..20 {
            // Traffic does not notice.
            assert_eq!(
                fetch(at(&proxy, "in"), &format!("/x{round}x{i}x"))
                    .await
                    .status,
                200
            );
            sent += 1;
        }
        if round == 0 {
            wait_for("the first records", || {
                (finals(&server) == sent).then_some(())
            })
            .await;
            // From now on batches arrive but are not acknowledged, as in a server that
            // is killed before they are durable.
            server.acknowledge(false);
        } else if round == 1 {
            wait_for("the second records", || {
                (finals(&server) == sent).then_some(())
            })
            .await;
            server.halt();
            server.acknowledge(true);
        }
    }
    let waiting = proxy.counters();
    assert_eq!((waiting.recorded, waiting.acknowledged), (60, 20));
    check_conservation(&waiting);
    server.resume();
    wait_for("all acknowledgments", || {
        (proxy.counters().acknowledged == 60).then_some(())
    })
    .await;
    conserved(&proxy).await;
    assert_eq!(
        finals(&server),
        60,
        "each batch counts once by boot and sequence"
    );
    let mut ids: Vec<_> = server.records().iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 60);
    server.received(|received| {
        assert_eq!(
            received.resent_durable, 0,
            "what is durable is not sent again"
        );
        assert!(received.hellos.len() >= 2);
        assert!(
            received
                .hellos
                .iter()
                .all(|hello| hello.boot == proxy.boot().0)
        );
    });
    let boot = proxy.boot().0;
    end(proxy).await;
    let last = server
        .received(|received| received.batches.keys().last().copied())
        .unwrap();
    assert_eq!(
        server.received(|received| received.closed.get(&boot).copied()),
        Some(last.1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_balance_under_overload() {
    let app = App::start().await;
    let mut server = Server::start().await;
    let address = server.address.to_string();
    let tiny = "queue_rows = 2\nbuffer_bytes = 65536";
    let proxy = Setup::with_servers("web", &address, tiny)
        .inbound("http1", app.address)
        .start();
    server.halt();
    let target = at(&proxy, "in");
    let clients = (0..8).map(|client| {
        tokio::spawn(async move {
            for i in 0..100 {
                assert_eq!(fetch(target, &format!("/x{client}x{i}x")).await.status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    wait_for("the end", || {
        (proxy.counters().in_flight == 0).then_some(())
    })
    .await;
    let counters = proxy.counters();
    assert_eq!(counters.started, 800);
    assert!(counters.dropped_queue_full > 0, "{counters:?}");
    check_conservation(&counters);
    server.resume();
    wait_for("the rest", || {
        (proxy.counters().buffered == 0).then_some(())
    })
    .await;
    let counters = proxy.counters();
    check_conservation(&counters);
    assert_eq!(server.records().len() as u64, counters.acknowledged);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_ends_sends_its_last_records_and_says_so() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http1", app.address)
        .start();
    let boot = proxy.boot().0;
    fetch(at(&proxy, "in"), "/last").await;
    end(proxy).await;
    assert_eq!(finals(&server), 1);
    server.received(|received| {
        let sequence = received.batches.keys().next_back().unwrap().1;
        assert_eq!(received.closed.get(&boot), Some(&sequence));
        let last = received.reports.last().unwrap();
        let last = last.conservation.as_ref().unwrap();
        assert_eq!((last.started, last.recorded, last.in_flight), (1, 1, 0));
        assert_eq!((last.rows, last.acknowledged, last.buffered), (1, 1, 0));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_tell_the_state_of_the_proxy() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http1", app.address)
        .start();
    fetch(at(&proxy, "in"), "/").await;
    let report = wait_for("a report with the request in it", || {
        server.received(|received| {
            let done = |report: &&whodunit_wire::v1::ReportRequest| {
                report
                    .conservation
                    .as_ref()
                    .is_some_and(|c| c.acknowledged == 1)
            };
            received.reports.iter().find(done).cloned()
        })
    });
    let report = report.await;
    let from = report.from.unwrap();
    assert_eq!(
        (from.workload.as_str(), from.instance.as_str()),
        ("web", "web-0")
    );
    assert_eq!(
        (from.boot, from.app_version.as_str()),
        (proxy.boot().0, "v1")
    );
    assert_eq!(
        report.discovery_age_ms, None,
        "this proxy discovers nothing"
    );
    assert!(
        report.clock_offset_us.abs() < 1_000_000,
        "both run on this machine"
    );
    let conservation = report.conservation.unwrap();
    assert_eq!(
        (
            conservation.started,
            conservation.recorded,
            conservation.rows
        ),
        (1, 1, 1)
    );
    end(proxy).await;
}
