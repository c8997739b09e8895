//! Request and response heads, checked.

use bytes::Bytes;
use http::header::HeaderValue;
use http::uri::Uri;
use http::{Method, StatusCode, Version};

use super::fields::{Fields, Found};
use super::{host, scan};
use crate::limits::{self, Limit};

/// Fields that a proxy of ours adds: id, caller, length, connection options.
pub(super) const OWN_FIELDS: usize = 4;

/// Longest method; the longest registered has 17 letters.
pub(super) const METHOD_BYTES_MAX: usize = 64;

/// Bounds of a head. Source of the numbers: `docs/limits.md`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most bytes of a head.
    pub(crate) head_bytes: usize,
    /// Most header fields, at most 128.
    pub(crate) fields: usize,
    /// Most bytes of a request target.
    pub(crate) target_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: Limit::HeadBytes.count(),
            fields: Limit::HeadFields.count(),
            target_bytes: Limit::TargetBytes.count(),
        }
    }
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// The body has this many bytes.
    Length(u64),
    /// The body is chunked.
    Chunked,
    /// The body ends with the connection (responses only).
    Close,
}

/// A request head that may be forwarded.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead {
    /// Method.
    pub(crate) method: Method,
    /// Target in origin form, or `*`. An absolute form was turned into it.
    pub(crate) target: Uri,
    /// The authority of an absolute form, where there is no `Host`.
    pub(crate) authority: Option<HeaderValue>,
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub(crate) version: Version,
    /// Fields in order, with the names as they were written, without framing and hop-by-hop fields.
    pub(crate) fields: Fields,
    /// How the body is framed.
    pub(crate) framing: Framing,
    /// The declared length.
    pub(crate) length: Option<u64>,
    /// Whether the client keeps the connection open.
    pub(crate) keep_alive: bool,
    /// The client waits for `100 Continue`.
    pub(crate) expects_continue: bool,
    /// What the client wants to switch to, without `h2c`.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Bytes of the head.
    pub(crate) bytes: usize,
}

/// A response head that may be forwarded.
#[derive(Clone, Debug)]
pub(crate) struct ResponseHead {
    /// Status code.
    pub(crate) status: StatusCode,
    /// Reason phrase as received.
    pub(crate) reason: Bytes,
    /// Fields in order, without framing and hop-by-hop fields.
    pub(crate) fields: Fields,
    /// How the body is framed.
    pub(crate) framing: Framing,
    /// The declared length, also where there is no body: of `HEAD` and 304.
    pub(crate) length: Option<u64>,
    /// Whether the server keeps the connection open.
    pub(crate) keep_alive: bool,
    /// Seconds after which the server closes an idle connection, if it says so.
    pub(crate) idle_s: Option<u32>,
    /// What the server switched to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Bytes of the head.
    pub(crate) bytes: usize,
}

/// Why a head is refused, and with which status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// The head is longer than allowed, or has too many fields.
    #[error("the head is too large")]
    TooLarge,
    /// The request target is longer than allowed.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The version is neither 1.0 nor 1.1.
    #[error("the HTTP version is not supported")]
    Version,
    /// The expectation is not `100-continue`.
    #[error("the expectation cannot be met")]
    Expectation,
    /// The method is not forwarded without a policy.
    #[error("the method is not allowed here")]
    Method,
    /// The head did not come in time.
    #[error("the head took too long")]
    Late,
    /// Anything else that is not valid, or that two parsers may read differently.
    #[error("bad head: {0}")]
    Bad(&'static str),
}

