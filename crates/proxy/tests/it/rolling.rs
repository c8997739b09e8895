//! Instances that are restarted one after the other, under load: nobody notices.
//!
//! `WHODUNIT_RESTART_ROUNDS` and `WHODUNIT_RESTART_RATE` make more of it than the few rounds
//! of an ordinary run: `cargo xtask bench restart` does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2 as hyper_http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::ReceiverStream;

use whodunit_model::Outcome;
use whodunit_model::record::Kind;

use crate::client::{call, http2};
use crate::mesh::{DEADLINE, Setup, at, end, endpoint, wait_for};
use crate::server::Server;

const INSTANCES: usize = 3;

/// Streams that are always open, and the messages of each.
const STREAMS: usize = 8;
const MESSAGES: usize = 5;
const BETWEEN_MESSAGES: Duration = Duration::from_millis(30);

/// An application that finishes what it has begun when it is asked to end.
struct App {
    stop: watch::Sender<bool>,
    /// Connections and the listener.
    open: Arc<AtomicUsize>,
}

impl App {
    async fn start(address: SocketAddr) -> (Self, SocketAddr) {
        let listener = wait_for_port(address).await;
        let address = listener.local_addr().unwrap();
        let stop = watch::Sender::new(false);
        let open = Arc::new(AtomicUsize::new(1));
        let (mut stopped, counted) = (stop.subscribe(), open.clone());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = stopped.wait_for(|stopped| *stopped) => break,
                };
                counted.fetch_add(1, Ordering::SeqCst);
                let (stopped, counted) = (stopped.clone(), counted.clone());
                tokio::spawn(async move {
                    converse(stream, stopped).await;
                    counted.fetch_sub(1, Ordering::SeqCst);
                });
            }
            drop(listener);
            counted.fetch_sub(1, Ordering::SeqCst);
        });
        (Self { stop, open }, address)
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        let gone = || (self.open.load(Ordering::SeqCst) == 0).then_some(());
        wait_for("the application", gone).await;
    }
}

