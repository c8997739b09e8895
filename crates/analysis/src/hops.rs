//! Calls joined from both sides, and which call was made on behalf of which.
//!
//! A hop is one call: the caller's row and the callee's row with the same id.
//! The parent of a call made by an instance is a request that the same instance
//! was serving at that moment. Both were recorded by one proxy, hence by one
//! clock, so "at that moment" is exact.
//!
//! Where the application passed a trace id along, only requests of that trace
//! can be the parent. Otherwise every request in flight is a candidate, weighted by
//! - how tightly it encloses the call (a request that takes 5 ms is a likelier
//!   parent than a stream that has been open for an hour),
//! - how often its route was seen to make that call when nothing else was in flight,
//! - whether it has such a child already,
//! - for a failed call: whether it failed too, and how soon after.
//!
//! Certainty is the share of the chosen candidate in the sum of weights: 1 when
//! there was no other candidate.

use std::cmp::Ordering;

use whodunit_model::{Kind, Outcome, Protocol, RequestId, Rows, Side, Symbol};

use crate::numbers::ratio;
use crate::symbols::{FastMap, FastSet, Name, Votes};
use crate::window::Window;

/// Most requests in flight that are considered as parents of one call, latest first.
///
/// Bounds the work when thousands of requests are open at once; beyond it the
/// certainty is small anyway.
const CANDIDATES_MAX: usize = 128;

/// When a proxy leaves the second row of a call that goes on, µs after its start; the
/// first comes after a second.
const SECOND_LOOK_US: i64 = 10_000_000;

/// How often it leaves one afterwards, µs.
const EACH_LOOK_US: i64 = 60_000_000;

/// What a hop is to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// What the caller got.
    Final,
    /// A try whose outcome the caller's proxy did not pass on.
    Retried,
    /// Not ended yet.
    Open,
}

impl Standing {
    /// Smaller for what the caller got.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Final => 0,
            Self::Open => 1,
            Self::Retried => 2,
        }
    }
}

/// How a parent was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkedBy {
    /// The application passed a trace along.
    Trace,
    /// By the moment at which the call was made.
    Timing,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop {
    pub(crate) id: RequestId,
    pub(crate) outbound: Option<usize>,
    pub(crate) inbound: Option<usize>,
    pub(crate) standing: Standing,
    /// Callee.
    pub(crate) callee: Name,
    pub(crate) route: Symbol,
    /// Caller, empty if not known.
    pub(crate) caller: Name,
}

/// The request on whose behalf a call was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parent {
    pub(crate) hop: usize,
    pub(crate) certainty: f64,
    pub(crate) linked_by: LinkedBy,
}

/// The hops of some rows, ordered by start and id.
#[derive(Debug)]
pub(crate) struct Hops<'a> {
    pub(crate) rows: &'a Rows,
    pub(crate) hops: Vec<Hop>,
    pub(crate) parents: Vec<Option<Parent>>,
    children: Vec<usize>,
    first_child: Vec<usize>,
    /// Until when the rows tell what happened, µs.
    until_us: i64,
}

impl<'a> Hops<'a> {
    /// Joins the rows of `window`; probes are left out unless `probes`.
    pub(crate) fn new(rows: &'a Rows, window: Window, probes: bool) -> Self {
        let mut hops = join(rows, window, probes);
        hops.sort_unstable_by(|a, b| {
            (a.start_us(rows), a.id)
                .cmp(&(b.start_us(rows), b.id))
                .then_with(|| compare_rows(rows, a.row(), b.row()))
        });
        let parents = link(rows, &hops);
        let mut first_child = vec![0; hops.len() + 1];
        for parent in parents.iter().flatten() {
            first_child[parent.hop + 1] += 1;
        }
        for hop in 0..hops.len() {
            first_child[hop + 1] += first_child[hop];
        }
        let mut next = first_child.clone();
        let mut children = vec![0; first_child[hops.len()]];
        for (hop, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[next[parent.hop]] = hop;
                next[parent.hop] += 1;
            }
        }
        let last_us = hops.iter().map(|hop| rows.at_us[hop.row()]).max();
        Self {
            rows,
            hops,
            parents,
            children,
            first_child,
            until_us: last_us.unwrap_or_default().max(match window.until_us {
                i64::MAX => i64::MIN,
                until_us => until_us,
            }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.hops.len()
    }

    /// The calls made on behalf of `hop`, by start.
    pub(crate) fn children(&self, hop: usize) -> &[usize] {
        &self.children[self.first_child[hop]..self.first_child[hop + 1]]
    }

    pub(crate) fn text(&self, symbol: Symbol) -> &'a str {
        self.rows.text(symbol)
    }

