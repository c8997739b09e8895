//! Says which mesh runs on this machine, and keeps two launchers apart.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, getuid, test_kill_process};
use serde::{Deserialize, Serialize};

/// How long the remains of a launcher that died may take to be cleared away.
const CLEARING_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two attempts to get a lock.
const LOOK: Duration = Duration::from_millis(50);

/// A mesh that runs on this machine: the content of the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalState {
    /// Process id of the launcher.
    pub pid: u32,
    /// Name of the mesh.
    pub name: String,
    /// The server's HTTP API.
    pub api: SocketAddr,
    /// The server's gRPC address.
    pub grpc: SocketAddr,
    /// URL of the application, if it has a front door.
    pub app: Option<String>,
    /// The data directory.
    pub data: PathBuf,
    /// When the launcher started, in microseconds since the epoch.
    pub started_us: i64,
}

/// Returns where the state file of this user's mesh is:
/// `$XDG_RUNTIME_DIR/whodunit/local.json`, or in `/tmp` without that variable.
#[must_use]
pub fn default_path() -> PathBuf {
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder).join("whodunit"),
        _ => PathBuf::from(format!("/tmp/whodunit-{}", getuid().as_raw())),
    };
    folder.join("local.json")
}

/// Reads a state file; none when there is none, when it makes no sense, or
/// when the launcher that it names is dead.
#[must_use]
pub fn read(path: &Path) -> Option<LocalState> {
    let text = fs::read_to_string(path).ok()?;
    let state: LocalState = serde_json::from_str(&text).ok()?;
    is_alive(state.pid).then_some(state)
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| match test_kill_process(pid) {
        Ok(()) => true,
        // It is there, but belongs to somebody else.
        Err(error) => error == Errno::PERM,
    })
}

/// Writes a state file, in a folder that only this user may enter.
pub(crate) fn write(path: &Path, state: &LocalState) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let text = serde_json::to_vec_pretty(state)?;
    replace(path, &text)
}

/// Puts a file in place as a whole: readers see the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    fs::rename(&beside, path)
}

/// Takes the lock of a data directory; none when somebody else has it.
///
/// A launcher that has died leaves the lock to its watchdog until everything
/// is cleared away; that is waited for. `holder` says who seems to run.
pub(crate) async fn lock(
    path: &Path,
    holder: impl Fn() -> Option<LocalState>,
) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let deadline = Instant::now() + CLEARING_PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        if holder().is_some() || Instant::now() >= deadline {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pid: u32) -> LocalState {
        LocalState {
            pid,
            name: "demo".to_owned(),
            api: SocketAddr::from(([127, 0, 0, 1], 7_070)),
            grpc: SocketAddr::from(([127, 0, 0, 1], 7_071)),
            app: Some("http://127.0.0.1:8080".to_owned()),
            data: PathBuf::from("/data"),
            started_us: 1,
        }
    }

    #[test]
    fn the_state_of_a_living_launcher_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whodunit/local.json");
        assert_eq!(read(&path), None);
        let written = state(std::process::id());
        write(&path, &written).unwrap();
        assert_eq!(read(&path), Some(written));
    }

    #[test]
    fn the_dead_and_the_damaged_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.json");
        // Above the kernel's largest process id.
        write(&path, &state(1 << 30)).unwrap();
        assert_eq!(read(&path), None);
        fs::write(&path, "{\"pid\": 1").unwrap();
        assert_eq!(read(&path), None);
    }

    #[tokio::test]
    async fn a_lock_is_had_by_one_and_waited_for_while_nobody_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("LOCK");
        let first = lock(&path, || None).await.unwrap().unwrap();
        let second = lock(&path, || Some(state(1))).await.unwrap();
        assert!(second.is_none());
        let release = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        let (third, ()) = tokio::join!(lock(&path, || None), release);
        assert!(third.unwrap().is_some());
    }
}
