//! Instances in networks of their own: what is captured differs, and nothing else.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use whodunit_e2e::mesh::{Directory, Mesh, kill_now};
use whodunit_e2e::{http, until};

use crate::support::{alone, can_isolate, example, installed, verdict_when};

/// Returns the namespaces of a mesh: names that begin with the launcher's process id.
fn namespaces(launcher: u64) -> Vec<String> {
    let start = format!("whodunit-{launcher}-");
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&start)).collect()
}

/// Returns what else a mesh leaves in this machine's own network.
fn rules(launcher: u64) -> String {
    let output = Command::new("nft").args(["list", "tables"]).output();
    let output = String::from_utf8(output.expect("nft").stdout).expect("text");
    let own = format!("whodunit_{launcher}_");
    output.lines().filter(|line| line.contains(&own)).collect()
}

fn launcher(mesh: &Mesh) -> u64 {
    mesh.state().expect("a state file")["pid"]
        .as_u64()
        .expect("a number")
}

/// Runs a program where an instance runs, as its application does; returns what it printed.
#[track_caller]
fn inside(mesh: &Mesh, instance: &str, words: &[&str]) -> String {
    let end = format!(".{instance}");
    let names = namespaces(launcher(mesh));
    let name = names.iter().find(|name| name.ends_with(&end));
    let name = name.unwrap_or_else(|| panic!("no {instance} in {names:?}"));
    // Its names are in a file that only its own processes see in place of /etc/hosts.
    let output = Command::new("ip")
        .args(["netns", "exec", name])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("ip");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks for a path at an address, from inside.
#[track_caller]
fn ask(mesh: &Mesh, instance: &str, address: &str, path: &str) -> String {
    let (host, port) = address.rsplit_once(':').expect("HOST:PORT");
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port} && \
         printf 'GET {path} HTTP/1.1\\r\\nHost: {address}\\r\\nConnection: close\\r\\n\\r\\n' >&3 && \
         head -n 1 <&3"
    );
    inside(mesh, instance, &["timeout", "20", "bash", "-c", &script])
}

/// Waits for a record that `wanted` likes.
#[track_caller]
fn record(mesh: &Mesh, side: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    until(what, Duration::from_secs(30), || {
        let tap = mesh.json(&["tap", "--since", "10m", "--side", side, "--limit", "2000"]);
        let records = tap["records"].as_array().cloned().unwrap_or_default();
        records.into_iter().find(|record| wanted(record))
    })
}

fn topology(mesh: &Mesh) -> Value {
    let path = mesh.directory().data().join("run/topology.json");
    serde_json::from_slice(&fs::read(path).expect("a topology")).expect("JSON")
}

/// Returns the address of a service, and of its first instance.
#[track_caller]
fn addresses(mesh: &Mesh, service: &str) -> (String, String) {
    let topology = topology(mesh);
    let services = topology["services"].as_array().expect("services");
    let found = services.iter().find(|found| found["name"] == service);
    let found = found.unwrap_or_else(|| panic!("no {service} in {topology:#}"));
    let text = |value: &Value| value.as_str().expect("an address").to_owned();
    (
        text(&found["address"]),
        text(&found["endpoints"][0]["address"]),
    )
}

#[test]
fn emojivoto_in_networks_of_its_own_gets_the_same_verdict_and_leaves_nothing() {
    if !can_isolate() {
        return;
    }
    let _alone = alone();
    let forwarding = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("Linux");
    let before = forwarding();
    let mesh = example("emojivoto", &["--isolate", "--listen", "127.0.0.1:0"]);
    let pid = launcher(&mesh);
    assert_eq!(namespaces(pid).len(), 5, "four instances and their hub");
    let verdict = verdict_when(&mesh, "a culprit and what it has in common", |verdict| {
        verdict["verdict"] == "culprit" && verdict["attributes"].to_string().contains(":poop:")
    });
    assert_eq!(verdict["culprit"]["workload"], "voting");
    assert_eq!(
        verdict["culprit"]["route"],
        "emojivoto.v1.VotingService/VotePoop"
    );
    assert_eq!(verdict["culprit"]["origin"], "server");
    assert_eq!(verdict["culprit"]["cause"], "app_grpc_status");
    assert_eq!(verdict["culprit"]["failed"], verdict["culprit"]["requests"]);
    assert_eq!(verdict["symptom"]["service"], "web");
    assert_eq!(verdict["victims"][0]["workload"], "web");

    // Each side of each call proves who it is, as without isolation.
    let edges = mesh.json(&["edges", "--since", "10m"]);
    let edges = edges["rows"].as_array().expect("rows").clone();
    for pair in [("vote-bot", "web"), ("web", "voting"), ("web", "emoji")] {
        let edge = edges
            .iter()
            .find(|edge| edge["src"] == pair.0 && edge["dst"] == pair.1);
        let edge = edge.unwrap_or_else(|| panic!("no {pair:?} in {edges:#?}"));
        assert_eq!(edge["secured"], true, "{edge:#}");
    }
    // The ports of the mesh file lead to the instances from here.
    let app = mesh.address("app");
    assert_eq!(http::get(app, "/readyz").expect("answers").status, 200);
    let check = mesh.whodunit(["check"]);
    assert!(
        check.stdout.contains("Status check results are"),
        "{check:?}"
    );

    // A launcher that is killed cannot clear up; its watchdog does.
    mesh.signal(Signal::KILL);
    let mut mesh = mesh;
    mesh.wait(Duration::from_secs(30));
    until("everything to be gone", Duration::from_secs(30), || {
        let gone = namespaces(pid).is_empty() && rules(pid).is_empty();
        (gone && mesh.directory().processes().is_empty()).then_some(())
    });
    // Another mesh on this machine may need it meanwhile.
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    assert!(forwarding() == before || names.any(|name| name.starts_with("whodunit-")));
}

