//! Golden signals per route of each workload.

use whodunit_model::{Cause, Rows, Symbol};

use crate::numbers::Quantiles;
use crate::stat::{service_names, success};
use crate::symbols::{FastMap, Name};
use crate::window::Window;

/// Golden signals of one route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRow {
    /// Route, whole.
    pub route: String,
    /// Namespace of the callee.
    pub namespace: String,
    /// Workload that serves it, or the name of a service outside the mesh.
    pub workload: String,
    /// Service name used by callers, may be empty.
    pub service: String,
    /// Finished requests.
    pub requests: u64,
    /// Failed requests.
    pub failed: u64,
    /// Share that did not fail, 0 to 1; none without requests.
    pub success: Option<f64>,
    /// Requests per second over the window.
    pub rps: f64,
    /// Exact latency quantiles.
    pub latency: Quantiles,
    /// Sum of all durations, µs.
    pub total_us: i64,
    /// Most frequent cause of failure; [`Cause::None`] if none failed.
    pub cause: Cause,
}

#[derive(Default)]
struct Group {
    failed: u64,
    total_us: i64,
    latencies: Vec<i64>,
    causes: FastMap<u8, u64>,
}

/// Returns the routes of every callee in `window`: most failed requests first,
/// then most time spent, then by name. Each call counts once.
#[must_use]
pub fn routes(rows: &Rows, window: Window) -> Vec<RouteRow> {
    let services = service_names(rows);
    let mut groups: FastMap<(Name, Symbol), Group> = FastMap::default();
    for row in 0..rows.len() {
        if !window.contains(rows.at_us[row]) || !rows.counts_once(row) {
            continue;
        }
        let group = groups
            .entry((Name::destination(rows, row), rows.route[row]))
            .or_default();
        group.total_us = group.total_us.saturating_add(rows.duration_us[row].max(0));
        group.latencies.push(rows.latency_us[row]);
        if rows.failed(row) {
            group.failed += 1;
            *group.causes.entry(rows.cause[row].number()).or_default() += 1;
        }
    }
    let mut answer: Vec<RouteRow> = groups
        .into_iter()
        .map(|((name, route), mut group)| {
            let requests = group.latencies.len() as u64;
            let (namespace, workload) = name.texts(rows);
            let service = services.get(&name).map_or("", |name| rows.text(*name));
            RouteRow {
                route: rows.text(route).to_owned(),
                namespace: namespace.to_owned(),
                workload: workload.to_owned(),
                service: service.to_owned(),
                requests,
                failed: group.failed,
                success: success(requests, group.failed),
                rps: window.rate(requests),
                latency: Quantiles::of(&mut group.latencies),
                total_us: group.total_us,
                cause: top_cause(&group.causes),
            }
        })
        .collect();
    answer.sort_unstable_by(|a, b| {
        (b.failed, b.total_us)
            .cmp(&(a.failed, a.total_us))
            .then_with(|| {
                (&a.namespace, &a.workload, &a.route).cmp(&(&b.namespace, &b.workload, &b.route))
            })
    });
    answer
}

/// The most frequent cause, the smaller number among equals.
fn top_cause(causes: &FastMap<u8, u64>) -> Cause {
    causes
        .iter()
        .max_by_key(|(number, count)| (**count, u8::MAX - **number))
        .and_then(|(number, _)| Cause::from_number(*number))
        .unwrap_or(Cause::None)
}

#[cfg(test)]
mod tests;
