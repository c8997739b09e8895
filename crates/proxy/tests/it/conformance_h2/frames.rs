//! Frames, streams and field compression: what RFC 9113 and RFC 7541 say of each mistake.
//!
//! Strict: a mistake has to be answered with the error code that its rule names, on the
//! stream or, where that is allowed, by ending the connection.

use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::app::App;
use crate::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, End, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, Raw,
    SETTINGS, block, frame, head,
};
use crate::mesh::{Setup, at, end};
use crate::server::Server;

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 0xb0;

const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;

/// What must come.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The connection ends, with one of these codes if it says any.
    Connection(&'static [u32]),
    /// The stream ends with one of these codes, or the connection does.
    Stream(u32, &'static [u32]),
    /// The stream is answered, and the connection goes on.
    Answered(u32),
    /// The connection goes on.
    Alive,
    /// An acknowledgment of this kind of frame.
    Acknowledged(u8),
    /// So many bytes of DATA come on stream 1, and no more until they are allowed.
    Sends(usize),
}
use Then::{Acknowledged, Alive, Answered, Connection, Sends, Stream};

struct Case {
    name: String,
    /// Sent after the preface and the first settings.
    bytes: Vec<u8>,
    then: Then,
}

type Fields = Vec<(&'static [u8], &'static [u8])>;

fn good(method: &'static str, path: &'static str) -> Fields {
    vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", b"callee.test"),
    ]
}

fn get(stream: u32) -> Vec<u8> {
    head(stream, true, &good("GET", "/"))
}

/// A request whose body is still to come, and is waited for.
fn post(stream: u32) -> Vec<u8> {
    head(stream, false, &good("POST", "/echo"))
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat()
}

fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, value)| setting(*id, *value))
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// Good fields, with these bytes in front and behind.
fn framed(before: &[u8], after: &[u8]) -> Vec<u8> {
    let block = [before, &block(&good("GET", "/")), after].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
}

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, name: impl Into<String>, parts: &[Vec<u8>], then: Then) {
        self.0.push(Case {
            name: name.into(),
            bytes: parts.concat(),
            then,
        });
    }

    /// The same with each of these fields behind or before good ones.
    fn malformed(&mut self, name: &str, fields: &Fields) {
        let then = Stream(1, &[PROTOCOL_ERROR]);
        self.add(name, &[head(1, true, fields)], then);
    }
}

