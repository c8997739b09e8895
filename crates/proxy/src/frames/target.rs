//! Finds a fragment in the path of a request before it is lost.
//!
//! The `http` crate cuts a path at its `#` without a word, so that a request would be judged
//! by one path, and forwarded to another than its client asked for. No request has a fragment
//! (RFC 9110 §4.2.5), so such a `#` is changed into a `>`, which the crate refuses. The two
//! have Huffman codes of the same length, so nothing else moves.
//!
//! Only the fields before the path are walked over, and nothing is decoded but a path whose
//! bits look like it. Entries of the dynamic table were literals once and were changed then.

use super::fields::CODES;

/// Most fields before which the path has to be: method, scheme and authority.
const FIELDS_MAX: u8 = 4;

/// `:path` as text, and Huffman-coded.
const NAME: &[u8] = b":path";
const NAME_CODED: &[u8] = &[0xb9, 0x58, 0xd3, 0x3f];

/// Entries of the static table.
const STATIC_MAX: u32 = 61;
const STATIC_PATHS: [u32; 2] = [4, 5];

/// The code of `#`, its length in bits, and the code of `>`.
const FRAGMENT: u32 = 0xffa;
const FRAGMENT_BITS: u32 = 12;
#[cfg(test)]
const OTHER: u32 = 0xffb;

/// What is known of a field by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Path,
    /// The name is in the dynamic table.
    Perhaps,
    Other,
}

/// What comes next in a block of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Field,
    /// More of an index or a size: what it is for, its value so far, and the next shift.
    Number(Number, u32, u32),
    NameLength,
    Name {
        left: u32,
        coded: bool,
    },
    ValueLength(Field),
    Value {
        field: Field,
        left: u32,
        coded: bool,
    },
    /// Nothing that matters here.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Indexed,
    NameIndex,
    TableSize,
    NameLength { coded: bool },
    ValueLength { field: Field, coded: bool },
}

/// Looks through the blocks of fields that open streams.
#[derive(Debug)]
pub(super) struct Target {
    next: Next,
    fields: u8,
    /// What is there of a name.
    name: [u8; 5],
    name_bytes: usize,
    /// The first byte of a value was looked at, and it begins as paths do.
    begins: Option<bool>,
    /// Bits of a symbol that is not complete.
    code: u32,
    code_bits: u32,
    is_violation: bool,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            next: Next::Nothing,
            fields: 0,
            name: [0; 5],
            name_bytes: 0,
            begins: None,
            code: 0,
            code_bits: 0,
            is_violation: false,
        }
    }
}

impl Target {
    /// Begins with a block.
    pub(super) const fn begin(&mut self) {
        self.next = Next::Field;
        self.fields = 0;
    }

    /// Says whether the path is still to come.
    pub(super) const fn is_looking(&self) -> bool {
        !matches!(self.next, Next::Nothing)
    }

    /// Says whether there was what may be a fragment, where it cannot be changed.
    pub(super) const fn is_violation(&self) -> bool {
        self.is_violation
    }

    /// Takes the next bytes of a block.
    pub(super) fn read(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() && self.is_looking() {
            match self.next {
                Next::Name { left, coded } => {
                    at += self.read_name(&bytes[at..], left, coded);
                }
                Next::Value { field, left, coded } => {
                    let count = (left as usize).min(bytes.len() - at);
                    self.look(&mut bytes[at..at + count], field, left, coded);
                    at += count;
                    // At most `left`.
                    let left = left - u32::try_from(count).unwrap_or(left);
                    self.next = Next::Value { field, left, coded };
                    if left == 0 {
                        self.end_of_field(field);
                    }
                }
                _ => {
                    self.step(bytes[at]);
                    at += 1;
                }
            }
        }
    }

    fn step(&mut self, byte: u8) {
        let number = |number, prefix: u8| {
            let most = (1_u8 << prefix) - 1;
            (number, u32::from(byte & most), byte & most == most)
        };
        let (number, value, more) = match self.next {
            Next::Field if byte & 0x80 != 0 => number(Number::Indexed, 7),
            Next::Field if byte & 0xc0 == 0x40 => number(Number::NameIndex, 6),
            Next::Field if byte & 0xe0 == 0x20 => number(Number::TableSize, 5),
            Next::Field => number(Number::NameIndex, 4),
            Next::NameLength => {
                let coded = byte & 0x80 != 0;
                number(Number::NameLength { coded }, 7)
            }
            Next::ValueLength(field) => {
                let coded = byte & 0x80 != 0;
                number(Number::ValueLength { field, coded }, 7)
            }
            Next::Number(number, value, shift) => {
                let part = u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                let value = value.saturating_add(part);
                if byte & 0x80 != 0 {
                    // More than five bytes are no number for h2 either.
                    self.next = if shift > 21 {
                        Next::Nothing
                    } else {
                        Next::Number(number, value, shift + 7)
                    };
                    return;
                }
                (number, value, false)
            }
            Next::Name { .. } | Next::Value { .. } | Next::Nothing => return,
        };
        if more {
            self.next = Next::Number(number, value, 0);
        } else {
            self.known(number, value);
        }
    }

