//! The applications: canned answers.

use crate::http2::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, HEADER_TABLE_SIZE, HEADERS, INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS, PING, PREFACE, SETTINGS, TABLE_BYTES, WINDOW_UPDATE, frame, settings,
    u32_of, window_update,
};

use super::{Engine, Role, find};

/// Window of a stream, and what a connection's is raised by.
pub(super) const STREAM_WINDOW: u32 = 1 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 1 << 30;

/// Bytes after which the window of a connection is opened again.
pub(super) const GIVE_BACK: u32 = 1 << 24;

/// Window of a connection that nobody has raised yet.
pub(super) const FIRST_WINDOW: i64 = 65_535;

/// One HTTP/2 connection to an application.
pub(crate) struct Http2Server {
    grpc: bool,
    greeted: bool,
    table: bool,
    answers: u64,
    window: i64,
    taken: u32,
    /// Streams whose answer waits for the window.
    waiting: Vec<u32>,
}

impl Http2Server {
    pub(super) fn new(grpc: bool) -> Self {
        Self {
            grpc,
            greeted: false,
            table: true,
            answers: 0,
            window: FIRST_WINDOW,
            taken: 0,
            waiting: Vec::new(),
        }
    }
}

impl Engine {
    pub(super) fn http1_serve(&mut self, index: usize, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(end) = find(&bytes[used..], b"\r\n\r\n") {
            used += end + 4;
            let answer = &self.canned.http1_answer;
            self.connections[index].outbox.extend_from_slice(answer);
        }
        used
    }

    pub(super) fn endless_serve(&mut self, index: usize, bytes: &[u8]) -> usize {
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            return 0;
        };
        let head = &self.canned.http1_endless;
        self.connections[index].outbox.extend_from_slice(head);
        self.connections[index].role = Role::Source;
        end + 4
    }

    pub(super) fn http2_serve(&mut self, index: usize, bytes: &[u8]) -> Option<usize> {
        let connection = &mut self.connections[index];
        let Role::Http2Server(server) = &mut connection.role else {
            return None;
        };
        let out = &mut connection.outbox;
        let mut used = 0;
        if !server.greeted {
            if bytes.len() < PREFACE.len() {
                return Some(0);
            }
            if !bytes.starts_with(PREFACE) {
                return None;
            }
            used = PREFACE.len();
            server.greeted = true;
            let values = [
                (MAX_CONCURRENT_STREAMS, 1000),
                (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            ];
            settings(out, &values);
            window_update(out, CONNECTION_WINDOW);
        }
        let body = match server.grpc {
            true => &self.canned.grpc_message,
            false => &self.canned.http2_body,
        };
        let cost = i64::try_from(body.len()).ok()?;
        while let Some((read, length)) = Frame::parse(&bytes[used..]) {
            used += length;
            match read.kind {
                SETTINGS if read.flags & ACK == 0 => {
                    for (name, value) in read.settings() {
                        if name == HEADER_TABLE_SIZE && value < TABLE_BYTES {
                            server.table = false;
                        }
                    }
                    frame(out, SETTINGS, ACK, 0, &[]);
                }
                PING if read.flags & ACK == 0 => frame(out, PING, ACK, 0, read.payload),
                WINDOW_UPDATE if read.stream == 0 => {
                    server.window += i64::from(u32_of(read.payload));
                }
                HEADERS | DATA => {
                    if read.kind == DATA {
                        server.taken += u32::try_from(read.payload.len()).ok()?;
                    }
                    if read.flags & END_STREAM != 0 {
                        server.waiting.push(read.stream);
                    }
                }
                _ => {}
            }
            let ready = server
                .waiting
                .len()
                .min(usize::try_from(server.window / cost).unwrap_or(0));
            for stream in server.waiting.drain(..ready) {
                server.window -= cost;
                let head = match server.grpc {
                    true => &self.canned.grpc_answer,
                    false => &self.canned.http2_answer,
                };
                let head = head.at(server.answers, server.table);
                frame(out, HEADERS, END_HEADERS, stream, head);
                if server.grpc {
                    let trailers = self.canned.grpc_trailers.at(server.answers, server.table);
                    frame(out, DATA, 0, stream, body);
                    frame(out, HEADERS, END_HEADERS | END_STREAM, stream, trailers);
                } else {
                    frame(out, DATA, END_STREAM, stream, body);
                }
                server.answers += 1;
            }
        }
        if server.taken >= GIVE_BACK {
            window_update(out, server.taken);
            server.taken = 0;
        }
        Some(used)
    }
}