const SHOP: &str = r#"
namespace = "shop"

[service.web]
command = "python3 -m http.server {port} --bind 127.0.0.1"
instances = 2
ready = "http://{self}/"
working_dir = "{data}"

# It is told nothing: it calls a name, as it would anywhere.
[service.job]
shell = true
command = """
python3 -c "from urllib import request; request.urlopen('http://web/?by-name')"; exec sleep 1000
"""
calls = ["web", "vault"]

[external.vault]
address = "127.0.0.1:VAULT"
protocol = "opaque"
"#;

fn start(directory: Directory, mesh: &str, extra: &[&str]) -> Mesh {
    let file = directory.path().join("mesh.toml");
    fs::write(&file, mesh).expect("written");
    let data = directory.data();
    let text = |path: &Path| path.display().to_string();
    let mut args = vec!["run".to_owned(), "-f".to_owned(), text(&file)];
    args.extend(["--data".to_owned(), text(&data)]);
    args.extend(extra.iter().map(|text| (*text).to_owned()));
    Mesh::start(directory, args)
}

#[test]
fn every_way_to_a_service_is_captured() {
    if !installed(&["python3"]) || !can_isolate() {
        return;
    }
    let _alone = alone();
    // It greets nobody and hangs up after what it heard.
    let vault = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = vault.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in vault.incoming().flatten() {
            let _client_gone = stream.read(&mut [0; 4_096]);
            let _client_gone = stream.write_all(b"no");
        }
    });
    let mesh = start(
        Directory::new(),
        &SHOP.replace("VAULT", &port.to_string()),
        &["--isolate", "--listen", "127.0.0.1:0"],
    );
    let pid = launcher(&mesh);
    let (service, instance) = addresses(&mesh, "web");

    // By the address of the service, as declared.
    let answer = ask(&mesh, "job-0", &service, "/by-service");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
    // By the address of an instance, past everything that the mesh file says.
    let answer = ask(&mesh, "job-0", &instance, "/by-instance");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
    // A call that is not declared: an instance calls the other one.
    let answer = ask(&mesh, "web-1", &instance, "/by-sibling");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
    for (path, from) in [
        ("/by-service", "job"),
        ("/by-instance", "job"),
        ("/by-sibling", "web"),
    ] {
        for side in ["inbound", "outbound"] {
            let row = record(&mesh, side, path, |row| row["path"] == path);
            assert_eq!(row["from"]["workload"], from, "{row:#}");
            assert_eq!(row["to"]["workload"], "web", "{row:#}");
            assert_eq!(row["tls"], "mutual", "{row:#}");
            if path != "/by-service" {
                assert_eq!(row["to"]["instance"], "web-0", "{row:#}");
            }
        }
    }

    let row = record(&mesh, "outbound", "a call by name", |row| {
        row["authority"] == "web"
    });
    assert_eq!(row["from"]["workload"], "job", "{row:#}");
    assert_eq!(row["to"]["workload"], "web", "{row:#}");
    assert_eq!(row["status"], 200, "{row:#}");

    // TLS of an application's own passes through, and its server name is noted.
    let (vault, _) = addresses(&mesh, "vault");
    let (host, port) = vault.rsplit_once(':').expect("HOST:PORT");
    let hello = format!(
        "import ssl, socket\n\
         s = socket.create_connection(('{host}', {port}), timeout=20)\n\
         c = ssl.create_default_context()\n\
         c.check_hostname = False\n\
         try: c.wrap_socket(s, server_hostname='vault.example.com')\n\
         except OSError as error: print('refused', error)\n"
    );
    let said = inside(&mesh, "job-0", &["python3", "-c", &hello]);
    assert!(said.starts_with("refused"), "{said:?}");
    let row = record(&mesh, "outbound", "a connection to the vault", |row| {
        row["kind"] == "connection" && row["service"] == "vault"
    });
    assert_eq!(row["authority"], "vault.example.com", "{row:#}");
    assert_eq!(row["from"]["workload"], "job", "{row:#}");

    mesh.stop();
    assert_eq!(namespaces(pid), Vec::<String>::new());
    assert_eq!(rules(pid), "");
}

