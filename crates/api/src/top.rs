//! `GET /top`: what is going on right now, grouped.

use serde::{Deserialize, Serialize};

use crate::{Range, Trust};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopQuery {
    /// Only calls from or to this workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Group by route instead of path.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routes: bool,
    /// Default: the last minute.
    #[serde(flatten)]
    pub range: Range,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Top {
    /// Busiest first, at most 200.
    pub rows: Vec<TopRow>,
    /// How much it can be trusted.
    pub trust: Trust,
}

/// One group of calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TopRow {
    /// Calling workload, empty for callers outside the mesh.
    pub source: String,
    /// Called workload or external service.
    pub destination: String,
    /// HTTP method.
    pub method: String,
    /// Path, or route if asked so.
    pub path: String,
    /// Calls.
    pub count: u64,
    /// Fastest, milliseconds.
    pub best_ms: f64,
    /// Slowest, milliseconds.
    pub worst_ms: f64,
    /// Latest, milliseconds.
    pub last_ms: f64,
    /// Share that did not fail, 0 to 1.
    pub success: f64,
}
