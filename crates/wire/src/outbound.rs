//! Linkerd's `OutboundPolicies` messages to and from [`RouteRule`].
//!
//! Proxies of Linkerd read what their messages have words for: which requests, timeouts,
//! retries of statuses, and services that share requests by weight. Among the routes that
//! match they take the most specific one, where ours take the first. What has no words
//! there travels in the metadata of each route, where ours read the whole rule.

use linkerd2_proxy_api::grpc_route::{GrpcRouteMatch, GrpcRpcMatch};
use linkerd2_proxy_api::http_route::{
    HeaderMatch, HostMatch, HttpRouteMatch, PathMatch as WirePath, Timeouts as WireTimeouts,
    header_match, host_match, path_match,
};
use linkerd2_proxy_api::http_types::{HttpMethod, http_method};
use linkerd2_proxy_api::meta::{Metadata, Resource, metadata};
use linkerd2_proxy_api::outbound::backend::{
    BalanceP2c, EndpointDiscovery, Kind as BackendKind, balance_p2c, endpoint_discovery,
};
use linkerd2_proxy_api::outbound::http_route::retry::{Conditions, conditions};
use linkerd2_proxy_api::outbound::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque};
use linkerd2_proxy_api::outbound::traffic_spec::Target;
use linkerd2_proxy_api::outbound::{
    Backend, GrpcRoute, HttpRoute, OpaqueRoute, OutboundPolicy, ProxyProtocol, Queue, TrafficSpec,
    grpc_route, http_route, opaque_route,
};
use whodunit_model::record::Protocol;
use whodunit_model::route_rule::{PathMatch, RetryOn, RouteRule, are_bounded};
use whodunit_model::topology::{Service, ServiceName};

use crate::destination;

/// Group of what is ours.
const GROUP: &str = "whodunit";

/// Stands for a service that there is not.
const UNKNOWN: &str = "unknown";

/// Time for the first bytes of a connection of a protocol that is not declared.
const DETECT: prost_types::Duration = seconds(10);

/// Requests that may wait for an endpoint, and for how long.
const QUEUE: Queue = Queue {
    capacity: 100,
    failfast_timeout: Some(seconds(3)),
};

/// What Linkerd assumes of an endpoint that it has not asked yet, and for how long a
/// measured latency counts.
const LOAD: balance_p2c::PeakEwma = balance_p2c::PeakEwma {
    default_rtt: Some(prost_types::Duration {
        seconds: 0,
        nanos: 30_000_000,
    }),
    decay: Some(seconds(10)),
};

/// Methods whose requests change nothing twice.
const IDEMPOTENT: [&str; 5] = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"];

/// Why a message says nothing about routes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the routes cannot be used: {0}")]
pub struct NotRoutes(String);

/// Returns what a proxy asks about a service; `workload` names who asks.
#[must_use]
pub fn request(workload: String, service: &ServiceName) -> TrafficSpec {
    TrafficSpec {
        source_workload: workload,
        target: Some(Target::Authority(destination::path(service))),
    }
}

/// Returns the service that a proxy asks about; none if it asks about an address or junk.
#[must_use]
pub fn asked(spec: &TrafficSpec) -> Option<ServiceName> {
    match &spec.target {
        Some(Target::Authority(authority)) => destination::parse_path(authority),
        Some(Target::Addr(_)) | None => None,
    }
}

/// Returns the message for a service. For a name that no service has it lets everything
/// pass, as the endpoints are what such requests fail for.
#[must_use]
pub fn policy(name: &ServiceName, service: Option<&Service>) -> OutboundPolicy {
    let metadata = match service {
        Some(service) => resource(&service.name),
        None => Metadata {
            kind: Some(metadata::Kind::Default(UNKNOWN.to_owned())),
        },
    };
    let rules = service.map_or(&[][..], |service| &service.routes);
    let protocol = service.and_then(|service| service.protocol);
    let opaque = Opaque {
        routes: vec![opaque_route(name)],
    };
    let http1 = || Http1 {
        routes: http_routes(name, rules),
        failure_accrual: None,
    };
    let http2 = || Http2 {
        routes: http_routes(name, rules),
        failure_accrual: None,
    };
    let kind = match protocol {
        None => Kind::Detect(Detect {
            timeout: Some(DETECT),
            opaque: Some(opaque),
            http1: Some(http1()),
            http2: Some(http2()),
        }),
        Some(Protocol::Tcp) => Kind::Opaque(opaque),
        Some(Protocol::Http1) => Kind::Http1(http1()),
        Some(Protocol::Grpc) if rules.iter().all(is_about_grpc) => Kind::Grpc(Grpc {
            routes: grpc_routes(name, rules),
            failure_accrual: None,
        }),
        Some(Protocol::Http2 | Protocol::Grpc) => Kind::Http2(http2()),
    };
    OutboundPolicy {
        protocol: Some(ProxyProtocol { kind: Some(kind) }),
        metadata: Some(metadata),
    }
}

