//! Tells proxies what holds for requests to a service: the `OutboundPolicies` service of
//! Linkerd's proxy API.
//!
//! Routes belong to a service of the topology and are asked for by its name. Addresses are
//! not known here: a proxy that asks about one is told so, and connects to it as it is.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tonic::{Request, Response, Status};
use whodunit_wire::linkerd::outbound::outbound_policies_server::{
    OutboundPolicies, OutboundPoliciesServer,
};
use whodunit_wire::linkerd::outbound::traffic_spec::Target;
use whodunit_wire::linkerd::outbound::{OutboundPolicy, TrafficSpec};
use whodunit_wire::outbound as adapter;

use crate::discovery::Discovery;
use crate::subscribe::{Counters, Streams, Updates};

/// Longest name of a destination: what DNS allows, and a port.
const AUTHORITY_BYTES_MAX: usize = 260;

/// How long a single question may wait for a state to be known.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(1);

/// The `OutboundPolicies` service.
#[derive(Clone, Debug)]
pub struct Outbounds {
    discovery: Option<Discovery>,
    streams: Streams,
}

impl Outbounds {
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
    pub fn into_service(self) -> OutboundPoliciesServer<Self> {
        OutboundPoliciesServer::new(self).max_decoding_message_size(64 * 1024)
    }

    fn follow(&self, spec: &TrafficSpec) -> Result<Response<Updates<OutboundPolicy>>, Status> {
        let refuse = |status| Err(self.streams.refuse(status));
        let Some(discovery) = &self.discovery else {
            return refuse(Status::failed_precondition(
                "this server knows no services: start it with --topology FILE",
            ));
        };
        let authority = match &spec.target {
            Some(Target::Authority(authority)) => authority,
            Some(Target::Addr(_)) => {
                return refuse(Status::not_found("no service is known by its address"));
            }
            None => &String::new(),
        };
        let name = (authority.len() <= AUTHORITY_BYTES_MAX)
            .then(|| adapter::asked(spec))
            .flatten();
        let Some(name) = name else {
            return refuse(Status::invalid_argument(format!(
                "`{}` is not a destination: expected name.namespace",
                authority.chars().take(80).collect::<String>()
            )));
        };
        let mut told: Option<OutboundPolicy> = None;
        self.streams.open(discovery, move |topology| {
            let policy = adapter::policy(&name, topology.services.get(&name));
            if told.as_ref() == Some(&policy) {
                return vec![];
            }
            told = Some(policy.clone());
            vec![policy]
        })
    }
}

#[tonic::async_trait]
impl OutboundPolicies for Outbounds {
    type WatchStream = Updates<OutboundPolicy>;

    async fn get(&self, request: Request<TrafficSpec>) -> Result<Response<OutboundPolicy>, Status> {
        let mut updates = self.follow(request.get_ref())?.into_inner();
        match tokio::time::timeout(ANSWER, updates.next()).await {
            Ok(Some(policy)) => policy.map(Response::new),
            Ok(None) | Err(_) => Err(Status::unavailable("nothing is known yet")),
        }
    }

    async fn watch(
        &self,
        request: Request<TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.follow(request.get_ref())
    }
}
