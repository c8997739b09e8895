//! The clients: canned requests, and a check that each answer is whole.

use std::time::Instant;

use crate::canned::BODY_BYTES;
use crate::http2::{
    ACK, DATA, ENABLE_PUSH, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADER_TABLE_SIZE, HEADERS,
    INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, PING, PREFACE, RST_STREAM, SETTINGS, TABLE_BYTES,
    WINDOW_UPDATE, frame, settings, u32_of, window_update,
};

use super::server::{CONNECTION_WINDOW, FIRST_WINDOW, GIVE_BACK, STREAM_WINDOW};
use super::{Engine, Pace, Role, Speak, find};

/// The field that says how long the answer is.
const LENGTH: &[u8] = b"content-length: 1024";
const _: () = assert!(BODY_BYTES == 1024, "LENGTH says how long a body is");

/// One HTTP/1 connection.
#[derive(Default)]
pub(crate) struct Http1Client {
    /// When the request under way was due.
    due: Option<Instant>,
}

/// One HTTP/2 connection.
pub(crate) struct Http2Client {
    /// The peer's settings have arrived.
    greeted: bool,
    table: bool,
    requests: u64,
    /// Streams the peer allows.
    most: usize,
    window: i64,
    taken: u32,
    /// Requests under way: stream, when due, bytes of the body so far. Few, and the oldest
    /// are answered first.
    open: Vec<(u32, Instant, usize)>,
}

impl Default for Http2Client {
    fn default() -> Self {
        Self {
            greeted: false,
            table: true,
            requests: 0,
            most: usize::MAX,
            window: FIRST_WINDOW,
            taken: 0,
            open: Vec::new(),
        }
    }
}

impl Engine {
    /// Gets a new connection going.
    pub(super) fn begin(&mut self, index: usize) {
        let Some(load) = self.load else { return };
        match &self.connections[index].role {
            Role::Http1Client(_) => self.next(index),
            Role::Http2Client(_) => {
                let out = &mut self.connections[index].outbox;
                out.extend_from_slice(PREFACE);
                let values = [(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, STREAM_WINDOW)];
                settings(out, &values);
                window_update(out, CONNECTION_WINDOW);
                self.flush_client(index);
            }
            Role::Stalled if load.speak == Speak::Endless => {
                let request = &self.canned.http1_request;
                self.connections[index].outbox.extend_from_slice(request);
                self.flush_client(index);
            }
            _ => {}
        }
    }

    /// Makes the request that was due at `due` on whichever connection is free.
    pub(super) fn request_at(&mut self, due: Instant) {
        while let Some(index) = self.idle.pop() {
            if self.request(index, due) {
                self.flush_client(index);
                return;
            }
        }
        self.late.push_back(due);
    }

    /// Gives a client that has room what it has to do next.
    fn next(&mut self, index: usize) {
        let Some(load) = self.load else { return };
        match load.pace {
            Pace::Closed => {
                let now = Instant::now();
                while self.request(index, now) {}
            }
            Pace::PerSecond(_) => {
                while let Some(due) = self.late.pop_front() {
                    if !self.request(index, due) {
                        self.late.push_front(due);
                        return;
                    }
                }
                if !self.idle.contains(&index) {
                    self.idle.push(index);
                }
            }
            Pace::Once => {
                if self.requests_of(index) == 0 {
                    self.request(index, Instant::now());
                }
            }
            Pace::Never => {}
        }
        self.flush_client(index);
    }

    fn requests_of(&self, index: usize) -> u64 {
        match &self.connections[index].role {
            Role::Http2Client(client) => client.requests,
            // An HTTP/1 client is asked only when it is new.
            _ => 0,
        }
    }

