//! Tables as kubectl and linkerd print them: upper-case headers, three spaces.

use crate::figures::MISSING;
use crate::text;
use crate::view::{Tone, View};

/// Between two columns.
const GAP: usize = 3;

/// A column that may shrink is never cut below this.
const SHRUNK_MIN: usize = 12;

/// Rows under headers.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// One column.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    name: &'static str,
    right: bool,
    shrinks: bool,
}

impl Column {
    /// A column of text.
    pub(crate) const fn text(name: &'static str) -> Self {
        Self {
            name,
            right: false,
            shrinks: false,
        }
    }

    /// A column of text that is cut where the terminal is too narrow.
    pub(crate) const fn shrinking(name: &'static str) -> Self {
        Self {
            name,
            right: false,
            shrinks: true,
        }
    }

    /// A column of numbers.
    pub(crate) const fn number(name: &'static str) -> Self {
        Self {
            name,
            right: true,
            shrinks: false,
        }
    }
}

/// One cell; its text is safe to print.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in a tone. What a terminal would act on is escaped, nothing is shown as `-`.
    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        let text = match text.as_ref() {
            "" => MISSING.to_owned(),
            text => text::safe(text).into_owned(),
        };
        Self { text, tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl Table {
    /// A table without rows.
    pub(crate) const fn new(columns: Vec<Column>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Appends a row: one cell per column.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "one cell per column");
        self.rows.push(row);
    }

    /// Prints header and rows, one line each.
    pub(crate) fn render(&self, view: &View) -> String {
        let mut out = String::new();
        for line in self.lines(view) {
            out.push_str(&line);
            out.push('\n');
        }
        out
    }

    /// Returns header and rows as lines.
    pub(crate) fn lines(&self, view: &View) -> Vec<String> {
        let widths = self.widths(view);
        let header = self
            .columns
            .iter()
            .map(|column| Cell {
                text: column.name.to_owned(),
                tone: Tone::Strong,
            })
            .collect();
        std::iter::once(&header)
            .chain(&self.rows)
            .map(|row| self.line(row, &widths, view))
            .collect()
    }

    fn widths(&self, view: &View) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, column)| {
                let cells = self.rows.iter().map(|row| text::width(&row[i].text));
                cells.fold(text::width(column.name), usize::max)
            })
            .collect();
        let total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        let mut excess = view
            .width
            .map_or(0, |columns| total.saturating_sub(columns));
        for (width, column) in widths.iter_mut().zip(&self.columns) {
            if column.shrinks && excess > 0 {
                let shrunk = width.saturating_sub(excess).max(SHRUNK_MIN).min(*width);
                excess -= *width - shrunk;
                *width = shrunk;
            }
        }
        widths
    }

    fn line(&self, row: &[Cell], widths: &[usize], view: &View) -> String {
        let mut line = String::new();
        // Spaces are written late, so that no line ends in them.
        let mut spaces = 0;
        for ((cell, column), width) in row.iter().zip(&self.columns).zip(widths) {
            let shown = text::cut(&cell.text, *width, view.ellipsis());
            let padding = width - text::width(&shown).min(*width);
            if column.right {
                spaces += padding;
            }
            line.extend(std::iter::repeat_n(' ', spaces));
            line.push_str(&view.paint(cell.tone, &shown));
            spaces = GAP + if column.right { 0 } else { padding };
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::text("NAME"),
            Column::shrinking("ROUTE"),
            Column::number("RPS"),
            Column::text("CAUSE"),
        ]);
        table.push(vec![
            "web".into(),
            "GET /a/very/long/route/indeed".into(),
            "10.0rps".into(),
            "".into(),
        ]);
        table.push(vec![
            "日本".into(),
            "a\u{1b}[2Jb".into(),
            "1.0rps".into(),
            Cell::toned("reset", Tone::Bad),
        ]);
        table
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut View), expected: Expect) {
        let mut view = View::plain();
        change(&mut view);
        expected.assert_eq(&table().render(&view));
    }

    #[test]
    fn columns_line_up_by_display_width() {
        check(
            |_| {},
            expect![[r#"
                NAME   ROUTE                               RPS   CAUSE
                web    GET /a/very/long/route/indeed   10.0rps   -
                日本   a\x1b[2Jb                        1.0rps   reset
            "#]],
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_the_long_column() {
        check(
            |view| view.width = Some(40),
            expect![[r#"
                NAME   ROUTE                 RPS   CAUSE
                web    GET /a/very/lo…   10.0rps   -
                日本   a\x1b[2Jb          1.0rps   reset
            "#]],
        );
    }
}
