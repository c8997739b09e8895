//! One request and its response on an HTTP/1.1 connection, both ways at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::UPGRADE;
use http::request::Parts;
use http::{Method, StatusCode};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite as _;
use whodunit_model::Cause;

use super::error::io_cause;
use super::http1::has_body;
use crate::buffers::{self, BUFFER_BYTES};
use crate::h1::emit::{self, Connection};
use crate::h1::{
    BodyDecoder, Decoded, Fields, Framing, Limits, ResponseHead, Unwritable, declared_length,
    parse_response,
};
use crate::http::{RequestBody, StreamError, Wire, interim};
use crate::limits::{self, Limit};
use crate::net::Io;

/// Most interim responses before the response.
const INTERIM_MAX: usize = Limit::Interim.count();

/// A request on its way out and a response on its way in.
pub(crate) struct Exchange {
    /// Taken when the exchange is complete.
    io: Option<Io>,
    input: BytesMut,
    output: BytesMut,
    /// What of the request body is still to be sent.
    upload: Option<RequestBody>,
    chunked: bool,
    /// What the head promised of the body and was not sent yet.
    owed: u64,
    /// Something of the request was sent.
    began: bool,
    /// The endpoint takes no more of the request.
    deaf: bool,
    method: Method,
    interim: usize,
    /// One of them went on to the client.
    has_passed: bool,
    decoder: Option<BodyDecoder>,
    keep_alive: bool,
    /// Seconds for which the endpoint keeps an idle connection, if it says so.
    idle_s: Option<u32>,
    failed: bool,
    /// The fields and the reason phrase of the response, for an HTTP/1 client.
    pub(crate) head: Option<(Fields, Bytes)>,
}

impl Exchange {
    /// Returns an exchange on a connection that has none.
    pub(super) fn new(io: Io) -> Self {
        Self {
            io: Some(io),
            input: BytesMut::new(),
            output: BytesMut::new(),
            upload: None,
            chunked: false,
            owed: 0,
            began: false,
            deaf: false,
            method: Method::GET,
            interim: 0,
            has_passed: false,
            decoder: None,
            keep_alive: false,
            idle_s: None,
            failed: false,
            head: None,
        }
    }

    /// Writes the head, with the fields that `client` sent; takes the body if there is any.
    ///
    /// # Errors
    /// When HTTP/1.1 has no way to say this request.
    pub(super) fn begin(
        &mut self,
        parts: &Parts,
        body: &mut Option<RequestBody>,
        client: Option<&Wire>,
    ) -> Result<(), Unwritable> {
        self.method.clone_from(&parts.method);
        let length = declared_length(&parts.headers);
        let framing = match (body.as_ref().is_some_and(has_body), length) {
            (false, _) => Framing::None,
            (true, Some(length)) => Framing::Length(length),
            (true, None) => Framing::Chunked,
        };
        self.chunked = framing == Framing::Chunked;
        self.owed = length.unwrap_or(0);
        if framing != Framing::None {
            self.upload = body.take();
        }
        let upgrade = parts.headers.get(UPGRADE);
        let connection = upgrade.map_or(Connection::Implied, Connection::Upgrade);
        buffers::provide(&mut self.output);
        let output = &mut self.output;
        match client {
            Some(client) => client.with_fields(|fields| {
                emit::request(output, parts, Some(fields), framing, connection)
            }),
            None => emit::request(output, parts, None, framing, connection),
        }
    }

    /// Says whether not a byte of the request was sent.
    pub(super) const fn is_unsent(&self) -> bool {
        !self.began
    }

    /// Says whether what came instead of a head looks like frames of HTTP/2.
    pub(super) fn met_frames(&self) -> bool {
        self.input.first() == Some(&0)
    }

    /// Sends what can be sent now.
    fn upload(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        loop {
            self.gather(cx)?;
            if self.output.is_empty() {
                buffers::release(&mut self.output);
                return Ok(());
            }
            let Some(io) = &mut self.io else {
                return Ok(());
            };
            match Pin::new(io).poll_write(cx, &self.output) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(count @ 1..)) => {
                    self.began = true;
                    self.output.advance(count);
                }
                Poll::Ready(Ok(_)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Collects what the client has sent so far, so that it leaves with one call.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        while self.output.len() < BUFFER_BYTES {
            let Some(body) = &mut self.upload else {
                return Ok(());
            };
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                return Ok(());
            };
            buffers::provide(&mut self.output);
            let ended = match frame {
                // The client's failure, whatever it was: the call knows.
                Some(Err(_)) => return Err(StreamError::Client),
                Some(Ok(frame)) => {
                    if !self.chunked {
                        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                        // Bytes beyond the declared length would begin another request.
                        self.owed = self.owed.checked_sub(length).ok_or(StreamError::Client)?;
                    }
                    !emit::frame(&mut self.output, frame, self.chunked)
                }
                None if self.chunked => {
                    emit::last_chunk(&mut self.output, None);
                    true
                }
                None => true,
            };
            if ended || (!self.chunked && body.is_end_stream()) {
                self.upload = None;
                if !self.chunked && self.owed > 0 {
                    return Err(StreamError::Client);
                }
            }
        }
        Ok(())
    }

