//! What becomes of the answers of a server.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use expect_test::expect;
use tempfile::TempDir;
use whodunit_api::culprit::Culprit;
use whodunit_api::record::{Party, Record};
use whodunit_api::stat::{Stat, StatRow};
use whodunit_api::tap::Tap;
use whodunit_api::{Trust, check::Check};

use crate::server::{Answer, OPEN_STREAM, Server};
use crate::{run, stderr, stdout, whodunit};

const JSON: &str = "application/json";

fn trust() -> Trust {
    Trust {
        from: "2026-01-31T14:01:31Z".to_owned(),
        until: "2026-01-31T14:02:31Z".to_owned(),
        records: 130,
        exact: true,
        complete: true,
        ..Trust::default()
    }
}

fn json(answer: &impl serde::Serialize) -> (u16, &'static str, String) {
    (200, JSON, serde_json::to_string(answer).expect("JSON"))
}

fn stat(_: &str) -> (u16, &'static str, String) {
    let row = StatRow {
        namespace: "emojivoto".to_owned(),
        kind: "workload".to_owned(),
        name: "voting".to_owned(),
        meshed: "1/1".to_owned(),
        requests: 65,
        success: Some(0.7935),
        rps: 1.08,
        latency_ms_p50: Some(0.84),
        exact: true,
        ..StatRow::default()
    };
    json(&Stat {
        rows: vec![row],
        trust: trust(),
    })
}

#[track_caller]
fn ask(answer: Answer, args: &[&str], exit: i32) -> (String, String, Vec<String>) {
    let home = TempDir::new().expect("a directory");
    let server = Server::start(answer);
    let addr = server.addr.to_string();
    let output = run(whodunit(home.path()).env("WHODUNIT_ADDR", &addr).args(args));
    assert_eq!(
        output.status.code(),
        Some(exit),
        "{args:?}: {}",
        stderr(&output)
    );
    (stdout(&output), stderr(&output), server.asked())
}

