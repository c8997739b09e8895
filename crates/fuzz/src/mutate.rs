//! A small generator of inputs: the same number gives the same input.

/// Longest input, in bytes.
const BYTES_MAX: usize = 4_096;

/// A source of numbers that are always the same (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins at a number.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    /// Makes an input: a seed that was changed in a few places.
    pub fn input(mut self, seeds: &[&[u8]], words: &[&[u8]]) -> Vec<u8> {
        let seed = self.below(seeds.len());
        let mut input = seeds
            .get(seed)
            .map(|seed| seed.to_vec())
            .unwrap_or_default();
        for _ in 0..=self.below(6) {
            self.change(&mut input, words);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, words: &[&[u8]]) {
        let at = self.below(input.len() + 1);
        let length = self.below(16).min(input.len() - at);
        let byte = self.next().to_le_bytes()[0];
        match self.below(7) {
            0 => input.insert(at, byte),
            1 => drop(input.drain(at..at + length)),
            2 => {
                if let Some(found) = input.get_mut(at) {
                    *found ^= 1 << (byte % 8);
                }
            }
            3 => {
                if let Some(found) = input.get_mut(at) {
                    *found = byte;
                }
            }
            4 => {
                let copied = input[at..at + length].to_vec();
                let to = self.below(input.len() + 1);
                drop(input.splice(to..to, copied));
            }
            5 => input.truncate(at),
            _ => {
                let word = self.below(words.len());
                if let Some(word) = words.get(word) {
                    drop(input.splice(at..at, word.iter().copied()));
                }
            }
        }
    }
}
