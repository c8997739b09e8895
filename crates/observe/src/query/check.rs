//! Is the mesh itself well?
//!
//! Each check says what holds if all is well; when it does not, what is wrong
//! and how to fix it. An `error` makes the whole check fail, a `warning` does not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use whodunit_api::check::{Category, Check, CheckItem, Proxy};
use whodunit_model::Limit;
use whodunit_model::time::{SECOND_US, format_utc};
use whodunit_store::StoreStats;

use super::Queries;
use crate::live::Live;
use crate::proxies::{Known, Lost, ProxyBoot, State};

/// Boots that ended longer ago than this are no longer listed.
const ENDED_SHOWN_US: i64 = 3_600 * SECOND_US;

/// Most ended boots that are listed.
const ENDED_SHOWN_MAX: usize = 200;

/// A discovery that heard nothing for this long is old.
const DISCOVERY_OLD_MS: u64 = 30_000;

/// A proxy's clock may differ this much before drawings of call trees look odd.
const CLOCK_OFFSET_US: i64 = SECOND_US;

impl Queries {
    /// Answers `check`.
    #[must_use]
    pub fn check(&self, now_us: i64) -> Check {
        if self.live.is_none() {
            // The server does this bit by bit. Here the question is the only work there is.
            self.store.verify();
        }
        let stats = self.store.stats();
        let mut categories = vec![store(&stats)];
        let mut proxies = Vec::new();
        if let Some(live) = self.live.as_deref() {
            let mut boots = live.proxies.all(now_us);
            boots.retain(|(_, known, state)| {
                state.is_alive() || now_us - known.last_us < ENDED_SHOWN_US
            });
            categories.insert(0, server(live));
            categories.push(discovery(live));
            categories.push(proxy_category(&boots, now_us));
            categories.push(recorder(live, &boots));
            categories.push(limits(&boots));
            proxies = self.proxies(boots, now_us);
        }
        let failed = categories
            .iter()
            .flat_map(|category| &category.checks)
            .any(|item| item.result == "error");
        Check {
            success: !failed,
            categories,
            proxies,
        }
    }

    /// Lists the boots: all that run, and those that ended lately.
    fn proxies(&self, boots: Vec<(ProxyBoot, Known, State)>, now_us: i64) -> Vec<Proxy> {
        let mut ended = 0;
        boots
            .into_iter()
            .filter(|(_, _, state)| {
                ended += usize::from(!state.is_alive());
                state.is_alive() || ended <= ENDED_SHOWN_MAX
            })
            .map(|(boot, known, state)| self.proxy(&boot, known, state, now_us))
            .collect()
    }

    fn proxy(&self, boot: &ProxyBoot, known: Known, state: State, now_us: i64) -> Proxy {
        let report = known.report;
        let reported_us = known.reported_us.unwrap_or(known.first_us);
        Proxy {
            namespace: boot.namespace.clone(),
            workload: boot.workload.clone(),
            instance: boot.instance.clone(),
            version: known.proxy_version,
            boot: boot.boot.to_string(),
            state: state.name().to_owned(),
            reported_age_ms: u64::try_from((now_us - reported_us) / 1_000).unwrap_or(0),
            uptime_s: report.uptime_s,
            discovery_age_ms: report.discovery_age_ms,
            detection_fall_backs: report.detection_fall_backs,
            fall_backs: report.fall_backs,
            policy_denied: report.policy_denied,
            policy_audited: report.policy_audited,
            certificate_expires_in_s: report
                .certificate_expires_s
                .map(|at_s| at_s - now_us / SECOND_US),
            open_connections: report.open_connections,
            limits: report.limits,
            clock_offset_ms: super::record::ms(report.clock_offset_us),
            conservation: report.conservation,
            batches_durable: self.store.durable(&boot.store_name(), boot.boot),
            tail_unknown: state == State::Gone,
        }
    }
}

fn server(live: &Live) -> Category {
    let refused = count(&live.surface.turned_away);
    let checks = vec![
        good(format!(
            "server {} answers on {} and takes records on {}",
            env!("CARGO_PKG_VERSION"),
            live.http,
            live.grpc
        )),
        item(
            "no question was turned away",
            (refused > 0).then(|| {
                warning(
                    format!("{refused} questions were turned away because too many were waiting"),
                    "ask for shorter ranges, or less often",
                )
            }),
        ),
    ];
    category("server", checks)
}

