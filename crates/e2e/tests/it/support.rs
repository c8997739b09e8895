//! What several tests need.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Starts the mesh of a folder of `examples`, with these extra arguments.
#[track_caller]
pub(crate) fn example(name: &str, extra: &[&str]) -> Mesh {
    let directory = Directory::new();
    let data = directory.data();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let file = PathBuf::from(examples).join(name).join("mesh.toml");
    let args = [
        "run".into(),
        "-f".into(),
        file.into_os_string(),
        "--data".into(),
        data.into_os_string(),
    ];
    let extra = extra.iter().map(OsString::from);
    Mesh::start(directory, args.into_iter().chain(extra))
}

/// Says whether this user can isolate instances on this machine; prints why not.
#[expect(
    clippy::print_stdout,
    reason = "says in the test's output why it did nothing"
)]
pub(crate) fn can_isolate() -> bool {
    if let Some(missing) = ["ip", "nft"].into_iter().find(|tool| find(tool).is_none()) {
        println!("skipped: install {missing} (Debian: iproute2, nftables)");
        return false;
    }
    static PROBES: AtomicUsize = AtomicUsize::new(0);
    let number = PROBES.fetch_add(1, Ordering::Relaxed);
    let probe = format!("whodunit-test-{}-{number}", std::process::id());
    let netns = |verb: &str| {
        let done = Command::new("ip").args(["netns", verb, &probe]).output();
        done.is_ok_and(|output| output.status.success())
    };
    let tables = Command::new("nft").args(["list", "tables"]).output();
    let forwarding = "/proc/sys/net/ipv4/ip_forward";
    let opened = OpenOptions::new().write(true).open(forwarding);
    let lacks = if !(netns("add") && netns("del")) {
        "`ip netns add` takes root, and CAP_SYS_ADMIN in a container"
    } else if !tables.is_ok_and(|output| output.status.success()) {
        "`nft` takes CAP_NET_ADMIN and a kernel with nf_tables"
    } else if opened.is_err() {
        "/proc/sys may not be written here"
    } else {
        return true;
    };
    println!("skipped: {lacks}");
    false
}

/// Says whether all of these programs are here; prints what is missing.
///
/// # Panics
/// In CI, when one is missing.
#[expect(
    clippy::print_stdout,
    reason = "says in the test's output why it did nothing"
)]
#[track_caller]
pub(crate) fn installed(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .copied()
        .filter(|program| find(program).is_none())
        .collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    // `cargo xtask test` installs these; without them there is nothing to run.
    assert!(std::env::var_os("CI").is_none(), "not installed: {missing}");
    println!("skipped: install {missing}, or run `cargo xtask test`");
    false
}

fn find(program: &str) -> Option<PathBuf> {
    let venv = std::env::var_os("WHODUNIT_TEST_VENV").map(|venv| PathBuf::from(venv).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    let places = venv
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(sbin);
    places
        .map(|place| place.join(program))
        .find(|file| file.is_file())
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
