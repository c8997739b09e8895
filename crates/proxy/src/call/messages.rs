//! Counts messages in a body: gRPC's length-prefixed ones, or frames otherwise.

/// Bytes before each gRPC message: a flag and a length of 32 bits.
const PREFIX_BYTES: u8 = 5;

/// A counter that body bytes run through in pieces of any size.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Messages {
    grpc: bool,
    /// Bytes of the prefix that were seen.
    prefix: u8,
    /// Length of the present message as far as its prefix was seen.
    length: u32,
    /// Bytes of the present message that are still to come.
    left: u64,
}

impl Messages {
    /// Returns a counter for gRPC or for anything else.
    pub(crate) fn new(grpc: bool) -> Self {
        Self {
            grpc,
            ..Self::default()
        }
    }

    /// Returns how many messages end in `data`. Outside gRPC each piece is one.
    pub(crate) fn count(&mut self, mut data: &[u8]) -> u32 {
        if !self.grpc {
            return u32::from(!data.is_empty());
        }
        let mut ended = 0;
        while !data.is_empty() {
            if self.prefix < PREFIX_BYTES {
                if self.prefix > 0 {
                    self.length = self.length << 8 | u32::from(data[0]);
                }
                self.prefix += 1;
                data = &data[1..];
                self.left = u64::from(self.length);
            } else {
                let skipped = self.left.min(data.len() as u64);
                self.left -= skipped;
                // The number is at most the length of the slice.
                data = &data[usize::try_from(skipped).unwrap_or(data.len())..];
            }
            if self.prefix == PREFIX_BYTES && self.left == 0 {
                ended += 1;
                *self = Self::new(true);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_counted_however_they_are_cut() {
        let body = [0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0];
        let mut body = body.to_vec();
        body.extend([7; 256]);
        for size in [1, 2, 5, 7, 100, body.len()] {
            let mut messages = Messages::new(true);
            let count: u32 = body.chunks(size).map(|piece| messages.count(piece)).sum();
            assert_eq!(count, 3, "pieces of {size}");
        }
        let mut unfinished = Messages::new(true);
        assert_eq!(unfinished.count(&body[..body.len() - 1]), 2);
        assert_eq!(Messages::new(false).count(b"x"), 1);
        assert_eq!(Messages::new(false).count(b""), 0);
    }
}
