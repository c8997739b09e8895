//! Requests: refused and recorded, or forwarded so that every parser reads the same.

use std::net::SocketAddr;

use whodunit_model::Cause;

use super::lax;
use super::witness::{Witness, talk};
use crate::mesh::{Pair, Setup, at, end, wait_for};
use crate::server::Server;

/// What must happen to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Answered with this status, and nothing complete forwarded.
    Refused(u16),
    /// Forwarded as this many messages with these bodies, one after the other.
    Forwarded(usize, &'static str),
}
use Then::{Forwarded, Refused};

struct Case {
    bytes: Vec<u8>,
    then: Then,
}

/// `@` in the target becomes the number of the case; `\n` stands for CRLF.
fn case(text: &str, then: Then) -> Case {
    let bytes = text.replace('\n', "\r\n").into_bytes();
    Case { bytes, then }
}

/// Whole heads whose fields, or body, two parsers could read differently.
fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for host in [
        "", " ", "a, b", "a,a", "a b", "a\tb", "u@a", "u:p@a", "a:", "a:x", "a:70000", "a:0",
        "a:-1", "a:80:80", "a/b", "a?b", "a#b", "a\\b", "[::1", "::1", "[::1]x", "[::1]:", "[zz]",
        "[]", "]", "http://a", "a%00b", "a;b", "a\"b", "<a>", "\u{e9}", "a\u{1}b", "a\u{7f}", "*",
        "a:80 ,b",
    ] {
        all.push(case(
            &format!("GET /@ HTTP/1.1\nHost: {host}\n\n"),
            Refused(400),
        ));
    }
    for host in [
        "a",
        "A.B-c",
        "a:8080",
        "127.0.0.1",
        "[::1]",
        "[::1]:80",
        "[2001:DB8::1]:8080",
        "x_y",
        "a.",
    ] {
        all.push(case(
            &format!("GET /@ HTTP/1.1\nHost: {host}\n\n"),
            Forwarded(1, ""),
        ));
    }
    for fields in [
        "X: y",
        "Host: a\nHost: a",
        "Host: a\nHost: b",
        "Host: a\nhOST: b",
        "Host: a\nHost : b",
        "Host: a\n Host: b",
        "Host: a\nX: y\n z",
        "Host: a\nX: y\n\tz",
        " Host: a",
        "\tHost: a",
        "Host: a\nX",
        "Host: a\n: y",
        "Host: a\nX : y",
        "Host: a\nX\t: y",
        "Host: a\n X: y",
        "Host: a\nX Y: z",
        "Host: a\nX(: y",
        "Host: a\nX\": y",
        "Host: a\nX/Y: z",
        "Host: a\nX\u{e9}: y",
        "Host: a\nX: a\u{0}b",
        "Host: a\nX: a\u{1}b",
        "Host: a\nX: a\u{1b}b",
        "Host: a\nX: a\u{7f}b",
        "Host: a\nX: a\u{b}b",
        "Host: a\nX: a\rb",
        "Host: a\rX: b",
        "Host: a\nX\u{0}: b",
        "Host_: a",
        "Host: a\nHo_st: b\nHost: c",
        "Connection: Host\nHost: a",
        "Host: a\nConnection: host",
        "Host: a\nUpgrade: a\nUpgrade: b\nConnection: upgrade",
        "Host: a\nX: y\n\u{b}Y: z",
    ] {
        all.push(case(
            &format!("GET /@ HTTP/1.1\n{fields}\n\n"),
            Refused(400),
        ));
    }
    for framing in [
        "Content-Length: 2\nContent-Length: 2",
        "Content-Length: 2\nContent-Length: 3",
        "Content-Length: 2, 2",
        "Content-Length: 2,3",
        "Content-Length: ",
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 0x2",
        "Content-Length: 2 2",
        "Content-Length: 2x",
        "Content-Length: 2.0",
        "Content-Length: \"2\"",
        "Content-Length: 1e1",
        "Content-Length: 2;a=b",
        "Content-Length: \u{663}",
        "Content-Length: 18446744073709551618",
        "Content-Length: 99999999999999999999",
        "Content-Length: 9223372036854775808",
        "Content-Length : 2",
        "Content-Length\t: 2",
        " Content-Length: 2",
        "Content_Length: 2",
        "CONTENT_LENGTH: 2",
        "X: y\n Content-Length: 2",
        "Connection: Content-Length\nContent-Length: 2",
        "Content-Length: 2\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length: 2",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\nTransfer-Encoding: chunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: cow, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunk",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked;",
        "Transfer-Encoding: chunked chunked",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\u{0}",
        "Transfer-Encoding: chun\u{212a}ed",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding:\n chunked",
        "X: y\n Transfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding\u{0}: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Connection: Transfer-Encoding\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \u{ff}chunked",
        "Content-Length: 2\n X: y",
        "Content-Length: 2\u{0}",
        "Content-Length: 2\u{b}",
    ] {
        let text = format!("POST /@ HTTP/1.1\nHost: a\n{framing}\n\n0\n\n");
        all.push(case(&text, Refused(400)));
    }
    for line in [
        "GET  /@ HTTP/1.1",
        "GET /@  HTTP/1.1",
        "GET /@ HTTP/1.1 ",
        " GET /@ HTTP/1.1",
        "GET\t/@\tHTTP/1.1",
        "GET\t/@ HTTP/1.1",
        "GET /@",
        "GET /@ ",
        "GET /@ http/1.1",
        "GET /@ HTTP 1.1",
        "GET /@ HTTPS/1.1",
        "GET /@ x HTTP/1.1",
        "G(T /@ HTTP/1.1",
        "G\u{e9}T /@ HTTP/1.1",
        "G:T /@ HTTP/1.1",
        "\u{0}GET /@ HTTP/1.1",
        "GET /@\u{0} HTTP/1.1",
        "GET /@\u{e9} HTTP/1.1",
        "GET /@\u{7f} HTTP/1.1",
        "GET /@#x HTTP/1.1",
        "GET @ HTTP/1.1",
        "GET * HTTP/1.1",
        "GET ?@ HTTP/1.1",
        "GET https://a/@ HTTP/1.1",
        "GET ftp://a/@ HTTP/1.1",
        "GET http:///@ HTTP/1.1",
        "GET http://b/@ HTTP/1.1",
        "GET http://u@a/@ HTTP/1.1",
        "GET http://a:1/@ HTTP/1.1",
        "GET http://a /@ HTTP/1.1",
        "GET http:/a/@ HTTP/1.1",
        "OPTIONS a HTTP/1.1",
        "POST * HTTP/1.1",
        "GET http://a/@#x HTTP/1.1",
        "GET //a/@\u{b} HTTP/1.1",
        "GET /@\rX HTTP/1.1",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA /@ HTTP/1.1",
    ] {
        all.push(case(&format!("{line}\nHost: a\n\n"), Refused(400)));
    }
    for version in [
        "0.9", "2.0", "3.0", "1.2", "1.10", "01.1", "1", "1.", "11", "1.1x", "9.9",
    ] {
        let text = format!("GET /@ HTTP/{version}\nHost: a\n\n");
        all.push(case(&text, Refused(505)));
    }
    for chunks in [
        "zz\n",
        "0x2\nab\n0\n\n",
        "+2\nab\n0\n\n",
        "-2\nab\n0\n\n",
        " 2\nab\n0\n\n",
        "2 \nab\n0\n\n",
        "\nab\n0\n\n",
        "FFFFFFFFFFFFFFFF\nab",
        "10000000000000002\nab\n0\n\n",
        "2\nabX\n0\n\n",
        "2\nabc\n0\n\n",
        "2;\u{0}\nab\n0\n\n",
        "2;a\u{1}\nab\n0\n\n",
        "2\nab\n0\nContent-Length: 3\n\n",
        "2\nab\n0\nTransfer-Encoding: chunked\n\n",
        "2\nab\n0\nHost: b\n\n",
        "2\nab\n0\nbad field\n\n",
        "2\nab\n0\nX : y\n\n",
        "2\nab\n0\n X: y\n\n",
        "2\nab\n0\nX: \u{0}\n\n",
        "2_0\nab\n0\n\n",
        "2,\nab\n0\n\n",
        "2\rab\n0\n\n",
        "2\nab\n0\nX: a\rb\n\n",
        "2\nab\n0\nContent_Length: 1\n\n",
        "\u{0}2\nab\n0\n\n",
    ] {
        let head = "POST /@ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n";
        all.push(case(&format!("{head}{chunks}"), Refused(400)));
    }
    let long = "x".repeat(300);
    let bomb = "X: y\n".repeat(40);
    for chunks in [
        format!("2;{long}\nab\n0\n\n"),
        format!("2\nab\n0\n{bomb}\n"),
    ] {
        let head = "POST /@ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n";
        all.push(case(&format!("{head}{chunks}"), Refused(400)));
    }
    for (text, then) in [
        ("CONNECT a:80 HTTP/1.1\nHost: a:80\n\n", Refused(405)),
        ("GET /@ HTTP/1.1\nHost: a\nExpect: tea\n\n", Refused(417)),
        (
            "POST /@ HTTP/1.1\nHost: a\nContent-Length: 2\nExpect: 100-continue, x\n\nab",
            Refused(417),
        ),
        (
            "TRACE /@ HTTP/1.1\nHost: a\nContent-Length: 2\n\nab",
            Refused(400),
        ),
        (
            "POST /@ HTTP/1.0\nTransfer-Encoding: chunked\n\n0\n\n",
            Refused(400),
        ),
        ("GET /@ HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("\n\nGET /@ HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("get /@ HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("M-SEARCH /@ HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("TRACE /@ HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("OPTIONS * HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("OPTIONS http://a HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("GET http://a/@ HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("GET HTTP://A/@ HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("GET http://a?@ HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        ("GET http://a HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        (
            "GET /@?a=%00%0d%0a//..;x HTTP/1.1\nHost: a\n\n",
            Forwarded(1, ""),
        ),
        ("GET //@ HTTP/1.1\nHost: a\n\n", Forwarded(1, "")),
        (
            "POST /@ HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
            Forwarded(1, ""),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nContent-Length: 2\n\nab",
            Forwarded(1, "ab"),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nContent-Length:\t2 \n\nab",
            Forwarded(1, "ab"),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nContent-Length: 002\n\nab",
            Forwarded(1, "ab"),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\nContent-Length: 2\n\nab",
            Forwarded(1, "ab"),
        ),
        (
            "DELETE /@ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n2\nab\n0\n\n",
            Forwarded(1, "ab"),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nTransfer-Encoding: CHUNKED\n\n2\nab\n0\n\n",
            Forwarded(1, "ab"),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n",
            Forwarded(1, ""),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n00002;x=\"y\"\nab\n000\n\n",
            Forwarded(1, "ab"),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n1\na\n1\nb\n0\nX-Sum: 1\n\n",
            Forwarded(1, "ab"),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n2\nab\n0\nAuthorization: x\n\n",
            Forwarded(1, "ab"),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nContent-Length: 2\n\nabGET /@x HTTP/1.1\nHost: a\n\n",
            Forwarded(2, "ab"),
        ),
        (
            "POST /@ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n2\nab\n0\n\nGET /@x HTTP/1.1\nHost: a\n\n",
            Forwarded(2, "ab"),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\n\nGET /@x HTTP/1.1\nHost: a\n\nGET /@y HTTP/1.1\nHost: a\n\n",
            Forwarded(3, ""),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\nUpgrade: h2c\nHTTP2-Settings: AA\nConnection: Upgrade, HTTP2-Settings\n\n",
            Forwarded(1, ""),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\nUpgrade: websocket, h2c\nConnection: upgrade\n\n",
            Forwarded(1, ""),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\nConnection: authorization, cookie\nAuthorization: x\nCookie: y\n\n",
            Forwarded(1, ""),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\nConnection: ,,x-gone,\nX-Gone: 1\n\n",
            Forwarded(1, ""),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\nTE: trailers, gzip\n\n",
            Forwarded(1, ""),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\nKeep-Alive: 1\nProxy-Connection: close\n\n",
            Forwarded(1, ""),
        ),
        (
            "GET /@ HTTP/1.0\nConnection: keep-alive\n\n",
            Forwarded(1, ""),
        ),
        (
            "GET http://a/@ HTTP/1.0\nConnection: keep-alive\n\n",
            Forwarded(1, ""),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\nExpect: 100-Continue\n\n",
            Forwarded(1, ""),
        ),
        (
            "GET /@ HTTP/1.1\nHost: a\nX: \u{e9}\nX:\nX: \"\\\n\n",
            Forwarded(1, ""),
        ),
    ] {
        all.push(case(text, then));
    }
    // Line ends are given as they are.
    for raw in [
        "GET /@ HTTP/1.1\nHost: a\n\n",
        "GET /@ HTTP/1.1\r\nHost: a\n\r\n",
        "GET /@ HTTP/1.1\nHost: a\r\n\r\n",
        "GET /@ HTTP/1.1\r\nHost: a\r\n\n",
        "GET /@ HTTP/1.1\r\nHost: a\r\rX: y\r\n\r\n",
        "GET /@ HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n",
        "\n\nGET /@ HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /@ HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /@ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\nchunked\r\n\r\n0\r\n\r\n",
        "POST /@ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n",
        "POST /@ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\n0\r\n\r\n",
        "POST /@ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\n\n",
        "POST /@ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: y\nZ: z\r\n\r\n",
        "POST /@ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a\nb\r\nab\r\n0\r\n\r\n",
    ] {
        let bytes = raw.as_bytes().to_vec();
        all.push(Case {
            bytes,
            then: Refused(400),
        });
    }
    let big = [
        (
            format!("GET /@{} HTTP/1.1\nHost: a\n\n", "x".repeat(17 << 10)),
            Refused(414),
        ),
        (
            format!("GET /@ HTTP/1.1\nHost: a\nX: {}\n\n", "x".repeat(65 << 10)),
            Refused(431),
        ),
        (
            format!("GET /@ HTTP/1.1\nHost: a\n{}\n", "X: y\n".repeat(128)),
            Refused(431),
        ),
        (
            format!("GET /@ HTTP/1.1\nHost: a\n{}\n", "X: y\n".repeat(127)),
            Forwarded(1, ""),
        ),
        (
            format!("GET /@{} HTTP/1.1\nHost: a\n\n", "x".repeat(16_000)),
            Forwarded(1, ""),
        ),
        (
            format!("GET /@ HTTP/1.1\nHost: a\nX: {}\n\n", "x".repeat(60_000)),
            Forwarded(1, ""),
        ),
    ];
    for (text, then) in big {
        all.push(case(&text, then));
    }
    for (i, case) in all.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        for byte in &case.bytes {
            match byte {
                b'@' => bytes.extend_from_slice(format!("case-{i}.").as_bytes()),
                byte => bytes.push(*byte),
            }
        }
        // User information needs its sign, and says so by a host behind it.
        let user = format!("ucase-{i}.a");
        let text = bytes.windows(user.len()).position(|w| w == user.as_bytes());
        if let Some(at) = text {
            bytes.splice(at..at + user.len(), *b"u@a");
        }
        case.bytes = bytes;
    }
    all
}

/// Runs all cases; returns what was wrong. On a port that detects, what does not begin as
/// HTTP is carried as bytes, on a connection of its own.
async fn run(to: SocketAddr, witness: &Witness, detects: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (i, case) in cases().iter().enumerate() {
        let mark = witness.mark();
        let answers = match case.then {
            Forwarded(count, _) => count,
            // On a port that detects, bytes may be carried to the witness and answered.
            Refused(_) => usize::from(detects),
        };
        let sent = String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(200)]).into_owned();
        let half_open = detects && case.then == Refused(400);
        let (answer, _) = if half_open {
            talk_and_leave(to, &case.bytes).await
        } else {
            talk(to, &case.bytes, answers).await
        };
        let forwarded = witness.since(&mark);
        if detects && forwarded.contains(&case.bytes) {
            continue;
        }
        let mut messages = Vec::new();
        for bytes in &forwarded {
            match lax::agreed(bytes) {
                Ok(read) => messages.extend(read),
                Err(why) => wrong.push(format!("case {i}: {sent:?}: {why}")),
            }
        }
        match case.then {
            Refused(status) => {
                let is_refused = answer.starts_with(&format!("HTTP/1.1 {status} "));
                if !(is_refused || detects && answer.is_empty()) || !messages.is_empty() {
                    wrong.push(format!("case {i}: {sent:?}: {answer:?}, {messages:?}"));
                }
            }
            Forwarded(count, body) => {
                let bodies: Vec<u8> = messages.iter().flat_map(|m| m.body.clone()).collect();
                let hosts = messages.iter().all(|message| message.host.len() == 1);
                let targets = messages.iter().all(|message| {
                    let target = message.line.split(' ').nth(1).unwrap_or_default();
                    target.starts_with('/') || message.line == "OPTIONS * HTTP/1.1"
                });
                let well = messages.len() == count && bodies == body.as_bytes();
                let ok = answer.contains(" 200 OK\r\n");
                if !(well && hosts && targets && ok) {
                    wrong.push(format!("case {i}: {sent:?}: {answer:?}, {messages:?}"));
                }
                let text = String::from_utf8_lossy(&forwarded.concat()).to_lowercase();
                for never in [
                    "h2c",
                    "http2-settings",
                    "keep-alive",
                    "x-gone",
                    "expect",
                    "002",
                ] {
                    if text.contains(never) {
                        wrong.push(format!("case {i}: {sent:?}: {never} went on"));
                    }
                }
                let kept = sent.contains("Connection: authorization");
                if kept && !(text.contains("authorization: x") && text.contains("cookie: y")) {
                    wrong.push(format!("case {i}: {sent:?}: {text:?}"));
                }
            }
        }
    }
    wrong
}

