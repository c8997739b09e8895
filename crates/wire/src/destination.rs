//! Linkerd's `Destination` messages to and from [`Service`] and [`Endpoint`].
//!
//! Facts that Linkerd's message has no field for travel as metric labels, as
//! Linkerd's own control plane does: `namespace`, `deployment`, `service` for
//! the set, `pod` for an address. Ours are `version` and `whodunit_meshed`.

use std::collections::HashMap;
use std::net::SocketAddr;

use linkerd2_proxy_api::destination::tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity};
use linkerd2_proxy_api::destination::{
    AddrSet, DestinationProfile, NoEndpoints, TlsIdentity, Update, WeightedAddr, WeightedAddrSet,
    update,
};
use linkerd2_proxy_api::net::TcpAddress;
use whodunit_model::record::Protocol;
use whodunit_model::topology::{Endpoint, Service, ServiceName};

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

/// Parses what a proxy asks for: `name.namespace`, with `.svc.…` and a port allowed behind.
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
        ..DestinationProfile::default()
    }
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
            endpoints: vec![],
        };
        let mut seen = Destination::default();
        seen.apply(add(&service, &[endpoint(1), endpoint(2)]));
        seen.apply(remove(&[endpoint(1).address]));
        assert_eq!(seen.endpoints, [endpoint(2)]);
        assert_eq!((seen.workload.as_str(), seen.exists), ("voting", true));
        seen.apply(no_endpoints(false));
        assert_eq!((seen.endpoints.len(), seen.exists), (0, false));
        assert_eq!(parse_path(&path(&name)), Some(name));
        assert_eq!(parse_path("nonsense"), None);
    }
}
