//! Who calls whom.

use whodunit_analysis::edges;
use whodunit_api::edges::{EdgeRow, Edges, EdgesQuery};
use whodunit_model::filter::Field;
use whodunit_model::time::SECOND_US;

use super::record::ms;
use super::{Columns, Queries, QueryError, equals, wanted, window};

impl Queries {
    /// Answers `edges`.
    ///
    /// # Errors
    /// When the range is wrong or holds too much.
    pub fn edges(&self, query: &EdgesQuery, now_us: i64) -> Result<Edges, QueryError> {
        let window = window(&query.range, 60 * SECOND_US, now_us)?;
        let filter = equals(Field::Namespace, query.namespace.as_ref());
        let scanned = self.rows(window, filter, Columns::Edges)?;
        let name = query.name.as_ref();
        let rows = edges::edges(&scanned.rows, window)
            .into_iter()
            .filter(|edge| wanted(name, &edge.src) || wanted(name, &edge.dst))
            .map(row)
            .collect();
        let trust = self.trust(window, &scanned);
        Ok(Edges { rows, trust })
    }
}

fn row(found: edges::EdgeRow) -> EdgeRow {
    EdgeRow {
        src: found.src,
        src_namespace: found.src_namespace,
        dst: found.dst,
        dst_namespace: found.dst_namespace,
        secured: found.secured,
        client_id: found.client_id,
        server_id: found.server_id,
        requests: found.requests,
        failed: found.failed,
        success: found.success,
        rps: found.rps,
        latency_ms_p50: found.latency.p50_us.map(ms),
        latency_ms_p99: found.latency.p99_us.map(ms),
        network_ms_p50: found.network_p50_us.map(ms),
    }
}
