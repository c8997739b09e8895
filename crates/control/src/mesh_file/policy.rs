//! Reads `[policy]` and `[policy.rule.NAME]`.

use std::fmt::Display;
use std::str::FromStr;

use toml::de::DeValue;
use whodunit_model::policy::{
    Action, DEFAULT, IdentityPattern, Mode, PROBE, Policy, RULES_MAX, Rule,
};

use super::error::{MeshFileError, list, nearest};
use super::read::{Found, Source, Table};
use super::{Check, Service, sub_table, table_of};

pub(super) const POLICY_KEYS: &[&str] = &["default", "rule"];
pub(super) const RULE_KEYS: &[&str] = &[
    "action", "services", "methods", "paths", "hosts", "from", "networks",
];

const MODE_TAKES: &str = "one of \"allow\", \"audit\", \"authenticated\" and \"deny\"";
const ACTION_TAKES: &str = "one of \"allow\", \"deny\" and \"audit\"";

/// Gives each service that is called its policy, if the file has any.
pub(super) fn read(
    top: &Table<'_>,
    namespace: &str,
    services: &mut [Service],
) -> Result<(), MeshFileError> {
    let own = services
        .iter()
        .any(|service| service.default_policy.is_some());
    let table = sub_table(top, "policy", "[policy]", POLICY_KEYS)?;
    if table.is_none() && !own {
        return Ok(());
    }
    let mut default = Mode::Allow;
    let mut rules = Vec::new();
    if let Some(table) = &table {
        let found = table.read("default", MODE_TAKES, mode)?;
        default = found.map_or(default, |found| found.value);
        let names: Vec<String> = services
            .iter()
            .map(|service| service.name.clone())
            .collect();
        let takes = "a table for each rule, such as [policy.rule.no-admin]";
        let entries = table.entries("rule", takes)?;
        if let Some((name, _)) = entries.get(RULES_MAX) {
            let message = format!("there are more than {RULES_MAX} rules");
            let error = top.source.error(name.span.clone(), message);
            return Err(error.help("remove some of them"));
        }
        for (name, value) in &entries {
            let read = rule(top.source, name, value, namespace, &names)?;
            rules.push((name.span.clone(), read));
        }
    }
    for service in services.iter_mut().filter(|service| service.inbound) {
        service.policy = Some(Policy {
            default: service.default_policy.unwrap_or(default),
            rules: vec![],
            probes: probes(service),
        });
    }
    for (span, (rule, of)) in rules {
        let mut useful = rule.action != Action::Allow;
        for service in services.iter_mut() {
            if !(of.is_empty() || of.contains(&service.name)) {
                continue;
            }
            if let Some(policy) = &mut service.policy {
                useful |= policy.default != Mode::Allow;
                policy.rules.push(rule.clone());
            }
        }
        if !useful {
            let message = format!("rule `{}` allows what is allowed anyway", rule.name);
            return Err(top.source.error(span, message).help(
                "set `default` of [policy], or `policy` of the service, to \"deny\", \
                 \"authenticated\" or \"audit\"",
            ));
        }
    }
    Ok(())
}

/// Reads the word for what becomes of what no rule is about.
pub(super) fn mode(value: &DeValue<'_>) -> Option<Mode> {
    Mode::from_name(value.as_str()?)
}

/// Reads `policy` of a service.
pub(super) fn of_service(table: &Table<'_>) -> Result<Option<Mode>, MeshFileError> {
    let found = table.read("policy", MODE_TAKES, mode)?;
    Ok(found.map(|found| found.value))
}

/// Returns the paths on which the launcher asks a service through its proxy.
fn probes(service: &Service) -> Vec<whodunit_model::policy::PathPattern> {
    let checks = service.ready.iter().chain(&service.live);
    let path = |check: &Check| {
        let path = check.url.behind_itself()?;
        let path = path.split(['?', '#']).next().unwrap_or_default();
        // An odd one has to be allowed by a rule.
        if path.is_empty() { "/" } else { path }.parse().ok()
    };
    let mut paths: Vec<_> = checks.filter_map(path).collect();
    paths.dedup();
    paths
}

