//! Tells blocks of fields that cannot be decoded from those that say what no request may.
//!
//! The `h2` crate ends a connection for either, and says the same of both. What the client
//! gets to hear is decided here, from the blocks that came last: everything earlier has been
//! decoded. What they refer to in the dynamic table is not known, which is no loss: h2 put
//! only good fields there, and that it is not there is the one mistake that cannot be seen.
//!
//! Keeping a block costs a copy of its bytes. It is looked at only when a connection ends.

use super::{END_HEADERS, HEADERS, PADDED, PRIORITY};

/// Most bytes of blocks that are kept; of more nothing is known.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Bytes that are held for the blocks to come.
const SPARE_BYTES_MAX: usize = 2 << 10;

/// Entries of the static table, and how many of them name pseudo-header fields.
const STATIC_MAX: u32 = 61;
const METHODS: std::ops::RangeInclusive<u32> = 2..=3;
const STATUSES: std::ops::RangeInclusive<u32> = 8..=14;
const PSEUDO_MAX: u32 = 14;

/// The largest dynamic table that we allow, by never having said otherwise.
const TABLE_BYTES_MAX: u32 = 4_096;

/// The symbols by the length of their Huffman codes, and by value where that is equal; the
/// last is the end of a text.
#[rustfmt::skip]
const SYMBOLS: [u16; 257] = [
    48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57,
    61, 65, 95, 98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71,
    72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113, 118, 119,
    120, 121, 122, 38, 42, 44, 59, 88, 90, 33, 34, 40, 41, 63, 39, 43, 124, 35, 62, 0, 36, 64, 91,
    93, 126, 94, 125, 60, 96, 123, 92, 195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161,
    167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230, 129, 132, 133, 134, 136, 146, 154, 156,
    160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232, 233, 1,
    135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174,
    175, 180, 182, 183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148, 159, 171, 206, 215, 225,
    236, 237, 199, 207, 234, 235, 192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242,
    243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252,
    253, 254, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28,
    29, 30, 31, 127, 220, 249, 10, 13, 22, 256,
];

/// How many symbols have codes of each length.
pub(super) const CODES: [u32; 31] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19,
    29, 0, 4,
];

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It cannot be decoded.
    Coding,
    /// It can, and what it says is not allowed.
    Meaning,
    /// It breaks off.
    Short,
}

/// The part of a block that is in one frame: its kind, its flags, and where it begins.
#[derive(Clone, Copy, Debug)]
struct Part {
    kind: u8,
    flags: u8,
    begin: usize,
}

/// The blocks that came last.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    is_over: bool,
}

impl Blocks {
    /// Notes that a frame with a block, or the next part of one, begins.
    pub(super) fn begin(&mut self, kind: u8, flags: u8) {
        let begin = self.bytes.len();
        self.parts.push(Part { kind, flags, begin });
    }

    /// Takes the next bytes of the frame that began last.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > KEPT_BYTES_MAX {
            self.is_over = true;
        } else if !self.is_over {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Forgets what has been decoded: all but the last block, and that too if it is
    /// `complete`.
    pub(super) fn forget(&mut self, complete: bool) {
        let last = self.parts.iter().rposition(|part| part.kind == HEADERS);
        let keep = last.filter(|_| !complete).unwrap_or(self.parts.len());
        if keep == 0 {
            return;
        }
        let begin = self
            .parts
            .get(keep)
            .map_or(self.bytes.len(), |part| part.begin);
        self.parts.drain(..keep);
        self.bytes.drain(..begin);
        for part in &mut self.parts {
            part.begin -= begin;
        }
        if self.parts.is_empty() {
            self.is_over = false;
            self.bytes.shrink_to(SPARE_BYTES_MAX);
            self.parts.shrink_to(SPARE_BYTES_MAX / size_of::<Part>());
        }
    }

    /// Says whether h2, which found fault with the connection, cannot have decoded these.
    pub(super) fn are_undecodable(&self) -> bool {
        if self.is_over {
            return false;
        }
        let mut block = Vec::new();
        let mut refers = false;
        for (i, part) in self.parts.iter().enumerate() {
            let end = self
                .parts
                .get(i + 1)
                .map_or(self.bytes.len(), |next| next.begin);
            let Some(mut bytes) = self.bytes.get(part.begin..end) else {
                return false;
            };
            if part.kind == HEADERS {
                block.clear();
                bytes = match strip(bytes, part.flags) {
                    Some(bytes) => bytes,
                    // A fault of the frame.
                    None => return false,
                };
            }
            block.extend_from_slice(bytes);
            if part.flags & END_HEADERS == 0 {
                continue;
            }
            match read(&block, &mut refers) {
                Ok(()) => block.clear(),
                Err(fault) => return fault != Fault::Meaning,
            }
        }
        // The rest of the last one may be still to come: h2 does not wait for it.
        match read(&block, &mut refers) {
            Err(fault @ (Fault::Coding | Fault::Meaning)) => fault == Fault::Coding,
            Ok(()) | Err(Fault::Short) => refers,
        }
    }
}