    /// Goes on after a number.
    fn known(&mut self, number: Number, value: u32) {
        let by_index = |index: u32| match index {
            index if STATIC_PATHS.contains(&index) => Field::Path,
            index if index > STATIC_MAX => Field::Perhaps,
            _ => Field::Other,
        };
        match number {
            Number::TableSize => self.next = Next::Field,
            Number::Indexed => self.end_of_field(match by_index(value) {
                // It is none that has to be looked at; whether it is the path is not known.
                Field::Perhaps => Field::Other,
                known => known,
            }),
            Number::NameIndex if value == 0 => self.next = Next::NameLength,
            Number::NameIndex => self.next = Next::ValueLength(by_index(value)),
            Number::NameLength { coded } => {
                self.name_bytes = 0;
                self.next = Next::Name { left: value, coded };
                if value == 0 {
                    self.next = Next::ValueLength(Field::Other);
                }
            }
            Number::ValueLength { field, coded } => {
                (self.begins, self.code, self.code_bits) = (None, 0, 0);
                self.next = Next::Value {
                    field,
                    left: value,
                    coded,
                };
                if value == 0 {
                    self.end_of_field(field);
                }
            }
        }
    }

    fn read_name(&mut self, bytes: &[u8], left: u32, coded: bool) -> usize {
        let count = (left as usize).min(bytes.len());
        for byte in &bytes[..count] {
            if let Some(place) = self.name.get_mut(self.name_bytes) {
                *place = *byte;
            }
            self.name_bytes += 1;
        }
        // At most `left`.
        let left = left - u32::try_from(count).unwrap_or(left);
        self.next = Next::Name { left, coded };
        if left == 0 {
            let name = self.name.get(..self.name_bytes).unwrap_or_default();
            let field = if name == if coded { NAME_CODED } else { NAME } {
                Field::Path
            } else {
                Field::Other
            };
            self.next = Next::ValueLength(field);
        }
        count
    }

    fn end_of_field(&mut self, field: Field) {
        self.fields += 1;
        self.next = if field == Field::Path || self.fields == FIELDS_MAX {
            Next::Nothing
        } else {
            Next::Field
        };
    }

    /// Looks for a fragment in a piece of a value of which `left` bytes are to come.
    fn look(&mut self, piece: &mut [u8], field: Field, left: u32, coded: bool) {
        let Some(first) = piece.first().copied().filter(|_| field != Field::Other) else {
            return;
        };
        let begins = *self.begins.get_or_insert(if coded {
            // `/` has the code 011000; that of `#` begins with ones.
            first >> 2 == 0x18 || first == 0xff
        } else {
            matches!(first, b'/' | b'#')
        });
        // A field that only may be the path, and does not begin as one, is none.
        if field == Field::Perhaps && !begins {
            return;
        }
        let found = if coded {
            let whole = self.code_bits == 0 && piece.len() == left as usize;
            if whole && !has_long_run(piece) {
                return;
            }
            self.decode(piece, field == Field::Path)
        } else {
            let mut found = false;
            for byte in piece.iter_mut().filter(|byte| **byte == b'#') {
                found = true;
                if field == Field::Path {
                    *byte = b'>';
                }
            }
            found
        };
        self.is_violation |= found && field == Field::Perhaps;
    }

    /// Reads symbol after symbol; says whether one is `#`.
    fn decode(&mut self, piece: &mut [u8], change: bool) -> bool {
        let mut found = false;
        for byte in piece {
            for shift in (0..8).rev() {
                self.code = self.code << 1 | u32::from(*byte >> shift & 1);
                self.code_bits += 1;
                if !is_symbol(self.code, self.code_bits) {
                    continue;
                }
                if (self.code, self.code_bits) == (FRAGMENT, FRAGMENT_BITS) {
                    found = true;
                    if change {
                        *byte |= 1 << shift;
                    }
                }
                (self.code, self.code_bits) = (0, 0);
            }
        }
        found
    }
}

/// Says whether there are nine ones in a row, with which the code of `#` begins.
fn has_long_run(bytes: &[u8]) -> bool {
    let pairs = bytes.windows(2);
    let mut runs = pairs.map(|pair| pair[0].trailing_ones() + pair[1].leading_ones());
    bytes.contains(&0xff) || runs.any(|run| run >= 9)
}

