//! Which endpoint a request goes to, and which ones are left out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use whodunit_model::record::{Kind, Side};

use crate::app::{App, nobody, tcp};
use crate::client::fetch;
use crate::mesh::{DEADLINE, Setup, at, end, endpoint, wait_for};
use crate::server::Server;

/// An application that answers every request with one status, and counts them.
async fn answering(status: u16) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let address = tcp(move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                head.push(byte);
                if !head.ends_with(b"\r\n\r\n") {
                    continue;
                }
                head.clear();
                seen.fetch_add(1, Ordering::SeqCst);
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_share_requests_by_weight() {
    let server = Server::start().await;
    let (old, olds) = answering(200).await;
    let (new, news) = answering(200).await;
    server.discover("old", &[endpoint(old, "old-0", false)]);
    server.discover("new", &[endpoint(new, "new-0", false)]);
    let target = "service = \"old\"\n[[listener.route]]\npath_prefix = \"/split\"\n\
                  split = [{ service = \"old\", weight = 90 }, { service = \"new\", weight = 10 }]\n";
    let proxy = Setup::new("caller", &server)
        .listener("old", "outbound", "http1", target)
        .start();
    for _ in 0..400 {
        let answer = fetch(at(&proxy, "old"), "/split").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let shares = (olds.load(Ordering::SeqCst), news.load(Ordering::SeqCst));
    assert_eq!(shares.0 + shares.1, 400);
    // Forty are expected; this is six standard deviations to each side.
    assert!((4..=76).contains(&shares.1), "{shares:?}");
    for _ in 0..50 {
        fetch(at(&proxy, "old"), "/other").await;
    }
    assert_eq!(
        news.load(Ordering::SeqCst),
        shares.1,
        "the rule is for /split"
    );
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_connections_is_left_out_and_nobody_notices() {
    let server = Server::start().await;
    let app = App::start().await;
    let dead = endpoint(nobody().await, "dead", false);
    server.discover("callee", &[endpoint(app.address, "alive", false), dead]);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "callee")
        .start();
    let start = Instant::now();
    for _ in 0..200 {
        let answer = fetch(at(&proxy, "callee"), "/").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let most = 2 + usize::try_from(start.elapsed().as_secs()).unwrap();
    wait_for("the records", || {
        let rows = server.records();
        let done = rows.iter().filter(|row| row.kind == Kind::Request).count();
        (done == 200).then_some(())
    })
    .await;
    let rows = server.records();
    let tries = rows.iter().filter(|row| row.kind == Kind::Attempt).count();
    assert!((1..=most).contains(&tries), "{tries}: one, and then probes");
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_seven_times_in_a_row_is_left_out() {
    let server = Server::start().await;
    let (good, _) = answering(200).await;
    let (bad, fails) = answering(500).await;
    let endpoints = [endpoint(good, "good", false), endpoint(bad, "bad", false)];
    server.discover("callee", &endpoints);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "callee")
        .start();
    // Which of the two a request goes to is chance, and their latency's.
    let start = Instant::now();
    let count = || fails.load(Ordering::SeqCst);
    while count() < 7 {
        assert!(start.elapsed() < 2 * DEADLINE, "{} reached it", count());
        fetch(at(&proxy, "callee"), "/").await;
    }
    let start = Instant::now();
    for _ in 0..100 {
        fetch(at(&proxy, "callee"), "/").await;
    }
    // Probes double their distance, from a second on.
    let most = 8 + usize::try_from(start.elapsed().as_secs()).unwrap();
    assert!(count() <= most, "{} of {most}", count());
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

/// Takes connections into the kernel's queue until it takes no more: further ones wait.
async fn black_hole() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < DEADLINE);
        match tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            Ok(stream) => held.push(stream.unwrap()),
            Err(_) => return (socket, held, address),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_swallows_connections_is_left_out_and_nobody_fails() {
    let server = Server::start().await;
    let app = App::start().await;
    let (_socket, _held, hole) = black_hole().await;
    let endpoints = [
        endpoint(app.address, "alive", false),
        endpoint(hole, "hole", false),
    ];
    server.discover("callee", &endpoints);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "callee")
        .start();
    let callee = at(&proxy, "callee");
    let together = (0..100).map(|_| tokio::spawn(async move { fetch(callee, "/").await.status }));
    let together: Vec<_> = together.collect();
    for each in together {
        assert_eq!(each.await.unwrap(), StatusCode::OK);
    }
    // Those that chose it waited for the time to connect, once; then it is out.
    let quick = server_side_quick(&server, callee).await;
    assert!(quick >= 45, "{quick} of 50");
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

/// Sends fifty requests; returns how many needed one try only.
async fn server_side_quick(server: &Server, callee: SocketAddr) -> usize {
    for _ in 0..50 {
        assert_eq!(fetch(callee, "/later").await.status, StatusCode::OK);
    }
    let rows = wait_for("the records", || {
        let rows = server.records().into_iter();
        let rows: Vec<_> = rows
            .filter(|row| row.kind == Kind::Request && row.side == Side::Outbound)
            .filter(|row| &*row.path == "/later")
            .collect();
        (rows.len() == 50).then_some(rows)
    });
    rows.await.iter().filter(|row| row.attempts == 1).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_where_no_endpoint_accepts_connections() {
    let server = Server::start().await;
    let (_socket, _held, hole) = black_hole().await;
    server.discover("callee", &[endpoint(hole, "hole", false)]);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "callee")
        .start();
    let callee = at(&proxy, "callee");
    let start = Instant::now();
    loop {
        let answer = fetch(callee, "/").await;
        let cause = answer.headers["whodunit-cause"].to_str().unwrap();
        if cause == "fail_fast" {
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            break;
        }
        assert_eq!(cause, "connect_timeout");
        assert!(start.elapsed() < DEADLINE, "they go on waiting");
    }
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}
