//! The application in this process, each service on a port of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emojivoto::catalog::Era;
use emojivoto::emoji::EmojiService;
use emojivoto::faults::{self, FaultSwitch};
use emojivoto::log::Log;
use emojivoto::random::Random;
use emojivoto::rpc::{self, SelfCheck};
use emojivoto::serve::{self, Stop, StopTrigger};
use emojivoto::voting::{VotingOptions, VotingService};
use emojivoto::web::{self, Web};
use emojivoto::{control, v1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Emoji, voting and web; web's log is kept.
pub(crate) struct App {
    pub(crate) emoji: Running,
    pub(crate) voting: Running,
    pub(crate) web: Running,
    pub(crate) log: Lines,
}

/// One service; stops when dropped.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    /// The side door, if it has one.
    pub(crate) prom: Option<SocketAddr>,
    trigger: StopTrigger,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Running {
    /// Stops and waits until the port is free again.
    pub(crate) async fn stop(self) {
        self.trigger.stop();
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
    }
}

/// A log that can be read back.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) fn quiet() -> Log {
    Log::new(Box::new(std::io::sink()))
}

/// Starts all three.
pub(crate) async fn start(era: Era, fault: &str) -> App {
    let emoji = start_emoji(any_port(), era).await;
    let voting = start_voting(any_port(), fault, 0).await;
    let log = Lines::default();
    let web = start_web(emoji.addr, voting.addr, None, &log).await;
    App {
        emoji,
        voting,
        web,
        log,
    }
}

pub(crate) async fn start_emoji(addr: SocketAddr, era: Era) -> Running {
    let service = Arc::new(EmojiService::new(era));
    let metrics = service.metrics();
    start_grpc(addr, service, |ready| control::routes(metrics, ready, None)).await
}

pub(crate) async fn start_voting(addr: SocketAddr, fault: &str, instance: u32) -> Running {
    let switch = Arc::new(FaultSwitch::new(faults::find(fault).unwrap(), instance));
    let options = VotingOptions {
        failure_rate: 0.0,
        artificial_delay: Duration::ZERO,
        random: Random::new(1),
    };
    let service = Arc::new(VotingService::new(options, Arc::clone(&switch), quiet()));
    let metrics = service.metrics();
    start_grpc(addr, service, |ready| {
        control::routes(metrics, ready, Some(switch))
    })
    .await
}

pub(crate) async fn start_web(
    emoji: SocketAddr,
    voting: SocketAddr,
    index_bundle: Option<PathBuf>,
    log: &Lines,
) -> Running {
    let web = Arc::new(Web {
        emoji: rpc::channel(&emoji.to_string()).unwrap(),
        voting: rpc::channel(&voting.to_string()).unwrap(),
        index_bundle,
        webpack_dev_server: None,
        message_of_the_day: "Vote <early> & often".to_owned(),
        log: Log::new(Box::new(log.clone())),
    });
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (trigger, stop) = Stop::new();
    let tasks = vec![tokio::spawn(serve::http(listener, web::routes(web), stop))];
    Running {
        addr,
        prom: None,
        trigger,
        tasks,
    }
}

async fn start_grpc<M: rpc::Methods>(
    addr: SocketAddr,
    methods: Arc<M>,
    side_door: impl FnOnce(SelfCheck) -> axum::Router,
) -> Running {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let side = TcpListener::bind(any_port()).await.unwrap();
    let prom = side.local_addr().unwrap();
    let (trigger, stop) = Stop::new();
    let routes = side_door(SelfCheck::new(addr).unwrap());
    let tasks = vec![
        tokio::spawn(rpc::serve(listener, methods, stop.clone())),
        tokio::spawn(serve::http(side, routes, stop)),
    ];
    Running {
        addr,
        prom: Some(prom),
        trigger,
        tasks,
    }
}

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends a GET request.
pub(crate) async fn get(addr: SocketAddr, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    exchange(addr, &request).await
}

/// Sends a form by POST.
pub(crate) async fn post(addr: SocketAddr, path: &str, form: &str) -> Answer {
    let length = form.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: {length}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}"
    );
    exchange(addr, &request).await
}

/// Sends these bytes and reads until the server closes.
pub(crate) async fn exchange(addr: SocketAddr, request: &str) -> Answer {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// Votes through web and returns the status.
pub(crate) async fn vote(app: &App, shortcode: &str) -> u16 {
    get(app.web.addr, &format!("/api/vote?choice={shortcode}"))
        .await
        .status
}

/// Votes at a voting service.
pub(crate) async fn vote_at(addr: SocketAddr, method: &str) -> Result<(), tonic::Status> {
    let channel = rpc::channel(&addr.to_string()).unwrap();
    let path = format!("/emojivoto.v1.VotingService/{method}");
    let _: v1::VoteResponse = rpc::call(&channel, path, v1::VoteRequest {}).await?;
    Ok(())
}

/// Asks again until the condition holds, at most ten seconds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within ten seconds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
