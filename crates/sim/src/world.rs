//! What all hosts of a simulation share: the trace, and what is known of each request.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use whodunit_proxy::Running;

/// The port of the server.
pub(crate) const SERVER_PORT: u16 = 7071;

/// The port of a backend's inbound proxy.
pub(crate) const INBOUND_PORT: u16 = 8000;

/// The port of a backend's application.
pub(crate) const APPLICATION_PORT: u16 = 9000;

/// The ports of the client's outbound proxy: without and with a route.
pub(crate) const OUTBOUND_PORTS: [u16; 2] = [4140, 4141];

/// What one host may tell others. Only one thread runs, so the lock is never waited for; it
/// is there because a server's tasks have to be `Send`.
#[derive(Clone, Default)]
pub(crate) struct World(Arc<Mutex<State>>);

/// See [`World`].
#[derive(Default)]
pub(crate) struct State {
    /// What happened, in order.
    pub(crate) trace: Vec<String>,
    /// What must never happen and did.
    pub(crate) violations: Vec<String>,
    /// How often each request was executed.
    pub(crate) executed: BTreeMap<u64, u32>,
    /// Rows that are durable, by boot and sequence.
    pub(crate) disk: BTreeMap<(u64, u64), u32>,
    /// The sequences that closing messages named, by boot.
    pub(crate) closed: BTreeMap<u64, u64>,
    /// The backends that discovery knows, and a number that grows when they change.
    pub(crate) backends: Vec<SocketAddr>,
    pub(crate) version: u64,
    /// Every address that discovery ever told.
    pub(crate) told: Vec<SocketAddr>,
    /// What somebody who watches discovery was told last.
    pub(crate) watched: Vec<SocketAddr>,
    /// The number of the request that is sent next.
    pub(crate) next: u64,
    /// Answers by kind, to see that a scenario does something.
    pub(crate) answers: BTreeMap<String, u64>,
    /// Applications that answer slowly, by host.
    pub(crate) slow: BTreeSet<String>,
    /// Applications behave from now on.
    pub(crate) is_calm: bool,
    /// How many of the last answers were the application's, one after the other.
    pub(crate) streak: u64,
    /// No more requests are to be sent.
    pub(crate) is_over: bool,
    /// Clients that have stopped.
    pub(crate) stopped: u64,
    /// The client's proxy may end.
    pub(crate) may_end: bool,
    /// The boot of the client's proxy, when it has ended in order.
    pub(crate) ended: Option<u64>,
}

thread_local! {
    /// The proxies that run now, by host. They do not leave the thread.
    static PROXIES: RefCell<BTreeMap<String, Running>> = const { RefCell::new(BTreeMap::new()) };
}

impl World {
    /// Gives access.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the trace, from within a host.
    pub(crate) fn note(&self, what: impl Display) {
        self.note_at(turmoil::sim_elapsed().unwrap_or_default(), what);
    }

    /// Adds to the trace.
    pub(crate) fn note_at(&self, at: Duration, what: impl Display) {
        let line = format!("{:>6} ms  {what}", at.as_millis());
        self.state().trace.push(line);
    }

    /// Says that something happened that must not, from within a host.
    pub(crate) fn violated(&self, what: impl Display) {
        self.note(format!("VIOLATED: {what}"));
        self.state().violations.push(what.to_string());
    }

    /// Counts an answer.
    pub(crate) fn count(&self, kind: &str) {
        *self.state().answers.entry(kind.to_owned()).or_default() += 1;
    }
}

/// Keeps a proxy for as long as its host lives, or until it is taken.
pub(crate) fn keep(host: &str, proxy: Running) {
    PROXIES.with_borrow_mut(|proxies| proxies.insert(host.to_owned(), proxy));
}

/// Forgets the proxy of a host, or takes it.
pub(crate) fn take(host: &str) -> Option<Running> {
    PROXIES.with_borrow_mut(|proxies| proxies.remove(host))
}

/// Looks at all proxies.
pub(crate) fn proxies<T>(look: impl FnMut((&String, &Running)) -> T) -> Vec<T> {
    PROXIES.with_borrow(|proxies| proxies.iter().map(look).collect())
}
