//! Small exact helpers for counts, shares and quantiles.

use whodunit_model::latency::exact_quantile;

/// Returns `part / whole` as a number, 0 for nothing.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts beyond 2^52 do not occur, and a share needs no more digits"
)]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

/// Returns a length as a count.
pub(crate) fn count(length: usize) -> u64 {
    length as u64
}

/// Median, 95th and 99th percentile of some latencies, µs; none without values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Median, µs.
    pub p50_us: Option<i64>,
    /// 95th percentile, µs.
    pub p95_us: Option<i64>,
    /// 99th percentile, µs.
    pub p99_us: Option<i64>,
}

impl Quantiles {
    /// Computes exact quantiles (nearest rank) and reorders `values`.
    pub(crate) fn of(values: &mut [i64]) -> Self {
        Self {
            p50_us: exact_quantile(values, 0.5),
            p95_us: exact_quantile(values, 0.95),
            p99_us: exact_quantile(values, 0.99),
        }
    }
}

/// Returns the median (nearest rank) and reorders `values`.
pub(crate) fn median(values: &mut [i64]) -> Option<i64> {
    exact_quantile(values, 0.5)
}
