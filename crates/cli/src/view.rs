//! How answers look: colors, symbols, width and clock.
//!
//! Every renderer is a function of an answer and a [`View`], so that the same
//! answer always gives the same text. Colors carry meaning only: nothing can be
//! read from them that the text does not say as well.

use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};

use crate::clock::Clock;

/// When to color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal that can.
    #[default]
    Auto,
    /// Even into a pipe.
    Always,
    /// Never.
    Never,
}

/// What a piece of text means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// Read this first.
    Strong,
    /// Read this last.
    Quiet,
    /// All is well.
    Good,
    /// Odd.
    Warn,
    /// Failed.
    Bad,
    /// The one thing that matters now.
    Alarm,
}

impl Tone {
    /// The tone of a success rate.
    pub(crate) fn of_success(success: Option<f64>) -> Self {
        match success {
            None => Self::Quiet,
            Some(success) if success >= 1.0 => Self::Plain,
            Some(success) if success >= 0.99 => Self::Warn,
            Some(_) => Self::Bad,
        }
    }

    const fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Strong => Style::new().bold(),
            Self::Quiet => Style::new().dimmed(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Alarm => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// Where the text goes and what that place can show.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Colors may be used.
    pub(crate) color: bool,
    /// Characters beyond ASCII may be used.
    pub(crate) unicode: bool,
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
    /// Columns of the terminal; none if text may be as wide as it likes.
    pub(crate) width: Option<usize>,
    /// More columns were asked for.
    pub(crate) wide: bool,
    /// Namespaces are shown.
    pub(crate) namespaces: bool,
    /// The user's clock.
    pub(crate) clock: Clock,
}

impl View {
    /// Looks at standard output and the environment.
    pub(crate) fn of_stdout(choice: ColorChoice, clock: Clock) -> Self {
        let environment = |name: &str| std::env::var(name).ok();
        let terminal = std::io::stdout().is_terminal();
        Self {
            color: colored(choice, terminal, environment),
            unicode: unicode(environment),
            terminal,
            width: terminal.then(terminal_width),
            wide: false,
            namespaces: false,
            clock,
        }
    }

    /// Returns the text in its tone.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.color || tone == Tone::Plain || text.is_empty() {
            return text.to_owned();
        }
        let style = tone.style();
        format!("{style}{text}{style:#}")
    }

    /// Returns the first text where Unicode can be shown, else the second.
    const fn symbol(&self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }

    /// From caller to callee.
    pub(crate) const fn arrow(&self) -> &'static str {
        self.symbol("→", "->")
    }

    /// All is well.
    pub(crate) const fn tick(&self) -> &'static str {
        self.symbol("√", "ok")
    }

    /// Odd.
    pub(crate) const fn caution(&self) -> &'static str {
        self.symbol("‼", "!!")
    }

    /// Failed.
    pub(crate) const fn cross(&self) -> &'static str {
        self.symbol("×", "xx")
    }

    /// It begins here.
    pub(crate) const fn culprit(&self) -> &'static str {
        self.symbol("✗", "X")
    }

    /// Something was cut off.
    pub(crate) const fn ellipsis(&self) -> &'static str {
        self.symbol("…", "..")
    }

    /// Between a caller and what it calls, in a tree.
    pub(crate) const fn branch(&self) -> &'static str {
        self.symbol("└ ", "`-")
    }

    /// A piece of a bar.
    pub(crate) const fn bar(&self) -> &'static str {
        self.symbol("█", "#")
    }

    /// A piece of a bar where only the network was busy.
    pub(crate) const fn light_bar(&self) -> &'static str {
        self.symbol("░", ".")
    }

    /// An item of a list.
    pub(crate) const fn bullet(&self) -> &'static str {
        self.symbol("•", "-")
    }

    /// Columns for running text: the terminal's, but not more than reads well.
    pub(crate) fn text_width(&self) -> usize {
        self.width.unwrap_or(80).clamp(40, 100)
    }
}

/// `--color`, then `NO_COLOR`, `CLICOLOR_FORCE` and `TERM`, then what stdout is.
fn colored(
    choice: ColorChoice,
    terminal: bool,
    environment: impl Fn(&str) -> Option<String>,
) -> bool {
    let set = |name: &str| environment(name).is_some_and(|value| !value.is_empty());
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if set("NO_COLOR") => false,
        ColorChoice::Auto if environment("CLICOLOR_FORCE").is_some_and(|v| v != "0") => true,
        ColorChoice::Auto => {
            terminal
                && environment("TERM").as_deref() != Some("dumb")
                && environment("CLICOLOR").as_deref() != Some("0")
        }
    }
}

/// Unicode unless the locale says otherwise. Where no locale is set at all, as in
/// most containers, the terminal in front of it is still a UTF-8 one.
fn unicode(environment: impl Fn(&str) -> Option<String>) -> bool {
    if environment("TERM").is_some_and(|term| matches!(term.as_str(), "dumb" | "linux")) {
        return false;
    }
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(environment)
        .find(|locale| !locale.is_empty())
        .is_none_or(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        })
}

fn terminal_width() -> usize {
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    columns
        .or_else(|| {
            crossterm::terminal::size()
                .ok()
                .map(|(columns, _)| usize::from(columns))
        })
        .filter(|columns| *columns > 0)
        .unwrap_or(80)
}

#[cfg(test)]
impl View {
    /// A plain view at a fixed moment, for golden tests.
    pub(crate) fn plain() -> Self {
        Self {
            color: false,
            unicode: true,
            terminal: false,
            width: None,
            wide: false,
            namespaces: false,
            clock: Clock::fixed("2026-01-31T14:02:31Z"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(choice: ColorChoice, terminal: bool, set: &[(&str, &str)], expected: bool) {
        let environment = |name: &str| {
            set.iter()
                .find(|(found, _)| *found == name)
                .map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(colored(choice, terminal, environment), expected, "{set:?}");
    }

    #[test]
    fn color_follows_flag_then_environment_then_terminal() {
        check(ColorChoice::Auto, true, &[], true);
        check(ColorChoice::Auto, false, &[], false);
        check(ColorChoice::Auto, true, &[("NO_COLOR", "1")], false);
        check(ColorChoice::Auto, true, &[("NO_COLOR", "")], true);
        check(ColorChoice::Auto, false, &[("CLICOLOR_FORCE", "1")], true);
        check(
            ColorChoice::Auto,
            false,
            &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")],
            false,
        );
        check(ColorChoice::Auto, true, &[("TERM", "dumb")], false);
        check(ColorChoice::Always, false, &[("NO_COLOR", "1")], true);
        check(ColorChoice::Never, true, &[("CLICOLOR_FORCE", "1")], false);
    }

    #[test]
    fn ascii_where_the_locale_says_so() {
        let with = |locale: Option<&str>| {
            unicode(|name| {
                (name == "LANG")
                    .then(|| locale.map(str::to_owned))
                    .flatten()
            })
        };
        assert!(with(Some("en_US.UTF-8")));
        assert!(with(Some("C.utf8")));
        assert!(with(None));
        assert!(!with(Some("C")));
        assert!(!with(Some("de_DE.ISO-8859-1")));
    }

    #[test]
    fn tones_are_closed() {
        let mut view = View::plain();
        assert_eq!(view.paint(Tone::Bad, "x"), "x");
        view.color = true;
        assert_eq!(view.paint(Tone::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(view.paint(Tone::Plain, "x"), "x");
    }
}
