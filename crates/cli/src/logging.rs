//! The log of commands that run long: `serve`, `run` and `demo`. To standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// The variable that says what is logged.
const VARIABLE: &str = "WHODUNIT_LOG";

/// Starts logging: what `WHODUNIT_LOG` says, else `default`.
///
/// # Errors
/// When `WHODUNIT_LOG` is not a filter.
pub(crate) fn start(default: &str) -> Result<(), Failure> {
    let said = std::env::var(VARIABLE).ok().filter(|said| !said.is_empty());
    let filter = said.as_deref().unwrap_or(default);
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Failure::usage(format!("wrong value `{filter}` of {VARIABLE}"))
            .why(error)
            .fix("write a level such as debug, or targets such as info,whodunit_observe=trace")
    })?;
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .try_init();
    started.map_err(|error| Failure::failed("cannot start the log", error))
}
