//! One address requests can go to, with its connections.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use whodunit_model::record::Side;
use whodunit_model::{Cause, Party};

use crate::metrics::{Labels, Metrics, Scope, ScopeKey, Transport};
use crate::net::{self, Io};
use crate::stats::IdentityStats;
use crate::tls::{self, Peer};
use crate::upstream::{http1, http2, plain_labels};

/// Most authorities whose scope is remembered per endpoint; later ones take the slow way.
const SCOPES_MAX: usize = 16;

/// What every connection to an endpoint needs of the proxy itself.
#[derive(Clone, Default)]
pub(crate) struct Mesh {
    /// The certificate in use, with an identity of our own.
    pub(crate) tls: Option<tls::Current>,
    /// Counts handshakes.
    pub(crate) stats: Arc<IdentityStats>,
}

impl Mesh {
    /// Returns who has to be at an endpoint; none without an identity there or here.
    pub(crate) fn peer(&self, identity: &str, server_name: &str) -> Option<Peer> {
        let tls = self.tls.clone().filter(|_| !identity.is_empty())?;
        let server_name = Some(server_name).filter(|name| !name.is_empty());
        Some(Peer::new(identity.into(), server_name, tls))
    }

    /// Returns the labels of requests to a peer, or to an endpoint without one.
    pub(crate) fn labels(&self, peer: Option<&Peer>, meshed: bool) -> Labels {
        match peer {
            Some(peer) => Labels::default()
                .with("tls", "true")
                .with("server_id", &peer.identity),
            None => plain_labels(Side::Outbound, self.tls.is_some(), meshed),
        }
    }
}

/// How to connect to an endpoint.
#[derive(Clone)]
pub(crate) struct Connector {
    address: SocketAddr,
    /// Counts the connections.
    transport: Arc<Transport>,
    /// Who has to be there; none is spoken to in plain text.
    peer: Option<Peer>,
    stats: Arc<IdentityStats>,
}

impl Connector {
    /// Returns the way to an address.
    pub(crate) fn new(
        address: SocketAddr,
        transport: Arc<Transport>,
        peer: Option<Peer>,
        mesh: &Mesh,
    ) -> Self {
        Self {
            address,
            transport,
            peer,
            stats: mesh.stats.clone(),
        }
    }

    /// Returns who has to be there.
    pub(crate) const fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Returns the identity that is expected, empty for none.
    pub(crate) fn identity(&self) -> &str {
        self.peer.as_ref().map_or("", |peer| &peer.identity)
    }

    /// Connects, and shakes hands where an identity is expected.
    pub(crate) async fn connect(&self) -> Result<Io, Cause> {
        let stream = net::connect(self.address).await?;
        let io = Io::new(stream, self.transport.clone());
        let Some(peer) = &self.peer else {
            return Ok(io);
        };
        match tls::connect(io, peer).await {
            Ok(io) => {
                self.stats.connected.add();
                Ok(io)
            }
            Err(failed) => {
                self.stats.failed.add();
                tracing::warn!(address = %self.address, why = failed.why, "no secure connection");
                Err(failed.cause)
            }
        }
    }
}

/// One address, its names, and the connections to it.
pub(crate) struct Endpoint {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    /// Connects there.
    pub(crate) connector: Connector,
    /// The address as text.
    pub(crate) text: Arc<str>,
    /// The instance behind it.
    pub(crate) party: Party,
    /// Whether a proxy of ours stands before the instance.
    pub(crate) meshed: bool,
    /// Labels of requests to it.
    labels: Arc<str>,
    scopes: RefCell<Vec<(Arc<str>, Rc<Scope>)>>,
    in_flight: Cell<u32>,
    pub(super) http1: http1::Pool,
    pub(super) http2: http2::Pool,
}

impl Endpoint {
    /// Returns an endpoint without connections.
    pub(crate) fn new(connector: Connector, party: Party, meshed: bool, labels: Arc<str>) -> Self {
        Self {
            address: connector.address,
            text: connector.address.to_string().into(),
            connector,
            party,
            meshed,
            labels,
            scopes: RefCell::default(),
            in_flight: Cell::new(0),
            http1: http1::Pool::default(),
            http2: http2::Pool::default(),
        }
    }

    /// Returns the scope of requests to this endpoint with this authority.
    pub(crate) fn scope(&self, metrics: &Metrics, authority: &Arc<str>) -> Rc<Scope> {
        let mut scopes = self.scopes.borrow_mut();
        if let Some((_, scope)) = scopes.iter().find(|(known, _)| known == authority) {
            return scope.clone();
        }
        let key = ScopeKey {
            base: self.labels.clone(),
            authority: authority.clone(),
        };
        let scope = metrics.scope(&key);
        if scopes.len() < SCOPES_MAX {
            scopes.push((authority.clone(), scope.clone()));
        }
        scope
    }

    /// Returns the requests in flight to it, which is what balancing goes by.
    pub(crate) fn load(&self) -> u32 {
        self.in_flight.get()
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.http1.sweep(now);
        self.http2.sweep();
    }
}

/// Counts one request as in flight to an endpoint while it lives.
pub(crate) struct InFlight(Rc<Endpoint>);

impl InFlight {
    /// Begins to count.
    pub(crate) fn begin(endpoint: &Rc<Endpoint>) -> Self {
        endpoint.in_flight.set(endpoint.in_flight.get() + 1);
        Self(endpoint.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}
