//! How many requests an application may have at once, found out by its latency.
//!
//! As long as answers come as fast as ever there is no limit but the one of the process.
//! When many requests are in flight and answers take much longer than they used to, the
//! application has more than it can do. Then the limit follows the gradient of latency, as
//! published with Netflix's `concurrency-limits` ("Gradient2"): it shrinks by the ratio of
//! usual to present latency, and grows by its square root, so that a little is always queued.
//! A request beyond it waits for at most 100 ms of work, or is refused at once.
//!
//! Latency also grows when something that the application waits for is slow. So few
//! requests are never limited, answers that take seconds anyway are no sign, and a limit
//! under which latency does not fall is given up: what it is then is taken for usual.
//! A request counts up to the head of its response: streams and upgrades do not.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Instant;
use crate::limits::{self, Limit};

/// Requests in flight that are never too many.
const FEW: f64 = Limit::ConcurrencyFloor.count_u32() as f64;

/// So many are looked at for whether they are too many: more than may remain, so that the
/// limit can show whether it helps.
const MANY: f64 = FEW * 1.5;

/// The longest time that a request waits for its turn.
const QUEUE: Duration = Limit::ConcurrencyQueue.time();

/// Latency may be this many times the usual one.
const TOLERANCE: f64 = 2.0;

/// Latency at which an application is held for overloaded, in terms of the usual one.
const OVERLOADED: f64 = 3.0;

/// Answers that take longer, µs, are awaited on purpose.
const AWAITED_US: f64 = 5_000_000.0;

/// Latency below this, µs, is never too long.
const SHORT_US: f64 = 10_000.0;

/// How often the limit changes, if there are answers to go by.
const WINDOW: Duration = Duration::from_millis(100);

/// Answers by which latency is judged, per window.
const SAMPLES_MIN: usize = 8;
const SAMPLES_MAX: usize = 64;

/// How much one window counts.
const SMOOTHING: f64 = 0.2;

/// How much a window counts for what is usual, when it took longer.
const SLOWER: f64 = 0.02;

/// How long a limit that nobody reached is kept.
const UNUSED: Duration = Duration::from_secs(1);

/// How long a limit holds before a few more requests are let in to see what that does, at
/// first and at most; it is at least the time of an answer.
const HOLD: Duration = Duration::from_millis(300);
const HOLD_MAX: Duration = Duration::from_secs(8);

/// How much the limit is raised for that.
const MORE: f64 = 1.5;

/// When so many more are in flight, and take no longer than this, their number is not what
/// makes the application slow.
const MANY_MORE: f64 = 1.3;
const AS_SLOW: f64 = 1.15;

/// The limit of one application, on one thread.
#[derive(Default)]
pub(crate) struct Limiter {
    in_flight: Cell<usize>,
    /// The limit while there is one; else no more than a look at a cell is needed.
    limit: Cell<Option<usize>>,
    waiting: RefCell<VecDeque<oneshot::Sender<Turn>>>,
    judged: RefCell<Judged>,
}

/// What is known of the latency.
#[derive(Default)]
struct Judged {
    samples: Vec<u32>,
    window: Option<Instant>,
    /// Of answers when not too many requests were in flight, µs; 0 before the first.
    usual_us: f64,
    present_us: f64,
    limited: Option<Limited>,
}

/// A limit in force.
#[derive(Clone, Copy)]
struct Limited {
    estimate: f64,
    /// When somebody had to wait for a turn last.
    reached: Instant,
    /// When the limit holds no longer, or what was let in has told enough.
    until: Instant,
    hold: Duration,
    /// While more are let in: requests in flight and latency before.
    before: Option<(f64, f64)>,
}

/// The right to send one request; dropped when its answer begins.
pub(crate) struct Turn(Rc<Limiter>);

impl Drop for Turn {
    fn drop(&mut self) {
        let limiter = &self.0;
        limiter.in_flight.set(limiter.in_flight.get() - 1);
        limiter.call_next();
    }
}

impl Turn {
    /// Ends the turn: the answer began after this time.
    pub(crate) fn answered(self, latency: Duration, now: Instant) {
        self.0.answered(latency, now);
    }
}

/// Why a request has to be refused.
#[derive(Debug)]
pub(crate) struct TooMany;

impl Limiter {
    /// Returns the right to send a request, if there is no need to wait for it.
    pub(crate) fn turn(self: &Rc<Self>) -> Option<Turn> {
        let limit = self.limit.get();
        let free = limit.is_none_or(|limit| self.in_flight.get() < limit);
        free.then(|| self.begin())
    }

    /// Notes how long an answer took to begin.
    fn answered(self: &Rc<Self>, latency: Duration, now: Instant) {
        let mut judged = self.judged.borrow_mut();
        if judged.samples.len() < SAMPLES_MAX {
            let latency_us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
            judged.samples.push(latency_us);
        }
        let window = *judged.window.get_or_insert(now);
        let passed = now.saturating_duration_since(window);
        if passed < WINDOW || judged.samples.len() < SAMPLES_MIN {
            return;
        }
        judged.window = Some(now);
        let limit = judged.judge(self.in_flight.get(), now);
        self.limit.set(limit);
        drop(judged);
        self.call_next();
    }

