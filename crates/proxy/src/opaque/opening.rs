//! Reads the first bytes of a connection until they say whether a proxy of ours is at the
//! other end. What is not for us is put back.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::time::Sleep;
use whodunit_model::{Cause, Origin, RequestId};

use super::introduction::{
    ANSWER_BYTES, INTRODUCTION_BYTES_MAX, Introduction, Parsed, parse_answer,
};
use super::relay::Broken;
use crate::call::Fault;
use crate::log::Rarely;
use crate::net::Io;
use crate::upstream::io_cause;

/// How long an introduction may take once it has begun; then it is taken for none.
const OPENING_TIME: Duration = Duration::from_secs(10);

thread_local! {
    /// Logs proxies that say what is not understood.
    static WRONG: Rarely = const { Rarely::new() };
}

/// A client that is a proxy of ours.
#[derive(Debug)]
pub(super) struct Caller {
    /// The connection, as its proxy knows it.
    pub(super) id: RequestId,
    /// Who calls.
    pub(super) from: String,
    /// Nobody has spoken yet: the connection may turn out not to be needed.
    pub(super) undecided: bool,
}

/// The first bytes of a client.
#[derive(Debug, Default)]
pub(super) struct Opening {
    bytes: BytesMut,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Opening {
    /// Ready when it is known who the client is; none is a stranger.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Io,
    ) -> Poll<Result<Option<Caller>, Broken>> {
        loop {
            let read = poll_read(cx, client, &mut self.bytes, INTRODUCTION_BYTES_MAX);
            let ended = match read {
                Poll::Ready(Ok(length)) => length == 0,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Client)),
                Poll::Pending if self.bytes.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    let deadline = self
                        .deadline
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(OPENING_TIME)));
                    ready!(deadline.as_mut().poll(cx));
                    true
                }
            };
            let (caller, length) = match Introduction::parse(&self.bytes) {
                Parsed::Partial if !ended => continue,
                Parsed::Partial | Parsed::Absent => (None, 0),
                Parsed::Whole(introduction, length) => {
                    let caller = Caller {
                        id: introduction.id,
                        from: introduction.caller.to_owned(),
                        undecided: introduction.undecided,
                    };
                    (Some(caller), length)
                }
                Parsed::Wrong(why) => {
                    if let Some(unlogged) = WRONG.with(Rarely::due) {
                        tracing::warn!(why, unlogged, "refused a connection of another proxy");
                    }
                    return Poll::Ready(Err(Broken::Peer(Fault {
                        cause: Cause::BadRequestHead,
                        origin: Origin::ClientProxy,
                    })));
                }
            };
            client.put_back(self.bytes.split_off(length).freeze());
            return Poll::Ready(Ok(caller));
        }
    }
}

/// The first bytes that come back from the proxy of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Answer {
    bytes: BytesMut,
}

impl Answer {
    /// Ready when the proxy has answered, or the application spoke before it could; false if
    /// the connection ended without a word.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &mut Io,
    ) -> Poll<Result<bool, Broken>> {
        loop {
            let read = ready!(poll_read(cx, upstream, &mut self.bytes, ANSWER_BYTES));
            let length = read.map_err(|error| Broken::Upstream(io_cause(error.kind())))?;
            let whole = match parse_answer(&self.bytes) {
                Parsed::Partial if length > 0 => continue,
                Parsed::Partial | Parsed::Absent => 0,
                Parsed::Whole(None, whole) => whole,
                Parsed::Whole(Some(fault), _) => return Poll::Ready(Err(Broken::Peer(fault))),
                Parsed::Wrong(why) => {
                    if let Some(unlogged) = WRONG.with(Rarely::due) {
                        tracing::warn!(why, unlogged, "another proxy is not understood");
                    }
                    return Poll::Ready(Err(Broken::Peer(Fault {
                        cause: Cause::BadResponseHead,
                        origin: Origin::ServerProxy,
                    })));
                }
            };
            let any = !self.bytes.is_empty();
            upstream.put_back(self.bytes.split_off(whole).freeze());
            return Poll::Ready(Ok(any));
        }
    }
}

/// Reads more, with room for `room` bytes; the buffer is there only while there is any.
fn poll_read(
    cx: &mut Context<'_>,
    io: &mut Io,
    bytes: &mut BytesMut,
    room: usize,
) -> Poll<io::Result<usize>> {
    ready!(io.poll_read_ready(cx))?;
    bytes.reserve(room);
    pin!(io.read_buf(bytes)).poll(cx)
}
