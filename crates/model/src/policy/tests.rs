use super::*;

const NEAR: Client<'_> = Client {
    identity: None,
    address: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
};

const WEB: Client<'_> = Client {
    identity: Some("web.shop.serviceaccount.identity.mesh.cluster.local"),
    address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3)),
};

fn rule(name: &str, action: Action, paths: &[&str]) -> Rule {
    Rule {
        paths: paths.iter().map(|path| path.parse().unwrap()).collect(),
        ..Rule::new(name, action)
    }
}

fn asked<'a>(method: &'a str, path: &'a str) -> Asked<'a> {
    Asked {
        method,
        path,
        hosts: &["shop.example"],
    }
}

#[track_caller]
fn check(policy: &Policy, client: Client<'_>, method: &str, path: &str, expected: &str) {
    let decided = policy.decide(client, &asked(method, path));
    let text = match decided {
        Ok(decision) => decision.text(),
        Err(why) => format!("400 {why}"),
    };
    assert_eq!(text, expected, "{method} {path}");
}

#[test]
fn defaults_decide_where_no_rule_does() {
    for (mode, near, web) in [
        (Mode::Allow, "allow:default", "allow:default"),
        (Mode::Audit, "audit:default", "audit:default"),
        (Mode::Authenticated, "deny:default", "allow:default"),
        (Mode::Deny, "deny:default", "deny:default"),
    ] {
        let policy = Policy::plain(mode);
        check(&policy, NEAR, "GET", "/", near);
        check(&policy, WEB, "GET", "/", web);
        assert_eq!(policy.decide_connection(NEAR).text(), near);
        assert_eq!(policy.is_open(), mode == Mode::Allow);
    }
}

#[test]
fn what_forbids_wins_and_trials_change_nothing() {
    let policy = Policy {
        default: Mode::Deny,
        rules: vec![
            rule("public", Action::Allow, &["/public/*"]),
            rule("secret", Action::Deny, &["/public/secret"]),
            rule("soon", Action::Audit, &["/public/old", "/private"]),
        ],
        probes: vec!["/ready".parse().unwrap()],
    };
    check(&policy, NEAR, "GET", "/public/a", "allow:public");
    check(&policy, NEAR, "GET", "/public/secret", "deny:secret");
    check(&policy, NEAR, "GET", "/public/old", "audit:soon");
    check(&policy, NEAR, "GET", "/private", "deny:default");
    check(&policy, NEAR, "GET", "/ready", "allow:probe");
    check(&policy, NEAR, "POST", "/ready", "deny:default");
    check(&policy, NEAR, "GET", "/ready/x", "deny:default");
    check(
        &policy,
        NEAR,
        "GET",
        "/a%2Fb",
        "400 the path has an escaped slash or backslash",
    );
    assert_eq!(policy.decide_connection(NEAR).text(), "deny:default");
}

#[test]
fn no_spelling_gets_past_a_rule() {
    let denies = Policy {
        default: Mode::Allow,
        rules: vec![rule("admin", Action::Deny, &["/admin/*"])],
        probes: vec![],
    };
    let allows = Policy {
        default: Mode::Deny,
        rules: vec![rule("open", Action::Allow, &["/open/*"])],
        probes: vec![],
    };
    for path in [
        "/admin",
        "/admin/",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/%61dmin",
        "/open/../admin",
        "/open/%2e%2e/admin",
        "/open//../admin/x",
        "/admin;a=b/x",
        "/open/..;/admin",
        "/admin%3Bx",
        "/admin%3Fx",
        "/admin%23x",
        "/admin/../open",
    ] {
        check(&denies, NEAR, "GET", path, "deny:admin");
        check(&allows, NEAR, "GET", path, "deny:default");
    }
    for path in [
        "/open",
        "/open/a",
        "/open//a",
        "/open/./a",
        "/open/a;b=c",
        "/open/%61",
    ] {
        check(&denies, NEAR, "GET", path, "allow:default");
        check(&allows, NEAR, "GET", path, "allow:open");
    }
    check(&denies, NEAR, "GET", "/administrator", "allow:default");
}

