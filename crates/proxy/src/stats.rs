//! Numbers that worker threads and the control thread share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::limits::Hits;

/// Counters of the whole process.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Connections whose protocol was not recognized.
    pub(crate) detection_fall_backs: Count,
    /// Connections accepted and not closed.
    pub(crate) open_connections: Count,
    /// How often each limit was reached.
    pub(crate) limits: Arc<Hits>,
    /// Requests and connections that policy denied.
    pub(crate) policy_denied: Count,
    /// Requests and connections that policy would have denied.
    pub(crate) policy_audited: Count,
    /// Whether the process is about to end.
    pub(crate) stopping: AtomicBool,
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
