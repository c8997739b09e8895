//! The proxy's clock: one wall-clock anchor per boot, moved by the monotonic clock.
//!
//! Steps of the system clock never show up in records of one boot, so their
//! order within an instance is exact. In a simulation both clocks are the simulator's.

use std::time::Duration;
#[cfg(not(feature = "simulation"))]
pub(crate) use std::time::Instant;
#[cfg(not(feature = "simulation"))]
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "simulation")]
pub(crate) use tokio::time::Instant;

/// Tells wall time in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall_us: i64,
    anchor: Instant,
}

impl Clock {
    /// Returns a clock anchored at the present moment.
    pub(crate) fn start() -> Self {
        #[cfg(not(feature = "simulation"))]
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        #[cfg(feature = "simulation")]
        let wall = turmoil::since_epoch().ok_or(());
        let wall = wall.unwrap_or_default();
        Self {
            wall_us: micros(wall),
            anchor: Instant::now(),
        }
    }

    /// Returns the wall time of a moment.
    pub(crate) fn at_us(&self, moment: Instant) -> i64 {
        self.wall_us + micros(moment.saturating_duration_since(self.anchor))
    }

    /// Returns the wall time now.
    pub(crate) fn now_us(&self) -> i64 {
        self.at_us(Instant::now())
    }

    /// Returns the time since the anchor.
    pub(crate) fn uptime(&self) -> Duration {
        self.anchor.elapsed()
    }
}

/// Returns a duration in whole microseconds.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
