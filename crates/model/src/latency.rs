//! Latency as operators read it: exact quantiles and Linkerd's buckets.

/// Upper bounds of Linkerd's latency histogram, in milliseconds, without `+Inf`.
///
/// Source: Linkerd's proxy metrics, unchanged since 2018.
pub const LATENCY_BUCKETS_MS: [u64; 25] = [
    1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1_000, 2_000, 3_000, 4_000, 5_000,
    10_000, 20_000, 30_000, 40_000, 50_000,
];

/// Returns the exact `q`-quantile (nearest rank) and reorders `values`.
///
/// The nearest-rank definition returns a value that really occurred: the
/// smallest one that at least `q` of all values do not exceed. Returns none
/// for no values.
pub fn exact_quantile(values: &mut [i64], q: f64) -> Option<i64> {
    if values.is_empty() {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "ranks of slices fit in 52 bits"
    )]
    let rank = ((q.clamp(0.0, 1.0) * values.len() as f64).ceil() as usize).max(1);
    let index = rank.min(values.len()) - 1;
    let (_, value, _) = values.select_nth_unstable(index);
    Some(*value)
}

#[cfg(test)]
mod tests {
    use super::exact_quantile;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut values: Vec<i64> = (1..=100).rev().collect();
        assert_eq!(exact_quantile(&mut values, 0.5), Some(50));
        assert_eq!(exact_quantile(&mut values, 0.95), Some(95));
        assert_eq!(exact_quantile(&mut values, 0.99), Some(99));
        assert_eq!(exact_quantile(&mut values, 1.0), Some(100));
        assert_eq!(exact_quantile(&mut values, 0.0), Some(1));
        assert_eq!(exact_quantile(&mut [7], 0.99), Some(7));
        assert_eq!(exact_quantile(&mut [], 0.5), None);
    }
}
