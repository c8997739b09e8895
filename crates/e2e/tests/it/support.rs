//! What several tests need.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use whodunit_e2e::mesh::{Directory, Mesh};
use whodunit_e2e::until;

/// One mesh at a time: two cores, and tests that wait for seconds to pass.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the demo on free ports with these extra arguments.
#[track_caller]
pub(crate) fn demo(extra: &[&str]) -> Mesh {
    demo_in(Directory::new(), extra)
}

/// Starts the demo in a directory that may hold the data of an earlier run.
#[track_caller]
pub(crate) fn demo_in(directory: Directory, extra: &[&str]) -> Mesh {
    let data = directory.data();
    let mut args = vec![
        "demo".to_owned(),
        "--data".to_owned(),
        data.display().to_string(),
    ];
    args.extend(extra.iter().map(|text| (*text).to_owned()));
    Mesh::start(directory, args)
}

/// Waits until the verdict satisfies `wanted`.
#[track_caller]
pub(crate) fn verdict_when(mesh: &Mesh, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(45) {
        let output = mesh.whodunit(["culprit", "-o", "json"]);
        if output.code == 0 {
            last = output.json();
            if wanted(&last) {
                return last;
            }
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    panic!(
        "no verdict with {what}; the last one: {last:#}\n{}",
        mesh.printed()
    );
}

/// Returns the row of `stat` with this name.
pub(crate) fn stat_row(mesh: &Mesh, kind: &str, name: &str, since: &str) -> Value {
    let rows = mesh.json(&["stat", kind, "--since", since]);
    let rows = rows.as_array().cloned().unwrap_or_default();
    rows.into_iter()
        .find(|row| row["name"] == name)
        .unwrap_or_default()
}

/// Waits until the server holds at least `count` requests of the last ten minutes.
#[track_caller]
pub(crate) fn wait_requests(mesh: &Mesh, workload: &str, count: u64) -> Value {
    until(
        &format!("{count} requests of {workload}"),
        Duration::from_secs(60),
        || {
            let row = stat_row(mesh, "workload", workload, "10m");
            (row["requests"].as_u64()? >= count).then_some(row)
        },
    )
}
