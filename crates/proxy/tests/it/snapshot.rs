//! What the server said is kept on disk: a proxy that is killed and started anew while the
//! server is gone serves as before.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use whodunit_identity::{Authority, Lifetimes};
use whodunit_model::policy::{Action, Mode, Policy, Rule};

use crate::app::App;
use crate::client::fetch;
use crate::mesh::{DEADLINE, Setup, at, end, endpoint, wait_for};
use crate::server::Server;
use crate::tls::asking;

/// A proxy in a process of its own, which dies with this.
struct Process {
    child: Child,
    listeners: HashMap<String, SocketAddr>,
}

impl Process {
    /// Starts the binary and waits until it listens everywhere.
    async fn start(config: &Path, listeners: usize) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_whodunit-proxy"))
            .arg("--config")
            .arg(config)
            .env("WHODUNIT_LOG", "info")
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("starts");
        let said = child.stderr.take().expect("is piped");
        let reading = tokio::task::spawn_blocking(move || {
            let mut lines = std::io::BufReader::new(said).lines();
            let mut found = HashMap::new();
            while found.len() < listeners {
                let line = lines.next().expect("it ended").expect("text");
                found.extend(listener(&line));
            }
            std::thread::spawn(move || lines.for_each(drop));
            found
        });
        let listeners = tokio::time::timeout(DEADLINE, reading).await;
        Self {
            child,
            listeners: listeners.expect("listens").expect("is read"),
        }
    }

    fn at(&self, listener: &str) -> SocketAddr {
        self.listeners[listener]
    }

    /// Ends it with no chance to say or write anything.
    fn kill(mut self) {
        self.child.kill().expect("is killed");
        self.child.wait().expect("ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a line that says where a listener is.
fn listener(line: &str) -> Option<(String, SocketAddr)> {
    let value = |key: &str| {
        let rest = line.split(&format!("{key}=")).nth(1)?;
        Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
    };
    let said = line.contains("listening");
    said.then(|| Some((value("listener")?, value("address")?.parse().ok()?)))?
}

fn with_secret() -> Policy {
    let mut rule = Rule::new("no-secrets", Action::Deny);
    rule.paths = vec!["/secret".parse().unwrap()];
    Policy {
        rules: vec![rule],
        ..Policy::plain(Mode::Allow)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_restarted_without_its_server_serves_as_before() {
    let app = App::start().await;
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let mut server = Server::start().await;
    let now_s = crate::server::now_us() / 1_000_000;
    let folder = dir.join("identity");
    let authority = Authority::open(&folder, "test", Lifetimes::default(), now_s).unwrap();
    let callee = Setup::new("callee", &server)
        .inbound("detect", app.address)
        .table(&asking(dir, &authority, &server, "callee"))
        .start();
    let mut told = endpoint(at(&callee, "in"), "callee-0", true);
    told.identity = "spiffe://test/ns/test/sa/callee".to_owned();
    server.discover("callee", &[told]);

    let file = dir.join("caller.snapshot");
    let setup = Setup::new("caller", &server)
        .inbound("http1", app.address)
        .outbound("detect", "callee")
        .snapshot(&file)
        .table("[policy]\ndefault = \"deny\"\nwatch = true")
        .table(&asking(dir, &authority, &server, "caller"));
    server.certify(authority);
    let config = dir.join("proxy.toml");
    std::fs::write(&config, setup.text()).unwrap();
    let caller = Process::start(&config, 2).await;

    // A new one denies until it has heard what is allowed.
    assert_eq!(fetch(caller.at("in"), "/").await.status, 403);
    server.police(with_secret());
    let start = Instant::now();
    while fetch(caller.at("in"), "/").await.status != 200 {
        assert!(start.elapsed() < DEADLINE, "the policy is not heard");
    }
    while fetch(caller.at("callee"), "/").await.status != 200 {
        assert!(start.elapsed() < DEADLINE, "no certificate");
    }
    wait_for("the snapshot", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        (text.contains("callee-0") && text.contains("no-secrets")).then_some(())
    })
    .await;
    wait_for("the certificate", || {
        dir.join("caller.pem").exists().then_some(())
    })
    .await;

    server.halt();
    caller.kill();
    for _ in 0..2 {
        let caller = Process::start(&config, 2).await;
        // Each is the first of its kind, and nothing is tried twice.
        assert_eq!(fetch(caller.at("callee"), "/").await.status, 200);
        assert_eq!(fetch(caller.at("in"), "/secret").await.status, 403);
        assert_eq!(fetch(caller.at("in"), "/").await.status, 200);
        caller.kill();
    }
    // What is not whole is not used: nothing is known, and nothing allowed.
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let caller = Process::start(&config, 2).await;
    assert_eq!(fetch(caller.at("in"), "/").await.status, 403);
    let answer = fetch(caller.at("callee"), "/").await;
    assert_eq!(answer.headers["whodunit-cause"], "no_endpoints");

    // The server is back, and says something else.
    server.resume();
    server.police(Policy::plain(Mode::Allow));
    let start = Instant::now();
    while fetch(caller.at("in"), "/secret").await.status != 200 {
        assert!(start.elapsed() < DEADLINE, "the policy is not heard again");
    }
    while fetch(caller.at("callee"), "/").await.status != 200 {
        assert!(start.elapsed() < DEADLINE, "the service is not found again");
    }
    caller.kill();
    end(callee).await;
}
