//! Sends records to the server, and keeps them until they are durable there.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use whodunit_flight::{Outbox, SealedBatch};
use whodunit_wire::tonic::transport::Channel;
use whodunit_wire::tonic::{Status, Streaming};
use whodunit_wire::v1::record_request::Message;
use whodunit_wire::v1::recorder_client::RecorderClient;
use whodunit_wire::v1::{
    Batch, Closing, Conservation, Hello, RecordRequest, RecordResponse, ReportRequest,
};

use crate::VERSION;
use crate::clock::Instant;
use crate::control::{Backoff, State, endpoint};
use crate::metrics::{discarded, dropped};
use crate::net;

/// How often the queue is looked at. A full batch is sealed at once, a smaller one after
/// [`SEAL_TIME`].
const TICK: Duration = Duration::from_millis(50);

/// The same as long as batches are full: what waits in the queue takes memory, and the less
/// there is of it, the more of it still is in the cache.
const BUSY_TICK: Duration = Duration::from_millis(5);

/// How long records wait for a batch to fill.
const SEAL_TIME: Duration = Duration::from_millis(200);

/// How often the state of the proxy is reported.
const REPORT: Duration = Duration::from_secs(2);

/// Longest wait for the answer to a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the server may take to accept a connection and its first message.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Batches between here and the socket.
const WINDOW: usize = 4;

/// How long the last records may take at shutdown.
const CLOSING: Duration = Duration::from_secs(3);

