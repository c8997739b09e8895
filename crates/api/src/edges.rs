//! `GET /edges`: who calls whom.

use serde::{Deserialize, Serialize};

use crate::{Range, Trust};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgesQuery {
    /// Only edges from or to this workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only edges that touch this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Default: the last minute.
    #[serde(flatten)]
    pub range: Range,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edges {
    /// One row per pair of workloads.
    pub rows: Vec<EdgeRow>,
    /// How much it can be trusted.
    pub trust: Trust,
}

/// One edge of the call graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeRow {
    /// Calling workload; empty for callers outside the mesh.
    pub src: String,
    /// Its namespace.
    pub src_namespace: String,
    /// Called workload or external service.
    pub dst: String,
    /// Its namespace.
    pub dst_namespace: String,
    /// Whether every call was encrypted by the mesh.
    pub secured: bool,
    /// Identity of the client by certificate, may be empty.
    pub client_id: String,
    /// Identity of the server by certificate, may be empty.
    pub server_id: String,
    /// Finished calls.
    pub requests: u64,
    /// Failed calls.
    pub failed: u64,
    /// Share that did not fail, 0 to 1.
    pub success: Option<f64>,
    /// Calls per second.
    pub rps: f64,
    /// Median latency as the caller saw it, milliseconds.
    pub latency_ms_p50: Option<f64>,
    /// 99th percentile as the caller saw it, milliseconds.
    pub latency_ms_p99: Option<f64>,
    /// Median of the time between the two proxies (caller's duration minus callee's), milliseconds.
    pub network_ms_p50: Option<f64>,
}
