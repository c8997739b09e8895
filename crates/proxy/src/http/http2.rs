//! Serves an HTTP/2 client: one task per connection, and one per stream.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{PingPong, Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use tokio::sync::watch;
use tokio::time::timeout;
use whodunit_model::Cause;
use whodunit_model::record::Protocol;

use super::body::{RequestBody, ResponseBody};
use super::interim;
use super::serve::{record_bad_head, record_unserved, serve};
use super::stream::{Incoming, StreamError};
use crate::clock::Instant;
use crate::coalesce::{Coalesced, Watched};
use crate::frames::{Refused, Watch};
use crate::limits::{self, Limit};
use crate::net::Io;
use crate::worker::{Connection, Phase, Want};

/// Bytes of a response that may wait for one client that does not read.
const SEND_BUFFER_BYTES: usize = Limit::Http2SendBytes.count();

/// How long a client may take for the preface, of which the begin is there already.
const PREFACE_TIME: Duration = Limit::HeadTime.time();

/// Serves the requests of a connection until it ends.
pub(crate) async fn serve_http2(connection: Rc<Connection>, io: Io, phase: watch::Receiver<Phase>) {
    let (io, watched) = Coalesced::watched(io, Watch::default());
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(streams_of(&connection).count_u32())
        .initial_window_size(Limit::Http2StreamWindow.count_u32())
        .initial_connection_window_size(Limit::Http2ConnectionWindow.count_u32())
        .max_header_list_size(super::HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(Limit::Http2EarlyResets.count())
        .max_local_error_reset_streams(Some(Limit::Http2OwnResets.count()));
    let ending = match timeout(PREFACE_TIME, builder.handshake(io)).await {
        Err(_) => Ending::Violation,
        Ok(Err(error)) => Ending::of(&connection, &error),
        Ok(Ok(http)) => run(&connection, &watched, http, phase).await,
    };
    record_refused(&connection, &watched);
    record_left(&connection, &watched, ending);
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// In order, or because the client went away.
    Plain,
    /// We are stopping.
    Drained,
    /// The client broke the protocol, or sent more of no use than it may.
    Violation,
}

impl Ending {
    fn of(connection: &Connection, error: &h2::Error) -> Self {
        tracing::debug!(peer = %connection.peer, %error, "connection ended");
        if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
            // Which bound it was is told by text alone.
            let text = format!("{error:?}");
            limits::hit(if text.contains("internal_resets") {
                Limit::Http2OwnResets
            } else if text.contains("resets") {
                Limit::Http2EarlyResets
            } else if text.contains("header") || text.contains("continuations") {
                Limit::Http2FieldBytes
            } else {
                Limit::Http2IdleFrames
            });
        }
        if error.is_go_away() && error.is_library() {
            Self::Violation
        } else {
            Self::Plain
        }
    }
}

