//! Who did it.
//!
//! The verdict is drawn from the recorded requests of a window, and from nothing else:
//!
//! 1. Calls are joined from both sides, and each call is tied to the request on
//!    whose behalf it was made ([`crate::calltree`] shows the same ties).
//! 2. Each failed request is followed down: while a call it made failed too, it is
//!    a victim, and that call has to answer for it (`blame`). Slow requests are
//!    followed down to where their time went (`slow`).
//! 3. Where failures began is grouped into suspects: callee, route (or all routes),
//!    instance and version if only one is concerned (`suspects`).
//! 4. Each suspect is weighed: how many failures, how far above the noise, how much
//!    of the symptom it explains, whether anybody outside saw it. The sum of this
//!    is the confidence, and words come with it: from 0.6 `culprit`, from 0.4
//!    `probably`, from 0.2 `leads`, else nothing stands out.
//!
//! Not accused: health probes, client errors (4xx), callers that went away
//! (unless they had to wait much longer than usual), and services whose failing
//! callee explains their failures.

pub(crate) mod blame;
mod case;
mod likelihood;
mod says;
mod slow;
mod suspects;

use whodunit_model::{Origin, RequestId, Rows};

use crate::attributes::{AttributeSet, Compared, attributes};
use crate::hops::Standing;
use crate::numbers::count;
use crate::symbols::{FastSet, Name};
use crate::window::Window;
use blame::place;
use case::Case;
pub use suspects::Signal;
use suspects::{Suspect, Trouble};

/// Confidence from which the verdict is `culprit`.
pub const CULPRIT_MIN: f64 = 0.6;

/// Confidence from which the verdict is `probably`.
pub const PROBABLY_MIN: f64 = 0.4;

/// Confidence from which the verdict is `leads`.
pub const LEADS_MIN: f64 = 0.2;

/// Most runners-up named.
const RUNNERS_UP_MAX: usize = 5;

/// Examples given.
const EXAMPLES: usize = 3;

/// What is asked, and what is known besides the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only symptoms of this namespace.
    pub namespace: Option<String>,
    /// Only symptoms at this service or workload.
    pub service: Option<String>,
    /// When recording began, µs since the epoch, if known. Trouble that was there
    /// from the first row of the window "was there when recording began" only if
    /// recording began within the window.
    pub recording_began_us: Option<i64>,
}

/// How sure the verdict is, in a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing stands out.
    #[default]
    Nothing,
    /// There are leads.
    Leads,
    /// Probably this one.
    Probably,
    /// This one.
    Culprit,
}

impl Level {
    /// Returns `culprit`, `probably`, `leads` or `nothing`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Leads => "leads",
            Self::Probably => "probably",
            Self::Culprit => "culprit",
        }
    }

    /// Returns the level of a confidence.
    #[must_use]
    pub fn of(confidence: f64) -> Self {
        match confidence {
            c if c >= CULPRIT_MIN => Self::Culprit,
            c if c >= PROBABLY_MIN => Self::Probably,
            c if c >= LEADS_MIN => Self::Leads,
            _ => Self::Nothing,
        }
    }
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// How sure it is.
    pub level: Level,
    /// 0 to 1.
    pub confidence: f64,
    /// The verdict in one sentence.
    pub says: String,
    /// What users see.
    pub symptom: Option<Symptom>,
    /// Who did it.
    pub culprit: Option<Named>,
    /// Who suffers, from the culprit up to the users.
    pub victims: Vec<Victim>,
    /// What separates the failed requests from the good ones: at the culprit, then at the symptom.
    pub attributes: Vec<Telling>,
    /// Why we think so.
    pub evidence: Vec<Evidence>,
    /// Who else was suspected, and why they lost.
    pub runners_up: Vec<RunnerUp>,
    /// Ids of typical failed requests, spread over time.
    pub examples: Vec<RequestId>,
    /// What was looked at.
    pub checked: Checked,
}

