//! Request and response heads, checked.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{PathAndQuery, Uri};
use http::{Method, StatusCode, Version};

use crate::limits::{self, Limit};

/// Most header fields that any limit allows: what the parser has room for.
const FIELDS_MAX: usize = Limit::HeadFields.count();

/// Fields that a proxy of ours adds: id, caller, length, connection options.
const OWN_FIELDS: usize = 4;

/// Longest method; the longest registered has 17 letters.
const METHOD_BYTES_MAX: usize = 64;

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
    pub(crate) reason: Vec<u8>,
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

/// Header fields with the spelling and order they came in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(pub(crate) Vec<Field>);

/// One of them. What was received is shared by all fields of a head.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    name: HeaderName,
    /// The name as it was written.
    pub(crate) written: Bytes,
    value: HeaderValue,
}

impl Fields {
    /// Returns the fields as a map, and their names as they were written.
    pub(crate) fn into_map(self) -> (HeaderMap, super::Spelling) {
        let mut map = HeaderMap::with_capacity(self.0.len() + 4);
        let mut names = Vec::with_capacity(self.0.len());
        for field in self.0 {
            names.push((field.name.clone(), field.written));
            map.append(field.name, field.value);
        }
        (map, super::Spelling(names.into()))
    }
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

const BAD: fn(&'static str) -> HeadError = HeadError::Bad;

/// Parses the request head at the beginning of `bytes`; none if more bytes are needed.
///
/// # Errors
/// When the head can not become valid, whatever follows.
pub(crate) fn parse_request(
    bytes: &[u8],
    limits: &Limits,
) -> Result<Option<RequestHead>, HeadError> {
    let skipped = empty_lines(bytes);
    let bytes = &bytes[skipped..];
    let Some(end) = head_end(bytes, limits)? else {
        let line = bytes.iter().position(|b| *b == b'\n');
        if line.unwrap_or(bytes.len()) > limits.target_bytes + 64 {
            limits::hit(Limit::TargetBytes);
            return Err(HeadError::TargetTooLong);
        }
        // What does not begin as a request never becomes one.
        match line {
            Some(line) => request_line(&bytes[..line], limits)?,
            None => begins_as_method(bytes)?,
        }
        return Ok(None);
    };
    let shared = Bytes::copy_from_slice(&bytes[..end]);
    let bytes = &shared[..];
    request_line(bytes, limits)?;
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX + OWN_FIELDS];
    let fields = &mut storage[..limits.fields.min(FIELDS_MAX) + OWN_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(BAD("the head ends in the middle")),
        Err(error) => return Err(parse_error(error)),
    }
    let method = parsed
        .method
        .and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let method = method.ok_or(BAD("the method is not a token"))?;
    let target = parsed.path.ok_or(BAD("there is no target"))?;
    let version = version(parsed.version)?;
    check_count(parsed.headers, limits)?;
    let mut found = Found::read(&shared, parsed.headers, version)?;
    let host = host(&found, version)?;
    let (target, authority) = origin_form(&method, target, &host)?;
    if let Some(authority) = authority.filter(|_| host.is_empty()) {
        found.fields.0.push(Field {
            name: HOST,
            written: Bytes::from_static(b"Host"),
            value: authority,
        });
    }
    if found.expect.is_some() && version == Version::HTTP_10 {
        found.expect = None;
    }
    let expects_continue = match &found.expect {
        None => false,
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => true,
        Some(_) => return Err(HeadError::Expectation),
    };
    let framing = match (found.chunked, found.length) {
        (true, _) => Framing::Chunked,
        (false, Some(0) | None) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
    };
    if method == Method::TRACE && framing != Framing::None {
        return Err(BAD("TRACE has no body"));
    }
    // A connection cannot be switched while a body is still to come.
    let upgrade = found.upgrade.take().filter(|value| {
        framing == Framing::None && version == Version::HTTP_11 && !mentions_h2c(value)
    });
    Ok(Some(RequestHead {
        method,
        target,
        version,
        framing,
        length: found.length,
        keep_alive: found.keep_alive(version),
        expects_continue: expects_continue && framing != Framing::None,
        upgrade,
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
    let Some(end) = head_end(bytes, limits)? else {
        return Ok(None);
    };
    let shared = Bytes::copy_from_slice(&bytes[..end]);
    let bytes = &shared[..];
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX + OWN_FIELDS];
    let fields = &mut storage[..limits.fields.min(FIELDS_MAX) + OWN_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, bytes, fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(BAD("the head ends in the middle")),
        Err(error) => return Err(parse_error(error)),
    }
    let status = parsed.code.filter(|code| (100..600).contains(code));
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(BAD("the status is not between 100 and 599"))?;
    let version = version(parsed.version)?;
    let reason = reason(bytes);
    check_count(parsed.headers, limits)?;
    let found = Found::read(&shared, parsed.headers, version)?;
    let bodyless = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if found.chunked && (status.is_informational() || status == StatusCode::NO_CONTENT) {
        return Err(BAD("a response without a body is framed as chunked"));
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
        upgrade: found.upgrade.clone(),
        fields: found.fields,
        bytes: end,
    }))
}

/// What one proxy of ours lets through must not be too much for the next one.
fn check_count(headers: &[httparse::Header<'_>], limits: &Limits) -> Result<(), HeadError> {
    let is_own = |name: &str| {
        let own = ["whodunit-", "connection", "content-length"];
        own.iter().any(|own| {
            let begin = name.as_bytes().get(..own.len());
            begin.is_some_and(|begin| begin.eq_ignore_ascii_case(own.as_bytes()))
        })
    };
    if headers.len() <= limits.fields {
        return Ok(());
    }
    let added = headers.iter().filter(|header| is_own(header.name)).count();
    if headers.len() - added.min(OWN_FIELDS) > limits.fields {
        limits::hit(Limit::HeadFields);
        return Err(HeadError::TooLarge);
    }
    Ok(())
}

/// Returns the reason phrase as it was received: what follows `HTTP/1.1 200 `.
fn reason(head: &[u8]) -> Vec<u8> {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    line.get(13..).unwrap_or_default().to_vec()
}

/// At most two empty lines before a request line are passed over (RFC 9112 §2.2).
fn empty_lines(bytes: &[u8]) -> usize {
    let lines = bytes
        .chunks_exact(2)
        .take(2)
        .take_while(|pair| *pair == b"\r\n")
        .count();
    lines * 2
}

/// Finds the end of the head. Every line must end in CRLF: a lone CR or LF is read
/// as a line end by some parsers and as data by others.
fn head_end(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, HeadError> {
    let mut line_start = 0;
    let mut lines = 0;
    let window = &bytes[..bytes.len().min(limits.head_bytes)];
    let mut i = 0;
    while i < window.len() {
        match window[i] {
            b'\r' => match window.get(i + 1) {
                Some(b'\n') => {
                    if i == line_start {
                        return Ok(Some(i + 2));
                    }
                    lines += 1;
                    if lines > limits.fields + OWN_FIELDS + 1 {
                        limits::hit(Limit::HeadFields);
                        return Err(HeadError::TooLarge);
                    }
                    i += 2;
                    line_start = i;
                    continue;
                }
                Some(_) => return Err(BAD("a carriage return stands alone")),
                None => break,
            },
            b'\n' => return Err(BAD("a line feed stands alone")),
            0 => return Err(BAD("a NUL byte")),
            _ => {}
        }
        i += 1;
    }
    if bytes.len() >= limits.head_bytes {
        limits::hit(Limit::HeadBytes);
        Err(HeadError::TooLarge)
    } else {
        Ok(None)
    }
}

/// The first bytes of a request line, of which the end has not come yet.
fn begins_as_method(bytes: &[u8]) -> Result<(), HeadError> {
    let mut method = bytes.iter().take_while(|b| **b != b' ');
    // An empty line may still come to an end before the request line.
    let is_method = method.all(|b| is_token_byte(*b)) || matches!(bytes, b"\r");
    let length = bytes.iter().position(|b| *b == b' ').unwrap_or(bytes.len());
    if is_method && length <= METHOD_BYTES_MAX {
        Ok(())
    } else {
        Err(BAD("the method is not a token"))
    }
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// The request line must be three parts with single spaces between them.
fn request_line(bytes: &[u8], limits: &Limits) -> Result<(), HeadError> {
    let end = bytes
        .iter()
        .position(|b| *b == b'\r')
        .unwrap_or(bytes.len());
    let line = &bytes[..end];
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BAD(
            "the request line is not three parts with single spaces",
        ));
    };
    if method.len() > METHOD_BYTES_MAX {
        return Err(BAD("the method is too long"));
    }
    if target.len() > limits.target_bytes {
        limits::hit(Limit::TargetBytes);
        return Err(HeadError::TargetTooLong);
    }
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(BAD("the target has bytes that must be escaped"));
    }
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => Ok(()),
        _ if version.starts_with(b"HTTP/") => Err(HeadError::Version),
        _ => Err(BAD("the request line has no version")),
    }
}

