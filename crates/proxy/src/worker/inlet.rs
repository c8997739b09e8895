//! A listener on one thread, and the connections that came in through it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use whodunit_identity::SpiffeId;
use whodunit_identity::name::workload_of_dns;
use whodunit_model::policy::Policy;
use whodunit_model::record::{Detected, RequestRecord, Side, TlsState};
use whodunit_model::route_rule::RequestHead;
use whodunit_model::{Cause, Party};

use super::captures::Captures;
use super::routes::{Route, Routes, Routing};
use super::{Start, Worker, own_labels};
use crate::clock::Instant;
use crate::config::{Declared, ForwardProtocol, Listener, Target};
use crate::http::Claim;
use crate::limits::{self, Limit};
use crate::metrics::{Labels, Scope, ScopeKey, Transport};
use crate::net::TcpStream;
use crate::policy::Guard;
use crate::tls::{self, Security};
use crate::upstream::{
    Balancer, Connector, Endpoint, Known, Limiter, Mesh, destination_labels, plain_labels,
    target_labels,
};

/// Most identities of clients with series of their own per listener; the rest shares one.
const IDENTITIES_MAX: usize = 256;

/// How long an HTTP/2 client with open requests may be silent before it is asked whether it
/// is there.
const PING_AFTER: Duration = Duration::from_secs(10);

/// What an inlet is made from, besides its listener.
pub(super) struct Given {
    pub(super) address: SocketAddr,
    /// The address that redirected connections wanted, if the inlet stands for one.
    pub(super) wanted: Option<SocketAddr>,
    pub(super) discovery: Option<watch::Receiver<Known>>,
    pub(super) routing: watch::Receiver<Arc<Routing>>,
    pub(super) policy: (watch::Receiver<Arc<Policy>>, bool),
    pub(super) mesh: Mesh,
    pub(super) seed: u64,
    pub(super) captures: Option<Captures>,
}

/// A listener on one thread, or what stands for an address that redirected connections wanted.
pub(crate) struct Inlet {
    pub(crate) worker: Rc<Worker>,
    pub(super) listener: Listener,
    service: Arc<str>,
    wanted: Option<SocketAddr>,
    /// What redirected connections wanted, on the listener that accepts them.
    captures: Option<Captures>,
    /// Where requests go.
    pub(crate) balancer: Balancer,
    /// Keeps the application from more than it can do.
    pub(crate) limiter: Option<Rc<Limiter>>,
    /// What holds for which requests.
    routes: RefCell<Routes>,
    /// Where they come from.
    routing: RefCell<watch::Receiver<Arc<Routing>>>,
    seed: u64,
    /// Counts connections from clients.
    pub(crate) transport: Arc<Transport>,
    labels: Arc<str>,
    /// Decides who may ask for what.
    pub(crate) guard: Guard,
    address: SocketAddr,
    /// Labels of requests from peers with an identity.
    secured: RefCell<HashMap<Arc<str>, Arc<str>>>,
    /// An earlier connection turned out to be opaque because the server spoke first.
    pub(crate) server_speaks_first: Cell<bool>,
    /// The scope of inbound requests of the last client, by identity.
    last_scope: RefCell<Option<(Arc<str>, Rc<Scope>)>>,
    /// What the records of requests of the last connection begin with.
    pub(crate) template: RefCell<Option<Box<RequestRecord>>>,
}

impl Inlet {
    /// Counts a connection whose protocol was not recognized.
    pub(super) fn fell_back(&self) {
        self.worker.stats.fall_backs.add(&self.listener.name);
    }

