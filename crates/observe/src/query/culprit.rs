//! Who did it.

use whodunit_analysis::culprit::{self, Verdict};
use whodunit_api::culprit::{
    AttributeSet, Checked, Culprit, CulpritQuery, Evidence, Named, RunnerUp, Symptom, Term,
    VERSION, Victim,
};
use whodunit_model::Filter;
use whodunit_model::time::{SECOND_US, format_utc};

use super::{Columns, Queries, QueryError, window};

/// How long the two records of a call may take to arrive: proxies send theirs every
/// 200 ms, each on its own. A verdict on a call of which one side is still on its way
/// would take a victim for a suspect.
const SETTLE_US: i64 = SECOND_US / 2;

impl Queries {
    /// Answers `culprit`. While records arrive, a range that ends now is judged up to
    /// half a second ago.
    ///
    /// # Errors
    /// When the range is wrong or holds too much.
    pub fn culprit(&self, query: &CulpritQuery, now_us: i64) -> Result<Culprit, QueryError> {
        let mut window = window(&query.range, 600 * SECOND_US, now_us)?;
        if self.live.is_some() {
            let settled_us = window.until_us.min(now_us.saturating_sub(SETTLE_US));
            window.until_us = settled_us.max(window.from_us);
        }
        let scanned = self.rows(window, Filter::All, Columns::All)?;
        let options = culprit::Options {
            namespace: query.namespace.clone(),
            service: query.service.clone(),
            recording_began_us: self.store.stats().oldest_us,
        };
        Ok(verdict(culprit::culprit(&scanned.rows, window, &options)))
    }
}

fn verdict(found: Verdict) -> Culprit {
    Culprit {
        version: VERSION,
        verdict: found.level.name().to_owned(),
        confidence: found.confidence,
        says: found.says,
        symptom: found.symptom.map(symptom),
        culprit: found.culprit.map(named),
        victims: found.victims.into_iter().map(victim).collect(),
        attributes: found.attributes.into_iter().map(attributes).collect(),
        evidence: found.evidence.into_iter().map(evidence).collect(),
        runners_up: found.runners_up.into_iter().map(runner_up).collect(),
        examples: found.examples.iter().map(ToString::to_string).collect(),
        checked: Checked {
            requests: found.checked.requests,
            from: format_utc(found.checked.from_us),
            until: format_utc(found.checked.until_us),
            services: found.checked.services,
        },
    }
}

fn symptom(found: culprit::Symptom) -> Symptom {
    Symptom {
        namespace: found.namespace,
        service: found.service,
        route: found.route,
        signal: found.signal.name().to_owned(),
        since: format_utc(found.since_us),
        since_recording_began: found.since_recording_began,
        until: found.until_us.map(format_utc),
        failed: found.failed,
        requests: found.requests,
    }
}

fn named(found: culprit::Named) -> Named {
    Named {
        namespace: found.namespace,
        workload: found.workload,
        service: found.service,
        route: found.route,
        instance: found.instance,
        app_version: found.app_version,
        origin: found.origin.name().to_owned(),
        cause: found.cause,
        failed: found.failed,
        requests: found.requests,
    }
}

fn victim(found: culprit::Victim) -> Victim {
    Victim {
        namespace: found.namespace,
        workload: found.workload,
        route: found.route,
        failed: found.failed,
        requests: found.requests,
    }
}

fn attributes(found: culprit::Telling) -> AttributeSet {
    let terms = found.set.terms.into_iter().map(|term| Term {
        name: term.name,
        value: term.value,
    });
    AttributeSet {
        terms: terms.collect(),
        workload: found.workload,
        covered: found.set.covered,
        lift: found.set.lift,
    }
}

fn evidence(found: culprit::Evidence) -> Evidence {
    Evidence {
        says: found.says,
        number: found.number,
        command: found.command,
    }
}

fn runner_up(found: culprit::RunnerUp) -> RunnerUp {
    RunnerUp {
        workload: found.workload,
        route: found.route,
        confidence: found.confidence,
        lost_because: found.lost_because,
    }
}
