//! What is decided for requests of one kind: how long they may take, whether they are
//! tried again, and how they are split over services.
//!
//! A listener has a list of [`RouteRule`]s, from its configuration or from the server; the
//! first one that matches holds, and [`RouteRule::default`] where none does. Everything is
//! plain data: matching is a pure function of the request head.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::outcome::{Cause, grpc_status_code, grpc_status_name};
use crate::topology::ServiceName;

/// Most bytes of a request body that are kept so that the request can be sent again.
pub const RETRY_BODY_BYTES_MAX: u32 = 64 * 1024;

/// Most tries of one request, the first included.
pub const ATTEMPTS_MAX: u8 = 10;

/// Most rules of one listener; a list is gone through for each request.
pub const RULES_MAX: usize = 100;

/// Most services one rule may split requests over.
pub const SPLIT_MAX: usize = 16;

/// What holds for the requests it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRule {
    /// Names the rule in records; empty if it has no name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Which requests.
    #[serde(default)]
    pub matches: RouteMatch,
    /// How long they may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// When they are tried again.
    #[serde(default)]
    pub retries: Retries,
    /// Services that share the requests by weight; the listener's own if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<Weighted>,
}

/// Which requests a rule is for. A part that is not given matches every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteMatch {
    /// Host without port, in any case; `*.shop.local` matches every name below `shop.local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// HTTP method, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path without query.
    #[serde(default)]
    pub path: PathMatch,
    /// gRPC service and method; matches gRPC requests only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
}

/// Which paths a rule is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// Every path.
    #[default]
    Any,
    /// This path.
    Exact(String),
    /// This path and everything below it: `/api` matches `/api` and `/api/x`, not `/apix`.
    Prefix(String),
    /// A path with variable segments: `/users/{id}/cart` or `/users/{}/cart`.
    Template(String),
}

/// Which gRPC requests a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcMatch {
    /// Full name of the service, for example `emojivoto.v1.VotingService`.
    pub service: String,
    /// The method; every method if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// How long requests may take, ms. None means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the request head to the end of the response, retries included. A `grpc-timeout`
    /// that is shorter holds instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_ms: Option<u64>,
    /// From the sending of a try to the head of its response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_headers_ms: Option<u64>,
    /// Longest time in which no byte of either body moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

impl Timeouts {
    /// Says whether there is no limit at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.request_ms.is_none() && self.response_headers_ms.is_none() && self.idle_ms.is_none()
    }
}

/// When requests are tried again.
///
/// Whatever is written here, a request is never tried again once a byte of its response has
/// reached the client. A try of which the endpoint provably processed nothing (refused
/// connection, refused stream, a connection that ended before the request) may always be
/// repeated and needs no rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retries {
    /// Most tries, the first included, 1 to [`ATTEMPTS_MAX`].
    pub attempts_max: u8,
    /// What makes a try fail.
    pub on: Vec<RetryOn>,
    /// Also requests whose method may change something twice, gRPC included.
    pub non_idempotent: bool,
    /// Most bytes of a body that are kept for another try, at most [`RETRY_BODY_BYTES_MAX`].
    pub body_bytes_max: u32,
    /// How many retries there may be altogether.
    pub budget: RetryBudget,
}

impl Default for Retries {
    /// Three tries of requests that change nothing, when the connection fails.
    fn default() -> Self {
        Self {
            attempts_max: 3,
            on: vec![
                RetryOn::Cause(Cause::ConnectRefused),
                RetryOn::Cause(Cause::ConnectTimeout),
                RetryOn::Cause(Cause::Reset),
                RetryOn::Cause(Cause::ClosedEarly),
            ],
            non_idempotent: false,
            body_bytes_max: RETRY_BODY_BYTES_MAX,
            budget: RetryBudget::default(),
        }
    }
}

impl Retries {
    /// Says whether a response with this HTTP status is to be tried again.
    #[must_use]
    pub fn on_status(&self, status: u16) -> bool {
        self.on
            .iter()
            .any(|on| matches!(on, RetryOn::Status { from, to } if (*from..=*to).contains(&status)))
    }

    /// Says whether a response with this gRPC status is to be tried again.
    #[must_use]
    pub fn on_grpc(&self, code: u8) -> bool {
        self.on.contains(&RetryOn::Grpc(code))
    }

    /// Says whether any gRPC status leads to another try.
    #[must_use]
    pub fn on_any_grpc(&self) -> bool {
        self.on.iter().any(|on| matches!(on, RetryOn::Grpc(_)))
    }

    /// Says whether a try that failed with this cause is to be repeated.
    #[must_use]
    pub fn on_cause(&self, cause: Cause) -> bool {
        self.on.contains(&RetryOn::Cause(cause))
    }
}