    /// Returns the listeners of a thread.
    pub(super) fn all(worker: &Rc<Worker>, start: &mut Start) -> Vec<Rc<Self>> {
        let config = start.config.clone();
        let mesh = Mesh {
            tls: worker.tls.clone(),
            stats: worker.stats.identity.clone(),
        };
        let each = config.listeners.iter().zip(&start.addresses).enumerate();
        each.map(|(index, (listener, address))| {
            let discovery = start.discovery.get_mut(index).and_then(Option::take);
            let routing = start.routes[index].clone();
            let policy = start.policies[index].clone();
            let seed = start.seed.wrapping_add(index as u64);
            let captures = (listener.target == Target::OriginalDst).then(|| Captures {
                policy: policy.clone(),
                routing: routing.clone(),
                follow: start.follow.clone(),
                mesh: mesh.clone(),
                seed,
                addresses: RefCell::default(),
            });
            let given = Given {
                address: *address,
                wanted: None,
                discovery,
                routing,
                policy,
                mesh: mesh.clone(),
                seed,
                captures,
            };
            Self::new(worker, listener, given)
        })
        .collect()
    }

    /// Returns a listener, or what stands for an address that redirected connections wanted.
    pub(super) fn new(worker: &Rc<Worker>, listener: &Listener, given: Given) -> Rc<Self> {
        let config = &worker.config;
        let Given {
            address,
            mesh,
            seed,
            ..
        } = given;
        let own = own_labels(&config.workload);
        let direction = listener.direction.name();
        let plain = plain_labels(listener.direction, worker.tls.is_some(), false);
        let labels = target_labels(direction, address, &plain, &own);
        let peer = labels.clone().with("peer", "src").text();
        let service: Arc<str> = match (&listener.target, listener.direction) {
            (Target::Service(service), _) => service.name.as_str().into(),
            (_, Side::Inbound) => config.workload.workload.clone(),
            (_, Side::Outbound) => Arc::default(),
        };
        let mut routing = given.routing;
        let routes = Routes::new(&routing.borrow_and_update(), &own, &mesh, seed);
        // An endpoint at an address that nobody needs to look for.
        let at = |to: SocketAddr| {
            let identity = listener.server_identity.as_deref().unwrap_or_default();
            let peer = mesh.peer(identity, "");
            let (dst, party) = match listener.direction {
                Side::Inbound => (labels.clone(), config.workload.clone()),
                Side::Outbound => {
                    let tls = mesh.labels(peer.as_ref(), false);
                    let nobody = Party::default();
                    (destination_labels(&own, to, &nobody, "", &tls), nobody)
                }
            };
            let transport = dst.clone().with("peer", "dst").text();
            let transport = worker.metrics.transport(&transport);
            let mut connector = Connector::new(to, transport, peer, &mesh);
            if given.wanted.is_some() && listener.direction == Side::Inbound {
                connector = connector.sourced_from_loopback();
            }
            Endpoint::new(connector, party, false, dst.text().into())
        };
        let balancer = match (&listener.target, given.wanted, given.discovery) {
            (Target::Service(name), _, Some(discovery)) => {
                Balancer::discovered(name.clone(), discovery, own.clone(), seed, mesh.clone())
            }
            (Target::Forward(forward), _, _) => Balancer::fixed(at(*forward)),
            (Target::OriginalDst, Some(wanted), Some(discovery)) => {
                let own = own.clone();
                Balancer::at_address(at(wanted), discovery, own, seed, mesh.clone())
            }
            (Target::OriginalDst, Some(wanted), None) => Balancer::fixed(at(wanted)),
            // Connections go to what stands for the address that they wanted.
            (Target::OriginalDst, None, _) => Balancer::empty(),
            // A configuration without discovery has no such listener.
            (Target::Service(_), _, None) => Balancer::empty(),
        };
        let (policy, fixed) = given.policy;
        let server = Labels::default()
            .with("srv_group", "whodunit")
            .with("srv_kind", "listener")
            .with("srv_name", &listener.name);
        let mut guarded = labels.clone();
        guarded.join(&server);
        Rc::new(Self {
            guard: Guard::new(policy, fixed, listener.direction, guarded.text().into()),
            worker: worker.clone(),
            listener: listener.clone(),
            service,
            wanted: given.wanted,
            captures: given.captures,
            balancer,
            limiter: listener.adaptive_limit.then(Rc::default),
            routes: RefCell::new(routes),
            routing: RefCell::new(routing),
            seed,
            transport: worker.metrics.transport(&peer),
            labels: labels.text().into(),
            address,
            secured: RefCell::default(),
            server_speaks_first: Cell::new(false),
            last_scope: RefCell::default(),
            template: RefCell::default(),
        })
    }

