//! What is accepted, what is refused, and that both directions keep the boundary.

use bytes::BytesMut;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use proptest::prelude::*;

use super::{
    BodyDecoder, Decoded, Framing, HeadError, Limits, emit, is_host, parse_request, parse_response,
};

/// Parses a request given with `\n` line ends; the text before the first blank
/// line must not contain any other.
fn request(text: &str) -> Result<Framing, u16> {
    let bytes = text.replace('\n', "\r\n");
    match parse_request(bytes.as_bytes(), &Limits::default()) {
        Ok(Some(head)) => Ok(head.framing),
        Ok(None) => Err(0),
        Err(error) => Err(error.status().as_u16()),
    }
}

#[track_caller]
fn refused(fields: &str) {
    let text = format!("POST / HTTP/1.1\nHost: a\n{fields}\n\n");
    assert_eq!(request(&text), Err(400), "{fields}");
}

#[test]
fn plain_requests_are_understood() {
    assert_eq!(request("GET / HTTP/1.1\nHost: a\n\n"), Ok(Framing::None));
    assert_eq!(request("\n\nGET / HTTP/1.0\n\n"), Ok(Framing::None));
    assert_eq!(
        request("POST /x?y=%20 HTTP/1.1\nHost: a:80\nContent-Length: 5\n\n"),
        Ok(Framing::Length(5))
    );
    assert_eq!(
        request("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: Chunked\n\n"),
        Ok(Framing::Chunked)
    );
    assert_eq!(
        request("OPTIONS * HTTP/1.1\nHost: a\n\n"),
        Ok(Framing::None)
    );
    assert_eq!(
        request("GET http://a:8080/x HTTP/1.1\nHost: a:8080\n\n"),
        Ok(Framing::None)
    );
    assert_eq!(
        request("GET / HTTP/1.1\nHost: a\n"),
        Err(0),
        "more is needed"
    );
}

#[test]
fn framing_that_two_parsers_read_differently_is_refused() {
    for fields in [
        "Content-Length: 5\nContent-Length: 5",
        "Content-Length: 5\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 5\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "X: y\n Transfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Content_Length: 5",
        "Transfer-Encoding: chunked\u{b}",
        "Connection: Transfer-Encoding\nTransfer-Encoding: chunked",
        "X: a\u{1}b",
        ": x",
        "X",
        "X(y): z",
    ] {
        refused(fields);
    }
    assert_eq!(
        request("POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n"),
        Err(400)
    );
}

#[test]
fn line_ends_are_crlf_and_nothing_else() {
    for bytes in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
    ] {
        let error = parse_request(bytes.as_bytes(), &Limits::default()).unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{bytes:?}");
    }
}

#[test]
fn request_lines_are_strict() {
    let line = |line: &str| request(&format!("{line}\nHost: a\n\n"));
    for bad in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /",
        "GET\t/ HTTP/1.1",
        "GET / http/1.1",
        "G(T / HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /#x HTTP/1.1",
        "GET x HTTP/1.1",
        "GET * HTTP/1.1",
        "GET https://a/ HTTP/1.1",
        "GET http://b/ HTTP/1.1",
        "GET http://u@a/ HTTP/1.1",
    ] {
        assert_eq!(line(bad), Err(400), "{bad}");
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/1.10", "HTTP/11"] {
        assert_eq!(line(&format!("GET / {version}")), Err(505), "{version}");
    }
    assert_eq!(line("CONNECT a:80 HTTP/1.1"), Err(405));
    assert_eq!(
        line(&format!("GET /{} HTTP/1.1", "x".repeat(17_000))),
        Err(414)
    );
}

#[test]
fn bad_hosts_are_refused() {
    let twelve = [
        "", "a, b", "a b", "u@a", "a:", "a:x", "a:70000", "a:80:80", "a/b", "a?b", "[::1",
        "http://a",
    ];
    for host in twelve {
        assert_eq!(
            request(&format!("GET / HTTP/1.1\nHost: {host}\n\n")),
            Err(400),
            "{host}"
        );
    }
    assert_eq!(request("GET / HTTP/1.1\n\n"), Err(400), "none");
    assert_eq!(
        request("GET / HTTP/1.1\nHost: a\nHost: a\n\n"),
        Err(400),
        "two"
    );
    for host in [
        "a",
        "a.b-c:8080",
        "127.0.0.1:1",
        "[::1]:80",
        "[2001:db8::1]",
        "under_score",
    ] {
        assert!(is_host(host), "{host}");
    }
}

