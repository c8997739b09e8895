//! Golden signals by workload, instance, service, namespace or route.
//!
//! Rows come from the records of the range; what is known of the mesh now adds
//! how many instances are meshed, open connections, and things without traffic.

use std::collections::BTreeMap;

use whodunit_analysis::stat::{self, By};
use whodunit_api::stat::{Stat, StatQuery, StatRow};
use whodunit_model::filter::Field;
use whodunit_model::route;
use whodunit_model::time::SECOND_US;

use super::record::ms;
use super::{Columns, Queries, QueryError, equals, wanted, window};
use crate::live::Live;
use crate::members::{Members, Things};

/// A range that ends this close to now shows the present.
const NOW_US: i64 = 2 * SECOND_US;

impl Queries {
    /// Answers `stat`.
    ///
    /// # Errors
    /// When the kind or the range is wrong, or the range holds too much.
    pub fn stat(&self, query: &StatQuery, now_us: i64) -> Result<Stat, QueryError> {
        let by = By::from_name(&query.kind).ok_or_else(|| {
            let shown: String = query.kind.chars().take(60).collect();
            let accepted = "workload, instance, service, namespace or route";
            QueryError::parameter("kind", format!("`{shown}` is not one of {accepted}"))
        })?;
        let window = window(&query.range, 60 * SECOND_US, now_us)?;
        let filter = equals(Field::From, query.from.as_ref())
            .and(equals(Field::To, query.to.as_ref()))
            .and(equals(Field::Namespace, query.namespace.as_ref()));
        let scanned = self.rows(window, filter, Columns::Signals)?;
        let trust = self.trust(window, &scanned);

        let is_present = now_us - window.until_us < NOW_US;
        let all = query.from.is_none() && query.to.is_none();
        let live = self.live.as_deref().filter(|_| is_present);
        let mut things = live.map_or_else(Things::default, |live| things(live, by, now_us));
        let mut rows = Vec::new();
        for found in stat::stat(&scanned.rows, window, by) {
            if wanted(query.namespace.as_ref(), &found.namespace)
                && (wanted(query.name.as_ref(), &found.name)
                    || by == By::Route && wanted(query.name.as_ref(), route::short(&found.name)))
            {
                let now = things.remove(&(found.namespace.clone(), found.name.clone()));
                rows.push(row(&query.kind, by, found, now.as_ref()));
            }
        }
        // With a question about edges, only what takes part in them is listed.
        if all {
            for ((namespace, name), members) in things {
                if wanted(query.namespace.as_ref(), &namespace)
                    && wanted(query.name.as_ref(), &name)
                {
                    rows.push(quiet(&query.kind, by, namespace, name, &members));
                }
            }
        }
        rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(Stat { rows, trust })
    }
}

/// Returns what the mesh has now, by namespace and name.
fn things(live: &Live, by: By, now_us: i64) -> Things {
    let members = Members::now(live, now_us);
    match by {
        By::Workload => members.workloads(),
        By::Instance => members.instances(),
        By::Service => members.services(),
        By::Namespace => members.namespaces(),
        By::Route => BTreeMap::new(),
    }
}

fn row(kind: &str, by: By, found: stat::StatRow, now: Option<&Members>) -> StatRow {
    StatRow {
        namespace: found.namespace,
        kind: kind.to_owned(),
        name: found.name,
        meshed: match now {
            Some(members) => members.meshed(),
            None if by == By::Route || found.instances == 0 => "-".to_owned(),
            None => format!("{}/{}", found.instances_meshed, found.instances),
        },
        requests: found.requests,
        success: found.success,
        rps: found.rps,
        latency_ms_p50: found.latency.p50_us.map(ms),
        latency_ms_p95: found.latency.p95_us.map(ms),
        latency_ms_p99: found.latency.p99_us.map(ms),
        exact: true,
        tcp_open_connections: now.and_then(|members| members.open_connections(by)),
        failed: found.failed,
        client_errors: found.client_errors,
        open: found.open,
        request_bytes_rate: found.request_bytes_rate,
        response_bytes_rate: found.response_bytes_rate,
    }
}

/// Returns the row of something that had no traffic.
fn quiet(kind: &str, by: By, namespace: String, name: String, members: &Members) -> StatRow {
    StatRow {
        namespace,
        kind: kind.to_owned(),
        name,
        meshed: members.meshed(),
        exact: true,
        tcp_open_connections: members.open_connections(by),
        ..StatRow::default()
    }
}
