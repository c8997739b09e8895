//! The faults that can be built into the voting service, and the truth about each.
//!
//! One table: a fault is its name, what it does to one vote, and what somebody who
//! searches for the culprit should find. A further fault is a further row.

mod truth;

pub use truth::{Culprit, Expected, GroundTruth, Signal, SwitchOn, Symptom, ground_truth};

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::catalog::Era;
use crate::random::Random;

/// What `slow-voting` adds to each vote: slow enough to stand out from a loopback
/// network by two orders of magnitude, quick enough that a bot still votes twice a second.
pub const SLOW_VOTE_DELAY: Duration = Duration::from_millis(500);
/// Share of votes that `flaky` fails.
pub const FLAKY_SHARE: f64 = 0.01;
/// The instance that `env-only` breaks.
pub const BROKEN_INSTANCE: u32 = 0;

/// What a fault does to one vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Pass,
    /// The vote fails with code Unknown and is not counted.
    Fail,
    /// The vote succeeds this much later.
    Slow(Duration),
}

/// One vote, as a fault sees it.
#[derive(Debug)]
pub struct Vote<'a> {
    /// Name of the emoji between colons.
    pub shortcode: &'a str,
    /// Number of the instance that counts the vote, from 0.
    pub instance: u32,
    /// The service's random numbers.
    pub random: &'a mut Random,
}

/// One row of the table.
#[derive(Debug)]
pub struct Fault {
    /// The name it is switched on by.
    pub name: &'static str,
    /// One sentence for people.
    pub description: &'static str,
    /// The era that has this fault unless told otherwise.
    pub default_of: Option<Era>,
    effect: fn(&mut Vote<'_>) -> Effect,
    truth: fn() -> Option<truth::Finding>,
}

impl Fault {
    /// What it does to this vote.
    pub fn effect(&self, vote: &mut Vote<'_>) -> Effect {
        (self.effect)(vote)
    }
}

/// Every fault, in the order they are shown.
pub const TABLE: &[Fault] = &[
    Fault {
        name: "none",
        description: "nothing is broken",
        default_of: None,
        effect: |_| Effect::Pass,
        truth: || None,
    },
    Fault {
        name: "poop",
        description: "every VotePoop fails with gRPC code Unknown",
        default_of: Some(Era::Y2018),
        effect: |vote| fail_if(vote.shortcode == ":poop:"),
        truth: || Some(truth::one_vote(":poop:")),
    },
    Fault {
        name: "doughnut",
        description: "every VoteDoughnut fails with gRPC code Unknown",
        default_of: Some(Era::Y2019),
        effect: |vote| fail_if(vote.shortcode == ":doughnut:"),
        truth: || Some(truth::one_vote(":doughnut:")),
    },
    Fault {
        name: "slow-voting",
        description: "every vote takes 500 ms longer and succeeds; Results is not slowed",
        default_of: None,
        effect: |_| Effect::Slow(SLOW_VOTE_DELAY),
        truth: || Some(truth::slow_votes()),
    },
    Fault {
        name: "env-only",
        description: "every vote fails with gRPC code Unknown, on instance 0 only",
        default_of: None,
        effect: |vote| fail_if(vote.instance == BROKEN_INSTANCE),
        truth: || Some(truth::one_instance()),
    },
    Fault {
        name: "flaky",
        description: "one vote in a hundred, picked at random, fails with gRPC code Unknown",
        default_of: None,
        effect: |vote| fail_if(vote.random.fraction() < FLAKY_SHARE),
        truth: || Some(truth::some_votes()),
    },
];

fn fail_if(condition: bool) -> Effect {
    if condition {
        Effect::Fail
    } else {
        Effect::Pass
    }
}

/// No fault has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown fault `{name}`; the faults are {}", names())]
pub struct UnknownFault {
    /// The name that was asked for.
    pub name: String,
}

/// Finds a fault by name.
pub fn find(name: &str) -> Result<&'static Fault, UnknownFault> {
    TABLE
        .iter()
        .find(|fault| fault.name == name)
        .ok_or_else(|| UnknownFault {
            name: name.to_owned(),
        })
}

