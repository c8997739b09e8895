//! Who calls whom.
//!
//! A call is what its caller's proxy recorded; where the caller has none, what
//! the callee's proxy recorded, with an empty source: outside the mesh.

use whodunit_model::{Rows, Side, TlsState};

use crate::hops::compare_rows;
use crate::numbers::{Quantiles, median};
use crate::stat::success;
use crate::symbols::{FastMap, Name, Votes};
use crate::window::Window;

/// One edge of the call graph.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeRow {
    /// Calling workload; empty for callers outside the mesh.
    pub src: String,
    /// Its namespace.
    pub src_namespace: String,
    /// Called workload, or the name of a service outside the mesh.
    pub dst: String,
    /// Its namespace.
    pub dst_namespace: String,
    /// Whether every call was encrypted by the mesh.
    pub secured: bool,
    /// Identity of the client by certificate, may be empty.
    pub client_id: String,
    /// Identity of the server by certificate, may be empty.
    pub server_id: String,
    /// Finished calls.
    pub requests: u64,
    /// Failed calls, as the caller saw them.
    pub failed: u64,
    /// Share that did not fail, 0 to 1; none without calls.
    pub success: Option<f64>,
    /// Calls per second over the window.
    pub rps: f64,
    /// Exact latency quantiles as the caller saw them.
    pub latency: Quantiles,
    /// Median of the caller's duration minus the callee's, µs, over calls that
    /// both sides recorded; none without such calls.
    pub network_p50_us: Option<i64>,
}

#[derive(Default)]
struct Group {
    failed: u64,
    unsecured: bool,
    clients: Votes,
    servers: Votes,
    latencies: Vec<i64>,
    network: Vec<i64>,
}

/// Returns the edges of `window`, ordered by source, then destination.
#[must_use]
pub fn edges(rows: &Rows, window: Window) -> Vec<EdgeRow> {
    let mut groups: FastMap<(Name, Name), Group> = FastMap::default();
    for (outbound, inbound) in calls(rows, window) {
        let Some(row) = outbound.or(inbound) else {
            continue;
        };
        // The callee knows its own name best.
        let destination = match inbound {
            Some(inbound) if !rows.dst_workload[inbound].is_empty() => {
                Name::destination(rows, inbound)
            }
            _ => Name::destination(rows, row),
        };
        let group = groups
            .entry((Name::source(rows, row), destination))
            .or_default();
        group.failed += u64::from(rows.failed(row));
        group.latencies.push(rows.latency_us[row]);
        for side in [outbound, inbound].into_iter().flatten() {
            group.unsecured |= rows.tls[side] != TlsState::Mutual;
        }
        if let Some(outbound) = outbound {
            group.servers.add(rows.peer_identity[outbound]);
        }
        if let Some(inbound) = inbound {
            group.clients.add(rows.peer_identity[inbound]);
        }
        if let (Some(outbound), Some(inbound)) = (outbound, inbound) {
            let network = rows.duration_us[outbound].saturating_sub(rows.duration_us[inbound]);
            group.network.push(network);
        }
    }
    let mut answer: Vec<EdgeRow> = groups
        .into_iter()
        .map(|((source, destination), mut group)| {
            let requests = group.latencies.len() as u64;
            let (src_namespace, src) = source.texts(rows);
            let (dst_namespace, dst) = destination.texts(rows);
            EdgeRow {
                src: src.to_owned(),
                src_namespace: src_namespace.to_owned(),
                dst: dst.to_owned(),
                dst_namespace: dst_namespace.to_owned(),
                secured: !group.unsecured,
                client_id: rows.text(group.clients.winner(rows)).to_owned(),
                server_id: rows.text(group.servers.winner(rows)).to_owned(),
                requests,
                failed: group.failed,
                success: success(requests, group.failed),
                rps: window.rate(requests),
                latency: Quantiles::of(&mut group.latencies),
                network_p50_us: median(&mut group.network),
            }
        })
        .collect();
    answer.sort_unstable_by(|a, b| {
        (&a.src_namespace, &a.src, &a.dst_namespace, &a.dst).cmp(&(
            &b.src_namespace,
            &b.src,
            &b.dst_namespace,
            &b.dst,
        ))
    });
    answer
}

/// The finished calls of `window`, each once: the caller's row and the callee's, joined by id.
///
/// Several inbound rows of one id (tries of a retried request) belong to one call;
/// the last of them is the one its caller got.
fn calls(rows: &Rows, window: Window) -> Vec<(Option<usize>, Option<usize>)> {
    let mut order: Vec<usize> = (0..rows.len())
        .filter(|&row| rows.is_final(row) && !rows.probe[row] && window.contains(rows.at_us[row]))
        .collect();
    order.sort_unstable_by(|&a, &b| compare_rows(rows, a, b));
    let mut calls = Vec::with_capacity(order.len());
    for call in order.chunk_by(|&a, &b| rows.id[a] == rows.id[b]) {
        let last = |side: Side| {
            call.iter()
                .rev()
                .copied()
                .find(|&row| rows.side[row] == side)
        };
        calls.push((last(Side::Outbound), last(Side::Inbound)));
    }
    calls
}

#[cfg(test)]
mod tests;
