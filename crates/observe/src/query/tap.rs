//! The requests themselves, past or live.
//!
//! Both ways read the store through the same filter: the past by a range of
//! time, the present by the order of arrival.

use whodunit_api::tap::{Tap, TapQuery};
use whodunit_model::Filter;
use whodunit_model::time::SECOND_US;
use whodunit_store::{Cursor, Followed, Order, Scan};

use super::record::record;
use super::{Queries, QueryError, store_error, window};

/// Records returned when the question does not say how many.
pub const LIMIT: u32 = 100;

/// Most records of one answer.
pub const LIMIT_MAX: u32 = 10_000;

/// Most records of one step of a live stream.
pub const STEP_MAX: usize = 500;

impl Queries {
    /// Answers `tap` for the past.
    ///
    /// # Errors
    /// When the filter, the limit or the range is wrong.
    pub fn tap(&self, query: &TapQuery, now_us: i64) -> Result<Tap, QueryError> {
        let window = window(&query.range, 600 * SECOND_US, now_us)?;
        let limit = limit(query)? as usize;
        let order = if query.oldest_first {
            Order::OldestFirst
        } else {
            Order::NewestFirst
        };
        let scan = Scan {
            limit: Some(limit),
            order,
            ..self.range(window, filter(query)?)
        };
        let scanned = self.read(&scan)?;
        let records = (0..scanned.rows.len())
            .map(|index| record(&scanned.rows, index))
            .collect();
        let trust = self.trust(window, &scanned);
        Ok(Tap {
            records,
            matched: scanned.matched,
            matched_at_least: !scanned.matched_exact,
            trust,
        })
    }

    /// Returns what was ingested after `cursor` and matches, at most [`STEP_MAX`] records.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn tap_after(&self, cursor: Cursor, filter: &Filter) -> Result<Followed, QueryError> {
        self.store
            .follow(cursor, filter, STEP_MAX)
            .map_err(|error| store_error(&error))
    }
}

/// Returns how many records are asked for.
fn limit(query: &TapQuery) -> Result<u32, QueryError> {
    let limit = query.limit.unwrap_or(LIMIT);
    if (1..=LIMIT_MAX).contains(&limit) {
        Ok(limit)
    } else {
        let why = format!("{limit} is not between 1 and {LIMIT_MAX}");
        Err(QueryError::parameter("limit", why))
    }
}

/// Returns the filter of the question.
///
/// # Errors
/// When it is not a filter, or too large: the message names the place.
pub fn filter(query: &TapQuery) -> Result<Filter, QueryError> {
    let Some(text) = &query.filter else {
        return Ok(Filter::All);
    };
    let filter: Filter = serde_json::from_str(text).map_err(|error| QueryError::BadRequest {
        message: format!("query parameter `filter`: {error}"),
        hint: r#"expected a filter as JSON, for example {"is":{"field":"outcome","op":"eq","value":"failure"}}"#
            .to_owned(),
    })?;
    filter
        .check()
        .map_err(|error| QueryError::parameter("filter", error))?;
    Ok(filter)
}
