//! How fast an endpoint answers: an average that follows a rise at once and a fall slowly.

use std::cell::Cell;
use std::time::Duration;

use crate::clock::Instant;

/// Time in which an old answer loses about two thirds of its weight.
const DECAY: Duration = Duration::from_secs(10);

/// Differences below this are noise: the less busy endpoint matters more then.
const FLOOR_US: f64 = 5_000.0;

/// Answers after which an endpoint is no longer new.
const NEW_ANSWERS: u32 = 16;

/// How much dearer each request in flight to a new endpoint is: it may be cold.
const NEW_WEIGHT: f64 = 4.0;

/// An exponentially weighted moving average of latencies that jumps to peaks.
pub(super) struct PeakEwma {
    estimate_us: Cell<f64>,
    updated: Cell<Instant>,
    answers: Cell<u32>,
}

impl PeakEwma {
    /// Returns the average of an endpoint that has not answered yet; `like_us` is what others
    /// of the service take, if there are any.
    pub(super) fn new(like_us: Option<f64>, now: Instant) -> Self {
        Self {
            estimate_us: Cell::new(like_us.unwrap_or(FLOOR_US)),
            updated: Cell::new(now),
            answers: Cell::new(0),
        }
    }

    /// Adds one latency.
    pub(super) fn observe(&self, sample: Duration, now: Instant) {
        let sample_us = sample.as_secs_f64() * 1e6;
        let answers = self.answers.get();
        let estimate_us = self.estimate_us(now);
        // The first answer replaces what was only a guess.
        let estimate_us = if answers == 0 || sample_us > estimate_us {
            sample_us
        } else {
            let weight = weight(now.saturating_duration_since(self.updated.get()));
            self.estimate_us.get() * weight + sample_us * (1.0 - weight)
        };
        self.estimate_us.set(estimate_us);
        self.updated.set(now);
        self.answers.set(answers.saturating_add(1));
    }

    /// Returns the estimate; without answers it sinks, so that an endpoint that was slow once
    /// is tried again.
    pub(super) fn estimate_us(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.updated.get());
        self.estimate_us.get() * weight(age)
    }

    /// Returns what one more request would cost with so many in flight.
    pub(super) fn cost(&self, in_flight: u32, now: Instant) -> f64 {
        let each = if self.answers.get() < NEW_ANSWERS {
            NEW_WEIGHT
        } else {
            1.0
        };
        self.estimate_us(now).max(FLOOR_US) * (f64::from(in_flight) * each + 1.0)
    }
}

fn weight(age: Duration) -> f64 {
    let part = age.as_secs_f64() / DECAY.as_secs_f64();
    // Most answers follow each other closely, and the exponential function is dear.
    if part < 1e-3 {
        1.0 - part
    } else {
        (-part).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[track_caller]
    fn check(ewma: &PeakEwma, now: Instant, expected_ms: f64) {
        let found = ewma.estimate_us(now) / 1e3;
        assert!((found - expected_ms).abs() < 0.1, "{found} {expected_ms}");
    }

    #[test]
    fn a_rise_is_followed_at_once_and_a_fall_within_seconds() {
        let start = Instant::now();
        let ewma = PeakEwma::new(None, start);
        check(&ewma, start, 5.0);
        ewma.observe(MS, start);
        check(&ewma, start, 1.0);
        ewma.observe(MS * 100, start);
        check(&ewma, start, 100.0);
        let later = start + DECAY;
        check(&ewma, later, 36.8);
        ewma.observe(MS, later);
        // 100 ms weigh e^-1, the new one the rest.
        check(&ewma, later, 37.4);
    }

    #[test]
    fn requests_in_flight_cost_more_at_a_new_endpoint() {
        let now = Instant::now();
        let known = PeakEwma::new(None, now);
        for _ in 0..NEW_ANSWERS {
            known.observe(MS, now);
        }
        let new = PeakEwma::new(Some(known.estimate_us(now)), now);
        let equal = (new.cost(0, now) - known.cost(0, now)).abs() < 1.0;
        assert!(equal, "idle ones are equal");
        assert!(new.cost(1, now) > known.cost(3, now));
    }
}
