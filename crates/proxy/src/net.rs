//! The network we run on: listening sockets, and streams that count their bytes.
//!
//! What only a kernel can do is in `kernel`. With the feature `simulation` the same names
//! come from `simulated` instead, and everything above runs as it is.

#[cfg(not(feature = "simulation"))]
mod kernel;
#[cfg(feature = "simulation")]
mod simulated;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio_rustls::TlsStream;
use whodunit_model::Cause;

#[cfg(not(feature = "simulation"))]
use kernel as system;
#[cfg(feature = "simulation")]
use simulated as system;

pub(crate) use system::{Bound, Broken, TcpListener, TcpStream, channel, listen, original_dst};

use crate::buffers;
use crate::limits::{self, Limit};
use crate::log::Rarely;
use crate::metrics::Transport;

/// How long a connection to an endpoint or the application may take to be accepted.
///
/// Linkerd's outbound default. Inbound it allows 300 ms, too little for a busy laptop.
pub(crate) const CONNECT_TIMEOUT: Duration = Limit::ConnectTime.time();

/// Most bytes that TLS keeps for a peer that does not read them.
const TLS_BUFFER_BYTES: usize = 32 << 10;

thread_local! {
    /// Logs connections for which something here was lacking.
    static FAILED: Rarely = const { Rarely::new() };
}

/// Connects within [`CONNECT_TIMEOUT`], from `source` if that is given.
pub(crate) async fn connect(
    source: Option<IpAddr>,
    address: SocketAddr,
) -> Result<TcpStream, Cause> {
    let connecting = async {
        match source {
            None => TcpStream::connect(address).await,
            Some(source) => system::connect_from(source, address).await,
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
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
                if let Some(unlogged) = FAILED.with(Rarely::due) {
                    tracing::warn!(%address, %error, unlogged, "cannot connect");
                }
                Cause::Unknown
            }
        }),
        Ok(Ok(stream)) => {
            // Latency matters more than the number of packets; failure only costs that.
            let _ = stream.set_nodelay(true);
            // Without it an endpoint that vanished while it owed an answer is noticed late.
            let _ = system::notice_silence(&stream);
            Ok(stream)
        }
    }
}

/// A connection that counts its bytes and may have some of them read already.
#[derive(Debug)]
pub(crate) struct Io {
    stream: Stream,
    read_ahead: Bytes,
    meter: Meter,
}

