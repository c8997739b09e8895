//! Connections that an application closes while we keep them: nobody may notice.
//!
//! A request that may be repeated goes out on what seems open, and once more elsewhere if it
//! was not. Any other is sent only where the other side has not hung up yet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use whodunit_proxy::Running;

use crate::app::tcp;
use crate::client::{Answer, http1, whole};
use crate::mesh::{DEADLINE, Setup, at, end, endpoint, wait_for};
use crate::server::Server;

/// How an application gives up a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bye {
    /// In good order.
    Close,
    Reset,
}

/// When it does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// While nothing is asked.
    Idle,
    /// When the second request has come: it crossed with the end of the connection.
    Asked,
}

/// An application that gives its connections up, and counts what it was asked.
struct App {
    address: SocketAddr,
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
    open: Arc<Mutex<usize>>,
    round: watch::Sender<usize>,
}

impl App {
    async fn start(bye: Bye, when: When) -> Self {
        let counts = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let open = Arc::<Mutex<usize>>::default();
        let (round, rounds) = watch::channel(0);
        let (counted, opened) = (counts.clone(), open.clone());
        let address = tcp(move |stream| {
            let (counted, opened) = (counted.clone(), opened.clone());
            let mut rounds = rounds.clone();
            async move {
                *opened.lock().unwrap() += 1;
                rounds.mark_unchanged();
                serve(&stream_of(stream, bye), when, &counted, rounds).await;
                *opened.lock().unwrap() -= 1;
            }
        })
        .await;
        Self {
            address,
            counts,
            open,
            round,
        }
    }

    /// Gives up all connections that are idle; returns when the other side could know.
    async fn hang_up(&self) {
        self.round.send_modify(|round| *round += 1);
        wait_for("the application to hang up", || {
            (*self.open.lock().unwrap() == 0).then_some(())
        })
        .await;
    }
}

/// A connection that is closed, or reset, when it is dropped.
struct Wire(tokio::sync::Mutex<TcpStream>);

fn stream_of(stream: TcpStream, bye: Bye) -> Wire {
    if bye == Bye::Reset {
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    Wire(tokio::sync::Mutex::new(stream))
}

async fn serve(
    wire: &Wire,
    when: When,
    counts: &Mutex<BTreeMap<String, usize>>,
    mut rounds: watch::Receiver<usize>,
) {
    let mut stream = wire.0.lock().await;
    for number in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = tokio::select! {
                byte = stream.read_u8() => byte,
                _ = rounds.changed(), if when == When::Idle => return,
            };
            match byte {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let text = String::from_utf8(head).unwrap().to_lowercase();
        let target = text.split(' ').nth(1).unwrap().to_owned();
        let length = text.split("content-length: ").nth(1);
        let length = length.map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        *counts.lock().unwrap().entry(target).or_default() += 1;
        if number > 0 && when == When::Asked {
            return;
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        // So that as many connections are needed as there are requests at once.
        tokio::time::sleep(Duration::from_millis(30)).await;
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn ask(to: SocketAddr, method: &str, target: String, body: &'static str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(&target)
        .header("host", "callee.test")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let answer = whole(http1(to, request).await).await.unwrap();
    if answer.status != StatusCode::OK {
        panic!("{method} {target}: {} {:?}", answer.status, answer.headers);
    }
    answer
}

async fn proxy(server: &Server, app: &App) -> (Running, SocketAddr) {
    server.discover("callee", &[endpoint(app.address, "callee-0", false)]);
    let proxy = Setup::new("caller", server)
        .outbound("http1", "callee")
        .start();
    let address = at(&proxy, "callee");
    (proxy, address)
}

/// Makes the proxy keep as many connections.
async fn warm(to: SocketAddr, app: &App, count: usize) {
    let start = std::time::Instant::now();
    while *app.open.lock().unwrap() < count {
        assert!(start.elapsed() < DEADLINE, "{count} connections never came");
        let asked: JoinSet<_> = (0..count)
            .map(|_| ask(to, "GET", "/warm".to_owned(), ""))
            .collect();
        asked.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_were_closed_while_idle_fail_no_request() {
    for bye in [Bye::Close, Bye::Reset] {
        let app = App::start(bye, When::Idle).await;
        let server = Server::start().await;
        let (proxy, to) = proxy(&server, &app).await;
        for (round, (method, body)) in [("POST", "ten"), ("GET", ""), ("PATCH", ""), ("PUT", "x")]
            .into_iter()
            .cycle()
            .take(16)
            .enumerate()
        {
            warm(to, &app, 6).await;
            app.hang_up().await;
            // More than were kept, one after the other, and at once.
            let target = |i| format!("/{round}-{i}");
            ask(to, method, target(0), body).await;
            let asked: JoinSet<_> = (1..10).map(|i| ask(to, method, target(i), body)).collect();
            asked.join_all().await;
            for i in 0..10 {
                let count = app.counts.lock().unwrap()[&target(i)];
                assert_eq!(count, 1, "{bye:?} {method} {}", target(i));
            }
        }
        crate::sending::conserved(&proxy).await;
        end(proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_repeated_outlives_any_number_of_dead_connections() {
    for bye in [Bye::Close, Bye::Reset] {
        let app = App::start(bye, When::Asked).await;
        let server = Server::start().await;
        let (proxy, to) = proxy(&server, &app).await;
        let asked: JoinSet<_> = (0..12)
            .map(|_| ask(to, "GET", "/warm".to_owned(), ""))
            .collect();
        asked.join_all().await;
        // Each of the twelve would fail; the request needs one that works.
        for i in 0..4 {
            ask(to, "GET", format!("/get{i}"), "").await;
            ask(to, "PUT", format!("/put{i}"), "x").await;
        }
        let most = app.counts.lock().unwrap().clone();
        let most = most.iter().filter(|(target, _)| *target != "/warm");
        assert!(most.clone().all(|(_, count)| *count <= 2), "{most:?}");
        crate::sending::conserved(&proxy).await;
        end(proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_repeated_reaches_the_application_once() {
    for bye in [Bye::Close, Bye::Reset] {
        let app = App::start(bye, When::Asked).await;
        let server = Server::start().await;
        let (proxy, to) = proxy(&server, &app).await;
        for i in 0..10 {
            ask(to, "GET", format!("/warm{i}"), "").await;
            let target = format!("/pay{i}");
            let request = Request::post(&target)
                .header("host", "callee.test")
                .body(Full::new(Bytes::from("ten")))
                .unwrap();
            let answer = whole(http1(to, request).await).await.unwrap();
            // The application got it and said nothing: only it knows what became of it.
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
            assert_eq!(app.counts.lock().unwrap()[&target], 1);
        }
        crate::sending::conserved(&proxy).await;
        end(proxy).await;
    }
}
