//! `GET /tap`: the requests themselves, past or live.
//!
//! Without `follow` the answer is one [`Tap`]. With `follow=true` it is a
//! stream of Server-Sent Events: `record` with a [`crate::record::Record`],
//! `lost` with a [`Lost`] when the reader was too slow, and a comment as a
//! heartbeat every few seconds. The id of each event is a cursor: sent back as
//! `Last-Event-ID` the stream goes on where it ended.

use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::{Range, Trust};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapQuery {
    /// A filter: the syntax tree of `model::filter` as JSON text; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Most records to return, default 100, at most 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Oldest first instead of newest first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oldest_first: bool,
    /// Keep sending what comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// Default: the last ten minutes.
    #[serde(flatten)]
    pub range: Range,
}

/// Records of the past.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tap {
    /// The records: the newest (or oldest) `limit` ones that match, printed oldest first.
    pub records: Vec<Record>,
    /// How many matched in the range.
    pub matched: u64,
    /// `matched` is a lower bound: history that cannot hold a wanted record was passed by.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub matched_at_least: bool,
    /// How much it can be trusted.
    pub trust: Trust,
}

/// Records that a live reader missed because it was too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many.
    pub records: u64,
}
