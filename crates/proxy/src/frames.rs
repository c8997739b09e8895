//! Follows the frames of an HTTP/2 connection as they pass, without reading their contents
//! but the path of a request.
//!
//! The `h2` crate answers a head that breaks the rules by itself, and tells nobody: such a
//! stream is opened by the client, never handed to us, and ended by a frame that goes out.
//! Watching frame headers in both directions tells of each of them, so that it can be
//! recorded. The same counts tell of clients that keep us busy with frames of no use.
//!
//! Bytes go in, facts come out: no I/O, and no allocation per frame.

mod fields;
mod target;

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::Limit;

use fields::Blocks;
use target::Target;

/// Bytes of the header of a frame.
const HEADER_BYTES: usize = 9;

/// Bytes of the preface that clients send first.
const PREFACE_BYTES: u32 = 24;

/// The time over which frames of no use and resets are counted.
const PERIOD: Duration = Duration::from_secs(10);

/// Most streams that may be told of in one go; h2 has no more unaccepted ones at a time.
const WAITING_MAX: usize = 2_048;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY_FRAME: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

/// Settings with values that are not allowed, and the largest or smallest that are.
const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const WINDOW_MAX: u32 = 0x7fff_ffff;
const FRAME_BYTES_MIN: u32 = 1 << 14;
const FRAME_BYTES_MAX: u32 = (1 << 24) - 1;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// A stream that was ended before anybody could serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    stream: u32,
    /// The status it was answered with; 0 if it was reset.
    pub(crate) status: u16,
    /// The error code it was reset with; 0 if it was answered.
    pub(crate) code: u32,
}

/// The header of a frame, and the error code if it is a `RST_STREAM`.
#[derive(Clone, Copy, Debug)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    code: u32,
}

/// Cuts one direction of a connection into frames.
#[derive(Debug)]
struct Cutter {
    /// What is there of a header that came in pieces, and of the code of a reset.
    piece: [u8; HEADER_BYTES + 4],
    piece_bytes: usize,
    /// Bytes to skip before the next header.
    skip: u32,
}

impl Cutter {
    const fn new(skip: u32) -> Self {
        Self {
            piece: [0; HEADER_BYTES + 4],
            piece_bytes: 0,
            skip,
        }
    }

    /// Returns the next frame whose header is complete at or behind `at`, and moves `at` on.
    fn next(&mut self, bytes: &[u8], at: &mut usize) -> Option<Frame> {
        let skipped = (bytes.len() - *at).min(self.skip as usize);
        *at += skipped;
        // At most `skip`.
        self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
        if *at == bytes.len() {
            return None;
        }
        let mut wanted = HEADER_BYTES;
        loop {
            if self.piece_bytes >= HEADER_BYTES && self.is_reset() {
                wanted = HEADER_BYTES + 4;
            }
            let count = (wanted - self.piece_bytes).min(bytes.len() - *at);
            let piece = &mut self.piece[self.piece_bytes..self.piece_bytes + count];
            piece.copy_from_slice(&bytes[*at..*at + count]);
            self.piece_bytes += count;
            *at += count;
            if self.piece_bytes < wanted {
                return None;
            }
            if wanted > HEADER_BYTES || !self.is_reset() {
                break;
            }
        }
        self.piece_bytes = 0;
        let frame = self.frame();
        self.skip = frame.length - if wanted > HEADER_BYTES { 4 } else { 0 };
        Some(frame)
    }

    fn is_reset(&self) -> bool {
        self.piece[3] == RST_STREAM && self.piece[..3] == [0, 0, 4]
    }

    fn frame(&self) -> Frame {
        let [a, b, c, kind, flags, d, e, f, g, code @ ..] = self.piece;
        Frame {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
            code: u32::from_be_bytes(code),
        }
    }
}

