//! Counts how often each limit was reached.
//!
//! The limits and their numbers are [`whodunit_model::limit`]. A thread of a proxy enters
//! its counters once; after that whatever runs on it says [`hit`] where a limit is
//! reached, however deep in a codec that is. Threads that belong to no proxy count nowhere.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use whodunit_flight::Counters;
pub(crate) use whodunit_model::Limit;
use whodunit_model::limit::COUNT;

/// How often each limit was reached since the proxy started.
#[derive(Debug)]
pub(crate) struct Hits([AtomicU64; COUNT]);

impl Default for Hits {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; COUNT])
    }
}

thread_local! {
    static ENTERED: RefCell<Option<Arc<Hits>>> = const { RefCell::new(None) };
}

/// Makes the present thread count here from now on.
pub(crate) fn enter(hits: &Arc<Hits>) {
    ENTERED.set(Some(hits.clone()));
}

/// Counts that a limit was reached.
pub(crate) fn hit(limit: Limit) {
    ENTERED.with_borrow(|entered| {
        if let Some(hits) = entered {
            hits.add(limit);
        }
    });
}

impl Hits {
    /// Counts that a limit was reached.
    pub(crate) fn add(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often a limit was reached.
    pub(crate) fn read(&self, limit: Limit) -> u64 {
        self.0[limit as usize].load(Ordering::Relaxed)
    }

    /// Returns every limit whose hits are counted, with their number. What the recorder's
    /// own accounting says of its limits is in `counters`.
    pub(crate) fn all(&self, counters: &Counters) -> impl Iterator<Item = (Limit, u64)> {
        let (queue, buffer) = (
            counters.dropped_queue_full + counters.discarded_queue_full,
            counters.discarded_buffer_full,
        );
        let counted = Limit::ALL.iter().filter(|limit| {
            let about = limit.about();
            about.counted && about.keeper == whodunit_model::limit::Keeper::Proxy
        });
        counted.map(move |limit| match limit {
            Limit::QueueRows => (*limit, queue),
            Limit::BufferBytes => (*limit, buffer),
            _ => (*limit, self.read(*limit)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_where_the_thread_has_entered() {
        hit(Limit::HeadBytes);
        let (mine, other) = (Arc::<Hits>::default(), Arc::<Hits>::default());
        enter(&mine);
        hit(Limit::HeadBytes);
        hit(Limit::HeadBytes);
        enter(&other);
        hit(Limit::HeadBytes);
        assert_eq!(mine.read(Limit::HeadBytes), 2);
        assert_eq!(other.read(Limit::HeadBytes), 1);
    }

    #[test]
    fn what_the_recorder_counts_is_told_with_the_rest() {
        let counters = Counters {
            dropped_queue_full: 2,
            discarded_queue_full: 3,
            discarded_buffer_full: 7,
            ..Counters::default()
        };
        let hits = Hits::default();
        hits.add(Limit::Series);
        let all: Vec<_> = hits.all(&counters).filter(|(_, hits)| *hits > 0).collect();
        let expected = [
            (Limit::Series, 1),
            (Limit::QueueRows, 5),
            (Limit::BufferBytes, 7),
        ];
        assert_eq!(all, expected);
        assert!(
            hits.all(&counters)
                .all(|(limit, _)| limit != Limit::PoolTime)
        );
    }
}