fn parse_error(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => {
            limits::hit(Limit::HeadFields);
            HeadError::TooLarge
        }
        httparse::Error::Version => HeadError::Version,
        httparse::Error::HeaderName => BAD("a field name is not a token"),
        httparse::Error::HeaderValue => BAD("a field value has forbidden bytes"),
        httparse::Error::Status => BAD("the status line is not valid"),
        httparse::Error::Token => BAD("the method is not a token"),
        httparse::Error::NewLine => BAD("a line does not end in CRLF"),
    }
}

const fn version(minor: Option<u8>) -> Result<Version, HeadError> {
    match minor {
        Some(0) => Ok(Version::HTTP_10),
        Some(1) => Ok(Version::HTTP_11),
        _ => Err(HeadError::Version),
    }
}

/// What the fields say, and those to be forwarded.
#[derive(Default)]
struct Found {
    fields: Fields,
    hosts: Vec<HeaderValue>,
    chunked: bool,
    length: Option<u64>,
    close: bool,
    says_keep_alive: bool,
    idle_s: Option<u32>,
    expect: Option<HeaderValue>,
    upgrade: Option<HeaderValue>,
}

impl Found {
    /// Reads the fields of the head `shared`, which they are parts of.
    fn read(
        shared: &Bytes,
        headers: &[httparse::Header<'_>],
        version: Version,
    ) -> Result<Self, HeadError> {
        let mut found = Self::default();
        found.fields.0.reserve(headers.len());
        let mut hop_by_hop: Vec<Vec<u8>> = Vec::new();
        let mut wants_upgrade = false;
        let mut transfer_encodings = 0;
        let mut lengths = 0;
        for header in headers {
            let name = HeaderName::from_bytes(header.name.as_bytes());
            let name = name.map_err(|_| BAD("a field name is not a token"))?;
            if header
                .value
                .iter()
                .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
            {
                return Err(BAD("a field value has control characters"));
            }
            let value = HeaderValue::from_maybe_shared(shared.slice_ref(header.value));
            let value = value.map_err(|_| BAD("a field value has forbidden bytes"))?;
            check_look_alike(header.name)?;
            let field = |name, value| Field {
                name,
                written: shared.slice_ref(header.name.as_bytes()),
                value,
            };
            match name {
                TRANSFER_ENCODING => {
                    transfer_encodings += 1;
                    if !header.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BAD("the transfer encoding is not exactly chunked"));
                    }
                    found.chunked = true;
                }
                CONTENT_LENGTH => {
                    lengths += 1;
                    found.length = Some(length(header.value)?);
                }
                CONNECTION => {
                    for token in header.value.split(|b| *b == b',') {
                        let token = token.trim_ascii().to_ascii_lowercase();
                        match token.as_slice() {
                            b"close" => found.close = true,
                            b"keep-alive" => found.says_keep_alive = true,
                            b"upgrade" => wants_upgrade = true,
                            b"" | b"te" => {}
                            // Fields the message needs to be understood may not be declared away.
                            b"host" | b"content-length" | b"transfer-encoding" => {
                                return Err(BAD("Connection names a field that must stay"));
                            }
                            _ if is_end_to_end(&token) => {}
                            _ => hop_by_hop.push(token),
                        }
                    }
                }
                UPGRADE => {
                    if found.upgrade.replace(value).is_some() {
                        return Err(BAD("there are two Upgrade fields"));
                    }
                }
                EXPECT => {
                    if found.expect.replace(value).is_some() {
                        return Err(BAD("there are two Expect fields"));
                    }
                }
                HOST => {
                    found.hosts.push(value.clone());
                    found.fields.0.push(field(name, value));
                }
                // A hop that forwards trailers may say so; other codings are not understood here.
                TE if header.value.eq_ignore_ascii_case(b"trailers") => {
                    found.fields.0.push(field(name, value));
                }
                TE => {}
                _ if name == "keep-alive" => found.idle_s = idle_seconds(header.value),
                _ if is_hop_by_hop(name.as_str()) => {}
                _ => found.fields.0.push(field(name, value)),
            }
        }
        if transfer_encodings > 1 || lengths > 1 || (found.chunked && lengths > 0) {
            return Err(BAD("there is more than one framing field"));
        }
        if found.chunked && version == Version::HTTP_10 {
            return Err(BAD("HTTP/1.0 has no transfer encoding"));
        }
        if !wants_upgrade {
            found.upgrade = None;
        }
        for name in hop_by_hop {
            found
                .fields
                .0
                .retain(|field| field.name.as_str().as_bytes() != name);
        }
        Ok(found)
    }

    const fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::HTTP_10 => self.says_keep_alive && !self.close,
            _ => !self.close,
        }
    }
}

