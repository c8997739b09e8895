//! HTTP/2 in and HTTP/1 out, and the other way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::{Empty, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use whodunit_model::record::{Protocol, Side};
use whodunit_model::{Cause, Origin, Outcome};

use crate::app::{self, App};
use crate::client::{call, fetch, get, http1, http2, whole};
use crate::conformance_h1::lax;
use crate::frames::{END_STREAM, End, HEADERS, RST_STREAM, Raw, frame, head, request};
use crate::mesh::{Pair, Setup, at, end, record, wait_for};
use crate::server::Server;

/// What an HTTP/1 application does with the preface of HTTP/2.
#[derive(Clone, Copy)]
enum Greeting {
    Says(&'static str),
    HangsUp,
}

/// An HTTP/1 application that answers each request with the same bytes.
#[derive(Clone, Default)]
struct Script {
    /// What each connection brought.
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

const REFUSES: Greeting = Greeting::Says("HTTP/1.1 400 Bad Request\nContent-Length: 0\n\n");
const OK: &str = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok";

impl Script {
    /// `\n` stands for CRLF; with `closes` each connection serves one request.
    async fn start(greeting: Greeting, answer: &'static str, closes: bool) -> (Self, SocketAddr) {
        let this = Self::default();
        let script = this.clone();
        let address = app::tcp(move |mut stream| {
            let script = script.clone();
            async move {
                let index = {
                    let mut seen = script.seen.lock().unwrap();
                    seen.push(Vec::new());
                    seen.len() - 1
                };
                let mut buffer = [0; 4096];
                let mut answered = 0;
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let bytes = {
                        let mut seen = script.seen.lock().unwrap();
                        seen[index].extend_from_slice(&buffer[..count]);
                        seen[index].clone()
                    };
                    if bytes.starts_with(b"PRI ") {
                        if let Greeting::Says(text) = greeting {
                            let text = text.replace('\n', "\r\n");
                            let _ = stream.write_all(text.as_bytes()).await;
                        }
                        return;
                    }
                    let whole = lax::read(&bytes, lax::ALL[0]).0.len();
                    while answered < whole {
                        answered += 1;
                        let text = answer.replace('\n', "\r\n");
                        let _ = stream.write_all(text.as_bytes()).await;
                        if closes {
                            return;
                        }
                    }
                }
            }
        })
        .await;
        (this, address)
    }

    /// Returns the connections that brought requests.
    fn requests(&self) -> Vec<Vec<u8>> {
        let seen = self.seen.lock().unwrap();
        let requests = seen.iter().filter(|bytes| !bytes.starts_with(b"PRI "));
        requests
            .filter(|bytes| !bytes.is_empty())
            .cloned()
            .collect()
    }

    fn prefaces(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|bytes| bytes.starts_with(b"PRI "))
            .count()
    }
}

