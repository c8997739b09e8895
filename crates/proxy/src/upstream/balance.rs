//! Chooses an endpoint: the cheaper one of two random ones.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use whodunit_model::Party;
use whodunit_model::record::Side;
use whodunit_model::route_rule::RetryBudget;
use whodunit_model::topology::ServiceName;
use whodunit_wire::destination::Destination;

use super::budget::Budget;
use super::health::Crowd;
use super::{Connector, Endpoint, Mesh};
use crate::clock::Instant;
use crate::limits::{self, Limit};
use crate::metrics::{Labels, Metrics};

/// How long a request waits for the first answer of discovery.
const DISCOVERY_WAIT: Duration = Limit::DiscoveryTime.time();

/// Costs that differ by less than this factor are equal: with small differences the number
/// of requests in flight and chance decide, so that no endpoint starves for a microsecond.
const EQUAL: f64 = 1.5;

/// What discovery says about a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Whether the server ever said anything.
    pub(crate) heard: bool,
    /// What it said last.
    pub(crate) destination: Destination,
}

/// Why no endpoint was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nowhere {
    /// The service has none.
    Empty,
    /// All of them were tried.
    Tried,
    /// None of those that were not tried accepts connections.
    Dark,
}

/// Where the requests of a listener go, on one thread.
pub(crate) struct Balancer {
    discovery: Option<RefCell<watch::Receiver<Known>>>,
    /// The service, as far as it is known.
    service: RefCell<Arc<str>>,
    /// Where requests go if discovery knows nobody at the address.
    otherwise: Option<Rc<Endpoint>>,
    endpoints: RefCell<Rc<[Rc<Endpoint>]>>,
    crowd: Rc<Crowd>,
    budget: Budget,
    own: Labels,
    mesh: Mesh,
}

impl Balancer {
    /// Returns a balancer with one endpoint that never changes.
    pub(crate) fn fixed(endpoint: Endpoint) -> Self {
        let crowd = Crowd::new(1);
        let endpoint = Rc::new(endpoint.among(&crowd, None));
        crowd.set_total(1);
        Self {
            discovery: None,
            service: RefCell::default(),
            otherwise: None,
            endpoints: RefCell::new(Rc::new([endpoint])),
            crowd,
            budget: budget(),
            own: Labels::default(),
            mesh: Mesh::default(),
        }
    }

    /// Returns a balancer without any endpoint.
    pub(crate) fn empty() -> Self {
        Self {
            discovery: None,
            service: RefCell::default(),
            otherwise: None,
            endpoints: RefCell::new(Rc::new([])),
            crowd: Crowd::new(1),
            budget: budget(),
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
            service: RefCell::new(service.name.into()),
            otherwise: None,
            endpoints: RefCell::new(Rc::new([])),
            crowd: Crowd::new(seed),
            budget: budget(),
            own,
            mesh,
        }
    }

    /// Returns a balancer for an address that somebody wanted to connect to. Whose address it
    /// is discovery knows; if it says that it is nobody's, requests go there as they are.
    pub(crate) fn at_address(
        address: Endpoint,
        mut discovery: watch::Receiver<Known>,
        own: Labels,
        seed: u64,
        mesh: Mesh,
    ) -> Self {
        discovery.mark_changed();
        let crowd = Crowd::new(seed);
        Self {
            discovery: Some(RefCell::new(discovery)),
            service: RefCell::default(),
            otherwise: Some(Rc::new(address.among(&crowd, None))),
            endpoints: RefCell::new(Rc::new([])),
            crowd,
            budget: budget(),
            own,
            mesh,
        }
    }

