//! The fields of a head: what they say about the message, and those that go on.

use std::ops::Range;

use bytes::Bytes;
use http::Version;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};

use super::head::{HeadError, Limits, OWN_FIELDS, bad};
use super::scan::{token_length, value_length};
use crate::limits::{self, Limit};

/// What all names of our own fields begin with.
const OWN_PREFIX: &[u8] = b"whodunit-";

/// Header fields in the order they came in. Most pass through as they are, so they are parts
/// of the head and nothing else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    head: Bytes,
    lines: Vec<Line>,
}

/// One field: where its name and its value are in the head.
#[derive(Clone, Debug)]
struct Line {
    name: Span,
    value: Span,
    /// The name, if the field is in a map and its value is to be taken from there.
    mapped: Option<HeaderName>,
}

/// A part of a head, which is never longer than its limit.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u32,
    to: u32,
}

impl Span {
    const fn of(from: usize, to: usize) -> Self {
        Self {
            from: from as u32,
            to: to as u32,
        }
    }

    const fn range(self) -> Range<usize> {
        self.from as usize..self.to as usize
    }
}

impl Line {
    /// Returns the whole line, if its name and value are separated in the usual way.
    fn usual(&self, head: &[u8]) -> Option<Range<usize>> {
        let (name, value) = (self.name.range(), self.value.range());
        let separated = head.get(name.end..value.start) == Some(b": ");
        let ended = head.get(value.end..value.end + 2) == Some(b"\r\n");
        (separated && ended && !value.is_empty()).then_some(name.start..value.end + 2)
    }
}

/// A field that is to be written.
pub(super) enum Written<'a> {
    /// Whole lines, line ends included.
    Lines(&'a [u8]),
    /// A name as it was written, and a value.
    Field(&'a [u8], &'a [u8]),
    /// A name as it was written, and which value of the map it has.
    Mapped(&'a [u8], &'a HeaderName, usize),
}

impl Fields {
    /// Returns the names as they were written.
    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(|line| &self.head[line.name.range()])
    }

    /// Returns names and values.
    #[cfg(test)]
    pub(crate) fn pairs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let of = |span: Span| self.head[span.range()].to_vec();
        let pairs = self
            .lines
            .iter()
            .map(|line| (of(line.name), of(line.value)));
        pairs.collect()
    }

    /// Returns all fields as a map.
    pub(crate) fn into_map(mut self) -> HeaderMap {
        self.map(|_| true)
    }

    /// Adds the fields that are in no map yet, for an endpoint that gets them by HTTP/2.
    pub(crate) fn complete(&self, map: &mut HeaderMap) {
        for line in self.lines.iter().filter(|line| line.mapped.is_none()) {
            // Both were checked when they were read.
            if let Ok(name) = HeaderName::from_bytes(&self.head[line.name.range()])
                && let Ok(value) =
                    HeaderValue::from_maybe_shared(self.head.slice(line.value.range()))
            {
                map.append(name, value);
            }
        }
    }

    /// Returns the fields that anything here looks at, or changes: their values are written
    /// from the map then. `captured` names those whose values are recorded.
    pub(crate) fn looked_at(&mut self, captured: &[String]) -> HeaderMap {
        self.map(|name| {
            is_looked_at(name)
                || captured
                    .iter()
                    .any(|captured| name.eq_ignore_ascii_case(captured.as_bytes()))
        })
    }

    fn map(&mut self, wanted: impl Fn(&[u8]) -> bool) -> HeaderMap {
        let mut map = HeaderMap::new();
        for line in &mut self.lines {
            let written = &self.head[line.name.range()];
            if !wanted(written) {
                continue;
            }
            // Both were checked when they were read.
            if let Ok(name) = HeaderName::from_bytes(written)
                && let Ok(value) =
                    HeaderValue::from_maybe_shared(self.head.slice(line.value.range()))
            {
                line.mapped = Some(name.clone());
                map.append(name, value);
            }
        }
        map
    }

    /// Returns how many fields of this name are in the map.
    pub(super) fn mapped(&self, name: &HeaderName) -> usize {
        let same = |line: &&Line| line.mapped.as_ref() == Some(name);
        self.lines.iter().filter(same).count()
    }

    /// Hands out what is to be written, in order; lines that follow each other together.
    pub(super) fn write<'a>(&'a self, mut write: impl FnMut(Written<'a>)) {
        let head = &self.head[..];
        let mut lines = 0..0;
        for (i, line) in self.lines.iter().enumerate() {
            let written = match (&line.mapped, line.usual(head)) {
                (None, Some(usual)) if usual.start == lines.end => {
                    lines.end = usual.end;
                    continue;
                }
                (None, Some(usual)) => {
                    let before = std::mem::replace(&mut lines, usual);
                    write(Written::Lines(&head[before]));
                    continue;
                }
                (None, None) => Written::Field(&head[line.name.range()], &head[line.value.range()]),
                (Some(name), _) => {
                    let before = self.lines[..i].iter();
                    let before = before.filter(|before| before.mapped.as_ref() == Some(name));
                    Written::Mapped(&head[line.name.range()], name, before.count())
                }
            };
            let before = std::mem::replace(&mut lines, 0..0);
            write(Written::Lines(&head[before]));
            write(written);
        }
        write(Written::Lines(&head[lines]));
    }
}

