//! Responses: whole and the same, or visibly broken; and never the answer to another request.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::app;
use crate::mesh::{DEADLINE, Pair, Setup, at, end};
use crate::server::Server;

/// What the client must get.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// 502 made here.
    Bad,
    /// A complete response with this status line and body.
    Whole(&'static str, &'static str),
    /// The beginning of a response that no client takes for a whole one.
    Cut,
}
use Then::{Bad, Cut, Whole};

/// Method, what the endpoint says, whether it closes then, what the client must get.
type Case = (&'static str, &'static str, bool, Then);

const CASES: &[Case] = &[
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        false,
        Whole("200 OK", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 200 Fine by Me\nContent-Length: 2\n\nok",
        false,
        Whole("200 Fine by Me", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 200 \nContent-Length: 2\n\nok",
        false,
        Whole("200 ", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 200\nContent-Length: 2\n\nok",
        false,
        Whole("200 ", "ok"),
    ),
    (
        "GET",
        "HTTP/1.0 200 OK\nContent-Length: 2\n\nok",
        true,
        Whole("200 OK", "ok"),
    ),
    ("GET", "HTTP/1.1 200 OK\n\nok", true, Whole("200 OK", "ok")),
    (
        "GET",
        "HTTP/1.1 200 OK\nConnection: close\n\nok",
        true,
        Whole("200 OK", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
        false,
        Whole("200 OK", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1;a=b\no\n1\nk\n0\nX-Sum: 1\n\n",
        false,
        Whole("200 OK", "ok"),
    ),
    ("GET", "HTTP/1.1 204 None\n\n", false, Whole("204 None", "")),
    (
        "GET",
        "HTTP/1.1 204 None\nContent-Length: 5\n\n",
        false,
        Whole("204 None", ""),
    ),
    (
        "GET",
        "HTTP/1.1 304 Same\nContent-Length: 5\n\n",
        false,
        Whole("304 Same", ""),
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        false,
        Whole("200 OK", ""),
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n",
        false,
        Whole("200 OK", ""),
    ),
    (
        "GET",
        "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        false,
        Whole("200 OK", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        false,
        Whole("200 OK", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nokextra",
        false,
        Whole("200 OK", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 OK\nContent-Length: 6\n\nstolen",
        false,
        Whole("200 OK", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 204 No\n\nHTTP/1.1 200 OK\nContent-Length: 6\n\nstolen",
        false,
        Whole("204 No", ""),
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        false,
        Whole("200 OK", ""),
    ),
    (
        "GET",
        "HTTP/1.1 304 Same\nContent-Length: 2\n\nok",
        false,
        Whole("304 Same", ""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\nHTTP/1.1 200 OK\n\n",
        false,
        Whole("200 OK", "ok"),
    ),
    (
        "GET",
        "HTTP/1.1 101 Switching\nUpgrade: x\nConnection: upgrade\n\nstolen",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3\n\nok",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2\n\nok",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2, 2\n\nok",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: +2\n\nok",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 0x2\n\nok",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 99999999999999999999\n\nok",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked, chunked\n\n0\n\n",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\nok",
        true,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n0\n\n",
        true,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 204 No\nTransfer-Encoding: chunked\n\n0\n\n",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nX : y\nContent-Length: 2\n\nok",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nX: y\n folded\nContent-Length: 2\n\nok",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nX: a\u{0}b\nContent-Length: 2\n\nok",
        false,
        Bad,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nX: a\rb\nContent-Length: 2\n\nok",
        false,
        Bad,
    ),
    ("GET", "HTTP/1.1 200 OK\nno colon\n\nok", false, Bad),
    ("GET", "HTTP/1.1 99 Odd\n\n", false, Bad),
    ("GET", "HTTP/1.1 600 Odd\n\n", false, Bad),
    ("GET", "HTTP/1.1 2000 OK\n\n", false, Bad),
    ("GET", "HTTP/1.1 20 OK\n\n", false, Bad),
    ("GET", "HTTP/1.1 +20 OK\n\n", false, Bad),
    ("GET", "HTTP/1.1  200 OK\n\n", false, Bad),
    ("GET", "HTTP/1.1\t200 OK\n\n", false, Bad),
    ("GET", "HTTP/2.0 200 OK\n\n", false, Bad),
    ("GET", "http/1.1 200 OK\n\n", false, Bad),
    ("GET", "ICY 200 OK\n\n", false, Bad),
    ("GET", "\nHTTP/1.1 200 OK\n\n", false, Bad),
    ("GET", "junk", true, Bad),
    ("GET", "", true, Bad),
    ("GET", "HTTP/1.1 200 OK\nContent-Len", true, Bad),
    ("GET", "HTTP/1.1 200 OK\nContent-Length: 5\n\nok", true, Cut),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n",
        true,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n",
        true,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nok",
        true,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nzz\nok\n0\n\n",
        false,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nokX\n0\n\n",
        false,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nContent-Length: 1\n\n",
        false,
        Cut,
    ),
];

/// Starts an endpoint that answers `/N` with case N, and anything else with `fine`.
async fn scripted() -> SocketAddr {
    let fine = Arc::new("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine".to_owned());
    app::tcp(move |mut stream| {
        let fine = fine.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let target = head.split(' ').nth(1).unwrap_or_default();
                let case = target[1..].parse::<usize>().ok().map(|i| CASES[i]);
                let text =
                    case.map_or_else(|| (*fine).clone(), |case| case.1.replace('\n', "\r\n"));
                let _ = stream.write_all(text.as_bytes()).await;
                if case.is_some_and(|case| case.2) {
                    return;
                }
            }
        }
    })
    .await
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(DEADLINE, stream.read_u8()).await.ok()?.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Reads one response: status line without version, body, and whether it is complete.
async fn read_response(stream: &mut TcpStream, method: &str) -> Option<(String, String, bool)> {
    let head = loop {
        let head = read_head(stream).await?;
        if !head.starts_with("HTTP/1.1 10") || head.starts_with("HTTP/1.1 101") {
            break head;
        }
    };
    let line = head.lines().next()?.strip_prefix("HTTP/1.1 ")?.to_owned();
    let lower = head.to_lowercase();
    if method == "HEAD" || line.starts_with("204") || line.starts_with("304") {
        return Some((line, String::new(), true));
    }
    let mut body = Vec::new();
    let whole = if lower.contains("transfer-encoding: chunked") {
        chunks(stream, &mut body).await.is_some()
    } else {
        let length = lower.split("content-length: ").nth(1)?;
        let length = length.split('\r').next()?.parse().ok()?;
        body = vec![0; length];
        stream.read_exact(&mut body).await.is_ok()
    };
    Some((line, String::from_utf8_lossy(&body).into_owned(), whole))
}

async fn chunks(stream: &mut TcpStream, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.ok()?);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
        if size == 0 {
            let mut end = b"\r\n".to_vec();
            while !end.ends_with(b"\r\n\r\n") {
                end.push(stream.read_u8().await.ok()?);
            }
            return Some(());
        }
        let mut data = vec![0; size + 2];
        stream.read_exact(&mut data).await.ok()?;
        body.extend_from_slice(&data[..size]);
    }
}

async fn run(to: SocketAddr) {
    let mut wrong = Vec::new();
    for (i, (method, said, _, then)) in CASES.iter().enumerate() {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let head = format!("{method} /{i} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let read = timeout(DEADLINE, read_response(&mut stream, method)).await;
        let got = read.unwrap_or_else(|_| panic!("case {i} hangs: {said:?}"));
        let well = match (then, &got) {
            (Whole(line, body), Some((got, text, true))) => got == line && text == body,
            (Bad, Some((got, _, true))) => got.starts_with("502 "),
            // The head may not have been sent yet.
            (Cut, Some((got, _, whole))) => !whole || got.starts_with("502 "),
            (Cut, None) => true,
            _ => false,
        };
        if !well {
            wrong.push(format!("case {i}: {said:?}: {got:?}"));
        }
        // Neither this connection nor the pool may answer the next request with the rest.
        let next = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
        for fresh in [false, true] {
            if fresh {
                stream = TcpStream::connect(to).await.unwrap();
            }
            let _ = stream.write_all(next).await;
            let read = timeout(DEADLINE, read_response(&mut stream, "GET")).await;
            match read.expect("an answer or an end") {
                Some((line, body, true)) if line == "200 OK" && body == "fine" => {}
                None if !fresh => {}
                other => wrong.push(format!("after case {i}: {said:?}: {other:?}")),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_are_whole_or_visibly_broken_and_answer_one_request() {
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http1", scripted().await)
        .start();
    run(at(&proxy, "in")).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_keep_their_boundary_through_a_pair() {
    let pair = Pair::start("http1", scripted().await).await;
    run(pair.address()).await;
    pair.end().await;
}
