//! Tells protocols apart by the first bytes of a connection.

use crate::opaque::is_introduction;

/// What an HTTP/2 connection with prior knowledge begins with.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest method that is taken for one; the longest registered has 17 letters.
const METHOD_BYTES_MAX: usize = 20;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The head of an HTTP/1 request.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// TLS, where it may be for us.
    Tls,
    /// The client hello of TLS that is not for us.
    Hello,
    /// The introduction of an opaque connection by another proxy of ours.
    Introduction,
    /// None of these.
    Other,
    /// Too few bytes to say.
    Unclear,
}

/// Judges the first bytes of a client.
pub(crate) fn judge(bytes: &[u8]) -> Verdict {
    let length = bytes.len().min(PREFACE.len());
    if bytes[..length] == PREFACE[..length] {
        return if length == PREFACE.len() {
            Verdict::Http2
        } else {
            Verdict::Unclear
        };
    }
    match is_introduction(bytes) {
        Some(true) => return Verdict::Introduction,
        None if !bytes.is_empty() => return Verdict::Unclear,
        _ => {}
    }
    match bytes {
        [0x16] | [0x16, 3] | [0x16, 3, _] | [0x16, 3, _, _] | [0x16, 3, _, _, _] => {
            Verdict::Unclear
        }
        [0x16, 3, 0..=4, high, _, 1, ..] if *high <= 0x40 => Verdict::Hello,
        _ => http1(bytes),
    }
}

/// `METHOD SP` and a target that begins as targets do. Redis, memcached and SMTP have
/// lines that begin with a word too, but not with a target behind it. Where the whole line
/// is there, it must end in a version.
fn http1(bytes: &[u8]) -> Verdict {
    // Robust servers skip empty lines before a request.
    let skipped = bytes
        .iter()
        .take_while(|b| matches!(b, b'\r' | b'\n'))
        .count();
    let line = &bytes[skipped..];
    let method = line.iter().take_while(|b| is_method_byte(**b)).count();
    if method > METHOD_BYTES_MAX || skipped > 4 {
        return Verdict::Other;
    }
    let rest = &line[method..];
    if rest.is_empty() {
        return Verdict::Unclear;
    }
    if method == 0 || rest[0] != b' ' {
        return Verdict::Other;
    }
    match rest.get(1) {
        None => return Verdict::Unclear,
        Some(b'/' | b'*' | b'h' | b'H') => {}
        Some(_) if line.starts_with(b"CONNECT ") => {}
        Some(_) => return Verdict::Other,
    }
    let Some(end) = rest.iter().position(|b| *b == b'\n') else {
        return Verdict::Http1;
    };
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    let versioned = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
    if versioned {
        Verdict::Http1
    } else {
        Verdict::Other
    }
}

const fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')
}

/// Says whether this may become a client hello of TLS.
pub(crate) fn may_be_tls(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x16)
}

/// Says whether a client hello of TLS begins here.
pub(crate) fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x16, 0x03, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Verdict) {
        assert_eq!(
            judge(bytes),
            expected,
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }

    #[test]
    fn first_bytes_decide() {
        check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Verdict::Http1);
        check(b"GET /half-a-li", Verdict::Http1);
        check(b"\r\nPOST http://a/ HTTP/1.0\r\n", Verdict::Http1);
        check(b"OPTIONS * HTTP/1.1\r\n", Verdict::Http1);
        check(b"CONNECT a:443 HTTP/1.1\r\n", Verdict::Http1);
        check(b"VERSION-CONTROL /a HTTP/1.1\r\n", Verdict::Http1);
        check(PREFACE, Verdict::Http2);
        check(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Verdict::Other);
        check(b"GET key\r\n", Verdict::Other);
        check(b"GET /x\r\n", Verdict::Other);
        check(b"*1\r\n$4\r\nPING\r\n", Verdict::Other);
        check(b"EHLO here\r\n", Verdict::Other);
        check(b"\x16\x03\x01\x02\x00\x01", Verdict::Hello);
        check(b"\x16\x03\x01\x02\x00\x02", Verdict::Other);
        check(b"\x16\x03\x01\x48\x00\x01", Verdict::Other);
        check(b"\x89WDI\r\n\x1a\n", Verdict::Introduction);
        check(b"\x89WDI\r\n\x1a\r", Verdict::Other);
        check(b"\0\0\0\0", Verdict::Other);
        check(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Verdict::Other);
    }

    #[test]
    fn too_few_bytes_decide_nothing() {
        for bytes in [
            &b""[..],
            b"P",
            b"PRI",
            b"GET",
            b"GET ",
            b"\r\n",
            b"\x16",
            b"\x16\x03\x01\x02\x00",
            b"\x89WDI\r\n",
            &PREFACE[..23],
        ] {
            check(bytes, Verdict::Unclear);
        }
        assert!(is_tls(b"\x16\x03\x01"));
        assert!(!is_tls(b"\x16"));
    }
}
