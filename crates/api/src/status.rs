//! `GET /status`: who answers here.

use serde::{Deserialize, Serialize};

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the server.
    pub version: String,
    /// Process id of the server.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Where its data lie.
    pub data_dir: String,
    /// Records it holds.
    pub records: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Oldest record, RFC 3339; none without records.
    pub oldest: Option<String>,
    /// Newest record, RFC 3339; none without records.
    pub newest: Option<String>,
    /// Whether all the history is loaded.
    pub complete: bool,
    /// Files or frames that were damaged and skipped.
    pub damaged: u64,
    /// Address of the gRPC listener, `ip:port`.
    pub grpc: String,
}
