//! The checkpoint: up to which log file everything is in Parquet files.
//!
//! One number ties log and files together. The *generation* is the number of
//! the last log file whose records are in Parquet files; a file carries the
//! generation that made it in its name. A file above the checkpoint's
//! generation was being made when the process ended: it is deleted at the next
//! start, because its records are still in the log.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::boots::BootState;
use crate::error::{StoreError, io_error};
use crate::segment::GENERATION_MAX;

/// The version this build writes and the newest it reads.
pub(crate) const VERSION: u64 = 1;

/// What is known up to a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) version: u64,
    /// Number of the last log file that is covered.
    pub(crate) generation: u64,
    /// Every boot that is remembered, as of the end of that log file.
    #[serde(default)]
    pub(crate) boots: Vec<BootState>,
    /// Counters that outlive the process.
    #[serde(default)]
    pub(crate) totals: Totals,
}

/// Counters that outlive the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Torn and damaged frames in the log files that are covered.
    pub(crate) damaged_frames: u64,
    /// Rows deleted by retention.
    pub(crate) deleted_rows: u64,
    /// Hours deleted by retention.
    pub(crate) deleted_hours: u64,
}

/// Reads only the version, so that a newer layout is named as such.
#[derive(Deserialize)]
struct VersionOnly {
    version: u64,
}

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("checkpoint.json")
}

/// Reads the checkpoint; none if there is none.
pub(crate) fn read(dir: &Path) -> Result<Option<Checkpoint>, StoreError> {
    let path = path(dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    let damaged = |error: serde_json::Error| StoreError::Checkpoint {
        path: path.clone(),
        why: error.to_string(),
    };
    let VersionOnly { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if version > VERSION {
        return Err(StoreError::Newer {
            path,
            found: version,
            supported: VERSION,
        });
    }
    let checkpoint: Checkpoint = serde_json::from_slice(&bytes).map_err(damaged)?;
    if checkpoint.generation > GENERATION_MAX {
        return Err(StoreError::Checkpoint {
            path: path.clone(),
            why: format!("there is no generation {}", checkpoint.generation),
        });
    }
    Ok(Some(checkpoint))
}

/// Writes the checkpoint so that a crash leaves the old one or the new one.
pub(crate) fn write(dir: &Path, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let temporary = dir.join(".tmp-checkpoint.json");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        let mut bytes = serde_json::to_vec(checkpoint)?;
        bytes.push(b'\n');
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path(dir))?;
        sync_dir(dir)
    };
    write().map_err(io_error("write", path(dir)))
}

/// Makes names created, renamed or removed in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