/// What users see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symptom {
    /// Namespace.
    pub namespace: String,
    /// The service where it shows to its outermost callers (the workload's name if it has no other).
    pub service: String,
    /// The workload that serves it.
    pub workload: String,
    /// The route.
    pub route: String,
    /// What is wrong.
    pub signal: Signal,
    /// When the first request that shows it began, µs since the epoch.
    pub since_us: i64,
    /// When the last request that showed it ended, if it is over; µs since the epoch.
    pub until_us: Option<i64>,
    /// True if it was there when recording began.
    pub since_recording_began: bool,
    /// Requests that show it.
    pub failed: u64,
    /// All requests of the route since then.
    pub requests: u64,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Namespace.
    pub namespace: String,
    /// Workload, or the name of a service outside the mesh.
    pub workload: String,
    /// Service name, may be empty.
    pub service: String,
    /// Route, whole; empty if all routes are concerned.
    pub route: String,
    /// Instance, if only one of several is concerned.
    pub instance: Option<String>,
    /// Version of the application, if only one of several is concerned.
    pub app_version: Option<String>,
    /// Where the failures begin.
    pub origin: Origin,
    /// Most frequent cause of the failures; `slow` for latency and for calls that
    /// were given up on.
    pub cause: String,
    /// Requests that failed (or were slow) there.
    pub failed: u64,
    /// All requests there in the same time.
    pub requests: u64,
}

/// Who suffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Namespace.
    pub namespace: String,
    /// Workload.
    pub workload: String,
    /// Route.
    pub route: String,
    /// Requests that failed because of the culprit.
    pub failed: u64,
    /// All requests of the route in the same time.
    pub requests: u64,
}

/// Attributes that separate failed from good requests of one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    /// Namespace of the workload.
    pub namespace: String,
    /// Workload whose requests were compared.
    pub workload: String,
    /// The attributes.
    pub set: AttributeSet,
}

/// One reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The reason in words.
    pub says: String,
    /// The number in it.
    pub number: f64,
    /// The command that shows the number.
    pub command: String,
}

/// A suspect that lost.
#[derive(Clone, Debug, PartialEq)]
pub struct RunnerUp {
    /// Namespace.
    pub namespace: String,
    /// Workload.
    pub workload: String,
    /// Route; empty if all routes are concerned.
    pub route: String,
    /// 0 to 1.
    pub confidence: f64,
    /// Why it lost.
    pub lost_because: String,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Requests.
    pub requests: u64,
    /// Beginning, µs since the epoch.
    pub from_us: i64,
    /// End, µs since the epoch.
    pub until_us: i64,
    /// Services.
    pub services: u64,
}

/// Draws the verdict from the rows of `window`.
///
/// The same rows give the same verdict, whatever their order.
#[must_use]
pub fn culprit(rows: &Rows, window: Window, options: &Options) -> Verdict {
    let case = Case::new(rows, window);
    let mut suspects = suspects::suspects(&case, Signal::Failures, &failures(&case), false);
    let (risen, always) = slow::slow(&case);
    suspects.extend(suspects::suspects(&case, Signal::Latency, &risen, false));
    suspects.extend(suspects::suspects(&case, Signal::Latency, &always, true));
    suspects.retain(|suspect| asked_for(&case, suspect, options));
    suspects.sort_by(|a, b| a.compare(b, &case));

    let checked = Checked {
        requests: requests(&case),
        from_us: case.window.from_us,
        until_us: case.window.until_us,
        services: count(case.callees()),
    };
    let Some((first, others)) = suspects.split_first() else {
        return Verdict {
            says: says::nothing(&case, &checked, options),
            checked,
            ..Verdict::default()
        };
    };
    let level = Level::of(first.confidence);
    if level == Level::Nothing {
        return Verdict {
            confidence: first.confidence,
            says: says::nothing(&case, &checked, options),
            runners_up: runners_up(&case, None, &suspects),
            checked,
            ..Verdict::default()
        };
    }
    Verdict {
        level,
        confidence: first.confidence,
        says: says::verdict(&case, first, level, recorded_before(&case, options)),
        symptom: Some(symptom(&case, first, options)),
        culprit: Some(named(&case, first)),
        victims: victims(&case, first),
        attributes: telling(&case, first),
        evidence: says::evidence(&case, first),
        runners_up: runners_up(&case, Some(first), others),
        examples: examples(&case, first),
        checked,
    }
}

