//! Frames: their headers, their sizes and where they may come.

use super::*;

pub(super) fn framing(all: &mut Cases) {
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
    all.add(
        "6.8 unknown code",
        &[frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff])],
        Alive,
    );
    all.add(
        "6.8 nothing wrong",
        &[get(1), frame(GOAWAY, 0, 0, &[0; 8])],
        Last(1),
    );
    all.add(
        "6.8 with words",
        &[frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0good bye")],
        Alive,
    );
    all.add("6.8 stream", &[frame(GOAWAY, 0, 1, &[0; 8])], protocol);
    all.add("6.8 too short", &[frame(GOAWAY, 0, 0, &[0; 7])], size);
}