    /// Begin and end as the caller saw them, µs.
    pub(crate) fn span(&self, hop: usize) -> (i64, i64) {
        span(self.rows, self.hops[hop].row())
    }

    /// How long the caller is known to have waited, µs, never negative.
    ///
    /// A call without an answer was still waiting when the rows end, or when the
    /// proxy would have looked at it again.
    pub(crate) fn known_us(&self, hop: usize) -> i64 {
        let seen_us = self.duration_us(hop);
        if !self.is_unanswered(hop) {
            return seen_us;
        }
        let next_us = match seen_us {
            ..SECOND_LOOK_US => SECOND_LOOK_US,
            _ => (seen_us / EACH_LOOK_US + 1) * EACH_LOOK_US,
        };
        let (start_us, _) = self.span(hop);
        let rows_us = self.until_us.saturating_sub(start_us);
        rows_us.min(next_us).max(seen_us)
    }

    /// How long the caller waited, µs, never negative.
    pub(crate) fn duration_us(&self, hop: usize) -> i64 {
        self.rows.duration_us[self.hops[hop].row()].max(0)
    }

    /// Says whether nothing of an answer had come when `hop` was last seen. Opaque
    /// connections and streams of messages from the caller need none.
    pub(crate) fn is_unanswered(&self, hop: usize) -> bool {
        let rows = self.rows;
        let is_waiting = |row: usize| {
            rows.status[row] == 0
                && rows.grpc_status[row].is_none()
                && rows.response_bytes[row] == 0
                && match rows.protocol[row] {
                    Protocol::Tcp => false,
                    Protocol::Grpc => rows.request_messages[row] <= 1,
                    _ => true,
                }
        };
        let hop = &self.hops[hop];
        let mut sides = [hop.outbound, hop.inbound].into_iter().flatten();
        hop.standing == Standing::Open && sides.all(is_waiting)
    }

    /// Time between the two proxies, µs; none with one side only.
    pub(crate) fn network_us(&self, hop: usize) -> Option<i64> {
        let hop = &self.hops[hop];
        let (outbound, inbound) = (hop.outbound?, hop.inbound?);
        Some(self.rows.duration_us[outbound].saturating_sub(self.rows.duration_us[inbound]))
    }

    /// Time the callee itself spent within its first `length_us`, µs: what is not
    /// covered by calls it made on behalf of this one.
    pub(crate) fn self_us(&self, hop: usize, length_us: i64) -> i64 {
        let Some(inbound) = self.hops[hop].inbound else {
            return length_us.max(0);
        };
        let (start, _) = span(self.rows, inbound);
        let end = start.saturating_add(length_us.max(0));
        let mut spans: Vec<(i64, i64)> = self
            .children(hop)
            .iter()
            .map(|&child| {
                let (start, _) = self.span(child);
                (start, start.saturating_add(self.known_us(child)))
            })
            .collect();
        spans.sort_unstable();
        let mut waiting = 0;
        let mut covered_until = start;
        for (from, until) in spans {
            let from = from.max(covered_until);
            let until = until.min(end);
            if until > from {
                waiting += until - from;
                covered_until = until;
            }
        }
        (length_us.max(0) - waiting).max(0)
    }
}

impl Hop {
    /// The row that shows the caller's view if there is one, else the callee's.
    pub(crate) fn row(&self) -> usize {
        self.outbound.or(self.inbound).unwrap_or_default()
    }

