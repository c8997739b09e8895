//! One scenario: a mesh, a schedule of faults, and what must hold all the time and after it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use turmoil::{Builder, Sim};
use whodunit_proxy::Running;

use crate::random::{self, Random};
use crate::world::{self, INBOUND_PORT, SERVER_PORT, World, proxies};
use crate::{backend, client, server, watcher};

/// Backends of the mesh.
const BACKENDS: usize = 3;

/// The name of the host with the server.
const SERVER: &str = "server";

/// A step of the simulation: what happens within it happens at once.
const TICK: Duration = Duration::from_millis(10);

/// How long a message is on its way when nothing is wrong, at most.
const LATENCY: Duration = Duration::from_millis(20);

/// How long there are faults.
const FAULTS: Duration = Duration::from_secs(5);

/// Time between faults, ms.
const BETWEEN_MS: std::ops::Range<u64> = 50..600;

/// How long a fault lasts, ms.
const LASTS_MS: std::ops::Range<u64> = 50..2_500;

/// How soon requests succeed again: the longest back-off, a probation, and a little.
const RECOVERY: Duration = Duration::from_secs(15);

/// How soon nothing moves any more once nobody sends: a keep-alive that fails, a back-off.
const SETTLING: Duration = Duration::from_secs(25);

/// Answers of applications in a row that count as recovered.
const STREAK: u64 = 10;

/// What came of a scenario.
pub(crate) struct Report {
    /// What happened, in order.
    pub(crate) trace: Vec<String>,
    /// What must not happen and did.
    pub(crate) violations: Vec<String>,
    /// A number that differs when the trace does.
    pub(crate) hash: u64,
    /// Answers by kind.
    pub(crate) answers: String,
}

/// Runs the scenario of a seed.
pub(crate) fn run(seed: u64) -> Report {
    random::seed_system(seed);
    let world = World::default();
    let mut scenario = Scenario::new(seed, world.clone());
    if let Err(problem) = scenario.play() {
        scenario.violated(problem);
    }
    let ran = scenario.ran;
    drop(scenario);
    let mut state = world.state();
    let answers: Vec<String> = state
        .answers
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    let answers = answers.join(", ");
    let summary = format!("{ran} faults; {answers}");
    state.trace.push(summary.clone());
    Report {
        hash: hash(&state.trace),
        trace: std::mem::take(&mut state.trace),
        violations: std::mem::take(&mut state.violations),
        answers: summary,
    }
}

