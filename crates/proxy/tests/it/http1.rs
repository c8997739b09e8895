//! The message boundary of HTTP/1, on real sockets and byte for byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use whodunit_model::record::Side;
use whodunit_model::{Cause, Outcome};
use whodunit_proxy::Running;

use crate::app::{self, App};
use crate::client::say;
use crate::mesh::{DEADLINE, Setup, at, end, record};
use crate::server::Server;

/// A proxy before an application, and the server that keeps its records.
struct Front {
    server: Server,
    proxy: Running,
}

impl Front {
    async fn start(app: SocketAddr) -> Self {
        let server = Server::start().await;
        let proxy = Setup::new("web", &server).inbound("http1", app).start();
        Self { server, proxy }
    }

    fn address(&self) -> SocketAddr {
        at(&self.proxy, "in")
    }

    async fn say(&self, text: &str) -> String {
        String::from_utf8_lossy(&say(self.address(), text.as_bytes()).await).into_owned()
    }

    async fn end(self) {
        end(self.proxy).await;
    }
}

/// Starts an application that answers each connection's first head with these bytes, and
/// keeps the connection open until the client closes it.
async fn scripted(answer: &'static str) -> SocketAddr {
    app::tcp(move |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match timeout(DEADLINE, stream.read_u8()).await.expect("a head") {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order_to_a_client_that_half_closed() {
    let front = Front::start(App::start().await.address).await;
    let mut stream = TcpStream::connect(front.address()).await.unwrap();
    let three = "GET /status/201 HTTP/1.1\r\nHost: a\r\n\r\n\
                 POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody\
                 GET /status/203 HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(three.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = String::new();
    let read = timeout(DEADLINE, stream.read_to_string(&mut answers));
    read.await.expect("ends").unwrap();
    let at = |text: &str| answers.find(text).unwrap_or_else(|| panic!("{answers}"));
    assert!(at("HTTP/1.1 201") < at("body") && at("body") < at("HTTP/1.1 203"));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_clients_wait_for_slow_answers() {
    let app = App::start().await;
    let front = Front::start(app.address).await;
    let mut stream = TcpStream::connect(front.address()).await.unwrap();
    let head = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream.shutdown().await.unwrap();
    crate::mesh::wait_for("the request", || {
        (!app.seen.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    app.go_on.notify_one();
    let mut answer = String::new();
    let read = timeout(DEADLINE, stream.read_to_string(&mut answer));
    read.await.expect("ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_get_no_chunks_and_may_keep_their_connection() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let front = Front::start(scripted(chunked).await).await;
    let answer = front.say("GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(!answer.contains("chunked") && answer.contains("connection: close"));
    front.end().await;

    let front = Front::start(App::start().await.address).await;
    let mut stream = TcpStream::connect(front.address()).await.unwrap();
    for _ in 0..2 {
        let head = b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert!(answer.contains("connection: keep-alive\r\n"), "{answer}");
        assert!(answer.contains("content-length: 5\r\n"), "{answer}");
    }
    drop(stream);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_keep_the_length_they_declare() {
    let answer = "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: x\r\n\r\n";
    let front = Front::start(scripted(answer).await).await;
    let answer = front.say(GET).await;
    assert!(answer.starts_with("HTTP/1.1 304 Not Modified\r\n"));
    assert!(answer.contains("content-length: 77\r\n") && answer.ends_with("\r\n\r\n"));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_are_passed_on_and_an_unasked_switch_is_not() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                 HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let front = Front::start(scripted(hints).await).await;
    let answer = front.say(GET).await;
    let expected = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert!(answer.starts_with(expected), "{answer}");
    front.end().await;

    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let front = Front::start(scripted(switch).await).await;
    let answer = front.say(GET).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let row = record(&front.server, Side::Inbound, "/x").await;
    assert_eq!(row.cause, Cause::BadResponseHead);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_response_heads_are_refused_and_recorded() {
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\nX: y\n\n",
    ] {
        let front = Front::start(scripted(bad).await).await;
        let answer = front.say(GET).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{bad:?}: {answer}");
        assert!(answer.contains("whodunit-cause: bad_response_head\r\n"));
        let row = record(&front.server, Side::Inbound, "/x").await;
        assert_eq!((row.cause, row.status), (Cause::BadResponseHead, 502));
        front.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_a_complete_response_answer_nobody() {
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nstolen";
    let front = Front::start(scripted(two).await).await;
    for _ in 0..3 {
        let answer = front.say(GET).await;
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    }
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_never_gets_an_end() {
    let cut = app::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let part = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n";
        let _ = stream.write_all(part).await;
    })
    .await;
    let front = Front::start(cut).await;
    let answer = front.say(GET).await;
    assert!(answer.ends_with("4\r\npart\r\n"), "{answer}");
    let row = record(&front.server, Side::Inbound, "/x").await;
    assert_eq!(
        (row.cause, row.outcome),
        (Cause::ClosedEarly, Outcome::Failure)
    );
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    let early = "HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno";
    let front = Front::start(scripted(early).await).await;
    let mut stream = TcpStream::connect(front.address()).await.unwrap();
    let head = b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin";
    stream.write_all(head).await.unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 Too Much\r\n"), "{answer}");
    drop(stream);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_is_written_anew_and_other_fields_keep_their_bytes() {
    let (heads, mut seen) = tokio::sync::mpsc::channel(4);
    let app = app::tcp(move |mut stream| {
        let heads = heads.clone();
        async move {
            heads.send(read_head(&mut stream).await).await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 204 No\r\n\r\n").await;
        }
    })
    .await;
    let front = Front::start(app).await;
    let head = "POST / HTTP/1.1\r\nHoSt: a\r\nTRANSFER-Encoding: Chunked\r\nX-One:  1\r\n\
                x-two: 2\r\nX-ONE: 3\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\
                Connection: close, Upgrade, HTTP2-Settings\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let answer = front.say(head).await;
    assert!(answer.starts_with("HTTP/1.1 204 No\r\n"), "{answer}");
    assert!(!answer.contains("content-length"), "{answer}");
    assert_eq!(
        seen.recv().await.unwrap(),
        "POST / HTTP/1.1\r\nHoSt: a\r\nX-One: 1\r\nx-two: 2\r\nX-ONE: 3\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_heads_have_their_status_and_are_recorded_with_their_path() {
    let app = App::start().await;
    let front = Front::start(app.address).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20_000));
    let many = format!(
        "GET /m HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    let cases = [
        ("GET /e HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
        (&long, 414),
        (&many, 431),
        (
            "GET /two?token=hunter2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
        ),
    ];
    for (head, status) in cases {
        let answer = front.say(head).await;
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    let row = record(&front.server, Side::Inbound, "/m").await;
    assert_eq!((&*row.method, row.status), ("GET", 431));
    let is_two = |row: &whodunit_model::RequestRecord| row.path.starts_with("/two");
    let row = crate::mesh::record_where(&front.server, is_two).await;
    assert_eq!(row.cause, Cause::BadRequestHead);
    assert!(!row.path.contains("hunter2"), "{row:?}");
    assert!(app.seen.lock().unwrap().is_empty());
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_chunks_of_a_client_are_its_own_fault() {
    let app = App::start().await;
    let front = Front::start(app.address).await;
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    let answer = front.say(head).await;
    // The application may have answered before the chunk was seen to be bad.
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    let row = record(&front.server, Side::Inbound, "/echo").await;
    assert_eq!(row.cause, Cause::BadRequestHead, "{row:?}");
    front.end().await;
}
