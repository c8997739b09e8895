//! Why an exchange with an endpoint failed.

use std::error::Error;
use std::io;

use http::Request;
use whodunit_model::Cause;

use crate::http::RequestBody;

/// A request that got no response.
pub(crate) struct Failed {
    /// Why.
    pub(crate) cause: Cause,
    /// The request, if not a byte of it was sent.
    pub(crate) request: Option<Box<Request<RequestBody>>>,
}

/// Returns the cause that an error of hyper stands for.
pub(crate) fn hyper_cause(error: &hyper::Error) -> Cause {
    if error.is_parse() {
        return Cause::BadResponseHead;
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Cause::ClosedEarly;
    }
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            return io_cause(inner.kind());
        }
        if let Some(inner) = inner.downcast_ref::<h2::Error>() {
            return h2_cause(inner);
        }
        source = inner.source();
    }
    Cause::Unknown
}

/// Says whether our side ended an HTTP/2 connection because the peer broke the protocol.
pub(crate) fn is_violation(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<h2::Error>() {
            return inner.is_go_away() && inner.is_library();
        }
        source = inner.source();
    }
    false
}

fn h2_cause(error: &h2::Error) -> Cause {
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
