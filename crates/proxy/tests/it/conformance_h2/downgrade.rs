//! Requests that would become something else once they are HTTP/1: refused, or forwarded as
//! one request that every parser reads the same.

use std::net::SocketAddr;

use crate::app::App;
use crate::conformance_h1::lax;
use crate::conformance_h1::witness::Witness;
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, End, HEADERS, RST_STREAM, Raw, block, frame, head,
};
use crate::mesh::{Pair, Setup, at, end, wait_for};
use crate::server::Server;

/// What must happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Refused, and not a byte of it forwarded.
    Refused,
    /// Refused when its body turns out wrong: never forwarded as a whole.
    Cut,
    /// Forwarded as one request with this first line and body, and answered.
    Whole(&'static str, &'static str),
}
use Then::{Cut, Refused, Whole};

type Fields = Vec<(&'static [u8], &'static [u8])>;

struct Case {
    name: String,
    /// Frames on stream 1.
    bytes: Vec<u8>,
    then: Then,
}

fn good(method: &'static str, path: &'static str) -> Fields {
    vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":authority", b"callee.test"),
        (b":path", path.as_bytes()),
    ]
}

/// Fields of a good request with this one changed.
fn changed(name: &'static [u8], value: &'static [u8]) -> Fields {
    let mut fields = good("GET", "/case");
    for field in &mut fields {
        if field.0 == name {
            field.1 = value;
        }
    }
    fields
}

fn with(method: &'static str, more: &[(&'static [u8], &'static [u8])]) -> Fields {
    let mut fields = good(method, "/case");
    fields.extend_from_slice(more);
    fields
}

fn first(name: &'static [u8], value: &'static [u8]) -> Fields {
    let mut fields = good("GET", "/case");
    fields.insert(0, (name, value));
    fields
}

fn without(name: &[u8]) -> Fields {
    let mut fields = good("GET", "/case");
    fields.retain(|(known, _)| *known != name);
    fields
}

/// A whole request without a body.
fn bare(fields: &Fields) -> Vec<u8> {
    head(1, true, fields)
}

/// A request with these pieces of a body, the last of which ends it.
fn body(fields: &Fields, pieces: &[&[u8]]) -> Vec<u8> {
    let mut bytes = head(1, false, fields);
    for (i, piece) in pieces.iter().enumerate() {
        let last = i + 1 == pieces.len();
        bytes.extend(frame(DATA, u8::from(last), 1, piece));
    }
    bytes
}

fn trailed(fields: &Fields, data: &[u8], trailers: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = head(1, false, fields);
    bytes.extend(frame(DATA, 0, 1, data));
    bytes.extend(head(1, true, trailers));
    bytes
}

fn case(name: impl Into<String>, bytes: Vec<u8>, then: Then) -> Case {
    Case {
        name: name.into(),
        bytes,
        then,
    }
}

/// Bytes that end a line or a head, in every place of a head.
fn lines() -> Vec<Case> {
    let mut all = Vec::new();
    let texts: [&'static [u8]; 8] = [
        b"a\r\nX: y",
        b"a\nX: y",
        b"a\rX: y",
        b"a\0b",
        b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
        b"a\r",
        b"\na",
        b"a\x7fb",
    ];
    for text in texts {
        let shown = String::from_utf8_lossy(text).escape_debug().to_string();
        let value = bare(&with("GET", &[(b"x-a", text)]));
        all.push(case(format!("value {shown}"), value, Refused));
        let name = bare(&with("GET", &[(text, b"v")]));
        all.push(case(format!("name {shown}"), name, Refused));
        for pseudo in [&b":method"[..], b":path", b":authority", b":scheme"] {
            let place = String::from_utf8_lossy(pseudo).into_owned();
            let bytes = bare(&changed(pseudo, text));
            all.push(case(format!("{place} {shown}"), bytes, Refused));
        }
        let bytes = bare(&with("GET", &[(b"cookie", b"a=1"), (b"cookie", text)]));
        all.push(case(format!("cookie {shown}"), bytes, Refused));
        let bytes = trailed(&good("POST", "/case"), b"ab", &[(b"x-sum", text)]);
        all.push(case(format!("trailer {shown}"), bytes, Cut));
    }
    all
}