/// Fields of one connection, never forwarded (RFC 9110 §7.6.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Reads `timeout=5` of `Keep-Alive: timeout=5, max=100`.
fn idle_seconds(value: &[u8]) -> Option<u32> {
    let mut parameters = std::str::from_utf8(value).ok()?.split(',');
    parameters.find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| seconds.trim().parse().ok())?
    })
}

/// Fields that are meant for the other end. A client that lists one in `Connection` would
/// have us take away what somebody before it has added: who is asking, and what for.
fn is_end_to_end(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 22] = [
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"b3",
        b"cache-control",
        b"cookie",
        b"date",
        b"etag",
        b"expect",
        b"forwarded",
        b"if-match",
        b"if-none-match",
        b"location",
        b"origin",
        b"range",
        b"referer",
        b"set-cookie",
        b"traceparent",
        b"tracestate",
        b"user-agent",
        b"vary",
        b"via",
    ];
    let prefixes: [&[u8]; 7] = [
        b"content-",
        b"x-forwarded-",
        b"x-real-",
        b"x-request-",
        b"x-b3-",
        b"sec-",
        b"whodunit-",
    ];
    NAMES.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Refuses names that lax parsers take for framing fields or `Host`.
pub(super) fn check_look_alike(name: &str) -> Result<(), HeadError> {
    if name.contains('_') {
        let plain = name.replace('_', "-");
        for framing in ["content-length", "transfer-encoding", "host"] {
            if plain.eq_ignore_ascii_case(framing) {
                return Err(BAD("a field name looks like a framing field"));
            }
        }
    }
    Ok(())
}