/// Returns the rules in a message of our server; none if it knows no such service, and so
/// nothing that could replace what was known before.
///
/// # Errors
/// When the message is not one of ours, or says what this version does not know: then
/// what was known before has to stay in force.
pub fn rules(policy: OutboundPolicy) -> Result<Option<Vec<RouteRule>>, NotRoutes> {
    let wrong = |what: &str| NotRoutes(what.to_owned());
    match policy.metadata.and_then(|metadata| metadata.kind) {
        Some(metadata::Kind::Default(name)) if name == UNKNOWN => return Ok(None),
        Some(metadata::Kind::Resource(resource)) if resource.group == GROUP => {}
        _ => return Err(wrong("they are not of a service of ours")),
    }
    let kind = policy.protocol.and_then(|protocol| protocol.kind);
    let routes: Vec<Option<Metadata>> = match kind {
        Some(Kind::Detect(detect)) => {
            let http = detect.http1.map(|http| http.routes).unwrap_or_default();
            http.into_iter().map(|route| route.metadata).collect()
        }
        Some(Kind::Http1(http)) => http.routes.into_iter().map(|r| r.metadata).collect(),
        Some(Kind::Http2(http)) => http.routes.into_iter().map(|r| r.metadata).collect(),
        Some(Kind::Grpc(grpc)) => grpc.routes.into_iter().map(|r| r.metadata).collect(),
        Some(Kind::Opaque(_)) => vec![],
        Some(Kind::Tls(_)) | None => return Err(wrong("their protocol is not known here")),
    };
    let mut rules = Vec::new();
    for metadata in routes {
        match metadata.and_then(|metadata| metadata.kind) {
            Some(metadata::Kind::Resource(resource)) if resource.group == GROUP => {
                rules.push(rule(&resource.section)?);
            }
            // The one for what no rule is about.
            Some(metadata::Kind::Default(_)) => {}
            _ => return Err(wrong("one of them is not ours")),
        }
    }
    if !are_bounded(&rules) {
        return Err(wrong("they are out of bounds"));
    }
    Ok(Some(rules))
}

fn rule(text: &str) -> Result<RouteRule, NotRoutes> {
    serde_json::from_str(text).map_err(|error| NotRoutes(error.to_string()))
}

const fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn milliseconds(ms: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1_000 * 1_000_000).unwrap_or(0),
    }
}

fn resource(service: &ServiceName) -> Metadata {
    Metadata {
        kind: Some(metadata::Kind::Resource(Resource {
            group: GROUP.to_owned(),
            kind: "Service".to_owned(),
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            ..Resource::default()
        })),
    }
}

/// Names a route, and has all of it for proxies of ours.
fn named(rule: &RouteRule) -> Metadata {
    Metadata {
        kind: Some(metadata::Kind::Resource(Resource {
            group: GROUP.to_owned(),
            kind: "Route".to_owned(),
            name: rule.name.clone(),
            // A rule is plain data: names, numbers and lists.
            section: serde_json::to_string(rule).unwrap_or_default(),
            ..Resource::default()
        })),
    }
}

/// Names the route of what no rule is about.
fn otherwise() -> Metadata {
    Metadata {
        kind: Some(metadata::Kind::Default("route".to_owned())),
    }
}

fn backend(service: &ServiceName) -> Backend {
    let discovery = endpoint_discovery::DestinationGet {
        path: destination::path(service),
    };
    Backend {
        metadata: Some(resource(service)),
        queue: Some(QUEUE),
        kind: Some(BackendKind::Balancer(BalanceP2c {
            discovery: Some(EndpointDiscovery {
                kind: Some(endpoint_discovery::Kind::Dst(discovery)),
            }),
            load: Some(balance_p2c::Load::PeakEwma(LOAD)),
        })),
    }
}

