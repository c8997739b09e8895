//! Gathers what began where into suspects, and weighs each of them.

use std::cmp::{Ordering, Reverse};

use whodunit_model::{Cause, Origin, Symbol};

use super::blame::place;
use super::case::Case;
use super::likelihood::{Onset, chance, onset};
use super::{CULPRIT_MIN, LEADS_MIN, PROBABLY_MIN};
use crate::hops::Standing;
use crate::numbers::{count, ratio};
use crate::symbols::{FastMap, FastSet, Name};

/// What is wrong with the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// They fail.
    Failures,
    /// They are slow.
    Latency,
}

impl Signal {
    /// Returns `failures` or `latency`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Latency => "latency",
        }
    }
}

/// One thing that went wrong: where it began and who suffered.
pub(super) struct Trouble {
    pub(super) origin: Origin,
    pub(super) cause: Cause,
    /// Hops from where it began up to the outermost one that suffered.
    pub(super) chain: Vec<usize>,
    /// Somebody outside saw it.
    pub(super) visible: bool,
    /// For slow requests: how much longer than usual the outermost one took, and
    /// how much of that is where the chain begins, µs.
    pub(super) excess_us: (i64, i64),
}

/// Up to this failure rate nobody is accused.
const NOISE_RATE: f64 = 0.005;

/// A failure rate that healthy services may have: what is seen must be surely more.
const HEALTHY_RATE: f64 = 0.002_5;

/// Fewer failures than this are noise.
const NOISE_COUNT: u64 = 3;

/// From this many failures on `probably` is possible.
const PROBABLY_COUNT: u64 = 5;

/// From this many failures on `culprit` is possible.
const CULPRIT_COUNT: u64 = 10;

/// Failures at which the sample size alone gives half of full confidence.
const HALF_COUNT: f64 = 4.0;

/// What is left of the confidence if nobody outside sees the failures.
const HIDDEN: f64 = 0.59;

/// How unlikely it must be that a route, instance or version fails that much
/// more than the others by chance.
const CONCENTRATED: f64 = 0.001;

/// Share of the failures one instance or version must have to be named.
const CONCENTRATED_SHARE: f64 = 0.9;

pub(super) struct Suspect {
    pub(super) signal: Signal,
    pub(super) callee: Name,
    /// None if all routes are concerned.
    pub(super) route: Option<Symbol>,
    pub(super) origin: Origin,
    pub(super) cause: Cause,
    pub(super) instance: Option<Symbol>,
    pub(super) version: Option<Symbol>,
    /// Hops where it began, by time.
    pub(super) own: Vec<usize>,
    /// Calls of the same routes (of the named instance or version) in the same time.
    pub(super) calls: Vec<usize>,
    /// Calls of the same routes at other instances or versions in the same time, and
    /// how many of these have the same trouble.
    pub(super) elsewhere: (u64, u64),
    /// Calls of the same routes before it began, and how many of these failed.
    pub(super) before: (u64, u64),
    pub(super) from_start: bool,
    pub(super) since_us: i64,
    /// When it ended, if it did.
    pub(super) until_us: Option<i64>,
    /// Where it shows outermost: callee and route.
    pub(super) symptom: (Name, Symbol),
    /// Requests of the symptom in that time, and how many of them show it.
    pub(super) shown: (u64, u64),
    /// Outermost requests that suffered from this suspect.
    pub(super) suffered: FastSet<usize>,
    /// How many of these came from outside.
    pub(super) visible: u64,
    /// Who suffered on the way up, from the suspect up, with how many requests.
    pub(super) victims: Vec<((Name, Symbol), u64)>,
    /// Known callers from outside, with how many of the outermost requests they made.
    pub(super) users: Vec<(User, u64)>,
    /// Some tries failed and were made again.
    pub(super) retried: bool,
    /// Share of the time that requests take longer than usual, for slow ones; else 1.
    pub(super) time_share: f64,
    /// Slow from the start: there is nothing to compare with.
    pub(super) no_baseline: bool,
    pub(super) confidence: f64,
}

/// Who made outermost requests, of whom, and on which route.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct User {
    pub(super) caller: Name,
    pub(super) callee: Name,
    pub(super) route: Symbol,
}

