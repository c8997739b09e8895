use whodunit_model::route_rule::{PathMatch, Retries};

use super::*;

const GOOD: &str = r#"
[workload]
namespace = "emojivoto"
name = "web"
instance = "web-0"
version = "v1"

[admin]
listen = "127.0.0.1:0"

[[listener]]
name = "web-in"
listen = "127.0.0.1:15101"
direction = "inbound"
forward = "127.0.0.1:9101"

[[listener]]
name = "voting"
listen = "127.0.0.1:15102"
direction = "outbound"
protocol = "grpc"
service = "voting"

[control]
server = "127.0.0.1:7071"

[record]
mode = "send"
server = "127.0.0.1:7071"

[capture]
query = ["choice"]
headers = ["X-Tenant"]
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("proxy.toml"))
}

/// `GOOD` with one text replaced must be refused with exactly this message.
#[track_caller]
fn check(from: &str, to: &str, expected: &str) {
    assert!(GOOD.contains(from), "{from}");
    let error = parse(&GOOD.replacen(from, to, 1)).expect_err(to);
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_whole_file_is_read() {
    let config = parse(GOOD).unwrap();
    assert_eq!(&*config.workload.instance, "web-0");
    assert_eq!(config.listeners[0].protocol, Declared::Detect);
    let voting = ServiceName {
        namespace: "emojivoto".to_owned(),
        name: "voting".to_owned(),
    };
    assert_eq!(config.listeners[1].target, Target::Service(voting));
    assert_eq!(config.record.mode, Mode::Send);
    assert_eq!(config.redaction.headers, ["x-tenant"]);
    assert_eq!(
        (config.workers, config.shutdown_grace),
        (1, Duration::from_secs(30))
    );
}

#[test]
fn mistakes_are_named_with_file_line_key_and_fix() {
    check(
        "version = \"v1\"",
        "verzion = \"v1\"",
        "proxy.toml:6: unknown field `verzion`, expected one of `namespace`, `name`, `instance`, \
         `version` (in `verzion = \"v1\"`)",
    );
    check(
        "\"127.0.0.1:9101\"",
        "\"localhost\"",
        "proxy.toml:15: `listener.forward` is `localhost`: write an IP address and port such as \
         127.0.0.1:4191",
    );
    check(
        "\"grpc\"",
        "\"grcp\"",
        "proxy.toml:21: `listener.protocol` is `grcp`: use one of detect, http1, http2, grpc, opaque",
    );
    check(
        "\"127.0.0.1:0\"",
        "\"0.0.0.0:4191\"",
        "proxy.toml:9: `admin.listen` is 0.0.0.0:4191: use a loopback address, 127.0.0.1 or [::1]",
    );
    check(
        "127.0.0.1:15102",
        "127.0.0.1:15101",
        "proxy.toml:19: `listener.listen` 127.0.0.1:15101 is used twice: give each its own port",
    );
    check(
        "127.0.0.1:9101",
        "127.0.0.1:15102",
        "proxy.toml:11: listener `web-in` forwards to 127.0.0.1:15102, where listener `voting` of \
         this proxy listens: that is a loop; forward to the application's own port",
    );
    check(
        "[control]\nserver = \"127.0.0.1:7071\"",
        "",
        "proxy.toml:17: listener `voting` has `service` but there is no `[control]`: add \
         `[control] server = \"ADDRESS\"` or use `forward`",
    );
    check(
        "[capture]",
        "[identity]\ntrust_anchors = \"a.pem\"\n[capture]",
        "proxy.toml:31: `identity` needs either `certificate` and `private_key`, both PEM \
         files, or `server` and `token_file`",
    );
    check(
        "forward = \"127.0.0.1:9101\"",
        "forward = \"127.0.0.1:9101\"\nforward_protocol = \"h2\"",
        "proxy.toml:16: `listener.forward_protocol` is `h2`: use one of auto, http1, http2",
    );
    check(
        "forward = \"127.0.0.1:9101\"",
        "forward = \"127.0.0.1:9101\"\nprotocol = \"opaque\"\nforward_protocol = \"auto\"",
        "proxy.toml:17: listener `web-in` is opaque: its bytes are not looked at, so \
         `forward_protocol` means nothing; remove it",
    );
    check(
        "protocol = \"grpc\"",
        "protocol = \"grpc\"\nforward_protocol = \"http1\"",
        "proxy.toml:22: listener `voting` carries gRPC, which needs HTTP/2: use \
         `forward_protocol` auto or http2",
    );
    check(
        "forward = \"127.0.0.1:9101\"",
        "forward = \"127.0.0.1:9101\"\nserver_identity = \"spiffe://a/b\"",
        "proxy.toml:16: `server_identity` belongs to an outbound listener with `forward` to an \
         address: discovery knows the identities of services",
    );
    check(
        "service = \"voting\"",
        "service = \"voting\"\nadaptive_limit = true",
        "proxy.toml:23: `adaptive_limit` belongs to an inbound listener: remove it here",
    );
    check(
        "mode = \"send\"\nserver = \"127.0.0.1:7071\"",
        "mode = \"send\"",
        "proxy.toml:27: `record.mode` is `send` but there is no `record.server`: add its address, \
         or use mode off or drop",
    );
}

#[test]
#[cfg(target_os = "linux")]
fn redirected_connections_have_a_target_of_their_own() {
    let text = GOOD.replace("\"127.0.0.1:9101\"", "\"original-dst\"");
    let config = parse(&text).unwrap();
    assert_eq!(config.listeners[0].target, Target::OriginalDst);
    check(
        "direction = \"outbound\"",
        "direction = \"outbound\"\nport = 8080",
        "proxy.toml:21: `listener.port` is for inbound listeners that forward to an address: the \
         port that clients connect to, 1 to 65535",
    );
    check(
        "forward = \"127.0.0.1:9101\"",
        "forward = \"original-dest\"",
        "proxy.toml:15: `listener.forward` is `original-dest`: write an IP address and port such as \
         127.0.0.1:4191",
    );
}

#[test]
fn broken_toml_is_named_with_its_line() {
    let error = parse("[workload]\nname = \n")
        .expect_err("broken")
        .to_string();
    assert!(error.starts_with("proxy.toml:2: "), "{error}");
    let error = parse("").expect_err("empty").to_string();
    assert!(error.contains("workload"), "{error}");
}

#[test]
fn the_key_file_is_32_hexadecimal_digits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let text = GOOD.replace(
        "mode = \"send\"",
        &format!(
            "mode = \"send\"\nkey_file = {:?}",
            path.display().to_string()
        ),
    );
    assert!(
        parse(&text)
            .expect_err("absent")
            .to_string()
            .contains("record.key_file")
    );
    std::fs::write(&path, "not a key").unwrap();
    assert!(
        parse(&text)
            .expect_err("junk")
            .to_string()
            .contains("32 hexadecimal digits")
    );
    std::fs::write(&path, "000102030405060708090a0b0c0d0e0f\n").unwrap();
    assert_eq!(
        parse(&text).unwrap().redaction.key,
        std::array::from_fn(|i| i as u8)
    );
}

