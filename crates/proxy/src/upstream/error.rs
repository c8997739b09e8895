//! Why an exchange with an endpoint failed.

use std::io;

use whodunit_model::Cause;

/// A request that got no response.
pub(crate) struct Failed {
    /// Why.
    pub(crate) cause: Cause,
    /// Whether not a byte of the request was sent, so that the same may go out once more.
    pub(crate) unsent: bool,
    /// Whether the endpoint surely did nothing with it: any request may be sent again.
    pub(crate) unprocessed: bool,
}

/// Returns the cause that an error of HTTP/2 stands for when an endpoint is the reason.
pub(crate) fn h2_cause(error: &h2::Error) -> Cause {
    if let Some(inner) = error.get_io() {
        return io_cause(inner.kind());
    }
    if error.is_go_away() && error.is_remote() {
        return Cause::ClosedEarly;
    }
    if error.is_reset() && error.is_remote() {
        return Cause::Reset;
    }
    // What remains are violations of the protocol that our side found.
    Cause::BadResponseHead
}

/// Says whether the endpoint has told that it did nothing with the request.
pub(super) fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // Streams that a GOAWAY covers end in their own ways; only the others end with it.
    error.is_remote() && (refused || error.is_go_away())
}

/// Returns the cause that an error of a socket stands for.
pub(crate) const fn io_cause(kind: io::ErrorKind) -> Cause {
    match kind {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected => Cause::Reset,
        io::ErrorKind::UnexpectedEof => Cause::ClosedEarly,
        io::ErrorKind::TimedOut => Cause::IdleTimeout,
        _ => Cause::Unknown,
    }
}
