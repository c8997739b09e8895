//! `[policy]` and its rules: from tables to one [`Policy`] per inbound listener.

use std::collections::HashSet;
use std::fmt::Display;
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;
use whodunit_model::policy::{Action, DEFAULT, Mode, PROBE, Policy, RULES_MAX, Rule};
use whodunit_model::record::Side;

use super::file::Source;
use super::{ConfigError, Declared, Listener};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyTable {
    default: Option<Spanned<String>>,
    pub(super) watch: Option<Spanned<bool>>,
    #[serde(default)]
    probes: Vec<Spanned<String>>,
    #[serde(default)]
    rule: Vec<Spanned<RuleTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    name: Spanned<String>,
    action: Spanned<String>,
    #[serde(default)]
    listeners: Vec<Spanned<String>>,
    #[serde(default)]
    methods: Vec<Spanned<String>>,
    #[serde(default)]
    paths: Vec<Spanned<String>>,
    #[serde(default)]
    hosts: Vec<Spanned<String>>,
    #[serde(default)]
    identities: Vec<Spanned<String>>,
    #[serde(default)]
    namespaces: Vec<Spanned<String>>,
    #[serde(default)]
    networks: Vec<Spanned<String>>,
}

/// Reads the default of all listeners, or of one.
pub(super) fn mode(
    source: &Source<'_>,
    key: &str,
    value: &Spanned<String>,
) -> Result<Mode, ConfigError> {
    let choices: Vec<(&str, Mode)> = Mode::ALL.iter().map(|mode| (mode.name(), *mode)).collect();
    source.choice(key, value, &choices)
}

/// Gives each inbound listener its policy; `own` has the defaults that listeners have of
/// their own. `proves` says whether clients can prove identities.
pub(super) fn apply(
    source: &Source<'_>,
    table: Option<&PolicyTable>,
    own: &[Option<Mode>],
    listeners: &mut [Listener],
    proves: bool,
) -> Result<(), ConfigError> {
    let Some(table) = table else {
        return set(listeners, own, &Policy::plain(Mode::Allow));
    };
    let mut policy = Policy::plain(Mode::Allow);
    let guarded = || listeners.iter().any(|l| l.direction == Side::Inbound);
    if let Some(default) = &table.default {
        policy.default = mode(source, "policy.default", default)?;
        if policy.default != Mode::Allow && !guarded() {
            let what = "`policy.default` protects inbound listeners, and there is none: add one \
                        with direction = \"inbound\"";
            return Err(source.at(default, what.to_owned()));
        }
    }
    policy.probes = parse_all(source, "policy.probes", &table.probes)?;
    set(listeners, own, &policy)?;
    if let Some(rule) = table.rule.get(RULES_MAX) {
        let what = format!("there are more than {RULES_MAX} rules: remove some");
        return Err(source.at(rule, what));
    }
    let mut names = HashSet::new();
    for spanned in &table.rule {
        let table = spanned.get_ref();
        let rule = rule(source, spanned, proves)?;
        if !names.insert(rule.name.clone()) {
            let what = format!(
                "rule `{}` is there twice: give each its own name",
                rule.name
            );
            return Err(source.at(&table.name, what));
        }
        give(source, spanned, rule, listeners)?;
    }
    Ok(())
}

fn set(
    listeners: &mut [Listener],
    own: &[Option<Mode>],
    policy: &Policy,
) -> Result<(), ConfigError> {
    for (listener, own) in listeners.iter_mut().zip(own) {
        if listener.direction == Side::Inbound {
            listener.policy = Policy {
                default: own.unwrap_or(policy.default),
                ..policy.clone()
            };
        }
    }
    Ok(())
}