fn framing(all: &mut Cases) {
    let protocol: Then = Connection(&[PROTOCOL_ERROR]);
    let size = Connection(&[FRAME_SIZE_ERROR]);
    // §4.1
    all.add("4.1 unknown type", &[frame(UNKNOWN, 0, 0, b"what?")], Alive);
    all.add(
        "4.1 unknown type on a stream",
        &[frame(UNKNOWN, 0xff, 1, b"")],
        Alive,
    );
    all.add(
        "4.1 unknown flags",
        &[frame(PING, 0x16, 0, &[7; 8])],
        Acknowledged(PING),
    );
    let reserved = frame(PING, 0, 0x8000_0000, &[7; 8]);
    all.add("4.1 reserved bit", &[reserved], Acknowledged(PING));
    // §4.2
    let full = frame(DATA, END_STREAM, 1, &[b'a'; 16_384]);
    all.add("4.2 the largest frame", &[post(1), full], Answered(1));
    let large = frame(DATA, END_STREAM, 1, &[b'a'; 16_385]);
    all.add(
        "4.2 too large a frame",
        &[post(1), large],
        Stream(1, &[FRAME_SIZE_ERROR]),
    );
    let mut fields = good("GET", "/");
    let filler = [b'a'; 17_000];
    fields.push((b"x-large", Box::leak(Box::new(filler))));
    all.add("4.2 too large a head", &[head(1, true, &fields)], size);
    let long = frame(SETTINGS, 0, 0, &setting(0xf00, 1).repeat(3_000));
    all.add("4.2 too large settings", &[long], size);
    let long = frame(CONTINUATION, END_HEADERS, 1, &[0; 16_385]);
    let open = frame(HEADERS, END_STREAM, 1, &block(&good("GET", "/")));
    all.add("4.2 too large a continuation", &[open.clone(), long], size);
    // §4.3, §5.5, §6.2, §6.10
    for (name, between) in [
        ("priority", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("head of another stream", get(3)),
        ("head of the same stream", get(1)),
        ("data", frame(DATA, 0, 1, b"x")),
        ("ping", frame(PING, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("reset", reset(1)),
        ("window", window(1, 1)),
        ("goaway", frame(GOAWAY, 0, 0, &[0; 8])),
        ("unknown", frame(UNKNOWN, 0, 0, &[])),
        (
            "continuation of another",
            frame(CONTINUATION, END_HEADERS, 3, b""),
        ),
        (
            "continuation of none",
            frame(CONTINUATION, END_HEADERS, 0, b""),
        ),
    ] {
        let name = format!("4.3 {name} within a head");
        all.add(name, &[open.clone(), between], protocol);
    }
    // §6.1
    all.add("6.1 stream 0", &[frame(DATA, 0, 0, b"x")], protocol);
    for (name, flags, payload) in [
        ("as long as the frame", PADDED, &[6, 1, 2, 3, 4, 5][..]),
        ("longer than the frame", PADDED, &[99, 1, 2]),
        ("nothing but its length missing", PADDED, &[]),
    ] {
        let padded = frame(DATA, flags | END_STREAM, 1, payload);
        let then = if payload.is_empty() {
            Connection(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR])
        } else {
            protocol
        };
        all.add(format!("6.1 padding {name}"), &[post(1), padded], then);
    }
    let padded = frame(DATA, PADDED | END_STREAM, 1, b"\x02ab\0\0");
    all.add("6.1 padded", &[post(1), padded], Answered(1));
    let padding = frame(DATA, PADDED | END_STREAM, 1, &[2, 0, 0]);
    all.add("6.1 padding alone", &[post(1), padding], Answered(1));
    // §6.2
    let fields = block(&good("GET", "/"));
    let both = END_HEADERS | END_STREAM;
    all.add(
        "6.2 stream 0",
        &[frame(HEADERS, both, 0, &fields)],
        protocol,
    );
    let padded = [&[200][..], &fields[..100.min(fields.len())]].concat();
    all.add(
        "6.2 padding",
        &[frame(HEADERS, both | PADDED, 1, &padded)],
        protocol,
    );
    let padded = [&[3][..], &fields, &[0; 3]].concat();
    all.add(
        "6.2 padded",
        &[frame(HEADERS, both | PADDED, 1, &padded)],
        Answered(1),
    );
    let weighed = [&[0, 0, 0, 0, 9][..], &fields].concat();
    all.add(
        "6.2 weighed",
        &[frame(HEADERS, both | WITH_PRIORITY, 1, &weighed)],
        Answered(1),
    );
    let each = [&[2, 0, 0, 0, 0, 9][..], &fields, &[0; 2]].concat();
    let flags = both | WITH_PRIORITY | PADDED;
    all.add(
        "6.2 padded and weighed",
        &[frame(HEADERS, flags, 1, &each)],
        Answered(1),
    );
    // §5.3.1, §6.3
    let own = [&[0, 0, 0, 1, 9][..], &fields].concat();
    let then = Stream(1, &[PROTOCOL_ERROR]);
    all.add(
        "5.3.1 a head on itself",
        &[frame(HEADERS, both | WITH_PRIORITY, 1, &own)],
        then,
    );
    let own = frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9]);
    all.add("5.3.1 priority on itself", std::slice::from_ref(&own), then);
    all.add("5.3.1 an open one on itself", &[post(1), own], then);
    all.add(
        "6.3 stream 0",
        &[frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 9])],
        protocol,
    );
    for size in [0, 4, 6] {
        let short = frame(PRIORITY, 0, 1, &vec![0; size]);
        let then = Stream(1, &[FRAME_SIZE_ERROR]);
        all.add(format!("6.3 {size} bytes"), &[post(1), short], then);
    }
    let idle = frame(PRIORITY, 0, 7, &[0, 0, 0, 3, 9]);
    all.add("6.3 an idle stream", std::slice::from_ref(&idle), Alive);
    all.add("6.3 a closed stream", &[get(9), reset(9), idle], Alive);
    // §6.4
    all.add("6.4 stream 0", &[reset(0)], protocol);
    all.add("6.4 an idle stream", &[reset(1)], protocol);
    for length in [0, 3, 5] {
        let short = frame(RST_STREAM, 0, 1, &vec![0; length]);
        all.add(format!("6.4 {length} bytes"), &[post(1), short], size);
    }
    all.add(
        "7 unknown code",
        &[post(1), frame(RST_STREAM, 0, 1, &[0xff; 4])],
        Alive,
    );
    // §6.5
    all.add(
        "6.5 settings",
        &[settings(&[(3, 50)])],
        Acknowledged(SETTINGS),
    );
    all.add("6.5 no settings", &[settings(&[])], Acknowledged(SETTINGS));
    all.add("6.5 stream", &[frame(SETTINGS, 0, 1, &[])], protocol);
    all.add(
        "6.5 ack of a stream",
        &[frame(SETTINGS, ACK, 1, &[])],
        protocol,
    );
    all.add(
        "6.5 ack with settings",
        &[frame(SETTINGS, ACK, 0, &setting(3, 1))],
        size,
    );
    for length in [1, 3, 5, 7] {
        let odd = frame(SETTINGS, 0, 0, &vec![0; length]);
        all.add(format!("6.5 {length} bytes"), &[odd], size);
    }
    all.add("6.5.2 push 2", &[settings(&[(2, 2)])], protocol);
    let flow = Connection(&[FLOW_CONTROL_ERROR]);
    all.add("6.5.2 window", &[settings(&[(4, 0x8000_0000)])], flow);
    all.add(
        "6.5.2 largest window",
        &[settings(&[(4, 0x7fff_ffff)])],
        Acknowledged(SETTINGS),
    );
    all.add("6.5.2 small frames", &[settings(&[(5, 16_383)])], protocol);
    all.add(
        "6.5.2 large frames",
        &[settings(&[(5, 16_777_216)])],
        protocol,
    );
    all.add(
        "6.5.2 largest frames",
        &[settings(&[(5, 16_777_215)])],
        Acknowledged(SETTINGS),
    );
    all.add(
        "6.5.2 unknown",
        &[settings(&[(0xff, 1)])],
        Acknowledged(SETTINGS),
    );
    all.add("6.5.2 one wrong", &[settings(&[(3, 1), (2, 9)])], protocol);
    // §6.6, §8.4
    let promise = [&[0, 0, 0, 2][..], &fields].concat();
    all.add(
        "8.4 promise",
        &[get(1), frame(PUSH_PROMISE, END_HEADERS, 1, &promise)],
        protocol,
    );
    all.add(
        "6.6 promise on 0",
        &[frame(PUSH_PROMISE, END_HEADERS, 0, &promise)],
        protocol,
    );
    // §6.7
    all.add(
        "6.7 ping",
        &[frame(PING, 0, 0, b"12345678")],
        Acknowledged(PING),
    );
    all.add(
        "6.7 unasked ack",
        &[frame(PING, ACK, 0, b"12345678")],
        Alive,
    );
    all.add("6.7 stream", &[frame(PING, 0, 1, &[0; 8])], protocol);
    for length in [0, 6, 9] {
        let short = frame(PING, 0, 0, &vec![0; length]);
        all.add(format!("6.7 {length} bytes"), &[short], size);
    }
    // §6.8
    all.add("6.8 stream", &[frame(GOAWAY, 0, 1, &[0; 8])], protocol);
    all.add("6.8 too short", &[frame(GOAWAY, 0, 0, &[0; 7])], size);
}

