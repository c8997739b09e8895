//! The instances of the mesh as they are now: from discovery and from reports.
//!
//! Discovery knows what is called; a proxy that only calls others (a load
//! generator) is known by its report alone.

use std::collections::{BTreeMap, BTreeSet};

use whodunit_analysis::stat::By;

use crate::live::Live;

/// Groups of instances by namespace and name.
pub(crate) type Things = BTreeMap<(String, String), Members>;

/// Some instances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members(Vec<Member>);

/// One instance.
#[derive(Clone, Debug, Default)]
struct Member {
    namespace: String,
    workload: String,
    instance: String,
    /// Services it answers for.
    services: BTreeSet<String>,
    /// It is not ours to start: no workload, no instance.
    external: bool,
    meshed: bool,
    /// Open connections, if its proxy reports.
    open_connections: Option<u64>,
}

impl Members {
    /// Returns every instance known now.
    pub(crate) fn now(live: &Live, now_us: i64) -> Self {
        let mut members: BTreeMap<(String, String, String), Member> = BTreeMap::new();
        let topology = live
            .discovery
            .as_ref()
            .and_then(|discovery| discovery.topology());
        let services = topology
            .iter()
            .flat_map(|topology| topology.services.values());
        for service in services {
            for endpoint in &service.endpoints {
                let namespace = service.name.namespace.clone();
                let instance = if endpoint.instance.is_empty() {
                    endpoint.address.to_string()
                } else {
                    endpoint.instance.clone()
                };
                let key = (
                    namespace.clone(),
                    service.workload.clone(),
                    instance.clone(),
                );
                let member = members.entry(key).or_insert_with(|| Member {
                    namespace,
                    workload: service.workload.clone(),
                    instance,
                    external: service.external,
                    ..Member::default()
                });
                member.meshed |= endpoint.meshed;
                member.services.insert(service.name.name.clone());
            }
        }
        for (proxy, known, state) in live.proxies.all(now_us) {
            if !state.is_alive() {
                continue;
            }
            let key = (proxy.namespace, proxy.workload, proxy.instance);
            let member = members.entry(key.clone()).or_insert_with(|| Member {
                namespace: key.0,
                workload: key.1,
                instance: key.2,
                ..Member::default()
            });
            member.meshed = true;
            if known.reported_us.is_some() {
                member.open_connections = Some(known.report.open_connections);
            }
        }
        Self(members.into_values().collect())
    }

    /// Groups by workload. What is external has none.
    pub(crate) fn workloads(&self) -> Things {
        self.group(|member| (!member.external).then(|| member.workload.clone()))
    }

    /// Groups by instance.
    pub(crate) fn instances(&self) -> Things {
        self.group(|member| (!member.external).then(|| member.instance.clone()))
    }

    /// Groups by namespace.
    pub(crate) fn namespaces(&self) -> Things {
        self.group(|member| Some(member.namespace.clone()))
    }

    /// Groups by service.
    pub(crate) fn services(&self) -> Things {
        let mut things = Things::new();
        for member in &self.0 {
            for service in &member.services {
                let key = (member.namespace.clone(), service.clone());
                things.entry(key).or_default().0.push(member.clone());
            }
        }
        things
    }

    fn group(&self, name: impl Fn(&Member) -> Option<String>) -> Things {
        let mut things = Things::new();
        for member in &self.0 {
            if let Some(name) = name(member) {
                let key = (member.namespace.clone(), name);
                things.entry(key).or_default().0.push(member.clone());
            }
        }
        things
    }

    /// Returns `meshed/all`.
    pub(crate) fn meshed(&self) -> String {
        let meshed = self.0.iter().filter(|member| member.meshed).count();
        format!("{meshed}/{}", self.0.len())
    }

    /// Returns the open connections of all members; none if no proxy reported any.
    pub(crate) fn open_connections(&self, by: By) -> Option<u64> {
        if by == By::Route {
            return None;
        }
        self.0
            .iter()
            .filter_map(|member| member.open_connections)
            .reduce(u64::saturating_add)
    }
}
