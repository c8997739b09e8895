//! Accepts connections: a bounded number, without ever giving up.
//!
//! When the system is out of file descriptors, accepting fails until some
//! connection ends; trying again at once would only burn a processor.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// How long a gRPC client may take to say that it speaks HTTP/2. After that the
/// protocol's own pings find out who has left.
pub(crate) const GREETING_WITHIN: Duration = Duration::from_secs(10);

/// Bytes with which every HTTP/2 client begins.
const GREETING_BYTES: usize = 24;

/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts at most a given number of connections at one time; later ones wait in the system's queue.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// A connection that holds its place until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    greeting: Option<Greeting>,
    _place: Option<OwnedSemaphorePermit>,
}

/// What a client has to send before its time is over.
#[derive(Debug)]
struct Greeting {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener, connections_max: usize) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(connections_max)),
        }
    }

    /// Returns the next connection.
    pub(crate) async fn accept(&self) -> Connection {
        // The semaphore is never closed.
        let place = self.places.clone().acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // Only for latency: without it answers come all the same.
                    let _ = stream.set_nodelay(true);
                    return Connection {
                        stream,
                        greeting: None,
                        _place: place,
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Returns the connections as tonic wants them. One whose client has not
    /// begun to speak HTTP/2 after `greeting` fails.
    pub(crate) fn into_stream(
        self,
        greeting: Duration,
    ) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, move |acceptor| async move {
            let mut connection = acceptor.accept().await;
            connection.greeting = Some(Greeting {
                bytes: GREETING_BYTES,
                deadline: Box::pin(tokio::time::sleep(greeting)),
            });
            Some((Ok(connection), acceptor))
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(greeting) = &mut self.greeting else {
            return read;
        };
        if read.is_pending() {
            return match greeting.deadline.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            };
        }
        let came = buffer.filled().len() - before;
        greeting.bytes = greeting.bytes.saturating_sub(came);
        if greeting.bytes == 0 {
            self.greeting = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_does_not_speak_http2_in_time_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let acceptor = Acceptor::new(listener, 10);
        let mut connections = Box::pin(acceptor.into_stream(Duration::from_millis(200)));
        let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for (sent, stays) in [
            (&preface[..0], false),
            (&preface[..23], false),
            (preface, true),
        ] {
            let mut client = TcpStream::connect(address).await.expect("a connection");
            client.write_all(sent).await.expect("room");
            let mut server = connections.next().await.expect("more").expect("one");
            let mut bytes = vec![0; sent.len()];
            server.read_exact(&mut bytes).await.expect("what was sent");
            let more = tokio::time::timeout(Duration::from_millis(600), server.read_u8()).await;
            match more {
                Ok(read) => {
                    assert!(!stays, "{}", sent.len());
                    assert_eq!(read.expect_err("late").kind(), io::ErrorKind::TimedOut);
                }
                Err(_) => assert!(stays, "{}", sent.len()),
            }
        }
    }
}
