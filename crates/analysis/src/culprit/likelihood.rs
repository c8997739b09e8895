//! How surely is this more than chance? And since when?

use crate::numbers::ratio;

/// Returns an upper bound on the chance of at least `failed` failures among
/// `requests` when each fails with probability `rate` (Chernoff's bound:
/// `exp(-n · KL(failed/n ‖ rate))`). Never too small, and exact enough to rank.
pub(super) fn chance(failed: u64, requests: u64, rate: f64) -> f64 {
    if requests == 0 || failed == 0 {
        return 1.0;
    }
    let seen = ratio(failed.min(requests), requests);
    let rate = rate.clamp(1e-9, 1.0 - 1e-9);
    if seen <= rate {
        return 1.0;
    }
    let divergence = part(seen, rate) + part(1.0 - seen, 1.0 - rate);
    (-ratio(requests, 1) * divergence).exp()
}

/// `a · ln(a / b)`, 0 for a = 0.
fn part(a: f64, b: f64) -> f64 {
    if a <= 0.0 { 0.0 } else { a * (a / b).ln() }
}

/// Log-likelihood of `failed` of `requests` at their own rate.
fn log_likelihood(failed: u64, requests: u64) -> f64 {
    let rate = ratio(failed, requests);
    let n = ratio(requests, 1);
    n * (part(rate, 1.0) + part(1.0 - rate, 1.0))
}

/// Since when a series of requests fails, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Onset {
    /// Index of the first request of the bad stretch, 0 if it was bad from the start.
    pub(super) first: usize,
    /// Index after the last request of the bad stretch: the length if it goes on.
    pub(super) until: usize,
    /// Failures were there from the start, as far as can be told.
    pub(super) from_start: bool,
    /// Requests before the bad stretch, and how many of them failed.
    pub(super) before: (u64, u64),
}

/// How much likelier a series must be with a change than without one, as the
/// logarithm of the ratio, before a change is believed. 6 is a factor of 400:
/// enough for the hundreds of places where the change may be looked for.
const CHANGE_MIN: f64 = 6.0;

/// How many times rarer failures must be in a stretch that is called quiet.
const QUIET_FACTOR: f64 = 3.0;

/// Finds the beginning and the end of the bad stretch in a series of requests in
/// the order of time: the single change for the worse, then the single change for
/// the better, that make the series likeliest. None without failures.
pub(super) fn onset(failed: &[bool]) -> Option<Onset> {
    let first_failure = failed.iter().position(|failed| *failed)?;
    let begin = change(failed, true);
    let end = change(failed, false);
    let end_after = |begin: Option<usize>| {
        let from = begin.unwrap_or_default();
        change(&failed[from..], false).map(|end| from + end)
    };
    let begin_before = |end: Option<usize>| change(&failed[..end.unwrap_or(failed.len())], true);
    // Simpler stories first: a later one must be better.
    let stories = [
        (None, None),
        (begin, None),
        (None, end),
        (begin, end_after(begin)),
        (begin_before(end), end),
    ];
    let mut best = (f64::NEG_INFINITY, (None, None));
    for story in stories {
        let score = likelihood_of(failed, story);
        if score > best.0 {
            best = (score, story);
        }
    }
    let (begin, end) = best.1;
    let until = end.unwrap_or(failed.len());
    // Without a change that pays for itself there may still have been a quiet
    // stretch too long to be chance.
    let rate = ratio(failures(failed), (until - first_failure) as u64).min(1.0);
    let quiet = (1.0 - rate).powf(ratio(first_failure as u64, 1)) < QUIET_CHANCE;
    let first = begin.or(quiet.then_some(first_failure));
    let before = &failed[..first.unwrap_or_default()];
    Some(Onset {
        first: first.unwrap_or_default(),
        until,
        from_start: first.is_none(),
        before: (before.len() as u64, failures(before)),
    })
}

/// Chance below which a stretch without failures before the first one is not taken for luck.
const QUIET_CHANCE: f64 = 0.01;

fn failures(series: &[bool]) -> u64 {
    series.iter().filter(|failed| **failed).count() as u64
}

/// Log-likelihood of a series with a bad stretch, less what each change has to be worth.
fn likelihood_of(failed: &[bool], (begin, end): (Option<usize>, Option<usize>)) -> f64 {
    let (from, until) = (begin.unwrap_or_default(), end.unwrap_or(failed.len()));
    let parts = [&failed[..from], &failed[from..until], &failed[until..]];
    let changes = u64::from(begin.is_some()) + u64::from(end.is_some());
    let sum: f64 = parts
        .iter()
        .map(|part| log_likelihood(failures(part), part.len() as u64))
        .sum();
    sum - CHANGE_MIN * ratio(changes, 1)
}

