//! What is going on right now, grouped.

use whodunit_analysis::top::{self, Grouping};
use whodunit_api::top::{Top, TopQuery, TopRow};
use whodunit_model::filter::{Field, Filter};
use whodunit_model::time::SECOND_US;

use super::record::ms;
use super::{Columns, Queries, QueryError, equals, window};

impl Queries {
    /// Answers `top`.
    ///
    /// # Errors
    /// When the range is wrong or holds too much.
    pub fn top(&self, query: &TopQuery, now_us: i64) -> Result<Top, QueryError> {
        let window = window(&query.range, 60 * SECOND_US, now_us)?;
        let touches = query.name.as_ref().map_or(Filter::All, |name| {
            Filter::Or(vec![
                Filter::text(Field::From, name),
                Filter::text(Field::To, name),
            ])
        });
        let filter = touches.and(equals(Field::Namespace, query.namespace.as_ref()));
        let scanned = self.rows(window, filter, Columns::Top)?;
        let grouping = if query.routes {
            Grouping::Route
        } else {
            Grouping::Path
        };
        let rows = top::top(&scanned.rows, window, grouping)
            .into_iter()
            .map(row)
            .collect();
        let trust = self.trust(window, &scanned);
        Ok(Top { rows, trust })
    }
}

fn row(found: top::TopRow) -> TopRow {
    TopRow {
        source: found.source,
        destination: found.destination,
        method: found.method,
        path: found.path,
        count: found.count,
        best_ms: ms(found.best_us),
        worst_ms: ms(found.worst_us),
        last_ms: ms(found.last_us),
        success: found.success,
    }
}