fn flow(all: &mut Cases) {
    let protocol = Connection(&[PROTOCOL_ERROR]);
    all.add("6.9 nothing", &[window(0, 0)], protocol);
    all.add(
        "6.9 nothing on a stream",
        &[post(1), window(1, 0)],
        Stream(1, &[PROTOCOL_ERROR]),
    );
    for length in [0, 3, 5] {
        let short = frame(WINDOW_UPDATE, 0, 0, &vec![0; length]);
        let then = Connection(&[FRAME_SIZE_ERROR]);
        all.add(format!("6.9 {length} bytes"), &[short], then);
    }
    let most = 0x7fff_ffff;
    let then = Connection(&[FLOW_CONTROL_ERROR]);
    all.add("6.9.1 overflow", &[window(0, most), window(0, most)], then);
    let then = Stream(1, &[FLOW_CONTROL_ERROR]);
    let twice = [post(1), window(1, most), window(1, most)];
    all.add("6.9.1 overflow of a stream", &twice, then);
    let shifted = [post(1), window(1, most - 65_535), settings(&[(4, 65_536)])];
    all.add(
        "6.9.2 overflow by settings",
        &shifted,
        Connection(&[FLOW_CONTROL_ERROR]),
    );
    all.add("6.9.1 reserved bit", &[window(0, 0x8000_0001)], Alive);
    all.add("6.9.1 one byte", &[settings(&[(4, 1)]), get(1)], Sends(1));
    all.add(
        "6.9.2 the last value",
        &[settings(&[(4, 100), (4, 2)]), get(1)],
        Sends(2),
    );
    let later = [settings(&[(4, 0)]), get(1), settings(&[(4, 1)])];
    all.add("6.9.2 changed later", &later, Sends(1));
    let negative = [
        settings(&[(4, 3)]),
        get(1),
        settings(&[(4, 2)]),
        window(1, 1),
    ];
    all.add("6.9.2 below what was sent", &negative, Sends(3));
    all.add(
        "6.9.2 by an update",
        &[settings(&[(4, 0)]), get(1), window(1, 2)],
        Sends(2),
    );
}

