//! The server's HTTP API as types.
//!
//! Every path lies under [`BASE`]. Requests are `GET` with the query parameters
//! of the type named `…Query`; answers are JSON of the type named beside it.
//! Times in queries are text as people type them (`15m`, RFC 3339); times in
//! answers are RFC 3339 in UTC unless a field name ends in `_us` (microseconds
//! since the Unix epoch).

pub mod check;
pub mod culprit;
pub mod edges;
pub mod error;
pub mod explain;
pub mod record;
pub mod routes;
pub mod stat;
pub mod status;
pub mod tap;
pub mod top;

/// Prefix of every path.
pub const BASE: &str = "/api/whodunit/v1";

use serde::{Deserialize, Serialize};

/// The time range of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Beginning, default depends on the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// End, default now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// How much an answer can be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Beginning of the range that was searched, RFC 3339.
    pub from: String,
    /// End of the range that was searched, RFC 3339.
    pub until: String,
    /// Records that were looked at.
    pub records: u64,
    /// Age of the newest record at the end of the range, milliseconds; none without records.
    pub newest_age_ms: Option<u64>,
    /// Records that proxies had to drop or discard since they started.
    pub dropped: u64,
    /// Whether every quantile is exact.
    pub exact: bool,
    /// Whether all the history is loaded: false for a moment after a restart.
    pub complete: bool,
    /// Files or frames that were damaged and skipped.
    pub damaged: u64,
}
