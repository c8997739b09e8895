//! The server from outside: records in by gRPC, answers out by HTTP.

mod follow;
mod http;
mod ingest;
mod queries;
mod restart;
mod start;
mod story;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use whodunit_api::error::ErrorBody;
use whodunit_model::{RequestRecord, Rows};
use whodunit_observe::{Options, Running, Server};
use whodunit_wire::tonic::{Status, Streaming};
use whodunit_wire::v1;
use whodunit_wire::v1::record_request::Message;
use whodunit_wire::v1::recorder_client::RecorderClient;

/// Longest wait for something that has to happen.
const DEADLINE: Duration = Duration::from_secs(15);

/// A server on free ports, with a data directory of its own.
struct TestServer {
    dir: tempfile::TempDir,
    running: Option<Running>,
}

impl TestServer {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let running = start(dir.path()).await;
        Self {
            dir,
            running: Some(running),
        }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn http(&self) -> SocketAddr {
        self.running().http()
    }

    async fn restart(&mut self) {
        self.running.take().unwrap().shutdown().await;
        self.running = Some(start(self.dir.path()).await);
    }

    /// Asks by HTTP and reads the answer as JSON.
    async fn ask<T: DeserializeOwned>(&self, path: &str) -> T {
        let response = get(self.http(), path).await;
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        serde_json::from_str(&response.body).expect(path)
    }

    /// Asks by HTTP and reads the error.
    async fn refuses(&self, path: &str, status: u16) -> String {
        let response = get(self.http(), path).await;
        assert_eq!(response.status, status, "{path}: {}", response.body);
        let body: ErrorBody = serde_json::from_str(&response.body).expect(path);
        format!(
            "{}: {} ({})",
            body.error.code, body.error.message, body.error.hint
        )
    }

    async fn connect(&self, instance: &str, boot: u64) -> Proxy {
        Proxy::connect(self.running().grpc(), hello(instance, boot)).await
    }
}

async fn start(dir: &Path) -> Running {
    Server::start(options(dir)).await.unwrap()
}

fn options(dir: &Path) -> Options {
    Options {
        http: SocketAddr::from(([127, 0, 0, 1], 0)),
        grpc: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..Options::new(dir)
    }
}

/// An answer to an HTTP request.
#[derive(Debug)]
struct HttpResponse {
    status: u16,
    head: String,
    body: String,
}

async fn get(address: SocketAddr, path: &str) -> HttpResponse {
    send(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
    )
    .await
}

/// Sends bytes as they are and reads until the server closes.
async fn send(address: SocketAddr, request: &str) -> HttpResponse {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset after an error answer is as good as a close.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::time::timeout(DEADLINE, exchange)
        .await
        .expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    HttpResponse {
        status: status.unwrap_or(0),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

fn hello(instance: &str, boot: u64) -> v1::Hello {
    v1::Hello {
        namespace: "n".to_owned(),
        workload: instance.split('-').next().unwrap().to_owned(),
        instance: instance.to_owned(),
        app_version: "v1".to_owned(),
        boot,
        proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        now_us: 0,
    }
}

/// A proxy's side of a record stream.
struct Proxy {
    requests: mpsc::Sender<v1::RecordRequest>,
    responses: Streaming<v1::RecordResponse>,
    /// The newest answer.
    told: v1::RecordResponse,
}

impl Proxy {
    async fn connect(grpc: SocketAddr, hello: v1::Hello) -> Self {
        let (requests, mut responses) = open(grpc, Message::Hello(hello)).await.unwrap();
        let told = responses
            .message()
            .await
            .unwrap()
            .expect("an answer to hello");
        Self {
            requests,
            responses,
            told,
        }
    }

    async fn say(&self, message: Message) {
        let request = v1::RecordRequest {
            message: Some(message),
        };
        self.requests.send(request).await.unwrap();
    }

    async fn send(&self, sequence: u64, records: Vec<RequestRecord>) {
        self.say(Message::Batch(batch(sequence, records))).await;
    }

    /// Waits until the batch with this sequence is durable.
    async fn durable(&mut self, sequence: u64) {
        let wait = async {
            while self.told.durable < sequence {
                self.told = self.responses.message().await.unwrap().expect("an answer");
            }
        };
        tokio::time::timeout(DEADLINE, wait)
            .await
            .expect("durable in time");
    }
}

/// Opens a record stream with a first message.
async fn open(
    grpc: SocketAddr,
    first: Message,
) -> Result<
    (
        mpsc::Sender<v1::RecordRequest>,
        Streaming<v1::RecordResponse>,
    ),
    Status,
> {
    let mut client = RecorderClient::connect(format!("http://{grpc}"))
        .await
        .unwrap();
    let (requests, receiver) = mpsc::channel(16);
    let message = v1::RecordRequest {
        message: Some(first),
    };
    requests.send(message).await.unwrap();
    let responses = client
        .record(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    Ok((requests, responses))
}

fn batch(sequence: u64, records: Vec<RequestRecord>) -> v1::Batch {
    let rows: Rows = records.into_iter().collect();
    let mut payload = Vec::new();
    whodunit_flight::encode(&rows, &mut payload);
    v1::Batch {
        sequence,
        rows: u32::try_from(rows.len()).unwrap(),
        payload,
        clock_offset_us: 0,
    }
}

/// Returns microseconds since the Unix epoch.
fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_micros()).unwrap()
}