    /// The row that shows the callee's view if there is one, else the caller's.
    pub(crate) fn callee_row(&self) -> usize {
        self.inbound.or(self.outbound).unwrap_or_default()
    }

    fn start_us(&self, rows: &Rows) -> i64 {
        rows.start_at_us[self.row()]
    }

    /// The callee's instance, empty if not known.
    pub(crate) fn instance(&self, rows: &Rows) -> Symbol {
        self.first(rows, &rows.dst_instance)
    }

    /// The callee's version, empty if not known.
    pub(crate) fn version(&self, rows: &Rows) -> Symbol {
        self.first(rows, &rows.dst_version)
    }

    /// A column's value by the callee's row, else by the caller's.
    fn first(&self, _: &Rows, column: &[Symbol]) -> Symbol {
        [self.inbound, self.outbound]
            .into_iter()
            .flatten()
            .map(|row| column[row])
            .find(|symbol| !symbol.is_empty())
            .unwrap_or_default()
    }
}

fn span(rows: &Rows, row: usize) -> (i64, i64) {
    let start = rows.start_at_us[row];
    (start, start.saturating_add(rows.duration_us[row].max(0)))
}

/// A total order on rows that does not depend on how they are stored, up to rows
/// that nothing in an answer could tell apart.
pub(crate) fn compare_rows(rows: &Rows, a: usize, b: usize) -> Ordering {
    let numbers = |row: usize| {
        (
            rows.side[row],
            rows.at_us[row],
            rows.kind[row].number(),
            rows.start_at_us[row],
            rows.duration_us[row],
            rows.latency_us[row],
            rows.outcome[row],
            rows.cause[row],
            rows.origin[row],
            rows.attempts[row],
        )
    };
    let texts = |row: usize| {
        [
            rows.dst_namespace[row],
            rows.dst_workload[row],
            rows.dst_instance[row],
            rows.dst_version[row],
            rows.service[row],
            rows.route[row],
            rows.src_namespace[row],
            rows.src_workload[row],
            rows.src_instance[row],
            rows.method[row],
            rows.attributes[row],
            rows.authority[row],
            rows.endpoint[row],
            rows.src_version[row],
            rows.path[row],
            rows.peer_identity[row],
        ]
        .map(|symbol| rows.text(symbol))
    };
    let more = |row: usize| {
        (
            rows.grpc_status[row],
            rows.status[row],
            rows.client_error[row],
            rows.trace[row].trace_id,
            rows.twin[row].number(),
            rows.tls[row].number(),
        )
    };
    rows.id[a]
        .cmp(&rows.id[b])
        .then_with(|| numbers(a).cmp(&numbers(b)))
        .then_with(|| texts(a).cmp(&texts(b)))
        .then_with(|| more(a).cmp(&more(b)))
}

/// Makes hops of rows.
fn join(rows: &Rows, window: Window, probes: bool) -> Vec<Hop> {
    let mut order: Vec<usize> = (0..rows.len())
        .filter(|&row| window.contains(rows.at_us[row]) && (probes || !rows.probe[row]))
        .collect();
    order.sort_unstable_by(|&a, &b| compare_rows(rows, a, b));
    let aliases = Aliases::new(rows, &order);
    let mut hops = Vec::with_capacity(order.len());
    for group in order.chunk_by(|&a, &b| rows.id[a] == rows.id[b]) {
        join_one(rows, group, &aliases, &mut hops);
    }
    hops
}