/// The fault that an era has unless told otherwise.
pub fn default_of(era: Era) -> &'static Fault {
    TABLE
        .iter()
        .find(|fault| fault.default_of == Some(era))
        .unwrap_or(&TABLE[0])
}

fn names() -> String {
    TABLE
        .iter()
        .map(|fault| fault.name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Which fault is on, as the control endpoint says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name of the fault that is on, `none` when nothing is broken.
    pub active: String,
    /// When it was switched on, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// Number of this instance, from 0.
    pub instance: u32,
    /// The names that can be set.
    pub faults: Vec<String>,
}

/// The switch of one process.
#[derive(Debug)]
pub struct FaultSwitch {
    instance: u32,
    active: Mutex<(&'static Fault, SystemTime)>,
}

impl FaultSwitch {
    /// Starts with this fault on; `instance` is the number of this process, from 0.
    pub fn new(fault: &'static Fault, instance: u32) -> Self {
        Self {
            instance,
            active: Mutex::new((fault, SystemTime::now())),
        }
    }

    /// Switches to another fault. Votes in flight end as they began.
    pub fn set(&self, fault: &'static Fault) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(active.0, fault) {
            *active = (fault, SystemTime::now());
        }
    }

    /// What happens to a vote for this emoji now.
    pub fn effect(&self, shortcode: &str, random: &mut Random) -> Effect {
        let fault = self.active.lock().unwrap_or_else(PoisonError::into_inner).0;
        fault.effect(&mut Vote {
            shortcode,
            instance: self.instance,
            random,
        })
    }

    /// Which fault is on.
    pub fn state(&self) -> State {
        let (fault, since) = *self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
        State {
            active: fault.name.to_owned(),
            since_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            instance: self.instance,
            faults: TABLE.iter().map(|fault| fault.name.to_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of votes for these emoji that fail under the fault on this instance.
    fn failed(name: &str, instance: u32, votes: &[&str]) -> f64 {
        let switch = FaultSwitch::new(find(name).unwrap(), instance);
        let mut random = Random::new(1);
        let failed = votes
            .iter()
            .filter(|shortcode| switch.effect(shortcode, &mut random) == Effect::Fail)
            .count();
        failed as f64 / votes.len() as f64
    }

    #[test]
    fn each_fault_fails_what_it_says() {
        let votes = [":poop:", ":joy:", ":doughnut:", ":100:"];
        assert_eq!(failed("none", 0, &votes), 0.0);
        assert_eq!(failed("poop", 0, &votes), 0.25);
        assert_eq!(failed("poop", 0, &[":poop:"]), 1.0);
        assert_eq!(failed("doughnut", 0, &[":doughnut:"]), 1.0);
        assert_eq!(failed("slow-voting", 0, &votes), 0.0);
        assert_eq!(failed("env-only", 0, &votes), 1.0);
        assert_eq!(failed("env-only", 1, &votes), 0.0);
        let share = failed("flaky", 0, &[":joy:"; 20_000]);
        assert!((0.008..0.012).contains(&share), "{share}");
    }

    #[test]
    fn every_vote_is_slow_when_voting_is_slow() {
        let switch = FaultSwitch::new(find("slow-voting").unwrap(), 3);
        let effect = switch.effect(":joy:", &mut Random::new(1));
        assert_eq!(effect, Effect::Slow(Duration::from_millis(500)));
    }

    #[test]
    fn each_era_has_the_fault_it_had() {
        assert_eq!(default_of(Era::Y2018).name, "poop");
        assert_eq!(default_of(Era::Y2019).name, "doughnut");
    }

    #[test]
    fn an_unknown_fault_is_refused_with_the_known_ones() {
        let error = find("pooop").unwrap_err().to_string();
        assert!(
            error.contains("`pooop`") && error.contains("slow-voting"),
            "{error}"
        );
    }

    #[test]
    fn setting_the_same_fault_again_keeps_its_start() {
        let switch = FaultSwitch::new(find("poop").unwrap(), 0);
        let before = switch.state();
        switch.set(find("poop").unwrap());
        assert_eq!(switch.state(), before);
        switch.set(find("none").unwrap());
        assert_eq!(switch.state().active, "none");
    }
}
