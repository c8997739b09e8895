//! One request and the calls it made: the call tree.
//!
//! Hops are calls joined from both sides by id. The parent of a hop is the request
//! that the calling instance was serving on its behalf: by trace id where the
//! application passes one along (certainty 1), else by the moment. Candidates are
//! weighted by how tightly they enclose the call, by how often their route makes
//! such calls, and by whether they failed together; certainty is the chosen one's
//! share of the weights.
//!
//! Offsets never compare two machines' clocks: a call begins at its offset within
//! the request it was made for, by the clock of the instance that made it; what
//! the callee does begins when the call began, plus half of the time on the way.

use whodunit_model::outcome::grpc_status_name;
use whodunit_model::route::short;
use whodunit_model::{Cause, Origin, RequestId, RequestRecord, Rows};

use crate::culprit::blame::{Blame, DEPTH_MAX};
use crate::hops::Hops;
pub use crate::hops::LinkedBy;
use crate::window::Window;

/// Most hops of a tree; further ones are left out.
pub const HOPS_MAX: usize = 1_000;

/// One call of the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeHop {
    /// Its id.
    pub id: RequestId,
    /// Index of the parent in [`Tree::hops`]; none for the root.
    pub parent: Option<usize>,
    /// How certain the parent is, 0 to 1; 1 for the root.
    pub certainty: f64,
    /// How the parent was found; none for the root.
    pub linked_by: Option<LinkedBy>,
    /// The caller's record.
    pub outbound: Option<RequestRecord>,
    /// The callee's record.
    pub inbound: Option<RequestRecord>,
    /// Begins this long after the root, µs.
    pub offset_us: i64,
    /// Duration as the caller saw it, µs.
    pub duration_us: i64,
    /// Time between the two proxies, µs; none with one side only.
    pub network_us: Option<i64>,
    /// Time the callee did not spend waiting for the calls below, µs.
    pub self_us: i64,
}

/// A request and the calls made on its behalf.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// Parents before children, the first one is the root. Empty if the id is not in the rows.
    pub hops: Vec<TreeHop>,
    /// Index of the hop that was asked for.
    pub asked: usize,
    /// One sentence: what happened to this request and where it began.
    pub says: String,
}

/// Builds the call tree around request `id` from rows that contain it and whatever
/// happened around it: the tree's root is the outermost request it can be traced to.
#[must_use]
pub fn tree(rows: &Rows, id: RequestId) -> Tree {
    let hops = Hops::new(rows, Window::ALL, true);
    // Of several hops with one id the one the caller got is asked for.
    let asked = (0..hops.len())
        .filter(|&hop| hops.hops[hop].id == id)
        .min_by_key(|&hop| hops.hops[hop].standing.number());
    let Some(asked) = asked else {
        return Tree {
            says: format!("no record of request {id}"),
            ..Tree::default()
        };
    };
    let mut root = asked;
    let mut climbed = vec![root];
    while let Some(parent) = hops.parents[root] {
        if climbed.len() > DEPTH_MAX || climbed.contains(&parent.hop) {
            break;
        }
        root = parent.hop;
        climbed.push(root);
    }
    let mut tree = Tree {
        hops: vec![tree_hop(&hops, root, None, 0)],
        ..Tree::default()
    };
    let mut order = vec![root];
    let mut seen: std::collections::BTreeSet<usize> = [root].into();
    let mut next = 0;
    while next < order.len() {
        for &child in hops.children(order[next]) {
            if order.len() < HOPS_MAX && seen.insert(child) {
                let offset_us = offset_us(&hops, order[next], tree.hops[next].offset_us, child);
                tree.hops
                    .push(tree_hop(&hops, child, Some(next), offset_us));
                order.push(child);
            }
        }
        next += 1;
    }
    // A branch that the bound cut off may hold the one asked for.
    tree.asked = order
        .iter()
        .position(|&hop| hop == asked)
        .unwrap_or_default();
    tree.says = says(&hops, asked);
    tree
}

fn tree_hop(hops: &Hops<'_>, hop: usize, parent: Option<usize>, offset_us: i64) -> TreeHop {
    let joined = &hops.hops[hop];
    let link = parent.and(hops.parents[hop]);
    let inbound_us = joined.inbound.map(|row| hops.rows.duration_us[row].max(0));
    let length_us = inbound_us.unwrap_or_else(|| hops.duration_us(hop));
    TreeHop {
        id: joined.id,
        parent,
        certainty: link.map_or(1.0, |link| link.certainty),
        linked_by: link.map(|link| link.linked_by),
        outbound: joined.outbound.map(|row| hops.rows.record(row)),
        inbound: joined.inbound.map(|row| hops.rows.record(row)),
        offset_us,
        duration_us: hops.duration_us(hop),
        network_us: hops.network_us(hop),
        self_us: hops.self_us(hop, length_us),
    }
}

