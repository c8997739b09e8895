//! What the server answers when it cannot answer.

use serde::{Deserialize, Serialize};

/// Body of every answer with a status of 400 or above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Stable word: `bad_request`, `not_found`, `forbidden_host`, `too_large`, `unavailable`, `internal`.
    pub code: String,
    /// What went wrong, naming the thing.
    pub message: String,
    /// What to do about it, may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}
