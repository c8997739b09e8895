//! Starts the server and stops it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use whodunit_control::destination::Destinations;
use whodunit_control::identity::{AuthorityError, Identities, Lifetimes};
use whodunit_control::outbound::Outbounds;
use whodunit_control::policies::Policies;
use whodunit_control::topology_file;
use whodunit_store::{Store, StoreError};

use crate::accept::{Acceptor, Connection, GREETING_WITHIN};
use crate::http::{self, App};
use crate::ingest::Ingest;
use crate::live::Live;
use crate::proxies::Proxies;
use crate::query::Queries;
use crate::seats::{Seat, Seats};
use crate::stopped;

/// Most HTTP connections at one time.
const HTTP_CONNECTIONS_MAX: usize = 512;

/// Most gRPC connections at one time: one or two per proxy.
const GRPC_CONNECTIONS_MAX: usize = 10_000;

/// How long a client may take to send a head, and a connection may rest between
/// two. When all places are taken, who has waited longest makes room before that.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// Open files that are left to the store when connections have taken theirs.
const STORE_FILES: u64 = 256;

/// Room for the head of one request.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How long answers under way may take once the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// How the server runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where HTTP is answered. Loopback only.
    pub http: SocketAddr,
    /// Where gRPC is answered. Loopback only.
    pub grpc: SocketAddr,
    /// The file that says where services live; without one nothing is discovered.
    pub topology: Option<PathBuf>,
    /// The directory of the authority that certifies proxies, made where there is none;
    /// without one no proxy is certified.
    pub identity: Option<PathBuf>,
    /// The store, data directory included.
    pub store: whodunit_store::Options,
}

impl Options {
    /// Returns the defaults for data in `data_dir`: loopback, ports 7070 and 7071.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir: PathBuf = data_dir.into();
        Self {
            identity: Some(data_dir.join("identity")),
            http: SocketAddr::from(([127, 0, 0, 1], 7070)),
            grpc: SocketAddr::from(([127, 0, 0, 1], 7071)),
            topology: None,
            store: whodunit_store::Options::new(data_dir),
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Anybody could read records: there is no authentication yet.
    #[error(
        "{flag} {address} is not a loopback address, and without authentication anybody who \
         reaches it could read every record: use 127.0.0.1:{port}, and a tunnel (ssh -L) from elsewhere",
        port = address.port()
    )]
    NotLoopback {
        /// The flag that says the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {flag} {address}: {source}; choose another port, or 0 for a free one"
    )]
    Listen {
        /// The flag that says the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The authority that certifies proxies cannot be opened.
    #[error("open the identity directory: {0}")]
    Identity(#[from] AuthorityError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store could not be opened because the runtime is stopping.
    #[error("the runtime is stopping")]
    Stopping,
}

/// The server.
#[derive(Debug)]
pub struct Server;

/// A server that runs. Dropping it stops the server without waiting.
#[derive(Debug)]
pub struct Running {
    live: Arc<Live>,
    store: Store,
    stop: watch::Sender<bool>,
    discovery: Option<JoinHandle<()>>,
    authority: Option<JoinHandle<()>>,
    grpc: JoinHandle<()>,
    http: JoinHandle<()>,
}

impl Server {
    /// Starts the server; it answers when this returns.
    ///
    /// # Errors
    /// When an address is not loopback or taken, or the store cannot be opened.
    pub async fn start(options: Options) -> Result<Running, ServerError> {
        check_loopback("--listen", options.http)?;
        check_loopback("--grpc-listen", options.grpc)?;
        let connections = connections_max(raise_file_limit());
        let http = listen("--listen", options.http).await?;
        let grpc = listen("--grpc-listen", options.grpc).await?;
        let data_dir = options.store.dir.clone();
        let store = tokio::task::spawn_blocking(move || whodunit_store::open(options.store))
            .await
            .map_err(|_| ServerError::Stopping)??;

        let identities = match options.identity {
            Some(dir) => Some(
                tokio::task::spawn_blocking(move || Identities::open(&dir, Lifetimes::default()))
                    .await
                    .map_err(|_| ServerError::Stopping)??,
            ),
            None => None,
        };
        let (stop, stopping) = watch::channel(false);
        let (discovery, follower) = options.topology.map(topology_file::follow).unzip();
        let destinations = Destinations::new(discovery.clone());
        let policies = Policies::new(discovery.clone());
        let outbounds = Outbounds::new(discovery.clone());
        let live = Arc::new(Live {
            started: Instant::now(),
            data_dir,
            http: http.1,
            grpc: grpc.1,
            proxies: Proxies::remembered(store.boots()),
            discovery,
            destinations: destinations.counters(),
            ingest: Default::default(),
            surface: Default::default(),
            ingested: watch::Sender::default(),
            durable: watch::Sender::default(),
        });
        let durable = live.durable.clone();
        store.on_durable(Box::new(move || durable.send_modify(|count| *count += 1)));
        let ingested = live.ingested.clone();
        store.on_ingested(Box::new(move || ingested.send_modify(|count| *count += 1)));

        let discovery = follower.map(|follower| tokio::spawn(follower.run()));
        let ingest = Ingest::new(store.clone(), live.clone(), stopping.clone());
        let queries = Queries::new(store.clone(), Some(live.clone()));
        let app = App::new(queries, live.clone(), stopping.clone());
        let grpc = Acceptor::new(grpc.0, connections.grpc);
        let authority = identities
            .clone()
            .map(|identities| tokio::spawn(identities.follow()));
        let grpc = serve_grpc(
            grpc,
            destinations,
            identities,
            policies,
            outbounds,
            ingest,
            stopping.clone(),
        );
        let seats = Seats::new(connections.http);
        let http = serve_http(http.0, seats, http::router(app), live.clone(), stopping);
        tracing::info!(http = %live.http, grpc = %live.grpc, data = %live.data_dir.display(), "server is ready");
        Ok(Running {
            live,
            store,
            stop,
            discovery,
            authority,
            grpc: tokio::spawn(grpc),
            http: tokio::spawn(http),
        })
    }
}

impl Running {
    /// Returns where HTTP is answered.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.live.http
    }

    /// Returns where gRPC is answered.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        self.live.grpc
    }

    /// Stops in order: no new work, a few seconds for the work under way, then
    /// the store is closed and everything taken is on disk.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        for task in [self.discovery.take(), self.authority.take()] {
            task.iter().for_each(JoinHandle::abort);
        }
        let deadline = tokio::time::Instant::now() + GRACE;
        for task in [&mut self.grpc, &mut self.http] {
            if tokio::time::timeout_at(deadline, &mut *task).await.is_err() {
                tracing::warn!("a connection did not end in time and was cut");
                task.abort();
            }
        }
        let store = self.store.clone();
        if tokio::task::spawn_blocking(move || store.close())
            .await
            .is_err()
        {
            tracing::error!("the store could not be closed in order");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let tasks = self.discovery.iter().chain(&self.authority);
        for task in tasks.chain([&self.grpc, &self.http]) {
            task.abort();
        }
    }
}