async fn wait_for_port(address: SocketAddr) -> TcpListener {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(start.elapsed() < DEADLINE, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn converse(stream: TcpStream, mut stopped: watch::Receiver<bool>) {
    stream.set_nodelay(true).unwrap();
    let mut first = [0; 3];
    let http2 = stream.peek(&mut first).await.is_ok() && &first == b"PRI";
    let service = service_fn(answer);
    let io = TokioIo::new(stream);
    let stopped = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
    tokio::pin!(stopped);
    if http2 {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let connection = server.serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            _ = &mut connection => return,
            () = &mut stopped => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            _ = &mut connection => return,
            () = &mut stopped => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// Answers gRPC with what it is told, message by message, and all else with a word.
async fn answer(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    if !request.headers().contains_key("te") {
        return Ok(Response::new(Full::new(Bytes::from("hello")).boxed()));
    }
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut requests = request.into_body();
        while let Some(Ok(frame)) = requests.frame().await {
            if let Ok(data) = frame.into_data() {
                let _ = sender.send(Ok(Frame::data(data))).await;
            }
        }
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    let body = StreamBody::new(ReceiverStream::new(receiver)).boxed();
    let response = Response::builder().header(CONTENT_TYPE, "application/grpc");
    Ok(response.body(body).unwrap())
}

/// The real proxy, in a process of its own.
struct Proxy(Child);

impl Proxy {
    fn start(config: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_whodunit-proxy"))
            .arg("--config")
            .arg(config)
            .env("WHODUNIT_LOG", "error")
            .stdin(Stdio::null())
            .spawn();
        Self(child.expect("starts"))
    }

    fn terminate(&self) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(sent.unwrap().success());
    }

    async fn gone(mut self) {
        let status = wait_for("the proxy's end", || self.0.try_wait().unwrap()).await;
        assert!(status.success(), "{status}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An application and the proxy before it.
struct Instance {
    app: App,
    proxy: Proxy,
    config: PathBuf,
    app_at: SocketAddr,
    at: SocketAddr,
}

impl Instance {
    async fn start(directory: &Path, number: usize) -> Self {
        // Ports of an address that nobody else uses stay free while an instance is away.
        let ip = own_address(number);
        let (app, app_at) = App::start(SocketAddr::new(ip, 0)).await;
        let at = free_port(ip);
        let config = directory.join(format!("{number}.toml"));
        let text = format!(
            "[workload]\nnamespace = \"test\"\nname = \"callee\"\ninstance = \"callee-{number}\"\n\
             [record]\nmode = \"drop\"\n[shutdown]\ngrace_ms = 10000\n\
             [[listener]]\nname = \"in\"\nlisten = \"{at}\"\ndirection = \"inbound\"\n\
             forward = \"{app_at}\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let proxy = Proxy::start(&config);
        listens(at).await;
        Self {
            app,
            proxy,
            config,
            app_at,
            at,
        }
    }

    async fn start_again(self_config: PathBuf, app_at: SocketAddr, at: SocketAddr) -> Self {
        let (app, _) = App::start(app_at).await;
        let proxy = Proxy::start(&self_config);
        listens(at).await;
        Self {
            app,
            proxy,
            config: self_config,
            app_at,
            at,
        }
    }
}

fn own_address(number: usize) -> IpAddr {
    let [high, low] = u16::try_from(std::process::id() & 0xffff)
        .unwrap()
        .to_be_bytes();
    let first = 16 + u8::try_from(number).unwrap();
    Ipv4Addr::new(127, first, high, low.clamp(1, 254)).into()
}

fn free_port(ip: IpAddr) -> SocketAddr {
    let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
    listener.local_addr().unwrap()
}

async fn listens(at: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(at).await.is_err() {
        assert!(start.elapsed() < DEADLINE, "{at} does not listen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// In which order an instance ends, and who is told before.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Discovery first, then the application, then its proxy.
    Announced,
    /// The proxy, then its application; discovery hears nothing.
    ProxyFirst,
    /// Both at once; discovery hears nothing.
    AtOnce,
}

async fn restart(
    order: Order,
    instance: Instance,
    server: &Server,
    all: &[SocketAddr],
) -> Instance {
    let Instance {
        app,
        proxy,
        config,
        app_at,
        at,
    } = instance;
    match order {
        Order::Announced => {
            let others: Vec<_> = all.iter().copied().filter(|other| *other != at).collect();
            discover(server, &others);
            app.stop().await;
            proxy.terminate();
            proxy.gone().await;
        }
        Order::ProxyFirst => {
            proxy.terminate();
            proxy.gone().await;
            app.stop().await;
        }
        Order::AtOnce => {
            proxy.terminate();
            app.stop().await;
            proxy.gone().await;
        }
    }
    let instance = Instance::start_again(config, app_at, at).await;
    discover(server, all);
    instance
}

fn discover(server: &Server, addresses: &[SocketAddr]) {
    let endpoints = addresses
        .iter()
        .map(|at| endpoint(*at, &at.to_string(), true));
    let endpoints: Vec<_> = endpoints.collect();
    server.discover("callee", &endpoints);
}

/// What became of requests.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answered: Mutex<BTreeMap<&'static str, usize>>,
    failed: Mutex<Vec<String>>,
}

impl Tally {
    fn count(&self, kind: &'static str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => *self.answered.lock().unwrap().entry(kind).or_default() += 1,
            Err(why) => self.failed.lock().unwrap().push(format!("{kind}: {why}")),
        }
    }

    /// Waits for answers to requests that begin after now.
    async fn progress(&self) {
        let answered = || self.answered.lock().unwrap().clone();
        let before = answered();
        let more = |kind: &str, now: usize| now >= before.get(kind).copied().unwrap_or(0) + 20;
        wait_for("requests to go on", || {
            let now = answered();
            now.iter().all(|(kind, now)| more(kind, *now)).then_some(())
        })
        .await;
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }
}

/// Says whether a response is the one that was asked for.
async fn check(response: Response<Incoming>, expected: &[u8]) -> Result<(), String> {
    let (parts, body) = response.into_parts();
    let cause = parts.headers.get("whodunit-cause").cloned();
    let body = timeout(DEADLINE, body.collect()).await;
    let body = body.map_err(|_| "the body does not end".to_owned())?;
    let body = body.map_err(|error| format!("{error:?}"))?;
    let grpc = parts.headers.contains_key(CONTENT_TYPE);
    let trailers = body.trailers().cloned().unwrap_or_default();
    let ended = !grpc
        || trailers
            .get("grpc-status")
            .is_some_and(|status| status == "0");
    let body = body.to_bytes();
    if parts.status == 200 && ended && body == expected {
        Ok(())
    } else {
        Err(format!("{} {cause:?} {trailers:?} {body:?}", parts.status))
    }
}

/// Sends requests over kept-alive connections, at a rate, whatever becomes of them.
async fn ask_http1(to: SocketAddr, pace: Duration, tally: Arc<Tally>) {
    let idle = Arc::new(Mutex::new(Vec::<http1::SendRequest<Empty<Bytes>>>::new()));
    let mut ticks = interval(pace);
    while tally.goes_on() {
        ticks.tick().await;
        let (idle, tally) = (idle.clone(), tally.clone());
        tokio::spawn(async move {
            let known = idle.lock().unwrap().pop();
            let mut sender = match known.filter(|sender| sender.is_ready()) {
                Some(sender) => sender,
                None => {
                    let io = TokioIo::new(TcpStream::connect(to).await.unwrap());
                    let (sender, connection) = http1::handshake(io).await.unwrap();
                    tokio::spawn(connection);
                    sender
                }
            };
            let request = Request::get("/").header("host", "callee.test");
            let request = request.body(Empty::new()).unwrap();
            let outcome = match timeout(DEADLINE, sender.send_request(request)).await {
                Err(_) => Err("no answer".to_owned()),
                Ok(Err(error)) => Err(format!("{error:?}")),
                Ok(Ok(response)) => check(response, b"hello").await,
            };
            tally.count("HTTP/1", outcome);
            if sender.ready().await.is_ok() {
                idle.lock().unwrap().push(sender);
            }
        });
    }
}

type Sender<B> = hyper_http2::SendRequest<B>;

/// Sends requests over one HTTP/2 connection, at a rate.
async fn ask_http2(
    kind: &'static str,
    to: SocketAddr,
    pace: Duration,
    tally: Arc<Tally>,
    request: impl Fn() -> (Request<Full<Bytes>>, Bytes),
) {
    let sender: Sender<Full<Bytes>> = http2(to).await;
    let mut ticks = interval(pace);
    while tally.goes_on() {
        ticks.tick().await;
        let (mut sender, tally) = (sender.clone(), tally.clone());
        let (request, expected) = request();
        tokio::spawn(async move {
            let outcome = match timeout(DEADLINE, sender.send_request(request)).await {
                Err(_) => Err("no answer".to_owned()),
                Ok(Err(error)) => Err(format!("{error:?}")),
                Ok(Ok(response)) => check(response, &expected).await,
            };
            tally.count(kind, outcome);
        });
    }
}

/// Keeps streams going: each sends a message now and then and reads it back.
async fn ask_streams(to: SocketAddr, tally: Arc<Tally>) {
    type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;
    let sender: Sender<Body> = http2(to).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (mut sender, tally) = (sender.clone(), tally.clone());
        streams.push(tokio::spawn(async move {
            while tally.goes_on() {
                let (pieces, receiver) = mpsc::channel(1);
                let request = call("Stream", vec![]);
                let request = request.map(|_| StreamBody::new(ReceiverStream::new(receiver)));
                let message = message(b"piece");
                let piece = message.clone();
                tokio::spawn(async move {
                    for _ in 0..MESSAGES {
                        let _ = pieces.send(Ok(Frame::data(piece.clone()))).await;
                        tokio::time::sleep(BETWEEN_MESSAGES).await;
                    }
                });
                let expected = message.repeat(MESSAGES);
                let outcome = match timeout(DEADLINE, sender.send_request(request)).await {
                    Err(_) => Err("no answer".to_owned()),
                    Ok(Err(error)) => Err(format!("{error:?}")),
                    Ok(Ok(response)) => check(response, &expected).await,
                };
                tally.count("streams", outcome);
            }
        }));
    }
    for stream in streams {
        stream.await.unwrap();
    }
}

fn message(body: &[u8]) -> Bytes {
    let mut message = vec![0];
    message.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    message.into()
}

fn setting(name: &str, default: u32) -> u32 {
    let text = std::env::var(name);
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Restarts every instance in each round; says what became of the requests, as an error
/// when one failed.
async fn rolling(order: Order) -> Result<String, String> {
    let rounds = setting("WHODUNIT_RESTART_ROUNDS", 1);
    let rate = setting("WHODUNIT_RESTART_RATE", 200);
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut instances = Vec::new();
    for number in 0..INSTANCES {
        instances.push(Some(Instance::start(directory.path(), number).await));
    }
    let all: Vec<SocketAddr> = instances
        .iter()
        .flatten()
        .map(|instance| instance.at)
        .collect();
    discover(&server, &all);
    let mut setup = Setup::new("caller", &server);
    for protocol in ["http1", "http2", "grpc"] {
        setup = setup.listener(protocol, "outbound", protocol, "service = \"callee\"");
    }
    let caller = setup.start();
    let pace = Duration::from_secs(3) / rate;
    let tally = Arc::new(Tally::default());
    let plain = || {
        let request = Request::post("http://callee.test/").body(Full::new(Bytes::from("x")));
        (request.unwrap(), Bytes::from("hello"))
    };
    let unary = || (call("Unary", message(b"one").to_vec()), message(b"one"));
    let load = [
        tokio::spawn(ask_http1(at(&caller, "http1"), pace, tally.clone())),
        tokio::spawn(ask_http2(
            "HTTP/2",
            at(&caller, "http2"),
            pace,
            tally.clone(),
            plain,
        )),
        tokio::spawn(ask_http2(
            "gRPC",
            at(&caller, "grpc"),
            pace,
            tally.clone(),
            unary,
        )),
        tokio::spawn(ask_streams(at(&caller, "grpc"), tally.clone())),
    ];
    let kinds = || (tally.answered.lock().unwrap().len() == load.len()).then_some(());
    wait_for("the first answers", kinds).await;
    let start = Instant::now();
    for _ in 0..rounds {
        for instance in &mut instances {
            let before = instance.take().unwrap();
            *instance = Some(restart(order, before, &server, &all).await);
            // On a busy machine a request may otherwise take longer than two restarts.
            tally.progress().await;
        }
    }
    let took = start.elapsed();
    tally.stop.store(true, Ordering::SeqCst);
    for load in load {
        load.await.unwrap();
    }
    crate::sending::conserved(&caller).await;
    end(caller).await;
    let answered = tally.answered.lock().unwrap().clone();
    let failed = tally.failed.lock().unwrap();
    let said = format!("{order:?}: {rounds} rounds in {took:?}, answered {answered:?}");
    if failed.is_empty() {
        return Ok(said);
    }
    let first: Vec<_> = failed.iter().take(5).collect();
    let (count, trails) = (failed.len(), trails(&server));
    Err(format!("{said}, {count} failed: {first:#?}\n{trails}"))
}

/// A few rounds may be tried again: on a machine without a moment for us, an instance that
/// answers no ping for three seconds is given up with all that it has. Many are not.
async fn nobody_notices(order: Order) -> String {
    let tries = if std::env::var_os("WHODUNIT_RESTART_ROUNDS").is_some() {
        1
    } else {
        3
    };
    let mut said = Err(String::new());
    for _ in 0..tries {
        said = rolling(order).await;
        if said.is_ok() {
            break;
        }
    }
    said.unwrap_or_else(|failed| panic!("{failed}"))
}

/// Says what the caller's proxy recorded of the first requests that failed.
fn trails(server: &Server) -> String {
    let rows = server.records();
    let failed = rows
        .iter()
        .filter(|row| row.kind == Kind::Request && row.outcome == Outcome::Failure);
    let mut text = String::new();
    for failed in failed.take(3) {
        for row in rows.iter().filter(|row| row.id == failed.id) {
            text.push_str(&format!(
                "{:?} {:?} at {} us, to {}, {} {}, try {}, {}\n",
                row.protocol,
                row.kind,
                row.duration_us,
                row.endpoint,
                row.cause,
                row.origin,
                row.attempts,
                row.trail
            ));
        }
        text.push('\n');
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_a_restart_that_discovery_announces() {
    println!("{}", nobody_notices(Order::Announced).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_a_restart_that_proxies_begin() {
    println!("{}", nobody_notices(Order::ProxyFirst).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_a_restart_without_any_word() {
    println!("{}", nobody_notices(Order::AtOnce).await);
}