/// Every failure that began somewhere, with who suffered from it.
fn failures(case: &Case<'_>) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    for hop in 0..case.hops.len() {
        let Some(fault) = case.blame.faults[hop] else {
            continue;
        };
        if !case.blame.is_own(hop) {
            continue;
        }
        let chain = case.blame.chain_up(&case.hops, hop);
        let top = chain.last().copied().unwrap_or(hop);
        let visible = case.blame.entry[top] && case.hops.hops[top].standing == Standing::Final;
        troubles.push(Trouble {
            origin: fault.origin,
            cause: fault.cause,
            chain,
            visible,
            excess_us: (0, 0),
        });
    }
    troubles
}

fn asked_for(case: &Case<'_>, suspect: &Suspect, options: &Options) -> bool {
    let (callee, _) = suspect.symptom;
    let (namespace, workload) = callee.texts(case.rows());
    let wanted = |wanted: &Option<String>, found: &[&str]| {
        wanted
            .as_ref()
            .is_none_or(|wanted| found.contains(&wanted.as_str()))
    };
    wanted(&options.namespace, &[namespace])
        && wanted(&options.service, &[workload, case.service(callee)])
}

/// Finished calls, each once.
fn requests(case: &Case<'_>) -> u64 {
    let finals = case
        .hops
        .hops
        .iter()
        .filter(|hop| hop.standing == Standing::Final);
    count(finals.count())
}

/// Says whether there are records from before the window.
fn recorded_before(case: &Case<'_>, options: &Options) -> bool {
    options
        .recording_began_us
        .is_some_and(|began_us| began_us < case.window.from_us)
}

fn symptom(case: &Case<'_>, suspect: &Suspect, options: &Options) -> Symptom {
    let (namespace, workload, route) = case.place_texts(suspect.symptom);
    let service = match case.service(suspect.symptom.0) {
        "" => workload,
        service => service,
    };
    Symptom {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        workload: workload.to_owned(),
        route: route.to_owned(),
        signal: suspect.signal,
        since_us: suspect.since_us,
        until_us: suspect.until_us,
        since_recording_began: suspect.from_start && !recorded_before(case, options),
        failed: suspect.shown.1,
        requests: suspect.shown.0,
    }
}

fn named(case: &Case<'_>, suspect: &Suspect) -> Named {
    let (namespace, workload) = suspect.callee.texts(case.rows());
    let text = |symbol| case.hops.text(symbol).to_owned();
    Named {
        namespace: namespace.to_owned(),
        workload: workload.to_owned(),
        service: case.service(suspect.callee).to_owned(),
        route: suspect.route.map(text).unwrap_or_default(),
        instance: suspect.instance.map(text),
        app_version: suspect.version.map(text),
        origin: suspect.origin,
        cause: says::cause(suspect).to_owned(),
        failed: count(suspect.own.len()),
        requests: count(suspect.calls.len()),
    }
}

/// Who fails because of the suspect, from its callers up to the users.
fn victims(case: &Case<'_>, suspect: &Suspect) -> Vec<Victim> {
    let until_us = suspect.until_us.unwrap_or(i64::MAX);
    let requests = |callee: Name, route, caller: Option<Name>| {
        let calls = case
            .calls_showing(suspect.signal, callee)
            .iter()
            .filter(|&&hop| {
                let at_us = case.at_us(hop);
                let hop = &case.hops.hops[hop];
                hop.route == route
                    && caller.is_none_or(|caller| hop.caller == caller)
                    && suspect.since_us <= at_us
                    && at_us <= until_us
            });
        count(calls.count())
    };
    let victim = |who: Name, route, failed, requests| {
        let (namespace, workload, route) = case.place_texts((who, route));
        Victim {
            namespace: namespace.to_owned(),
            workload: workload.to_owned(),
            route: route.to_owned(),
            failed,
            requests,
        }
    };
    let services = suspect.victims.iter().map(|&((callee, route), failed)| {
        victim(callee, route, failed, requests(callee, route, None))
    });
    let users = suspect.users.iter().map(|&(user, failed)| {
        let requests = requests(user.callee, user.route, Some(user.caller));
        victim(user.caller, user.route, failed, requests)
    });
    services.chain(users).collect()
}

