//! Which requests? What separates the failed ones from the good ones.
//!
//! Every value of every dimension (route, method, instance, version, caller and
//! each captured attribute) selects some requests, and so does every pair of
//! values of different dimensions. A selection is good if it covers many of the
//! failed requests and if failure is likelier inside than overall:
//!
//! `score = covered × ln(lift)`, with `covered` the share of all failed requests
//! inside, and `lift` the share of failures inside over the share overall.
//!
//! The status is no dimension: that failed requests failed explains nothing.
//! Values that select the very same requests (an instance and its version) are
//! reported as one set of terms. A pair is reported only if it is better than
//! each of its values alone; a second set only if it covers other failures.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use whodunit_model::redact::Attributes;
use whodunit_model::{Rows, Symbol};

use crate::numbers::ratio;
use crate::symbols::FastMap;

/// Values that are looked at together: those with the best scores.
const VALUES_MAX: usize = 24;

/// Values that are combined to pairs: those with the best scores.
const PAIRED_MAX: usize = 14;

/// Most sets reported.
const SETS_MAX: usize = 3;

/// Fewest failed requests a set must select: fewer could be anything.
const SUPPORT_MIN: u64 = 3;

/// Least score of a set worth reporting: half of all failures at a lift of 1.35.
const SCORE_MIN: f64 = 0.15;

/// Least covered share of a set worth reporting.
const COVERED_MIN: f64 = 0.2;

/// How much better than each of its values alone a pair must be.
const PAIR_GAIN: f64 = 1.02;

/// One request to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Its row, by preference the callee's.
    pub row: usize,
    /// The other side's row, used for what the first one does not know.
    pub other: Option<usize>,
    /// It failed (or was slow).
    pub bad: bool,
}

/// `name = value`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// `route`, `method`, `instance`, `version`, `caller` or a captured attribute's name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Requests for which all terms hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttributeSet {
    /// All of these hold.
    pub terms: Vec<Term>,
    /// Share of the failed requests for which they hold, 0 to 1.
    pub covered: f64,
    /// How many times likelier failure is where they hold than overall.
    pub lift: f64,
    /// Failed requests for which they hold.
    pub failed: u64,
    /// Requests for which they hold.
    pub requests: u64,
}

impl AttributeSet {
    /// Returns `covered × ln(lift)`.
    #[must_use]
    pub fn score(&self) -> f64 {
        self.covered * self.lift.max(f64::MIN_POSITIVE).ln()
    }
}

/// Requests, and how many of them are bad.
#[derive(Clone, Copy, Default)]
struct Tally {
    requests: u64,
    bad: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.bad += other.bad;
    }
}

/// Finds the sets of attributes that separate bad from good requests, best first, at most three.
///
/// Empty if no request is bad, if all are, or if nothing separates them.
#[must_use]
pub fn attributes(rows: &Rows, requests: &[Compared]) -> Vec<AttributeSet> {
    let all = requests.iter().fold(Tally::default(), |mut all, request| {
        all.add(Tally {
            requests: 1,
            bad: u64::from(request.bad),
        });
        all
    });
    if all.bad < SUPPORT_MIN || all.bad == all.requests {
        return Vec::new();
    }
    let kinds = kinds(rows, requests);
    let values = best_values(&kinds, all);
    let masks = masks(&kinds, &values);
    let classes = classes(&values, &masks);
    report(sets(&classes, &masks, all), &masks)
}

/// Requests that agree in every dimension, as terms, with their tally.
type Kinds = Vec<(Vec<Term>, Tally)>;

/// Groups requests by everything that is compared: after this, work depends on
/// how many kinds of requests there are, not on how many requests.
fn kinds(rows: &Rows, requests: &[Compared]) -> Kinds {
    let mut tallies: FastMap<[Symbol; 6], Tally> = FastMap::default();
    for request in requests {
        let symbol = |column: &[Symbol]| {
            let first = column[request.row];
            match request.other {
                Some(other) if first.is_empty() => column[other],
                _ => first,
            }
        };
        let key = [
            symbol(&rows.route),
            symbol(&rows.method),
            symbol(&rows.dst_instance),
            symbol(&rows.dst_version),
            symbol(&rows.src_workload),
            symbol(&rows.attributes),
        ];
        tallies.entry(key).or_default().add(Tally {
            requests: 1,
            bad: u64::from(request.bad),
        });
    }
    const NAMES: [&str; 5] = ["route", "method", "instance", "version", "caller"];
    tallies
        .into_iter()
        .map(|(key, tally)| {
            let term = |name: &str, value: &str| Term {
                name: name.to_owned(),
                value: value.to_owned(),
            };
            let mut terms: Vec<Term> = NAMES
                .iter()
                .zip(key)
                .filter(|(_, symbol)| !symbol.is_empty())
                .map(|(name, symbol)| term(name, rows.text(symbol)))
                .collect();
            let captured = Attributes::iter(rows.text(key[5]));
            terms.extend(captured.map(|(name, value)| term(&name, &value)));
            (terms, tally)
        })
        .collect()
}

