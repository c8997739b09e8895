//! Takes endpoints out that fail, and lets them prove themselves again.
//!
//! An endpoint is out after seven failures in a row or when it cannot be connected to, but
//! never more than half of a service: with most instances failing, the fault is elsewhere,
//! and the rest could not carry the load. It is out for a second; then one request may probe
//! it, and each failed probe doubles the time, up to a minute.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::Instant;

/// Failures in a row after which an endpoint is taken out.
const FAILURES_MAX: u32 = 7;

/// How long an endpoint is out at first, and at most.
const PENALTY_MIN: Duration = Duration::from_secs(1);
const PENALTY_MAX: Duration = Duration::from_secs(60);

/// Connections in a row that were not accepted in time, after which requests no longer wait
/// for one each: once may be a moment of pressure.
const DARK_AFTER: u32 = 3;

/// How long nobody waits for an endpoint that accepts nothing: it is back within a second when
/// it accepts again, though a look at it may take one.
const DARK: Duration = Duration::from_millis(500);

/// How long an endpoint gets no requests that has said that it is about to end, if there are
/// others: by then it does not listen any more, or the word was only about one connection.
const AWAY: Duration = Duration::from_secs(1);

/// What the endpoints of a service share: how many are out, and the dice.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    total: Cell<usize>,
    out: Cell<usize>,
    #[cfg(test)]
    ejections: Cell<u64>,
    random: Cell<u64>,
}

impl Crowd {
    /// Returns an empty crowd; the same seed makes the same choices.
    pub(super) fn new(seed: u64) -> Rc<Self> {
        let crowd = Self::default();
        crowd.random.set(seed | 1);
        Rc::new(crowd)
    }

    /// Returns a random number (xorshift64: fast, and good enough to balance).
    pub(super) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x >> 32
    }

    /// Returns a random number below `bound`.
    pub(super) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.random() % bound.max(1) as u64).unwrap_or(0)
    }

    /// Says how many endpoints there are.
    pub(super) fn set_total(&self, total: usize) {
        self.total.set(total);
    }

    /// Returns how many endpoints are out.
    pub(super) fn out(&self) -> usize {
        self.out.get()
    }

    /// Returns how often an endpoint was taken out.
    #[cfg(test)]
    pub(super) fn ejections(&self) -> u64 {
        self.ejections.get()
    }

    /// Says whether more than half are out, as fewer endpoints are left.
    pub(super) fn is_too_small(&self) -> bool {
        self.out.get() * 2 > self.total.get()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    In,
    Out { until: Instant, penalty: Duration },
    Probing { penalty: Duration },
}

/// The health of one endpoint, as its requests tell it.
#[derive(Debug)]
pub(super) struct Health {
    crowd: Rc<Crowd>,
    state: Cell<State>,
    failures: Cell<u32>,
    timeouts: Cell<u32>,
    dark_until: Cell<Option<Instant>>,
    away_until: Cell<Option<Instant>>,
}

impl Health {
    pub(super) fn new(crowd: Rc<Crowd>) -> Self {
        Self {
            crowd,
            state: Cell::new(State::In),
            failures: Cell::new(0),
            timeouts: Cell::new(0),
            dark_until: Cell::new(None),
            away_until: Cell::new(None),
        }
    }

    /// Says whether requests go to it as a matter of course.
    pub(super) fn is_in(&self) -> bool {
        self.state.get() == State::In
    }

