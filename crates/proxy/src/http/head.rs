//! What heads say: checked, recorded, and cleaned for the next hop.

use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Uri, Version};
use whodunit_model::record::{Protocol, TraceContext};
use whodunit_model::redact::{Attributes, Redaction};
use whodunit_model::{Party, RequestId, RequestRecord, route};

use crate::h1::{Unwritable, declared_length, emit, is_host, is_plain_name};
use crate::limits::{self, Limit};
use crate::targets::{Asked, Described};
use crate::upstream;
use crate::worker::Worker;

/// The request id, from proxy to proxy.
pub(crate) const ID: HeaderName = HeaderName::from_static("whodunit-id");
/// The caller, from proxy to proxy.
pub(crate) const FROM: HeaderName = HeaderName::from_static("whodunit-from");
/// Says that the answering side is a proxy of ours.
pub(crate) const TWIN: HeaderName = HeaderName::from_static("whodunit-twin");
/// The cause of an answer that a proxy made.
pub(crate) const CAUSE: HeaderName = HeaderName::from_static(whodunit_model::answer::HEADER);
/// Where the failure of such an answer began, from proxy to proxy.
pub(crate) const ORIGIN: HeaderName = HeaderName::from_static("whodunit-origin");

/// How many proxies of ours the request has passed, from proxy to proxy.
pub(crate) const HOPS: HeaderName = HeaderName::from_static("whodunit-hops");

/// Most proxies of ours that a request passes without an application between them: more are
/// a loop.
pub(crate) const HOPS_MAX: u32 = 8;

/// What the names of all of these begin with.
const OWN_PREFIX: &str = "whodunit-";

/// Headers that concern one hop only, besides those that `connection` names.
const HOP_BY_HOP: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// What a client of HTTP/1 that wants to go on in HTTP/2 sends along.
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Longest authority that is recorded, in bytes: no host name is longer.
const AUTHORITY_BYTES_MAX: usize = 255;

/// Says whether a content type is gRPC's; gRPC-Web is not.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let Some(rest) = value.as_bytes().strip_prefix(b"application/grpc") else {
        return false;
    };
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Returns what a request speaks.
pub(crate) fn protocol(parts: &Parts) -> Protocol {
    if parts.version != Version::HTTP_2 {
        Protocol::Http1
    } else if is_grpc(&parts.headers) {
        Protocol::Grpc
    } else {
        Protocol::Http2
    }
}

/// Checks what the parser lets through but two readers could read differently.
pub(crate) fn check(parts: &Parts) -> Result<(), &'static str> {
    if parts.method == Method::CONNECT {
        return Err("CONNECT is not supported here");
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err("the request has more than one Host");
    }
    if first.is_none() && parts.version == Version::HTTP_11 {
        return Err("the request has no Host");
    }
    let lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter().count();
    if lengths > 1 || (lengths == 1 && parts.headers.contains_key(header::TRANSFER_ENCODING)) {
        return Err("the request has more than one length");
    }
    if parts.version == Version::HTTP_2 {
        check_http2(parts, first)?;
    }
    Ok(())
}

/// Says whether a request may go on over HTTP/1.1, which has fewer ways to say things.
fn check_for_http1(parts: &Parts) -> Result<(), &'static str> {
    if parts.headers.len() > Limit::HeadFields.count() {
        limits::hit(Limit::HeadFields);
        return Err("the request has more fields than HTTP/1.1 endpoints take");
    }
    let target = parts.uri.path_and_query();
    if target.is_some_and(|target| target.as_str().len() > Limit::TargetBytes.count()) {
        limits::hit(Limit::TargetBytes);
        return Err("the path is longer than HTTP/1.1 endpoints take");
    }
    Ok(())
}