/// Which of several callees, routes and signals a trouble belongs to.
type Group = (Name, Origin);

/// Makes suspects of troubles, biggest first.
pub(super) fn suspects(
    case: &Case<'_>,
    signal: Signal,
    troubles: &[Trouble],
    no_baseline: bool,
) -> Vec<Suspect> {
    let mut groups: FastMap<Group, Vec<usize>> = FastMap::default();
    for (index, trouble) in troubles.iter().enumerate() {
        let callee = case.hops.hops[trouble.chain[0]].callee;
        groups
            .entry((callee, trouble.origin))
            .or_default()
            .push(index);
    }
    let mut groups: Vec<(Group, Vec<usize>)> = groups.into_iter().collect();
    groups.sort_by(|((a, a_origin), _), ((b, b_origin), _)| {
        (a.texts(case.rows()), a_origin).cmp(&(b.texts(case.rows()), b_origin))
    });
    let mut suspects = Vec::new();
    for ((callee, origin), members) in groups {
        for (routes, members) in by_routes(case, signal, callee, troubles, members) {
            let members: Vec<&Trouble> = members.iter().map(|&i| &troubles[i]).collect();
            suspects.extend(suspect(
                case,
                signal,
                (callee, origin),
                &routes,
                (troubles, &members),
                no_baseline,
            ));
        }
    }
    suspects
}

/// The routes a suspect answers for.
enum Routes {
    One(Symbol),
    AllBut(FastSet<Symbol>),
}

impl Routes {
    fn contain(&self, route: Symbol) -> bool {
        match self {
            Self::One(only) => *only == route,
            Self::AllBut(others) => !others.contains(&route),
        }
    }
}

/// Splits the troubles of one callee by route: routes that fail far more often
/// than the rest stand alone, all others are one.
fn by_routes(
    case: &Case<'_>,
    signal: Signal,
    callee: Name,
    troubles: &[Trouble],
    members: Vec<usize>,
) -> Vec<(Routes, Vec<usize>)> {
    let mut tallies: FastMap<Symbol, (u64, u64)> = FastMap::default();
    for &hop in case.calls_showing(signal, callee) {
        tallies.entry(case.hops.hops[hop].route).or_default().0 += 1;
    }
    let route_of = |member: usize| case.hops.hops[troubles[member].chain[0]].route;
    for &member in &members {
        tallies.entry(route_of(member)).or_default().1 += 1;
    }
    let mut routes: Vec<(Symbol, u64, u64)> = tallies
        .iter()
        .map(|(route, (requests, failed))| (*route, *requests, *failed))
        .collect();
    routes.sort_by_key(|(route, _, failed)| (Reverse(*failed), case.hops.text(*route)));
    let limit = CONCENTRATED / ratio(count(routes.len()), 1);
    let mut rest: (u64, u64) = routes
        .iter()
        .fold((0, 0), |sum, route| (sum.0 + route.1, sum.1 + route.2));
    let mut alone: FastSet<Symbol> = FastSet::default();
    let mut split = Vec::new();
    loop {
        let next = routes.iter().find_map(|(route, requests, failed)| {
            let others = (
                rest.0.saturating_sub(*requests),
                rest.1.saturating_sub(*failed),
            );
            let rate = (ratio(others.1, 1) + 0.5) / (ratio(others.0, 1) + 1.0);
            let stands_out = *failed >= NOISE_COUNT && chance(*failed, *requests, rate) < limit;
            // Whatever is left is this route's alone.
            let last = *failed > 0 && others.1 == 0;
            let found = !alone.contains(route) && (stands_out || last);
            found.then_some((*route, others))
        });
        let Some((route, others)) = next else {
            break;
        };
        alone.insert(route);
        split.push(route);
        rest = others;
    }
    let mut parts: Vec<(Routes, Vec<usize>)> = split
        .into_iter()
        .map(|route| (Routes::One(route), Vec::new()))
        .collect();
    let mut others = Vec::new();
    for member in members {
        let route = route_of(member);
        match parts.iter_mut().find(|(part, _)| part.contain(route)) {
            Some((_, members)) => members.push(member),
            None => others.push(member),
        }
    }
    if !others.is_empty() {
        parts.push((Routes::AllBut(alone), others));
    }
    parts
}

