//! Linkerd's `InboundServerPolicies` messages to and from [`Policy`].
//!
//! What Linkerd's messages have no word for travels as labels, as in
//! [`crate::destination`]: the default, rules that forbid, namespaces. A proxy that does
//! not know these labels permits less than ours, never more: a rule that forbids is a route
//! whose requests fail, and its clients are an authorization without a network, which
//! Linkerd ignores.

use std::collections::HashMap;
use std::net::IpAddr;

use linkerd2_proxy_api::http_route::{
    HostMatch, HttpRouteMatch, PathMatch, host_match, path_match,
};
use linkerd2_proxy_api::http_types::{HttpMethod, http_method};
use linkerd2_proxy_api::inbound::authn::permit_mesh_tls::{Clients, PermitClientIdentities};
use linkerd2_proxy_api::inbound::authn::{Permit, PermitMeshTls, PermitUnauthenticated};
use linkerd2_proxy_api::inbound::http_route::{Filter, Rule as RouteRule, filter};
use linkerd2_proxy_api::inbound::{
    Authn, Authz, HttpRoute, Identity, IdentitySuffix, Network as WireNetwork, ProxyProtocol,
    Server, proxy_protocol,
};
use linkerd2_proxy_api::meta::{Metadata, Resource, metadata};
use linkerd2_proxy_api::net::IpNetwork;
use whodunit_model::policy::{
    Action, HostPattern, IdentityPattern, Mode, Network, PROBE, PathPattern, Policy, Rule,
};

/// Group of everything that is ours.
const GROUP: &str = "whodunit";

const DEFAULT: &str = "whodunit_default";
const NAMESPACES: &str = "whodunit_namespaces";
const NETWORKS: &str = "whodunit_networks";

/// Message and status of a route that forbids, for proxies that are not ours.
const FORBIDDEN: u32 = 403;

/// Why a message is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy cannot be used: {0}")]
pub struct NotAPolicy(String);

/// Returns the message for a policy; `service` names it in metrics.
#[must_use]
pub fn server(policy: &Policy, service: &str) -> Server {
    let mut authorizations = Vec::new();
    let by_default = match policy.default {
        Mode::Allow | Mode::Audit => Some(anyone()),
        Mode::Authenticated => Some(mesh_tls(&[IdentityPattern::Any])),
        Mode::Deny => None,
    };
    if let Some(authentication) = by_default {
        authorizations.push(Authz {
            networks: everywhere(),
            authentication: Some(authentication),
            labels: HashMap::from([
                ("group".to_owned(), String::new()),
                ("kind".to_owned(), "default".to_owned()),
                ("name".to_owned(), policy.default.name().to_owned()),
            ]),
            metadata: Some(Metadata {
                kind: Some(metadata::Kind::Default(policy.default.name().to_owned())),
            }),
        });
    }
    let mut routes = Vec::new();
    for rule in &policy.rules {
        if rule.action == Action::Allow && !rule.is_about_requests() {
            authorizations.push(authorization(rule));
        } else {
            routes.push(route(rule));
        }
    }
    if !policy.probes.is_empty() {
        let methods = ["GET".to_owned()];
        routes.push(HttpRoute {
            metadata: Some(Metadata {
                kind: Some(metadata::Kind::Default(PROBE.to_owned())),
            }),
            hosts: vec![],
            authorizations: vec![Authz {
                networks: everywhere(),
                authentication: Some(anyone()),
                ..Authz::default()
            }],
            rules: vec![RouteRule {
                matches: matches(&methods, &policy.probes),
                filters: vec![],
            }],
        });
    }
    Server {
        protocol: Some(ProxyProtocol {
            kind: Some(proxy_protocol::Kind::Detect(proxy_protocol::Detect {
                http_routes: routes,
                ..proxy_protocol::Detect::default()
            })),
        }),
        server_ips: vec![],
        authorizations,
        labels: HashMap::from([
            ("group".to_owned(), GROUP.to_owned()),
            ("kind".to_owned(), "service".to_owned()),
            ("name".to_owned(), service.to_owned()),
            (DEFAULT.to_owned(), policy.default.name().to_owned()),
        ]),
    }
}

