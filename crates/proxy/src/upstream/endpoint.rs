//! One address requests can go to, with its connections.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use whodunit_model::Party;

use crate::metrics::{Metrics, Scope, ScopeKey, Transport};
use crate::upstream::{http1, http2};

/// Most authorities whose scope is remembered per endpoint; later ones take the slow way.
const SCOPES_MAX: usize = 16;

/// One address, its names, and the connections to it.
pub(crate) struct Endpoint {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    /// The address as text.
    pub(crate) text: Arc<str>,
    /// The instance behind it.
    pub(crate) party: Party,
    /// Whether a proxy of ours stands before the instance.
    pub(crate) meshed: bool,
    /// Counts the connections to it.
    pub(crate) transport: Arc<Transport>,
    /// Labels of requests to it.
    labels: Arc<str>,
    scopes: RefCell<Vec<(Arc<str>, Rc<Scope>)>>,
    in_flight: Cell<u32>,
    pub(super) http1: http1::Pool,
    pub(super) http2: http2::Pool,
}

impl Endpoint {
    /// Returns an endpoint without connections.
    pub(crate) fn new(
        address: SocketAddr,
        party: Party,
        meshed: bool,
        labels: Arc<str>,
        transport: Arc<Transport>,
    ) -> Self {
        Self {
            address,
            text: address.to_string().into(),
            party,
            meshed,
            transport,
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