/// What separates bad from good requests: among all calls of the culprit, and
/// among the requests of the symptom's route.
fn telling(case: &Case<'_>, suspect: &Suspect) -> Vec<Telling> {
    let until_us = suspect.until_us.unwrap_or(i64::MAX);
    let in_time = |hop: usize| {
        let at_us = case.at_us(hop);
        suspect.since_us <= at_us && at_us <= until_us
    };
    let compared = |hop: usize, bad: bool| Compared {
        row: case.hops.hops[hop].callee_row(),
        other: case.hops.hops[hop].outbound,
        bad,
    };
    let own: FastSet<usize> = suspect.own.iter().copied().collect();
    let at_culprit: Vec<Compared> = case
        .calls_showing(suspect.signal, suspect.callee)
        .iter()
        .filter(|&&hop| in_time(hop))
        .map(|&hop| compared(hop, own.contains(&hop)))
        .collect();
    let (callee, route) = suspect.symptom;
    let at_symptom: Vec<Compared> = case
        .calls_showing(suspect.signal, callee)
        .iter()
        .filter(|&&hop| in_time(hop) && case.hops.hops[hop].route == route)
        .map(|&hop| compared(hop, suspect.suffered.contains(&hop)))
        .collect();
    let mut telling = Vec::new();
    let mut add = |callee: Name, compared: &[Compared]| {
        let (namespace, workload) = callee.texts(case.rows());
        for set in attributes(case.rows(), compared) {
            telling.push(Telling {
                namespace: namespace.to_owned(),
                workload: workload.to_owned(),
                set,
            });
        }
    };
    add(suspect.callee, &at_culprit);
    if (callee, Some(route)) != (suspect.callee, suspect.route) {
        add(callee, &at_symptom);
    }
    telling
}

/// The first, the middle and the last of the culprit's failed requests.
fn examples(case: &Case<'_>, suspect: &Suspect) -> Vec<RequestId> {
    let own = &suspect.own;
    let mut examples: Vec<RequestId> = Vec::with_capacity(EXAMPLES);
    for part in 0..EXAMPLES {
        let index = own.len().saturating_sub(1) * part / (EXAMPLES - 1);
        if let Some(&hop) = own.get(index) {
            let id = case.hops.hops[hop].id;
            if !examples.contains(&id) {
                examples.push(id);
            }
        }
    }
    examples
}

/// Other suspects, then victims that look guilty from outside.
fn runners_up(case: &Case<'_>, first: Option<&Suspect>, others: &[Suspect]) -> Vec<RunnerUp> {
    let mut runners_up: Vec<RunnerUp> = others
        .iter()
        .map(|suspect| {
            let (namespace, workload) = suspect.callee.texts(case.rows());
            let route = suspect.route.map_or("", |route| case.hops.text(route));
            RunnerUp {
                namespace: namespace.to_owned(),
                workload: workload.to_owned(),
                route: route.to_owned(),
                confidence: suspect.confidence,
                lost_because: says::lost(case, first, suspect),
            }
        })
        .collect();
    if let Some(first) = first {
        for &(victim, failed) in first.victims.iter().rev() {
            let (namespace, workload, route) = case.place_texts(victim);
            let known = runners_up
                .iter()
                .any(|known| known.workload == workload && known.route == route);
            if !known {
                let own = case
                    .calls_of(victim.0)
                    .iter()
                    .filter(|&&hop| place(&case.hops, hop) == victim && case.blame.is_own(hop))
                    .count();
                runners_up.push(RunnerUp {
                    namespace: namespace.to_owned(),
                    workload: workload.to_owned(),
                    route: route.to_owned(),
                    confidence: 0.0,
                    lost_because: says::victim_lost(case, first, failed, count(own)),
                });
            }
        }
    }
    runners_up.truncate(RUNNERS_UP_MAX);
    runners_up
}

#[cfg(test)]
mod tests;