/// What carries the bytes.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    /// Boxed, as the state of TLS is large and most connections of some proxies have none.
    Tls(Box<TlsStream<Raw>>),
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
            stream: Stream::Plain(stream),
            read_ahead: Bytes::new(),
            meter: Meter::open(transport),
        }
    }

    /// Replaces the bytes on the wire by those inside TLS, once.
    ///
    /// # Errors
    /// When the handshake fails, or TLS is spoken already.
    pub(crate) async fn secure(
        self,
        handshake: impl AsyncFnOnce(Raw) -> io::Result<TlsStream<Raw>>,
    ) -> io::Result<Self> {
        let Stream::Plain(stream) = self.stream else {
            return Err(io::ErrorKind::AlreadyExists.into());
        };
        let raw = Raw {
            stream,
            ahead: self.read_ahead,
        };
        let mut stream = handshake(raw).await?;
        let limit = Some(TLS_BUFFER_BYTES);
        match &mut stream {
            TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(limit),
            TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(limit),
        }
        Ok(Self {
            stream: Stream::Tls(Box::new(stream)),
            read_ahead: Bytes::new(),
            meter: self.meter,
        })
    }

    /// Returns the socket.
    fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.get_ref().0.stream,
        }
    }

    /// Says whether TLS has bytes, or the end, that were read from the socket already.
    fn is_decrypted(&self) -> bool {
        match &self.stream {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => !stream.get_ref().1.wants_read(),
        }
    }

    /// Sends what TLS has encrypted and the socket did not take at once. Who has written
    /// waits for an answer next, and need not know.
    fn push(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Stream::Tls(stream) = &mut self.stream
            && stream.get_ref().1.wants_write()
            && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx)
        {
            return flushed;
        }
        Ok(())
    }

    /// Puts bytes back: they are read again before anything else.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        self.read_ahead = if self.read_ahead.is_empty() {
            bytes
        } else {
            [bytes, std::mem::take(&mut self.read_ahead)]
                .concat()
                .into()
        };
    }

    /// Sees to it that a peer that vanished without a word is noticed some day.
    pub(crate) fn keep_alive(&self) {
        // Without it a dead peer costs an idle connection, no more.
        let _ = system::keep_alive(self.socket());
    }

    /// Waits until there are bytes to read, or the end.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() && !self.is_decrypted() {
            self.socket().poll_read_ready(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Says whether the bytes to come are in the socket just as they are.
    pub(crate) const fn is_unread(&self) -> bool {
        self.read_ahead.is_empty()
    }

    /// Says whether bytes go over the wire just as they are.
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self.stream, Stream::Plain(_))
    }

    /// Reads by a function that is given the socket, when it is readable.
    pub(crate) fn poll_read_by(
        &mut self,
        cx: &mut Context<'_>,
        read: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let socket = self.socket();
            ready!(socket.poll_read_ready(cx))?;
            let result = socket.try_io(Interest::READABLE, || read(socket));
            if let Err(error) = &result
                && error.kind() == io::ErrorKind::WouldBlock
            {
                continue;
            }
            self.meter.note(&result);
            let count = *result.as_ref().unwrap_or(&0) as u64;
            self.meter.read.fetch_add(count, Ordering::Relaxed);
            self.meter.transport.read(count);
            return Poll::Ready(result);
        }
    }

    /// Writes by a function that is given the socket, when it is writable.
    pub(crate) fn poll_write_by(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let socket = self.socket();
            ready!(socket.poll_write_ready(cx))?;
            let result = socket.try_io(Interest::WRITABLE, || write(socket));
            if let Err(error) = &result
                && error.kind() == io::ErrorKind::WouldBlock
            {
                continue;
            }
            self.meter.note(&result);
            let count = *result.as_ref().unwrap_or(&0) as u64;
            self.meter.transport.wrote(count);
            return Poll::Ready(result);
        }
    }

    /// Returns the counter of bytes read.
    pub(crate) fn read_counter(&self) -> Arc<AtomicU64> {
        self.meter.read.clone()
    }

    /// Says whether there are bytes that were put back.
    pub(crate) const fn has_read_ahead(&self) -> bool {
        !self.read_ahead.is_empty()
    }

    /// Says whether an idle peer has said nothing and not gone away, as far as is known.
    ///
    /// Asks the kernel: what the runtime has not been told yet counts too.
    pub(crate) fn is_quiet(&self) -> bool {
        self.read_ahead.is_empty() && !self.is_decrypted() && system::is_quiet(self.socket())
    }

    /// Says the same without a question to the kernel, unless the runtime knows of something:
    /// what came after it last looked, less than a turn ago, is missed.
    pub(crate) fn seems_quiet(&self) -> bool {
        self.read_ahead.is_empty() && !self.is_decrypted() && system::seems_quiet(self.socket())
    }

    /// Returns a watch for a reset, for connections whose peer sends nothing more.
    pub(crate) fn broken(&self) -> io::Result<Broken> {
        Broken::watch(self.socket())
    }

    /// Reads into a buffer, which is provided when there are bytes to read. 0 is the end.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        self.push(cx)?;
        if self.read_ahead.is_empty() && !self.is_decrypted() {
            ready!(self.socket().poll_read_ready(cx))?;
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
        let _ = system::reset_on_close(self.socket());
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
        this.push(cx)?;
        let before = buffer.filled().len();
        let result = ready!(match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        });
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
        let result = ready!(match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        });
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
        let result = ready!(match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        });
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
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A socket whose first bytes have been read already.
#[derive(Debug)]
pub(crate) struct Raw {
    stream: TcpStream,
    ahead: Bytes,
}

impl AsyncRead for Raw {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Raw {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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
