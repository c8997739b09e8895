//! A small seeded random number generator: same seed, same numbers, on every machine.
//!
//! SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
//! Generators", OOPSLA 2014). Good enough to pick emoji, not meant for secrets.

use std::time::{SystemTime, UNIX_EPOCH};

/// The generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts the sequence that belongs to this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Starts at the given seed, or somewhere that differs from run to run.
    pub fn seeded(seed: Option<u64>) -> Self {
        Self::new(seed.unwrap_or_else(|| {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let nanos = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0);
            nanos ^ (u64::from(std::process::id()) << 32)
        }))
    }

    /// Returns the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// Returns a number in `0.0..1.0`.
    pub fn fraction(&mut self) -> f64 {
        // The 53 bits that a double holds exactly.
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number in `0..count`, or 0 when `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        // Multiply and shift: the bias is under count / 2^64.
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        // Published first outputs of the algorithm for the seed 1234567.
        let mut random = Random::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([random.bits(), random.bits()], expected);
    }

    #[test]
    fn numbers_stay_below_the_bound() {
        let mut random = Random::new(7);
        for count in 1..200 {
            assert!(random.below(count) < count);
        }
        assert_eq!(random.below(0), 0);
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&random.fraction()));
        }
    }
}