fn suspect(
    case: &Case<'_>,
    signal: Signal,
    (callee, origin): Group,
    routes: &Routes,
    (troubles, members): (&[Trouble], &[&Trouble]),
    no_baseline: bool,
) -> Option<Suspect> {
    let own: FastSet<usize> = members.iter().map(|trouble| trouble.chain[0]).collect();
    let calls: Vec<usize> = case
        .calls_showing(signal, callee)
        .iter()
        .copied()
        .filter(|&hop| routes.contain(case.hops.hops[hop].route))
        .collect();
    let series: Vec<bool> = calls.iter().map(|hop| own.contains(hop)).collect();
    let mut onset = onset(&series)?;
    let plain = &calls[onset.first..onset.until];
    if concentrated(case, plain, &own) == (None, None)
        && let Some(narrowed) = onset_where_concentrated(case, &calls, &own)
    {
        onset = narrowed;
    }
    let since_all = count(calls.len() - onset.first);
    let stretch = &calls[onset.first..onset.until];
    let in_stretch: FastSet<usize> = stretch
        .iter()
        .copied()
        .filter(|hop| own.contains(hop))
        .collect();
    let members: Vec<&Trouble> = members
        .iter()
        .copied()
        .filter(|trouble| in_stretch.contains(&trouble.chain[0]))
        .collect();
    let first = members.first()?;

    let (instance, version) = concentrated(case, stretch, &in_stretch);
    let here = |hop: &usize| {
        instance.is_none_or(|name| case.hops.hops[*hop].instance(case.rows()) == name)
            && version.is_none_or(|name| case.hops.hops[*hop].version(case.rows()) == name)
    };
    let calls_here: Vec<usize> = stretch.iter().copied().filter(here).collect();
    let own_here: Vec<usize> = calls_here
        .iter()
        .copied()
        .filter(|hop| in_stretch.contains(hop))
        .collect();
    let elsewhere = (
        count(stretch.len() - calls_here.len()),
        count(in_stretch.len() - own_here.len()),
    );

    let mut suffered: FastSet<usize> = FastSet::default();
    let mut visible: FastSet<usize> = FastSet::default();
    for trouble in &members {
        if let Some(&top) = trouble.chain.last() {
            suffered.insert(top);
            if trouble.visible {
                visible.insert(top);
            }
        }
    }
    let tops = if visible.is_empty() {
        &suffered
    } else {
        &visible
    };
    let symptom = most_frequent(case, tops)?;
    let since_us = suffered
        .iter()
        .chain(&in_stretch)
        .chain(stretch.first())
        .map(|&hop| case.hops.span(hop).0)
        .min()
        .unwrap_or_default();
    let ended = onset.until < calls.len();
    let last_us = members
        .iter()
        .flat_map(|trouble| &trouble.chain)
        .map(|&hop| case.at_us(hop))
        .max()
        .unwrap_or_default();
    let until_us = ended.then_some(last_us);
    let mut suspect = Suspect {
        signal,
        callee,
        route: match routes {
            Routes::One(route) => Some(*route),
            Routes::AllBut(_) => None,
        },
        origin,
        cause: top_cause(&members).unwrap_or(first.cause),
        instance,
        version,
        own: own_here,
        calls: calls_here,
        elsewhere,
        before: onset.before,
        from_start: onset.from_start,
        since_us,
        until_us,
        symptom,
        shown: (0, 0),
        visible: count(visible.len()),
        victims: victims(case, &members),
        users: users(case, &members),
        retried: members
            .iter()
            .any(|trouble| case.hops.hops[trouble.chain[0]].standing == Standing::Retried),
        suffered,
        time_share: time_share(troubles, &members),
        no_baseline,
        confidence: 0.0,
    };
    suspect.shown = shown(
        case,
        &suspect,
        if suspect.visible > 0 {
            &visible
        } else {
            &suspect.suffered
        },
    );
    suspect.confidence = confidence(case, &suspect, since_all);
    Some(suspect)
}

