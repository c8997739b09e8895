//! The binary: arguments, errors, signals, and its documentation.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use http::StatusCode;
use whodunit_proxy::Config;

use crate::app::App;
use crate::client::{fetch, http1, whole};
use crate::mesh::DEADLINE;

fn proxy(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_whodunit-proxy"))
        .args(arguments)
        .output();
    output.expect("runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn write(directory: &Path, content: &str) -> PathBuf {
    let path = directory.join("proxy.toml");
    std::fs::File::create(&path)
        .unwrap()
        .write_all(content.as_bytes())
        .unwrap();
    path
}

const CONFIG: &str = "[workload]\nnamespace = \"n\"\nname = \"web\"\ninstance = \"web-0\"\n\
                      [[listener]]\nname = \"web-in\"\nlisten = \"LISTEN\"\n\
                      direction = \"inbound\"\nforward = \"FORWARD\"\n";

#[test]
fn arguments_are_understood_or_explained() {
    let version = proxy(&["--version"]);
    assert!(version.status.success());
    assert_eq!(
        text(&version.stdout),
        format!("whodunit-proxy {}\n", whodunit_proxy::VERSION)
    );
    let help = proxy(&["--help"]);
    assert!(text(&help.stdout).contains("--check-config"));
    let mistakes = [
        (&[][..], "say where the configuration is: --config FILE"),
        (&["--config"], "--config needs the path of a file"),
        (&["--confg", "x"], "unknown argument `--confg`; see --help"),
    ];
    for (arguments, why) in mistakes {
        let wrong = proxy(arguments);
        assert_eq!(wrong.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&wrong.stderr), format!("whodunit-proxy: {why}\n"));
    }
    let absent = proxy(&["--config", "/does/not/exist.toml"]);
    assert_eq!(absent.status.code(), Some(1));
    let why = text(&absent.stderr);
    assert!(
        why.contains("/does/not/exist.toml") && why.contains("No such file"),
        "{why}"
    );
}

#[test]
fn a_configuration_can_be_checked_without_starting() {
    let directory = tempfile::tempdir().unwrap();
    let good = CONFIG
        .replace("LISTEN", "127.0.0.1:1")
        .replace("FORWARD", "127.0.0.1:2");
    let path = write(directory.path(), &good);
    let checked = proxy(&["--check-config", "--config", path.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let path = write(directory.path(), &good.replace("forward", "forwards"));
    let checked = proxy(&["--check-config", &format!("--config={}", path.display())]);
    assert_eq!(checked.status.code(), Some(1));
    let why = text(&checked.stderr);
    assert!(
        why.contains("proxy.toml:9: unknown field `forwards`"),
        "{why}"
    );
}

/// Ends the process when a test fails half way.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the address of the listener that a proxy says it listens on, and goes on reading
/// what it says.
fn listening(said: std::process::ChildStderr) -> std::net::SocketAddr {
    let mut lines = std::io::BufReader::new(said).lines();
    let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let rest = line
            .contains("listening")
            .then(|| line.split("address=").nth(1))?;
        rest?.split_whitespace().next()?.parse().ok()
    });
    std::thread::spawn(move || lines.for_each(drop));
    address.expect("it never listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_in_order() {
    let app = App::start().await;
    let directory = tempfile::tempdir().unwrap();
    let config = CONFIG
        .replace("LISTEN", "127.0.0.1:0")
        .replace("FORWARD", &app.address.to_string());
    let path = write(directory.path(), &config);
    for signal in ["TERM", "INT"] {
        let child = Command::new(env!("CARGO_BIN_EXE_whodunit-proxy"))
            .arg("--config")
            .arg(&path)
            .env("WHODUNIT_LOG", "info")
            .stderr(Stdio::piped())
            .spawn();
        let mut child = Running(child.expect("starts"));
        let said = child.0.stderr.take().expect("is piped");
        let address = tokio::task::spawn_blocking(move || listening(said));
        let address = address.await.unwrap();
        assert_eq!(fetch(address, "/").await.status, StatusCode::OK);
        let pid = child.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.0.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < DEADLINE, "it never ends");
            tokio::task::yield_now().await;
        };
        assert!(status.success(), "SIG{signal}: {status}");
    }
}