fn store(stats: &StoreStats) -> Category {
    let failing = stats.flush_failures + stats.sync_failures + stats.compaction_failures;
    let checks = vec![
        item(
            "records reach the disk",
            (failing > 0).then(|| {
                let last = stats.last_error.as_deref().unwrap_or("see the server's log");
                failure(
                    format!("writing failed {failing} times: {last}"),
                    "make room on the disk of the data directory, and see that it may be written",
                )
            }),
        ),
        item(
            "nothing in the data directory is damaged",
            (stats.damaged_total > 0).then(|| {
                let named: Vec<String> = stats
                    .damaged
                    .iter()
                    .map(|damage| format!("{} ({})", damage.what, damage.why))
                    .collect();
                warning(
                    format!("{} skipped: {}", stats.damaged_total, listed(&named)),
                    "answers leave out what is not readable: put back a copy, or move the file away",
                )
            }),
        ),
        item(
            "every batch of records could be read",
            (stats.refused_batches > 0).then(|| {
                warning(
                    format!("{} batches were refused", stats.refused_batches),
                    "run proxies and server of one version; the server's log names the proxies",
                )
            }),
        ),
        item(
            "the store keeps up with the proxies",
            (stats.overloaded_batches > 0).then(|| {
                warning(
                    format!("{} batches had to come again", stats.overloaded_batches),
                    "use a faster disk, or record less",
                )
            }),
        ),
    ];
    category("store", checks)
}

fn discovery(live: &Live) -> Category {
    let Some(discovery) = &live.discovery else {
        let checks = vec![item(
            "the server knows where services live",
            Some(warning(
                "no source of discovery".to_owned(),
                "start the server with --topology FILE, or let `whodunit run` do it",
            )),
        )];
        return category("discovery", checks);
    };
    let health = discovery.health();
    let topology = discovery.topology();
    let known = topology
        .as_ref()
        .map_or(0, |topology| topology.services.len());
    let source_is_read = match (&health.error, topology.is_some()) {
        (None, true) => None,
        (Some(error), true) => Some(warning(
            format!("{error} (the last good state of {known} services stays in force)"),
            "repair the file",
        )),
        (error, false) => Some(failure(
            error
                .clone()
                .unwrap_or_else(|| format!("{} was not read yet", health.source)),
            "write the topology file, or start the server with the path of one",
        )),
    };
    let slow = count(&live.destinations.slow_dropped);
    let unready: Vec<String> = topology
        .iter()
        .flat_map(|topology| topology.services.values())
        // A workload that only calls others has no endpoints to be ready.
        .filter(|service| !service.endpoints.is_empty())
        .filter(|service| !service.endpoints.iter().any(|endpoint| endpoint.ready))
        .map(|service| service.name.to_string())
        .take(10)
        .collect();
    let checks = vec![
        item("the server knows where services live", source_is_read),
        item(
            "every service has a ready instance",
            (!unready.is_empty()).then(|| {
                warning(
                    format!("no instance is ready: {}", unready.join(", ")),
                    "look at the log of the service's process",
                )
            }),
        ),
        item(
            "every proxy reads its updates",
            (slow > 0).then(|| {
                warning(
                    format!("{slow} discovery streams were dropped because they were not read"),
                    "look for proxies that hang or lack processor time",
                )
            }),
        ),
    ];
    category("discovery", checks)
}

fn proxy_category(boots: &[(ProxyBoot, Known, State)], now_us: i64) -> Category {
    let named = |matches: &dyn Fn(&Known, State) -> bool| -> Vec<String> {
        boots
            .iter()
            .filter(|(_, known, state)| matches(known, *state))
            .map(|(boot, _, _)| boot.instance.clone())
            .collect()
    };
    let alive = named(&|_, state| state.is_alive());
    let own = env!("CARGO_PKG_VERSION");
    let connected = alive.is_empty().then(|| {
        failure(
            "no proxy is connected".to_owned(),
            "start one with `whodunit run`, or point `[record] server` of proxy.toml here",
        )
    });
    let problem = |names: Vec<String>, says: &str, hint: &'static str| {
        (!names.is_empty()).then(|| warning(format!("{says}: {}", listed(&names)), hint))
    };
    let checks = vec![
        item("proxies are connected", connected),
        item(
            "every proxy reports",
            problem(
                named(&|_, state| state == State::Silent),
                "no report for 15 s",
                "look at the log of these proxies and at their connection to the server",
            ),
        ),
        item(
            "proxies have the server's version",
            problem(
                named(&|known, state| {
                    state.is_alive() && !["", own].contains(&known.proxy_version.as_str())
                }),
                "another version",
                "restart these proxies with the server's version",
            ),
        ),
        item(
            "discovery of every proxy is fresh",
            problem(
                boots.iter().filter_map(stale).collect(),
                "discovery is not connected and older than 30 s",
                "they go on with what they know; look at their connection to the server",
            ),
        ),
        item(
            "every protocol was recognized",
            problem(
                boots.iter().filter_map(fallen_back).collect(),
                "connections of an unknown protocol",
                "declare the protocol of the service in mesh.toml",
            ),
        ),
        certificates(boots, now_us),
        good(policy(boots)),
        item(
            "clocks agree",
            problem(
                named(&|known, state| {
                    state.is_alive() && known.report.clock_offset_us.abs() > CLOCK_OFFSET_US
                }),
                "the clock differs by more than a second",
                "synchronize the clocks of these machines (NTP)",
            ),
        ),
    ];
    category("proxies", checks)
}

