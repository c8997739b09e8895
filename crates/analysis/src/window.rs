//! The stretch of time a question is about.

use whodunit_model::time::SECOND_US;

use crate::numbers::ratio;

/// A half-open stretch of time, µs since the Unix epoch: `from_us <= at < until_us`.
///
/// Rows are filed by the moment they ended or were observed (`at_us`), so a
/// request belongs to the window in which it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// First moment inside.
    pub from_us: i64,
    /// First moment after.
    pub until_us: i64,
}

impl Window {
    /// Every moment there is.
    pub const ALL: Self = Self {
        from_us: i64::MIN,
        until_us: i64::MAX,
    };

    /// Says whether `at_us` lies inside.
    #[must_use]
    pub const fn contains(self, at_us: i64) -> bool {
        self.from_us <= at_us && at_us < self.until_us
    }

    /// Returns `count` per second of the window, 0 for an empty window.
    #[must_use]
    pub fn rate(self, count: u64) -> f64 {
        let length_us = self.until_us.saturating_sub(self.from_us);
        if length_us <= 0 {
            return 0.0;
        }
        ratio(count, 1) * ratio(SECOND_US.unsigned_abs(), length_us.unsigned_abs())
    }
}
