//! What heads say, and how they are coded.

use super::*;

pub(super) fn heads(all: &mut Cases) {
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

pub(super) fn compression(all: &mut Cases) {
    let broken = Told(COMPRESSION_ERROR);
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
    for (name, bytes) in [
        (
            "an upper-case name that is coded",
            &[0x40, 0x81, 0x87, 0x00][..],
        ),
        ("a NUL that is coded", &[0x00, 0x01, b'a', 0x82, 0xff, 0xc7]),
        ("a name of nothing", &[0x00, 0x00, 0x01, b'b']),
        ("an unknown pseudo-header", &[0x00, 0x02, b':', b'a', 0x00]),
        ("a status that is none", &[0x48, 0x01, b'x']),
        (
            "a bad name behind the dynamic table",
            &[0x40, 0x01, b'a', 0x01, b'b', 0xbe, 0x00, 0x01, b'A', 0x00],
        ),
    ] {
        let then = Stream(1, &[PROTOCOL_ERROR]);
        all.add(format!("8.2.1 {name}"), &[framed(&[], bytes)], then);
    }
    let bad = framed(&[], &[0x40, 0x01, b'a', 0x01, b'b', 0xbf]);
    all.add("HPACK 2.3.3 beyond a new entry", &[bad], broken);
    let entry = framed(&[], &[0x40, 0x01, b'a', 0x01, b'b']);
    let emptied = [&[0x20][..], &block(&good("GET", "/")), &[0xbe]].concat();
    let emptied = frame(HEADERS, END_HEADERS | END_STREAM, 3, &emptied);
    all.add("HPACK 4.3 what was evicted", &[entry, emptied], broken);
    let far = [&block(&good("GET", "/"))[..], &[0xc6]].concat();
    let pieces = [
        frame(HEADERS, END_STREAM, 1, &far[..7]),
        frame(CONTINUATION, 0, 1, &far[7..20]),
        frame(CONTINUATION, END_HEADERS, 1, &far[20..]),
    ];
    all.add("HPACK 2.3.3 in pieces", &pieces, broken);
    let begun = frame(HEADERS, END_STREAM, 1, &far);
    all.add("HPACK 2.3.3 before the end", &[begun], broken);
    let padded = [&[4, 0, 0, 0, 0, 9][..], &far, &[0; 4]].concat();
    let padded = frame(
        HEADERS,
        END_HEADERS | END_STREAM | PADDED | WITH_PRIORITY,
        1,
        &padded,
    );
    all.add("HPACK 2.3.3 within padding", &[padded], broken);
    let later = frame(HEADERS, END_HEADERS | END_STREAM, 3, &far);
    all.answered("HPACK 2.3.3 later", std::slice::from_ref(&later), broken);
    all.answered(
        "HPACK 2.3.3 behind others",
        &[frame(PING, 0, 0, &[0; 8]), window(0, 9), later],
        broken,
    );
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xc6]);
    all.add("HPACK 2.3.3 in trailers", &[post(1), trailers], broken);
    // What is wrong with a frame is not held for its fields.
    let entry = || framed(&[], &[0x40, 0x01, b'a', 0x01, b'b', 0xbe]);
    for (name, bad) in [
        ("a window of nothing", window(0, 0)),
        ("a push", settings(&[(2, 2)])),
        ("a small frame", settings(&[(5, 1)])),
        ("an even stream", get(2)),
        ("a ping of a stream", frame(PING, 0, 3, &[0; 8])),
        ("a reset of nothing", reset(9)),
        (
            "a promise",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        ("a continuation", frame(CONTINUATION, END_HEADERS, 1, &[])),
    ] {
        let then = Told(PROTOCOL_ERROR);
        all.add(format!("{name} behind an index"), &[entry(), bad], then);
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
        &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x40])],
        broken,
    );
    all.add(
        "4.3 nothing",
        &[frame(HEADERS, END_HEADERS | 1, 1, &[])],
        Stream(1, &[PROTOCOL_ERROR]),
    );
}
