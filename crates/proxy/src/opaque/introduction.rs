//! What two proxies of ours tell each other before the bytes of an opaque connection.
//!
//! An outbound proxy introduces a connection to a meshed endpoint: which connection it is
//! and who calls, as `whodunit-id` and `whodunit-from` do for a request. The inbound proxy
//! takes the introduction out and answers it, unless the application spoke before it came:
//! whether there is a connection to the application, and if not, why, as `whodunit-cause`
//! and `whodunit-origin` do.
//!
//! ```text
//! introduction: magic (8) | version (1) | flags (1) | length (2, big-endian) | body
//!   body:       start µs (8, big-endian) | boot (8) | counter (4) | caller, as in whodunit-from
//! answer:       magic (8) | version (1) | cause (1) | origin (1)
//! ```
//!
//! No protocol begins with the magic: its first byte is no text, no record of TLS, and as
//! a length it would be negative or absurd.

use whodunit_model::id::{BootId, RequestId};
use whodunit_model::{Cause, Origin};

use crate::call::Fault;

/// What an introduction begins with.
pub(crate) const MAGIC: [u8; 8] = *b"\x89WDI\r\n\x1a\n";

/// What an answer begins with.
const ANSWER_MAGIC: [u8; 8] = *b"\x89WDA\r\n\x1a\n";

/// The only version there is.
const VERSION: u8 = 1;

/// Nobody has spoken yet: the connection may turn out not to be needed.
const UNDECIDED: u8 = 1;

/// Bytes before the body.
const HEAD_BYTES: usize = 12;

/// Bytes of the id.
const ID_BYTES: usize = 20;

/// Longest caller, in bytes, as in the header of the same meaning.
const CALLER_BYTES_MAX: usize = 1_024;

/// Longest introduction.
pub(crate) const INTRODUCTION_BYTES_MAX: usize = HEAD_BYTES + ID_BYTES + CALLER_BYTES_MAX;

/// Bytes of an answer.
pub(crate) const ANSWER_BYTES: usize = 11;

/// What the first bytes of a peer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    /// Too few to tell.
    Partial,
    /// Not a proxy of ours: they belong to the connection.
    Absent,
    /// This, in that many bytes.
    Whole(T, usize),
    /// A proxy of ours that is not understood, and why.
    Wrong(&'static str),
}

/// What an outbound proxy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Introduction<'a> {
    /// The connection.
    pub(crate) id: RequestId,
    /// Who calls; as text, which may be anything printable.
    pub(crate) caller: &'a str,
    /// Nobody has spoken yet: the connection may turn out not to be needed.
    pub(crate) undecided: bool,
}

impl<'a> Introduction<'a> {
    /// Returns the bytes of an introduction; a caller that is too long is left out.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let caller = match self.caller.len() {
            ..=CALLER_BYTES_MAX => self.caller.as_bytes(),
            _ => b"",
        };
        let length = u16::try_from(ID_BYTES + caller.len()).unwrap_or(0);
        let mut out = Vec::with_capacity(HEAD_BYTES + usize::from(length));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, if self.undecided { UNDECIDED } else { 0 }]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.id.start_us.to_be_bytes());
        out.extend_from_slice(&self.id.boot.0.to_be_bytes());
        out.extend_from_slice(&self.id.n.to_be_bytes());
        out.extend_from_slice(caller);
        out
    }

    /// Reads an introduction from the first bytes of a connection.
    pub(crate) fn parse(bytes: &'a [u8]) -> Parsed<Self> {
        if let Some(undecided) = begins_with(bytes, &MAGIC) {
            return undecided;
        }
        let Some((&[version, flags, high, low], body)) = bytes[MAGIC.len()..].split_first_chunk()
        else {
            return Parsed::Partial;
        };
        if version != VERSION {
            return Parsed::Wrong("the introduction is of a version this proxy does not know");
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        if flags & !UNDECIDED != 0 || !(ID_BYTES..=ID_BYTES + CALLER_BYTES_MAX).contains(&length) {
            return Parsed::Wrong("the introduction says what it must not");
        }
        let Some(body) = body.get(..length) else {
            return Parsed::Partial;
        };
        let Some((start, rest)) = body.split_first_chunk() else {
            return Parsed::Partial;
        };
        let Some((boot, rest)) = rest.split_first_chunk() else {
            return Parsed::Partial;
        };
        let Some((n, caller)) = rest.split_first_chunk() else {
            return Parsed::Partial;
        };
        let start_us = i64::from_be_bytes(*start);
        let caller = str::from_utf8(caller).ok();
        let printable = |text: &&str| text.bytes().all(|b| b.is_ascii_graphic());
        let (Some(caller), 0..) = (caller.filter(printable), start_us) else {
            return Parsed::Wrong("the introduction says what it must not");
        };
        let introduction = Self {
            id: RequestId {
                start_us,
                boot: BootId(u64::from_be_bytes(*boot)),
                n: u32::from_be_bytes(*n),
            },
            caller,
            undecided: flags & UNDECIDED != 0,
        };
        Parsed::Whole(introduction, HEAD_BYTES + length)
    }
}

