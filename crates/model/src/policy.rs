//! Who may ask an application for what: rules as data, and the one decision.
//!
//! A [`Policy`] belongs to one port. A rule that forbids wins over every rule that permits,
//! and what no rule is about is up to the default. A rule that forbids counts if any
//! [reading](path::readings) of the request is meant, a rule that permits only if all are:
//! no spelling of a request gets past a rule.

mod client;
pub mod path;
mod target;

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use client::{Client, IdentityPattern, Network, PatternError, account};
pub use path::PathError;
pub use target::{HostPattern, PathPattern, host};

use crate::outcome::words;
use target::Fit;

/// Name of the decision that no rule made.
pub const DEFAULT: &str = "default";

/// Name of the decision about health probes.
pub const PROBE: &str = "probe";

/// Most rules of one port.
pub const RULES_MAX: usize = 1_000;

words! {
    /// What becomes of a request that no rule is about.
    pub enum Mode {
        /// It is served.
        Allow = 0 "allow",
        /// It is served, and counted as one that would have been denied.
        Audit = 1 "audit",
        /// It is served if the client proves an identity.
        Authenticated = 2 "authenticated",
        /// It is refused.
        Deny = 3 "deny",
    }
}

words! {
    /// What a rule does.
    pub enum Action {
        /// Permits.
        Allow = 0 "allow",
        /// Forbids, on trial: serves, and counts what would have been denied.
        Audit = 1 "audit",
        /// Forbids.
        Deny = 2 "deny",
    }
}

/// The rules of one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What becomes of what no rule is about.
    pub default: Mode,
    /// Rules; their order does not matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Paths that health probes ask for: GET of exactly these is served to anyone, unless
    /// a rule forbids it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<PathPattern>,
}

/// One rule. What is empty does not restrict it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Names it in records and metrics.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Methods, in upper case as they are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathPattern>,
    /// Hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// Identities of clients. With namespaces, either will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<IdentityPattern>,
    /// Namespaces of clients, proven by their identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Networks of clients, besides their identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
}

/// A request, as rules see it.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Method.
    pub method: &'a str,
    /// Path as received, without the query.
    pub path: &'a str,
    /// Every host that the request names: `:authority` or target, and `Host`.
    pub hosts: &'a [&'a str],
}

/// What was decided, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the request: as [`Action`].
    pub action: Action,
    /// The rule, [`PROBE`] or [`DEFAULT`].
    pub by: Arc<str>,
}

/// Why a request cannot be judged and has to be refused as malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// Its path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Its host.
    #[error("the host is none that rules could be about")]
    Host,
}

impl Rule {
    /// Returns a rule that does `action` to everything.
    #[must_use]
    pub fn new(name: &str, action: Action) -> Self {
        Self {
            name: name.into(),
            action,
            methods: vec![],
            paths: vec![],
            hosts: vec![],
            identities: vec![],
            namespaces: vec![],
            networks: vec![],
        }
    }

    /// Says whether the rule looks into requests, which only HTTP has.
    #[must_use]
    pub const fn is_about_requests(&self) -> bool {
        !(self.methods.is_empty() && self.paths.is_empty() && self.hosts.is_empty())
    }

    fn means_client(&self, client: Client<'_>) -> bool {
        let near = self.networks.is_empty()
            || self
                .networks
                .iter()
                .any(|network| network.contains(client.address));
        if !near || self.identities.is_empty() && self.namespaces.is_empty() {
            return near;
        }
        let Some(identity) = client.identity else {
            return false;
        };
        let within = || {
            let namespace = account(identity).map(|(_, namespace)| namespace);
            namespace.is_some_and(|own| self.namespaces.iter().any(|known| known == own))
        };
        self.identities
            .iter()
            .any(|pattern| pattern.matches(identity))
            || within()
    }

    fn means_request(&self, request: &Read<'_>) -> bool {
        let fit = match self.action {
            Action::Allow => Fit::Strict,
            Action::Audit | Action::Deny => Fit::Loose,
        };
        let each = |count: usize, fits: &mut dyn FnMut(usize) -> bool| match fit {
            Fit::Strict => count > 0 && (0..count).all(fits),
            Fit::Loose => (0..count).any(fits),
        };
        let method = self.methods.is_empty()
            || self.methods.iter().any(|method| match fit {
                Fit::Strict => method == request.method,
                // Some applications do not tell `post` from `POST`.
                Fit::Loose => method.eq_ignore_ascii_case(request.method),
            });
        let path = || {
            self.paths.is_empty()
                || each(request.paths.len(), &mut |i| {
                    let reading = &request.paths[i];
                    self.paths.iter().any(|path| path.matches(reading, fit))
                })
        };
        let host = || {
            self.hosts.is_empty()
                || each(request.hosts.len(), &mut |i| {
                    let host = &request.hosts[i];
                    self.hosts.iter().any(|pattern| pattern.matches(host))
                })
        };
        method && path() && host()
    }
}

