//! One address requests can go to, with its connections.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use whodunit_model::record::Side;
use whodunit_model::{Cause, Party};

use crate::clock::Instant;
use crate::log::Rarely;
use crate::metrics::{Labels, Metrics, Scope, ScopeKey, Transport};
use crate::net::{self, Io};
use crate::stats::IdentityStats;
use crate::tls::{self, Peer};
use crate::upstream::health::{Crowd, Health};
use crate::upstream::latency::PeakEwma;
use crate::upstream::{http1, http2, plain_labels};

/// What a failure counts as at least when endpoints are compared: one that fails at once must
/// not look like the fastest.
const FAILED_AS: Duration = Duration::from_millis(250);

/// Most authorities whose scope is remembered per endpoint; later ones take the slow way.
const SCOPES_MAX: usize = 16;

/// How long it is remembered that an endpoint has no HTTP/2: what answered may have been
/// something that only stood in for it.
const HTTP1_KNOWN: Duration = Duration::from_secs(600);

/// How many new HTTP/1 connections may fail in a row before that is forgotten.
const DOUBTS_MAX: u8 = 3;

thread_local! {
    /// Logs handshakes that failed.
    static INSECURE: Rarely = const { Rarely::new() };
}

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
    /// Where connections come from; none leaves it to the system.
    source: Option<IpAddr>,
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
            source: None,
            transport,
            peer,
            stats: mesh.stats.clone(),
        }
    }

    /// Connects from a loopback address. Rules that redirect connections to this machine's own
    /// addresses leave such ones alone.
    pub(crate) fn sourced_from_loopback(mut self) -> Self {
        self.source = Some(match self.address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
        self
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
        let stream = net::connect(self.source, self.address).await?;
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
                if let Some(unlogged) = INSECURE.with(Rarely::due) {
                    let address = &self.address;
                    tracing::warn!(%address, why = failed.why, unlogged, "no secure connection");
                }
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
    latency: PeakEwma,
    pub(super) health: Health,
    pub(super) http1: http1::Pool,
    pub(super) http2: http2::Pool,
    /// Until when it is taken for one without HTTP/2, and how often that failed since.
    lacks_http2: Cell<Option<(Instant, u8)>>,
    /// It has spoken HTTP/2.
    spoke_http2: Cell<bool>,
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
            latency: PeakEwma::new(None, Instant::now()),
            health: Health::new(Rc::default()),
            http1: http1::Pool::default(),
            http2: http2::Pool::default(),
            lacks_http2: Cell::new(None),
            spoke_http2: Cell::new(false),
        }
    }

    /// Makes it one of several endpoints, which take about `like_us` to answer.
    pub(super) fn among(mut self, crowd: &Rc<Crowd>, like_us: Option<f64>) -> Self {
        self.latency = PeakEwma::new(like_us, Instant::now());
        self.health = Health::new(crowd.clone());
        self
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

    /// Returns what one more request would cost here: what balancing goes by.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        self.latency.cost(self.in_flight.get(), now)
    }

    /// Returns how long it takes to answer, as far as that is known.
    pub(super) fn estimate_us(&self, now: Instant) -> f64 {
        self.latency.estimate_us(now)
    }

    /// Says whether it answered the preface of HTTP/2 in other words, not long ago.
    pub(super) fn lacks_http2(&self) -> bool {
        let Some((until, _)) = self.lacks_http2.get() else {
            return false;
        };
        let lacks = Instant::now() < until;
        if !lacks {
            self.forget_lack_of_http2();
        }
        lacks
    }

    /// Says whether one that hangs up may be one that does not know HTTP/2, rather than one
    /// that ends: proxies of ours know it, and so does what has spoken it before.
    pub(super) const fn may_lack_http2(&self) -> bool {
        !self.meshed && !self.spoke_http2.get()
    }

    /// Notes that it speaks HTTP/2.
    pub(super) fn note_http2(&self) {
        self.spoke_http2.set(true);
    }

    /// Notes that it speaks HTTP/1 only.
    pub(super) fn note_lack_of_http2(&self) {
        if self.lacks_http2.get().is_none() {
            tracing::info!(address = %self.address, "an endpoint speaks HTTP/1 only");
        }
        self.lacks_http2
            .set(Some((Instant::now() + HTTP1_KNOWN, 0)));
    }

    /// Notes that a new HTTP/1 connection got no answer; `surely` says that frames came.
    pub(super) fn doubt_lack_of_http2(&self, surely: bool) {
        let left = self.lacks_http2.get().filter(|_| !surely);
        let left = left.filter(|(_, doubts)| doubts + 1 < DOUBTS_MAX);
        self.lacks_http2
            .set(left.map(|(until, doubts)| (until, doubts + 1)));
    }

    /// Takes it for one that may speak HTTP/2 again.
    pub(super) fn forget_lack_of_http2(&self) {
        self.lacks_http2.set(None);
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.http1.sweep(now);
        if self.http2.sweep() {
            self.health.leaves(now);
        }
    }
}

/// Counts one request as in flight to an endpoint while it lives, and tells the endpoint's
/// health how it went. A request that ends without telling counts neither way.
pub(crate) struct InFlight {
    endpoint: Rc<Endpoint>,
    probe: bool,
    sent: Cell<Instant>,
    told: Cell<bool>,
}

impl InFlight {
    /// Begins to count.
    pub(crate) fn begin(endpoint: &Rc<Endpoint>) -> Self {
        endpoint.in_flight.set(endpoint.in_flight.get() + 1);
        let now = Instant::now();
        Self {
            probe: endpoint.health.choose(now),
            endpoint: endpoint.clone(),
            sent: Cell::new(now),
            told: Cell::new(false),
        }
    }

    /// Notes that there is a connection, and that the request goes out now.
    pub(crate) fn sent(&self, now: Instant) {
        self.endpoint.health.connected();
        self.sent.set(now);
    }

    /// Notes that there is no connection.
    pub(crate) fn unreachable(&self, cause: Cause) {
        let now = Instant::now();
        let late = cause == Cause::ConnectTimeout;
        self.endpoint.health.unreachable(late, now);
        self.slow(now);
        self.told.set(true);
    }

    /// Notes the head of a response; whether it is a good one, its end tells. Returns how long
    /// it took, and when it was.
    pub(crate) fn answered(&self) -> (Duration, Instant) {
        let now = Instant::now();
        let sent = self.sent.get();
        let latency = now.saturating_duration_since(sent);
        self.endpoint.latency.observe(latency, now);
        (latency, now)
    }

    /// Notes that the endpoint answered well.
    pub(crate) fn succeeded(&self) {
        if !self.told.replace(true) {
            self.endpoint.health.succeeded();
        }
    }

    /// Notes that the endpoint answered with a failure of its own.
    pub(crate) fn answered_badly(&self) {
        if !self.told.replace(true) {
            self.endpoint.health.failed(Instant::now());
        }
    }

    /// Notes that the endpoint did not answer, or not to the end.
    pub(crate) fn failed(&self) {
        if !self.told.replace(true) {
            let now = Instant::now();
            self.endpoint.health.failed(now);
            self.slow(now);
        }
    }

    /// Counts a failure as a slow answer.
    fn slow(&self, now: Instant) {
        let took = now.saturating_duration_since(self.sent.get());
        self.endpoint.latency.observe(took.max(FAILED_AS), now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let endpoint = &self.endpoint;
        endpoint.in_flight.set(endpoint.in_flight.get() - 1);
        if self.probe && !self.told.get() {
            endpoint.health.probe_abandoned(Instant::now());
        }
    }
}
