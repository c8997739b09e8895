//! The way to the application or to other instances: endpoints, balancing, connections.
//!
//! Everything here belongs to one thread.

mod balance;
mod budget;
mod endpoint;
mod error;
mod exchange;
mod health;
mod http1;
mod http2;
mod latency;

pub(crate) use balance::{
    Balancer, Known, Nowhere, destination_labels, plain_labels, target_labels,
};
pub(crate) use budget::Budget;
pub(crate) use endpoint::{Connector, Endpoint, InFlight, Mesh};
pub(crate) use error::{Failed, h2_cause, io_cause};
pub(crate) use exchange::Exchange;
pub(crate) use http1::SentHead;

use std::rc::Rc;

use http::{Request, Response};
use whodunit_model::Cause;

use crate::http::{Incoming, RequestBody};
use crate::net::Io;

/// How to speak to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// The right to send one request on a connection.
pub(crate) enum Lease {
    /// A connection for this request alone.
    Http1(http1::Lease),
    /// A stream of a shared connection.
    Http2(http2::Lease),
}

impl Lease {
    /// Gets a connection to an endpoint: a pooled one, or a new one.
    pub(crate) async fn acquire(endpoint: &Rc<Endpoint>, version: Version) -> Result<Self, Cause> {
        match version {
            Version::Http1 => http1::Lease::acquire(endpoint).await.map(Self::Http1),
            Version::Http2 => http2::Lease::acquire(endpoint).await.map(Self::Http2),
        }
    }

    /// Says whether the connection was used before.
    pub(crate) const fn is_reused(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.reused,
            Self::Http2(lease) => lease.reused,
        }
    }

    /// Sends the request and waits for the head of the response.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        match self {
            Self::Http1(lease) => lease.send(request).await,
            Self::Http2(lease) => lease.send(request).await,
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