impl HeadError {
    /// Returns the status that refuses a request for this reason.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Bad(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// Refuses for this reason.
pub(super) const fn bad(why: &'static str) -> HeadError {
    HeadError::Bad(why)
}

/// Parses the request head at the beginning of `bytes`; none if more bytes are needed.
///
/// # Errors
/// When the head can not become valid, whatever follows.
pub(crate) fn parse_request(
    bytes: &[u8],
    limits: &Limits,
) -> Result<Option<RequestHead>, HeadError> {
    let skipped = scan::empty_lines(bytes);
    let bytes = &bytes[skipped..];
    let Some(end) = scan::head_end(bytes, limits)? else {
        let line = bytes.iter().position(|b| *b == b'\n');
        if line.unwrap_or(bytes.len()) > limits.target_bytes + 64 {
            limits::hit(Limit::TargetBytes);
            return Err(HeadError::TargetTooLong);
        }
        // What does not begin as a request never becomes one.
        match line {
            Some(line) => {
                scan::request_line(scan::first_line(&bytes[..line]), limits)?;
            }
            None => scan::begins_as_method(bytes)?,
        }
        return Ok(None);
    };
    let head = Bytes::copy_from_slice(&bytes[..end]);
    let line = scan::first_line(&head);
    let (method, target, version) = scan::request_line(line, limits)?;
    let begin = (line.len() + 2).min(end);
    let method = Method::from_bytes(method).map_err(|_| bad("the method is not a token"))?;
    let target = head.slice_ref(target);
    let found = Found::read(head.clone(), begin, version, limits)?;
    let host = host::check(found.host(), version)?;
    let (target, authority) = host::origin_form(&method, &target, host)?;
    let authority = authority.filter(|_| host.is_empty());
    // HTTP/1.0 has no expectations.
    let expect = found.expect().filter(|_| version != Version::HTTP_10);
    let expects_continue = match expect {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => true,
        Some(_) => return Err(HeadError::Expectation),
    };
    let framing = match (found.chunked, found.length) {
        (true, _) => Framing::Chunked,
        (false, Some(0) | None) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
    };
    if method == Method::TRACE && framing != Framing::None {
        return Err(bad("TRACE has no body"));
    }
    // A connection cannot be switched while a body is still to come.
    let may_switch = framing == Framing::None && version == Version::HTTP_11;
    let upgrade = if may_switch { found.upgrade() } else { None };
    Ok(Some(RequestHead {
        method,
        target,
        authority,
        version,
        framing,
        length: found.length,
        keep_alive: found.keep_alive(version),
        expects_continue: expects_continue && framing != Framing::None,
        upgrade: upgrade.filter(|value| !mentions_h2c(value)),
        fields: found.fields,
        bytes: skipped + end,
    }))
}

/// Parses the response head at the beginning of `bytes`; none if more bytes are needed.
///
/// `method` is the request's: it decides whether there is a body.
///
/// # Errors
/// When the head can not become valid, whatever follows.
pub(crate) fn parse_response(
    bytes: &[u8],
    method: &Method,
    limits: &Limits,
) -> Result<Option<ResponseHead>, HeadError> {
    let Some(end) = scan::head_end(bytes, limits)? else {
        return Ok(None);
    };
    let head = Bytes::copy_from_slice(&bytes[..end]);
    let line = scan::first_line(&head);
    let (version, status, reason) = scan::status_line(line)?;
    let begin = (line.len() + 2).min(end);
    let reason = head.slice_ref(reason);
    let found = Found::read(head.clone(), begin, version, limits)?;
    let bodyless = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if found.chunked && (status.is_informational() || status == StatusCode::NO_CONTENT) {
        return Err(bad("a response without a body is framed as chunked"));
    }
    let framing = match (found.chunked, found.length) {
        _ if bodyless => Framing::None,
        (true, _) => Framing::Chunked,
        (false, Some(0)) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Close,
    };
    Ok(Some(ResponseHead {
        status,
        reason,
        framing,
        length: found.length,
        keep_alive: found.keep_alive(version) && framing != Framing::Close,
        idle_s: found.idle_s,
        upgrade: found.upgrade(),
        fields: found.fields,
        bytes: end,
    }))
}

fn mentions_h2c(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .split(|b| *b == b',')
        .any(|token| token.trim_ascii().to_ascii_lowercase().starts_with(b"h2c"))
}
