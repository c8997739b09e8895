//! Takes records and reports from proxies: the gRPC service `whodunit.v1.Recorder`.
//!
//! One task per record stream reads a batch, has it appended on a blocking
//! thread, and only then reads the next one: flow control of the connection is
//! the queue, and a proxy that sends too fast waits in its own buffer. Answers
//! carry the newest `{written, durable}`; a proxy that reads slowly misses steps
//! but never the newest numbers.
//!
//! A batch that cannot be decoded (damaged, or of a newer version) is refused
//! and counted; the stream goes on, so that one bad batch never holds up the rest.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};
use whodunit_store::{Appended, ReceivedBatch, Store, StoreError};
use whodunit_wire::v1;
use whodunit_wire::v1::record_request::Message;
use whodunit_wire::v1::recorder_server::{Recorder, RecorderServer};

use crate::clock::now_us;
use crate::live::Live;
use crate::proxies::ProxyBoot;
use crate::{chain, stopped};

/// Largest message that is taken. Proxies seal batches of at most 4,096 rows.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most record streams at one time.
const STREAMS_MAX: usize = 10_000;

/// Most batches that are appended at the same time; the others wait their turn.
const APPENDS_MAX: usize = 4;

/// How often a batch is tried again while the store has no room, and the pause between.
const OVERLOADED_TRIES: u32 = 50;
const OVERLOADED_PAUSE: Duration = Duration::from_millis(100);

/// How long a stream waits for its hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How long a stream whose proxy has said all waits for its last acknowledgement.
const LAST_ACK_WITHIN: Duration = Duration::from_secs(10);

/// The `Recorder` service.
#[derive(Clone, Debug)]
pub(crate) struct Ingest {
    store: Store,
    live: Arc<Live>,
    streams: Arc<Semaphore>,
    appends: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<v1::RecordResponse, Status>> + Send>>;

impl Ingest {
    /// Returns the service; its streams end when `stopping` becomes true.
    pub(crate) fn new(store: Store, live: Arc<Live>, stopping: watch::Receiver<bool>) -> Self {
        Self {
            store,
            live,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            appends: Arc::new(Semaphore::new(APPENDS_MAX)),
            stopping,
        }
    }

    /// Returns the gRPC service.
    pub(crate) fn into_service(self) -> RecorderServer<Self> {
        RecorderServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Recorder for Ingest {
    type RecordStream = Responses;

    async fn record(
        &self,
        request: Request<Streaming<v1::RecordRequest>>,
    ) -> Result<Response<Self::RecordStream>, Status> {
        let Ok(place) = self.streams.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!(
                "more than {STREAMS_MAX} record streams are open"
            )));
        };
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(HELLO_WITHIN, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))?;
        let Some(Message::Hello(hello)) = first?.and_then(|first| first.message) else {
            return Err(Status::invalid_argument(
                "the first message has to be a hello",
            ));
        };
        let proxy = ProxyBoot::from_hello(&hello)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;

        let (answers, receiver) = watch::channel(self.answer(&proxy));
        let (last_word, ending) = oneshot::channel();
        self.live.proxies.connected(&proxy, &hello, now_us());
        self.live.ingest.streams.fetch_add(1, Ordering::Relaxed);
        let ingest = self.clone();
        tokio::spawn(async move {
            let _place = place;
            let status = ingest.serve(&proxy, requests, &answers).await;
            ingest.live.ingest.streams.fetch_sub(1, Ordering::Relaxed);
            ingest.live.proxies.disconnected(&proxy, now_us());
            if let Err(status) = status {
                tracing::debug!(instance = proxy.instance, %status, "record stream ended");
                // Fails only if the proxy has left.
                let _ = last_word.send(status);
            }
        });
        let ending = stream::once(ending).filter_map(async |status| status.ok().map(Err));
        let responses = WatchStream::new(receiver).map(Ok).chain(ending);
        Ok(Response::new(Box::pin(responses)))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let report = request.into_inner();
        let Some(from) = &report.from else {
            return Err(Status::invalid_argument("report: `from` is missing"));
        };
        let proxy = ProxyBoot::from_hello(from)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.live.ingest.reports.fetch_add(1, Ordering::Relaxed);
        self.live.proxies.reported(&proxy, report, now_us());
        Ok(Response::new(v1::ReportResponse {}))
    }
}

