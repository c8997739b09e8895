//! Reads `[route."SERVICE …"]`.

use std::time::Duration;

use whodunit_model::RouteRule;
use whodunit_model::route_rule::{
    GrpcMatch, PathMatch, RULES_MAX, RetryOn, RouteMatch, SPLIT_MAX, Timeouts, Weighted,
};
use whodunit_model::topology::ServiceName;

use super::error::{MeshFileError, list, nearest};
use super::read::{Found, Source, Table, number};
use super::table_of;

pub(super) const ROUTE_KEYS: &[&str] = &[
    "timeout",
    "answer_timeout",
    "idle_timeout",
    "retries",
    "retry_on",
    "retry_unsafe",
    "split",
];

const KEY_TAKES: &str = "SERVICE, SERVICE METHOD /path, or SERVICE package.Service/Method, such \
                         as [route.\"voting\"], [route.\"web GET /api/*\"] or \
                         [route.\"voting emojivoto.v1.VotingService/VotePoop\"]";

/// A route and the service it belongs to.
pub(super) struct Route {
    pub(super) service: String,
    pub(super) rule: RouteRule,
}

/// Reads all routes, in the order of the file; `known` has the services and externals.
pub(super) fn read(
    top: &Table<'_>,
    namespace: &str,
    known: &[String],
) -> Result<Vec<Route>, MeshFileError> {
    let takes = "a table for each route, such as [route.\"voting\"]";
    let entries = top.entries("route", takes)?;
    let mut routes: Vec<Route> = Vec::new();
    for (name, value) in &entries {
        let owner = format!("route `{}`", name.value);
        let (service, matches) = key(top.source, name, known)?;
        let table = table_of(top.source, &owner, name, value)?;
        let table = Table::new(top.source, owner, ROUTE_KEYS, table)?;
        let rule = rule(&table, name, matches, namespace, known)?;
        let same = routes.iter().filter(|route| route.service == service);
        if same.count() >= RULES_MAX {
            let message = format!("`{service}` has more than {RULES_MAX} routes");
            let error = top.source.error(name.span.clone(), message);
            return Err(error.help("remove some of them"));
        }
        routes.push(Route { service, rule });
    }
    Ok(routes)
}

/// Reads `SERVICE [METHOD] [/path | package.Service[/Method]]`.
fn key(
    source: Source<'_>,
    name: &Found<&str>,
    known: &[String],
) -> Result<(String, RouteMatch), MeshFileError> {
    let wrong = |what: String| {
        let error = source.error(name.span.clone(), what);
        error.help(format!("a route is named {KEY_TAKES}"))
    };
    let mut words = name.value.split(' ');
    let service = words.next().unwrap_or_default();
    if !known.iter().any(|known| known == service) {
        let names = || known.iter().map(String::as_str);
        let meant = nearest(service, names());
        let meant = meant.map(|meant| format!("did you mean `{meant}`? "));
        let message = format!("a route is about `{service}`, which is not in this file");
        let error = source.error(name.span.clone(), message);
        return Err(error.help(format!(
            "{}there are {}",
            meant.unwrap_or_default(),
            list(names())
        )));
    }
    let mut matches = RouteMatch::default();
    let upper = |word: &str| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    for word in words {
        if word.is_empty() {
            return Err(wrong(
                "the name of a route has two spaces in a row".to_owned(),
            ));
        }
        let has_target = matches.path != PathMatch::Any || matches.grpc.is_some();
        if has_target {
            return Err(wrong(format!("`{word}` follows the end of a route's name")));
        }
        if word.starts_with('/') {
            matches.path = path(word).ok_or_else(|| wrong(format!("`{word}` is no path")))?;
        } else if upper(word) && matches.method.is_none() {
            matches.method = Some(word.to_owned());
        } else if word.contains('.') {
            let (service, method) = match word.split_once('/') {
                Some((service, method)) => (service, Some(method.to_owned())),
                None => (word, None),
            };
            let bad = method
                .as_ref()
                .is_some_and(|m| m.is_empty() || m.contains('/'));
            if service.is_empty() || bad || matches.method.is_some() {
                return Err(wrong(format!("`{word}` is no method of gRPC")));
            }
            matches.grpc = Some(GrpcMatch {
                service: service.to_owned(),
                method,
            });
        } else {
            return Err(wrong(format!("`{word}` is neither a method nor a path")));
        }
    }
    Ok((service.to_owned(), matches))
}

/// Returns the name of a route as records have it: `web-GET-api`.
fn plain(name: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
    let words = name
        .split(|c: char| !kept(c))
        .filter(|word| !word.is_empty());
    let mut plain = words.collect::<Vec<_>>().join("-");
    plain.truncate(253);
    plain
}

fn path(text: &str) -> Option<PathMatch> {
    let plain = text.strip_suffix("/*").unwrap_or(text);
    if plain.contains(['*', '?', '#']) {
        return None;
    }
    let below = plain.len() < text.len();
    match (below, plain.contains("{}")) {
        (true, true) => None,
        (true, false) if plain.is_empty() => Some(PathMatch::Prefix("/".to_owned())),
        (true, false) => Some(PathMatch::Prefix(plain.to_owned())),
        (false, true) => Some(PathMatch::Template(text.to_owned())),
        (false, false) => Some(PathMatch::Exact(text.to_owned())),
    }
}