    fn begin(self: &Rc<Self>) -> Turn {
        self.in_flight.set(self.in_flight.get() + 1);
        Turn(self.clone())
    }

    /// Waits for the right to send a request.
    ///
    /// # Errors
    /// When too many wait already, or the turn does not come in time.
    pub(crate) async fn wait(self: &Rc<Self>) -> Result<Turn, TooMany> {
        let limit = self.limit.get().unwrap_or(usize::MAX);
        let room = self.judged.borrow_mut().room(limit, Instant::now());
        let (sender, turn) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            // Those that gave up stand in the way of nobody.
            if waiting.len() >= room {
                waiting.retain(|waiting| !waiting.is_closed());
            }
            if waiting.len() >= room {
                limits::hit(Limit::ConcurrencyQueue);
                return Err(TooMany);
            }
            waiting.push_back(sender);
        }
        match tokio::time::timeout(QUEUE, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => {
                limits::hit(Limit::ConcurrencyQueue);
                Err(TooMany)
            }
        }
    }

    /// Lets those go on that wait, as far as there is room.
    fn call_next(self: &Rc<Self>) {
        loop {
            let limit = self.limit.get().unwrap_or(usize::MAX);
            if self.in_flight.get() >= limit {
                return;
            }
            let Some(next) = self.waiting.borrow_mut().pop_front() else {
                return;
            };
            if !next.is_closed() {
                // One that gives up at this moment gives its turn back by dropping it.
                drop(next.send(self.begin()));
            }
        }
    }
}

impl Judged {
    /// Returns how many requests are 100 ms of work; somebody asks because there is no room.
    fn room(&mut self, limit: usize, now: Instant) -> usize {
        if let Some(limited) = &mut self.limited {
            limited.reached = now;
        }
        let each = self.present_us.max(1.0);
        whole(float(limit) * micros(QUEUE) / each).clamp(1, Limit::InFlight.count())
    }

    /// Returns the limit after a window that has just ended.
    fn judge(&mut self, in_flight: usize, now: Instant) -> Option<usize> {
        let middle = self.samples.len() / 2;
        let (_, median, _) = self.samples.select_nth_unstable(middle);
        let latency_us = f64::from(*median);
        self.samples.clear();
        self.present_us = latency_us;
        if self.usual_us == 0.0 {
            self.usual_us = latency_us;
        }
        let in_flight = float(in_flight);
        let Some(limited) = self.limited else {
            let too_long = latency_us > (self.usual_us * OVERLOADED).max(SHORT_US);
            if in_flight < MANY || !too_long || latency_us >= AWAITED_US {
                self.learn(latency_us);
                return None;
            }
            tracing::debug!(in_flight, latency_us, "an application has too much to do");
            let limited = Limited {
                estimate: in_flight,
                reached: now,
                until: now + HOLD.max(time(latency_us)),
                hold: HOLD,
                before: None,
            };
            self.limited = Some(limited);
            return Some(whole(in_flight));
        };
        let unused = now.saturating_duration_since(limited.reached) > UNUSED;
        if unused || latency_us >= AWAITED_US {
            self.limited = None;
            return None;
        }
        self.limited = self.follow(limited, in_flight, latency_us, now);
        self.limited.map(|limited| {
            let more = limited.before.map_or(1.0, |_| MORE);
            whole(limited.estimate * more)
        })
    }

    /// Returns the limit that follows, none if it is of no use.
    fn follow(
        &mut self,
        mut limited: Limited,
        in_flight: f64,
        latency_us: f64,
        now: Instant,
    ) -> Option<Limited> {
        let over = now >= limited.until;
        match limited.before {
            Some((before, latency_before)) if over => {
                if in_flight > before * MANY_MORE && latency_us < latency_before * AS_SLOW {
                    tracing::debug!(latency_us, "an application is slow whatever it has to do");
                    self.usual_us = latency_us;
                    return None;
                }
                limited.before = None;
                limited.hold = (limited.hold * 2).min(HOLD_MAX);
                limited.until = now + limited.hold.max(time(latency_us));
            }
            Some(_) => {}
            None if over => {
                limited.before = Some((in_flight, latency_us));
                // What was in flight before has to be answered first.
                limited.until = now + HOLD.max(time(latency_us) * 2);
            }
            None => {
                let usual = (TOLERANCE * self.usual_us).max(SHORT_US);
                let gradient = (usual / latency_us.max(1.0)).clamp(0.5, 1.0);
                let wanted = limited.estimate * gradient + limited.estimate.sqrt();
                let estimate = limited.estimate * (1.0 - SMOOTHING) + wanted * SMOOTHING;
                limited.estimate = estimate.clamp(FEW, float(Limit::InFlight.count()));
            }
        }
        Some(limited)
    }

    /// Follows what is usual: at once when it gets faster, slowly when it does not.
    fn learn(&mut self, latency_us: f64) {
        let share = if latency_us < self.usual_us {
            0.5
        } else {
            SLOWER
        };
        self.usual_us += (latency_us - self.usual_us) * share;
    }
}