/// Returns the policy in a message of our server.
///
/// # Errors
/// When the message is not one of ours, or says what this version does not know: then
/// what was known before has to stay in force.
pub fn policy(server: Server) -> Result<Policy, NotAPolicy> {
    let wrong = |what: &str| NotAPolicy(what.to_owned());
    let default = server
        .labels
        .get(DEFAULT)
        .and_then(|name| Mode::from_name(name));
    let default = default.ok_or_else(|| wrong("it has no default that is known here"))?;
    let mut policy = Policy::plain(default);
    for authz in server.authorizations {
        let Some(resource) = resource(authz.metadata.as_ref()) else {
            continue;
        };
        let mut rule = Rule::new(&resource.name, Action::Allow);
        clients(authz, &mut rule)?;
        policy.rules.push(rule);
    }
    let routes = match server.protocol.and_then(|protocol| protocol.kind) {
        Some(proxy_protocol::Kind::Detect(detect)) => detect.http_routes,
        _ => return Err(wrong("its protocol is not known here")),
    };
    for route in routes {
        let matches = route.rules.into_iter().flat_map(|rule| rule.matches);
        let (methods, paths) = read_matches(matches)?;
        let Some(resource) = resource(route.metadata.as_ref()) else {
            policy.probes.extend(paths);
            continue;
        };
        let action = Action::from_name(&resource.kind);
        let action = action.ok_or_else(|| wrong("a rule does what is not known here"))?;
        let mut rule = Rule::new(&resource.name, action);
        (rule.methods, rule.paths) = (methods, paths);
        for host in route.hosts {
            rule.hosts.push(read_host(host)?);
        }
        for authz in route.authorizations {
            clients(authz, &mut rule)?;
        }
        policy.rules.push(rule);
    }
    Ok(policy)
}

fn resource(metadata: Option<&Metadata>) -> Option<&Resource> {
    match metadata?.kind.as_ref()? {
        metadata::Kind::Resource(resource) if resource.group == GROUP => Some(resource),
        _ => None,
    }
}

fn named(rule: &Rule) -> Option<Metadata> {
    Some(Metadata {
        kind: Some(metadata::Kind::Resource(Resource {
            group: GROUP.to_owned(),
            kind: rule.action.name().to_owned(),
            name: rule.name.to_string(),
            ..Resource::default()
        })),
    })
}

fn route(rule: &Rule) -> HttpRoute {
    let filters = match rule.action {
        Action::Deny => vec![Filter {
            kind: Some(filter::Kind::FailureInjector(
                linkerd2_proxy_api::http_route::HttpFailureInjector {
                    status: FORBIDDEN,
                    message: "policy_denied".to_owned(),
                    ratio: None,
                },
            )),
        }],
        Action::Allow | Action::Audit => vec![],
    };
    HttpRoute {
        metadata: named(rule),
        hosts: rule.hosts.iter().map(host).collect(),
        authorizations: vec![authorization(rule)],
        rules: vec![RouteRule {
            matches: matches(&rule.methods, &rule.paths),
            filters,
        }],
    }
}

fn authorization(rule: &Rule) -> Authz {
    let mut labels = HashMap::from([
        ("group".to_owned(), GROUP.to_owned()),
        ("kind".to_owned(), rule.action.name().to_owned()),
        ("name".to_owned(), rule.name.to_string()),
    ]);
    if !rule.namespaces.is_empty() {
        labels.insert(NAMESPACES.to_owned(), rule.namespaces.join(" "));
    }
    let networks: Vec<String> = rule.networks.iter().map(ToString::to_string).collect();
    labels.insert(NETWORKS.to_owned(), networks.join(" "));
    let proves = !(rule.identities.is_empty() && rule.namespaces.is_empty());
    let permits = rule.action == Action::Allow;
    Authz {
        networks: match rule.networks.as_slice() {
            _ if !permits => vec![],
            [] => everywhere(),
            networks => networks.iter().map(network).collect(),
        },
        authentication: Some(if proves {
            mesh_tls(&rule.identities)
        } else {
            anyone()
        }),
        labels,
        metadata: named(rule),
    }
}