    /// Says whether discovery has said something, or nobody asks it.
    pub(crate) fn has_heard(&self) -> bool {
        self.discovery
            .as_ref()
            .is_none_or(|discovery| discovery.borrow().borrow().heard)
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

    /// Returns the name of the service, empty where there is none.
    pub(crate) fn service(&self) -> Arc<str> {
        self.service.borrow().clone()
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

    /// Chooses an endpoint that is not among `tried`. Allocates nothing.
    ///
    /// An endpoint that is out and due gets one request to probe it; otherwise it is used only
    /// when all others were tried.
    ///
    /// # Errors
    /// When there is none to choose.
    pub(crate) fn pick(
        &self,
        metrics: &Metrics,
        tried: &[SocketAddr],
    ) -> Result<Rc<Endpoint>, Nowhere> {
        self.refresh(metrics);
        let endpoints = self.endpoints.borrow();
        let now = Instant::now();
        if endpoints.is_empty() {
            return Err(Nowhere::Empty);
        }
        let untried = |endpoint: &&Rc<Endpoint>| !tried.contains(&endpoint.address);
        if self.crowd.out() > 0 {
            let due = |endpoint: &&Rc<Endpoint>| endpoint.health.is_due(now);
            if let Some(probed) = endpoints.iter().filter(untried).find(due) {
                return Ok(probed.clone());
            }
        }
        let lit = |endpoint: &&Rc<Endpoint>| untried(endpoint) && !endpoint.health.is_dark(now);
        let healthy = |endpoint: &&Rc<Endpoint>| {
            lit(endpoint) && endpoint.health.is_in() && !endpoint.health.is_away(now)
        };
        if let Some(chosen) = self.cheaper_of_two(&endpoints, healthy, now) {
            return Ok(chosen.clone());
        }
        if let Some(chosen) = self.cheaper_of_two(&endpoints, lit, now) {
            return Ok(chosen.clone());
        }
        Err(if endpoints.iter().any(|endpoint| untried(&endpoint)) {
            Nowhere::Dark
        } else {
            Nowhere::Tried
        })
    }

    fn cheaper_of_two<'a>(
        &self,
        endpoints: &'a [Rc<Endpoint>],
        usable: impl Fn(&&'a Rc<Endpoint>) -> bool,
        now: Instant,
    ) -> Option<&'a Rc<Endpoint>> {
        let count = endpoints.iter().filter(&usable).count();
        let nth = |n: usize| endpoints.iter().filter(&usable).nth(n);
        if count < 2 {
            return nth(0);
        }
        let first = self.crowd.below(count);
        // Another one than the first, each with the same chance.
        let second = (first + 1 + self.crowd.below(count - 1)) % count;
        let (first, second) = (nth(first)?, nth(second)?);
        let (cost, other) = (first.cost(now), second.cost(now));
        Some(if other * EQUAL < cost { second } else { first })
    }

    /// Closes idle connections.
    pub(crate) fn sweep(&self, now: Instant) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.sweep(now);
        }
    }

    /// Returns how many endpoints there are, how many of them are out, and how often one was
    /// taken out.
    #[cfg(test)]
    fn health(&self) -> (usize, usize, u64) {
        let crowd = &self.crowd;
        (
            self.endpoints.borrow().len(),
            crowd.out(),
            crowd.ejections(),
        )
    }

    /// Returns how many endpoints there are.
    pub(crate) fn count(&self) -> usize {
        self.endpoints.borrow().len()
    }

    /// Returns the allowance for retries.
    pub(crate) const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns a random number below `bound`.
    pub(crate) fn below(&self, bound: usize) -> usize {
        self.crowd.below(bound)
    }

    /// Takes over what discovery said since the last time; endpoints that stay keep their
    /// connections, and those that are gone finish what they have.
    pub(crate) fn refresh(&self, metrics: &Metrics) {
        let Some(discovery) = &self.discovery else {
            return;
        };
        let mut discovery = discovery.borrow_mut();
        // An error says that discovery is gone for good; the last answer stays.
        if !discovery.has_changed().unwrap_or(false) {
            return;
        }
        let known = discovery.borrow_and_update();
        if self.otherwise.is_some() && **self.service.borrow() != *known.destination.service {
            *self.service.borrow_mut() = known.destination.service.as_str().into();
        }
        let before = self.endpoints.borrow().clone();
        let now = Instant::now();
        // A new endpoint is taken for one like the slowest of the others.
        let like_us = before.iter().map(|endpoint| endpoint.estimate_us(now));
        let like_us = like_us.reduce(f64::max);
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
                None => {
                    let new = self.endpoint(metrics, endpoint, party);
                    Rc::new(new.among(&self.crowd, like_us))
                }
            }
        });
        let mut after: Rc<[Rc<Endpoint>]> = after.collect();
        if let Some(otherwise) = &self.otherwise
            && known.heard
            && !known.destination.exists
        {
            after = Rc::new([otherwise.clone()]);
        }
        self.crowd.set_total(after.len());
        for gone in before.iter() {
            if !after.iter().any(|left| Rc::ptr_eq(left, gone)) {
                gone.health.readmit();
            }
        }
        for endpoint in after.iter() {
            if self.crowd.is_too_small() {
                endpoint.health.readmit();
            }
        }
        *self.endpoints.borrow_mut() = after;
    }

    fn endpoint(
        &self,
        metrics: &Metrics,
        known: &whodunit_model::Endpoint,
        party: Party,
    ) -> Endpoint {
        let peer = self.mesh.peer(&known.identity, &known.server_name);
        let tls = self.mesh.labels(peer.as_ref(), known.meshed);
        let labels = destination_labels(&self.own, known.address, &party, &self.service(), &tls);
        let transport = metrics.transport(&labels.clone().with("peer", "dst").text());
        let connector = Connector::new(known.address, transport, peer, &self.mesh);
        Endpoint::new(connector, party, known.meshed, labels.text().into())
    }
}