/// FNV-1a, because the same trace is to have the same number everywhere.
fn hash(trace: &[String]) -> u64 {
    let bytes = trace.iter().flat_map(|line| line.bytes().chain([b'\n']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing passes between two hosts until it is over; then it all does.
    Held(usize),
    /// A link is slow.
    Slow(usize),
    /// A backend dies; others notice at once.
    Crash(usize),
    /// A backend is gone, and nobody is told.
    Vanish(usize),
    /// The server dies.
    ServerCrash,
    /// The server is gone, and nobody is told.
    ServerVanish,
    /// An application answers late.
    Late(usize),
    /// A backend is taken out of discovery.
    Removed(usize),
}

struct Scenario<'a> {
    sim: Sim<'a>,
    world: World,
    random: Random,
    addresses: Vec<SocketAddr>,
    links: Vec<(String, String)>,
    /// Faults that last, and until when.
    lasting: Vec<(Duration, Fault)>,
    ran: usize,
}

fn backend_name(index: usize) -> String {
    format!("backend-{index}")
}

impl Scenario<'_> {
    fn new(seed: u64, world: World) -> Self {
        let mut sim = Builder::new()
            .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
            .rng_seed(seed)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(LATENCY)
            .simulation_duration(FAULTS + RECOVERY + SETTLING * 2)
            .tcp_capacity(64)
            .build();
        let server = SocketAddr::new(sim.lookup(SERVER), SERVER_PORT);
        let (for_server, for_watcher, for_client) = (world.clone(), world.clone(), world.clone());
        sim.host(SERVER, move || server::serve(for_server.clone()));
        let mut addresses = Vec::new();
        let mut links = vec![(watcher::HOST.to_owned(), SERVER.to_owned())];
        for index in 0..BACKENDS {
            let name = backend_name(index);
            addresses.push(SocketAddr::new(sim.lookup(name.as_str()), INBOUND_PORT));
            links.push((client::HOST.to_owned(), name.clone()));
            links.push((name.clone(), SERVER.to_owned()));
            let (world, lives) = (world.clone(), Rc::new(Cell::new(0)));
            sim.host(name.clone(), move || {
                lives.set(lives.get() + 1);
                let stream = (index as u64 + 1) << 32 | lives.get();
                let random = Random::new(seed, stream);
                backend::run(world.clone(), name.clone(), server, random)
            });
        }
        links.push((client::HOST.to_owned(), SERVER.to_owned()));
        world.state().backends.clone_from(&addresses);
        sim.host(watcher::HOST, move || {
            watcher::run(for_watcher.clone(), server)
        });
        sim.host(client::HOST, move || {
            client::run(for_client.clone(), server, Random::new(seed, 1))
        });
        Self {
            sim,
            world,
            random: Random::new(seed, 0),
            addresses,
            links,
            lasting: Vec::new(),
            ran: 0,
        }
    }

    fn violated(&self, what: String) {
        let at = self.sim.elapsed();
        self.world.note_at(at, format_args!("VIOLATED: {what}"));
        self.world.state().violations.push(what);
    }

    fn play(&mut self) -> Result<(), String> {
        let mut next = Duration::from_millis(self.random.within(BETWEEN_MS));
        while self.sim.elapsed() < FAULTS {
            self.step()?;
            let now = self.sim.elapsed();
            self.end_faults(now);
            if now >= next {
                self.begin_fault(now);
                next = now + Duration::from_millis(self.random.within(BETWEEN_MS));
            }
        }
        self.end_faults(Duration::MAX);
        {
            let mut state = self.world.state();
            state.is_calm = true;
            state.streak = 0;
        }
        self.world.note_at(self.sim.elapsed(), "all is well again");
        self.until("requests succeed again", RECOVERY, |world| {
            world.state().streak >= STREAK
        })?;
        self.world.state().is_over = true;
        self.until("clients stop", SETTLING, |world| {
            world.state().stopped == client::CLIENTS
        })?;
        self.until(
            "no request is in flight and all records are durable",
            SETTLING,
            |_| {
                let settled = proxies(|(_, proxy)| {
                    let counters = proxy.counters();
                    counters.in_flight == 0 && counters.buffered == 0
                });
                settled.iter().all(|settled| *settled)
            },
        )?;
        self.until("watchers know what is", SETTLING, |world| {
            let state = world.state();
            let mut backends = state.backends.clone();
            backends.sort_unstable();
            state.watched == backends
        })?;
        self.check_disk();
        self.world.state().may_end = true;
        self.until("the proxy of the client ends", SETTLING, |world| {
            world.state().ended.is_some()
        })?;
        let state = self.world.state();
        let closed = state
            .ended
            .is_some_and(|boot| state.closed.contains_key(&boot));
        drop(state);
        if !closed {
            self.violated("a proxy ended without a closing message".to_owned());
        }
        self.check_executions();
        Ok(())
    }

    /// Goes on until something holds.
    fn until(
        &mut self,
        what: &str,
        within: Duration,
        holds: impl Fn(&World) -> bool,
    ) -> Result<(), String> {
        let end = self.sim.elapsed() + within;
        while !holds(&self.world) {
            if self.sim.elapsed() > end {
                let counters = proxies(|(host, proxy)| format!("{host} {:?}", proxy.counters()));
                return Err(format!(
                    "not within {within:?}: {what}; {}",
                    counters.join("; ")
                ));
            }
            self.step()?;
        }
        self.world.note_at(self.sim.elapsed(), what);
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.sim
            .step()
            .map_err(|error| format!("a host failed: {error}"))?;
        let wrong = proxies(|(host, proxy)| unbalanced(proxy).map(|how| format!("{host}: {how}")));
        match wrong.into_iter().flatten().next() {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    fn begin_fault(&mut self, now: Duration) {
        let random = &mut self.random;
        let backend = random.below(BACKENDS as u64) as usize;
        let link = random.below(self.links.len() as u64) as usize;
        let fault = match random.below(10) {
            0 | 1 => Fault::Held(link),
            2 | 3 => Fault::Slow(link),
            4 => Fault::Crash(backend),
            5 => Fault::Vanish(backend),
            6 => Fault::ServerCrash,
            7 => Fault::ServerVanish,
            8 => Fault::Late(backend),
            _ => Fault::Removed(backend),
        };
        let lasts = Duration::from_millis(random.within(LASTS_MS));
        if self
            .lasting
            .iter()
            .any(|(_, other)| overlap(*other, fault, &self.links))
        {
            return;
        }
        self.ran += 1;
        self.world
            .note_at(now, format_args!("{fault:?} for {lasts:?}"));
        self.lasting.push((now + lasts, fault));
        match fault {
            Fault::Held(link) => {
                let (one, other) = self.links[link].clone();
                self.sim.hold(one, other);
            }
            Fault::Slow(link) => {
                let (one, other) = self.links[link].clone();
                let latency = LATENCY * 20;
                self.sim.set_link_max_message_latency(one, other, latency);
            }
            Fault::Crash(backend) => self.crash(&backend_name(backend)),
            Fault::Vanish(backend) => self.vanish(&backend_name(backend)),
            Fault::ServerCrash => self.crash(SERVER),
            Fault::ServerVanish => self.vanish(SERVER),
            Fault::Late(backend) => {
                self.world.state().slow.insert(backend_name(backend));
            }
            Fault::Removed(backend) => {
                let gone = self.addresses[backend];
                let mut state = self.world.state();
                state.backends.retain(|address| *address != gone);
                state.version += 1;
            }
        }
    }

    fn end_faults(&mut self, now: Duration) {
        let lasting = std::mem::take(&mut self.lasting);
        let (over, lasting) = lasting.into_iter().partition(|(until, _)| *until <= now);
        self.lasting = lasting;
        for (_, fault) in over {
            self.end_fault(fault);
        }
    }

    fn end_fault(&mut self, fault: Fault) {
        self.world
            .note_at(self.sim.elapsed(), format_args!("{fault:?} is over"));
        match fault {
            Fault::Held(link) => {
                let (one, other) = self.links[link].clone();
                self.sim.release(one, other);
            }
            Fault::Slow(link) => {
                let (one, other) = self.links[link].clone();
                self.sim.set_link_max_message_latency(one, other, LATENCY);
            }
            Fault::Crash(backend) => self.sim.bounce(backend_name(backend)),
            Fault::Vanish(backend) => self.appear(&backend_name(backend)),
            Fault::ServerCrash => self.sim.bounce(SERVER),
            Fault::ServerVanish => self.appear(SERVER),
            Fault::Late(backend) => {
                self.world.state().slow.remove(&backend_name(backend));
            }
            Fault::Removed(backend) => {
                let mut state = self.world.state();
                state.backends.push(self.addresses[backend]);
                state.version += 1;
            }
        }
    }

    fn crash(&mut self, host: &str) {
        self.sim.crash(host);
        drop(world::take(host));
    }

    /// What it would have said on dying, and what it is told from now on, waits: others learn
    /// when it is back, as they do when a kernel sends again what was not acknowledged.
    fn vanish(&mut self, host: &str) {
        for other in self.neighbors(host) {
            self.sim.hold(host, other);
        }
        self.crash(host);
    }

    fn appear(&mut self, host: &str) {
        for other in self.neighbors(host) {
            self.sim.release(host, other);
        }
        self.sim.bounce(host);
    }

    fn neighbors(&self, host: &str) -> Vec<String> {
        let other = |(one, other): &(String, String)| match host {
            _ if one == host => Some(other.clone()),
            _ if other == host => Some(one.clone()),
            _ => None,
        };
        self.links.iter().filter_map(other).collect()
    }

    /// What proxies believe to be durable is on the disk.
    fn check_disk(&self) {
        let state = self.world.state();
        let wrong = proxies(|(host, proxy)| {
            let boot = proxy.boot().0;
            let of_boot = state.disk.range((boot, 0)..=(boot, u64::MAX));
            let rows: u64 = of_boot.map(|(_, rows)| u64::from(*rows)).sum();
            let counters = proxy.counters();
            let lost = counters.discarded_buffer_full
                + counters.discarded_queue_full
                + counters.discarded_mode;
            let right = rows == counters.acknowledged && rows + lost == counters.rows;
            (!right).then(|| format!("{host}: {rows} rows on disk, but {counters:?}"))
        });
        drop(state);
        for wrong in wrong.into_iter().flatten() {
            self.violated(wrong);
        }
    }

    /// What may change something twice was done once.
    fn check_executions(&self) {
        let state = self.world.state();
        let twice = state
            .executed
            .iter()
            .filter(|(id, times)| *id % 2 == 1 && **times > 1);
        let twice: Vec<u64> = twice.map(|(id, _)| *id).collect();
        drop(state);
        for id in twice {
            self.violated(format!("{id} is a POST and was executed more than once"));
        }
    }
}

/// Says how the accounts of a proxy do not add up.
fn unbalanced(proxy: &Running) -> Option<String> {
    let counters = proxy.counters();
    let dropped = counters.dropped_abandoned + counters.dropped_queue_full;
    let discarded =
        counters.discarded_buffer_full + counters.discarded_queue_full + counters.discarded_mode;
    let requests = counters.recorded + counters.in_flight + dropped;
    let rows = counters.acknowledged + counters.buffered + discarded;
    let right = counters.started == requests && counters.rows == rows;
    (!right).then(|| format!("the accounts do not add up: {counters:?}"))
}

/// Says whether two faults are about the same thing, and would undo each other.
fn overlap(one: Fault, other: Fault, links: &[(String, String)]) -> bool {
    let hosts = |fault: Fault| match fault {
        Fault::Held(link) | Fault::Slow(link) => vec![links[link].0.clone(), links[link].1.clone()],
        Fault::Crash(backend) | Fault::Vanish(backend) => vec![backend_name(backend)],
        Fault::ServerCrash | Fault::ServerVanish => vec![SERVER.to_owned()],
        Fault::Late(_) | Fault::Removed(_) => vec![],
    };
    let same = std::mem::discriminant(&one) == std::mem::discriminant(&other);
    match (one, other) {
        (Fault::Held(a) | Fault::Slow(a), Fault::Held(b) | Fault::Slow(b)) => a == b,
        (Fault::Late(a), Fault::Late(b)) | (Fault::Removed(a), Fault::Removed(b)) => a == b,
        _ if same && hosts(one).is_empty() => false,
        _ => hosts(one).iter().any(|host| hosts(other).contains(host)),
    }
}
