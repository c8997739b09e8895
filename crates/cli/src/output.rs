//! Standard output: one place that writes, and that knows when nobody reads.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::{Exit, Failure};

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For people, with more columns.
    Wide,
    /// The API's answer.
    Json,
    /// The API's answer.
    Yaml,
    /// As little as possible (culprit, check, version).
    Short,
}

impl Format {
    /// Says whether the answer is printed as data.
    pub(crate) const fn is_data(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }
}

/// Serializes an answer as asked; call it with [`Format::is_data`] formats.
///
/// # Errors
/// When the answer cannot be written as that format.
pub(crate) fn data(answer: &impl Serialize, format: Format) -> Result<String, Failure> {
    let text = match format {
        Format::Yaml => serde_yaml_ng::to_string(answer).map_err(|e| e.to_string()),
        _ => serde_json::to_string_pretty(answer)
            .map(|text| text + "\n")
            .map_err(|e| e.to_string()),
    };
    text.map_err(|why| Failure::failed("cannot print the answer", why))
}

/// Why nothing more can be written.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The reader has gone away, as `head` does: no error.
    NobodyReads,
    /// The command failed.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Stop {
    /// How the command ends because of it.
    pub(crate) fn end(self) -> Result<Exit, Failure> {
        match self {
            Self::NobodyReads => Ok(Exit::Ok),
            Self::Failed(failure) => Err(failure),
        }
    }
}

/// Writes text to standard output at once.
///
/// # Errors
/// When nobody reads any more, or the disk behind a redirection is full.
pub(crate) fn write(text: &str) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(stop)
}

/// Turns an error of standard output into the reason to stop.
pub(crate) fn stop(error: io::Error) -> Stop {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Stop::NobodyReads
    } else {
        Stop::Failed(Failure::failed("cannot write to standard output", error))
    }
}

/// Writes a note to standard error; if that fails there is nobody to tell.
pub(crate) fn note(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
