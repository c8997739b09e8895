//! Parsers as lax as back ends have been, to see whether they agree on what we wrote.

/// Which of several lengths counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    First,
    Last,
}

/// The habits of one back end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Lines may end in a bare LF.
    bare_lf: bool,
    /// A bare CR ends a line too.
    bare_cr: bool,
    /// Lines that begin with a blank go on with the field before.
    joins_folds: bool,
    /// `Name :` is taken for `Name`.
    trims_names: bool,
    /// `_` in names counts as `-`.
    underscores: bool,
    /// `Transfer-Encoding` wins over `Content-Length`.
    chunked_wins: bool,
    /// Any value that contains `chunked` is chunked.
    contains_chunked: bool,
    /// Which `Content-Length` counts.
    length: Length,
    /// Numbers are read as far as they go, after a sign or `0x`.
    loose_numbers: bool,
}

const STRICT: Habits = Habits {
    bare_lf: false,
    bare_cr: false,
    joins_folds: false,
    trims_names: false,
    underscores: false,
    chunked_wins: true,
    contains_chunked: false,
    length: Length::First,
    loose_numbers: false,
};

/// Back ends as there have been.
pub(crate) const ALL: [Habits; 9] = [
    STRICT,
    Habits {
        chunked_wins: false,
        ..STRICT
    },
    Habits {
        length: Length::Last,
        chunked_wins: false,
        ..STRICT
    },
    Habits {
        contains_chunked: true,
        trims_names: true,
        ..STRICT
    },
    Habits {
        bare_lf: true,
        ..STRICT
    },
    Habits {
        bare_lf: true,
        bare_cr: true,
        loose_numbers: true,
        ..STRICT
    },
    Habits {
        joins_folds: true,
        contains_chunked: true,
        ..STRICT
    },
    Habits {
        underscores: true,
        trims_names: true,
        bare_lf: true,
        ..STRICT
    },
    Habits {
        loose_numbers: true,
        length: Length::Last,
        underscores: true,
        ..STRICT
    },
];

/// A request as one of them reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) line: String,
    pub(crate) host: Vec<String>,
    pub(crate) body: Vec<u8>,
}

/// Reads all complete requests of a connection, and what is left behind them.
pub(crate) fn read(mut bytes: &[u8], habits: Habits) -> (Vec<Message>, usize) {
    let mut messages = Vec::new();
    while let Some((message, used)) = message(bytes, habits) {
        messages.push(message);
        bytes = &bytes[used..];
    }
    (messages, bytes.len())
}

fn message(bytes: &[u8], habits: Habits) -> Option<(Message, usize)> {
    let mut at = 0;
    let mut lines: Vec<Vec<u8>> = Vec::new();
    loop {
        let (line, used) = line(&bytes[at..], habits)?;
        at += used;
        if line.is_empty() {
            if lines.is_empty() {
                continue;
            }
            break;
        }
        let folded = matches!(line[0], b' ' | b'\t') && !lines.is_empty();
        match lines.last_mut().filter(|_| folded && habits.joins_folds) {
            Some(last) => last.extend_from_slice(&line),
            None => lines.push(line),
        }
    }
    let fields = || lines[1..].iter().filter_map(|line| field(line, habits));
    let values = |wanted: &str| -> Vec<String> {
        fields()
            .filter(|(name, _)| name == wanted)
            .map(|(_, value)| value)
            .collect()
    };
    let lengths = values("content-length");
    let length = match habits.length {
        Length::First => lengths.first(),
        Length::Last => lengths.last(),
    };
    let length = length.and_then(|text| number(text, 10, habits));
    let chunked = values("transfer-encoding").iter().any(|value| {
        let value = value.to_lowercase();
        value == "chunked" || (habits.contains_chunked && value.contains("chunked"))
    });
    let mut body = Vec::new();
    if chunked && (habits.chunked_wins || length.is_none()) {
        at += chunks(&bytes[at..], habits, &mut body)?;
    } else if let Some(length) = length {
        body = bytes.get(at..at + length)?.to_vec();
        at += length;
    }
    let message = Message {
        line: String::from_utf8_lossy(&lines[0]).into_owned(),
        host: values("host"),
        body,
    };
    Some((message, at))
}

fn line(bytes: &[u8], habits: Habits) -> Option<(Vec<u8>, usize)> {
    for (i, byte) in bytes.iter().enumerate() {
        let next = bytes.get(i + 1);
        match byte {
            b'\r' if next == Some(&b'\n') => return Some((bytes[..i].to_vec(), i + 2)),
            b'\r' if habits.bare_cr => return Some((bytes[..i].to_vec(), i + 1)),
            b'\n' if habits.bare_lf => return Some((bytes[..i].to_vec(), i + 1)),
            _ => {}
        }
    }
    None
}

fn field(line: &[u8], habits: Habits) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(line).into_owned();
    let (name, value) = text.split_once(':')?;
    let mut name = name.to_lowercase();
    if habits.trims_names {
        name = name.trim().to_owned();
    }
    if habits.underscores {
        name = name.replace('_', "-");
    }
    Some((name, value.trim().to_owned()))
}

fn number(text: &str, radix: u32, habits: Habits) -> Option<usize> {
    if !habits.loose_numbers {
        return usize::from_str_radix(text, radix).ok();
    }
    let text = text.trim_start().trim_start_matches('+');
    let text = text.strip_prefix("0x").unwrap_or(text);
    let end = text
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(text.len());
    usize::from_str_radix(&text[..end], radix).ok()
}

fn chunks(bytes: &[u8], habits: Habits, body: &mut Vec<u8>) -> Option<usize> {
    let mut at = 0;
    loop {
        let (size, used) = line(&bytes[at..], habits)?;
        at += used;
        let size = String::from_utf8_lossy(&size).into_owned();
        let size = size.split(';').next().unwrap_or_default().trim().to_owned();
        let size = number(&size, 16, habits)?;
        if size == 0 {
            loop {
                let (trailer, used) = line(&bytes[at..], habits)?;
                at += used;
                if trailer.is_empty() {
                    return Some(at);
                }
            }
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size;
        let (end, used) = line(&bytes[at..], habits)?;
        if !end.is_empty() {
            return None;
        }
        at += used;
    }
}

/// What all of them read, if they agree.
pub(crate) fn agreed(bytes: &[u8]) -> Result<Vec<Message>, String> {
    let (messages, left) = read(bytes, STRICT);
    for habits in ALL {
        let other = read(bytes, habits);
        if other != (messages.clone(), left) {
            let text = String::from_utf8_lossy(bytes);
            return Err(format!("{habits:?} reads {other:?} in {text:?}"));
        }
    }
    Ok(messages)
}

#[test]
fn the_parsers_do_not_agree_on_what_smuggles() {
    for bytes in [
        &b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2x\r\n\r\nab",
    ] {
        assert!(agreed(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
    }
    let plain = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
    assert_eq!(agreed(plain).unwrap()[0].body, b"ab");
}
