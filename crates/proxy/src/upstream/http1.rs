//! HTTP/1.1 connections to one endpoint: a bounded stack of idle ones.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use http::header::{CONTENT_LENGTH, UPGRADE};
use http_body::Body as _;
use whodunit_model::Cause;

use super::Endpoint;
use super::error::Failed;
use super::exchange::Exchange;
use crate::clock::Instant;
use crate::h1::Framing;
use crate::http::{Incoming, Outgoing, RequestBody, Wire};
use crate::limits::{self, Limit};
use crate::net::Io;

/// How long a connection may be idle. Bursts leave many; most are never used again.
const IDLE: Duration = Limit::PoolTime.time();

/// Most idle connections per endpoint and thread; the rest is closed after its request.
const IDLE_MAX: usize = Limit::PoolConnections.count();

/// The idle connections. The last one in is the first one out, so that few stay warm
/// and the others run into the idle limit.
#[derive(Default)]
pub(super) struct Pool {
    /// Each with the time at which it is closed.
    idle: RefCell<Vec<(Io, Instant)>>,
}

impl Pool {
    /// Takes the warmest one that is still open. Whether it is, the kernel is asked only for
    /// a request that is not `repeatable`: any other goes out again if the endpoint has just
    /// hung up.
    fn take(&self, repeatable: bool) -> Option<Io> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        while let Some((io, until)) = idle.pop() {
            let quiet = || {
                if repeatable {
                    io.seems_quiet()
                } else {
                    io.is_quiet()
                }
            };
            if now < until && quiet() {
                return Some(io);
            }
        }
        None
    }

    fn put(&self, io: Io, idle_s: Option<u32>) {
        let time = idle_s.map_or(IDLE, idle_time);
        let mut idle = self.idle.borrow_mut();
        if time.is_zero() {
            return;
        }
        if idle.len() < IDLE_MAX {
            idle.push((io, Instant::now() + time));
        } else {
            limits::hit(Limit::PoolConnections);
        }
    }

    fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    pub(super) fn sweep(&self, now: Instant) {
        // Whatever an endpoint says unasked is the answer to nobody's request.
        self.idle
            .borrow_mut()
            .retain(|(io, until)| now < *until && io.is_quiet());
    }
}

/// An endpoint that closes idle connections must not do so while a request is on its way,
/// so ours ends a second before, or at half of a time that is too short for that.
fn idle_time(seconds: u32) -> Duration {
    let announced = Duration::from_secs(seconds.into());
    let earlier = announced.saturating_sub(Duration::from_secs(1));
    earlier.max(announced / 2).min(IDLE)
}

/// A connection for one request.
pub(crate) struct Lease {
    exchange: Rc<RefCell<Exchange>>,
    endpoint: Rc<Endpoint>,
    /// Whether it carried a request before.
    pub(super) reused: bool,
    /// The endpoint hung up on the preface of HTTP/2; a response tells that it speaks this.
    on_trial: bool,
}

impl Lease {
    /// Takes a connection for a request that may be `repeatable`; `on_trial` says that the
    /// endpoint may not speak HTTP/1 at all.
    pub(super) async fn acquire(
        endpoint: &Rc<Endpoint>,
        repeatable: bool,
        on_trial: bool,
    ) -> Result<Self, Cause> {
        if let Some(lease) = Self::at_once(endpoint, repeatable, on_trial) {
            return Ok(lease);
        }
        match endpoint.connector.connect().await {
            Ok(io) => Ok(Self::on(io, endpoint, false, on_trial)),
            Err(cause) => {
                // Whatever listens there the next time may be something else.
                endpoint.forget_lack_of_http2();
                Err(cause)
            }
        }
    }

    /// Takes a connection that was used before, if there is one.
    pub(super) fn at_once(
        endpoint: &Rc<Endpoint>,
        repeatable: bool,
        on_trial: bool,
    ) -> Option<Self> {
        let io = endpoint.http1.take(repeatable)?;
        Some(Self::on(io, endpoint, true, on_trial))
    }

    fn on(io: Io, endpoint: &Rc<Endpoint>, reused: bool, on_trial: bool) -> Self {
        Self {
            exchange: Rc::new(RefCell::new(Exchange::new(io))),
            endpoint: endpoint.clone(),
            reused,
            on_trial,
        }
    }