fn rule(
    table: &Table<'_>,
    name: &Found<&str>,
    matches: RouteMatch,
    namespace: &str,
    known: &[String],
) -> Result<RouteRule, MeshFileError> {
    let time = |key| -> Result<Option<u64>, MeshFileError> {
        if table.value(key).is_none() {
            return Ok(None);
        }
        let time = table.duration(key, Duration::ZERO)?;
        Ok(u64::try_from(time.as_millis()).ok())
    };
    let mut rule = RouteRule {
        name: plain(name.value),
        matches,
        timeouts: Timeouts {
            request_ms: time("timeout")?,
            response_headers_ms: time("answer_timeout")?,
            idle_ms: time("idle_timeout")?,
        },
        ..RouteRule::default()
    };
    let takes = "a number from 0 to 9: tries after the first";
    if let Some(retries) = table.number("retries", 0..=9, takes)? {
        rule.retries.attempts_max = u8::try_from(retries.value + 1).unwrap_or(1);
    }
    let takes = "an array of statuses, gRPC statuses and causes, such as [\"503\", \"UNAVAILABLE\", \
                 \"reset\"]";
    if table.value("retry_on").is_some() {
        rule.retries.on.clear();
        for text in table.strings("retry_on", takes)? {
            let on: Result<RetryOn, _> = text.value.parse();
            rule.retries.on.push(on.map_err(|_| {
                let message = format!("`{}` is nothing a try can fail with", text.value);
                let error = table.source.error(text.span.clone(), message);
                error.help(format!("`retry_on` takes {takes}"))
            })?);
        }
    }
    rule.retries.non_idempotent = table.boolean("retry_unsafe")?;
    let takes = "services and weights, such as { voting = 90, voting-v2 = 10 }";
    let entries = table.entries("split", takes)?;
    for (service, value) in &entries {
        if !known.iter().any(|known| known == service.value) {
            let message = format!(
                "`split` names `{}`, which is not in this file",
                service.value
            );
            let names = known.iter().map(String::as_str);
            let error = table.source.error(service.span.clone(), message);
            return Err(error.help(format!("there are {}", list(names))));
        }
        let weight = number(value.get_ref());
        let weight = weight.ok_or_else(|| table.refused("split", value, takes))?;
        rule.split.push(Weighted {
            service: ServiceName {
                namespace: namespace.to_owned(),
                name: service.value.to_owned(),
            },
            weight: u32::from(weight),
        });
    }
    let shared = rule.split.iter().any(|weighted| weighted.weight > 0);
    if let Some(value) = table.value("split")
        && (!shared || rule.split.len() > SPLIT_MAX)
    {
        let message = format!(
            "`split` of route `{}` gives nobody a share, or too many",
            name.value
        );
        let error = table.source.error(value.span(), message);
        return Err(error.help(format!(
            "it takes 1 to {SPLIT_MAX} {takes}, one of them above 0"
        )));
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_routes_have_each_form() {
        for (text, expected) in [
            ("/a", Some(PathMatch::Exact("/a".to_owned()))),
            ("/a/*", Some(PathMatch::Prefix("/a".to_owned()))),
            ("/*", Some(PathMatch::Prefix("/".to_owned()))),
            ("/a/{}/b", Some(PathMatch::Template("/a/{}/b".to_owned()))),
            ("/a/{}/*", None),
            ("/a*", None),
            ("/a?x", None),
        ] {
            assert_eq!(path(text), expected, "{text}");
        }
    }

    #[test]
    fn routes_are_named_by_what_they_are_about() {
        let file = "namespace = \"shop\"\n[service.web]\ncommand = \"web {port}\"\n";
        let read = |text: &str| {
            let text = format!("{file}{text}");
            crate::mesh_file::parse(&text, std::path::Path::new("mesh.toml"))
        };
        let mesh = read(
            "[route.\"web GET /api/*\"]\ntimeout = \"2s\"\nretries = 1\nretry_on = [\"5xx\"]\n\
             [route.\"web a.B/C\"]\nretry_unsafe = true\n[route.web]\nsplit = { web = 1 }\n",
        );
        let mesh = mesh.unwrap_or_else(|error| panic!("{error}"));
        let [api, grpc, rest] = mesh.services[0].routes.as_slice() else {
            panic!("{:?}", mesh.services[0].routes);
        };
        assert_eq!(api.name, "web-GET-api");
        assert_eq!(api.matches.method.as_deref(), Some("GET"));
        assert_eq!(api.matches.path, PathMatch::Prefix("/api".to_owned()));
        assert_eq!(
            (api.timeouts.request_ms, api.retries.attempts_max),
            (Some(2_000), 2)
        );
        assert_eq!(api.retries.on, ["5xx".parse().expect("known")]);
        let method = grpc
            .matches
            .grpc
            .as_ref()
            .and_then(|grpc| grpc.method.as_deref());
        assert_eq!((method, grpc.retries.non_idempotent), (Some("C"), true));
        assert_eq!(
            (rest.split.len(), &rest.matches),
            (1, &RouteMatch::default())
        );
        for (text, expected) in [
            (
                "[route.wbe]\n",
                "mesh.toml:4:8: a route is about `wbe`, which is not in this file",
            ),
            (
                "[route.\"web get\"]\n",
                "`get` is neither a method nor a path",
            ),
            ("[route.\"web /a /b\"]\n", "`/b` follows the end"),
            (
                "[route.web]\nretry_on = [\"x\"]\n",
                "mesh.toml:5:13: `x` is nothing a try",
            ),
            ("[route.web]\nsplit = { db = 1 }\n", "`split` names `db`"),
            ("[route.web]\nsplit = { web = 0 }\n", "gives nobody a share"),
            ("[route.web]\ntimeout = 2\n", "it takes a time such as"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
