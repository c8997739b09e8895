//! Bytes that are not HTTP.

use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use whodunit_model::record::{Detected, Kind, Protocol, Side, TlsState, Twin};
use whodunit_model::{Cause, Origin, Outcome, RequestRecord};

use crate::app::{App, nobody, tcp};
use crate::client::{fetch, say};
use crate::limits::metrics;
use crate::mesh::{Pair, Setup, at, end, endpoint, record, record_where, wait_for};
use crate::server::Server;

/// An application that waits for the end of what it is told before it says it backwards.
async fn backwards() -> std::net::SocketAddr {
    tcp(|mut stream| async move {
        let mut told = Vec::new();
        stream.read_to_end(&mut told).await.unwrap();
        told.reverse();
        stream.write_all(&told).await.unwrap();
    })
    .await
}

/// An application that speaks first, and ends after six bytes.
async fn greeter() -> std::net::SocketAddr {
    tcp(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut word = [0; 6];
        let _ = stream.read_exact(&mut word).await;
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

/// Waits for the records of both sides, and checks that they are of one call.
async fn both_sides(pair: &Pair) -> (RequestRecord, RequestRecord) {
    let inbound = record_where(&pair.server, |row| connection(row, Side::Inbound)).await;
    let outbound = record_where(&pair.server, |row| connection(row, Side::Outbound)).await;
    assert_eq!(inbound.id, outbound.id, "one id on both sides");
    assert_eq!((inbound.twin, outbound.twin), (Twin::Yes, Twin::Yes));
    assert_eq!(inbound.src, outbound.src);
    assert_eq!(inbound.dst, outbound.dst);
    assert_eq!(&*inbound.src.workload, "caller");
    (inbound, outbound)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_connection_have_one_id() {
    for protocol in ["opaque", "detect"] {
        let pair = Pair::start(protocol, backwards().await).await;
        let mut stream = TcpStream::connect(pair.address()).await.unwrap();
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(
            answer, b"\n\rGNIP\n\r4$\n\r1*",
            "no byte of ours reaches anyone"
        );
        let (inbound, outbound) = both_sides(&pair).await;
        assert_eq!((inbound.request_bytes, inbound.response_bytes), (14, 14));
        assert_eq!((outbound.request_bytes, outbound.response_bytes), (14, 14));
        let detected = match protocol {
            "opaque" => (Detected::Declared, Detected::Declared),
            _ => (Detected::Bytes, Detected::FallBack),
        };
        assert_eq!((inbound.detected, outbound.detected), detected);
        pair.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_speak_first_through_two_proxies() {
    for protocol in ["opaque", "detect"] {
        let pair = Pair::start(protocol, greeter().await).await;
        let mut stream = TcpStream::connect(pair.address()).await.unwrap();
        let mut heard = [0; 11];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"220 ready\r\n");
        stream.write_all(b"QUIT\r\n").await.unwrap();
        assert_eq!(stream.read(&mut heard).await.unwrap(), 0);
        drop(stream);
        let (inbound, outbound) = both_sides(&pair).await;
        assert_eq!((inbound.request_bytes, inbound.response_bytes), (6, 11));
        assert_eq!((outbound.request_bytes, outbound.response_bytes), (6, 11));
        pair.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_connects_ahead_of_time_leaves_no_connection_behind() {
    let app = App::start().await;
    let pair = Pair::start("detect", app.address).await;
    let mut stream = TcpStream::connect(pair.address()).await.unwrap();
    let mut byte = [0; 1];
    let silence = Duration::from_millis(1_300);
    let early = tokio::time::timeout(silence, stream.read(&mut byte)).await;
    assert!(early.is_err(), "a silent connection stays open");
    stream
        .write_all(b"GET /late HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for side in [Side::Inbound, Side::Outbound] {
        record(&pair.server, side, "/late").await;
    }
    let rows = pair.server.records();
    assert!(rows.iter().all(|row| row.kind == Kind::Request), "{rows:?}");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_learns_why_there_is_no_connection_to_the_application() {
    let pair = Pair::start("opaque", nobody().await).await;
    assert!(say(pair.address(), b"hello").await.is_empty());
    let (inbound, outbound) = both_sides(&pair).await;
    for row in [inbound, outbound] {
        assert_eq!(
            (row.outcome, row.cause, row.origin),
            (Outcome::Failure, Cause::ConnectRefused, Origin::Server),
            "{}",
            row.side
        );
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_go_through_and_are_recorded_where_they_began() {
    // The application resets.
    let rude = tcp(|stream| async move {
        stream.peek(&mut [0; 1]).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let pair = Pair::start("opaque", rude).await;
    let mut stream = TcpStream::connect(pair.address()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let (inbound, outbound) = both_sides(&pair).await;
    assert_eq!(
        (inbound.cause, inbound.origin),
        (Cause::Reset, Origin::Server)
    );
    assert_eq!(
        (outbound.cause, outbound.origin),
        (Cause::Reset, Origin::Network)
    );
    pair.end().await;

    // The application resets before anyone has said anything.
    let ruder = tcp(|stream| async move { stream.set_zero_linger().unwrap() }).await;
    let pair = Pair::start("opaque", ruder).await;
    let mut stream = TcpStream::connect(pair.address()).await.unwrap();
    stream.read(&mut [0; 1]).await.unwrap_err();
    let (inbound, outbound) = both_sides(&pair).await;
    for row in [inbound, outbound] {
        assert_eq!((row.outcome, row.cause), (Outcome::Failure, Cause::Reset));
    }
    pair.end().await;

    // The client resets.
    let pair = Pair::start("opaque", backwards().await).await;
    let mut stream = TcpStream::connect(pair.address()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let met = || {
        let open = pair.server.records();
        open.iter()
            .any(|row| row.kind == Kind::Open && row.request_bytes == 5)
            .then_some(())
    };
    wait_for("an open row", met).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    let (inbound, outbound) = both_sides(&pair).await;
    for row in [inbound, outbound] {
        assert_eq!(
            (row.cause, row.origin),
            (Cause::ClientCancelled, Origin::Client)
        );
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn introductions_of_another_version_are_refused_and_recorded() {
    let server = Server::start().await;
    let proxy = Setup::new("db", &server)
        .inbound("opaque", backwards().await)
        .start();
    let future = b"\x89WDI\r\n\x1a\n\x02\0\0\x14............................";
    assert!(say(at(&proxy, "in"), future).await.is_empty());
    let row = record_where(&server, |row| connection(row, Side::Inbound)).await;
    assert_eq!(
        (row.cause, row.origin, row.twin),
        (Cause::BadRequestHead, Origin::ClientProxy, Twin::No)
    );
    // What only begins like one belongs to the application.
    let mut stream = TcpStream::connect(at(&proxy, "in")).await.unwrap();
    stream.write_all(b"\x89WD").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"DW\x89");
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_arrives_whole_both_ways_however_slowly_it_is_read() {
    const BYTES: usize = 24 << 20;
    let echo = tcp(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    })
    .await;
    let pair = Pair::start("opaque", echo).await;
    let sent: Vec<u8> = (0..BYTES).map(|i| ((i * 31) >> 3) as u8).collect();
    let (mut read, mut write) = TcpStream::connect(pair.address())
        .await
        .unwrap()
        .into_split();
    let sending = sent.clone();
    let sender = tokio::spawn(async move {
        write.write_all(&sending).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::with_capacity(BYTES);
    let mut part = vec![0; 1 << 16];
    loop {
        let length = read.read(&mut part).await.unwrap();
        if length == 0 {
            break;
        }
        back.extend_from_slice(&part[..length]);
        if back.len() < 1 << 20 {
            // Long enough for everything on the way to fill up.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    sender.await.unwrap();
    assert!(back == sent, "{} of {BYTES} bytes, or others", back.len());
    let (inbound, outbound) = both_sides(&pair).await;
    for row in [inbound, outbound] {
        let bytes = (row.request_bytes, row.response_bytes);
        assert_eq!(bytes, (BYTES as u64, BYTES as u64), "{}", row.side);
    }
    pair.end().await;
}

/// The first record of a TLS 1.2 client that asks for `name`.
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |content: Vec<u8>| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [length.to_vec(), content].concat()
    };
    let names = sized([vec![0], sized(name.into())].concat());
    let extensions = sized([vec![0, 0], sized(names)].concat());
    let body = [
        vec![3, 3],
        vec![7; 32],
        vec![0, 0, 2, 0x13, 1, 1, 0],
        extensions,
    ]
    .concat();
    let message = [vec![1, 0], sized(body)].concat();
    [vec![22, 3, 1], sized(message)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_passes_through_and_its_server_name_is_noted() {
    for protocol in ["opaque", "detect"] {
        let pair = Pair::start(protocol, backwards().await).await;
        let hello = client_hello("db.example\n");
        let mut stream = TcpStream::connect(pair.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        // In pieces, as a network may deliver it.
        for part in hello.chunks(20) {
            stream.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer.reverse();
        assert_eq!(answer, hello);
        let (inbound, outbound) = both_sides(&pair).await;
        for row in [inbound, outbound] {
            assert_eq!(
                (row.tls, &*row.authority),
                (TlsState::Opaque, "db.example\\x0a"),
                "{protocol} {}",
                row.side
            );
            assert_ne!(row.detected, Detected::FallBack, "TLS is recognized");
        }
        pair.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_ipv6_are_carried_and_joined() {
    let listener = tokio::net::TcpListener::bind("[::1]:0").await;
    let Ok(listener) = listener else {
        // A machine without IPv6 has nothing to carry.
        return;
    };
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut told = [0; 5];
            stream.read_exact(&mut told).await.unwrap();
            stream.write_all(&told).await.unwrap();
        }
    });
    let server = Server::start().await;
    let on_v6 = |direction, target: &str| {
        format!(
            "[[listener]]\nname = \"x\"\nlisten = \"[::1]:0\"\n\
             direction = \"{direction}\"\nprotocol = \"opaque\"\n{target}\n"
        )
    };
    let callee = Setup::new("callee", &server)
        .table(&on_v6("inbound", &format!("forward = \"{app}\"")))
        .start();
    server.discover("callee", &[endpoint(at(&callee, "x"), "callee-0", true)]);
    let caller = Setup::new("caller", &server)
        .table(&on_v6("outbound", "service = \"callee\""))
        .start();
    let mut stream = TcpStream::connect(at(&caller, "x")).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    drop(stream);
    let pair = Pair {
        server,
        callee,
        caller,
    };
    let (_, outbound) = both_sides(&pair).await;
    assert_eq!(&*outbound.endpoint, &at(&pair.callee, "x").to_string());
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
    let report = wait_for("a report", || {
        server
            .received(|all| all.reports.last().cloned())
            .filter(|r| r.detection_fall_backs == 1)
    });
    let report = report.await;
    assert_eq!(report.listeners, [format!("in={}", at(&proxy, "in"))]);
    assert_eq!(report.fall_backs, [("in".to_owned(), 1)].into());
    let told = metrics(&proxy).await;
    let series = "whodunit_detection_fall_backs_total{";
    let mut series = told.lines().filter(|line| line.starts_with(series));
    let line = series.next().unwrap();
    assert!(line.ends_with(",listener=\"in\"} 1"), "{line}");
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_and_remembered() {
    let greeting = greeter().await;
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
    let silence = Duration::from_millis(1_300);
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

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_an_endpoint_that_takes_no_more_arrive_whole() {
    const WORDS: usize = 256 << 10;
    // It answers what it has not read to the end, and goes.
    let app = tcp(|mut stream| async move {
        let mut first = [0; 16];
        stream.read_exact(&mut first).await.unwrap();
        stream.write_all(&vec![b'x'; WORDS]).await.unwrap();
        stream.shutdown().await.unwrap();
        // It takes a while, in which its words have been heard by the proxy at least.
        let mut more = vec![0; 16 << 10];
        stream.read_exact(&mut more).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    })
    .await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server).inbound("opaque", app).start();
    for _ in 0..3 {
        // Its words do not fit into what the kernel keeps for the client.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let stream = socket.connect(at(&proxy, "in")).await.unwrap();
        let (mut reads, mut writes) = stream.into_split();
        let writing = tokio::spawn(async move {
            // Some of it finds nobody any more.
            for _ in 0..100 {
                if writes.write_all(&[b'y'; 16 << 10]).await.is_err() {
                    return;
                }
            }
        });
        // A client that reads late gets all of it too.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let mut heard = 0;
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = reads.read(&mut buffer).await {
            heard += count;
        }
        assert_eq!(heard, WORDS);
        writing.abort();
    }
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}
