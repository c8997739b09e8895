//! One worker thread: listeners, connections, and what their requests share.

mod accept;
mod captures;
mod inlet;
mod routes;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{mpsc, oneshot, watch};
use whodunit_flight::Recorder;
use whodunit_model::policy::Policy;
use whodunit_model::record::Side;
use whodunit_model::route::RouteNames;
use whodunit_model::{Cause, Party};

pub(crate) use inlet::{Connection, Inlet, Want};
pub(crate) use routes::{Route, Routing};

use crate::call::OpenCalls;
use crate::clock::Clock;
use crate::clock::Instant;
use crate::config::Config;
use crate::control::Follow;
use crate::limits::{self, Limit};
use crate::metrics::{Labels, Metrics, Snapshot};
use crate::net;
use crate::stats::Stats;
use crate::strings::Strings;
use crate::targets::Targets;
use crate::tls;
use crate::upstream::Known;

/// Most callers that are remembered per thread.
const CALLERS_MAX: usize = 1_024;

/// How often open requests and idle connections are looked at.
const SWEEP: Duration = Duration::from_millis(250);

/// How often it is looked whether what is open has ended, once the process is to end.
const DRAIN_TICK: Duration = Duration::from_millis(10);

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Serving.
    Running,
    /// Finishing what is open; nothing new is accepted.
    Draining,
}

/// A question of the control thread.
pub(crate) enum Ask {
    /// The numbers of this thread.
    Metrics(oneshot::Sender<Snapshot>),
}

/// What a worker thread is given.
pub(crate) struct Start {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) recorder: Recorder,
    pub(crate) stats: Arc<Stats>,
    /// One socket per listener of the configuration.
    pub(crate) sockets: Vec<net::Bound>,
    /// The address of each listener.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Discovery of each listener that has it.
    pub(crate) discovery: Vec<Option<watch::Receiver<Known>>>,
    /// Policy of each listener, and whether it never changes.
    pub(crate) policies: Vec<(watch::Receiver<Arc<Policy>>, bool)>,
    /// What holds for the requests of each listener.
    pub(crate) routes: Vec<watch::Receiver<Arc<Routing>>>,
    /// Tells the control thread which addresses to follow, if there is discovery.
    pub(crate) follow: Option<mpsc::Sender<Follow>>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) asks: mpsc::Receiver<Ask>,
    /// The certificate in use, with an identity.
    pub(crate) tls: Option<tls::Current>,
    /// For balancing.
    pub(crate) seed: u64,
}

/// What the requests of a thread share.
pub(crate) struct Worker {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) recorder: Recorder,
    pub(crate) stats: Arc<Stats>,
    pub(crate) metrics: Metrics,
    pub(crate) calls: RefCell<OpenCalls>,
    pub(crate) routes: RefCell<RouteNames>,
    /// Tells peers who calls.
    pub(crate) from_header: HeaderValue,
    /// The certificate in use, with an identity.
    pub(crate) tls: Option<tls::Current>,
    /// Why a call that is dropped now was given up; set around such drops only.
    pub(crate) given_up: Cell<Cause>,
    swept: Cell<Instant>,
    connections: RefCell<Vec<Rc<Connection>>>,
    strings: RefCell<Strings>,
    /// What records say about recent targets.
    pub(crate) targets: RefCell<Targets>,
    authorities: RefCell<Strings>,
    callers: RefCell<HashMap<Box<str>, Party>>,
    own_outbound: Vec<SocketAddr>,
    own: Vec<SocketAddr>,
    in_flight_max: usize,
    connections_max: usize,
}

impl Worker {
    fn new(start: &Start) -> Self {
        let own_outbound = start.config.listeners.iter().zip(&start.addresses);
        let own_outbound =
            own_outbound.filter(|(listener, _)| listener.direction == Side::Outbound);
        let threads = start.config.workers;
        Self {
            clock: start.clock,
            recorder: start.recorder.clone(),
            stats: start.stats.clone(),
            metrics: Metrics::new(&own_labels(&start.config.workload), threads),
            calls: RefCell::default(),
            routes: RefCell::default(),
            from_header: from_header(&start.config.workload),
            tls: start.tls.clone(),
            given_up: Cell::new(Cause::ClientCancelled),
            swept: Cell::new(Instant::now()),
            connections: RefCell::default(),
            strings: RefCell::default(),
            targets: RefCell::default(),
            authorities: RefCell::default(),
            callers: RefCell::default(),
            own: start.addresses.clone(),
            own_outbound: own_outbound.map(|(_, address)| *address).collect(),
            in_flight_max: Limit::InFlight.count() / threads,
            connections_max: Limit::Connections.count() / threads,
            config: start.config.clone(),
        }
    }

