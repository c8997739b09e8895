//! Golden signals by workload, instance, service, namespace or route.
//!
//! Each call is counted once ([`Rows::counts_once`]): where it was received, or
//! where it was made when the callee has no proxy of ours. Quantiles are exact.
//! Things that only call others are listed too, without requests.

use whodunit_model::{Kind, RequestId, Rows, Side, Symbol, Twin};

use crate::hops::compare_rows;
use crate::numbers::{Quantiles, ratio};
use crate::symbols::{FastMap, FastSet, Name, Votes, reporter};
use crate::window::Window;

/// What the rows of the answer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Workloads.
    Workload,
    /// Instances of workloads.
    Instance,
    /// Services: the names callers use. Callees outside the mesh appear here.
    Service,
    /// Namespaces.
    Namespace,
    /// Routes of workloads (of services outside the mesh).
    Route,
}

impl By {
    /// Returns the grouping with this name: `workload`, `instance`, `service`, `namespace` or `route`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "workload" => Self::Workload,
            "instance" => Self::Instance,
            "service" => Self::Service,
            "namespace" => Self::Namespace,
            "route" => Self::Route,
            _ => return None,
        })
    }
}

/// Golden signals of one thing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatRow {
    /// Namespace.
    pub namespace: String,
    /// Workload that serves it; empty for services and namespaces.
    pub workload: String,
    /// Name of the thing.
    pub name: String,
    /// Finished requests.
    pub requests: u64,
    /// Failed requests.
    pub failed: u64,
    /// Requests answered with a 4xx.
    pub client_errors: u64,
    /// Share of requests that did not fail, 0 to 1; none without requests.
    pub success: Option<f64>,
    /// Requests per second over the window.
    pub rps: f64,
    /// Exact latency quantiles.
    pub latency: Quantiles,
    /// Requests that were open for more than a second and had not ended at the end of the window.
    pub open: u64,
    /// Request body bytes per second over the window.
    pub request_bytes_rate: f64,
    /// Response body bytes per second over the window.
    pub response_bytes_rate: f64,
    /// Distinct instances seen in the window, as caller or callee.
    pub instances: u64,
    /// How many of these recorded something themselves: they have a proxy of ours.
    pub instances_meshed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    namespace: Symbol,
    workload: Symbol,
    name: Symbol,
}

#[derive(Default)]
struct Group {
    requests: u64,
    failed: u64,
    client_errors: u64,
    open: u64,
    request_bytes: u64,
    response_bytes: u64,
    latencies: Vec<i64>,
}

/// Groups the rows of `window` and returns golden signals, ordered by namespace, workload and name.
#[must_use]
pub fn stat(rows: &Rows, window: Window, by: By) -> Vec<StatRow> {
    let services = match by {
        By::Service => service_names(rows),
        _ => FastMap::default(),
    };
    let mut groups: Groups = Groups::default();
    let mut open = OpenRows::default();
    for row in 0..rows.len() {
        if rows.probe[row] || !window.contains(rows.at_us[row]) {
            continue;
        }
        open.see(rows, row);
        if !rows.is_final(row) {
            continue;
        }
        let (name, instance) = reporter(rows, row);
        let reported = place(by, name, instance);
        if let Some(key) = reported {
            groups.touch(key).1.insert((name, instance), true);
        }
        if !rows.counts_once(row) {
            continue;
        }
        let Some(key) = callee(rows, row, by, &services) else {
            continue;
        };
        let (group, instances) = groups.touch(key);
        group.requests += 1;
        group.failed += u64::from(rows.failed(row));
        group.client_errors += u64::from(rows.client_error[row]);
        group.request_bytes = group.request_bytes.saturating_add(rows.request_bytes[row]);
        group.response_bytes = group
            .response_bytes
            .saturating_add(rows.response_bytes[row]);
        group.latencies.push(rows.latency_us[row]);
        if !rows.dst_instance[row].is_empty() {
            let called = (Name::destination(rows, row), rows.dst_instance[row]);
            let meshed = instances.entry(called).or_default();
            *meshed |= rows.side[row] == Side::Inbound;
        }
    }
    for row in open.still_open(rows) {
        if let Some(key) = callee(rows, row, by, &services) {
            groups.touch(key).0.open += 1;
        }
    }
    groups.answer(rows, window)
}

/// Instances of a group, and whether each has a proxy of ours.
type Instances = FastMap<(Name, Symbol), bool>;

#[derive(Default)]
struct Groups {
    index: FastMap<Key, usize>,
    groups: Vec<(Key, Group, Instances)>,
}

impl Groups {
    fn touch(&mut self, key: Key) -> (&mut Group, &mut Instances) {
        let next = self.groups.len();
        let index = *self.index.entry(key).or_insert(next);
        if index == next {
            self.groups
                .push((key, Group::default(), Instances::default()));
        }
        let (_, group, instances) = &mut self.groups[index];
        (group, instances)
    }

