//! `[[listener.route]]`: from tables to [`RouteRule`]s.

use serde::Deserialize;
use toml::Spanned;
use whodunit_model::RouteRule;
use whodunit_model::route_rule::{
    ATTEMPTS_MAX, GrpcMatch, PathMatch, RETRY_BODY_BYTES_MAX, RULES_MAX, Retries, RetryBudget,
    RouteMatch, SPLIT_MAX, Timeouts, Weighted,
};
use whodunit_model::topology::ServiceName;

use super::ConfigError;
use super::file::Source;

/// Longest timeout: a day. A longer one is a mistake in the unit.
const TIMEOUT_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTable {
    name: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    method: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    path_prefix: Option<Spanned<String>>,
    path_template: Option<Spanned<String>>,
    grpc: Option<Spanned<String>>,
    timeout: Option<TimeoutTable>,
    retry: Option<RetryTable>,
    #[serde(default)]
    split: Vec<Spanned<SplitTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeoutTable {
    request_ms: Option<Spanned<u64>>,
    response_headers_ms: Option<Spanned<u64>>,
    idle_ms: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryTable {
    attempts: Option<Spanned<u8>>,
    on: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    non_idempotent: bool,
    body_bytes: Option<Spanned<u32>>,
    budget_percent: Option<Spanned<u8>>,
    budget_per_second: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitTable {
    service: Spanned<String>,
    namespace: Option<Spanned<String>>,
    weight: u32,
}

/// Reads the rules of one listener; `discovered` is the namespace of its service, none if it
/// forwards to an address.
pub(super) fn rules(
    source: &Source<'_>,
    tables: &[Spanned<RouteTable>],
    discovered: Option<&str>,
) -> Result<Vec<RouteRule>, ConfigError> {
    if let Some(beyond) = tables.get(RULES_MAX) {
        let what = format!("a listener has more than {RULES_MAX} routes: join or remove some");
        return Err(source.at(beyond, what));
    }
    tables
        .iter()
        .map(|table| rule(source, table, discovered))
        .collect()
}

fn rule(
    source: &Source<'_>,
    spanned: &Spanned<RouteTable>,
    discovered: Option<&str>,
) -> Result<RouteRule, ConfigError> {
    let table = spanned.get_ref();
    let name = match &table.name {
        Some(name) => source.name("route.name", name)?,
        None => String::new(),
    };
    Ok(RouteRule {
        name,
        matches: RouteMatch {
            host: table.host.as_ref().map(|host| host.get_ref().clone()),
            method: method(source, table)?,
            path: path(source, table)?,
            grpc: grpc(source, table)?,
        },
        timeouts: match &table.timeout {
            Some(timeout) => timeouts(source, timeout)?,
            None => Timeouts::default(),
        },
        retries: match &table.retry {
            Some(retry) => retries(source, retry)?,
            None => Retries::default(),
        },
        split: split(source, spanned, discovered)?,
    })
}

fn method(source: &Source<'_>, table: &RouteTable) -> Result<Option<String>, ConfigError> {
    let Some(method) = &table.method else {
        return Ok(None);
    };
    let text = method.get_ref();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
        let what = format!("`route.method` is `{text}`: write it in capitals such as GET");
        return Err(source.at(method, what));
    }
    Ok(Some(text.clone()))
}

fn path(source: &Source<'_>, table: &RouteTable) -> Result<PathMatch, ConfigError> {
    let forms = [
        ("path", &table.path, PathMatch::Exact as fn(String) -> _),
        ("path_prefix", &table.path_prefix, PathMatch::Prefix),
        ("path_template", &table.path_template, PathMatch::Template),
    ];
    let mut found = PathMatch::Any;
    for (key, value, make) in forms {
        let Some(value) = value else { continue };
        if found != PathMatch::Any {
            let what = format!("`route.{key}` comes on top of another form of path: keep one");
            return Err(source.at(value, what));
        }
        let text = value.get_ref();
        if !text.starts_with('/') || text.contains(['?', '#']) {
            let what = format!("`route.{key}` is `{text}`: begin with `/`, without a query");
            return Err(source.at(value, what));
        }
        found = make(text.clone());
    }
    Ok(found)
}

fn grpc(source: &Source<'_>, table: &RouteTable) -> Result<Option<GrpcMatch>, ConfigError> {
    let Some(grpc) = &table.grpc else {
        return Ok(None);
    };
    let text = grpc.get_ref().as_str();
    let (service, method) = match text.split_once('/') {
        Some((service, method)) => (service, Some(method)),
        None => (text, None),
    };
    let wrong = service.is_empty() || method.is_some_and(|m| m.is_empty() || m.contains('/'));
    if wrong {
        let what = format!(
            "`route.grpc` is `{text}`: write package.Service or package.Service/Method, \
             without a leading `/`"
        );
        return Err(source.at(grpc, what));
    }
    Ok(Some(GrpcMatch {
        service: service.to_owned(),
        method: method.map(str::to_owned),
    }))
}

fn timeouts(source: &Source<'_>, table: &TimeoutTable) -> Result<Timeouts, ConfigError> {
    let read = |key: &str, value: &Option<Spanned<u64>>| match value {
        Some(ms) if !(1..=TIMEOUT_MS_MAX).contains(ms.get_ref()) => {
            let what = format!(
                "`route.timeout.{key}` is {}: use 1 to {TIMEOUT_MS_MAX}, or leave it out for \
                 no limit",
                ms.get_ref()
            );
            Err(source.at(ms, what))
        }
        Some(ms) => Ok(Some(*ms.get_ref())),
        None => Ok(None),
    };
    Ok(Timeouts {
        request_ms: read("request_ms", &table.request_ms)?,
        response_headers_ms: read("response_headers_ms", &table.response_headers_ms)?,
        idle_ms: read("idle_ms", &table.idle_ms)?,
    })
}

fn retries(source: &Source<'_>, table: &RetryTable) -> Result<Retries, ConfigError> {
    let mut retries = Retries {
        non_idempotent: table.non_idempotent,
        ..Retries::default()
    };
    if let Some(attempts) = &table.attempts {
        if !(1..=ATTEMPTS_MAX).contains(attempts.get_ref()) {
            let what = format!(
                "`route.retry.attempts` is {}: use 1 (no retry) to {ATTEMPTS_MAX}",
                attempts.get_ref()
            );
            return Err(source.at(attempts, what));
        }
        retries.attempts_max = *attempts.get_ref();
    }
    if let Some(on) = &table.on {
        retries.on = Vec::with_capacity(on.len());
        for text in on {
            let parsed = text.get_ref().parse();
            let parsed = parsed.map_err(|why| source.at(text, format!("`route.retry.on`: {why}")));
            retries.on.push(parsed?);
        }
    }
    if let Some(bytes) = &table.body_bytes {
        if *bytes.get_ref() > RETRY_BODY_BYTES_MAX {
            let what = format!(
                "`route.retry.body_bytes` is {}: use 0 to {RETRY_BODY_BYTES_MAX}",
                bytes.get_ref()
            );
            return Err(source.at(bytes, what));
        }
        retries.body_bytes_max = *bytes.get_ref();
    }
    let defaults = RetryBudget::default();
    let percent = match &table.budget_percent {
        Some(percent) if *percent.get_ref() > 100 => {
            let what = format!(
                "`route.retry.budget_percent` is {}: use 0 to 100",
                percent.get_ref()
            );
            return Err(source.at(percent, what));
        }
        Some(percent) => *percent.get_ref(),
        None => defaults.percent,
    };
    retries.budget = RetryBudget {
        percent,
        per_second: table.budget_per_second.unwrap_or(defaults.per_second),
    };
    Ok(retries)
}

fn split(
    source: &Source<'_>,
    spanned: &Spanned<RouteTable>,
    discovered: Option<&str>,
) -> Result<Vec<Weighted>, ConfigError> {
    let tables = &spanned.get_ref().split;
    let Some(first) = tables.first() else {
        return Ok(Vec::new());
    };
    let Some(namespace) = discovered else {
        let what = "`route.split` needs a listener with `service`: it forwards to one address";
        return Err(source.at(first, what.to_owned()));
    };
    if tables.len() > SPLIT_MAX {
        let what = format!("`route.split` has more than {SPLIT_MAX} services: remove some");
        return Err(source.at(first, what));
    }
    if tables.iter().all(|table| table.get_ref().weight == 0) {
        let what = "`route.split` has no weight above 0: give at least one service a share";
        return Err(source.at(first, what.to_owned()));
    }
    let weighted = |table: &Spanned<SplitTable>| {
        let table = table.get_ref();
        let namespace = match &table.namespace {
            Some(namespace) => source.name("route.split.namespace", namespace)?,
            None => namespace.to_owned(),
        };
        let name = source.name("route.split.service", &table.service)?;
        Ok(Weighted {
            service: ServiceName { namespace, name },
            weight: table.weight,
        })
    };
    tables.iter().map(weighted).collect()
}
