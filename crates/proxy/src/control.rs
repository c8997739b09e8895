//! The control thread: discovery, sending of records, and the admin address.
//!
//! Nothing here is on the way of a request.

mod backoff;
mod discovery;
mod heard;
mod keep;
mod policy;

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use whodunit_flight::{Outbox, Recorder};
use whodunit_model::BootId;
use whodunit_model::policy::Policy;
use whodunit_model::topology::ServiceName;
use whodunit_wire::tonic::transport::{Channel, Endpoint};

pub(crate) use backoff::Backoff;
pub(crate) use heard::Heard;

use crate::clock::Clock;
use crate::config::Config;
use crate::snapshot::{Owner, Snapshot};
use crate::stats::Stats;
use crate::tls::Source;
use crate::upstream::Known;
use crate::worker::{Ask, Phase};
use crate::{admin, limits, net, sending};

/// What the control thread is given.
pub(crate) struct Control {
    pub(crate) config: Arc<Config>,
    pub(crate) listeners: Vec<(String, SocketAddr)>,
    pub(crate) clock: Clock,
    pub(crate) boot: BootId,
    pub(crate) recorder: Recorder,
    pub(crate) outbox: Outbox,
    pub(crate) stats: Arc<Stats>,
    /// Where discovery is told to worker threads.
    pub(crate) services: HashMap<ServiceName, watch::Sender<Known>>,
    /// Keeps the certificate up to date, with an identity.
    pub(crate) identity: Option<Source>,
    /// The inbound listeners whose policy the server has.
    pub(crate) policies: Vec<Watched>,
    /// What the server said in the life before.
    pub(crate) snapshot: Snapshot,
    /// Questions to worker threads.
    pub(crate) asks: Vec<mpsc::Sender<Ask>>,
    pub(crate) admin: Option<net::Bound>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Becomes true when all worker threads have ended.
    pub(crate) stopped: watch::Receiver<bool>,
    pub(crate) seed: u64,
}

/// An inbound listener whose policy the server has.
pub(crate) struct Watched {
    pub(crate) listener: String,
    pub(crate) port: u16,
    /// Where the policy is told to worker threads.
    pub(crate) sender: watch::Sender<Arc<Policy>>,
}

/// What the tasks of the control thread tell each other.
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) listeners: Vec<(String, SocketAddr)>,
    pub(crate) clock: Clock,
    pub(crate) boot: BootId,
    pub(crate) recorder: Recorder,
    pub(crate) stats: Arc<Stats>,
    pub(crate) asks: Vec<mpsc::Sender<Ask>>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// One per discovered service.
    pub(crate) discovered: Vec<Rc<Heard>>,
    /// The proxy's clock minus the server's, µs, as last measured.
    pub(crate) clock_offset_us: Cell<i64>,
}

impl State {
    /// Returns how long discovery has not been connected, zero while it is, none without
    /// discovery. With several services the longest counts.
    pub(crate) fn discovery_age(&self) -> Option<Duration> {
        let now_us = self.clock.now_us();
        let age_us = self.discovered.iter().map(|heard| heard.age_us(now_us));
        let age_us = age_us.max()?;
        Some(Duration::from_micros(u64::try_from(age_us).unwrap_or(0)))
    }

    /// Says whether every service was answered for at least once.
    pub(crate) fn all_discovered(&self) -> bool {
        self.discovered.iter().all(|heard| heard.ever())
    }
}

/// Runs the control thread until the worker threads have ended and the last records are sent.
pub(crate) async fn run(control: Control) {
    limits::enter(&control.stats.limits);
    let Control {
        config,
        services,
        identity,
        policies,
        snapshot,
        clock,
        outbox,
        admin,
        mut stopped,
        seed,
        ..
    } = control;
    let mut streams = Vec::with_capacity(services.len());
    let mut discovered = Vec::with_capacity(services.len());
    let changed = Rc::new(Notify::new());
    let now_us = clock.now_us();
    let heard = |kept_us| Rc::new(Heard::new(kept_us, now_us, changed.clone()));
    for (name, sender) in services {
        let kept = snapshot.service(&name);
        let state = heard(kept.map(|service| service.heard_us));
        discovered.push(state.clone());
        streams.push((name, sender, state));
    }
    let watch = |watched: Watched| {
        let kept = snapshot.port(&watched.listener);
        let state = heard(kept.map(|port| port.heard_us));
        (watched, state)
    };
    let policies: Vec<_> = policies.into_iter().map(watch).collect();
    if let Some(path) = &config.snapshot {
        let service = |(name, sender, heard): &(ServiceName, watch::Sender<Known>, Rc<Heard>)| {
            (name.clone(), sender.subscribe(), heard.clone())
        };
        let port = |(watched, heard): &(Watched, Rc<Heard>)| {
            let policy = watched.sender.subscribe();
            (watched.listener.clone(), policy, heard.clone())
        };
        let keeper = keep::Keeper {
            path: path.clone(),
            owner: Owner::of(&config.workload),
            clock,
            services: streams.iter().map(service).collect(),
            policies: policies.iter().map(port).collect(),
            changed,
        };
        tokio::task::spawn_local(Rc::new(keeper).follow());
    }
    let state = Rc::new(State {
        config: config.clone(),
        listeners: control.listeners,
        clock,
        boot: control.boot,
        recorder: control.recorder,
        stats: control.stats,
        asks: control.asks,
        phase: control.phase,
        discovered,
        clock_offset_us: Cell::new(0),
    });
    for (index, (name, sender, stream)) in streams.into_iter().enumerate() {
        let Some(server) = config.control else { break };
        let backoff = Backoff::new(seed.wrapping_add(index as u64));
        let instance = config.workload.instance.to_string();
        tokio::task::spawn_local(discovery::follow(
            server, name, instance, sender, stream, clock, backoff,
        ));
    }
    if let Some(identity) = identity {
        tokio::task::spawn_local(identity.follow(seed ^ 0x1de7));
    }
    for (index, (watched, heard)) in policies.into_iter().enumerate() {
        let Some(server) = config.control else { break };
        let backoff = Backoff::new(seed.wrapping_add(0x901).wrapping_add(index as u64));
        let own = &config.workload;
        let workload = whodunit_wire::policy::workload(&own.namespace, &own.instance);
        tokio::task::spawn_local(policy::follow(
            server, workload, watched, heard, clock, backoff,
        ));
    }
    if let Some(listener) = admin {
        tokio::task::spawn_local(admin::serve(state.clone(), listener));
    }
    match config.record.server {
        Some(server) => {
            let backoff = Backoff::new(seed.wrapping_add(0x5eed));
            sending::run(state, server, outbox, backoff, stopped).await;
        }
        None => {
            // An error says that the proxy is gone.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }
}

/// Returns how to reach a server of ours over gRPC.
pub(crate) fn endpoint(server: SocketAddr) -> Option<Endpoint> {
    // The text of a socket address always is an authority.
    let endpoint = Channel::from_shared(format!("http://{server}")).ok()?;
    Some(
        endpoint
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true),
    )
}
