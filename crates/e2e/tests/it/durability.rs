//! Nothing acknowledged is lost, and nothing is there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use whodunit_e2e::mesh::kill_now;
use whodunit_e2e::{http, until};

use crate::support::{alone, demo, wait_requests};

#[test]
fn a_killed_server_loses_nothing_and_traffic_goes_on() {
    let _alone = alone();
    let mesh = demo(&["--rate", "50"]);
    wait_requests(&mesh, "web", 400);
    let app = mesh.address("app");
    for round in 0..4 {
        // What is more than a second old is acknowledged.
        let before = ids(&mesh, "10m", "1s");
        assert!(before.len() > 50, "round {round}: {}", before.len());
        for pid in mesh.pids(" serve ") {
            kill_now(pid);
        }
        // The mesh serves on while the server is away.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(500) {
            assert_eq!(http::get(app, "/api/list").unwrap().status, 200);
        }
        until(
            "the server to answer again",
            Duration::from_secs(20),
            || (mesh.whodunit(["stat", "deploy"]).code == 0).then_some(()),
        );
        until(
            "every record to be there again",
            Duration::from_secs(10),
            || {
                let after = ids(&mesh, "10m", "0s");
                before.keys().all(|id| after.contains_key(id)).then_some(())
            },
        );
    }
    // Proxies reconnect and send what they kept: each request is there once per side.
    let what = "all proxies to be connected, with nothing discarded";
    until(what, Duration::from_secs(20), || {
        let check = mesh.whodunit(["check", "-o", "json"]);
        let check: Value = serde_json::from_str(&check.stdout).ok()?;
        let proxies = check["proxies"].as_array()?;
        let well = |proxy: &Value| {
            proxy["state"] == "connected" && sum(&proxy["conservation"]["discarded"]) == 0
        };
        (proxies.len() == 4 && proxies.iter().all(well)).then_some(())
    });
    for (id, sides) in ids(&mesh, "10m", "0s") {
        let distinct: BTreeSet<_> = sides.iter().collect();
        assert_eq!(
            distinct.len(),
            sides.len(),
            "{id} is there twice: {sides:?}"
        );
    }
    mesh.stop();
}

/// The sum of a list of counts with their reasons.
fn sum(counts: &Value) -> u64 {
    let counts = counts.as_array().cloned().unwrap_or_default();
    counts
        .iter()
        .filter_map(|count| count["count"].as_u64())
        .sum()
}

/// Ids of finished requests with the sides they were recorded on.
fn ids(mesh: &whodunit_e2e::Mesh, since: &str, until: &str) -> BTreeMap<String, Vec<String>> {
    let tap = mesh.whodunit([
        "tap",
        "namespace/emojivoto",
        "--probes",
        "--since",
        since,
        "--until",
        until,
        "--limit",
        "10000",
        "-o",
        "json",
    ]);
    if tap.code != 0 {
        return BTreeMap::new();
    }
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in tap.json()["records"]
        .as_array()
        .cloned()
        .unwrap_or_default()
    {
        if record["kind"] == "request" {
            let id = record["id"].as_str().unwrap_or_default().to_owned();
            found
                .entry(id)
                .or_default()
                .push(record["side"].to_string());
        }
    }
    found
}

#[test]
fn conservation_holds_at_every_proxy() {
    let _alone = alone();
    let mesh = demo(&["--rate", "50"]);
    wait_requests(&mesh, "web", 100);
    for pid in mesh.pids(" serve ") {
        kill_now(pid);
    }
    until(
        "the server to answer again",
        Duration::from_secs(20),
        || (mesh.whodunit(["stat", "deploy"]).code == 0).then_some(()),
    );
    // Stop the traffic: with nothing moving, the sums must be exact.
    for pid in mesh.pids("emojivoto vote-bot") {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
        }
    }
    until(
        "both equations to hold at every proxy",
        Duration::from_secs(20),
        || {
            let check = mesh.whodunit(["check", "-o", "json"]);
            let check: Value = serde_json::from_str(&check.stdout).ok()?;
            let proxies = check["proxies"].as_array()?;
            let holds = proxies.iter().all(|proxy| {
                let sums = &proxy["conservation"];
                let number = |name: &str| sums[name].as_u64().unwrap_or(u64::MAX);
                let list = |name: &str| -> u64 {
                    let counts = sums[name].as_array().cloned().unwrap_or_default();
                    counts
                        .iter()
                        .filter_map(|count| count["count"].as_u64())
                        .sum()
                };
                number("started") == number("recorded") + number("in_flight") + list("dropped")
                    && number("rows")
                        == number("acknowledged") + number("buffered") + list("discarded")
                    && number("started") > 0
            });
            (proxies.len() == 4 && holds).then_some(())
        },
    );
    mesh.stop();
}