    /// Puts a request into the outbox. False when the connection has no room for one.
    fn request(&mut self, index: usize, due: Instant) -> bool {
        let streams = self.load.map_or(0, |load| load.streams);
        let grpc = self.load.is_some_and(|load| load.speak == Speak::Grpc);
        let connection = &mut self.connections[index];
        let out = &mut connection.outbox;
        match &mut connection.role {
            Role::Http1Client(client) if client.due.is_none() => {
                client.due = Some(due);
                out.extend_from_slice(&self.canned.http1_request);
                true
            }
            Role::Http2Client(client) => {
                let message = &self.canned.grpc_message;
                let cost = i64::try_from(message.len()).unwrap_or_default();
                let room = client.open.len() < streams.min(client.most)
                    && (!grpc || client.window >= cost);
                if !room || !client.greeted {
                    return false;
                }
                let stream = u32::try_from(client.requests * 2 + 1).unwrap_or_default();
                let (head, flags) = match grpc {
                    true => (&self.canned.grpc_request, END_HEADERS),
                    false => (&self.canned.http2_request, END_HEADERS | END_STREAM),
                };
                let head = head.at(client.requests, client.table);
                frame(out, HEADERS, flags, stream, head);
                if grpc {
                    frame(out, DATA, END_STREAM, stream, message);
                    client.window -= cost;
                }
                client.requests += 1;
                client.open.push((stream, due, 0));
                true
            }
            _ => false,
        }
    }

    fn flush_client(&mut self, index: usize) {
        if !self.flush(index) {
            self.ended(index);
        }
    }

    fn answer(&mut self, due: Instant) {
        self.answered += 1;
        if self.measuring {
            self.done.requests += 1;
            let took = u32::try_from(due.elapsed().as_nanos()).unwrap_or(u32::MAX);
            self.done.latencies.push(took);
        }
    }

    pub(super) fn http1_answers(&mut self, index: usize, bytes: &[u8]) -> Option<usize> {
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            return Some(0);
        };
        let total = end + 4 + BODY_BYTES;
        if bytes.len() < total {
            return Some(0);
        }
        let head = &bytes[..end];
        let well = head.get(9..12) == Some(b"200") && has(head, LENGTH);
        let due = match &mut self.connections[index].role {
            Role::Http1Client(client) => client.due.take(),
            _ => None,
        };
        if !well || bytes.len() > total {
            let head = String::from_utf8_lossy(head).into_owned();
            self.failure = Some(format!("unexpected answer: {head}"));
            return None;
        }
        self.answer(due?);
        if self.load.is_some_and(|load| load.pace != Pace::Once) {
            self.next(index);
        }
        Some(total)
    }

    pub(super) fn http2_answers(&mut self, index: usize, bytes: &[u8]) -> Option<usize> {
        let grpc = self.load.is_some_and(|load| load.speak == Speak::Grpc);
        let whole = match grpc {
            true => self.canned.grpc_message.len(),
            false => BODY_BYTES,
        };
        let mut used = 0;
        while let Some((read, length)) = Frame::parse(&bytes[used..]) {
            used += length;
            let connection = &mut self.connections[index];
            let Role::Http2Client(client) = &mut connection.role else {
                return None;
            };
            let out = &mut connection.outbox;
            let place = client
                .open
                .iter()
                .position(|(stream, _, _)| *stream == read.stream);
            match read.kind {
                SETTINGS if read.flags & ACK == 0 => {
                    for (name, value) in read.settings() {
                        match name {
                            HEADER_TABLE_SIZE => client.table = value >= TABLE_BYTES,
                            MAX_CONCURRENT_STREAMS => client.most = value as usize,
                            _ => {}
                        }
                    }
                    client.greeted = true;
                    frame(out, SETTINGS, ACK, 0, &[]);
                }
                PING if read.flags & ACK == 0 => frame(out, PING, ACK, 0, read.payload),
                WINDOW_UPDATE if read.stream == 0 => {
                    client.window += i64::from(u32_of(read.payload));
                }
                HEADERS | DATA => {
                    let place = place?;
                    if read.kind == DATA {
                        client.open[place].2 += read.payload.len();
                        client.taken += u32::try_from(read.payload.len()).ok()?;
                    }
                    if read.flags & END_STREAM != 0 {
                        let (_, due, body) = client.open.remove(place);
                        if body != whole {
                            self.failure = Some(format!("an answer has {body} bytes of body"));
                            return None;
                        }
                        self.answer(due);
                    }
                }
                RST_STREAM | GOAWAY => {
                    self.failure = Some("a stream was refused".to_owned());
                    return None;
                }
                _ => {}
            }
        }
        if let Role::Http2Client(client) = &mut self.connections[index].role
            && client.taken >= GIVE_BACK
        {
            let taken = std::mem::take(&mut client.taken);
            window_update(&mut self.connections[index].outbox, taken);
        }
        self.next(index);
        Some(used)
    }
}

fn has(head: &[u8], field: &[u8]) -> bool {
    head.windows(field.len())
        .any(|window| window.eq_ignore_ascii_case(field))
}
