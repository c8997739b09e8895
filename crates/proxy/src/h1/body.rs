//! Finds the end of a body.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::fields::check_look_alike;
use super::head::Framing;
use crate::limits::{self, Limit};

/// Most bytes of a chunk's size line, extensions included.
const SIZE_LINE_BYTES_MAX: usize = Limit::ChunkLineBytes.count();

/// Most bytes of the trailer section.
const TRAILER_BYTES_MAX: usize = Limit::TrailerBytes.count();

/// Most trailer fields.
const TRAILERS_MAX: usize = Limit::TrailerFields.count();

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// The chunking is not valid.
    #[error("bad chunk: {0}")]
    BadChunk(&'static str),
    /// The connection ended before the body did.
    #[error("the body ended early")]
    EndedEarly,
}

/// What came out of the decoder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// Bytes of the body.
    Data(Bytes),
    /// The body is complete; trailers if there were any.
    End(Option<HeaderMap>),
    /// More bytes are needed.
    More,
}

/// Splits a stream of bytes into a body and what follows it.
#[derive(Debug)]
pub(crate) struct BodyDecoder {
    state: State,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Close,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Done,
}

impl BodyDecoder {
    /// Returns a decoder for a body framed like this.
    pub(crate) const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::Close => State::Close,
        };
        Self { state }
    }

    /// Says whether the body is complete.
    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Returns how many bytes are still to come, where that is known.
    pub(crate) const fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Takes what it can from `bytes`; what follows the body stays in it.
    ///
    /// # Errors
    /// When the chunking is not valid.
    pub(crate) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Decoded::End(None)),
                State::Close if bytes.is_empty() => return Ok(Decoded::More),
                State::Close => return Ok(Decoded::Data(bytes.split().freeze())),
                State::Length(left) => {
                    let Some(data) = take(bytes, left) else {
                        return Ok(Decoded::More);
                    };
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::ChunkSize => {
                    let Some(size) = size_line(bytes)? else {
                        return Ok(Decoded::More);
                    };
                    self.state = if size == 0 {
                        State::Trailers
                    } else {
                        State::ChunkData(size)
                    };
                }
                State::ChunkData(left) => {
                    let Some(data) = take(bytes, left) else {
                        return Ok(Decoded::More);
                    };
                    if *left == 0 {
                        self.state = State::ChunkEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::ChunkEnd => match bytes.get(..2) {
                    Some(b"\r\n") => {
                        bytes.advance(2);
                        self.state = State::ChunkSize;
                    }
                    Some(_) => return Err(BodyError::BadChunk("a chunk does not end in CRLF")),
                    None if bytes.first().is_some_and(|b| *b != b'\r') => {
                        return Err(BodyError::BadChunk("a chunk does not end in CRLF"));
                    }
                    None => return Ok(Decoded::More),
                },
                State::Trailers => {
                    let Some(trailers) = trailers(bytes)? else {
                        return Ok(Decoded::More);
                    };
                    self.state = State::Done;
                    return Ok(Decoded::End(trailers));
                }
            }
        }
    }

    /// Says what the end of the connection means: the end of the body, or a cut.
    ///
    /// # Errors
    /// When the body was not complete.
    pub(crate) const fn end_of_stream(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done | State::Close => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::EndedEarly),
        }
    }
}

fn take(bytes: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    if bytes.is_empty() {
        return None;
    }
    let length = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    *left -= length as u64;
    Some(bytes.split_to(length).freeze())
}

/// Reads `size [;extensions] CRLF`. Extensions are checked and dropped.
fn size_line(bytes: &mut BytesMut) -> Result<Option<u64>, BodyError> {
    let Some(line) = line(bytes, SIZE_LINE_BYTES_MAX, "a chunk size line is too long")? else {
        return Ok(None);
    };
    let (size, extension) = match line.iter().position(|b| *b == b';') {
        Some(at) => (&line[..at], &line[at..]),
        None => (&line[..], &[][..]),
    };
    if extension
        .iter()
        .any(|b| (*b < 0x20 && *b != b'\t') || *b >= 0x7f)
    {
        return Err(BodyError::BadChunk("a chunk extension has forbidden bytes"));
    }
    // 15 digits: below 2^60, so that no parser overflows.
    let digits = !size.is_empty() && size.len() <= 15 && size.iter().all(u8::is_ascii_hexdigit);
    let text = digits.then(|| std::str::from_utf8(size).ok()).flatten();
    let size = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    size.map(Some).ok_or(BodyError::BadChunk(
        "a chunk size is not a hexadecimal number",
    ))
}