/// What a server sees of the frames of one client.
#[derive(Debug)]
pub(crate) struct Watch {
    input: Cutter,
    output: Cutter,
    /// The highest stream that the client opened.
    highest: u32,
    /// Streams that were opened, and neither served nor refused yet; in rising order.
    waiting: Vec<u32>,
    refused: Vec<Refused>,
    /// A head that has begun and not ended, and the stream of the last one.
    open_head: bool,
    head: u32,
    /// Frames of no use since something useful, and resets beyond the responses that ended,
    /// within the present period.
    idle_frames: u32,
    resets: u32,
    period: Option<Instant>,
    flood: Option<Limit>,
    is_violation: bool,
    target: Target,
    /// What of the present frame comes before the block of fields, and how much of the block
    /// is in it.
    prefix: u32,
    is_padded: bool,
    block: u32,
    /// The first settings have come.
    settled: bool,
    /// Streams whose client has not ended its side; in rising order.
    uploading: Vec<u32>,
    /// The rule that was broken first, as far as frames tell.
    broken: Option<u32>,
    /// The blocks of fields that h2 may not have decoded yet.
    blocks: Blocks,
}

impl Default for Watch {
    /// Returns the watch of a connection whose client has sent nothing yet.
    fn default() -> Self {
        Self {
            input: Cutter::new(PREFACE_BYTES),
            output: Cutter::new(0),
            highest: 0,
            waiting: Vec::new(),
            refused: Vec::new(),
            open_head: false,
            head: 0,
            idle_frames: 0,
            resets: 0,
            period: None,
            flood: None,
            is_violation: false,
            target: Target::default(),
            prefix: 0,
            is_padded: false,
            block: 0,
            settled: false,
            uploading: Vec::new(),
            broken: None,
            blocks: Blocks::default(),
        }
    }
}