/// Fields that decide something here, are recorded, or are taken out.
fn is_looked_at(name: &[u8]) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let known = match name.len() {
        2 => is("te") || is("b3"),
        4 => is("host"),
        10 => is("user-agent"),
        11 => is("traceparent") || is("x-b3-spanid"),
        12 => is("x-request-id") || is("x-b3-traceid") || is("grpc-timeout"),
        _ => false,
    };
    known || starts_as_own(name)
}

fn starts_as_own(name: &[u8]) -> bool {
    let begin = name.get(..OWN_PREFIX.len());
    begin.is_some_and(|begin| begin.eq_ignore_ascii_case(OWN_PREFIX))
}

/// What a field is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Te,
    Upgrade,
    Expect,
    KeepAlive,
    /// For one connection, never forwarded (RFC 9110 §7.6.1).
    HopByHop,
    Other,
}

impl Kind {
    fn of(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            14 if is("content-length") => Self::ContentLength,
            14 if is("http2-settings") => Self::HopByHop,
            16 if is("proxy-connection") => Self::HopByHop,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            _ => Self::Other,
        }
    }
}

/// What the fields say, and those to be forwarded.
#[derive(Default)]
pub(super) struct Found {
    pub(super) fields: Fields,
    host: Option<Span>,
    pub(super) chunked: bool,
    pub(super) length: Option<u64>,
    close: bool,
    says_keep_alive: bool,
    pub(super) idle_s: Option<u32>,
    expect: Option<Span>,
    upgrade: Option<Span>,
}

impl Found {
    /// Reads the fields of `head`, which begin at `from` and end with an empty line.
    pub(super) fn read(
        head: Bytes,
        from: usize,
        version: Version,
        limits: &Limits,
    ) -> Result<Self, HeadError> {
        let mut found = Self::default();
        let mut hop_by_hop: Vec<Vec<u8>> = Vec::new();
        let mut wants_upgrade = false;
        let mut transfer_encodings = 0;
        let mut lengths = 0;
        let mut count = 0;
        let mut at = from;
        // The shortest line is `a:`; the empty one is the last.
        let lines = &head[..head.len().saturating_sub(2)];
        found.fields.lines.reserve(8);
        while at < lines.len() {
            let name = Span::of(at, at + token_length(&lines[at..]));
            let (start, end) = (at, name.to as usize);
            if start == end || lines.get(end) != Some(&b':') {
                return Err(bad("a field name is not a token"));
            }
            let blanks = |b: &&u8| matches!(**b, b' ' | b'\t');
            let begin = end + 1 + lines[end + 1..].iter().take_while(blanks).count();
            let stop = begin + value_length(&lines[begin..]);
            // Every line ends in CRLF, as was checked before.
            if lines.get(stop) != Some(&b'\r') {
                return Err(bad("a field value has forbidden bytes"));
            }
            at = stop + 2;
            count += 1;
            if count > limits.fields {
                check_count(&lines[from..], limits)?;
            }
            let trailing = lines[begin..stop].iter().rev().take_while(blanks).count();
            let value = Span::of(begin, stop - trailing);
            let (written, text) = (&lines[name.range()], &lines[value.range()]);
            check_look_alike(written)?;
            match Kind::of(written) {
                Kind::TransferEncoding => {
                    transfer_encodings += 1;
                    if !text.eq_ignore_ascii_case(b"chunked") {
                        return Err(bad("the transfer encoding is not exactly chunked"));
                    }
                    found.chunked = true;
                    continue;
                }
                Kind::ContentLength => {
                    lengths += 1;
                    found.length = Some(length(text)?);
                    continue;
                }
                Kind::Connection => {
                    for token in text.split(|b| *b == b',') {
                        let token = token.trim_ascii().to_ascii_lowercase();
                        match token.as_slice() {
                            b"close" => found.close = true,
                            b"keep-alive" => found.says_keep_alive = true,
                            b"upgrade" => wants_upgrade = true,
                            b"" | b"te" => {}
                            // Fields the message needs to be understood may not be declared away.
                            b"host" | b"content-length" | b"transfer-encoding" => {
                                return Err(bad("Connection names a field that must stay"));
                            }
                            _ if is_end_to_end(&token) => {}
                            _ => hop_by_hop.push(token),
                        }
                    }
                    continue;
                }
                Kind::Upgrade => {
                    if found.upgrade.replace(value).is_some() {
                        return Err(bad("there are two Upgrade fields"));
                    }
                    continue;
                }
                Kind::Expect => {
                    if found.expect.replace(value).is_some() {
                        return Err(bad("there are two Expect fields"));
                    }
                    continue;
                }
                Kind::Host => {
                    if found.host.replace(value).is_some() {
                        return Err(bad("there are two Hosts"));
                    }
                }
                // A hop that forwards trailers may say so; other codings are not understood here.
                Kind::Te if !text.eq_ignore_ascii_case(b"trailers") => continue,
                Kind::KeepAlive => {
                    found.idle_s = idle_seconds(text);
                    continue;
                }
                Kind::HopByHop => continue,
                Kind::Te | Kind::Other => {}
            }
            found.fields.lines.push(Line {
                name,
                value,
                mapped: None,
            });
        }
        if transfer_encodings > 1 || lengths > 1 || (found.chunked && lengths > 0) {
            return Err(bad("there is more than one framing field"));
        }
        if found.chunked && version == Version::HTTP_10 {
            return Err(bad("HTTP/1.0 has no transfer encoding"));
        }
        if !wants_upgrade {
            found.upgrade = None;
        }
        for gone in hop_by_hop {
            found
                .fields
                .lines
                .retain(|line| !lines[line.name.range()].eq_ignore_ascii_case(&gone));
        }
        found.fields.head = head;
        Ok(found)
    }

