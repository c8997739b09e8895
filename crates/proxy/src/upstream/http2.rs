//! HTTP/2 connections to one endpoint: one, and more only when its streams run out.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use http::{Request, Response};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use whodunit_model::Cause;

use super::Endpoint;
use super::error::{Failed, hyper_cause};
use crate::http::{Incoming, RequestBody};
use crate::limits::{self, Limit};
use crate::worker::LocalExecutor;

/// Streams per connection before another one is opened: what common servers allow.
const STREAMS_MAX: u32 = 100;

/// Most connections per endpoint and thread; beyond them requests share.
const CONNECTIONS_MAX: usize = Limit::Http2Connections.count();

/// A peer that does not answer a ping in this time while requests wait is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Limit::PingTime.time();

/// Flow-control windows: enough for 1 Gbit/s over 8 ms, bounded for memory.
const STREAM_WINDOW_BYTES: u32 = Limit::Http2StreamWindow.count_u32();
const CONNECTION_WINDOW_BYTES: u32 = Limit::Http2ConnectionWindow.count_u32();

type Sender = SendRequest<RequestBody>;

/// The connections.
#[derive(Default)]
pub(super) struct Pool {
    connections: RefCell<Vec<Rc<Connection>>>,
}

struct Connection {
    /// Completes once; whoever needs the connection first drives it.
    connecting: Shared<LocalBoxFuture<'static, Result<Sender, Cause>>>,
    streams: Cell<u32>,
}

impl Connection {
    /// Says whether requests may go on it. One that is connecting lives only as long as
    /// somebody waits for it: nobody else drives it, and its time to connect would be over.
    fn is_usable(self: &Rc<Self>) -> bool {
        match self.connecting.peek() {
            None => Rc::strong_count(self) > 1,
            Some(Ok(sender)) => !sender.is_closed(),
            Some(Err(_)) => false,
        }
    }
}

impl Pool {
    /// Returns a connection with room, and whether it was there before.
    fn pick(&self, endpoint: &Rc<Endpoint>) -> (Rc<Connection>, bool) {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| connection.is_usable());
        let least = connections
            .iter()
            .min_by_key(|connection| connection.streams.get());
        match least {
            Some(least)
                if least.streams.get() < STREAMS_MAX || connections.len() >= CONNECTIONS_MAX =>
            {
                if least.streams.get() >= STREAMS_MAX {
                    limits::hit(Limit::Http2Connections);
                }
                (least.clone(), true)
            }
            _ => {
                let connecting = connect(endpoint).boxed_local().shared();
                let connection = Rc::new(Connection {
                    connecting,
                    streams: Cell::new(0),
                });
                connections.push(connection.clone());
                (connection, false)
            }
        }
    }

    fn forget(&self, connection: &Rc<Connection>) {
        self.connections
            .borrow_mut()
            .retain(|known| !Rc::ptr_eq(known, connection));
    }

    pub(super) fn sweep(&self) {
        self.connections
            .borrow_mut()
            .retain(|connection| connection.is_usable());
    }
}

fn connect(endpoint: &Rc<Endpoint>) -> impl Future<Output = Result<Sender, Cause>> + use<> {
    let connector = endpoint.connector.clone();
    async move {
        let io = TokioIo::new(connector.connect().await?);
        let (sender, connection) = Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(crate::http::HEADER_BYTES_MAX)
            .handshake(io)
            .await
            .map_err(|error| hyper_cause(&error))?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(sender)
    }
}

/// A stream of a connection.
pub(crate) struct Lease {
    sender: Sender,
    connection: Rc<Connection>,
    pub(super) reused: bool,
}

impl Lease {
    pub(super) async fn acquire(endpoint: &Rc<Endpoint>) -> Result<Self, Cause> {
        let (connection, reused) = endpoint.http2.pick(endpoint);
        let sender = match connection.connecting.peek() {
            Some(result) => result.clone(),
            None => connection.connecting.clone().await,
        };
        match sender {
            Ok(sender) => {
                connection.streams.set(connection.streams.get() + 1);
                Ok(Self {
                    sender,
                    connection,
                    reused,
                })
            }
            Err(cause) => {
                endpoint.http2.forget(&connection);
                Err(cause)
            }
        }
    }

    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        self.sender
            .try_send_request(request)
            .await
            .map(|response| response.map(Incoming::Http2))
            .map_err(|mut error| Failed {
                request: error.take_message().map(Box::new),
                cause: hyper_cause(error.error()),
            })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection
            .streams
            .set(self.connection.streams.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_nobody_waits_for_any_more_is_given_up() {
        let connection = Rc::new(Connection {
            connecting: std::future::pending().boxed_local().shared(),
            streams: Cell::new(0),
        });
        let waiting = connection.clone();
        let pool = Pool::default();
        pool.connections.borrow_mut().push(connection);
        pool.sweep();
        assert_eq!(pool.connections.borrow().len(), 1, "a request waits for it");
        drop(waiting);
        pool.sweep();
        assert!(pool.connections.borrow().is_empty());
    }
}