/// Of the time that requests of the same entry routes took longer than usual, the
/// share that `members` account for.
fn time_share(all: &[Trouble], members: &[&Trouble]) -> f64 {
    let tops: FastSet<usize> = members
        .iter()
        .filter_map(|t| t.chain.last().copied())
        .collect();
    let sum = |values: &mut dyn Iterator<Item = i64>| -> u64 {
        values
            .fold(0_i64, i64::saturating_add)
            .max(0)
            .unsigned_abs()
    };
    let of_all = sum(&mut all
        .iter()
        .filter(|t| t.chain.last().is_some_and(|top| tops.contains(top)))
        .map(|t| t.excess_us.0));
    let of_members = sum(&mut members.iter().map(|t| t.excess_us.1));
    if of_all == 0 {
        return 1.0;
    }
    ratio(of_members, of_all).min(1.0)
}

/// The place where most of `hops` are, the smaller text among equals.
fn most_frequent(case: &Case<'_>, hops: &FastSet<usize>) -> Option<(Name, Symbol)> {
    let mut votes: FastMap<(Name, Symbol), u64> = FastMap::default();
    for &hop in hops {
        *votes.entry(place(&case.hops, hop)).or_default() += 1;
    }
    votes
        .into_iter()
        .max_by(|(a, a_votes), (b, b_votes)| {
            a_votes
                .cmp(b_votes)
                .then_with(|| case.place_texts(*b).cmp(&case.place_texts(*a)))
        })
        .map(|(place, _)| place)
}

/// Requests of the symptom since it began, and how many of them show it: all that
/// failed, or all that were slow because of the suspect.
fn shown(case: &Case<'_>, suspect: &Suspect, tops: &FastSet<usize>) -> (u64, u64) {
    let until_us = suspect.until_us.unwrap_or(i64::MAX);
    let (callee, route) = suspect.symptom;
    let mut shown = (0, 0);
    for &hop in case.calls_showing(suspect.signal, callee) {
        let in_time = case.at_us(hop) >= suspect.since_us && case.at_us(hop) <= until_us;
        let outside = suspect.visible == 0 || case.blame.entry[hop];
        if case.hops.hops[hop].route != route || !in_time || !outside {
            continue;
        }
        shown.0 += 1;
        let shows = match suspect.signal {
            Signal::Failures => case.blame.faults[hop].is_some(),
            Signal::Latency => tops.contains(&hop),
        };
        shown.1 += u64::from(shows);
    }
    shown
}

/// The most frequent cause, the smaller number among equals.
fn top_cause(members: &[&Trouble]) -> Option<Cause> {
    let mut votes: FastMap<u8, u64> = FastMap::default();
    for trouble in members {
        *votes.entry(trouble.cause.number()).or_default() += 1;
    }
    votes
        .into_iter()
        .max_by_key(|(number, votes)| (*votes, Reverse(*number)))
        .and_then(|(number, _)| Cause::from_number(number))
}

/// Places that suffered, from the suspect up.
fn victims(case: &Case<'_>, members: &[&Trouble]) -> Vec<((Name, Symbol), u64)> {
    let mut found: FastMap<(Name, Symbol), (usize, FastSet<usize>)> = FastMap::default();
    for trouble in members {
        for (depth, &hop) in trouble.chain.iter().enumerate().skip(1) {
            let (shallowest, hops) = found.entry(place(&case.hops, hop)).or_default();
            if hops.is_empty() {
                *shallowest = depth;
            }
            *shallowest = depth.min(*shallowest);
            hops.insert(hop);
        }
    }
    let mut victims: Vec<_> = found.into_iter().collect();
    victims.sort_by(|(a, (a_depth, a_hops)), (b, (b_depth, b_hops))| {
        (a_depth, Reverse(a_hops.len()), case.place_texts(*a)).cmp(&(
            b_depth,
            Reverse(b_hops.len()),
            case.place_texts(*b),
        ))
    });
    victims
        .into_iter()
        .map(|(place, (_, hops))| (place, count(hops.len())))
        .collect()
}