fn clients(authz: Authz, rule: &mut Rule) -> Result<(), NotAPolicy> {
    let words = |label: &str| -> Vec<String> {
        let text = authz.labels.get(label).map_or("", String::as_str);
        text.split_whitespace().map(str::to_owned).collect()
    };
    rule.namespaces = words(NAMESPACES);
    for text in words(NETWORKS) {
        let network: Network = text.parse().map_err(not_parsed)?;
        rule.networks.push(network);
    }
    let permit = authz.authentication.and_then(|authn| authn.permit);
    let tls = match permit {
        Some(Permit::MeshTls(tls)) => tls,
        Some(Permit::Unauthenticated(_)) => return Ok(()),
        None => return Err(NotAPolicy("a rule is about nobody".to_owned())),
    };
    let Some(Clients::Identities(found)) = tls.clients else {
        return Err(NotAPolicy("a rule is about nobody".to_owned()));
    };
    for identity in found.identities {
        rule.identities
            .push(identity.name.parse().map_err(not_parsed)?);
    }
    for suffix in found.suffixes {
        let text = if suffix.parts.is_empty() {
            "*".to_owned()
        } else {
            format!("*.{}", suffix.parts.join("."))
        };
        rule.identities.push(text.parse().map_err(not_parsed)?);
    }
    if rule.identities.is_empty() && rule.namespaces.is_empty() {
        return Err(NotAPolicy("a rule is about nobody".to_owned()));
    }
    Ok(())
}

fn not_parsed(error: impl std::fmt::Display) -> NotAPolicy {
    NotAPolicy(error.to_string())
}

const fn anyone() -> Authn {
    Authn {
        permit: Some(Permit::Unauthenticated(PermitUnauthenticated {})),
    }
}

fn mesh_tls(patterns: &[IdentityPattern]) -> Authn {
    let mut found = PermitClientIdentities::default();
    for pattern in patterns {
        match pattern {
            IdentityPattern::Any => found.suffixes.push(IdentitySuffix { parts: vec![] }),
            IdentityPattern::Below(suffix) => found.suffixes.push(IdentitySuffix {
                parts: suffix.split('.').map(str::to_owned).collect(),
            }),
            IdentityPattern::Account { .. } | IdentityPattern::Exact(_) => {
                found.identities.push(Identity {
                    name: pattern.to_string(),
                });
            }
        }
    }
    Authn {
        permit: Some(Permit::MeshTls(PermitMeshTls {
            clients: Some(Clients::Identities(found)),
        })),
    }
}

fn everywhere() -> Vec<WireNetwork> {
    let v4 = Network {
        address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        bits: 0,
    };
    let v6 = Network {
        address: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        bits: 0,
    };
    vec![network(&v4), network(&v6)]
}

fn network(network: &Network) -> WireNetwork {
    WireNetwork {
        net: Some(IpNetwork {
            ip: Some(network.address.into()),
            prefix_len: u32::from(network.bits),
        }),
        except: vec![],
    }
}

fn host(pattern: &HostPattern) -> HostMatch {
    let text = pattern.to_string();
    let kind = match text.strip_prefix("*.") {
        Some(suffix) => host_match::Match::Suffix(host_match::Suffix {
            reverse_labels: suffix.rsplit('.').map(str::to_owned).collect(),
        }),
        None => host_match::Match::Exact(text),
    };
    HostMatch {
        r#match: Some(kind),
    }
}

