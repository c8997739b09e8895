//! Whom a request is for: `Host`, and the target's forms.

use bytes::Bytes;
use http::header::HeaderValue;
use http::uri::{PathAndQuery, Uri};
use http::{Method, Version};

use super::head::{HeadError, bad};

/// Checks the only `Host` of a request, empty where HTTP/1.0 has none.
pub(super) fn check(host: Option<&[u8]>, version: Version) -> Result<&str, HeadError> {
    let Some(host) = host else {
        return if version == Version::HTTP_10 {
            Ok("")
        } else {
            Err(bad("there is no Host"))
        };
    };
    let text = std::str::from_utf8(host).map_err(|_| bad("Host is not ASCII"))?;
    if is_host(text) {
        Ok(text)
    } else {
        Err(bad("Host is not a host"))
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
pub(super) fn origin_form(
    method: &Method,
    target: &Bytes,
    host: &str,
) -> Result<(Uri, Option<HeaderValue>), HeadError> {
    if *method == Method::CONNECT {
        return Err(HeadError::Method);
    }
    let whole = target;
    let target = std::str::from_utf8(whole);
    let target = target.map_err(|_| bad("the target has bytes that must be escaped"))?;
    if target.contains('#') {
        return Err(bad("the target has a fragment"));
    }
    if target.starts_with('/') || (target == "*" && *method == Method::OPTIONS) {
        let shared = PathAndQuery::from_maybe_shared(whole.clone());
        let shared = shared.map_err(|_| bad("the target has bytes that must be escaped"))?;
        return Ok((shared.into(), None));
    }
    let rest = target
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("http://"))
        .map(|_| &target[7..])
        .ok_or(bad("the target is neither a path nor an http URL"))?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_host(authority) {
        return Err(bad("the target's authority is not a host"));
    }
    // Back ends disagree on which of the two counts.
    if !host.is_empty() && !authority.eq_ignore_ascii_case(host) {
        return Err(bad("the target names another host than Host"));
    }
    // RFC 9112 §3.2.4: without a path, OPTIONS asks for the server as a whole.
    let path = match path.as_bytes().first() {
        None if *method == Method::OPTIONS => uri("*")?,
        None => uri("/")?,
        Some(b'?') => uri(&format!("/{path}"))?,
        Some(_) => uri(path)?,
    };
    let authority = HeaderValue::from_str(authority);
    let authority = authority.map_err(|_| bad("the target's authority is not a host"))?;
    Ok((path, Some(authority)))
}

fn uri(path: &str) -> Result<Uri, HeadError> {
    PathAndQuery::try_from(path)
        .map(Uri::from)
        .map_err(|_| bad("the target has bytes that must be escaped"))
}