    /// Returns what stands for the address that a connection wanted, itself where no
    /// connections are redirected to.
    ///
    /// # Errors
    /// When the connection is to be refused, and why.
    pub(super) fn of(self: &Rc<Self>, stream: &TcpStream) -> Result<Rc<Self>, Cause> {
        match &self.captures {
            None => Ok(self.clone()),
            Some(captures) => captures.inlet(self, stream),
        }
    }

    /// Waits until it is known whose address was wanted, but not for long.
    pub(super) async fn know(&self) {
        if self.wanted.is_some() {
            self.balancer.wait().await;
            self.balancer.refresh(&self.worker.metrics);
        }
    }

    /// Returns the service that is called, or served; empty if that is not known.
    pub(crate) fn service(&self) -> Arc<str> {
        if self.wanted.is_some() && self.side() == Side::Outbound {
            return self.balancer.service();
        }
        self.service.clone()
    }

    /// Says whether this still is the service that is called, or served.
    pub(crate) fn still_serves(&self, service: &Arc<str>) -> bool {
        self.wanted.is_none() || *service == self.service()
    }

    /// Returns the side records of this listener are made on.
    pub(crate) const fn side(&self) -> Side {
        self.listener.direction
    }

    /// Returns what holds for a request.
    pub(crate) fn route(&self, head: RequestHead<'_>) -> Rc<Route> {
        self.routes.borrow().of(head)
    }

    /// Says whether an address leads back into this proxy. Only an outbound request may go
    /// to an inbound listener: an application may call itself.
    pub(crate) fn leads_back(&self, address: SocketAddr) -> bool {
        self.worker.is_own_outbound(address)
            || (self.side() == Side::Inbound && self.worker.is_own(address))
    }

    /// Closes idle connections.
    pub(crate) fn sweep(&self, now: Instant) {
        self.balancer.sweep(now);
        self.follow_routes();
        self.routes.borrow().sweep(now);
        if let Some(captures) = &self.captures {
            captures.sweep(now);
        }
    }

    /// Takes over what holds for requests from now on, if that has changed.
    fn follow_routes(&self) {
        let mut routing = self.routing.borrow_mut();
        // An error says that it will never change.
        if !routing.has_changed().unwrap_or(false) {
            return;
        }
        let mesh = Mesh {
            tls: self.worker.tls.clone(),
            stats: self.worker.stats.identity.clone(),
        };
        let own = own_labels(&self.worker.config.workload);
        let routes = Routes::new(&routing.borrow_and_update(), &own, &mesh, self.seed);
        self.routes.replace(routes);
    }

    /// Returns what the listener is declared to speak.
    pub(crate) const fn protocol(&self) -> Declared {
        self.listener.protocol
    }

    /// Returns what endpoints are spoken to in.
    pub(crate) const fn forward_protocol(&self) -> ForwardProtocol {
        self.listener.forward_protocol
    }

    /// Returns the name of the listener.
    pub(crate) fn name(&self) -> &str {
        &self.listener.name
    }

    /// Returns the certificate in use, if TLS of peers is taken here.
    pub(crate) fn tls(&self) -> Option<&tls::Current> {
        let tls = self.worker.tls.as_ref();
        tls.filter(|_| self.side() == Side::Inbound)
    }

