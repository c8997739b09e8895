//! Bodies on their way through: counted, and the end of a response ends its call.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use whodunit_model::Cause;
use whodunit_model::record::Side;

use super::forward::Kept;
use super::head;
use super::http1::Wire;
use super::patience::Patience;
use super::replay::{Replay, Replayed};
use super::reply;
use super::stream::{Incoming, StreamError};
use super::upgrade::Switched;
use crate::call::{Call, CallState, Fault, Messages};
use crate::h1::Fields;
use crate::upstream::{InFlight, Lease};

/// Where the body of a request comes from.
enum Inner {
    /// None; the client's connection, if it has fields that were not looked at.
    Nothing(Option<Rc<Wire>>),
    Stream(Incoming),
    /// Kept, so that it can be sent again.
    Kept(Replayed),
}

/// A request on its way to an endpoint, in one place for all its tries: a future that hands
/// it on by value keeps room for it at each step.
pub(crate) struct Outgoing {
    /// The head; none once a connection has taken it.
    pub(crate) parts: Option<Parts>,
    /// The body; none once a connection has taken it.
    pub(crate) body: Option<RequestBody>,
}

/// The body of a request on its way to an endpoint.
pub(crate) struct RequestBody {
    inner: Inner,
    state: Rc<CallState>,
    messages: Messages,
}

impl RequestBody {
    /// Wraps the body that a client sends.
    pub(crate) fn new(inner: Incoming, state: Rc<CallState>, grpc: bool) -> Self {
        Self {
            inner: Inner::Stream(inner),
            state,
            messages: Messages::new(grpc),
        }
    }

    /// Returns the connection of the HTTP/1 client this comes from.
    pub(crate) fn client(&self) -> Option<Rc<Wire>> {
        match &self.inner {
            Inner::Nothing(client) => client.clone(),
            Inner::Stream(stream) => stream.client().cloned(),
            Inner::Kept(kept) => kept.source(|stream| stream.client().cloned()),
        }
    }

    /// Keeps up to `bytes_max` of a body that has not been read, so that it can be sent again.
    pub(super) fn keep(&mut self, bytes_max: usize) -> Option<Rc<Replay>> {
        match std::mem::replace(&mut self.inner, Inner::Nothing(None)) {
            Inner::Stream(stream) => {
                let replay = Replay::new(stream, bytes_max);
                self.inner = Inner::Kept(replay.begin());
                Some(replay)
            }
            other => {
                self.inner = other;
                None
            }
        }
    }

    /// Returns the same body once more.
    pub(super) fn again(replay: &Rc<Replay>, state: Rc<CallState>, grpc: bool) -> Self {
        Self {
            inner: Inner::Kept(replay.begin()),
            state,
            messages: Messages::new(grpc),
        }
    }

