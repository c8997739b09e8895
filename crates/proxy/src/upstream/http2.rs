//! HTTP/2 connections to one endpoint: one, and more only when its streams run out.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use tokio::task::AbortHandle;
use tokio::time::{interval, timeout};
use whodunit_model::Cause;

use super::Endpoint;
use super::error::{Failed, h2_cause, is_unprocessed};
use super::greeting::{Greeting, Told};
use crate::clock::Instant;
use crate::coalesce::Coalesced;
use crate::http::{HEADER_LIST_BYTES_MAX, Incoming, Outgoing, ReceivedBody, Upload, interim};
use crate::limits::{self, Limit};

/// Streams per connection before another one is opened: what common servers allow.
const STREAMS_MAX: usize = 100;

/// The same towards a proxy that proves who it is: what it allows.
const PEER_STREAMS_MAX: usize = Limit::Http2PeerStreams.count();

/// Streams that are sent before the endpoint has said how many it takes. One that ends while
/// a connection to it is made may close it without a word: what was not sent then goes to
/// another endpoint, whatever it is.
const STREAMS_UNTOLD: usize = 0;

/// Most connections per endpoint and thread; beyond them requests share.
const CONNECTIONS_MAX: usize = Limit::Http2Connections.count();

/// A peer that does not answer a ping in this time while requests wait is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Limit::PingTime.time();

/// How long the first bytes of an endpoint are waited for. One that is slower is taken for an
/// HTTP/2 server that is busy.
const GREETING_TIME: Duration = Duration::from_secs(1);

/// Flow-control windows: bound what an endpoint may make us keep.
const STREAM_WINDOW_BYTES: u32 = Limit::Http2StreamWindow.count_u32();
const CONNECTION_WINDOW_BYTES: u32 = Limit::Http2ConnectionWindow.count_u32();

/// Bytes of a request that may wait for an endpoint that does not read.
const SEND_BUFFER_BYTES: usize = Limit::Http2SendBytes.count();

type Sender = SendRequest<Bytes>;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It failed.
    Failed(Cause),
    /// The endpoint does not speak HTTP/2.
    Other,
    /// The endpoint hung up on the preface without a word.
    Silent,
}

/// The connections.
#[derive(Default)]
pub(super) struct Pool {
    connections: RefCell<Vec<Rc<Connection>>>,
}

struct Connection {
    /// Completes once; whoever needs the connection first drives it.
    connecting: Shared<LocalBoxFuture<'static, Result<Sender, Cause>>>,
    greeting: Rc<Greeting>,
    /// Tells how the connection is, once it is there. Nothing is sent with this one.
    sender: RefCell<Option<Sender>>,
    streams_max: usize,
    /// Requests that have a lease, which the task of the connection watches.
    streams: Rc<Cell<usize>>,
}

impl Connection {
    /// Says whether requests may go on it. One that is connecting lives only as long as
    /// somebody waits for it: nobody else drives it, and its time to connect would be over.
    /// Notes in `leaving` that the endpoint wants requests to go elsewhere.
    fn is_usable(self: &Rc<Self>, leaving: &mut bool) -> bool {
        match self.connecting.peek() {
            None => self.users() > 0,
            Some(Ok(_)) => match self.closed() {
                None => true,
                Some(why) => {
                    *leaving |= why.is_go_away() && why.is_remote();
                    false
                }
            },
            Some(Err(_)) => false,
        }
    }

    /// Looks at how the connection is, if it is there.
    fn ask<T>(&self, question: impl FnOnce(&mut Sender) -> T) -> Option<T> {
        let mut sender = self.sender.borrow_mut();
        if sender.is_none() {
            *sender = self.connecting.peek()?.as_ref().ok().cloned();
        }
        sender.as_mut().map(question)
    }

    /// Returns why the connection takes no further streams: it has ended, a GOAWAY came, or
    /// no stream ids are left. None if it takes them.
    fn closed(&self) -> Option<h2::Error> {
        let mut context = Context::from_waker(Waker::noop());
        match self.ask(|sender| sender.poll_ready(&mut context))? {
            Poll::Ready(Err(error)) => Some(error),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        }
    }

    /// Returns how many streams the endpoint takes, as far as it has told; before that none is
    /// sent.
    fn allowed(&self) -> usize {
        self.ask(|sender| sender.current_max_send_streams())
            .unwrap_or(STREAMS_UNTOLD)
    }

    /// Says whether the endpoint has told how many streams it takes.
    fn has_spoken(&self) -> bool {
        self.allowed() > STREAMS_UNTOLD
    }

    /// How many requests have it: those with a stream and those that wait for it to be made.
    /// All but the pool's own reference are theirs.
    fn users(self: &Rc<Self>) -> usize {
        Rc::strong_count(self) - 1
    }

