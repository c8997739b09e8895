//! Golden signals per route of a workload.

use whodunit_analysis::routes;
use whodunit_api::routes::{RouteRow, Routes, RoutesQuery};
use whodunit_model::Cause;
use whodunit_model::filter::Field;
use whodunit_model::time::SECOND_US;

use super::record::ms;
use super::{Columns, Queries, QueryError, equals, window};

impl Queries {
    /// Answers `routes`.
    ///
    /// # Errors
    /// When the range is wrong or holds too much.
    pub fn routes(&self, query: &RoutesQuery, now_us: i64) -> Result<Routes, QueryError> {
        let window = window(&query.range, 60 * SECOND_US, now_us)?;
        let filter = equals(Field::To, query.name.as_ref())
            .and(equals(Field::ToNamespace, query.namespace.as_ref()))
            .and(equals(Field::From, query.from.as_ref()));
        let scanned = self.rows(window, filter, Columns::Signals)?;
        let rows = routes::routes(&scanned.rows, window)
            .into_iter()
            .map(row)
            .collect();
        let trust = self.trust(window, &scanned);
        Ok(Routes { rows, trust })
    }
}

fn row(found: routes::RouteRow) -> RouteRow {
    RouteRow {
        route: found.route,
        namespace: found.namespace,
        workload: found.workload,
        service: found.service,
        requests: found.requests,
        failed: found.failed,
        success: found.success,
        rps: found.rps,
        latency_ms_p50: found.latency.p50_us.map(ms),
        latency_ms_p95: found.latency.p95_us.map(ms),
        latency_ms_p99: found.latency.p99_us.map(ms),
        exact: true,
        cause: match found.cause {
            Cause::None => String::new(),
            cause => cause.name().to_owned(),
        },
    }
}
