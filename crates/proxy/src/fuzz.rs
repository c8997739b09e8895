//! Doors to the parsers, for fuzzing only: each takes any bytes and must not panic.

use bytes::BytesMut;
use http::Method;

use crate::detect;
use crate::frames::Watch;
use crate::h1::{BodyDecoder, Decoded, Framing, Limits, parse_request, parse_response};
use crate::opaque::fuzz::{Hello, Introduction, Parsed, encode_answer, parse_answer, read_hello};
use crate::snapshot::Snapshot;

/// Parses a request head.
pub fn http1_request(bytes: &[u8]) {
    if let Ok(Some(head)) = parse_request(bytes, &Limits::default()) {
        assert!(head.bytes <= bytes.len(), "a head is longer than its bytes");
        assert!(!head.target.path().is_empty(), "a request has no target");
    }
}

/// Parses a response head.
pub fn http1_response(bytes: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        if let Ok(Some(head)) = parse_response(bytes, &method, &Limits::default()) {
            assert!(head.bytes <= bytes.len(), "a head is longer than its bytes");
        }
    }
}

/// Finds the end of a chunked body: at the same place however the bytes arrive.
pub fn http1_chunks(bytes: &[u8]) {
    assert_eq!(
        decode(bytes, bytes.len()),
        decode(bytes, 1),
        "how bytes are cut changes what they mean"
    );
}

/// How decoding ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Complete,
    Unfinished,
    Refused,
}

fn decode(bytes: &[u8], step: usize) -> (Vec<u8>, End) {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (mut buffer, mut body) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
                Ok(Decoded::End(_)) => return (body, End::Complete),
                Ok(Decoded::More) => break,
                Err(_) => return (body, End::Refused),
            }
        }
    }
    (body, End::Unfinished)
}

/// Reads what is kept of the server's word: what is accepted can be written, and is read
/// as the same again.
pub fn snapshot(bytes: &[u8]) {
    // The sum of the body is made right, or hardly any input would come as far as the body.
    let body = bytes.splitn(2, |byte| *byte == b'\n').nth(1);
    let summed = body.map(crate::snapshot::with_sum);
    for bytes in [bytes].into_iter().chain(summed.as_deref()) {
        let Ok(snapshot) = Snapshot::parse(bytes) else {
            continue;
        };
        let written = snapshot.to_bytes().ok();
        let again = written.and_then(|bytes| Snapshot::parse(&bytes).ok());
        assert!(
            again.is_none_or(|again| again == snapshot),
            "a snapshot of ours is read as another"
        );
    }
}

/// Tells the protocol by the first bytes.
pub fn first_bytes(bytes: &[u8]) {
    let verdict = detect::judge(bytes);
    let is_other = matches!(
        verdict,
        detect::Verdict::Http1 | detect::Verdict::Http2 | detect::Verdict::Introduction
    );
    assert!(
        !(detect::is_tls(bytes) && is_other),
        "TLS is taken for another protocol"
    );
}

/// Reads the server name of TLS: more bytes never change what fewer have told.
pub fn server_name(bytes: &[u8]) {
    let whole = read_hello(bytes);
    for end in cuts(bytes) {
        let part = read_hello(&bytes[..end]);
        assert!(
            part == Hello::Partial || part == whole,
            "how a hello is cut changes what it means"
        );
    }
    if let Hello::Whole(Some(name)) = whole {
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
}

/// Reads what proxies say to each other on opaque connections, both ways.
pub fn introduction(bytes: &[u8]) {
    let whole = Introduction::parse(bytes);
    for end in cuts(bytes) {
        let part = Introduction::parse(&bytes[..end]);
        assert!(part == Parsed::Partial || part == whole, "a cut misleads");
    }
    if let Parsed::Whole(introduction, length) = whole {
        assert_eq!(
            introduction.encode(),
            bytes[..length],
            "it is said otherwise"
        );
    }
    let answer = parse_answer(bytes);
    for end in cuts(bytes) {
        let part = parse_answer(&bytes[..end]);
        assert!(part == Parsed::Partial || part == answer, "a cut misleads");
    }
    if let Parsed::Whole(fault, length) = answer {
        let again = encode_answer(fault);
        assert_eq!(parse_answer(&again), Parsed::Whole(fault, length));
    }
}

/// Follows the frames of an HTTP/2 connection, in both directions: the same streams are seen
/// however the bytes are cut.
pub fn http2_frames(bytes: &[u8]) {
    let seen = |step: usize| {
        let mut watch = Watch::default();
        for piece in bytes.chunks(step.max(1)) {
            watch.read(&mut piece.to_vec());
        }
        let left = watch.left();
        for piece in bytes.chunks(step.max(1)) {
            watch.wrote(piece);
        }
        let refused = std::iter::from_fn(|| watch.next_refused()).count();
        assert!(refused <= bytes.len(), "more streams than bytes");
        (left, refused, watch.left())
    };
    assert_eq!(seen(bytes.len()), seen(1), "a cut changes what is seen");
    assert_eq!(seen(bytes.len()), seen(7), "a cut changes what is seen");
}

/// A few places to cut bytes at.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let length = bytes.len();
    let step = length / 16 + 1;
    (0..length).step_by(step).chain([length.saturating_sub(1)])
}
