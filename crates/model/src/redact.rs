//! Keeps secrets out of records.
//!
//! Runs in the proxy, before anything is recorded. Query values are kept only
//! where their name is allow-listed; every other value, and every path segment
//! that varies, is replaced by a short keyed hash, so that equal values can
//! still be recognized as equal by those who hold neither value nor key.

use std::borrow::Cow;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::route;

/// Longest path that is recorded, in bytes.
pub const PATH_BYTES_MAX: usize = 512;

/// Longest attribute text that is recorded, in bytes.
pub const ATTRIBUTES_BYTES_MAX: usize = 1_024;

/// Headers that are never captured, whatever is configured.
const NEVER_CAPTURED: [&str; 8] = [
    "authorization",
    "cookie",
    "set-cookie",
    "proxy-authorization",
    "proxy-authenticate",
    "www-authenticate",
    "x-api-key",
    "x-auth-token",
];

/// What may be recorded in clear, and the key for what may not.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    /// Key of the hash, one per installation.
    pub key: [u8; 16],
    /// Query parameters whose values are recorded in clear and become attributes.
    pub query: Vec<String>,
    /// Request headers whose values are recorded in clear as attributes, lower case.
    pub headers: Vec<String>,
}

/// A path that is safe to record, and the attributes found in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedactedPath {
    /// Path and query, at most [`PATH_BYTES_MAX`] bytes.
    pub path: String,
    /// Allow-listed query parameters.
    pub attributes: Attributes,
}

impl Redaction {
    /// Returns `~` and eight hexadecimal digits that stand for `value`.
    #[must_use]
    pub fn hash(&self, value: &str) -> String {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(value.as_bytes());
        format!("~{:08x}", hasher.finish() >> 32)
    }

    /// Redacts a request target in origin form (`/path?query`).
    #[must_use]
    pub fn path(&self, target: &str) -> RedactedPath {
        let mut out = RedactedPath::default();
        let target = target.split('#').next().unwrap_or_default();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        for (i, segment) in path.split('/').enumerate() {
            if i > 0 {
                out.path.push('/');
            }
            if route::is_variable(segment) {
                out.path.push_str(&self.hash(segment));
            } else {
                out.path.push_str(segment);
            }
        }
        for (i, pair) in query
            .into_iter()
            .flat_map(|query| query.split('&'))
            .enumerate()
        {
            out.path.push(if i == 0 { '?' } else { '&' });
            self.query_pair(pair, &mut out);
            if out.path.len() > PATH_BYTES_MAX {
                break;
            }
        }
        truncate(&mut out.path, PATH_BYTES_MAX);
        out
    }

    /// Redacts the path of a gRPC request: service and method are names from the
    /// code, not values, and stay readable. Anything else is redacted as usual.
    #[must_use]
    pub fn grpc_path(&self, target: &str) -> RedactedPath {
        let names_a_method = target
            .strip_prefix('/')
            .is_some_and(|name| route::grpc_route(target) == name);
        if names_a_method {
            return RedactedPath {
                path: target.to_owned(),
                attributes: Attributes::default(),
            };
        }
        self.path(target)
    }

    fn query_pair(&self, pair: &str, out: &mut RedactedPath) {
        let Some((name, value)) = pair.split_once('=') else {
            // A bare word may be a value as well as a name.
            if !pair.is_empty() {
                out.path.push_str(&self.hash(pair));
            }
            return;
        };
        let plain_name = name.len() <= 64
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if !plain_name {
            out.path.push_str(&self.hash(name));
            out.path.push('=');
            out.path.push_str(&self.hash(value));
            return;
        }
        out.path.push_str(name);
        out.path.push('=');
        if self.query.iter().any(|allowed| allowed == name) {
            let decoded = decode(value);
            out.path.push_str(&escape(&decoded));
            out.attributes.push(name, &decoded);
        } else if !value.is_empty() {
            out.path.push_str(&self.hash(value));
        }
    }

    /// Says whether a request header (lower case) may be captured.
    #[must_use]
    pub fn captures(&self, header: &str) -> bool {
        self.headers.iter().any(|allowed| allowed == header) && !is_secret_header(header)
    }
}

/// Says whether a header (lower case) is never recorded, whatever is configured.
#[must_use]
pub fn is_secret_header(header: &str) -> bool {
    NEVER_CAPTURED.contains(&header)
        || header.ends_with("-token")
        || header.ends_with("-secret")
        || header.ends_with("-key")
}