async fn run(
    connection: &Rc<Connection>,
    watched: &Watched,
    mut http: h2::server::Connection<Coalesced, Bytes>,
    mut phase: watch::Receiver<Phase>,
) -> Ending {
    // An error says that nobody can start draining any more, which is as good.
    let mut drained = pin!(phase.wait_for(|phase| *phase == Phase::Draining));
    let mut wanted = pin!(connection.wanted());
    let mut pings = http.ping_pong();
    let mut ending = Ending::Plain;
    let ended = poll_fn(|cx| {
        if ending == Ending::Plain && drained.as_mut().poll(cx).is_ready() {
            ending = Ending::Drained;
            http.graceful_shutdown();
        }
        while let Poll::Ready(want) = wanted.as_mut().poll(cx) {
            wanted.set(connection.wanted());
            match want {
                Want::End => http.graceful_shutdown(),
                Want::Ping => ping(&mut pings, watched),
                Want::Leave if watched.is_full() => {}
                Want::Leave => http.abrupt_shutdown(Reason::NO_ERROR),
                Want::Refuse => {
                    ending = Ending::Violation;
                    http.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
            }
        }
        if ending != Ending::Violation && watched.ask(|watch| watch.is_violation()) {
            ending = Ending::Violation;
            http.abrupt_shutdown(Reason::PROTOCOL_ERROR);
        }
        if let Some(pings) = &mut pings {
            // That it came is all that counts: bytes were read.
            let _ = pings.poll_pong(cx);
        }
        let ended = poll_accept(connection, watched, &mut http, cx);
        record_refused(connection, watched);
        connection.note_mid_head(watched.ask(|watch| watch.is_mid_head()));
        if ended.is_pending()
            && ending != Ending::Violation
            && let Some(limit) = watched.ask(|watch| watch.flood())
        {
            limits::hit(limit);
            tracing::debug!(peer = %connection.peer, "ended a connection that floods");
            ending = Ending::Violation;
            http.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            cx.waker().wake_by_ref();
        }
        ended
    });
    match ended.await {
        Ok(()) => ending,
        Err(error) => Ending::of(connection, &error),
    }
}

/// Hands out each request that is there; completes when the connection has ended.
fn poll_accept(
    connection: &Rc<Connection>,
    watched: &Watched,
    http: &mut h2::server::Connection<Coalesced, Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>> {
    while let Some(accepted) = ready!(http.poll_accept(cx)) {
        let (request, respond) = accepted?;
        let stream = respond.stream_id().as_u32();
        if watched.ask(|watch| watch.is_violation()) {
            // The connection is about to end for it.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        watched.ask(|watch| watch.serve(stream));
        // Tasks are moved while they are made and when they end, so what is large has a place
        // of its own.
        tokio::task::spawn_local(Box::pin(serve_stream(connection.clone(), request, respond)));
    }
    Poll::Ready(Ok(()))
}

fn ping(pings: &mut Option<PingPong>, watched: &Watched) {
    if let Some(pings) = pings.as_mut().filter(|_| !watched.is_full()) {
        // One that is still under way will do.
        let _ = pings.send_ping(h2::Ping::opaque());
    }
}

/// Records the streams that h2 refused by itself.
fn record_refused(connection: &Rc<Connection>, watched: &Watched) {
    while let Some(refused) = watched.next_refused() {
        let cause = if refused.code == u32::from(Reason::REFUSED_STREAM) {
            Cause::LoadShed
        } else {
            Cause::BadRequestHead
        };
        limits_of(connection, refused);
        tracing::debug!(peer = %connection.peer, ?refused, %cause, "a stream was refused");
        record_unserved(connection, cause, refused.status);
    }
}

/// Returns the limit of the streams that a client may have open.
const fn streams_of(connection: &Connection) -> Limit {
    if connection.identity.is_some() {
        Limit::Http2PeerStreams
    } else {
        Limit::Http2Streams
    }
}

fn limits_of(connection: &Connection, refused: Refused) {
    if refused.status > 0 {
        limits::hit(Limit::Http2FieldBytes);
    } else if refused.code == u32::from(Reason::REFUSED_STREAM) {
        limits::hit(streams_of(connection));
    }
}

/// Records the heads that nobody will serve any more.
fn record_left(connection: &Rc<Connection>, watched: &Watched, ending: Ending) {
    let (complete, incomplete) = watched.ask(|watch| watch.left());
    let cause = match ending {
        Ending::Plain => Cause::ClientCancelled,
        Ending::Drained => Cause::Shutdown,
        Ending::Violation => Cause::BadRequestHead,
    };
    for _ in 0..complete {
        record_unserved(connection, cause, 0);
    }
    // What follows the preface but is no HTTP/2 is recorded, even if it is no request.
    if ending == Ending::Violation && (incomplete || complete == 0) {
        record_bad_head(connection, Protocol::Http2, Instant::now(), 0, &[]);
    }
}

/// Serves one request, and sends its response.
async fn serve_stream(
    connection: Rc<Connection>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let request = request.map(|body| Incoming::Http2(ReceivedBody(body)));
    let worker = connection.inlet.worker.clone();
    let response = {
        let mut serving = pin!(serve(connection, request));
        let response = poll_fn(|cx| {
            // Nobody has taken what others may have left.
            drop(interim::take());
            let served = serving.as_mut().poll(cx);
            for interim in interim::take() {
                // A stream that has ended takes no more; its task will learn of that.
                let _ = respond.send_informational(interim);
            }
            if let Poll::Ready(response) = served {
                return Poll::Ready(response.map_err(|never| match never {}));
            }
            respond.poll_reset(cx).map(|reset| Err(reset_cause(reset)))
        })
        .await;
        if let Err(cause) = &response {
            worker.given_up.set(*cause);
        }
        response
    };
    // Dropping what served the request has ended its call.
    worker.given_up.set(Cause::ClientCancelled);
    let Ok(response) = response else {
        return;
    };
    let (mut parts, body) = response.into_parts();
    // Answers of our own are made for both versions of HTTP.
    parts.headers.remove(CONNECTION);
    if parts.status == StatusCode::NO_CONTENT {
        // HTTP/1 servers say one now and then; here it would promise a body (RFC 9110 §8.6).
        parts.headers.remove(CONTENT_LENGTH);
    }
    let ended = body.is_end_stream();
    if let ResponseBody::Made(Some(text)) = &body {
        parts.headers.insert(CONTENT_LENGTH, text.len().into());
    }
    match respond.send_response(Response::from_parts(parts, ()), ended) {
        Ok(stream) if !ended => {
            {
                let mut body = pin!(body);
                if let Some(cause) = send(body.as_mut(), stream).await {
                    worker.given_up.set(cause);
                }
            }
            worker.given_up.set(Cause::ClientCancelled);
        }
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(%error, "a response cannot be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Returns why a request is given up whose stream was reset.
fn reset_cause(reset: Result<Reason, h2::Error>) -> Cause {
    let violation = match reset {
        // Clients cancel; these say that one side broke the rules, and we are sure to keep them.
        Ok(reason) => matches!(
            reason,
            Reason::PROTOCOL_ERROR | Reason::FLOW_CONTROL_ERROR | Reason::STREAM_CLOSED
        ),
        Err(error) => error.is_library(),
    };
    if violation {
        Cause::BadRequestHead
    } else {
        Cause::ClientCancelled
    }
}

/// Sends the body of a request to an endpoint, as fast as it takes it.
pub(crate) struct Upload {
    body: RequestBody,
    sending: Sending,
}

impl Upload {
    /// Begins to send.
    pub(crate) const fn new(body: RequestBody, stream: SendStream<Bytes>) -> Self {
        let sending = Sending {
            stream,
            waiting: None,
            // Nothing is assigned to a stream before its connection opens it. The first piece
            // may as well wait there, and a short request is done with.
            eager: true,
        };
        Self { body, sending }
    }
}

impl Future for Upload {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let sent = this.sending.poll(cx, Pin::new(&mut this.body));
        sent.map(|_| ())
    }
}

/// Sends a body; returns why it was given up if the other side did not want it.
async fn send<B>(mut body: Pin<&mut B>, stream: SendStream<Bytes>) -> Option<Cause>
where
    B: Body<Data = Bytes, Error = StreamError>,
{
    let mut sending = Sending {
        stream,
        waiting: None,
        eager: false,
    };
    poll_fn(|cx| sending.poll(cx, body.as_mut())).await
}

struct Sending {
    stream: SendStream<Bytes>,
    /// Waits for the other side to take more, and whether nothing follows it.
    waiting: Option<(Bytes, bool)>,
    /// The next piece is handed over even if the other side takes none yet.
    eager: bool,
}

impl Sending {
    fn poll<B>(&mut self, cx: &mut Context<'_>, mut body: Pin<&mut B>) -> Poll<Option<Cause>>
    where
        B: Body<Data = Bytes, Error = StreamError>,
    {
        loop {
            if let Some((data, last)) = self.waiting.take() {
                while self.stream.capacity() == 0 && !self.eager {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(_) => return Poll::Ready(self.reset(cx)),
                        Poll::Pending => {
                            self.waiting = Some((data, last));
                            return self.poll_unwanted(cx);
                        }
                    }
                }
                self.eager = false;
                if self.stream.send_data(data, last).is_err() {
                    return Poll::Ready(self.reset(cx));
                }
                if last {
                    return Poll::Ready(None);
                }
            }
            let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
                return self.poll_unwanted(cx);
            };
            match frame {
                None => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    self.stream.send_reset(error.reason());
                    return Poll::Ready(None);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        // The least claim on the window of the connection: other streams
                        // need it too, and h2 asks for the rest when the data is there.
                        self.stream.reserve_capacity(1);
                        self.waiting = Some((data, body.is_end_stream()));
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.stream.reserve_capacity(0);
                            let _ = self.stream.send_trailers(trailers);
                            return Poll::Ready(None);
                        }
                    }
                },
            }
        }
    }
}

impl Sending {
    /// Waits for the other side to give the stream up. It is only asked for while there is
    /// something to wait for: a stream that was given up takes nothing more.
    fn poll_unwanted(&mut self, cx: &mut Context<'_>) -> Poll<Option<Cause>> {
        let reset = self.stream.poll_reset(cx);
        reset.map(|reset| Some(reset_cause(reset)))
    }

    /// Returns why the other side gave the stream up, if it did.
    fn reset(&mut self, cx: &mut Context<'_>) -> Option<Cause> {
        match self.poll_unwanted(cx) {
            Poll::Ready(cause) => cause,
            Poll::Pending => None,
        }
    }
}

/// A body that comes in over HTTP/2. What is read is allowed to come anew.
pub(crate) struct ReceivedBody(pub(crate) RecvStream);

impl ReceivedBody {
    /// Reads on.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let failed = match ready!(self.0.poll_data(cx)) {
            Some(Ok(data)) => {
                // It fails only for more than was received.
                let _ = self.0.flow_control().release_capacity(data.len());
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => error,
            None => match ready!(self.0.poll_trailers(cx)) {
                Ok(trailers) => {
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Err(error) => error,
            },
        };
        // A peer that has all it needs says so by a reset without an error.
        let enough = failed.is_reset() && failed.reason() == Some(Reason::NO_ERROR);
        Poll::Ready((!enough).then(|| Err(failed.into())))
    }

    /// Says whether nothing more comes.
    pub(super) fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