fn rule(
    source: Source<'_>,
    name: &Found<&str>,
    value: &toml::Spanned<DeValue<'_>>,
    namespace: &str,
    services: &[String],
) -> Result<(Rule, Vec<String>), MeshFileError> {
    let owner = format!("policy.rule `{}`", name.value);
    if !super::is_name(name.value) || [DEFAULT, PROBE, "ambiguous"].contains(&name.value) {
        let message = format!("{:?} cannot be the name of a rule", name.value);
        let error = source.error(name.span.clone(), message);
        return Err(error.help(format!(
            "it takes {}, and not default, probe or ambiguous",
            super::NAME_TAKES
        )));
    }
    let table = table_of(source, &owner, name, value)?;
    let table = Table::new(source, owner.clone(), RULE_KEYS, table)?;
    let action = table.read("action", ACTION_TAKES, |value| {
        Action::from_name(value.as_str()?)
    })?;
    let Some(action) = action else {
        let error = source.error(name.span.clone(), format!("{owner} has no `action`"));
        return Err(error.help(format!("`action` takes {ACTION_TAKES}")));
    };
    let mut rule = Rule::new(name.value, action.value);
    let of = table.strings("services", "an array of services, such as [\"voting\"]")?;
    for service in &of {
        if !services.iter().any(|known| known == service.value) {
            let known = || services.iter().map(String::as_str);
            let meant = nearest(service.value, known());
            let meant = meant.map(|meant| format!("did you mean `{meant}`? "));
            let message = format!(
                "{owner} is about `{}`, which is no service here",
                service.value
            );
            let error = source.error(service.span.clone(), message);
            return Err(error.help(format!(
                "{}there are {}",
                meant.unwrap_or_default(),
                list(known())
            )));
        }
    }
    let takes = "an array of methods in capitals, such as [\"GET\"]";
    for method in table.strings("methods", takes)? {
        let upper = |b: u8| b.is_ascii_uppercase() || b == b'-';
        if method.value.is_empty() || !method.value.bytes().all(upper) {
            let message = format!("{:?} is no method", method.value);
            let error = source.error(method.span, message);
            return Err(error.help(format!("`methods` takes {takes}")));
        }
        rule.methods.push(method.value.to_owned());
    }
    rule.paths = parse_all(&table, "paths", "an array of paths, such as [\"/admin/*\"]")?;
    rule.hosts = parse_all(
        &table,
        "hosts",
        "an array of hosts, such as [\"shop.example\"]",
    )?;
    let takes = "an array of networks, such as [\"10.0.0.0/8\"]";
    rule.networks = parse_all(&table, "networks", takes)?;
    let takes = "an array of callers, such as [\"web\"]";
    for caller in table.strings("from", takes)? {
        rule.identities
            .push(if services.iter().any(|name| name == caller.value) {
                IdentityPattern::Account {
                    name: caller.value.to_owned(),
                    namespace: namespace.to_owned(),
                }
            } else {
                parse(source, "from", &caller)?
            });
    }
    let of = of.into_iter().map(|service| service.value.to_owned());
    Ok((rule, of.collect()))
}

fn parse_all<T: FromStr<Err: Display>>(
    table: &Table<'_>,
    key: &'static str,
    takes: &str,
) -> Result<Vec<T>, MeshFileError> {
    let texts = table.strings(key, takes)?;
    let parsed = texts.iter().map(|text| parse(table.source, key, text));
    parsed.collect()
}

