//! Reads the server name that a client of TLS asks for, from its first bytes.
//!
//! Nothing is decrypted or changed: the bytes are looked at on their way through. Names
//! are whatever the client writes, so they are escaped before they are recorded.

use std::fmt::Write as _;

/// Most bytes that are looked at; hellos with post-quantum keys have about 2 KiB.
pub(crate) const HELLO_BYTES_MAX: usize = 16 << 10;

/// Longest name that is recorded, in bytes: no host name is longer.
const NAME_BYTES_MAX: usize = 255;

/// Longest fragment of a record (RFC 8446, 5.1).
const FRAGMENT_BYTES_MAX: usize = 1 << 14;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// The begin of a client hello, as far as one can tell.
    Partial,
    /// No client hello of TLS, or a malformed one.
    Not,
    /// A client hello, with the server name in escaped form.
    Whole(Option<String>),
}

/// Looks at all bytes that a client sent so far.
pub(crate) fn read(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        match record(rest) {
            Step::Whole(fragment, after) => {
                // Almost always the one record holds the whole message.
                if message.is_empty() {
                    match hello(fragment) {
                        Step::More => {}
                        other => return told(other),
                    }
                }
                message.extend_from_slice(fragment);
                match hello(&message) {
                    Step::More => rest = after,
                    other => return told(other),
                }
            }
            Step::More if bytes.len() < HELLO_BYTES_MAX => return Hello::Partial,
            Step::More | Step::Wrong => return Hello::Not,
        }
    }
}

enum Step<'a> {
    /// Not all there yet.
    More,
    Wrong,
    /// What was looked for, and what follows it.
    Whole(&'a [u8], &'a [u8]),
}

fn told(step: Step<'_>) -> Hello {
    match step {
        Step::Whole(body, _) => match parse(body) {
            Some(name) => Hello::Whole(name.map(escape)),
            None => Hello::Not,
        },
        Step::More => Hello::Partial,
        Step::Wrong => Hello::Not,
    }
}

/// Takes a record of the handshake: type 22, major version 3.
fn record(bytes: &[u8]) -> Step<'_> {
    match bytes {
        [kind, ..] if *kind != 22 => Step::Wrong,
        [_, major, ..] if *major != 3 => Step::Wrong,
        [_, _, _, high, low, rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length == 0 || length > FRAGMENT_BYTES_MAX {
                return Step::Wrong;
            }
            match rest.split_at_checked(length) {
                Some((fragment, after)) => Step::Whole(fragment, after),
                None => Step::More,
            }
        }
        _ => Step::More,
    }
}

/// Takes the client hello, message 1, out of what the records hold.
fn hello(message: &[u8]) -> Step<'_> {
    match message {
        [kind, ..] if *kind != 1 => Step::Wrong,
        [_, a, b, c, rest @ ..] => {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > HELLO_BYTES_MAX {
                return Step::Wrong;
            }
            match rest.split_at_checked(length) {
                Some((body, after)) => Step::Whole(body, after),
                None => Step::More,
            }
        }
        _ => Step::More,
    }
}

/// Reads the body of a client hello. None if it is malformed.
fn parse(body: &[u8]) -> Option<Option<&[u8]>> {
    let (version_and_random, rest) = body.split_at_checked(34)?;
    if version_and_random[0] != 3 {
        return None;
    }
    let (session, rest) = sized::<1>(rest)?;
    let (suites, rest) = sized::<2>(rest)?;
    let (compressions, rest) = sized::<1>(rest)?;
    let suited = suites.len() >= 2 && suites.len().is_multiple_of(2);
    if session.len() > 32 || !suited || compressions.is_empty() {
        return None;
    }
    if rest.is_empty() {
        return Some(None);
    }
    let (mut extensions, []) = sized::<2>(rest)? else {
        return None;
    };
    let mut name = None;
    while !extensions.is_empty() {
        let (kind, rest) = extensions.split_first_chunk::<2>()?;
        let (data, rest) = sized::<2>(rest)?;
        if *kind == [0, 0] {
            if name.is_some() {
                return None;
            }
            name = Some(host_name(data)?);
        }
        extensions = rest;
    }
    Some(name)
}

/// Reads the extension `server_name`: a list that holds one name, of kind 0.
fn host_name(data: &[u8]) -> Option<&[u8]> {
    let (list, []) = sized::<2>(data)? else {
        return None;
    };
    let (0, list) = list.split_first()? else {
        return None;
    };
    let (name, []) = sized::<2>(list)? else {
        return None;
    };
    (!name.is_empty()).then_some(name)
}

