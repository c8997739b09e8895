//! The verdict in words: sentences, reasons, and the commands that show them.

use whodunit_model::outcome::grpc_status_name;
use whodunit_model::route::short;
use whodunit_model::time::format_utc;
use whodunit_model::{Cause, Origin};

use super::case::Case;
use super::slow::{network_time_us, own_share, own_time_us};
use super::suspects::{Signal, Suspect};
use super::{Checked, Evidence, Level, Options};
use crate::hops::Standing;
use crate::numbers::{count, ratio};
use crate::symbols::Name;

/// Cause of a suspect's failures by its stable name, `slow` where time is the matter.
pub(super) fn cause(suspect: &Suspect) -> &'static str {
    match (suspect.signal, suspect.cause) {
        (Signal::Latency, _) | (_, Cause::ClientCancelled) => "slow",
        (_, cause) => cause.name(),
    }
}

/// What to say when nothing stands out.
pub(super) fn nothing(case: &Case<'_>, checked: &Checked, options: &Options) -> String {
    if let Some(asked) = &options.service
        && checked.requests > 0
        && !is_known(case, asked)
    {
        return format!(
            "nothing stands out: none of {} from {} to {} UTC is to or from `{asked}`",
            counted(checked.requests, "request"),
            clock(checked.from_us),
            clock(checked.until_us),
        );
    }
    let failed = case.blame.faults.iter().flatten().count();
    let failed = match failed {
        0 => "none failed".to_owned(),
        1 => "1 failed".to_owned(),
        more => format!("{more} failed"),
    };
    if checked.requests == 0 {
        return format!(
            "nothing stands out: no requests from {} to {} UTC",
            clock(checked.from_us),
            clock(checked.until_us),
        );
    }
    format!(
        "nothing stands out: {} to {} from {} to {} UTC, {failed}",
        counted(checked.requests, "request"),
        counted(checked.services, "service"),
        clock(checked.from_us),
        clock(checked.until_us),
    )
}

/// Whether any call is to or from a service or workload of this name.
fn is_known(case: &Case<'_>, asked: &str) -> bool {
    case.hops.hops.iter().any(|hop| {
        let names = [name(case, hop.callee), name(case, hop.caller)];
        names.contains(&asked) || case.service(hop.callee) == asked
    })
}

/// The verdict in one sentence.
pub(super) fn verdict(
    case: &Case<'_>,
    suspect: &Suspect,
    level: Level,
    recorded_before: bool,
) -> String {
    let who = subject(case, suspect);
    let lead = match level {
        Level::Probably => "probably ",
        Level::Leads => "a lead: ",
        Level::Culprit | Level::Nothing => "",
    };
    let (failed, requests) = (count(suspect.own.len()), count(suspect.calls.len()));
    let share = format!(
        "{} % of its calls ({failed} of {requests})",
        percent(failed, requests)
    );
    let calls = format!("{failed} of {requests} calls");
    let what = match (suspect.signal, suspect.cause) {
        (Signal::Latency, _) => slow_words(case, suspect, &who),
        (_, Cause::AppHttp5xx | Cause::AppGrpcStatus | Cause::NoGrpcStatus) => {
            format!("{who} fails {share}{}", answer(case, suspect))
        }
        (_, Cause::ConnectRefused) => format!("{who} refuses connections: {calls} failed"),
        (_, Cause::ConnectTimeout) => {
            format!("{who} does not accept connections: {calls} failed")
        }
        (_, Cause::Reset | Cause::ClosedEarly) if suspect.origin == Origin::Network => {
            format!("the network on the way to {who} breaks connections: {calls} failed")
        }
        (_, Cause::NoEndpoints) => format!("{who} has no instance to answer: {calls} failed"),
        (_, Cause::ClientCancelled) => {
            format!("{who} hangs: callers gave up on {share}")
        }
        (
            _,
            Cause::RequestTimeout
            | Cause::ResponseHeadersTimeout
            | Cause::ResponseStreamTimeout
            | Cause::IdleTimeout,
        ) => format!("{who} does not answer in time: {calls} failed"),
        (_, cause) => format!("{who} fails {share}: {}", cause.explanation()),
    };
    let place = limited_to(case, suspect);
    format!(
        "{lead}{what}{place} {}{}",
        since(suspect, recorded_before),
        consequence(case, suspect)
    )
}

/// How many of the suspect's calls had no answer when they were last seen.
fn hanging(case: &Case<'_>, suspect: &Suspect) -> u64 {
    let open = |hop: &&usize| case.hops.hops[**hop].standing == Standing::Open;
    count(suspect.own.iter().filter(open).count())
}