#[test]
fn rows_go_to_standard_output_and_the_footer_beside_it() {
    let (out, err, asked) = ask(
        stat,
        &["stat", "deploy/voting", "--from", "web", "-n", "emojivoto"],
        0,
    );
    expect![[r#"
        NAME     MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN
        voting      1/1    79.35%   1.1rps         0.8ms             -             -          -
    "#]]
    .assert_eq(&out);
    expect!["quantiles exact, from 65 requests; 2026-01-31 14:01:31 to 2026-01-31 14:02:31 (1m); 130 records read\n"]
        .assert_eq(&err);
    assert_eq!(
        asked,
        ["/stat?from=web&kind=workload&name=voting&namespace=emojivoto"]
    );
}

#[test]
fn json_is_the_contract_and_nothing_else() {
    let (out, err, _) = ask(stat, &["stat", "deploy", "-o", "json"], 0);
    assert_eq!(err, "");
    let rows: Vec<StatRow> = serde_json::from_str(&out).expect("an array of rows");
    assert_eq!(rows[0].name, "voting");
    let keys: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    for key in [
        "namespace",
        "kind",
        "name",
        "meshed",
        "requests",
        "success",
        "rps",
        "latency_ms_p50",
        "latency_ms_p95",
        "latency_ms_p99",
        "exact",
        "tcp_open_connections",
    ] {
        assert!(keys[0].get(key).is_some(), "{key}");
    }
    let (out, _, _) = ask(stat, &["stat", "deploy", "-o", "yaml"], 0);
    assert!(out.starts_with("- namespace: emojivoto\n"), "{out}");
}

#[test]
fn times_are_sent_as_utc() {
    let args = [
        "stat",
        "--since",
        "2026-01-31T15:00:00+02:00",
        "--until",
        "2026-01-31T14:00:00Z",
    ];
    let (_, _, asked) = ask(stat, &args, 0);
    assert!(
        asked[0].ends_with("since=2026-01-31T13%3A00%3A00.000Z&until=2026-01-31T14%3A00%3A00.000Z"),
        "{asked:?}"
    );
}

#[test]
fn errors_of_the_server_are_passed_on() {
    fn refuses(_: &str) -> (u16, &'static str, String) {
        let body =
            r#"{"error":{"code":"too_large","message":"that is too much","hint":"ask for less"}}"#;
        (413, JSON, body.to_owned())
    }
    let (out, err, _) = ask(refuses, &["stat"], 1);
    assert_eq!(out, "");
    assert_eq!(err, "error: that is too much\n  fix: ask for less\n");

    fn other(_: &str) -> (u16, &'static str, String) {
        (404, "text/html", "<h1>\u{1b}[31mnginx</h1>".to_owned())
    }
    let (_, err, _) = ask(other, &["stat"], 1);
    assert!(err.contains("answered 404"), "{err}");

    fn garbage(_: &str) -> (u16, &'static str, String) {
        (200, JSON, "{\"rows\": 7".to_owned())
    }
    let (_, err, _) = ask(garbage, &["stat"], 1);
    assert!(err.contains("cannot read the answer"), "{err}");
}

#[test]
fn the_verdict_decides_the_exit_code_if_asked_to() {
    fn verdict(path: &str) -> (u16, &'static str, String) {
        let verdict = if path.contains("service=web") {
            "culprit"
        } else {
            "nothing"
        };
        json(&Culprit {
            verdict: verdict.to_owned(),
            says: "voting did it".to_owned(),
            ..Culprit::default()
        })
    }
    let (out, _, _) = ask(
        verdict,
        &["culprit", "svc/web", "--exit-code", "-o", "short"],
        10,
    );
    assert_eq!(out, "culprit: voting did it\n");
    ask(verdict, &["culprit", "svc/web"], 0);
    ask(verdict, &["culprit", "--exit-code"], 0);
    let (out, _, _) = ask(verdict, &[], 0);
    assert!(out.starts_with("NOTHING STANDS OUT"), "{out}");
}

#[test]
fn a_failed_check_is_1() {
    fn check(_: &str) -> (u16, &'static str, String) {
        json(&Check::default())
    }
    let (out, _, _) = ask(check, &["check"], 1);
    assert_eq!(out, "Status check results are ×\n");
}

fn record(n: u32) -> Record {
    Record {
        id: format!("00064a7b3c5d1e-00000000000000aa-{n:x}"),
        kind: "request".to_owned(),
        side: "inbound".to_owned(),
        at_us: 1_769_868_151_000_000 + i64::from(n),
        latency_ms: 1.0,
        from: Party {
            workload: "a\u{1b}]0;x\u{7}".to_owned(),
            ..Party::default()
        },
        protocol: "http1".to_owned(),
        method: "GET".to_owned(),
        path: format!("/{n}\u{1b}[2J"),
        status: Some(200),
        outcome: "success".to_owned(),
        ..Record::default()
    }
}

/// Past: records 1 and 2. Live: 2 once more, 3, a loss, then the stream ends.
fn tap(path: &str) -> (u16, &'static str, String) {
    if path.contains("follow=true") {
        let event = |n| {
            let record = serde_json::to_string(&record(n)).expect("JSON");
            format!("id: {n}\nevent: record\ndata: {record}\n\n")
        };
        let body = format!(
            ": hello\n\n{}{}event: lost\ndata: {{\"records\":5}}\n\nevent: record\ndata: broken\n\n",
            event(2),
            event(3)
        );
        return (200, "text/event-stream", body);
    }
    json(&Tap {
        records: vec![record(1), record(2)],
        matched: 9,
        matched_at_least: false,
        trust: trust(),
    })
}

#[test]
fn tap_escapes_what_traffic_says() {
    let (out, err, asked) = ask(tap, &["tap", "deploy/web", "--failed", "--limit", "2"], 0);
    assert!(!out.contains('\u{1b}') && !out.contains('\u{7}'), "{out:?}");
    assert!(out.contains("/1\\x1b[2J"), "{out}");
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(err.contains("the newest 2 of 9 that matched"), "{err}");
    assert!(asked[0].contains("limit=2"), "{asked:?}");
}

#[test]
fn following_prints_each_record_once_and_says_what_was_lost() {
    let (out, err, asked) = ask(
        tap,
        &["tap", "deploy/web", "--failed", "-f", "-o", "json"],
        1,
    );
    let ids: Vec<String> = out
        .lines()
        .map(|line| {
            serde_json::from_str::<Record>(line)
                .expect("one record a line")
                .path
        })
        .map(|path| path[..2].to_owned())
        .collect();
    assert_eq!(ids, ["/1", "/2", "/3"]);
    assert!(err.contains("5 records not shown"), "{err}");
    assert!(err.contains("cannot read an event"), "{err}");
    // Live and past ask with the very same filter.
    let filter = |path: &str| {
        let query = path.split_once('?').map_or("", |(_, query)| query);
        query
            .split('&')
            .find(|pair| pair.starts_with("filter="))
            .map(str::to_owned)
    };
    assert_eq!(asked.len(), 2);
    assert!(filter(&asked[0]).is_some());
    assert_eq!(filter(&asked[0]), filter(&asked[1]));
}

/// A server that was restarted: the first stream ends at once, the second goes on where
/// it ended and stays open.
fn restarted(path: &str) -> (u16, &'static str, String) {
    let event = |n| {
        let record = serde_json::to_string(&record(n)).expect("JSON");
        format!("id: {n}\nevent: record\ndata: {record}\n\n")
    };
    match path {
        _ if !path.contains("follow=true") => json(&Tap::default()),
        _ if path.ends_with("#7") => (200, OPEN_STREAM, event(8)),
        _ => (200, "text/event-stream", event(7)),
    }
}

#[test]
fn following_survives_a_restart_and_ends_with_130() {
    let home = TempDir::new().expect("a directory");
    let server = Server::start(restarted);
    let mut child = whodunit(home.path())
        .env("WHODUNIT_ADDR", server.addr.to_string())
        .args(["tap", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let stdout = child.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(stdout).lines();
    for path in ["/7", "/8"] {
        let line = lines.next().expect("a line").expect("it is readable");
        assert!(line.contains(path), "{line}");
    }
    let interrupt = ["-INT", &child.id().to_string()];
    let sent = Command::new("kill").args(interrupt).status();
    assert!(sent.is_ok_and(|status| status.success()));
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let said = stderr(&output);
    assert!(
        said.contains("went away") && said.contains("is back"),
        "{said}"
    );
}

#[test]
fn color_is_only_where_it_is_wanted() {
    let (out, _, _) = ask(stat, &["stat"], 0);
    assert!(!out.contains('\u{1b}'), "{out:?}");
    let (out, _, _) = ask(stat, &["stat", "--color", "always"], 0);
    assert!(out.contains('\u{1b}'), "{out:?}");
    let (out, _, _) = ask(stat, &["stat", "--color", "always", "-o", "json"], 0);
    assert!(!out.contains('\u{1b}'), "{out:?}");
}
