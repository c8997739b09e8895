//! The admin address.

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use whodunit_model::latency::LATENCY_BUCKETS_MS;
use whodunit_model::record::Side;

use crate::app::App;
use crate::client::{Answer, call, fetch, http1, http2, whole};
use crate::mesh::{Pair, Setup, at, end, endpoint, record, wait_for};
use crate::server::Server;

async fn ask(proxy: &whodunit_proxy::Running, method: &str, path: &str, host: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host);
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    whole(http1(proxy.admin().unwrap(), request).await)
        .await
        .unwrap()
}

async fn metrics(proxy: &whodunit_proxy::Running) -> String {
    let answer = ask(proxy, "GET", "/metrics", "127.0.0.1:4191").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4");
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// Says whether a series has all these labels and this value.
fn has(metrics: &str, name: &str, labels: &[&str], value: &str) -> bool {
    metrics.lines().any(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
            && line.ends_with(&format!("}} {value}"))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_linkerds_names_labels_and_buckets() {
    let pair = Pair::start("detect", App::start().await.address).await;
    fetch(pair.address(), "/a").await;
    fetch(pair.address(), "/status/500").await;
    let mut sender = http2(pair.address()).await;
    let response = sender.send_request(call("Code2", vec![])).await.unwrap();
    response.into_body().collect().await.unwrap();
    record(&pair.server, Side::Outbound, "/test.Service/Code2").await;

    let text = metrics(&pair.caller).await;
    let endpoint = at(&pair.callee, "in");
    let target = format!("target_addr=\"{endpoint}\"");
    let labels = [
        "direction=\"outbound\"",
        &target,
        "target_ip=\"127.0.0.1\"",
        "tls=\"disabled\"",
        "authority=\"callee.test\"",
        "dst_namespace=\"test\"",
        "dst_deployment=\"callee\"",
        "dst_pod=\"callee-0\"",
        "dst_service=\"callee\"",
        "namespace=\"test\"",
        "deployment=\"caller\"",
        "pod=\"caller-0\"",
    ];
    assert!(has(&text, "request_total", &labels, "3"), "{text}");
    let with = |more: &[&'static str]| [&labels[..], more].concat();
    let success = with(&["status_code=\"200\"", "classification=\"success\""]);
    assert!(has(&text, "response_total", &success, "1"), "{text}");
    let failure = with(&["status_code=\"500\"", "classification=\"failure\""]);
    assert!(has(&text, "response_total", &failure, "1"), "{text}");
    let grpc = with(&[
        "status_code=\"200\"",
        "classification=\"failure\"",
        "grpc_status=\"2\"",
    ]);
    assert!(has(&text, "response_total", &grpc, "1"), "{text}");
    let count = with(&["status_code=\"200\""]);
    assert!(
        has(&text, "response_latency_ms_count", &count, "2"),
        "{text}"
    );
    let buckets: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("response_latency_ms_bucket{"))
        .filter(|line| line.contains("status_code=\"500\""))
        .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next())
        .collect();
    let mut expected = LATENCY_BUCKETS_MS.map(|bound| bound.to_string()).to_vec();
    expected.push("+Inf".to_owned());
    assert_eq!(buckets, expected);
    for name in [
        "tcp_open_total",
        "tcp_read_bytes_total",
        "tcp_write_bytes_total",
    ] {
        let found = text
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")));
        let (src, dst): (Vec<&str>, Vec<&str>) = found.partition(|l| l.contains("peer=\"src\""));
        assert!(!src.is_empty() && !dst.is_empty(), "{name}: {text}");
    }
    let open = ["peer=\"dst\"", "dst_deployment=\"callee\""];
    assert!(text.lines().any(|line| {
        line.starts_with("tcp_open_connections{") && open.iter().all(|label| line.contains(label))
    }));

    let text = metrics(&pair.callee).await;
    let inbound = [
        "direction=\"inbound\"",
        "deployment=\"callee\"",
        "pod=\"callee-0\"",
    ];
    assert!(has(&text, "request_total", &inbound, "3"), "{text}");
    assert!(
        !text.contains("authority="),
        "what strangers write is no label inbound"
    );
    for name in [
        "whodunit_recorder_started_total",
        "whodunit_recorder_recorded_total",
    ] {
        assert!(
            has(&text, name, &["pod=\"callee-0\""], "3"),
            "{name}: {text}"
        );
    }
    for name in [
        "tcp_close_total",
        "whodunit_recorder_dropped_total",
        "whodunit_recorder_discarded_rows_total",
        "whodunit_detection_fall_backs_total",
        "process_start_time_seconds",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
    assert!(
        metrics(&pair.caller)
            .await
            .contains("whodunit_discovery_age_seconds{")
    );
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_linkerds_label() {
    let server = Server::start().await;
    server.discover(
        "gone",
        &[endpoint(crate::app::nobody().await, "gone-0", false)],
    );
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "gone")
        .start();
    fetch(at(&proxy, "gone"), "/").await;
    let text = metrics(&proxy).await;
    let labels = [
        "status_code=\"502\"",
        "classification=\"failure\"",
        "error=\"IO\"",
    ];
    assert!(has(&text, "response_total", &labels, "1"), "{text}");
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_local_names_are_answered_and_nothing_is_changed() {
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .outbound("http1", "unheard")
        .start();
    for host in [
        "localhost",
        "LOCALHOST:4191",
        "127.0.0.1:1",
        "127.9.9.9",
        "[::1]:4191",
    ] {
        assert_eq!(
            ask(&proxy, "GET", "/live", host).await.status,
            StatusCode::OK,
            "{host}"
        );
    }
    for host in [
        "evil.test",
        "localhost.evil.test",
        "10.0.0.1",
        "127.0.0.1.evil.test",
        "",
    ] {
        let answer = ask(&proxy, "GET", "/live", host).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{host}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let answer = ask(&proxy, method, "/shutdown", "localhost").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    assert_eq!(
        ask(&proxy, "GET", "/x", "localhost").await.status,
        StatusCode::NOT_FOUND
    );
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_waits_for_discovery_but_not_for_ever() {
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .outbound("http1", "callee")
        .start();
    let answer = ask(&proxy, "GET", "/ready", "localhost").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.body, "not ready: waiting for discovery\n");
    server.discover("callee", &[]);
    let start = std::time::Instant::now();
    while ask(&proxy, "GET", "/ready", "localhost").await.status != StatusCode::OK {
        assert!(start.elapsed() < crate::mesh::DEADLINE);
        tokio::task::yield_now().await;
    }
    assert!(start.elapsed().as_secs() < 4, "the answer made it ready");
    end(proxy).await;

    let proxy = Setup::new("web", &server)
        .outbound("http1", "unheard")
        .start();
    let start = std::time::Instant::now();
    wait_for("five seconds", || {
        (start.elapsed().as_millis() > 5_100).then_some(())
    })
    .await;
    assert_eq!(
        ask(&proxy, "GET", "/ready", "localhost").await.status,
        StatusCode::OK
    );
    end(proxy).await;
}
