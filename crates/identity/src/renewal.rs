//! When to renew.

use std::time::Duration;

/// Shortest pause between two renewals, so that a server that hands out certificates that
/// are nearly over is not asked without end.
const SHORTEST: Duration = Duration::from_millis(500);

/// Returns how long to wait before a certificate with `left` of its life is renewed: 50 to
/// 70 % of that. `random` spreads proxies that started together.
#[must_use]
pub fn pause(left: Duration, random: u64) -> Duration {
    let per_mille = 500 + u32::try_from(random % 201).unwrap_or(0);
    (left / 1_000 * per_mille).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_come_at_half_to_seven_tenths_of_the_life_that_is_left() {
        let day = Duration::from_secs(86_400);
        let mut seen = std::collections::BTreeSet::new();
        for random in 0..1_000 {
            let pause = pause(day, random);
            assert!(pause >= day / 2 && pause <= day / 10 * 7, "{pause:?}");
            seen.insert(pause);
        }
        assert!(seen.len() > 100);
        assert_eq!(pause(Duration::ZERO, 7), SHORTEST);
    }
}
