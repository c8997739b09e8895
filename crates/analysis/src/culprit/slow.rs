//! Slow requests: where the time goes.
//!
//! A route is slow when its latency at the entry rose within the window and
//! stayed up: by ranks ([`rise`]), and by enough milliseconds that somebody may
//! notice. Each slow request is then followed down: if most of the time it takes
//! longer than usual is spent waiting for a callee, the callee has to answer for
//! it, and so on, until a call is reached whose own time grew, or whose way there did.
//! A request that is still without an answer took at least as long as it was last seen.

use whodunit_model::latency::exact_quantile;
use whodunit_model::{Cause, Origin, Symbol};

use super::blame::{DEPTH_MAX, place};
use super::case::Case;
use super::likelihood::{onset, rise};
use super::suspects::Trouble;
use crate::hops::Standing;
use crate::numbers::{median, ratio};
use crate::symbols::{FastMap, Name};

/// Fewest requests before and after a rise.
const SIDE_MIN: usize = 10;

/// Chance below which a rise is believed.
const CHANCE_MAX: f64 = 1e-4;

/// The median must rise by at least this, µs, and at least double: less is what a
/// busy machine does to a fast service.
const MEDIAN_RISE_US: i64 = 30_000;

/// Where only some requests become slow: slower than three times the median by at
/// least this, µs.
const TAIL_RISE_US: i64 = 50_000;

/// Where only some requests become slow, one in this many must: the busy moments of a
/// healthy machine concern fewer.
const TAIL_PART: usize = 50;

/// What took this long from the start has no earlier time to compare with, and is
/// still worth a hint: people notice a wait of 400 ms (Doherty and Thadani, 1982).
const SLOW_US: i64 = 400_000;

/// One request in this many must be slow from the start for a hint.
const ALWAYS_PART: usize = 5;

/// Usual time of a route: as callers see it, of its own, and on the way.
#[derive(Clone, Copy, Default)]
struct Usual {
    duration_us: i64,
    own_us: i64,
    network_us: i64,
}

/// The slow requests of one entry route.
struct Slow {
    entries: Vec<usize>,
    /// When slowness began; requests before are the usual ones. None if it was always so.
    since: Option<usize>,
}

/// Finds slow requests at the entries and what made them slow. The first list has
/// an earlier time to compare with, the second was slow from the start.
pub(super) fn slow(case: &Case<'_>) -> (Vec<Trouble>, Vec<Trouble>) {
    let mut routes: FastMap<(Name, Symbol), Vec<usize>> = FastMap::default();
    for (index, hop) in case.hops.hops.iter().enumerate() {
        let failed = case.blame.faults[index].is_some();
        let told = match hop.standing {
            Standing::Final => true,
            Standing::Retried => false,
            Standing::Open => case.hops.is_unanswered(index),
        };
        if case.blame.entry[index] && told && !failed {
            routes
                .entry(place(&case.hops, index))
                .or_default()
                .push(index);
        }
    }
    let mut routes: Vec<_> = routes.into_iter().collect();
    routes.sort_by_key(|(place, _)| case.place_texts(*place));
    let (mut risen, mut always) = (Vec::new(), Vec::new());
    for (_, mut entries) in routes {
        if entries.len() < SIDE_MIN {
            continue;
        }
        entries.sort_unstable_by_key(|&hop| (case.at_us(hop), hop));
        let Some(slow) = slow_entries(case, &entries) else {
            continue;
        };
        let troubles = match slow.since {
            Some(_) => &mut risen,
            None => &mut always,
        };
        let before_us = slow.since.map(|index| case.at_us(entries[index]));
        let usual = Usuals::new(case, before_us);
        troubles.extend(
            slow.entries
                .iter()
                .map(|&entry| follow(case, &usual, entry)),
        );
    }
    (risen, always)
}

/// How long the caller waited for the answer to begin, µs. What was given up on took at least that long.
fn waited_us(case: &Case<'_>, hop: usize) -> i64 {
    let row = case.hops.hops[hop].row();
    let rows = case.rows();
    if case.hops.is_unanswered(hop) {
        case.hops.known_us(hop)
    } else if rows.is_final(row) && rows.cause[row] != Cause::ClientCancelled {
        rows.latency_us[row].max(0)
    } else {
        rows.duration_us[row].max(0)
    }
}