fn streams(all: &mut Cases) {
    let protocol = Connection(&[PROTOCOL_ERROR]);
    let data = |stream| frame(DATA, END_STREAM, stream, b"x");
    let more = |stream| frame(CONTINUATION, END_HEADERS, stream, b"");
    // §5.1, idle
    let then = Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]);
    all.add("5.1 data on an idle stream", &[data(1)], then);
    all.add("5.1 window of an idle stream", &[window(1, 100)], protocol);
    all.add("5.1 continuation of an idle stream", &[more(1)], protocol);
    all.add("5.1 data beyond the last stream", &[get(1), data(3)], then);
    // Half-closed: the request is held, so that the stream stays.
    let held = head(1, true, &good("GET", "/held"));
    let closed = Stream(1, &[STREAM_CLOSED]);
    let either = Stream(1, &[STREAM_CLOSED, PROTOCOL_ERROR]);
    all.add(
        "5.1 data when half-closed",
        &[held.clone(), data(1)],
        closed,
    );
    all.add("5.1 head when half-closed", &[held.clone(), get(1)], closed);
    all.add(
        "5.1 continuation when half-closed",
        &[held.clone(), more(1)],
        either,
    );
    all.add(
        "5.1 window when half-closed",
        &[held.clone(), window(1, 1)],
        Alive,
    );
    all.add(
        "5.1 priority when half-closed",
        &[held, frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9])],
        Alive,
    );
    // Closed by a reset.
    all.add(
        "5.1 data after a reset",
        &[post(1), reset(1), data(1)],
        closed,
    );
    all.add(
        "5.1 head after a reset",
        &[post(1), reset(1), get(1)],
        closed,
    );
    all.add(
        "5.1 continuation after a reset",
        &[post(1), reset(1), more(1)],
        either,
    );
    all.add(
        "5.1 reset after a reset",
        &[post(1), reset(1), reset(1)],
        Alive,
    );
    all.add(
        "5.1 window after a reset",
        &[post(1), reset(1), window(1, 1)],
        Alive,
    );
    // §5.1.1
    all.add("5.1.1 even", &[get(2)], protocol);
    all.add(
        "5.1.1 smaller",
        &[get(5), get(3)],
        Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
    );
    all.add("5.1.1 gaps", &[get(1), get(101)], Answered(101));
    // §8.1
    let second = head(1, false, &[(b"x-a".as_slice(), b"b".as_slice())]);
    all.add(
        "8.1 a second head",
        &[post(1), second],
        Stream(1, &[PROTOCOL_ERROR]),
    );
    let trailers = head(1, true, &[(b"x-a".as_slice(), b"b".as_slice())]);
    all.add("8.1 trailers", &[post(1), trailers.clone()], Answered(1));
    let full = [post(1), frame(DATA, 0, 1, b"x"), trailers];
    all.add("8.1 data and trailers", &full, Answered(1));
    // §6.10
    let block = block(&good("GET", "/"));
    let begin = frame(HEADERS, END_STREAM, 1, &block[..5]);
    let middle = frame(CONTINUATION, 0, 1, &block[5..9]);
    let last = frame(CONTINUATION, END_HEADERS, 1, &block[9..]);
    let whole = [begin.clone(), middle.clone(), last.clone()];
    all.add("6.10 pieces", &whole, Answered(1));
    all.add("6.10 beyond the end", &[whole.concat(), more(1)], protocol);
    all.add("6.10 after a head", &[get(1), more(1)], protocol);
    all.add(
        "6.10 after data",
        &[post(1), frame(DATA, 0, 1, b"x"), more(1)],
        protocol,
    );
    all.add("6.10 alone", &[more(0)], protocol);
    let ping = frame(PING, 0, 0, &[0; 8]);
    all.add(
        "6.10 a ping between",
        &[begin, middle, ping, last],
        protocol,
    );
}

