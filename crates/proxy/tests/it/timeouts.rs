//! How long a request may take, and who is told what when it takes longer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::io::AsyncReadExt as _;
use whodunit_model::record::Side;
use whodunit_model::{Cause, Origin};
use whodunit_proxy::Running;

use crate::app::{App, PATIENCE, tcp};
use crate::client::{call, fetch, get, http1, http2, whole};
use crate::mesh::{Pair, Setup, at, end, endpoint, record};
use crate::server::Server;

async fn proxy(server: &Server, protocol: &str, app: SocketAddr, timeout: &str) -> Running {
    server.discover("callee", &[endpoint(app, "callee-0", false)]);
    let target = format!("service = \"callee\"\n[[listener.route]]\ntimeout = {{ {timeout} }}\n");
    Setup::new("caller", server)
        .listener("callee", "outbound", protocol, &target)
        .start()
}

async fn finish(proxy: Running) {
    crate::sending::check_conservation(&proxy.counters());
    end(proxy).await;
}

/// An application that reads and never answers.
async fn silent() -> SocketAddr {
    tcp(|mut stream| async move {
        let mut buffer = [0; 1_024];
        while let Ok(1..) = stream.read(&mut buffer).await {}
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_has_its_cause() {
    for (key, cause) in [
        ("request_ms", Cause::RequestTimeout),
        ("response_headers_ms", Cause::ResponseHeadersTimeout),
        ("idle_ms", Cause::IdleTimeout),
    ] {
        let server = Server::start().await;
        let proxy = proxy(&server, "http1", silent().await, &format!("{key} = 200")).await;
        let start = Instant::now();
        let answer = fetch(at(&proxy, "callee"), "/silent").await;
        assert!(start.elapsed() >= Duration::from_millis(190));
        assert!(start.elapsed() < PATIENCE);
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(answer.headers["whodunit-cause"], cause.name());
        let row = record(&server, Side::Outbound, "/silent").await;
        assert_eq!((row.cause, row.origin), (cause, Origin::Server), "{row:?}");
        finish(proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_end_breaks_off() {
    for (limit, cause) in [
        ("request_ms = 300", Cause::RequestTimeout),
        ("idle_ms = 300", Cause::IdleTimeout),
    ] {
        let app = App::start().await;
        let server = Server::start().await;
        let proxy = proxy(&server, "http1", app.address, limit).await;
        let response = http1(at(&proxy, "callee"), get("/streamed")).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.into_body().collect().await.is_err());
        let row = record(&server, Side::Outbound, "/streamed").await;
        assert_eq!((row.cause, row.status, row.response_bytes), (cause, 200, 3));
        finish(proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_within_its_limits_is_left_alone() {
    let app = App::start().await;
    let server = Server::start().await;
    let limits = "request_ms = 60000, response_headers_ms = 60000, idle_ms = 60000";
    let proxy = proxy(&server, "http1", app.address, limits).await;
    for _ in 0..20 {
        assert_eq!(fetch(at(&proxy, "callee"), "/").await.body, "hello");
    }
    finish(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_deadline_holds_and_travels_on_shortened() {
    let app = App::start().await;
    let pair = Pair::start("grpc", app.address).await;
    let mut client = http2(pair.address()).await;
    let mut request = call("Code0", vec![0, 0, 0, 0, 1, 7]);
    let timeout = "5000m".parse().unwrap();
    request.headers_mut().insert("grpc-timeout", timeout);
    let answer = whole(client.send_request(request).await.unwrap()).await;
    assert_eq!(answer.unwrap().trailers["grpc-status"], "0");
    let seen = app.headers("/test.Service/Code0")["grpc-timeout"].clone();
    let seen = seen.to_str().unwrap().strip_suffix('u').unwrap().to_owned();
    let seen: u64 = seen.parse().unwrap();
    assert!((1..5_000_000).contains(&seen), "{seen}");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_past_its_deadline_gets_the_status_for_it() {
    let server = Server::start().await;
    let proxy = proxy(&server, "grpc", silent().await, "request_ms = 60000").await;
    let mut client = http2(at(&proxy, "callee")).await;
    let mut request = call("Late", vec![0, 0, 0, 0, 0]);
    let timeout = "200m".parse().unwrap();
    request.headers_mut().insert("grpc-timeout", timeout);
    let answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4");
    assert_eq!(answer.headers()["whodunit-cause"], "request_timeout");
    let row = record(&server, Side::Outbound, "/test.Service/Late").await;
    assert_eq!(
        (row.cause, row.grpc_status),
        (Cause::RequestTimeout, Some(4))
    );
    finish(proxy).await;
}