    pub(super) const fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::HTTP_10 => self.says_keep_alive && !self.close,
            _ => !self.close,
        }
    }

    /// Returns the value of `Host`.
    pub(super) fn host(&self) -> Option<&[u8]> {
        self.host.map(|host| &self.fields.head[host.range()])
    }

    /// Returns the value of `Expect`.
    pub(super) fn expect(&self) -> Option<&[u8]> {
        self.expect.map(|expect| &self.fields.head[expect.range()])
    }

    /// Returns what is to be switched to, if `Connection` says so too.
    pub(super) fn upgrade(&self) -> Option<HeaderValue> {
        let value = self.fields.head.slice(self.upgrade?.range());
        HeaderValue::from_maybe_shared(value).ok()
    }
}

/// What one proxy of ours lets through must not be too much for the next one.
fn check_count(lines: &[u8], limits: &Limits) -> Result<(), HeadError> {
    let names = || {
        let lines = lines.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| line.split(|b| *b == b':').next().unwrap_or_default())
    };
    let is_own = |name: &&[u8]| {
        let own = ["connection", "content-length"];
        starts_as_own(name)
            || own
                .iter()
                .any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
    };
    let added = names().filter(is_own).count();
    if names().count() - added.min(OWN_FIELDS) > limits.fields {
        limits::hit(Limit::HeadFields);
        return Err(HeadError::TooLarge);
    }
    Ok(())
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

/// Refuses names that lax parsers take for framing fields: those with `_` for `-`.
pub(super) fn check_look_alike(name: &[u8]) -> Result<(), HeadError> {
    let framing: &[u8] = match name.len() {
        14 => b"content-length",
        17 => b"transfer-encoding",
        _ => return Ok(()),
    };
    if !name.contains(&b'_') {
        return Ok(());
    }
    let mut pairs = name.iter().zip(framing);
    let alike = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    if pairs.all(alike) {
        return Err(bad("a field name looks like a framing field"));
    }
    Ok(())
}

/// Says whether a name that the `http` crate accepts is one that everybody reads the same.
pub(crate) fn is_plain_name(name: &str) -> bool {
    // It takes a quotation mark for a part of a name.
    check_look_alike(name.as_bytes()).is_ok() && !name.as_bytes().contains(&b'"')
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
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad("the content length is not a number"));
    }
    let digits = value.iter().map(|b| u64::from(b - b'0'));
    Ok(digits.fold(0, |length, digit| length * 10 + digit))
}
