//! Takes the records of the proxies that are measured, and says at once that they are durable.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use whodunit_wire::tonic::transport::Server;
use whodunit_wire::tonic::transport::server::TcpIncoming;
use whodunit_wire::tonic::{Request, Response, Status, Streaming, async_trait};
use whodunit_wire::v1::record_request::Message;
use whodunit_wire::v1::recorder_server::{Recorder, RecorderServer};
use whodunit_wire::v1::{RecordRequest, RecordResponse, ReportRequest, ReportResponse};

/// Answers that may wait for one proxy.
const ANSWERS: usize = 16;

/// A server for records, on a thread of its own.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    rows: Arc<AtomicU64>,
}

impl Sink {
    /// Starts one on a free port; its thread ends with the process.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime")?;
        let incoming = {
            let _inside = runtime.enter();
            TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())
                .map_err(|error| anyhow::anyhow!("bind the record sink: {error}"))?
        };
        let address = incoming.local_addr().context("address of the sink")?;
        let rows = Arc::new(AtomicU64::new(0));
        let service = RecorderServer::new(Counting(rows.clone()));
        thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || {
                let serving = Server::builder()
                    .add_service(service)
                    .serve_with_incoming(incoming);
                runtime.block_on(serving)
            })
            .context("start the sink's thread")?;
        Ok(Self { address, rows })
    }

    /// Returns the records that arrived and forgets them.
    pub(crate) fn take(&self) -> u64 {
        self.rows.swap(0, Ordering::Relaxed)
    }
}

struct Counting(Arc<AtomicU64>);

#[async_trait]
impl Recorder for Counting {
    type RecordStream = ReceiverStream<Result<RecordResponse, Status>>;

    async fn record(
        &self,
        request: Request<Streaming<RecordRequest>>,
    ) -> Result<Response<Self::RecordStream>, Status> {
        let mut messages = request.into_inner();
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let rows = self.0.clone();
        tokio::spawn(async move {
            let mut durable = 0;
            while let Some(Ok(request)) = messages.next().await {
                if let Some(Message::Batch(batch)) = request.message {
                    rows.fetch_add(batch.rows.into(), Ordering::Relaxed);
                    durable = batch.sequence;
                }
                let answer = RecordResponse {
                    written: durable,
                    durable,
                    now_us: 0,
                };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report(
        &self,
        _request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        Ok(Response::new(ReportResponse {}))
    }
}