/// A request in every reading.
struct Read<'a> {
    method: &'a str,
    paths: Vec<Cow<'a, str>>,
    hosts: Vec<String>,
}

impl Policy {
    /// Returns the policy without rules.
    #[must_use]
    pub const fn plain(default: Mode) -> Self {
        Self {
            default,
            rules: vec![],
            probes: vec![],
        }
    }

    /// Says whether nothing is ever decided: everything is served, and no rule looks.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.default, Mode::Allow) && self.rules.is_empty()
    }

    /// Says whether any rule looks into requests. Then what is no HTTP must be refused.
    #[must_use]
    pub fn is_about_requests(&self) -> bool {
        self.rules.iter().any(Rule::is_about_requests)
    }

    /// Decides about an HTTP request.
    ///
    /// # Errors
    /// When a rule is about paths or hosts and those of the request can be read in more
    /// ways than can be judged.
    pub fn decide(&self, client: Client<'_>, asked: &Asked<'_>) -> Result<Decision, Ambiguous> {
        let looks = |look: fn(&Rule) -> bool| self.rules.iter().any(look);
        let paths = if looks(|rule| !rule.paths.is_empty()) || !self.probes.is_empty() {
            match path::readings(asked.path) {
                Ok(readings) => readings,
                // No probe looks like that.
                Err(_) if !looks(|rule| !rule.paths.is_empty()) => vec![],
                Err(error) => return Err(error.into()),
            }
        } else {
            vec![]
        };
        let mut hosts = vec![];
        if looks(|rule| !rule.hosts.is_empty()) {
            for text in asked.hosts {
                hosts.push(host(text).ok_or(Ambiguous::Host)?);
            }
        }
        let request = Read {
            method: asked.method,
            paths,
            hosts,
        };
        let is_probe = || {
            let probes = &self.probes;
            let meant = |reading: &Cow<'_, str>| {
                probes.iter().any(|path| path.matches(reading, Fit::Strict))
            };
            let fits = !request.paths.is_empty() && request.paths.iter().all(meant);
            fits && request.method == "GET"
        };
        let means = |rule: &&Rule| rule.means_client(client) && rule.means_request(&request);
        Ok(self.weigh(client, means, is_probe))
    }

    /// Decides about a connection whose bytes are relayed as they are. Rules about requests
    /// do not count.
    #[must_use]
    pub fn decide_connection(&self, client: Client<'_>) -> Decision {
        let means = |rule: &&Rule| !rule.is_about_requests() && rule.means_client(client);
        self.weigh(client, means, || false)
    }

    fn weigh(
        &self,
        client: Client<'_>,
        means: impl Fn(&&Rule) -> bool,
        is_probe: impl Fn() -> bool,
    ) -> Decision {
        let found = |action| {
            let mut rules = self.rules.iter().filter(|rule| rule.action == action);
            rules.find(&means).map(|rule| Decision {
                action,
                by: rule.name.clone(),
            })
        };
        let by_default = |action| Decision {
            action,
            by: DEFAULT.into(),
        };
        if let Some(denied) = found(Action::Deny) {
            return denied;
        }
        let permitted = found(Action::Allow).or_else(|| {
            is_probe().then(|| Decision {
                action: Action::Allow,
                by: PROBE.into(),
            })
        });
        let decision = permitted.unwrap_or_else(|| match self.default {
            Mode::Allow => by_default(Action::Allow),
            Mode::Audit => by_default(Action::Audit),
            Mode::Authenticated if client.identity.is_some() => by_default(Action::Allow),
            Mode::Authenticated | Mode::Deny => by_default(Action::Deny),
        });
        match decision.action {
            Action::Deny => decision,
            // On trial a rule changes nothing for those who are refused anyway.
            Action::Allow | Action::Audit => found(Action::Audit).unwrap_or(decision),
        }
    }
}

/// Name of the decision in the trail of a record.
pub const TRAIL: &str = "policy";

impl Decision {
    /// Returns the text that records keep in their trail: `deny:default`, `allow:RULE`.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}:{}", self.action, self.by)
    }
}

#[cfg(test)]
mod tests;