fn read_host(host: HostMatch) -> Result<HostPattern, NotAPolicy> {
    let text = match host.r#match {
        Some(host_match::Match::Exact(text)) => text,
        Some(host_match::Match::Suffix(mut suffix)) => {
            suffix.reverse_labels.reverse();
            format!("*.{}", suffix.reverse_labels.join("."))
        }
        None => return Err(NotAPolicy("a rule is about no host".to_owned())),
    };
    text.parse().map_err(not_parsed)
}

/// One match for each method and path together.
fn matches(methods: &[String], paths: &[PathPattern]) -> Vec<HttpRouteMatch> {
    let methods: Vec<Option<&String>> = if methods.is_empty() {
        vec![None]
    } else {
        methods.iter().map(Some).collect()
    };
    let paths: Vec<Option<&PathPattern>> = if paths.is_empty() {
        vec![None]
    } else {
        paths.iter().map(Some).collect()
    };
    let one = |(method, path): (Option<&String>, Option<&PathPattern>)| HttpRouteMatch {
        path: path.map(wire_path),
        method: method.map(|method| wire_method(method)),
        ..HttpRouteMatch::default()
    };
    let pairs = methods
        .iter()
        .flat_map(|method| paths.iter().map(move |path| (*method, *path)));
    pairs.map(one).collect()
}