/// Sends until the proxy has stopped and the last records are durable, or time ran out.
pub(crate) async fn run(
    state: Rc<State>,
    server: SocketAddr,
    outbox: Outbox,
    mut backoff: Backoff,
    mut stopped: watch::Receiver<bool>,
) {
    let mut sender = Sender {
        state,
        outbox,
        sealed_at: Instant::now(),
        pause: TICK,
    };
    loop {
        let connecting = timeout(CONNECT_TIMEOUT, connect(sender.state.clone(), server));
        let connected = tokio::select! {
            connected = connecting => connected
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the server does not answer"))),
            never = sender.keep_sealing() => match never {},
            () = until(&mut stopped) => break,
        };
        let result = match connected {
            Ok(mut connection) => {
                tracing::info!(%server, "sending records");
                backoff.reset();
                sender.outbox.reconnected();
                let result = tokio::select! {
                    result = sender.send(&mut connection) => result,
                    () = until(&mut stopped) => {
                        let _ = timeout(CLOSING, sender.close(connection)).await;
                        return;
                    }
                };
                tracing::warn!(%server, "lost the record server, keeping records");
                result
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!(%server, %error, "cannot send records");
        }
        let pause = sleep(backoff.pause());
        tokio::select! {
            never = sender.keep_sealing() => match never {},
            () = pause => {}
            () = until(&mut stopped) => break,
        }
    }
    // The server may be back just now.
    let last = async {
        let connection = connect(sender.state.clone(), server).await?;
        sender.outbox.reconnected();
        sender.close(connection).await
    };
    let _ = timeout(CLOSING, last).await;
    let left = sender.state.recorder.counters().buffered;
    if left > 0 {
        tracing::warn!(
            rows = left,
            "records were lost: the record server was not reachable"
        );
    }
}

async fn until(stopped: &mut watch::Receiver<bool>) {
    // An error says that the proxy is gone, which is the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

struct Connection {
    requests: mpsc::Sender<RecordRequest>,
    responses: Streaming<RecordResponse>,
    client: RecorderClient<Channel>,
    /// When hello was sent, until it was answered.
    hello_at: Option<Instant>,
    report: Option<JoinHandle<()>>,
}

/// Opens a stream and says hello.
async fn connect(state: Rc<State>, server: SocketAddr) -> Result<Connection, Status> {
    let endpoint = endpoint(server).ok_or_else(|| Status::internal("no endpoint"))?;
    let channel = net::channel(&endpoint)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = RecorderClient::new(channel);
    let (requests, queue) = mpsc::channel(WINDOW);
    let hello_at = Instant::now();
    let hello = Message::Hello(hello(&state));
    requests
        .send(RecordRequest {
            message: Some(hello),
        })
        .await
        .map_err(|_| Status::internal("the stream ended at once"))?;
    let responses = client
        .record(ReceiverStream::new(queue))
        .await?
        .into_inner();
    Ok(Connection {
        requests,
        responses,
        client,
        hello_at: Some(hello_at),
        report: None,
    })
}

struct Sender {
    state: Rc<State>,
    outbox: Outbox,
    /// When the queue was emptied last.
    sealed_at: Instant,
    /// Until the next look at the queue.
    pause: Duration,
}

impl Sender {
    /// Seals while there is no connection, so that the queue does not fill up.
    async fn keep_sealing(&mut self) -> Infallible {
        loop {
            sleep(self.pause).await;
            self.seal_if_due();
        }
    }

    fn seal_if_due(&mut self) {
        let now = Instant::now();
        let is_full = self.state.recorder.wants_seal();
        if !is_full && now.saturating_duration_since(self.sealed_at) < SEAL_TIME {
            return;
        }
        self.sealed_at = now;
        self.pause = if is_full { BUSY_TICK } else { TICK };
        self.outbox.seal();
    }

    /// Sends batches and takes acknowledgments until the connection fails.
    async fn send(&mut self, connection: &mut Connection) -> Result<(), Status> {
        let mut next = pin!(sleep(self.pause));
        let mut reports = interval(REPORT);
        let Connection {
            requests,
            responses,
            client,
            hello_at,
            report,
        } = connection;
        loop {
            let waiting = self.outbox.unsent().is_some();
            tokio::select! {
                () = &mut next => {
                    self.seal_if_due();
                    next.set(sleep(self.pause));
                }
                _ = reports.tick() => self.report(client, report),
                permit = requests.reserve(), if waiting => {
                    let permit = permit.map_err(|_| Status::unavailable("the stream ended"))?;
                    if let Some(batch) = self.outbox.unsent() {
                        let sequence = batch.sequence;
                        permit.send(self.batch(batch));
                        self.outbox.mark_sent(sequence);
                    }
                }
                response = responses.message() => match response? {
                    Some(response) => self.take(hello_at, &response),
                    None => return Ok(()),
                },
            }
        }
    }

    fn batch(&self, batch: &SealedBatch) -> RecordRequest {
        RecordRequest {
            message: Some(Message::Batch(Batch {
                sequence: batch.sequence,
                rows: batch.rows,
                payload: batch.payload.to_vec(),
                clock_offset_us: self.state.clock_offset_us.get(),
            })),
        }
    }

    fn take(&mut self, hello_at: &mut Option<Instant>, response: &RecordResponse) {
        if let Some(sent) = hello_at.take() {
            // The server read its clock about half way between question and answer.
            let clock = &self.state.clock;
            let (asked, answered) = (clock.at_us(sent), clock.now_us());
            let middle = asked + (answered - asked) / 2;
            self.state
                .clock_offset_us
                .set(middle.saturating_sub(response.now_us));
        }
        self.outbox.acknowledge(response.durable);
    }

    /// Reports unless the report before is still on its way.
    fn report(&self, client: &RecorderClient<Channel>, running: &mut Option<JoinHandle<()>>) {
        if running.as_ref().is_some_and(|report| !report.is_finished()) {
            return;
        }
        let request = report(&self.state);
        let mut client = client.clone();
        *running = Some(tokio::task::spawn_local(async move {
            match timeout(REPORT_TIMEOUT, client.report(request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "report failed"),
                Err(_) => tracing::debug!("report took too long"),
            }
        }));
    }

    /// Sends what is left, says that nothing follows, and waits until it is durable.
    async fn close(&mut self, mut connection: Connection) -> Result<(), Status> {
        self.outbox.seal();
        let gone = |_| Status::unavailable("the stream ended");
        loop {
            while let Some(batch) = self.outbox.unsent() {
                let sequence = batch.sequence;
                let request = self.batch(batch);
                // Acknowledgments wait in the meantime; the time for closing bounds both.
                connection.requests.send(request).await.map_err(gone)?;
                self.outbox.mark_sent(sequence);
            }
            self.outbox.seal();
            if self.outbox.unsent().is_none() {
                break;
            }
        }
        let closing = Closing {
            last_sequence: self.outbox.last_sequence(),
        };
        let message = Some(Message::Closing(closing));
        connection
            .requests
            .send(RecordRequest { message })
            .await
            .map_err(gone)?;
        while !self.outbox.is_empty() {
            match connection.responses.message().await? {
                Some(response) => self.take(&mut connection.hello_at, &response),
                None => break,
            }
        }
        // The accounts as they are at the end; an older report must not come after them. One
        // that is aborted may have reached the server, which may read it later than the last.
        if let Some(running) = connection.report.take() {
            let _ = running.await;
        }
        let last = report(&self.state);
        if let Err(error) = connection.client.report(last).await {
            tracing::debug!(%error, "the last report failed");
        }
        // Nothing follows: the server sees the stream end after the closing message.
        drop(connection.requests);
        while connection.responses.message().await?.is_some() {}
        Ok(())
    }
}

fn hello(state: &State) -> Hello {
    let workload = &state.config.workload;
    Hello {
        namespace: workload.namespace.to_string(),
        workload: workload.workload.to_string(),
        instance: workload.instance.to_string(),
        app_version: workload.version.to_string(),
        boot: state.boot.0,
        proxy_version: VERSION.to_owned(),
        now_us: state.clock.now_us(),
    }
}

fn report(state: &State) -> ReportRequest {
    let counters = state.recorder.counters();
    let reasons = |reasons: &[(&str, u64)]| {
        reasons
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count))
            .collect()
    };
    let age = state.services.age();
    let identity = &state.stats.identity;
    ReportRequest {
        from: Some(hello(state)),
        uptime_s: state.clock.uptime().as_secs(),
        discovery_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        discovery_connected: age.is_some_and(|age| age.is_zero()),
        detection_fall_backs: state.stats.fall_backs.total(),
        fall_backs: state.stats.fall_backs.each().into_iter().collect(),
        policy_denied: state.stats.policy_denied.read(),
        policy_audited: state.stats.policy_audited.read(),
        certificate_expires_s: identity.expires_s(),
        certificate_renewal_fails: identity.is_failing(),
        conservation: Some(Conservation {
            started: counters.started,
            recorded: counters.recorded,
            in_flight: counters.in_flight,
            dropped: reasons(&dropped(&counters)),
            rows: counters.rows,
            acknowledged: counters.acknowledged,
            buffered: counters.buffered,
            discarded: reasons(&discarded(&counters)),
        }),
        clock_offset_us: state.clock_offset_us.get(),
        listeners: state
            .listeners
            .iter()
            .map(|(name, address)| format!("{name}={address}"))
            .collect(),
        open_connections: state.stats.open_connections.read(),
        limits: state
            .stats
            .limits
            .all(&counters)
            .filter(|(_, hits)| *hits > 0)
            .map(|(limit, hits)| (limit.name().to_owned(), hits))
            .collect(),
    }
}