/// Makes the hops of the rows of one id, which are ordered by side, then moment.
fn join_one(rows: &Rows, group: &[usize], aliases: &Aliases, hops: &mut Vec<Hop>) {
    let mut add = |outbound: Option<usize>, inbound: Option<usize>, standing| {
        if outbound.is_some() || inbound.is_some() {
            hops.push(aliases.hop(rows, outbound, inbound, standing));
        }
    };
    let of = |side: Side, kind: fn(Kind) -> bool| {
        group
            .iter()
            .copied()
            .filter(move |&row| rows.side[row] == side && kind(rows.kind[row]))
    };
    let is_final = |kind| matches!(kind, Kind::Request | Kind::Connection);
    let is_attempt = |kind| kind == Kind::Attempt;
    let is_open = |kind| kind == Kind::Open;

    let outbound = of(Side::Outbound, is_final).next_back();
    let inbounds = of(Side::Inbound, is_final);
    let inbound = inbounds.clone().next_back();
    if outbound.is_none() && inbound.is_none() {
        let attempt = of(Side::Outbound, is_attempt).next_back();
        if attempt.is_some() {
            add(attempt, None, Standing::Retried);
        } else {
            let open = |side| of(side, is_open).next_back();
            add(open(Side::Outbound), open(Side::Inbound), Standing::Open);
        }
        return;
    }
    if outbound.is_none() {
        // A try with an id of its own, or a caller outside the mesh.
        let attempt = of(Side::Outbound, is_attempt).next_back();
        let open = of(Side::Outbound, is_open).next_back();
        match (attempt, open) {
            (Some(_), _) => add(attempt, inbound, Standing::Retried),
            (None, Some(_)) => add(open, inbound, Standing::Final),
            (None, None) => add(None, inbound, Standing::Final),
        }
    } else {
        let inbound = inbound.or_else(|| of(Side::Inbound, is_open).next_back());
        add(outbound, inbound, Standing::Final);
    }
    let mut failed_tries = 0;
    for other in inbounds.filter(|row| Some(*row) != inbound) {
        failed_tries += usize::from(rows.outcome[other] == Outcome::Failure);
        add(None, Some(other), Standing::Retried);
    }
    if let Some(outbound) = outbound {
        // Failed tries that the callee did not see. The last failed try of a
        // request that failed is the failure itself.
        let seen = failed_tries + usize::from(rows.failed(outbound));
        let tries = of(Side::Outbound, is_attempt).filter(|&row| rows.failed(row));
        let unseen = tries.clone().count().saturating_sub(seen);
        for attempt in tries.take(unseen) {
            add(Some(attempt), None, Standing::Retried);
        }
    }
}

/// Which workload answers for a service, learned from calls that show both.
struct Aliases(FastMap<Name, Symbol>);

impl Aliases {
    fn new(rows: &Rows, order: &[usize]) -> Self {
        let mut votes: FastMap<Name, Votes> = FastMap::default();
        for &row in order {
            if !rows.service[row].is_empty() && !rows.dst_workload[row].is_empty() {
                let service = Name {
                    namespace: rows.dst_namespace[row],
                    name: rows.service[row],
                };
                votes
                    .entry(service)
                    .or_default()
                    .add(rows.dst_workload[row]);
            }
        }
        Self(
            votes
                .into_iter()
                .map(|(service, votes)| (service, votes.winner(rows)))
                .collect(),
        )
    }

    fn hop(
        &self,
        rows: &Rows,
        outbound: Option<usize>,
        inbound: Option<usize>,
        standing: Standing,
    ) -> Hop {
        let either = [inbound, outbound];
        let best = |column: &[Symbol]| {
            either
                .into_iter()
                .flatten()
                .map(|row| column[row])
                .find(|symbol| !symbol.is_empty())
                .unwrap_or_default()
        };
        let named = either
            .into_iter()
            .flatten()
            .find(|&row| !rows.dst_workload[row].is_empty());
        let row = outbound.or(inbound).unwrap_or_default();
        let callee = match named {
            Some(row) => Name::destination(rows, row),
            None => {
                let called = Name::destination(rows, row);
                let workload = self.0.get(&called).copied();
                Name {
                    namespace: called.namespace,
                    name: workload.unwrap_or(called.name),
                }
            }
        };
        Hop {
            id: rows.id[row],
            outbound,
            inbound,
            standing,
            callee,
            route: best(&rows.route),
            caller: Name {
                namespace: best(&rows.src_namespace),
                name: best(&rows.src_workload),
            },
        }
    }
}

/// An instance: workload and name.
type Place = (Name, Symbol);