/// Whether most of the suspect's slow calls were not over yet.
fn is_hanging(case: &Case<'_>, suspect: &Suspect) -> bool {
    2 * hanging(case, suspect) > count(suspect.own.len())
}

fn slow_words(case: &Case<'_>, suspect: &Suspect, who: &str) -> String {
    if is_hanging(case, suspect) {
        return format!(
            "{who} hangs: {} of {} calls have no answer",
            hanging(case, suspect),
            suspect.calls.len()
        );
    }
    let (now, before) = times(case, suspect);
    let verb = if suspect.origin == Origin::Network {
        format!("the way to {who} takes {}", milliseconds(now))
    } else {
        format!("{who} takes {} of its own", milliseconds(now))
    };
    match before {
        Some(before) => format!("{verb} instead of {}", milliseconds(before)),
        None => verb,
    }
}

/// Median time that a slow suspect takes now, and took before, µs.
fn times(case: &Case<'_>, suspect: &Suspect) -> (i64, Option<i64>) {
    let time = |hops: &[usize]| {
        if suspect.origin == Origin::Network {
            network_time_us(case, hops)
        } else {
            own_time_us(case, hops)
        }
    };
    let began_us = suspect.since_us;
    let before: Vec<usize> = case
        .calls_of(suspect.callee)
        .iter()
        .copied()
        .filter(|&hop| {
            let route = case.hops.hops[hop].route;
            case.at_us(hop) < began_us && suspect.route.is_none_or(|only| only == route)
        })
        .collect();
    let before = if suspect.no_baseline {
        None
    } else {
        time(&before)
    };
    (time(&suspect.own).unwrap_or_default(), before)
}

/// `voting VotePoop`, or `voting` if all routes are concerned.
fn subject(case: &Case<'_>, suspect: &Suspect) -> String {
    let route = suspect.route.map_or("", |route| case.hops.text(route));
    titled(name(case, suspect.callee), route)
}

fn titled(workload: &str, route: &str) -> String {
    match (workload, short(route)) {
        ("", "") => "an unnamed service".to_owned(),
        ("", route) => route.to_owned(),
        (workload, "") => workload.to_owned(),
        (workload, route) => format!("{workload} {route}"),
    }
}

fn name<'a>(case: &Case<'a>, callee: Name) -> &'a str {
    callee.texts(case.rows()).1
}

/// ` with gRPC UNKNOWN`, ` with HTTP 500`: the answer most failures have.
fn answer(case: &Case<'_>, suspect: &Suspect) -> String {
    // What a proxy answers in place of the callee is no answer of the callee.
    if !suspect.cause.is_application() {
        return String::new();
    }
    let rows = case.rows();
    let mut votes = std::collections::BTreeMap::<String, u64>::new();
    for &hop in &suspect.own {
        let row = case.hops.hops[hop].callee_row();
        let answer = match rows.grpc_status[row] {
            Some(code) => format!("gRPC {}", grpc_status_name(code)),
            None if rows.status[row] >= 500 => format!("HTTP {}", rows.status[row]),
            None => continue,
        };
        *votes.entry(answer).or_default() += 1;
    }
    let most = votes
        .iter()
        .max_by(|(a, a_votes), (b, b_votes)| a_votes.cmp(b_votes).then_with(|| b.cmp(a)));
    most.map_or_else(String::new, |(answer, _)| format!(" with {answer}"))
}

/// ` on instance voting-1 only`, ` in version v2 only`.
fn limited_to(case: &Case<'_>, suspect: &Suspect) -> String {
    let text = |symbol| case.hops.text(symbol);
    match (suspect.instance, suspect.version) {
        (Some(instance), Some(version)) => format!(
            " on instance {} (version {}) only",
            text(instance),
            text(version)
        ),
        (Some(instance), None) => format!(" on instance {} only", text(instance)),
        (None, Some(version)) => format!(" in version {} only", text(version)),
        (None, None) => String::new(),
    }
}

fn since(suspect: &Suspect, recorded_before: bool) -> String {
    let from = clock(suspect.since_us);
    match suspect.until_us {
        None if suspect.from_start && recorded_before => format!("since before {from} UTC"),
        None if suspect.from_start => format!("since recording began ({from} UTC)"),
        Some(until_us) => format!("from {from} to {} UTC", clock(until_us)),
        None => format!("since {from} UTC"),
    }
}

