//! Waits longer after each failure, and never all proxies at the same moment.

use std::time::Duration;

/// First and longest pause.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses between tries.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    random: u64,
}

impl Backoff {
    /// Returns the first pause; `seed` spreads proxies over time.
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            next: FIRST,
            random: seed | 1,
        }
    }

    /// Begins anew after a success.
    pub(crate) const fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Returns the pause after a failure: between half of the present step and all of it.
    pub(crate) fn pause(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = u32::try_from(self.random >> 48).unwrap_or(0);
        let pause = self.next / 2 + self.next / 2 * part / (1 << 16);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let (mut a, mut b) = (Backoff::new(1), Backoff::new(99));
        let mut differ = false;
        for i in 0..20 {
            let (pause, other) = (a.pause(), b.pause());
            let step = (FIRST * 2u32.pow(i.min(10))).min(LONGEST);
            assert!(pause >= step / 2 && pause <= step, "{i} {pause:?}");
            differ |= pause != other;
        }
        assert!(differ);
        a.reset();
        assert!(a.pause() <= FIRST);
    }
}
