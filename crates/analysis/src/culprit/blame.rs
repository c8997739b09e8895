//! For each failed call: whose failure is it?
//!
//! A request that failed while a call it had made failed too is a victim; the
//! failure is handed down to that call, and from there further down, until a
//! call is reached that failed on its own. That call is where it began.

use whodunit_model::{Cause, Origin, Outcome, Rows, Symbol};

use crate::hops::{Hops, Standing};
use crate::numbers::median;
use crate::symbols::{FastMap, FastSet, Name};

/// How deep a chain of calls is followed. Real ones have a few levels; with
/// damaged times parents could form a circle.
pub(crate) const DEPTH_MAX: usize = 32;

/// A call that was given up on explains its caller's failure only if it took this
/// many times longer than usual, or [`HANG_US`].
const HANG_FACTOR: i64 = 5;

/// A wait after which nobody wonders that a caller gave up, µs.
const HANG_US: i64 = 1_000_000;

/// A failure as one hop shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) origin: Origin,
    pub(crate) cause: Cause,
    /// The callee itself failed, as opposed to the way there.
    at_callee: bool,
    /// The caller went away: nobody's fault unless it had to wait too long.
    abandoned: bool,
}

/// Who is to blame for what, per hop.
pub(crate) struct Blame {
    /// The failure of each hop that counts as one.
    pub(crate) faults: Vec<Option<Fault>>,
    /// The call that explains the failure of a hop.
    pub(crate) because: Vec<Option<usize>>,
    /// Whether the hop is a call from outside: nobody who is meshed and serves requests made it.
    pub(crate) entry: Vec<bool>,
}

impl Blame {
    pub(crate) fn new(hops: &Hops<'_>) -> Self {
        let usual = usual_durations(hops);
        let mut faults: Vec<Option<Fault>> = (0..hops.len()).map(|hop| fault(hops, hop)).collect();
        let mut because: Vec<Option<usize>> = (0..hops.len())
            .map(|hop| explanation(hops, &faults, &usual, hop))
            .collect();
        reject_coincidences(hops, &faults, &mut because);
        // An abandoned call counts only where it explains its caller's failure.
        let mut accused: FastSet<usize> = FastSet::default();
        for (hop, fault) in faults.iter().enumerate() {
            if fault.is_some_and(|fault| !fault.abandoned) {
                let mut at = hop;
                for _ in 0..DEPTH_MAX {
                    let Some(next) = because[at] else { break };
                    accused.insert(next);
                    at = next;
                }
            }
        }
        for (hop, fault) in faults.iter_mut().enumerate() {
            if fault.is_some_and(|fault| fault.abandoned) && !accused.contains(&hop) {
                *fault = None;
                because[hop] = None;
            }
        }
        Self {
            faults,
            because,
            entry: entries(hops),
        }
    }

    /// The failed hops from `hop` up to the outermost one that failed with it.
    pub(crate) fn chain_up(&self, hops: &Hops<'_>, hop: usize) -> Vec<usize> {
        let mut chain = vec![hop];
        let mut at = hop;
        while chain.len() <= DEPTH_MAX {
            // A try that was made again hides the failure from the caller.
            if hops.hops[at].standing == Standing::Retried {
                break;
            }
            let Some(parent) = hops.parents[at] else {
                break;
            };
            let suffers = self.faults[parent.hop].is_some() && self.because[parent.hop].is_some();
            if !suffers || chain.contains(&parent.hop) {
                break;
            }
            at = parent.hop;
            chain.push(at);
        }
        chain
    }

    /// Says whether the failure of `hop` is its own.
    pub(crate) fn is_own(&self, hop: usize) -> bool {
        self.faults[hop].is_some() && self.because[hop].is_none()
    }
}

