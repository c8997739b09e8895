//! Relays bytes between two connections, each direction closing on its own.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use whodunit_model::Cause;
use whodunit_model::record::{Kind, Protocol, Side, TlsState, Twin};

use crate::call::{Call, CallState, Fault};
use crate::clock::micros;
use crate::limits::{self, Limit};
use crate::net::Io;
use crate::policy::{self, Permit};
use crate::upstream::{Endpoint, InFlight, io_cause};
use crate::worker::{Connection, Inlet};

/// Buffer per direction. Larger ones are cheaper per byte and dearer per idle connection.
const BUFFER_BYTES: usize = 16 << 10;

/// Most endpoints that are tried for one connection.
const ENDPOINTS_MAX: usize = Limit::EndpointsTried.count();

/// Which side broke a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The client.
    Client(Cause),
    /// The endpoint.
    Upstream(Cause),
}

/// One direction.
struct Pump {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The reader has ended.
    ended: bool,
    /// The writer was told.
    closed: bool,
    unflushed: bool,
}

/// Whose end of a direction failed.
enum Failed {
    Reader(io::Error),
    Writer(io::Error),
}

impl Pump {
    fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            ended: false,
            closed: false,
            unflushed: false,
        }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: impl Fn(usize),
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            if self.start < self.end {
                let bytes = &self.buffer[self.start..self.end];
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, bytes));
                match written.map_err(Failed::Writer)? {
                    0 => return Poll::Ready(Err(Failed::Writer(io::ErrorKind::WriteZero.into()))),
                    written => self.start += written,
                }
                self.unflushed = true;
                continue;
            }
            if self.ended {
                // A peer that has closed already cannot be told; its own direction will end.
                let _ = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                self.closed = true;
                continue;
            }
            let mut buffer = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *reader).poll_read(cx, &mut buffer) {
                Poll::Ready(result) => result.map_err(Failed::Reader)?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Failed::Writer)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
            (self.start, self.end) = (0, buffer.filled().len());
            self.ended = self.end == 0;
            count(self.end);
        }
    }
}