/// Says whether bits are a whole symbol.
fn is_symbol(code: u32, bits: u32) -> bool {
    let mut first = 0_u32;
    for (length, count) in (0_u32..).zip(CODES) {
        first <<= 1;
        if length == bits {
            return code < first + count;
        }
        first += count;
    }
    // Longer than any: h2 refuses it.
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Huffman-codes the few characters that these tests need.
    fn code(text: &str) -> Vec<u8> {
        let mut bits = String::new();
        for c in text.chars() {
            bits += match c {
                '/' => "011000",
                'a' => "00011",
                'b' => "100011",
                '?' => "1111111100",
                '#' => "111111111010",
                '>' => "111111111011",
                'Z' => "11111101",
                '"' => "1111111001",
                '\'' => "11111111010",
                _ => panic!("{c}"),
            };
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let bytes = bits.as_bytes().chunks(8);
        bytes
            .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0')))
            .collect()
    }

    fn literal(head: &[u8], coded: bool, text: &str) -> Vec<u8> {
        let value = if coded {
            code(text)
        } else {
            text.as_bytes().to_vec()
        };
        let mut bytes = head.to_vec();
        bytes.push(u8::from(coded) << 7 | u8::try_from(value.len()).unwrap());
        bytes.extend(value);
        bytes
    }

    #[track_caller]
    fn check(before: &[u8], expected: &[u8], violation: bool) {
        for size in 1..=before.len() {
            let mut target = Target::default();
            target.begin();
            let mut bytes = before.to_vec();
            for piece in bytes.chunks_mut(size) {
                target.read(piece);
            }
            assert_eq!(bytes, expected, "pieces of {size}");
            assert_eq!(target.is_violation(), violation);
        }
    }

    #[test]
    fn a_fragment_of_the_path_is_made_to_be_refused() {
        let coded_name = [&[0x00, 0x84], NAME_CODED].concat();
        let plain_name = [&[0x40, 0x05], NAME].concat();
        let names = [
            &[0x04][..],
            &[0x44],
            &[0x14],
            &[0x45],
            &coded_name,
            &plain_name,
        ];
        for name in names {
            for coded in [false, true] {
                for (path, changed) in [
                    ("/a#b", "/a>b"),
                    ("#", ">"),
                    ("/", "/"),
                    ("/?a#", "/?a>"),
                    ("/##", "/>>"),
                    ("/Z\"'a?b", "/Z\"'a?b"),
                    ("/Z#Z'#", "/Z>Z'>"),
                    ("", ""),
                ] {
                    for before in [&[0x82, 0x86][..], &[], &[0x3f, 0xe1, 0x1f, 0x82, 0xbe]] {
                        let bytes = [before, &literal(name, coded, path)].concat();
                        let expected = [before, &literal(name, coded, changed)].concat();
                        check(&bytes, &expected, false);
                    }
                }
            }
        }
    }

    #[test]
    fn other_fields_stay_as_they_are() {
        for coded in [false, true] {
            let authority = literal(&[0x41], coded, "/a#b");
            let literal_name = literal(&[0x00, 0x01, b'a'], coded, "/a#b");
            let path = literal(&[0x04], coded, "/a");
            let late = literal(&[0x04], coded, "/a#b");
            for bytes in [
                [&[0x82][..], &authority, &path].concat(),
                [&[0x82, 0x86][..], &literal_name, &path].concat(),
                [&[0x82, 0x86, 0x84][..], &late].concat(),
                [&[0x82, 0x86, 0xbe, 0xbf][..], &late].concat(),
            ] {
                check(&bytes, &bytes, false);
            }
        }
    }

    #[test]
    fn a_name_that_is_not_known_counts_when_it_may_be_the_path() {
        for coded in [false, true] {
            let perhaps = literal(&[0x0f, 0x2f], coded, "/a#b");
            check(&perhaps, &perhaps, true);
            let other = literal(&[0x7f, 0x00], coded, "a#b");
            check(&other, &other, false);
            let without = literal(&[0x7f, 0x00], coded, "/ab");
            check(&without, &without, false);
        }
    }

    #[test]
    fn the_codes_are_those_of_the_table() {
        for (code, bits) in [
            (0x0, 5),
            (0x9, 5),
            (0x14, 6),
            (0x2d, 6),
            (0x5c, 7),
            (0xf8, 8),
            (0x3f8, 10),
            (0x7fa, 11),
            (FRAGMENT, FRAGMENT_BITS),
            (OTHER, FRAGMENT_BITS),
            (0x1ff8, 13),
            (0x7fff0, 19),
            (0x3fff_ffff, 30),
        ] {
            assert!(is_symbol(code, bits), "{code:x}");
            assert!(!is_symbol(code >> 1, bits - 1), "{code:x}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_strange(mut bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let mut target = Target::default();
            target.begin();
            target.read(&mut bytes);
        }
    }
}
