//! How back ends and clients have read HTTP/1, as a space of habits rather than a list.
//!
//! Each habit is one that some implementation had. A model has one of each, so that all that
//! matters about a message is whether every model finds the same ends in the same bytes.

use super::dice::Dice;

/// What ends a line besides CRLF.
#[derive(Clone, Copy, Debug)]
enum LineEnd {
    Crlf,
    Lf,
    /// A lone CR as well.
    Cr,
}

/// What a line is that begins with a blank.
#[derive(Clone, Copy, Debug)]
enum Fold {
    /// More of the value before.
    Joined,
    /// A field like others, its blanks skipped.
    Field,
    /// Nothing.
    Skipped,
}

/// How far the name of a field goes, and what of it counts.
#[derive(Clone, Copy, Debug)]
enum Name {
    Exact,
    Trimmed,
    /// Up to the first byte that no name has.
    Token,
    /// `_` is `-`.
    Underscores,
}

/// Which value means chunked.
#[derive(Clone, Copy, Debug)]
enum Chunked {
    Exact,
    Contains,
    FirstToken,
    LastToken,
    /// Any transfer coding at all.
    Present,
}

/// Which of several fields counts.
#[derive(Clone, Copy, Debug)]
enum Which {
    First,
    Last,
}

/// How numbers are read.
#[derive(Clone, Copy, Debug)]
enum Number {
    Strict,
    /// As C does: blanks, a sign, `0x`, and as far as the digits go.
    Loose,
    /// The same in 32 bits, for chunks: bodies beyond 4 GiB have to get through.
    Short,
}

/// What is read behind the bytes of a chunk.
#[derive(Clone, Copy, Debug)]
enum ChunkEnd {
    /// A line end, or the message is broken.
    Line,
    /// Two bytes, whatever they are.
    Two,
}

/// How one implementation reads messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    line_end: LineEnd,
    fold: Fold,
    name: Name,
    chunked: Chunked,
    coding: Which,
    length: Which,
    number: Number,
    chunk_end: ChunkEnd,
    /// `Content-Length` wins over `Transfer-Encoding`.
    length_wins: bool,
    /// HTTP/1.0 has no `Transfer-Encoding`.
    old_is_plain: bool,
    /// Texts end at a NUL.
    nul_ends: bool,
}

/// The model that keeps to the letter.
pub(crate) const STRICT: Model = Model {
    line_end: LineEnd::Crlf,
    fold: Fold::Joined,
    name: Name::Exact,
    chunked: Chunked::Exact,
    coding: Which::First,
    length: Which::First,
    number: Number::Strict,
    chunk_end: ChunkEnd::Line,
    length_wins: false,
    old_is_plain: false,
    nul_ends: false,
};

/// A message as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) begin: usize,
    pub(crate) end: usize,
    /// The second word of a request, or the status of a response.
    pub(crate) word: String,
    /// The host that counts.
    pub(crate) host: String,
    pub(crate) body: Vec<u8>,
}

/// What is read: requests, or the responses to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Requests,
    Responses,
}

