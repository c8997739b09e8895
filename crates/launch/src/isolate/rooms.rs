//! Ways into rooms from this machine: sockets that are made inside.
//!
//! A socket belongs to the network namespace of the thread that made it, whoever uses it. So a
//! thread goes there, makes one, and ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::network::NAMESPACES;

/// Most connections at once through all doors; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 10_000;

/// Descriptors that the launcher needs for anything else.
const SPARE_DESCRIPTORS: u64 = 256;

/// How long this machine may take to accept a connection from inside: what it drops, it
/// drops for good.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failure to accept: there are too few descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the sockets are made that reach one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespaces {
    hub: PathBuf,
    room: PathBuf,
}

impl Namespaces {
    /// Names them.
    pub(super) fn new(hub: &str, room: &str) -> Self {
        let path = |name: &str| Path::new(NAMESPACES).join(name);
        Self {
            hub: path(hub),
            room: path(room),
        }
    }

    /// Says whether those inside reach this machine's loopback interface at `host`, which a
    /// firewall may keep them from.
    pub(crate) async fn reach(&self, host: IpAddr) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let connected = self.connect(SocketAddr::new(host, port));
        tokio::time::timeout(REACH_TIMEOUT, connected)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            .map(drop)
    }

    /// Connects: to a loopback address as the instance itself does, else as its neighbors do.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let namespace = if to.ip().is_loopback() {
            &self.room
        } else {
            &self.hub
        };
        let socket = inside(namespace, move || match to {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        })?;
        socket?.connect(to).await
    }
}

/// Does something quick on a thread that has gone into a namespace.
#[cfg(target_os = "linux")]
pub(super) fn inside<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    use std::os::fd::AsFd as _;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let file = std::fs::File::open(namespace)?;
    let thread = std::thread::Builder::new().spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    })?;
    let joined = thread.join();
    joined.unwrap_or_else(|_| Err(io::Error::other("the thread in a namespace panicked")))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn inside<T>(_: &Path, _: impl FnOnce() -> T) -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// An address of this machine that leads to one inside.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) here: SocketAddr,
    pub(crate) inside: SocketAddr,
    pub(crate) by: Arc<Namespaces>,
}

/// The open doors; they close when this is dropped.
#[derive(Debug)]
pub(crate) struct Doors {
    _tasks: JoinSet<()>,
}

impl Doors {
    /// Opens them.
    ///
    /// # Errors
    /// When an address is taken meanwhile; it is named.
    pub(crate) async fn open(openings: &[Opening]) -> Result<Self, (SocketAddr, io::Error)> {
        let mut tasks = JoinSet::new();
        let room = Arc::new(Semaphore::new(connections_max()));
        for opening in openings {
            let listener = TcpListener::bind(opening.here).await;
            let listener = listener.map_err(|error| (opening.here, error))?;
            tasks.spawn(serve(listener, opening.clone(), Arc::clone(&room)));
        }
        Ok(Self { _tasks: tasks })
    }
}

/// Returns how many connections there is room for: each takes two descriptors.
fn connections_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let usable = limit.map_or(u64::MAX, |limit| {
        limit.saturating_sub(SPARE_DESCRIPTORS) / 2
    });
    usize::try_from(usable).map_or(CONNECTIONS_MAX, |usable| usable.clamp(64, CONNECTIONS_MAX))
}

async fn serve(listener: TcpListener, opening: Opening, room: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    while let Ok(permit) = room.clone().acquire_owned().await {
        let Ok((mut here, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let opening = opening.clone();
        connections.spawn(async move {
            let _permit = permit;
            match opening.by.connect(opening.inside).await {
                Ok(mut there) => {
                    // Latency matters more than the number of packets.
                    let _ = here.set_nodelay(true);
                    let _ = there.set_nodelay(true);
                    if copy_bidirectional(&mut here, &mut there).await.is_err() {
                        reset(&here);
                        reset(&there);
                    }
                }
                Err(_) => reset(&here),
            }
        });
    }
}

/// Makes whoever is there see that it was cut off, not that all has been said.
fn reset(stream: &TcpStream) {
    let _already_gone = stream.set_zero_linger();
}