    fn has_room(self: &Rc<Self>) -> bool {
        let users = self.users();
        if users >= self.streams_max {
            return false;
        }
        let allowed = match self.allowed() {
            STREAMS_UNTOLD => self.streams_max,
            allowed => allowed,
        };
        users < allowed
    }
}

impl Pool {
    /// Returns a connection with room, and whether it was there before. With `cautious` a
    /// new one waits for the endpoint to say that it speaks HTTP/2, unless that is known.
    fn pick(&self, endpoint: &Rc<Endpoint>, cautious: bool) -> (Rc<Connection>, bool) {
        let mut connections = self.connections.borrow_mut();
        let mut chosen = least(&connections);
        // Only the one that is chosen has to be of use; mostly it is.
        let mut leaving = false;
        if chosen.is_some_and(|chosen| !chosen.is_usable(&mut leaving) || !chosen.has_room()) {
            connections.retain(|connection| connection.is_usable(&mut leaving));
            chosen = least(&connections);
        }
        if leaving {
            endpoint.health.leaves(Instant::now());
        }
        match chosen {
            Some(least) if least.has_room() || connections.len() >= CONNECTIONS_MAX => {
                if !least.has_room() {
                    limits::hit(Limit::Http2Connections);
                }
                (least.clone(), true)
            }
            _ => {
                let known =
                    |connection: &Rc<Connection>| connection.greeting.told() == Some(Told::Http2);
                let cautious = cautious && !connections.iter().any(known);
                let (streams, greeting) = (Rc::default(), Rc::default());
                let connecting = connect(
                    endpoint,
                    Rc::clone(&streams),
                    Rc::clone(&greeting),
                    cautious,
                );
                let connection = Rc::new(Connection {
                    connecting: connecting.boxed_local().shared(),
                    greeting,
                    sender: RefCell::default(),
                    streams_max: if endpoint.connector.peer().is_some() {
                        PEER_STREAMS_MAX
                    } else {
                        STREAMS_MAX
                    },
                    streams,
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

    /// Forgets connections that are of no use; says whether the endpoint wants requests to
    /// go elsewhere.
    pub(super) fn sweep(&self) -> bool {
        let mut leaving = false;
        self.connections
            .borrow_mut()
            .retain(|connection| connection.is_usable(&mut leaving));
        leaving
    }
}

/// Returns the connection with the fewest requests.
fn least(connections: &[Rc<Connection>]) -> Option<&Rc<Connection>> {
    connections
        .iter()
        .min_by_key(|connection| connection.users())
}

fn connect(
    endpoint: &Rc<Endpoint>,
    streams: Rc<Cell<usize>>,
    greeting: Rc<Greeting>,
    cautious: bool,
) -> impl Future<Output = Result<Sender, Cause>> + use<> {
    let connector = endpoint.connector.clone();
    async move {
        let io = Coalesced::greeted(connector.connect().await?, greeting.clone());
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS_UNTOLD)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .handshake(io)
            .await
            .map_err(|error| h2_cause(&error))?;
        tokio::task::spawn_local(drive(connection, streams));
        if cautious {
            // Whoever wants the connection looks at what came.
            let _ = timeout(GREETING_TIME, greeting.wait()).await;
        }
        Ok(sender)
    }
}

/// Drives a connection until it ends, and sees to it that the endpoint is there while
/// requests wait for it.
async fn drive(mut connection: h2::client::Connection<Coalesced, Bytes>, streams: Rc<Cell<usize>>) {
    let pings = connection.ping_pong();
    let alive = async {
        let Some(mut pings) = pings else {
            return std::future::pending().await;
        };
        let mut ticks = interval(PING_INTERVAL);
        loop {
            ticks.tick().await;
            if streams.get() == 0 {
                continue;
            }
            match timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await {
                Ok(Ok(_)) => {}
                // The connection itself tells why.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => return,
            }
        }
    };
    let mut alive = pin!(alive);
    tokio::select! {
        biased;
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "upstream connection ended");
            }
        }
        () = &mut alive => tracing::debug!("an endpoint does not answer pings"),
    }
}

/// A stream of a connection.
pub(crate) struct Lease {
    connection: Rc<Connection>,
    pub(super) reused: bool,
    /// Sends the body of the request.
    upload: Option<AbortHandle>,
    /// The client has got an interim response from here.
    pub(super) has_passed_interim: bool,
}

impl Lease {
    /// Takes a stream of a connection that is there, if one has room.
    pub(super) fn at_once(endpoint: &Rc<Endpoint>) -> Option<Self> {
        let connections = endpoint.http2.connections.borrow();
        let chosen = least(&connections)?;
        let known = chosen.greeting.told() == Some(Told::Http2);
        let there = chosen.connecting.peek().is_some_and(Result::is_ok);
        if !known || !there || !chosen.has_room() || chosen.closed().is_some() {
            return None;
        }
        endpoint.note_http2();
        Some(Self::on(chosen.clone(), true))
    }

