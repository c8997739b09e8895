//! What can go wrong, in words that name the thing and the fix.

use std::io;
use std::path::PathBuf;

use whodunit_flight::DecodeError;
use whodunit_model::BootId;
use whodunit_model::filter::FilterError;

use crate::boots::ProxyName;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory could not be used.
    #[error("{doing} {path}")]
    Io {
        /// What was being done: `read`, `create` …
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(
        "the data directory {path} cannot be used: check its permissions and its disk, or choose another directory with --data"
    )]
    Unusable {
        /// The directory, or what in it cannot be used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes to the data directory.
    #[error(
        "the data directory {path} is in use{holder}: stop that process, or choose another directory with --data"
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// ` by process N`, or empty if it is not known.
        holder: String,
    },
    /// A newer version wrote the file.
    #[error(
        "{path} was written by a newer version (format {found}, this build reads up to {supported}): update whodunit, or choose another directory with --data"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format version found.
        found: u64,
        /// The newest format version this build knows.
        supported: u64,
    },
    /// The checkpoint cannot be understood.
    #[error(
        "the checkpoint {path} is damaged ({why}): put back a copy, or remove it and it is rebuilt from the files beside it"
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The path holds no records of ours.
    #[error("{path} holds no records: {why}")]
    NotRecords {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A batch was refused; the stream it came on may go on.
    #[error("batch {sequence} of {proxy} (boot {boot}) was refused")]
    Batch {
        /// Who sent it.
        proxy: ProxyName,
        /// Its boot.
        boot: BootId,
        /// The batch.
        sequence: u64,
        /// Why.
        source: BatchError,
    },
    /// More records wait for their file than memory is meant to hold.
    #[error(
        "{rows} records wait to be written to files, more than the bound: is the disk full or slow? The batch was not taken, send it again later"
    )]
    Overloaded {
        /// How many wait.
        rows: usize,
    },
    /// The store was opened for reading only.
    #[error("{path} was opened for reading only")]
    ReadOnly {
        /// The directory or file.
        path: PathBuf,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The filter is too large.
    #[error("the filter cannot be used")]
    Filter(#[from] FilterError),
    /// More records match than may be returned.
    #[error(
        "more than {rows_max} records match: narrow the time range (--since, --until) or the filter"
    )]
    TooLarge {
        /// The bound.
        rows_max: usize,
    },
    /// A column was asked for that no file has.
    #[error("there is no column `{name}`: see docs/formats/requests-v1.md")]
    Column {
        /// The name.
        name: String,
    },
    /// Rows could not be put in columns.
    #[error("put records in columns")]
    Columns(#[source] arrow_schema::ArrowError),
}

/// Why a batch was refused.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Its bytes cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Batches are counted from 1.
    #[error("it has sequence 0, but batches are counted from 1")]
    Sequence,
    /// It is larger than any batch may be.
    #[error("it has {bytes} bytes, more than the {bytes_max} a batch may have")]
    TooLarge {
        /// Bytes found.
        bytes: usize,
        /// Most bytes accepted.
        bytes_max: usize,
    },
    /// A name of the sender is too long.
    #[error("the name of its sender is longer than {bytes_max} bytes")]
    Name {
        /// Most bytes of one part of a name.
        bytes_max: usize,
    },
}

/// Attaches a path to an I/O error.
pub(crate) fn io_error(
    doing: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.into();
    move |source| StoreError::Io {
        doing,
        path,
        source,
    }
}
