//! Starts the threads of a proxy, and ends them in order.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use whodunit_flight::{Counters, Recorder};
use whodunit_model::BootId;
use whodunit_model::record::Side;
use whodunit_model::topology::ServiceName;

use crate::clock::Clock;
use crate::config::{Config, Target};
use crate::control::{self, Control, Routed, Watched};
use crate::net::{self, Bound};
use crate::snapshot::{self, Owner, Snapshot};
use crate::stats::Stats;
use crate::thread::{self, Thread};
use crate::tls::Source;
use crate::upstream::Known;
use crate::worker::{self, Phase, Routing, Start};

/// Questions that may wait for a worker thread.
const ASKS_MAX: usize = 8;

/// Addresses that may wait for the control thread to follow them.
const FOLLOWS_MAX: usize = 64;

/// Starts proxies.
#[derive(Debug)]
pub struct Proxy;

/// A proxy at work. Dropping it ends it in order, as [`Running::shutdown`] does.
pub struct Running {
    listeners: Vec<(String, SocketAddr)>,
    admin: Option<SocketAddr>,
    boot: BootId,
    recorder: Recorder,
    stats: Arc<Stats>,
    phase: watch::Sender<Phase>,
    stop: watch::Sender<bool>,
    workers: Vec<Thread>,
    control: Option<Thread>,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process listens there.
    #[error(
        "listener `{name}`: {address} is used by another process; stop it or choose another port"
    )]
    PortTaken {
        /// The listener.
        name: String,
        /// Its address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("listener `{name}`: listen on {address}")]
    Listen {
        /// The listener.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificate, private key or trust anchors cannot be used.
    #[error("identity: {why}")]
    Identity {
        /// The file, and what is wrong with it.
        why: String,
    },
    /// The system refused a thread, a runtime or random numbers.
    #[error("start the proxy")]
    System {
        /// Why.
        source: io::Error,
    },
}

impl From<io::Error> for StartError {
    fn from(source: io::Error) -> Self {
        Self::System { source }
    }
}

impl Proxy {
    /// Opens all listeners and starts the threads. When this returns, connections are
    /// accepted.
    ///
    /// # Errors
    /// When an address is taken or the system refuses a resource.
    pub fn start(config: Config) -> Result<Running, StartError> {
        Self::start_with(config, || getrandom::u64().map_err(io::Error::other))
    }

    /// Starts one inside a simulated network, with every choice made by `seed`.
    ///
    /// # Errors
    /// When an address is taken.
    #[cfg(feature = "simulation")]
    pub fn simulate(config: Config, mut seed: u64) -> Result<Running, StartError> {
        Self::start_with(config, || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            Ok((seed ^ (seed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9))
        })
    }

    fn start_with(
        config: Config,
        mut random: impl FnMut() -> io::Result<u64>,
    ) -> Result<Running, StartError> {
        let config = Arc::new(config);
        let mut shards: Vec<Vec<Bound>> = (0..config.workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let sockets = open(&listener.name, listener.listen, config.workers)?;
            addresses.push(
                sockets
                    .first()
                    .map_or(Ok(listener.listen), |s| s.local_addr())?,
            );
            for (shard, socket) in shards.iter_mut().zip(sockets) {
                shard.push(socket);
            }
        }
        let admin = match config.admin {
            Some(address) => open("admin", address, 1)?.pop(),
            None => None,
        };
        let admin_address = admin.as_ref().map(Bound::local_addr).transpose()?;
        let boot = BootId(random()?);
        let (recorder, outbox) = Recorder::new(whodunit_flight::Config {
            mode: config.record.mode,
            queue_rows: config.record.queue_rows,
            buffer_bytes: config.record.buffer_bytes,
            ..whodunit_flight::Config::new(boot)
        });
        let stats = Arc::new(Stats::default());
        let identity = match &config.identity {
            Some(identity) => Some(
                Source::start(identity.clone(), stats.identity.clone())
                    .map_err(|why| StartError::Identity { why })?,
            ),
            None => None,
        };
        let clock = Clock::start();
        let own = &config.workload;
        let snapshot = match &config.snapshot {
            Some(path) => snapshot::load(path, own, clock.now_us()),
            None => Snapshot::empty(Owner::of(own)),
        };
        let known = |name: &ServiceName| {
            let kept = snapshot.service(name);
            watch::Sender::new(kept.map_or_else(Known::default, |kept| Known {
                heard: true,
                destination: kept.destination(),
            }))
        };
        let (phase, phases) = watch::channel(Phase::Running);
        let (stop, stopped) = watch::channel(false);
        let mut services: HashMap<ServiceName, watch::Sender<Known>> = HashMap::new();
        let mut watched = Vec::new();
        let mut policies = Vec::with_capacity(config.listeners.len());
        for (listener, address) in config.listeners.iter().zip(&addresses) {
            // The server knows the ports of instances; other ports have what is written here.
            let is_watched = config.policy_watch
                && listener.direction == Side::Inbound
                && listener.target != Target::OriginalDst;
            let kept = snapshot.port(&listener.name).filter(|_| is_watched);
            let policy = kept.map_or(&listener.policy, |kept| &kept.policy);
            let (sender, policy) = watch::channel(Arc::new(policy.clone()));
            if is_watched {
                watched.push(Watched {
                    listener: listener.name.clone(),
                    port: listener.port.unwrap_or_else(|| address.port()),
                    sender,
                });
            }
            policies.push((policy, !is_watched));
        }
        let mut routed = Vec::new();
        let mut routes = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let service = match &listener.target {
                Target::Service(name) if config.routes_watch => Some(name),
                Target::Service(_) | Target::Forward(_) | Target::OriginalDst => None,
            };
            let kept = service.and_then(|name| snapshot.service(name)?.routes.as_ref());
            let rules = kept.unwrap_or(&listener.routes).clone();
            let shares = rules.iter().flat_map(|rule| &rule.split);
            let split = shares.map(|share| {
                let sender = services.entry(share.service.clone());
                let sender = sender.or_insert_with(|| known(&share.service));
                sender.subscribe()
            });
            let split = split.collect();
            let (sender, routing) = watch::channel(Arc::new(Routing { rules, split }));
            routed.extend(service.map(|name| Routed {
                service: name.clone(),
                sender,
            }));
            routes.push(routing);
        }
        let mut asks = Vec::with_capacity(config.workers);
        let (follow, wanted) = mpsc::channel(FOLLOWS_MAX);
        let follow = config.control.map(|_| follow);
        let names = config
            .listeners
            .iter()
            .map(|listener| listener.name.clone());
        let mut running = Running {
            listeners: names.zip(addresses.iter().copied()).collect(),
            admin: admin_address,
            boot,
            recorder: recorder.clone(),
            stats: stats.clone(),
            phase,
            stop,
            workers: Vec::with_capacity(config.workers),
            control: None,
        };
        for (index, sockets) in shards.into_iter().enumerate() {
            let (ask, asked) = mpsc::channel(ASKS_MAX);
            asks.push(ask);
            let discovery = config
                .listeners
                .iter()
                .map(|listener| match &listener.target {
                    Target::Service(name) => {
                        let sender = services.entry(name.clone());
                        Some(sender.or_insert_with(|| known(name)).subscribe())
                    }
                    Target::Forward(_) | Target::OriginalDst => None,
                });
            let discovery: Vec<_> = discovery.collect();
            let start = Start {
                config: config.clone(),
                clock,
                recorder: recorder.clone(),
                stats: stats.clone(),
                sockets,
                addresses: addresses.clone(),
                discovery,
                routes: routes.clone(),
                policies: policies.clone(),
                follow: follow.clone(),
                phase: phases.clone(),
                asks: asked,
                tls: identity.as_ref().map(Source::subscribe),
                seed: random()?,
            };
            running
                .workers
                .push(thread::spawn(&format!("worker-{index}"), || {
                    worker::run(start)
                })?);
        }
        let control = Control {
            listeners: running.listeners.clone(),
            config,
            clock,
            boot,
            recorder,
            outbox,
            stats,
            services,
            identity,
            routes: routed,
            policies: watched,
            snapshot,
            wanted,
            asks,
            admin,
            phase: phases,
            stopped,
            seed: random()?,
        };
        running.control = Some(thread::spawn("control", || control::run(control))?);
        Ok(running)
    }
}

