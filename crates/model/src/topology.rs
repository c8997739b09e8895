//! Where services live: the state that discovery produces and proxies follow.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::record::Protocol;
use crate::route_rule::RouteRule;

/// Names a service within the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceName {
    /// Namespace of the service.
    pub namespace: String,
    /// Name that callers use.
    pub name: String,
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// One instance that answers for a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where to connect: the instance's inbound proxy if it is meshed.
    pub address: SocketAddr,
    /// Name of the instance.
    pub instance: String,
    /// Version of the application, empty if not known.
    #[serde(default)]
    pub version: String,
    /// Whether a proxy of ours stands before the instance.
    pub meshed: bool,
    /// Whether the instance is ready for requests.
    pub ready: bool,
    /// The identity its proxy proves over mesh TLS; empty where it speaks plain text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// The name to ask for in the handshake; empty to derive it from the identity.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server_name: String,
}

/// A service and its instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    #[serde(flatten)]
    pub name: ServiceName,
    /// The workload that answers for it.
    pub workload: String,
    /// The protocol if it is declared; none means detect.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// Not started or managed by us: no proxy stands before it.
    #[serde(default)]
    pub external: bool,
    /// Who may ask its instances for what; none leaves it to their proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// What holds for which requests to it; the first rule that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteRule>,
    /// Where callers connect whatever its instances are, if that is known: an address at which
    /// nobody listens, and from which connections are redirected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Its instances.
    pub endpoints: Vec<Endpoint>,
}

impl Service {
    /// Returns the endpoints that should get requests.
    ///
    /// The ready ones; when none is ready, all of them: a request that is
    /// refused by a dying instance says more than one that had nowhere to go.
    pub fn usable(&self) -> impl Iterator<Item = &Endpoint> {
        let any_ready = self.endpoints.iter().any(|endpoint| endpoint.ready);
        self.endpoints
            .iter()
            .filter(move |endpoint| endpoint.ready || !any_ready)
    }
}

/// One step of the topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The service is new or differs.
    Set(Service),
    /// The service is gone.
    Removed(ServiceName),
}

/// All services of the mesh at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Counts the changes.
    pub version: u64,
    /// Services by name.
    pub services: BTreeMap<ServiceName, Service>,
}

impl Topology {
    /// Applies one change; returns whether anything differs.
    pub fn apply(&mut self, change: Change) -> bool {
        let differs = match change {
            Change::Set(service) => {
                let before = self.services.insert(service.name.clone(), service.clone());
                before.as_ref() != Some(&service)
            }
            Change::Removed(name) => self.services.remove(&name).is_some(),
        };
        if differs {
            self.version += 1;
        }
        differs
    }

    /// Returns the changes that lead from `self` to `services`.
    #[must_use]
    pub fn changes_to(&self, services: Vec<Service>) -> Vec<Change> {
        let mut gone: BTreeMap<_, _> = self.services.iter().collect();
        let mut changes = Vec::new();
        for service in services {
            if gone.remove(&service.name) != Some(&service) {
                changes.push(Change::Set(service));
            }
        }
        changes.extend(gone.into_keys().cloned().map(Change::Removed));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ready: [bool; 2]) -> Service {
        let endpoint = |i: usize, ready| Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], 9_000 + u16::try_from(i).unwrap())),
            instance: format!("{name}-{i}"),
            version: String::new(),
            meshed: true,
            identity: String::new(),
            server_name: String::new(),
            ready,
        };
        Service {
            name: ServiceName {
                namespace: "n".to_owned(),
                name: name.to_owned(),
            },
            workload: name.to_owned(),
            protocol: None,
            external: false,
            policy: None,
            routes: vec![],
            address: None,
            endpoints: ready
                .into_iter()
                .enumerate()
                .map(|(i, r)| endpoint(i, r))
                .collect(),
        }
    }

    #[test]
    fn unready_endpoints_are_used_only_when_none_is_ready() {
        assert_eq!(service("a", [true, false]).usable().count(), 1);
        assert_eq!(service("a", [false, false]).usable().count(), 2);
    }

    #[test]
    fn changes_lead_to_the_wanted_state() {
        let mut topology = Topology::default();
        let wanted = vec![service("a", [true, true]), service("b", [true, true])];
        for change in topology.changes_to(wanted.clone()) {
            assert!(topology.apply(change));
        }
        assert!(topology.changes_to(wanted).is_empty());
        let changes = topology.changes_to(vec![service("a", [true, false])]);
        assert_eq!(changes.len(), 2);
        for change in changes {
            assert!(topology.apply(change));
        }
        assert_eq!(topology.services.len(), 1);
        assert_eq!(topology.version, 4);
    }
}