fn check_loopback(flag: &'static str, address: SocketAddr) -> Result<(), ServerError> {
    if address.ip().is_loopback() {
        Ok(())
    } else {
        Err(ServerError::NotLoopback { flag, address })
    }
}

async fn listen(
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen {
        flag,
        address,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// How many connections are taken.
#[derive(Debug, PartialEq, Eq)]
struct Connections {
    http: usize,
    grpc: usize,
}

/// Raises the limit of open files as far as it goes, and returns it: each
/// connection takes one, and the usual limit is 1,024.
fn raise_file_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current
}

/// Divides open files so that no flood of connections keeps the store from its own.
fn connections_max(files: Option<u64>) -> Connections {
    let files = files.unwrap_or(u64::MAX);
    let free = files.saturating_sub(STORE_FILES).max(files / 2);
    let free = usize::try_from(free).unwrap_or(usize::MAX);
    let http = HTTP_CONNECTIONS_MAX.min(free / 4).max(1);
    Connections {
        http,
        grpc: GRPC_CONNECTIONS_MAX.min(free - http.min(free)).max(1),
    }
}

async fn serve_grpc(
    acceptor: Acceptor,
    destinations: Destinations,
    identities: Option<Identities>,
    policies: Policies,
    outbounds: Outbounds,
    ingest: Ingest,
    mut stopping: watch::Receiver<bool>,
) {
    let incoming = Box::pin(acceptor.into_stream(GREETING_WITHIN));
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(Some(4_096))
        .add_service(destinations.into_service())
        .add_service(policies.into_service())
        .add_service(outbounds.into_service())
        .add_service(ingest.into_service())
        .add_optional_service(identities.map(Identities::into_service))
        .serve_with_incoming_shutdown(incoming, async move {
            // Fails only if the server was dropped, which means stop as well.
            let () = stopped(&mut stopping).await;
        })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the gRPC listener ended");
    }
}

async fn serve_http(
    listener: TcpListener,
    seats: Seats,
    router: Router,
    live: Arc<Live>,
    mut stopping: watch::Receiver<bool>,
) {
    // Seats bound what is open; the acceptor only waits while one that was cut ends.
    let acceptor = Acceptor::new(listener, 2 * seats.max());
    let mut connections = JoinSet::new();
    loop {
        let connection = tokio::select! {
            connection = acceptor.accept() => connection,
            () = stopped(&mut stopping) => break,
        };
        let Some(seat) = seats.take() else {
            live.surface.crowded.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let connection = serve_connection(connection, seat, router.clone(), stopping.clone());
        let live = live.clone();
        connections.spawn(async move {
            live.surface.connections.fetch_add(1, Ordering::Relaxed);
            connection.await;
            live.surface.connections.fetch_sub(1, Ordering::Relaxed);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(acceptor);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    connection: Connection,
    seat: Seat,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), seat.attend(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = seat.cut() => {
            tracing::debug!("an HTTP connection without a request made room for another");
            return;
        }
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_to_the_store() {
        let (http, grpc) = (HTTP_CONNECTIONS_MAX, GRPC_CONNECTIONS_MAX);
        assert_eq!(connections_max(None), Connections { http, grpc });
        for files in [0, 1, 64, 1_024, 4_096, 20_000] {
            let max = connections_max(Some(files));
            let taken = (max.http + max.grpc) as u64;
            assert!(files < 64 || taken <= files.saturating_sub(STORE_FILES).max(files / 2));
            assert!(max.http >= 1 && max.grpc >= 1, "{files}");
        }
        assert_eq!(
            connections_max(Some(1_024)),
            Connections {
                http: 192,
                grpc: 576
            }
        );
    }
}