/// Every key that the reader of the file knows.
const KEYS: &[&str] = &[
    "workers",
    "workload.namespace",
    "workload.name",
    "workload.instance",
    "workload.version",
    "admin.listen",
    "listener.name",
    "listener.listen",
    "listener.direction",
    "listener.protocol",
    "listener.forward",
    "listener.service",
    "listener.namespace",
    "control.server",
    "control.snapshot",
    "control.routes",
    "record.mode",
    "record.server",
    "record.buffer_bytes",
    "record.queue_rows",
    "record.key_file",
    "capture.query",
    "capture.headers",
    "shutdown.grace_ms",
    "policy.default",
    "policy.probes",
    "policy.watch",
    "[[policy.rule]]",
    "listener.policy",
    "rule.name",
    "rule.action",
    "rule.listeners",
    "rule.methods",
    "rule.paths",
    "rule.hosts",
    "rule.identities",
    "rule.namespaces",
    "rule.networks",
    "listener.server_identity",
    "listener.adaptive_limit",
    "identity",
    "identity.trust_anchors",
    "identity.certificate",
    "identity.private_key",
    "identity.server",
    "identity.token_file",
    "identity.state_file",
    "listener.port",
    "route.name",
    "route.host",
    "route.method",
    "route.path",
    "route.path_prefix",
    "route.path_template",
    "route.grpc",
    "route.timeout.request_ms",
    "route.timeout.response_headers_ms",
    "route.timeout.idle_ms",
    "route.retry.attempts",
    "route.retry.on",
    "route.retry.non_idempotent",
    "route.retry.body_bytes",
    "route.retry.budget_percent",
    "route.retry.budget_per_second",
    "route.split",
    "detect",
    "opaque",
    "grpc",
];

#[test]
fn the_reference_of_the_file_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/proxy-toml.md");
    let document = std::fs::read_to_string(path).unwrap();
    for key in KEYS {
        assert!(
            document.contains(&format!("`{key}`")),
            "docs/proxy-toml.md says nothing of {key}"
        );
    }
    let mut examples = 0;
    for block in document.split("```toml\n").skip(1) {
        let example = block.split("```").next().unwrap();
        if !cfg!(target_os = "linux") && example.contains("original-dst") {
            continue;
        }
        Config::parse(example, Path::new("docs/proxy-toml.md")).unwrap();
        examples += 1;
    }
    assert!(examples >= 2);
    let rules = document.split("```nft\n").nth(1).unwrap();
    let rules = rules.split("```").next().unwrap();
    assert_eq!(
        rules.replace("    ", "\t"),
        whodunit_model::capture::Redirect::default().ruleset()
    );
    assert!(document.contains(&format!("{} MiB", whodunit_flight_buffer_mib())));
}

fn whodunit_flight_buffer_mib() -> usize {
    whodunit_flight::Config::new(whodunit_model::BootId(0)).buffer_bytes >> 20
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_proxy_is_plain_text() {
    let nobody = crate::app::nobody().await;
    let text = CONFIG
        .replace("LISTEN", "127.0.0.1:0")
        .replace("FORWARD", &nobody.to_string());
    let config = Config::parse(&text, Path::new("proxy.toml")).unwrap();
    let running = whodunit_proxy::Proxy::start(config).unwrap();
    let address = running.listener("web-in").unwrap();
    let answer = whole(http1(address, crate::client::get("/")).await)
        .await
        .unwrap();
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(
        answer.body,
        format!("web-0 at {nobody}: the connection was refused\n")
    );
    crate::mesh::end(running).await;
}