/// A request an instance served.
#[derive(Clone, Copy)]
struct Served {
    start_us: i64,
    end_us: i64,
    hop: usize,
}

/// What one instance served, by start.
#[derive(Default)]
struct Timeline {
    served: Vec<Served>,
    /// Latest end among this request and all before it.
    end_so_far_us: Vec<i64>,
}

impl Timeline {
    /// Calls `visit` for each request that was in flight at `at_us`, latest start first,
    /// at most [`CANDIDATES_MAX`].
    fn in_flight(&self, at_us: i64, mut visit: impl FnMut(&Served)) {
        let mut next = self.served.partition_point(|s| s.start_us <= at_us);
        let mut found = 0;
        let mut steps = 0;
        while next > 0 && found < CANDIDATES_MAX && steps < 16 * CANDIDATES_MAX {
            next -= 1;
            steps += 1;
            if self.end_so_far_us[next] < at_us {
                break;
            }
            if self.served[next].end_us >= at_us {
                found += 1;
                visit(&self.served[next]);
            }
        }
    }
}

/// Which call, made by which route.
type Pair = ((Name, Symbol), (Name, Symbol));

fn link(rows: &Rows, hops: &[Hop]) -> Vec<Option<Parent>> {
    let mut timelines: FastMap<Place, Timeline> = FastMap::default();
    let mut served_by_route: FastMap<(Name, Symbol), u64> = FastMap::default();
    for (index, hop) in hops.iter().enumerate() {
        let Some(inbound) = hop.inbound else {
            continue;
        };
        let (start_us, end_us) = span(rows, inbound);
        let place = (Name::destination(rows, inbound), rows.dst_instance[inbound]);
        timelines.entry(place).or_default().served.push(Served {
            start_us,
            end_us,
            hop: index,
        });
        *served_by_route.entry((hop.callee, hop.route)).or_default() += 1;
    }
    for timeline in timelines.values_mut() {
        timeline
            .served
            .sort_unstable_by_key(|s| (s.start_us, s.hop));
        let mut latest = i64::MIN;
        timeline.end_so_far_us = timeline
            .served
            .iter()
            .map(|s| {
                latest = latest.max(s.end_us);
                latest
            })
            .collect();
    }

    // Calls with one candidate first: they tell what is usual. The candidates of the
    // others are found again later; keeping them would take more memory than the rows.
    let mut ambiguous: Vec<usize> = Vec::new();
    let mut alone: FastMap<Pair, u64> = FastMap::default();
    let mut parents = vec![None; hops.len()];
    for (index, hop) in hops.iter().enumerate() {
        match candidates(rows, hops, &timelines, index).as_slice() {
            [] => {}
            [only] => {
                let parent = &hops[only.hop];
                let pair = ((parent.callee, parent.route), (hop.callee, hop.route));
                *alone.entry(pair).or_default() += 1;
                parents[index] = Some(Parent {
                    hop: only.hop,
                    certainty: 1.0,
                    linked_by: only.linked_by,
                });
            }
            _ => ambiguous.push(index),
        }
    }
    choose(
        hops,
        &ambiguous,
        |index| candidates(rows, hops, &timelines, index),
        &alone,
        &served_by_route,
        &mut parents,
    );
    parents
}

struct Candidate {
    hop: usize,
    weight: f64,
    linked_by: LinkedBy,
}

