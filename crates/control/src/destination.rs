//! Tells proxies where services live: the `Destination` service of Linkerd's
//! proxy API.
//!
//! Each subscriber has a task that remembers what it has been told and sends
//! the difference whenever the topology moves. Nothing is sent before a state
//! is known, so a server that has just started never tells a proxy to forget
//! what it knows. A subscriber that does not read is dropped, never waited for:
//! it comes back and is told everything anew.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tonic::{Request, Response, Status};
use whodunit_model::topology::ServiceName;
use whodunit_model::{Endpoint, Service, Topology};
use whodunit_wire::destination::{self as adapter, Target};
use whodunit_wire::linkerd::destination::destination_server::{Destination, DestinationServer};
use whodunit_wire::linkerd::destination::{DestinationProfile, GetDestination, Update};

use crate::discovery::Discovery;
use crate::subscribe::Streams;
pub use crate::subscribe::{Counters, Updates};

/// Longest name of a destination: what DNS allows, and a port.
const PATH_BYTES_MAX: usize = 260;

/// The `Destination` service.
#[derive(Clone, Debug)]
pub struct Destinations {
    discovery: Option<Discovery>,
    streams: Streams,
}

impl Destinations {
    /// Returns the service that answers from `discovery`; without one, every
    /// request is refused with a hint, so that proxies keep what they know.
    #[must_use]
    pub fn new(discovery: Option<Discovery>) -> Self {
        Self {
            discovery,
            streams: Streams::default(),
        }
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.streams.counters()
    }

    /// Returns the gRPC service.
    #[must_use]
    pub fn into_service(self) -> DestinationServer<Self> {
        DestinationServer::new(self).max_decoding_message_size(64 * 1024)
    }

    fn subscribe<T: Send + 'static>(
        &self,
        request: &GetDestination,
        mut seen: impl Told<T>,
    ) -> Result<Response<Updates<T>>, Status> {
        let refuse = |status| Err(self.streams.refuse(status));
        let Some(discovery) = &self.discovery else {
            return refuse(Status::failed_precondition(
                "this server knows no services: start it with --topology FILE",
            ));
        };
        let target = (request.path.len() <= PATH_BYTES_MAX)
            .then(|| adapter::parse_target(&request.path))
            .flatten();
        let Some(target) = target else {
            return refuse(Status::invalid_argument(format!(
                "`{}` is not a destination: expected name.namespace or an address",
                request.path.chars().take(80).collect::<String>()
            )));
        };
        self.streams.open(discovery, move |topology| {
            seen.differences(topology, &target)
        })
    }
}

#[tonic::async_trait]
impl Destination for Destinations {
    type GetStream = Updates<Update>;
    type GetProfileStream = Updates<DestinationProfile>;

    async fn get(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        self.subscribe(request.get_ref(), ToldEndpoints::default())
    }

    /// Answers name, protocol and routes of the service.
    async fn get_profile(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        self.subscribe(request.get_ref(), ToldProfile::default())
    }
}

/// What one subscriber has been told.
trait Told<T>: Send + 'static {
    /// Returns the messages that lead from what was told to `topology`, and remembers them as told.
    fn differences(&mut self, topology: &Topology, target: &Target) -> Vec<T>;
}

/// The endpoints that a subscriber of `Get` knows.
#[derive(Debug, Default)]
struct ToldEndpoints {
    /// Whether it was told that the service exists; none before the first message.
    exists: Option<bool>,
    /// Service and workload as they were told.
    labels: Option<(ServiceName, String)>,
    endpoints: BTreeMap<SocketAddr, Endpoint>,
}

impl Told<Update> for ToldEndpoints {
    fn differences(&mut self, topology: &Topology, target: &Target) -> Vec<Update> {
        let service = find(topology, target);
        let usable = service.map(|service| usable(service, target));
        let usable = usable.unwrap_or_default();
        let exists = service.is_some();
        let Some(service) = service.filter(|_| !usable.is_empty()) else {
            let news = self.exists != Some(exists) || !self.endpoints.is_empty();
            self.exists = Some(exists);
            self.endpoints.clear();
            return if news {
                vec![adapter::no_endpoints(exists)]
            } else {
                vec![]
            };
        };

        let labels = (service.name.clone(), service.workload.clone());
        let relabeled = self.labels.as_ref() != Some(&labels);
        let new: Vec<Endpoint> = usable
            .iter()
            .filter(|(address, endpoint)| {
                relabeled || self.endpoints.get(address) != Some(endpoint)
            })
            .map(|(_, endpoint)| endpoint.clone())
            .collect();
        let gone: Vec<SocketAddr> = self
            .endpoints
            .keys()
            .filter(|address| !usable.contains_key(address))
            .copied()
            .collect();
        self.exists = Some(true);
        self.labels = Some(labels);
        self.endpoints = usable;

        // Additions first: the subscriber is never left without an endpoint in between.
        let mut updates = Vec::new();
        if !new.is_empty() {
            updates.push(adapter::add(service, &new));
        }
        if !gone.is_empty() {
            updates.push(adapter::remove(&gone));
        }
        updates
    }
}

/// Returns the service that is asked about, or that somebody at an address belongs to.
fn find<'a>(topology: &'a Topology, target: &Target) -> Option<&'a Service> {
    match target {
        Target::Service(name) => topology.services.get(name),
        Target::Addr(address) => topology.services.values().find(|service| {
            let here = |endpoint: &Endpoint| is_at(service, endpoint, *address);
            service.address == Some(*address) || service.endpoints.iter().any(here)
        }),
    }
}

/// Says whether an endpoint is who has an address. Where services have addresses of their own,
/// so have instances, which then are there on every port.
fn is_at(service: &Service, endpoint: &Endpoint, address: SocketAddr) -> bool {
    let alone = service.address.is_some() && !service.external;
    endpoint.address == address || (alone && endpoint.address.ip() == address.ip())
}

/// Returns the endpoints to tell about. Whether they are ready has been decided by being here:
/// who asks about an address has chosen already.
fn usable(service: &Service, target: &Target) -> BTreeMap<SocketAddr, Endpoint> {
    let told = |endpoint: &Endpoint| {
        let endpoint = Endpoint {
            ready: true,
            ..endpoint.clone()
        };
        (endpoint.address, endpoint)
    };
    match target {
        Target::Addr(address) if service.address != Some(*address) => {
            let there = |endpoint: &&Endpoint| is_at(service, endpoint, *address);
            let on_this_port = |endpoint: &Endpoint| Endpoint {
                address: *address,
                ..endpoint.clone()
            };
            let found = service.endpoints.iter().filter(there).map(on_this_port);
            found.map(|endpoint| told(&endpoint)).collect()
        }
        Target::Service(_) | Target::Addr(_) => service.usable().map(told).collect(),
    }
}

/// The profile that a subscriber of `GetProfile` knows.
#[derive(Debug, Default)]
struct ToldProfile(Option<DestinationProfile>);

impl Told<DestinationProfile> for ToldProfile {
    fn differences(&mut self, topology: &Topology, target: &Target) -> Vec<DestinationProfile> {
        let profile = adapter::profile(find(topology, target));
        if self.0.as_ref() == Some(&profile) {
            return vec![];
        }
        self.0 = Some(profile.clone());
        vec![profile]
    }
}
