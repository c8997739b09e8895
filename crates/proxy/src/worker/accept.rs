//! Accepts connections and finds out what they speak.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::time::{Instant as Deadline, timeout_at};
use whodunit_model::record::{Detected, Protocol, Side};

use super::{Connection, Inlet, Phase};
use crate::clock::Instant;
use crate::config::Declared;
use crate::detect::{Verdict, is_tls, judge, may_be_tls};
use crate::http::{record_bad_head, refuse_connection, refuse_preface, serve_http1, serve_http2};
use crate::limits::{self, Limit};
use crate::log::Rarely;
use crate::net::{Bound, Io, TcpListener, TcpStream};
use crate::opaque::{Dialed, dial, record_denied, record_refused};
use crate::policy::{Opaque, Permit};
use crate::tls::{self, HANDSHAKE, Security};

/// How long a client may be silent before its port is taken for one where servers speak first.
const SILENCE: Duration = Limit::DetectTime.time();

/// How long a client may take for the first bytes once it began, on ports declared HTTP.
const FIRST_BYTES: Duration = Limit::FirstBytesTime.time();

/// How long a connection may stay without any byte.
const UNUSED: Duration = Limit::IdleTime.time();

/// Bytes that are read to detect the protocol; a request line rarely is longer.
const PEEK_BYTES: usize = 512;

/// How long a port for any bytes waits for the client hello of a proxy before it takes the
/// client for one that waits for the server to speak.
const HELLO: Duration = Duration::from_millis(200);

/// How long a new connection may take for its first bytes once the process drains.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long the process still accepts connections once it drains: callers that ask discovery
/// have heard by then, and others were told on their connections.
const LISTEN_ON: Duration = Duration::from_millis(500);

/// Most waiting connections that are still served when the process drains.
const BACKLOG_TAKEN_MAX: usize = 4_096;

/// How long the kernel may take to say that another connection waits.
const BACKLOG_WAIT: Duration = Duration::from_millis(10);

/// Pause after an error of `accept`, which says that file descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why unrecognized bytes are refused where they could be a request in disguise.
const NOT_A_REQUEST: &str = "policy looks into requests here, and this is none";

