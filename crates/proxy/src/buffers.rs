//! Buffers of a thread, lent while bytes move and given back when they are empty.
//!
//! A connection that waits keeps none, which is most of what an idle one would cost.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of a buffer.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;

/// Most buffers that a thread keeps for later.
const KEPT_MAX: usize = 64;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Sees to room in a buffer, which may have none at all.
pub(crate) fn provide(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        *buffer = KEPT
            .with_borrow_mut(Vec::pop)
            .unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES));
    }
    if buffer.capacity() - buffer.len() < BUFFER_BYTES / 8 {
        buffer.reserve(BUFFER_BYTES);
    }
}

/// Takes a buffer back if nothing is in it.
pub(crate) fn release(buffer: &mut BytesMut) {
    if !buffer.is_empty() || buffer.capacity() == 0 {
        return;
    }
    let mut given = std::mem::take(buffer);
    // Bytes that were cut from it may still be in use elsewhere; then it goes with them.
    let whole = given.try_reclaim(BUFFER_BYTES) && given.capacity() <= 2 * BUFFER_BYTES;
    if whole {
        KEPT.with_borrow_mut(|kept| {
            if kept.len() < KEPT_MAX {
                kept.push(given);
            }
        });
    }
}
