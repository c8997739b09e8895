//! Linkerd's `Destination` messages to and from [`Service`] and [`Endpoint`].
//!
//! Facts that Linkerd's message has no field for travel as metric labels, as
//! Linkerd's own control plane does: `namespace`, `deployment`, `service` for
//! the set, `pod` for an address. Ours are `version` and `whodunit_meshed`.

use std::collections::HashMap;
use std::net::SocketAddr;

use linkerd2_proxy_api::destination::tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity};
use linkerd2_proxy_api::destination::{
    AddrSet, DestinationProfile, NoEndpoints, PathMatch as RegexMatch, RequestMatch, RetryBudget,
    Route as ProfileRoute, TlsIdentity, Update, WeightedAddr, WeightedAddrSet, WeightedDst,
    request_match, update,
};
use linkerd2_proxy_api::http_types::{HttpMethod, http_method};
use linkerd2_proxy_api::net::TcpAddress;
use whodunit_model::record::Protocol;
use whodunit_model::route_rule::{PathMatch, RouteMatch, RouteRule};
use whodunit_model::topology::{Endpoint, Service, ServiceName};

/// How long a first try counts for the retry budget.
const BUDGET_TTL: prost_types::Duration = prost_types::Duration {
    seconds: 10,
    nanos: 0,
};

/// Weight of an address in a set, Linkerd's default.
const WEIGHT: u32 = 10_000;

/// What one proxy knows about one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// Namespace of the workload that answers.
    pub namespace: String,
    /// Workload that answers.
    pub workload: String,
    /// Service name.
    pub service: String,
    /// Whether the service exists at all.
    pub exists: bool,
    /// Its usable endpoints, by address.
    pub endpoints: Vec<Endpoint>,
}

/// Returns the name a proxy asks for: `name.namespace`.
#[must_use]
pub fn path(name: &ServiceName) -> String {
    format!("{}.{}", name.name, name.namespace)
}

/// What a proxy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The instances of a service.
    Service(ServiceName),
    /// Whoever has an address.
    Addr(SocketAddr),
}

/// Parses what a proxy asks for: an address, or what [`parse_path`] takes.
#[must_use]
pub fn parse_target(path: &str) -> Option<Target> {
    let address = path.parse().map(Target::Addr).ok();
    address.or_else(|| parse_path(path).map(Target::Service))
}

/// Parses the name of a service: `name.namespace`, with `.svc.…` and a port allowed behind.
#[must_use]
pub fn parse_path(path: &str) -> Option<ServiceName> {
    let host = path.rsplit_once(':').map_or(path, |(host, _)| host);
    let mut parts = host.split('.');
    let (name, namespace) = (parts.next()?, parts.next()?);
    let well_formed = !name.is_empty() && !namespace.is_empty();
    well_formed.then(|| ServiceName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// Returns the profile of a service: its name and whether it is opaque; an
/// empty one, as Linkerd does, for a name that no service has.
#[must_use]
pub fn profile(service: Option<&Service>) -> DestinationProfile {
    DestinationProfile {
        fully_qualified_name: service
            .map(|service| path(&service.name))
            .unwrap_or_default(),
        opaque_protocol: service.is_some_and(|service| service.protocol == Some(Protocol::Tcp)),
        ..routed(service.map_or(&[], |service| &service.routes))
    }
}

/// Returns what a profile says about routes. It has words for timeouts of whole requests,
/// for retries of answers that are server errors, and for splits of all requests.
fn routed(rules: &[RouteRule]) -> DestinationProfile {
    let budget = rules.iter().map(|rule| rule.retries.budget).next();
    let budget = budget.map(|budget| RetryBudget {
        retry_ratio: f32::from(budget.percent) / 100.0,
        min_retries_per_second: budget.per_second,
        ttl: Some(BUDGET_TTL),
    });
    let everything = |rule: &&RouteRule| rule.matches == RouteMatch::default();
    let split = rules
        .iter()
        .find(everything)
        .map_or(&[][..], |rule| &rule.split);
    DestinationProfile {
        routes: rules.iter().map(profile_route).collect(),
        retry_budget: budget,
        dst_overrides: split
            .iter()
            .map(|weighted| WeightedDst {
                authority: path(&weighted.service),
                weight: weighted.weight,
                backend_ref: None,
            })
            .collect(),
        ..DestinationProfile::default()
    }
}

fn profile_route(rule: &RouteRule) -> ProfileRoute {
    let regex = match (&rule.matches.path, &rule.matches.grpc) {
        (_, Some(grpc)) => {
            let method = grpc.method.as_deref().map_or("[^/]+".to_owned(), escaped);
            format!("/{}/{method}", escaped(&grpc.service))
        }
        (PathMatch::Any, None) => ".*".to_owned(),
        (PathMatch::Exact(text), None) => escaped(text),
        (PathMatch::Prefix(text), None) => format!("{}(/.*)?", escaped(text.trim_end_matches('/'))),
        (PathMatch::Template(text), None) => template_regex(text),
    };
    let mut all = vec![request_match::Match::Path(RegexMatch { regex })];
    if let Some(method) = &rule.matches.method {
        let kind = match http_method::Registered::from_str_name(method) {
            Some(registered) => http_method::Type::Registered(registered.into()),
            None => http_method::Type::Unregistered(method.clone()),
        };
        all.push(request_match::Match::Method(HttpMethod {
            r#type: Some(kind),
        }));
    }
    let all = all.into_iter().map(|r#match| RequestMatch {
        r#match: Some(r#match),
    });
    let timeout = rule.timeouts.request_ms;
    ProfileRoute {
        condition: Some(RequestMatch {
            r#match: Some(request_match::Match::All(request_match::Seq {
                matches: all.collect(),
            })),
        }),
        response_classes: vec![],
        metrics_labels: HashMap::from([("route".to_owned(), rule.name.clone())]),
        is_retryable: rule.retries.attempts_max > 1 && rule.retries.on_status(503),
        timeout: timeout.map(|ms| prost_types::Duration {
            seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(ms % 1_000 * 1_000_000).unwrap_or(0),
        }),
    }
}

