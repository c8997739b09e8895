//! Where every random number of a simulation comes from.
//!
//! The standard library, and through it the runtime, ask the system for random numbers: for
//! the order of maps, and for which ready branch of a `select!` goes first. The program
//! therefore has a `getrandom` of its own in place of the C library's. This is the only
//! `unsafe` code here, and it is linked into nothing but the simulation.

use std::sync::atomic::{AtomicU64, Ordering};

/// The state of the system's generator.
static SYSTEM: AtomicU64 = AtomicU64::new(0);

/// Makes the system's random numbers those of a seed from now on.
pub(crate) fn seed_system(seed: u64) {
    SYSTEM.store(seed, Ordering::Relaxed);
}

/// A source of numbers that are always the same (splitmix64).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Begins at a seed; `stream` tells apart those who draw from it.
    pub(crate) const fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed ^ mix(stream)))
    }

    /// Returns the next number.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// Returns a number below `bound`, 0 if that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Returns a number from a range that is not empty.
    pub(crate) fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// Says yes in `percent` of all cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills a buffer as the system call of this name does.
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes.
#[expect(unsafe_code, reason = "takes the place of a function of the C library")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for offset in 0..length {
        let drawn = mix(SYSTEM.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP));
        // SAFETY: the caller vouches for `length` bytes, and `offset` is below that.
        unsafe { buffer.add(offset).write(drawn.to_le_bytes()[0]) };
    }
    length.cast_signed()
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, RandomState};

    use super::*;

    #[test]
    fn what_the_system_draws_follows_from_the_seed() {
        let drawn = |seed| {
            seed_system(seed);
            // Each thread asks once.
            let hash = std::thread::spawn(|| RandomState::new().hash_one(1)).join();
            hash.expect("no panic")
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn streams_of_a_seed_differ_and_repeat() {
        let first = |seed, stream| Random::new(seed, stream).next();
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(1, 3));
        assert_ne!(first(1, 2), first(2, 2));
        assert!((0..99).all(|n| (3..5).contains(&Random::new(n, 0).within(3..5))));
    }
}
