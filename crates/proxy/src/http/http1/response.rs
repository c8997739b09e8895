//! Answers an HTTP/1 client.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::response::Parts;
use http::{HeaderValue, Method, Response, StatusCode, Version};
use http_body::{Body as _, Frame};

use super::{Next, ResponseBody, StreamError, Wire};
use crate::buffers::{self, BUFFER_BYTES};
use crate::h1::emit::{self, Connection};
use crate::h1::{Framing, RequestHead, declared_length};

/// What of a request decides how it is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    head_only: bool,
    version: Version,
    keep_alive: bool,
}

impl Asked {
    pub(super) fn of(head: &RequestHead) -> Self {
        Self {
            head_only: head.method == Method::HEAD,
            version: head.version,
            keep_alive: head.keep_alive,
        }
    }

    /// Says how the head frames the response, and how the body does.
    fn framing(&self, parts: &Parts, body: &ResponseBody) -> (Framing, Framing) {
        let declared = declared_length(&parts.headers);
        let length = declared.or_else(|| body.size_hint().exact());
        let bodyless = parts.status.is_informational() || parts.status == StatusCode::NO_CONTENT;
        if bodyless {
            return (Framing::None, Framing::None);
        }
        if self.head_only || parts.status == StatusCode::NOT_MODIFIED {
            return (
                declared.map_or(Framing::None, Framing::Length),
                Framing::None,
            );
        }
        let framing = match length {
            Some(length) => Framing::Length(length),
            None if self.version == Version::HTTP_10 => Framing::Close,
            None => Framing::Chunked,
        };
        (framing, framing)
    }
}

/// Sends a response. `draining` says whether the process is about to end.
pub(super) async fn answer(
    wire: &Rc<Wire>,
    asked: Asked,
    response: Response<ResponseBody>,
    draining: impl Fn() -> bool,
) -> Next {
    let (parts, body) = response.into_parts();
    if let ResponseBody::Switched(switched) = body {
        return switch(wire, asked, &parts, *switched).await;
    }
    let (framing, body_framing) = asked.framing(&parts, &body);
    // A client that still holds its body back may or may not send it after this answer.
    let unsure = {
        let state = wire.0.borrow();
        state.broken || state.holds_back
    };
    let closes = parts
        .headers
        .get(CONNECTION)
        .is_some_and(|value| value == "close");
    let ends = !asked.keep_alive || closes || unsure || framing == Framing::Close || draining();
    let connection = match (ends, asked.version) {
        (true, _) => Connection::Close,
        (false, Version::HTTP_10) => Connection::KeepAlive,
        (false, _) => Connection::Implied,
    };
    {
        let mut state = wire.0.borrow_mut();
        let output = &mut state.output;
        buffers::provide(output);
        body.with_head(|head| {
            emit::response(output, asked.version, &parts, head, framing, connection);
        });
    }
    match send_body(wire, body, body_framing).await {
        Sent::Whole if ends => Next::End,
        Sent::Whole => {
            let complete = wire.left() == Some(0) || wire.discard_body().await;
            if complete { Next::Request } else { Next::End }
        }
        Sent::Cut => {
            // An end would pass for the end of a body that has no other mark.
            if framing == Framing::Close {
                let state = wire.0.borrow();
                state.io.iter().for_each(crate::net::Io::reset_on_close);
            }
            Next::Nothing
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// All of it.
    Whole,
    /// The body broke off, or the client went away.
    Cut,
}

/// Sends head and body; the two leave together where the body is there already.
async fn send_body(wire: &Wire, body: ResponseBody, framing: Framing) -> Sent {
    let mut sender = Sender {
        wire,
        body: Some(body),
        chunked: framing == Framing::Chunked,
        owed: match framing {
            Framing::Length(length) => Some(length),
            _ => None,
        },
        cut: false,
    };
    if framing == Framing::None {
        sender.body = None;
    }
    let mut gone = pin!(wire.left_for_good());
    poll_fn(|cx| {
        let sent = sender.poll(cx);
        if sent.is_ready() {
            return sent;
        }
        let half_closed = wire.0.borrow().ended;
        let gone =
            wire.poll_gone(cx).is_ready() || (half_closed && gone.as_mut().poll(cx).is_ready());
        if gone {
            Poll::Ready(Sent::Cut)
        } else {
            Poll::Pending
        }
    })
    .await
}

struct Sender<'a> {
    wire: &'a Wire,
    /// Taken when it has ended.
    body: Option<ResponseBody>,
    chunked: bool,
    /// What a declared length still promises.
    owed: Option<u64>,
    cut: bool,
}

impl Sender<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        loop {
            let waits = self.gather(cx);
            let flushed = self.wire.0.borrow_mut().poll_flush(cx);
            match flushed {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Sent::Cut),
                Poll::Ready(Ok(())) if self.cut => return Poll::Ready(Sent::Cut),
                Poll::Ready(Ok(())) if self.body.is_none() => return Poll::Ready(Sent::Whole),
                Poll::Ready(Ok(())) if waits => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
            }
        }
    }

    /// Collects what has come of the body; says whether to wait for more.
    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        while self.wire.0.borrow().output.len() < BUFFER_BYTES {
            let Some(body) = &mut self.body else {
                return false;
            };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
                return true;
            };
            self.write(frame);
        }
        false
    }

    fn write(&mut self, frame: Option<Result<Frame<Bytes>, StreamError>>) {
        let mut state = self.wire.0.borrow_mut();
        let output = &mut state.output;
        let more = match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.owed.map(|owed| owed.checked_sub(length)) {
                    // What is beyond the declared length would be read as another response.
                    Some(None) => {
                        self.cut = true;
                        false
                    }
                    owed => {
                        self.owed = owed.flatten();
                        emit::frame(output, frame, self.chunked)
                    }
                }
            }
            Some(Err(_)) => {
                self.cut = true;
                false
            }
            None => {
                if self.chunked {
                    emit::last_chunk(output, None);
                }
                false
            }
        };
        let complete = !self.chunked
            && self
                .body
                .as_ref()
                .is_some_and(http_body::Body::is_end_stream);
        drop(state);
        if !more || complete {
            self.body = None;
            self.cut |= self.owed.is_some_and(|owed| owed > 0);
        }
    }
}

/// Agrees to another protocol, and relays it until it ends.
async fn switch(
    wire: &Rc<Wire>,
    asked: Asked,
    parts: &Parts,
    switched: super::super::upgrade::Switched,
) -> Next {
    let none = HeaderValue::from_static("");
    let protocol = parts.headers.get(UPGRADE).unwrap_or(&none);
    let connection = Connection::Upgrade(protocol);
    {
        let mut state = wire.0.borrow_mut();
        let received = switched.head.as_ref();
        let received = received.map(|(fields, reason)| (fields, &reason[..]));
        emit::response(
            &mut state.output,
            asked.version,
            parts,
            received,
            Framing::None,
            connection,
        );
    }
    if wire.flush().await.is_err() {
        // Dropping the call tells that the client went away.
        return Next::Nothing;
    }
    let client = {
        let mut state = wire.0.borrow_mut();
        let input = std::mem::take(&mut state.input);
        state.io.take().map(|mut io| {
            io.put_back(input.freeze());
            io
        })
    };
    if let Some(client) = client {
        switched.relay(client).await;
    }
    Next::Nothing
}
