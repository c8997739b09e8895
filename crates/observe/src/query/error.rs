//! Why a question got no answer.

use whodunit_api::error::ErrorDetail;

/// Why a question got no answer: what the caller can do differs by variant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The question is wrong: names the parameter and what it accepts.
    #[error("{message}")]
    BadRequest {
        /// What is wrong.
        message: String,
        /// What to do, may be empty.
        hint: String,
    },
    /// What was asked for is not here.
    #[error("{message}")]
    NotFound {
        /// What is missing.
        message: String,
        /// Where it may be, may be empty.
        hint: String,
    },
    /// The answer would need more rows than the server reads for one question.
    #[error("{message}")]
    TooLarge {
        /// What is too large.
        message: String,
        /// How to ask for less.
        hint: String,
    },
    /// The server is too busy or shutting down.
    #[error("{message}")]
    Unavailable {
        /// Why.
        message: String,
    },
    /// The server failed.
    #[error("{message}")]
    Internal {
        /// What failed.
        message: String,
    },
}

impl QueryError {
    /// Returns the error for parameter `name`, whose value is wrong because of `why`.
    #[must_use]
    pub fn parameter(name: &str, why: impl std::fmt::Display) -> Self {
        Self::BadRequest {
            message: format!("query parameter `{name}`: {why}"),
            hint: String::new(),
        }
    }

    /// Returns the HTTP status that says this.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::BadRequest { .. } => 400,
            Self::NotFound { .. } => 404,
            Self::TooLarge { .. } => 422,
            Self::Unavailable { .. } => 503,
            Self::Internal { .. } => 500,
        }
    }

    /// Returns the body that says this.
    #[must_use]
    pub fn detail(&self) -> ErrorDetail {
        let (code, hint) = match self {
            Self::BadRequest { hint, .. } => ("bad_request", hint.as_str()),
            Self::NotFound { hint, .. } => ("not_found", hint.as_str()),
            Self::TooLarge { hint, .. } => ("too_large", hint.as_str()),
            Self::Unavailable { .. } => ("unavailable", "try again in a moment"),
            Self::Internal { .. } => ("internal", "the server's log says more"),
        };
        ErrorDetail {
            code: code.to_owned(),
            message: self.to_string(),
            hint: hint.to_owned(),
        }
    }
}
