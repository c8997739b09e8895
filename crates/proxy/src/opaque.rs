//! Relays bytes between two connections, each direction closing on its own.
//!
//! Between two proxies of ours a connection is introduced first, so that both record it
//! under one id: see [`introduction`].

mod introduction;
mod opening;
mod pipe;
mod pump;
mod relay;
mod server_name;

/// What a fuzzer looks at.
pub(crate) mod fuzz {
    pub(crate) use super::introduction::{Introduction, Parsed, encode_answer, parse_answer};
    pub(crate) use super::server_name::{Hello, read as read_hello};
}

pub(crate) use introduction::is_introduction;
pub(crate) use relay::{Broken, relay};

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use whodunit_model::record::{Kind, Protocol, Side, TlsState, Twin};
use whodunit_model::{Cause, RequestId};

use crate::call::{Call, Fault};
use crate::clock::Instant;
use crate::clock::micros;
use crate::http::Claim;
use crate::limits::{self, Limit};
use crate::net::Io;
use crate::policy::{self, Permit};
use crate::upstream::{Endpoint, InFlight, Nowhere, io_cause};
use crate::worker::{Connection, Inlet};
use introduction::{Introduction, encode_answer};
use opening::{Answer, Caller, Opening};
use pump::Pump;
use relay::{Notice, Relay};

/// Most endpoints that are tried for one connection.
const ENDPOINTS_MAX: usize = Limit::EndpointsTried.count();

/// How long a connection goes without a record while neither side has said anything:
/// less than it takes to leave an open row.
const MEETING: Duration = Duration::from_millis(900);

/// The same when there is no connection to the application: only a proxy of ours would
/// have spoken at once.
const FAILED_MEETING: Duration = Duration::from_millis(250);

/// How long, and for how many bytes, a peer may go on after it was told that it is in vain.
const FAREWELL: Duration = Duration::from_millis(500);
const FAREWELL_BYTES: u64 = 1 << 20;

/// The outcome of connecting to an endpoint for an opaque connection.
pub(crate) struct Dialed {
    result: Result<Io, Fault>,
    endpoint: Option<Rc<Endpoint>>,
    /// Endpoints that could not be reached before the last one.
    failed: Vec<(Rc<Endpoint>, Fault)>,
    attempts: u16,
    accepted: Instant,
    waited_us: i64,
    /// What the endpoint's proxy was told.
    id: Option<RequestId>,
    permit: Permit,
}

/// Connects to an endpoint for a connection that was accepted at `accepted`, if policy
/// permits it to be relayed. `undecided` says that the client is silent, and may turn out
/// to speak HTTP.
pub(crate) async fn dial(
    inlet: &Inlet,
    accepted: Instant,
    permit: Permit,
    undecided: bool,
) -> Dialed {
    let side = inlet.side();
    inlet.balancer.wait().await;
    let mut tried = Vec::new();
    let mut dialed = Dialed {
        result: Err(Fault::seen_from(side, Cause::NoEndpoints, false)),
        endpoint: None,
        failed: Vec::new(),
        attempts: 0,
        accepted,
        waited_us: 0,
        id: None,
        permit,
    };
    while tried.len() < ENDPOINTS_MAX {
        let endpoint = match inlet.balancer.pick(&inlet.worker.metrics, &tried) {
            Ok(endpoint) => endpoint,
            Err(nowhere) => {
                if tried.is_empty() && nowhere == Nowhere::Dark {
                    dialed.result = Err(Fault::seen_from(side, Cause::FailFast, false));
                }
                break;
            }
        };
        if let (Some(before), Err(fault)) = (dialed.endpoint.take(), &dialed.result) {
            dialed.failed.push((before, *fault));
        }
        let in_flight = InFlight::begin(&endpoint);
        dialed.attempts += 1;
        dialed.endpoint = Some(endpoint.clone());
        match dialed.connect(inlet, &endpoint, undecided).await {
            Ok(io) => {
                in_flight.sent(Instant::now());
                in_flight.succeeded();
                dialed.result = Ok(io);
                break;
            }
            Err(cause) => {
                in_flight.unreachable(cause);
                dialed.result = Err(Fault::seen_from(side, cause, endpoint.meshed));
                tried.push(endpoint.address);
                if tried.len() == ENDPOINTS_MAX {
                    limits::hit(Limit::EndpointsTried);
                }
            }
        }
    }
    dialed.waited_us = micros(accepted.elapsed());
    dialed
}