/// Counts of requests are far below what a float holds exactly.
fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Rounds down; what is out of range becomes the nearest in it.
fn whole(count: f64) -> usize {
    count as usize
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn time(us: f64) -> Duration {
    Duration::from_secs_f64(us.clamp(0.0, AWAITED_US) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An application for which requests come at a rate, window by window.
    struct World {
        judged: Judged,
        limit: Option<usize>,
        now: Instant,
        in_flight: f64,
        /// Requests that got no turn.
        shed: f64,
    }

    impl World {
        fn new() -> Self {
            Self {
                judged: Judged::default(),
                limit: None,
                now: Instant::now(),
                in_flight: 0.0,
                shed: 0.0,
            }
        }

        /// Goes on for some windows: `rate` requests come per second, and `latency_us` says
        /// how long they take with so many in flight.
        fn run(&mut self, windows: usize, rate: f64, latency_us: impl Fn(f64) -> f64) {
            for _ in 0..windows {
                let latency = latency_us(self.in_flight.max(1.0));
                let done = (self.in_flight / latency * 1e5).min(self.in_flight);
                let come = rate / 10.0;
                let wanted = self.in_flight - done + come;
                let most = self.limit.map_or(f64::MAX, float);
                self.in_flight = wanted.min(most);
                self.shed += wanted - self.in_flight;
                self.now += WINDOW;
                if let Some(limit) = self.limit.filter(|_| wanted > most) {
                    self.judged.room(limit, self.now);
                }
                self.judged.samples = vec![whole(latency).try_into().unwrap(); 10];
                self.limit = self.judged.judge(whole(self.in_flight), self.now);
            }
        }
    }

    /// Four requests at a time, ten milliseconds each.
    fn four_at_a_time(in_flight: f64) -> f64 {
        10_000.0 * (in_flight / 4.0).max(1.0)
    }

    #[test]
    fn overload_is_limited_and_forgotten_when_it_ends() {
        let mut world = World::new();
        world.run(50, 200.0, four_at_a_time);
        assert_eq!(world.limit, None);
        world.run(600, 1_200.0, four_at_a_time);
        let limit = world.limit.expect("three times what it can do");
        assert!((64..=150).contains(&limit), "{limit}");
        // Of 1,200 per second 400 can be done.
        assert!(world.shed > 40_000.0, "{}", world.shed);
        world.run(20, 200.0, four_at_a_time);
        assert_eq!(world.limit, None);
        let shed = world.shed;
        world.run(100, 390.0, four_at_a_time);
        assert!((world.shed - shed).abs() < 1.0, "{}", world.shed - shed);
    }

    #[test]
    fn few_requests_are_never_too_many() {
        let mut world = World::new();
        world.run(50, 90.0, |_| 5_000.0);
        world.run(100, 90.0, |_| 1_000_000.0);
        assert!(world.in_flight > 80.0);
        assert_eq!((world.limit, world.shed), (None, 0.0));
    }

    #[test]
    fn a_service_that_waits_for_something_slow_is_left_alone_soon() {
        let mut world = World::new();
        world.run(50, 400.0, |_| 5_000.0);
        world.run(60, 400.0, |_| 1_000_000.0);
        assert_eq!(world.limit, None);
        let shed = world.shed;
        world.run(200, 400.0, |_| 1_000_000.0);
        assert_eq!(world.limit, None);
        assert!((world.shed - shed).abs() < 1.0);
    }

    #[test]
    fn what_is_awaited_on_purpose_is_not_limited() {
        let mut world = World::new();
        for round in 0_u32..100 {
            let took = if round % 2 == 0 {
                8_000_000.0
            } else {
                30_000_000.0
            };
            world.run(10, 100.0, |_| took);
        }
        assert_eq!((world.limit, world.shed), (None, 0.0));
    }

    #[test]
    fn a_steady_service_grows_without_a_limit() {
        let mut world = World::new();
        for rate in [100.0, 1_000.0, 5_000.0, 20_000.0] {
            world.run(30, rate, |_| 50_000.0);
        }
        assert_eq!((world.limit, world.shed), (None, 0.0));
    }

    #[tokio::test]
    async fn turns_are_given_in_order_and_not_for_ever() {
        let limiter = Rc::new(Limiter::default());
        limiter.limit.set(Some(2));
        limiter.judged.borrow_mut().present_us = 100_000.0;
        let first = limiter.turn().unwrap();
        let second = limiter.turn().unwrap();
        assert!(limiter.turn().is_none());
        // 100 ms of work are two requests here.
        let (a, b) = (limiter.wait(), limiter.wait());
        let (a, b, c) = tokio::join!(a, b, limiter.wait());
        assert!(a.is_err() && b.is_err() && c.is_err());
        let waiting = limiter.wait();
        let (turn, ()) = tokio::join!(waiting, async move {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert_eq!(limiter.in_flight.get(), 2);
        drop((turn, second));
        assert_eq!(limiter.in_flight.get(), 0, "a turn is given back once");
    }
}
