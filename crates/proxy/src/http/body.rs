//! Bodies on their way through: counted, and the end of a response ends its call.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use whodunit_model::record::Side;

use super::head;
use super::http1::Wire;
use super::stream::{Incoming, StreamError};
use super::upgrade::Switched;
use crate::call::{Call, CallState, Fault, Messages};
use crate::upstream::{InFlight, Lease};

/// The body of a request on its way to an endpoint.
pub(crate) struct RequestBody {
    inner: Option<Incoming>,
    state: Rc<CallState>,
    messages: Messages,
}

impl RequestBody {
    /// Wraps the body that a client sends.
    pub(crate) fn new(inner: Incoming, state: Rc<CallState>, grpc: bool) -> Self {
        Self {
            inner: Some(inner),
            state,
            messages: Messages::new(grpc),
        }
    }

    /// Returns the connection of the HTTP/1 client this comes from.
    pub(crate) fn client(&self) -> Option<&Rc<Wire>> {
        self.inner.as_ref().and_then(Incoming::client)
    }

    /// Returns an empty body.
    pub(crate) fn empty(state: Rc<CallState>) -> Self {
        Self {
            inner: None,
            state,
            messages: Messages::default(),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let mut frame = ready!(Pin::new(inner).poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.state.sent(data.len(), this.messages.count(data));
                } else if let Some(trailers) = frame.trailers_mut() {
                    head::strip_trailers(trailers);
                }
            }
            Some(Err(error)) => this.state.client_failed(error.client_cause()),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The body of a response on its way to the client.
pub(crate) enum ResponseBody {
    /// From an endpoint.
    Relayed(Box<Relayed>),
    /// Made here; taken when it was sent.
    Made(Option<Bytes>),
    /// The connection goes on in another protocol.
    Switched(Box<Switched>),
}

impl ResponseBody {
    /// Returns an empty body.
    pub(crate) const fn empty() -> Self {
        Self::Made(None)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match &mut *self {
            Self::Relayed(body) => body.poll_frame(cx),
            Self::Made(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Switched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relayed(body) => body.inner.is_end_stream(),
            Self::Made(text) => text.is_none(),
            Self::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relayed(body) => body.inner.size_hint(),
            Self::Made(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Self::Switched(_) => SizeHint::with_exact(0),
        }
    }
}

/// A response body from an endpoint, with the call it ends.
pub(crate) struct Relayed {
    inner: Incoming,
    messages: Messages,
    /// Taken when the call has ended.
    rest: Option<Rest>,
}

struct Rest {
    call: Call,
    lease: Lease,
    _in_flight: InFlight,
    side: Side,
    meshed: bool,
}

impl Relayed {
    /// Wraps a body. A call whose response has no body ends at once.
    pub(crate) fn new(
        inner: Incoming,
        call: Call,
        lease: Lease,
        in_flight: InFlight,
        meshed: bool,
        grpc: bool,
    ) -> Self {
        let side = call.note(|record| record.side);
        let rest = Rest {
            call,
            lease,
            _in_flight: in_flight,
            side,
            meshed,
        };
        let mut this = Self {
            inner,
            messages: Messages::new(grpc),
            rest: Some(rest),
        };
        if this.inner.is_end_stream() {
            this.complete();
        }
        this
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(rest) = &self.rest {
                    if let Some(data) = frame.data_ref() {
                        let messages = self.messages.count(data);
                        rest.call.state().received(data.len(), messages);
                    } else if let Some(status) = frame.trailers_ref().and_then(grpc_status) {
                        rest.call.note(|record| record.grpc_status = Some(status));
                    }
                }
                // Nothing follows trailers, and HTTP/1 servers do not ask for more.
                if frame.is_trailers() || self.inner.is_end_stream() {
                    self.complete();
                }
            }
            Some(Err(error)) => self.fail(error),
            None => self.complete(),
        }
        Poll::Ready(frame)
    }

    fn complete(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.lease.give_back();
            rest.call.end();
        }
    }

    fn fail(&mut self, error: &StreamError) {
        if let Some(mut rest) = self.rest.take() {
            let client = rest.call.state().client_failure();
            let cause = client.unwrap_or_else(|| error.cause());
            tracing::debug!(%error, %cause, "response broke off");
            rest.call
                .blame(Fault::seen_from(rest.side, cause, rest.meshed));
            rest.call.end();
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // Servers stop asking for frames when a body of known length is complete.
        if self.inner.is_end_stream() {
            self.complete();
        }
    }
}

/// Returns the gRPC status of a header or trailer section.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    let text = headers.get("grpc-status")?.to_str().ok()?;
    // A status that is no small number means Unknown.
    Some(text.trim().parse().unwrap_or(2))
}
