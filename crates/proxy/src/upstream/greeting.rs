//! The first bytes of an endpoint that was sent the preface of HTTP/2.
//!
//! A server of HTTP/2 begins with a `SETTINGS` frame (RFC 9113 §3.4). One of HTTP/1 takes the
//! preface for a bad request and answers in its own words, or hangs up. Nothing but the
//! preface and settings has been sent by then, so whatever it is, no request was lost on it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::task::{Poll, Waker};

use whodunit_model::Cause;

use super::error::io_cause;

/// Bytes of the header of a frame up to its type, which is enough to tell.
const TELLING_BYTES: usize = 4;

const SETTINGS: u8 = 4;
/// Servers that have no room for another connection may begin with this.
const GOAWAY: u8 = 7;

/// What an endpoint began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// HTTP/2.
    Http2,
    /// Something else.
    Other,
    /// The end of the connection, for this cause.
    Ended(Cause),
}

/// Waits for the first bytes of a connection.
#[derive(Debug, Default)]
pub(crate) struct Greeting {
    piece: Cell<[u8; TELLING_BYTES]>,
    bytes: Cell<usize>,
    told: Cell<Option<Told>>,
    /// Who connects; others wait for the same connection through it.
    waiting: RefCell<Option<Waker>>,
}

impl Greeting {
    /// Takes what was read: bytes, none at the end. Returns whether that is enough.
    pub(crate) fn read(&self, read: Result<&[u8], io::ErrorKind>) -> bool {
        let told = match read {
            Err(kind) => Told::Ended(io_cause(kind)),
            Ok([]) => Told::Ended(Cause::ClosedEarly),
            Ok(bytes) => match self.judge(bytes) {
                Some(told) => told,
                None => return false,
            },
        };
        self.told.set(Some(told));
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        true
    }

    fn judge(&self, bytes: &[u8]) -> Option<Told> {
        let (mut piece, had) = (self.piece.get(), self.bytes.get());
        let count = bytes.len().min(TELLING_BYTES - had);
        piece[had..had + count].copy_from_slice(&bytes[..count]);
        self.piece.set(piece);
        self.bytes.set(had + count);
        // No frame that may come here has 64 KiB.
        if piece[0] != 0 {
            return Some(Told::Other);
        }
        let kind = (had + count == TELLING_BYTES).then_some(piece[3])?;
        Some(if matches!(kind, SETTINGS | GOAWAY) {
            Told::Http2
        } else {
            Told::Other
        })
    }

    /// Says whether it is known that the endpoint does not speak HTTP/2.
    pub(crate) fn is_other(&self) -> bool {
        self.told.get() == Some(Told::Other)
    }

    /// Returns what is known already.
    pub(super) const fn told(&self) -> Option<Told> {
        self.told.get()
    }

    /// Waits until it is known.
    pub(super) async fn wait(&self) -> Told {
        poll_fn(|cx| {
            if let Some(told) = self.told.get() {
                return Poll::Ready(told);
            }
            self.waiting.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_however_they_are_cut() {
        let check = |bytes: &[u8], expected: Option<Told>| {
            for size in 1..=bytes.len().max(1) {
                let greeting = Greeting::default();
                let enough = bytes.chunks(size).any(|piece| greeting.read(Ok(piece)));
                assert_eq!(enough, expected.is_some());
                assert_eq!(greeting.told(), expected, "{bytes:?} in pieces of {size}");
            }
        };
        check(b"\0\0\x12\x04\0\0\0\0\0", Some(Told::Http2));
        check(b"\0\0\0\x04", Some(Told::Http2));
        check(b"\0\0\x08\x07\0\0\0\0\0", Some(Told::Http2));
        check(b"\0\0\x08\x06", Some(Told::Other));
        check(b"HTTP/1.1 400 Bad Request\r\n", Some(Told::Other));
        check(b"<html>", Some(Told::Other));
        check(b"H", Some(Told::Other));
        check(b"\0\0\x12", None);
        let ended = Greeting::default();
        assert!(ended.read(Ok(&[])));
        assert_eq!(ended.told(), Some(Told::Ended(Cause::ClosedEarly)));
        let reset = Greeting::default();
        assert!(reset.read(Err(io::ErrorKind::ConnectionReset)));
        assert_eq!(reset.told(), Some(Told::Ended(Cause::Reset)));
    }
}