fn heads(all: &mut Cases) {
    let with = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = good("GET", "/");
        fields.push((name, value));
        fields
    };
    let before = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = good("GET", "/");
        fields.insert(0, (name, value));
        fields
    };
    let without = |name: &[u8]| {
        let mut fields = good("GET", "/");
        fields.retain(|(known, _)| *known != name);
        fields
    };
    all.malformed("8.2.1 upper case", &with(b"X-TEST", b"ok"));
    all.malformed("8.2.1 space in a name", &with(b"x test", b"ok"));
    all.malformed("8.2.1 colon in a name", &with(b"x:test", b"ok"));
    all.malformed("8.2.1 NUL", &with(b"x-a", b"a\0"));
    all.malformed("8.2.1 CR", &with(b"x-a", b"a\r"));
    all.malformed("8.2.1 LF", &with(b"x-a", b"a\nb"));
    all.malformed("8.2.2 connection", &with(b"connection", b"keep-alive"));
    all.malformed("8.2.2 keep-alive", &with(b"keep-alive", b"1"));
    all.malformed("8.2.2 proxy-connection", &with(b"proxy-connection", b"1"));
    all.malformed(
        "8.2.2 transfer-encoding",
        &with(b"transfer-encoding", b"chunked"),
    );
    all.malformed("8.2.2 upgrade", &with(b"upgrade", b"x"));
    all.malformed("8.2.2 te", &with(b"te", b"trailers, deflate;q=0.5"));
    all.malformed("8.3 unknown pseudo", &before(b":test", b"ok"));
    all.malformed("8.3 status", &before(b":status", b"200"));
    all.malformed("8.3 late pseudo", &with(b":method", b"POST"));
    all.malformed("8.3 late path", &with(b":path", b"/"));
    all.malformed("8.3.1 no method", &without(b":method"));
    all.malformed("8.3.1 no scheme", &without(b":scheme"));
    all.malformed("8.3.1 no path", &without(b":path"));
    all.malformed("8.3.1 two methods", &before(b":method", b"GET"));
    all.malformed("8.3.1 two schemes", &before(b":scheme", b"http"));
    all.malformed("8.3.1 two paths", &before(b":path", b"/"));
    let mut empty = good("GET", "");
    all.malformed("8.3.1 empty path", &empty);
    empty.clear();
    all.malformed("8.3 nothing at all", &empty);
    let then = Stream(1, &[PROTOCOL_ERROR]);
    for (name, fields) in [
        ("path", (b":path".as_slice(), b"/".as_slice())),
        ("method", (b":method", b"GET")),
        ("status", (b":status", b"200")),
        ("upper case", (b"X-A", b"b")),
        ("connection", (b"connection", b"close")),
    ] {
        let parts = [post(1), head(1, true, &[fields])];
        all.add(format!("8.3 {name} in trailers"), &parts, then);
    }
    let mut declared = good("POST", "/echo");
    declared.push((b"content-length", b"3"));
    let open = head(1, false, &declared);
    let end = |bytes: &[u8]| frame(DATA, END_STREAM, 1, bytes);
    let part = |bytes: &[u8]| frame(DATA, 0, 1, bytes);
    all.add("8.1.1 too short", &[open.clone(), end(b"ab")], then);
    all.add("8.1.1 too long", &[open.clone(), end(b"abcd")], then);
    all.add(
        "8.1.1 parts too long",
        &[open.clone(), part(b"ab"), end(b"cd")],
        then,
    );
    all.add(
        "8.1.1 parts too short",
        &[open.clone(), part(b"a"), end(b"b")],
        then,
    );
    all.add("8.1.1 no body", &[head(1, true, &declared)], then);
    all.add(
        "8.1.1 as declared",
        &[open, part(b"ab"), end(b"c")],
        Answered(1),
    );
}

