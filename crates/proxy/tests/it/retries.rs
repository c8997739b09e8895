//! Which requests are tried again, and which never.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use whodunit_model::record::{Kind, Side};
use whodunit_model::redact::Attributes;
use whodunit_model::{Cause, Outcome, RequestRecord};
use whodunit_proxy::Running;

use crate::app::{App, tcp};
use crate::client::{Answer, fetch, http1, say, whole};
use crate::mesh::{Setup, at, end, endpoint, record_where, wait_for};
use crate::server::Server;

/// How often each target was asked for.
type Counts = Arc<Mutex<BTreeMap<String, usize>>>;

/// An application that reads a whole request with its body and then acts by the number of
/// times that it saw the target: resets the connection while `failures` lasts, then answers.
async fn resetting(failures: usize) -> (SocketAddr, Counts) {
    let counts = Counts::default();
    let seen = counts.clone();
    let address = tcp(move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut bytes = Vec::new();
            loop {
                let mut buffer = [0; 4_096];
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                    let head = head.to_lowercase();
                    if head.contains("transfer-encoding: chunked") {
                        return body.ends_with("0\r\n\r\n");
                    }
                    let length = head.split("content-length: ").nth(1);
                    let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
                    body.len() >= length.unwrap_or(0)
                });
                if !whole {
                    match stream.read(&mut buffer).await {
                        Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
                        _ => return,
                    }
                    continue;
                }
                let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                let count = {
                    let mut seen = seen.lock().unwrap();
                    let count = seen.entry(target).or_default();
                    *count += 1;
                    *count
                };
                if count <= failures {
                    socket2::SockRef::from(&stream)
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                    return;
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                bytes.clear();
            }
        }
    })
    .await;
    (address, counts)
}

async fn proxy(server: &Server, app: SocketAddr, route: &str) -> Running {
    server.discover("callee", &[endpoint(app, "callee-0", false)]);
    let target = format!("service = \"callee\"\n{route}");
    Setup::new("caller", server)
        .listener("callee", "outbound", "http1", &target)
        .start()
}

async fn post(to: SocketAddr, target: &str, body: &str) -> Answer {
    let request = Request::post(target)
        .header("host", "callee.test")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    whole(http1(to, request).await).await.unwrap()
}

/// The rows of one request, known by its path or status, and its final one.
async fn rows(server: &Server, path: &str) -> (Vec<RequestRecord>, RequestRecord) {
    let last = record_where(server, |row| {
        let ours = row.kind == Kind::Request && row.side == Side::Outbound;
        ours && (&*row.path == path || path == row.status.to_string())
    })
    .await;
    let attempts = wait_for("the attempts", || {
        let rows = server.records().into_iter();
        let rows: Vec<_> = rows
            .filter(|row| row.kind == Kind::Attempt && row.id == last.id)
            .collect();
        (rows.len() + 1 >= last.attempts.into()).then_some(rows)
    });
    (attempts.await, last)
}