/// The services that get the requests of a rule: module, own service, rule.
macro_rules! distribution {
    ($route:ident, $own:expr, $split:expr) => {{
        let to = |service: &ServiceName| $route::RouteBackend {
            backend: Some(backend(service)),
            ..Default::default()
        };
        let kind = if $split.is_empty() {
            $route::distribution::Kind::FirstAvailable($route::distribution::FirstAvailable {
                backends: vec![to($own)],
            })
        } else {
            let backends = $split.iter().map(|share| $route::WeightedRouteBackend {
                backend: Some(to(&share.service)),
                weight: share.weight,
            });
            $route::distribution::Kind::RandomAvailable($route::distribution::RandomAvailable {
                backends: backends.collect(),
            })
        };
        Some($route::Distribution { kind: Some(kind) })
    }};
}

fn opaque_route(name: &ServiceName) -> OpaqueRoute {
    let split: [whodunit_model::route_rule::Weighted; 0] = [];
    OpaqueRoute {
        metadata: Some(otherwise()),
        rules: vec![opaque_route::Rule {
            backends: distribution!(opaque_route, name, split),
            filters: vec![],
        }],
    }
}

fn http_routes(name: &ServiceName, rules: &[RouteRule]) -> Vec<HttpRoute> {
    let route = |metadata: Metadata, rule: &RouteRule| HttpRoute {
        metadata: Some(metadata),
        hosts: rule.matches.host.iter().map(|text| host(text)).collect(),
        rules: vec![http_route::Rule {
            matches: vec![http_match(rule)],
            backends: distribution!(http_route, name, rule.split),
            timeouts: timeouts(rule),
            retry: http_retry(rule),
            ..http_route::Rule::default()
        }],
    };
    let each = rules.iter().map(|rule| route(named(rule), rule));
    let last = route(otherwise(), &unmatched());
    each.chain([last]).collect()
}

fn grpc_routes(name: &ServiceName, rules: &[RouteRule]) -> Vec<GrpcRoute> {
    let route = |metadata: Metadata, rule: &RouteRule| {
        let rpc = rule.matches.grpc.as_ref().map(|grpc| GrpcRpcMatch {
            service: grpc.service.clone(),
            method: grpc.method.clone().unwrap_or_default(),
        });
        GrpcRoute {
            metadata: Some(metadata),
            hosts: rule.matches.host.iter().map(|text| host(text)).collect(),
            rules: vec![grpc_route::Rule {
                matches: vec![GrpcRouteMatch {
                    rpc: Some(rpc.unwrap_or_default()),
                    headers: vec![],
                }],
                backends: distribution!(grpc_route, name, rule.split),
                timeouts: timeouts(rule),
                retry: grpc_retry(rule),
                ..grpc_route::Rule::default()
            }],
        }
    };
    let each = rules.iter().map(|rule| route(named(rule), rule));
    let last = route(otherwise(), &unmatched());
    each.chain([last]).collect()
}

/// What holds for what no rule is about: nothing that Linkerd has words for.
fn unmatched() -> RouteRule {
    let mut rule = RouteRule::default();
    rule.retries.attempts_max = 1;
    rule
}

fn is_about_grpc(rule: &RouteRule) -> bool {
    let matches = &rule.matches;
    matches.path == PathMatch::Any && matches.method.is_none()
}

fn host(text: &str) -> HostMatch {
    let kind = match text.strip_prefix("*.") {
        Some(suffix) => host_match::Match::Suffix(host_match::Suffix {
            reverse_labels: suffix.rsplit('.').map(str::to_owned).collect(),
        }),
        None => host_match::Match::Exact(text.to_owned()),
    };
    HostMatch {
        r#match: Some(kind),
    }
}

fn http_match(rule: &RouteRule) -> HttpRouteMatch {
    let matches = &rule.matches;
    let kind = match (&matches.path, &matches.grpc) {
        (_, Some(grpc)) => match &grpc.method {
            Some(method) => path_match::Kind::Exact(format!("/{}/{method}", grpc.service)),
            None => path_match::Kind::Prefix(format!("/{}", grpc.service)),
        },
        (PathMatch::Any, None) => path_match::Kind::Prefix("/".to_owned()),
        (PathMatch::Exact(text), None) => path_match::Kind::Exact(text.clone()),
        (PathMatch::Prefix(text), None) => path_match::Kind::Prefix(text.clone()),
        (PathMatch::Template(text), None) => {
            path_match::Kind::Regex(destination::template_regex(text))
        }
    };
    let grpc = matches.grpc.iter().map(|_| HeaderMatch {
        name: "content-type".to_owned(),
        value: Some(header_match::Value::Regex("application/grpc.*".to_owned())),
    });
    HttpRouteMatch {
        path: Some(WirePath { kind: Some(kind) }),
        headers: grpc.collect(),
        query_params: vec![],
        method: matches.method.as_deref().map(method),
    }
}

