//! Bytes that are not HTTP.

use std::time::Instant;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use whodunit_model::record::{Detected, Kind, Protocol, Side, TlsState, Twin};
use whodunit_model::{Cause, Origin, Outcome, RequestRecord};

use crate::app::{self, App, nobody};
use crate::client::{fetch, say};
use crate::mesh::{Pair, Setup, at, end, record, record_where};
use crate::server::Server;

/// An application that waits for the end of what it is told before it says it backwards.
async fn backwards() -> std::net::SocketAddr {
    app::tcp(|mut stream| async move {
        let mut told = Vec::new();
        stream.read_to_end(&mut told).await.unwrap();
        told.reverse();
        stream.write_all(&told).await.unwrap();
    })
    .await
}

fn connection(row: &RequestRecord, side: Side) -> bool {
    row.kind == Kind::Connection && row.side == side
}

#[tokio::test(flavor = "multi_thread")]
async fn each_direction_closes_on_its_own() {
    let pair = Pair::start("opaque", backwards().await).await;
    let mut stream = TcpStream::connect(pair.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"\n\r1.1/PTTH / TEG");
    for side in [Side::Inbound, Side::Outbound] {
        let row = record_where(&pair.server, |row| connection(row, side)).await;
        assert_eq!(
            (row.protocol, row.detected),
            (Protocol::Tcp, Detected::Declared)
        );
        assert_eq!((row.request_bytes, row.response_bytes), (16, 16));
        assert_eq!((row.outcome, row.status), (Outcome::Success, 0));
        assert_eq!(&*row.service, "callee");
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_falls_back_and_is_counted() {
    let server = Server::start().await;
    let proxy = Setup::new("db", &server)
        .inbound("detect", backwards().await)
        .start();
    let mut stream = TcpStream::connect(at(&proxy, "in")).await.unwrap();
    stream.write_all(b"\x16\x03\x01 hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"olleh \x01\x03\x16");
    let row = record_where(&server, |row| connection(row, Side::Inbound)).await;
    assert_eq!(
        (row.detected, row.tls),
        (Detected::FallBack, TlsState::Opaque)
    );
    let report = crate::mesh::wait_for("a report", || {
        server
            .received(|all| all.reports.last().cloned())
            .filter(|r| r.detection_fall_backs == 1)
    });
    assert_eq!(report.await.listeners, [format!("in={}", at(&proxy, "in"))]);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_and_remembered() {
    let greeting = app::tcp(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut word = [0; 6];
        let _ = stream.read_exact(&mut word).await;
    })
    .await;
    let server = Server::start().await;
    let proxy = Setup::new("mail", &server)
        .inbound("detect", greeting)
        .start();
    for (i, detected) in [Detected::FallBack, Detected::Remembered]
        .into_iter()
        .enumerate()
    {
        let start = Instant::now();
        let mut stream = TcpStream::connect(at(&proxy, "in")).await.unwrap();
        let mut heard = [0; 11];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"220 ready\r\n");
        assert_eq!(
            start.elapsed().as_millis() < 900,
            i == 1,
            "the second one need not wait"
        );
        stream.write_all(b"QUIT\r\n").await.unwrap();
        assert_eq!(stream.read(&mut heard).await.unwrap(), 0);
        drop(stream);
        let row = record_where(&server, |row| row.detected == detected).await;
        assert_eq!((row.request_bytes, row.response_bytes), (6, 11));
    }
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_connects_ahead_of_time_is_served_as_http() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .start();
    let mut stream = TcpStream::connect(at(&proxy, "in")).await.unwrap();
    // Longer than the time after which a silent client might be waiting for the server.
    let silence = std::time::Duration::from_millis(1_300);
    let mut byte = [0; 1];
    let early = tokio::time::timeout(silence, stream.read(&mut byte)).await;
    assert!(early.is_err(), "a silent connection stays open");
    stream
        .write_all(b"GET /late HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let row = record(&server, Side::Inbound, "/late").await;
    assert_eq!(row.detected, Detected::Bytes);
    assert!(
        row.duration_us < 1_000_000,
        "waiting for the browser is not the request's time"
    );
    assert_eq!(
        fetch(at(&proxy, "in"), "/next").await.status,
        StatusCode::OK
    );
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_connection_to_nobody_is_recorded() {
    let server = Server::start().await;
    let proxy = Setup::new("db", &server)
        .inbound("opaque", nobody().await)
        .start();
    assert!(say(at(&proxy, "in"), b"hello").await.is_empty());
    let row = record_where(&server, |row| connection(row, Side::Inbound)).await;
    assert_eq!(
        (row.outcome, row.cause),
        (Outcome::Failure, Cause::ConnectRefused)
    );
    assert_eq!(
        (row.origin, row.twin, row.attempts),
        (Origin::Server, Twin::No, 1)
    );
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_shows_while_it_lasts() {
    let server = Server::start().await;
    let proxy = Setup::new("db", &server)
        .inbound("opaque", backwards().await)
        .start();
    let mut stream = TcpStream::connect(at(&proxy, "in")).await.unwrap();
    stream.write_all(b"abc").await.unwrap();
    let open = record_where(&server, |row| row.kind == Kind::Open).await;
    assert_eq!((open.protocol, open.request_bytes), (Protocol::Tcp, 3));
    drop(stream);
    let last = record_where(&server, |row| connection(row, Side::Inbound)).await;
    assert_eq!(last.id, open.id);
    end(proxy).await;
}