/// `GOOD` with a route of its second listener.
fn with_route(lines: &str) -> String {
    let service = "service = \"voting\"\n";
    GOOD.replacen(
        service,
        &format!("{service}[[listener.route]]\n{lines}\n"),
        1,
    )
}

#[track_caller]
fn check_route(lines: &str, expected: &str) {
    let error = parse(&with_route(lines)).expect_err(lines);
    let error = error.to_string();
    let what = error.split_once(": ").map_or("", |(_, what)| what);
    assert_eq!(what, expected);
}

#[test]
fn routes_are_read_in_order_with_their_defaults() {
    let text = with_route(
        "name = \"slow\"\nhost = \"*.local\"\nmethod = \"GET\"\npath_template = \"/users/{}\"\n\
         timeout = { request_ms = 1500, idle_ms = 20 }\n\
         retry = { attempts = 2, on = [\"5xx\", \"UNAVAILABLE\"], non_idempotent = true }\n\
         [[listener.route]]\ngrpc = \"a.B/C\"\n\
         split = [{ service = \"v1\", weight = 9 }, { service = \"v2\", namespace = \"n\", weight = 1 }]",
    );
    let config = parse(&text).unwrap();
    let routes = &config.listeners[1].routes;
    assert!(config.listeners[0].routes.is_empty());
    assert_eq!(routes[0].name, "slow");
    assert_eq!(
        routes[0].matches.path,
        PathMatch::Template("/users/{}".to_owned())
    );
    let timeouts = routes[0].timeouts;
    assert_eq!(
        (
            timeouts.request_ms,
            timeouts.response_headers_ms,
            timeouts.idle_ms
        ),
        (Some(1_500), None, Some(20))
    );
    assert_eq!(routes[0].retries.attempts_max, 2);
    assert!(routes[0].retries.on_status(503) && routes[0].retries.on_grpc(14));
    assert!(!routes[0].retries.on_cause(whodunit_model::Cause::Reset));
    assert_eq!(routes[1].retries, Retries::default());
    let split: Vec<String> = routes[1]
        .split
        .iter()
        .map(|w| w.service.to_string())
        .collect();
    assert_eq!(split, ["v1.emojivoto", "v2.n"]);
}