/// `; web GET /api/vote fails because of it.`
fn consequence(case: &Case<'_>, suspect: &Suspect) -> String {
    if suspect.visible == 0 {
        return if suspect.retried {
            "; tries that are made again hide it from the callers".to_owned()
        } else {
            "; nobody outside sees it".to_owned()
        };
    }
    let Some((place, _)) = suspect.victims.last() else {
        return String::new();
    };
    let (_, workload, route) = case.place_texts(*place);
    let suffers = match suspect.signal {
        Signal::Failures => "fails",
        Signal::Latency => "is slow",
    };
    format!("; {} {suffers} because of it", titled(workload, route))
}

/// Why we think so, each with the command that shows it.
pub(super) fn evidence(case: &Case<'_>, suspect: &Suspect) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    let mut add = |says: String, number: f64, command: String| {
        evidence.push(Evidence {
            says,
            number,
            command,
        });
    };
    let who = subject(case, suspect);
    let (failed, requests) = (count(suspect.own.len()), count(suspect.calls.len()));
    let own_calls = own_calls(case, suspect);
    match suspect.signal {
        Signal::Failures => add(
            format!(
                "{failed} of {requests} calls to {who}{} failed: {}{}",
                limited_to(case, suspect),
                suspect.cause.explanation(),
                answer(case, suspect)
            ),
            ratio(failed, requests),
            own_calls,
        ),
        Signal::Latency => {
            let (now, before) = times(case, suspect);
            let hanging = hanging(case, suspect);
            if is_hanging(case, suspect) {
                add(
                    format!("{hanging} of {requests} calls to {who} have no answer"),
                    ratio(hanging, requests),
                    own_calls,
                );
            } else {
                let says = match before {
                    Some(before) => format!(
                        "the median call to {who} takes {}, before it took {}",
                        milliseconds(now),
                        milliseconds(before)
                    ),
                    None => format!("the median call to {who} takes {}", milliseconds(now)),
                };
                add(says, ratio(now.max(0).unsigned_abs(), 1_000), own_calls);
            }
            let suffered: Vec<usize> = suspect.suffered.iter().copied().collect();
            let share = own_share(case, &suspect.own, &suffered);
            let (_, workload, route) = case.place_texts(suspect.symptom);
            if suspect.origin == Origin::Server {
                add(
                    format!(
                        "that is {:.0} % of the time that slow requests to {} take",
                        share * 100.0,
                        titled(workload, route)
                    ),
                    share,
                    routes(case, suspect, suspect.callee),
                );
            }
        }
    }
    let what = match suspect.signal {
        Signal::Failures => "failed",
        Signal::Latency => "were that slow",
    };
    let (elsewhere, elsewhere_failed) = suspect.elsewhere;
    if elsewhere > 0 {
        add(
            format!("elsewhere {elsewhere_failed} of {elsewhere} such calls {what}"),
            ratio(elsewhere_failed, elsewhere),
            command(case, suspect, "stat instance", suspect.callee, ""),
        );
    }
    let others = other_routes(case, suspect);
    if suspect.route.is_some() && others.0 > 0 {
        add(
            format!(
                "its other routes: {} of {} calls failed",
                others.1, others.0
            ),
            ratio(others.1, others.0),
            routes(case, suspect, suspect.callee),
        );
    }
    let (requests, failed) = match suspect.signal {
        Signal::Failures => suspect.before,
        Signal::Latency if suspect.no_baseline => (0, 0),
        Signal::Latency => slow_before(case, suspect),
    };
    if requests > 0 {
        add(
            format!(
                "before {} UTC, {failed} of {requests} {what}",
                clock(suspect.since_us)
            ),
            ratio(failed, requests),
            before(case, suspect),
        );
    }
    if suspect.victims.is_empty() {
        return evidence;
    }
    let (_, suffering) = suspect.victims[suspect.victims.len() - 1];
    let (_, workload, route) = case.place_texts(suspect.symptom);
    let symptom = titled(workload, route);
    let (says, shown) = match suspect.signal {
        Signal::Failures => (
            format!(
                "{suffering} of {} failed requests to {symptom} contain such a failed call",
                suspect.shown.1
            ),
            suspect.shown.1,
        ),
        Signal::Latency => (
            format!(
                "{suffering} of {} requests to {symptom} are slow because of it",
                suspect.shown.0
            ),
            suspect.shown.0,
        ),
    };
    let flags = match suspect.signal {
        Signal::Failures => format!(" --route {} --failed", quoted(short(route))),
        Signal::Latency => format!(" --route {}", quoted(short(route))),
    };
    add(
        says,
        ratio(suffering, shown),
        command(case, suspect, "tap", suspect.symptom.0, &flags),
    );
    evidence
}

