//! Serves an HTTP/1 client: one task per connection, which reads, forwards and answers.

mod response;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, UPGRADE};
use http::{Request, Response, StatusCode, Version};
use http_body::Frame;
use tokio::io::AsyncWrite as _;
use tokio::sync::watch;
use whodunit_model::record::Protocol;

use super::body::ResponseBody;
use super::serve::{record_bad_head, serve};
use super::stream::{Incoming, StreamError};
use crate::buffers::{self, BUFFER_BYTES};
use crate::clock::Instant;
use crate::h1::{
    BodyDecoder, BodyError, Decoded, Fields, Framing, HeadError, Limits, RequestHead, ResponseHead,
    emit, parse_request,
};
use crate::limits::{self, Limit};
use crate::net::Io;
use crate::worker::{Connection, Phase};

/// How long a client may take to read the last answer of a connection.
const LINGER: Duration = Duration::from_secs(2);

/// Most bytes that are thrown away so that an answer reaches its client.
const DISCARD_BYTES_MAX: u64 = Limit::DiscardBytes.about().value;

/// How long a client may take for a head, from its first byte. Finding out what the client
/// speaks may have taken a second of it.
const HEAD_TIME: Duration = Limit::HeadTime.time();
const DETECTION_TIME: Duration = Limit::DetectTime.time();

/// How long the next request of a connection is waited for while the process ends: one may
/// be on its way, and would be lost.
const LAST_REQUEST: Duration = Duration::from_millis(300);

/// A growing head is looked at again for each line, and each time it has grown by this much.
const LOOK_AGAIN_BYTES: usize = 4 << 10;

/// The connection to a client, shared between its task and the body of its request.
pub(crate) struct Wire(RefCell<State>);

struct State {
    /// Taken by an upgrade.
    io: Option<Io>,
    input: BytesMut,
    /// How much of `input` was found to be no whole head yet.
    seen: usize,
    output: BytesMut,
    /// Reads the body of the present request.
    decoder: BodyDecoder,
    /// The client waits for `100 Continue`.
    holds_back: bool,
    version: Version,
    /// The fields of the present request.
    fields: Fields,
    /// The client sends nothing more.
    ended: bool,
    broken: bool,
}

impl Wire {
    fn new(io: Io) -> Rc<Self> {
        Rc::new(Self(RefCell::new(State {
            io: Some(io),
            input: BytesMut::new(),
            seen: 0,
            output: BytesMut::new(),
            decoder: BodyDecoder::new(Framing::None),
            holds_back: false,
            version: Version::HTTP_11,
            fields: Fields::default(),
            ended: false,
            broken: false,
        })))
    }

