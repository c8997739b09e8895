//! The states of streams, and heads in pieces.

use super::*;

pub(super) fn streams(all: &mut Cases) {
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
    // Closed in good order.
    let gone = Stream(1, &[STREAM_CLOSED]);
    all.answered("5.1 data after the end", &[data(1)], gone);
    all.answered("5.1 head after the end", &[get(1)], gone);
    all.answered(
        "5.1 continuation after the end",
        &[more(1)],
        Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
    );
    let weight = frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]);
    for (name, late) in [
        ("priority", weight.clone()),
        ("window", window(1, 1)),
        ("reset", reset(1)),
        ("another request", get(3)),
    ] {
        all.answered(&format!("5.1 {name} after the end"), &[late], Alive);
    }
    all.answered("5.1 the next request", &[get(3)], Answered(3));
    // Half-closed by its end.
    let held = head(1, true, &good("GET", "/held"));
    all.add("5.1 reset when half-closed", &[held, reset(1)], Alive);
    all.add("5.1 priority when idle", &[weight, get(1)], Answered(1));
    // §5.1.1
    all.add("5.1.1 even", &[get(2)], protocol);
    all.add(
        "5.1.1 smaller",
        &[get(5), get(3)],
        Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
    );
    all.answered(
        "5.1.1 smaller later",
        &[get(7), get(5)],
        Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
    );
    all.answered("5.1.1 even later", &[get(2)], protocol);
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
    all.add(
        "8.1 HEAD",
        &[head(1, true, &good("HEAD", "/"))],
        Answered(1),
    );
    all.add(
        "8.1 a body",
        &[post(1), frame(DATA, END_STREAM, 1, b"test")],
        Answered(1),
    );
    all.add(
        "8.1 a body in parts",
        &[
            post(1),
            frame(DATA, 0, 1, b"te"),
            frame(DATA, 0, 1, b""),
            frame(DATA, END_STREAM, 1, b"st"),
        ],
        Answered(1),
    );
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