/// Calls to other routes of the suspect in the same time, and how many failed.
fn other_routes(case: &Case<'_>, suspect: &Suspect) -> (u64, u64) {
    let until_us = suspect.until_us.unwrap_or(i64::MAX);
    let mut tally = (0, 0);
    for &hop in case.calls_of(suspect.callee) {
        let at_us = case.at_us(hop);
        let in_time = suspect.since_us <= at_us && at_us <= until_us;
        if in_time && Some(case.hops.hops[hop].route) != suspect.route {
            tally.0 += 1;
            tally.1 += u64::from(case.blame.faults[hop].is_some());
        }
    }
    tally
}

/// Why another suspect was not named first.
pub(super) fn lost(case: &Case<'_>, first: Option<&Suspect>, suspect: &Suspect) -> String {
    let suffered = count(suspect.suffered.len());
    let harmed = match suspect.signal {
        Signal::Failures => "failed",
        Signal::Latency => "slow",
    };
    let what = format!(
        "{} {harmed} because of it ({} of {} calls, {})",
        counted(suffered, "request"),
        suspect.own.len(),
        suspect.calls.len(),
        cause(suspect)
    );
    let Some(first) = first else {
        return format!("too little to tell: {what}");
    };
    let reason = if suspect.confidence < super::LEADS_MIN {
        "too little to tell"
    } else if suspect.visible == 0 {
        "nobody outside sees it"
    } else if suspect.confidence >= super::PROBABLY_MIN {
        "a cause of its own, with less harm"
    } else {
        "less sure"
    };
    format!(
        "{reason}: {what}, {} because of {}",
        count(first.suffered.len()),
        subject(case, first)
    )
}

/// Why a victim was not named although it fails.
pub(super) fn victim_lost(case: &Case<'_>, first: &Suspect, failed: u64, own: u64) -> String {
    let who = subject(case, first);
    match first.signal {
        Signal::Failures => format!(
            "{failed} of its failures contain a failed call to {who}; it failed {own} times on its own"
        ),
        Signal::Latency => {
            format!("it was slow {failed} times while it waited for {who}")
        }
    }
}

/// The command that lists the suspect's bad calls.
fn own_calls(case: &Case<'_>, suspect: &Suspect) -> String {
    if is_hanging(case, suspect) {
        return command(case, suspect, "stat route", suspect.callee, " -o wide");
    }
    let mut flags = match suspect.signal {
        Signal::Failures => " --failed".to_owned(),
        Signal::Latency => format!(" --min-latency {}ms", least_us(case, suspect) / 1_000),
    };
    for (field, value) in [("instance", suspect.instance), ("version", suspect.version)] {
        if let Some(value) = value {
            let term = format!("{field}={}", case.hops.text(value));
            flags.push_str(&format!(" --where {}", quoted(&term)));
        }
    }
    listed(
        case,
        suspect,
        &flags,
        (suspect.since_us, until_us(case, suspect)),
    )
}

/// The command that lists calls to the suspect that have `flags`.
fn listed(case: &Case<'_>, suspect: &Suspect, flags: &str, range: (i64, i64)) -> String {
    let callee = quoted(name(case, suspect.callee));
    let place = if recorded_there(case, suspect) {
        format!(" workload/{callee}")
    } else {
        // Only the callers saw it.
        let callers: std::collections::BTreeSet<&str> = suspect
            .own
            .iter()
            .map(|&hop| name(case, case.hops.hops[hop].caller))
            .filter(|caller| !caller.is_empty())
            .collect();
        // One caller is named, several are not told apart.
        let mut callers = callers.into_iter();
        match (callers.next(), callers.next()) {
            (Some(caller), None) => format!(" workload/{} --to {callee}", quoted(caller)),
            _ => format!(" --to {callee}"),
        }
    };
    let route = suspect.route.map_or_else(String::new, |route| {
        format!(" --route {}", quoted(short(case.hops.text(route))))
    });
    let (from_us, until_us) = range;
    format!(
        "whodunit tap{place}{}{route}{flags} --since {} --until {}",
        namespace(case, suspect.callee),
        format_utc(from_us),
        format_utc(until_us)
    )
}

/// Whether a proxy beside the suspect saw the bad calls.
fn recorded_there(case: &Case<'_>, suspect: &Suspect) -> bool {
    let mut own = suspect.own.iter();
    own.any(|&hop| case.hops.hops[hop].inbound.is_some())
}