/// Index where failures most likely become more frequent (`worse`) or less frequent.
fn change(failed: &[bool], worse: bool) -> Option<usize> {
    let n = failed.len() as u64;
    let all = failed.iter().filter(|failed| **failed).count() as u64;
    let mut best: Option<(f64, usize)> = None;
    let mut before = 0;
    for (index, now) in failed.iter().enumerate() {
        // Worse begins with a failure, better follows one.
        let candidate = if worse {
            *now
        } else {
            !*now && index > 0 && failed[index - 1]
        };
        let at = index as u64;
        if candidate && at > 0 {
            let (left, right) = (ratio(before, at), ratio(all - before, n - at));
            let (quiet, bad) = if worse { (left, right) } else { (right, left) };
            if QUIET_FACTOR * quiet <= bad && bad > 0.0 {
                let with = log_likelihood(before, at) + log_likelihood(all - before, n - at);
                if best.is_none_or(|(most, _)| with > most) {
                    best = Some((with, index));
                }
            }
        }
        before += u64::from(*now);
    }
    best.map(|(_, index)| index)
}

/// Where the values of a series rise for good, and how likely that is chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rise {
    /// Index of the first value after the rise.
    pub(super) at: usize,
    /// Bound on the chance that no rise happened.
    pub(super) chance: f64,
}

/// Finds the most likely rise of a series by ranks (Pettitt's test), so that no
/// outlier and no scale matters. None for less than two values.
pub(super) fn rise(values: &[i64]) -> Option<Rise> {
    let n = values.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_unstable_by_key(|&index| values[index]);
    // Twice the rank, so that ties keep whole numbers.
    let mut ranks = vec![0_i64; n];
    let mut next = 0_i64;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let length = i64::try_from(equal.len()).unwrap_or(i64::MAX);
        for &index in equal {
            ranks[index] = 2 * next + length + 1;
        }
        next += length;
    }
    let mean = next + 1;
    let mut sum = 0_i64;
    let mut lowest = (0_i64, 0);
    for (index, rank) in ranks.iter().enumerate().take(n.saturating_sub(1)) {
        sum += rank - mean;
        if sum < lowest.0 {
            lowest = (sum, index + 1);
        }
    }
    let (statistic, at) = lowest;
    if at == 0 {
        return None;
    }
    let k = ratio(statistic.unsigned_abs(), 1);
    let n = ratio(n as u64, 1);
    let chance = 2.0 * (-6.0 * k * k / (n * n * n + n * n)).exp();
    Some(Rise {
        at,
        chance: chance.min(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(text: &str) -> Vec<bool> {
        text.bytes().map(|byte| byte == b'x').collect()
    }

    #[track_caller]
    fn check(text: &str, first: usize, until: usize, from_start: bool) {
        let found = onset(&series(text)).map(|onset| (onset.first, onset.until, onset.from_start));
        assert_eq!(found, Some((first, until, from_start)));
    }

    #[test]
    fn onset_is_the_first_failure_after_a_quiet_stretch() {
        check("....................xxxxxxxxxx", 20, 30, false);
        check("..x.................xxxxxxxxxx", 20, 30, false);
        check(
            ".............................x..x.x..xx.x..x.x",
            29,
            46,
            false,
        );
    }

    #[test]
    fn failures_that_were_always_there_have_no_onset() {
        check("xxxxxxxxxx", 0, 10, true);
        check("...x....x...x.x...x....x", 0, 24, true);
    }

    #[test]
    fn an_end_is_found_too() {
        check(
            "....................xxxxxxxxxx....................",
            20,
            30,
            false,
        );
    }

    #[test]
    fn chance_is_small_only_for_real_excess() {
        assert!(chance(20, 20, 0.005) < 1e-40);
        assert!(chance(3, 400, 0.005) > 0.5);
        assert!(chance(30, 3_000, 0.005) < 0.01);
        assert!(chance(0, 10, 0.5) >= 1.0);
        assert!(chance(1, 10, 0.5) >= 1.0);
    }

    #[test]
    fn a_rise_is_found_where_it_is() {
        let mut values: Vec<i64> = (0..50).map(|i| 10 + i % 7).collect();
        values.extend((0..50).map(|i| 100 + i % 7));
        let found = rise(&values).unwrap();
        assert_eq!(found.at, 50);
        assert!(found.chance < 1e-9, "{found:?}");
        assert!(rise(&[3, 2, 1]).is_none());
        assert!(rise(&[]).is_none());
    }
}
