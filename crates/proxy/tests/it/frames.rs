//! An HTTP/2 client that sends any frames, right or wrong, and tells what comes back.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::mesh::DEADLINE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    fn number(&self, from: usize) -> u32 {
        let bytes = self.payload.get(from..from + 4).expect("four bytes");
        u32::from_be_bytes(bytes.try_into().unwrap())
    }

    /// Returns the last stream of a `GOAWAY`.
    pub(crate) fn last_stream(&self) -> u32 {
        self.number(0)
    }

    /// Returns the error code of a `RST_STREAM` or `GOAWAY`.
    pub(crate) fn code(&self) -> u32 {
        self.number(if self.kind == GOAWAY { 4 } else { 0 })
    }
}

/// Encodes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Encodes fields as literals that are not indexed and not compressed.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(&mut bytes, text.len());
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

fn integer(bytes: &mut Vec<u8>, value: usize) {
    if value < 127 {
        bytes.push(u8::try_from(value).unwrap());
        return;
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

/// The fields of a request that is in order.
pub(crate) fn request(path: &str) -> Vec<(&[u8], &[u8])> {
    vec![
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"callee.test"),
        (b":path", path.as_bytes()),
    ]
}

/// A `HEADERS` frame with these fields, complete.
pub(crate) fn head(stream: u32, end: bool, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, &block(fields))
}

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Connects, and sends the preface and settings.
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let mut this = Self::bare(to).await;
        this.send(&[PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat())
            .await;
        this
    }

    /// Connects, and sends nothing.
    pub(crate) async fn bare(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Sends bytes; the other side may have hung up.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Reads a frame; none at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut header = [0; 9];
            self.stream.read_exact(&mut header).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Frame {
                kind,
                flags,
                stream: u32::from_be_bytes(stream),
                payload,
            })
        };
        timeout(DEADLINE, read).await.expect("a frame, or the end")
    }

    /// Reads until a frame is what is looked for; settings are acknowledged.
    pub(crate) async fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                self.send(&self::frame(SETTINGS, ACK, 0, &[])).await;
            }
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads the end of a stream: its status if it was answered, or the code it was reset
    /// with, or the code of the connection's end.
    pub(crate) async fn end_of(&mut self, stream: u32) -> End {
        let mut status = 0;
        loop {
            let ends = |frame: &Frame| {
                (frame.stream == stream && matches!(frame.kind, HEADERS | DATA | RST_STREAM))
                    || frame.kind == GOAWAY
            };
            let Some(frame) = self.find(ends).await else {
                return End::Closed;
            };
            match frame.kind {
                RST_STREAM => return End::Reset(frame.code()),
                GOAWAY if frame.code() > 0 => return End::GoAway(frame.code()),
                // Interim responses come first.
                HEADERS if status < 200 => status = self::status(&frame.payload),
                _ => {}
            }
            if frame.kind != GOAWAY && frame.flags & END_STREAM != 0 {
                return End::Status(status);
            }
        }
    }

    /// Says whether the connection still answers.
    pub(crate) async fn is_alive(&mut self) -> bool {
        let token = *b"are you?";
        self.send(&frame(PING, 0, 0, &token)).await;
        let answer =
            |frame: &Frame| frame.kind == PING && frame.flags == ACK && frame.payload == token;
        self.find(answer).await.is_some()
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

/// Reads the status, the first field of a response: an index, or a literal of three digits,
/// Huffman-coded or not.
fn status(block: &[u8]) -> u16 {
    // Changes of the table's size may come first.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap();
    let block = &block[start..];
    match block[0] {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        _ => {
            let huffman = block[1] & 0x80 != 0;
            let length = usize::from(block[1] & 0x7f);
            let text = &block[2..2 + length];
            if huffman {
                digits(text)
            } else {
                std::str::from_utf8(text).unwrap().parse().unwrap()
            }
        }
    }
}

/// Reads three Huffman-coded digits: 0 to 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> u16 {
    let mut bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut take = |count| (0..count).fold(0, |code, _| code << 1 | bits.next().unwrap());
        let code = take(5);
        let digit = if code < 3 {
            code
        } else {
            (code << 1 | take(1)) - 0x19 + 3
        };
        number = number * 10 + digit;
    }
    number
}
