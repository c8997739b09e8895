//! What is going on: calls grouped by source, destination, method and path.

use whodunit_model::{Rows, Symbol};

use crate::numbers::ratio;
use crate::symbols::{FastMap, Name};
use crate::window::Window;

/// Most rows of an answer.
pub const ROWS_MAX: usize = 200;

/// What the last column of a group is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// The path without its query.
    #[default]
    Path,
    /// The route.
    Route,
}

/// One group of calls.
#[derive(Clone, Debug, PartialEq)]
pub struct TopRow {
    /// Namespace of the caller.
    pub source_namespace: String,
    /// Calling workload, empty for callers outside the mesh.
    pub source: String,
    /// Namespace of the callee.
    pub destination_namespace: String,
    /// Called workload, or the name of a service outside the mesh.
    pub destination: String,
    /// HTTP method.
    pub method: String,
    /// Path without its query, or route.
    pub path: String,
    /// Calls.
    pub count: u64,
    /// Fastest, µs.
    pub best_us: i64,
    /// Slowest, µs.
    pub worst_us: i64,
    /// Latest, µs.
    pub last_us: i64,
    /// Share that did not fail, 0 to 1.
    pub success: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'a> {
    source: Name,
    destination: Name,
    method: Symbol,
    /// Paths that differ only in their query share a text.
    path: &'a str,
}

struct Group {
    count: u64,
    failed: u64,
    best_us: i64,
    worst_us: i64,
    last: (i64, i64),
}

/// Groups the calls of `window`, each counted once; busiest first, at most [`ROWS_MAX`].
#[must_use]
pub fn top(rows: &Rows, window: Window, grouping: Grouping) -> Vec<TopRow> {
    // Symbols first, texts once per distinct symbol: no string is looked at per row.
    let mut by_symbol: FastMap<(Name, Name, Symbol, Symbol), Group> = FastMap::default();
    for row in 0..rows.len() {
        if !window.contains(rows.at_us[row]) || !rows.counts_once(row) {
            continue;
        }
        let path = match grouping {
            Grouping::Path => rows.path[row],
            Grouping::Route => rows.route[row],
        };
        let key = (
            Name::source(rows, row),
            Name::destination(rows, row),
            rows.method[row],
            path,
        );
        let latency_us = rows.latency_us[row];
        let one = Group {
            count: 1,
            failed: u64::from(rows.failed(row)),
            best_us: latency_us,
            worst_us: latency_us,
            last: (rows.at_us[row], latency_us),
        };
        by_symbol
            .entry(key)
            .and_modify(|group| group.merge(&one))
            .or_insert(one);
    }
    let mut groups: FastMap<Key<'_>, Group> = FastMap::default();
    for ((source, destination, method, path), group) in by_symbol {
        let text = rows.text(path);
        let path = match grouping {
            Grouping::Path => text.split('?').next().unwrap_or_default(),
            Grouping::Route => text,
        };
        let key = Key {
            source,
            destination,
            method,
            path,
        };
        groups
            .entry(key)
            .and_modify(|known| known.merge(&group))
            .or_insert(group);
    }
    answer(rows, groups)
}

impl Group {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.failed += other.failed;
        self.best_us = self.best_us.min(other.best_us);
        self.worst_us = self.worst_us.max(other.worst_us);
        self.last = self.last.max(other.last);
    }
}

fn answer(rows: &Rows, groups: FastMap<Key<'_>, Group>) -> Vec<TopRow> {
    let mut groups: Vec<(Key<'_>, Group)> = groups.into_iter().collect();
    groups.sort_unstable_by(|(a, a_group), (b, b_group)| {
        let texts = |key: &Key<'_>| {
            let (source, destination) = (key.source.texts(rows), key.destination.texts(rows));
            (
                source.1,
                source.0,
                destination.1,
                destination.0,
                rows.text(key.method),
            )
        };
        b_group
            .count
            .cmp(&a_group.count)
            .then_with(|| (texts(a), a.path).cmp(&(texts(b), b.path)))
    });
    groups.truncate(ROWS_MAX);
    groups
        .into_iter()
        .map(|(key, group)| {
            let (source_namespace, source) = key.source.texts(rows);
            let (destination_namespace, destination) = key.destination.texts(rows);
            TopRow {
                source_namespace: source_namespace.to_owned(),
                source: source.to_owned(),
                destination_namespace: destination_namespace.to_owned(),
                destination: destination.to_owned(),
                method: rows.text(key.method).to_owned(),
                path: key.path.to_owned(),
                count: group.count,
                best_us: group.best_us,
                worst_us: group.worst_us,
                last_us: group.last.1,
                success: ratio(group.count - group.failed, group.count),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
