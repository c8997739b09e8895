//! Text that is safe and fits: escaping, display width, cutting, wrapping.
//!
//! Names, paths and attributes come from traffic, so anybody can put bytes in
//! them that move the cursor, recolor the screen or reverse the reading order.
//! Nothing from a record reaches a terminal without [`safe`].

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Escapes what a terminal would act on instead of show.
///
/// Control characters become `\n`, `\t`, `\r` or `\x1b`; characters that reorder
/// or hide text become `\u{202e}`.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_dangerous(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Control characters, and the format characters that reorder or hide text.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Returns how many columns the text takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// Cuts the text to at most `columns`, ending in `mark` where something was cut.
pub(crate) fn cut<'a>(text: &'a str, columns: usize, mark: &str) -> Cow<'a, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let room = columns.saturating_sub(width(mark));
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let columns = c.width().unwrap_or(0);
        if used + columns > room {
            break;
        }
        used += columns;
        out.push(c);
    }
    out.push_str(mark);
    Cow::Owned(out)
}

/// Returns the text with spaces after it up to `columns`.
pub(crate) fn pad(text: &str, columns: usize) -> String {
    let spaces = columns.saturating_sub(width(text));
    format!("{text}{:spaces$}", "")
}

/// Returns the text with spaces before it up to `columns`.
pub(crate) fn pad_left(text: &str, columns: usize) -> String {
    let spaces = columns.saturating_sub(width(text));
    format!("{:spaces$}{text}", "")
}

/// Breaks the text into lines of at most `columns`, at spaces; a longer word stays whole.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_traffic_moves_the_cursor() {
        assert_eq!(
            safe("GET /api/vote?choice=:poop:"),
            "GET /api/vote?choice=:poop:"
        );
        assert_eq!(safe("a\u{1b}[2Jb\r\n\tc"), "a\\x1b[2Jb\\r\\n\\tc");
        assert_eq!(safe("\u{9b}31m\u{7f}"), "\\x9b31m\\x7f");
        assert_eq!(safe("gpj.\u{202e}exe"), "gpj.\\u{202e}exe");
        assert_eq!(safe("日本 💩 é"), "日本 💩 é");
        for c in (0..=0xff)
            .filter_map(char::from_u32)
            .filter(|c| c.is_control())
        {
            assert!(!safe(&c.to_string()).contains(c), "{c:?}");
        }
    }

    #[test]
    fn cutting_counts_columns_not_bytes() {
        assert_eq!(cut("voting", 6, "…"), "voting");
        assert_eq!(cut("voting", 5, "…"), "voti…");
        assert_eq!(cut("日本語", 5, "…"), "日本…");
        assert_eq!(cut("日本語", 4, "…"), "日…");
        assert_eq!(width("日本語"), 6);
    }

    #[test]
    fn wrapping_keeps_words() {
        assert_eq!(wrap("a bc  def g", 4), ["a bc", "def", "g"]);
        assert_eq!(wrap("unbreakable", 4), ["unbreakable"]);
        assert!(wrap("  ", 4).is_empty());
    }
}