/// Reads the failure off the rows of one hop. What the client broke is no failure.
fn fault(hops: &Hops<'_>, index: usize) -> Option<Fault> {
    let rows = hops.rows;
    let hop = &hops.hops[index];
    if hop.standing == Standing::Open {
        // Its caller may have answered without waiting for it any longer.
        return hops.is_unanswered(index).then_some(Fault {
            origin: Origin::Server,
            cause: Cause::ClientCancelled,
            at_callee: true,
            abandoned: true,
        });
    }
    let failure = |row: usize| {
        rows.failed(row)
            .then(|| (rows.origin[row], rows.cause[row]))
    };
    let by_client = |(origin, cause)| origin == Origin::Client || cause == Cause::ClientCancelled;
    let inbound = hop.inbound.and_then(failure);
    let outbound = hop.outbound.and_then(failure);
    // The caller got an answer after all: not a failure of this call.
    let answered = |row: usize| rows.outcome[row] == Outcome::Success;
    if hop.standing == Standing::Final && hop.outbound.is_some_and(answered) {
        return None;
    }
    if let Some((origin, cause)) = inbound.filter(|failure| !by_client(*failure)) {
        let origin = match origin {
            Origin::None => Origin::Server,
            known => known,
        };
        return Some(Fault {
            origin,
            cause,
            at_callee: true,
            abandoned: false,
        });
    }
    if let Some((origin, cause)) = outbound.filter(|failure| !by_client(*failure)) {
        let answered = cause.is_application();
        let origin = match origin {
            Origin::None if answered => Origin::Server,
            Origin::None => Origin::Network,
            known => known,
        };
        return Some(Fault {
            origin,
            cause,
            at_callee: false,
            abandoned: false,
        });
    }
    let left = outbound.or(inbound).is_some_and(|(origin, cause)| {
        cause == Cause::ClientCancelled && matches!(origin, Origin::Client | Origin::None)
    });
    left.then_some(Fault {
        origin: Origin::Server,
        cause: Cause::ClientCancelled,
        at_callee: true,
        abandoned: true,
    })
}

/// Says whether the caller ran out of patience, by its proxy or by itself.
const fn timed_out(fault: &Fault) -> bool {
    fault.abandoned
        || matches!(
            fault.cause,
            Cause::RequestTimeout
                | Cause::ResponseHeadersTimeout
                | Cause::ResponseStreamTimeout
                | Cause::IdleTimeout
        )
}

/// Median duration of the successful calls of each route, µs.
fn usual_durations(hops: &Hops<'_>) -> FastMap<(Name, Symbol), i64> {
    let mut wanted: FastMap<(Name, Symbol), Vec<i64>> = FastMap::default();
    for hop in 0..hops.len() {
        if hops.rows.cause[hops.hops[hop].row()] == Cause::ClientCancelled {
            wanted.entry(place(hops, hop)).or_default();
        }
    }
    if wanted.is_empty() {
        return FastMap::default();
    }
    for hop in 0..hops.len() {
        let row = hops.hops[hop].row();
        let good = hops.hops[hop].standing == Standing::Final && !hops.rows.failed(row);
        if let Some(durations) = wanted.get_mut(&place(hops, hop)).filter(|_| good) {
            durations.push(hops.duration_us(hop));
        }
    }
    wanted
        .into_iter()
        .filter(|(_, durations)| durations.len() >= 5)
        .filter_map(|(place, mut durations)| Some((place, median(&mut durations)?)))
        .collect()
}

/// Callee and route of a hop.
pub(crate) fn place(hops: &Hops<'_>, hop: usize) -> (Name, Symbol) {
    (hops.hops[hop].callee, hops.hops[hop].route)
}