fn parse<T: FromStr<Err: Display>>(
    source: Source<'_>,
    key: &str,
    text: &Found<&str>,
) -> Result<T, MeshFileError> {
    text.value.parse().map_err(|why: T::Err| {
        let why = why.to_string();
        let (what, help) = why.split_once(": write ").unwrap_or((&why, ""));
        let error = source.error(text.span.clone(), format!("`{key}`: {what}"));
        if help.is_empty() {
            error
        } else {
            error.help(format!("write {help}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::{Expect, expect};
    use whodunit_model::policy::{Asked, Client};

    use crate::mesh_file::{Mesh, parse};

    const SERVICES: &str = "namespace = \"shop\"\n\
        [service.web]\ncommand = \"web {port}\"\nready = \"http://{self}/healthz?x=1\"\n\
        live = \"tcp://127.0.0.1:{port}\"\n\
        [service.voting]\ncommand = \"voting {port}\"\npolicy = \"audit\"\n";

    #[track_caller]
    fn good(text: &str) -> Mesh {
        let text = format!("{SERVICES}{text}");
        parse(&text, Path::new("mesh.toml")).unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn refused(text: &str, expected: Expect) {
        let text = format!("{SERVICES}{text}");
        let error = parse(&text, Path::new("mesh.toml")).expect_err("should be refused");
        expected.assert_eq(&format!("{error}\n"));
    }

    #[test]
    fn each_service_gets_its_rules_and_probes() {
        let mesh = good(
            "[policy]\ndefault = \"deny\"\n\
             [policy.rule.votes]\naction = \"allow\"\nservices = [\"voting\"]\nfrom = [\"web\"]\n\
             [policy.rule.near]\naction = \"allow\"\nnetworks = [\"127.0.0.0/8\"]\npaths = [\"/\"]\n",
        );
        let near = Client {
            identity: None,
            address: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        };
        let web = Client {
            identity: Some("web.shop.serviceaccount.identity.mesh.local"),
            ..near
        };
        let decide = |service: usize, client, path| {
            let policy = mesh.services[service].policy.as_ref().expect("a policy");
            let asked = Asked {
                method: "GET",
                path,
                hosts: &[],
            };
            policy.decide(client, &asked).expect("plain").text()
        };
        assert_eq!(decide(0, near, "/healthz"), "allow:probe");
        assert_eq!(decide(0, near, "/"), "allow:near");
        assert_eq!(decide(0, web, "/x"), "deny:default");
        assert_eq!(decide(1, web, "/x"), "allow:votes");
        assert_eq!(decide(1, near, "/x"), "audit:default");
        assert!(good("").services[0].policy.is_some(), "voting has a policy");
    }

    #[test]
    fn mistakes_are_named_where_they_stand() {
        refused(
            "[policy]\ndefault = \"no\"\n",
            expect![[r#"
                mesh.toml:10:11: `default` of [policy] is "no"
                  10 | default = "no"
                     |           ^^^^
                help: it takes one of "allow", "audit", "authenticated" and "deny"
            "#]],
        );
        refused(
            "[policy.rule.r]\naction = \"deny\"\nservices = [\"votign\"]\n",
            expect![[r#"
                mesh.toml:11:13: policy.rule `r` is about `votign`, which is no service here
                  11 | services = ["votign"]
                     |             ^^^^^^^^
                help: did you mean `voting`? there are `web` and `voting`
            "#]],
        );
        refused(
            "[policy.rule.r]\naction = \"deny\"\npaths = [\"/a/*/b\"]\n",
            expect![[r#"
                mesh.toml:11:10: `paths`: `/a/*/b` is no path: * stands at the end only; write /a/b, /users/{}/posts with {} for one segment, or /static/* for everything below /static
                  11 | paths = ["/a/*/b"]
                     |          ^^^^^^^^
            "#]],
        );
        refused(
            "[policy.rule.r]\naction = \"allow\"\nservices = [\"web\"]\n",
            expect![[r#"
                mesh.toml:9:14: rule `r` allows what is allowed anyway
                  9 | [policy.rule.r]
                    |              ^
                help: set `default` of [policy], or `policy` of the service, to "deny", "authenticated" or "audit"
            "#]],
        );
        refused(
            "[policy.rule.r]\npaths = [\"/a\"]\n",
            expect![[r#"
                mesh.toml:9:14: policy.rule `r` has no `action`
                  9 | [policy.rule.r]
                    |              ^
                help: `action` takes one of "allow", "deny" and "audit"
            "#]],
        );
    }
}