#[test]
fn bounds_have_their_statuses() {
    let long = format!("GET / HTTP/1.1\nHost: a\nX: {}\n\n", "x".repeat(70_000));
    assert_eq!(request(&long), Err(431));
    let many = format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: y\n".repeat(200));
    assert_eq!(request(&many), Err(431));
    assert_eq!(
        request("POST / HTTP/1.1\nHost: a\nContent-Length: 1\nExpect: tea\n\n"),
        Err(417)
    );
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Gone\r\nx-gone: 1\r\nKeep-Alive: 5\r\nX-Stays: \xe9\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n";
    let head = parse_request(bytes, &Limits::default()).unwrap().unwrap();
    let names: Vec<&str> = head
        .fields
        .names()
        .map(|name| std::str::from_utf8(name).unwrap())
        .collect();
    assert_eq!(names, ["Host", "X-Stays"]);
    assert!(!head.keep_alive);
    assert_eq!(head.upgrade, None);
    let websocket = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let head = parse_request(websocket, &Limits::default())
        .unwrap()
        .unwrap();
    assert_eq!(head.upgrade.unwrap(), "websocket");
}

#[test]
fn fields_go_on_as_they_came_whether_anybody_looks_at_them_or_not() {
    let fields =
        "X-A: 1\r\nhOST: a\r\nx-a:2\r\nUser-Agent: me\r\nX-Empty:\r\nX-Own: 3 \r\nX-A:  4\r\n";
    let bytes = format!("GET /b?c HTTP/1.1\r\n{fields}\r\n");
    let head = parse_request(bytes.as_bytes(), &Limits::default());
    let mut fields = head.unwrap().unwrap().fields;
    let mut map = fields.looked_at(&["x-own".to_owned()]);
    let mut looked_at: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
    looked_at.sort_unstable();
    assert_eq!(looked_at, ["host", "user-agent", "x-own"]);
    // What is changed meanwhile is written as it is now; what is new comes last.
    map.insert("x-own", HeaderValue::from_static("5"));
    map.insert("whodunit-hops", HeaderValue::from_static("1"));
    map.remove("user-agent");
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.uri = "/b?c".parse().unwrap();
    parts.headers = map.clone();
    let mut out = BytesMut::new();
    let connection = emit::Connection::Implied;
    emit::request(&mut out, &parts, Some(&fields), Framing::None, connection).unwrap();
    let expected = "GET /b?c HTTP/1.1\r\nX-A: 1\r\nhOST: a\r\nx-a: 2\r\nX-Empty: \r\nX-Own: 5\r\nX-A: 4\r\nwhodunit-hops: 1\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
    // An endpoint that speaks HTTP/2 gets them all, too.
    fields.complete(&mut map);
    let values: Vec<&HeaderValue> = map.get_all("x-a").iter().collect();
    assert_eq!(values, ["1", "2", "4"]);
    assert_eq!(map["x-empty"], "");
    assert_eq!(map.len(), 7);
}

#[track_caller]
fn response(text: &str, method: Method) -> Result<Framing, HeadError> {
    let bytes = text.replace('\n', "\r\n");
    let head = parse_response(bytes.as_bytes(), &method, &Limits::default())?;
    Ok(head.expect("a whole head").framing)
}

#[test]
fn responses_are_framed_by_rule() {
    let get = || Method::GET;
    assert_eq!(
        response("HTTP/1.1 200 OK\nContent-Length: 3\n\n", get()),
        Ok(Framing::Length(3))
    );
    assert_eq!(
        response("HTTP/1.1 200 OK\nContent-Length: 3\n\n", Method::HEAD),
        Ok(Framing::None)
    );
    assert_eq!(
        response("HTTP/1.1 304 Not Modified\nContent-Length: 3\n\n", get()),
        Ok(Framing::None)
    );
    assert_eq!(response("HTTP/1.1 200 OK\n\n", get()), Ok(Framing::Close));
    assert_eq!(
        response("HTTP/1.1 200\nTransfer-Encoding: chunked\n\n", get()),
        Ok(Framing::Chunked)
    );
    for bad in [
        "HTTP/1.1 200 OK\nContent-Length: 3\nContent-Length: 4\n\n",
        "HTTP/1.1 200 OK\nContent-Length: 3\nTransfer-Encoding: chunked\n\n",
        "HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n",
        "HTTP/1.1 204 No Content\nTransfer-Encoding: chunked\n\n",
        "HTTP/1.1 600 Odd\n\n",
        "HTTP/1.1 99 Odd\n\n",
        "HTTP/3.0 200 OK\n\n",
        "HTTP/1.1 200 OK\nX : y\n\n",
    ] {
        assert!(response(bad, get()).is_err(), "{bad}");
    }
}