impl Dialed {
    /// Connects to one endpoint, and introduces the connection to its proxy.
    async fn connect(
        &mut self,
        inlet: &Inlet,
        endpoint: &Endpoint,
        undecided: bool,
    ) -> Result<Io, Cause> {
        let worker = &inlet.worker;
        if inlet.leads_back(endpoint.address) {
            return Err(Cause::Loop);
        }
        let mut io = endpoint.connector.connect().await?;
        if inlet.side() == Side::Outbound && endpoint.meshed {
            let issue = || worker.recorder.issue(worker.clock.at_us(self.accepted));
            let introduction = Introduction {
                id: *self.id.get_or_insert_with(issue),
                caller: worker.from_header.to_str().unwrap_or_default(),
                undecided,
            };
            let written = async {
                io.write_all(&introduction.encode()).await?;
                io.flush().await
            };
            let written = written.await;
            written.map_err(|error| io_cause(error.kind()))?;
        }
        Ok(io)
    }

    /// Returns the connection, if there is one.
    pub(crate) const fn upstream(&mut self) -> Option<&mut Io> {
        match &mut self.result {
            Ok(io) => Some(io),
            Err(_) => None,
        }
    }

    /// Relays until the end, and records the connection. `tls` says that the bytes are
    /// TLS of the application's own.
    pub(crate) async fn relay(mut self, connection: &Rc<Connection>, client: &mut Io, tls: bool) {
        let _busy = connection.begin_request();
        client.keep_alive();
        if let Some(upstream) = self.upstream() {
            upstream.keep_alive();
        }
        let side = connection.inlet.side();
        let mut opening = (side == Side::Inbound).then(Opening::default);
        let met = match &mut opening {
            Some(opening) => self.meet(opening, client).await,
            None => Ok(Met::Silence),
        };
        if matches!(met, Ok(Met::Nobody)) {
            return;
        }
        let mut call = self.begin(connection, tls);
        let proven = call.note(|record| !record.peer_identity.is_empty());
        let inlet = &connection.inlet;
        inlet
            .guard
            .count_connection(&inlet.worker, &self.permit.text, proven);
        let mut introduced = false;
        match met {
            Ok(Met::Someone(caller)) => {
                opening = None;
                introduced = caller.is_some();
                if let Some(caller) = caller {
                    introduce(&call, connection, caller);
                }
            }
            Ok(_) => {}
            Err(broken) => {
                call.blame(broken.settle(side, false, client, self.result.as_ref().ok()));
                call.end();
                return;
            }
        }
        for (endpoint, fault) in self.failed.drain(..) {
            call.attempt_at(&endpoint.text, fault);
        }
        let meshed = self.endpoint.as_ref().is_some_and(|e| e.meshed);
        let mut upstream = match self.result {
            Ok(upstream) => upstream,
            Err(fault) => {
                call.blame(fault);
                call.end();
                if introduced {
                    say_why(client, fault).await;
                } else {
                    client.reset_on_close();
                }
                return;
            }
        };
        let mut relay = Relay {
            up: Pump::watching(),
            down: Pump::new(),
            opening,
            answer: self.id.map(|_| Answer::default()),
        };
        if introduced {
            relay.down.begin_with(&encode_answer(None));
        }
        let _in_flight = self.endpoint.as_ref().map(InFlight::begin);
        let state = call.state().clone();
        let notice = |notice| match notice {
            Notice::Introduced(caller) => introduce(&call, connection, caller),
            Notice::Answered => call.note(|record| record.twin = Twin::Yes),
            Notice::Hello(name) => call.note(|record| {
                if record.tls == TlsState::Disabled {
                    record.tls = TlsState::Opaque;
                }
                record.authority = name.as_deref().unwrap_or_default().into();
            }),
            Notice::NoPipe => connection.inlet.worker.stats.pipes_missing.add(),
        };
        let relayed = relay.run(client, &mut upstream, &state, notice).await;
        if let Err(broken) = relayed {
            let told = match (broken, &mut relay.opening) {
                // The application was gone before the client could say who it is.
                (Broken::Upstream(cause), Some(opening)) => {
                    let opened = poll_fn(|cx| opening.poll(cx, client));
                    let opened = tokio::time::timeout(FAILED_MEETING, opened).await;
                    match opened {
                        Ok(Ok(Some(caller))) => {
                            introduce(&call, connection, caller);
                            let fault = Fault::seen_from(side, cause, meshed);
                            (!relay.down.has_begun()).then_some(fault)
                        }
                        _ => None,
                    }
                }
                _ => None,
            };
            if let Some(fault) = told {
                call.blame(fault);
                call.end();
                return say_why(client, fault).await;
            }
            call.blame(broken.settle(side, meshed, client, Some(&upstream)));
        }
        call.end();
    }

