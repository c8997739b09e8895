//! An application that has more to do than it can.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{Empty, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use whodunit_model::Cause;
use whodunit_model::record::{Kind, Side};
use whodunit_proxy::Running;

use crate::app::tcp;
use crate::client::{call, fetch, http2, whole};
use crate::mesh::{Pair, Setup, at, end, record_where};
use crate::server::Server;

/// Requests that the application works on at once, and how long each takes.
const AT_ONCE: usize = 4;
const EACH: Duration = Duration::from_millis(40);

/// An application that works on a few requests at once and lets the others wait; `/slow` waits
/// for something else, and does so for all at once.
async fn busy() -> SocketAddr {
    let workers = Arc::new(Semaphore::new(AT_ONCE));
    tcp(move |mut stream| {
        let workers = workers.clone();
        async move {
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                head.push(byte);
                if !head.ends_with(b"\r\n\r\n") {
                    continue;
                }
                if head.starts_with(b"GET /slow") {
                    sleep(Duration::from_secs(2)).await;
                } else {
                    let _worker = workers.acquire().await.unwrap();
                    sleep(EACH).await;
                }
                head.clear();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// What became of a request, and how long that took.
type Outcome = (StatusCode, Option<String>, Duration);

async fn ask(to: SocketAddr, path: &str) -> Outcome {
    let start = Instant::now();
    let answer = fetch(to, path).await;
    let cause = answer.headers.get("whodunit-cause");
    let cause = cause.map(|cause| cause.to_str().unwrap().to_owned());
    (answer.status, cause, start.elapsed())
}

/// Sends requests at a rate for some time, whatever becomes of them.
async fn offer(to: SocketAddr, per_second: usize, time: Duration) -> Vec<Outcome> {
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(per_second).unwrap());
    let mut asked = JoinSet::new();
    let start = Instant::now();
    while start.elapsed() < time {
        ticks.tick().await;
        asked.spawn(async move { ask(to, "/").await });
    }
    asked.join_all().await
}

/// Measures what the application can do, with as many clients as keep it busy.
async fn peak(to: SocketAddr) -> f64 {
    let done = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..2 * AT_ONCE {
        let done = done.clone();
        clients.spawn(async move {
            while start.elapsed() < Duration::from_secs(1) {
                assert_eq!(ask(to, "/").await.0, StatusCode::OK);
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    clients.join_all().await;
    rate(done.load(Ordering::SeqCst), start)
}

fn rate(count: usize, start: Instant) -> f64 {
    f64::from(u32::try_from(count).unwrap()) / start.elapsed().as_secs_f64()
}

async fn proxy(server: &Server, more: &str) -> (Running, SocketAddr) {
    let forward = format!("forward = \"{}\"\n{more}", busy().await);
    let proxy = Setup::new("web", server)
        .listener("in", "inbound", "http1", &forward)
        .start();
    let address = at(&proxy, "in");
    (proxy, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_times_too_much_is_shed_at_once_and_the_rest_is_done() {
    let server = Server::start().await;
    let (proxy, to) = proxy(&server, "").await;
    let peak = peak(to).await;
    let start = Instant::now();
    let outcomes = offer(to, 300, Duration::from_secs(4)).await;
    let good = outcomes
        .iter()
        .filter(|(status, ..)| *status == StatusCode::OK);
    let goodput = rate(good.count(), start);
    let shed = outcomes
        .iter()
        .filter(|(status, ..)| *status != StatusCode::OK);
    let mut shed: Vec<_> = shed.collect();
    shed.sort_by_key(|(.., took)| *took);
    assert!(!shed.is_empty(), "{peak} can be done, {goodput} was done");
    for (status, cause, _) in &shed {
        assert_eq!(*status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(cause.as_deref(), Some("load_shed"));
    }
    let median = shed[shed.len() / 2].2;
    println!(
        "peak {peak:.0}/s, done {goodput:.0}/s, {} shed in {median:?}",
        shed.len()
    );
    assert!(goodput > peak / 2.0, "{goodput} of {peak}");
    assert!(median < Duration::from_millis(100), "{median:?}");
    let row = record_where(&server, |row| row.cause == Cause::LoadShed).await;
    assert_eq!(
        (row.kind, row.side, row.status),
        (Kind::Request, Side::Inbound, 503)
    );
    let waited = |row: &whodunit_model::RequestRecord| row.status == 200 && row.queue_us > 20_000;
    record_where(&server, waited).await;
    // What it can do is done again at once: all that was taken has been answered.
    let after = offer(to, 30, Duration::from_millis(500)).await;
    assert!(
        after.iter().all(|(status, ..)| *status == StatusCode::OK),
        "{after:?}"
    );
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

/// The same application over gRPC.
async fn busy_grpc() -> SocketAddr {
    let workers = Arc::new(Semaphore::new(AT_ONCE));
    tcp(move |stream| {
        let workers = workers.clone();
        async move {
            let service = hyper::service::service_fn(move |_| {
                let workers = workers.clone();
                async move {
                    let _worker = workers.acquire().await.unwrap();
                    sleep(EACH).await;
                    let response = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "0");
                    response.body(Empty::<Bytes>::new())
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_that_is_shed_is_unavailable_and_not_tried_again() {
    let pair = Pair::start("grpc", busy_grpc().await).await;
    let mut sender = http2::<Full<Bytes>>(pair.address()).await;
    let mut asked = JoinSet::new();
    let mut ask = |sender: &mut SendRequest<Full<Bytes>>| {
        let response = sender.send_request(call("Any", vec![]));
        asked.spawn(async move {
            let start = Instant::now();
            let answer = whole(response.await.unwrap()).await.unwrap();
            (answer, start.elapsed())
        });
    };
    // What it can do shows what is usual.
    for _ in 0..40 {
        ask(&mut sender);
        sleep(EACH / 2).await;
    }
    let mut ticks = interval(Duration::from_millis(3));
    for _ in 0..900 {
        ticks.tick().await;
        ask(&mut sender);
    }
    let answers = asked.join_all().await;
    let mut shed = Vec::new();
    for (answer, took) in &answers {
        // Whatever becomes of a call, it is told in the words of gRPC.
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers["content-type"], "application/grpc");
        match answer.headers["grpc-status"].to_str().unwrap() {
            "0" => assert!(!answer.headers.contains_key("whodunit-cause")),
            code => {
                assert_eq!(code, "14", "{answer:?}");
                assert_eq!(answer.headers["whodunit-cause"], "load_shed");
                assert!(!answer.headers["grpc-message"].is_empty());
                shed.push(*took);
            }
        }
    }
    shed.sort();
    assert!(!shed.is_empty() && shed.len() < answers.len());
    let median = shed[shed.len() / 2];
    assert!(median < Duration::from_millis(500), "{median:?}");
    // The callee's proxy does not even begin; the caller's does not begin again.
    for (side, attempts) in [(Side::Inbound, 0), (Side::Outbound, 1)] {
        let row = record_where(&pair.server, |row| {
            (row.side, row.cause, row.kind) == (side, Cause::LoadShed, Kind::Request)
        });
        let row = row.await;
        let seen = (row.status, row.grpc_status, row.attempts);
        assert_eq!(seen, (200, Some(14), attempts), "{side:?}");
    }
    // When the rush is over, all is done again.
    for _ in 0..10 {
        let response = sender.send_request(call("Any", vec![])).await.unwrap();
        let answer = whole(response).await.unwrap();
        assert_eq!(answer.headers["grpc-status"], "0", "{answer:?}");
    }
    drop(sender);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_merely_slow_is_not_limited() {
    let server = Server::start().await;
    let (proxy, to) = proxy(&server, "").await;
    for _ in 0..20 {
        assert_eq!(ask(to, "/").await.0, StatusCode::OK);
    }
    // Many wait for something else together, after answers that came at once.
    for _ in 0..2 {
        let slow: JoinSet<_> = (0..80)
            .map(|_| async move { ask(to, "/slow").await.0 })
            .collect();
        assert!(
            slow.join_all()
                .await
                .iter()
                .all(|status| *status == StatusCode::OK)
        );
    }
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_can_be_switched_off() {
    let server = Server::start().await;
    let (proxy, to) = proxy(&server, "adaptive_limit = false").await;
    peak(to).await;
    let outcomes = offer(to, 300, Duration::from_secs(2)).await;
    assert!(
        outcomes
            .iter()
            .all(|(status, ..)| *status == StatusCode::OK)
    );
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}
