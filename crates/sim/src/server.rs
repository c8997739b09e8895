//! The server: the real discovery, and a recorder that forgets what it has not synced.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use turmoil::net::{TcpListener, TcpStream};
use whodunit_control::destination::Destinations;
use whodunit_control::discovery;
use whodunit_model::topology::{Endpoint, Service, ServiceName};
use whodunit_wire::tonic::transport::Server;
use whodunit_wire::tonic::transport::server::Connected;
use whodunit_wire::tonic::{Request, Response, Status, Streaming, async_trait};
use whodunit_wire::v1::record_request::Message;
use whodunit_wire::v1::recorder_server::{Recorder, RecorderServer};
use whodunit_wire::v1::{RecordRequest, RecordResponse, ReportRequest, ReportResponse};

use crate::world::{SERVER_PORT, World};

/// How often the topology is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How often the recorder syncs.
const SYNC: Duration = Duration::from_millis(100);

/// Connections, and answers to one proxy, that may wait.
const QUEUE: usize = 64;

/// The service that clients call.
pub(crate) fn service_name() -> ServiceName {
    ServiceName {
        namespace: "n".to_owned(),
        name: "app".to_owned(),
    }
}

/// Serves until the host dies.
pub(crate) async fn serve(world: World) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", SERVER_PORT)).await?;
    world.note("server starts");
    let (source, discovery) = discovery::channel("the scenario");
    tokio::task::spawn_local(feed(world.clone(), source));
    let (connections, incoming) = mpsc::channel(QUEUE);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if connections
                .send(Ok::<_, io::Error>(Stream(stream)))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_service(Destinations::new(Some(discovery)).into_service())
        .add_service(RecorderServer::new(Disk(world)))
        .serve_with_incoming(ReceiverStream::new(incoming))
        .await?;
    Ok(())
}

async fn feed(world: World, source: discovery::Source) {
    let mut version = None;
    let mut ticks = interval(LOOK);
    loop {
        ticks.tick().await;
        let services = {
            let mut state = world.state();
            if version == Some(state.version) {
                continue;
            }
            version = Some(state.version);
            let backends = state.backends.clone();
            state.told.extend(&backends);
            vec![service(&backends)]
        };
        source.set(services);
    }
}

fn service(backends: &[SocketAddr]) -> Service {
    let endpoint = |address: &SocketAddr| Endpoint {
        address: *address,
        instance: format!("app-{}", address.ip()),
        version: String::new(),
        meshed: true,
        ready: true,
        identity: String::new(),
        server_name: String::new(),
    };
    Service {
        name: service_name(),
        workload: "app".to_owned(),
        endpoints: backends.iter().map(endpoint).collect(),
        protocol: None,
        external: false,
        policy: None,
        routes: Vec::new(),
        address: None,
    }
}

/// A recorder with a disk that outlives the server.
struct Disk(World);

#[async_trait]
impl Recorder for Disk {
    type RecordStream = ReceiverStream<Result<RecordResponse, Status>>;

    async fn record(
        &self,
        request: Request<Streaming<RecordRequest>>,
    ) -> Result<Response<Self::RecordStream>, Status> {
        let (answers, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(take(self.0.clone(), request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report(
        &self,
        _request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        Ok(Response::new(ReportResponse {}))
    }
}

/// Takes batches, and says that they are durable once they are.
async fn take(
    world: World,
    mut messages: Streaming<RecordRequest>,
    answers: mpsc::Sender<Result<RecordResponse, Status>>,
) {
    let (mut boot, mut written) = (0, 0);
    let mut memory = Vec::new();
    let mut syncs = interval(SYNC);
    syncs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = messages.next() => match message {
                Some(Ok(request)) => request.message,
                _ => return,
            },
            _ = syncs.tick() => {
                world.state().disk.extend(memory.drain(..));
                None
            }
        };
        match message {
            Some(Message::Hello(hello)) => boot = hello.boot,
            Some(Message::Batch(batch)) => {
                check(&world, batch.rows, &batch.payload);
                written = batch.sequence;
                memory.push(((boot, batch.sequence), batch.rows));
            }
            Some(Message::Closing(closing)) => {
                world.state().closed.insert(boot, closing.last_sequence);
            }
            None => {}
        }
        let durable = if memory.is_empty() { written } else { 0 };
        let now = turmoil::since_epoch().unwrap_or_default();
        let answer = RecordResponse {
            written,
            durable,
            now_us: i64::try_from(now.as_micros()).unwrap_or(i64::MAX),
        };
        if answers.send(Ok(answer)).await.is_err() {
            return;
        }
    }
}

fn check(world: &World, rows: u32, payload: &[u8]) {
    match whodunit_flight::decode(payload) {
        Ok(decoded) if decoded.len() == rows as usize => {}
        Ok(decoded) => {
            world.violated(format!("a batch of {rows} rows has {}", decoded.len()));
        }
        Err(error) => world.violated(format!("a batch cannot be read: {error}")),
    }
}

/// A connection of the simulator, for a gRPC server.
struct Stream(TcpStream);

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
