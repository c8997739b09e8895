//! The binary: its environment, its errors, its end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn emojivoto(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emojivoto"));
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied());
    command
}

#[track_caller]
fn fails(arguments: &[&str], environment: &[(&str, &str)], expected: &str) {
    let Output { status, stderr, .. } = emojivoto(arguments, environment).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let error = stderr
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_default();
    assert!(
        error.contains(expected),
        "{error:?} does not say {expected:?}"
    );
}

#[test]
fn a_missing_variable_is_named() {
    let host = "127.0.0.1:1";
    fails(
        &["web"],
        &[],
        "WEB_PORT is not set; set the environment variable or pass --web-port",
    );
    fails(&["web"], &[("WEB_PORT", "0")], "EMOJISVC_HOST is not set");
    fails(
        &["web"],
        &[("WEB_PORT", "0"), ("EMOJISVC_HOST", host)],
        "VOTINGSVC_HOST is not set",
    );
    fails(&["emoji"], &[], "GRPC_PORT is not set");
    fails(&["voting"], &[("GRPC_PORT", "")], "GRPC_PORT is not set");
    fails(&["vote-bot"], &[], "WEB_HOST is not set");
}

#[test]
fn a_wrong_value_is_named_with_what_is_accepted() {
    let port = ("GRPC_PORT", "0");
    fails(
        &["emoji"],
        &[("GRPC_PORT", "http")],
        "GRPC_PORT `http` is not a port",
    );
    fails(
        &["voting"],
        &[port, ("FAILURE_RATE", "2")],
        "FAILURE_RATE `2` is not a number from",
    );
    fails(
        &["voting"],
        &[port, ("ARTIFICIAL_DELAY", "5")],
        "`5` is not a duration",
    );
    fails(
        &["voting"],
        &[port, ("EMOJIVOTO_FAULT", "x")],
        "unknown fault `x`; the faults are none",
    );
    fails(
        &["voting"],
        &[port, ("INSTANCE", "x")],
        "INSTANCE `x` is not a number",
    );
    let host = ("WEB_HOST", "127.0.0.1:1");
    fails(
        &["vote-bot"],
        &[host, ("REQUEST_RATE", "0")],
        "REQUEST_RATE 0 is not",
    );
    fails(
        &["vote-bot"],
        &[host, ("REQUEST_RATE", "fast")],
        "REQUEST_RATE `fast` is not",
    );
    fails(
        &["vote-bot"],
        &[host, ("REQUEST_RATE", "1e-30")],
        "is not a number of votes per second from 0.001 to 10000",
    );
    fails(
        &["vote-bot"],
        &[host, ("TTL", "-1")],
        "TTL `-1` is not a number of seconds",
    );
    fails(
        &["web"],
        &[
            ("WEB_PORT", "0"),
            ("EMOJISVC_HOST", "127.0.0.1:1"),
            ("VOTINGSVC_HOST", "127.0.0.1:1"),
            ("INDEX_BUNDLE", "/no/such/file.js"),
        ],
        "read INDEX_BUNDLE /no/such/file.js",
    );
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    fails(
        &["emoji"],
        &[("GRPC_PORT", &port)],
        &format!("listen on 127.0.0.1 port {port}"),
    );
}

#[test]
fn empty_variables_count_as_unset() {
    let empty = [
        ("GRPC_PORT", "0"),
        ("PROM_PORT", ""),
        ("LISTEN_HOST", ""),
        ("EMOJIVOTO_ERA", ""),
        ("EMOJIVOTO_FAULT", ""),
        ("EMOJIVOTO_SEED", ""),
        ("INSTANCE", ""),
        ("FAILURE_RATE", ""),
        ("ARTIFICIAL_DELAY", ""),
    ];
    let (_voting, line) = start(&["voting"], &empty, "voting serves gRPC");
    assert!(line.contains(" on 127.0.0.1:"), "{line}");
}

#[test]
fn the_page_loads_the_script_from_a_development_server() {
    let environment = [
        ("WEB_PORT", "0"),
        ("EMOJISVC_HOST", "127.0.0.1:1"),
        ("VOTINGSVC_HOST", "127.0.0.1:1"),
        ("WEBPACK_DEV_SERVER", "http://127.0.0.1:8083/"),
    ];
    let (_web, line) = start(&["web"], &environment, "web serves HTTP on");
    let addr = line
        .split_once("HTTP on ")
        .and_then(|(_, rest)| rest.split(',').next());
    let mut socket = std::net::TcpStream::connect(addr.unwrap()).unwrap();
    write!(socket, "GET / HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).unwrap();
    let script = "<script src=\"http://127.0.0.1:8083/dist/index_bundle.js\" async>";
    assert!(page.contains(script), "{page}");
}

/// A process that is killed when the test ends early.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Starts a service and waits for the log line with this text.
fn start(arguments: &[&str], environment: &[(&str, &str)], ready: &str) -> (Started, String) {
    let mut command = emojivoto(arguments, environment);
    let mut child = Started(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(child.0.stderr.take().unwrap());
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "{arguments:?} ended");
        if line.contains(ready) {
            // Keep the pipe open, so that later lines do not fail.
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            return (child, line);
        }
    }
}

