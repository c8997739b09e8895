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
        (1, Duration::from_secs(5))
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
        "proxy.toml:31: `identity`: this version does not speak mesh TLS; remove the table",
    );
    check(
        "mode = \"send\"\nserver = \"127.0.0.1:7071\"",
        "mode = \"send\"",
        "proxy.toml:27: `record.mode` is `send` but there is no `record.server`: add its address, \
         or use mode off or drop",
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
