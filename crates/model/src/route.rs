//! Names the route of a request.
//!
//! A route groups requests that do the same thing: method and path template,
//! or gRPC service and method. Names come from a pure function of the request,
//! so two proxies that never talked agree on them; the number of names per
//! service is bounded so that traffic can never blow up memory or label sets.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Most route names kept per service; later ones become [`OTHER`].
pub const ROUTES_PER_SERVICE: usize = 200;

/// Most services whose routes are remembered; routes of later ones become [`OTHER`].
pub const SERVICES: usize = 1_000;

/// The name for all routes beyond the bound.
pub const OTHER: &str = "[OTHER]";

/// Longest path segment that is kept as it is, in bytes.
const SEGMENT_BYTES_MAX: usize = 24;

/// Most segments of a template; the rest becomes one `{}`.
const SEGMENTS_MAX: usize = 12;

/// Says whether a path segment varies from request to request: a number, a
/// UUID, a hexadecimal string, anything longer than 24 bytes, or anything with
/// bytes that do not belong in a name.
#[must_use]
pub fn is_variable(segment: &str) -> bool {
    if segment.is_empty() {
        return false;
    }
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    let numeric = digits > 0
        && bytes
            .iter()
            .all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.' | b',' | b'_'));
    let hexadecimal = bytes.len() >= 8 && digits > 0 && bytes.iter().all(u8::is_ascii_hexdigit);
    let strange = bytes
        .iter()
        .any(|b| !b.is_ascii_graphic() || matches!(b, b'{' | b'}' | b'%'));
    numeric || hexadecimal || strange || is_uuid(bytes) || bytes.len() > SEGMENT_BYTES_MAX
}

fn is_uuid(bytes: &[u8]) -> bool {
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// Returns the path template of a request path: no query, variable segments as `{}`.
#[must_use]
pub fn template(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut out = String::with_capacity(path.len());
    for (i, segment) in path.split('/').skip(1).enumerate() {
        out.push('/');
        if i >= SEGMENTS_MAX {
            out.push_str("{}");
            break;
        }
        out.push_str(if is_variable(segment) { "{}" } else { segment });
    }
    if out.is_empty() {
        out.push_str(if path == "*" { "*" } else { "/" });
    }
    out
}

/// Returns the route of an HTTP request, for example `GET /users/{}`.
#[must_use]
pub fn http_route(method: &str, path: &str) -> String {
    format!("{method} {}", template(path))
}

/// Returns the route of a gRPC request: `package.Service/Method`.
#[must_use]
pub fn grpc_route(path: &str) -> String {
    let name = path.strip_prefix('/').unwrap_or(path);
    let well_formed = name.len() <= 200
        && name.split('/').count() == 2
        && name.split('/').all(|part| !part.is_empty())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/'));
    if well_formed {
        name.to_owned()
    } else {
        format!("POST {}", template(path))
    }
}

/// Returns the part of a route that people say: the method of a gRPC route
/// (`VotePoop`), the whole route otherwise.
#[must_use]
pub fn short(route: &str) -> &str {
    if route.contains(' ') {
        return route;
    }
    match route.rsplit_once('/') {
        Some((service, method)) if !service.is_empty() && !method.is_empty() => method,
        _ => route,
    }
}

/// Hands out route names, at most [`ROUTES_PER_SERVICE`] per service.
#[derive(Debug, Default)]
pub struct RouteNames {
    services: HashMap<Arc<str>, HashSet<Arc<str>>>,
    overflowed: u64,
}

impl RouteNames {
    /// Returns `route` itself, shared, or [`OTHER`] if the service has too many routes.
    pub fn name(&mut self, service: &str, route: &str) -> Arc<str> {
        if let Some(name) = self
            .services
            .get(service)
            .and_then(|known| known.get(route))
        {
            return name.clone();
        }
        if !self.services.contains_key(service) && self.services.len() >= SERVICES {
            self.overflowed += 1;
            return OTHER.into();
        }
        let known = self.services.entry(service.into()).or_default();
        if known.len() >= ROUTES_PER_SERVICE {
            self.overflowed += 1;
            return OTHER.into();
        }
        let name: Arc<str> = route.into();
        known.insert(name.clone());
        name
    }

    /// Returns how many requests were named [`OTHER`].
    #[must_use]
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(path: &str, expected: &str) {
        assert_eq!(template(path), expected);
    }

    #[test]
    fn variable_segments_become_braces() {
        check("/api/vote?choice=:poop:", "/api/vote");
        check("/users/123/orders/2024-01-02", "/users/{}/orders/{}");
        check("/o/550e8400-e29b-41d4-a716-446655440000", "/o/{}");
        check("/blob/deadbeef01", "/blob/{}");
        check("/facade/decade", "/facade/decade");
        check("/a-very-long-segment-that-nobody-named", "/{}");
        check("/emoji/%F0%9F%92%A9", "/emoji/{}");
        check("/v1/status/500", "/v1/status/{}");
        check("/", "/");
        check("", "/");
        check("*", "*");
        check("//x/", "//x/");
        check(
            "/a/b/c/d/e/f/g/h/i/j/k/l/m/n",
            "/a/b/c/d/e/f/g/h/i/j/k/l/{}",
        );
    }

    #[test]
    fn grpc_routes_are_service_and_method() {
        let route = grpc_route("/emojivoto.v1.VotingService/VotePoop");
        assert_eq!(route, "emojivoto.v1.VotingService/VotePoop");
        assert_eq!(short(&route), "VotePoop");
        assert_eq!(short("GET /api/vote"), "GET /api/vote");
        assert_eq!(grpc_route("/x"), "POST /x");
    }

    #[test]
    fn routes_beyond_the_bound_become_other() {
        let mut names = RouteNames::default();
        for i in 0..ROUTES_PER_SERVICE {
            assert_eq!(
                &*names.name("web", &format!("GET /page-{i}x")),
                format!("GET /page-{i}x")
            );
        }
        assert_eq!(&*names.name("web", "GET /one-more"), OTHER);
        assert_eq!(&*names.name("web", "GET /page-0x"), "GET /page-0x");
        assert_eq!(&*names.name("api", "GET /one-more"), "GET /one-more");
        assert_eq!(names.overflowed(), 1);
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "\\PC{0,80}") {
            let _ = template(&path);
            let _ = grpc_route(&path);
        }

        #[test]
        fn a_template_is_its_own_template(path in "(/[a-z0-9.-]{0,30}){0,14}") {
            let once = template(&path);
            prop_assert_eq!(template(&once), once);
        }
    }
}