/// What makes a try fail, as text: `5xx`, `503`, `UNAVAILABLE` (a gRPC status), `reset` (a
/// cause).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RetryOn {
    /// An HTTP status from `from` to `to`, both included.
    Status {
        /// Lowest status.
        from: u16,
        /// Highest status.
        to: u16,
    },
    /// A gRPC status.
    Grpc(u8),
    /// A failure that a proxy or the transport reported before the head of a response.
    Cause(Cause),
}

/// A text that names nothing a try can fail with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is nothing a try can fail with: use a status (503, 5xx), a gRPC status \
     (UNAVAILABLE) or a cause (reset, closed_early, connect_refused, connect_timeout, \
     response_headers_timeout)"
)]
pub struct NotARetryCondition {
    text: String,
}

/// Causes that a further try can help with.
const RETRYABLE: [Cause; 5] = [
    Cause::Reset,
    Cause::ClosedEarly,
    Cause::ConnectRefused,
    Cause::ConnectTimeout,
    Cause::ResponseHeadersTimeout,
];

impl FromStr for RetryOn {
    type Err = NotARetryCondition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotARetryCondition {
            text: text.to_owned(),
        };
        if let Some(class) = text.strip_suffix("xx") {
            let class: u16 = class.parse().map_err(|_| wrong())?;
            if !(4..=5).contains(&class) {
                return Err(wrong());
            }
            return Ok(Self::Status {
                from: class * 100,
                to: class * 100 + 99,
            });
        }
        if let Ok(status) = text.parse::<u16>() {
            if !(400..=599).contains(&status) {
                return Err(wrong());
            }
            return Ok(Self::Status {
                from: status,
                to: status,
            });
        }
        if let Some(cause) = RETRYABLE.iter().find(|cause| cause.name() == text) {
            return Ok(Self::Cause(*cause));
        }
        match grpc_status_code(text) {
            Some(code) if code != 0 => Ok(Self::Grpc(code)),
            _ => Err(wrong()),
        }
    }
}

impl std::fmt::Display for RetryOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { from, to } if from == to => write!(f, "{from}"),
            Self::Status { from, .. } => write!(f, "{}xx", from / 100),
            Self::Grpc(code) => f.write_str(grpc_status_name(*code)),
            Self::Cause(cause) => f.write_str(cause.name()),
        }
    }
}

impl TryFrom<String> for RetryOn {
    type Error = NotARetryCondition;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RetryOn> for String {
    fn from(on: RetryOn) -> Self {
        on.to_string()
    }
}

/// How many retries there may be per service: a share of the first tries, and some per
/// second so that a quiet service has retries too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryBudget {
    /// Retries per hundred first tries, 0 to 100.
    pub percent: u8,
    /// Retries per second on top.
    pub per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20,
            per_second: 10,
        }
    }
}

/// A share of the requests of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weighted {
    /// Who gets them.
    #[serde(flatten)]
    pub service: ServiceName,
    /// The share, relative to the other weights. Zero gets none.
    pub weight: u32,
}

/// Says whether the rules of a listener keep the bounds that are stated here. What was read
/// from a network or a disk has to be asked.
#[must_use]
pub fn are_bounded(rules: &[RouteRule]) -> bool {
    let bounded = |rule: &RouteRule| {
        let (retries, split) = (&rule.retries, &rule.split);
        let shared = split.is_empty() || split.iter().any(|share| share.weight > 0);
        (1..=ATTEMPTS_MAX).contains(&retries.attempts_max)
            && retries.body_bytes_max <= RETRY_BODY_BYTES_MAX
            && retries.budget.percent <= 100
            && split.len() <= SPLIT_MAX
            && shared
    };
    rules.len() <= RULES_MAX && rules.iter().all(bounded)
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// `Host` or `:authority`, with or without port.
    pub host: &'a str,
    /// HTTP method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Whether the request is gRPC.
    pub grpc: bool,
}

impl RouteMatch {
    /// Says whether the rule is for this request.
    #[must_use]
    pub fn matches(&self, head: RequestHead<'_>) -> bool {
        let is_host = |host: &String| matches_host(host, head.host);
        let is_grpc = |grpc: &GrpcMatch| head.grpc && grpc.matches(head.path);
        self.method.as_ref().is_none_or(|m| m == head.method)
            && self.path.matches(head.path)
            && self.grpc.as_ref().is_none_or(is_grpc)
            && self.host.as_ref().is_none_or(is_host)
    }
}

impl PathMatch {
    /// Says whether a path without query is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                path.strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Template(template) => {
                let mut segments = path.split('/');
                let fits = template.split('/').all(|wanted| {
                    segments.next().is_some_and(|segment| {
                        if wanted.starts_with('{') && wanted.ends_with('}') {
                            !segment.is_empty()
                        } else {
                            segment == wanted
                        }
                    })
                });
                fits && segments.next().is_none()
            }
        }
    }
}

