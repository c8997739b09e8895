//! `GET /culprit`: who did it.
//!
//! `culprit -o json` prints a [`Culprit`]; [`VERSION`] counts its shape.

use serde::{Deserialize, Serialize};

use crate::Range;

/// Version of the shape of [`Culprit`].
pub const VERSION: u32 = 1;

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CulpritQuery {
    /// Only symptoms of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only symptoms at this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Default: the last ten minutes.
    #[serde(flatten)]
    pub range: Range,
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Culprit {
    /// Version of this shape: [`VERSION`].
    pub version: u32,
    /// `culprit`, `probably`, `leads` or `nothing`.
    pub verdict: String,
    /// 0 to 1: at least 0.6 for `culprit`, 0.4 for `probably`, 0.2 for `leads`.
    pub confidence: f64,
    /// The verdict in one sentence.
    pub says: String,
    /// What users see.
    pub symptom: Option<Symptom>,
    /// Who did it.
    pub culprit: Option<Named>,
    /// Who suffers, from the culprit up to the users.
    pub victims: Vec<Victim>,
    /// What separates the failed requests from the good ones.
    pub attributes: Vec<AttributeSet>,
    /// Why we think so.
    pub evidence: Vec<Evidence>,
    /// Who else was suspected, and why they lost.
    pub runners_up: Vec<RunnerUp>,
    /// Ids of typical failed requests.
    pub examples: Vec<String>,
    /// What was looked at.
    pub checked: Checked,
}

/// What users see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Symptom {
    /// Namespace.
    pub namespace: String,
    /// The service where it shows to its outermost callers.
    pub service: String,
    /// The route.
    pub route: String,
    /// `failures` or `latency`.
    pub signal: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// True if it was there when recording began.
    pub since_recording_began: bool,
    /// Until when, RFC 3339; missing while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Requests that show it.
    pub failed: u64,
    /// All requests of the route since then.
    pub requests: u64,
}

/// Who did it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// Namespace.
    pub namespace: String,
    /// Workload.
    pub workload: String,
    /// Service name, may be empty.
    pub service: String,
    /// Route, whole; empty if all routes are concerned.
    pub route: String,
    /// Instance, if only one of several is concerned.
    pub instance: Option<String>,
    /// Version of the application, if only one of several is concerned.
    pub app_version: Option<String>,
    /// `client`, `client_proxy`, `network`, `server_proxy` or `server`.
    pub origin: String,
    /// Cause of the failures, for example `app_grpc_status`; `slow` for latency.
    pub cause: String,
    /// Requests that failed (or were slow) there.
    pub failed: u64,
    /// All requests there in the same time.
    pub requests: u64,
}

/// Who suffers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Victim {
    /// Namespace.
    pub namespace: String,
    /// Workload.
    pub workload: String,
    /// Route.
    pub route: String,
    /// Requests that failed because of the culprit.
    pub failed: u64,
    /// All requests of the route.
    pub requests: u64,
}

/// Attributes that separate failed from good requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttributeSet {
    /// All of these hold.
    pub terms: Vec<Term>,
    /// Workload whose requests were compared.
    pub workload: String,
    /// Share of the failed requests for which they hold, 0 to 1.
    pub covered: f64,
    /// How many times likelier failure is where they hold.
    pub lift: f64,
}

/// `name = value`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// `route`, `instance`, `version`, `caller`, `method` or an attribute's name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// One reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The reason in words.
    pub says: String,
    /// The number in it.
    pub number: f64,
    /// The command that reproduces the number.
    pub command: String,
}

/// A suspect that lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunnerUp {
    /// Workload.
    pub workload: String,
    /// Route.
    pub route: String,
    /// 0 to 1.
    pub confidence: f64,
    /// Why it lost.
    pub lost_because: String,
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Requests.
    pub requests: u64,
    /// From, RFC 3339.
    pub from: String,
    /// Until, RFC 3339.
    pub until: String,
    /// Services.
    pub services: u64,
}
