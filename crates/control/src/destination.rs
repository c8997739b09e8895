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
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use whodunit_model::topology::ServiceName;
use whodunit_model::{Endpoint, Service, Topology};
use whodunit_wire::destination as adapter;
use whodunit_wire::linkerd::destination::destination_server::{Destination, DestinationServer};
use whodunit_wire::linkerd::destination::{DestinationProfile, GetDestination, Update};

use crate::discovery::Discovery;

/// Updates that wait for one subscriber. A proxy reads at once; one that is this
/// far behind has stopped.
const QUEUE: usize = 32;

/// Most streams at one time: a few per proxy, thousands of proxies.
const SUBSCRIBERS_MAX: usize = 20_000;

/// Longest name of a destination: what DNS allows, and a port.
const PATH_BYTES_MAX: usize = 260;

/// The `Destination` service.
#[derive(Clone, Debug)]
pub struct Destinations {
    discovery: Option<Discovery>,
    places: Arc<Semaphore>,
    counters: Arc<Counters>,
}

/// What the service has done since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams that are open now.
    pub subscribers: AtomicU64,
    /// Updates sent.
    pub updates: AtomicU64,
    /// Subscribers dropped because they did not read.
    pub slow_dropped: AtomicU64,
    /// Requests refused because of a bad name or too many streams.
    pub refused: AtomicU64,
}

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Destinations {
    /// Returns the service that answers from `discovery`; without one, every
    /// request is refused with a hint, so that proxies keep what they know.
    #[must_use]
    pub fn new(discovery: Option<Discovery>) -> Self {
        Self {
            discovery,
            places: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
            counters: Arc::default(),
        }
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
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
        let refuse = |status| {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            Err(status)
        };
        let Some(discovery) = &self.discovery else {
            return refuse(Status::failed_precondition(
                "this server knows no services: start it with --topology FILE",
            ));
        };
        let name = (request.path.len() <= PATH_BYTES_MAX)
            .then(|| adapter::parse_path(&request.path))
            .flatten();
        let Some(name) = name else {
            return refuse(Status::invalid_argument(format!(
                "`{}` is not a destination: expected name.namespace",
                request.path.chars().take(80).collect::<String>()
            )));
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return refuse(Status::resource_exhausted(format!(
                "more than {SUBSCRIBERS_MAX} discovery streams are open"
            )));
        };

        let (sender, receiver) = mpsc::channel(QUEUE);
        let (last_word, ending) = oneshot::channel();
        let counters = self.counters.clone();
        let mut topology = discovery.watch();
        tokio::spawn(async move {
            let _place = place;
            counters.subscribers.fetch_add(1, Ordering::Relaxed);
            let status = loop {
                let now = topology.borrow_and_update().clone();
                let updates = now.map(|now| seen.differences(&now, &name));
                let sent = send(&sender, updates.unwrap_or_default(), &counters);
                if let Err(status) = sent {
                    break status;
                }
                tokio::select! {
                    changed = topology.changed() => if changed.is_err() {
                        break Status::unavailable("the server is shutting down");
                    },
                    () = sender.closed() => break Status::cancelled("the subscriber left"),
                }
            };
            counters.subscribers.fetch_sub(1, Ordering::Relaxed);
            // Fails only if the subscriber has left.
            let _ = last_word.send(status);
        });
        let ending = stream::once(ending).filter_map(async |status| status.ok().map(Err));
        let updates = ReceiverStream::new(receiver).map(Ok).chain(ending);
        Ok(Response::new(Box::pin(updates)))
    }
}

/// Queues updates for a subscriber, or says why it has to go.
fn send<T>(sender: &mpsc::Sender<T>, updates: Vec<T>, counters: &Counters) -> Result<(), Status> {
    for update in updates {
        match sender.try_send(update) {
            Ok(()) => counters.updates.fetch_add(1, Ordering::Relaxed),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Err(Status::cancelled("the subscriber left"));
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                counters.slow_dropped.fetch_add(1, Ordering::Relaxed);
                return Err(Status::resource_exhausted(
                    "the subscriber does not read its updates: ask again",
                ));
            }
        };
    }
    Ok(())
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

    /// Answers name and protocol of the service; routes and retry budgets are not declared here.
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
    fn differences(&mut self, topology: &Topology, name: &ServiceName) -> Vec<T>;
}

/// The endpoints that a subscriber of `Get` knows.
#[derive(Debug, Default)]
struct ToldEndpoints {
    /// Whether it was told that the service exists; none before the first message.
    exists: Option<bool>,
    workload: String,
    endpoints: BTreeMap<SocketAddr, Endpoint>,
}

impl Told<Update> for ToldEndpoints {
    fn differences(&mut self, topology: &Topology, name: &ServiceName) -> Vec<Update> {
        let service = topology.services.get(name);
        let usable = service.map(usable).unwrap_or_default();
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

        let relabeled = self.workload != service.workload;
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
        self.workload.clone_from(&service.workload);
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

/// Returns the endpoints to tell about. Whether they are ready has been decided by being here.
fn usable(service: &Service) -> BTreeMap<SocketAddr, Endpoint> {
    let as_told = |endpoint: &Endpoint| Endpoint {
        ready: true,
        ..endpoint.clone()
    };
    service
        .usable()
        .map(|endpoint| (endpoint.address, as_told(endpoint)))
        .collect()
}

/// The profile that a subscriber of `GetProfile` knows.
#[derive(Debug, Default)]
struct ToldProfile(Option<DestinationProfile>);

impl Told<DestinationProfile> for ToldProfile {
    fn differences(&mut self, topology: &Topology, name: &ServiceName) -> Vec<DestinationProfile> {
        let profile = adapter::profile(topology.services.get(name));
        if self.0.as_ref() == Some(&profile) {
            return vec![];
        }
        self.0 = Some(profile.clone());
        vec![profile]
    }
}
