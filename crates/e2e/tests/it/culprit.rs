//! From fault to verdict, on the demo's own faults.

use crate::support::{alone, demo, verdict_when, wait_requests};

#[test]
fn a_slow_service_is_named() {
    let _alone = alone();
    let mesh = demo(&["--fault", "none", "--rate", "20"]);
    wait_requests(&mesh, "voting", 200);
    switch(&mesh, "slow-voting");
    let verdict = verdict_when(&mesh, "voting slow", |verdict| {
        verdict["culprit"]["workload"] == "voting" && verdict["symptom"]["signal"] == "latency"
    });
    assert_eq!(verdict["culprit"]["cause"], "slow", "{verdict:#}");
    mesh.stop();
}

#[test]
fn one_percent_of_failures_still_names_the_service() {
    let _alone = alone();
    let mesh = demo(&["--fault", "flaky", "--rate", "100"]);
    let verdict = verdict_when(&mesh, "voting", |verdict| {
        matches!(verdict["verdict"].as_str(), Some("culprit" | "probably"))
    });
    assert_eq!(verdict["culprit"]["workload"], "voting", "{verdict:#}");
    mesh.stop();
}

#[test]
fn one_bad_instance_is_named() {
    let _alone = alone();
    let mesh = demo(&["--fault", "env-only", "--rate", "20"]);
    let verdict = verdict_when(&mesh, "an instance", |verdict| {
        verdict["verdict"] == "culprit" && !verdict["culprit"]["instance"].is_null()
    });
    assert_eq!(verdict["culprit"]["workload"], "voting", "{verdict:#}");
    assert_eq!(verdict["culprit"]["instance"], "voting-0", "{verdict:#}");
    mesh.stop();
}

/// Switches the fault of the running voting service, as the demo's user would.
#[track_caller]
fn switch(mesh: &whodunit_e2e::Mesh, fault: &str) {
    let voting = mesh.pids("emojivoto voting").pop().expect("voting runs");
    let environment = std::fs::read(format!("/proc/{voting}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let port = environment
        .split('\0')
        .find_map(|var| var.strip_prefix("PROM_PORT="));
    let address = format!("127.0.0.1:{}", port.expect("voting has a port for it"));
    let mut command = mesh.directory().command("emojivoto");
    let output = command
        .args(["faults", "set", fault, "--addr", &address])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
