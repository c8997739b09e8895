//! Writes heads and chunks anew: one framing field, ours.
//!
//! Heads come from HTTP/2 as well, so nothing is written on trust: a request that HTTP/1.1
//! cannot say is refused, and a field that it cannot say is left out of a response.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Version};
use http_body::Frame;

use super::body::is_forbidden_trailer;
use super::fields::{Fields, Written, is_plain_name};
use super::head::Framing;
use super::host::is_host;

/// What connection options a head announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection<'a> {
    /// Nothing: HTTP/1.1 keeps the connection open by itself.
    Implied,
    /// `close`: nothing follows this message.
    Close,
    /// `keep-alive`, for HTTP/1.0 peers.
    KeepAlive,
    /// `upgrade`, with this protocol.
    Upgrade(&'a HeaderValue),
}

/// Why a request cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwritable {
    /// The target is neither a path nor `*`.
    #[error("the target is not a path")]
    Target,
    /// There is not exactly one valid `Host`.
    #[error("there is not exactly one valid Host")]
    Host,
    /// A field would be read as another one, or as two.
    #[error("a field cannot be written")]
    Field,
}

/// Appends a request head. `fields` are those it came in with from HTTP/1, of which the map
/// has only some.
///
/// # Errors
/// When the head is nothing that every parser would read the same way; then nothing is
/// appended.
pub(crate) fn request(
    out: &mut BytesMut,
    parts: &http::request::Parts,
    fields: Option<&Fields>,
    framing: Framing,
    connection: Connection<'_>,
) -> Result<(), Unwritable> {
    check_request(parts)?;
    let target = target(parts);
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(out, &parts.headers, fields);
    let said = parts.headers.contains_key(header::CONTENT_LENGTH);
    let usual = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    write_framing(out, framing, said || usual);
    write_connection(out, connection, parts.headers.contains_key(header::TE));
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn target(parts: &http::request::Parts) -> &str {
    parts.uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Says whether every parser would read this head the same way.
///
/// # Errors
/// When it would not.
pub(crate) fn check_request(parts: &http::request::Parts) -> Result<(), Unwritable> {
    let target = target(parts);
    let is_path = target.starts_with('/') || (target == "*" && parts.method == Method::OPTIONS);
    let plain = target.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !is_path || !plain || parts.method == Method::CONNECT {
        return Err(Unwritable::Target);
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_host) || hosts.next().is_some() {
        return Err(Unwritable::Host);
    }
    let well = |(name, value): (&HeaderName, &HeaderValue)| is_writable(name.as_str(), value);
    if parts.headers.iter().all(well) {
        Ok(())
    } else {
        Err(Unwritable::Field)
    }
}

/// Says whether a field can be written so that everybody reads the same field.
fn is_writable(name: &str, value: &HeaderValue) -> bool {
    let splits = |b: &u8| matches!(b, b'\r' | b'\n' | 0);
    is_plain_name(name) && !value.as_bytes().iter().any(splits)
}

/// Appends a response head. `framing` is that of the head, which for `HEAD` and 304
/// tells the length of a body that does not follow. `received` are the fields and the reason
/// phrase it came in with from HTTP/1, of which the map has only some fields.
pub(crate) fn response(
    out: &mut BytesMut,
    version: Version,
    parts: &http::response::Parts,
    received: Option<(&Fields, &[u8])>,
    framing: Framing,
    connection: Connection<'_>,
) {
    let (fields, reason) = received.unzip();
    status_line(out, version, parts.status, reason);
    write_fields(out, &parts.headers, fields);
    let said = parts.headers.contains_key(header::CONTENT_LENGTH);
    let may_have_body = !parts.status.is_informational()
        && !matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    write_framing(out, framing, said && may_have_body);
    write_connection(out, connection, false);
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut BytesMut, version: Version, status: StatusCode, reason: Option<&[u8]>) {
    let version: &[u8] = if version == Version::HTTP_10 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    };
    out.extend_from_slice(version);
    out.extend_from_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    match reason {
        Some(reason) => out.extend_from_slice(reason),
        None => out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields that came in as they were, then those of ours.
fn write_fields(out: &mut BytesMut, map: &HeaderMap, fields: Option<&Fields>) {
    let mut found = 0;
    if let Some(fields) = fields {
        fields.write(|written| match written {
            Written::Lines(lines) => out.extend_from_slice(lines),
            Written::Field(name, value) => write_field(out, name, value),
            Written::Mapped(written, name, nth) => {
                if let Some(value) = map.get_all(name).iter().nth(nth) {
                    found += 1;
                    if !is_ours(name) && is_writable(name.as_str(), value) {
                        write_field(out, written, value.as_bytes());
                    }
                }
            }
        });
    }
    if found == map.len() {
        return;
    }
    for key in map.keys().filter(|key| !is_ours(key)) {
        let written = fields.map_or(0, |fields| fields.mapped(key));
        let left = map.get_all(key).iter().skip(written);
        for value in left.filter(|value| is_writable(key.as_str(), value)) {
            write_field(out, key.as_str().as_bytes(), value.as_bytes());
        }
    }
}

/// Fields that this hop writes itself.
fn is_ours(name: &HeaderName) -> bool {
    const OURS: [HeaderName; 6] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    matches!(name.as_str().len(), 7 | 10 | 14 | 16 | 17) && OURS.contains(name)
}

fn write_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    // Blanks around a value are no part of it; HTTP/2 lets them pass.
    out.extend_from_slice(value.trim_ascii());
    out.extend_from_slice(b"\r\n");
}

fn write_framing(out: &mut BytesMut, framing: Framing, zero_is_said: bool) {
    match framing {
        Framing::None if zero_is_said => write_field(out, b"content-length", b"0"),
        Framing::None | Framing::Close => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            write_number(out, length, 10);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => write_field(out, b"transfer-encoding", b"chunked"),
    }
}

/// `te` says that there is a `TE`, which is for one hop only and has to be named.
fn write_connection(out: &mut BytesMut, connection: Connection<'_>, te: bool) {
    match connection {
        Connection::Implied if te => write_field(out, b"connection", b"te"),
        Connection::Implied => {}
        Connection::Close => write_field(out, b"connection", b"close"),
        Connection::KeepAlive => write_field(out, b"connection", b"keep-alive"),
        Connection::Upgrade(protocol) => {
            write_field(out, b"connection", b"upgrade");
            write_field(out, b"upgrade", protocol.as_bytes());
        }
    }
}

/// Appends the line before a chunk of `length` bytes, which must not be 0.
pub(crate) fn chunk_head(out: &mut BytesMut, length: usize) {
    write_number(out, length as u64, 16);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number in a base up to 16.
fn write_number(out: &mut BytesMut, mut number: u64, base: u64) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut text = [0; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = DIGITS[(number % base) as usize % DIGITS.len()];
        number /= base;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

/// Appends the end of a chunk's data.
pub(crate) fn chunk_tail(out: &mut BytesMut) {
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk and the trailers.
pub(crate) fn last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if !is_forbidden_trailer(name.as_str()) && is_writable(name.as_str(), value) {
            write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a frame of a body. Returns whether more may follow: trailers end a body.
pub(crate) fn frame(out: &mut BytesMut, frame: Frame<Bytes>, chunked: bool) -> bool {
    match frame.into_data() {
        Ok(data) if data.is_empty() => true,
        Ok(data) if chunked => {
            chunk_head(out, data.len());
            out.extend_from_slice(&data);
            chunk_tail(out);
            true
        }
        Ok(data) => {
            out.extend_from_slice(&data);
            true
        }
        Err(frame) => {
            if chunked {
                last_chunk(out, frame.trailers_ref());
            }
            false
        }
    }
}
