//! What the proxies refuse or fail, and what breaks around them.

use std::time::Instant;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use whodunit_model::record::{Kind, Protocol, Side, Twin};
use whodunit_model::{Cause, Origin, Outcome, RequestRecord};

use crate::app::{self, App, nobody};
use crate::client::{fetch, get, http1, http2, say, whole};
use crate::mesh::{Pair, Setup, at, end, endpoint, record, record_where, wait_for};
use crate::server::Server;

#[track_caller]
fn check(row: &RequestRecord, cause: Cause, origin: Origin, twin: Twin, status: u16) {
    assert_eq!(
        (row.outcome, row.cause, row.origin),
        (Outcome::Failure, cause, origin),
        "{row:?}"
    );
    assert_eq!((row.twin, row.status), (twin, status), "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_error_of_the_application_is_its_own() {
    let pair = Pair::start("detect", App::start().await.address).await;
    let answer = fetch(pair.address(), "/status/503").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        !answer.headers.contains_key("whodunit-cause"),
        "an application cannot claim a cause"
    );
    for side in [Side::Inbound, Side::Outbound] {
        let row = record_where(&pair.server, |row| row.side == side).await;
        check(&row, Cause::AppHttp5xx, Origin::Server, Twin::Yes, 503);
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_application_is_reported_through_both_proxies() {
    let pair = Pair::start("http1", nobody().await).await;
    let answer = fetch(pair.address(), "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.headers["whodunit-cause"], "connect_refused");
    assert!(!answer.headers.contains_key("whodunit-origin"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("callee-0 at 127.0.0.1:"), "{text}");
    for side in [Side::Inbound, Side::Outbound] {
        let row = record(&pair.server, side, "/").await;
        check(&row, Cause::ConnectRefused, Origin::Server, Twin::Yes, 502);
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_reached_is_told_by_its_kind() {
    let server = Server::start().await;
    server.discover("meshed", &[endpoint(nobody().await, "meshed-0", true)]);
    server.discover("plain", &[endpoint(nobody().await, "plain-0", false)]);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "meshed")
        .outbound("http1", "plain");
    let proxy = proxy.start();
    for (service, origin) in [("meshed", Origin::Network), ("plain", Origin::Server)] {
        let answer = fetch(at(&proxy, service), &format!("/{service}")).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        let row = record(&server, Side::Outbound, &format!("/{service}")).await;
        // The far proxy never saw it, so this is the only record.
        check(&row, Cause::ConnectRefused, origin, Twin::No, 502);
        assert_eq!((row.attempts, &*row.dst.workload), (1, service));
    }
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_endpoint_is_tried_before_a_request_fails() {
    let app = App::start().await;
    let server = Server::start().await;
    let dead = nobody().await;
    server.discover(
        "callee",
        &[
            endpoint(dead, "dead", false),
            endpoint(app.address, "live", false),
        ],
    );
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "callee")
        .start();
    for i in 0..20 {
        assert_eq!(
            fetch(at(&proxy, "callee"), &format!("/x{i}x")).await.status,
            StatusCode::OK
        );
    }
    let attempt = record_where(&server, |row| row.kind == Kind::Attempt).await;
    assert_eq!(
        (attempt.cause, &*attempt.dst.instance),
        (Cause::ConnectRefused, "dead")
    );
    let whole = |row: &RequestRecord| row.kind == Kind::Request && row.id == attempt.id;
    let row = record_where(&server, whole).await;
    assert_eq!((row.attempts, &*row.dst.instance), (2, "live"));
    assert_eq!(row.outcome, Outcome::Success);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_instances_is_refused_at_once_and_an_unknown_one_after_a_wait() {
    let server = Server::start().await;
    server.discover("empty", &[]);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "empty")
        .outbound("http1", "unheard");
    let proxy = proxy.start();
    for service in ["unheard", "empty"] {
        let start = Instant::now();
        let answer = fetch(at(&proxy, service), &format!("/{service}")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers["whodunit-cause"], "no_endpoints");
        let waited = start.elapsed().as_millis() >= 900;
        assert_eq!(waited, service == "unheard", "{:?}", start.elapsed());
        let row = record(&server, Side::Outbound, &format!("/{service}")).await;
        check(&row, Cause::NoEndpoints, Origin::ClientProxy, Twin::No, 503);
        assert_eq!((row.attempts, &*row.service), (0, service));
    }
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let app = App::start().await;
    let pair = Pair::start("http1", app.address).await;
    let response = http1(pair.address(), get("/broken")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let part = body.frame().await.unwrap().unwrap();
    assert_eq!(part.into_data().unwrap(), "part");
    app.go_on.notify_one();
    assert!(body.frame().await.unwrap().is_err());
    let inbound = record(&pair.server, Side::Inbound, "/broken").await;
    check(&inbound, Cause::ClosedEarly, Origin::Server, Twin::Yes, 200);
    assert_eq!(inbound.response_bytes, 4);
    let outbound = record(&pair.server, Side::Outbound, "/broken").await;
    check(
        &outbound,
        Cause::ClosedEarly,
        Origin::Network,
        Twin::Yes,
        200,
    );
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_hangs_up_is_named() {
    let pair = Pair::start("http1", App::start().await.address).await;
    let answer = fetch(pair.address(), "/hangs-up").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.headers["whodunit-cause"], "closed_early");
    for side in [Side::Inbound, Side::Outbound] {
        let row = record(&pair.server, side, "/hangs-up").await;
        check(&row, Cause::ClosedEarly, Origin::Server, Twin::Yes, 502);
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_answers_junk_is_named() {
    let junk = app::tcp(|mut stream| async move {
        let mut buffer = [0; 1_024];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(b"220 smtp.test ready\r\n\r\n").await;
        let _ = stream.read(&mut buffer).await;
    })
    .await;
    let pair = Pair::start("http1", junk).await;
    assert_eq!(
        fetch(pair.address(), "/").await.status,
        StatusCode::BAD_GATEWAY
    );
    for side in [Side::Inbound, Side::Outbound] {
        let row = record(&pair.server, side, "/").await;
        check(&row, Cause::BadResponseHead, Origin::Server, Twin::Yes, 502);
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_recorded_before_and_after_the_head() {
    let app = App::start().await;
    let pair = Pair::start("http1", app.address).await;
    let mut stream = TcpStream::connect(pair.address()).await.unwrap();
    stream
        .write_all(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    wait_for("the request", || {
        (!app.seen.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    // A client that only ends would still be served: it may have half-closed.
    socket2::SockRef::from(&stream)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(stream);
    let inbound = record(&pair.server, Side::Inbound, "/held").await;
    check(
        &inbound,
        Cause::ClientCancelled,
        Origin::Client,
        Twin::Yes,
        0,
    );
    let outbound = record(&pair.server, Side::Outbound, "/held").await;
    check(
        &outbound,
        Cause::ClientCancelled,
        Origin::Client,
        Twin::Unknown,
        0,
    );

    let mut stream = TcpStream::connect(pair.address()).await.unwrap();
    let head = b"GET /streamed HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"one\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    socket2::SockRef::from(&stream)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(stream);
    for side in [Side::Outbound, Side::Inbound] {
        let row = record(&pair.server, side, "/streamed").await;
        check(&row, Cause::ClientCancelled, Origin::Client, Twin::Yes, 200);
        assert_eq!(row.response_bytes, 3);
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_heads_are_refused_and_recorded() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http1", app.address)
        .start();
    let heads = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET / HTTP/3.9\r\nHost: a\r\n\r\n", 505),
        ("\x16\x03\x01\x02\x00 this is TLS", 400),
        ("EHLO there\r\n", 400),
    ];
    for (head, status) in heads {
        let answer = String::from_utf8(say(at(&proxy, "in"), head.as_bytes()).await).unwrap();
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{head:?}: {answer}");
        assert!(answer.contains("whodunit-cause: bad_request_head"));
    }
    let rows = wait_for("all records", || {
        Some(server.records()).filter(|rows| rows.len() == heads.len())
    });
    for row in rows.await {
        let status = row.status;
        assert!(matches!(status, 400 | 405 | 505), "{row:?}");
        check(
            &row,
            Cause::BadRequestHead,
            Origin::Client,
            Twin::No,
            status,
        );
    }
    assert!(
        app.seen.lock().unwrap().is_empty(),
        "nothing of this reaches the application"
    );
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http2_behind_the_preface_is_recorded() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server).inbound("detect", app.address);
    let proxy = proxy.start();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0xee; 64]);
    say(at(&proxy, "in"), &bytes).await;
    let row = record_where(&server, |row| row.cause == Cause::BadRequestHead).await;
    check(&row, Cause::BadRequestHead, Origin::Client, Twin::No, 0);
    assert_eq!(row.protocol, Protocol::Http2);
    // A connection that ends as it should leaves nothing.
    let mut sender = http2::<Empty<Bytes>>(at(&proxy, "in")).await;
    let request = Request::get("http://callee.test/fine")
        .body(Empty::new())
        .unwrap();
    let answer = whole(sender.send_request(request).await.unwrap()).await;
    assert_eq!(answer.unwrap().status, 200);
    drop(sender);
    wait_for("the connection to end", || {
        (proxy.open_connections() == 0).then_some(())
    })
    .await;
    record(&server, Side::Inbound, "/fine").await;
    assert_eq!(proxy.counters().started, 2);
    assert!(app.seen.lock().unwrap().len() == 1);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_would_run_in_a_circle_is_stopped() {
    let server = Server::start().await;
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "circle")
        .start();
    server.discover(
        "circle",
        &[endpoint(at(&proxy, "circle"), "circle-0", true)],
    );
    let answer = fetch(at(&proxy, "circle"), "/").await;
    assert_eq!(answer.status, StatusCode::LOOP_DETECTED);
    assert_eq!(answer.headers["whodunit-cause"], "loop");
    let row = record(&server, Side::Outbound, "/").await;
    check(&row, Cause::Loop, Origin::ClientProxy, Twin::No, 508);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_id_or_cause_is_not_believed() {
    let app = App::start().await;
    let server = Server::start().await;
    server.discover("plain", &[endpoint(app.address, "plain-0", false)]);
    let proxy = Setup::new("web", &server)
        .inbound("http1", app.address)
        .outbound("http1", "plain");
    let proxy = proxy.start();
    for (listener, path) in [("in", "/in"), ("plain", "/out")] {
        let mut request = get(path);
        let headers = request.headers_mut();
        headers.insert("whodunit-id", "not-an-id".parse().unwrap());
        headers.insert("whodunit-from", "a/b/c/d".parse().unwrap());
        for name in ["whodunit-twin", "whodunit-cause", "whodunit-origin"] {
            headers.insert(name, "loop".parse().unwrap());
        }
        let answer = whole(http1(at(&proxy, listener), request).await)
            .await
            .unwrap();
        let ours = |name: &http::HeaderName| name.as_str().starts_with("whodunit");
        assert!(!answer.headers.keys().any(ours), "{answer:?}");
        let seen = app.headers(path);
        assert!(!seen.keys().any(ours), "{seen:?}");
        let row = record_where(&server, |row| &*row.path == path).await;
        assert_eq!((row.id.boot, row.twin), (proxy.boot(), Twin::No));
        assert_ne!(&*row.src.workload, "b");
        assert_eq!(row.cause, Cause::None, "this application claims `loop`");
    }
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_sent_again_only_if_that_is_harmless() {
    // This application answers the first request of a connection and hangs up on the second.
    let app = app::tcp(|mut stream| async move {
        let mut buffer = [0; 4_096];
        let _ = stream.read(&mut buffer).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        let _ = stream.read(&mut buffer).await;
    })
    .await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server).inbound("http1", app).start();
    let address = at(&proxy, "in");
    assert_eq!(fetch(address, "/warm").await.status, StatusCode::OK);
    assert_eq!(fetch(address, "/read").await.status, StatusCode::OK);
    let row = record(&server, Side::Inbound, "/read").await;
    assert_eq!((row.attempts, row.reused), (2, false));
    let attempt = record_where(&server, |row| row.kind == Kind::Attempt).await;
    assert_eq!((attempt.id, attempt.cause), (row.id, Cause::ClosedEarly));

    let mut write = get("/write");
    *write.method_mut() = http::Method::POST;
    let answer = whole(http1(address, write).await).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let row = record(&server, Side::Inbound, "/write").await;
    check(&row, Cause::ClosedEarly, Origin::Server, Twin::No, 502);
    assert_eq!((row.attempts, row.reused), (1, true));
    end(proxy).await;
}