/// Takes bytes that come after their length in `N` bytes.
fn sized<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    let length = length
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}

/// Returns a name as text: what is not a visible character of ASCII, as `\xNN`.
fn escape(name: &[u8]) -> String {
    let name = &name[..name.len().min(NAME_BYTES_MAX)];
    let mut out = String::with_capacity(name.len());
    for byte in name {
        if byte.is_ascii_graphic() && *byte != b'\\' {
            out.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_length(bytes: usize, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[4 - bytes..], content].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &with_length(2, data)].concat()
    }

    fn server_name(name: &[u8]) -> Vec<u8> {
        let entry = [&[0][..], &with_length(2, name)].concat();
        extension(0, &with_length(2, &entry))
    }

    /// The message of a hello with these extensions.
    fn message(extensions: &[u8]) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &with_length(1, &[9; 32]),
            &with_length(2, &[0x13, 0x01, 0x13, 0x02]),
            &with_length(1, &[0]),
            &with_length(2, extensions),
        ]
        .concat();
        [&[1][..], &with_length(3, &body)].concat()
    }

    /// A message in records of `each` bytes.
    fn records(message: &[u8], each: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[22, 3, 1][..], &with_length(2, part)].concat();
        message.chunks(each).flat_map(record).collect()
    }

    fn named(name: &str) -> Hello {
        Hello::Whole(Some(name.to_owned()))
    }

    #[test]
    fn names_are_found_however_the_hello_is_cut() {
        let extensions = [
            extension(10, &[0; 4]),
            server_name(b"db.example"),
            extension(51, &[5; 1_200]),
        ]
        .concat();
        let message = message(&extensions);
        for each in [1, 3, 100, message.len()] {
            let bytes = records(&message, each);
            assert_eq!(read(&bytes), named("db.example"), "records of {each}");
            for length in [0, 1, 5, 6, 50, bytes.len() - 1] {
                assert_eq!(read(&bytes[..length]), Hello::Partial, "{each} {length}");
            }
            let followed = [bytes.as_slice(), b"\x14\x03\x03\x00\x01\x01"].concat();
            assert_eq!(read(&followed), named("db.example"));
        }
    }

    #[test]
    fn names_are_shown_whatever_bytes_they_have() {
        let check = |name: &[u8], expected: &str| {
            let bytes = records(&message(&server_name(name)), 1 << 14);
            assert_eq!(read(&bytes), named(expected));
        };
        check(b"a\nb\x1b[31m\\ \xff", r"a\x0ab\x1b[31m\x5c\x20\xff");
        check(&[b'x'; 300], &"x".repeat(255));
        let none = records(&message(&extension(10, &[])), 1 << 14);
        assert_eq!(read(&none), Hello::Whole(None));
    }

    #[test]
    fn malformed_hellos_have_no_name() {
        let check = |what: &str, bytes: &[u8]| assert_eq!(read(bytes), Hello::Not, "{what}");
        let whole = |extensions: &[u8]| records(&message(extensions), 1 << 14);
        check("text", b"GET / HTTP/1.1\r\n");
        check("another record", b"\x17\x03\x03\x00\x01a");
        check("an empty record", b"\x16\x03\x01\x00\x00");
        check("a huge record", b"\x16\x03\x01\x40\x01");
        check("another message", &records(b"\x02\x00\x00\x00", 10));
        check("a huge message", &records(b"\x01\xff\xff\xff", 10));
        let twice = [server_name(b"a"), server_name(b"b")].concat();
        check("two names", &whole(&twice));
        check("an empty name", &whole(&server_name(b"")));
        check("no list", &whole(&extension(0, &[])));
        let kind = with_length(2, &[1, 0, 1, b'a']);
        check("another kind of name", &whole(&extension(0, &kind)));
        let long = extension(0, &[0, 9, 0, 0, 1, b'a']);
        check("a list that is cut", &whole(&long));
        let mut odd = message(&server_name(b"a"));
        odd[3] -= 1;
        check("a body that is cut", &records(&odd, 1 << 14));
        let endless = records(&message(&extension(51, &[0; 20_000])), 1 << 13);
        check("a hello without end", &endless[..HELLO_BYTES_MAX]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            at in 0usize..200,
            value: u8,
        ) {
            let _ = read(&bytes);
            let _ = read(&records(&bytes, 50));
            let _ = parse(&bytes);
            let mut good = records(&message(&server_name(b"db.example")), 60);
            let at = at % good.len();
            good[at] = value;
            let _ = read(&good);
        }
    }
}