/// The call below `hop` that explains why `hop` failed.
fn explanation(
    hops: &Hops<'_>,
    faults: &[Option<Fault>],
    usual: &FastMap<(Name, Symbol), i64>,
    hop: usize,
) -> Option<usize> {
    let fault = faults[hop]?;
    // The proxy beside the callee refused: the application never ran.
    let never_ran = fault.origin == Origin::ServerProxy && !timed_out(&fault);
    let reached = fault.at_callee || (timed_out(&fault) && hops.hops[hop].inbound.is_some());
    if !reached || never_ran {
        return None;
    }
    let (_, end) = hops.hops[hop]
        .inbound
        .map(|row| inner_span(hops.rows, row))?;
    let duration = hops.duration_us(hop);
    let mut best: Option<(bool, i64, usize)> = None;
    for &child in hops.children(hop) {
        if hops.hops[child].standing == Standing::Retried {
            continue;
        }
        let Some(below) = faults[child] else {
            continue;
        };
        let (_, child_end) = hops.span(child);
        let child_duration = hops
            .known_us(child)
            .min(duration.max(hops.duration_us(child)));
        let took_most = child_duration >= duration / 2;
        let explains = if below.abandoned {
            let usual = usual.get(&place(hops, child)).copied();
            let limit = usual.map_or(HANG_US, |us| us.saturating_mul(HANG_FACTOR).min(HANG_US));
            let hung = child_duration >= limit;
            took_most && hung
        } else {
            !timed_out(&fault) || took_most
        };
        // Among several failed calls, the last one before the answer decided it.
        let candidate = (child_end <= end, child_end, child);
        if explains && best.is_none_or(|known| candidate > known) {
            best = Some(candidate);
        }
    }
    best.map(|(_, _, child)| child)
}

fn inner_span(rows: &Rows, row: usize) -> (i64, i64) {
    let start = rows.start_at_us[row];
    (start, start.saturating_add(rows.duration_us[row].max(0)))
}

/// Takes explanations back where failed calls do not make their callers fail.
///
/// A service that tolerates a failing callee and fails on its own now and then
/// will now and then fail while such a call fails. If requests with a failed call
/// fail less than twice as often as requests without one, it is a coincidence.
fn reject_coincidences(hops: &Hops<'_>, faults: &[Option<Fault>], because: &mut [Option<usize>]) {
    #[derive(Default, Clone, Copy)]
    struct Count {
        explained: u64,
        tolerated: u64,
    }
    type Place = (Name, Symbol);
    let mut pairs: FastMap<(Place, Place), Count> = FastMap::default();
    let mut served: FastMap<Place, (u64, u64)> = FastMap::default();
    for (hop, because) in because.iter().enumerate() {
        if let Some(child) = *because {
            pairs
                .entry((place(hops, hop), place(hops, child)))
                .or_default()
                .explained += 1;
        }
    }
    if pairs.is_empty() {
        return;
    }
    for hop in 0..hops.len() {
        let (requests, failed) = served.entry(place(hops, hop)).or_default();
        *requests += 1;
        *failed += u64::from(faults[hop].is_some());
        let (Some(_), Some(parent)) = (faults[hop], hops.parents[hop]) else {
            continue;
        };
        if faults[parent.hop].is_none() && hops.hops[hop].standing == Standing::Final {
            let pair = (place(hops, parent.hop), place(hops, hop));
            if let Some(count) = pairs.get_mut(&pair) {
                count.tolerated += 1;
            }
        }
    }
    let coincidence = |pair: &(Place, Place)| {
        let Some(count) = pairs.get(pair).copied() else {
            return false;
        };
        let (requests, failed) = served.get(&pair.0).copied().unwrap_or_default();
        let with = count.explained + count.tolerated;
        let without = requests.saturating_sub(with);
        let failed_without = failed.saturating_sub(count.explained);
        // explained / with < 2 × failed_without / without
        count.tolerated >= 5
            && without > 0
            && u128::from(count.explained) * u128::from(without)
                < 2 * u128::from(failed_without) * u128::from(with)
    };
    for (hop, because) in because.iter_mut().enumerate() {
        if because.is_some_and(|child| coincidence(&(place(hops, hop), place(hops, child)))) {
            *because = None;
        }
    }
}

/// Which hops are calls from outside: their caller is not known, or is a workload
/// that serves nobody (a bot, a cron job, a load generator).
fn entries(hops: &Hops<'_>) -> Vec<bool> {
    let mut serves: FastSet<Name> = FastSet::default();
    for hop in &hops.hops {
        if hop.inbound.is_some() {
            serves.insert(hop.callee);
        }
    }
    hops.hops
        .iter()
        .map(|hop| hop.caller.name.is_empty() || !serves.contains(&hop.caller))
        .collect()
}