/// Names and values that change what a field is.
fn fields() -> Vec<Case> {
    let mut all = Vec::new();
    let names: [&'static [u8]; 14] = [
        b"X-Up", b"x a", b"x:a", b" x", b"x ", b"x\t", b"", b"x(", b"x\"", b"x/y", b"x\xe9", b":x",
        b"x{}", b"@x",
    ];
    for name in names {
        let shown = String::from_utf8_lossy(name).escape_debug().to_string();
        let bytes = bare(&with("GET", &[(name, b"v")]));
        all.push(case(format!("name {shown:?}"), bytes, Refused));
    }
    let forbidden: [(&'static [u8], &'static [u8]); 34] = [
        (b"connection", b"close"),
        (b"connection", b"content-length"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"websocket"),
        (b"upgrade", b"h2c"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"transfer-encoding", b"chunked\r\n"),
        (b"transfer_encoding", b"chunked"),
        (b"transfer-encoding ", b"chunked"),
        (b"Transfer-Encoding", b"chunked"),
        (b"content_length", b"5"),
        (b"te", b"gzip"),
        (b"te", b"trailers, chunked"),
        (b"te", b"chunked"),
        (b"x-a", b" padded"),
        (b"x-a", b"padded "),
        (b"x-a", b"\tpadded"),
        (b"x-a", b"padded\t"),
        (b"x-a", b"a\x01b"),
        (b"x-a", b"a\x1bb"),
        (b"host", b"other.test"),
        (b"host", b"callee.test, b"),
        (b"host", b"callee.test:81"),
        (b"host", b""),
        (b"ho_st", b"a\r\nb"),
        (b"expect", b"200-ok"),
        (b"expect", b"100-continue, x"),
        (b":path", b"/late"),
        (b":authority", b"late.test"),
        (b":method", b"POST"),
        (b":status", b"200"),
        (b":protocol", b"websocket"),
    ];
    for (name, value) in forbidden {
        let show = |text: &[u8]| String::from_utf8_lossy(text).escape_debug().to_string();
        let shown = format!("{}: {}", show(name), show(value));
        all.push(case(
            shown.clone(),
            bare(&with("GET", &[(name, value)])),
            Refused,
        ));
        all.push(case(
            format!("{shown} with a body"),
            body(&with("POST", &[(name, value)]), &[b"0\r\n\r\n"]),
            Refused,
        ));
    }
    for (name, value) in [
        (&b":method"[..], &b"POST"[..]),
        (b":path", b"/twice"),
        (b":scheme", b"https"),
        (b":authority", b"twice.test"),
        (b":unknown", b"1"),
        (b":", b"1"),
        (b":status", b"200"),
        (b":protocol", b"websocket"),
        (b"x-a", b"before the pseudo-header fields"),
    ] {
        let shown = String::from_utf8_lossy(name).into_owned();
        all.push(case(
            format!("{shown} first"),
            bare(&first(name, value)),
            Refused,
        ));
    }
    for name in [&b":method"[..], b":path", b":scheme", b":authority"] {
        let shown = String::from_utf8_lossy(name).into_owned();
        all.push(case(format!("no {shown}"), bare(&without(name)), Refused));
    }
    let two = with(
        "GET",
        &[(b"host", b"callee.test"), (b"host", b"callee.test")],
    );
    all.push(case("two hosts", bare(&two), Refused));
    all
}

