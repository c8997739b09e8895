//! `GET /routes`: golden signals per route of a workload.

use serde::{Deserialize, Serialize};

use crate::{Range, Trust};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesQuery {
    /// Only routes of this workload or service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only calls from this workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Default: the last minute.
    #[serde(flatten)]
    pub range: Range,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    /// One row per route: most failed requests first, then most time spent.
    pub rows: Vec<RouteRow>,
    /// How much it can be trusted.
    pub trust: Trust,
}

/// Golden signals of one route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteRow {
    /// Route, whole.
    pub route: String,
    /// Namespace of the callee.
    pub namespace: String,
    /// Workload that serves it.
    pub workload: String,
    /// Service name used by callers, may be empty.
    pub service: String,
    /// Finished requests.
    pub requests: u64,
    /// Failed requests.
    pub failed: u64,
    /// Share that did not fail, 0 to 1.
    pub success: Option<f64>,
    /// Requests per second.
    pub rps: f64,
    /// Median latency, milliseconds.
    pub latency_ms_p50: Option<f64>,
    /// 95th percentile, milliseconds.
    pub latency_ms_p95: Option<f64>,
    /// 99th percentile, milliseconds.
    pub latency_ms_p99: Option<f64>,
    /// Whether the percentiles are exact.
    pub exact: bool,
    /// Most frequent cause of failure, empty if none failed.
    pub cause: String,
}
