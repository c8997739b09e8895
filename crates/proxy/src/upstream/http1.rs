//! HTTP/1.1 connections to one endpoint: a bounded stack of idle ones.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use whodunit_model::Cause;

use super::Endpoint;
use super::error::{Failed, cause_of};
use crate::http::RequestBody;
use crate::net::{self, Io};

/// How long a connection may be idle. Bursts leave many; most are never used again.
const IDLE: Duration = Duration::from_secs(10);

/// Most idle connections per endpoint and thread; the rest is closed after its request.
const IDLE_MAX: usize = 256;

/// The idle connections. The last one in is the first one out, so that few stay warm
/// and the others run into the idle limit.
#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<Vec<(SendRequest<RequestBody>, Instant)>>,
}

impl Pool {
    fn take(&self) -> Option<SendRequest<RequestBody>> {
        let mut idle = self.idle.borrow_mut();
        while let Some((sender, since)) = idle.pop() {
            if sender.is_ready() && since.elapsed() < IDLE {
                return Some(sender);
            }
        }
        None
    }

    fn put(&self, sender: SendRequest<RequestBody>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push((sender, Instant::now()));
        }
    }

    pub(super) fn sweep(&self, now: Instant) {
        let fresh = |since: Instant| now.saturating_duration_since(since) < IDLE;
        self.idle
            .borrow_mut()
            .retain(|(sender, since)| fresh(*since) && !sender.is_closed());
    }
}

/// A connection for one request.
pub(crate) struct Lease {
    sender: SendRequest<RequestBody>,
    endpoint: Rc<Endpoint>,
    /// Whether it carried a request before.
    pub(super) reused: bool,
}

impl Lease {
    pub(super) async fn acquire(endpoint: &Rc<Endpoint>) -> Result<Self, Cause> {
        if let Some(sender) = endpoint.http1.take() {
            return Ok(Self {
                sender,
                endpoint: endpoint.clone(),
                reused: true,
            });
        }
        let stream = net::connect(endpoint.address).await?;
        let io = TokioIo::new(Io::new(stream, endpoint.transport.clone()));
        let (sender, connection) = Builder::new()
            .preserve_header_case(true)
            .max_headers(crate::http::HEADERS_MAX)
            .handshake(io)
            .await
            .map_err(|error| cause_of(&error))?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Self {
            sender,
            endpoint: endpoint.clone(),
            reused: false,
        })
    }

    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        self.sender
            .try_send_request(request)
            .await
            .map_err(|mut error| Failed {
                request: error.take_message().map(Box::new),
                cause: cause_of(error.error()),
            })
    }

    /// Puts the connection back, as soon as the request is sent completely too.
    pub(super) fn give_back(mut self) {
        if self.sender.is_ready() {
            self.endpoint.http1.put(self.sender);
            return;
        }
        tokio::task::spawn_local(async move {
            let ready = tokio::time::timeout(IDLE, self.sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                self.endpoint.http1.put(self.sender);
            }
        });
    }
}