/// Targets and methods.
fn targets() -> Vec<Case> {
    let mut all = Vec::new();
    let paths: [&'static [u8]; 21] = [
        b"",
        b"*",
        b"case",
        b"case/x",
        b"http://other.test/",
        b"//\r\n",
        b"/a b",
        b"/a\tb",
        b" /a",
        b"/a ",
        b"/a HTTP/1.1",
        b"/\xe9",
        b"/\xff\xfe",
        b"/a#b",
        b"/a?b#c",
        b"#a",
        b"/#",
        b"?a",
        b"other.test:80",
        b"/a\x01",
        b"/a\x0b",
    ];
    for path in paths {
        let shown = String::from_utf8_lossy(path).escape_debug().to_string();
        all.push(case(
            format!("path {shown}"),
            bare(&changed(b":path", path)),
            Refused,
        ));
    }
    let methods: [&'static [u8]; 8] = [
        b"",
        b"GET ",
        b" GET",
        b"G ET",
        b"GET /x HTTP/1.1",
        b"GET:",
        b"GE\tT",
        b"CONNECT",
    ];
    for method in methods {
        let shown = String::from_utf8_lossy(method).escape_debug().to_string();
        all.push(case(
            format!("method {shown}"),
            bare(&changed(b":method", method)),
            Refused,
        ));
    }
    let authorities: [&'static [u8]; 13] = [
        b"",
        b" ",
        b"me@callee.test",
        b"callee.test:x",
        b"callee.test:",
        b"callee.test:0",
        b"callee.test:70000",
        b"a b",
        b"a,b",
        b"a/b",
        b"callee.test#x",
        b"callee.test?x",
        b"[::1",
    ];
    for authority in authorities {
        let shown = String::from_utf8_lossy(authority)
            .escape_debug()
            .to_string();
        let bytes = bare(&changed(b":authority", authority));
        all.push(case(format!("authority {shown}"), bytes, Refused));
    }
    for scheme in [&b"ftp"[..], b"", b"http ", b"http://x/", b"ht\ttp"] {
        let shown = String::from_utf8_lossy(scheme).escape_debug().to_string();
        let bytes = bare(&changed(b":scheme", scheme));
        all.push(case(format!("scheme {shown}"), bytes, Refused));
    }
    let connect: Fields = vec![(b":method", b"CONNECT"), (b":authority", b"callee.test:80")];
    all.push(case("connect", bare(&connect), Refused));
    let mut extended = changed(b":method", b"CONNECT");
    extended.insert(1, (b":protocol", b"websocket"));
    all.push(case("extended connect", bare(&extended), Refused));
    all.push(case(
        "the whole server",
        bare(&good("OPTIONS", "*")),
        Whole("OPTIONS * HTTP/1.1", ""),
    ));
    for path in [
        "//x",
        "/a/../b",
        "/%2f",
        "/a%0d%0ab",
        "/a?b=c?d",
        "/;a=b",
        "/a:b@c",
        "/\\",
    ] {
        let bytes = bare(&changed(b":path", path.as_bytes()));
        let line = Box::leak(format!("GET {path} HTTP/1.1").into_boxed_str());
        all.push(case(format!("path {path}"), bytes, Whole(line, "")));
    }
    all
}