impl GrpcMatch {
    /// Says whether the path of a gRPC request is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some((service, method)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else {
            return false;
        };
        service == self.service && self.method.as_ref().is_none_or(|wanted| wanted == method)
    }
}

fn matches_host(wanted: &str, host: &str) -> bool {
    // The port of an IPv6 address follows its bracket.
    let end = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && !name.is_empty() => name.len(),
        _ => host.len(),
    };
    let host = &host.as_bytes()[..end];
    match wanted.strip_prefix('*') {
        Some(suffix) => {
            let suffix = suffix.as_bytes();
            host.len() > suffix.len()
                && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
        }
        None => host.eq_ignore_ascii_case(wanted.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: RequestHead<'_> = RequestHead {
        host: "Shop.local:8080",
        method: "GET",
        path: "/users/7/cart",
        grpc: false,
    };

    #[track_caller]
    fn check_path(path: PathMatch, expected: bool) {
        assert_eq!(path.matches(HEAD.path), expected, "{path:?}");
    }

    #[test]
    fn paths_match_by_segment() {
        let text = str::to_owned;
        check_path(PathMatch::Any, true);
        check_path(PathMatch::Exact(text("/users/7/cart")), true);
        check_path(PathMatch::Exact(text("/users/7")), false);
        for prefix in ["/", "/users", "/users/", "/users/7/cart"] {
            check_path(PathMatch::Prefix(text(prefix)), true);
        }
        for prefix in ["/user", "/users/7/c", "/users/7/cart/x"] {
            check_path(PathMatch::Prefix(text(prefix)), false);
        }
        for template in ["/users/{}/cart", "/users/{id}/{what}"] {
            check_path(PathMatch::Template(text(template)), true);
        }
        for template in ["/users/{}", "/users/{}/cart/", "/{}", "/users/{}/carts"] {
            check_path(PathMatch::Template(text(template)), false);
        }
        assert!(!PathMatch::Template(text("/a/{}")).matches("/a/"));
    }

    #[test]
    fn hosts_match_without_port_and_case() {
        for (wanted, host, expected) in [
            ("shop.local", "Shop.local:8080", true),
            ("shop.local", "shop.local", true),
            ("*.local", "shop.local", true),
            ("*.shop.local", "shop.local", false),
            ("[::1]", "[::1]:80", true),
            ("[::1]", "[::1]", true),
            ("shop", "shop.local", false),
            ("shop", "", false),
        ] {
            assert_eq!(matches_host(wanted, host), expected, "{wanted} {host}");
        }
    }

    #[test]
    fn every_part_must_match() {
        let mut rule = RouteMatch {
            host: Some("shop.local".to_owned()),
            method: Some("GET".to_owned()),
            path: PathMatch::Prefix("/users".to_owned()),
            grpc: None,
        };
        assert!(rule.matches(HEAD));
        let post = RequestHead {
            method: "POST",
            ..HEAD
        };
        assert!(!rule.matches(post));
        rule.grpc = Some(GrpcMatch {
            service: "users".to_owned(),
            method: None,
        });
        assert!(!rule.matches(HEAD), "not gRPC");
        let grpc = GrpcMatch {
            service: "a.B".to_owned(),
            method: Some("C".to_owned()),
        };
        assert!(grpc.matches("/a.B/C"));
        assert!(!grpc.matches("/a.B/D"));
        assert!(!grpc.matches("/a.B"));
    }

    #[test]
    fn retry_conditions_round_trip_as_text() {
        for (text, expected) in [
            ("5xx", RetryOn::Status { from: 500, to: 599 }),
            ("503", RetryOn::Status { from: 503, to: 503 }),
            ("UNAVAILABLE", RetryOn::Grpc(14)),
            ("reset", RetryOn::Cause(Cause::Reset)),
        ] {
            assert_eq!(text.parse(), Ok(expected));
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!("unavailable".parse(), Ok(RetryOn::Grpc(14)));
        for wrong in ["", "2xx", "200", "OK", "policy_denied", "x"] {
            assert!(wrong.parse::<RetryOn>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rule_survives_json() {
        let rule = RouteRule {
            name: "carts".to_owned(),
            matches: RouteMatch {
                path: PathMatch::Template("/users/{}/cart".to_owned()),
                ..RouteMatch::default()
            },
            timeouts: Timeouts {
                request_ms: Some(1_000),
                ..Timeouts::default()
            },
            split: vec![Weighted {
                service: ServiceName {
                    namespace: "n".to_owned(),
                    name: "v2".to_owned(),
                },
                weight: 10,
            }],
            ..RouteRule::default()
        };
        let text = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<RouteRule>(&text).unwrap(), rule);
        assert_eq!(
            serde_json::from_str::<RouteRule>("{}").unwrap(),
            RouteRule::default()
        );
    }
}
