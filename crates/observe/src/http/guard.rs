//! What every request must pass before anything else: who asks, and how.
//!
//! The server listens on loopback and has no passwords, so a page in a browser
//! must not be able to reach it through a name of its own (DNS rebinding) or
//! from another origin. Host must be a loopback name; Origin, if there is one,
//! too.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use whodunit_api::error::ErrorDetail;

use crate::http::{App, error_response};

/// Longest request target. The longest sensible one carries a filter as JSON.
const TARGET_BYTES_MAX: usize = 32 * 1024;

/// Headers of every answer.
const SECURITY: [(HeaderName, HeaderValue); 5] = [
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Lets a request pass or says why not, and hardens the answer.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = match check(request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            if refusal.0 == StatusCode::FORBIDDEN {
                app.live.surface.forbidden.fetch_add(1, Ordering::Relaxed);
            }
            refusal.into_response()
        }
    };
    for (name, value) in SECURITY {
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}

struct Refusal(StatusCode, ErrorDetail);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let mut response = error_response(self.0, self.1);
        if self.0 == StatusCode::METHOD_NOT_ALLOWED {
            let allow = HeaderValue::from_static("GET");
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}

fn check(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let forbidden = |message: &str| {
        let detail = ErrorDetail {
            code: "forbidden_host".to_owned(),
            message: message.to_owned(),
            hint: "ask by the server's loopback address, for example http://127.0.0.1:7070"
                .to_owned(),
        };
        Err(Refusal(StatusCode::FORBIDDEN, detail))
    };
    if !has_loopback_host(uri, headers) {
        return forbidden("the Host header is not a loopback name or address");
    }
    if !headers
        .get_all(header::ORIGIN)
        .iter()
        .all(is_loopback_origin)
    {
        return forbidden("the Origin header is not a loopback origin");
    }
    if method != Method::GET {
        let detail = ErrorDetail {
            code: "bad_request".to_owned(),
            message: format!("method {method} is not allowed: everything here is read by GET"),
            hint: String::new(),
        };
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    if uri.path().len() + uri.query().map_or(0, str::len) > TARGET_BYTES_MAX {
        let detail = ErrorDetail {
            code: "too_large".to_owned(),
            message: format!("the request target is longer than {TARGET_BYTES_MAX} bytes"),
            hint: "ask with a smaller filter".to_owned(),
        };
        return Err(Refusal(StatusCode::URI_TOO_LONG, detail));
    }
    Ok(())
}

fn has_loopback_host(uri: &Uri, headers: &HeaderMap) -> bool {
    if uri
        .authority()
        .is_some_and(|authority| !is_loopback(authority))
    {
        return false;
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    Authority::try_from(host.as_bytes()).is_ok_and(|host| is_loopback(&host))
}

fn is_loopback_origin(origin: &HeaderValue) -> bool {
    let Ok(origin) = Uri::try_from(origin.as_bytes()) else {
        return false;
    };
    origin.scheme().is_some() && origin.authority().is_some_and(is_loopback)
}

fn is_loopback(authority: &Authority) -> bool {
    // Whoever sends user information wants the eye to read another host.
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn host(host: &str, expected: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).expect("a value"));
        let found = check(&Method::GET, &Uri::from_static("/live"), &headers).is_ok();
        assert_eq!(found, expected, "{host}");
    }

    #[test]
    fn only_loopback_hosts_pass() {
        host("127.0.0.1:7070", true);
        host("127.0.0.1", true);
        host("localhost:1", true);
        host("LOCALHOST", true);
        host("[::1]:7070", true);
        host("evil.example", false);
        host("localhost.evil.example", false);
        host("127.0.0.1.evil.example:7070", false);
        host("localhost@evil.example", false);
        host("evil.example@localhost", false);
        host("10.0.0.1:7070", false);
        host("", false);
        host("127.0.0.1 x", false);
    }

    #[test]
    fn only_loopback_origins_pass() {
        let check = |origin: &str, expected: bool| {
            let origin = HeaderValue::from_str(origin).expect("a value");
            assert_eq!(is_loopback_origin(&origin), expected, "{origin:?}");
        };
        check("http://127.0.0.1:7070", true);
        check("http://localhost:3000", true);
        check("http://[::1]:7070", true);
        check("https://evil.example", false);
        check("http://localhost.evil.example", false);
        check("null", false);
        check("", false);
    }

    #[test]
    fn two_hosts_are_no_host() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(check(&Method::GET, &Uri::from_static("/live"), &headers).is_err());
        let absolute = Uri::from_static("http://evil.example/live");
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(check(&Method::GET, &absolute, &headers).is_err());
    }
}
