//! Bounds: what happens at them, and that reaching them is counted and reported.

use std::fmt::Write as _;

use http::Request;
use http_body_util::Empty;

use crate::app::App;
use crate::client::{http1, say, whole};
use crate::mesh::{Pair, wait_for};

/// Returns what `/metrics` says.
pub(crate) async fn metrics(proxy: &whodunit_proxy::Running) -> String {
    let request = Request::get("/metrics").header("host", "localhost");
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = http1(proxy.admin().unwrap(), request).await;
    String::from_utf8(whole(answer).await.unwrap().body.to_vec()).unwrap()
}

/// Returns how often a limit was reached.
#[track_caller]
fn hits(metrics: &str, limit: &str) -> u64 {
    let wanted = format!("limit=\"{limit}\"}} ");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("whodunit_limit_hits_total{") && line.contains(&wanted));
    let line = line.unwrap_or_else(|| panic!("no counter of {limit}: {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_beyond_the_limits_are_refused_counted_and_reported() {
    let pair = Pair::start("http1", App::start().await.address).await;
    let mut fields = String::new();
    for i in 0..129 {
        let _ = write!(fields, "x-{i}: y\r\n");
    }
    let long = "a".repeat(17 << 10);
    let huge = "a".repeat(65 << 10);
    let chunked = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases = [
        (
            format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"),
            "431",
            "http1_head_fields",
        ),
        (
            format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"),
            "414",
            "target_bytes",
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {huge}\r\n\r\n"),
            "431",
            "http1_head_bytes",
        ),
        (
            format!("{chunked}1;{}\r\n", "e".repeat(400)),
            "",
            "chunk_line_bytes",
        ),
    ];
    for (request, status, limit) in &cases {
        let answer = say(pair.address(), request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            status.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let metrics = metrics(&pair.caller).await;
        assert!(hits(&metrics, limit) >= 1, "{limit}: {metrics}");
    }
    assert_eq!(hits(&metrics(&pair.callee).await, "target_bytes"), 0);
    let reported = wait_for("a report with all of them", || {
        pair.server.received(|received| {
            let found = received.reports.iter().rev().find(|report| {
                report
                    .from
                    .as_ref()
                    .is_some_and(|from| from.workload == "caller")
                    && cases
                        .iter()
                        .all(|(_, _, limit)| report.limits.contains_key(*limit))
            });
            found.map(|report| report.limits.clone())
        })
    });
    let reported = reported.await;
    assert!(!reported.contains_key("series"), "{reported:?}");
    pair.end().await;
}
