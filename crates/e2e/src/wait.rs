//! Waits for a condition on a value, with a deadline.

use std::time::{Duration, Instant};

/// Asks `look` until it returns something, at most for `limit`.
///
/// # Panics
/// When the time is over; the message names `what`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            began.elapsed() < limit,
            "waited {limit:?} in vain for {what}"
        );
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
