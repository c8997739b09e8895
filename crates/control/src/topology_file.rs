//! Follows the state file that says where services live.
//!
//! The file is JSON, `{"services": [Service …]}`, replaced by rename whenever
//! something moves. It is polled: a watch of the kernel's would need a fallback
//! for network file systems anyway, and a look at one small file five times a
//! second costs nothing. A file that cannot be read or does not parse changes
//! nothing: the last good state stays in force, and the error is kept for
//! `check`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::io::AsyncReadExt;
use whodunit_model::Service;

use crate::discovery::{self, Discovery, Source};

/// How often the file is looked at.
pub const POLL: Duration = Duration::from_millis(200);

/// Largest file that is read: room for some 100,000 endpoints.
pub const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// A file whose time of change is younger than this is read again even if it
/// looks unchanged: file systems stamp in steps of some milliseconds.
const SETTLED: Duration = Duration::from_secs(2);

/// The file's shape.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    services: Vec<Service>,
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyFileError {
    /// The file could not be read.
    #[error("read topology file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("topology file {path} is larger than {BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what it should be.
    #[error("topology file {path}: {source}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// The same service appears twice.
    #[error("topology file {path}: service {service} appears twice")]
    Twice {
        /// The file.
        path: PathBuf,
        /// `name.namespace`.
        service: String,
    },
}

/// Follows one state file: a task that runs until it is dropped.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    source: Source,
    seen: Option<Seen>,
}

/// What the file looked like when it was last read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    modified: Option<SystemTime>,
    length: u64,
}

/// Returns the topology in `path` as it changes, and the task that follows it.
#[must_use]
pub fn follow(path: impl Into<PathBuf>) -> (Discovery, Follower) {
    let path = path.into();
    let (source, discovery) = discovery::channel(path.display().to_string());
    let follower = Follower {
        path,
        source,
        seen: None,
    };
    (discovery, follower)
}

impl Follower {
    /// Follows the file for ever. Dropping the future ends discovery.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let now = look_at(&self.path).await;
        if now.is_some() && now == self.seen && is_settled(now.as_ref()) {
            return;
        }
        self.seen = now;
        match read(&self.path).await {
            Ok(services) => self.source.set(services),
            Err(error) => {
                let text = error.to_string();
                if self.source.refuse(text) {
                    tracing::warn!(%error, "keeping the last good topology");
                }
            }
        }
    }
}

async fn look_at(path: &Path) -> Option<Seen> {
    let found = tokio::fs::metadata(path).await.ok()?;
    Some(Seen {
        modified: found.modified().ok(),
        length: found.len(),
    })
}

fn is_settled(seen: Option<&Seen>) -> bool {
    seen.and_then(|seen| seen.modified)
        .and_then(|modified| modified.elapsed().ok())
        .is_some_and(|age| age > SETTLED)
}

/// Reads a state file once.
///
/// # Errors
/// When the file cannot be read, is too large, or is not a topology.
pub async fn read(path: &Path) -> Result<Vec<Service>, TopologyFileError> {
    let failed = |source| TopologyFileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = Vec::new();
    let length = file.take(BYTES_MAX + 1).read_to_end(&mut text).await;
    if length.map_err(failed)? as u64 > BYTES_MAX {
        return Err(TopologyFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    parse(path, &text)
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<Service>, TopologyFileError> {
    let state: State =
        serde_json::from_slice(text).map_err(|source| TopologyFileError::Syntax {
            path: path.to_owned(),
            source,
        })?;
    let mut names = BTreeSet::new();
    for service in &state.services {
        if !names.insert(&service.name) {
            return Err(TopologyFileError::Twice {
                path: path.to_owned(),
                service: service.name.to_string(),
            });
        }
    }
    Ok(state.services)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuses(text: &str, says: &str) {
        let error = parse(Path::new("t.json"), text.as_bytes()).expect_err(text);
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.to_string().contains("t.json"), "{error}");
    }

    #[test]
    fn wrong_files_are_named_with_place() {
        let service = r#"{"namespace":"n","name":"a","workload":"a","endpoints":[]}"#;
        let good = format!(r#"{{"services":[{service}]}}"#);
        let found = parse(Path::new("t.json"), good.as_bytes()).expect("valid");
        assert_eq!(found[0].name.to_string(), "a.n");
        refuses("", "EOF");
        refuses("{\"services\":[]", "line 1");
        refuses(r#"{"service":[]}"#, "unknown field `service`");
        refuses(&format!(r#"{{"services":[{service},{service}]}}"#), "a.n");
        refuses(
            &good.replace("[]}", r#"[{"address":"nowhere"}]}"#),
            "line 1",
        );
    }
}
