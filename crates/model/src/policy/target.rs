//! What is asked for, and which requests a rule is about.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::client::{PatternError, as_text};
use super::path;

/// How strictly a request must fit to be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// For what a rule permits: in every reading, to the letter.
    Strict,
    /// For what a rule forbids: in any reading, however an application may take it.
    Loose,
}

/// Most segments of a path pattern.
const SEGMENTS_MAX: usize = 64;

/// Which paths a rule is about: `/a/b`, `/users/{}/posts` with `{}` for one segment, or
/// `/static/*` for `/static` and everything below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern {
    /// Segments; none stands for any one segment that is not empty.
    segments: Vec<Option<String>>,
    /// Everything below, too.
    below: bool,
}

impl PathPattern {
    /// Says whether one reading of a path is meant.
    pub(super) fn matches(&self, reading: &str, fit: Fit) -> bool {
        if reading == "*" {
            return fit == Fit::Loose && self.below && self.segments.is_empty();
        }
        let mut rest = reading.strip_prefix('/').unwrap_or(reading);
        if fit == Fit::Loose && !self.below {
            rest = rest.strip_suffix('/').unwrap_or(rest);
        }
        let mut parts = rest.split('/');
        let own = match self.segments.split_last() {
            Some((Some(last), before)) if fit == Fit::Loose && last.is_empty() => before,
            _ => self.segments.as_slice(),
        };
        if own.is_empty() && !self.below {
            return rest.is_empty();
        }
        for segment in own {
            let fits = match (segment, parts.next()) {
                (Some(literal), Some(part)) => literal == part,
                (None, Some(part)) => !part.is_empty(),
                (_, None) => false,
            };
            if !fits {
                return false;
            }
        }
        self.below || parts.next().is_none()
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |why: &str| {
            PatternError(format!(
                "`{text}` is no path: {why}; write /a/b, /users/{{}}/posts with {{}} for one \
                 segment, or /static/* for everything below /static"
            ))
        };
        if text == "*" {
            return Ok(Self {
                segments: vec![],
                below: true,
            });
        }
        let (plain, below) = match text.strip_suffix("/*") {
            Some("") => ("/", true),
            Some(plain) => (plain, true),
            None => (text, false),
        };
        if plain.contains('*') {
            return Err(wrong("* stands at the end only"));
        }
        if plain.len() > 1_024 {
            return Err(wrong("it has more than 1024 bytes"));
        }
        if plain.contains(['?', '#', ';']) {
            return Err(wrong("rules are about the path alone, without ?, # and ;"));
        }
        if plain.contains('%') {
            return Err(wrong("rules are about paths without escapes"));
        }
        let canonical = path::canonical(plain).map_err(|error| wrong(&error.to_string()))?;
        if canonical != plain {
            return Err(wrong(&format!("it can be written simpler, as {canonical}")));
        }
        let mut segments = Vec::new();
        for segment in plain.split('/').skip(1) {
            match segment {
                "{}" => segments.push(None),
                segment if segment.contains(['{', '}']) => {
                    return Err(wrong("{} stands for a whole segment"));
                }
                segment => segments.push(Some(segment.to_owned())),
            }
        }
        if below && plain == "/" {
            segments.clear();
        }
        if segments.len() > SEGMENTS_MAX {
            return Err(wrong("it has more than 64 segments"));
        }
        Ok(Self { segments, below })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            write!(f, "/{}", segment.as_deref().unwrap_or("{}"))?;
        }
        if self.below {
            f.write_str("/*")?;
        }
        Ok(())
    }
}

/// Which hosts a rule is about: `shop.example`, or `*.example` for everything below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    name: String,
    below: bool,
}

/// Returns a host as hosts are compared: lower case, without port and last dot; none if
/// it is none.
#[must_use]
pub fn host(text: &str) -> Option<String> {
    let name = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        if !rest.is_empty() {
            port(rest.strip_prefix(':')?)?;
        }
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        return Some(format!("[{address}]"));
    } else {
        match text.split_once(':') {
            Some((name, number)) => {
                port(number)?;
                name
            }
            None => text,
        }
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let good = !name.is_empty() && name.len() <= 253 && name.bytes().all(plain);
    (good && !name.starts_with('.') && !name.contains("..")).then(|| name.to_ascii_lowercase())
}

