//! Chooses an endpoint: the less busy one of two random ones.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use whodunit_model::Party;
use whodunit_model::record::Side;
use whodunit_model::topology::ServiceName;
use whodunit_wire::destination::Destination;

use super::{Connector, Endpoint, Mesh};
use crate::limits::{self, Limit};
use crate::metrics::{Labels, Metrics};

/// How long a request waits for the first answer of discovery.
const DISCOVERY_WAIT: Duration = Limit::DiscoveryTime.time();

/// What discovery says about a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Whether the server ever said anything.
    pub(crate) heard: bool,
    /// What it said last.
    pub(crate) destination: Destination,
}

/// Where the requests of a listener go, on one thread.
pub(crate) struct Balancer {
    discovery: Option<RefCell<watch::Receiver<Known>>>,
    service: Option<ServiceName>,
    endpoints: RefCell<Rc<[Rc<Endpoint>]>>,
    random: Cell<u64>,
    own: Labels,
    mesh: Mesh,
}

impl Balancer {
    /// Returns a balancer with one endpoint that never changes.
    pub(crate) fn fixed(endpoint: Endpoint) -> Self {
        Self {
            discovery: None,
            service: None,
            endpoints: RefCell::new(Rc::new([Rc::new(endpoint)])),
            random: Cell::new(1),
            own: Labels::default(),
            mesh: Mesh::default(),
        }
    }

    /// Returns a balancer without any endpoint.
    pub(crate) fn empty() -> Self {
        Self {
            discovery: None,
            service: None,
            endpoints: RefCell::new(Rc::new([])),
            random: Cell::new(1),
            own: Labels::default(),
            mesh: Mesh::default(),
        }
    }

    /// Returns a balancer that follows discovery; `own` are the labels of this workload.
    pub(crate) fn discovered(
        service: ServiceName,
        mut discovery: watch::Receiver<Known>,
        own: Labels,
        seed: u64,
        mesh: Mesh,
    ) -> Self {
        discovery.mark_changed();
        Self {
            discovery: Some(RefCell::new(discovery)),
            service: Some(service),
            endpoints: RefCell::new(Rc::new([])),
            random: Cell::new(seed | 1),
            own,
            mesh,
        }
    }

    /// Waits until discovery has said something, at most [`DISCOVERY_WAIT`].
    pub(crate) async fn wait(&self) {
        let Some(discovery) = &self.discovery else {
            return;
        };
        if discovery.borrow().borrow().heard {
            return;
        }
        let mut discovery = discovery.borrow().clone();
        // Without an answer there is nothing to balance over, which the caller sees.
        let heard = tokio::time::timeout(DISCOVERY_WAIT, discovery.wait_for(|known| known.heard));
        if heard.await.is_err() {
            limits::hit(Limit::DiscoveryTime);
        }
    }

    /// Returns the workload that answers for the service, empty if not known.
    pub(crate) fn destination(&self) -> Party {
        let Some(discovery) = &self.discovery else {
            return Party::default();
        };
        let discovery = discovery.borrow();
        let known = &discovery.borrow().destination;
        Party {
            namespace: known.namespace.as_str().into(),
            workload: known.workload.as_str().into(),
            ..Party::default()
        }
    }

    /// Chooses an endpoint that is not among `tried`; none if there is no other.
    pub(crate) fn pick(&self, metrics: &Metrics, tried: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        self.refresh(metrics);
        let endpoints = self.endpoints.borrow();
        if endpoints.len() == 1 || !tried.is_empty() {
            let left = endpoints
                .iter()
                .filter(|endpoint| !tried.contains(&endpoint.address));
            return left.min_by_key(|endpoint| endpoint.load()).cloned();
        }
        if endpoints.is_empty() {
            return None;
        }
        let first = self.below(endpoints.len());
        // Another one than the first, each with the same chance.
        let second = (first + 1 + self.below(endpoints.len() - 1)) % endpoints.len();
        let (first, second) = (&endpoints[first], &endpoints[second]);
        Some(
            if second.load() < first.load() {
                second
            } else {
                first
            }
            .clone(),
        )
    }