/// Who made the outermost requests from outside, most of them first. A service that
/// copes with a failed call, or whose own request is not over yet, is none of them.
fn users(case: &Case<'_>, members: &[&Trouble]) -> Vec<(User, u64)> {
    let mut found: FastMap<User, FastSet<usize>> = FastMap::default();
    for &outermost in members.iter().filter_map(|trouble| trouble.chain.last()) {
        let hop = &case.hops.hops[outermost];
        if case.blame.entry[outermost] && !hop.caller.name.is_empty() {
            let user = User {
                caller: hop.caller,
                callee: hop.callee,
                route: hop.route,
            };
            found.entry(user).or_default().insert(outermost);
        }
    }
    let mut users: Vec<(User, u64)> = found
        .into_iter()
        .map(|(user, hops)| (user, count(hops.len())))
        .collect();
    users.sort_by(|(a, a_hops), (b, b_hops)| {
        let texts = |user: &User| (user.caller.texts(case.rows()), case.hops.text(user.route));
        (Reverse(a_hops), texts(a)).cmp(&(Reverse(b_hops), texts(b)))
    });
    users
}

/// The instance and the version that have nearly all the failures, if there are
/// others and it cannot be chance.
fn concentrated(
    case: &Case<'_>,
    calls: &[usize],
    own: &FastSet<usize>,
) -> (Option<Symbol>, Option<Symbol>) {
    let rows = case.rows();
    let instance = one_of(case, calls, own, |hop| case.hops.hops[hop].instance(rows));
    let version = one_of(case, calls, own, |hop| case.hops.hops[hop].version(rows));
    let Some(version) = version else {
        return (instance, None);
    };
    // If several instances run the version, it is the version, not one of them.
    let mut running: FastSet<Symbol> = FastSet::default();
    for &hop in calls {
        if case.hops.hops[hop].version(rows) == version {
            running.insert(case.hops.hops[hop].instance(rows));
        }
    }
    if running.len() > 1 && instance.is_none() {
        return (None, Some(version));
    }
    (instance, Some(version))
}

/// The stretch in which one instance or version fails, seen from its own calls.
///
/// Balancers avoid an instance that fails: among all calls its failures thin out and look
/// over, though each call that still reaches it fails. None unless its failures stand out
/// from those of the others in the same time too.
fn onset_where_concentrated(
    case: &Case<'_>,
    calls: &[usize],
    own: &FastSet<usize>,
) -> Option<Onset> {
    let rows = case.rows();
    let found = concentrated(case, calls, own);
    let is_there = |hop: usize| match found {
        (Some(name), _) => case.hops.hops[hop].instance(rows) == name,
        (None, Some(name)) => case.hops.hops[hop].version(rows) == name,
        (None, None) => false,
    };
    let places: Vec<usize> = (0..calls.len())
        .filter(|&place| is_there(calls[place]))
        .collect();
    let series: Vec<bool> = places
        .iter()
        .map(|&place| own.contains(&calls[place]))
        .collect();
    let there = onset(&series)?;
    let first = places[there.first];
    let until = match places.get(there.until) {
        Some(_) => places[there.until - 1] + 1,
        None => calls.len(),
    };
    let same = concentrated(case, &calls[first..until], own) == found;
    same.then_some(Onset {
        first,
        until,
        ..there
    })
}

fn one_of(
    case: &Case<'_>,
    calls: &[usize],
    own: &FastSet<usize>,
    name: impl Fn(usize) -> Symbol,
) -> Option<Symbol> {
    let mut tallies: FastMap<Symbol, (u64, u64)> = FastMap::default();
    for &hop in calls {
        let name = name(hop);
        if !name.is_empty() {
            let tally = tallies.entry(name).or_default();
            tally.0 += 1;
            tally.1 += u64::from(own.contains(&hop));
        }
    }
    if tallies.len() < 2 {
        return None;
    }
    let (requests, failed) = tallies
        .values()
        .fold((0, 0), |sum, tally| (sum.0 + tally.0, sum.1 + tally.1));
    let (name, (its_requests, its_failed)) =
        tallies.into_iter().max_by(|(a, a_tally), (b, b_tally)| {
            (a_tally.1.cmp(&b_tally.1)).then_with(|| case.hops.text(*b).cmp(case.hops.text(*a)))
        })?;
    // Failures whose instance is not known count against naming one.
    let share = ratio(its_failed, count(own.len()));
    let by_chance = chance(its_failed, failed, ratio(its_requests, requests));
    (share >= CONCENTRATED_SHARE && by_chance < CONCENTRATED * 10.0).then_some(name)
}