#[test]
fn mistakes_in_routes_are_named() {
    check_route(
        "path = \"/a\"\npath_prefix = \"/b\"",
        "`route.path_prefix` comes on top of another form of path: keep one",
    );
    check_route(
        "path = \"a\"",
        "`route.path` is `a`: begin with `/`, without a query",
    );
    check_route(
        "method = \"get\"",
        "`route.method` is `get`: write it in capitals such as GET",
    );
    check_route(
        "grpc = \"/a.B/C\"",
        "`route.grpc` is `/a.B/C`: write package.Service or package.Service/Method, without a \
         leading `/`",
    );
    check_route(
        "timeout = { request_ms = 0 }",
        "`route.timeout.request_ms` is 0: use 1 to 86400000, or leave it out for no limit",
    );
    check_route(
        "retry = { attempts = 0 }",
        "`route.retry.attempts` is 0: use 1 (no retry) to 10",
    );
    check_route(
        "retry = { on = [\"never\"] }",
        "`route.retry.on`: `never` is nothing a try can fail with: use a status (503, 5xx), a gRPC \
         status (UNAVAILABLE) or a cause (reset, closed_early, connect_refused, connect_timeout, \
         response_headers_timeout)",
    );
    check_route(
        "split = [{ service = \"a\", weight = 0 }]",
        "`route.split` has no weight above 0: give at least one service a share",
    );
    check(
        "forward = \"127.0.0.1:9101\"",
        "forward = \"127.0.0.1:9101\"\n[[listener.route]]\nsplit = [{ service = \"a\", weight = 1 }]",
        "proxy.toml:17: `route.split` needs a listener with `service`: it forwards to one address",
    );
}

#[test]
fn policies_belong_to_the_listeners_they_name() {
    let text = GOOD.replace(
        "[capture]",
        "[policy]\ndefault = \"deny\"\nprobes = [\"/ready\"]\n\
         [[policy.rule]]\nname = \"public\"\naction = \"allow\"\n\
         listeners = [\"web-in\"]\npaths = [\"/users/{}/*\"]\nnetworks = [\"10.0.0.0/8\"]\n\
         [capture]",
    );
    let config = parse(&text).unwrap();
    let policy = &config.listeners[0].policy;
    assert_eq!(policy.default, whodunit_model::policy::Mode::Deny);
    assert_eq!((policy.rules.len(), policy.probes.len()), (1, 1));
    assert!(config.listeners[1].policy.is_open(), "outbound");
}

#[test]
fn mistakes_in_policies_are_named() {
    let wrong = |policy: &str, expected: &str| {
        check("[capture]", &format!("{policy}\n[capture]"), expected);
    };
    let rule = |name: &str, action: &str, more: &str| {
        format!("[[policy.rule]]\nname = \"{name}\"\naction = \"{action}\"\n{more}")
    };
    wrong(
        "[policy]\ndefault = \"denied\"",
        "proxy.toml:32: `policy.default` is `denied`: use one of allow, audit, authenticated, deny",
    );
    wrong(
        &rule("open", "allow", ""),
        "proxy.toml:33: rule `open` allows what is allowed anyway: set `policy.default` to deny, \
         authenticated or audit",
    );
    wrong(
        &rule("r", "deny", "paths = [\"/a/../b\"]"),
        "proxy.toml:34: `policy.rule.paths`: `/a/../b` is no path: it can be written simpler, as \
         /b; write /a/b, /users/{}/posts with {} for one segment, or /static/* for everything \
         below /static",
    );
    wrong(
        &rule("r", "deny", "listeners = [\"voting\"]"),
        "proxy.toml:34: rule `r` names listener `voting`: it is outbound, and policy is about what \
         comes in; inbound listeners: web-in",
    );
    wrong(
        &rule("r", "deny", "listeners = [\"x\"]"),
        "proxy.toml:34: rule `r` names listener `x`: there is no listener of this name; inbound \
         listeners: web-in",
    );
    wrong(
        &rule("r", "deny", "identities = [\"web.shop\"]"),
        "proxy.toml:34: rule `r` is about identities, which nobody proves in plain text: add \
         `[identity]`, or use `networks`",
    );
    wrong(
        &rule("r", "deny", "networks = [\"10.0.0.1/8\"]"),
        "proxy.toml:34: `policy.rule.networks`: `10.0.0.1/8` has bits behind the ones that count: \
         write 10.0.0.0/8",
    );
    wrong(
        &rule("r", "deny", "methods = [\"get\"]"),
        "proxy.toml:34: `policy.rule.methods` has `get`: write it in capitals as GET",
    );
    wrong(
        &rule("default", "deny", ""),
        "proxy.toml:32: `policy.rule.name` is `default`, which has a meaning: use another",
    );
    check(
        "protocol = \"grpc\"",
        "policy = \"deny\"",
        "proxy.toml:21: listener `voting` is outbound: `policy` is about what comes in; remove it",
    );
}
