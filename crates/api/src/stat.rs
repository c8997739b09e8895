//! `GET /stat`: golden signals by workload, instance, service, namespace or route.

use serde::{Deserialize, Serialize};

use crate::{Range, Trust};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatQuery {
    /// `workload`, `instance`, `service`, `namespace` or `route`.
    pub kind: String,
    /// Only this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only this namespace; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only calls from this workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Only calls to this workload or service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Default: the last minute.
    #[serde(flatten)]
    pub range: Range,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// One row per thing, by namespace and name.
    pub rows: Vec<StatRow>,
    /// How much it can be trusted.
    pub trust: Trust,
}

/// Golden signals of one thing. `-o json` prints an array of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatRow {
    /// Namespace.
    pub namespace: String,
    /// As asked.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Instances with a proxy of ours over all instances, `1/1`; `-` if not known.
    pub meshed: String,
    /// Finished requests.
    pub requests: u64,
    /// Share of requests that did not fail, 0 to 1; none without requests.
    pub success: Option<f64>,
    /// Requests per second over the range.
    pub rps: f64,
    /// Median latency, milliseconds.
    pub latency_ms_p50: Option<f64>,
    /// 95th percentile, milliseconds.
    pub latency_ms_p95: Option<f64>,
    /// 99th percentile, milliseconds.
    pub latency_ms_p99: Option<f64>,
    /// Whether the percentiles are exact.
    pub exact: bool,
    /// Open connections now; none for past ranges and things without connections.
    pub tcp_open_connections: Option<u64>,
    /// Failed requests.
    pub failed: u64,
    /// Requests answered with a 4xx.
    pub client_errors: u64,
    /// Requests that were open for more than a second and had not ended at the end of the range.
    pub open: u64,
    /// Request body bytes per second.
    pub request_bytes_rate: f64,
    /// Response body bytes per second.
    pub response_bytes_rate: f64,
}