fn method(name: &str) -> HttpMethod {
    let kind = match http_method::Registered::from_str_name(name) {
        Some(registered) => http_method::Type::Registered(registered.into()),
        None => http_method::Type::Unregistered(name.to_owned()),
    };
    HttpMethod { r#type: Some(kind) }
}

fn timeouts(rule: &RouteRule) -> Option<WireTimeouts> {
    let ours = &rule.timeouts;
    let some = ours.request_ms.is_some() || ours.idle_ms.is_some();
    some.then(|| WireTimeouts {
        response: None,
        request: ours.request_ms.map(milliseconds),
        idle: ours.idle_ms.map(milliseconds),
    })
}

/// Says whether Linkerd's proxies may be told to try again: they do not look at the method.
fn may_retry(rule: &RouteRule) -> bool {
    let method = rule.matches.method.as_deref();
    let harmless = method.is_some_and(|method| IDEMPOTENT.contains(&method));
    rule.retries.attempts_max > 1 && (rule.retries.non_idempotent || harmless)
}

fn http_retry(rule: &RouteRule) -> Option<http_route::Retry> {
    let ranges = rule.retries.on.iter().filter_map(|on| match on {
        RetryOn::Status { from, to } => Some(conditions::StatusRange {
            start: u32::from(*from),
            end: u32::from(*to),
        }),
        RetryOn::Grpc(_) | RetryOn::Cause(_) => None,
    });
    let ranges: Vec<_> = ranges.collect();
    (may_retry(rule) && !ranges.is_empty()).then(|| http_route::Retry {
        max_retries: u32::from(rule.retries.attempts_max.saturating_sub(1)),
        max_request_bytes: rule.retries.body_bytes_max,
        conditions: Some(Conditions {
            status_ranges: ranges,
        }),
        timeout: rule.timeouts.response_headers_ms.map(milliseconds),
        backoff: None,
    })
}

fn grpc_retry(rule: &RouteRule) -> Option<grpc_route::Retry> {
    let on = |code: u8| rule.retries.on_grpc(code);
    let conditions = grpc_route::retry::Conditions {
        cancelled: on(1),
        deadine_exceeded: on(4),
        resource_exhausted: on(8),
        internal: on(13),
        unavailable: on(14),
    };
    let some = conditions != grpc_route::retry::Conditions::default();
    (may_retry(rule) && some).then(|| grpc_route::Retry {
        max_retries: u32::from(rule.retries.attempts_max.saturating_sub(1)),
        max_request_bytes: rule.retries.body_bytes_max,
        conditions: Some(conditions),
        timeout: rule.timeouts.response_headers_ms.map(milliseconds),
        backoff: None,
    })
}

#[cfg(test)]
mod tests {
    use whodunit_model::route_rule::{GrpcMatch, Weighted};

    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "n".to_owned(),
            name: name.to_owned(),
        }
    }

    fn service(protocol: Option<Protocol>, routes: Vec<RouteRule>) -> Service {
        Service {
            name: name("web"),
            workload: "web".to_owned(),
            protocol,
            external: false,
            policy: None,
            routes,
            address: None,
            endpoints: vec![],
        }
    }

    fn some_rules() -> Vec<RouteRule> {
        let mut users = RouteRule {
            name: "users of a shop".to_owned(),
            ..RouteRule::default()
        };
        users.matches.host = Some("*.shop.local".to_owned());
        users.matches.method = Some("GET".to_owned());
        users.matches.path = PathMatch::Template("/users/{}/cart".to_owned());
        users.timeouts.request_ms = Some(2_500);
        users.timeouts.response_headers_ms = Some(700);
        users.retries.on = vec!["5xx".parse().unwrap(), "reset".parse().unwrap()];
        users.retries.budget.percent = 7;
        let mut vote = RouteRule::default();
        vote.matches.grpc = Some(GrpcMatch {
            service: "v1.Voting".to_owned(),
            method: None,
        });
        vote.retries.on = vec!["UNAVAILABLE".parse().unwrap()];
        vote.retries.non_idempotent = true;
        let canary = RouteRule {
            split: vec![
                Weighted {
                    service: name("web"),
                    weight: 90,
                },
                Weighted {
                    service: name("web-v2"),
                    weight: 10,
                },
            ],
            ..RouteRule::default()
        };
        vec![users, vote, canary]
    }

    #[test]
    fn rules_come_back_as_they_were_whatever_the_protocol() {
        let all = [
            None,
            Some(Protocol::Http1),
            Some(Protocol::Http2),
            Some(Protocol::Grpc),
        ];
        for protocol in all {
            for routes in [some_rules(), some_rules()[1..].to_vec(), vec![]] {
                let service = service(protocol, routes.clone());
                let message = policy(&service.name, Some(&service));
                assert_eq!(rules(message), Ok(Some(routes)), "{protocol:?}");
            }
        }
        assert_eq!(rules(policy(&name("web"), None)), Ok(None));
        let bytes = policy(&name("db"), Some(&service(Some(Protocol::Tcp), vec![])));
        assert_eq!(rules(bytes), Ok(Some(vec![])));
    }

    #[test]
    fn what_linkerd_has_words_for_is_said_in_them() {
        let service = service(None, some_rules());
        let message = policy(&service.name, Some(&service));
        let Some(Kind::Detect(detect)) = message.protocol.unwrap().kind else {
            panic!("not declared, so detected");
        };
        assert!(detect.timeout.is_some() && detect.opaque.is_some() && detect.http2.is_some());
        let routes = detect.http1.unwrap().routes;
        let [users, vote, canary, rest] = routes.as_slice() else {
            panic!("three rules and the rest: {routes:?}");
        };
        let rule = &users.rules[0];
        let text = format!("{rule:?}{:?}", users.hosts);
        for part in [
            r#"Regex("/users/[^/]+/cart")"#,
            "Registered(Get)",
            r#"["local", "shop"]"#,
            "seconds: 2, nanos: 500000000",
            "max_retries: 2",
            "StatusRange { start: 500, end: 599 }",
            r#"DestinationGet { path: "web.n" }"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        // Retries of what may change something twice are ours alone, unless they are asked for.
        assert!(vote.rules[0].retry.is_none() && canary.rules[0].retry.is_none());
        let canary = format!("{:?}", canary.rules[0].backends);
        assert!(
            canary.contains("weight: 10") && canary.contains("web-v2.n"),
            "{canary}"
        );
        assert_eq!(rest.rules[0].matches[0].path, http_match(&unmatched()).path);
        let vote = service_of_grpc();
        let Some(Kind::Grpc(grpc)) = vote.protocol.unwrap().kind else {
            panic!("gRPC alone");
        };
        let vote = format!("{:?}", grpc.routes[0].rules[0]);
        assert!(
            vote.contains("unavailable: true") && vote.contains("v1.Voting"),
            "{vote}"
        );
    }

    fn service_of_grpc() -> OutboundPolicy {
        let service = service(Some(Protocol::Grpc), some_rules()[1..].to_vec());
        policy(&service.name, Some(&service))
    }

    #[test]
    fn what_is_not_ours_or_out_of_bounds_is_no_routes() {
        let service = service(Some(Protocol::Http1), some_rules());
        let good = policy(&service.name, Some(&service));
        let with = |section: &str| {
            let mut policy = good.clone();
            let kind = policy.protocol.as_mut().and_then(|p| p.kind.as_mut());
            let Some(Kind::Http1(http)) = kind else {
                panic!("declared");
            };
            let metadata = http.routes[0].metadata.as_mut();
            if let Some(metadata::Kind::Resource(resource)) = metadata.unwrap().kind.as_mut() {
                section.clone_into(&mut resource.section);
            }
            rules(policy)
        };
        assert!(with("{}").is_ok());
        for section in [
            "",
            "7",
            "{\"retries\":{\"attempts_max\":0}}",
            "{\"retries\":{\"attempts_max\":200}}",
            "{\"retries\":{\"body_bytes_max\":4000000000}}",
            "{\"retries\":{\"budget\":{\"percent\":101}}}",
            "{\"retries\":{\"on\":[\"nothing\"]}}",
            "{\"split\":[{\"namespace\":\"n\",\"name\":\"a\",\"weight\":0}]}",
        ] {
            assert!(with(section).is_err(), "{section}");
        }
        let foreign = OutboundPolicy {
            metadata: None,
            ..good.clone()
        };
        assert!(rules(foreign).is_err());
        let bare = OutboundPolicy {
            protocol: None,
            ..good
        };
        assert!(rules(bare).is_err());
    }

    #[test]
    fn names_are_asked_for_by_authority() {
        let spec = request("n:edge-0".to_owned(), &name("web"));
        assert_eq!(asked(&spec), Some(name("web")));
        let with_port = TrafficSpec {
            target: Some(Target::Authority("web.n.svc.cluster.local:80".to_owned())),
            ..spec.clone()
        };
        assert_eq!(asked(&with_port), Some(name("web")));
        let junk = TrafficSpec {
            target: None,
            ..spec
        };
        assert_eq!(asked(&junk), None);
    }
}