/// Captured names and values as one text: `name=value&name=value`.
///
/// `%`, `&`, `=` and control characters inside names and values are percent
/// encoded, everything else stays readable (`choice=:poop:`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub String);

impl Attributes {
    /// Appends one attribute, or nothing if the text would become too long.
    pub fn push(&mut self, name: &str, value: &str) {
        let mut pair = String::with_capacity(name.len() + value.len() + 2);
        if !self.0.is_empty() {
            pair.push('&');
        }
        pair.push_str(&escape(name));
        pair.push('=');
        pair.push_str(&escape(value));
        if self.0.len() + pair.len() <= ATTRIBUTES_BYTES_MAX {
            self.0.push_str(&pair);
        }
    }

    /// Iterates over the names and values of an attribute text.
    pub fn iter(text: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        text.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((percent_decode(name, false), percent_decode(value, false)))
        })
    }

    /// Returns the value of the attribute with this name.
    #[must_use]
    pub fn value<'a>(text: &'a str, name: &str) -> Option<Cow<'a, str>> {
        Self::iter(text)
            .find(|(found, _)| found == name)
            .map(|(_, value)| value)
    }
}

/// Percent-encodes what would break the attribute text or a terminal.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '%' | '&' | '=' | '#' | ' ') {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Decodes a form value (`%XX` and `+`).
fn decode(text: &str) -> Cow<'_, str> {
    percent_decode(text, true)
}

fn percent_decode(text: &str, plus_is_space: bool) -> Cow<'_, str> {
    let plain = !text.contains('%') && (!plus_is_space || !text.contains('+'));
    if plain {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = (bytes[i] == b'%')
            .then(|| bytes.get(i + 1..i + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(if plus_is_space && bytes[i] == b'+' {
                    b' '
                } else {
                    bytes[i]
                });
                i += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// Cuts `text` to at most `bytes` bytes at a character border.
pub fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn demo() -> Redaction {
        Redaction {
            key: [7; 16],
            query: vec!["choice".to_owned()],
            headers: vec![],
        }
    }

    #[test]
    fn allow_listed_values_stay_readable() {
        let redacted = demo().path("/api/vote?choice=%3Apoop%3A");
        assert_eq!(redacted.path, "/api/vote?choice=:poop:");
        assert_eq!(redacted.attributes.0, "choice=:poop:");
        assert_eq!(
            Attributes::value(&redacted.attributes.0, "choice").as_deref(),
            Some(":poop:")
        );
    }

    #[test]
    fn everything_else_is_hashed() {
        let target = "/login/4242424242424242?token=hunter2&hunter3&pass%77ord=hunter4";
        let redacted = demo().path(target).path;
        for secret in ["hunter2", "hunter3", "hunter4", "4242"] {
            assert!(!redacted.contains(secret), "{redacted}");
        }
        assert!(redacted.starts_with("/login/~"), "{redacted}");
        assert_eq!(
            demo().path(target).path,
            redacted,
            "equal values get equal hashes"
        );
    }

    #[test]
    fn grpc_methods_stay_readable() {
        let path = "/emojivoto.v1.EmojiService/FindByShortcode";
        assert_eq!(demo().grpc_path(path).path, path);
        assert!(
            !demo()
                .grpc_path("/x/4242424242424242?token=hunter2")
                .path
                .contains("4242")
        );
    }

    #[test]
    fn secret_headers_are_never_captured() {
        let redaction = Redaction {
            headers: vec!["authorization".to_owned(), "x-tenant".to_owned()],
            ..Redaction::default()
        };
        assert!(!redaction.captures("authorization"));
        assert!(redaction.captures("x-tenant"));
        assert!(is_secret_header("x-session-token"));
    }

    proptest! {
        #[test]
        fn no_target_panics_or_grows(target in "\\PC{0,700}") {
            let redacted = demo().path(&target);
            prop_assert!(redacted.path.len() <= PATH_BYTES_MAX);
            prop_assert!(redacted.attributes.0.len() <= ATTRIBUTES_BYTES_MAX);
        }

        #[test]
        fn attributes_round_trip(pairs in proptest::collection::vec(("[a-z]{1,8}", "\\PC{0,20}"), 0..6)) {
            let mut attributes = Attributes::default();
            for (name, value) in &pairs {
                attributes.push(name, value);
            }
            let found: Vec<_> = Attributes::iter(&attributes.0)
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect();
            prop_assert_eq!(found, pairs);
        }
    }
}
