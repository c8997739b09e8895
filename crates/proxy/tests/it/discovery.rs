//! Following where services live.

use http::StatusCode;
use whodunit_model::record::Side;

use crate::app::App;
use crate::client::fetch;
use crate::mesh::{DEADLINE, Setup, at, end, endpoint, record_where, wait_for};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn new_endpoints_are_used_and_old_ones_are_left() {
    let (old, new) = (App::start().await, App::start().await);
    let mut server = Server::start().await;
    server.discover("callee", &[endpoint(old.address, "old", false)]);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "callee")
        .start();
    let callee = at(&proxy, "callee");
    assert_eq!(fetch(callee, "/to-old").await.status, StatusCode::OK);
    old.headers("/to-old");

    server.discover("callee", &[endpoint(new.address, "new", false)]);
    let start = std::time::Instant::now();
    while new.seen.lock().unwrap().is_empty() {
        assert!(start.elapsed() < DEADLINE);
        assert_eq!(fetch(callee, "/to-new").await.status, StatusCode::OK);
    }
    record_where(&server, |row| {
        row.side == Side::Outbound && &*row.dst.instance == "new"
    })
    .await;

    // Without the server the last answer stays good.
    server.halt();
    let count = new.seen.lock().unwrap().len();
    for _ in 0..10 {
        assert_eq!(
            fetch(callee, "/without-server").await.status,
            StatusCode::OK
        );
    }
    assert_eq!(new.seen.lock().unwrap().len(), count + 10);

    // And the proxy finds back by itself.
    server.discover("callee", &[endpoint(old.address, "old", false)]);
    server.resume();
    let count = old.seen.lock().unwrap().len();
    let start = std::time::Instant::now();
    while old.seen.lock().unwrap().len() == count {
        assert!(start.elapsed() < DEADLINE);
        assert_eq!(fetch(callee, "/back").await.status, StatusCode::OK);
    }
    wait_for("a report", || {
        server.received(|received| {
            received
                .reports
                .last()
                .filter(|report| report.discovery_connected)
                .map(|_| ())
        })
    })
    .await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_endpoints_share_the_work() {
    let apps = [App::start().await, App::start().await, App::start().await];
    let server = Server::start().await;
    let endpoints: Vec<_> = apps
        .iter()
        .map(|app| endpoint(app.address, "callee", false))
        .collect();
    server.discover("callee", &endpoints);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "callee")
        .start();
    for i in 0..60 {
        fetch(at(&proxy, "callee"), &format!("/x{i}x")).await;
    }
    for app in &apps {
        let count = app.seen.lock().unwrap().len();
        // One that was slow once gets less for a while.
        assert!(count > 0, "{count}");
    }
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_nothing_yet_is_doubted_for_a_while() {
    let app = App::start().await;
    let server = Server::start().await;
    server.discover("callee", &[endpoint(app.address, "callee", false)]);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "callee")
        .start();
    let callee = at(&proxy, "callee");
    assert_eq!(fetch(callee, "/").await.status, StatusCode::OK);
    server.forget("callee");
    let start = std::time::Instant::now();
    while fetch(callee, "/").await.status == StatusCode::OK {
        assert!(start.elapsed() < DEADLINE, "in the end it is believed");
    }
    assert!(start.elapsed().as_millis() > 1_500, "{:?}", start.elapsed());
    end(proxy).await;
}
