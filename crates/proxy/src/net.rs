//! The network we run on: listening sockets, and streams that count their bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
pub(crate) use tokio::net::{TcpListener, TcpStream};
use whodunit_model::Cause;

use crate::buffers;
use crate::limits::{self, Limit};
use crate::metrics::Transport;

/// Connections that may wait to be accepted, the limit of most kernels.
const BACKLOG: i32 = 4_096;

/// How long a connection to an endpoint or the application may take to be accepted.
///
/// Linkerd's outbound default. Inbound it allows 300 ms, too little for a busy laptop.
pub(crate) const CONNECT_TIMEOUT: Duration = Limit::ConnectTime.time();

/// Opens `shards` listening sockets on one address, all with the same port.
///
/// With several shards the kernel spreads connections over them. As sockets that share a
/// port would not notice another process of the same user there, the address is first
/// tried exclusively.
pub(crate) fn listen(address: SocketAddr, shards: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let first = open(address, false)?;
    if shards <= 1 {
        return Ok(vec![first]);
    }
    let address = first.local_addr()?;
    drop(first);
    (0..shards).map(|_| open(address, true)).collect()
}

fn open(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
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

/// Connects within [`CONNECT_TIMEOUT`].
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Cause> {
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Err(_) => {
            limits::hit(Limit::ConnectTime);
            Err(Cause::ConnectTimeout)
        }
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::TimedOut => Cause::ConnectTimeout,
            io::ErrorKind::ConnectionReset => Cause::Reset,
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => Cause::ConnectRefused,
            _ => {
                tracing::warn!(%address, %error, "cannot connect");
                Cause::Unknown
            }
        }),
        Ok(Ok(stream)) => {
            // Latency matters more than the number of packets; failure only costs that.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
    }
}

/// A connection that counts its bytes and may have some of them read already.
#[derive(Debug)]
pub(crate) struct Io {
    stream: TcpStream,
    read_ahead: Bytes,
    meter: Meter,
}

/// Counts one connection in the metrics while it is open.
#[derive(Debug)]
pub(crate) struct Meter {
    transport: Arc<Transport>,
    /// Bytes read on this connection; shared with whoever watches for idle ones.
    read: Arc<AtomicU64>,
    error: Option<io::ErrorKind>,
}

impl Meter {
    /// Counts a connection as opened.
    pub(crate) fn open(transport: Arc<Transport>) -> Self {
        transport.opened();
        Self {
            transport,
            read: Arc::default(),
            error: None,
        }
    }

    fn note<T>(&mut self, result: &io::Result<T>) {
        if let Err(error) = result {
            self.error = Some(error.kind());
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.transport.closed(self.error);
    }
}

impl Io {
    /// Wraps a connection.
    pub(crate) fn new(stream: TcpStream, transport: Arc<Transport>) -> Self {
        Self {
            stream,
            read_ahead: Bytes::new(),
            meter: Meter::open(transport),
        }
    }

    /// Puts bytes back: they are read again before anything else.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        self.read_ahead = bytes;
    }

    /// Returns the counter of bytes read.
    pub(crate) fn read_counter(&self) -> Arc<AtomicU64> {
        self.meter.read.clone()
    }

    /// Says whether an idle peer has said nothing and not gone away, as far as is known.
    pub(crate) fn is_quiet(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        self.read_ahead.is_empty()
            && read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Says whether the connection was reset.
    pub(crate) fn is_broken(&self) -> bool {
        !matches!(self.stream.take_error(), Ok(None))
    }

    /// Reads into a buffer, which is provided when there are bytes to read. 0 is the end.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        if self.read_ahead.is_empty() {
            ready!(self.stream.poll_read_ready(cx))?;
        }
        buffers::provide(buffer);
        let filled = {
            let read = pin!(self.read_buf(buffer));
            read.poll(cx)
        };
        if filled.is_pending() {
            buffers::release(buffer);
        }
        filled
    }

    /// Makes closing the connection reset it, so that the peer learns of a reset.
    pub(crate) fn reset_on_close(&self) {
        // If the option cannot be set the peer sees an ordinary close.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read_ahead.has_remaining() {
            let length = this.read_ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.read_ahead[..length]);
            this.read_ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        this.meter.note(&result);
        let count = (buffer.filled().len() - before) as u64;
        this.meter.read.fetch_add(count, Ordering::Relaxed);
        this.meter.transport.read(count);
        Poll::Ready(result)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes));
        this.meter.note(&result);
        this.meter
            .transport
            .wrote(*result.as_ref().unwrap_or(&0) as u64);
        Poll::Ready(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices));
        this.meter.note(&result);
        this.meter
            .transport
            .wrote(*result.as_ref().unwrap_or(&0) as u64);
        Poll::Ready(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