const GUARDED: &str = r#"
namespace = "shop"

[service.web]
command = "python3 -m http.server {port} --bind 0.0.0.0"
port = 8000
working_dir = "{data}"
ready = "http://{self}/"

[service.other]
command = "python3 -m http.server {port} --bind 0.0.0.0"
port = 8001
working_dir = "{data}"
app_port = 8002

[service.job]
command = "sleep 1000"
calls = ["web", "other"]

[service.stranger]
command = "sleep 1000"

[policy]
default = "allow"

[policy.rule.no-stranger]
services = ["web"]
from = ["stranger"]
action = "deny"
"#;

#[test]
fn policy_holds_by_whatever_way_one_comes() {
    if !installed(&["python3"]) || !can_isolate() {
        return;
    }
    let _alone = alone();
    let extra = ["--isolate", "--listen", "127.0.0.1:0"];
    let mesh = start(Directory::new(), GUARDED, &extra);
    let (service, instance) = addresses(&mesh, "web");
    for address in [&service, &instance] {
        let answer = ask(&mesh, "job-0", address, "/");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        let answer = ask(&mesh, "stranger-0", address, "/");
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer:?}");
    }
    // Where anybody is denied anything, ports that nobody declared are closed.
    let (host, _) = instance.rsplit_once(':').expect("HOST:PORT");
    let answer = ask(&mesh, "job-0", &format!("{host}:9"), "/");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer:?}");
    // The port that an application insists on may be another one than its callers know.
    let (service, instance) = addresses(&mesh, "other");
    for address in [&service, &instance] {
        let answer = ask(&mesh, "stranger-0", address, "/");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
    mesh.stop();
}

#[test]
fn what_a_crash_leaves_the_next_run_removes() {
    if !can_isolate() {
        return;
    }
    let _alone = alone();
    let sleep = "[service.job]\ncommand = \"sleep 1000\"\n";
    let extra = ["--isolate", "--listen", "127.0.0.1:0"];
    let mut crashed = start(Directory::new(), sleep, &extra);
    let pid = launcher(&crashed);
    let watchdog = crashed.pids("__watchdog");
    assert_eq!(watchdog.len(), 1, "{:#?}", crashed.directory().processes());
    kill_now(watchdog[0]);
    crashed.signal(Signal::KILL);
    crashed.wait(Duration::from_secs(30));
    assert_eq!(namespaces(pid).len(), 2, "an instance and the hub");
    assert_ne!(rules(pid), "");
    let sleeps = crashed.pids("sleep 1000");
    assert_eq!(sleeps.len(), 1);

    let next = start(Directory::new(), sleep, &extra);
    assert_eq!(namespaces(pid), Vec::<String>::new());
    assert_eq!(rules(pid), "");
    until("the end of what was left", Duration::from_secs(30), || {
        crashed.pids("sleep 1000").is_empty().then_some(())
    });
    assert_eq!(namespaces(launcher(&next)).len(), 2);
    next.stop();
}

#[test]
fn isolation_without_privileges_is_refused_with_the_way_out() {
    if !installed(&["setpriv"]) || !can_isolate() {
        return;
    }
    let directory = Directory::new();
    let file = directory.path().join("mesh.toml");
    fs::write(&file, "[service.job]\ncommand = \"sleep 1000\"\n").expect("written");
    let whodunit = directory.command("whodunit");
    let refused = Command::new("setpriv")
        .arg("--bounding-set=-net_admin")
        .arg(whodunit.get_program())
        .args(["run", "--isolate", "-f"])
        .arg(&file)
        .arg("--data")
        .arg(directory.data())
        .stdin(Stdio::null())
        .output()
        .expect("setpriv");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("root lacks CAP_NET_ADMIN here"), "{said}");
    assert!(said.contains("or leave out `--isolate`"), "{said}");
}
