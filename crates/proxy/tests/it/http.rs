//! HTTP/1 and HTTP/2 through two proxies.

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use whodunit_model::record::{Detected, Protocol, Side, Twin};
use whodunit_model::{Cause, Outcome};

use crate::app::{self, App};
use crate::client::{fetch, http1, http2, say, whole};
use crate::mesh::{Pair, Setup, at, end, record, wait_for};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_passes_both_proxies_and_leaves_one_record_on_each() {
    let app = App::start().await;
    let pair = Pair::start("detect", app.address).await;
    let target = "/status/404?choice=%3Apoop%3A&token=hunter2";
    let request = Request::get(target)
        .header("host", "callee.test")
        .header("x-tenant", "acme")
        .header("x-request-id", "hunter3")
        .header("connection", "x-mine")
        .header("x-mine", "for the proxy only")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = whole(http1(pair.address(), request).await).await.unwrap();
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::NOT_FOUND, &b"hello"[..])
    );
    assert_eq!(answer.headers["x-from-app"], "yes");
    for name in [
        "whodunit-id",
        "whodunit-twin",
        "whodunit-origin",
        "whodunit-cause",
        "x-hop",
    ] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
    let seen = app.headers(target);
    assert_eq!(seen["host"], "callee.test");
    assert_eq!(seen["x-tenant"], "acme");
    let strange = |name: &str| name.starts_with("whodunit") || name == "x-mine";
    assert!(!seen.keys().any(|name| strange(name.as_str())), "{seen:?}");

    let outbound = crate::mesh::record_where(&pair.server, |row| row.side == Side::Outbound).await;
    let inbound = crate::mesh::record_where(&pair.server, |row| row.side == Side::Inbound).await;
    assert_eq!(outbound.id, inbound.id);
    assert_eq!(outbound.id.boot, pair.caller.boot());
    for row in [&outbound, &inbound] {
        assert_eq!(
            (&*row.src.workload, &*row.src.instance),
            ("caller", "caller-0")
        );
        assert_eq!(
            (&*row.dst.workload, &*row.dst.instance),
            ("callee", "callee-0")
        );
        assert_eq!((&*row.dst.namespace, &*row.dst.version), ("test", "v1"));
        assert_eq!(&*row.service, "callee");
        assert_eq!(&*row.authority, "callee.test");
        assert_eq!((&*row.method, &*row.route), ("GET", "GET /status/{}"));
        assert!(
            row.path.contains("choice=:poop:") && !row.path.contains("hunter"),
            "{row:?}"
        );
        assert_eq!(&*row.attributes, "choice=:poop:&x-tenant=acme");
        assert!(row.correlation.starts_with('~'), "{row:?}");
        assert_eq!(
            row.trace.trace_id,
            0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c
        );
        assert_eq!((row.status, row.client_error), (404, true));
        assert_eq!((row.outcome, row.cause), (Outcome::Success, Cause::None));
        assert_eq!((row.twin, row.protocol), (Twin::Yes, Protocol::Http1));
        assert_eq!(row.detected, Detected::Bytes);
        assert_eq!(
            (row.response_bytes, row.request_bytes, row.attempts),
            (5, 0, 1)
        );
        assert!(row.latency_us > 0 && row.latency_us <= row.duration_us);
        assert_eq!(row.at_us, row.start_at_us + row.duration_us);
    }
    assert_eq!(*outbound.endpoint, at(&pair.callee, "in").to_string());
    assert_eq!(*inbound.endpoint, app.address.to_string());
    assert!(outbound.duration_us >= inbound.duration_us);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_passes_and_connections_are_shared() {
    let app = App::start().await;
    let pair = Pair::start("http2", app.address).await;
    let mut sender = http2(pair.address()).await;
    for path in ["/first", "/second"] {
        let request = Request::get(format!("http://callee.test{path}"));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = whole(sender.send_request(request).await.unwrap())
            .await
            .unwrap();
        assert_eq!(
            (answer.status, &answer.body[..]),
            (StatusCode::OK, &b"hello"[..])
        );
    }
    for side in [Side::Inbound, Side::Outbound] {
        let row = record(&pair.server, side, "/second").await;
        assert_eq!(
            (row.protocol, row.detected),
            (Protocol::Http2, Detected::Declared)
        );
        assert_eq!(&*row.authority, "callee.test");
        assert!(row.reused);
        assert!(!record(&pair.server, side, "/first").await.reused);
    }
    assert!(
        app.seen
            .lock()
            .unwrap()
            .iter()
            .all(|(_, _, version)| *version == Version::HTTP_2)
    );
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_upstream_connections_are_used_again_and_stale_ones_are_not() {
    let app = App::start().await;
    let pair = Pair::start("http1", app.address).await;
    for path in ["/one", "/two"] {
        fetch(pair.address(), path).await;
        record(&pair.server, Side::Outbound, path).await;
    }
    assert!(record(&pair.server, Side::Inbound, "/two").await.reused);
    // This application closes each connection after one answer, without saying so.
    let closing = app::tcp(|mut stream| async move {
        let mut buffer = [0; 4_096];
        let _ = stream.read(&mut buffer).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
    })
    .await;
    let proxy = Setup::new("closing", &pair.server)
        .inbound("http1", closing)
        .start();
    for i in 0..20 {
        assert_eq!(
            fetch(at(&proxy, "in"), &format!("/{i}")).await.status,
            StatusCode::OK
        );
    }
    end(proxy).await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_with_and_without_length() {
    let app = App::start().await;
    let pair = Pair::start("http1", app.address).await;
    let body: Vec<u8> = (0..1_000_000u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let request = Request::post("/echo").header("host", "a");
    let request = request.body(Full::new(Bytes::from(body.clone()))).unwrap();
    let answer = whole(http1(pair.address(), request).await).await.unwrap();
    assert_eq!(answer.body, body);
    let row = record(&pair.server, Side::Outbound, "/echo").await;
    assert_eq!(
        (row.request_bytes, row.response_bytes),
        (1_000_000, 1_000_000)
    );

    // Each piece arrives before the next one is sent.
    let (pieces, stream) = tokio::sync::mpsc::channel::<Result<_, std::io::Error>>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let request = Request::post("/echo?pieces").header("host", "a");
    let request = request.body(StreamBody::new(stream)).unwrap();
    let mut response = http1(pair.address(), request).await.into_body();
    for piece in ["one", "two", "three"] {
        pieces
            .send(Ok(Frame::data(Bytes::from(piece))))
            .await
            .unwrap();
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(pieces);
    assert!(response.frame().await.is_none());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_end_at_once() {
    let app = App::start().await;
    let pair = Pair::start("http1", app.address).await;
    for (method, path, status) in [("HEAD", "/a", 200), ("GET", "/status/204", 204)] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "a");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = whole(http1(pair.address(), request).await).await.unwrap();
        assert_eq!(answer.status.as_u16(), status);
        assert!(answer.body.is_empty());
        let row = crate::mesh::record_where(&pair.server, |row| *row.method == *method).await;
        assert_eq!((row.status, row.outcome), (status, Outcome::Success));
        assert_eq!((row.response_bytes, row.latency_us), (0, row.duration_us));
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_http1_end_a_response_as_a_success() {
    let app = App::start().await;
    let pair = Pair::start("detect", app.address).await;
    for te in ["trailers", "identity"] {
        let path = format!("/trailed?te={te}");
        let request = Request::get("/trailed").header("host", "callee.test");
        let request = request.header("te", te).header("connection", "te");
        let answer =
            whole(http1(pair.address(), request.body(Empty::<Bytes>::new()).unwrap()).await);
        let answer = answer.await.unwrap();
        assert_eq!(&answer.body[..], b"one", "{path}");
        if te == "trailers" {
            assert_eq!(answer.trailers["x-sum"], "42");
        }
    }
    // An application that sends trailers whether they were asked for or not.
    let blunt = app::tcp(|mut stream| async move {
        let mut head = [0; 512];
        let _ = stream.read(&mut head).await;
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                      3\r\none\r\n0\r\nx-sum: 42\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read(&mut head).await;
    });
    let second = Pair::start("detect", blunt.await).await;
    assert_eq!(&fetch(second.address(), "/blunt").await.body[..], b"one");
    for (pair, path) in [(&pair, "/trailed"), (&second, "/blunt")] {
        for side in [Side::Inbound, Side::Outbound] {
            let row = record(&pair.server, side, path).await;
            assert_eq!(
                (row.outcome, row.cause),
                (Outcome::Success, Cause::None),
                "{side} {path}"
            );
        }
        let failed = |row: &whodunit_model::RequestRecord| row.outcome == Outcome::Failure;
        assert!(!pair.server.records().iter().any(failed), "{path}");
    }
    pair.end().await;
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_is_relayed_and_recorded_at_its_end() {
    let pair = Pair::start("http1", app::shouting().await).await;
    let mut stream = TcpStream::connect(pair.address()).await.unwrap();
    let head = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    stream.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"HELLO");
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut heard).await.unwrap(), 0);
    for side in [Side::Inbound, Side::Outbound] {
        let row = record(&pair.server, side, "/chat").await;
        assert_eq!((row.status, row.outcome), (101, Outcome::Success));
        assert_eq!((row.request_bytes, row.response_bytes), (5, 5));
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_keep_their_bytes() {
    let (heads, mut seen) = tokio::sync::mpsc::channel(1);
    let app = app::tcp(move |mut stream| {
        let heads = heads.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.send(String::from_utf8(head).unwrap()).await.unwrap();
            let answer = b"HTTP/1.1 200 Fine\r\nX-CamelCase: Yes\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let pair = Pair::start("detect", app).await;
    let request = "GET /a%20b?c=%7E HTTP/1.1\r\nHoSt: a\r\nX-MiXed: 1, 2\r\nX-MiXed: 3\r\n\
                   Connection: close\r\n\r\n";
    let answer = String::from_utf8(say(pair.address(), request.as_bytes()).await).unwrap();
    let head = seen.recv().await.unwrap();
    assert!(head.starts_with("GET /a%20b?c=%7E HTTP/1.1\r\n"), "{head}");
    for line in ["HoSt: a\r\n", "X-MiXed: 1, 2\r\n", "X-MiXed: 3\r\n"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(answer.contains("\r\nX-CamelCase: Yes\r\n"), "{answer}");
    assert!(!answer.to_lowercase().contains("date:"), "{answer}");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_careful_clients_are_served() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .start();
    let answer = say(at(&proxy, "in"), b"GET /old HTTP/1.0\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert_eq!(
        app.headers("/old")["host"],
        app.address.to_string().as_str()
    );

    let absolute =
        b"GET http://other.test/whole HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n";
    say(at(&proxy, "in"), absolute).await;
    assert_eq!(app.headers("/whole")["host"], "other.test");

    let mut stream = TcpStream::connect(at(&proxy, "in")).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\
                Connection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("body"),
        "{answer}"
    );
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_threads_share_the_ports() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .top("workers = 3")
        .inbound("detect", app.address)
        .start();
    for i in 0..30 {
        assert_eq!(
            fetch(at(&proxy, "in"), &format!("/x{i}x")).await.status,
            StatusCode::OK
        );
    }
    wait_for("all records", || {
        (server.records().len() == 30).then_some(())
    })
    .await;
    let metrics = fetch(proxy.admin().unwrap(), "/metrics").await;
    assert_eq!(
        metrics.status,
        StatusCode::FORBIDDEN,
        "callee.test is not a local name"
    );
    end(proxy).await;
}