    /// Returns a shared copy of a text.
    pub(crate) fn share(&self, text: &str) -> Arc<str> {
        self.strings.borrow_mut().share(text)
    }

    /// Returns the authority as a label: clients choose it, so there is a bound.
    pub(crate) fn authority_label(&self, authority: &Arc<str>) -> Arc<str> {
        let shared = self
            .authorities
            .borrow_mut()
            .share_within(authority, Limit::Authorities.count());
        shared.unwrap_or_else(|| {
            limits::hit(Limit::Authorities);
            "[OTHER]".into()
        })
    }

    /// Reads who calls from the header of another proxy.
    pub(crate) fn caller(&self, text: &str) -> Option<Party> {
        if let Some(known) = self.callers.borrow().get(text) {
            return Some(known.clone());
        }
        let party = parse_from(text)?;
        let mut callers = self.callers.borrow_mut();
        if callers.len() < CALLERS_MAX {
            callers.insert(text.into(), party.clone());
        }
        Some(party)
    }

    /// Says whether there are too many requests in flight.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.calls.borrow().len() > self.in_flight_max
    }

    /// Says whether a port is one that this very proxy listens on.
    pub(crate) fn is_own_port(&self, port: u16) -> bool {
        self.own.iter().any(|own| own.port() == port)
    }

    /// Says whether an address is an outbound listener of this very proxy.
    pub(crate) fn is_own_outbound(&self, address: SocketAddr) -> bool {
        is_among(&self.own_outbound, address)
    }

    /// Says whether an address is a listener of this very proxy.
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        is_among(&self.own, address)
    }
}

/// Returns the labels of the workload that each series has.
pub(crate) fn own_labels(workload: &Party) -> Labels {
    Labels::default()
        .with("namespace", &workload.namespace)
        .with("deployment", &workload.workload)
        .with("pod", &workload.instance)
}

/// `namespace/workload/instance/version`, each percent-encoded.
fn from_header(workload: &Party) -> HeaderValue {
    let parts = [
        &workload.namespace,
        &workload.workload,
        &workload.instance,
        &workload.version,
    ];
    let text = parts.map(|part| escape(part)).join("/");
    // Escaped text is printable ASCII.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("///"))
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn parse_from(text: &str) -> Option<Party> {
    if text.len() > 1_024 {
        return None;
    }
    let mut parts = text.split('/').map(unescape);
    let mut next = || parts.next().flatten();
    let party = Party {
        namespace: next()?.into(),
        workload: next()?.into(),
        instance: next()?.into(),
        version: next()?.into(),
    };
    parts.next().is_none().then_some(party)
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(bytes.next()?)? * 16 + digit(bytes.next()?)?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out)
        .ok()
        .filter(|text| !text.chars().any(char::is_control))
}

fn is_among(listeners: &[SocketAddr], address: SocketAddr) -> bool {
    listeners.iter().any(|own| {
        let any = own.ip().is_unspecified() && address.ip().is_loopback();
        own.port() == address.port() && (any || own.ip() == address.ip())
    })
}

