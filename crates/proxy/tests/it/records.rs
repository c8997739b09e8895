//! What records say beyond success and failure.

use http_body_util::BodyExt as _;
use whodunit_model::record::{Kind, Side};
use whodunit_model::{Outcome, RequestRecord};

use crate::app::App;
use crate::client::{fetch, get, http1, whole};
use crate::mesh::{Pair, Setup, at, end, record, record_where};
use crate::server::{Server, now_us};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_stays_open_shows_after_a_second() {
    let app = App::start().await;
    let pair = Pair::start("detect", app.address).await;
    let mut body = http1(pair.address(), get("/streamed")).await.into_body();
    body.frame().await.unwrap().unwrap();
    for side in [Side::Inbound, Side::Outbound] {
        let is_open = |row: &RequestRecord| row.kind == Kind::Open && row.side == side;
        let open = record_where(&pair.server, is_open).await;
        assert_eq!((open.outcome, open.status), (Outcome::Pending, 200));
        assert_eq!((open.response_bytes, open.response_messages), (3, 1));
        assert!(
            (1_000_000..2_000_000).contains(&open.duration_us),
            "{}",
            open.duration_us
        );
    }
    app.go_on.notify_one();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "two"
    );
    assert!(body.frame().await.is_none());
    let last = record(&pair.server, Side::Outbound, "/streamed").await;
    assert_eq!((last.outcome, last.response_bytes), (Outcome::Success, 6));
    // Latency is the first byte, duration the last.
    assert!(
        last.latency_us < 1_000_000 && last.duration_us > 1_000_000,
        "{last:?}"
    );
    let opens: Vec<RequestRecord> = pair.server.records();
    let opens = opens.iter().filter(|row| row.kind == Kind::Open);
    assert!(opens.clone().all(|row| row.id == last.id));
    assert_eq!(
        opens.count(),
        2,
        "one per side, and no second one before ten seconds"
    );
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_known_caller_gets_its_id_here() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .start();
    let before = now_us();
    fetch(at(&proxy, "in"), "/a").await;
    fetch(at(&proxy, "in"), "/b").await;
    let (a, b) = (
        record(&server, Side::Inbound, "/a").await,
        record(&server, Side::Inbound, "/b").await,
    );
    assert_eq!((a.id.boot, b.id.boot), (proxy.boot(), proxy.boot()));
    assert!(a.id.n < b.id.n && a.id.start_us < b.id.start_us);
    assert_eq!(a.id.start_us, a.start_at_us);
    assert!((before..now_us()).contains(&a.start_at_us));
    assert_eq!((&*a.src.workload, &*a.dst.workload), ("", "web"));
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_marked() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .start();
    for (agent, path, probe) in [
        ("kube-probe/1.30", "/k", true),
        ("whodunit-probe/1", "/w", true),
        ("curl/8", "/c", false),
    ] {
        let mut request = get(path);
        request
            .headers_mut()
            .insert("user-agent", agent.parse().unwrap());
        whole(http1(at(&proxy, "in"), request).await).await.unwrap();
        assert_eq!(
            record(&server, Side::Inbound, path).await.probe,
            probe,
            "{agent}"
        );
    }
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_in_the_proxy() {
    let app = App::start().await;
    let pair = Pair::start("detect", app.address).await;
    let secret = "hunter2hunter2";
    let mut request = get(&format!(
        "/user/{secret}{secret}?password={secret}&{secret}"
    ));
    for name in [
        "authorization",
        "cookie",
        "x-api-key",
        "x-request-id",
        "b3",
        "user-agent",
    ] {
        request.headers_mut().insert(name, secret.parse().unwrap());
    }
    whole(http1(pair.address(), request).await).await.unwrap();
    for side in [Side::Inbound, Side::Outbound] {
        let row = record_where(&pair.server, |row| row.side == side).await;
        assert!(!format!("{row:?}").contains("hunter2"), "{row:?}");
    }
    let leaked = pair.server.received(|received| {
        let needle = secret.as_bytes();
        let mut payloads = received.batches.values();
        payloads.any(|payload| payload.windows(needle.len()).any(|window| window == needle))
    });
    assert!(!leaked);
    pair.end().await;
}