async fn finish(proxy: Running) {
    crate::sending::check_conservation(&proxy.counters());
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_outlives_resets_and_each_try_is_recorded() {
    let (app, counts) = resetting(2).await;
    let server = Server::start().await;
    let proxy = proxy(&server, app, "").await;
    let answer = fetch(at(&proxy, "callee"), "/twice").await;
    assert_eq!(answer.status, StatusCode::OK);
    let (attempts, last) = rows(&server, "/twice").await;
    assert_eq!((last.attempts, last.outcome), (3, Outcome::Success));
    assert_eq!(attempts.len(), 2);
    for attempt in &attempts {
        assert!(
            matches!(attempt.cause, Cause::Reset | Cause::ClosedEarly),
            "{attempt:?}"
        );
    }
    assert_eq!(counts.lock().unwrap()["/twice"], 3);
    finish(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_is_executed_once_whatever_breaks() {
    let (app, counts) = resetting(1).await;
    let server = Server::start().await;
    let proxy = proxy(&server, app, "").await;
    for i in 0..20 {
        let target = format!("/pay{i}");
        let answer = post(at(&proxy, "callee"), &target, "ten").await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        let cause = answer.headers["whodunit-cause"].to_str().unwrap();
        assert!(matches!(cause, "reset" | "closed_early"), "{cause}");
    }
    assert!(counts.lock().unwrap().values().all(|count| *count == 1));
    assert_eq!(counts.lock().unwrap().len(), 20);
    finish(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_allow_more_and_the_body_is_sent_again() {
    let (app, counts) = resetting(1).await;
    let server = Server::start().await;
    let route = "[[listener.route]]\nname = \"safe\"\npath_prefix = \"/safe\"\n\
                 retry = { non_idempotent = true, body_bytes = 1000 }\n";
    let proxy = proxy(&server, app, route).await;
    let body = "x".repeat(1_000);
    let answer = post(at(&proxy, "callee"), "/safe/one", &body).await;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, body.into()));
    let (attempts, last) = rows(&server, "/safe/one").await;
    assert_eq!((attempts.len(), last.attempts), (1, 2));
    assert_eq!(last.request_bytes, 1_000, "counted once");
    let rule = Attributes::value(&last.trail, "rule").unwrap_or_default();
    assert_eq!(rule, "safe");

    let answer = post(at(&proxy, "callee"), "/safe/two", &"x".repeat(1_001)).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let (_, last) = rows(&server, "/safe/two").await;
    let why = Attributes::value(&last.trail, "not_retried").unwrap_or_default();
    assert_eq!((last.attempts, &*why), (1, "body"));
    assert_eq!(counts.lock().unwrap()["/safe/two"], 1);
    finish(proxy).await;
}

/// Sends a request with a body, of a length that is told in front or not.
async fn put(to: SocketAddr, target: &str, length: usize, told: bool) -> Answer {
    let body = Bytes::from("x".repeat(length));
    let request = Request::put(target).header("host", "callee.test");
    let body = if told {
        Full::new(body).boxed()
    } else {
        // Two pieces, so that the second is what makes it too long.
        let pieces = [body.slice(..length / 2), body.slice(length / 2..)];
        let frames = pieces.map(|piece| Ok(Frame::data(piece)));
        StreamBody::new(tokio_stream::iter(frames)).boxed()
    };
    let request = request.body(body).unwrap();
    whole(http1(to, request).await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_kept_up_to_64_kib_and_no_byte_more() {
    let (app, counts) = resetting(1).await;
    let server = Server::start().await;
    let proxy = proxy(&server, app, "").await;
    for told in [true, false] {
        for (length, kept) in [(1, true), (65_536, true), (65_537, false), (300_000, false)] {
            let target = format!("/{length}-{told}");
            let answer = put(at(&proxy, "callee"), &target, length, told).await;
            let (status, tries) = if kept {
                (StatusCode::OK, 2)
            } else {
                (StatusCode::BAD_GATEWAY, 1)
            };
            assert_eq!(answer.status, status, "{target}");
            assert_eq!(counts.lock().unwrap()[&target], tries, "{target}");
            if kept {
                let count = answer.body.iter().filter(|byte| **byte == b'x').count();
                assert_eq!(count, length, "the same body, {target}");
                let (_, last) = rows(&server, &target).await;
                assert_eq!(last.request_bytes, length as u64, "counted once");
            }
        }
    }
    finish(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_methods_that_may_be_repeated_are() {
    let (app, counts) = resetting(1).await;
    let server = Server::start().await;
    let proxy = proxy(&server, app, "").await;
    for (method, repeated) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("PURGE", false),
        ("get", false),
        ("QUERY", false),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(format!("/{method}"))
            .header("host", "callee.test")
            .body(Full::new(Bytes::new()))
            .unwrap();
        let status = http1(at(&proxy, "callee"), request).await.status();
        let tries = counts.lock().unwrap()[&format!("/{method}")];
        let expected = if repeated {
            (StatusCode::OK, 2)
        } else {
            (StatusCode::BAD_GATEWAY, 1)
        };
        assert_eq!((status, tries), expected, "{method}");
    }
    finish(proxy).await;
}

/// An application that says this to every request, and then resets the connection.
async fn saying(text: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let address = tcp(move |mut stream| {
        let counted = counted.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            counted.fetch_add(1, Ordering::SeqCst);
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            // What it said has to be read before the reset is seen.
            let mut byte = [0; 1];
            let read = stream.read(&mut byte);
            let _ = tokio::time::timeout(Duration::from_millis(50), read).await;
            socket2::SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    })
    .await;
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_tried_again_once_the_client_got_a_byte() {
    let route = "[[listener.route]]\nretry = { attempts = 5, non_idempotent = true, \
                 on = [\"reset\", \"closed_early\", \"5xx\"] }\n";
    for text in [
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let (app, asked) = saying(text).await;
        let server = Server::start().await;
        let proxy = proxy(&server, app, route).await;
        let answer = say(
            at(&proxy, "callee"),
            b"GET /cut HTTP/1.1\r\nhost: callee.test\r\nconnection: close\r\n\r\n",
        )
        .await;
        let answer = String::from_utf8_lossy(&answer);
        let heads: Vec<_> = answer
            .lines()
            .filter(|line| line.starts_with("HTTP/1.1 "))
            .collect();
        match heads[..] {
            ["HTTP/1.1 200 OK"] => {}
            // What came before the answer was passed on too.
            ["HTTP/1.1 103 Early Hints", last] => assert!(last.contains(" 50"), "{answer}"),
            _ => panic!("{answer}"),
        }
        assert!(!answer.contains("\r\n0\r\n"), "cut visibly: {answer}");
        let (attempts, last) = rows(&server, "/cut").await;
        assert_eq!((attempts.len(), last.attempts), (0, 1));
        assert_eq!(last.outcome, Outcome::Failure);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{text}");
        finish(proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_retried_where_the_route_says_so() {
    let server = Server::start().await;
    let app = App::start().await;
    let route = "[[listener.route]]\nretry = { attempts = 3, on = [\"503\"] }\n";
    let proxy = proxy(&server, app.address, route).await;
    let answer = fetch(at(&proxy, "callee"), "/status/503").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!answer.headers.contains_key("whodunit-cause"), "its own");
    let (attempts, last) = rows(&server, "503").await;
    assert_eq!((last.attempts, last.cause), (3, Cause::AppHttp5xx));
    let causes: Vec<_> = attempts.iter().map(|row| (row.cause, row.status)).collect();
    assert_eq!(causes, [(Cause::AppHttp5xx, 503); 2]);
    let answer = fetch(at(&proxy, "callee"), "/status/500").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let (_, last) = rows(&server, "500").await;
    assert_eq!(last.attempts, 1, "another status is not");
    finish(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_stop_when_the_budget_is_spent() {
    let (app, counts) = resetting(usize::MAX).await;
    let server = Server::start().await;
    let route = "[[listener.route]]\nretry = { attempts = 10, on = [\"reset\", \"closed_early\"], \
                 budget_percent = 20, budget_per_second = 0 }\n";
    let proxy = proxy(&server, app, route).await;
    for i in 0..50 {
        let answer = fetch(at(&proxy, "callee"), &format!("/b{i}")).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    }
    let tries: usize = counts.lock().unwrap().values().sum();
    // Ten from the allowance of the first second, and a fifth of fifty.
    assert!((55..=70).contains(&tries), "{tries}");
    finish(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_try_has_all_fields_of_the_request() {
    let heads = Arc::new(Mutex::new(Vec::<String>::new()));
    let seen = heads.clone();
    let app = tcp(move |mut stream| {
        let seen = seen.clone();
        async move {
            let (mut bytes, mut buffer) = (Vec::new(), [0; 4_096]);
            while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
                    _ => return,
                }
            }
            let tries = {
                let mut seen = seen.lock().unwrap();
                seen.push(String::from_utf8_lossy(&bytes).to_lowercase());
                seen.len()
            };
            // The first hangs up, the second is not well, the third answers.
            let status = match tries {
                1 => return,
                2 => "503 Service Unavailable",
                _ => "200 OK",
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let server = Server::start().await;
    let route = "[[listener.route]]\npath_prefix = \"/\"\n\
                 retry = { attempts = 3, on = [\"503\", \"closed_early\", \"reset\"] }\n";
    let proxy = proxy(&server, app, route).await;
    let request = Request::get("/fields")
        .header("host", "callee.test")
        .header("authorization", "secret")
        .header("x-unlooked-at", "1")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let answer = whole(http1(at(&proxy, "callee"), request).await).await;
    assert_eq!(answer.unwrap().status, StatusCode::OK);
    let heads = heads.lock().unwrap().clone();
    assert_eq!(heads.len(), 3, "{heads:?}");
    for head in heads {
        assert!(head.contains("\r\nauthorization: secret\r\n"), "{head}");
        assert!(head.contains("\r\nx-unlooked-at: 1\r\n"), "{head}");
    }
    finish(proxy).await;
}