/// Runs a worker thread until the process is to end.
pub(crate) async fn run(mut start: Start) {
    limits::enter(&start.stats.limits);
    let worker = Rc::new(Worker::new(&start));
    let inlets: Vec<Rc<Inlet>> = Inlet::all(&worker, &mut start);
    // What comes in is finished first: for that the application may have to call others.
    let outbound = watch::Sender::new(Phase::Running);
    let mut accepting = Vec::with_capacity(inlets.len());
    for (inlet, socket) in inlets.iter().zip(start.sockets.drain(..)) {
        let side = inlet.side();
        let phase = match side {
            Side::Inbound => start.phase.clone(),
            Side::Outbound => outbound.subscribe(),
        };
        let accept = accept::accept(inlet.clone(), socket, phase);
        accepting.push((side, tokio::task::spawn_local(accept)));
    }
    tokio::task::spawn_local(crate::coalesce::write_gathered());
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => worker.sweep(&inlets),
            // Whoever asked may have stopped waiting.
            Some(Ask::Metrics(answer)) = start.asks.recv() => {
                drop(answer.send(worker.metrics.snapshot()));
            }
            // An error says that whoever could start draining is gone: the same, then.
            _ = start.phase.wait_for(|phase| *phase == Phase::Draining) => break,
        }
    }
    let deadline = Instant::now() + worker.config.shutdown_grace;
    let mut ticks = tokio::time::interval(DRAIN_TICK);
    for side in [Side::Inbound, Side::Outbound] {
        if side == Side::Outbound {
            outbound.send_replace(Phase::Draining);
        }
        loop {
            // What was accepted last gets its turn to be counted as busy.
            tokio::task::yield_now().await;
            let mut accepting = accepting.iter().filter(|(accepting, _)| *accepting == side);
            let accepts = accepting.any(|(_, accept)| !accept.is_finished());
            if Instant::now() >= deadline || !(accepts || worker.is_busy(side)) {
                break;
            }
            tokio::select! {
                _ = ticks.tick() => worker.sweep_sometimes(&inlets),
                Some(Ask::Metrics(answer)) = start.asks.recv() => {
                    drop(answer.send(worker.metrics.snapshot()));
                }
            }
        }
    }
    // What is open now ends with the runtime, and is recorded as ended by the shutdown.
    for _ in 0..worker.calls.borrow().len() {
        limits::hit(Limit::ShutdownTime);
    }
    worker.stats.stopping.store(true, Ordering::Relaxed);
}

impl Worker {
    fn sweep(&self, inlets: &[Rc<Inlet>]) {
        let now = Instant::now();
        self.swept.set(now);
        self.calls.borrow().sweep(&self.recorder, now);
        for inlet in inlets {
            inlet.sweep(now);
        }
        for connection in self.connections.borrow().iter() {
            connection.sweep(now);
        }
    }

    /// Sweeps if it is time to.
    fn sweep_sometimes(&self, inlets: &[Rc<Inlet>]) {
        if self.swept.get().elapsed() >= SWEEP {
            self.sweep(inlets);
        }
    }

    /// Says whether clients of one side are connected.
    pub(crate) fn has_clients(&self, side: Side) -> bool {
        let connections = self.connections.borrow();
        connections.iter().any(|client| client.inlet.side() == side)
    }

    /// Says whether anything of one side is open; upgraded connections are calls only.
    fn is_busy(&self, side: Side) -> bool {
        self.has_clients(side) || self.calls.borrow().any_of(side)
    }

    /// Registers a connection, unless there are too many.
    fn add_connection(&self, connection: Rc<Connection>) -> bool {
        let mut connections = self.connections.borrow_mut();
        if connections.len() >= self.connections_max {
            limits::hit(Limit::Connections);
            return false;
        }
        connection.slot.set(connections.len());
        connections.push(connection);
        self.stats.open_connections.add();
        true
    }

    fn remove_connection(&self, connection: &Connection) {
        let mut connections = self.connections.borrow_mut();
        let slot = connection.slot.get();
        connections.swap_remove(slot);
        if let Some(moved) = connections.get(slot) {
            moved.slot.set(slot);
        }
        self.stats.open_connections.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_travel_whatever_their_names() {
        let party = Party {
            namespace: "a/b".into(),
            workload: "wörk".into(),
            instance: "w-0".into(),
            version: Arc::default(),
        };
        let header = from_header(&party);
        assert_eq!(header, "a%2Fb/w%C3%B6rk/w-0/");
        assert_eq!(parse_from(header.to_str().unwrap()), Some(party));
        for junk in [
            "",
            "a/b/c",
            "a/b/c/d/e",
            "a/b/c/%",
            "a/b/c/%zz",
            "a/b/c/%00",
            "a/b/c/%ff",
        ] {
            assert_eq!(parse_from(junk), None, "{junk}");
        }
    }
}
