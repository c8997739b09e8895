//! A network inside one thread, whose every delay and failure comes from a seed.
//!
//! What the simulator's streams lack beside the kernel's is made up for here: waiting until
//! there is something to read, and looking without taking. There are no resets on purpose,
//! so a connection that should be reset is closed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Buf as _, BytesMut};
use futures_util::FutureExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use turmoil::net as simulator;
use whodunit_wire::tonic::transport::{Channel, Endpoint, Error};

/// Most bytes that are taken from the network before somebody reads them.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// Bytes taken at once.
const PIECE_BYTES: usize = 8 << 10;

/// Says that nobody can tell: nothing redirects connections here.
pub(crate) fn original_dst(_stream: &TcpStream) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Connects; the source is the simulator's to choose.
pub(crate) async fn connect_from(_source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(address).await
}

/// A listener that accepts nothing yet.
pub(crate) struct Bound(simulator::TcpListener);

impl Bound {
    /// Returns the bound address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Opens a listening socket; there is one thread, so one shard.
pub(crate) fn listen(address: SocketAddr, shards: usize) -> io::Result<Vec<Bound>> {
    if shards != 1 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let bound = simulator::TcpListener::bind(address).now_or_never();
    let bound = bound.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?;
    Ok(vec![Bound(bound)])
}

/// Opens a gRPC channel.
pub(crate) async fn channel(endpoint: &Endpoint) -> Result<Channel, Error> {
    let dial = tower::service_fn(|uri: http::Uri| async move {
        let address = uri.authority().map_or("", http::uri::Authority::as_str);
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        TcpStream::connect(address).await.map(TokioIo::new)
    });
    endpoint.connect_with_connector(dial).await
}

/// Accepts connections.
pub(crate) struct TcpListener(simulator::TcpListener);

impl TcpListener {
    /// Begins to accept.
    #[expect(clippy::unnecessary_wraps, reason = "the kernel's may fail")]
    pub(crate) fn from_std(bound: Bound) -> io::Result<Self> {
        Ok(Self(bound.0))
    }

    /// Waits for a connection.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((TcpStream::new(stream), peer))
    }

    /// Returns the bound address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct TcpStream(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: simulator::TcpStream,
    ahead: BytesMut,
    /// How the stream ended, after what is ahead.
    end: Option<Result<(), io::ErrorKind>>,
    reader: Option<Waker>,
    watcher: Option<Waker>,
}

impl TcpStream {
    fn new(stream: simulator::TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            ahead: BytesMut::new(),
            end: None,
            reader: None,
            watcher: None,
        })))
    }

    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        simulator::TcpStream::connect(address).await.map(Self::new)
    }

    /// Returns the address of this end.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        locked(&self.0).stream.local_addr()
    }

    /// Does nothing: there are no packets to save.
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "the kernel's may fail"
    )]
    pub(crate) const fn set_nodelay(&self, _nodelay: bool) -> io::Result<()> {
        Ok(())
    }

    /// Completes when there are bytes to read, or the end.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = locked(&self.0);
        inner.reader = Some(cx.waker().clone());
        if inner.is_readable() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Completes when bytes can be written.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = locked(&self.0);
        pin!(inner.stream.writable()).poll(cx)
    }

    /// Calls a function that works on the socket.
    #[expect(clippy::unused_self, reason = "the kernel's looks at the socket")]
    pub(crate) fn try_io<T>(
        &self,
        _interest: Interest,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        work()
    }
}

impl Inner {
    fn is_readable(&mut self) -> bool {
        if self.ahead.is_empty() {
            self.take(1);
        }
        !self.ahead.is_empty() || self.end.is_some()
    }

    /// Takes from the network what is there, until `bytes` are ahead.
    fn take(&mut self, bytes: usize) {
        let both = Both(self.reader.clone(), self.watcher.clone());
        let waker = Waker::from(Arc::new(both));
        let mut cx = Context::from_waker(&waker);
        while self.end.is_none() && self.ahead.len() < bytes {
            let mut piece = [0; PIECE_BYTES];
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.stream).poll_read(&mut cx, &mut piece) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => self.end = Some(Err(error.kind())),
                Poll::Ready(Ok(())) if piece.filled().is_empty() => self.end = Some(Ok(())),
                Poll::Ready(Ok(())) => self.ahead.extend_from_slice(piece.filled()),
            }
        }
    }
}

fn locked(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes whoever reads and whoever watches.
struct Both(Option<Waker>, Option<Waker>);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        for waker in [&self.0, &self.1].into_iter().flatten() {
            waker.wake_by_ref();
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = locked(&self.0);
        inner.reader = Some(cx.waker().clone());
        if !inner.is_readable() {
            return Poll::Pending;
        }
        let length = inner.ahead.len().min(buffer.remaining());
        buffer.put_slice(&inner.ahead[..length]);
        inner.ahead.advance(length);
        match inner.end {
            Some(Err(kind)) if length == 0 => Poll::Ready(Err(kind.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut locked(&self.0).stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut locked(&self.0).stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut locked(&self.0).stream).poll_shutdown(cx)
    }
}

/// Nobody vanishes here without the simulator.
#[expect(clippy::unnecessary_wraps, reason = "the kernel's may fail")]
pub(super) const fn keep_alive(_stream: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// The same.
#[expect(clippy::unnecessary_wraps, reason = "the kernel's may fail")]
pub(super) const fn notice_silence(_stream: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// The simulator resets only what was not read to its end.
#[expect(clippy::unnecessary_wraps, reason = "the kernel's may fail")]
pub(super) const fn reset_on_close(_stream: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// Says whether there is nothing to read, not even the end.
pub(super) fn is_quiet(stream: &TcpStream) -> bool {
    !locked(&stream.0).is_readable()
}

/// Says the same; nothing is known sooner here.
pub(super) fn seems_quiet(stream: &TcpStream) -> bool {
    is_quiet(stream)
}

/// Watches a connection for a reset.
pub(crate) struct Broken(Arc<Mutex<Inner>>);

impl Broken {
    /// Watches a connection.
    #[expect(clippy::unnecessary_wraps, reason = "the kernel's may fail")]
    pub(crate) fn watch(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self(stream.0.clone()))
    }

    /// Completes when the connection was reset.
    pub(crate) async fn wait(self) {
        std::future::poll_fn(|cx| {
            let mut inner = locked(&self.0);
            inner.watcher = Some(cx.waker().clone());
            inner.take(AHEAD_BYTES_MAX);
            match inner.end {
                Some(Err(_)) => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }
}
