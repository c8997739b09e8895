//! The kernel's network.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::TcpSocket;
pub(crate) use tokio::net::{TcpListener, TcpStream};
use whodunit_wire::tonic::transport::{Channel, Endpoint, Error};

use crate::limits::Limit;

/// A listening socket that does not belong to a runtime yet.
pub(crate) type Bound = std::net::TcpListener;

/// Connections that may wait to be accepted, the limit of most kernels.
const BACKLOG: i32 = 4_096;

/// When the peer of a silent opaque connection is asked whether it is still there.
const KEEP_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10));

/// When the same is asked of a silent endpoint: three times before [`Limit::EndpointSilence`],
/// so that one lost packet ends nothing.
const ENDPOINT_KEEP_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10));

/// Opens `shards` listening sockets on one address, all with the same port.
///
/// With several shards the kernel spreads connections over them. As sockets that share a
/// port would not notice another process of the same user there, the address is first
/// tried exclusively.
pub(crate) fn listen(address: SocketAddr, shards: usize) -> io::Result<Vec<Bound>> {
    let first = open(address, false)?;
    if shards <= 1 {
        return Ok(vec![first]);
    }
    let address = first.local_addr()?;
    drop(first);
    (0..shards).map(|_| open(address, true)).collect()
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Bound> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Returns where a redirected connection was going; of one that was not redirected, where it
/// went.
#[cfg(target_os = "linux")]
pub(crate) fn original_dst(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let is_ipv4 = stream.peer_addr()?.ip().to_canonical().is_ipv4();
    let found = if is_ipv4 {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    match found {
        Ok(address) => address
            .as_socket()
            .ok_or_else(|| io::Error::other("the original destination is no IP address")),
        // Connections that nothing tracks are not redirected.
        Err(error) if error.kind() == io::ErrorKind::NotFound => stream.local_addr(),
        Err(error) => Err(error),
    }
}

/// Says that nobody can tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn original_dst(_stream: &TcpStream) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Connects from an address of one's own.
pub(crate) async fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(address).await
}

/// Opens a gRPC channel.
pub(crate) async fn channel(endpoint: &Endpoint) -> Result<Channel, Error> {
    endpoint.connect().await
}

/// Has the kernel ask a silent peer from time to time whether it is there. One that answers
/// may let bytes wait for as long as it likes: a database behind a lock does.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(None)?;
    socket.set_tcp_keepalive(&KEEP_ALIVE)
}

/// Has the kernel notice an endpoint that vanished without a word: one that is silent is asked
/// whether it is there, and one that does not take what was sent is given up. Without the
/// latter that takes a quarter of an hour, as nobody asks while bytes wait to be taken.
pub(super) fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&ENDPOINT_KEEP_ALIVE)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Limit::EndpointSilence.time()))?;
    Ok(())
}

/// Makes closing the connection reset it.
pub(super) fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Says whether there is nothing to read, not even the end.
pub(super) fn is_quiet(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Says the same as far as the runtime was told; asks the kernel only if something came.
pub(super) fn seems_quiet(stream: &TcpStream) -> bool {
    let peek = || SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    let peeked = stream.try_io(Interest::READABLE, peek);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Watches a connection for a reset through a descriptor of its own, so that nobody has to
/// look from time to time.
pub(crate) struct Broken(TcpStream);

impl Broken {
    /// Watches a connection.
    pub(crate) fn watch(stream: &TcpStream) -> io::Result<Self> {
        let descriptor = stream.as_fd().try_clone_to_owned()?;
        TcpStream::from_std(descriptor.into()).map(Self)
    }

    /// Completes when the connection was reset.
    pub(crate) async fn wait(self) {
        while self.0.ready(Interest::ERROR).await.is_ok() {
            if !matches!(self.0.take_error(), Ok(None)) {
                return;
            }
            // Nothing was wrong, so wait for the next event.
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.0.try_io(Interest::ERROR, nothing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_that_vanishes_is_asked_whether_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = crate::net::connect(None, address).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(
                socket.tcp_keepalive_time().unwrap(),
                Duration::from_secs(30)
            );
            assert_eq!(
                socket.tcp_user_timeout().unwrap(),
                Some(Duration::from_secs(60))
            );
            keep_alive(&stream).unwrap();
            assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        }
    }
}