/// Checks what h2 lets through: what could be read as something else once it is HTTP/1, or
/// by an endpoint that looks at another field than we do.
fn check_http2(parts: &Parts, host: Option<&HeaderValue>) -> Result<(), &'static str> {
    if parts
        .uri
        .scheme_str()
        .is_some_and(|scheme| !matches!(scheme, "http" | "https"))
    {
        return Err("the scheme is neither http nor https");
    }
    let host = host.map(|host| host.to_str().map_err(|_| "Host is not ASCII"));
    let host = host.transpose()?;
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    if let (Some(authority), Some(host)) = (authority, host)
        && !authority.eq_ignore_ascii_case(host)
    {
        return Err(":authority and Host differ");
    }
    let Some(named) = authority.or(host) else {
        return Err("there is neither :authority nor Host");
    };
    if !is_host(named) {
        return Err(":authority or Host is not a host");
    }
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let asterisk = target == "*" && parts.method == Method::OPTIONS;
    if !asterisk && !target.starts_with('/') {
        return Err("the path does not begin with a slash");
    }
    if !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the path has bytes that no path may have");
    }
    let padded = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        bytes.trim_ascii().len() != bytes.len()
    };
    if parts.headers.values().any(padded) {
        return Err("a field begins or ends with white space");
    }
    // Nothing else that the parser takes for a name could be read as another one.
    let odd = |name: &HeaderName| {
        let name = name.as_str();
        name.contains(['"', '_']) && !is_plain_name(name)
    };
    if parts.headers.keys().any(odd) {
        return Err("a field name is not a token, or looks like a framing field");
    }
    let length = declared_length(&parts.headers);
    if length.is_none() && parts.headers.contains_key(header::CONTENT_LENGTH) {
        return Err("the content length is not a number");
    }
    let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !parts.headers.get_all(header::EXPECT).iter().all(expects) {
        return Err("the expectation cannot be met");
    }
    Ok(())
}

/// Fields that frame or route a message, which nobody may add when it is sent already.
const NO_TRAILERS: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::CONNECTION,
    header::UPGRADE,
    header::EXPECT,
];

/// Removes from the trailers of a request what is ours, or has no place there.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    if trailers.is_empty() {
        return;
    }
    strip_own(trailers);
    for name in NO_TRAILERS {
        trailers.remove(name);
    }
}

/// The id and the caller that another proxy of ours sent along.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// The id.
    pub(crate) id: Option<RequestId>,
    /// The caller.
    pub(crate) from: Option<Party>,
    /// How many proxies of ours it has passed.
    pub(crate) hops: u32,
}

/// Takes our own headers out of a request, valid or not, those of responses included: no
/// application sees what a stranger writes there.
pub(crate) fn take_claim(headers: &mut HeaderMap, worker: &Worker) -> Claim {
    if !has_own(headers) {
        return Claim::default();
    }
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let id = headers.remove(ID);
    let from = headers.remove(FROM);
    let hops = headers.remove(HOPS);
    let hops = hops
        .as_ref()
        .and_then(text)
        .and_then(|hops| hops.parse().ok());
    strip_own(headers);
    let id = id.as_ref().and_then(text).and_then(|id| id.parse().ok());
    Claim {
        id,
        // Without a valid id the caller is not a proxy of ours.
        from: id.and_then(|_| worker.caller(from.as_ref()?.to_str().ok()?)),
        hops: hops.unwrap_or(0),
    }
}

/// Says whether there is any header of ours. Looking at the few names costs less than
/// looking each of ours up.
pub(crate) fn has_own(headers: &HeaderMap) -> bool {
    let mut names = headers.keys();
    names.any(|name| name.as_str().starts_with(OWN_PREFIX))
}

/// Removes every header of ours from what goes to an application.
pub(crate) fn strip_own(headers: &mut HeaderMap) {
    if has_own(headers) {
        for name in [ID, FROM, HOPS, TWIN, CAUSE, ORIGIN] {
            headers.remove(name);
        }
    }
}

/// Returns which protocols the client asks for on this connection. The codec keeps such a
/// wish only where it may be passed on, which it may not for HTTP/2: the requests of such a
/// connection could not be told apart.
pub(crate) fn wanted_upgrade(parts: &Parts) -> Option<HeaderValue> {
    let wish = parts.headers.get(header::UPGRADE);
    wish.filter(|_| parts.version == Version::HTTP_11).cloned()
}

