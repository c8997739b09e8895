//! Buffers of a thread, lent while bytes move and given back when they are empty.
//!
//! A connection that waits keeps none, which is most of what an idle one would cost.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of a buffer.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;

/// Most bytes that are kept in a buffer of their size while they wait for more.
const SHRUNK_BYTES_MAX: usize = 2 << 10;

/// Most buffers that a thread keeps for later.
const KEPT_MAX: usize = 64;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Sees to room in a buffer, which may have none at all.
pub(crate) fn provide(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        *buffer = lend();
    } else if buffer.capacity() <= SHRUNK_BYTES_MAX {
        let mut lent = lend();
        lent.extend_from_slice(buffer);
        *buffer = lent;
    }
    if buffer.capacity() - buffer.len() < BUFFER_BYTES / 8 {
        buffer.reserve(BUFFER_BYTES);
    }
}

fn lend() -> BytesMut {
    KEPT.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES))
}

/// Moves the few bytes of a buffer that has to wait into one of their size.
pub(crate) fn shrink(buffer: &mut BytesMut) {
    if buffer.capacity() > SHRUNK_BYTES_MAX && buffer.len() <= SHRUNK_BYTES_MAX {
        let few = BytesMut::from(&buffer[..]);
        let mut large = std::mem::replace(buffer, few);
        large.clear();
        release(&mut large);
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