fn budget() -> Budget {
    Budget::new(RetryBudget::default(), Instant::now())
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

    fn balancer(ports: &[u16], seed: u64) -> (watch::Sender<Known>, Balancer, Metrics) {
        let (sender, receiver) = watch::channel(known(ports));
        let service = ServiceName {
            namespace: "n".to_owned(),
            name: "s".to_owned(),
        };
        let balancer =
            Balancer::discovered(service, receiver, Labels::default(), seed, Mesh::default());
        (sender, balancer, Metrics::new(&Labels::default(), 1))
    }

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn the_less_busy_of_two_is_chosen_and_updates_keep_endpoints() {
        let (sender, balancer, metrics) = balancer(&[1, 2], 42);
        let busy = balancer.pick(&metrics, &[]).unwrap();
        let _work = InFlight::begin(&busy);
        for _ in 0..20 {
            let picked = balancer.pick(&metrics, &[]).unwrap();
            assert_ne!(picked.address, busy.address);
        }
        sender.send_replace(known(&[busy.address.port(), 3]));
        let left = balancer.pick(&metrics, &[at(3)]).unwrap();
        assert!(
            Rc::ptr_eq(&left, &busy),
            "connections of an endpoint that stays are kept"
        );
        sender.send_replace(known(&[]));
        assert_eq!(balancer.pick(&metrics, &[]).err(), Some(Nowhere::Empty));
    }

    fn counts(balancer: &Balancer, metrics: &Metrics, rounds: usize) -> [i32; 3] {
        let mut counts = [0; 3];
        for _ in 0..rounds {
            let picked = balancer.pick(metrics, &[]).unwrap();
            counts[usize::from(picked.address.port()) - 1] += 1;
        }
        counts
    }

    #[test]
    fn load_spreads_over_all() {
        let (_sender, balancer, metrics) = balancer(&[1, 2, 3], 7);
        let counts = counts(&balancer, &metrics, 3_000);
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn an_endpoint_that_wants_to_end_is_left_alone_while_there_are_others() {
        let (_sender, balancer, metrics) = balancer(&[1, 2], 7);
        let leaving = balancer.pick(&metrics, &[at(2)]).unwrap();
        leaving.health.leaves(Instant::now());
        for _ in 0..20 {
            assert_eq!(balancer.pick(&metrics, &[]).unwrap().address, at(2));
        }
        let only = balancer.pick(&metrics, &[at(2)]).unwrap();
        assert!(Rc::ptr_eq(&only, &leaving), "better than nowhere");
    }

    #[test]
    fn a_slow_endpoint_gets_less() {
        let (_sender, balancer, metrics) = balancer(&[1, 2, 3], 7);
        let slow = balancer.pick(&metrics, &[at(2), at(3)]).unwrap();
        let work = InFlight::begin(&slow);
        // A failure counts as slow.
        work.failed();
        drop(work);
        for _ in 0..200 {
            for port in [2, 3] {
                let others = [at(1), at(5 - port)];
                let work = InFlight::begin(&balancer.pick(&metrics, &others).unwrap());
                work.answered();
            }
        }
        let counts = counts(&balancer, &metrics, 3_000);
        assert_eq!(counts[0], 0, "{counts:?}");
        assert!(counts[1] > 1_000 && counts[2] > 1_000, "{counts:?}");
    }

    #[test]
    fn an_endpoint_that_refuses_is_out_until_a_probe_says_otherwise() {
        use whodunit_model::Cause;
        let (sender, balancer, metrics) = balancer(&[1, 2, 3], 9);
        let bad = balancer.pick(&metrics, &[at(2), at(3)]).unwrap();
        InFlight::begin(&bad).unreachable(Cause::ConnectRefused);
        assert_eq!(balancer.health(), (3, 1, 1));
        let found = counts(&balancer, &metrics, 300);
        assert_eq!(found[0], 0, "{found:?}");
        let last = balancer.pick(&metrics, &[at(2), at(3)]).unwrap();
        assert!(Rc::ptr_eq(&last, &bad), "better than none");
        sender.send_replace(known(&[1]));
        balancer.pick(&metrics, &[]).unwrap();
        assert_eq!(balancer.health(), (1, 0, 1), "at most half are out");
    }

    #[test]
    fn nobody_waits_when_no_endpoint_accepts() {
        use whodunit_model::Cause;
        let (_sender, balancer, metrics) = balancer(&[1, 2], 9);
        for endpoint in [&[at(1)], &[at(2)]] {
            let endpoint = balancer.pick(&metrics, endpoint).unwrap();
            for _ in 0..3 {
                InFlight::begin(&endpoint).unreachable(Cause::ConnectTimeout);
            }
        }
        assert_eq!(balancer.pick(&metrics, &[]).err(), Some(Nowhere::Dark));
        assert_eq!(
            balancer.pick(&metrics, &[at(1), at(2)]).err(),
            Some(Nowhere::Tried)
        );
    }
}