    /// Waits until it is known whether the client is a proxy of ours, or until the
    /// application speaks, but not for long.
    async fn meet(&mut self, opening: &mut Opening, client: &mut Io) -> Result<Met, Broken> {
        let upstream = self.result.as_ref().ok();
        let spoke = |cx: &mut Context<'_>| {
            upstream.is_some_and(|upstream| upstream.poll_read_ready(cx).is_ready())
        };
        let time = if upstream.is_some() {
            MEETING
        } else {
            FAILED_MEETING
        };
        let mut time = pin!(tokio::time::sleep(time));
        let met = poll_fn(|cx| {
            if let Poll::Ready(opened) = opening.poll(cx, client) {
                Poll::Ready(opened.map(Met::Someone))
            } else if spoke(cx) || time.as_mut().poll(cx).is_ready() {
                Poll::Ready(Ok(Met::Silence))
            } else {
                Poll::Pending
            }
        });
        let met = met.await?;
        let undecided = matches!(&met, Met::Someone(Some(caller)) if caller.undecided);
        if !undecided || upstream.is_none() {
            return Ok(met);
        }
        let mut first = BytesMut::new();
        let client_spoke = tokio::select! {
            read = client.read_buf(&mut first) => Some(read),
            () = poll_fn(|cx| if spoke(cx) { Poll::Ready(()) } else { Poll::Pending }) => None,
        };
        if matches!(client_spoke, Some(Ok(0) | Err(_))) {
            return Ok(Met::Nobody);
        }
        client.put_back(first.freeze());
        Ok(met)
    }

    fn begin(&self, connection: &Rc<Connection>, tls: bool) -> Call {
        let inlet: &Inlet = &connection.inlet;
        let side = inlet.side();
        let call = Call::begin(&inlet.worker, side, self.id, self.accepted);
        call.note(|record| {
            record.kind = Kind::Connection;
            record.protocol = Protocol::Tcp;
            record.detected = connection.detected;
            record.service = inlet.service();
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
                }
            } else if side == Side::Outbound {
                record.dst = inlet.balancer.destination();
            }
            if self.id.is_some() && self.result.is_ok() {
                // Until its proxy answers.
                record.twin = Twin::Unknown;
            }
        });
        call
    }
}

/// What became known before a connection is recorded.
enum Met {
    /// Nothing: the application spoke first, or nobody did.
    Silence,
    /// Who the client is; none is a stranger.
    Someone(Option<Caller>),
    /// Neither side said anything, and the client is gone: there was nothing to carry.
    Nobody,
}

/// Takes over what a proxy of ours says about a connection, as far as it is proven.
fn introduce(call: &Call, connection: &Connection, caller: Caller) {
    let claim = connection.proven(Claim {
        id: Some(caller.id),
        from: connection.inlet.worker.caller(&caller.from),
        hops: 0,
    });
    let Some(id) = claim.id.filter(|_| !call.state().was_observed()) else {
        // Nobody's word, or rows with another id are on their way.
        return;
    };
    call.note(|record| {
        record.id = id;
        record.twin = Twin::Yes;
        record.src = claim.from.unwrap_or_default();
    });
}

/// Tells another proxy why there is no connection, and lets it hear that out: closing on
/// unread bytes would take the answer away.
async fn say_why(client: &mut Io, fault: Fault) {
    let told = async {
        client.write_all(&encode_answer(Some(fault))).await?;
        client.shutdown().await?;
        let mut rest = client.take(FAREWELL_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // A peer that is gone already needs no answer.
    let _ = tokio::time::timeout(FAREWELL, told).await;
}

/// Records a connection that policy denied; `text` says by which rule.
pub(crate) fn record_denied(connection: &Rc<Connection>, accepted: Instant, text: Arc<str>) {
    let inlet = &connection.inlet;
    let proven = connection.identity.is_some();
    inlet.guard.count_connection(&inlet.worker, &text, proven);
    record_refused(connection, accepted, Cause::PolicyDenied, &text);
}

/// Records a connection that goes no further; `text` says by which rule, if by any.
pub(crate) fn record_refused(
    connection: &Rc<Connection>,
    accepted: Instant,
    cause: Cause,
    text: &str,
) {
    let inlet = &connection.inlet;
    let mut call = Call::begin(&inlet.worker, inlet.side(), None, accepted);
    call.note(|record| {
        record.kind = Kind::Connection;
        record.protocol = Protocol::Tcp;
        record.detected = connection.detected;
        record.service = inlet.service();
        let own = inlet.worker.config.workload.clone();
        match inlet.side() {
            Side::Inbound => record.dst = own,
            Side::Outbound => record.src = own,
        }
        record.tls = connection.tls;
        record.peer_identity = connection.identity.clone().unwrap_or_default();
        record.twin = Twin::No;
        record.attempts = 0;
        policy::note(record, &inlet.worker, text);
    });
    call.blame(Fault::seen_from(inlet.side(), cause, false));
    call.end();
}
