//! One request, both sides, and the calls it made.
//!
//! The request's own rows are found by its id. Its parents and children are
//! among the rows that ended around the same time: a parent ends after it, a
//! child before it, and both within moments unless something hangs.

use whodunit_analysis::Window;
use whodunit_analysis::calltree::{self, LinkedBy, TreeHop};
use whodunit_api::explain::{Explain, ExplainQuery, Hop};
use whodunit_api::record::Record;
use whodunit_model::time::{SECOND_US, format_utc};
use whodunit_model::{Filter, RequestId, RequestRecord, Rows};
use whodunit_store::Scanned;

use super::record::{ms, record};
use super::{Columns, Queries, QueryError, store_error};

/// How long after its start the end of a request is looked for before all of the later history.
const SLACK_US: i64 = 60 * SECOND_US;

/// How far before and after a request its relatives are looked for, in the order
/// in which it is tried: less when too much happened.
const AROUND_US: [(i64, i64); 3] = [
    (10 * SECOND_US, 60 * SECOND_US),
    (SECOND_US, 5 * SECOND_US),
    (0, SECOND_US / 2),
];

/// Most rows among which relatives are looked for: a second or so of work.
const AROUND_ROWS_MAX: usize = 400_000;

impl Queries {
    /// Answers `explain`.
    ///
    /// # Errors
    /// When the id is not one, or no record of it is kept.
    pub fn explain(&self, query: &ExplainQuery, now_us: i64) -> Result<Explain, QueryError> {
        let id: RequestId = query
            .id
            .parse()
            .map_err(|error| QueryError::parameter("id", error))?;
        let own = self
            .store
            .get(id, SLACK_US)
            .map_err(|error| store_error(&error))?;
        let (Some(first_us), Some(last_us)) =
            (own.start_at_us.iter().min(), own.at_us.iter().max())
        else {
            return Err(self.not_found(id));
        };
        let (window, scanned, whole) = self.around(own.clone(), *first_us, *last_us)?;
        let tree = calltree::tree(&scanned.rows, id);
        let mut says = tree.says;
        if !whole {
            says.push_str("; too much happened around it to tell which calls belong to it");
        }
        let mut trust = self.trust(window, &scanned);
        trust.newest_age_ms = u64::try_from((now_us - last_us) / 1_000).ok();
        Ok(Explain {
            id: id.to_string(),
            hops: tree.hops.into_iter().map(hop).collect(),
            says,
            trust,
        })
    }

    /// Returns what happened around a request, and whether that could be read.
    fn around(
        &self,
        own: Rows,
        first_us: i64,
        last_us: i64,
    ) -> Result<(Window, Scanned, bool), QueryError> {
        let bounded = self
            .clone()
            .with_rows_max(self.rows_max.min(AROUND_ROWS_MAX));
        for (before_us, after_us) in AROUND_US {
            let window = Window {
                from_us: first_us.saturating_sub(before_us),
                until_us: last_us.saturating_add(after_us),
            };
            match bounded.rows(window, Filter::All, Columns::All) {
                Err(QueryError::TooLarge { .. }) => {}
                scanned => return Ok((window, scanned?, true)),
            }
        }
        let window = Window {
            from_us: first_us,
            until_us: last_us.saturating_add(1),
        };
        let scanned = Scanned {
            looked_at: own.len() as u64,
            complete: true,
            rows: own,
            ..Scanned::default()
        };
        Ok((window, scanned, false))
    }

    fn not_found(&self, id: RequestId) -> QueryError {
        let hint = match self.store.stats().oldest_us {
            None => "nothing is kept yet".to_owned(),
            Some(oldest_us) if id.start_us < oldest_us => format!(
                "it began at {}, and records are kept since {} only",
                format_utc(id.start_us),
                format_utc(oldest_us)
            ),
            Some(_) => "it is kept for as long as retention allows; if it is new, its proxy may \
                        not have sent it yet: `whodunit check` tells about dropped records"
                .to_owned(),
        };
        QueryError::NotFound {
            message: format!("no record of request {id}"),
            hint,
        }
    }
}

fn hop(found: TreeHop) -> Hop {
    Hop {
        id: found.id.to_string(),
        parent: found.parent,
        certainty: found.certainty,
        linked_by: match found.linked_by {
            Some(LinkedBy::Trace) => "trace".to_owned(),
            Some(LinkedBy::Timing) => "timing".to_owned(),
            None => String::new(),
        },
        outbound: found.outbound.map(shown),
        inbound: found.inbound.map(shown),
        offset_ms: ms(found.offset_us),
        duration_ms: ms(found.duration_us),
        network_ms: found.network_us.map(ms),
        self_ms: ms(found.self_us),
    }
}

fn shown(found: RequestRecord) -> Record {
    let rows: Rows = [found].into_iter().collect();
    record(&rows, 0)
}
