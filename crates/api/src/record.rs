//! One recorded request, as `tap -o json` prints it.

use serde::{Deserialize, Serialize};

/// One record. Empty texts are left out of JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Request id: the same on both sides.
    pub id: String,
    /// `request`, `attempt`, `connection` or `open`.
    pub kind: String,
    /// `inbound` or `outbound`.
    pub side: String,
    /// When this side read the head, RFC 3339.
    pub start: String,
    /// When it ended or was observed, µs since the Unix epoch.
    pub at_us: i64,
    /// Time to the first body byte, milliseconds.
    pub latency_ms: f64,
    /// Time to the end, milliseconds.
    pub duration_ms: f64,
    /// The caller.
    pub from: Party,
    /// The callee.
    pub to: Party,
    /// Service name the caller used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// `Host` or `:authority`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub authority: String,
    /// `http1`, `http2`, `grpc` or `tcp`.
    pub protocol: String,
    /// How the protocol was known: `declared`, `bytes`, `remembered`, `fall_back`.
    pub detected: String,
    /// `disabled`, `mutual` or `opaque`.
    pub tls: String,
    /// `yes`, `no` or `unknown`.
    pub twin: String,
    /// HTTP method.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Route.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// Redacted path and query.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// HTTP status, none if no response head was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// gRPC status code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// gRPC status name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub grpc_status_name: String,
    /// `success`, `failure` or `pending`.
    pub outcome: String,
    /// Cause of the failure, empty for a success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// Origin of the failure, empty for a success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
    /// The status was a 4xx.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub client_error: bool,
    /// Tries made.
    pub attempts: u16,
    /// Request body bytes.
    pub request_bytes: u64,
    /// Response body bytes.
    pub response_bytes: u64,
    /// Request messages.
    pub request_messages: u32,
    /// Response messages.
    pub response_messages: u32,
    /// Chosen address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Time waited for an endpoint or connection, milliseconds.
    pub queue_ms: f64,
    /// The connection to the endpoint was reused.
    pub reused: bool,
    /// Trace id, 32 hexadecimal digits, empty if none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
    /// `x-request-id` of the application, redacted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub correlation: String,
    /// Captured attributes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Attribute>,
    /// What the proxy decided on the way, besides what other keys say: `rule`, `split`,
    /// `rejected`, `policy` …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trail: Vec<Attribute>,
    /// A health probe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
}

/// One end of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Namespace, empty if not known.
    pub namespace: String,
    /// Workload, empty if not known.
    pub workload: String,
    /// Instance, empty if not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Version, empty if not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// One captured attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}