/// How sure we are, 0 to 1: the product of
///
/// - **sample**: `k / (k + 4)` for `k` outermost requests that suffered;
/// - **excess**: one minus the chance to see that many failures at the rate from
///   before, or at [`HEALTHY_RATE`] if that is higher;
/// - **share**: of the symptom's failures that this suspect explains, `(1 + √share) / 2`,
///   so that each of two causes is still named with confidence; for slow requests
///   the share of the time they take longer than usual;
/// - **seen**: 1 if all of it reached somebody outside, [`HIDDEN`] if none did.
///
/// Fewer than 10 failures never make a `culprit`, fewer than 5 never `probably`.
/// Fewer than 3, or no more than [`NOISE_RATE`] of the calls, are noise: 0.
fn confidence(case: &Case<'_>, suspect: &Suspect, calls_since: u64) -> f64 {
    let own = count(suspect.own.len()) + suspect.elsewhere.1;
    let suffered = count(suspect.suffered.len());
    let k = own.min(suffered);
    let calls = count(suspect.calls.len());
    let here = count(suspect.own.len());
    // An instance is judged by its own calls, a stretch that is over by all calls since.
    let base = if suspect.elsewhere.0 > 0 {
        calls
    } else {
        calls_since
    };
    if k < NOISE_COUNT || ratio(here, base) < NOISE_RATE {
        return 0.0;
    }
    let sample = ratio(k, 1) / (ratio(k, 1) + HALF_COUNT);
    let before = ratio(suspect.before.1, suspect.before.0);
    let excess = 1.0 - chance(here, base.max(here), before.max(HEALTHY_RATE));
    let share = match suspect.signal {
        Signal::Failures => {
            let at_symptom = suspect
                .suffered
                .iter()
                .filter(|&&top| place(&case.hops, top) == suspect.symptom)
                .filter(|&&top| suspect.visible == 0 || case.blame.entry[top])
                .count();
            let share = ratio(count(at_symptom), suspect.shown.1.max(1)).min(1.0);
            f64::midpoint(1.0, share.sqrt())
        }
        Signal::Latency => suspect.time_share,
    };
    let seen = HIDDEN + (1.0 - HIDDEN) * ratio(suspect.visible.min(suffered), suffered);
    let product = sample * excess * share * seen;
    let bound = match k {
        CULPRIT_COUNT.. => 1.0,
        PROBABLY_COUNT.. => CULPRIT_MIN - 0.01,
        _ => PROBABLY_MIN - 0.01,
    };
    let bound = if suspect.no_baseline {
        f64::min(bound, PROBABLY_MIN - 0.05)
    } else {
        bound
    };
    product.clamp(0.0, bound)
}

impl Suspect {
    fn level(&self) -> u8 {
        [LEADS_MIN, PROBABLY_MIN, CULPRIT_MIN]
            .iter()
            .map(|least| u8::from(self.confidence >= *least))
            .sum()
    }

    /// How much harm it does: outermost requests that suffer, those nobody outside
    /// sees and slow ones counting less than failed ones.
    fn harm(&self) -> f64 {
        let hidden = count(self.suffered.len()) - self.visible.min(count(self.suffered.len()));
        let seen = ratio(self.visible, 1) + ratio(hidden, 10);
        let weight = match self.signal {
            Signal::Failures => 1.0,
            Signal::Latency => 0.5,
        };
        seen * weight * self.confidence
    }

    /// Orders suspects: the surest level first, then the most harm, then by name.
    pub(super) fn compare(&self, other: &Self, case: &Case<'_>) -> Ordering {
        let name = |suspect: &Self| {
            let route = suspect.route.map_or("", |route| case.hops.text(route));
            (
                suspect.callee.texts(case.rows()),
                route.to_owned(),
                suspect.origin,
            )
        };
        (other.level().cmp(&self.level()))
            .then_with(|| other.harm().total_cmp(&self.harm()))
            .then_with(|| other.own.len().cmp(&self.own.len()))
            .then_with(|| self.signal.cmp(&other.signal))
            .then_with(|| name(self).cmp(&name(other)))
    }
}
