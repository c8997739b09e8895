//! As much of HTTP/2 as canned requests and answers need: frames, and header blocks
//! encoded once. Nothing here decodes a header block.

/// What a client sends before its first frame.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Size of the dynamic table that a peer has unless it says otherwise.
pub(crate) const TABLE_BYTES: u32 = 4096;

/// Entries of the static table.
const STATIC_ENTRIES: usize = 61;

/// One frame.
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Returns the first frame of `bytes` and its length, once it is complete.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let head = bytes.get(..9)?;
        let length = 9 + u32_of(&[0, head[0], head[1], head[2]]) as usize;
        let frame = Self {
            kind: head[3],
            flags: head[4],
            stream: u32_of(&head[5..]) & 0x7fff_ffff,
            payload: bytes.get(9..length)?,
        };
        Some((frame, length))
    }

    /// Returns the settings it carries.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        let each = self.payload.chunks_exact(6);
        each.map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), u32_of(&pair[2..])))
    }
}

/// Reads a number of four bytes; missing bytes count as zero.
pub(crate) fn u32_of(bytes: &[u8]) -> u32 {
    let mut four = [0; 4];
    let length = bytes.len().min(4);
    four[..length].copy_from_slice(&bytes[..length]);
    u32::from_be_bytes(four)
}

/// Appends a frame.
pub(crate) fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a frame of settings.
pub(crate) fn settings(out: &mut Vec<u8>, values: &[(u16, u32)]) {
    let mut payload = Vec::new();
    for (name, value) in values {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(out, SETTINGS, 0, 0, &payload);
}

/// Appends a frame that lets the peer send `more` bytes on the connection.
pub(crate) fn window_update(out: &mut Vec<u8>, more: u32) {
    frame(out, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
}

/// One header field of a canned block.
#[derive(Clone, Copy)]
pub(crate) enum Field<'a> {
    /// Name and value by their place in the static table.
    Static(u8),
    /// The name by its place in the static table.
    Named(u8, &'a str),
    Literal(&'a str, &'a str),
}

/// A header block in its three encodings.
#[derive(Clone, Default)]
pub(crate) struct Block {
    /// Fills the dynamic table: the first one on a connection.
    first: Vec<u8>,
    /// Refers to it.
    next: Vec<u8>,
    /// For a peer without a table.
    plain: Vec<u8>,
}

impl Block {
    /// Returns the encoding for a connection that has carried `sent` such blocks.
    pub(crate) fn at(&self, sent: u64, table: bool) -> &[u8] {
        match (table, sent) {
            (false, _) => &self.plain,
            (true, 0) => &self.first,
            (true, _) => &self.next,
        }
    }
}

/// Encodes blocks that always follow each other in this order on a connection.
pub(crate) fn blocks<const N: usize>(sequence: [&[Field<'_>]; N]) -> [Block; N] {
    let entries = |fields: &[Field<'_>]| {
        let literal = |field: &&Field<'_>| !matches!(field, Field::Static(_));
        fields.iter().filter(literal).count()
    };
    let all: usize = sequence.iter().map(|fields| entries(fields)).sum();
    let mut added = 0;
    sequence.map(|fields| {
        let mut block = Block::default();
        for field in fields {
            let (name, literal, value) = match *field {
                Field::Static(index) => {
                    for out in [&mut block.first, &mut block.next, &mut block.plain] {
                        integer(out, 0x80, 7, usize::from(index));
                    }
                    continue;
                }
                Field::Named(index, value) => (index, None, value),
                Field::Literal(name, value) => (0, Some(name), value),
            };
            for (out, prefix, bits) in [(&mut block.first, 0x40, 6), (&mut block.plain, 0, 4)] {
                integer(out, prefix, bits, usize::from(name));
                if let Some(name) = literal {
                    text(out, name);
                }
                text(out, value);
            }
            // The newest entry comes first, and all of them are there by then.
            integer(&mut block.next, 0x80, 7, STATIC_ENTRIES + all - added);
            added += 1;
        }
        block
    })
}

fn integer(out: &mut Vec<u8>, prefix: u8, bits: u8, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(prefix | low(value));
        return;
    }
    out.push(prefix | low(most));
    let mut rest = value - most;
    while rest >= 128 {
        out.push(low(rest % 128) | 128);
        rest /= 128;
    }
    out.push(low(rest));
}

fn low(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn text(out: &mut Vec<u8>, value: &str) {
    integer(out, 0, 7, value.len());
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_back_once_complete() {
        let mut bytes = Vec::new();
        frame(&mut bytes, DATA, END_STREAM, 5, b"abc");
        assert!(Frame::parse(&bytes[..11]).is_none());
        let (frame, length) = Frame::parse(&bytes).expect("complete");
        assert_eq!(length, bytes.len());
        assert_eq!((frame.kind, frame.flags, frame.stream), (0, 1, 5));
        assert_eq!(frame.payload, b"abc");
    }

    #[test]
    fn later_blocks_refer_to_what_the_first_ones_added() {
        let [head, trailers] = blocks([
            &[
                Field::Static(8),
                Field::Named(31, "a"),
                Field::Literal("x", "y"),
            ],
            &[Field::Literal("grpc-status", "0")],
        ]);
        // Three entries; the newest, number 62, is the trailer.
        assert_eq!(head.at(1, true), [0x88, 0x80 | 64, 0x80 | 63]);
        assert_eq!(trailers.at(1, true), [0x80 | 62]);
        assert_eq!(head.at(0, true)[..4], [0x88, 0x40 | 31, 1, b'a']);
        assert_eq!(head.at(7, false)[..5], [0x88, 15, 16, 1, b'a']);
    }
}
