//! The control thread: discovery, sending of records, and the admin address.
//!
//! Nothing here is on the way of a request.

mod backoff;
mod discovery;
mod heard;
mod keep;
mod policy;
mod routes;
mod services;

use std::cell::{Cell, RefCell};
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
pub(crate) use routes::Routed;
pub(crate) use services::Services;

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
    /// The listeners whose routes the server has.
    pub(crate) routes: Vec<Routed>,
    /// The inbound listeners whose policy the server has.
    pub(crate) policies: Vec<Watched>,
    /// What the server said in the life before.
    pub(crate) snapshot: Snapshot,
    /// Addresses that connections went to, to be followed.
    pub(crate) wanted: mpsc::Receiver<Follow>,
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

/// An address to follow for as long as somebody listens.
pub(crate) struct Follow {
    pub(crate) address: SocketAddr,
    /// Where is told who lives there.
    pub(crate) sender: watch::Sender<Known>,
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
    /// The services that are followed.
    pub(crate) services: Rc<Services>,
    /// The proxy's clock minus the server's, µs, as last measured.
    pub(crate) clock_offset_us: Cell<i64>,
}

/// Runs the control thread until the worker threads have ended and the last records are sent.
pub(crate) async fn run(control: Control) {
    limits::enter(&control.stats.limits);
    let Control {
        config,
        services,
        identity,
        routes,
        policies,
        snapshot,
        clock,
        outbox,
        admin,
        mut wanted,
        mut stopped,
        seed,
        ..
    } = control;
    let changed = Rc::new(Notify::new());
    let followed = Rc::new(Services {
        server: config.control,
        instance: config.workload.instance.to_string(),
        clock,
        seed,
        changed: changed.clone(),
        all: RefCell::default(),
    });
    for (name, sender) in services {
        let kept = snapshot.service(&name).map(|kept| kept.heard_us);
        followed.follow(name, sender, kept);
    }
    let now_us = clock.now_us();
    let heard = |kept_us| Rc::new(Heard::new(kept_us, now_us, changed.clone()));
    let route = |routed: Routed| {
        let kept = snapshot.service(&routed.service);
        let kept = kept.filter(|kept| kept.routes.is_some());
        let heard = heard(kept.map(|kept| kept.heard_us));
        (routed, heard)
    };
    let routes: Vec<_> = routes.into_iter().map(route).collect();
    let watch = |watched: Watched| {
        let kept = snapshot.port(&watched.listener);
        let heard = heard(kept.map(|port| port.heard_us));
        (watched, heard)
    };
    let policies: Vec<_> = policies.into_iter().map(watch).collect();
    if let Some(path) = &config.snapshot {
        let route = |(routed, heard): &(Routed, Rc<Heard>)| {
            let routing = routed.sender.subscribe();
            (routed.service.clone(), routing, heard.clone())
        };
        let port = |(watched, heard): &(Watched, Rc<Heard>)| {
            let policy = watched.sender.subscribe();
            (watched.listener.clone(), policy, heard.clone())
        };
        let keeper = keep::Keeper {
            path: path.clone(),
            owner: Owner::of(&config.workload),
            clock,
            services: followed.clone(),
            routes: routes.iter().map(route).collect(),
            policies: policies.iter().map(port).collect(),
            changed,
        };
        tokio::task::spawn_local(keeper.follow());
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
        services: followed.clone(),
        clock_offset_us: Cell::new(0),
    });
    if config.control.is_some() {
        let services = followed.clone();
        tokio::task::spawn_local(async move {
            while let Some(Follow { address, sender }) = wanted.recv().await {
                services.follow_address(address, sender);
            }
        });
    }
    if let Some(identity) = identity {
        tokio::task::spawn_local(identity.follow(seed ^ 0x1de7));
    }
    let own = &config.workload;
    let workload = whodunit_wire::policy::workload(&own.namespace, &own.instance);
    for (index, (routed, heard)) in routes.into_iter().enumerate() {
        let Some(server) = config.control else { break };
        let backoff = Backoff::new(seed.wrapping_add(0x7007).wrapping_add(index as u64));
        let (workload, services) = (workload.clone(), followed.clone());
        tokio::task::spawn_local(routes::follow(
            server, workload, routed, heard, services, backoff,
        ));
    }
    for (index, (watched, heard)) in policies.into_iter().enumerate() {
        let Some(server) = config.control else { break };
        let backoff = Backoff::new(seed.wrapping_add(0x901).wrapping_add(index as u64));
        let workload = workload.clone();
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
