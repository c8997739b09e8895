//! Looks over the bytes of a head: where it ends, and whether its parts have only the bytes
//! that such parts may have.

use http::{StatusCode, Version};

use super::head::{HeadError, Limits, METHOD_BYTES_MAX, OWN_FIELDS, bad};
use crate::limits::{self, Limit};

/// A byte of a token (RFC 9110, 5.6.2).
const TOKEN: u8 = 1;
/// A byte of a field value (RFC 9110, 5.5).
const VALUE: u8 = 2;

/// What each byte may be part of.
static BYTES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        let token = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        let value = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        table[byte as usize] = if token { TOKEN } else { 0 } | if value { VALUE } else { 0 };
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// Returns how many bytes at the beginning of `bytes` may be in a token.
pub(super) fn token_length(bytes: &[u8]) -> usize {
    let end = bytes
        .iter()
        .position(|b| BYTES[usize::from(*b)] & TOKEN == 0);
    end.unwrap_or(bytes.len())
}

/// Returns how many bytes at the beginning of `bytes` may be in a field value.
pub(super) fn value_length(bytes: &[u8]) -> usize {
    let end = bytes
        .iter()
        .position(|b| BYTES[usize::from(*b)] & VALUE == 0);
    end.unwrap_or(bytes.len())
}

/// At most two empty lines before a request line are passed over (RFC 9112 §2.2).
pub(super) fn empty_lines(bytes: &[u8]) -> usize {
    let lines = bytes
        .chunks_exact(2)
        .take(2)
        .take_while(|pair| *pair == b"\r\n")
        .count();
    lines * 2
}

/// Returns where the next control character up to CR is, eight bytes at a time.
fn next_control(bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    const BELOW: u64 = 0x0e;
    let mut at = from;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*eight);
        // A byte below borrows from its high bit; the lowest one found is always right.
        let found = word.wrapping_sub(ONES * BELOW) & !word & HIGHS;
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?.iter();
    let found = rest.into_iter().position(|b| u64::from(*b) < BELOW);
    found.map(|found| at + found)
}

/// Finds the end of the head. Every line must end in CRLF: a lone CR or LF is read
/// as a line end by some parsers and as data by others.
pub(super) fn head_end(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, HeadError> {
    let mut line_start = 0;
    let mut lines = 0;
    let window = &bytes[..bytes.len().min(limits.head_bytes)];
    let mut from = 0;
    while let Some(i) = next_control(window, from) {
        match window[i] {
            b'\r' => match window.get(i + 1) {
                Some(b'\n') => {
                    if i == line_start {
                        return Ok(Some(i + 2));
                    }
                    lines += 1;
                    if lines > limits.fields + OWN_FIELDS + 1 {
                        limits::hit(Limit::HeadFields);
                        return Err(HeadError::TooLarge);
                    }
                    from = i + 2;
                    line_start = from;
                    continue;
                }
                Some(_) => return Err(bad("a carriage return stands alone")),
                None => break,
            },
            b'\n' => return Err(bad("a line feed stands alone")),
            0 => return Err(bad("a NUL byte")),
            _ => {}
        }
        from = i + 1;
    }
    if bytes.len() >= limits.head_bytes {
        limits::hit(Limit::HeadBytes);
        Err(HeadError::TooLarge)
    } else {
        Ok(None)
    }
}

/// The first bytes of a request line, of which the end has not come yet.
pub(super) fn begins_as_method(bytes: &[u8]) -> Result<(), HeadError> {
    let length = bytes.iter().position(|b| *b == b' ').unwrap_or(bytes.len());
    // An empty line may still come to an end before the request line.
    let is_method = token_length(&bytes[..length]) == length || matches!(bytes, b"\r");
    if is_method && length <= METHOD_BYTES_MAX {
        Ok(())
    } else {
        Err(bad("the method is not a token"))
    }
}

/// Returns the first line, without its end.
pub(super) fn first_line(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == b'\r');
    &bytes[..end.unwrap_or(bytes.len())]
}

/// Reads the request line: method and target, where each is, and the version. It must be
/// three parts with single spaces between them.
pub(super) fn request_line<'a>(
    line: &'a [u8],
    limits: &Limits,
) -> Result<(&'a [u8], &'a [u8], Version), HeadError> {
    const PARTS: HeadError = bad("the request line is not three parts with single spaces");
    let space = |b: &u8| *b == b' ';
    let first = line.iter().position(space).ok_or(PARTS)?;
    let last = line.iter().rposition(space).ok_or(PARTS)?;
    if first == last {
        return Err(PARTS);
    }
    let (method, target, version) = (&line[..first], &line[first + 1..last], &line[last + 1..]);
    let is_graphic = target.iter().all(u8::is_ascii_graphic);
    if !is_graphic && target.contains(&b' ') {
        return Err(PARTS);
    }
    if method.len() > METHOD_BYTES_MAX {
        return Err(bad("the method is too long"));
    }
    if target.len() > limits.target_bytes {
        limits::hit(Limit::TargetBytes);
        return Err(HeadError::TargetTooLong);
    }
    if target.is_empty() || !is_graphic {
        return Err(bad("the target has bytes that must be escaped"));
    }
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ if version.starts_with(b"HTTP/") => return Err(HeadError::Version),
        _ => return Err(bad("the request line has no version")),
    };
    if method.is_empty() || token_length(method) != method.len() {
        return Err(bad("the method is not a token"));
    }
    Ok((method, target, version))
}

/// Reads the status line, of which the reason phrase may be missing.
pub(super) fn status_line(line: &[u8]) -> Result<(Version, StatusCode, &[u8]), HeadError> {
    const BROKEN: HeadError = bad("the status line is not valid");
    let (version, rest) = match line.split_at_checked(9) {
        Some((b"HTTP/1.1 ", rest)) => (Version::HTTP_11, rest),
        Some((b"HTTP/1.0 ", rest)) => (Version::HTTP_10, rest),
        _ => return Err(HeadError::Version),
    };
    let (code, rest) = rest.split_first_chunk::<3>().ok_or(BROKEN)?;
    let reason = match rest.split_first() {
        None => rest,
        Some((b' ', reason)) => reason,
        Some(_) => return Err(BROKEN),
    };
    if value_length(reason) != reason.len() {
        return Err(BROKEN);
    }
    // Three digits from 100 on.
    let status = StatusCode::from_bytes(code).ok();
    let status = status.filter(|status| status.as_u16() < 600);
    let status = status.ok_or(bad("the status is not between 100 and 599"))?;
    Ok((version, status, reason))
}
