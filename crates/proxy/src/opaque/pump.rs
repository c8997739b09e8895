//! One direction of a relayed connection.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::pipe::{Pipe, is_unsupported, splice_in, splice_out};
use super::server_name::{self, HELLO_BYTES_MAX, Hello};
use crate::net::Io;

/// Bytes of a buffer: what a peer that does not read makes us keep.
const BUFFER_BYTES: usize = 64 << 10;

/// Empty buffers that a thread keeps for later.
const KEPT_MAX: usize = 8;

thread_local! {
    static KEPT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer() -> Box<[u8]> {
    KEPT.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    KEPT.with_borrow_mut(|kept| {
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    });
}

/// Whose end of a direction failed.
pub(super) enum Failed {
    Reader(io::ErrorKind),
    Writer(io::ErrorKind),
}

/// What was read and not written yet. An idle direction holds nothing.
enum Held {
    Nothing,
    Bytes {
        buffer: Box<[u8]>,
        start: usize,
        end: usize,
    },
    Piped {
        pipe: Pipe,
        length: usize,
    },
}

/// What the first bytes of a client are looked at for.
enum Watch {
    /// They are not.
    Off,
    /// For a client hello; what came so far, if that was not enough.
    Hello(Vec<u8>),
    /// There is one, with the name it asks for, if any.
    Found(Option<String>),
}

/// One direction.
pub(super) struct Pump {
    held: Held,
    watch: Watch,
    /// More than a buffer came at once: what follows is worth a pipe.
    bulk: bool,
    /// Bytes went in.
    began: bool,
    /// The reader has ended.
    ended: bool,
    /// The writer was told.
    closed: bool,
    unflushed: bool,
}

impl Pump {
    /// Returns a direction that has moved nothing.
    pub(super) const fn new() -> Self {
        Self {
            held: Held::Nothing,
            watch: Watch::Off,
            bulk: false,
            began: false,
            ended: false,
            closed: false,
            unflushed: false,
        }
    }

    /// Returns a direction whose first bytes are looked at for the server name of TLS.
    pub(super) fn watching() -> Self {
        Self {
            watch: Watch::Hello(Vec::new()),
            ..Self::new()
        }
    }

    /// Puts bytes of our own before everything else. False if it is too late for that.
    pub(super) fn begin_with(&mut self, bytes: &[u8]) -> bool {
        if self.began || self.closed || bytes.len() > BUFFER_BYTES {
            return false;
        }
        let mut buffer = take_buffer();
        buffer[..bytes.len()].copy_from_slice(bytes);
        self.held = Held::Bytes {
            buffer,
            start: 0,
            end: bytes.len(),
        };
        self.began = true;
        true
    }

    /// Says whether bytes went in.
    pub(super) const fn has_begun(&self) -> bool {
        self.began
    }

    /// Says once that there was a client hello, and for which server.
    pub(super) fn hello(&mut self) -> Option<Option<String>> {
        match std::mem::replace(&mut self.watch, Watch::Off) {
            Watch::Found(name) => Some(name),
            other => {
                self.watch = other;
                None
            }
        }
    }

    /// Moves what can be moved. Ready when the reader has ended and the writer knows.
    /// `count` is told of what was read, `no_pipe` of bulk that had to be copied.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut Io,
        writer: &mut Io,
        count: impl Fn(usize),
        no_pipe: impl Fn(),
    ) -> Poll<Result<(), Failed>> {
        loop {
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_write(cx, writer)).map_err(|error| Failed::Writer(error.kind()))?;
            if self.ended {
                // A peer that has closed already cannot be told; its own direction will end.
                let _ = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                self.closed = true;
                continue;
            }
            let Poll::Ready(length) = self.poll_read(cx, reader, writer.is_plain(), &no_pipe)
            else {
                if self.unflushed {
                    ready!(Pin::new(&mut *writer).poll_flush(cx))
                        .map_err(|error| Failed::Writer(error.kind()))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            };
            let length = length.map_err(|error| Failed::Reader(error.kind()))?;
            self.began = true;
            self.ended = length == 0;
            count(length);
        }
    }

    /// Writes what is held.
    fn poll_write(&mut self, cx: &mut Context<'_>, writer: &mut Io) -> Poll<io::Result<()>> {
        loop {
            match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes { buffer, start, end } if *start < *end => {
                    let bytes = &buffer[*start..*end];
                    let written = ready!(Pin::new(&mut *writer).poll_write(cx, bytes))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    *start += written;
                    self.unflushed = true;
                }
                Held::Piped { pipe, length } if *length > 0 => {
                    let write = |to: &crate::net::TcpStream| splice_out(pipe, to, *length);
                    let written = ready!(writer.poll_write_by(cx, write))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    *length -= written;
                }
                // The pipe stays while there is more to read.
                Held::Piped { .. } => return Poll::Ready(Ok(())),
                Held::Bytes { .. } => self.release(),
            }
        }
    }

    /// Reads into a pipe or a buffer, of which there is one only while it is needed.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut Io,
        plain: bool,
        no_pipe: impl Fn(),
    ) -> Poll<io::Result<usize>> {
        if self.bulk && plain && reader.is_plain() && reader.is_unread() {
            if matches!(self.held, Held::Nothing) {
                match Pipe::take() {
                    Some(pipe) => self.held = Held::Piped { pipe, length: 0 },
                    None => no_pipe(),
                }
            }
            self.bulk = false;
            if let Held::Piped { pipe, length } = &mut self.held {
                let read = |from: &crate::net::TcpStream| splice_in(from, pipe);
                match reader.poll_read_by(cx, read) {
                    Poll::Ready(Ok(spliced @ 1..)) => {
                        *length = spliced;
                        self.bulk = true;
                        return Poll::Ready(Ok(spliced));
                    }
                    // What cannot be spliced can be read.
                    Poll::Ready(Err(error)) if is_unsupported(&error) => self.release(),
                    nothing => {
                        self.release();
                        return nothing;
                    }
                }
            }
        }
        ready!(reader.poll_read_ready(cx))?;
        let mut bytes = take_buffer();
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = Pin::new(reader).poll_read(cx, &mut buffer);
        let length = buffer.filled().len();
        if read.is_pending() || length == 0 {
            give_back(bytes);
        } else {
            self.watch.see(&bytes[..length]);
            self.bulk = length == BUFFER_BYTES && !matches!(self.watch, Watch::Hello(_));
            self.held = Held::Bytes {
                buffer: bytes,
                start: 0,
                end: length,
            };
        }
        ready!(read)?;
        Poll::Ready(Ok(length))
    }

    /// Gives back what held bytes and holds none now.
    fn release(&mut self) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => {}
            Held::Bytes { buffer, .. } => give_back(buffer),
            Held::Piped { pipe, .. } => pipe.give_back(),
        }
    }
}

impl Watch {
    fn see(&mut self, bytes: &[u8]) {
        let Self::Hello(before) = self else {
            return;
        };
        let found = if before.is_empty() {
            server_name::read(bytes)
        } else {
            let room = HELLO_BYTES_MAX.saturating_sub(before.len());
            before.extend_from_slice(&bytes[..bytes.len().min(room)]);
            server_name::read(before)
        };
        *self = match found {
            Hello::Whole(name) => Self::Found(name),
            Hello::Not => Self::Off,
            Hello::Partial if before.is_empty() => Self::Hello(bytes.to_vec()),
            Hello::Partial => return,
        };
    }
}
