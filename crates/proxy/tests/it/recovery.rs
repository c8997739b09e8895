//! An application that was away is served again as soon as it is back.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::app::nobody;
use crate::client::{call, fetch, get, http1, http2, whole};
use crate::mesh::{DEADLINE, Pair, Setup, at, end, endpoint};
use crate::server::Server;

/// How long an application is away: long enough for pauses that double to have grown.
const AWAY: Duration = Duration::from_millis(3_500);

/// How long after its return requests may still fail.
const RECOVERY: Duration = Duration::from_secs(1);

fn listen(address: SocketAddr, backlog: u32) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(backlog).unwrap()
}

/// An application that can go away and come back on the same port.
struct App {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl App {
    async fn start(address: SocketAddr) -> Self {
        let listener = listen(address, 1_024);
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener));
        Self { address, serving }
    }

    /// Hangs up on everybody, and listens no more.
    async fn stop(self) -> SocketAddr {
        self.serving.abort();
        let _ = self.serving.await;
        self.address
    }
}

/// Answers HTTP/1 and HTTP/2 until it is dropped.
async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(async move {
            let mut first = [0; 3];
            let http2 = stream.peek(&mut first).await.is_ok() && &first == b"PRI";
            if http2 {
                grpc(stream).await;
            } else {
                plain(stream).await;
            }
        });
    }
}

async fn plain(mut stream: TcpStream) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

async fn grpc(stream: TcpStream) {
    let service = hyper::service::service_fn(|_| async {
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "0");
        response.body(http_body_util::Empty::<Bytes>::new())
    });
    let executor = hyper_util::rt::TokioExecutor::new();
    let server = hyper::server::conn::http2::Builder::new(executor);
    let io = hyper_util::rt::TokioIo::new(stream);
    let _ = server.serve_connection(io, service).await;
}

/// Asks again and again while the application is away.
async fn ask_in_vain(to: SocketAddr, time: Duration) {
    let start = Instant::now();
    let mut asked = JoinSet::new();
    while start.elapsed() < time {
        asked.spawn(async move { fetch(to, "/").await.status });
        sleep(Duration::from_millis(20)).await;
    }
    let answers = timeout(DEADLINE, asked.join_all()).await.expect("answers");
    assert!(
        answers.iter().all(StatusCode::is_server_error),
        "{answers:?}"
    );
}

/// Asks until it is answered well, and then a few times more; returns how long that took.
async fn recovery(to: SocketAddr) -> Duration {
    let start = Instant::now();
    while fetch(to, "/").await.status != StatusCode::OK {
        assert!(start.elapsed() < DEADLINE, "it never comes back");
        sleep(Duration::from_millis(5)).await;
    }
    let took = start.elapsed();
    for _ in 0..20 {
        assert_eq!(fetch(to, "/").await.status, StatusCode::OK, "it stays");
    }
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_back_is_served_at_once() {
    let app = App::start(([127, 0, 0, 1], 0).into()).await;
    let pair = Pair::start("http1", app.address).await;
    recovery(pair.address()).await;
    let address = app.stop().await;
    ask_in_vain(pair.address(), AWAY).await;
    let _app = App::start(address).await;
    let took = recovery(pair.address()).await;
    assert!(took < RECOVERY, "{took:?}");
    pair.end().await;
}

/// Lets two instances go away, and one or both of them come back.
async fn return_of([first, second]: [bool; 2]) {
    let apps = [
        App::start(([127, 0, 0, 1], 0).into()).await,
        App::start(([127, 0, 0, 1], 0).into()).await,
    ];
    let server = Server::start().await;
    let known = [
        endpoint(apps[0].address, "callee-0", false),
        endpoint(apps[1].address, "callee-1", false),
    ];
    server.discover("callee", &known);
    let proxy = Setup::new("caller", &server)
        .outbound("http1", "callee")
        .start();
    let to = at(&proxy, "callee");
    recovery(to).await;
    let mut addresses = Vec::new();
    for app in apps {
        addresses.push(app.stop().await);
    }
    ask_in_vain(to, AWAY).await;
    let mut back = Vec::new();
    for (address, returns) in addresses.into_iter().zip([first, second]) {
        if returns {
            back.push(App::start(address).await);
        }
    }
    let took = recovery(to).await;
    assert!(took < RECOVERY, "{took:?} with {first}, {second}");
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_instance_is_back_serves_at_once() {
    tokio::join!(
        return_of([true, false]),
        return_of([false, true]),
        return_of([true, true])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_accepts_again_is_served_within_a_second() {
    // Nobody takes what waits to be accepted, and soon nothing more may wait.
    let listener = listen(nobody().await, 1);
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the queue is never full");
    }
    let server = Server::start().await;
    let proxy = Setup::new("web", &server).inbound("http1", address).start();
    let to = at(&proxy, "in");
    ask_in_vain(to, AWAY).await;
    drop(waiting);
    let serving = tokio::spawn(serve(listener));
    let took = recovery(to).await;
    // It is looked for once a second, and a look takes a moment; machines are busy.
    let _ = writeln!(std::io::stdout(), "accepted again after {took:?}");
    assert!(took < 5 * RECOVERY, "{took:?}");
    serving.abort();
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_connections_of_http2_do_not_outlive_their_application() {
    let app = App::start(([127, 0, 0, 1], 0).into()).await;
    let pair = Pair::start("grpc", app.address).await;
    let ask = async |count: usize| {
        let mut sender = http2::<Full<Bytes>>(pair.address()).await;
        let mut codes = Vec::new();
        for _ in 0..count {
            let response = sender.send_request(call("Any", vec![])).await.unwrap();
            let answer = whole(response).await.unwrap();
            codes.push(answer.headers["grpc-status"].to_str().unwrap().to_owned());
        }
        codes
    };
    assert_eq!(ask(10).await, ["0"; 10]);
    let mut address = app.stop().await;
    for _ in 0..5 {
        let start = Instant::now();
        while start.elapsed() < AWAY / 5 {
            let codes = ask(3).await;
            assert!(codes.iter().all(|code| code == "14"), "{codes:?}");
        }
        let app = App::start(address).await;
        let start = Instant::now();
        while ask(1).await != ["0"] {
            assert!(start.elapsed() < RECOVERY, "it is not served again");
        }
        assert_eq!(ask(10).await, ["0"; 10]);
        address = app.stop().await;
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_stalled_is_served_at_once_when_it_goes_on() {
    // It takes requests and answers nothing, then answers all of them.
    let (go_on, going) = tokio::sync::watch::channel(false);
    let address = crate::app::tcp(move |mut stream| {
        let mut going = going.clone();
        async move {
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    let _ = going.wait_for(|going| *going).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            }
        }
    })
    .await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server).inbound("http1", address).start();
    let to = at(&proxy, "in");
    let asked: JoinSet<_> = (0..300)
        .map(|_| async move { whole(http1(to, get("/")).await).await.unwrap().status })
        .collect();
    crate::mesh::wait_for("the requests", || {
        (proxy.counters().in_flight > 60).then_some(())
    })
    .await;
    sleep(AWAY / 2).await;
    go_on.send_replace(true);
    let start = Instant::now();
    let took = recovery(to).await;
    let answers = asked.join_all().await;
    let all = start.elapsed();
    let _ = writeln!(std::io::stdout(), "went on after {took:?}, {all:?}");
    assert!(took < RECOVERY && all < 10 * RECOVERY, "{took:?}, {all:?}");
    let fine = |status: &&StatusCode| **status == StatusCode::OK;
    let good = answers.iter().filter(fine).count();
    assert!(good >= 60, "{good} of what waited");
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}