fn read_matches(
    matches: impl Iterator<Item = HttpRouteMatch>,
) -> Result<(Vec<String>, Vec<PathPattern>), NotAPolicy> {
    let (mut methods, mut paths) = (Vec::new(), Vec::new());
    for found in matches {
        if !found.headers.is_empty() || !found.query_params.is_empty() {
            let what = "a rule is about headers or parameters";
            return Err(NotAPolicy(what.to_owned()));
        }
        if let Some(method) = found.method {
            let method = read_method(method)?;
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        if let Some(path) = found.path {
            let path = read_path(path)?;
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    Ok((methods, paths))
}

fn wire_method(method: &str) -> HttpMethod {
    let kind = match http_method::Registered::from_str_name(method) {
        Some(registered) => http_method::Type::Registered(registered.into()),
        None => http_method::Type::Unregistered(method.to_owned()),
    };
    HttpMethod { r#type: Some(kind) }
}

fn read_method(method: HttpMethod) -> Result<String, NotAPolicy> {
    let text = match method.r#type {
        Some(http_method::Type::Registered(number)) => {
            let known = http_method::Registered::try_from(number).ok();
            known.map(|method| method.as_str_name().to_owned())
        }
        Some(http_method::Type::Unregistered(text)) => Some(text),
        None => None,
    };
    text.ok_or_else(|| NotAPolicy("a rule is about a method not known here".to_owned()))
}

/// Any one segment, as a regular expression.
const ANY_SEGMENT: &str = "[^/]+";

/// Everything below, as a regular expression.
const BELOW: &str = "(/.*)?";

fn wire_path(pattern: &PathPattern) -> PathMatch {
    let text = pattern.to_string();
    let (plain, below) = match text.strip_suffix("/*") {
        Some(plain) => (plain, true),
        None => (text.as_str(), false),
    };
    let kind = if plain.contains("{}") {
        let mut regex = String::new();
        for (i, part) in plain.split("{}").enumerate() {
            if i > 0 {
                regex.push_str(ANY_SEGMENT);
            }
            for c in part.chars() {
                if c.is_ascii_punctuation() && c != '/' {
                    regex.push('\\');
                }
                regex.push(c);
            }
        }
        if below {
            regex.push_str(BELOW);
        }
        path_match::Kind::Regex(regex)
    } else if below {
        path_match::Kind::Prefix(if plain.is_empty() { "/" } else { plain }.to_owned())
    } else {
        path_match::Kind::Exact(text)
    };
    PathMatch { kind: Some(kind) }
}

fn read_path(path: PathMatch) -> Result<PathPattern, NotAPolicy> {
    let text = match path.kind {
        Some(path_match::Kind::Exact(text)) => text,
        Some(path_match::Kind::Prefix(text)) if text == "/" => "/*".to_owned(),
        Some(path_match::Kind::Prefix(text)) => format!("{text}/*"),
        Some(path_match::Kind::Regex(regex)) => {
            let (regex, below) = match regex.strip_suffix(BELOW) {
                Some(plain) => (plain.to_owned(), "/*"),
                None => (regex, ""),
            };
            let plain = regex.replace(ANY_SEGMENT, "{}").replace('\\', "");
            format!("{plain}{below}")
        }
        None => return Err(NotAPolicy("a rule is about no path".to_owned())),
    };
    text.parse().map_err(not_parsed)
}

/// Names a workload in a request: `namespace:instance`, as Linkerd's proxies do.
#[must_use]
pub fn workload(namespace: &str, instance: &str) -> String {
    format!("{namespace}:{instance}")
}

/// Reads the name of a workload in a request: `namespace:instance`.
#[must_use]
pub fn parse_workload(text: &str) -> Option<(&str, &str)> {
    let (namespace, instance) = text.split_once(':')?;
    let good = !namespace.is_empty() && !instance.is_empty() && !instance.contains(':');
    good.then_some((namespace, instance))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(action: Action, name: &str) -> Rule {
        Rule {
            methods: vec!["GET".to_owned(), "PURGE".to_owned()],
            paths: [
                "/a.b/c",
                "/static/*",
                "/users/{}/photo",
                "/u-1/{}/*",
                "/*",
                "/",
            ]
            .iter()
            .map(|path| path.parse().unwrap())
            .collect(),
            hosts: vec![
                "shop.example".parse().unwrap(),
                "*.shop.example".parse().unwrap(),
            ],
            identities: ["web.shop", "spiffe://d/ns/a/sa/b", "*.other"]
                .iter()
                .map(|identity| identity.parse().unwrap())
                .collect(),
            namespaces: vec!["shop".to_owned(), "more".to_owned()],
            networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            ..Rule::new(name, action)
        }
    }

    #[test]
    fn a_policy_survives_the_messages() {
        for default in Mode::ALL {
            let mut sent = Policy::plain(*default);
            assert_eq!(policy(server(&sent, "web")), Ok(sent.clone()));
            let proven = Rule {
                identities: vec![IdentityPattern::Any],
                ..Rule::new("proven", Action::Allow)
            };
            let near = Rule {
                networks: vec!["127.0.0.0/8".parse().unwrap()],
                ..Rule::new("near", Action::Allow)
            };
            sent.rules = vec![proven, near, Rule::new("nobody", Action::Deny)];
            for action in Action::ALL {
                sent.rules.push(full(*action, action.name()));
            }
            sent.probes = vec!["/ready".parse().unwrap(), "/live".parse().unwrap()];
            assert_eq!(policy(server(&sent, "web")), Ok(sent));
        }
    }

    #[test]
    fn what_forbids_permits_nobody_elsewhere() {
        let policy = Policy {
            rules: vec![full(Action::Deny, "no")],
            ..Policy::plain(Mode::Deny)
        };
        let server = server(&policy, "web");
        assert!(server.authorizations.is_empty());
        let Some(proxy_protocol::Kind::Detect(detect)) = server.protocol.unwrap().kind else {
            panic!("detects");
        };
        let route = &detect.http_routes[0];
        assert!(
            route
                .authorizations
                .iter()
                .all(|authz| authz.networks.is_empty())
        );
        assert!(!route.rules[0].filters.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(policy(Server::default()).is_err());
        let mut unknown = server(&Policy::plain(Mode::Deny), "web");
        unknown.labels.insert(DEFAULT.to_owned(), "new".to_owned());
        assert!(policy(unknown).is_err());
        assert_eq!(
            parse_workload(&workload("n", "web-0")),
            Some(("n", "web-0"))
        );
        assert_eq!(parse_workload("web-0"), None);
    }
}
