//! Serving unary gRPC methods by name.
//!
//! One handler routes on the method name instead of one generated function per method:
//! the voting service has a hundred that differ in nothing else. A method nobody knows
//! is answered with UNIMPLEMENTED.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use prost::Message;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::health_v1::health_check_response::ServingStatus;
use crate::health_v1::{HealthCheckRequest, HealthCheckResponse};
use crate::serve::Stop;

/// A request before its message is decoded.
pub type RawRequest = http::Request<Body>;
/// An answer with its message encoded.
pub type RawResponse = http::Response<Body>;

/// A gRPC service whose methods are found by name.
pub trait Methods: Send + Sync + 'static {
    /// Full name, such as `emojivoto.v1.VotingService`.
    const SERVICE: &'static str;

    /// Answers one call; `method` is the path behind the service's name, whatever it holds.
    fn call(
        self: Arc<Self>,
        method: String,
        request: RawRequest,
    ) -> impl Future<Output = RawResponse> + Send;
}

/// Decodes the request, runs the handler, encodes the answer or the error.
pub async fn unary<Q, A, F, R>(request: RawRequest, handler: F) -> RawResponse
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnMut(Q) -> R,
    R: Future<Output = Result<A, Status>> + Send + 'static,
{
    tonic::server::Grpc::new(ProstCodec::<A, Q>::default())
        .unary(Handler(handler), request)
        .await
}

/// The answer to a method that does not exist, in the words of grpc-go.
pub fn unknown_method(service: &str, method: &str) -> RawResponse {
    Status::unimplemented(format!("unknown method {method} for service {service}")).into_http()
}

struct Handler<F>(F);

impl<Q, A, F, R> UnaryService<Q> for Handler<F>
where
    F: FnMut(Q) -> R,
    R: Future<Output = Result<A, Status>> + Send + 'static,
{
    type Response = A;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        Box::pin(async move { answer.await.map(Response::new) })
    }
}

/// What tonic's server needs around [`Methods`].
struct ByName<M>(Arc<M>);

impl<M> Clone for ByName<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Methods> NamedService for ByName<M> {
    const NAME: &'static str = M::SERVICE;
}

impl<M: Methods> Service<RawRequest> for ByName<M> {
    type Response = RawResponse;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<RawResponse, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RawRequest) -> Self::Future {
        let methods = Arc::clone(&self.0);
        let method = request
            .uri()
            .path()
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(M::SERVICE))
            .and_then(|path| path.strip_prefix('/'))
            .unwrap_or_default()
            .to_owned();
        Box::pin(async move { Ok(methods.call(method, request).await) })
    }
}

/// `grpc.health.v1.Health/Check`: the process serves, whatever becomes of single votes.
struct Health {
    service: &'static str,
}

impl Methods for Health {
    const SERVICE: &'static str = "grpc.health.v1.Health";

    async fn call(self: Arc<Self>, method: String, request: RawRequest) -> RawResponse {
        if method != "Check" {
            return unknown_method(Self::SERVICE, &method);
        }
        let service = self.service;
        unary(request, move |question: HealthCheckRequest| {
            let asked = question.service.as_str();
            let known = asked.is_empty() || asked == service || asked == Self::SERVICE;
            std::future::ready(if known {
                Ok(HealthCheckResponse {
                    status: ServingStatus::Serving.into(),
                })
            } else {
                Err(Status::not_found("unknown service"))
            })
        })
        .await
    }
}

/// Serves the methods and the health protocol until asked to stop; fails when the listener
/// does.
pub async fn serve<M: Methods>(
    listener: TcpListener,
    methods: Arc<M>,
    stop: Stop,
) -> anyhow::Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .add_service(ByName(methods))
        .add_service(ByName(Arc::new(Health {
            service: M::SERVICE,
        })))
        .serve_with_incoming_shutdown(incoming, stop.clone().requested());
    tokio::select! {
        result = server => result.context("serve gRPC"),
        () = stop.overdue() => Ok(()),
    }
}

/// A connection to a gRPC server that is opened when first used and reopened when lost.
/// Fails when `host` cannot stand in a URL.
pub fn channel(host: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{host}"))?;
    // Long for a listener that may be down: the caller's caller waits.
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .connect_lazy())
}

/// Calls one unary method. Fails with the server's status, with Unavailable when there is
/// no connection, with Internal when `path` is not one.
pub async fn call<Q, A>(channel: &Channel, path: String, message: Q) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let path = http::uri::PathAndQuery::from_maybe_shared(path)
        .map_err(|error| Status::internal(format!("method path: {error}")))?;
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    client
        .unary(Request::new(message), path, codec)
        .await
        .map(Response::into_inner)
}

/// Asks a gRPC server of this machine whether it answers: the readiness of a process is
/// what its own listener says, not what the process believes.
#[derive(Clone, Debug)]
pub struct SelfCheck(Channel);

impl SelfCheck {
    /// Checks the server that listens at this address; connects when first run.
    pub fn new(listening: SocketAddr) -> anyhow::Result<Self> {
        let host = match listening {
            SocketAddr::V4(addr) if addr.ip().is_unspecified() => {
                format!("127.0.0.1:{}", addr.port())
            }
            SocketAddr::V6(addr) if addr.ip().is_unspecified() => format!("[::1]:{}", addr.port()),
            addr => addr.to_string(),
        };
        Ok(Self(channel(&host).context("prepare the readiness check")?))
    }

    /// Fails with the reason when the server does not answer within a second.
    pub async fn run(&self) -> Result<(), String> {
        let path = "/grpc.health.v1.Health/Check".to_owned();
        let question = HealthCheckRequest {
            service: String::new(),
        };
        let check = call::<_, HealthCheckResponse>(&self.0, path, question);
        match tokio::time::timeout(Duration::from_secs(1), check).await {
            Ok(Ok(answer)) if answer.status() == ServingStatus::Serving => Ok(()),
            Ok(Ok(answer)) => Err(format!("gRPC health is {:?}", answer.status())),
            Ok(Err(status)) => Err(format!("gRPC health check failed: {}", status.message())),
            Err(_) => Err("gRPC health check got no answer within a second".to_owned()),
        }
    }
}