fn slow_entries(case: &Case<'_>, entries: &[usize]) -> Option<Slow> {
    let values: Vec<i64> = entries.iter().map(|&hop| waited_us(case, hop)).collect();
    // What has no answer yet may take any time: it is slow once it takes longer than usual.
    let over = |limit: i64, usual: i64, from: usize| -> Vec<usize> {
        (from..entries.len())
            .filter(|&index| {
                let unanswered = case.hops.is_unanswered(entries[index]);
                values[index] > if unanswered { usual } else { limit }
            })
            .map(|index| entries[index])
            .collect()
    };
    if let Some((since, limit)) = risen(&values).or_else(|| risen_tail(&values)) {
        let usual = median(&mut values[..since].to_vec()).map_or(limit, tail_us);
        return Some(Slow {
            entries: over(limit, limit.min(usual), since),
            since: Some(since),
        });
    }
    let slow = over(SLOW_US - 1, SLOW_US - 1, 0);
    let many = slow.len() >= SIDE_MIN && ALWAYS_PART * slow.len() >= entries.len();
    many.then_some(Slow {
        entries: slow,
        since: None,
    })
}

/// Where most requests became slower, and the latency above which one is slow.
fn risen(values: &[i64]) -> Option<(usize, i64)> {
    let rise = rise(values).filter(|rise| rise.chance < CHANCE_MAX)?;
    let (before, after) = values.split_at(rise.at);
    if before.len() < SIDE_MIN || after.len() < SIDE_MIN {
        return None;
    }
    let quantile = |values: &[i64], q| exact_quantile(&mut values.to_vec(), q);
    let (was, is) = (quantile(before, 0.5)?, quantile(after, 0.5)?);
    let rose = is - was >= MEDIAN_RISE_US && is >= was.saturating_mul(2);
    let limit = was.saturating_add((is - was) / 2);
    rose.then_some((rise.at, limit))
}

/// Latency above which a request is slow where the median is usual, µs.
const fn tail_us(median_us: i64) -> i64 {
    median_us.saturating_mul(3).saturating_add(TAIL_RISE_US)
}

/// Where some requests became slow while most did not, and the latency above which one is.
fn risen_tail(values: &[i64]) -> Option<(usize, i64)> {
    let limit = tail_us(median(&mut values.to_vec())?);
    let slow: Vec<bool> = values.iter().map(|value| *value > limit).collect();
    let onset = onset(&slow)?;
    let (before, slow_before) = onset.before;
    let stretch = &slow[onset.first..onset.until];
    let slow_since = stretch.iter().filter(|slow| **slow).count();
    let enough = slow_since >= SIDE_MIN && TAIL_PART * slow_since >= stretch.len();
    let quiet_before = before >= SIDE_MIN as u64 && slow_before * 100 <= before;
    (!onset.from_start && enough && quiet_before).then_some((onset.first, limit))
}

/// What was usual before a moment.
struct Usuals(FastMap<(Name, Symbol), Usual>);

impl Usuals {
    /// Without a moment nothing is usual: every millisecond has to be answered for.
    fn new(case: &Case<'_>, before_us: Option<i64>) -> Self {
        let Some(before_us) = before_us else {
            return Self(FastMap::default());
        };
        let mut seen: FastMap<(Name, Symbol), [Vec<i64>; 3]> = FastMap::default();
        for hop in 0..case.hops.len() {
            let standing = case.hops.hops[hop].standing;
            if case.at_us(hop) < before_us && standing == Standing::Final {
                let waited = waited_us(case, hop);
                let [durations, own, network] = seen.entry(place(&case.hops, hop)).or_default();
                durations.push(waited);
                own.push(case.hops.self_us(hop, waited));
                network.extend(case.hops.network_us(hop));
            }
        }
        let usual = |seen: [Vec<i64>; 3]| {
            let [duration_us, own_us, network_us] =
                seen.map(|mut times| median(&mut times).unwrap_or_default());
            Usual {
                duration_us,
                own_us,
                network_us,
            }
        };
        Self(
            seen.into_iter()
                .map(|(place, seen)| (place, usual(seen)))
                .collect(),
        )
    }

    fn of(&self, case: &Case<'_>, hop: usize) -> Usual {
        self.0
            .get(&place(&case.hops, hop))
            .copied()
            .unwrap_or_default()
    }