    /// Sends a request and waits for the head of the response. The head of the request stays
    /// where it is, and so does a body that has nothing to send.
    pub(super) async fn send(
        &mut self,
        outgoing: &mut Outgoing,
    ) -> Result<Response<Incoming>, Failed> {
        let client = outgoing.body.as_ref().and_then(RequestBody::client);
        if let Err(cause) = self.begin(outgoing, client.as_deref()) {
            return Err(Failed {
                cause,
                unsent: false,
                unprocessed: false,
            });
        }
        let answered = poll_fn(|cx| self.exchange.borrow_mut().poll_head(cx, client.as_deref()));
        let head = match answered.await {
            Ok(head) => {
                if self.on_trial {
                    self.endpoint.note_lack_of_http2();
                }
                head
            }
            Err(cause) => {
                if !self.reused {
                    let met_http2 = self.exchange.borrow().met_frames();
                    self.endpoint.doubt_lack_of_http2(met_http2);
                } else if matches!(cause, Cause::ClosedEarly | Cause::Reset) {
                    // Whatever ended this one, a restart or patience at its end, has ended
                    // the others too: the next request is not to find that out anew.
                    self.endpoint.http1.clear();
                }
                let unsent = self.exchange.borrow().is_unsent();
                return Err(Failed {
                    cause,
                    unsent: unsent && outgoing.body.is_some(),
                    unprocessed: unsent,
                });
            }
        };
        if !head.keep_alive && self.endpoint.meshed {
            // Proxies say so when they are about to end.
            self.endpoint.health.leaves(Instant::now());
        }
        let mut response = Response::new(Incoming::Endpoint(self.exchange.clone()));
        *response.status_mut() = head.status;
        let mut fields = head.fields;
        let is_exact = matches!(head.framing, Framing::Length(_));
        let map = if client.is_some() {
            // An HTTP/1 client gets most fields as they are.
            let map = fields.looked_at(&[]);
            self.exchange.borrow_mut().head = Some((fields, head.reason));
            map
        } else {
            fields.into_map()
        };
        *response.headers_mut() = map;
        // The body tells its length to an HTTP/1 client, where there is one.
        let told = is_exact && client.is_some();
        if let Some(length) = head.length.filter(|_| !told) {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        if let Some(protocol) = head.upgrade {
            response.headers_mut().insert(UPGRADE, protocol);
        }
        Ok(response)
    }

    /// Writes the head, and takes the body if it has anything to send.
    fn begin(&self, outgoing: &mut Outgoing, client: Option<&Wire>) -> Result<(), Cause> {
        let Outgoing { parts, body } = outgoing;
        let Some(parts) = parts else {
            return Err(Cause::Unknown);
        };
        let begun = self.exchange.borrow_mut().begin(parts, body, client);
        begun.map_err(|why| {
            tracing::debug!(%why, "refused a request that HTTP/1.1 cannot say");
            outgoing.parts = None;
            Cause::BadRequestHead
        })
    }

    /// Says whether the client has got an interim response from here.
    pub(super) fn has_passed_interim(&self) -> bool {
        self.exchange.borrow().has_passed_interim()
    }

    /// Takes the connection out, once it has switched to another protocol.
    pub(super) fn into_io(self) -> Option<Io> {
        self.exchange.borrow_mut().take_io()
    }

    /// Puts the connection back, unless something is left to send or was said too much.
    pub(super) fn give_back(self) {
        if let Some((io, idle_s)) = self.exchange.borrow_mut().take_reusable() {
            self.endpoint.http1.put(io, idle_s);
        }
    }
}

/// Says whether a body has anything to send.
pub(super) fn has_body(body: &RequestBody) -> bool {
    !body.is_end_stream()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_given_up_before_the_endpoint_closes_them() {
        for (announced, expected_ms) in [(0, 0), (1, 500), (2, 1_000), (5, 4_000), (600, 10_000)] {
            let expected = Duration::from_millis(expected_ms);
            assert_eq!(idle_time(announced), expected, "{announced}");
        }
    }
}
