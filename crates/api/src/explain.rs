//! `GET /explain`: one request, both sides, and the calls it made.

use serde::{Deserialize, Serialize};

use crate::Trust;
use crate::record::Record;

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// Request id.
    pub id: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explain {
    /// The hop asked for.
    pub id: String,
    /// The call tree, parents before children; the first one is the root.
    pub hops: Vec<Hop>,
    /// One sentence: what happened to this request and where it began.
    pub says: String,
    /// How much it can be trusted.
    pub trust: Trust,
}

/// One call of the tree, seen from up to two sides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Request id of the hop.
    pub id: String,
    /// Index of the parent in `hops`; none for the root.
    pub parent: Option<usize>,
    /// How certain the parent is, 0 to 1: 1 where the application passed a trace along.
    pub certainty: f64,
    /// How the parent was found: `trace`, `timing`, or empty for the root.
    pub linked_by: String,
    /// The caller's record.
    pub outbound: Option<Record>,
    /// The callee's record.
    pub inbound: Option<Record>,
    /// Begins this long after the root, milliseconds.
    pub offset_ms: f64,
    /// Duration as the caller saw it, milliseconds.
    pub duration_ms: f64,
    /// Time between the two proxies, milliseconds; none with one side only.
    pub network_ms: Option<f64>,
    /// Time not spent waiting for the calls below, milliseconds.
    pub self_ms: f64,
}