fn plain(method: &str, path: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://callee.test{path}"))
        .body(Full::default())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_without_http2_is_found_out_once() {
    for greeting in [
        REFUSES,
        Greeting::Says("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
        Greeting::Says("<h1>Bad request version</h1>"),
        Greeting::HangsUp,
    ] {
        let (script, app) = Script::start(greeting, OK, false).await;
        let server = Server::start().await;
        let proxy = Setup::new("web", &server).inbound("detect", app).start();
        for round in ["a", "b", "c"] {
            let mut sender = http2(at(&proxy, "in")).await;
            let path = format!("/round-{round}");
            let answer = whole(sender.send_request(plain("GET", &path)).await.unwrap()).await;
            let answer = answer.unwrap();
            assert_eq!(
                (answer.status.as_u16(), &answer.body[..]),
                (200, &b"ok"[..])
            );
            let row = record(&server, Side::Inbound, &path).await;
            assert_eq!(
                (row.protocol, row.outcome, row.attempts),
                (Protocol::Http2, Outcome::Success, 1)
            );
        }
        assert_eq!(script.prefaces(), 1, "asked once");
        assert_eq!(script.requests().len(), 1, "one connection serves them all");
        crate::sending::conserved(&proxy).await;
        end(proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_learns_http2_is_spoken_to_in_it() {
    let (_script, app) = Script::start(REFUSES, OK, true).await;
    let server = Server::start().await;
    // A switch that tests turn: what it connects to changes.
    let target = Arc::new(Mutex::new(app));
    let turned = target.clone();
    let switch = app::tcp(move |mut client| {
        let to = *turned.lock().unwrap();
        async move {
            let Ok(mut upstream) = tokio::net::TcpStream::connect(to).await else {
                return;
            };
            let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
        }
    })
    .await;
    let proxy = Setup::new("web", &server).inbound("detect", switch).start();
    let mut sender = http2(at(&proxy, "in")).await;
    let first = sender.send_request(plain("GET", "/a")).await.unwrap();
    assert_eq!(whole(first).await.unwrap().body, "ok");
    // An HTTP/2 server answers HTTP/1 with frames, which nobody takes for a response.
    let frames = app::tcp(|mut stream| async move {
        let mut first = [0; 24];
        let _ = stream.write_all(&frame(4, 0, 0, &[])).await;
        if stream.read_exact(&mut first).await.is_err() || !first.starts_with(b"PRI ") {
            return;
        }
        let mut header = [0; 9];
        while stream.read_exact(&mut header).await.is_ok() {
            let [a, b, c, kind, _, id @ ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            let _ = stream.read_exact(&mut payload).await;
            if kind == HEADERS {
                let reply = frame(HEADERS, 5, u32::from_be_bytes(id), &[0x88]);
                let _ = stream.write_all(&reply).await;
            }
        }
    })
    .await;
    *target.lock().unwrap() = frames;
    let mut tries = 0;
    loop {
        tries += 1;
        assert!(tries < 20, "it goes on in HTTP/1");
        let answer = sender.send_request(plain("GET", "/b")).await.unwrap();
        let answer = whole(answer).await.unwrap();
        if answer.status == 200 && answer.body.is_empty() {
            break;
        }
    }
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_configured_is_spoken() {
    let app = App::start().await;
    let server = Server::start().await;
    let target = format!("forward = \"{}\"\nforward_protocol = ", app.address);
    let proxy = Setup::new("web", &server)
        .listener("auto", "inbound", "detect", &format!("{target}\"auto\""))
        .listener("old", "inbound", "detect", &format!("{target}\"http1\""))
        .listener("new", "inbound", "detect", &format!("{target}\"http2\""))
        .start();
    for (listener, client, expected) in [
        ("auto", Version::HTTP_11, Version::HTTP_11),
        ("auto", Version::HTTP_2, Version::HTTP_2),
        ("old", Version::HTTP_11, Version::HTTP_11),
        ("old", Version::HTTP_2, Version::HTTP_11),
        ("new", Version::HTTP_11, Version::HTTP_2),
        ("new", Version::HTTP_2, Version::HTTP_2),
    ] {
        app.seen.lock().unwrap().clear();
        let to = at(&proxy, listener);
        let answer = if client == Version::HTTP_2 {
            let mut sender = http2(to).await;
            whole(sender.send_request(plain("GET", "/x?y=z")).await.unwrap()).await
        } else {
            whole(http1(to, get("/x?y=z")).await).await
        };
        let answer = answer.unwrap();
        assert_eq!(answer.body, "hello", "{listener} {client:?}");
        for hop in ["connection", "keep-alive", "transfer-encoding"] {
            assert!(!answer.headers.contains_key(hop), "{listener} {client:?}");
        }
        let (target, headers, version) = app.seen.lock().unwrap()[0].clone();
        assert_eq!((&*target, version), ("/x?y=z", expected));
        let host = headers.get("host").map(http::HeaderValue::as_bytes);
        if expected == Version::HTTP_11 {
            assert_eq!(host, Some(&b"callee.test"[..]));
        } else {
            assert!(host.is_none_or(|host| host == b"callee.test"));
        }
    }
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_is_told_to_http2_applications() {
    let app = App::start().await;
    let server = Server::start().await;
    let target = format!(
        "forward = \"{}\"\nforward_protocol = \"http2\"",
        app.address
    );
    let proxy = Setup::new("web", &server)
        .listener("in", "inbound", "http1", &target)
        .start();
    let to = at(&proxy, "in");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let pieces: Vec<Result<_, std::io::Error>> = vec![
        Ok(Frame::data(Bytes::from_static(b"one"))),
        Ok(Frame::data(Bytes::from_static(b"two"))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(tokio_stream::iter(pieces));
    let posted = Request::post("/echo")
        .header("host", "callee.test")
        .header("trailer", "x-sum")
        .header("te", "trailers")
        .header("expect", "100-continue")
        .header("connection", "upgrade, te, x-mine")
        .header("upgrade", "websocket")
        .header("x-mine", "1")
        .body(body)
        .unwrap();
    let answer = whole(http1(to, posted).await).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.body[..]),
        (200, &b"onetwo"[..])
    );
    assert_eq!(answer.trailers.get("x-sum").unwrap(), "7");
    let headers = app.headers("/echo");
    assert_eq!(headers.get("te").unwrap(), "trailers");
    for hop in [
        "connection",
        "upgrade",
        "x-mine",
        "transfer-encoding",
        "host",
        "expect",
    ] {
        assert!(!headers.contains_key(hop), "{hop}");
    }
    let row = record(&server, Side::Inbound, "/echo").await;
    assert_eq!((row.protocol, row.request_bytes), (Protocol::Http1, 6));
    // HTTP/1.0, and the server as a whole.
    let old = crate::client::say(to, b"GET /old HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with(b"HTTP/1.0 200 OK\r\n") && old.ends_with(b"\r\n\r\nhello"));
    let options = b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let whole_server = crate::client::say(to, options).await;
    assert!(whole_server.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(
        app.seen
            .lock()
            .unwrap()
            .iter()
            .any(|(path, ..)| path == "*")
    );
    let head_only = crate::client::say(to, b"HEAD /h HTTP/1.0\r\n\r\n").await;
    assert!(head_only.ends_with(b"\r\n\r\n"));
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_said_the_http1_way() {
    let (script, app) = Script::start(REFUSES, OK, false).await;
    let pair = Pair::start("detect", app).await;
    let mut client = Raw::connect(pair.address()).await;
    let mut fields = request("/a?b=c");
    fields.extend_from_slice(&[
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"x-twice", b"1"),
        (b"cookie", b"c=3"),
        (b"x-twice", b"2"),
        (b"te", b"trailers"),
        (b"host", b"callee.test"),
        (b"http2-settings", b"AAAA"),
        (b"whodunit-id", b"forged"),
    ]);
    client.send(&head(1, true, &fields)).await;
    assert_eq!(client.end_of(1).await, End::Status(200));
    let text = String::from_utf8(script.requests().concat()).unwrap();
    assert!(text.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{text}");
    let mut lines: Vec<_> = text
        .lines()
        .skip(1)
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "connection: te",
            "cookie: a=1; b=2; c=3",
            "host: callee.test",
            "te: trailers",
            "x-twice: 1",
            "x-twice: 2",
        ]
    );
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_does_not_go_to_an_application_without_http2() {
    let (script, app) = Script::start(REFUSES, OK, false).await;
    let pair = Pair::start("detect", app).await;
    let mut sender = http2(pair.address()).await;
    let response = sender
        .send_request(call("Code0", vec![0; 5]))
        .await
        .unwrap();
    let answer = whole(response).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["grpc-status"], "13");
    assert_eq!(answer.headers["whodunit-cause"], "not_http2");
    let message = answer.headers["grpc-message"].to_str().unwrap();
    assert!(message.contains("gRPC needs HTTP/2"), "{message}");
    assert!(script.requests().is_empty());
    for side in [Side::Inbound, Side::Outbound] {
        let row = record(&pair.server, side, "/test.Service/Code0").await;
        assert_eq!(
            (row.protocol, row.cause, row.origin, row.grpc_status),
            (Protocol::Grpc, Cause::NotHttp2, Origin::Server, Some(13))
        );
    }
    pair.end().await;
}

/// How a response must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Whole, with this status, body and trailer `x-sum`.
    Whole(u16, &'static str, &'static str),
    /// Reset after its head.
    Cut,
}
use Then::{Cut, Whole};

/// Fields of one connection, which no HTTP/2 response may have.
const HOPS: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "transfer-encoding",
    "x-hop",
];

const RESPONSES: &[(&str, &str, bool, Then)] = &[
    ("GET", OK, false, Whole(200, "ok", "")),
    ("GET", "HTTP/1.0 200 OK\n\nok", true, Whole(200, "ok", "")),
    (
        "GET",
        "HTTP/1.1 200 OK\nConnection: close\n\nok",
        true,
        Whole(200, "ok", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        false,
        Whole(200, "", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: x-sum\n\n1\no\n1;a=b\nk\n0\nX-Sum: 7\n\n",
        false,
        Whole(200, "ok", "7"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nSet-Cookie: a\nX-Sum: 7\n\n",
        false,
        Whole(200, "ok", "7"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
        false,
        Whole(200, "ok", ""),
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        false,
        Whole(200, "", ""),
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n",
        false,
        Whole(200, "", ""),
    ),
    ("GET", "HTTP/1.1 204 None\n\n", false, Whole(204, "", "")),
    (
        "GET",
        "HTTP/1.1 204 None\nContent-Length: 5\n\n",
        false,
        Whole(204, "", ""),
    ),
    (
        "GET",
        "HTTP/1.1 304 Same\nContent-Length: 5\n\n",
        false,
        Whole(304, "", ""),
    ),
    (
        "GET",
        "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        false,
        Whole(200, "ok", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\nConnection: x-hop, close\nX-Hop: 1\nKeep-Alive: timeout=5\n\
         Proxy-Connection: close\nUpgrade: h2c\n\nok",
        true,
        Whole(200, "ok", ""),
    ),
    (
        "GET",
        "HTTP/1.1 500 No\nContent-Length: 2\n\nno",
        false,
        Whole(500, "no", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 OK\n\n",
        false,
        Whole(200, "ok", ""),
    ),
    ("GET", "HTTP/1.1 200 OK\nContent-Length: 5\n\nok", true, Cut),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nok",
        true,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n",
        true,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n",
        true,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nzz\nok\n0\n\n",
        false,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nContent-Length: 5\n\n",
        false,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: upgrade\n\n",
        false,
        Whole(502, "", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3\n\nok",
        false,
        Whole(502, "", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\nok",
        false,
        Whole(502, "", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\nok",
        false,
        Whole(502, "", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nX: a\rb\n\nok",
        true,
        Whole(502, "", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nX : a\n\nok",
        true,
        Whole(502, "", ""),
    ),
    ("GET", "HTTP/1.1 200 OK\nX-Half", true, Whole(502, "", "")),
    ("GET", "HTTP/2 200 OK\n\nok", true, Whole(502, "", "")),
    ("POST", "", true, Whole(502, "", "")),
];

#[tokio::test(flavor = "multi_thread")]
async fn responses_are_whole_or_visibly_broken() {
    let server = Server::start().await;
    let mut wrong = Vec::new();
    for (method, answer, closes, then) in RESPONSES {
        let (_script, app) = Script::start(REFUSES, answer, *closes).await;
        let proxy = Setup::new("web", &server).inbound("detect", app).start();
        let mut sender = http2(at(&proxy, "in")).await;
        let found = match sender.send_request(plain(method, "/r")).await {
            Ok(response) => {
                let head = response.headers().clone();
                let odd = HOPS.iter().any(|name| head.contains_key(*name));
                let empty = response.status() == 204 && head.contains_key("content-length");
                if odd || empty {
                    wrong.push(format!("{answer:?}: {head:?}"));
                }
                whole(response).await.ok()
            }
            Err(_) => None,
        };
        let found = found.map(|answer| {
            assert!(!answer.trailers.contains_key("set-cookie"));
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            let sum = answer.trailers.get("x-sum");
            let sum = sum.map_or("", |sum| sum.to_str().unwrap()).to_owned();
            let status = answer.status.as_u16();
            // The words of our own answers are of no matter here.
            let body = if status == 502 { String::new() } else { body };
            (status, body, sum)
        });
        let expected = match then {
            Whole(status, body, sum) => Some((*status, (*body).to_owned(), (*sum).to_owned())),
            Cut => None,
        };
        if found != expected {
            wrong.push(format!("{answer:?}: {found:?}"));
        }
        crate::sending::conserved(&proxy).await;
        end(proxy).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_reach_http2_clients() {
    let hints = "HTTP/1.1 103 Early Hints\nLink: </a>\nConnection: x\nX: 1\n\nHTTP/1.1 200 OK\n\
                 Content-Length: 2\n\nok";
    let (_script, app) = Script::start(REFUSES, hints, false).await;
    let pair = Pair::start("detect", app).await;
    let mut client = Raw::connect(pair.address()).await;
    client.send(&head(1, true, &request("/hints"))).await;
    let interim = client.find(|frame| frame.kind == HEADERS).await.unwrap();
    assert_eq!(interim.flags & END_STREAM, 0);
    assert_eq!(client.end_of(1).await, End::Status(200));
    let row = record(&pair.server, Side::Outbound, "/hints").await;
    assert_eq!((row.status, row.outcome), (200, Outcome::Success));
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_is_asked_for_its_body() {
    let (script, app) = Script::start(REFUSES, OK, false).await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server).inbound("http2", app).start();
    let mut client = Raw::connect(at(&proxy, "in")).await;
    let mut fields = request("/waits");
    fields[0].1 = b"POST";
    fields.push((b"expect", b"100-continue"));
    client.send(&head(1, false, &fields)).await;
    let asked = client.find(|frame| frame.kind == HEADERS).await.unwrap();
    assert_eq!((asked.stream, asked.flags & END_STREAM), (1, 0));
    client.send(&frame(0, END_STREAM, 1, b"body")).await;
    assert_eq!(client.end_of(1).await, End::Status(200));
    let text = String::from_utf8(script.requests().concat()).unwrap();
    assert!(!text.contains("expect"), "{text}");
    assert!(text.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n"), "{text}");
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_gives_up_ends_its_connection_to_the_application() {
    let app = App::start().await;
    let server = Server::start().await;
    let target = format!(
        "forward = \"{}\"\nforward_protocol = \"http1\"",
        app.address
    );
    let proxy = Setup::new("web", &server)
        .listener("in", "inbound", "http2", &target)
        .start();
    let mut client = Raw::connect(at(&proxy, "in")).await;
    for (stream, path) in [(1, "/held"), (5, "/streamed")] {
        client.send(&head(stream, true, &request(path))).await;
        wait_for("the request", || {
            let seen = app.seen.lock().unwrap();
            seen.iter().any(|(known, ..)| known == path).then_some(())
        })
        .await;
        if path == "/streamed" {
            let first = client.find(|frame| frame.kind == 0).await.unwrap();
            assert_eq!(first.payload, b"one");
        }
        client
            .send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]))
            .await;
        let row = record(&server, Side::Inbound, path).await;
        assert_eq!(
            (row.cause, row.origin),
            (Cause::ClientCancelled, Origin::Client)
        );
        app.go_on.notify_waiters();
        // The next one gets its own answer, on another connection.
        client
            .send(&head(stream + 2, true, &request("/next")))
            .await;
        assert_eq!(client.end_of(stream + 2).await, End::Status(200));
    }
    let rows = wait_for("records", || {
        let rows: Vec<_> = server.records();
        let next: Vec<_> = rows
            .into_iter()
            .filter(|row| &*row.path == "/next")
            .collect();
        (next.len() == 2).then_some(next)
    })
    .await;
    assert!(
        !rows[0].reused,
        "a connection that was given up is not used again"
    );
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_arrive_whole_when_converted() {
    let app = App::start().await;
    let server = Server::start().await;
    let target = |to| format!("forward = \"{}\"\nforward_protocol = \"{to}\"", app.address);
    let proxy = Setup::new("web", &server)
        .listener("down", "inbound", "http2", &target("http1"))
        .listener("up", "inbound", "http1", &target("http2"))
        .start();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let posted = |uri: &str| {
        Request::post(uri)
            .header("host", "callee.test")
            .body(Full::new(Bytes::from(sent.clone())))
            .unwrap()
    };
    let mut sender = http2(at(&proxy, "down")).await;
    let down = sender.send_request(posted("http://callee.test/echo"));
    let down = whole(down.await.unwrap()).await.unwrap();
    let up = whole(http1(at(&proxy, "up"), posted("/echo")).await)
        .await
        .unwrap();
    assert!(down.body == sent && up.body == sent);
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_stops_the_application() {
    // An application that writes for ever, and counts.
    let written = Arc::new(Mutex::new(0_usize));
    let count = written.clone();
    let app = app::tcp(move |mut stream| {
        let count = count.clone();
        async move {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {
                *count.lock().unwrap() += 4096;
            }
        }
    })
    .await;
    let server = Server::start().await;
    let target = format!("forward = \"{app}\"\nforward_protocol = \"http1\"");
    let proxy = Setup::new("web", &server)
        .listener("in", "inbound", "http2", &target)
        .start();
    let mut client = Raw::connect(at(&proxy, "in")).await;
    client.send(&head(1, true, &request("/endless"))).await;
    // The window of a stream is 65,535 bytes; what follows waits in sockets.
    let mut got = 0;
    while got < 65_535 {
        let data = client.find(|frame| frame.kind == 0).await.unwrap();
        got += data.payload.len();
    }
    assert_eq!(got, 65_535);
    assert!(client.is_alive().await);
    let mut before = usize::MAX;
    let bytes = wait_for("the application to stop", || {
        let now = *written.lock().unwrap();
        let still = std::mem::replace(&mut before, now) == now;
        std::thread::sleep(std::time::Duration::from_millis(200));
        still.then_some(now)
    })
    .await;
    assert!(bytes < 16 << 20, "{bytes} bytes are on their way");
    drop(client);
    let row = record(&server, Side::Inbound, "/endless").await;
    assert_eq!(row.cause, Cause::ClientCancelled);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_gone_is_asked_again() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("detect", app::nobody().await)
        .start();
    let mut sender = http2(at(&proxy, "in")).await;
    let request = Request::get("http://callee.test/")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = whole(sender.send_request(request).await.unwrap())
        .await
        .unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["whodunit-cause"]),
        (
            502,
            &"connect_refused".parse::<http::HeaderValue>().unwrap()
        )
    );
    let answer = fetch(at(&proxy, "in"), "/").await;
    assert_eq!(answer.status, 502);
    drop(app);
    end(proxy).await;
}
