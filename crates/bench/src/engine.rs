//! One thread and one epoll: the clients that make the load, and the applications behind
//! the proxy that answer it. Both in one thread, so that the proxy has the other core.

mod client;
mod server;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;

use crate::canned::Canned;
use client::{Http1Client, Http2Client};
use server::Http2Server;

/// Connections that wait for an application.
const BACKLOG: i32 = 4096;

/// Bytes that are read or made at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Connections that are opened before the others get a turn.
const OPEN_AT_ONCE: usize = 64;

/// Longest wait for connections or answers that have to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speak {
    Http1,
    Http2,
    Grpc,
    /// Bytes without end from the application.
    Bytes,
    /// An HTTP/1 answer without end.
    Endless,
}

impl Speak {
    pub(crate) const ALL: [Self; 5] = [
        Self::Http1,
        Self::Http2,
        Self::Grpc,
        Self::Bytes,
        Self::Endless,
    ];
}

/// How requests are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// The next one as soon as there is an answer.
    Closed,
    /// Poisson arrivals, this many a second on the average.
    PerSecond(f64),
    /// One on each connection.
    Once,
    /// None.
    Never,
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) speak: Speak,
    pub(crate) target: SocketAddr,
    pub(crate) connections: usize,
    /// Streams per connection.
    pub(crate) streams: usize,
    pub(crate) pace: Pace,
}

/// What a load came to while it was measured.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// Nanoseconds from the time a request was due to the last byte of its answer.
    pub(crate) latencies: Vec<u32>,
}

enum Role {
    Listener(TcpListener, Speak),
    Http1Server,
    Http2Server(Box<Http2Server>),
    /// Sends without end.
    Source,
    /// Waits for a request, then sends without end.
    EndlessServer,
    Http1Client(Http1Client),
    Http2Client(Box<Http2Client>),
    /// Reads and forgets.
    Drain,
    /// Holds a connection and does not read.
    Stalled,
}

struct Connection {
    socket: Option<TcpStream>,
    role: Role,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    wants_out: bool,
    generation: u32,
}

/// See the module.
pub(crate) struct Engine {
    epoll: OwnedFd,
    canned: Canned,
    connections: Vec<Connection>,
    free: Vec<usize>,
    events: Vec<Event>,
    scratch: Vec<u8>,
    load: Option<Load>,
    clients: Vec<usize>,
    /// Clients that wait for something to do.
    idle: Vec<usize>,
    /// Requests that are due and found no client.
    late: std::collections::VecDeque<Instant>,
    measuring: bool,
    done: Done,
    answered: usize,
    failure: Option<String>,
    random: u64,
}

