//! Numbers that worker threads and the control thread share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::Hits;

/// Counters of the whole process.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Connections whose protocol was not recognized.
    pub(crate) fall_backs: FallBacks,
    /// Buffers of opaque bulk that were copied because no pipe was to be had.
    pub(crate) pipes_missing: Count,
    /// Connections accepted and not closed.
    pub(crate) open_connections: Count,
    /// Certificates and handshakes.
    pub(crate) identity: Arc<IdentityStats>,
    /// How often each limit was reached.
    pub(crate) limits: Arc<Hits>,
    /// Requests and connections that policy denied.
    pub(crate) policy_denied: Count,
    /// Requests and connections that policy would have denied.
    pub(crate) policy_audited: Count,
    /// Whether the process is about to end.
    pub(crate) stopping: AtomicBool,
}

/// What is counted of certificates and handshakes.
#[derive(Debug, Default)]
pub(crate) struct IdentityStats {
    /// When the certificate in use expires, seconds since the Unix epoch; 0 without one.
    pub(crate) not_after_s: AtomicI64,
    /// Certificates taken into use.
    pub(crate) renewals: Count,
    /// Tries to renew that failed.
    pub(crate) failures: Count,
    /// Whether the last try failed.
    pub(crate) failing: AtomicBool,
    /// Handshakes that succeeded, of those who connected to us and of those we connected to.
    pub(crate) accepted: Count,
    /// See `accepted`.
    pub(crate) connected: Count,
    /// Handshakes of those who connected to us that failed.
    pub(crate) refused: Count,
    /// Handshakes with those we connected to that failed.
    pub(crate) failed: Count,
}

impl IdentityStats {
    /// Counts a certificate as taken into use.
    pub(crate) fn renewed(&self, not_after_s: i64) {
        self.not_after_s.store(not_after_s, Ordering::Relaxed);
        self.renewals.add();
        self.failing.store(false, Ordering::Relaxed);
    }

    /// Returns when the certificate in use expires, seconds since the Unix epoch.
    pub(crate) fn expires_s(&self) -> Option<i64> {
        Some(self.not_after_s.load(Ordering::Relaxed)).filter(|&expires_s| expires_s > 0)
    }

    /// Says whether the last try to renew failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Counts a try to renew that failed.
    pub(crate) fn not_renewed(&self) {
        self.failures.add();
        self.failing.store(true, Ordering::Relaxed);
    }
}

/// Connections whose protocol was not recognized, by the name of their listener.
#[derive(Debug, Default)]
pub(crate) struct FallBacks(Mutex<BTreeMap<String, u64>>);

impl FallBacks {
    /// Counts a connection. Listeners are few and come from the configuration.
    pub(crate) fn add(&self, listener: &str) {
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(listener) {
            *count += 1;
        } else {
            counts.insert(listener.to_owned(), 1);
        }
    }

    /// Returns how many there were at each listener that had any.
    pub(crate) fn each(&self) -> BTreeMap<String, u64> {
        self.lock().clone()
    }

    /// Returns how many there were.
    pub(crate) fn total(&self) -> u64 {
        self.lock().values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        // Nothing panics while it holds the lock; the counts are whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that several threads move.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one.
    pub(crate) fn take(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the number.
    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
