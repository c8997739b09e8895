//! What the server knows of each proxy: one entry per boot.
//!
//! Filled by ingest, read by `check`, `stat` and every answer's trust line.
//! Bounded: when it is full, the boot that was silent longest is forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use whodunit_api::check::{Conservation, Count};
use whodunit_model::BootId;
use whodunit_model::time::SECOND_US;
use whodunit_store::{BootState, ProxyName};
use whodunit_wire::v1;

/// Most boots that are remembered.
pub(crate) const BOOTS_MAX: usize = 10_000;

/// Most reasons kept of one report: proxies of ours have a handful.
const REASONS_MAX: usize = 32;

/// Longest name a proxy may have, in bytes: what Kubernetes allows.
const NAME_BYTES_MAX: usize = 253;

/// A proxy that has not reported for this long is silent; reports come every few seconds.
pub(crate) const SILENT_AFTER_US: i64 = 15 * SECOND_US;

/// A proxy without a connection that was not heard for this long is gone.
pub(crate) const GONE_AFTER_US: i64 = 60 * SECOND_US;

/// Names one boot of one proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProxyBoot {
    /// Namespace of the workload it stands beside.
    pub namespace: String,
    /// The workload.
    pub workload: String,
    /// The instance.
    pub instance: String,
    /// The boot.
    pub boot: BootId,
}

/// The state of one boot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Version of the proxy.
    pub proxy_version: String,
    /// When it was first heard, µs since the epoch.
    pub first_us: i64,
    /// When it was last heard, µs since the epoch.
    pub last_us: i64,
    /// When it last reported, µs since the epoch; none before the first report.
    pub reported_us: Option<i64>,
    /// Record streams that are open.
    pub streams: u32,
    /// It said that it ends.
    pub closed: bool,
    /// Batches that were refused.
    pub refused: u64,
    /// Its last report.
    pub report: Report,
}

/// What a proxy last said of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Milliseconds since discovery last heard from the server; none without discovery.
    pub discovery_age_ms: Option<u64>,
    /// Whether discovery is connected.
    pub discovery_connected: bool,
    /// Connections whose protocol was not recognized.
    pub detection_fall_backs: u64,
    /// The same by listener.
    pub fall_backs: Vec<Count>,
    /// Requests and connections that policy denied.
    pub policy_denied: u64,
    /// Requests and connections that policy would have denied.
    pub policy_audited: u64,
    /// When its certificate expires, seconds since the Unix epoch; none without an identity.
    pub certificate_expires_s: Option<i64>,
    /// Whether its last try to renew the certificate failed.
    pub certificate_renewal_fails: bool,
    /// Its clock minus the server's, µs.
    pub clock_offset_us: i64,
    /// Open connections.
    pub open_connections: u64,
    /// How often each limit was reached, by name.
    pub limits: Vec<Count>,
    /// The conservation equations.
    pub conservation: Conservation,
}

/// How a boot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It sends and reports.
    Connected,
    /// It has not reported for a while.
    Silent,
    /// It ended in order.
    Closed,
    /// It ended without a word.
    Gone,
}

impl State {
    /// Returns the name the API uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Silent => "silent",
            Self::Closed => "closed",
            Self::Gone => "gone",
        }
    }

    /// Says whether the proxy is believed to run.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Connected | Self::Silent)
    }
}

