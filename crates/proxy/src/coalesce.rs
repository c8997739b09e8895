//! The I/O of an HTTP/2 connection: what its streams write leaves together.
//!
//! The `h2` crate writes each response by itself, which is one system call per request and
//! most of its cost. Here writes only add to a buffer; a task of the thread writes all
//! buffers once the other tasks that are ready have run. Nothing waits for a timer, and a
//! full buffer pushes back as a full socket would.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffers;
use crate::frames::{Refused, Watch};
use crate::net::Io;
use crate::upstream::Greeting;

/// Bytes that may wait for a socket.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Writes of at least this size go straight to the socket: copying would cost more than the
/// system call.
const LARGE_BYTES: usize = 16 << 10;

/// The connections of a thread that have something to write, and who waits for them.
struct Queue {
    connections: Vec<Rc<RefCell<State>>>,
    writer: Option<Waker>,
}

thread_local! {
    static QUEUE: RefCell<Queue> = const {
        RefCell::new(Queue {
            connections: Vec::new(),
            writer: None,
        })
    };
}

/// Writes what the connections of this thread have gathered, for ever.
pub(crate) async fn write_gathered() {
    /// Drops what is queued with the runtime that it belongs to.
    struct Cleared;
    impl Drop for Cleared {
        fn drop(&mut self) {
            let left = QUEUE.with_borrow_mut(|queue| std::mem::take(&mut queue.connections));
            drop(left);
        }
    }
    let _cleared = Cleared;
    let mut connections = Vec::new();
    loop {
        poll_fn(|cx| {
            QUEUE.with_borrow_mut(|queue| {
                if queue.connections.is_empty() {
                    queue.writer = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
        })
        .await;
        // Whatever else is ready may have more to write.
        tokio::task::yield_now().await;
        QUEUE.with_borrow_mut(|queue| std::mem::swap(&mut queue.connections, &mut connections));
        for connection in connections.drain(..) {
            connection.borrow_mut().write_queued();
        }
    }
}

struct State {
    io: Io,
    output: BytesMut,
    /// The task of the connection, to be woken when the socket takes more.
    task: Option<Waker>,
    queued: bool,
    /// The socket takes no more for now.
    full: bool,
    error: Option<io::ErrorKind>,
    watch: Option<Box<Watch>>,
    /// Waits for the first bytes of an endpoint.
    greeting: Option<Rc<Greeting>>,
}

impl State {
    /// Writes all of the buffer.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, &self.output);
            self.full = written.is_pending();
            let error = match ready!(written) {
                Ok(0) => io::ErrorKind::WriteZero,
                Ok(count) => {
                    self.output.advance(count);
                    continue;
                }
                Err(error) => error.kind(),
            };
            self.error = Some(error);
            self.output.clear();
        }
        buffers::release(&mut self.output);
        // TLS may keep a record back until the socket takes it.
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.full = flushed.is_pending();
        if let Err(error) = ready!(flushed) {
            self.error = Some(error.kind());
        }
        match self.error {
            Some(error) => Poll::Ready(Err(error.into())),
            None => Poll::Ready(Ok(())),
        }
    }

    fn write_queued(&mut self) {
        self.queued = false;
        let Some(task) = self.task.take() else {
            return;
        };
        // A socket that takes no more wakes the task of the connection when it does.
        let drained = self.poll_drain(&mut Context::from_waker(&task));
        if matches!(drained, Poll::Ready(Err(_))) {
            task.wake_by_ref();
        }
        self.task = Some(task);
    }
}

/// An HTTP/2 connection whose writes are gathered.
pub(crate) struct Coalesced(Rc<RefCell<State>>);

impl Coalesced {
    /// Wraps a connection to an endpoint, which has said nothing yet.
    pub(crate) fn greeted(io: Io, greeting: Rc<Greeting>) -> Self {
        Self::with(io, None, Some(greeting))
    }

    /// Wraps a connection from a client, whose frames are watched.
    pub(crate) fn watched(io: Io, watch: Watch) -> (Self, Watched) {
        let this = Self::with(io, Some(Box::new(watch)), None);
        let watched = Watched(this.0.clone());
        (this, watched)
    }

    fn with(io: Io, watch: Option<Box<Watch>>, greeting: Option<Rc<Greeting>>) -> Self {
        Self(Rc::new(RefCell::new(State {
            io,
            output: BytesMut::new(),
            task: None,
            queued: false,
            full: false,
            error: None,
            watch,
            greeting,
        })))
    }

    fn enqueue(&self, state: &mut State, cx: &Context<'_>) {
        match &mut state.task {
            Some(task) => task.clone_from(cx.waker()),
            None => state.task = Some(cx.waker().clone()),
        }
        if state.queued {
            return;
        }
        state.queued = true;
        if cfg!(feature = "simulation") {
            // Several proxies share the thread there, and may not write for each other.
            let connection = self.0.clone();
            tokio::task::spawn_local(async move {
                tokio::task::yield_now().await;
                connection.borrow_mut().write_queued();
            });
            return;
        }
        let writer = QUEUE.with_borrow_mut(|queue| {
            queue.connections.push(self.0.clone());
            queue.writer.take()
        });
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

impl AsyncRead for Coalesced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        if let Some(error) = state.error {
            return Poll::Ready(Err(error.into()));
        }
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut state.io).poll_read(cx, buffer));
        if let Some(greeting) = &state.greeting {
            let read = read.as_ref().map(|()| &buffer.filled()[before..]);
            if greeting.read(read.map_err(io::Error::kind)) {
                if greeting.is_other() {
                    // Nothing more is said to something that does not speak HTTP/2.
                    state.error = Some(io::ErrorKind::InvalidData);
                    state.output.clear();
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                state.greeting = None;
            }
        }
        read?;
        if let Some(watch) = &mut state.watch {
            watch.read(&mut buffer.filled_mut()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Coalesced {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.borrow_mut();
        if let Some(error) = state.error {
            return Poll::Ready(Err(error.into()));
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut written = total;
        let mut begin = None;
        if state.output.len() + total > OUTPUT_BYTES_MAX || total >= LARGE_BYTES {
            ready!(state.poll_drain(cx))?;
        }
        if total >= LARGE_BYTES {
            let result = Pin::new(&mut state.io).poll_write_vectored(cx, slices);
            state.full = result.is_pending();
            written = ready!(result)?;
        } else {
            buffers::provide(&mut state.output);
            begin = Some(state.output.len());
            for slice in slices {
                state.output.extend_from_slice(slice);
            }
        }
        if let Some(watch) = &mut state.watch {
            let mut left = written;
            for slice in slices {
                let count = left.min(slice.len());
                let replace = watch.wrote(&slice[..count]);
                if let (Some((at, code)), Some(begin)) = (replace, begin) {
                    let at = begin + (written - left) + at;
                    if let Some(place) = state.output.get_mut(at..at + code.len()) {
                        place.copy_from_slice(&code);
                    }
                }
                left -= count;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        if state.full {
            return state.poll_drain(cx);
        }
        if let Some(error) = state.error {
            return Poll::Ready(Err(error.into()));
        }
        if !state.output.is_empty() {
            self.enqueue(state, cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        ready!(state.poll_drain(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

/// What is known of the frames of a client's connection.
pub(crate) struct Watched(Rc<RefCell<State>>);

impl Watched {
    /// Asks the watch, unless the connection has none.
    pub(crate) fn ask<T: Default>(&self, question: impl FnOnce(&mut Watch) -> T) -> T {
        self.0
            .borrow_mut()
            .watch
            .as_deref_mut()
            .map_or_else(T::default, question)
    }

    /// Returns the next stream that was refused.
    pub(crate) fn next_refused(&self) -> Option<Refused> {
        self.ask(Watch::next_refused)
    }

    /// Says whether the client does not read what is written for it.
    pub(crate) fn is_full(&self) -> bool {
        self.0.borrow().full
    }
}