#[test]
fn services_end_within_a_second_of_a_signal() {
    let backends = [
        ("EMOJISVC_HOST", "127.0.0.1:1"),
        ("VOTINGSVC_HOST", "127.0.0.1:1"),
    ];
    let web = [&backends[..], &[("WEB_PORT", "0")]].concat();
    let grpc = [("GRPC_PORT", "0"), ("PROM_PORT", "0")];
    for (command, environment, ready, signal) in [
        ("web", &web[..], "web serves HTTP on", Signal::TERM),
        ("emoji", &grpc[..], "emoji serves metrics", Signal::INT),
        ("voting", &grpc[..], "voting serves metrics", Signal::TERM),
        (
            "vote-bot",
            &[("WEB_HOST", "127.0.0.1:1")][..],
            "web does not answer",
            Signal::INT,
        ),
    ] {
        let (mut process, _) = start(&[command], environment, ready);
        let asked = Instant::now();
        kill_process(Pid::from_child(&process.0), signal).unwrap();
        let status = process.0.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{command}");
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "{command}: {:?}",
            asked.elapsed()
        );
    }
}

#[test]
fn the_bot_ends_when_its_time_is_over() {
    let environment = [
        ("WEB_HOST", "127.0.0.1:1"),
        ("TTL", "1"),
        ("OC_AGENT_HOST", "x:1"),
    ];
    let Output {
        status,
        stdout,
        stderr,
    } = emojivoto(&["vote-bot"], &environment).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(stdout, b"");
    assert!(stderr.contains("OC_AGENT_HOST is ignored"), "{stderr}");
}

#[test]
fn the_command_line_switches_a_running_service() {
    let grpc = [
        ("GRPC_PORT", "0"),
        ("PROM_PORT", "0"),
        ("INSTANCE", "voting-3"),
    ];
    let (_voting, line) = start(&["voting"], &grpc, "serves metrics");
    let addr = line.trim().rsplit(' ').next().unwrap();
    let faults = |arguments: &[&str]| {
        let output = emojivoto(&[&["faults"], arguments].concat(), &[])
            .output()
            .unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let expected = format!("voting at {addr}, instance 3, has the fault poop\n");
    assert_eq!(faults(&["show", "--addr", addr]), expected);
    let expected = format!("voting at {addr} now has the fault slow-voting\n");
    assert_eq!(faults(&["set", "slow-voting", "--addr", addr]), expected);
    let expected = format!("voting at {addr}, instance 3, has the fault slow-voting\n");
    assert_eq!(faults(&["show", "--addr", addr]), expected);
}

#[test]
fn the_ground_truth_is_json_and_the_list_is_for_people() {
    let output = emojivoto(&["faults", "-o", "json"], &[]).output().unwrap();
    let truth: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(truth["version"], 1);
    let names: Vec<_> = truth["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| &fault["name"])
        .collect();
    assert_eq!(
        names,
        [
            "none",
            "poop",
            "doughnut",
            "slow-voting",
            "env-only",
            "flaky"
        ]
    );
    let table = emojivoto(&["faults"], &[]).output().unwrap().stdout;
    let table = String::from_utf8(table).unwrap();
    assert!(table.starts_with("NAME "), "{table}");
    assert_eq!(table.lines().count(), 1 + names.len(), "{table}");
}

#[test]
fn the_help_names_every_variable() {
    let mut help = String::new();
    for command in ["web", "emoji", "voting", "vote-bot"] {
        let output = emojivoto(&[command, "--help"], &[]).output().unwrap();
        help.push_str(&String::from_utf8(output.stdout).unwrap());
    }
    for variable in [
        "WEB_PORT",
        "EMOJISVC_HOST",
        "VOTINGSVC_HOST",
        "INDEX_BUNDLE",
        "WEBPACK_DEV_SERVER",
        "MESSAGE_OF_THE_DAY",
        "GRPC_PORT",
        "PROM_PORT",
        "FAILURE_RATE",
        "ARTIFICIAL_DELAY",
        "WEB_HOST",
        "REQUEST_RATE",
        "TTL",
        "HOST_OVERRIDE",
        "OC_AGENT_HOST",
        "LISTEN_HOST",
        "EMOJIVOTO_ERA",
        "EMOJIVOTO_FAULT",
        "EMOJIVOTO_SEED",
        "INSTANCE",
    ] {
        assert!(help.contains(&format!("{variable}=]")), "{variable}");
    }
}