fn port(text: &str) -> Option<()> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(())
}

impl HostPattern {
    /// Says whether a host, in the form of [`host`], is meant.
    pub(super) fn matches(&self, host: &str) -> bool {
        if self.below {
            host.strip_suffix(self.name.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty())
        } else {
            host == self.name
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let has_port = !name.starts_with('[') && name.contains(':') || name.contains("]:");
        match host(name) {
            Some(found) if !has_port => Ok(Self { name: found, below }),
            _ => Err(PatternError(format!(
                "`{text}` is no host: write shop.example, without a port, or *.example for \
                 everything below"
            ))),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        write!(f, "{below}{}", self.name)
    }
}

as_text!(PathPattern, HostPattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, strict: &[&str], loose: &[&str], not: &[&str]) {
        let parsed: PathPattern = pattern.parse().expect(pattern);
        for path in strict {
            assert!(
                parsed.matches(path, Fit::Strict),
                "{pattern} strictly {path}"
            );
            assert!(parsed.matches(path, Fit::Loose), "{pattern} loosely {path}");
        }
        for path in loose {
            assert!(
                !parsed.matches(path, Fit::Strict),
                "{pattern} not strictly {path}"
            );
            assert!(parsed.matches(path, Fit::Loose), "{pattern} loosely {path}");
        }
        for path in not {
            assert!(!parsed.matches(path, Fit::Loose), "{pattern} not {path}");
        }
    }

    #[test]
    fn paths_are_matched_by_segments() {
        check(
            "/admin",
            &["/admin"],
            &["/admin/"],
            &["/", "/administrator", "/admin/x", "/Admin"],
        );
        check("/admin/", &["/admin/"], &["/admin"], &["/admin/x"]);
        check(
            "/admin/*",
            &["/admin", "/admin/", "/admin/x/y"],
            &[],
            &["/administrator", "/x"],
        );
        check(
            "/u/{}/posts",
            &["/u/7/posts"],
            &["/u/7/posts/"],
            &["/u//posts", "/u/7/8/posts"],
        );
        check("/u/{}/*", &["/u/7", "/u/7/8/9"], &[], &["/u", "/u/"]);
        check("/", &["/"], &[], &["/a", "*"]);
        check("/*", &["/", "/a", "/a/b"], &["*"], &[]);
        check("*", &["/", "/a"], &["*"], &[]);
    }

    #[test]
    fn patterns_that_would_never_match_are_refused() {
        for junk in [
            "", "admin", "/a/../b", "//a", "/a%2Fb", "/%61", "/a*", "/a/*/b", "/a?x", "/{}x",
            "/a;b",
        ] {
            assert!(junk.parse::<PathPattern>().is_err(), "{junk}");
        }
        for junk in ["", "a:80", "*", "*.", "a b", "a/b", "[::1]:80", "a..b"] {
            assert!(junk.parse::<HostPattern>().is_err(), "{junk}");
        }
        for text in ["/a/{}/b", "/a/*", "/", "/*", "/a/"] {
            assert_eq!(text.parse::<PathPattern>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn hosts_are_compared_without_case_port_and_last_dot() {
        let exact: HostPattern = "Shop.Example".parse().unwrap();
        for same in [
            "shop.example",
            "SHOP.example:8080",
            "shop.example.",
            "shop.example.:80",
        ] {
            assert!(exact.matches(&host(same).unwrap()), "{same}");
        }
        assert!(!exact.matches(&host("a.shop.example").unwrap()));
        let below: HostPattern = "*.example".parse().unwrap();
        assert!(below.matches("a.b.example") && !below.matches("example"));
        assert_eq!(host("[::1]:80").as_deref(), Some("[::1]"));
        for junk in ["", "a@b", "a/b", "a,b", "a:b", "[x]", "%61"] {
            assert_eq!(host(junk), None, "{junk}");
        }
    }
}