impl Watch {
    /// Takes what the client sent.
    ///
    /// h2 takes pseudo-header fields in trailers without a word. Such trailers are changed so
    /// that it refuses them: they no longer end their stream, which trailers have to.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        // h2 reads more when it has decoded every whole frame.
        let is_whole = !self.open_head && !self.is_mid_block();
        self.blocks.forget(is_whole);
        loop {
            if self.is_mid_block() {
                let end = bytes.len().min(at + self.input.skip as usize);
                if self.target.is_looking() {
                    self.look_for_target(&mut bytes[at..end]);
                }
                self.blocks.extend(&bytes[at..end]);
            }
            let Some(frame) = self.input.next(bytes, &mut at) else {
                return;
            };
            let ends = frame.flags & END_HEADERS != 0;
            self.check(frame, &bytes[at..]);
            if matches!(frame.kind, HEADERS | CONTINUATION) {
                self.blocks.begin(frame.kind, frame.flags);
            }
            match frame.kind {
                HEADERS => {
                    self.open_head = !ends;
                    self.head = frame.stream;
                    if frame.stream > self.highest && frame.stream % 2 == 1 {
                        self.highest = frame.stream;
                        self.target.begin();
                        self.expect_block(frame);
                        if frame.flags & END_STREAM == 0 {
                            self.upload(frame.stream);
                        }
                        if self.waiting.len() < WAITING_MAX {
                            self.waiting.push(frame.stream);
                        }
                    } else if self.is_ended(frame) {
                        self.broken.get_or_insert(STREAM_CLOSED);
                    } else if begins_with_pseudo(frame.flags, &bytes[at..]) {
                        match at.checked_sub(HEADER_BYTES) {
                            Some(start) => bytes[start + 4] &= !END_STREAM,
                            // Its begin is with h2 already; the connection has to go.
                            None => self.is_violation = true,
                        }
                    }
                }
                CONTINUATION => {
                    self.open_head = self.open_head && !ends;
                    self.expect_block(frame);
                }
                DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => self.idle_frames = 0,
                RST_STREAM => {
                    self.idle();
                    self.resets += 1;
                    if self.resets > Limit::Http2Resets.count_u32() {
                        self.flood = Some(Limit::Http2Resets);
                    }
                }
                _ => self.idle(),
            }
        }
    }

    /// Says whether more of a frame with fields is to come.
    const fn is_mid_block(&self) -> bool {
        self.input.skip > 0 && matches!(self.input.piece[3], HEADERS | CONTINUATION)
    }

    /// Notes the stream of a client that has not ended its side.
    fn upload(&mut self, stream: u32) {
        if self.uploading.len() == WAITING_MAX {
            self.uploading.remove(0);
        }
        self.uploading.push(stream);
    }

    /// Says whether the client had ended its side of a stream, or given it up, before this
    /// frame; notes it if it does so now.
    fn is_ended(&mut self, frame: Frame) -> bool {
        if frame.stream > self.highest || frame.stream.is_multiple_of(2) {
            return false;
        }
        let Ok(index) = self.uploading.binary_search(&frame.stream) else {
            return true;
        };
        if frame.kind == RST_STREAM || frame.flags & END_STREAM != 0 {
            self.uploading.remove(index);
        }
        false
    }

    /// Checks what a frame says of itself, and remembers which rule it breaks: h2 ends such a
    /// connection, but says less precisely why.
    fn check(&mut self, frame: Frame, payload: &[u8]) {
        let is_ack = frame.flags & ACK != 0;
        if !std::mem::replace(&mut self.settled, true) && (frame.kind != SETTINGS || is_ack) {
            // h2 takes anything as the first frame.
            self.is_violation = true;
        }
        if self.is_out_of_place(frame) {
            self.broken.get_or_insert(PROTOCOL_ERROR);
        }
        let length = frame.length;
        let fits = match frame.kind {
            DATA => {
                let padding = payload.first().filter(|_| frame.flags & PADDED != 0);
                if padding.is_some_and(|padding| u32::from(*padding) >= length) {
                    self.broken.get_or_insert(PROTOCOL_ERROR);
                }
                if self.is_ended(frame) {
                    self.broken.get_or_insert(STREAM_CLOSED);
                }
                return;
            }
            HEADERS | CONTINUATION => return,
            PRIORITY_FRAME => length == 5,
            RST_STREAM => {
                self.is_ended(frame);
                length == 4
            }
            SETTINGS if is_ack => length == 0,
            SETTINGS => {
                let count = payload.len().min(length as usize);
                let wrong = payload[..count].chunks_exact(6).find_map(wrong_setting);
                if let Some(code) = wrong {
                    self.broken.get_or_insert(code);
                }
                length.is_multiple_of(6)
            }
            PING => length == 8,
            GOAWAY => length >= 8,
            WINDOW_UPDATE => {
                if length == 4 && payload.get(..4) == Some(&[0; 4]) {
                    self.broken.get_or_insert(PROTOCOL_ERROR);
                }
                length == 4
            }
            _ => true,
        };
        if !fits {
            self.broken.get_or_insert(FRAME_SIZE_ERROR);
        }
    }

    /// Says whether a frame comes where none of its kind may, or on such a stream.
    const fn is_out_of_place(&self, frame: Frame) -> bool {
        if self.open_head != (frame.kind == CONTINUATION) {
            return true;
        }
        match frame.kind {
            DATA | RST_STREAM => frame.stream == 0 || frame.stream > self.highest,
            HEADERS => frame.stream.is_multiple_of(2),
            PRIORITY_FRAME => frame.stream == 0,
            SETTINGS | PING | GOAWAY => frame.stream != 0,
            WINDOW_UPDATE => frame.stream > self.highest,
            PUSH_PROMISE => true,
            // Only the stream of the head that is open may go on.
            CONTINUATION => frame.stream != self.head,
            _ => false,
        }
    }

    /// Notes where in a frame its part of a block of fields is.
    fn expect_block(&mut self, frame: Frame) {
        let opens = frame.kind == HEADERS;
        self.is_padded = opens && frame.flags & PADDED != 0;
        let priority = opens && frame.flags & PRIORITY != 0;
        self.prefix = u32::from(self.is_padded) + if priority { 5 } else { 0 };
        self.block = frame.length.saturating_sub(self.prefix);
    }

    /// Looks through the next bytes of a frame for the path.
    fn look_for_target(&mut self, payload: &mut [u8]) {
        if let Some(padding) = payload.first().filter(|_| self.is_padded) {
            self.is_padded = false;
            if u32::from(*padding) > self.block {
                self.broken.get_or_insert(PROTOCOL_ERROR);
            }
            self.block = self.block.saturating_sub((*padding).into());
        }
        let skipped = payload.len().min(self.prefix as usize);
        // At most `prefix`.
        self.prefix -= u32::try_from(skipped).unwrap_or(self.prefix);
        let block = &mut payload[skipped..];
        let length = block.len().min(self.block as usize);
        // At most `block`.
        self.block -= u32::try_from(length).unwrap_or(self.block);
        self.target.read(&mut block[..length]);
        self.is_violation |= self.target.is_violation();
    }

    fn idle(&mut self) {
        if self.idle_frames == 0 && self.resets == 0 {
            self.period = None;
        }
        self.idle_frames += 1;
        // The clock is read rarely: only a flood comes to many of them.
        if self.idle_frames % 64 == 1 {
            let now = Instant::now();
            let begun = *self.period.get_or_insert(now);
            if now.saturating_duration_since(begun) > PERIOD {
                self.period = Some(now);
                self.idle_frames = 1;
                self.resets = 0;
            }
        }
        if self.idle_frames > Limit::Http2IdleFrames.count_u32() {
            self.flood = Some(Limit::Http2IdleFrames);
        }
    }

    /// Takes what is sent to the client. Returns where in it the code of a `GOAWAY` has to be
    /// replaced, and by which.
    pub(crate) fn wrote(&mut self, bytes: &[u8]) -> Option<(usize, [u8; 4])> {
        let mut replace = None;
        let mut at = 0;
        while let Some(frame) = self.output.next(bytes, &mut at) {
            let ends = frame.flags & END_STREAM != 0;
            match frame.kind {
                DATA | HEADERS => {
                    self.idle_frames = 0;
                    if ends {
                        self.resets = self.resets.saturating_sub(1);
                    }
                    if ends && frame.kind == HEADERS && self.take(frame.stream) {
                        self.refused.push(Refused {
                            stream: frame.stream,
                            status: 431,
                            code: 0,
                        });
                    }
                }
                RST_STREAM if self.take(frame.stream) => self.refused.push(Refused {
                    stream: frame.stream,
                    status: 0,
                    code: frame.code,
                }),
                GOAWAY => {
                    let is_general =
                        bytes.get(at + 4..at + 8) == Some(&PROTOCOL_ERROR.to_be_bytes());
                    let broken = || {
                        let coding = || self.blocks.are_undecodable().then_some(COMPRESSION_ERROR);
                        self.broken.or_else(coding)
                    };
                    let code = if is_general { broken() } else { None };
                    replace = code.map(|code| (at + 4, code.to_be_bytes())).or(replace);
                }
                _ => {}
            }
        }
        replace
    }

    /// Notes that a stream is served, even if it was reset before that.
    pub(crate) fn serve(&mut self, stream: u32) {
        if !self.take(stream) {
            self.refused.retain(|refused| refused.stream != stream);
        }
    }

    fn take(&mut self, stream: u32) -> bool {
        let found = self.waiting.binary_search(&stream);
        found.map(|index| self.waiting.remove(index)).is_ok()
    }

    /// Returns the next stream that was refused.
    pub(crate) fn next_refused(&mut self) -> Option<Refused> {
        self.refused.pop()
    }

    /// Says how many complete heads were never served, and whether one is incomplete.
    pub(crate) fn left(&self) -> (usize, bool) {
        let incomplete = self.is_mid_head() && !self.waiting.is_empty();
        (self.waiting.len() - usize::from(incomplete), incomplete)
    }

    /// Says whether something other than the body of a request has begun and not ended.
    pub(crate) const fn is_mid_head(&self) -> bool {
        let input = &self.input;
        let mid_frame = input.skip > 0 && input.piece[3] != DATA;
        self.open_head || mid_frame || input.piece_bytes > 0
    }

    /// Says whether the client broke a rule that h2 does not see.
    pub(crate) const fn is_violation(&self) -> bool {
        self.is_violation
    }

    /// Returns the limit that the client has passed by frames of no use.
    pub(crate) const fn flood(&self) -> Option<Limit> {
        self.flood
    }
}