/// Says whether an endpoint that switches protocols chose one of those it was asked for.
pub(crate) fn grants(wish: &HeaderValue, headers: &HeaderMap) -> bool {
    let Some(chosen) = headers.get(header::UPGRADE) else {
        return false;
    };
    let chosen = chosen.as_bytes().trim_ascii();
    let mut wished = wish.as_bytes().split(|b| *b == b',');
    wished.any(|wished| wished.trim_ascii().eq_ignore_ascii_case(chosen))
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Removes what concerns only the hop the head came over. With `upgrade` the wish for, or
/// the agreement on, another protocol goes on to the next hop. Returns whether the sender
/// waits to be asked for its body, which is for this hop to do.
pub(crate) fn strip_hop(headers: &mut HeaderMap, upgrade: bool) -> bool {
    let concerned = |name: &HeaderName| {
        matches!(*name, header::UPGRADE | header::TE | header::EXPECT) || HOP_BY_HOP.contains(name)
    };
    if !headers.keys().any(concerned) {
        return false;
    }
    let expects = headers.remove(header::EXPECT).is_some();
    let named: Vec<HeaderName> = connection_options(headers)
        .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
        // Framing is not the sender's to name; `te` is handled below.
        .filter(|name| !matches!(*name, header::CONTENT_LENGTH | header::HOST | header::TE))
        .collect();
    let upgraded = if upgrade {
        headers.remove(header::UPGRADE)
    } else {
        None
    };
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
    if let Some(protocol) = upgraded {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    expects
}

/// Writes the request target as the next hop wants it in the version that it speaks, and
/// sees to a `Host`.
pub(crate) fn retarget(
    parts: &mut Parts,
    endpoint: SocketAddr,
    to: upstream::Version,
) -> Result<(), &'static str> {
    let wrong = "the request target is not valid";
    let converted = parts.version == Version::HTTP_2 && to == upstream::Version::Http1;
    match (parts.version == Version::HTTP_2, to) {
        (true, upstream::Version::Http1) => {
            check_for_http1(parts)?;
            join_cookies(&mut parts.headers)?;
            parts.headers.remove(HTTP2_SETTINGS);
            parts.version = Version::HTTP_11;
        }
        (false, upstream::Version::Http2) => {
            // Host becomes the authority below. Another protocol cannot be agreed on here.
            parts.headers.remove(header::CONNECTION);
            parts.headers.remove(header::UPGRADE);
            parts.version = Version::HTTP_2;
        }
        _ => {}
    }
    if parts.version == Version::HTTP_2 {
        if parts.uri.authority().is_some() && parts.uri.scheme().is_some() {
            return Ok(());
        }
        let host = parts
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let authority = host.map_or_else(|| endpoint.to_string(), str::to_owned);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder()
            .scheme("http")
            .authority(authority)
            .path_and_query(path);
        parts.uri = uri.build().map_err(|_| wrong)?;
        parts.headers.remove(header::HOST);
        return Ok(());
    }
    // The authority of a target in absolute form wins over the header (RFC 9112, 3.2.2).
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong)?;
        parts.headers.insert(header::HOST, host);
    } else if !parts.headers.contains_key(header::HOST) {
        let host = HeaderValue::from_str(&endpoint.to_string()).map_err(|_| wrong)?;
        parts.headers.insert(header::HOST, host);
    }
    if parts.uri.scheme().is_some() {
        let path = parts.uri.path_and_query().cloned();
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = path.or_else(|| "/".parse().ok());
        parts.uri = Uri::from_parts(uri).map_err(|_| wrong)?;
    }
    parts.version = Version::HTTP_11;
    if !converted {
        return Ok(());
    }
    emit::check_request(parts).map_err(|why| match why {
        Unwritable::Target => "the path cannot be said in HTTP/1.1",
        Unwritable::Host => ":authority or Host cannot be said in HTTP/1.1",
        Unwritable::Field => "a field cannot be said in HTTP/1.1",
    })
}

/// Joins the crumbs that HTTP/2 may cut a cookie into (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return Ok(());
    };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    let joined = HeaderValue::from_bytes(&joined).map_err(|_| "a cookie is not valid")?;
    headers.insert(header::COOKIE, joined);
    Ok(())
}

/// Writes what the head says into the record, secrets redacted.
pub(crate) fn describe(parts: &Parts, worker: &Rc<Worker>, record: &mut RequestRecord) {
    record.protocol = protocol(parts);
    record.authority = worker.share(authority(parts));
    let service = record.service.clone();
    let asked = Asked {
        grpc: record.protocol == Protocol::Grpc,
        service: &service,
        method: &parts.method,
        target: parts.uri.path_and_query().map_or("/", |path| path.as_str()),
    };
    let known = worker.targets.borrow().find(asked).cloned();
    match known {
        Some(known) => note_target(record, known),
        None => note_target(record, describe_target(asked, parts.uri.path(), worker)),
    }
    let redaction = &worker.config.redaction;
    capture(&parts.headers, redaction, record);
    // One look at the few names costs less than looking several up.
    let (mut traced, mut correlated) = (false, false);
    for name in parts.headers.keys() {
        match name.as_str() {
            "traceparent" | "b3" | "x-b3-traceid" => traced = true,
            "x-request-id" => correlated = true,
            _ => {}
        }
    }
    if traced {
        record.trace = trace(&parts.headers);
    }
    if correlated {
        record.correlation = correlation(&parts.headers, redaction).into();
    }
    record.probe = is_probe(&parts.headers);
}