/// Accepts connections until the process drains.
pub(super) async fn accept(inlet: Rc<Inlet>, socket: Bound, phase: watch::Receiver<Phase>) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(listener = inlet.name(), %error, "cannot accept connections");
            return;
        }
    };
    let refused = Rarely::new();
    let closing = async {
        drained(phase.clone()).await;
        // Nobody is surprised where nobody is connected.
        if inlet.worker.has_clients(inlet.side()) {
            tokio::time::sleep(LISTEN_ON.min(inlet.worker.config.shutdown_grace / 2)).await;
        }
    };
    let mut closing = pin!(closing);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut closing => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = handle(inlet.clone(), stream, peer, phase.clone());
                tokio::task::spawn_local(connection);
            }
            Err(error) => {
                if let Some(unlogged) = refused.due() {
                    let listener = inlet.name();
                    tracing::warn!(listener, %error, unlogged, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    take_backlog(&inlet, &listener, &phase).await;
}

/// Takes the connections that clients believe to have already: closing the socket would
/// reset them. They are served as others are while the process drains.
async fn take_backlog(inlet: &Rc<Inlet>, listener: &TcpListener, phase: &watch::Receiver<Phase>) {
    // Without an end to it a flood of connections would keep the process from ending.
    for _ in 0..BACKLOG_TAKEN_MAX {
        match tokio::time::timeout(BACKLOG_WAIT, listener.accept()).await {
            Ok(Ok((stream, peer))) => {
                let connection = handle(inlet.clone(), stream, peer, phase.clone());
                tokio::task::spawn_local(connection);
            }
            _ => return,
        }
    }
}

/// What a connection turned out to be.
enum Spoken {
    Http1,
    Http2,
    /// Anything, with the connection to the endpoint.
    Opaque(Dialed),
    /// Policy does not let it through; the record says by which rule.
    Denied(Arc<str>),
    /// TLS, perhaps for us.
    Tls,
    /// Not what the port is declared to carry.
    Refused(&'static str),
    /// The client went away, or never said anything.
    Nothing,
}

async fn handle(
    inlet: Rc<Inlet>,
    stream: TcpStream,
    peer: SocketAddr,
    phase: watch::Receiver<Phase>,
) {
    let accepted = Instant::now();
    let listener = inlet;
    let inlet = match listener.of(&stream) {
        Ok(inlet) => inlet,
        Err(cause) => {
            tracing::debug!(listener = listener.name(), %peer, %cause, "refused a connection");
            let io = Io::new(stream, listener.transport.clone());
            let refused = Rc::new(Connection::new(
                &listener,
                peer,
                Detected::Declared,
                false,
                io.read_counter(),
                Security::plain(),
            ));
            record_refused(&refused, accepted, cause, "");
            return io.reset_on_close();
        }
    };
    // Latency matters more than the number of packets; failure only costs that.
    let _ = stream.set_nodelay(true);
    let io = Io::new(stream, inlet.transport.clone());
    let arrival = Rc::new(Connection::new(
        &inlet,
        peer,
        Detected::Declared,
        false,
        io.read_counter(),
        Security::plain(),
    ));
    let Some(registered) = Registered::add(arrival.clone()) else {
        return;
    };
    let mut first = BytesMut::new();
    // Boxed, as is all that is served: most of it is over when a connection waits.
    let greeted = Box::pin(async {
        let greeting = async {
            inlet.know().await;
            greet(&inlet, io, &mut first, peer, accepted).await
        };
        tokio::select! {
            greeted = greeting => Some(greeted),
            () = arrival.close.notified() => None,
            () = drained_for_a_while(phase.clone()) => None,
        }
    });
    let Some(greeted) = greeted.await else {
        return;
    };
    drop(registered);
    let Greeted {
        mut io,
        spoken,
        detected,
        security,
    } = match greeted {
        Ok(greeted) => greeted,
        Err(failed) => {
            tracing::debug!(listener = inlet.name(), %peer, why = failed.why, "refused a handshake");
            inlet.worker.stats.identity.refused.add();
            tls::record_refused(&arrival, accepted, &failed);
            return;
        }
    };
    drop(arrival);
    let first = first.freeze();
    let own_tls = is_tls(&first);
    io.put_back(first.clone());
    // What is served has its first bytes with it.
    let first = if matches!(spoken, Spoken::Refused(_)) {
        first
    } else {
        Bytes::new()
    };
    let sequential = matches!(spoken, Spoken::Http1);
    let connection = Rc::new(Connection::new(
        &inlet,
        peer,
        detected,
        sequential,
        io.read_counter(),
        security,
    ));
    let Some(_registered) = Registered::add(connection.clone()) else {
        return;
    };
    match spoken {
        Spoken::Http1 => Box::pin(serve_http1(connection, io, phase)).await,
        Spoken::Http2 => Box::pin(serve_http2(connection, io, phase)).await,
        Spoken::Opaque(dialed) => {
            Box::pin(dialed.relay(&connection, &mut io, own_tls)).await;
        }
        Spoken::Denied(rule) => {
            tracing::debug!(listener = inlet.name(), %peer, %rule, "denied a connection");
            record_denied(&connection, accepted, rule);
        }
        Spoken::Refused(why) => {
            tracing::debug!(listener = inlet.name(), %peer, why, "refused a connection");
            let http2 = matches!(inlet.protocol(), Declared::Http2 | Declared::Grpc);
            if http2 && judge(&first) != Verdict::Http1 {
                record_bad_head(&connection, Protocol::Http2, accepted, 0, &[]);
                refuse_preface(&mut io).await;
            } else {
                record_bad_head(&connection, Protocol::Http1, accepted, 400, &first);
                refuse_connection(&mut io, why).await;
            }
        }
        Spoken::Nothing | Spoken::Tls => {}
    }
}

/// A connection after its first words.
struct Greeted {
    io: Io,
    spoken: Spoken,
    detected: Detected,
    security: Security,
}

/// Who connected: the identity by certificate, empty without one, and the address.
type Client<'a> = (&'a str, SocketAddr);

/// Finds out what a connection speaks, inside of TLS if it is for us.
async fn greet(
    inlet: &Rc<Inlet>,
    mut io: Io,
    first: &mut BytesMut,
    peer: SocketAddr,
    accepted: Instant,
) -> Result<Greeted, tls::Failed> {
    let current = inlet.tls();
    let client = ("", peer);
    let words = first_words(inlet, &mut io, first, client, accepted, current.is_some());
    let (spoken, detected) = words.await;
    let (Some(current), Spoken::Tls) = (current, &spoken) else {
        let security = Security::plain();
        return Ok(Greeted {
            io,
            spoken,
            detected,
            security,
        });
    };
    let pass = matches!(inlet.protocol(), Declared::Detect | Declared::Opaque);
    match tls::arrive(current, io, first, pass, accepted).await? {
        tls::Arrived::Passed(io) => {
            let (spoken, detected) = carry(inlet, client, accepted).await;
            let security = Security::plain();
            Ok(Greeted {
                io,
                spoken,
                detected,
                security,
            })
        }
        tls::Arrived::Secured(mut io, security) => {
            inlet.worker.stats.identity.accepted.add();
            first.clear();
            let accepted = Instant::now();
            let client = (security.identity.as_deref().unwrap_or_default(), peer);
            let words = first_words(inlet, &mut io, first, client, accepted, false);
            let (spoken, detected) = words.await;
            Ok(Greeted {
                io,
                spoken,
                detected,
                security,
            })
        }
    }
}

async fn drained(mut phase: watch::Receiver<Phase>) {
    // An error says that nobody can start draining any more, which is as good.
    let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
}

/// Completes some time after the process began to drain: a request may be on its way.
async fn drained_for_a_while(phase: watch::Receiver<Phase>) {
    drained(phase).await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// Finds out what a connection speaks. Bytes that were read are left in `first`.
async fn first_words(
    inlet: &Rc<Inlet>,
    io: &mut Io,
    first: &mut BytesMut,
    client: Client<'_>,
    accepted: Instant,
    tls: bool,
) -> (Spoken, Detected) {
    match inlet.protocol() {
        Declared::Opaque => {
            if tls && is_hello(read_verdict(io, first, HELLO, HELLO, tls).await) {
                return (Spoken::Tls, Detected::Declared);
            }
            return carry(inlet, client, accepted).await;
        }
        Declared::Detect => {
            return match inlet.guard.opaque(&inlet.worker, client.0, client.1) {
                Opaque::Permitted(permit) => detect(inlet, io, first, permit, accepted, tls).await,
                Opaque::Denied(rule) => http_or(io, first, Spoken::Denied(rule), tls).await,
                Opaque::NeverHere => http_or(io, first, Spoken::Refused(NOT_A_REQUEST), tls).await,
            };
        }
        // Its codec says what is wrong with other bytes, and how long they may take.
        Declared::Http1 if !tls => return (Spoken::Http1, Detected::Declared),
        Declared::Http1 | Declared::Http2 | Declared::Grpc => {}
    }
    let http1 = inlet.protocol() == Declared::Http1;
    let unused = if tls { HANDSHAKE } else { UNUSED };
    let spoken = match read_verdict(io, first, unused, FIRST_BYTES, tls).await {
        Some(Verdict::Tls) => Spoken::Tls,
        Some(Verdict::Http2) if !http1 => Spoken::Http2,
        _ if http1 && !first.is_empty() => Spoken::Http1,
        None if first.is_empty() => {
            limits::hit(Limit::IdleTime);
            Spoken::Nothing
        }
        None => {
            limits::hit(Limit::FirstBytesTime);
            Spoken::Refused("the first bytes did not come in time")
        }
        _ => Spoken::Refused("this port speaks HTTP/2 with prior knowledge"),
    };
    (spoken, Detected::Declared)
}

/// What a connection is that may be HTTP only.
async fn http_or(
    io: &mut Io,
    first: &mut BytesMut,
    otherwise: Spoken,
    tls: bool,
) -> (Spoken, Detected) {
    let unused = if tls { HANDSHAKE } else { UNUSED };
    let spoken = match read_verdict(io, first, unused, FIRST_BYTES, tls).await {
        Some(Verdict::Tls) => Spoken::Tls,
        Some(Verdict::Http1) => Spoken::Http1,
        Some(Verdict::Http2) => Spoken::Http2,
        _ if first.is_empty() => Spoken::Nothing,
        _ => otherwise,
    };
    (spoken, Detected::Bytes)
}

/// Connects to the endpoint for bytes that are not looked at, if policy lets them through.
async fn carry(
    inlet: &Rc<Inlet>,
    (identity, peer): Client<'_>,
    accepted: Instant,
) -> (Spoken, Detected) {
    let declared = inlet.protocol() == Declared::Opaque;
    let allowed = if declared {
        inlet.guard.declared_opaque(&inlet.worker, identity, peer)
    } else {
        inlet.guard.opaque(&inlet.worker, identity, peer)
    };
    let spoken = match allowed {
        Opaque::Permitted(permit) if declared => {
            Spoken::Opaque(dial(inlet, accepted, permit, false).await)
        }
        // TLS of somebody else's, as the client hello says.
        Opaque::Permitted(permit) => {
            let dialed = dial(inlet, accepted, permit, false).await;
            return (Spoken::Opaque(dialed), Detected::Bytes);
        }
        Opaque::Denied(rule) => Spoken::Denied(rule),
        Opaque::NeverHere => Spoken::Refused(NOT_A_REQUEST),
    };
    (spoken, Detected::Declared)
}

async fn detect(
    inlet: &Rc<Inlet>,
    io: &mut Io,
    first: &mut BytesMut,
    permit: Permit,
    accepted: Instant,
    tls: bool,
) -> (Spoken, Detected) {
    let remembered = inlet.server_speaks_first.get();
    if !remembered || tls {
        let silence = if remembered { HELLO } else { SILENCE };
        match read_verdict(io, first, silence, FIRST_BYTES, tls).await {
            Some(Verdict::Tls) => return (Spoken::Tls, Detected::Bytes),
            Some(Verdict::Http1) => return (Spoken::Http1, Detected::Bytes),
            Some(Verdict::Http2) => return (Spoken::Http2, Detected::Bytes),
            Some(verdict) if tells_opaque(inlet, verdict) => {
                let dialed = dial(inlet, accepted, permit, false).await;
                return (Spoken::Opaque(dialed), Detected::Bytes);
            }
            // The client ended without a word.
            Some(Verdict::Unclear) if first.is_empty() => {
                return (Spoken::Nothing, Detected::Bytes);
            }
            None if first.is_empty() => limits::hit(Limit::DetectTime),
            _ => return fall_back(inlet, accepted, permit).await,
        }
    }
    // Silence: perhaps the server speaks first, perhaps the client is a browser that
    // connected ahead of time. Whoever speaks first tells.
    let mut dialed = dial(inlet, accepted, permit, true).await;
    let Some(upstream) = dialed.upstream() else {
        return (Spoken::Opaque(dialed), Detected::FallBack);
    };
    let unused = if tls { HANDSHAKE } else { UNUSED };
    let mut from_server = BytesMut::with_capacity(PEEK_BYTES);
    let client_spoke = tokio::select! {
        verdict = read_verdict(io, first, unused, FIRST_BYTES, tls) => Some(verdict),
        _ = upstream.read_buf(&mut from_server) => None,
    };
    match client_spoke {
        Some(Some(Verdict::Http1)) => (Spoken::Http1, Detected::Bytes),
        Some(Some(Verdict::Http2)) => (Spoken::Http2, Detected::Bytes),
        Some(Some(Verdict::Tls)) => (Spoken::Tls, Detected::Bytes),
        Some(Some(verdict)) if tells_opaque(inlet, verdict) => {
            (Spoken::Opaque(dialed), Detected::Bytes)
        }
        Some(_) if first.is_empty() => (Spoken::Nothing, Detected::Bytes),
        Some(_) => {
            inlet.fell_back();
            (Spoken::Opaque(dialed), Detected::FallBack)
        }
        None => {
            let spoke = !from_server.is_empty();
            upstream.put_back(from_server.freeze());
            if remembered {
                return (Spoken::Opaque(dialed), Detected::Remembered);
            }
            inlet.server_speaks_first.set(spoke);
            inlet.fell_back();
            (Spoken::Opaque(dialed), Detected::FallBack)
        }
    }
}

/// Says whether first bytes tell that what follows is to be carried as bytes.
fn tells_opaque(inlet: &Inlet, verdict: Verdict) -> bool {
    match verdict {
        Verdict::Hello => true,
        // Towards an application only: who it calls does not introduce itself here.
        Verdict::Introduction => inlet.side() == Side::Inbound,
        _ => false,
    }
}

async fn fall_back(inlet: &Rc<Inlet>, accepted: Instant, permit: Permit) -> (Spoken, Detected) {
    inlet.fell_back();
    (
        Spoken::Opaque(dial(inlet, accepted, permit, false).await),
        Detected::FallBack,
    )
}

fn is_hello(verdict: Option<Verdict>) -> bool {
    verdict == Some(Verdict::Tls)
}

/// Reads until the first bytes say something. The first byte may take `silence`, the rest
/// `rest` more. None when time ran out; `Unclear` when the client ended. TLS is told from
/// the rest only if `tls` says that it may be for us.
async fn read_verdict(
    io: &mut Io,
    first: &mut BytesMut,
    silence: Duration,
    rest: Duration,
    tls: bool,
) -> Option<Verdict> {
    let mut deadline = Deadline::now() + silence;
    first.reserve(PEEK_BYTES);
    loop {
        let was_silent = first.is_empty();
        let read = timeout_at(deadline, io.read_buf(first)).await.ok()?;
        if matches!(read, Ok(0) | Err(_)) {
            return Some(Verdict::Unclear);
        }
        if tls && may_be_tls(first) {
            return Some(Verdict::Tls);
        }
        let verdict = judge(first);
        if verdict != Verdict::Unclear {
            return Some(verdict);
        }
        if was_silent {
            deadline = Deadline::now() + rest;
        }
    }
}

/// Keeps a connection registered with its thread.
struct Registered(Rc<Connection>);

impl Registered {
    fn add(connection: Rc<Connection>) -> Option<Self> {
        let worker = connection.inlet.worker.clone();
        worker
            .add_connection(connection.clone())
            .then_some(Self(connection))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.0.inlet.worker.remove_connection(&self.0);
    }
}