#[test]
fn clients_are_told_apart_by_what_they_prove_and_where_they_are() {
    let only = |change: fn(&mut Rule)| {
        let mut rule = Rule::new("r", Action::Allow);
        change(&mut rule);
        Policy {
            default: Mode::Deny,
            rules: vec![rule],
            probes: vec![],
        }
    };
    let by_identity = only(|rule| rule.identities = vec!["web.shop".parse().unwrap()]);
    let by_namespace = only(|rule| rule.namespaces = vec!["shop".to_owned()]);
    let by_network = only(|rule| rule.networks = vec!["10.0.0.0/8".parse().unwrap()]);
    let proven = only(|rule| rule.identities = vec!["*".parse().unwrap()]);
    for policy in [&by_identity, &by_namespace, &by_network, &proven] {
        check(policy, WEB, "GET", "/", "allow:r");
        check(policy, NEAR, "GET", "/", "deny:default");
    }
    let elsewhere = Client {
        address: NEAR.address,
        ..WEB
    };
    let both = only(|rule| {
        rule.identities = vec!["*".parse().unwrap()];
        rule.networks = vec!["10.0.0.0/8".parse().unwrap()];
    });
    check(&both, WEB, "GET", "/", "allow:r");
    check(&both, elsewhere, "GET", "/", "deny:default");
    assert_eq!(both.decide_connection(WEB).text(), "allow:r");
}

#[test]
fn methods_and_hosts_are_compared_as_strictly_as_is_safe() {
    let mut denies = Rule::new("d", Action::Deny);
    denies.methods = vec!["DELETE".to_owned()];
    denies.hosts = vec!["shop.example".parse().unwrap()];
    let allows = Rule {
        action: Action::Allow,
        ..denies.clone()
    };
    let policy = |default, rule: &Rule| Policy {
        default,
        rules: vec![rule.clone()],
        probes: vec![],
    };
    let (denies, allows) = (policy(Mode::Allow, &denies), policy(Mode::Deny, &allows));
    let decide = |policy: &Policy, method, hosts: &[&str]| {
        let asked = Asked {
            method,
            path: "/",
            hosts,
        };
        policy.decide(NEAR, &asked).map(|decision| decision.action)
    };
    for (method, hosts, denied, allowed) in [
        ("DELETE", &["shop.example"][..], true, true),
        ("DELETE", &["SHOP.Example.:80"], true, true),
        ("delete", &["shop.example"], true, false),
        ("GET", &["shop.example"], false, false),
        ("DELETE", &["other.example"], false, false),
        ("DELETE", &["other.example", "shop.example"], true, false),
        ("DELETE", &[], false, false),
    ] {
        let expected = if denied { Action::Deny } else { Action::Allow };
        assert_eq!(
            decide(&denies, method, hosts),
            Ok(expected),
            "{method} {hosts:?}"
        );
        let expected = if allowed { Action::Allow } else { Action::Deny };
        assert_eq!(
            decide(&allows, method, hosts),
            Ok(expected),
            "{method} {hosts:?}"
        );
    }
    assert_eq!(decide(&denies, "DELETE", &["a@b"]), Err(Ambiguous::Host));
}

#[test]
fn a_policy_is_text_and_back() {
    let policy = Policy {
        default: Mode::Authenticated,
        rules: vec![Rule {
            methods: vec!["GET".to_owned()],
            hosts: vec!["*.example".parse().unwrap()],
            identities: vec!["web.shop".parse().unwrap(), "*".parse().unwrap()],
            namespaces: vec!["shop".to_owned()],
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            ..rule("r", Action::Audit, &["/users/{}/posts"])
        }],
        probes: vec!["/ready".parse().unwrap()],
    };
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
    assert!(serde_json::from_str::<Policy>("{\"default\":\"deny\",\"rulez\":[]}").is_err());
}