/// As [`talk`], for a client that says that it is done.
async fn talk_and_leave(to: SocketAddr, bytes: &[u8]) -> (String, bool) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(crate::mesh::DEADLINE, stream.read_to_end(&mut answer));
    let _ = read.await.expect("closes");
    (String::from_utf8_lossy(&answer).into_owned(), true)
}

#[track_caller]
fn check(wrong: &[String]) {
    assert!(cases().len() >= 248, "{} cases", cases().len());
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_through_a_declared_port_and_refusals_are_recorded() {
    let (witness, app) = Witness::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server).inbound("http1", app).start();
    check(&run(at(&proxy, "in"), &witness, false).await);
    let refused = cases()
        .iter()
        .filter(|case| matches!(case.then, Refused(_)))
        .count();
    wait_for("a record of each refusal", || {
        let rows = server.records();
        let bad = rows.iter().filter(|row| row.cause == Cause::BadRequestHead);
        let named = bad.clone().filter(|row| row.path.contains("case-")).count();
        (bad.count() == refused && named > refused * 3 / 4).then_some(())
    })
    .await;
    crate::sending::check_conservation(&proxy.counters());
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_through_a_port_that_detects() {
    let (witness, app) = Witness::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server).inbound("detect", app).start();
    check(&run(at(&proxy, "in"), &witness, true).await);
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_through_a_pair() {
    let (witness, app) = Witness::start().await;
    let pair = Pair::start("http1", app).await;
    check(&run(pair.address(), &witness, false).await);
    pair.end().await;
}