    /// Returns how much of the request body is left, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.0.borrow().decoder.left()
    }

    /// Looks at the fields that the present request came in with.
    pub(crate) fn with_fields<T>(&self, look: impl FnOnce(&Fields) -> T) -> T {
        look(&self.0.borrow().fields)
    }

    /// Reads the request body.
    pub(crate) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let mut state = self.0.borrow_mut();
        loop {
            let state = &mut *state;
            let decoded = match state.decoder.decode(&mut state.input) {
                Ok(decoded) => decoded,
                Err(error) => {
                    state.broken = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            };
            match decoded {
                Decoded::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Decoded::End(trailers) => {
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Decoded::More if state.ended => {
                    state.broken = true;
                    return Poll::Ready(Some(Err(BodyError::EndedEarly.into())));
                }
                Decoded::More => {}
            }
            if std::mem::take(&mut state.holds_back) {
                state
                    .output
                    .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                // What cannot be written now is tried again by the task.
                let _ = state.poll_flush(cx);
            }
            if let Err(error) = ready!(state.poll_fill(cx)) {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
    }

    /// Passes an interim response on; HTTP/1.0 has none, and `100 Continue` is ours to say.
    pub(crate) fn pass_interim(&self, head: ResponseHead) {
        let mut state = self.0.borrow_mut();
        if head.status == StatusCode::CONTINUE || state.version == Version::HTTP_10 {
            return;
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        let (parts, ()) = response.into_parts();
        let implied = emit::Connection::Implied;
        emit::response(
            &mut state.output,
            Version::HTTP_11,
            &parts,
            Some((&head.fields, &head.reason)),
            Framing::None,
            implied,
        );
    }

    /// Waits for the head of the next request; none when there is no next one. `time` is
    /// what the client may take for it once it has begun.
    async fn next_head(&self, time: Duration) -> Option<Result<RequestHead, HeadError>> {
        let mut late: Option<Pin<Box<tokio::time::Sleep>>> = None;
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if let Poll::Ready(head) = state.poll_head(cx) {
                return Poll::Ready(head);
            }
            if state.input.is_empty() {
                return Poll::Pending;
            }
            // Thousands of slow clients would have a whole buffer each.
            buffers::shrink(&mut state.input);
            let late = late.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
            late.as_mut().poll(cx).map(|()| {
                limits::hit(Limit::HeadTime);
                Some(Err(HeadError::Late))
            })
        })
        .await
    }

    /// Completes when the client has reset the connection. Meanwhile what is written for it
    /// is sent, and what it sends ahead is kept, up to a bound.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.borrow_mut();
        if matches!(state.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        while state.decoder.is_done() && !state.ended && state.input.len() < BUFFER_BYTES {
            if ready!(state.poll_fill(cx)).is_err() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Completes when a client that half-closed has gone away altogether.
    async fn left_for_good(&self) {
        let broken = self.0.borrow().io.as_ref().map(Io::broken);
        match broken {
            Some(Ok(broken)) => broken.wait().await,
            // Without a watch, what is written for the client will fail if it is gone.
            Some(Err(error)) => {
                tracing::debug!(%error, "cannot watch a half-closed client");
                std::future::pending().await
            }
            None => std::future::pending().await,
        }
    }

    async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.0.borrow_mut().poll_flush(cx)).await
    }

    /// Reads and drops the rest of a request body that nobody wanted.
    async fn discard_body(&self) -> bool {
        let discard = async {
            let mut bytes = 0;
            loop {
                match poll_fn(|cx| self.poll_frame(cx)).await {
                    None => return true,
                    Some(Err(_)) => return false,
                    Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
                }
                if bytes > DISCARD_BYTES_MAX {
                    limits::hit(Limit::DiscardBytes);
                    return false;
                }
            }
        };
        tokio::time::timeout(LINGER, discard).await == Ok(true)
    }

    /// Ends the connection so that its last answer is read: unread bytes would reset it.
    async fn linger(&self) {
        let _ = self.flush().await;
        let rest = async {
            let shutdown = poll_fn(|cx| self.0.borrow_mut().poll_shutdown(cx)).await;
            let mut bytes = 0;
            while shutdown.is_ok() && bytes < DISCARD_BYTES_MAX {
                let filled = poll_fn(|cx| {
                    let mut state = self.0.borrow_mut();
                    state.input.clear();
                    state.poll_fill(cx)
                });
                match filled.await {
                    Ok(count @ 1..) => bytes += count as u64,
                    _ => return,
                }
            }
        };
        // A client that does not go away is left behind.
        let _ = tokio::time::timeout(LINGER, rest).await;
    }
}

impl State {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.is_empty() {
            buffers::release(&mut self.input);
        }
        let Some(io) = self.io.as_mut().filter(|_| !self.ended) else {
            return Poll::Ready(Ok(0));
        };
        let filled = ready!(io.poll_fill(cx, &mut self.input));
        self.ended = matches!(filled, Ok(0));
        self.broken |= filled.is_err();
        Poll::Ready(filled)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let Some(io) = &mut self.io else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            match ready!(Pin::new(io).poll_write(cx, &self.output)) {
                Ok(count @ 1..) => self.output.advance(count),
                Ok(_) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Err(error) => {
                    self.broken = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
        buffers::release(&mut self.output);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RequestHead, HeadError>>> {
        loop {
            // A head is not read again for each byte that a slow client adds.
            let (seen, length) = (self.seen, self.input.len());
            let decides = self.input[seen..].iter().any(|b| matches!(b, 0 | b'\n'));
            let grown = seen == 0 || seen / LOOK_AGAIN_BYTES != length / LOOK_AGAIN_BYTES;
            if length > seen && (decides || grown) {
                match parse_request(&self.input, &Limits::default()) {
                    Ok(Some(head)) => {
                        self.seen = 0;
                        self.input.advance(head.bytes);
                        buffers::release(&mut self.input);
                        return Poll::Ready(Some(Ok(head)));
                    }
                    Ok(None) => {}
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
            self.seen = length;
            match ready!(self.poll_fill(cx)) {
                Ok(1..) => {}
                // Old clients end a body with an empty line that belongs to nothing.
                _ if self.input.iter().all(|b| matches!(b, b'\r' | b'\n')) => {
                    return Poll::Ready(None);
                }
                _ => return Poll::Ready(Some(Err(HeadError::Bad("the head breaks off")))),
            }
        }
    }
}

/// What follows a request on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next request.
    Request,
    /// An orderly end.
    End,
    /// Nothing: the connection is broken, or belongs to another protocol now.
    Nothing,
}

/// Serves the requests of a connection until it ends.
pub(crate) async fn serve_http1(connection: Rc<Connection>, io: Io, phase: watch::Receiver<Phase>) {
    let mut head_time = if io.has_read_ahead() {
        HEAD_TIME.saturating_sub(DETECTION_TIME)
    } else {
        HEAD_TIME
    };
    let wire = Wire::new(io);
    // Both last as long as the connection: beginning to wait costs more than going on.
    let mut closed = pin!(connection.close.notified());
    let mut drains = pin!(drained(phase.clone()));
    let mut draining = false;
    loop {
        let waited = {
            let mut next = pin!(wire.next_head(head_time));
            poll_fn(|cx| {
                if draining {
                    return Poll::Ready(Err(Stop::Draining));
                }
                if let Poll::Ready(head) = next.as_mut().poll(cx) {
                    return Poll::Ready(Ok(head));
                }
                if closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(Stop::Closed));
                }
                drains.as_mut().poll(cx).map(|()| Err(Stop::Draining))
            })
            .await
        };
        let head = match waited {
            Ok(head) => head,
            Err(Stop::Closed) => return,
            Err(Stop::Draining) => {
                draining = true;
                let next = Box::pin(wire.next_head(head_time));
                match tokio::time::timeout(LAST_REQUEST, next).await {
                    Ok(head) => head,
                    Err(_) => return,
                }
            }
        };
        head_time = HEAD_TIME;
        let next = match head {
            None => return,
            // Boxed, so that idle connections are small.
            Some(Ok(head)) => Box::pin(exchange(&connection, &wire, head, &phase)).await,
            Some(Err(why)) => {
                let started = Instant::now();
                Box::pin(refuse(&connection, &wire, why, started)).await;
                Next::End
            }
        };
        match next {
            Next::Request => {}
            Next::End => return Box::pin(wire.linger()).await,
            Next::Nothing => return,
        }
    }
}

/// Why a request is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Somebody wants the connection to end.
    Closed,
    /// The process is about to end.
    Draining,
}

async fn drained(mut phase: watch::Receiver<Phase>) {
    // An error says that nobody can start draining any more, which is as good.
    let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
}

/// Answers and records a head that is no request.
async fn refuse(connection: &Rc<Connection>, wire: &Wire, why: HeadError, started: Instant) {
    let status = why.status();
    let text = why.to_string();
    tracing::debug!(peer = %connection.peer, why = text, "refused a request head");
    {
        let mut state = wire.0.borrow_mut();
        // Nobody is there any more to be answered.
        let answered = if state.broken { 0 } else { status.as_u16() };
        let head = &state.input;
        record_bad_head(connection, Protocol::Http1, started, answered, head);
        let head_only = state.input.starts_with(b"HEAD ");
        let answer = super::reply::bad_head(status, &text, head_only);
        state.output.extend_from_slice(answer.as_bytes());
    }
    // Whoever sends junk may be gone already; then there is nobody to tell.
    let _ = wire.flush().await;
}

/// Forwards one request and answers it.
async fn exchange(
    connection: &Rc<Connection>,
    wire: &Rc<Wire>,
    head: RequestHead,
    phase: &watch::Receiver<Phase>,
) -> Next {
    let _busy = connection.begin_request();
    let asked = response::Asked::of(&head);
    {
        let mut state = wire.0.borrow_mut();
        state.decoder = BodyDecoder::new(head.framing);
        state.holds_back = head.expects_continue;
        state.version = head.version;
    }
    let request = request(
        wire,
        head,
        &connection.inlet.worker.config.redaction.headers,
    );
    let response = {
        let mut serving = pin!(serve(connection.clone(), request));
        let mut gone = pin!(wire.left_for_good());
        poll_fn(|cx| {
            if let Poll::Ready(response) = serving.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            if wire.poll_gone(cx).is_ready() {
                return Poll::Ready(None);
            }
            let half_closed = wire.0.borrow().ended;
            if half_closed && gone.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    };
    // Dropping what serves the request has cancelled it, if the client went away.
    let Some(Ok(response)) = response else {
        return Next::Nothing;
    };
    let draining = || *phase.borrow() == Phase::Draining;
    let next = response::answer(wire, asked, response, draining).await;
    wire.0.borrow_mut().fields = Fields::default();
    next
}

/// Makes a request of a head; its map has only the fields that are looked at, and the others
/// stay with the connection until they are sent.
fn request(wire: &Rc<Wire>, head: RequestHead, captured: &[String]) -> Request<Incoming> {
    let mut request = Request::new(Incoming::Client(wire.clone()));
    *request.uri_mut() = head.target;
    *request.method_mut() = head.method;
    *request.version_mut() = head.version;
    let mut fields = head.fields;
    let mut map = fields.looked_at(captured);
    wire.0.borrow_mut().fields = fields;
    if let Some(authority) = head.authority {
        map.insert(HOST, authority);
    }
    if let Some(length) = head.length {
        map.insert(CONTENT_LENGTH, length.into());
    }
    if let Some(protocol) = head.upgrade {
        map.insert(UPGRADE, protocol);
    }
    *request.headers_mut() = map;
    request
}