/// Says whether bytes begin with the magic of an introduction; none if there are too few.
pub(crate) fn is_introduction(bytes: &[u8]) -> Option<bool> {
    match begins_with::<()>(bytes, &MAGIC) {
        None => Some(true),
        Some(Parsed::Partial) => None,
        Some(_) => Some(false),
    }
}

/// Returns the bytes of an answer: none says that there is a connection to the application.
pub(crate) fn encode_answer(fault: Option<Fault>) -> [u8; ANSWER_BYTES] {
    let (cause, origin) = match fault {
        Some(fault) => (fault.cause, fault.origin),
        None => (Cause::None, Origin::None),
    };
    let mut out = [0; ANSWER_BYTES];
    out[..8].copy_from_slice(&ANSWER_MAGIC);
    out[8..].copy_from_slice(&[VERSION, cause.number(), origin.number()]);
    out
}

/// Reads an answer from the first bytes that came back.
pub(crate) fn parse_answer(bytes: &[u8]) -> Parsed<Option<Fault>> {
    if let Some(undecided) = begins_with(bytes, &ANSWER_MAGIC) {
        return undecided;
    }
    let Some(&[version, cause, origin]) = bytes[ANSWER_MAGIC.len()..].first_chunk() else {
        return Parsed::Partial;
    };
    if version != VERSION {
        return Parsed::Wrong("the answer is of a version this proxy does not know");
    }
    let fault = match (Cause::from_number(cause), Origin::from_number(origin)) {
        (Some(Cause::None), _) => None,
        (Some(cause), Some(origin)) => Some(Fault { cause, origin }),
        _ => return Parsed::Wrong("the answer says what it must not"),
    };
    Parsed::Whole(fault, ANSWER_BYTES)
}

/// Returns nothing if bytes begin with `magic`, else what that means.
fn begins_with<T>(bytes: &[u8], magic: &[u8; 8]) -> Option<Parsed<T>> {
    if bytes.starts_with(magic) {
        None
    } else if magic.starts_with(bytes) {
        Some(Parsed::Partial)
    } else {
        Some(Parsed::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: RequestId = RequestId {
        start_us: 1_700_000_000_000_000,
        boot: BootId(0x9f3a_1b2c_4d5e_6f70),
        n: 31,
    };

    fn introduction(caller: &str) -> Introduction<'_> {
        Introduction {
            id: ID,
            caller,
            undecided: false,
        }
    }

    #[test]
    fn every_part_of_an_introduction_asks_for_more() {
        let bytes = introduction("shop/web/web-0/v1").encode();
        for length in 0..bytes.len() {
            assert_eq!(Introduction::parse(&bytes[..length]), Parsed::Partial);
        }
        let whole = Parsed::Whole(introduction("shop/web/web-0/v1"), bytes.len());
        assert_eq!(Introduction::parse(&bytes), whole);
        let followed = [bytes.as_slice(), b"\x89WDI\r\n\x1a\n more"].concat();
        assert_eq!(Introduction::parse(&followed), whole);
    }

    #[test]
    fn what_is_not_understood_is_wrong_and_what_is_not_ours_is_absent() {
        let good = introduction("a/b/c/d").encode();
        for (position, value) in [(8, 2), (9, 2), (10, 0xff), (11, 19), (12, 0x80), (33, 0x07)] {
            let mut bytes = good.clone();
            bytes[position] = value;
            let parsed = Introduction::parse(&bytes);
            assert!(matches!(parsed, Parsed::Wrong(_)), "{position}: {parsed:?}");
        }
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"*1\r\n",
            b"\x89PNG",
            b"\0\0\0\x08",
        ] {
            assert_eq!(Introduction::parse(other), Parsed::Absent);
            assert_eq!(parse_answer(other), Parsed::Absent);
        }
    }

    #[test]
    fn answers_tell_why() {
        let fault = Fault {
            cause: Cause::ConnectRefused,
            origin: Origin::Server,
        };
        for said in [None, Some(fault)] {
            let bytes = encode_answer(said);
            assert_eq!(parse_answer(&bytes), Parsed::Whole(said, ANSWER_BYTES));
            for length in 0..bytes.len() {
                assert_eq!(parse_answer(&bytes[..length]), Parsed::Partial);
            }
        }
        let mut bytes = encode_answer(Some(fault));
        bytes[9] = 255;
        assert!(matches!(parse_answer(&bytes), Parsed::Wrong(_)));
    }

    proptest! {
        #[test]
        fn introductions_round_trip(
            start_us in 0i64..,
            boot: u64,
            n: u32,
            caller in "[!-~]{0,1024}",
            undecided: bool,
        ) {
            let id = RequestId { start_us, boot: BootId(boot), n };
            let said = Introduction { id, caller: &caller, undecided };
            let bytes = said.encode();
            prop_assert!(bytes.len() <= INTRODUCTION_BYTES_MAX);
            prop_assert_eq!(Introduction::parse(&bytes), Parsed::Whole(said, bytes.len()));
        }

        #[test]
        fn no_bytes_panic(tail in prop::collection::vec(any::<u8>(), 0..1_200), ours: bool) {
            let magic = if ours { &MAGIC[..] } else { &ANSWER_MAGIC };
            let bytes = [magic, &tail].concat();
            let _ = Introduction::parse(&bytes);
            let _ = parse_answer(&bytes);
            let _ = Introduction::parse(&tail);
        }
    }
}