/// The values with the best scores, best first.
fn best_values(kinds: &Kinds, all: Tally) -> Vec<Term> {
    let mut tallies: BTreeMap<&Term, Tally> = BTreeMap::new();
    for (terms, tally) in kinds {
        for (index, term) in terms.iter().enumerate() {
            if !terms[..index].contains(term) {
                tallies.entry(term).or_default().add(*tally);
            }
        }
    }
    let mut scored: Vec<(f64, &Term)> = tallies
        .into_iter()
        .filter(|(_, tally)| tally.bad >= SUPPORT_MIN)
        .map(|(term, tally)| (score(tally, all), term))
        .filter(|(score, _)| *score > 0.0)
        .collect();
    scored.sort_by(|(a, a_term), (b, b_term)| b.total_cmp(a).then_with(|| a_term.cmp(b_term)));
    scored.truncate(VALUES_MAX);
    scored.into_iter().map(|(_, term)| term.clone()).collect()
}

fn lift(tally: Tally, all: Tally) -> f64 {
    ratio(tally.bad, tally.requests) / ratio(all.bad, all.requests)
}

fn score(tally: Tally, all: Tally) -> f64 {
    ratio(tally.bad, all.bad) * lift(tally, all).max(f64::MIN_POSITIVE).ln()
}

/// For each combination of values that occurs, a bit per value, and how often it occurs.
fn masks(kinds: &Kinds, values: &[Term]) -> Vec<(u32, Tally)> {
    let bits: BTreeMap<&Term, u32> = values.iter().zip(0..).collect();
    let mut masks: BTreeMap<u32, Tally> = BTreeMap::new();
    for (terms, tally) in kinds {
        let mask = terms
            .iter()
            .filter_map(|term| bits.get(term))
            .fold(0, |mask, bit| mask | 1 << bit);
        masks.entry(mask).or_default().add(*tally);
    }
    masks.into_iter().collect()
}

/// Values that select the very same requests.
#[derive(Clone)]
struct Class {
    terms: Vec<Term>,
    /// Bit of the first value.
    bit: u32,
}

fn classes(values: &[Term], masks: &[(u32, Tally)]) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for (value, bit) in values.iter().zip(0_u32..) {
        let same = |class: &&mut Class| {
            masks
                .iter()
                .all(|(mask, _)| (mask >> bit) & 1 == (mask >> class.bit) & 1)
        };
        if let Some(class) = classes.iter_mut().find(same) {
            class.terms.push(value.clone());
        } else {
            classes.push(Class {
                terms: vec![value.clone()],
                bit,
            });
        }
    }
    for class in &mut classes {
        class.terms.sort();
    }
    classes
}

struct Selection {
    set: AttributeSet,
    bits: u32,
}

fn select(terms: Vec<Term>, bits: u32, masks: &[(u32, Tally)], all: Tally) -> Selection {
    let mut tally = Tally::default();
    for (mask, part) in masks {
        if mask & bits == bits {
            tally.add(*part);
        }
    }
    Selection {
        set: AttributeSet {
            terms,
            covered: ratio(tally.bad, all.bad),
            lift: lift(tally, all),
            failed: tally.bad,
            requests: tally.requests,
        },
        bits,
    }
}

/// All selections worth reporting, best first.
fn sets(classes: &[Class], masks: &[(u32, Tally)], all: Tally) -> Vec<Selection> {
    let singles: Vec<Selection> = classes
        .iter()
        .map(|class| select(class.terms.clone(), 1 << class.bit, masks, all))
        .collect();
    let mut sets = Vec::new();
    let paired = singles.len().min(PAIRED_MAX);
    for (index, a) in singles[..paired].iter().enumerate() {
        for b in &singles[index + 1..paired] {
            let clash = |term: &Term| b.set.terms.iter().any(|other| other.name == term.name);
            if a.set.terms.iter().any(clash) {
                continue;
            }
            let mut terms = [a.set.terms.clone(), b.set.terms.clone()].concat();
            terms.sort();
            let pair = select(terms, a.bits | b.bits, masks, all);
            let alone = a.set.score().max(b.set.score());
            if pair.set.failed >= SUPPORT_MIN && pair.set.score() > alone * PAIR_GAIN {
                sets.push(pair);
            }
        }
    }
    sets.extend(singles);
    sets.retain(|found| found.set.score() >= SCORE_MIN && found.set.covered >= COVERED_MIN);
    sets.sort_by(compare);
    sets
}

/// Best score first; among equals the simpler, then by text.
fn compare(a: &Selection, b: &Selection) -> Ordering {
    (b.set.score().total_cmp(&a.set.score()))
        .then_with(|| a.bits.count_ones().cmp(&b.bits.count_ones()))
        .then_with(|| a.set.terms.cmp(&b.set.terms))
}

/// Keeps the sets that each explain failures the better ones do not.
fn report(sets: Vec<Selection>, masks: &[(u32, Tally)]) -> Vec<AttributeSet> {
    let mut kept: Vec<Selection> = Vec::new();
    for selection in sets {
        let new: u64 = masks
            .iter()
            .filter(|(mask, _)| {
                mask & selection.bits == selection.bits
                    && !kept.iter().any(|known| mask & known.bits == known.bits)
            })
            .map(|(_, tally)| tally.bad)
            .sum();
        if kept.is_empty() || 2 * new > selection.set.failed {
            kept.push(selection);
        }
        if kept.len() == SETS_MAX {
            break;
        }
    }
    kept.into_iter().map(|selection| selection.set).collect()
}

#[cfg(test)]
mod tests;