/// Returns the block of fields in the payload of a `HEADERS` frame.
fn strip(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let padded = flags & PADDED != 0;
    let padding = if padded { *payload.first()? } else { 0 };
    let begin = usize::from(padded) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let end = payload.len().checked_sub(padding.into())?;
    payload.get(begin..end)
}

/// Reads a block; notes whether it refers to the dynamic table.
fn read(mut block: &[u8], dynamic: &mut bool) -> Result<(), Fault> {
    let mut resizable = true;
    while let Some(first) = block.first().copied() {
        if first & 0xe0 == 0x20 {
            let size = number(&mut block, 5)?;
            if !resizable || size > TABLE_BYTES_MAX {
                return Err(Fault::Coding);
            }
            continue;
        }
        resizable = false;
        if first & 0x80 != 0 {
            let index = number(&mut block, 7)?;
            if index == 0 {
                return Err(Fault::Coding);
            }
            *dynamic |= index > STATIC_MAX;
            continue;
        }
        let index = number(&mut block, if first & 0xc0 == 0x40 { 6 } else { 4 })?;
        *dynamic |= index > STATIC_MAX;
        let name = if index == 0 {
            Some(text(&mut block)?)
        } else {
            None
        };
        let value = text(&mut block)?;
        let good = match name {
            Some(name) => is_name(&name) && is_value(&name, &value),
            None if METHODS.contains(&index) => is_value(b":method", &value),
            None if STATUSES.contains(&index) => is_value(b":status", &value),
            None if index <= PSEUDO_MAX => is_value(b":path", &value),
            None if index <= STATIC_MAX => is_value(b"", &value),
            // What it names is not known; plain text is fine for all of them.
            None => true,
        };
        if !good {
            return Err(Fault::Meaning);
        }
    }
    Ok(())
}

/// Reads a number of which the first byte has so many bits.
fn number(block: &mut &[u8], prefix: u32) -> Result<u32, Fault> {
    let (first, mut rest) = block.split_first().ok_or(Fault::Short)?;
    let most = (1_u32 << prefix) - 1;
    let mut value = u32::from(*first) & most;
    if value == most {
        // h2 takes no more than five bytes for a number, which is plenty.
        let mut shift = 0;
        loop {
            let (byte, behind) = rest.split_first().ok_or(Fault::Short)?;
            rest = behind;
            value += u32::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return Err(Fault::Coding);
            }
        }
    }
    *block = rest;
    Ok(value)
}

fn text(block: &mut &[u8]) -> Result<Vec<u8>, Fault> {
    let coded = block.first().ok_or(Fault::Short)? & 0x80 != 0;
    let length = number(block, 7)? as usize;
    let (text, rest) = block.split_at_checked(length).ok_or(Fault::Short)?;
    *block = rest;
    if coded {
        decode(text)
    } else {
        Ok(text.to_vec())
    }
}

/// Decodes Huffman codes.
fn decode(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    let (mut code, mut bits) = (0_u32, 0_usize);
    for byte in bytes {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            if let Some(symbol) = symbol(code, bits) {
                text.push(u8::try_from(symbol).map_err(|_| Fault::Coding)?);
                (code, bits) = (0, 0);
            }
        }
    }
    // What is left is the begin of the end of a text, all ones, and less than a byte.
    if bits < 8 && code + 1 == 1 << bits {
        Ok(text)
    } else {
        Err(Fault::Coding)
    }
}

/// Returns the symbol that has this code.
fn symbol(code: u32, bits: usize) -> Option<u16> {
    let mut first = 0_u32;
    let mut before = 0_u32;
    for count in &CODES[..bits] {
        first = (first + count) << 1;
        before += count;
    }
    let place = code.checked_sub(first)?;
    let here = place < *CODES.get(bits)?;
    here.then(|| SYMBOLS.get((before + place) as usize).copied())?
}

fn is_name(name: &[u8]) -> bool {
    if let Some(pseudo) = name.strip_prefix(b":") {
        let known = [
            "authority",
            "method",
            "path",
            "protocol",
            "scheme",
            "status",
        ];
        return known.iter().any(|known| known.as_bytes() == pseudo);
    }
    http::HeaderName::from_lowercase(name).is_ok()
}

