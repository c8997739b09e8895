//! Tells proxies who may ask their applications for what: the `InboundServerPolicies`
//! service of Linkerd's proxy API.
//!
//! A policy belongs to a service of the topology, and holds for the port of each of its
//! instances. For an instance that is not known nothing is said: its proxy keeps what it
//! knows, which in the beginning is what its configuration says.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tonic::{Request, Response, Status};
use whodunit_model::policy::{Mode, Policy};
use whodunit_model::topology::ServiceName;
use whodunit_model::{Service, Topology};
use whodunit_wire::linkerd::inbound::inbound_server_policies_server::{
    InboundServerPolicies, InboundServerPoliciesServer,
};
use whodunit_wire::linkerd::inbound::{PortSpec, Server};
use whodunit_wire::policy as adapter;

use crate::discovery::Discovery;
use crate::subscribe::{Counters, Streams, Updates};

/// Longest name of a workload.
const WORKLOAD_BYTES_MAX: usize = 600;

/// The `InboundServerPolicies` service.
#[derive(Clone, Debug)]
pub struct Policies {
    discovery: Option<Discovery>,
    streams: Streams,
}

impl Policies {
    /// Returns the service that answers from `discovery`; without one, every request is
    /// refused, so that proxies keep what they know.
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
    pub fn into_service(self) -> InboundServerPoliciesServer<Self> {
        InboundServerPoliciesServer::new(self).max_decoding_message_size(64 * 1024)
    }

    fn watch(&self, asked: &PortSpec) -> Result<Response<Updates<Server>>, Status> {
        let Some(discovery) = &self.discovery else {
            return Err(self.streams.refuse(Status::failed_precondition(
                "this server knows no services: start it with --topology FILE",
            )));
        };
        let named = (asked.workload.len() <= WORKLOAD_BYTES_MAX)
            .then(|| adapter::parse_workload(&asked.workload))
            .flatten();
        let (Some((namespace, instance)), Ok(port)) = (named, u16::try_from(asked.port)) else {
            return Err(self.streams.refuse(Status::invalid_argument(
                "expected a workload such as NAMESPACE:INSTANCE, and a port",
            )));
        };
        let (namespace, instance) = (namespace.to_owned(), instance.to_owned());
        let mut told: Option<Server> = None;
        self.streams.open(discovery, move |topology| {
            let Some(service) = find(topology, &namespace, &instance, port) else {
                return vec![];
            };
            let server = server(service);
            if told.as_ref() == Some(&server) {
                return vec![];
            }
            told = Some(server.clone());
            vec![server]
        })
    }
}

/// Returns the service whose instance listens on a port.
fn find<'a>(
    topology: &'a Topology,
    namespace: &str,
    instance: &str,
    port: u16,
) -> Option<&'a Service> {
    let first = ServiceName {
        namespace: namespace.to_owned(),
        name: String::new(),
    };
    topology
        .services
        .range(first..)
        .take_while(|(name, _)| name.namespace == namespace)
        .map(|(_, service)| service)
        .find(|service| {
            service
                .endpoints
                .iter()
                .any(|endpoint| endpoint.instance == instance && endpoint.address.port() == port)
        })
}

fn server(service: &Service) -> Server {
    let open = Policy::plain(Mode::Allow);
    let policy = service.policy.as_ref().unwrap_or(&open);
    adapter::server(policy, &service.name.name)
}

#[tonic::async_trait]
impl InboundServerPolicies for Policies {
    type WatchPortStream = Updates<Server>;

    async fn get_port(&self, request: Request<PortSpec>) -> Result<Response<Server>, Status> {
        let mut updates = self.watch(request.get_ref())?.into_inner();
        let wait = std::time::Duration::from_secs(1);
        match tokio::time::timeout(wait, updates.next()).await {
            Ok(Some(server)) => server.map(Response::new),
            Ok(None) | Err(_) => Err(Status::not_found("no instance listens on this port")),
        }
    }

    async fn watch_port(
        &self,
        request: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        self.watch(request.get_ref())
    }
}