fn note_target(record: &mut RequestRecord, described: Described) {
    record.method = described.method;
    record.route = described.route;
    record.path = described.path;
    record.attributes = described.attributes;
}

/// Says what records say about a target that is not remembered, and remembers it.
fn describe_target(asked: Asked<'_>, path: &str, worker: &Rc<Worker>) -> Described {
    let redaction = &worker.config.redaction;
    let redacted = if asked.grpc {
        redaction.grpc_path(asked.target)
    } else {
        redaction.path(asked.target)
    };
    let route = if asked.grpc {
        route::grpc_route(path)
    } else {
        route::http_route(asked.method.as_str(), path)
    };
    let described = Described {
        method: worker.share(asked.method.as_str()),
        route: worker.routes.borrow_mut().name(asked.service, &route),
        path: redacted.path.into(),
        attributes: redacted.attributes.0.into(),
    };
    // Each request whose route has no name of its own is counted.
    if *described.route != *route::OTHER {
        let mut targets = worker.targets.borrow_mut();
        targets.remember(asked, described.clone());
    }
    described
}

/// Writes the headers that are captured into the attributes.
fn capture(headers: &HeaderMap, redaction: &Redaction, record: &mut RequestRecord) {
    let mut attributes = None;
    for name in &redaction.headers {
        if !redaction.captures(name) {
            continue;
        }
        if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
            let before = || Attributes(record.attributes.to_string());
            attributes.get_or_insert_with(before).push(name, value);
        }
    }
    if let Some(attributes) = attributes {
        record.attributes = attributes.0.into();
    }
}

/// Longest method and target of a refused head that are recorded, in bytes.
const REFUSED_METHOD_BYTES_MAX: usize = 20;
const REFUSED_TARGET_BYTES_MAX: usize = 2_048;

/// Writes what can be told of a head that was refused into the record, secrets redacted.
pub(crate) fn describe_refused(bytes: &[u8], worker: &Rc<Worker>, record: &mut RequestRecord) {
    let bytes = bytes.trim_ascii_start();
    let line = bytes.split(|b| matches!(b, b'\r' | b'\n' | 0)).next();
    let mut parts = line
        .unwrap_or_default()
        .split(u8::is_ascii_whitespace)
        .filter(|part| !part.is_empty());
    let method = parts.next().unwrap_or_default();
    let is_method = (1..=REFUSED_METHOD_BYTES_MAX).contains(&method.len())
        && method
            .iter()
            .all(|b| b.is_ascii_alphabetic() || matches!(b, b'-' | b'_'));
    let Some(target) = parts.next().filter(|_| is_method) else {
        return;
    };
    record.protocol = Protocol::Http1;
    record.method = worker.share(&String::from_utf8_lossy(method));
    let target = &target[..target.len().min(REFUSED_TARGET_BYTES_MAX)];
    let target = path_of(target);
    let plain = target.starts_with(b"/") && target.iter().all(u8::is_ascii_graphic);
    if let Some(target) = std::str::from_utf8(target).ok().filter(|_| plain) {
        record.path = worker.config.redaction.path(target).path.into();
    }
}

/// Returns what follows the authority of a target in absolute form, else the target.
fn path_of(target: &[u8]) -> &[u8] {
    let scheme = target.windows(3).position(|bytes| bytes == b"://");
    let Some(rest) = scheme.map(|at| &target[at + 3..]) else {
        return target;
    };
    if target.starts_with(b"/") {
        return target;
    }
    let path = rest.iter().position(|b| *b == b'/');
    path.map_or(&b"/"[..], |at| &rest[at..])
}