/// Says whether a field of this name may have this value.
fn is_value(name: &[u8], value: &[u8]) -> bool {
    match name {
        b":method" => http::Method::from_bytes(value).is_ok(),
        b":status" => http::StatusCode::from_bytes(value).is_ok(),
        [b':', ..] => std::str::from_utf8(value).is_ok(),
        _ => http::HeaderValue::from_bytes(value).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_undecodable(block: &[u8]) -> bool {
        let mut blocks = Blocks::default();
        blocks.begin(HEADERS, END_HEADERS);
        blocks.extend(block);
        blocks.are_undecodable()
    }

    #[test]
    fn what_cannot_be_decoded_is_told_from_what_may_not_be_said() {
        let coded =
            |text: &[u8]| [&[0x00, 0x80 | u8::try_from(text.len()).unwrap()], text].concat();
        for (block, undecodable) in [
            (&[0x80][..], true),
            (&[0xff], true),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01], true),
            (&[0x00, 0x01, b'a', 0x02, b'b'], true),
            (&[0x00, 0x05, b'a'], true),
            (&[0x82, 0x20], true),
            (&[0x3f, 0xe2, 0x1f], true),
            (&[0x00, 0x01, b'a', 0x81, 0xff], true),
            (&[0x00, 0x01, b'a', 0x81, 0x00], true),
            (&[0xc6], true),
            (&[0x7f, 0x07, 0x01, b'a'], true),
            (&[0x3f, 0xe1, 0x1f, 0x82, 0x86, 0x84], false),
            (&[0x00, 0x01, b'A', 0x01, b'b'], false),
            (&[0x00, 0x00, 0x00], false),
            (&[0x40, 0x01, b'a', 0x01, 0x00], false),
            (&[0x00, 0x05, b':', b't', b'e', b's', b't', 0x00], false),
            (&[0x42, 0x02, b'G', b' '], false),
            (&[0x48, 0x01, b'2'], false),
            (&[0x44, 0x01, 0xff], false),
            // What comes first counts.
            (&[0x00, 0x01, b'A', 0x00, 0x80], false),
            (&[0xbe, 0x00, 0x01, b'A', 0x00], false),
        ] {
            assert_eq!(is_undecodable(block), undecodable, "{block:x?}");
        }
        // "custom-key", and the same with an upper-case A in front.
        let key = [0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
        assert_eq!(decode(&key), Ok(b"custom-key".to_vec()));
        assert!(is_undecodable(&[coded(&key), vec![0x01]].concat()));
        assert!(!is_undecodable(&[coded(&[0x87]), vec![0x00]].concat()), "A");
    }

    #[test]
    fn every_symbol_has_one_code() {
        let mut seen = std::collections::BTreeSet::new();
        let mut code = 0_u32;
        for (bits, count) in CODES.iter().enumerate() {
            for place in 0..*count {
                let found = symbol(code + place, bits);
                assert!(seen.insert(found.unwrap()), "{found:?}");
            }
            assert_eq!(symbol(code + count, bits), None, "{bits}");
            code = (code + count) << 1;
        }
        assert_eq!(seen.len(), 257);
    }

    #[test]
    fn padding_priority_and_parts_do_not_count() {
        let mut blocks = Blocks::default();
        blocks.begin(HEADERS, PADDED | PRIORITY);
        blocks.extend(&[2, 0, 0]);
        blocks.extend(&[0, 0, 9, 0x82, 0x7f, 0, 0]);
        blocks.begin(super::super::CONTINUATION, END_HEADERS);
        blocks.forget(false);
        assert!(blocks.are_undecodable(), "what is there is enough");
        blocks.extend(&[0x07, 0x01]);
        assert!(blocks.are_undecodable());
        blocks.extend(b"A");
        assert!(
            blocks.are_undecodable(),
            "nothing else can be wrong with it"
        );
        blocks.begin(HEADERS, END_HEADERS);
        blocks.extend(&[0x82]);
        blocks.forget(false);
        assert!(!blocks.are_undecodable(), "the first was fine");
        blocks.forget(true);
        assert!(blocks.bytes.is_empty() && blocks.parts.is_empty());
    }

    #[test]
    fn a_block_without_its_end_is_judged_by_what_is_there() {
        for (block, undecodable) in [
            (&[0x82, 0x80][..], true),
            (&[0x82, 0xc6], true),
            (&[0x82, 0x00, 0x01, b'A', 0x00], false),
            (&[0x82, 0x00, 0x05, b'a'], false),
            (&[0x82], false),
        ] {
            let mut blocks = Blocks::default();
            blocks.begin(HEADERS, 0);
            blocks.extend(block);
            assert_eq!(blocks.are_undecodable(), undecodable, "{block:x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_blocks_are_too_strange(
            parts in proptest::collection::vec(
                (0_u8.., 0_u8.., proptest::collection::vec(0_u8.., 0..60)), 0..6)
        ) {
            let mut blocks = Blocks::default();
            for (kind, flags, bytes) in parts {
                blocks.begin(if kind % 2 == 0 { HEADERS } else { super::super::CONTINUATION }, flags);
                blocks.extend(&bytes);
                blocks.are_undecodable();
                blocks.forget(kind % 3 == 0);
            }
        }
    }
}
