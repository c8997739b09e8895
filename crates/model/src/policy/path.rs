//! One form of a path for decisions, and every way in which an application may read it.
//!
//! Applications disagree on what `/a//b`, `/a/../b`, `/a;x/b` or `/a%2Fb` mean. A rule must
//! hold whichever of them is right: what no two of them read alike is refused
//! ([`PathError`]), and of everything else all [`readings`] are judged.

use std::borrow::Cow;

/// Why a path cannot be judged: applications read it in ways that cannot be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the path does not begin with /")]
    Relative,
    /// `%` without two hexadecimal digits behind it.
    #[error("the path has a % that begins no escape")]
    BadEscape,
    /// `%2F` or `%5C`.
    #[error("the path has an escaped slash or backslash")]
    EscapedSlash,
    /// `%00` or another control character.
    #[error("the path has an escaped control character")]
    EscapedControl,
    /// `%25` before two hexadecimal digits.
    #[error("the path is escaped twice")]
    EscapedTwice,
    /// A backslash.
    #[error("the path has a backslash")]
    Backslash,
    /// A control character or a space.
    #[error("the path has a byte that must be escaped")]
    Control,
    /// Escapes that are no UTF-8.
    #[error("the path is no UTF-8")]
    NotUtf8,
}

/// Returns what a path may mean to an application, escapes decoded once: as it was sent,
/// and in each form that it may be brought into. The first is the canonical form: empty
/// and `.` segments removed, `..` resolved. None is there twice; a plain path has one.
///
/// # Errors
/// When there are more ways to read it than can be listed.
pub fn readings(path: &str) -> Result<Vec<Cow<'_, str>>, PathError> {
    if path == "*" {
        return Ok(vec![Cow::Borrowed(path)]);
    }
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if is_plain(path) {
        return Ok(vec![Cow::Borrowed(path)]);
    }
    let decoded = decode(path)?;
    let mut readings: Vec<Cow<'_, str>> = Vec::with_capacity(6);
    let mut add = |reading: Cow<'static, str>| {
        if !readings.contains(&reading) {
            readings.push(reading);
        }
    };
    add(resolve(&merge(&decoded)).into());
    add(merge(&resolve(&decoded)).into());
    add(merge(&decoded).into());
    let bare = without_parameters(&decoded);
    add(resolve(&merge(&bare)).into());
    add(merge(&resolve(&bare)).into());
    add(decoded.into());
    Ok(readings)
}

/// Returns the canonical form of a path.
///
/// # Errors
/// As [`readings`].
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    Ok(readings(path)?.into_iter().next().unwrap_or_default())
}

/// Says whether there is one way only to read a path.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let strange = |b: &u8| !b.is_ascii_graphic() || matches!(b, b'%' | b';' | b'\\' | b'?' | b'#');
    let segments = |pair: &[u8]| matches!(pair, [b'/', b'/' | b'.']);
    !bytes.iter().any(strange) && !bytes.windows(2).any(segments)
}

/// Decodes every escape, once.
fn decode(path: &str) -> Result<String, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => return Err(PathError::Backslash),
            0..=0x20 | 0x7f => return Err(PathError::Control),
            b'%' => {
                let value = match (bytes.next().and_then(digit), bytes.next().and_then(digit)) {
                    (Some(high), Some(low)) => high << 4 | low,
                    _ => return Err(PathError::BadEscape),
                };
                match value {
                    b'/' | b'\\' => return Err(PathError::EscapedSlash),
                    0..=0x1f | 0x7f => return Err(PathError::EscapedControl),
                    b'%' => {
                        let mut rest = bytes.clone();
                        let twice = (rest.next().and_then(digit), rest.next().and_then(digit));
                        if twice.0.is_some() && twice.1.is_some() {
                            return Err(PathError::EscapedTwice);
                        }
                        out.push(b'%');
                    }
                    value => out.push(value),
                }
            }
            byte => out.push(byte),
        }
    }
    // Escapes may stand side by side so that two of them make one more: `%%32%35`.
    let decoded = String::from_utf8(out).map_err(|_| PathError::NotUtf8)?;
    let doubled = decoded
        .as_bytes()
        .windows(3)
        .any(|three| three[0] == b'%' && digit(three[1]).is_some() && digit(three[2]).is_some());
    if doubled {
        return Err(PathError::EscapedTwice);
    }
    Ok(decoded)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Removes empty segments, apart from a last one.
fn merge(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

/// Removes `.` and resolves `..`; nothing is above the root (RFC 3986, 5.2.4).
fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (i, segment) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        match *segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

/// Cuts what some take for a query or fragment, and from each segment what some take for
/// parameters.
fn without_parameters(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let segments = path
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: &[&str]) {
        let readings = readings(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(readings, expected, "{path}");
    }

    #[test]
    fn a_plain_path_is_read_in_one_way() {
        for path in [
            "/",
            "/a",
            "/a/b.c/d-e_f~g",
            "/a/",
            "/x.y/..z",
            "*",
            "/a@b:c,d=e!",
        ] {
            assert_eq!(readings(path).map(|all| all.len()), Ok(1), "{path}");
        }
        assert!(matches!(readings("/a/b").unwrap()[0], Cow::Borrowed(_)));
    }

    #[test]
    fn every_reading_of_a_path_is_listed() {
        check("/%61dmin", &["/admin"]);
        check("//admin", &["/admin", "//admin"]);
        check("/a/../admin", &["/admin", "/a/../admin"]);
        check(
            "/a//../admin",
            &["/admin", "/a/admin", "/a/../admin", "/a//../admin"],
        );
        check("/admin;x=1/b", &["/admin;x=1/b", "/admin/b"]);
        check("/admin/..;/b", &["/admin/..;/b", "/b"]);
        check("/admin%3Fx", &["/admin?x", "/admin"]);
        check("/../../a", &["/a", "/../../a"]);
        check("/a/.", &["/a/", "/a/."]);
        check("/a/%2e%2e/b", &["/b", "/a/../b"]);
        check("/%e2%82%ac", &["/€"]);
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        for (path, error) in [
            ("", PathError::Relative),
            ("admin", PathError::Relative),
            ("/a%2Fb", PathError::EscapedSlash),
            ("/a%2fb", PathError::EscapedSlash),
            ("/a%5Cb", PathError::EscapedSlash),
            ("/a\\b", PathError::Backslash),
            ("/a%00", PathError::EscapedControl),
            ("/a%0d%0a", PathError::EscapedControl),
            ("/a%252fb", PathError::EscapedTwice),
            ("/%2561dmin", PathError::EscapedTwice),
            ("/%25%36%31dmin", PathError::EscapedTwice),
            ("/a%", PathError::BadEscape),
            ("/a%2", PathError::BadEscape),
            ("/a%zz", PathError::BadEscape),
            ("/a%u0061", PathError::BadEscape),
            ("/a%c0%af", PathError::NotUtf8),
            ("/a%ff", PathError::NotUtf8),
            ("/a b", PathError::Control),
        ] {
            assert_eq!(readings(path), Err(error), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path_has_a_canonical_form_or_an_error(path in "[/a.%2;efF0-9?#é]{0,24}") {
            if let Ok(all) = readings(&path) {
                proptest::prop_assert!((1..=6).contains(&all.len()));
                // A canonical form is its own only canonical form, as far as it can be written.
                if is_plain(&all[0]) {
                    proptest::prop_assert_eq!(canonical(&all[0]).unwrap(), all[0].clone());
                }
            }
        }
    }
}