    /// Sends; an endpoint that takes no more may still have answered.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        if self.deaf {
            return Ok(());
        }
        match self.upload(cx) {
            Err(StreamError::Io(error)) if self.began => {
                tracing::debug!(%error, "the endpoint takes no more of a request");
                self.deaf = true;
                self.upload = None;
                self.output.clear();
                Ok(())
            }
            sent => sent,
        }
    }

    /// Sends the request and reads the head of the response; interim ones go to `client`.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        client: Option<&Wire>,
    ) -> Poll<Result<ResponseHead, Cause>> {
        if let Err(error) = self.send(cx) {
            return Poll::Ready(Err(error.cause()));
        }
        loop {
            if let Some(head) = self.take_head()? {
                let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
                if !head.status.is_informational() || switched {
                    self.keep_alive = head.keep_alive && !switched;
                    self.idle_s = head.idle_s;
                    self.decoder = Some(BodyDecoder::new(head.framing));
                    buffers::release(&mut self.input);
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                self.has_passed |= head.status != StatusCode::CONTINUE;
                if self.interim > INTERIM_MAX {
                    limits::hit(Limit::Interim);
                    return Poll::Ready(Err(Cause::BadResponseHead));
                }
                match client {
                    Some(client) => client.pass_interim(head),
                    None => interim::pass_head(head),
                }
                continue;
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.input.is_empty() => return Poll::Ready(Err(Cause::ClosedEarly)),
                Ok(0) => return Poll::Ready(Err(Cause::BadResponseHead)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(io_cause(error.kind()))),
            }
        }
    }

    fn take_head(&mut self) -> Result<Option<ResponseHead>, Cause> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let head = parse_response(&self.input, &self.method, &Limits::default());
        let head = head.map_err(|why| {
            tracing::debug!(%why, "bad response head");
            Cause::BadResponseHead
        })?;
        if let Some(head) = &head {
            self.input.advance(head.bytes);
        }
        Ok(head)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Ok(0));
        };
        io.poll_fill(cx, &mut self.input)
    }

    /// Reads the body of the response, and goes on with the request.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let frame = match self.send(cx) {
            Ok(()) => ready!(self.poll_decode(cx)),
            Err(error) => Some(Err(error)),
        };
        self.failed |= matches!(frame, Some(Err(_)));
        Poll::Ready(frame)
    }

    fn poll_decode(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        loop {
            let Some(decoder) = &mut self.decoder else {
                return Poll::Ready(None);
            };
            match decoder.decode(&mut self.input) {
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Decoded::End(trailers)) => {
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::More) => {}
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => {
                    let ended = self.decoder.as_mut().map(BodyDecoder::end_of_stream);
                    if let Some(Err(error)) = ended {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Says whether the client has got an interim response from here.
    pub(super) const fn has_passed_interim(&self) -> bool {
        self.has_passed
    }

    /// Returns how much of the response body is left, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.decoder.as_ref().and_then(BodyDecoder::left)
    }

    /// Takes the connection out of an exchange that switched protocols.
    pub(super) fn take_io(&mut self) -> Option<Io> {
        let mut io = self.io.take()?;
        io.put_back(std::mem::take(&mut self.input).freeze());
        Some(io)
    }

    /// Takes the connection of a complete exchange, if another one may follow.
    /// Comes with the seconds for which the endpoint keeps it, if it says so.
    pub(super) fn take_reusable(&mut self) -> Option<(Io, Option<u32>)> {
        let sent = self.upload.is_none() && self.output.is_empty() && !self.deaf;
        // Bytes after a complete response would be taken for the next one.
        let complete = self.left() == Some(0) && self.input.is_empty();
        buffers::release(&mut self.input);
        let io = self.io.take();
        let io = io.filter(|_| sent && complete && self.keep_alive)?;
        Some((io, self.idle_s))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        buffers::release(&mut self.input);
        buffers::release(&mut self.output);
        // An endpoint that only sees an end would go on with a request nobody waits for.
        let unfinished = self.began && (self.failed || self.left() != Some(0));
        if let Some(io) = self.io.as_ref().filter(|_| unfinished) {
            io.reset_on_close();
        }
    }
}