/// Why a hello is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// A name is missing.
    #[error("hello: `{0}` is empty")]
    Empty(&'static str),
    /// A name is too long.
    #[error("hello: `{0}` is longer than {NAME_BYTES_MAX} bytes")]
    TooLong(&'static str),
    /// A name has bytes that no name has.
    #[error("hello: `{0}` has control characters or slashes")]
    Strange(&'static str),
}

impl ProxyBoot {
    /// Returns who says hello.
    ///
    /// # Errors
    /// When a name is missing, too long or strange.
    pub fn from_hello(hello: &v1::Hello) -> Result<Self, HelloError> {
        let names = [
            ("namespace", &hello.namespace),
            ("workload", &hello.workload),
            ("instance", &hello.instance),
        ];
        for (field, name) in names {
            if name.is_empty() {
                return Err(HelloError::Empty(field));
            }
        }
        for (field, name) in names.into_iter().chain([
            ("app_version", &hello.app_version),
            ("proxy_version", &hello.proxy_version),
        ]) {
            if name.len() > NAME_BYTES_MAX {
                return Err(HelloError::TooLong(field));
            }
            if name.chars().any(|c| c.is_control() || c == '/') {
                return Err(HelloError::Strange(field));
            }
        }
        Ok(Self {
            namespace: hello.namespace.clone(),
            workload: hello.workload.clone(),
            instance: hello.instance.clone(),
            boot: BootId(hello.boot),
        })
    }

    /// Says whether `other` is a boot of the same proxy.
    #[must_use]
    pub fn same_proxy(&self, other: &Self) -> bool {
        self.name() == other.name()
    }

    /// Returns the name the store files its batches under.
    #[must_use]
    pub fn store_name(&self) -> ProxyName {
        ProxyName {
            namespace: self.namespace.as_str().into(),
            workload: self.workload.as_str().into(),
            instance: self.instance.as_str().into(),
        }
    }

    fn name(&self) -> (&str, &str, &str) {
        (&self.namespace, &self.workload, &self.instance)
    }
}

/// All boots the server has heard of since it started.
#[derive(Debug, Default)]
pub struct Proxies {
    boots: Mutex<HashMap<ProxyBoot, Known>>,
}

impl Proxies {
    /// Begins with the boots that an earlier run of the server heard of.
    #[must_use]
    pub fn remembered(mut boots: Vec<BootState>) -> Self {
        let proxies = Self::default();
        boots.sort_by_key(|boot| std::cmp::Reverse(boot.last_seen_us));
        for boot in boots.into_iter().take(BOOTS_MAX) {
            let proxy = ProxyBoot {
                namespace: boot.proxy.namespace.to_string(),
                workload: boot.proxy.workload.to_string(),
                instance: boot.proxy.instance.to_string(),
                boot: boot.boot,
            };
            proxies.update(&proxy, boot.last_seen_us, |known| {
                known.closed = boot.closed.is_some();
            });
        }
        proxies
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProxyBoot, Known>> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a record stream of this boot began.
    pub fn connected(&self, proxy: &ProxyBoot, hello: &v1::Hello, now_us: i64) {
        self.update(proxy, now_us, |known| {
            known.proxy_version.clone_from(&hello.proxy_version);
            known.streams += 1;
            known.closed = false;
        });
    }

    /// Notes that a record stream of this boot ended.
    pub fn disconnected(&self, proxy: &ProxyBoot, now_us: i64) {
        self.update(proxy, now_us, |known| {
            known.streams = known.streams.saturating_sub(1);
        });
    }

    /// Notes that something came from this boot.
    pub fn heard(&self, proxy: &ProxyBoot, now_us: i64) {
        self.update(proxy, now_us, |_| {});
    }

    /// Notes that a batch was refused; returns how many were before.
    pub fn refused(&self, proxy: &ProxyBoot, now_us: i64) -> u64 {
        let mut before = 0;
        self.update(proxy, now_us, |known| {
            before = known.refused;
            known.refused += 1;
        });
        before
    }

    /// Notes that this boot ends in order.
    pub fn closing(&self, proxy: &ProxyBoot, now_us: i64) {
        self.update(proxy, now_us, |known| known.closed = true);
    }

    /// Remembers a report.
    pub fn reported(&self, proxy: &ProxyBoot, report: v1::ReportRequest, now_us: i64) {
        self.update(proxy, now_us, |known| {
            if let Some(hello) = &report.from {
                known.proxy_version.clone_from(&hello.proxy_version);
            }
            known.reported_us = Some(now_us);
            known.report = Report {
                uptime_s: report.uptime_s,
                discovery_age_ms: report.discovery_age_ms,
                discovery_connected: report.discovery_connected,
                detection_fall_backs: report.detection_fall_backs,
                policy_denied: report.policy_denied,
                policy_audited: report.policy_audited,
                certificate_expires_s: report.certificate_expires_s,
                certificate_renewal_fails: report.certificate_renewal_fails,
                clock_offset_us: report.clock_offset_us,
                open_connections: report.open_connections,
                fall_backs: limits(report.fall_backs),
                limits: limits(report.limits),
                conservation: conservation(report.conservation.unwrap_or_default()),
            };
        });
    }

    fn update(&self, proxy: &ProxyBoot, now_us: i64, change: impl FnOnce(&mut Known)) {
        let mut boots = self.lock();
        if !boots.contains_key(proxy) && boots.len() >= BOOTS_MAX {
            forget_one(&mut boots);
        }
        let known = boots.entry(proxy.clone()).or_insert_with(|| Known {
            first_us: now_us,
            ..Known::default()
        });
        known.last_us = known.last_us.max(now_us);
        change(known);
    }

    /// Returns every boot with its state, by name, newest boot first.
    #[must_use]
    pub fn all(&self, now_us: i64) -> Vec<(ProxyBoot, Known, State)> {
        let mut all: Vec<_> = self
            .lock()
            .iter()
            .map(|(proxy, known)| (proxy.clone(), known.clone()))
            .collect();
        all.sort_by(|(a, a_known), (b, b_known)| {
            (a.name(), -a_known.first_us).cmp(&(b.name(), -b_known.first_us))
        });
        let mut out: Vec<(ProxyBoot, Known, State)> = Vec::with_capacity(all.len());
        for (proxy, known) in all {
            let superseded = out
                .last()
                .is_some_and(|(newer, _, _)| newer.same_proxy(&proxy));
            let state = known.state(superseded, now_us);
            out.push((proxy, known, state));
        }
        out
    }

    /// Returns how many records all known proxies had to give up since they started.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lock()
            .values()
            .map(|known| known.report.conservation.lost())
            .sum()
    }
}

impl Known {
    fn state(&self, superseded: bool, now_us: i64) -> State {
        let silent_us = now_us - self.reported_us.unwrap_or(self.first_us);
        if self.closed {
            State::Closed
        } else if self.streams == 0 && (superseded || now_us - self.last_us > GONE_AFTER_US) {
            State::Gone
        } else if silent_us > SILENT_AFTER_US {
            State::Silent
        } else {
            State::Connected
        }
    }
}

/// Numbers of the conservation equations that answers need.
pub(crate) trait Lost {
    /// Requests dropped plus rows discarded.
    fn lost(&self) -> u64;
}

impl Lost for Conservation {
    fn lost(&self) -> u64 {
        self.dropped
            .iter()
            .chain(&self.discarded)
            .map(|count| count.count)
            .fold(0, u64::saturating_add)
    }
}

fn conservation(found: v1::Conservation) -> Conservation {
    Conservation {
        started: found.started,
        recorded: found.recorded,
        in_flight: found.in_flight,
        dropped: counts(found.dropped),
        rows: found.rows,
        acknowledged: found.acknowledged,
        buffered: found.buffered,
        discarded: counts(found.discarded),
    }
}

fn counts(found: HashMap<String, u64>) -> Vec<Count> {
    let mut counts: Vec<Count> = found
        .into_iter()
        .filter(|(reason, _)| reason.len() <= NAME_BYTES_MAX)
        .take(REASONS_MAX)
        .map(|(reason, count)| Count { reason, count })
        .collect();
    counts.sort_by(|a, b| a.reason.cmp(&b.reason));
    counts
}

/// Keeps the limits that were reached: as many as there are, and some of newer proxies.
fn limits(found: HashMap<String, u64>) -> Vec<Count> {
    let mut limits: Vec<Count> = found
        .into_iter()
        .filter(|(name, hits)| name.len() <= NAME_BYTES_MAX && *hits > 0)
        .map(|(reason, count)| Count { reason, count })
        .collect();
    limits.sort_by(|a, b| a.reason.cmp(&b.reason));
    limits.truncate(2 * whodunit_model::limit::COUNT);
    limits
}

/// Forgets the boot that matters least: one without a stream, heard longest ago.
fn forget_one(boots: &mut HashMap<ProxyBoot, Known>) {
    let oldest = boots
        .iter()
        .min_by_key(|(_, known)| (known.streams > 0, known.last_us))
        .map(|(proxy, _)| proxy.clone());
    if let Some(oldest) = oldest {
        boots.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(instance: &str, boot: u64) -> v1::Hello {
        v1::Hello {
            namespace: "n".to_owned(),
            workload: "w".to_owned(),
            instance: instance.to_owned(),
            boot,
            ..v1::Hello::default()
        }
    }

    fn proxy(instance: &str, boot: u64) -> ProxyBoot {
        ProxyBoot::from_hello(&hello(instance, boot)).expect("valid")
    }

    #[track_caller]
    fn check(proxies: &Proxies, now_us: i64, expected: &[(u64, State)]) {
        let found: Vec<_> = proxies
            .all(now_us)
            .into_iter()
            .map(|(proxy, _, state)| (proxy.boot.0, state))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_boot_goes_from_connected_to_gone_unless_it_says_goodbye() {
        let proxies = Proxies::default();
        proxies.connected(&proxy("w-0", 1), &hello("w-0", 1), 0);
        check(&proxies, SECOND_US, &[(1, State::Connected)]);
        check(&proxies, 16 * SECOND_US, &[(1, State::Silent)]);
        proxies.reported(
            &proxy("w-0", 1),
            v1::ReportRequest::default(),
            17 * SECOND_US,
        );
        check(&proxies, 18 * SECOND_US, &[(1, State::Connected)]);
        proxies.disconnected(&proxy("w-0", 1), 20 * SECOND_US);
        check(&proxies, 21 * SECOND_US, &[(1, State::Connected)]);
        check(&proxies, 81 * SECOND_US, &[(1, State::Gone)]);
        proxies.connected(&proxy("w-0", 2), &hello("w-0", 2), 30 * SECOND_US);
        let both = [(2, State::Connected), (1, State::Gone)];
        check(&proxies, 31 * SECOND_US, &both);
        proxies.closing(&proxy("w-0", 2), 32 * SECOND_US);
        check(
            &proxies,
            33 * SECOND_US,
            &[(2, State::Closed), (1, State::Gone)],
        );
    }

    #[test]
    fn the_register_is_bounded() {
        let proxies = Proxies::default();
        for boot in 0..BOOTS_MAX as u64 + 5 {
            let now_us = i64::try_from(boot).expect("small");
            proxies.heard(&proxy("w-0", boot), now_us);
        }
        let all = proxies.all(0);
        assert_eq!(all.len(), BOOTS_MAX);
        assert!(all.iter().all(|(proxy, _, _)| proxy.boot.0 >= 5));
    }

    #[test]
    fn a_hello_without_a_name_is_refused() {
        let wrong = |change: fn(&mut v1::Hello)| {
            let mut hello = hello("w-0", 1);
            change(&mut hello);
            ProxyBoot::from_hello(&hello).expect_err("refused")
        };
        assert_eq!(wrong(|h| h.instance.clear()), HelloError::Empty("instance"));
        assert_eq!(
            wrong(|h| h.workload = "w".repeat(300)),
            HelloError::TooLong("workload")
        );
        assert_eq!(
            wrong(|h| h.namespace = "a\nb".to_owned()),
            HelloError::Strange("namespace")
        );
    }
}