    /// How much longer than usual the caller waited, µs.
    fn excess_us(&self, case: &Case<'_>, hop: usize) -> i64 {
        (waited_us(case, hop) - self.of(case, hop).duration_us).max(0)
    }
}

/// Follows one slow request down to where its time went.
fn follow(case: &Case<'_>, usual: &Usuals, entry: usize) -> Trouble {
    let mut chain = vec![entry];
    let mut at = entry;
    let mut origin = Origin::Server;
    while chain.len() <= DEPTH_MAX {
        let excess = usual.excess_us(case, at);
        let network = case.hops.network_us(at).unwrap_or_default();
        let on_the_way = network.saturating_sub(usual.of(case, at).network_us).max(0);
        if on_the_way > excess / 2 {
            origin = Origin::Network;
            break;
        }
        let Some(next) = slowest_callee(case, usual, at, excess, &chain) else {
            break;
        };
        at = next;
        chain.push(at);
    }
    let own_us = match origin {
        Origin::Network => {
            let network = case.hops.network_us(at).unwrap_or_default();
            network.saturating_sub(usual.of(case, at).network_us)
        }
        _ => {
            let own_us = case.hops.self_us(at, waited_us(case, at));
            own_us.saturating_sub(usual.of(case, at).own_us)
        }
    };
    let excess_us = usual.excess_us(case, entry);
    chain.reverse();
    Trouble {
        excess_us: (excess_us, own_us.clamp(0, excess_us)),
        origin,
        cause: Cause::None,
        chain,
        visible: true,
    }
}

/// The callee that most of the excess of `hop` was spent waiting for, if any.
///
/// Calls to one callee add up: a hundred calls of 10 ms each are a second.
fn slowest_callee(
    case: &Case<'_>,
    usual: &Usuals,
    hop: usize,
    excess: i64,
    chain: &[usize],
) -> Option<usize> {
    let mut by_callee: FastMap<(Name, Symbol), (i64, i64, usize)> = FastMap::default();
    let mut waiting = 0_i64;
    for &child in case.hops.children(hop) {
        if chain.contains(&child) {
            continue;
        }
        // A stream that goes on is not waited for.
        if case.hops.hops[child].standing == Standing::Open && !case.hops.is_unanswered(child) {
            continue;
        }
        let more = usual.excess_us(case, child);
        waiting = waiting.saturating_add(more);
        let (sum, most, slowest) = by_callee
            .entry(place(&case.hops, child))
            .or_insert((0, -1, child));
        *sum = sum.saturating_add(more);
        if more > *most {
            (*most, *slowest) = (more, child);
        }
    }
    if waiting < excess / 2 || waiting == 0 {
        return None;
    }
    by_callee
        .into_iter()
        .max_by(|(a, (a_sum, ..)), (b, (b_sum, ..))| {
            (a_sum.cmp(b_sum)).then_with(|| case.place_texts(*b).cmp(&case.place_texts(*a)))
        })
        .map(|(_, (_, _, slowest))| slowest)
}

/// Median own time, µs, of some hops.
pub(super) fn own_time_us(case: &Case<'_>, hops: &[usize]) -> Option<i64> {
    let mut times: Vec<i64> = hops
        .iter()
        .map(|&hop| case.hops.self_us(hop, waited_us(case, hop)))
        .collect();
    median(&mut times)
}

/// Median time on the way, µs, of some hops.
pub(super) fn network_time_us(case: &Case<'_>, hops: &[usize]) -> Option<i64> {
    let mut times: Vec<i64> = hops
        .iter()
        .filter_map(|&hop| case.hops.network_us(hop))
        .collect();
    median(&mut times)
}

/// Share of the time their callers waited that some hops spent themselves.
pub(super) fn own_share(case: &Case<'_>, own: &[usize], suffered: &[usize]) -> f64 {
    let sum = |hops: &[usize], time: &dyn Fn(usize) -> i64| -> u64 {
        let total = hops
            .iter()
            .fold(0_i64, |sum, &hop| sum.saturating_add(time(hop)));
        total.max(0).unsigned_abs()
    };
    let own_us = sum(own, &|hop| case.hops.self_us(hop, waited_us(case, hop)));
    let all_us = sum(suffered, &|hop| waited_us(case, hop));
    ratio(own_us, all_us).min(1.0)
}