impl Engine {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC).context("create an epoll")?,
            canned: Canned::new(),
            connections: Vec::new(),
            free: Vec::new(),
            events: Vec::with_capacity(1024),
            scratch: vec![0; CHUNK_BYTES],
            load: None,
            clients: Vec::new(),
            idle: Vec::new(),
            late: std::collections::VecDeque::new(),
            measuring: false,
            done: Done::default(),
            answered: 0,
            failure: None,
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    /// Starts an application on a free port.
    pub(crate) fn serve(&mut self, speak: Speak) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind")?;
        rustix::net::listen(&listener, BACKLOG).context("listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let index = self.slot(None, Role::Listener(listener, speak));
        let connection = &self.connections[index];
        if let Role::Listener(listener, _) = &connection.role {
            epoll::add(
                &self.epoll,
                listener,
                mark(connection.generation, index),
                EventFlags::IN,
            )?;
        }
        Ok(address)
    }

    /// Opens the connections of a load and starts it.
    pub(crate) fn start(&mut self, load: Load) -> Result<()> {
        self.load = Some(load);
        self.late.clear();
        self.answered = 0;
        self.failure = None;
        for number in 0..load.connections {
            let socket = TcpStream::connect(load.target)
                .with_context(|| format!("connect to {}", load.target))?;
            let role = match (load.speak, load.pace) {
                (_, Pace::Never) => Role::Stalled,
                (Speak::Http1, _) => Role::Http1Client(Http1Client::default()),
                (Speak::Http2 | Speak::Grpc, _) => Role::Http2Client(Box::default()),
                (Speak::Bytes, _) => Role::Drain,
                (Speak::Endless, _) => Role::Stalled,
            };
            let index = self.add(socket, role)?;
            self.clients.push(index);
            self.begin(index);
            if number % OPEN_AT_ONCE == 0 {
                self.turn(Duration::ZERO)?;
            }
        }
        Ok(())
    }

    /// Runs the load for `time`; counts what is done when `measure` is true.
    pub(crate) fn run(&mut self, time: Duration, measure: bool) -> Result<Done> {
        let began = Instant::now();
        let end = began + time;
        self.measuring = measure;
        let rate = match self.load {
            Some(Load {
                pace: Pace::PerSecond(rate),
                ..
            }) => Some(rate),
            _ => None,
        };
        let mut due = began;
        loop {
            let now = Instant::now();
            if now >= end {
                break;
            }
            let mut until = end;
            if let Some(rate) = rate {
                while due <= now {
                    self.request_at(due);
                    due += Duration::from_secs_f64(-self.uniform().ln() / rate);
                }
                until = until.min(due);
            }
            self.turn(until.saturating_duration_since(Instant::now()))?;
            if let Some(failure) = self.failure.take() {
                bail!("{failure}");
            }
        }
        self.measuring = false;
        Ok(std::mem::take(&mut self.done))
    }

    /// Waits until each connection of the load has its first answer.
    pub(crate) fn wait_for_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.answered < self.clients.len() {
            self.turn(Duration::from_millis(10))?;
            if let Some(failure) = self.failure.take() {
                bail!("{failure}");
            }
            if Instant::now() > deadline {
                bail!(
                    "{} of {} connections had no answer within {PATIENCE:?}",
                    self.clients.len() - self.answered,
                    self.clients.len()
                );
            }
        }
        Ok(())
    }

    /// Ends the load: closes its connections. The applications stay.
    pub(crate) fn stop(&mut self) {
        self.load = None;
        for index in std::mem::take(&mut self.clients) {
            self.drop_connection(index);
        }
        self.idle.clear();
        self.failure = None;
    }

    fn slot(&mut self, socket: Option<TcpStream>, role: Role) -> usize {
        let connection = Connection {
            socket,
            role,
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            wants_out: false,
            generation: 0,
        };
        if let Some(index) = self.free.pop() {
            let generation = self.connections[index].generation;
            self.connections[index] = Connection {
                generation,
                ..connection
            };
            index
        } else {
            self.connections.push(connection);
            self.connections.len() - 1
        }
    }

    fn add(&mut self, socket: TcpStream, role: Role) -> Result<usize> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let flags = match role {
            Role::Stalled => EventFlags::empty(),
            Role::Source => EventFlags::OUT,
            _ => EventFlags::IN,
        };
        let wants_out = flags == EventFlags::OUT;
        let index = self.slot(Some(socket), role);
        let connection = &mut self.connections[index];
        connection.wants_out = wants_out;
        if let Some(socket) = &connection.socket {
            let mark = mark(connection.generation, index);
            epoll::add(&self.epoll, socket, mark, flags).context("watch a socket")?;
        }
        Ok(index)
    }

    fn drop_connection(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        // Closing the socket takes it out of the epoll too.
        if connection.socket.take().is_some() {
            connection.generation = connection.generation.wrapping_add(1);
            self.free.push(index);
        }
    }

    /// Handles what is ready, after waiting for it for `wait` at most.
    fn turn(&mut self, wait: Duration) -> Result<()> {
        let wait = Timespec::try_from(wait).context("time to wait")?;
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for events"),
        }
        for event in events.drain(..) {
            let (flags, data) = (event.flags, event.data.u64());
            let index = usize::try_from(data & 0xffff_ffff).unwrap_or(usize::MAX);
            let current = self
                .connections
                .get(index)
                .is_some_and(|connection| u64::from(connection.generation) == data >> 32);
            if current {
                self.ready(index, flags)?;
            }
        }
        self.events = events;
        Ok(())
    }

    fn ready(&mut self, index: usize, flags: EventFlags) -> Result<()> {
        if let Role::Listener(listener, speak) = &self.connections[index].role {
            let speak = *speak;
            let mut accepted = Vec::new();
            while let Ok((socket, _)) = listener.accept() {
                accepted.push(socket);
            }
            for socket in accepted {
                let role = match speak {
                    Speak::Http1 => Role::Http1Server,
                    Speak::Http2 => Role::Http2Server(Box::new(Http2Server::new(false))),
                    Speak::Grpc => Role::Http2Server(Box::new(Http2Server::new(true))),
                    Speak::Bytes => Role::Source,
                    Speak::Endless => Role::EndlessServer,
                };
                self.add(socket, role)?;
            }
            return Ok(());
        }
        if flags.contains(EventFlags::OUT) && !self.flush(index) {
            self.ended(index);
            return Ok(());
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(index);
        }
        Ok(())
    }

    fn read(&mut self, index: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let connection = &mut self.connections[index];
        let read = match &mut connection.socket {
            Some(socket) => socket.read(&mut scratch),
            None => Ok(0),
        };
        match read {
            Ok(0) => self.ended(index),
            Ok(length) => {
                let mut inbox = std::mem::take(&mut connection.inbox);
                let well = if inbox.is_empty() {
                    let used = self.take(index, &scratch[..length]);
                    used.inspect(|used| inbox.extend_from_slice(&scratch[*used..length]))
                } else {
                    inbox.extend_from_slice(&scratch[..length]);
                    let used = self.take(index, &inbox);
                    used.inspect(|used| drop(inbox.drain(..*used)))
                };
                self.connections[index].inbox = inbox;
                if well.is_none() || !self.flush(index) {
                    self.ended(index);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.ended(index),
        }
        self.scratch = scratch;
    }

    /// Handles bytes that arrived; returns how many were used, None if they make no sense.
    fn take(&mut self, index: usize, bytes: &[u8]) -> Option<usize> {
        match &self.connections[index].role {
            Role::Http1Server => Some(self.http1_serve(index, bytes)),
            Role::Http2Server(_) => self.http2_serve(index, bytes),
            Role::EndlessServer => Some(self.endless_serve(index, bytes)),
            Role::Http1Client(_) => self.http1_answers(index, bytes),
            Role::Http2Client(_) => self.http2_answers(index, bytes),
            Role::Drain => {
                if self.measuring {
                    self.done.bytes += bytes.len() as u64;
                }
                self.answered += 1;
                Some(bytes.len())
            }
            Role::Source | Role::Stalled | Role::Listener(..) => Some(bytes.len()),
        }
    }

    /// Writes what waits. False when the connection is broken.
    fn flush(&mut self, index: usize) -> bool {
        let connection = &mut self.connections[index];
        let Some(socket) = &mut connection.socket else {
            return true;
        };
        let endless = matches!(connection.role, Role::Source);
        let blocked = loop {
            let waiting = &connection.outbox[connection.sent..];
            let bytes = match waiting.is_empty() {
                false => waiting,
                true if endless => &self.scratch[..],
                true => break false,
            };
            match socket.write(bytes) {
                Ok(length) if !waiting.is_empty() => connection.sent += length,
                // The others get a turn before the next chunk.
                Ok(_) => break true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                Err(_) => return false,
            }
        };
        if connection.sent == connection.outbox.len() {
            connection.outbox.clear();
            connection.sent = 0;
        }
        if blocked != connection.wants_out {
            connection.wants_out = blocked;
            let mut flags = EventFlags::IN;
            flags.set(EventFlags::OUT, blocked);
            let mark = mark(connection.generation, index);
            return epoll::modify(&self.epoll, socket, mark, flags).is_ok();
        }
        true
    }

    /// A connection ended or broke.
    fn ended(&mut self, index: usize) {
        if self.clients.contains(&index) {
            self.failure = Some("a connection of the load was closed".to_owned());
        }
        self.drop_connection(index);
    }

    /// A number between 0 and 1, neither of them.
    fn uniform(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let high = u32::try_from(self.random >> 32).unwrap_or_default();
        (f64::from(high) + 0.5) / (f64::from(u32::MAX) + 1.0)
    }
}

fn mark(generation: u32, index: usize) -> EventData {
    EventData::new_u64(u64::from(generation) << 32 | index as u64)
}

/// Returns where `needle` begins.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}