/// Latency of a hop as the command that lists the suspect's calls sees it, µs.
fn listed_us(case: &Case<'_>, hop: usize, there: bool) -> i64 {
    let hop = &case.hops.hops[hop];
    let row = if there { hop.callee_row() } else { hop.row() };
    case.rows().latency_us[row].max(0)
}

/// Latency of the fastest of the suspect's slow calls, µs.
fn least_us(case: &Case<'_>, suspect: &Suspect) -> i64 {
    let there = recorded_there(case, suspect);
    let own = suspect.own.iter();
    own.map(|&hop| listed_us(case, hop, there))
        .min()
        .unwrap_or_default()
}

/// Finished calls of the suspect's routes that ended before it began, and how many of
/// these were as slow as its slow ones.
fn slow_before(case: &Case<'_>, suspect: &Suspect) -> (u64, u64) {
    let there = recorded_there(case, suspect);
    let limit_us = least_us(case, suspect) / 1_000 * 1_000;
    let mut tally = (0, 0);
    for &hop in case.calls_of(suspect.callee) {
        let same = suspect
            .route
            .is_none_or(|route| case.hops.hops[hop].route == route);
        if same && case.at_us(hop) < suspect.since_us {
            tally.0 += 1;
            tally.1 += u64::from(listed_us(case, hop, there) >= limit_us);
        }
    }
    tally
}

fn routes(case: &Case<'_>, suspect: &Suspect, callee: Name) -> String {
    let what = format!("routes workload/{}", quoted(name(case, callee)));
    finish(case, suspect, callee, &what, "")
}

/// The command that shows the suspect's calls before it began.
fn before(case: &Case<'_>, suspect: &Suspect) -> String {
    if suspect.signal == Signal::Latency {
        let flags = format!(" --min-latency {}ms", least_us(case, suspect) / 1_000);
        let range = (case.window.from_us, suspect.since_us);
        return listed(case, suspect, &flags, range);
    }
    let what = format!("routes workload/{}", quoted(name(case, suspect.callee)));
    let namespace = namespace(case, suspect.callee);
    format!(
        "whodunit {what}{namespace} --since {} --until {}",
        format_utc(case.window.from_us),
        format_utc(suspect.since_us)
    )
}

fn command(case: &Case<'_>, suspect: &Suspect, verb: &str, callee: Name, flags: &str) -> String {
    let name = quoted(name(case, callee));
    let what = match verb {
        "stat instance" | "stat route" => format!("{verb} --to {name}"),
        _ => format!("{verb} workload/{name}"),
    };
    finish(case, suspect, callee, &what, flags)
}

fn finish(case: &Case<'_>, suspect: &Suspect, about: Name, what: &str, flags: &str) -> String {
    format!(
        "whodunit {what}{}{flags} --since {} --until {}",
        namespace(case, about),
        format_utc(suspect.since_us),
        format_utc(until_us(case, suspect))
    )
}

/// The end of the bad stretch for a command, µs: its last request included.
fn until_us(case: &Case<'_>, suspect: &Suspect) -> i64 {
    suspect
        .until_us
        .map_or(case.window.until_us, |us| us.saturating_add(1_000))
}

fn namespace(case: &Case<'_>, callee: Name) -> String {
    match callee.texts(case.rows()).0 {
        "" => String::new(),
        namespace => format!(" -n {}", quoted(namespace)),
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `1 request`, `3 requests`.
fn counted(number: u64, thing: &str) -> String {
    if number == 1 {
        format!("1 {thing}")
    } else {
        format!("{number} {thing}s")
    }
}

/// A share as people say it: whole percents, one digit more below ten. 100 and 0
/// mean all and none.
fn percent(part: u64, whole: u64) -> String {
    let percent = ratio(part, whole) * 100.0;
    if part == whole {
        "100".to_owned()
    } else if percent < 10.0 {
        format!("{percent:.1}")
    } else {
        format!("{:.0}", percent.min(99.0))
    }
}

fn milliseconds(us: i64) -> String {
    let us = us.max(0);
    if us < 10_000 {
        format!("{}.{} ms", us / 1_000, us % 1_000 / 100)
    } else if us >= 1_000_000 {
        format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000)
    } else {
        format!("{} ms", us / 1_000)
    }
}

/// Time of day, UTC: `14:02:31`.
fn clock(us: i64) -> String {
    let second = us.div_euclid(1_000_000).rem_euclid(86_400);
    format!(
        "{:02}:{:02}:{:02}",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}
