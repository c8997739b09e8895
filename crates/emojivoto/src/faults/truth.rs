//! What somebody who searches for the culprit should find, as JSON.
//!
//! The shares are computed from the bot's own rules, so they cannot drift apart.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{BROKEN_INSTANCE, FLAKY_SHARE, Fault, SLOW_VOTE_DELAY, TABLE};
use crate::bot;
use crate::catalog::{Era, method_of};
use crate::voting;

/// Version of the JSON; raised when a key changes its meaning or goes away.
const VERSION: u32 = 1;

/// The whole document: `emojivoto faults -o json`.
#[derive(Debug, Serialize)]
pub struct GroundTruth {
    /// Version of this document's form, now 1.
    pub version: u32,
    /// One entry per fault.
    pub faults: Vec<FaultTruth>,
}

/// The truth about one fault.
#[derive(Debug, Serialize)]
pub struct FaultTruth {
    /// The name it is switched on by.
    pub name: &'static str,
    /// One sentence for people.
    pub description: &'static str,
    /// The era (`2018`, `2019`) that has this fault unless told otherwise, or null.
    pub default_of_era: Option<String>,
    /// Who is to blame; null when nothing is broken.
    pub culprit: Option<Culprit>,
    /// What users of the application see; null when nothing is broken.
    pub symptom: Option<Symptom>,
    /// How it shows.
    pub signal: Signal,
    /// The gRPC status code of failing requests (2 is Unknown); null when none fail.
    pub grpc_status: Option<u32>,
    /// Milliseconds added to each affected request; null when none are slowed.
    pub added_latency_ms: Option<u64>,
    /// How much of the traffic shows it; null when nothing is broken.
    pub expected: Option<Expected>,
    /// How to switch it on.
    pub switch_on: SwitchOn,
}

/// Who is to blame.
#[derive(Clone, Debug, Serialize)]
pub struct Culprit {
    /// The workload whose code misbehaves.
    pub workload: &'static str,
    /// The gRPC service, full name.
    pub service: &'static str,
    /// The path of the requests that misbehave; a final `*` stands for any rest.
    pub route: String,
    /// The one instance that misbehaves, or null when all do.
    pub instance: Option<String>,
}

/// What users of the application see.
#[derive(Clone, Debug, Serialize)]
pub struct Symptom {
    /// The workload that users talk to.
    pub workload: &'static str,
    /// The HTTP path.
    pub route: &'static str,
    /// The value of the query parameter `choice` that sets the affected requests apart, or
    /// null when it does not.
    pub choice: Option<&'static str>,
}

/// How a fault shows in the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// It does not.
    None,
    /// Requests fail.
    Errors,
    /// Requests succeed late.
    Latency,
}

/// How much of the traffic shows a fault.
#[derive(Clone, Debug, Serialize)]
pub struct Expected {
    /// Share (0 to 1) of the requests on the culprit's route, at the culprit's instance if
    /// one is named, that show the signal.
    pub share_of_route: f64,
    /// Share (0 to 1) of all votes of a bot of each era; null when it depends on how many
    /// instances share the votes.
    pub share_of_votes: Option<BTreeMap<String, f64>>,
}

/// How to switch a fault on.
#[derive(Debug, Serialize)]
pub struct SwitchOn {
    /// Command line of a process that starts with it.
    pub start: String,
    /// The same as an environment variable.
    pub environment: String,
    /// Command that switches a running process; ADDR is its loopback address and PROM_PORT.
    pub runtime: String,
    /// HTTP request to that address with the same effect.
    pub http: String,
}

/// The part of the truth that each fault's row says.
#[derive(Debug)]
pub(super) struct Finding {
    culprit: Culprit,
    choice: Option<&'static str>,
    signal: Signal,
    share_of_route: f64,
    share_of_votes: Option<fn(Era) -> f64>,
}

/// Always failing votes for one emoji.
pub(super) fn one_vote(shortcode: &'static str) -> Finding {
    let share_of_votes: fn(Era) -> f64 = match shortcode {
        ":poop:" => |era| bot::share(era, ":poop:"),
        _ => |era| bot::share(era, ":doughnut:"),
    };
    Finding {
        culprit: culprit(&method_of(shortcode), None),
        choice: Some(shortcode),
        signal: Signal::Errors,
        share_of_route: 1.0,
        share_of_votes: Some(share_of_votes),
    }
}