    fn answer(self, rows: &Rows, window: Window) -> Vec<StatRow> {
        let mut answer: Vec<StatRow> = self
            .groups
            .into_iter()
            .map(|(key, mut group, instances)| StatRow {
                namespace: rows.text(key.namespace).to_owned(),
                workload: rows.text(key.workload).to_owned(),
                name: rows.text(key.name).to_owned(),
                requests: group.requests,
                failed: group.failed,
                client_errors: group.client_errors,
                success: success(group.requests, group.failed),
                rps: window.rate(group.requests),
                latency: Quantiles::of(&mut group.latencies),
                open: group.open,
                request_bytes_rate: window.rate(group.request_bytes),
                response_bytes_rate: window.rate(group.response_bytes),
                instances: instances.len() as u64,
                instances_meshed: instances.values().filter(|meshed| **meshed).count() as u64,
            })
            .collect();
        answer.sort_unstable_by(|a, b| {
            (&a.namespace, &a.workload, &a.name).cmp(&(&b.namespace, &b.workload, &b.name))
        });
        answer
    }
}

/// Share of requests that did not fail; none without requests.
pub(crate) fn success(requests: u64, failed: u64) -> Option<f64> {
    (requests > 0).then(|| ratio(requests - failed, requests))
}

/// Where the maker of a record is listed even if nobody calls it. None where it
/// would not be listed: services and routes exist by being called.
fn place(by: By, workload: Name, instance: Symbol) -> Option<Key> {
    if workload.name.is_empty() {
        return None;
    }
    let (owner, name) = match by {
        By::Workload => (workload.name, workload.name),
        By::Instance if instance.is_empty() => return None,
        By::Instance => (workload.name, instance),
        By::Namespace => (Symbol::EMPTY, workload.namespace),
        By::Service | By::Route => return None,
    };
    Some(Key {
        namespace: workload.namespace,
        workload: owner,
        name,
    })
}

/// Where a counted call is listed.
fn callee(rows: &Rows, row: usize, by: By, services: &FastMap<Name, Symbol>) -> Option<Key> {
    let destination = Name::destination(rows, row);
    let workload = rows.dst_workload[row];
    let (owner, name) = match by {
        // What is not a workload is no row among workloads.
        By::Workload if workload.is_empty() => return None,
        By::Workload => (workload, workload),
        By::Instance if rows.dst_instance[row].is_empty() => return None,
        By::Instance => (destination.name, rows.dst_instance[row]),
        By::Namespace => (Symbol::EMPTY, destination.namespace),
        By::Route => (destination.name, rows.route[row]),
        By::Service => {
            let called = rows.service[row];
            let name = if called.is_empty() {
                services
                    .get(&destination)
                    .copied()
                    .unwrap_or(destination.name)
            } else {
                called
            };
            (Symbol::EMPTY, name)
        }
    };
    Some(Key {
        namespace: destination.namespace,
        workload: owner,
        name,
    })
}

/// The service name each workload is mostly called by.
///
/// A caller outside the mesh does not tell the callee's proxy which name it used.
pub(crate) fn service_names(rows: &Rows) -> FastMap<Name, Symbol> {
    let mut votes: FastMap<Name, Votes> = FastMap::default();
    for row in 0..rows.len() {
        if rows.is_final(row) && !rows.service[row].is_empty() {
            let name = Name::destination(rows, row);
            votes.entry(name).or_default().add(rows.service[row]);
        }
    }
    votes
        .into_iter()
        .map(|(name, votes)| (name, votes.winner(rows)))
        .collect()
}

/// Finds requests that are open at the end of the window.
#[derive(Default)]
struct OpenRows {
    latest: FastMap<(RequestId, Side), usize>,
    ended: FastSet<RequestId>,
}

impl OpenRows {
    fn see(&mut self, rows: &Rows, row: usize) {
        if rows.kind[row] == Kind::Open {
            let latest = self
                .latest
                .entry((rows.id[row], rows.side[row]))
                .or_insert(row);
            let later = (rows.at_us[row].cmp(&rows.at_us[*latest]))
                .then_with(|| compare_rows(rows, row, *latest));
            if later.is_gt() {
                *latest = row;
            }
        }
    }

    /// The latest row of each open request, each request once.
    fn still_open(mut self, rows: &Rows) -> Vec<usize> {
        if self.latest.is_empty() {
            return Vec::new();
        }
        for row in 0..rows.len() {
            if rows.is_final(row) {
                self.ended.insert(rows.id[row]);
            }
        }
        let counted = |((id, side), row): (&(RequestId, Side), &usize)| {
            let once = *side == Side::Inbound
                || (rows.twin[*row] != Twin::Yes
                    && !self.latest.contains_key(&(*id, Side::Inbound)));
            (once && !self.ended.contains(id)).then_some(*row)
        };
        self.latest.iter().filter_map(counted).collect()
    }
}

#[cfg(test)]
mod tests;