fn open(name: &str, address: SocketAddr, shards: usize) -> Result<Vec<Bound>, StartError> {
    net::listen(address, shards).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortTaken {
            name: name.to_owned(),
            address,
        },
        _ => StartError::Listen {
            name: name.to_owned(),
            address,
            source,
        },
    })
}

impl Running {
    /// Returns the listeners: name and bound address, in the order of the configuration.
    #[must_use]
    pub fn listeners(&self) -> &[(String, SocketAddr)] {
        &self.listeners
    }

    /// Returns the bound address of a listener.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        let found = self.listeners.iter().find(|(known, _)| known == name);
        found.map(|(_, address)| *address)
    }

    /// Returns the bound admin address.
    #[must_use]
    pub const fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Returns the number of this boot.
    #[must_use]
    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// Returns the accounting of records.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.recorder.counters()
    }

    /// Returns how many connections from clients are open.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.stats.open_connections.read()
    }

    /// Stops accepting, lets open requests finish within the configured grace, sends the
    /// last records, and returns when all threads have ended.
    #[cfg(not(feature = "simulation"))]
    pub fn shutdown(mut self) {
        self.end();
    }

    #[cfg(not(feature = "simulation"))]
    fn end(&mut self) {
        self.phase.send_replace(Phase::Draining);
        for worker in self.workers.drain(..) {
            if !worker.join() {
                tracing::error!("a worker thread panicked");
            }
        }
        self.stop.send_replace(true);
        if let Some(control) = self.control.take()
            && !control.join()
        {
            tracing::error!("the control thread panicked");
        }
    }

    /// As the other, in a simulation. Returns whether no thread has panicked.
    #[cfg(feature = "simulation")]
    pub async fn shutdown(mut self) -> bool {
        let mut sound = true;
        self.phase.send_replace(Phase::Draining);
        for worker in self.workers.drain(..) {
            sound &= worker.join().await;
        }
        self.stop.send_replace(true);
        if let Some(control) = self.control.take() {
            sound &= control.join().await;
        }
        sound
    }
}

#[cfg(not(feature = "simulation"))]
impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