/// All votes slowed.
pub(super) fn slow_votes() -> Finding {
    Finding {
        culprit: culprit("Vote*", None),
        choice: None,
        signal: Signal::Latency,
        share_of_route: 1.0,
        share_of_votes: Some(|_| 1.0),
    }
}

/// All votes of one instance failing.
pub(super) fn one_instance() -> Finding {
    Finding {
        culprit: culprit("Vote*", Some(format!("voting-{BROKEN_INSTANCE}"))),
        choice: None,
        signal: Signal::Errors,
        share_of_route: 1.0,
        share_of_votes: None,
    }
}

/// Random votes failing.
pub(super) fn some_votes() -> Finding {
    Finding {
        culprit: culprit("Vote*", None),
        choice: None,
        signal: Signal::Errors,
        share_of_route: FLAKY_SHARE,
        share_of_votes: Some(|_| FLAKY_SHARE),
    }
}

fn culprit(method: &str, instance: Option<String>) -> Culprit {
    let service = voting::SERVICE;
    Culprit {
        workload: "voting",
        service,
        route: format!("/{service}/{method}"),
        instance,
    }
}

/// The truth about every fault of the table.
pub fn ground_truth() -> GroundTruth {
    GroundTruth {
        version: VERSION,
        faults: TABLE.iter().map(truth_of).collect(),
    }
}

fn truth_of(fault: &'static Fault) -> FaultTruth {
    let name = fault.name;
    let finding = (fault.truth)();
    let signal = finding
        .as_ref()
        .map_or(Signal::None, |finding| finding.signal);
    FaultTruth {
        name,
        description: fault.description,
        default_of_era: fault.default_of.map(|era| era.to_string()),
        culprit: finding.as_ref().map(|finding| finding.culprit.clone()),
        symptom: finding.as_ref().map(|finding| Symptom {
            workload: "web",
            route: "/api/vote",
            choice: finding.choice,
        }),
        signal,
        grpc_status: (signal == Signal::Errors).then_some(tonic::Code::Unknown as u32),
        added_latency_ms: (signal == Signal::Latency)
            .then_some(u64::try_from(SLOW_VOTE_DELAY.as_millis()).unwrap_or(u64::MAX)),
        expected: finding.map(|finding| Expected {
            share_of_route: finding.share_of_route,
            share_of_votes: finding.share_of_votes.map(|share| {
                Era::ALL
                    .iter()
                    .map(|era| (era.to_string(), share(*era)))
                    .collect()
            }),
        }),
        switch_on: SwitchOn {
            start: format!("emojivoto voting --fault {name}"),
            environment: format!("EMOJIVOTO_FAULT={name}"),
            runtime: format!("emojivoto faults set {name} --addr ADDR"),
            http: format!("PUT /faults/{name}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_truth_names_who_where_and_how_much() {
        let truth = serde_json::to_value(ground_truth()).unwrap();
        let fault = |name: &str| {
            let faults = truth["faults"].as_array().unwrap();
            faults
                .iter()
                .find(|fault| fault["name"] == name)
                .unwrap()
                .clone()
        };
        let poop = fault("poop");
        assert_eq!(poop["culprit"]["workload"], "voting");
        assert_eq!(
            poop["culprit"]["route"],
            "/emojivoto.v1.VotingService/VotePoop"
        );
        assert_eq!(poop["symptom"]["choice"], ":poop:");
        assert_eq!(poop["grpc_status"], 2);
        let share = poop["expected"]["share_of_votes"]["2018"].as_f64().unwrap();
        assert!((share - 0.2065).abs() < 1e-9, "{share}");
        let share = fault("doughnut")["expected"]["share_of_votes"]["2019"]
            .as_f64()
            .unwrap();
        assert!((share - 0.1586).abs() < 1e-4, "{share}");
        assert_eq!(fault("slow-voting")["added_latency_ms"], 500);
        assert_eq!(fault("env-only")["culprit"]["instance"], "voting-0");
        assert_eq!(fault("flaky")["expected"]["share_of_route"], 0.01);
        assert!(fault("none")["culprit"].is_null());
    }
}
