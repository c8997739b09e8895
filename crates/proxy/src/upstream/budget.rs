//! How many retries a service may get: a share of its requests, and some per second.
//!
//! Without it retries would multiply the load of a service exactly when it has too much.

use std::cell::Cell;

use whodunit_model::route_rule::RetryBudget;

use crate::clock::Instant;

/// Seconds for which an unused allowance is kept.
const KEPT_SECONDS: u64 = 10;

/// Parts of a retry that are counted.
const PARTS: u64 = 1_000;

/// The allowance of one service, on one thread.
pub(crate) struct Budget {
    /// Thousandths of retries.
    parts: Cell<u64>,
    refilled: Cell<Instant>,
}

impl Budget {
    /// Returns a budget with the allowance of one second.
    pub(crate) fn new(rules: RetryBudget, now: Instant) -> Self {
        Self {
            parts: Cell::new(u64::from(rules.per_second) * PARTS),
            refilled: Cell::new(now),
        }
    }

    /// Notes a first try.
    pub(crate) fn deposit(&self, rules: RetryBudget) {
        self.add(rules, u64::from(rules.percent) * PARTS / 100);
    }

    /// Takes the allowance for one retry; says whether there was any.
    pub(crate) fn withdraw(&self, rules: RetryBudget, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled.get());
        let passed = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let parts = passed.saturating_mul(rules.per_second.into()) / PARTS;
        // Shorter times count when they have added up.
        if parts > 0 {
            self.refilled.set(now);
            self.add(rules, parts);
        }
        let left = self.parts.get().checked_sub(PARTS);
        if let Some(left) = left {
            self.parts.set(left);
        }
        left.is_some()
    }

    fn add(&self, rules: RetryBudget, parts: u64) {
        // A share alone needs room too, or it could never become a whole retry.
        let most = u64::from(rules.per_second) * KEPT_SECONDS + u64::from(rules.percent);
        self.parts
            .set(self.parts.get().saturating_add(parts).min(most * PARTS));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_fifth_of_the_requests_and_ten_per_second() {
        let rules = RetryBudget::default();
        let mut now = Instant::now();
        let budget = Budget::new(rules, now);
        let spend = |now| (0..10_000).filter(|_| budget.withdraw(rules, now)).count();
        assert_eq!(spend(now), 10);
        for _ in 0..100 {
            budget.deposit(rules);
        }
        assert_eq!(spend(now), 20);
        now += Duration::from_secs(1);
        assert_eq!(spend(now), 10);
        now += Duration::from_secs(3_600);
        assert_eq!(spend(now), 120, "an hour of silence is no hour of retries");
    }

    #[test]
    fn no_budget_is_no_retry() {
        let rules = RetryBudget {
            percent: 0,
            per_second: 0,
        };
        let budget = Budget::new(rules, Instant::now());
        budget.deposit(rules);
        assert!(!budget.withdraw(rules, Instant::now()));
    }
}