fn compression(all: &mut Cases) {
    // The h2 crate ends the connection with the general code, from which nobody can tell a
    // block that cannot be decoded from a name that is none.
    let broken = Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
    for (name, bytes) in [
        ("2.3.3 an index beyond the tables", &[0xc6_u8][..]),
        ("2.3.3 a far index", &[0xff, 0x80, 0x80, 0x01]),
        ("2.3.3 a name beyond the tables", &[0x7f, 0x07, 0x01, b'a']),
        ("4.2 a size at the end", &[0x20]),
        (
            "5.1 an endless number",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        ("5.1 a number that breaks off", &[0xff]),
        (
            "5.2 a text that breaks off",
            &[0x00, 0x01, b'a', 0x7f, 0x00, b'x'],
        ),
        ("5.2 a name that breaks off", &[0x00, 0x05, b'a']),
        (
            "5.2 padding of a byte",
            &[
                0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x84, 0x49, 0x50, 0x9f, 0xff,
            ],
        ),
        (
            "5.2 padding of zeros",
            &[
                0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x83, 0x49, 0x50, 0x90,
            ],
        ),
        (
            "5.2 the end of text",
            &[
                0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x87, 0x49, 0x51, 0xff, 0xff, 0xff, 0xfa,
                0x7f,
            ],
        ),
        ("6.1 index 0", &[0x80]),
    ] {
        all.add(format!("HPACK {name}"), &[framed(&[], bytes)], broken);
    }
    all.add(
        "HPACK 6.3 too large a table",
        &[framed(&[0x3f, 0xff, 0x7f], &[])],
        broken,
    );
    all.add(
        "HPACK 6.3 a table of nothing",
        &[framed(&[0x20], &[])],
        Answered(1),
    );
    all.add(
        "HPACK 6.3 two sizes",
        &[framed(&[0x20, 0x3f, 0xe1, 0x1f], &[])],
        Answered(1),
    );
    for (name, bytes) in [
        ("2.3.1 the static table", &[0x90_u8][..]),
        (
            "2.3.2 the dynamic table",
            &[0x40, 0x01, b'a', 0x01, b'b', 0xbe],
        ),
        ("6.2.1 an indexed name", &[0x7a, 0x01, b'b']),
        ("6.2.1 a new name", &[0x40, 0x01, b'a', 0x01, b'b']),
        (
            "6.2.1 a coded name",
            &[
                0x40, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x83, 0x49, 0x50, 0x9f,
            ],
        ),
        ("6.2.2 an indexed name", &[0x0f, 0x2b, 0x01, b'b']),
        ("6.2.2 a new name", &[0x00, 0x01, b'a', 0x01, b'b']),
        ("6.2.3 an indexed name", &[0x1f, 0x2b, 0x01, b'b']),
        ("6.2.3 a new name", &[0x10, 0x01, b'a', 0x01, b'b']),
        ("5.2 an empty value", &[0x00, 0x01, b'a', 0x00]),
    ] {
        all.add(format!("HPACK {name}"), &[framed(&[], bytes)], Answered(1));
    }
    all.add(
        "4.3 a broken block",
        &[frame(HEADERS, END_HEADERS | 1, 1, &[0x40])],
        broken,
    );
    all.add(
        "4.3 nothing",
        &[frame(HEADERS, END_HEADERS | 1, 1, &[])],
        Stream(1, &[PROTOCOL_ERROR]),
    );
}

fn cases() -> Vec<Case> {
    let mut all = Cases::default();
    framing(&mut all);
    flow(&mut all);
    streams(&mut all);
    heads(&mut all);
    compression(&mut all);
    all.0
}

/// Reads until the connection ends; returns the code it ended with, if it said one.
async fn ending(client: &mut Raw) -> Option<u32> {
    let told = client.find(|frame| frame.kind == GOAWAY && frame.code() > 0);
    told.await.map(|told| told.code())
}

async fn check(to: SocketAddr, case: Case) -> Result<(), String> {
    let mut client = Raw::connect(to).await;
    client.send(&case.bytes).await;
    let told = match case.then {
        Connection(codes) => match ending(&mut client).await {
            None => Ok(()),
            Some(code) if codes.contains(&code) => Ok(()),
            Some(code) => Err(format!("GOAWAY {code}")),
        },
        Stream(stream, codes) => loop {
            // What came before it may have been answered.
            match client.end_of(stream).await {
                End::Status(200) => {}
                End::Reset(code) | End::GoAway(code) if codes.contains(&code) => break Ok(()),
                End::Closed => break Ok(()),
                other => break Err(format!("{other:?}")),
            }
        },
        Answered(stream) => match client.end_of(stream).await {
            End::Status(200) if client.is_alive().await => Ok(()),
            other => Err(format!("{other:?}")),
        },
        Alive => {
            let alive = client.is_alive().await;
            alive.then_some(()).ok_or_else(|| "it ended".to_owned())
        }
        Acknowledged(kind) => {
            let ack = |frame: &crate::frames::Frame| frame.kind == kind && frame.flags == ACK;
            let first = client.find(ack).await.is_some();
            // The first settings are acknowledged too.
            let second = kind != SETTINGS || client.find(ack).await.is_some();
            let both = first && second && client.is_alive().await;
            both.then_some(()).ok_or_else(|| "no answer".to_owned())
        }
        Sends(most) => {
            let mut got = 0;
            while got < most {
                let data = client.find(|frame| frame.kind == DATA).await;
                got += data.map_or(most + 1, |data| data.payload.len());
            }
            // An answer to this says that nothing more was on its way.
            let alive = client.is_alive().await;
            if got == most && alive {
                client.send(&window(1, 100)).await;
                let rest = client
                    .find(|frame| frame.kind == DATA && frame.flags == 1)
                    .await;
                rest.map(drop)
                    .ok_or_else(|| "the rest is missing".to_owned())
            } else {
                Err(format!("{got} bytes, alive {alive}"))
            }
        }
    };
    told.map_err(|why| format!("{}: {why}, not {:?}", case.name, case.then))
}

async fn run(to: SocketAddr) {
    let mut wrong = Vec::new();
    let mut running = JoinSet::new();
    let mut count = 0;
    for case in cases() {
        count += 1;
        let name = case.name.clone();
        running.spawn(async move {
            let checked = tokio::spawn(check(to, case)).await;
            checked.unwrap_or_else(|_| Err(format!("{name}: nothing came")))
        });
        if running.len() >= 16 {
            wrong.extend(running.join_next().await.unwrap().unwrap().err());
        }
    }
    while let Some(checked) = running.join_next().await {
        wrong.extend(checked.unwrap().err());
    }
    wrong.sort();
    assert!(count >= 140, "{count}");
    assert!(wrong.is_empty(), "of {count}:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_has_its_answer() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .listener(
            "any",
            "inbound",
            "detect",
            &format!("forward = \"{}\"", app.address),
        )
        .start();
    run(at(&proxy, "in")).await;
    run(at(&proxy, "any")).await;
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefaces_and_first_frames_are_checked() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    for bytes in [
        b"INVALID CONNECTION PREFACE\r\n\r\n".to_vec(),
        [&PREFACE[..20], b"XX\r\n"].concat(),
        [PREFACE, &get(1)].concat(),
        [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
        [PREFACE, &frame(SETTINGS, ACK, 0, &[])].concat(),
    ] {
        let mut client = Raw::bare(at(&proxy, "in")).await;
        client.send(&bytes).await;
        let code = ending(&mut client).await;
        assert!(
            matches!(code, None | Some(PROTOCOL_ERROR)),
            "{:?}: {code:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
    assert!(app.seen.lock().unwrap().is_empty());
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_were_allowed_are_refused() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    let mut client = Raw::connect(at(&proxy, "in")).await;
    let first = client.find(|frame| frame.kind == SETTINGS).await.unwrap();
    let allowed = first.payload.chunks(6).find(|pair| pair[..2] == [0, 3]);
    let allowed = allowed.map(|pair| u32::from_be_bytes(pair[2..].try_into().unwrap()));
    let allowed = allowed.expect("the settings name it");
    let held = |stream| head(stream, true, &good("GET", "/held"));
    let all: Vec<u8> = (0..=allowed).flat_map(|i| held(1 + 2 * i)).collect();
    client.send(&all).await;
    let last = client.end_of(1 + 2 * allowed).await;
    assert!(
        matches!(last, End::Reset(REFUSED_STREAM | PROTOCOL_ERROR)),
        "{last:?}"
    );
    drop(client);
    end(proxy).await;
}