impl Model {
    /// Draws a model.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            line_end: dice.pick(&[LineEnd::Crlf, LineEnd::Lf, LineEnd::Cr]),
            fold: dice.pick(&[Fold::Joined, Fold::Field, Fold::Skipped]),
            name: dice.pick(&[Name::Exact, Name::Trimmed, Name::Token, Name::Underscores]),
            chunked: dice.pick(&[
                Chunked::Exact,
                Chunked::Contains,
                Chunked::FirstToken,
                Chunked::LastToken,
                Chunked::Present,
            ]),
            coding: dice.pick(&[Which::First, Which::Last]),
            length: dice.pick(&[Which::First, Which::Last]),
            number: dice.pick(&[Number::Strict, Number::Loose, Number::Short]),
            chunk_end: dice.pick(&[ChunkEnd::Line, ChunkEnd::Two]),
            length_wins: dice.chance(50),
            old_is_plain: dice.chance(50),
            nul_ends: dice.chance(50),
        }
    }

    /// Reads all whole messages.
    pub(crate) fn read(&self, bytes: &[u8], what: What) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut begin = 0;
        while let Some(message) = self.message(bytes, begin, what) {
            begin = message.end;
            messages.push(message);
        }
        messages
    }

    fn message(&self, bytes: &[u8], begin: usize, what: What) -> Option<Message> {
        let mut at = begin;
        let mut first = self.line(bytes, &mut at)?;
        while first.is_empty() {
            first = self.line(bytes, &mut at)?;
        }
        let mut fields: Vec<(String, String)> = Vec::new();
        loop {
            let line = self.line(bytes, &mut at)?;
            if line.is_empty() {
                break;
            }
            let folded = matches!(line[0], b' ' | b'\t');
            match (self.fold, fields.last_mut()) {
                (Fold::Joined, Some((_, value))) if folded => value.push_str(&text(line)),
                (Fold::Skipped, _) if folded => {}
                _ => fields.extend(self.field(line)),
            }
        }
        let first = text(first);
        let mut words = first.split_ascii_whitespace();
        let word = words.nth(1).unwrap_or_default().to_owned();
        let bodyless =
            what == What::Responses && (word.starts_with('1') || matches!(&*word, "204" | "304"));
        let mut body = Vec::new();
        if !bodyless {
            let old = match what {
                What::Requests => first.ends_with("HTTP/1.0"),
                What::Responses => first.starts_with("HTTP/1.0"),
            };
            let length = self.one(&fields, "content-length", self.length);
            let length = length.and_then(|value| self.number(&value, 10));
            let coding = self.one(&fields, "transfer-encoding", self.coding);
            let chunked = coding.is_some_and(|value| self.is_chunked(&value))
                && !(old && self.old_is_plain)
                && !(self.length_wins && length.is_some());
            if chunked {
                self.chunks(bytes, &mut at, &mut body)?;
            } else if let Some(length) = length {
                body = bytes.get(at..at.checked_add(length)?)?.to_vec();
                at += length;
            } else if what == What::Responses {
                // It goes on to the end of the connection.
                body = bytes[at..].to_vec();
                at = bytes.len();
            }
        }
        Some(Message {
            begin,
            end: at,
            word,
            host: self.one(&fields, "host", self.length).unwrap_or_default(),
            body,
        })
    }

    fn line<'a>(&self, bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
        let rest = &bytes[*at..];
        for (i, byte) in rest.iter().enumerate() {
            let used = match (byte, rest.get(i + 1), self.line_end) {
                (b'\r', Some(b'\n'), _) => 2,
                (b'\n', _, LineEnd::Lf | LineEnd::Cr) | (b'\r', _, LineEnd::Cr) => 1,
                _ => continue,
            };
            *at += i + used;
            return Some(&rest[..i]);
        }
        None
    }

    fn field(&self, line: &[u8]) -> Option<(String, String)> {
        let line = text(line);
        let (name, value) = line.split_once(':')?;
        let mut name = self.cut(name.to_ascii_lowercase());
        match self.name {
            Name::Exact => {}
            Name::Trimmed => name = name.trim().to_owned(),
            Name::Token => {
                let is_token = |c: char| c.is_ascii_alphanumeric() || c == '-';
                let begin = name.trim_start();
                name = begin.chars().take_while(|c| is_token(*c)).collect();
            }
            Name::Underscores => name = name.replace('_', "-"),
        }
        let blanks = [' ', '\t', '\r', '\u{b}', '\u{c}'];
        let value = self.cut(value.trim_matches(blanks).to_owned());
        Some((name, value))
    }

    fn cut(&self, text: String) -> String {
        match text.split_once('\0').filter(|_| self.nul_ends) {
            Some((before, _)) => before.to_owned(),
            None => text,
        }
    }

    fn one(&self, fields: &[(String, String)], wanted: &str, which: Which) -> Option<String> {
        let mut found = fields.iter().filter(|(name, _)| name == wanted);
        let found = match which {
            Which::First => found.next(),
            Which::Last => found.next_back(),
        };
        found.map(|(_, value)| value.clone())
    }

    fn is_chunked(&self, value: &str) -> bool {
        let value = value.to_ascii_lowercase();
        let mut tokens = value.split(',').map(str::trim);
        match self.chunked {
            Chunked::Exact => value == "chunked",
            Chunked::Contains => value.contains("chunked"),
            Chunked::FirstToken => tokens.next() == Some("chunked"),
            Chunked::LastToken => tokens.next_back() == Some("chunked"),
            Chunked::Present => true,
        }
    }

    fn number(&self, text: &str, radix: u32) -> Option<usize> {
        if matches!(self.number, Number::Strict) {
            let digits = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
            return digits.then(|| usize::from_str_radix(text, radix).ok())?;
        }
        let text = text.trim_start();
        let negative = text.starts_with('-');
        let text = text.strip_prefix(['+', '-']).unwrap_or(text);
        let text = match (radix, text.get(..2)) {
            (16, Some("0x" | "0X")) => &text[2..],
            _ => text,
        };
        let mut value = 0_u64;
        for digit in text.chars().map_while(|c| c.to_digit(radix)) {
            value = value.wrapping_mul(radix.into()).wrapping_add(digit.into());
        }
        if negative {
            value = value.wrapping_neg();
        }
        if radix == 16 && matches!(self.number, Number::Short) {
            value &= u64::from(u32::MAX);
        }
        usize::try_from(value).ok()
    }

    fn chunks(&self, bytes: &[u8], at: &mut usize, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let line = text(self.line(bytes, at)?);
            let size = line.split(';').next().unwrap_or_default();
            let size = self.number(self.cut(size.to_owned()).trim(), 16)?;
            if size == 0 {
                while !self.line(bytes, at)?.is_empty() {}
                return Some(());
            }
            let end = at.checked_add(size)?;
            body.extend_from_slice(bytes.get(*at..end)?);
            *at = end;
            match self.chunk_end {
                ChunkEnd::Line => {
                    if !self.line(bytes, at)?.is_empty() {
                        return None;
                    }
                }
                ChunkEnd::Two => {
                    bytes.get(end..end + 2)?;
                    *at += 2;
                }
            }
        }
    }
}

/// Every byte is a character, so that none is lost.
fn text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// What all models read, if they agree.
pub(crate) fn agreed(bytes: &[u8], what: What, models: &[Model]) -> Result<Vec<Message>, String> {
    let messages = STRICT.read(bytes, what);
    for model in models {
        let other = model.read(bytes, what);
        if other != messages {
            let same = messages
                .iter()
                .zip(&other)
                .take_while(|(ours, theirs)| ours == theirs);
            let count = same.count();
            let begin = messages[..count].last().map_or(0, |message| message.end);
            let (ours, theirs) = (messages.get(count), other.get(count));
            let shown = String::from_utf8_lossy(&bytes[begin..]);
            return Err(format!("{ours:?} or {theirs:?} in {shown:?} by {model:?}"));
        }
    }
    Ok(messages)
}