impl Ingest {
    /// Takes everything a stream has to say.
    async fn serve(
        &self,
        proxy: &ProxyBoot,
        mut requests: Streaming<v1::RecordRequest>,
        answers: &watch::Sender<v1::RecordResponse>,
    ) -> Result<(), Status> {
        let mut durable = self.live.durable.subscribe();
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.take(proxy, request.message).await?,
                    None => break,
                },
                // Never ends first: the server owns the sender as long as streams live.
                _ = durable.changed() => {}
                () = answers.closed() => return Ok(()),
                () = stopped(&mut stopping) => {
                    return Err(Status::unavailable("the server is shutting down"));
                }
            }
            self.tell(proxy, answers);
        }
        // The proxy has said all: it waits for the last acknowledgement.
        let last = async {
            while !self.tell(proxy, answers) {
                tokio::select! {
                    _ = durable.changed() => {}
                    () = answers.closed() => return,
                    () = stopped(&mut stopping) => return,
                }
            }
        };
        tokio::time::timeout(LAST_ACK_WITHIN, last).await.ok();
        Ok(())
    }

    async fn take(&self, proxy: &ProxyBoot, message: Option<Message>) -> Result<(), Status> {
        match message {
            Some(Message::Batch(batch)) => self.append(proxy, batch).await,
            Some(Message::Closing(closing)) => self.close(proxy, closing).await,
            Some(Message::Hello(_)) => Err(Status::invalid_argument("hello came twice")),
            None => {
                // A kind of message that only newer proxies know.
                self.live.ingest.unknown.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    async fn append(&self, proxy: &ProxyBoot, batch: v1::Batch) -> Result<(), Status> {
        let sequence = batch.sequence;
        let batch = Arc::new(batch);
        let mut tries = 0;
        let appended = loop {
            let (store, batch) = (self.store.clone(), batch.clone());
            let (name, boot) = (proxy.store_name(), proxy.boot);
            let append = move || {
                let batch = ReceivedBatch {
                    proxy: &name,
                    boot,
                    sequence: batch.sequence,
                    payload: &batch.payload,
                    clock_offset_us: batch.clock_offset_us,
                };
                store.append(batch, now_us())
            };
            match self.blocking(append).await? {
                // Not reading on is what slows the proxy down.
                Err(StoreError::Overloaded { .. }) if tries < OVERLOADED_TRIES => {
                    tries += 1;
                    tokio::time::sleep(OVERLOADED_PAUSE).await;
                }
                appended => break appended,
            }
        };
        self.live.proxies.heard(proxy, now_us());
        self.note(proxy, sequence, appended)
    }

    fn note(
        &self,
        proxy: &ProxyBoot,
        sequence: u64,
        appended: Result<Appended, StoreError>,
    ) -> Result<(), Status> {
        let counters = &self.live.ingest;
        match appended {
            Ok(appended) if appended.duplicate => {
                counters.duplicates.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Ok(appended) => {
                counters.failing.store(false, Ordering::Relaxed);
                counters.batches.fetch_add(1, Ordering::Relaxed);
                counters
                    .rows
                    .fetch_add(u64::from(appended.rows), Ordering::Relaxed);
                Ok(())
            }
            Err(error @ StoreError::Batch { .. }) => {
                counters.refused.fetch_add(1, Ordering::Relaxed);
                if self.live.proxies.refused(proxy, now_us()) == 0 {
                    let instance = &proxy.instance;
                    let why = chain(&error);
                    tracing::warn!(instance, why, "later ones of this boot are only counted");
                }
                Ok(())
            }
            Err(error) => {
                counters.failing.store(true, Ordering::Relaxed);
                counters.failed.fetch_add(1, Ordering::Relaxed);
                let why = chain(&error);
                tracing::error!(
                    instance = proxy.instance,
                    sequence,
                    why,
                    "could not write a batch"
                );
                // The proxy keeps the batch and comes back with it.
                Err(Status::unavailable("the batch could not be written"))
            }
        }
    }

    async fn close(&self, proxy: &ProxyBoot, closing: v1::Closing) -> Result<(), Status> {
        self.live.proxies.closing(proxy, now_us());
        let store = self.store.clone();
        let name = proxy.store_name();
        let boot = proxy.boot;
        let closed = self
            .blocking(move || {
                store.closing(&name, boot, closing.last_sequence, now_us())?;
                // The proxy waits to exit: it need not wait for the next sync.
                store.sync()
            })
            .await?;
        closed.map_err(|error| {
            let why = chain(&error);
            tracing::error!(instance = proxy.instance, why, "could not write a closing");
            Status::unavailable("the closing could not be written")
        })
    }

    /// Runs `work` on a blocking thread, a few at a time.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let stopped = |_| Status::unavailable("the server is shutting down");
        let turn = self
            .appends
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Status::unavailable("the server is shutting down"))?;
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(stopped)
    }

    /// Tells the newest numbers if they moved; returns whether all that is written is durable.
    fn tell(&self, proxy: &ProxyBoot, answers: &watch::Sender<v1::RecordResponse>) -> bool {
        let answer = self.answer(proxy);
        answers.send_if_modified(|told| {
            let moved = (told.written, told.durable) != (answer.written, answer.durable);
            if moved {
                *told = answer;
            }
            moved
        });
        answer.durable >= answer.written
    }

    fn answer(&self, proxy: &ProxyBoot) -> v1::RecordResponse {
        let name = proxy.store_name();
        v1::RecordResponse {
            written: self.store.written(&name, proxy.boot),
            durable: self.store.durable(&name, proxy.boot),
            now_us: now_us(),
        }
    }
}