fn trailers(bytes: &mut BytesMut) -> Result<Option<Option<HeaderMap>>, BodyError> {
    if bytes.starts_with(b"\r\n") {
        bytes.advance(2);
        return Ok(Some(None));
    }
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        if bytes.len() > TRAILER_BYTES_MAX {
            limits::hit(Limit::TrailerBytes);
            return Err(BodyError::BadChunk("the trailer section is too long"));
        }
        if bytes.first() == Some(&b'\n') {
            return Err(BodyError::BadChunk("a line feed stands alone"));
        }
        return Ok(None);
    };
    if end > TRAILER_BYTES_MAX {
        limits::hit(Limit::TrailerBytes);
        return Err(BodyError::BadChunk("the trailer section is too long"));
    }
    let section = bytes.split_to(end + 4);
    let mut map = HeaderMap::new();
    let mut fields = 0;
    let bad = BodyError::BadChunk("a trailer field is not valid");
    let mut lines = section[..end + 2].split(|b| *b == b'\n');
    // Behind the last line feed there is nothing.
    lines.next_back();
    for line in lines {
        let line = line.strip_suffix(b"\r").ok_or(bad)?;
        let colon = line.iter().position(|b| *b == b':').ok_or(bad)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| bad)?;
        let value = line[colon + 1..].trim_ascii();
        if value
            .iter()
            .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
        {
            return Err(bad);
        }
        let value = HeaderValue::from_bytes(value).map_err(|_| bad)?;
        if is_framing(name.as_str()) || check_look_alike(name.as_str().as_bytes()).is_err() {
            return Err(BodyError::BadChunk("a trailer field may not be a trailer"));
        }
        fields += 1;
        if fields > TRAILERS_MAX {
            limits::hit(Limit::TrailerFields);
            return Err(BodyError::BadChunk("there are too many trailer fields"));
        }
        // A recipient that merges trailers into the head would believe these.
        if !is_forbidden_trailer(name.as_str()) {
            map.append(name, value);
        }
    }
    Ok(Some((!map.is_empty()).then_some(map)))
}

/// Fields that say where a message ends and whom it is for: an attempt to say it twice.
fn is_framing(name: &str) -> bool {
    matches!(
        name,
        "transfer-encoding" | "content-length" | "host" | "connection" | "upgrade"
    )
}

/// Fields that decide how a message is read (RFC 9110 §6.5.1).
pub(super) fn is_forbidden_trailer(name: &str) -> bool {
    matches!(
        name,
        "transfer-encoding"
            | "content-length"
            | "host"
            | "connection"
            | "upgrade"
            | "te"
            | "trailer"
            | "expect"
            | "max-forwards"
            | "cache-control"
            | "authorization"
            | "proxy-authorization"
            | "cookie"
            | "set-cookie"
            | "content-encoding"
            | "content-type"
            | "content-range"
    )
}

/// Takes one line that ends in CRLF, without it; none if it is not complete.
fn line(
    bytes: &mut BytesMut,
    limit: usize,
    too_long: &'static str,
) -> Result<Option<Bytes>, BodyError> {
    let window = &bytes[..bytes.len().min(limit)];
    let Some(end) = window.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
        return if bytes.len() >= limit {
            limits::hit(Limit::ChunkLineBytes);
            Err(BodyError::BadChunk(too_long))
        } else {
            Ok(None)
        };
    };
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', Some(b'\n')) => {
            let line = bytes.split_to(end).freeze();
            bytes.advance(2);
            Ok(Some(line))
        }
        (b'\r', None) => Ok(None),
        _ => Err(BodyError::BadChunk("a line does not end in CRLF")),
    }
}