/// Says whether certificates hold, and whether those that end soon are being renewed.
fn certificates(boots: &[(ProxyBoot, Known, State)], now_us: i64) -> CheckItem {
    let what = "certificates hold and are renewed";
    let hint = "look at the proxy's log for why it gets no new certificate, and at the clocks";
    let said = |matches: &dyn Fn(&Known, i64) -> bool, how: &str| -> Vec<String> {
        boots
            .iter()
            .filter(|(_, _, state)| state.is_alive())
            .filter_map(|(boot, known, _)| {
                let left_s = known.report.certificate_expires_s? - now_us / SECOND_US;
                let span = long(left_s.unsigned_abs());
                matches(known, left_s).then(|| format!("{} ({how} {span})", boot.instance))
            })
            .collect()
    };
    let expired = said(&|_, left_s| left_s <= 0, "since");
    let late = said(
        &|known, left_s| left_s > 0 && known.report.certificate_renewal_fails,
        "expires in",
    );
    if !expired.is_empty() {
        let says = format!("the certificate has expired: {}", listed(&expired));
        return item(what, Some(failure(says, hint)));
    }
    let problem = (!late.is_empty()).then(|| {
        let says = format!("the last renewal failed: {}", listed(&late));
        warning(says, hint)
    });
    item(what, problem)
}

/// Says what policy did: neither is a fault of the mesh.
fn policy(boots: &[(ProxyBoot, Known, State)]) -> String {
    let running = || boots.iter().filter(|(_, _, state)| state.is_alive());
    let total = |number: fn(&Known) -> u64| -> u64 { running().map(|(_, k, _)| number(k)).sum() };
    let denied = total(|known| known.report.policy_denied);
    let audited = total(|known| known.report.policy_audited);
    if denied == 0 && audited == 0 {
        return "policy denied nothing".to_owned();
    }
    let at: Vec<&str> = running()
        .filter(|(_, k, _)| k.report.policy_denied + k.report.policy_audited > 0)
        .map(|(boot, _, _)| boot.instance.as_str())
        .take(5)
        .collect();
    format!(
        "policy denied {denied} and would have denied {audited} requests and connections, at {}",
        at.join(", ")
    )
}

fn recorder(live: &Live, boots: &[(ProxyBoot, Known, State)]) -> Category {
    let lossy: Vec<String> = boots
        .iter()
        .filter_map(|(boot, known, _)| {
            let conservation = &known.report.conservation;
            let reasons: Vec<String> = conservation
                .dropped
                .iter()
                .chain(&conservation.discarded)
                .filter(|count| count.count > 0)
                .map(|count| format!("{} {}", count.count, count.reason))
                .collect();
            let lost = conservation.lost() > 0;
            lost.then(|| format!("{} ({})", boot.instance, reasons.join(", ")))
        })
        .collect();
    let tails: Vec<String> = boots
        .iter()
        .filter(|(_, _, state)| *state == State::Gone)
        .map(|(boot, _, _)| format!("{} ({})", boot.instance, boot.boot))
        .collect();
    let failed = count(&live.ingest.failed);
    let checks = vec![
        item(
            "records are written",
            (failed > 0).then(|| {
                if live.ingest.failing.load(Ordering::Relaxed) {
                    failure(
                        format!("batches cannot be written: {failed} tries failed"),
                        "make room on the disk of the data directory; the server's log says more",
                    )
                } else {
                    warning(
                        format!("{failed} tries to write a batch failed, the latest one did not"),
                        "proxies sent these batches again; the server's log says why they failed",
                    )
                }
            }),
        ),
        item(
            "no record was dropped or discarded",
            (!lossy.is_empty()).then(|| {
                warning(
                    listed(&lossy),
                    "raise `[record] queue_rows` (queue_full) or `buffer_bytes` (buffer_full) of \
                     these proxies, or keep the server up",
                )
            }),
        ),
        item(
            "every proxy that ended said what it had sent",
            (!tails.is_empty()).then(|| {
                warning(
                    format!("ended without a closing batch: {}", listed(&tails)),
                    "what these had not sent is not known; stop proxies with SIGTERM",
                )
            }),
        ),
    ];
    category("recorder", checks)
}

