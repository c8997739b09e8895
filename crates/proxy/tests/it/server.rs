//! A small server that proxies discover through and record to. It can be stopped and
//! started again on the same port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt as _};
use socket2::{Domain, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use whodunit_identity::Authority;
use whodunit_model::policy::Policy;
use whodunit_model::topology::{Endpoint, Service, ServiceName};
use whodunit_model::{RequestRecord, RouteRule, Rows};
use whodunit_wire::destination::{self, Target};
use whodunit_wire::linkerd::destination::destination_server::{Destination, DestinationServer};
use whodunit_wire::linkerd::destination::{DestinationProfile, GetDestination, Update};
use whodunit_wire::linkerd::identity::identity_server::{Identity, IdentityServer};
use whodunit_wire::linkerd::identity::{CertifyRequest, CertifyResponse};
use whodunit_wire::linkerd::inbound::inbound_server_policies_server::{
    InboundServerPolicies, InboundServerPoliciesServer,
};
use whodunit_wire::linkerd::inbound::{PortSpec, Server as PolicyMessage};
use whodunit_wire::linkerd::outbound::outbound_policies_server::{
    OutboundPolicies, OutboundPoliciesServer,
};
use whodunit_wire::linkerd::outbound::{OutboundPolicy, TrafficSpec};
use whodunit_wire::tonic::transport::Server as Tonic;
use whodunit_wire::tonic::transport::server::TcpIncoming;
use whodunit_wire::tonic::{Request, Response, Status, Streaming};
use whodunit_wire::v1::record_request::Message;
use whodunit_wire::v1::recorder_server::{Recorder, RecorderServer};
use whodunit_wire::v1::{Hello, RecordRequest, RecordResponse, ReportRequest, ReportResponse};

/// What arrived, kept over restarts.
#[derive(Default)]
pub(crate) struct Received {
    /// Payloads by boot and sequence: what came twice is kept once.
    pub(crate) batches: BTreeMap<(u64, u64), Vec<u8>>,
    /// Batches that came again although they were acknowledged as durable.
    pub(crate) resent_durable: u64,
    /// Sequences of closing messages by boot.
    pub(crate) closed: BTreeMap<u64, u64>,
    pub(crate) hellos: Vec<Hello>,
    pub(crate) reports: Vec<ReportRequest>,
    durable: BTreeMap<u64, u64>,
}

/// What the server says about a service.
#[derive(Clone)]
enum Place {
    /// Nothing yet.
    Silent,
    /// That there is none of this name.
    Missing,
    /// Where it lives.
    At(Vec<Endpoint>),
}

type Places = watch::Sender<Place>;

#[derive(Clone, Default)]
struct State {
    received: Arc<Mutex<Received>>,
    services: Arc<Mutex<BTreeMap<String, Places>>>,
    policy: watch::Sender<Option<Policy>>,
    routes: watch::Sender<Option<Vec<RouteRule>>>,
    /// Whether batches are acknowledged.
    silent: Arc<AtomicBool>,
    /// Certifies proxies, where a test has one.
    authority: Arc<Mutex<Option<Authority>>>,
}

/// The server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: State,
    /// Keeps the port ours while the server is away; it does not listen.
    _place: Socket,
    /// Connections live and die with it.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    /// Starts a server on a free port.
    pub(crate) async fn start() -> Self {
        let place = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        place.set_reuse_address(true).expect("an option");
        place
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .expect("a port");
        let address = place.local_addr().expect("an address");
        let mut server = Self {
            address: address.as_socket().expect("an IP address"),
            state: State::default(),
            _place: place,
            runtime: None,
        };
        server.resume();
        server
    }

    /// Starts it again on its port.
    pub(crate) fn resume(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let guard = runtime.enter();
        // A listener that was just given up may not be closed yet.
        let start = Instant::now();
        let incoming = loop {
            match TcpIncoming::bind(self.address) {
                Ok(incoming) => break incoming,
                Err(error) => assert!(start.elapsed() < crate::mesh::DEADLINE, "bind: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.address = incoming.local_addr().expect("address");
        let state = self.state.clone();
        runtime.spawn(
            Tonic::builder()
                .add_service(DestinationServer::new(state.clone()))
                .add_service(InboundServerPoliciesServer::new(state.clone()))
                .add_service(OutboundPoliciesServer::new(state.clone()))
                .add_service(RecorderServer::new(state.clone()))
                .add_service(IdentityServer::new(state))
                .serve_with_incoming(incoming),
        );
        drop(guard);
        self.runtime = Some(runtime);
    }

    /// Stops it: all connections break.
    pub(crate) fn halt(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Says whether batches are acknowledged.
    pub(crate) fn acknowledge(&self, yes: bool) {
        self.state.silent.store(!yes, Ordering::Relaxed);
    }

    /// Certifies proxies from now on.
    pub(crate) fn certify(&self, authority: Authority) {
        *self.state.authority.lock().unwrap() = Some(authority);
    }

    /// Tells proxies where a service lives.
    pub(crate) fn discover(&self, service: &str, endpoints: &[Endpoint]) {
        self.state
            .service(service)
            .send_replace(Place::At(endpoints.to_vec()));
    }

    /// Tells proxies who has an address: instances of `callee`.
    pub(crate) fn discover_at(&self, address: SocketAddr, endpoints: &[Endpoint]) {
        self.discover(&address.to_string(), endpoints);
    }

    /// Tells proxies that there is no such service.
    pub(crate) fn forget(&self, service: &str) {
        self.state.service(service).send_replace(Place::Missing);
    }

    /// Tells proxies the policy of all of their ports.
    pub(crate) fn police(&self, policy: Policy) {
        self.state.policy.send_replace(Some(policy));
    }

    /// Tells proxies what holds for requests to all of their services.
    pub(crate) fn route(&self, rules: Vec<RouteRule>) {
        self.state.routes.send_replace(Some(rules));
    }

    /// Returns what arrived.
    pub(crate) fn received<T>(&self, look: impl FnOnce(&Received) -> T) -> T {
        look(&self.state.received.lock().unwrap())
    }

    /// Returns all records that arrived, each batch once.
    pub(crate) fn records(&self) -> Vec<RequestRecord> {
        let received = self.state.received.lock().unwrap();
        let rows = received
            .batches
            .values()
            .map(|payload| whodunit_flight::decode(payload).unwrap());
        rows.flat_map(|rows: Rows| (0..rows.len()).map(|i| rows.record(i)).collect::<Vec<_>>())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.halt();
    }
}

impl State {
    fn service(&self, name: &str) -> Places {
        let mut services = self.services.lock().unwrap();
        services
            .entry(name.to_owned())
            .or_insert_with(|| watch::Sender::new(Place::Silent))
            .clone()
    }

    fn take(&self, boot: u64, message: Message) -> Option<RecordResponse> {
        let mut received = self.received.lock().unwrap();
        match message {
            Message::Hello(_) => {}
            Message::Batch(batch) => {
                let durable = received.durable.get(&boot).copied().unwrap_or(0);
                if batch.sequence <= durable {
                    received.resent_durable += 1;
                }
                received
                    .batches
                    .insert((boot, batch.sequence), batch.payload);
                if self.silent.load(Ordering::Relaxed) {
                    return None;
                }
                received.durable.insert(boot, batch.sequence.max(durable));
            }
            Message::Closing(closing) => {
                received.closed.insert(boot, closing.last_sequence);
            }
        }
        let durable = received.durable.get(&boot).copied().unwrap_or(0);
        Some(RecordResponse {
            written: durable,
            durable,
            now_us: now_us(),
        })
    }
}

pub(crate) fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_micros()).unwrap()
}

#[whodunit_wire::tonic::async_trait]
impl Recorder for State {
    type RecordStream = ReceiverStream<Result<RecordResponse, Status>>;

    async fn record(
        &self,
        request: Request<Streaming<RecordRequest>>,
    ) -> Result<Response<Self::RecordStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        let state = self.clone();
        tokio::spawn(async move {
            let mut boot = 0;
            while let Some(Ok(request)) = requests.next().await {
                let Some(message) = request.message else {
                    continue;
                };
                if let Message::Hello(hello) = &message {
                    boot = hello.boot;
                    state.received.lock().unwrap().hellos.push(hello.clone());
                }
                if let Some(response) = state.take(boot, message)
                    && sender.send(Ok(response)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        self.received
            .lock()
            .unwrap()
            .reports
            .push(request.into_inner());
        Ok(Response::new(ReportResponse {}))
    }
}

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[whodunit_wire::tonic::async_trait]
impl Destination for State {
    type GetStream = Updates<Update>;
    type GetProfileStream = Updates<DestinationProfile>;

    async fn get(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let path = request.into_inner().path;
        let (name, known) = match destination::parse_target(&path).unwrap() {
            Target::Service(name) => {
                let known = self.service(&name.name);
                (name, known)
            }
            // An address that nobody was told to have is nobody's.
            Target::Addr(_) => {
                let name = destination::parse_path("callee.test").unwrap();
                let known = self.services.lock().unwrap().get(&path).cloned();
                (name, known.unwrap_or_else(|| Places::new(Place::Missing)))
            }
        };
        let known = known.subscribe();
        let service = service(name);
        let mut before: Vec<Endpoint> = Vec::new();
        let updates = WatchStream::new(known).map(move |place| match place {
            Place::Silent => vec![],
            Place::Missing => {
                before.clear();
                vec![Ok(destination::no_endpoints(false))]
            }
            Place::At(endpoints) => {
                let kept = |old: &&Endpoint| endpoints.iter().any(|e| e.address == old.address);
                let gone = before.iter().filter(|old| !kept(old));
                let gone: Vec<SocketAddr> = gone.map(|old| old.address).collect();
                let add = match endpoints.as_slice() {
                    [] => destination::no_endpoints(true),
                    endpoints => destination::add(&service, endpoints),
                };
                before = endpoints;
                vec![Ok(add), Ok(destination::remove(&gone))]
            }
        });
        Ok(Response::new(Box::pin(
            updates.flat_map(futures_util::stream::iter),
        )))
    }

    async fn get_profile(
        &self,
        _request: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

#[whodunit_wire::tonic::async_trait]
impl InboundServerPolicies for State {
    type WatchPortStream = Updates<PolicyMessage>;

    async fn get_port(&self, _: Request<PortSpec>) -> Result<Response<PolicyMessage>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn watch_port(
        &self,
        request: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        let request = request.into_inner();
        assert!(whodunit_wire::policy::parse_workload(&request.workload).is_some());
        assert_ne!(request.port, 0, "the port that is bound");
        let updates = WatchStream::new(self.policy.subscribe()).filter_map(async |policy| {
            policy.map(|policy| Ok(whodunit_wire::policy::server(&policy, "web")))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

#[whodunit_wire::tonic::async_trait]
impl OutboundPolicies for State {
    type WatchStream = Updates<OutboundPolicy>;

    async fn get(&self, _: Request<TrafficSpec>) -> Result<Response<OutboundPolicy>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn watch(
        &self,
        request: Request<TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let name = whodunit_wire::outbound::asked(request.get_ref()).expect("a name");
        let updates = WatchStream::new(self.routes.subscribe()).filter_map(move |routes| {
            let service = routes.map(|routes| Service {
                routes,
                ..service(name.clone())
            });
            let policy = whodunit_wire::outbound::policy(&name, service.as_ref());
            std::future::ready(Some(Ok(policy)))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

fn service(name: ServiceName) -> Service {
    Service {
        workload: name.name.clone(),
        name,
        protocol: None,
        external: false,
        policy: None,
        routes: vec![],
        address: None,
        endpoints: vec![],
    }
}

#[whodunit_wire::tonic::async_trait]
impl Identity for State {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        let mut authority = self.authority.lock().unwrap();
        let authority = authority
            .as_mut()
            .ok_or_else(|| Status::unavailable("no authority"))?;
        let now_s = now_us() / 1_000_000;
        authority.refresh(now_s).unwrap();
        let subject = authority.token_key().check(&request.token);
        let subject = subject.ok_or_else(|| Status::permission_denied("whose token is this"))?;
        let csr = &request.certificate_signing_request;
        let certified = authority.certify(csr, &subject.namespace, &subject.account, now_s);
        let certified = certified.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(CertifyResponse {
            leaf_certificate: certified.leaf,
            intermediate_certificates: certified.intermediates,
            valid_until: Some(whodunit_wire::timestamp(certified.not_after_s)),
        }))
    }
}
