//! The demo: what a newcomer sees in the first minute.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use whodunit_e2e::http;

use crate::support::{alone, demo, demo_in, stat_row, verdict_when, wait_requests};

#[test]
fn the_demo_names_the_culprit_by_itself_and_every_command_agrees() {
    let _alone = alone();
    let mesh = demo(&[]);
    let began = Instant::now();
    let printed = loop {
        let printed = mesh.printed();
        if printed.contains("voting") && printed.contains("VotePoop") {
            break printed;
        }
        assert!(
            began.elapsed() < Duration::from_secs(35),
            "no verdict printed: {printed}"
        );
        std::thread::park_timeout(Duration::from_millis(100));
    };
    assert!(printed.contains("http://127.0.0.1:"), "{printed}");
    assert!(
        printed.matches("whodunit ").count() >= 3,
        "three commands to try: {printed}"
    );

    let verdict = verdict_when(&mesh, "a culprit", |verdict| {
        verdict["verdict"] == "culprit"
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
    assert!(verdict["confidence"].as_f64().unwrap() >= 0.6);
    let victims = verdict["victims"].as_array().unwrap();
    assert!(
        victims.iter().any(|victim| victim["workload"] == "web"),
        "{verdict:#}"
    );
    let attributes = verdict["attributes"].to_string();
    assert!(attributes.contains(":poop:"), "{verdict:#}");
    assert_eq!(verdict["examples"].as_array().unwrap().len(), 3);

    // The evidence can be followed.
    let example = verdict["examples"][0].as_str().unwrap();
    let explained = mesh.json(&["explain", example]);
    let hops = explained["hops"].as_array().unwrap();
    assert!(hops.len() >= 2, "the caller's hop is found: {explained:#}");
    assert!(
        explained["says"].as_str().unwrap().contains("VotePoop"),
        "{explained:#}"
    );
    let text = mesh.whodunit(["explain", example]);
    assert_eq!(text.code, 0);
    assert!(text.stdout.contains("VotePoop"), "{}", text.stdout);

    // Golden signals.
    let voting = stat_row(&mesh, "workload", "voting", "10m");
    let success = voting["success"].as_f64().unwrap();
    assert!((0.5..0.99).contains(&success), "{voting}");
    assert_eq!(voting["meshed"], "1/1");
    assert_eq!(voting["exact"], true);
    let emoji = stat_row(&mesh, "workload", "emoji", "10m");
    assert_eq!(emoji["success"], 1.0);
    let table = mesh.whodunit(["stat", "deploy", "--since", "10m"]);
    let header = table.stdout.lines().next().unwrap_or_default().to_owned();
    let columns: Vec<&str> = header.split_whitespace().collect();
    let linkerd = [
        "NAME",
        "MESHED",
        "SUCCESS",
        "RPS",
        "LATENCY_P50",
        "LATENCY_P95",
        "LATENCY_P99",
        "TCP_CONN",
    ];
    assert_eq!(columns, linkerd);

    let routes = mesh.json(&["routes", "deploy/voting", "--since", "10m"]);
    let poop = &routes["rows"][0];
    assert_eq!(poop["route"], "emojivoto.v1.VotingService/VotePoop");
    assert_eq!(poop["success"], 0.0);

    let edges = mesh.json(&["edges", "--since", "10m"]).to_string();
    for pair in [("vote-bot", "web"), ("web", "voting"), ("web", "emoji")] {
        let found = format!("\"src\":\"{}\"", pair.0);
        assert!(
            edges.contains(&found) && edges.contains(&format!("\"dst\":\"{}\"", pair.1)),
            "{edges}"
        );
    }

    // Tap looks at results, backwards.
    let tap = mesh.json(&["tap", "deploy/voting", "--failed", "--since", "10m"]);
    let records = tap["records"].as_array().unwrap();
    assert!(!records.is_empty());
    for record in records {
        assert_eq!(
            record["route"], "emojivoto.v1.VotingService/VotePoop",
            "{record}"
        );
        assert_eq!(record["grpc_status"], 2);
    }
    let none = mesh.json(&[
        "tap",
        "deploy/voting",
        "--failed",
        "--not",
        "route=VotePoop",
        "--since",
        "10m",
    ]);
    assert_eq!(
        none["records"].as_array().map(Vec::len),
        Some(0),
        "{none:#}"
    );
    let web = mesh.json(&[
        "tap",
        "deploy/web",
        "--failed",
        "--since",
        "10m",
        "--limit",
        "1",
    ]);
    assert_eq!(web["records"][0]["status"], 500, "{web:#}");
    assert!(
        web["records"][0]["path"]
            .as_str()
            .unwrap()
            .contains("choice=:poop:")
    );

    let check = mesh.json(&["check"]);
    assert_eq!(check["success"], true, "{check:#}");
    let proxies = check["proxies"].as_array().unwrap();
    assert_eq!(proxies.len(), 4, "one proxy beside each process: {check:#}");

    // A second demo says so.
    let second = mesh.whodunit([
        "demo",
        "--data",
        &mesh.directory().data().display().to_string(),
    ]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("already"), "{second:?}");
    assert!(
        second.stderr.contains(&mesh.address("api").to_string()),
        "{second:?}"
    );

    // Real probes stay green, and the page works, while votes fail.
    let app = mesh.address("app");
    assert_eq!(http::get(app, "/").unwrap().status, 200);
    let vote = http::get(app, "/api/vote?choice=:poop:").unwrap();
    assert_eq!(vote.status, 500, "{vote:?}");
    assert!(vote.body.contains("code = Unknown"), "{vote:?}");
    assert_eq!(
        http::get(app, "/api/vote?choice=:doughnut:")
            .unwrap()
            .status,
        200
    );

    // Ctrl-C leaves nothing.
    let directory = mesh.stop();
    assert!(directory.processes().is_empty());

    // History is kept from one run to the next.
    let mesh = demo_in(directory, &[]);
    let again = mesh.json(&[
        "tap",
        "deploy/voting",
        "--failed",
        "--since",
        "1h",
        "--limit",
        "10000",
    ]);
    let ids = again["records"].to_string();
    assert!(
        ids.contains(example),
        "the example of the run before is still there"
    );
    mesh.stop();
}

#[test]
fn killing_the_launcher_leaves_no_process() {
    let _alone = alone();
    let mut mesh = demo(&[]);
    wait_requests(&mesh, "web", 5);
    assert!(mesh.directory().processes().len() >= 9);
    mesh.signal(Signal::KILL);
    mesh.wait(Duration::from_secs(5));
    mesh.directory().wait_empty(Duration::from_secs(15));
}

#[test]
fn a_taken_port_is_replaced_and_said() {
    let _alone = alone();
    let taken: Vec<_> = [7070u16, 8080]
        .into_iter()
        .filter_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok())
        .collect();
    let mesh = demo(&[]);
    let printed = mesh.printed();
    for listener in &taken {
        let port = listener.local_addr().unwrap().port();
        assert!(
            printed.contains(&port.to_string()),
            "port {port} is named: {printed}"
        );
    }
    assert_ne!(mesh.address("api").port(), 7070);
    mesh.stop();
}

#[test]
fn with_faults_off_nobody_is_accused() {
    let _alone = alone();
    let mesh = demo(&["--fault", "none", "--rate", "20"]);
    wait_requests(&mesh, "voting", 150);
    let verdict = mesh.json(&["culprit"]);
    assert_eq!(verdict["verdict"], "nothing", "{verdict:#}");
    assert!(verdict["checked"]["requests"].as_u64().unwrap() > 100);
    mesh.stop();
}