    /// Returns the labels of requests from a peer with this identity, empty for none.
    fn labels_of(&self, identity: &Arc<str>) -> Arc<str> {
        if identity.is_empty() || self.side() == Side::Outbound {
            return self.labels.clone();
        }
        let mut secured = self.secured.borrow_mut();
        if let Some(labels) = secured.get(identity) {
            return labels.clone();
        }
        let shown = if secured.len() < IDENTITIES_MAX {
            identity
        } else {
            "[OTHER]"
        };
        let security = Labels::default()
            .with("tls", "true")
            .with("client_id", shown);
        let own = own_labels(&self.worker.config.workload);
        let labels: Arc<str> = target_labels("inbound", self.address, &security, &own)
            .text()
            .into();
        if secured.len() < IDENTITIES_MAX {
            secured.insert(identity.clone(), labels.clone());
        }
        labels
    }

    /// Returns the scope of requests that have no endpoint of their own; `client` is the
    /// identity of who sent them, empty without one.
    pub(crate) fn scope(&self, authority: &Arc<str>, client: &Arc<str>) -> Rc<Scope> {
        let metrics = &self.worker.metrics;
        if self.side() == Side::Inbound
            && let Some((known, scope)) = &*self.last_scope.borrow()
            && Arc::ptr_eq(known, client)
        {
            return scope.clone();
        }
        let authority = match self.side() {
            // As in Linkerd: what strangers write there is no label.
            Side::Inbound => Arc::default(),
            Side::Outbound => self.worker.authority_label(authority),
        };
        let scope = metrics.scope(&ScopeKey {
            base: self.labels_of(client),
            authority,
        });
        // Whoever has no room is counted each time.
        if self.side() == Side::Inbound && !metrics.is_overflow(&scope) {
            *self.last_scope.borrow_mut() = Some((client.clone(), scope.clone()));
        }
        scope
    }
}

/// What the task of a connection is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// End when the open requests have ended.
    End,
    /// Ask the client whether it is there.
    Ping,
    /// End at once: the client did not answer.
    Leave,
    /// End at once: the client takes too long for a head.
    Refuse,
}

/// A connection from a client.
pub(crate) struct Connection {
    pub(crate) inlet: Rc<Inlet>,
    /// Who connected.
    pub(crate) peer: SocketAddr,
    /// How the protocol was known.
    pub(crate) detected: Detected,
    /// Whether it is encrypted by the mesh.
    pub(crate) tls: TlsState,
    /// Who connected, by certificate.
    pub(crate) identity: Option<Arc<str>>,
    /// The workload that the certificate names, with an identity.
    party: Option<Party>,
    /// Tells the task of the connection to end it.
    pub(crate) close: Notify,
    want: Cell<Want>,
    pub(super) slot: Cell<usize>,
    /// Heads can be judged to be late only where requests follow each other.
    sequential: bool,
    in_flight: Cell<u32>,
    read: Arc<AtomicU64>,
    /// Bytes read when the last request ended, and since when there was none.
    idle: Cell<(u64, Instant)>,
    /// Since when there are bytes that are no request yet.
    head_since: Cell<Option<Instant>>,
    /// Bytes read when the client last said something on HTTP/2, when that was seen, and
    /// whether it was asked since.
    heard: Cell<(u64, Instant, bool)>,
}

impl Connection {
    /// Returns a connection without requests; `sequential` says that it is HTTP/1.
    pub(crate) fn new(
        inlet: &Rc<Inlet>,
        peer: SocketAddr,
        detected: Detected,
        sequential: bool,
        read: Arc<AtomicU64>,
        security: Security,
    ) -> Self {
        Self {
            inlet: inlet.clone(),
            peer,
            detected,
            tls: security.tls,
            party: security.identity.as_deref().map(party_of),
            identity: security.identity,
            close: Notify::new(),
            want: Cell::new(Want::End),
            slot: Cell::new(0),
            sequential,
            in_flight: Cell::new(0),
            // Bytes that were read to detect HTTP/1 are the begin of a head.
            idle: Cell::new((0, Instant::now())),
            read,
            head_since: Cell::new(None),
            heard: Cell::new((0, Instant::now(), false)),
        }
    }

