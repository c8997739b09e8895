//! Inbound policy at work: decides about requests and opaque connections, and counts.
//!
//! Each listener has a [`Guard`]. What it decides by may be replaced while the proxy runs;
//! every request is decided by the newest policy.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header;
use http::request::Parts;
use tokio::sync::watch;
use whodunit_model::Cause;
use whodunit_model::policy::{Action, Asked, Client, Decision, Policy, TRAIL};
use whodunit_model::record::{RequestRecord, Side};
use whodunit_model::redact::Attributes;

use crate::call::{Call, Fault};
use crate::http::Refusal;
use crate::metrics::{Authorization, Metrics};
use crate::worker::Worker;

/// Stands for the rule where a request is refused because it can be read in several ways.
pub(crate) const AMBIGUOUS: &str = "ambiguous";

/// Most hosts that one request names.
const HOSTS_MAX: usize = 2;

/// Lets through, or not, what comes in through one listener.
pub(crate) struct Guard {
    policy: watch::Receiver<Arc<Policy>>,
    /// Labels of the listener.
    labels: Arc<str>,
    /// Nothing is ever decided here.
    is_off: bool,
}

/// Says that an opaque connection may be relayed. Only a guard makes one.
pub(crate) struct Permit {
    /// What the record says about it.
    pub(crate) text: Arc<str>,
}

/// What may become of a connection that is no HTTP.
pub(crate) enum Opaque {
    /// It may be relayed.
    Permitted(Permit),
    /// It may not; the record says why.
    Denied(Arc<str>),
    /// There are rules about requests, and it could be one in disguise.
    NeverHere,
}

impl Guard {
    /// Returns a guard that decides by what `policy` says last. With `fixed` that never
    /// changes. `labels` are those of the listener.
    pub(crate) fn new(
        policy: watch::Receiver<Arc<Policy>>,
        fixed: bool,
        side: Side,
        labels: Arc<str>,
    ) -> Self {
        let is_off = side == Side::Outbound || fixed && policy.borrow().is_open();
        Self {
            policy,
            labels,
            is_off,
        }
    }

    fn current(&self) -> Option<Arc<Policy>> {
        if self.is_off {
            return None;
        }
        let policy = self.policy.borrow().clone();
        (!policy.is_open()).then_some(policy)
    }

    /// Decides about a request, and writes the decision into its record.
    pub(crate) fn judge(
        &self,
        worker: &Worker,
        peer: SocketAddr,
        call: &Call,
        parts: &Parts,
    ) -> Result<(), Refusal> {
        let Some(policy) = self.current() else {
            return Ok(());
        };
        let identity = call.note(|record| record.peer_identity.clone());
        let client = client(&identity, peer);
        let mut hosts = [""; HOSTS_MAX];
        let mut count = 0;
        let named = parts
            .headers
            .get_all(header::HOST)
            .iter()
            // What is no text is no host, and so refused where hosts matter.
            .map(|host| host.to_str().unwrap_or_default());
        let target = parts.uri.authority().map(http::uri::Authority::as_str);
        for (slot, host) in hosts.iter_mut().zip(target.into_iter().chain(named)) {
            *slot = host;
            count += 1;
        }
        let asked = Asked {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            hosts: &hosts[..count],
        };
        let decision = policy.decide(client, &asked);
        let (text, refusal) = match &decision {
            Ok(decision) => {
                self.count(worker, decision, "http", client.identity.is_some());
                let refusal = (decision.action == Action::Deny).then(|| Refusal {
                    fault: Fault::seen_from(Side::Inbound, Cause::PolicyDenied, false),
                    text: "policy does not allow this request".to_owned(),
                });
                (decision.text(), refusal)
            }
            Err(why) => {
                let ambiguous = Decision {
                    action: Action::Deny,
                    by: AMBIGUOUS.into(),
                };
                self.count(worker, &ambiguous, "http", client.identity.is_some());
                let refusal = Refusal {
                    fault: Fault::seen_from(Side::Inbound, Cause::BadRequestHead, false),
                    text: format!("policy cannot judge this request: {why}"),
                };
                (ambiguous.text(), Some(refusal))
            }
        };
        call.note(|record| note(record, worker, &text));
        refusal.map_or(Ok(()), Err)
    }

    /// Says what may become of a connection that is no HTTP. `identity` is what the client
    /// proves, empty in plain text. Nothing is counted before it has become that.
    pub(crate) fn opaque(&self, worker: &Worker, identity: &str, peer: SocketAddr) -> Opaque {
        let Some(policy) = self.current() else {
            return Opaque::Permitted(Permit {
                text: Arc::default(),
            });
        };
        if policy.is_about_requests() {
            return Opaque::NeverHere;
        }
        self.connection(worker, &policy, identity, peer)
    }

    /// As [`Guard::opaque`], where bytes are declared to be opaque: rules about requests do
    /// not count.
    pub(crate) fn declared_opaque(
        &self,
        worker: &Worker,
        identity: &str,
        peer: SocketAddr,
    ) -> Opaque {
        match self.current() {
            Some(policy) => self.connection(worker, &policy, identity, peer),
            None => Opaque::Permitted(Permit {
                text: Arc::default(),
            }),
        }
    }

    fn connection(
        &self,
        worker: &Worker,
        policy: &Policy,
        identity: &str,
        peer: SocketAddr,
    ) -> Opaque {
        let decision = policy.decide_connection(client(identity, peer));
        let text = worker.share(&decision.text());
        match decision.action {
            Action::Deny => Opaque::Denied(text),
            Action::Allow | Action::Audit => Opaque::Permitted(Permit { text }),
        }
    }

    /// Counts what became of an opaque connection; `text` is what its record says.
    pub(crate) fn count_connection(&self, worker: &Worker, text: &str, proven: bool) {
        let Some((action, by)) = text.split_once(':') else {
            return;
        };
        let Some(action) = Action::from_name(action) else {
            return;
        };
        let by = by.into();
        self.count(worker, &Decision { action, by }, "tcp", proven);
    }

    fn count(&self, worker: &Worker, decision: &Decision, protocol: &'static str, proven: bool) {
        match decision.action {
            Action::Allow => {}
            Action::Audit => worker.stats.policy_audited.add(),
            Action::Deny => worker.stats.policy_denied.add(),
        }
        let metrics: &Metrics = &worker.metrics;
        metrics.authorization(Authorization {
            listener: self.labels.clone(),
            protocol,
            action: decision.action,
            by: decision.by.clone(),
            proven,
        });
    }
}

/// Writes a decision into the trail of a record.
pub(crate) fn note(record: &mut RequestRecord, worker: &Worker, text: &str) {
    if text.is_empty() {
        return;
    }
    let mut trail = Attributes(record.trail.to_string());
    trail.push(TRAIL, text);
    record.trail = worker.share(&trail.0);
}

fn client(identity: &str, peer: SocketAddr) -> Client<'_> {
    Client {
        identity: (!identity.is_empty()).then_some(identity),
        address: peer.ip(),
    }
}