    /// Says whether its time is over and nobody probes it.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        matches!(self.state.get(), State::Out { until, .. } if now >= until)
    }

    /// Says whether a request would only wait for a connection that is not accepted.
    pub(super) fn is_dark(&self, now: Instant) -> bool {
        self.dark_until.get().is_some_and(|until| now < until)
    }

    /// Notes that it wants requests to go elsewhere.
    pub(super) fn leaves(&self, now: Instant) {
        self.away_until.set(Some(now + AWAY));
    }

    /// Says whether it wanted requests to go elsewhere a moment ago.
    pub(super) fn is_away(&self, now: Instant) -> bool {
        self.away_until.get().is_some_and(|until| now < until)
    }

    /// Lets a request go to it; returns whether that request is a probe.
    pub(super) fn choose(&self, now: Instant) -> bool {
        if let Some(until) = self.dark_until.get()
            && now >= until
        {
            // This request looks; the others go on without waiting.
            self.dark_until.set(Some(now + DARK));
        }
        match self.state.get() {
            State::Out { penalty, until } if now >= until => {
                self.state.set(State::Probing { penalty });
                true
            }
            _ => false,
        }
    }

    /// Notes that it accepted a connection.
    pub(super) fn connected(&self) {
        self.timeouts.set(0);
        self.dark_until.set(None);
    }

    /// Notes a request that it answered well.
    pub(super) fn succeeded(&self) {
        self.connected();
        self.failures.set(0);
        self.readmit();
    }

    /// Notes a request that failed.
    pub(super) fn failed(&self, now: Instant) {
        self.failures.set(self.failures.get().saturating_add(1));
        if self.failures.get() >= FAILURES_MAX || self.state.get() != State::In {
            self.eject(now);
        }
    }

    /// Notes that it could not be connected to; `late` says that it did not even refuse.
    pub(super) fn unreachable(&self, late: bool, now: Instant) {
        if late {
            self.timeouts.set(self.timeouts.get().saturating_add(1));
            if self.timeouts.get() >= DARK_AFTER {
                self.dark_until.set(Some(now + DARK));
            }
        }
        self.eject(now);
    }

    /// A probe ended without telling anything.
    pub(super) fn probe_abandoned(&self, now: Instant) {
        if let State::Probing { penalty } = self.state.get() {
            self.state.set(State::Out {
                until: now,
                penalty,
            });
        }
    }

    /// Lets requests go to it again.
    pub(super) fn readmit(&self) {
        if self.state.replace(State::In) != State::In {
            self.crowd.out.set(self.crowd.out.get().saturating_sub(1));
        }
    }

    fn eject(&self, now: Instant) {
        let penalty = match self.state.get() {
            State::In => {
                if (self.crowd.out.get() + 1) * 2 > self.crowd.total.get() {
                    return;
                }
                self.crowd.out.set(self.crowd.out.get() + 1);
                #[cfg(test)]
                self.crowd.ejections.set(self.crowd.ejections.get() + 1);
                PENALTY_MIN
            }
            State::Probing { penalty } => (penalty * 2).min(PENALTY_MAX),
            // A request that began before it was taken out.
            State::Out { .. } => return,
        };
        // A quarter of jitter, so that proxies do not probe together.
        let jitter = penalty * u32::try_from(self.crowd.below(256)).unwrap_or(0) / 1_024;
        self.state.set(State::Out {
            until: now + penalty + jitter,
            penalty,
        });
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.readmit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(total: usize) -> (Rc<Crowd>, Vec<Health>) {
        let crowd = Rc::new(Crowd::default());
        crowd.set_total(total);
        let healths = (0..total).map(|_| Health::new(crowd.clone())).collect();
        (crowd, healths)
    }

    #[test]
    fn seven_failures_in_a_row_take_an_endpoint_out() {
        let (_, healths) = crowd(2);
        let now = Instant::now();
        for _ in 0..FAILURES_MAX - 1 {
            healths[0].failed(now);
        }
        healths[0].succeeded();
        for _ in 0..FAILURES_MAX - 1 {
            healths[0].failed(now);
        }
        assert!(healths[0].is_in());
        healths[0].failed(now);
        assert!(!healths[0].is_in());
    }

    #[test]
    fn at_most_half_are_out() {
        let (crowd, healths) = crowd(3);
        let now = Instant::now();
        for health in &healths {
            health.unreachable(false, now);
        }
        let out = healths.iter().filter(|health| !health.is_in()).count();
        assert_eq!((out, crowd.out()), (1, 1));
        drop(healths);
        assert_eq!(crowd.out(), 0, "what is gone is not out");
    }

    #[test]
    fn one_probe_at_a_time_and_each_failure_doubles_the_time() {
        let (crowd, healths) = crowd(2);
        let health = &healths[0];
        let mut now = Instant::now();
        health.unreachable(false, now);
        assert!(!health.is_due(now));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            now += Duration::from_secs(seconds);
            assert!(health.is_due(now), "{seconds}");
            assert!(health.choose(now));
            assert!(!health.is_due(now), "one probe at a time");
            health.failed(now);
        }
        now += PENALTY_MAX;
        assert!(health.choose(now));
        health.probe_abandoned(now);
        assert!(health.choose(now));
        health.succeeded();
        assert!(health.is_in());
        assert_eq!(crowd.out(), 0);
    }

    #[test]
    fn nobody_waits_for_an_endpoint_that_accepts_nothing() {
        let (_, healths) = crowd(1);
        let (health, mut now) = (&healths[0], Instant::now());
        for _ in 0..DARK_AFTER {
            assert!(!health.is_dark(now));
            health.unreachable(true, now);
        }
        assert!(health.is_in() && health.is_dark(now));
        now += DARK;
        assert!(!health.is_dark(now));
        health.choose(now);
        assert!(health.is_dark(now), "one looks");
        health.connected();
        assert!(!health.is_dark(now));
    }
}
