//! What is wrong with a mesh file, said so that the reader can fix it at once.

use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;

/// A place in a text file; both numbers count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Line, 1 is the first.
    pub line: usize,
    /// Character within the line, 1 is the first.
    pub column: usize,
}

impl Location {
    /// Returns the place of a byte of `text`; one beyond the end is the end.
    #[must_use]
    pub fn of(text: &str, byte: usize) -> Self {
        let mut byte = byte.min(text.len());
        while !text.is_char_boundary(byte) {
            byte -= 1;
        }
        let before = &text[..byte];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
        }
    }
}

/// Why a mesh file cannot be used.
///
/// Displays as several lines, made to be printed as they are: where and what,
/// the line itself with the place marked, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MeshFileError(Box<Details>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Details {
    /// The file, as it was named by whoever asked.
    file: PathBuf,
    /// Where in the file; none when it could not be read at all.
    location: Option<Location>,
    message: String,
    /// What to do about it, or what would be accepted.
    help: Option<String>,
    /// The line and how many characters of it are meant, unless it is blank.
    excerpt: Option<(String, usize)>,
}

impl MeshFileError {
    /// Returns the place in the file; none when it could not be read at all.
    #[must_use]
    pub fn location(&self) -> Option<Location> {
        self.0.location
    }

    pub(super) fn unreadable(file: &Path, source: &std::io::Error) -> Self {
        Self(Box::new(Details {
            file: file.to_owned(),
            location: None,
            message: format!("cannot read it: {source}"),
            help: match source.kind() {
                ErrorKind::NotFound | ErrorKind::IsADirectory => {
                    Some("name the mesh file with `-f FILE`".to_owned())
                }
                _ => None,
            },
            excerpt: None,
        }))
    }

    /// The line is not shown: it cannot be.
    pub(super) fn not_utf8(file: &Path, error: &FromUtf8Error) -> Self {
        let (before, after) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let before = String::from_utf8_lossy(before);
        let byte = after.first().copied().unwrap_or_default();
        Self(Box::new(Details {
            file: file.to_owned(),
            location: Some(Location::of(&before, before.len())),
            message: format!("the byte 0x{byte:02x} is not UTF-8"),
            help: Some("save the file as UTF-8".to_owned()),
            excerpt: None,
        }))
    }

    pub(super) fn at(file: &Path, text: &str, span: Range<usize>, message: String) -> Self {
        let location = Location::of(text, span.start);
        let line = text.lines().nth(location.line - 1).unwrap_or_default();
        let marked = text.get(span).and_then(|span| span.lines().next());
        let width = marked.map_or(1, |marked| marked.chars().count().max(1));
        Self(Box::new(Details {
            file: file.to_owned(),
            location: Some(location),
            message,
            help: None,
            excerpt: (!line.trim().is_empty()).then(|| (line.to_owned(), width)),
        }))
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(Location { line, column }) = self.location {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let (Some(Location { line, column }), Some((text, width))) =
            (self.location, &self.excerpt)
        {
            // Tabs keep their width, so that the mark stands where it should.
            let indent: String = text
                .chars()
                .take(column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let gutter = line.to_string().len();
            write!(f, "\n  {line} | {text}")?;
            write!(f, "\n  {:gutter$} | {indent}{}", "", "^".repeat(*width))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\nhelp: {help}")?;
        }
        Ok(())
    }
}

/// Returns the known word that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Counts the letters to insert, delete, replace or swap with their neighbor.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=to.len()).collect();
    for i in 1..=from.len() {
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            let swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
            if swapped {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[from.len()][to.len()]
}

/// Joins words for a sentence: "`a`, `b` and `c`".
pub(super) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_strangers_are_not() {
        let known = ["voting", "emoji", "web"];
        assert_eq!(nearest("votin", known), Some("voting"));
        assert_eq!(nearest("emjoi", known), Some("emoji"));
        assert_eq!(nearest("wbe", known), Some("web"));
        assert_eq!(nearest("postgres", known), None);
    }

    #[test]
    fn locations_count_characters() {
        let text = "a\n\u{e9}\u{e9}x";
        assert_eq!(
            Location::of(text, text.len() - 1),
            Location { line: 2, column: 3 }
        );
        assert_eq!(Location::of(text, 3), Location { line: 2, column: 1 });
        assert_eq!(Location::of(text, 99), Location { line: 2, column: 4 });
    }
}