/// One line per limit that was reached, with who reached it.
fn limits(boots: &[(ProxyBoot, Known, State)]) -> Category {
    let mut reached: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    for (boot, known, state) in boots {
        for limit in known.report.limits.iter().filter(|_| state.is_alive()) {
            let by = reached.entry(&limit.reason).or_default();
            by.push((&boot.instance, limit.count));
        }
    }
    let checks: Vec<CheckItem> = reached
        .into_iter()
        .map(|(name, mut by)| {
            by.sort_by_key(|(_, hits)| std::cmp::Reverse(*hits));
            let by: Vec<String> = by
                .iter()
                .map(|(instance, hits)| format!("{instance} {hits} times"))
                .collect();
            let Some(about) = Limit::named(name).map(Limit::about) else {
                let hint = "see docs/limits.md of the proxy's version";
                return item(
                    &format!("limit {name} is not reached"),
                    Some(warning(listed(&by), hint)),
                );
            };
            let (number, bounds) = (about.number(), lower(about.bounds));
            if about.ordinary {
                return good(format!(
                    "limit {name} ({number}) is reached on ordinary days: {bounds}: {}",
                    listed(&by)
                ));
            }
            item(
                &format!("limit {name} ({number}) is not reached: {bounds}"),
                Some(warning(
                    format!("{}: {}", listed(&by), about.then),
                    about.fix,
                )),
            )
        })
        .collect();
    if checks.is_empty() {
        return category(
            "limits",
            vec![good("no proxy has reached a limit".to_owned())],
        );
    }
    category("limits", checks)
}

/// Returns a sentence as it goes on another one.
fn lower(sentence: &str) -> String {
    let sentence = sentence.trim().trim_end_matches('.');
    let mut chars = sentence.chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Returns some names, and how many more there are.
/// Says how old the discovery of a proxy is, if it is old and the proxy alive.
fn stale((boot, known, state): &(ProxyBoot, Known, State)) -> Option<String> {
    let report = &known.report;
    let age_ms = report.discovery_age_ms?;
    if !state.is_alive() || report.discovery_connected || age_ms <= DISCOVERY_OLD_MS {
        return None;
    }
    let age = long(age_ms / 1_000);
    let age_us = i64::try_from(age_ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
    let since = known.reported_us.map(|at_us| {
        let since = format_utc(at_us.saturating_sub(age_us));
        format!(", server unreachable since {since}")
    });
    let since = since.unwrap_or_default();
    Some(format!("{} ({age} old{since})", boot.instance))
}

/// Names a proxy with connections of an unknown protocol, and the listeners they came to.
fn fallen_back((boot, known, state): &(ProxyBoot, Known, State)) -> Option<String> {
    if !state.is_alive() || known.report.detection_fall_backs == 0 {
        return None;
    }
    let at: Vec<String> = known
        .report
        .fall_backs
        .iter()
        .map(|at| format!("{} at {}", at.count, at.reason))
        .collect();
    if at.is_empty() {
        return Some(boot.instance.clone());
    }
    Some(format!("{} ({})", boot.instance, listed(&at)))
}

/// Writes a length of time in its largest fitting unit.
fn long(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// What is wrong, and how to fix it.
struct Problem {
    result: &'static str,
    error: String,
    hint: &'static str,
}

const fn warning(error: String, hint: &'static str) -> Problem {
    Problem {
        result: "warning",
        error,
        hint,
    }
}

const fn failure(error: String, hint: &'static str) -> Problem {
    Problem {
        result: "error",
        error,
        hint,
    }
}

fn good(description: String) -> CheckItem {
    CheckItem {
        description,
        result: "success".to_owned(),
        ..CheckItem::default()
    }
}

fn item(description: &str, problem: Option<Problem>) -> CheckItem {
    let description = description.to_owned();
    match problem {
        None => good(description),
        Some(problem) => CheckItem {
            description,
            result: problem.result.to_owned(),
            error: problem.error,
            hint: problem.hint.to_owned(),
        },
    }
}

fn category(name: &str, checks: Vec<CheckItem>) -> Category {
    Category {
        name: name.to_owned(),
        checks,
    }
}