    /// Leaves of what the headers of a request claim what the client has proven: its id is
    /// believed of peers with a certificate, or where nobody has one, and its sender as far
    /// as the certificate says the same.
    pub(crate) fn proven(&self, claim: Claim) -> Claim {
        if self.inlet.tls().is_none() {
            return claim;
        }
        let Some(party) = &self.party else {
            return Claim::default();
        };
        let same =
            |from: &Party| from.namespace == party.namespace && from.workload == party.workload;
        Claim {
            id: claim.id,
            from: Some(claim.from.filter(same).unwrap_or_else(|| party.clone())),
            hops: claim.hops,
        }
    }

    /// Counts a request while the guard lives.
    pub(crate) fn begin_request(self: &Rc<Self>) -> Busy {
        self.in_flight.set(self.in_flight.get() + 1);
        if self.sequential {
            self.head_since.set(None);
        }
        Busy(self.clone())
    }

    /// Notes whether something other than a body has begun to arrive on HTTP/2 and not ended.
    pub(crate) fn note_mid_head(&self, mid_head: bool) {
        if mid_head != self.head_since.get().is_some() {
            self.head_since.set(mid_head.then(Instant::now));
        }
    }

    /// Waits until the connection is asked for something.
    pub(crate) async fn wanted(&self) -> Want {
        self.close.notified().await;
        self.want.get()
    }

    fn ask(&self, want: Want) {
        self.want.set(want);
        self.close.notify_one();
    }

    fn sweep_http2(&self, now: Instant) {
        let late = |since| now.saturating_duration_since(since) > Limit::HeadTime.time();
        if self.head_since.get().is_some_and(late) {
            limits::hit(Limit::HeadTime);
            return self.ask(Want::Refuse);
        }
        let read = self.read.load(Ordering::Relaxed);
        let (before, since, asked) = self.heard.get();
        let quiet = now.saturating_duration_since(since);
        if read != before || self.in_flight.get() == 0 {
            self.heard.set((read, now, false));
        } else if quiet > PING_AFTER + Limit::PingTime.time() {
            self.ask(Want::Leave);
        } else if quiet > PING_AFTER && !asked {
            self.heard.set((read, since, true));
            self.ask(Want::Ping);
        }
    }

    /// Ends the connection if its client takes too long.
    pub(super) fn sweep(&self, now: Instant) {
        if !self.sequential {
            self.sweep_http2(now);
        }
        if self.in_flight.get() > 0 {
            return;
        }
        // How long a head of HTTP/1 may take is its codec's to say.
        let (_, idle_since) = self.idle.get();
        if now.saturating_duration_since(idle_since) > Limit::IdleTime.time() {
            limits::hit(Limit::IdleTime);
            self.ask(Want::End);
        }
    }
}

/// Returns the workload that an identity names, empty where it is no name of the mesh's own
/// form. In a local mesh account and workload are the same.
fn party_of(identity: &str) -> Party {
    let id = SpiffeId::parse(identity).ok();
    let spiffe = id.as_ref().and_then(SpiffeId::workload);
    let dns = || workload_of_dns(identity).map(|(namespace, account, _)| (namespace, account));
    let (namespace, account) = spiffe.or_else(dns).unwrap_or_default();
    Party {
        namespace: namespace.into(),
        workload: account.into(),
        ..Party::default()
    }
}

/// Counts one request of a connection as open.
pub(crate) struct Busy(Rc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.in_flight.set(connection.in_flight.get() - 1);
        // Since when it is idle matters only when it is.
        if connection.in_flight.get() == 0 {
            connection
                .idle
                .set((connection.read.load(Ordering::Relaxed), Instant::now()));
        }
    }
}