fn authority(parts: &Parts) -> &str {
    let host = || {
        parts
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
    };
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let authority = authority.or_else(host).unwrap_or_default();
    // User information before the host is a secret.
    let authority = authority.rsplit('@').next().unwrap_or_default();
    authority.get(..AUTHORITY_BYTES_MAX).unwrap_or(authority)
}

fn is_probe(headers: &HeaderMap) -> bool {
    headers.get(header::USER_AGENT).is_some_and(|agent| {
        let agent = agent.as_bytes();
        agent.starts_with(b"kube-probe/") || agent.starts_with(b"whodunit-probe/")
    })
}

/// The application may put anything into `x-request-id`, so it is recorded as its hash
/// unless the header is allow-listed.
fn correlation(headers: &HeaderMap, redaction: &Redaction) -> String {
    let Some(value) = headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
    else {
        return String::new();
    };
    if value.is_empty() {
        String::new()
    } else if redaction.captures("x-request-id") && value.len() <= 64 {
        value.to_owned()
    } else {
        redaction.hash(value)
    }
}

/// Reads `traceparent`, else b3 in one header or in several.
fn trace(headers: &HeaderMap) -> TraceContext {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(found) = text("traceparent").and_then(traceparent) {
        return found;
    }
    let single = text("b3").and_then(|b3| {
        let mut parts = b3.split('-');
        ids(parts.next()?, parts.next()?)
    });
    let several = || ids(text("x-b3-traceid")?, text("x-b3-spanid")?);
    single.or_else(several).unwrap_or_default()
}

fn traceparent(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let version = parts.next()?;
    let (trace, parent) = (parts.next()?, parts.next()?);
    (version.len() == 2 && trace.len() == 32).then(|| ids(trace, parent))?
}

fn ids(trace: &str, parent: &str) -> Option<TraceContext> {
    let hexadecimal = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let sized = matches!(trace.len(), 16 | 32) && parent.len() == 16;
    if !sized || !hexadecimal(trace) || !hexadecimal(parent) {
        return None;
    }
    Some(TraceContext {
        trace_id: u128::from_str_radix(trace, 16).ok()?,
        parent_id: u64::from_str_radix(parent, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn headers_of_one_hop_are_removed() {
        let mut map = headers(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("trailer", "grpc-status"),
            ("x-other", "2"),
        ]);
        strip_hop(&mut map, false);
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["trailer", "x-other"]);
    }

    #[test]
    fn an_upgrade_goes_on_when_wanted() {
        let mut map = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
        ]);
        strip_hop(&mut map, true);
        assert_eq!(map["connection"], "upgrade");
        assert_eq!(map["upgrade"], "websocket");
        assert_eq!(map["te"], "trailers");
    }

    #[test]
    fn framing_cannot_be_named_away() {
        let mut map = headers(&[
            ("connection", "content-length, host"),
            ("content-length", "3"),
        ]);
        strip_hop(&mut map, false);
        assert!(map.contains_key("content-length"));
    }

    #[test]
    fn traces_are_read_in_each_spelling() {
        let expected = TraceContext {
            trace_id: 0xabc,
            parent_id: 0xd,
        };
        let trace_id = format!("{:032x}", 0xabc);
        let spellings = [
            headers(&[("traceparent", &format!("00-{trace_id}-000000000000000d-01"))]),
            headers(&[("b3", &format!("{trace_id}-000000000000000d-1"))]),
            headers(&[
                ("x-b3-traceid", &trace_id),
                ("x-b3-spanid", "000000000000000d"),
            ]),
        ];
        for map in spellings {
            assert_eq!(trace(&map), expected);
        }
        for junk in [
            "",
            "00-xyz-1-01",
            "00",
            "0-0-0",
            "00-+0000000000000000000000000000abc-1-1",
        ] {
            assert_eq!(
                trace(&headers(&[("traceparent", junk)])),
                TraceContext::default()
            );
        }
    }

    #[test]
    fn request_ids_of_applications_are_hashed() {
        let map = headers(&[("x-request-id", "hunter2")]);
        let mut redaction = Redaction::default();
        assert!(correlation(&map, &redaction).starts_with('~'));
        redaction.headers.push("x-request-id".to_owned());
        assert_eq!(correlation(&map, &redaction), "hunter2");
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("text/html", false),
        ] {
            assert_eq!(
                is_grpc(&headers(&[("content-type", value)])),
                expected,
                "{value}"
            );
        }
    }
}
