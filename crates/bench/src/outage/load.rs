//! A constant rate of requests, and the application that answers them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

/// Connections that share the rate.
const CONNECTIONS: usize = 64;

/// A request without an answer for this long has failed.
const ANSWER: Duration = Duration::from_secs(10);

/// Reasons of failures that are kept.
const REASONS_MAX: usize = 5;

/// Longest head that is read.
const HEAD_MAX: usize = 16 << 10;

const REQUEST: &[u8] = b"GET /item HTTP/1.1\r\nhost: web\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes";

/// Starts an application on a free port.
pub(crate) async fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.context("listen")?;
    let address = listener.local_addr().context("address")?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream) {
    let mut buffer = Vec::new();
    loop {
        while let Some(end) = head_end(&buffer) {
            buffer.drain(..end);
            if stream.write_all(RESPONSE).await.is_err() {
                return;
            }
        }
        match stream.read_buf(&mut buffer).await {
            Ok(1..) if buffer.len() < HEAD_MAX => {}
            _ => return,
        }
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    end.map(|end| end + 4)
}

/// A connection that is kept as long as it is good.
pub(crate) struct Client {
    to: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    pub(crate) const fn new(to: SocketAddr) -> Self {
        Self { to, stream: None }
    }

    /// Asks once.
    ///
    /// # Errors
    /// When there is no answer, or one that is not 200.
    pub(crate) async fn ask(&mut self) -> Result<(), String> {
        let asked = timeout(ANSWER, self.exchange()).await;
        let answered = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if answered.is_err() {
            self.stream = None;
        }
        answered
    }

    async fn exchange(&mut self) -> Result<(), String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.to).await;
                let stream = stream.map_err(|error| format!("connect: {error}"))?;
                let nodelay = stream.set_nodelay(true);
                nodelay.map_err(|error| format!("connect: {error}"))?;
                stream
            }
        };
        let written = stream.write_all(REQUEST).await;
        written.map_err(|error| format!("send: {error}"))?;
        let mut buffer = Vec::with_capacity(512);
        let (head, body) = loop {
            if let Some(end) = head_end(&buffer) {
                let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
                let length = head.split("content-length:").nth(1);
                let length = length.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
                let length: usize = length.ok_or("an answer without a length")?;
                if buffer.len() >= end + length {
                    break (head, String::from_utf8_lossy(&buffer[end..]).into_owned());
                }
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) if buffer.len() < HEAD_MAX => {}
                Ok(_) => return Err("the connection was closed".to_owned()),
                Err(error) => return Err(format!("receive: {error}")),
            }
        };
        if !head.starts_with("http/1.1 200 ") {
            let line = head.lines().next().unwrap_or_default();
            return Err(format!("{line}: {}", body.trim()));
        }
        if !head.contains("connection: close") {
            self.stream = Some(stream);
        }
        Ok(())
    }
}

/// What a load came to.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) reasons: Vec<String>,
    /// From when each request was due to its answer, µs.
    latencies: Vec<u32>,
}

impl Done {
    /// Returns the latency below which this share of the requests lies, ms.
    pub(crate) fn latency_ms(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a vector"
        )]
        let index = (last as f64 * share) as usize;
        f64::from(self.latencies.get(index).copied().unwrap_or(0)) / 1e3
    }
}

struct Shared {
    to: SocketAddr,
    rate: f64,
    began: Instant,
    next: AtomicU64,
    answered: AtomicU64,
    stopping: AtomicBool,
    done: Mutex<Done>,
}

/// A constant rate of requests, whatever the answers take.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `rate` requests a second.
    pub(crate) fn start(to: SocketAddr, rate: f64) -> Self {
        let shared = Arc::new(Shared {
            to,
            rate,
            began: Instant::now(),
            next: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            done: Mutex::default(),
        });
        let tasks = (0..CONNECTIONS).map(|_| tokio::spawn(ask(shared.clone())));
        Self {
            tasks: tasks.collect(),
            shared,
        }
    }

    /// Returns how many requests have ended.
    pub(crate) fn so_far(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Ends it, and returns what it came to.
    pub(crate) async fn stop(self) -> Done {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for task in self.tasks {
            // A task that panicked has told so itself.
            let _ = task.await;
        }
        let mut done = self.shared.done.lock();
        let done = done.as_deref_mut().map(std::mem::take);
        let mut done = done.unwrap_or_default();
        done.latencies.sort_unstable();
        done
    }
}

async fn ask(shared: Arc<Shared>) {
    let mut client = Client::new(shared.to);
    let mut own = Done::default();
    while !shared.stopping.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 requests")]
        let due = shared.began + Duration::from_secs_f64(number as f64 / shared.rate);
        sleep_until(due.into()).await;
        let answer = client.ask().await;
        let took = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
        own.requests += 1;
        own.latencies.push(took);
        if let Err(why) = answer {
            own.failed += 1;
            own.reasons.push(why);
            own.reasons.truncate(REASONS_MAX);
        }
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }
    let mut done = shared.done.lock().unwrap_or_else(PoisonError::into_inner);
    done.requests += own.requests;
    done.failed += own.failed;
    done.latencies.append(&mut own.latencies);
    done.reasons.append(&mut own.reasons);
    done.reasons.truncate(REASONS_MAX);
}
