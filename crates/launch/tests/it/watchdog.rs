//! The launcher is killed, and nothing of the mesh lives on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::bench::{STAND_IN, app, lives, mark, marked, until};

/// A launcher in a process of its own, with an application that has a child
/// in its group and one that left it.
struct Launched {
    folder: tempfile::TempDir,
    launcher: Child,
    mark: Vec<u8>,
}

fn launch(folder: tempfile::TempDir) -> Launched {
    let mesh = folder.path().join("mesh.toml");
    let family = "[service.family]\nshell = true\n\
                  command = 'sleep 1000 & setsid sleep 1001 & trap \"\" TERM; \
                  while :; do sleep 1; done'\n";
    fs::write(&mesh, format!("{}{family}", app("web", "port = 0"))).unwrap();
    let mut launcher = Command::new(STAND_IN)
        .arg("launch")
        .args([
            &mesh,
            &folder.path().join("data"),
            &folder.path().join("state/local.json"),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut web = None;
    let mut said = String::new();
    for line in BufReader::new(launcher.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
    {
        if let Some(rest) = line.strip_prefix("starting web-0 (pid ") {
            web = rest.trim_end_matches(')').parse().ok();
        }
        said += &format!("{line}\n");
        if line.starts_with("all ready") {
            break;
        }
    }
    let web = web.unwrap_or_else(|| panic!("it did not start:\n{said}"));
    Launched {
        folder,
        launcher,
        mark: mark(web),
    }
}

fn signal(process: u32, signal: Signal) {
    let process = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    kill_process(process, signal).unwrap();
}

#[tokio::test]
async fn killing_the_launcher_leaves_nothing_behind() {
    let mut launched = launch(tempfile::tempdir().unwrap());
    // The server, a proxy, web, the family's shell and its three sleepers.
    until("all are there", || marked(&launched.mark).len() >= 7).await;
    signal(launched.launcher.id(), Signal::KILL);
    launched.launcher.wait().unwrap();
    until("all are gone", || marked(&launched.mark).is_empty()).await;

    // The state file names a dead process, and the lock is free again.
    let state = launched.folder.path().join("state/local.json");
    assert!(state.exists());
    assert_eq!(whodunit_launch::state::read(&state), None);
    let lock = fs::File::open(launched.folder.path().join("data/run/LOCK")).unwrap();
    until("the watchdog is gone", || {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_launcher_can_follow_at_once_on_one_that_was_killed() {
    let mut first = launch(tempfile::tempdir().unwrap());
    signal(first.launcher.id(), Signal::KILL);
    first.launcher.wait().unwrap();
    let mut second = launch(first.folder);
    assert_eq!(marked(&first.mark), Vec::<u32>::new());
    signal(second.launcher.id(), Signal::KILL);
    second.launcher.wait().unwrap();
    until("all are gone", || marked(&second.mark).is_empty()).await;
}

#[tokio::test]
async fn a_signal_ends_the_launcher_in_order_with_all_that_strayed() {
    let mut launched = launch(tempfile::tempdir().unwrap());
    signal(launched.launcher.id(), Signal::INT);
    // The family ignores SIGTERM: a second signal makes short work of it.
    signal(launched.launcher.id(), Signal::TERM);
    let status = launched.launcher.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(marked(&launched.mark), Vec::<u32>::new());
    assert!(!lives(launched.launcher.id()));
    assert!(!launched.folder.path().join("state/local.json").exists());
}
