//! Bodies as they come in: over HTTP/2, from an HTTP/1 client, or from an HTTP/1 endpoint.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use http_body::{Body, Frame, SizeHint};
use whodunit_model::Cause;

use super::http1::Wire;
use super::http2::ReceivedBody;
use crate::h1::{BodyError, Fields};
use crate::upstream::{Exchange, h2_cause, io_cause};

/// Why a body or a message cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// HTTP/2 failed.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The body is not framed as announced.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The request body that the response belongs to broke off.
    #[error("the client's request broke off")]
    Client,
}

impl StreamError {
    /// Returns the cause this stands for when an endpoint is the reason.
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Http2(error) => h2_cause(error),
            Self::Io(error) => io_cause(error.kind()),
            Self::Body(BodyError::EndedEarly) => Cause::ClosedEarly,
            Self::Body(BodyError::BadChunk(_)) => Cause::BadResponseHead,
            Self::Client => Cause::ClientCancelled,
        }
    }

    /// Returns the cause this stands for when a client is the reason.
    pub(crate) fn client_cause(&self) -> Cause {
        match self {
            // What our side found wrong is a breach of the protocol.
            Self::Http2(error) if error.is_library() => Cause::BadRequestHead,
            Self::Body(BodyError::BadChunk(_)) => Cause::BadRequestHead,
            _ => Cause::ClientCancelled,
        }
    }

    /// Returns the error code that tells the other side of an HTTP/2 stream.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Http2(error) => match error.reason() {
                // Whatever the far side did, the near one did nothing wrong.
                Some(Reason::CANCEL) => Reason::CANCEL,
                _ => Reason::INTERNAL_ERROR,
            },
            Self::Client => Reason::CANCEL,
            Self::Io(_) | Self::Body(_) => Reason::INTERNAL_ERROR,
        }
    }
}

/// A body that comes in.
pub(crate) enum Incoming {
    /// Over HTTP/2.
    Http2(ReceivedBody),
    /// The request of an HTTP/1 client.
    Client(Rc<Wire>),
    /// The response of an HTTP/1 endpoint.
    Endpoint(Rc<RefCell<Exchange>>),
}

impl Incoming {
    /// Returns the connection of the HTTP/1 client this comes from.
    pub(crate) fn client(&self) -> Option<&Rc<Wire>> {
        match self {
            Self::Client(wire) => Some(wire),
            _ => None,
        }
    }

    /// Looks at the fields and the reason phrase that the response of an HTTP/1 endpoint came
    /// with, if they go to an HTTP/1 client.
    pub(crate) fn with_head<T>(&self, look: impl FnOnce(Option<(&Fields, &[u8])>) -> T) -> T {
        let Self::Endpoint(exchange) = self else {
            return look(None);
        };
        let exchange = exchange.borrow();
        let head = exchange.head.as_ref();
        look(head.map(|(fields, reason)| (fields, &reason[..])))
    }

    /// Takes them.
    pub(crate) fn take_head(&self) -> Option<(Fields, Bytes)> {
        match self {
            Self::Endpoint(exchange) => exchange.borrow_mut().head.take(),
            _ => None,
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match &mut *self {
            Self::Http2(body) => body.poll_frame(cx),
            Self::Client(wire) => wire.poll_frame(cx),
            Self::Endpoint(exchange) => exchange.borrow_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http2(body) => body.is_end_stream(),
            Self::Client(wire) => wire.left() == Some(0),
            Self::Endpoint(exchange) => exchange.borrow().left() == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match self {
            Self::Http2(body) => body.is_end_stream().then_some(0),
            Self::Client(wire) => wire.left(),
            Self::Endpoint(exchange) => exchange.borrow().left(),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