    /// Closes idle connections.
    pub(crate) fn sweep(&self, now: Instant) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.sweep(now);
        }
    }

    /// Returns a random number below `bound` (xorshift64: fast, and good enough to balance).
    fn below(&self, bound: usize) -> usize {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        usize::try_from((x >> 32) % bound.max(1) as u64).unwrap_or(0)
    }

    /// Takes over what discovery said since the last time; endpoints that stay keep their
    /// connections.
    fn refresh(&self, metrics: &Metrics) {
        let Some(discovery) = &self.discovery else {
            return;
        };
        let mut discovery = discovery.borrow_mut();
        // An error says that discovery is gone for good; the last answer stays.
        if !discovery.has_changed().unwrap_or(false) {
            return;
        }
        let known = discovery.borrow_and_update();
        let before = self.endpoints.borrow().clone();
        let namespace: Arc<str> = known.destination.namespace.as_str().into();
        let workload: Arc<str> = known.destination.workload.as_str().into();
        let after = known.destination.endpoints.iter().map(|endpoint| {
            let party = Party {
                namespace: namespace.clone(),
                workload: workload.clone(),
                instance: endpoint.instance.as_str().into(),
                version: endpoint.version.as_str().into(),
            };
            let same = before.iter().find(|old| {
                old.address == endpoint.address
                    && old.meshed == endpoint.meshed
                    && old.party == party
                    && old.connector.identity() == endpoint.identity
            });
            match same {
                Some(same) => same.clone(),
                None => Rc::new(self.endpoint(metrics, endpoint, party)),
            }
        });
        let after = after.collect();
        *self.endpoints.borrow_mut() = after;
    }

    fn endpoint(
        &self,
        metrics: &Metrics,
        known: &whodunit_model::Endpoint,
        party: Party,
    ) -> Endpoint {
        let service = self.service.as_ref().map_or("", |service| &service.name);
        let peer = self.mesh.peer(&known.identity, &known.server_name);
        let tls = self.mesh.labels(peer.as_ref(), known.meshed);
        let labels = destination_labels(&self.own, known.address, &party, service, &tls);
        let transport = metrics.transport(&labels.clone().with("peer", "dst").text());
        let connector = Connector::new(known.address, transport, peer, &self.mesh);
        Endpoint::new(connector, party, known.meshed, labels.text().into())
    }
}

/// Returns the labels of outbound requests to an endpoint.
pub(crate) fn destination_labels(
    own: &Labels,
    address: SocketAddr,
    party: &Party,
    service: &str,
    tls: &Labels,
) -> Labels {
    target_labels("outbound", address, tls, own)
        .with("dst_namespace", &party.namespace)
        .with("dst_deployment", &party.workload)
        .with("dst_pod", &party.instance)
        .with("dst_service", service)
}

/// Returns the labels that requests of both directions have.
pub(crate) fn target_labels(
    direction: &str,
    target: SocketAddr,
    tls: &Labels,
    own: &Labels,
) -> Labels {
    let mut labels = Labels::default()
        .with("direction", direction)
        .with("target_addr", &target.to_string())
        .with("target_ip", &target.ip().to_string())
        .with("target_port", &target.port().to_string());
    labels.join(tls);
    labels.join(own);
    labels
}

/// Returns the labels of requests in plain text: with an identity of our own (`ours`) and
/// without, to a peer that discovery knows to be `meshed` or to anybody.
pub(crate) fn plain_labels(side: Side, ours: bool, meshed: bool) -> Labels {
    if !ours {
        return Labels::default().with("tls", "disabled");
    }
    let reason = match side {
        Side::Inbound => "no_tls_from_remote",
        Side::Outbound if meshed => "not_provided_by_service_discovery",
        Side::Outbound => "not_in_mesh",
    };
    Labels::default()
        .with("tls", "no_identity")
        .with("no_tls_reason", reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::InFlight;

    fn known(ports: &[u16]) -> Known {
        let endpoint = |port: &u16| whodunit_model::Endpoint {
            address: ([127, 0, 0, 1], *port).into(),
            instance: format!("i-{port}"),
            version: String::new(),
            meshed: true,
            identity: String::new(),
            server_name: String::new(),
            ready: true,
        };
        let destination = Destination {
            exists: true,
            endpoints: ports.iter().map(endpoint).collect(),
            ..Destination::default()
        };
        Known {
            heard: true,
            destination,
        }
    }

    #[test]
    fn the_less_busy_of_two_is_chosen_and_updates_keep_endpoints() {
        let metrics = Metrics::new(&Labels::default(), 1);
        let (sender, receiver) = watch::channel(known(&[1, 2]));
        let service = ServiceName {
            namespace: "n".to_owned(),
            name: "s".to_owned(),
        };
        let balancer =
            Balancer::discovered(service, receiver, Labels::default(), 42, Mesh::default());
        let busy = balancer.pick(&metrics, &[]).unwrap();
        let _work = InFlight::begin(&busy);
        for _ in 0..20 {
            let picked = balancer.pick(&metrics, &[]).unwrap();
            assert_ne!(picked.address, busy.address);
        }
        sender.send_replace(known(&[busy.address.port(), 3]));
        let left = balancer
            .pick(&metrics, &[([127, 0, 0, 1], 3).into()])
            .unwrap();
        assert!(
            Rc::ptr_eq(&left, &busy),
            "connections of an endpoint that stays are kept"
        );
        sender.send_replace(known(&[]));
        assert!(balancer.pick(&metrics, &[]).is_none());
    }

    #[test]
    fn load_spreads_over_all() {
        let metrics = Metrics::new(&Labels::default(), 1);
        let (_sender, receiver) = watch::channel(known(&[1, 2, 3]));
        let service = ServiceName {
            namespace: "n".to_owned(),
            name: "s".to_owned(),
        };
        let balancer =
            Balancer::discovered(service, receiver, Labels::default(), 7, Mesh::default());
        let mut counts = [0; 3];
        for _ in 0..3_000 {
            let picked = balancer.pick(&metrics, &[]).unwrap();
            counts[usize::from(picked.address.port()) - 1] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
    }
}
