//! The way to the application or to other instances: endpoints, balancing, connections.
//!
//! Everything here belongs to one thread.

mod balance;
mod budget;
mod endpoint;
mod error;
mod exchange;
mod greeting;
mod health;
mod http1;
mod http2;
mod latency;
mod limiter;

pub(crate) use balance::{
    Balancer, Known, Nowhere, destination_labels, plain_labels, target_labels,
};
pub(crate) use budget::Budget;
pub(crate) use endpoint::{Connector, Endpoint, InFlight, Mesh};
pub(crate) use error::{Failed, h2_cause, io_cause};
pub(crate) use exchange::Exchange;
pub(crate) use greeting::Greeting;
pub(crate) use limiter::{Limiter, TooMany, Turn};

use std::rc::Rc;

use http::Response;
use whodunit_model::Cause;

use crate::http::{Incoming, Outgoing};
use crate::net::Io;

/// How to speak to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What an endpoint is to be spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// This version.
    Only(Version),
    /// HTTP/2, but HTTP/1.1 where the endpoint has no HTTP/2.
    PreferHttp2 {
        /// Whether HTTP/1.1 may be tried where the endpoint does not say what it speaks.
        trial: bool,
    },
}

/// The right to send one request on a connection.
pub(crate) enum Lease {
    /// A connection for this request alone.
    Http1(http1::Lease),
    /// A stream of a shared connection.
    Http2(http2::Lease),
}

impl Lease {
    /// Gets a connection to an endpoint: a pooled one, or a new one. `repeatable` says that the
    /// request may be sent again if the endpoint hangs up.
    pub(crate) async fn acquire(
        endpoint: &Rc<Endpoint>,
        wish: Wish,
        repeatable: bool,
    ) -> Result<Self, Cause> {
        if let Some(lease) = Self::at_once(endpoint, wish, repeatable) {
            return Ok(lease);
        }
        // Rare, and large: connecting has room of its own.
        Box::pin(Self::connected(endpoint, wish, repeatable)).await
    }

    /// Takes a connection that is there.
    fn at_once(endpoint: &Rc<Endpoint>, wish: Wish, repeatable: bool) -> Option<Self> {
        let cautious = matches!(wish, Wish::PreferHttp2 { .. });
        if wish == Wish::Only(Version::Http1) || (cautious && endpoint.lacks_http2()) {
            http1::Lease::at_once(endpoint, repeatable, false).map(Self::Http1)
        } else {
            http2::Lease::at_once(endpoint).map(Self::Http2)
        }
    }

    async fn connected(
        endpoint: &Rc<Endpoint>,
        wish: Wish,
        repeatable: bool,
    ) -> Result<Self, Cause> {
        let cautious = matches!(wish, Wish::PreferHttp2 { .. });
        let trial = wish == Wish::PreferHttp2 { trial: true } && endpoint.may_lack_http2();
        if wish == Wish::Only(Version::Http1) || (cautious && endpoint.lacks_http2()) {
            let lease = http1::Lease::acquire(endpoint, repeatable, false).await;
            return lease.map(Self::Http1);
        }
        match http2::Lease::acquire(endpoint, cautious, trial).await {
            Ok(lease) => Ok(Self::Http2(lease)),
            Err(http2::Refused::Failed(cause)) => Err(cause),
            Err(http2::Refused::Other) if cautious => {
                endpoint.note_lack_of_http2();
                let lease = http1::Lease::acquire(endpoint, repeatable, false).await;
                lease.map(Self::Http1)
            }
            Err(http2::Refused::Other) => Err(Cause::BadResponseHead),
            // It may be an HTTP/1 server that hangs up on what it cannot read: an answer to
            // the request will tell.
            Err(http2::Refused::Silent) => {
                let lease = http1::Lease::acquire(endpoint, repeatable, true).await;
                lease.map(Self::Http1)
            }
        }
    }

    /// Returns what is spoken on the connection.
    pub(crate) const fn version(&self) -> Version {
        match self {
            Self::Http1(_) => Version::Http1,
            Self::Http2(_) => Version::Http2,
        }
    }

    /// Says whether the connection was used before.
    pub(crate) const fn is_reused(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.reused,
            Self::Http2(lease) => lease.reused,
        }
    }

    /// Says whether the client has got an interim response from here: there must be no other
    /// answer then.
    pub(crate) fn has_passed_interim(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.has_passed_interim(),
            Self::Http2(lease) => lease.has_passed_interim,
        }
    }

    /// Sends the request and waits for the head of the response.
    pub(crate) async fn send(
        &mut self,
        outgoing: &mut Outgoing,
    ) -> Result<Response<Incoming>, Failed> {
        match self {
            Self::Http1(lease) => lease.send(outgoing).await,
            Self::Http2(lease) => lease.send(outgoing).await,
        }
    }

    /// Takes the connection out, once it has switched to another protocol.
    pub(crate) fn into_io(self) -> Option<Io> {
        match self {
            Self::Http1(lease) => lease.into_io(),
            Self::Http2(_) => None,
        }
    }

    /// Gives the connection back after a complete response.
    pub(crate) fn give_back(self) {
        match self {
            Self::Http1(lease) => lease.give_back(),
            Self::Http2(lease) => lease.give_back(),
        }
    }
}