/// Decodes a whole body, fed in pieces of `piece` bytes; returns data and what is left.
fn decode(framing: Framing, input: &[u8], piece: usize) -> Option<(Vec<u8>, Vec<u8>, usize)> {
    let mut decoder = BodyDecoder::new(framing);
    let mut data = Vec::new();
    let mut buffer = BytesMut::new();
    let mut fed = 0;
    loop {
        match decoder.decode(&mut buffer).ok()? {
            Decoded::Data(bytes) => data.extend_from_slice(&bytes),
            Decoded::End(trailers) => {
                buffer.extend_from_slice(&input[fed..]);
                return Some((data, buffer.to_vec(), trailers.map_or(0, |map| map.len())));
            }
            Decoded::More if fed == input.len() => return None,
            Decoded::More => {
                let end = (fed + piece).min(input.len());
                buffer.extend_from_slice(&input[fed..end]);
                fed = end;
            }
        }
    }
}

#[test]
fn bodies_end_where_they_say() {
    for piece in [1, 2, 3, 7, 1_000] {
        let plain = decode(Framing::Length(5), b"helloGET /", piece).unwrap();
        assert_eq!(
            (plain.0.as_slice(), plain.1.as_slice()),
            (&b"hello"[..], &b"GET /"[..])
        );
        let chunked = b"5;x=\"y\"\r\nhello\r\nA\r\n world 123\r\n0\r\nx-sum: 1\r\n\r\nnext";
        let (data, left, trailers) = decode(Framing::Chunked, chunked, piece).unwrap();
        assert_eq!(data, b"hello world 123");
        assert_eq!((left.as_slice(), trailers), (&b"next"[..], 1));
    }
}

#[test]
fn bad_chunks_are_refused() {
    for bad in [
        &b"5\nhello\r\n0\r\n\r\n"[..],
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
        b"5\r\nhello\r\n0\r\nbad header\r\n\r\n",
        b"5\r\nhello\n\r\n0\r\n\r\n",
    ] {
        assert!(
            decode(Framing::Chunked, bad, 1_000).is_none(),
            "{:?}",
            String::from_utf8_lossy(bad)
        );
        assert!(
            decode(Framing::Chunked, bad, 1).is_none(),
            "{:?}",
            String::from_utf8_lossy(bad)
        );
    }
    let mut decoder = BodyDecoder::new(Framing::Length(3));
    assert!(decoder.end_of_stream().is_err());
    assert!(BodyDecoder::new(Framing::Close).end_of_stream().is_ok());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_request(&bytes, &Limits::default());
        let _ = parse_response(&bytes, &Method::GET, &Limits::default());
        let _ = decode(Framing::Chunked, &bytes, 7);
    }

    #[test]
    fn nothing_is_read_that_another_strict_parser_refuses(
        cuts in proptest::collection::vec((0usize..150, any::<u8>(), 0u8..3), 0..4),
        answer in any::<bool>(),
    ) {
        let mut head: Vec<u8> = if answer {
            b"HTTP/1.1 200 All well\r\nServer: x\r\nContent-Length: 3\r\nA:\r\nB:  b\t \r\n\r\n".to_vec()
        } else {
            b"PUT /a?b HTTP/1.1\r\nHost: a:80\r\nX-Y:z\r\nAccept: */*\r\nContent-Length: 12\r\n\r\n".to_vec()
        };
        for (at, byte, what) in cuts {
            let at = at % head.len();
            match what {
                0 => head[at] = byte,
                1 => head.insert(at, byte),
                _ => drop(head.remove(at)),
            }
        }
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let (read, status) = if answer {
            let mut other = httparse::Response::new(&mut fields);
            let whole = other.parse(&head).is_ok_and(|status| status.is_complete());
            let read = parse_response(&head, &Method::GET, &Limits::default());
            (read.ok().flatten().map(|head| head.fields), whole)
        } else {
            let mut other = httparse::Request::new(&mut fields);
            let whole = other.parse(&head).is_ok_and(|status| status.is_complete());
            let read = parse_request(&head, &Limits::default());
            (read.ok().flatten().map(|head| head.fields), whole)
        };
        if let Some(read) = read {
            prop_assert!(status, "{:?}", String::from_utf8_lossy(&head));
            let others = fields.iter().map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec()));
            let others: Vec<_> = others.collect();
            for pair in read.pairs() {
                prop_assert!(others.contains(&pair), "{:?}", pair);
            }
        }
    }

    #[test]
    fn a_head_is_the_same_however_it_arrives(end in 0usize..90) {
        let whole = b"GET /a?b HTTP/1.1\r\nHost: a\r\nX-Y: z\r\nAccept: */*\r\nContent-Length: 12\r\n\r\nbody";
        let end = end.min(whole.len());
        let cut = parse_request(&whole[..end], &Limits::default()).unwrap();
        prop_assert_eq!(cut.is_some(), end >= whole.len() - 4);
    }
}