/// Says whether a name that the `http` crate accepts is one that everybody reads the same.
pub(crate) fn is_plain_name(name: &str) -> bool {
    // It takes a quotation mark for a part of a name.
    check_look_alike(name).is_ok() && !name.contains('"')
}

/// Returns the length that fields declare, if all of them declare the same valid one.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let first = length(lengths.next()?.as_bytes()).ok()?;
    lengths
        .all(|other| length(other.as_bytes()) == Ok(first))
        .then_some(first)
}

/// Reads a content length: digits, and few enough that no parser overflows.
pub(super) fn length(value: &[u8]) -> Result<u64, HeadError> {
    let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    let text = digits.then(|| std::str::from_utf8(value).ok()).flatten();
    text.and_then(|text| text.parse().ok())
        .ok_or(BAD("the content length is not a number"))
}

fn host(found: &Found, version: Version) -> Result<String, HeadError> {
    match found.hosts.as_slice() {
        [] if version == Version::HTTP_10 => Ok(String::new()),
        [] => Err(BAD("there is no Host")),
        [host] => {
            let text = host.to_str().map_err(|_| BAD("Host is not ASCII"))?;
            if is_host(text) {
                Ok(text.to_owned())
            } else {
                Err(BAD("Host is not a host"))
            }
        }
        _ => Err(BAD("there are two Hosts")),
    }
}

/// Says whether `text` is `uri-host [":" port]` without user info, lists or paths.
pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match rest.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None if rest.is_empty() => (address, None),
            None => return false,
        }
    } else {
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        if !name.bytes().all(plain) {
            return false;
        }
        (name, port)
    };
    let port_is_well = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    !name.is_empty() && name.len() <= 255 && port_is_well
}

/// Returns the target as the next hop wants it, and the authority of an absolute form.
fn origin_form(
    method: &Method,
    target: &str,
    host: &str,
) -> Result<(Uri, Option<HeaderValue>), HeadError> {
    if *method == Method::CONNECT {
        return Err(HeadError::Method);
    }
    if target.contains('#') {
        return Err(BAD("the target has a fragment"));
    }
    if target.starts_with('/') || (target == "*" && *method == Method::OPTIONS) {
        return Ok((uri(target)?, None));
    }
    let rest = target
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("http://"))
        .map(|_| &target[7..])
        .ok_or(BAD("the target is neither a path nor an http URL"))?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_host(authority) {
        return Err(BAD("the target's authority is not a host"));
    }
    // Back ends disagree on which of the two counts.
    if !host.is_empty() && !authority.eq_ignore_ascii_case(host) {
        return Err(BAD("the target names another host than Host"));
    }
    // RFC 9112 §3.2.4: without a path, OPTIONS asks for the server as a whole.
    let path = match path.as_bytes().first() {
        None if *method == Method::OPTIONS => uri("*")?,
        None => uri("/")?,
        Some(b'?') => uri(&format!("/{path}"))?,
        Some(_) => uri(path)?,
    };
    let authority = HeaderValue::from_str(authority);
    let authority = authority.map_err(|_| BAD("the target's authority is not a host"))?;
    Ok((path, Some(authority)))
}

fn uri(path: &str) -> Result<Uri, HeadError> {
    PathAndQuery::try_from(path)
        .map(Uri::from)
        .map_err(|_| BAD("the target has bytes that must be escaped"))
}

fn mentions_h2c(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .split(|b| *b == b',')
        .any(|token| token.trim_ascii().to_ascii_lowercase().starts_with(b"h2c"))
}
