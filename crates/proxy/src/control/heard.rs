//! When the server was heard last, for one of the things that it is asked.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// When the server was heard about one thing.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Whether it ever said anything, in this life of the proxy or in the one before.
    ever: Cell<bool>,
    /// None while connected, else since when not, µs since the Unix epoch.
    lost_us: Cell<Option<i64>>,
    /// Told what is news to whoever keeps it on disk.
    changed: Rc<Notify>,
}

impl Heard {
    /// Begins without a connection; `kept_us` is when the server was heard in the life
    /// before, if that is known.
    pub(super) fn new(kept_us: Option<i64>, now_us: i64, changed: Rc<Notify>) -> Self {
        Self {
            ever: Cell::new(kept_us.is_some()),
            lost_us: Cell::new(Some(kept_us.unwrap_or(now_us))),
            changed,
        }
    }

    /// Says whether the server ever said anything.
    pub(crate) fn ever(&self) -> bool {
        self.ever.get()
    }

    /// Returns how long the server has been silent at `now_us`, µs; zero while connected.
    pub(crate) fn age_us(&self, now_us: i64) -> i64 {
        let lost_us = self.lost_us.get().unwrap_or(now_us);
        now_us.saturating_sub(lost_us).max(0)
    }

    /// Returns when the server stood by what it said last, µs since the Unix epoch; none if
    /// it never said anything.
    pub(super) fn at_us(&self, now_us: i64) -> Option<i64> {
        let ever = self.ever.get();
        ever.then(|| self.lost_us.get().unwrap_or(now_us))
    }

    /// The server said something; `news` if it differs from what was known.
    pub(super) fn hear(&self, news: bool) {
        let was_heard = self.ever.replace(true);
        self.lost_us.set(None);
        if news || !was_heard {
            self.changed.notify_one();
        }
    }

    /// The connection is lost; returns whether there was one.
    pub(super) fn lose(&self, now_us: i64) -> bool {
        let connected = self.lost_us.get().is_none();
        if connected {
            self.lost_us.set(Some(now_us));
            self.changed.notify_one();
        }
        connected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_word_even_of_the_life_before() {
        let changed = Rc::new(Notify::new());
        let fresh = Heard::new(None, 1_000, changed.clone());
        assert_eq!((fresh.ever(), fresh.at_us(3_000)), (false, None));
        assert_eq!(fresh.age_us(3_000), 2_000);
        fresh.hear(false);
        assert_eq!((fresh.ever(), fresh.age_us(9_000)), (true, 0));
        assert_eq!(fresh.at_us(9_000), Some(9_000));
        assert!(fresh.lose(10_000) && !fresh.lose(11_000));
        assert_eq!(fresh.at_us(12_000), Some(10_000));
        let kept = Heard::new(Some(500), 1_000, changed);
        assert_eq!((kept.ever(), kept.age_us(3_000)), (true, 2_500));
        // Clocks are set back, too.
        assert_eq!(kept.age_us(0), 0);
    }
}
