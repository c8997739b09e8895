//! What is logged, and changing that while the proxy runs.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::clock::Instant;

/// The environment variable that says what is logged.
pub const VARIABLE: &str = "WHODUNIT_LOG";

/// What is logged unless something else is said.
const DEFAULT: &str = "warn,whodunit_proxy=info";

/// Set once, by [`init`].
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Why the level was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LevelError {
    /// The text is not what a level looks like.
    #[error(
        "not a level: use error, warn, info, debug, trace or TARGET=LEVEL, with commas between"
    )]
    Bad,
    /// Another program holds this proxy and logs for it.
    #[error("this process does not log here")]
    NotOurs,
}

/// How often a line is logged that clients can cause.
const RARELY: Duration = Duration::from_secs(1);

/// Lets through a line each second, so that nobody fills a disk from outside.
pub(crate) struct Rarely {
    last: Cell<Option<Instant>>,
    unlogged: Cell<u64>,
}

impl Rarely {
    /// Returns one that lets the first line through.
    pub(crate) const fn new() -> Self {
        Self {
            last: Cell::new(None),
            unlogged: Cell::new(0),
        }
    }

    /// Returns how many lines were not logged since the last one, if it is time for another.
    pub(crate) fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let last = self.last.get();
        if last.is_some_and(|last| now.saturating_duration_since(last) < RARELY) {
            self.unlogged.set(self.unlogged.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.unlogged.take())
    }
}

/// Logs to standard error from now on, as [`VARIABLE`] says. A second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| DEFAULT.into());
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    if subscriber.try_init().is_ok() {
        // Only whoever initialized first comes here.
        let _ = FILTER.set(handle);
    }
}

/// Returns what is logged.
pub(crate) fn level() -> Result<String, LevelError> {
    let handle = FILTER.get().ok_or(LevelError::NotOurs)?;
    handle
        .with_current(ToString::to_string)
        .map_err(|_| LevelError::NotOurs)
}

/// Changes what is logged.
pub(crate) fn set_level(text: &str) -> Result<(), LevelError> {
    let filter = parse(text)?;
    let handle = FILTER.get().ok_or(LevelError::NotOurs)?;
    handle.reload(filter).map_err(|_| LevelError::NotOurs)
}

/// Whatever the library would take for the name of a target is refused unless it has a
/// level: a mistyped level would turn everything off.
fn parse(text: &str) -> Result<EnvFilter, LevelError> {
    let text = text.trim();
    let is_level = |word: &str| {
        !word.is_empty() && word.parse::<tracing::level_filters::LevelFilter>().is_ok()
    };
    let is_known = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(part),
    };
    if text.is_empty() || !text.split(',').all(|part| is_known(part.trim())) {
        return Err(LevelError::Bad);
    }
    EnvFilter::try_new(text).map_err(|_| LevelError::Bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_cause_is_logged_once_a_second() {
        let (rarely, now) = (Rarely::new(), Instant::now());
        let due: Vec<_> = (0..30)
            .map(|i| rarely.due_at(now + i * RARELY / 10))
            .collect();
        for (i, due) in due.into_iter().enumerate() {
            let expected = (i % 10 == 0).then_some(if i == 0 { 0 } else { 9 });
            assert_eq!(due, expected, "{i}");
        }
    }

    #[test]
    fn a_mistyped_level_is_refused() {
        for good in ["debug", "warn,whodunit_proxy=trace", " info\n", "off"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "loud",
            "warn,,",
            "=debug",
            "a=loud",
            "[x{y=\"1\"}]=debug",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(matches!(set_level("debug"), Err(LevelError::NotOurs)));
    }
}