    /// Returns the empty body of a request that came from an HTTP/1 client, if it did.
    pub(crate) fn empty(state: Rc<CallState>, client: Option<Rc<Wire>>) -> Self {
        Self {
            inner: Inner::Nothing(client),
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
        let (is_new, mut frame) = match &mut this.inner {
            Inner::Nothing(_) => return Poll::Ready(None),
            Inner::Stream(stream) => (true, ready!(Pin::new(stream).poll_frame(cx))),
            Inner::Kept(kept) => match ready!(kept.poll_frame(cx)) {
                Some((is_new, frame)) => (is_new, Some(frame)),
                None => (false, None),
            },
        };
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    // What is sent again was counted before.
                    if is_new {
                        this.state.sent(data.len(), this.messages.count(data));
                    }
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
        match &self.inner {
            Inner::Nothing(_) => true,
            Inner::Stream(stream) => stream.is_end_stream(),
            Inner::Kept(kept) => kept.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Nothing(_) => SizeHint::with_exact(0),
            Inner::Stream(stream) => stream.size_hint(),
            Inner::Kept(kept) => kept.size_hint(),
        }
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

    /// Looks at what the head of the response came in with, as [`Incoming::with_head`] does.
    pub(super) fn with_head<T>(&self, look: impl FnOnce(Option<(&Fields, &[u8])>) -> T) -> T {
        match self {
            Self::Relayed(body) => body.inner.with_head(look),
            Self::Made(_) | Self::Switched(_) => look(None),
        }
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
            Self::Relayed(body) => body.is_end_stream(),
            Self::Made(text) => text.is_none(),
            Self::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relayed(body) => body.size_hint(),
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
    /// What was read of it to decide about the response.
    first: Option<Box<Frame<Bytes>>>,
    messages: Messages,
    patience: Option<Box<Patience>>,
    grpc: bool,
    /// Taken when the call has ended.
    rest: Option<Rest>,
}

struct Rest {
    call: Call,
    lease: Lease,
    in_flight: InFlight,
    side: Side,
    meshed: bool,
}

impl Relayed {
    /// Wraps a body. A call whose response has no body ends at once.
    pub(super) fn new(inner: Incoming, call: Call, answered: Kept, grpc: bool) -> Self {
        let side = call.note(|record| record.side);
        let rest = Rest {
            call,
            lease: answered.lease,
            in_flight: answered.in_flight,
            side,
            meshed: answered.meshed,
        };
        let mut this = Self {
            inner,
            first: answered.first,
            messages: Messages::new(grpc),
            patience: answered.patience,
            grpc,
            rest: Some(rest),
        };
        if this.first.is_none() && this.inner.is_end_stream() {
            this.complete();
        }
        this
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let frame = match self.first.take() {
            Some(first) => Some(Ok(*first)),
            None => match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let late = self.patience.as_mut().filter(|_| self.rest.is_some());
                    let cause = match late {
                        Some(patience) => ready!(patience.poll(cx)),
                        None => return Poll::Pending,
                    };
                    return Poll::Ready(Some(self.too_late(cause)));
                }
            },
        };
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

    /// Ends a response that takes too long: gRPC has a status for that, everything else can
    /// only break off.
    fn too_late(&mut self, cause: Cause) -> Result<Frame<Bytes>, StreamError> {
        if let Some(mut rest) = self.rest.take() {
            rest.in_flight.failed();
            if self.grpc {
                rest.call
                    .note(|record| record.grpc_status = Some(reply::grpc_code(cause)));
            }
            rest.call
                .blame(Fault::seen_from(rest.side, cause, rest.meshed));
            rest.call.end();
        }
        if self.grpc {
            return Ok(Frame::trailers(reply::grpc_trailers(cause)));
        }
        Err(io::Error::from(io::ErrorKind::TimedOut).into())
    }

    /// Says whether nothing follows: neither from the endpoint nor of what was read of it.
    fn is_end_stream(&self) -> bool {
        self.first.is_none() && (self.rest.is_none() || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.first {
            None => self.inner.size_hint(),
            Some(first) => {
                let first = first.data_ref().map_or(0, |data| data.len() as u64);
                let rest = self.inner.size_hint().exact();
                rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + first))
            }
        }
    }

    fn complete(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.lease.give_back();
            if rest.call.looks_well() {
                rest.in_flight.succeeded();
            } else {
                rest.in_flight.answered_badly();
            }
            rest.call.end();
        }
    }

    fn fail(&mut self, error: &StreamError) {
        if let Some(mut rest) = self.rest.take() {
            let client = rest.call.state().client_failure();
            let cause = client.unwrap_or_else(|| error.cause());
            if client.is_none() {
                rest.in_flight.failed();
            }
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
        if self.is_end_stream() {
            self.complete();
        }
    }
}

/// Returns the gRPC status of a header or trailer section.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
    let text = headers.get(GRPC_STATUS)?.to_str().ok()?;
    // A status that is no small number means Unknown.
    Some(text.trim().parse().unwrap_or(2))
}