/// Returns the error that a setting is, if its value is not allowed.
fn wrong_setting(setting: &[u8]) -> Option<u32> {
    let [a, b, value @ ..] = setting else {
        return None;
    };
    let value = u32::from_be_bytes(value.try_into().ok()?);
    match u16::from_be_bytes([*a, *b]) {
        ENABLE_PUSH if value > 1 => Some(PROTOCOL_ERROR),
        INITIAL_WINDOW_SIZE if value > WINDOW_MAX => Some(FLOW_CONTROL_ERROR),
        MAX_FRAME_SIZE if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&value) => {
            Some(PROTOCOL_ERROR)
        }
        _ => None,
    }
}

/// Says whether the payload of a `HEADERS` frame begins with a pseudo-header field, as far as
/// it is there and does not refer to earlier frames.
fn begins_with_pseudo(flags: u8, payload: &[u8]) -> bool {
    let skipped = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let block = payload.get(skipped..).unwrap_or_default();
    // Changes of the table's size may come first.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20);
    match &block[start.unwrap_or(block.len())..] {
        // The first 14 entries of the static table, whole or as names.
        [0x81..=0x8e | 0x41..=0x4e | 0x01..=0x0e | 0x11..=0x1e, ..] => true,
        // A name in full, which begins with a colon: as it is, or Huffman-coded in 7 bits.
        [0x40 | 0x00 | 0x10, length, first, ..] => match length & 0x80 {
            0 => *first == b':',
            _ => first & 0xfe == 0xb8,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn opened(streams: &[u32]) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        for stream in streams {
            bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, *stream, b"head"));
        }
        bytes
    }

    #[test]
    fn refused_streams_are_told_however_the_bytes_are_cut() {
        for size in 1..40 {
            let mut watch = Watch::default();
            for piece in opened(&[1, 3, 5, 7]).chunks_mut(size) {
                watch.read(piece);
            }
            assert!(!watch.is_mid_head());
            watch.serve(3);
            let mut answers = frame(RST_STREAM, 0, 1, &[0, 0, 0, 1]);
            // The response of a stream that is served, then its reset, say nothing.
            answers.extend(frame(HEADERS, END_STREAM | END_HEADERS, 3, b"x"));
            answers.extend(frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]));
            answers.extend(frame(HEADERS, END_STREAM | END_HEADERS, 5, b"431"));
            answers.extend(frame(RST_STREAM, 0, 5, &[0, 0, 0, 1]));
            answers.extend(frame(RST_STREAM, 0, 7, &[0, 0, 0, 1]));
            for piece in answers.chunks(size) {
                watch.wrote(piece);
            }
            watch.serve(7);
            let large = Refused {
                stream: 5,
                status: 431,
                code: 0,
            };
            let reset = Refused {
                stream: 1,
                status: 0,
                code: 1,
            };
            assert_eq!(watch.next_refused(), Some(large), "pieces of {size}");
            assert_eq!(watch.next_refused(), Some(reset));
            assert_eq!(watch.next_refused(), None);
            assert_eq!(watch.left(), (0, false));
        }
    }

    #[test]
    fn pseudo_fields_in_trailers_are_made_to_fail() {
        let all = END_STREAM | END_HEADERS;
        let check = |flags: u8, payload: &[u8], refused: bool| {
            let mut watch = Watch::default();
            let body = frame(HEADERS, END_HEADERS, 1, b"head");
            watch.read(&mut [opened(&[]), body].concat());
            let mut trailers = frame(HEADERS, flags, 1, payload);
            watch.read(&mut trailers);
            assert_eq!(trailers[4] & END_STREAM == 0, refused, "{payload:?}");
            let mut cut = frame(HEADERS, flags, 1, payload);
            watch.read(&mut cut[..9]);
            watch.read(&mut cut[9..]);
            assert!(!watch.is_violation());
        };
        check(all, b"\x42\x03200", true);
        check(all, b"\x20\x84", true);
        check(all, b"\x00\x05:path\x01/", true);
        check(all, b"\x40\x84\xb9\x58\xd3\x3f\x00", true);
        check(all | PADDED | PRIORITY, b"\x00\0\0\0\0\x09\x84", true);
        check(all, b"\x00\x05x-sum\x01/", false);
        check(all, b"\xbe", false);
        check(all, b"", false);
    }

    #[test]
    fn a_block_that_cannot_be_decoded_is_told_however_it_comes() {
        let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 1]);
        let cases: [(&[u8], Option<u32>); 3] = [
            (&[0x82, 0xc6], Some(COMPRESSION_ERROR)),
            (&[0x82, 0x00, 0x01, b'A', 0x00, 0xc6], None),
            (&[0x82, 0x00, 0x01, b'a', 0x00], None),
        ];
        for (block, code) in cases {
            for size in 1..60 {
                let mut watch = Watch::default();
                let (begin, rest) = block.split_at(1);
                let begin = frame(HEADERS, 0, 3, begin);
                let rest = frame(CONTINUATION, END_HEADERS, 3, rest);
                for piece in [opened(&[]), begin, rest].concat().chunks_mut(size) {
                    watch.read(piece);
                }
                let expected = code.map(|code| (13, code.to_be_bytes()));
                assert_eq!(watch.wrote(&goaway), expected, "{block:x?} by {size}");
            }
        }
    }

    #[test]
    fn a_head_that_does_not_end_is_seen() {
        let mut watch = Watch::default();
        watch.read(&mut opened(&[]));
        assert!(!watch.is_mid_head());
        let mut head = frame(HEADERS, 0, 1, b"he");
        watch.read(&mut head[..10]);
        assert!(watch.is_mid_head());
        watch.read(&mut head[10..]);
        assert!(watch.is_mid_head(), "its end is not there");
        assert_eq!(watch.left(), (0, true));
        watch.read(&mut frame(CONTINUATION, END_HEADERS, 1, b"ad"));
        assert!(!watch.is_mid_head());
        watch.read(&mut frame(DATA, 0, 1, &[0; 99])[..20]);
        assert!(!watch.is_mid_head(), "bodies take their time");
    }

    #[test]
    fn frames_of_no_use_are_a_flood_unless_something_useful_comes_between() {
        let mut ping = frame(6, 0, 0, &[0; 8]);
        let mut watch = Watch::default();
        watch.read(&mut opened(&[1]));
        for _ in 0..100 {
            for _ in 0..Limit::Http2IdleFrames.count_u32() / 2 {
                watch.read(&mut ping);
            }
            watch.wrote(&frame(DATA, 0, 1, b"x"));
        }
        assert_eq!(watch.flood(), None);
        for _ in 0..=Limit::Http2IdleFrames.count_u32() {
            watch.read(&mut ping);
        }
        assert_eq!(watch.flood(), Some(Limit::Http2IdleFrames));
    }

    #[test]
    fn resets_are_a_flood_when_hardly_anything_is_answered() {
        let check = |answered: bool, flood: Option<Limit>| {
            let mut watch = Watch::default();
            watch.read(&mut opened(&[]));
            for stream in (1..2_001).step_by(2) {
                watch.read(&mut frame(HEADERS, END_HEADERS, stream, b"head"));
                watch.serve(stream);
                watch.read(&mut frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
                if answered {
                    watch.wrote(&frame(DATA, END_STREAM, stream, b"x"));
                }
            }
            assert_eq!(watch.flood(), flood);
        };
        check(true, None);
        check(false, Some(Limit::Http2Resets));
    }
}