    fn on(connection: Rc<Connection>, reused: bool) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self {
            connection,
            reused,
            upload: None,
            has_passed_interim: false,
        }
    }

    /// Takes a stream; with `cautious` of a connection on which the endpoint speaks HTTP/2.
    /// With `trial` an endpoint that hung up is told from one that failed.
    pub(super) async fn acquire(
        endpoint: &Rc<Endpoint>,
        cautious: bool,
        trial: bool,
    ) -> Result<Self, Refused> {
        let (connection, reused) = endpoint.http2.pick(endpoint, cautious);
        let connected = match connection.connecting.peek() {
            Some(result) => result.clone(),
            None => connection.connecting.clone().await,
        };
        let told = connection.greeting.told();
        let refused = match (connected, told) {
            (Err(cause), _) => Some(Refused::Failed(cause)),
            (Ok(_), Some(Told::Other)) => Some(Refused::Other),
            (Ok(_), Some(Told::Ended(_))) if trial => Some(Refused::Silent),
            // What ended without a word fails when it is used, as one that ends later does.
            (Ok(_), _) => None,
        };
        if told == Some(Told::Http2) {
            endpoint.note_http2();
        }
        if let Some(refused) = refused {
            endpoint.http2.forget(&connection);
            return Err(refused);
        }
        Ok(Self::on(connection, reused))
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(
        &mut self,
        outgoing: &mut Outgoing,
    ) -> Result<Response<Incoming>, Failed> {
        let (mut response, mut upload) = self.begin(outgoing)?;
        let response = poll_fn(|cx| {
            // The body of a short request is there already, and needs no task of its own.
            if let Some(mut sending) = upload.take()
                && Pin::new(&mut sending).poll(cx).is_pending()
            {
                let upload = tokio::task::spawn_local(sending);
                self.upload = Some(upload.abort_handle());
            }
            while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
                self.has_passed_interim |= interim.status() != StatusCode::CONTINUE;
                interim::pass(interim);
            }
            Pin::new(&mut response).poll(cx)
        });
        let response = response.await.map_err(|error| {
            let unsent = !self.connection.has_spoken();
            let failed = self.failed(&error);
            Failed {
                unprocessed: failed.unprocessed || unsent,
                ..failed
            }
        })?;
        Ok(response.map(|body| Incoming::Http2(ReceivedBody(body))))
    }

    /// Opens the stream, and returns what the body is sent with, if there is one.
    fn begin(&self, outgoing: &mut Outgoing) -> Result<(ResponseFuture, Option<Upload>), Failed> {
        if let Some(error) = self.connection.closed() {
            return Err(Failed {
                cause: h2_cause(&error),
                // A connection that was used is only old; an endpoint that ends a new one is
                // going.
                unsent: self.reused && self.connection.has_spoken(),
                unprocessed: true,
            });
        }
        let sender = self.connection.ask(|sender| sender.clone());
        let outgoing = (outgoing.parts.take(), outgoing.body.take());
        let (Some(mut sender), (Some(mut parts), Some(body))) = (sender, outgoing) else {
            return Err(Failed {
                cause: Cause::Unknown,
                unsent: false,
                unprocessed: false,
            });
        };
        if let Some(client) = body.client() {
            client.with_fields(|fields| fields.complete(&mut parts.headers));
        }
        let ended = body.is_end_stream();
        let sent = sender.send_request(Request::from_parts(parts, ()), ended);
        let (response, stream) = sent.map_err(|error| Failed {
            // Nothing was even queued; what HTTP/2 cannot say would not be said elsewhere.
            unprocessed: error.is_io() || error.is_remote(),
            ..self.failed(&error)
        })?;
        Ok((response, (!ended).then(|| Upload::new(body, stream))))
    }

    fn failed(&self, error: &h2::Error) -> Failed {
        let other = self.connection.greeting.told() == Some(Told::Other);
        Failed {
            cause: h2_cause(error),
            unsent: false,
            // What does not speak HTTP/2 has understood nothing.
            unprocessed: is_unprocessed(error) || other,
        }
    }

    /// Lets the rest of the request go on: an endpoint may read it after its response.
    pub(super) fn give_back(mut self) {
        self.upload = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let streams = &self.connection.streams;
        streams.set(streams.get() - 1);
        if let Some(upload) = self.upload.take() {
            upload.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_nobody_waits_for_any_more_is_given_up() {
        let connection = Rc::new(Connection {
            connecting: std::future::pending().boxed_local().shared(),
            sender: RefCell::default(),
            greeting: Rc::default(),
            streams_max: STREAMS_MAX,
            streams: Rc::default(),
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