/// Gives a rule to the listeners that it names, or to all.
fn give(
    source: &Source<'_>,
    spanned: &Spanned<RuleTable>,
    rule: Rule,
    listeners: &mut [Listener],
) -> Result<(), ConfigError> {
    let names = &spanned.get_ref().listeners;
    for name in names {
        let found = listeners.iter().find(|l| l.name == *name.get_ref());
        let wrong = match found {
            None => "there is no listener of this name",
            Some(listener) if listener.direction == Side::Outbound => {
                "it is outbound, and policy is about what comes in"
            }
            Some(listener) if listener.protocol == Declared::Opaque && rule.is_about_requests() => {
                "it is opaque, so there are no methods, paths or hosts to look at"
            }
            Some(_) => continue,
        };
        let inbound = listeners.iter().filter(|l| l.direction == Side::Inbound);
        let inbound: Vec<&str> = inbound.map(|l| l.name.as_str()).collect();
        let what = format!(
            "rule `{}` names listener `{}`: {wrong}; inbound listeners: {}",
            rule.name,
            name.get_ref(),
            inbound.join(", ")
        );
        return Err(source.at(name, what));
    }
    let meant = |listener: &&mut Listener| {
        let named = || names.iter().any(|name| *name.get_ref() == listener.name);
        listener.direction == Side::Inbound && (names.is_empty() || named())
    };
    let (mut count, mut useful) = (0, rule.action != Action::Allow);
    for listener in listeners.iter_mut().filter(meant) {
        count += 1;
        useful |= listener.policy.default != Mode::Allow;
        listener.policy.rules.push(rule.clone());
    }
    if count == 0 {
        let what = format!(
            "rule `{}` protects inbound listeners, and there is none: add one with \
             direction = \"inbound\"",
            rule.name
        );
        return Err(source.at(spanned, what));
    }
    if !useful {
        let what = format!(
            "rule `{}` allows what is allowed anyway: set `policy.default` to deny, \
             authenticated or audit",
            rule.name
        );
        return Err(source.at(&spanned.get_ref().action, what));
    }
    Ok(())
}

fn rule(
    source: &Source<'_>,
    spanned: &Spanned<RuleTable>,
    proves: bool,
) -> Result<Rule, ConfigError> {
    let table = spanned.get_ref();
    let name = source.name("policy.rule.name", &table.name)?;
    if [DEFAULT, PROBE, crate::policy::AMBIGUOUS].contains(&name.as_str()) {
        let what = format!("`policy.rule.name` is `{name}`, which has a meaning: use another");
        return Err(source.at(&table.name, what));
    }
    let choices: Vec<(&str, Action)> = Action::ALL
        .iter()
        .map(|action| (action.name(), *action))
        .collect();
    let action = source.choice("policy.rule.action", &table.action, &choices)?;
    if !proves && let Some(who) = table.identities.iter().chain(&table.namespaces).next() {
        let what = format!(
            "rule `{name}` is about identities, which nobody proves in plain text: add \
             `[identity]`, or use `networks`"
        );
        return Err(source.at(who, what));
    }
    let mut rule = Rule::new(&name, action);
    for method in &table.methods {
        let text = method.get_ref();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            let what = format!("`policy.rule.methods` has `{text}`: write it in capitals as GET");
            return Err(source.at(method, what));
        }
        rule.methods.push(text.clone());
    }
    rule.paths = parse_all(source, "policy.rule.paths", &table.paths)?;
    rule.hosts = parse_all(source, "policy.rule.hosts", &table.hosts)?;
    rule.identities = parse_all(source, "policy.rule.identities", &table.identities)?;
    rule.networks = parse_all(source, "policy.rule.networks", &table.networks)?;
    for namespace in &table.namespaces {
        rule.namespaces
            .push(source.name("policy.rule.namespaces", namespace)?);
    }
    Ok(rule)
}

fn parse_all<T: FromStr<Err: Display>>(
    source: &Source<'_>,
    key: &str,
    texts: &[Spanned<String>],
) -> Result<Vec<T>, ConfigError> {
    let parse = |text: &Spanned<String>| {
        let parsed = text.get_ref().parse();
        parsed.map_err(|why| source.at(text, format!("`{key}`: {why}")))
    };
    texts.iter().map(parse).collect()
}