/// Offset of `child` from the root, given its parent's.
fn offset_us(hops: &Hops<'_>, parent: usize, parent_offset_us: i64, child: usize) -> i64 {
    let way_us = hops.network_us(parent).unwrap_or_default().max(0) / 2;
    let served = hops.hops[parent].callee_row();
    let made = hops.hops[child].row();
    let within_us = hops.rows.start_at_us[made].saturating_sub(hops.rows.start_at_us[served]);
    parent_offset_us
        .saturating_add(way_us)
        .saturating_add(within_us)
}

/// What happened to a request, in one sentence.
fn says(hops: &Hops<'_>, hop: usize) -> String {
    let what = described(hops, hop);
    let row = hops.hops[hop].row();
    if !hops.rows.is_final(row) && !hops.rows.failed(row) {
        let open_us = hops.rows.duration_us[row].max(0);
        return format!("{what} is still open after {}", milliseconds(open_us));
    }
    if !hops.rows.failed(row) {
        let took = milliseconds(hops.duration_us(hop));
        let status = hops.rows.status[row];
        return if hops.rows.client_error[row] {
            format!("{what} was answered {status} (the caller's mistake) in {took}")
        } else {
            format!("{what} succeeded in {took}")
        };
    }
    let failed = format!("{what} failed {}", how(hops, hop));
    let blame = Blame::new(hops);
    let mut chain = vec![hop];
    while let Some(next) = blame.because[chain[chain.len() - 1]] {
        if chain.len() > DEPTH_MAX || chain.contains(&next) {
            break;
        }
        chain.push(next);
    }
    let Some(&last) = chain.get(1).and(chain.last()) else {
        return match own_reason(hops, hop) {
            Some(reason) => format!("{failed}: {reason}"),
            None => failed,
        };
    };
    let caller = name_of(hops.hops[last].caller.texts(hops.rows).1);
    format!(
        "{failed} because {caller}'s call to {} {}",
        described(hops, last),
        how(hops, last)
            .replace("with ", "answered ")
            .replace("because ", "failed: ")
    )
}

fn name_of(workload: &str) -> &str {
    if workload.is_empty() {
        "somebody"
    } else {
        workload
    }
}

fn described(hops: &Hops<'_>, hop: usize) -> String {
    let (_, workload) = hops.hops[hop].callee.texts(hops.rows);
    let route = short(hops.text(hops.hops[hop].route));
    match (workload, route) {
        ("", "") => "the request".to_owned(),
        (workload, "") => workload.to_owned(),
        ("", route) => route.to_owned(),
        (workload, route) => format!("{workload} {route}"),
    }
}

/// `with 500`, `with gRPC UNKNOWN`, `because the connection was refused`.
fn how(hops: &Hops<'_>, hop: usize) -> String {
    let rows = hops.rows;
    let sides = [hops.hops[hop].outbound, hops.hops[hop].inbound];
    let row = sides
        .into_iter()
        .flatten()
        .find(|&row| rows.failed(row))
        .unwrap_or_else(|| hops.hops[hop].row());
    let cause = rows.cause[row];
    match (cause, rows.grpc_status[row], rows.status[row]) {
        (Cause::AppGrpcStatus, Some(code), _) => format!("with gRPC {}", grpc_status_name(code)),
        (Cause::AppHttp5xx, _, status) => format!("with {status}"),
        _ => format!("because {}", cause.explanation()),
    }
}

/// Why a request failed that nothing below explains, if there is more to say than the cause.
fn own_reason(hops: &Hops<'_>, hop: usize) -> Option<String> {
    let rows = hops.rows;
    let joined = &hops.hops[hop];
    let (_, workload) = joined.callee.texts(rows);
    let callee = name_of(workload);
    let at_callee = joined.inbound.filter(|&row| rows.failed(row));
    let origin = at_callee
        .or(joined.outbound)
        .map_or(Origin::None, |row| rows.origin[row]);
    let made = hops.children(hop).len();
    Some(match origin {
        // The cause says it all.
        Origin::Client => return None,
        Origin::ClientProxy => "the proxy beside its caller gave up".to_owned(),
        Origin::Network => format!("it broke on the way to {callee}"),
        Origin::ServerProxy => format!("the proxy beside {callee} refused it"),
        Origin::Server | Origin::None if made > 0 => {
            format!("it began in {callee} itself, none of the {made} calls it made explains it")
        }
        Origin::Server | Origin::None => format!("it began in {callee} itself"),
    })
}

fn milliseconds(us: i64) -> String {
    format!("{}.{} ms", us / 1_000, us % 1_000 / 100)
}

#[cfg(test)]
mod tests;