/// The requests on whose behalf a call may have been made, with weights that need no
/// knowledge of other calls.
fn candidates(
    rows: &Rows,
    hops: &[Hop],
    timelines: &FastMap<Place, Timeline>,
    index: usize,
) -> Vec<Candidate> {
    let Some(outbound) = hops[index].outbound else {
        return Vec::new();
    };
    let place = (Name::source(rows, outbound), rows.src_instance[outbound]);
    let Some(timeline) = timelines.get(&place) else {
        return Vec::new();
    };
    let (start_us, end_us) = span(rows, outbound);
    let trace = rows.trace[outbound].trace_id;
    let failed = rows.failed(outbound);
    let mut same_trace = false;
    let mut candidates = Vec::new();
    timeline.in_flight(start_us, |served| {
        let Some(inbound) = hops[served.hop].inbound else {
            return;
        };
        let serving_trace = rows.trace[inbound].trace_id;
        let both_traced = trace != 0 && serving_trace != 0;
        // A proxy that calls itself serves the very same hop: no parent of its own.
        if served.hop == index || (both_traced && trace != serving_trace) {
            return;
        }
        same_trace |= both_traced;
        let mut weight = 1.0 / (1.0 + milliseconds(served.end_us.saturating_sub(served.start_us)));
        if served.end_us < end_us {
            // The call outlived the request: made in the background, or given up on.
            weight *= 0.05;
        }
        if failed && rows.failed(inbound) && served.end_us >= end_us {
            let length = milliseconds(served.end_us.saturating_sub(served.start_us));
            let later = milliseconds(served.end_us.saturating_sub(end_us));
            weight *= 50.0 / (1.0 + later / (1.0 + length));
        }
        candidates.push(Candidate {
            hop: served.hop,
            weight,
            linked_by: if both_traced {
                LinkedBy::Trace
            } else {
                LinkedBy::Timing
            },
        });
    });
    if same_trace {
        candidates.retain(|candidate| candidate.linked_by == LinkedBy::Trace);
    }
    candidates
}

/// Chooses among several candidates.
fn choose(
    hops: &[Hop],
    ambiguous: &[usize],
    candidates: impl Fn(usize) -> Vec<Candidate>,
    alone: &FastMap<Pair, u64>,
    served_by_route: &FastMap<(Name, Symbol), u64>,
    parents: &mut [Option<Parent>],
) {
    // Where fewer calls are made than requests served, one request makes at most one.
    let mut calls_made: FastMap<(Name, (Name, Symbol)), u64> = FastMap::default();
    let mut served_by: FastMap<Name, u64> = FastMap::default();
    for hop in hops {
        let call = (hop.callee, hop.route);
        *calls_made.entry((hop.caller, call)).or_default() += 1;
    }
    for ((callee, _), served) in served_by_route {
        *served_by.entry(*callee).or_default() += served;
    }
    let mut has_child: FastSet<(usize, Name, Symbol)> = FastSet::default();
    for (index, parent) in parents.iter().enumerate() {
        if let Some(parent) = parent {
            has_child.insert((parent.hop, hops[index].callee, hops[index].route));
        }
    }
    for &index in ambiguous {
        let candidates = candidates(index);
        let call = (hops[index].callee, hops[index].route);
        let caller = hops[index].caller;
        let made = calls_made.get(&(caller, call)).copied().unwrap_or_default();
        let at_most_once = made <= served_by.get(&caller).copied().unwrap_or_default();
        let mut sum = 0.0;
        let mut best: Option<(f64, &Candidate)> = None;
        for candidate in &candidates {
            let parent = &hops[candidate.hop];
            let route = (parent.callee, parent.route);
            let calls = alone.get(&(route, call)).copied().unwrap_or_default();
            let served = served_by_route.get(&route).copied().unwrap_or_default();
            let usual = (ratio(calls, 1) + 0.1) / (ratio(served, 1) + 1.0);
            let mut weight = candidate.weight * usual;
            if has_child.contains(&(candidate.hop, call.0, call.1)) && at_most_once {
                weight *= 0.02;
            }
            sum += weight;
            // Candidates come latest start first, in an order that rows do not change.
            if best.as_ref().is_none_or(|(most, _)| weight > *most) {
                best = Some((weight, candidate));
            }
        }
        if let Some((weight, candidate)) = best {
            has_child.insert((candidate.hop, call.0, call.1));
            parents[index] = Some(Parent {
                hop: candidate.hop,
                certainty: if sum > 0.0 { weight / sum } else { 0.0 },
                linked_by: candidate.linked_by,
            });
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a weight needs no more than 52 bits"
)]
fn milliseconds(us: i64) -> f64 {
    us.max(0) as f64 / 1_000.0
}