/// Lengths and bodies.
fn bodies() -> Vec<Case> {
    let mut all = Vec::new();
    let lengths: [&'static [u8]; 14] = [
        b"+2",
        b"-2",
        b"0x2",
        b"2,2",
        b"2, 2",
        b"2 2",
        b"2x",
        b"2.0",
        b"",
        b"1e1",
        b"\"2\"",
        b"99999999999999999999",
        b"18446744073709551618",
        b"2;a",
    ];
    for length in lengths {
        let shown = String::from_utf8_lossy(length).escape_debug().to_string();
        let bytes = body(&with("POST", &[(b"content-length", length)]), &[b"ab"]);
        all.push(case(format!("length {shown}"), bytes, Refused));
    }
    let declared = |length: &'static [u8]| with("POST", &[(b"content-length", length)]);
    let smuggled: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = good("POST", "/case");
    let line = "POST /case HTTP/1.1";
    let twice = with(
        "POST",
        &[(b"content-length", b"2"), (b"content-length", b"2")],
    );
    let differ = with(
        "POST",
        &[(b"content-length", b"2"), (b"content-length", b"3")],
    );
    all.extend([
        case("two lengths", body(&twice, &[b"ab"]), Refused),
        case("two other lengths", body(&differ, &[b"ab"]), Refused),
        case("length without a body", bare(&declared(b"5")), Refused),
        case("too short", body(&declared(b"5"), &[b"ab"]), Cut),
        case(
            "too short in pieces",
            body(&declared(b"5"), &[b"ab", b"c"]),
            Cut,
        ),
        case("too long", body(&declared(b"2"), &[smuggled]), Cut),
        case("zero and more", body(&declared(b"0"), &[smuggled]), Cut),
        case(
            "cut by trailers",
            trailed(&declared(b"5"), b"ab", &[(b"x-sum", b"1")]),
            Cut,
        ),
        case(
            "reset half way",
            [
                head(1, false, &declared(b"5")),
                frame(DATA, 0, 1, b"ab"),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            ]
            .concat(),
            Cut,
        ),
        case(
            "reset in the middle of chunks",
            [
                head(1, false, &post),
                frame(DATA, 0, 1, b"ab"),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            ]
            .concat(),
            Cut,
        ),
        case(
            "no body",
            bare(&good("GET", "/case")),
            Whole("GET /case HTTP/1.1", ""),
        ),
        case("nothing declared", bare(&declared(b"0")), Whole(line, "")),
        case(
            "declared",
            body(&declared(b"2"), &[b"ab"]),
            Whole(line, "ab"),
        ),
        case(
            "in pieces",
            body(&declared(b"4"), &[b"a", b"bc", b"", b"d"]),
            Whole(line, "abcd"),
        ),
        case(
            "not declared",
            body(&post, &[b"ab", b"cd"]),
            Whole(line, "abcd"),
        ),
        case(
            "chunks in chunks",
            body(&post, &[b"0\r\n\r\n"]),
            Whole(line, "0\r\n\r\n"),
        ),
        case(
            "a request in the body",
            body(&post, &[b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"]),
            Whole(line, "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"),
        ),
        case(
            "a body of GET",
            body(&good("GET", "/case"), &[b"ab"]),
            Whole("GET /case HTTP/1.1", "ab"),
        ),
        case(
            "an empty end",
            body(&post, &[b"ab", b""]),
            Whole(line, "ab"),
        ),
        case(
            "trailers",
            trailed(&post, b"ab", &[(b"x-sum", b"1")]),
            Whole(line, "ab"),
        ),
        case(
            "trailers of a declared body",
            trailed(&declared(b"2"), b"ab", &[(b"x-sum", b"1")]),
            Whole(line, "ab"),
        ),
        case(
            "a length in trailers",
            trailed(&post, b"ab", &[(b"content-length", b"50")]),
            Whole(line, "ab"),
        ),
        case(
            "a host in trailers",
            trailed(&post, b"ab", &[(b"host", b"other.test")]),
            Whole(line, "ab"),
        ),
        case(
            "chunked in trailers",
            trailed(&post, b"ab", &[(b"transfer-encoding", b"chunked")]),
            Cut,
        ),
        case(
            "a path in trailers",
            trailed(&post, b"ab", &[(b":path", b"/smuggled")]),
            Cut,
        ),
        case(
            "expect",
            body(&with("POST", &[(b"expect", b"100-continue")]), &[b"ab"]),
            Whole(line, "ab"),
        ),
        case(
            "a padded body",
            [
                head(1, false, &post),
                frame(DATA, 8 | END_STREAM, 1, b"\x03ab\0\0\0"),
            ]
            .concat(),
            Whole(line, "ab"),
        ),
        case(
            "a head in pieces",
            {
                let block = block(&good("GET", "/case"));
                [
                    frame(HEADERS, END_STREAM, 1, &block[..7]),
                    frame(9, 0, 1, &block[7..20]),
                    frame(9, END_HEADERS, 1, &block[20..]),
                ]
                .concat()
            },
            Whole("GET /case HTTP/1.1", ""),
        ),
    ]);
    all
}

fn cases() -> Vec<Case> {
    [lines(), fields(), targets(), bodies()]
        .into_iter()
        .flatten()
        .collect()
}

/// What came of a case; a connection of its own for each.
async fn ended(to: SocketAddr, case: &Case) -> End {
    let mut client = Raw::connect(to).await;
    client.send(&case.bytes).await;
    if case.name.starts_with("reset") {
        // A stream that the client has reset says nothing more.
        assert!(client.is_alive().await, "{}", case.name);
        return End::Closed;
    }
    client.end_of(1).await
}

fn check_end(case: &Case, found: End) -> Result<(), String> {
    let fits = match case.then {
        Whole(..) => found == End::Status(200),
        Refused | Cut => matches!(
            found,
            End::Status(400..=499)
                | End::Status(502)
                | End::Reset(_)
                | End::GoAway(_)
                | End::Closed
        ),
    };
    fits.then_some(()).ok_or_else(|| format!("{found:?}"))
}

/// Sends a request that is in order, and waits for its answer.
async fn polite(to: SocketAddr) {
    let mut client = Raw::connect(to).await;
    client.send(&head(1, true, &good("GET", "/polite"))).await;
    assert_eq!(client.end_of(1).await, End::Status(200), "a polite request");
}

/// Runs each case; between them polite requests use what connections there are.
async fn run(to: SocketAddr, witness: &Witness) {
    polite(to).await;
    let all = cases();
    let mut wrong = Vec::new();
    for case in &all {
        let mark = witness.mark();
        let end = ended(to, case).await;
        polite(to).await;
        let told = check_end(case, end).and_then(|()| forwarded(case, &witness.since(&mark)));
        wrong.extend(told.err().map(|why| format!("{}: {why}", case.name)));
    }
    assert!(wrong.is_empty(), "of {}:\n{}", all.len(), wrong.join("\n"));
}

/// Checks what reached the origin during a case and the polite request behind it.
fn forwarded(case: &Case, connections: &[Vec<u8>]) -> Result<(), String> {
    let mut found = Vec::new();
    for bytes in connections {
        found.extend(lax::agreed(bytes)?);
    }
    let is_polite = |message: &lax::Message| message.line == "GET /polite HTTP/1.1";
    let polite = found.iter().filter(|message| is_polite(message)).count();
    found.retain(|message| !is_polite(message));
    if polite != 1 || found.iter().any(|message| message.host != ["callee.test"]) {
        return Err(format!("{polite} polite, and {found:?}"));
    }
    let read = |message: &lax::Message| {
        let body = String::from_utf8_lossy(&message.body).into_owned();
        (message.line.clone(), body)
    };
    let found: Vec<_> = found.iter().map(read).collect();
    let expected = match case.then {
        Whole(line, body) => vec![(line.to_owned(), body.to_owned())],
        Refused | Cut => Vec::new(),
    };
    // A refused one leaves no trace at all; a cut one is never whole.
    let all = connections.concat();
    let heads = all.windows(7).filter(|bytes| *bytes == b"HTTP/1.").count();
    if found != expected || (case.then == Refused && heads > 1) {
        let all = String::from_utf8_lossy(&all).into_owned();
        return Err(format!("forwarded {found:?} in {all:?}"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_into_http1() {
    let (witness, app) = Witness::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server).inbound("http2", app).start();
    run(at(&proxy, "in"), &witness).await;
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_into_http1_through_a_pair() {
    let (witness, app) = Witness::start().await;
    let pair = Pair::start("detect", app).await;
    run(pair.address(), &witness).await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_into_http2() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .start();
    let to = at(&proxy, "in");
    let all = cases();
    let mut wrong = Vec::new();
    for case in &all {
        app.seen.lock().unwrap().clear();
        let end = ended(to, case).await;
        polite(to).await;
        let seen = wait_for("the polite one", || {
            let seen = app.seen.lock().unwrap().clone();
            seen.iter()
                .any(|(path, ..)| path == "/polite")
                .then_some(seen)
        })
        .await;
        let others: Vec<_> = seen.iter().filter(|(path, ..)| path != "/polite").collect();
        let fits = match case.then {
            Refused => others.is_empty(),
            Cut => others.len() <= 1,
            Whole(line, _) => others.len() == 1 && line.contains(&others[0].0),
        };
        let in_order = seen.iter().all(|(_, headers, version)| {
            let host = headers.get("host");
            *version == http::Version::HTTP_2 && host.is_none_or(|host| host == "callee.test")
        });
        let told = check_end(case, end).and_then(|()| {
            (fits && in_order)
                .then_some(())
                .ok_or_else(|| format!("the origin saw {seen:?}"))
        });
        wrong.extend(told.err().map(|why| format!("{}: {why}", case.name)));
    }
    assert!(wrong.is_empty(), "of {}:\n{}", all.len(), wrong.join("\n"));
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}