/// Relays both ways until both have ended, or one breaks. Bytes are counted in `state`.
pub(crate) async fn relay<C, U>(
    client: &mut C,
    upstream: &mut U,
    state: &CallState,
) -> Result<(), Broken>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Pump::new(), Pump::new());
    poll_fn(|cx| {
        let sent = up.poll(cx, client, upstream, |count| state.sent(count, 0));
        if let Poll::Ready(Err(error)) = sent {
            return Poll::Ready(Err(match error {
                Failed::Reader(error) => Broken::Client(io_cause(error.kind())),
                Failed::Writer(error) => Broken::Upstream(io_cause(error.kind())),
            }));
        }
        let received = down.poll(cx, upstream, client, |count| state.received(count, 0));
        if let Poll::Ready(Err(error)) = received {
            return Poll::Ready(Err(match error {
                Failed::Reader(error) => Broken::Upstream(io_cause(error.kind())),
                Failed::Writer(error) => Broken::Client(io_cause(error.kind())),
            }));
        }
        if sent.is_ready() && received.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// The outcome of connecting to an endpoint for an opaque connection.
pub(crate) struct Dialed {
    result: Result<Io, Fault>,
    endpoint: Option<Rc<Endpoint>>,
    attempts: u16,
    accepted: Instant,
    waited_us: i64,
    permit: Permit,
}

/// Connects to an endpoint for a connection that was accepted at `accepted`, if policy
/// permits it to be relayed.
pub(crate) async fn dial(inlet: &Inlet, accepted: Instant, permit: Permit) -> Dialed {
    let side = inlet.side();
    inlet.balancer.wait().await;
    let mut tried = Vec::new();
    let fault = Fault::seen_from(side, Cause::NoEndpoints, false);
    let mut dialed = Dialed {
        result: Err(fault),
        endpoint: None,
        attempts: 0,
        accepted,
        waited_us: 0,
        permit,
    };
    while tried.len() < ENDPOINTS_MAX {
        let Some(endpoint) = inlet.balancer.pick(&inlet.worker.metrics, &tried) else {
            break;
        };
        dialed.attempts += 1;
        dialed.endpoint = Some(endpoint.clone());
        let cause = if inlet.worker.is_own_outbound(endpoint.address) {
            Cause::Loop
        } else {
            match endpoint.connector.connect().await {
                Ok(io) => {
                    dialed.result = Ok(io);
                    break;
                }
                Err(cause) => cause,
            }
        };
        dialed.result = Err(Fault::seen_from(side, cause, endpoint.meshed));
        tried.push(endpoint.address);
        if tried.len() == ENDPOINTS_MAX {
            limits::hit(Limit::EndpointsTried);
        }
    }
    dialed.waited_us = micros(accepted.elapsed());
    dialed
}

impl Dialed {
    /// Returns the connection, if there is one.
    pub(crate) const fn upstream(&mut self) -> Option<&mut Io> {
        match &mut self.result {
            Ok(io) => Some(io),
            Err(_) => None,
        }
    }

    /// Relays until the end, and records the connection. `tls` says that the bytes are
    /// TLS of the application's own.
    pub(crate) async fn relay(self, connection: &Rc<Connection>, client: &mut Io, tls: bool) {
        let mut call = self.begin(connection, tls);
        let proven = call.note(|record| !record.peer_identity.is_empty());
        let inlet = &connection.inlet;
        inlet
            .guard
            .count_connection(&inlet.worker, &self.permit.text, proven);
        let mut upstream = match self.result {
            Ok(upstream) => upstream,
            Err(fault) => {
                call.blame(fault);
                call.end();
                return;
            }
        };
        let state = call.state().clone();
        let side = connection.inlet.side();
        let meshed = self
            .endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.meshed);
        let _in_flight = self.endpoint.as_ref().map(InFlight::begin);
        match relay(client, &mut upstream, &state).await {
            Ok(()) => {}
            Err(Broken::Client(_)) => {
                upstream.reset_on_close();
                call.blame(Fault::seen_from(side, Cause::ClientCancelled, meshed));
            }
            Err(Broken::Upstream(cause)) => {
                client.reset_on_close();
                call.blame(Fault::seen_from(side, cause, meshed));
            }
        }
        call.end();
    }

    fn begin(&self, connection: &Rc<Connection>, tls: bool) -> Call {
        let inlet: &Inlet = &connection.inlet;
        let side = inlet.side();
        let call = Call::begin(&inlet.worker, side, None, self.accepted);
        call.note(|record| {
            record.kind = Kind::Connection;
            record.protocol = Protocol::Tcp;
            record.detected = connection.detected;
            record.service = inlet.service.clone();
            record.attempts = self.attempts;
            record.queue_us = self.waited_us;
            record.twin = Twin::No;
            policy::note(record, &inlet.worker, &self.permit.text);
            if tls {
                record.tls = TlsState::Opaque;
            }
            if side == Side::Inbound
                && let Some(identity) = &connection.identity
            {
                record.tls = connection.tls;
                record.peer_identity = identity.clone();
            }
            let own = inlet.worker.config.workload.clone();
            match side {
                Side::Inbound => record.dst = own,
                Side::Outbound => record.src = own,
            }
            if let Some(endpoint) = &self.endpoint {
                record.endpoint = endpoint.text.clone();
                if side == Side::Outbound {
                    record.dst = endpoint.party.clone();
                    if self.result.is_ok()
                        && let Some(peer) = endpoint.connector.peer()
                    {
                        record.tls = TlsState::Mutual;
                        record.peer_identity = peer.identity.clone();
                    }
                    if endpoint.meshed && self.result.is_ok() {
                        record.twin = Twin::Yes;
                    }
                }
            }
        });
        call
    }
}

/// Records a connection that policy denied; `text` says by which rule.
pub(crate) fn record_denied(connection: &Rc<Connection>, accepted: Instant, text: Arc<str>) {
    let inlet = &connection.inlet;
    let mut call = Call::begin(&inlet.worker, inlet.side(), None, accepted);
    let proven = call.note(|record| {
        record.kind = Kind::Connection;
        record.protocol = Protocol::Tcp;
        record.detected = connection.detected;
        record.service = inlet.service.clone();
        record.dst = inlet.worker.config.workload.clone();
        record.tls = connection.tls;
        record.peer_identity = connection.identity.clone().unwrap_or_default();
        record.twin = Twin::No;
        record.attempts = 0;
        policy::note(record, &inlet.worker, &text);
        !record.peer_identity.is_empty()
    });
    inlet.guard.count_connection(&inlet.worker, &text, proven);
    call.blame(Fault::seen_from(inlet.side(), Cause::PolicyDenied, false));
    call.end();
}