/// Returns a path with variable segments as a regular expression.
pub(crate) fn template_regex(template: &str) -> String {
    let segments = template.split('/').map(|segment| {
        if segment.starts_with('{') {
            "[^/]+".to_owned()
        } else {
            escaped(segment)
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

/// Returns a text as a regular expression that matches it alone.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && c != '/' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Returns the update that adds `endpoints` of `service`.
#[must_use]
pub fn add(service: &Service, endpoints: &[Endpoint]) -> Update {
    let labels = HashMap::from([
        ("namespace".to_owned(), service.name.namespace.clone()),
        ("deployment".to_owned(), service.workload.clone()),
        ("service".to_owned(), service.name.name.clone()),
    ]);
    let addrs = endpoints.iter().map(weighted).collect();
    wrap(update::Update::Add(WeightedAddrSet {
        addrs,
        metric_labels: labels,
    }))
}

fn weighted(endpoint: &Endpoint) -> WeightedAddr {
    WeightedAddr {
        addr: Some(endpoint.address.into()),
        weight: WEIGHT,
        metric_labels: HashMap::from([
            ("pod".to_owned(), endpoint.instance.clone()),
            ("version".to_owned(), endpoint.version.clone()),
            ("whodunit_meshed".to_owned(), endpoint.meshed.to_string()),
        ]),
        tls_identity: tls_identity(endpoint),
        ..WeightedAddr::default()
    }
}

/// Returns the hint of whom to expect at an endpoint, if that is known.
fn tls_identity(endpoint: &Endpoint) -> Option<TlsIdentity> {
    let dns_like = |name: &str| DnsLikeIdentity {
        name: name.to_owned(),
    };
    let strategy = match endpoint.identity.as_str() {
        "" => return None,
        uri if uri.contains(':') => Strategy::UriLikeIdentity(UriLikeIdentity {
            uri: uri.to_owned(),
        }),
        name => Strategy::DnsLikeIdentity(dns_like(name)),
    };
    let named = !endpoint.server_name.is_empty();
    Some(TlsIdentity {
        server_name: named.then(|| dns_like(&endpoint.server_name)),
        strategy: Some(strategy),
    })
}

/// Returns identity and server name out of a hint, both empty without one.
fn identity(hint: Option<TlsIdentity>) -> (String, String) {
    let Some(hint) = hint else {
        return Default::default();
    };
    let identity = match hint.strategy {
        Some(Strategy::DnsLikeIdentity(dns)) => dns.name,
        Some(Strategy::UriLikeIdentity(uri)) => uri.uri,
        None => String::new(),
    };
    (identity, hint.server_name.unwrap_or_default().name)
}

/// Returns the update that removes addresses.
#[must_use]
pub fn remove(addresses: &[SocketAddr]) -> Update {
    let addrs = addresses
        .iter()
        .map(|address| TcpAddress::from(*address))
        .collect();
    wrap(update::Update::Remove(AddrSet { addrs }))
}

/// Returns the update that says there are no endpoints, and whether the service exists.
#[must_use]
pub fn no_endpoints(exists: bool) -> Update {
    wrap(update::Update::NoEndpoints(NoEndpoints { exists }))
}

const fn wrap(update: update::Update) -> Update {
    Update {
        update: Some(update),
    }
}

impl Destination {
    /// Applies an update of the stream. Addresses that make no sense are skipped.
    pub fn apply(&mut self, update: Update) {
        match update.update {
            Some(update::Update::Add(set)) => {
                self.exists = true;
                self.namespace = label(&set.metric_labels, "namespace");
                self.workload = label(&set.metric_labels, "deployment");
                self.service = label(&set.metric_labels, "service");
                for endpoint in set.addrs.into_iter().filter_map(endpoint) {
                    self.endpoints
                        .retain(|known| known.address != endpoint.address);
                    self.endpoints.push(endpoint);
                }
            }
            Some(update::Update::Remove(set)) => {
                for address in set
                    .addrs
                    .into_iter()
                    .filter_map(|a| SocketAddr::try_from(a).ok())
                {
                    self.endpoints.retain(|known| known.address != address);
                }
            }
            Some(update::Update::NoEndpoints(NoEndpoints { exists })) => {
                self.exists = exists;
                self.endpoints.clear();
            }
            None => {}
        }
    }
}

fn endpoint(addr: WeightedAddr) -> Option<Endpoint> {
    let address = SocketAddr::try_from(addr.addr?).ok()?;
    let (identity, server_name) = identity(addr.tls_identity);
    Some(Endpoint {
        address,
        instance: label(&addr.metric_labels, "pod"),
        version: label(&addr.metric_labels, "version"),
        meshed: label(&addr.metric_labels, "whodunit_meshed") == "true",
        identity,
        server_name,
        ready: true,
    })
}

fn label(labels: &HashMap<String, String>, name: &str) -> String {
    labels.get(name).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use whodunit_model::route_rule::Weighted;

    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            instance: format!("voting-{port}"),
            version: "v1".to_owned(),
            meshed: true,
            identity: "spiffe://local/ns/emojivoto/sa/voting".to_owned(),
            server_name: "voting.emojivoto.local".to_owned(),
            ready: true,
        }
    }

    #[test]
    fn profiles_have_the_routes_of_a_service() {
        let split = Weighted {
            service: ServiceName {
                namespace: "n".to_owned(),
                name: "voting-v2".to_owned(),
            },
            weight: 10,
        };
        let mut first = RouteRule {
            name: "users".to_owned(),
            ..RouteRule::default()
        };
        first.matches.method = Some("GET".to_owned());
        first.matches.path = PathMatch::Template("/u.1/{}/x".to_owned());
        first.timeouts.request_ms = Some(2_500);
        first.retries.on = vec!["5xx".parse().expect("known")];
        let last = RouteRule {
            split: vec![split],
            ..RouteRule::default()
        };
        let profile = routed(&[first, last]);
        assert_eq!(profile.dst_overrides[0].authority, "voting-v2.n");
        assert_eq!(
            profile
                .retry_budget
                .map(|budget| budget.min_retries_per_second),
            Some(10)
        );
        let [route, rest] = profile.routes.as_slice() else {
            panic!("{profile:?}");
        };
        assert_eq!(
            route.timeout.map(|t| (t.seconds, t.nanos)),
            Some((2, 500_000_000))
        );
        assert!(route.is_retryable && !rest.is_retryable);
        let text = format!("{:?}", route.condition);
        assert!(
            text.contains(r#"/u\\.1/[^/]+/x"#) && text.contains("Registered(Get)"),
            "{text}"
        );
    }

    #[test]
    fn updates_rebuild_what_the_server_knows() {
        let name = ServiceName {
            namespace: "emojivoto".to_owned(),
            name: "voting".to_owned(),
        };
        let service = Service {
            name: name.clone(),
            workload: "voting".to_owned(),
            protocol: None,
            external: false,
            policy: None,
            routes: vec![],
            address: None,
            endpoints: vec![],
        };
        let mut seen = Destination::default();
        seen.apply(add(&service, &[endpoint(1), endpoint(2)]));
        seen.apply(remove(&[endpoint(1).address]));
        assert_eq!(seen.endpoints, [endpoint(2)]);
        assert_eq!((seen.workload.as_str(), seen.exists), ("voting", true));
        seen.apply(no_endpoints(false));
        assert_eq!((seen.endpoints.len(), seen.exists), (0, false));
        assert_eq!(parse_path(&path(&name)), Some(name.clone()));
        assert_eq!(parse_path("nonsense"), None);
        assert_eq!(parse_target(&path(&name)), Some(Target::Service(name)));
        for text in ["10.0.0.1:80", "[fd00::1]:80"] {
            let address = text.parse().expect("an address");
            assert_eq!(parse_target(text), Some(Target::Addr(address)));
        }
    }
}
