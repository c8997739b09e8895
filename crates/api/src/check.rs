//! `GET /check`: is the mesh itself well?

use serde::{Deserialize, Serialize};

/// The answer, in the shape of Linkerd's `check`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Whether nothing failed.
    pub success: bool,
    /// Groups of checks.
    pub categories: Vec<Category>,
    /// Every proxy the server has heard of.
    pub proxies: Vec<Proxy>,
}

/// A group of checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Category {
    /// `server`, `store`, `proxies`, `recorder` …
    #[serde(rename = "categoryName")]
    pub name: String,
    /// The checks.
    pub checks: Vec<CheckItem>,
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckItem {
    /// What holds if all is well.
    pub description: String,
    /// `success`, `warning` or `error`.
    pub result: String,
    /// What is wrong, empty if nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// How to fix it, empty if nothing is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// The state of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    /// Namespace.
    pub namespace: String,
    /// Workload.
    pub workload: String,
    /// Instance.
    pub instance: String,
    /// Version of the proxy.
    pub version: String,
    /// Boot, 16 hexadecimal digits.
    pub boot: String,
    /// `connected`, `silent` (no report for a while), `closed` (ended in order) or `gone` (ended without a word).
    pub state: String,
    /// Milliseconds since it last reported.
    pub reported_age_ms: u64,
    /// Seconds since it started, at its last report.
    pub uptime_s: u64,
    /// Milliseconds since its discovery last heard from the server; none without discovery.
    pub discovery_age_ms: Option<u64>,
    /// Connections whose protocol was not recognized.
    pub detection_fall_backs: u64,
    /// The same by listener; those without are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fall_backs: Vec<Count>,
    /// Requests and opaque connections that policy denied.
    #[serde(default)]
    pub policy_denied: u64,
    /// Requests and opaque connections that policy would have denied.
    #[serde(default)]
    pub policy_audited: u64,
    /// Seconds until its certificate expires at the time of the answer, negative if it has; none without an
    /// identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires_in_s: Option<i64>,
    /// Open connections.
    pub open_connections: u64,
    /// How often each limit of `docs/limits.md` was reached, by its name; those that were not are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Count>,
    /// Its clock minus the server's, milliseconds.
    pub clock_offset_ms: f64,
    /// The conservation equations.
    pub conservation: Conservation,
    /// Batches of this boot that the server holds durably.
    pub batches_durable: u64,
    /// The boot ended without a closing batch: what it had not sent is not known.
    pub tail_unknown: bool,
}

/// `started = recorded + in_flight + dropped` in requests and
/// `rows = acknowledged + buffered + discarded` in rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conservation {
    /// Requests whose head was read or refused.
    pub started: u64,
    /// Requests with a final row.
    pub recorded: u64,
    /// Requests not finished.
    pub in_flight: u64,
    /// Requests without a final row, by reason.
    pub dropped: Vec<Count>,
    /// Rows handed to the recorder.
    pub rows: u64,
    /// Rows durable at the server.
    pub acknowledged: u64,
    /// Rows waiting in the proxy.
    pub buffered: u64,
    /// Rows given up, by reason.
    pub discarded: Vec<Count>,
}

/// A number with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}
