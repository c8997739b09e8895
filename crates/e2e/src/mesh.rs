//! A mesh of real processes in a directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::wait::until;

/// What a finished command printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code, -1 if it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Returns standard output as JSON.
    ///
    /// # Panics
    /// When the command failed or printed something else.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A running `whodunit demo` or `whodunit run`.
pub struct Mesh {
    launcher: Child,
    printed: Arc<Mutex<String>>,
    directory: Directory,
}

/// A directory that holds data, state and the mark of one mesh.
pub struct Directory {
    path: PathBuf,
    mark: String,
}

impl Directory {
    /// Makes an empty directory.
    ///
    /// # Panics
    /// When the system refuses.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("whodunit-e2e-").tempdir();
        let path = directory.expect("a temporary directory").keep();
        let mark = path
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default()
            .to_owned();
        Self { path, mark }
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the data directory in it.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Returns a command of our binaries that uses this directory only.
    #[must_use]
    pub fn command(&self, binary: &str) -> Command {
        let mut command = Command::new(binary_path(binary));
        if let Some(venv) = std::env::var_os("WHODUNIT_TEST_VENV") {
            let mut path = vec![PathBuf::from(venv).join("bin")];
            path.extend(std::env::split_paths(
                &std::env::var_os("PATH").unwrap_or_default(),
            ));
            if let Ok(path) = std::env::join_paths(path) {
                command.env("PATH", path);
            }
        }
        command
            .env("XDG_RUNTIME_DIR", self.path.join("run"))
            .env("XDG_DATA_HOME", self.path.join("share"))
            .env("WHODUNIT_TEST_MARK", &self.mark)
            .env_remove("WHODUNIT_ADDR")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Runs `whodunit` with these arguments to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn whodunit<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let output = self
            .command("whodunit")
            .args(args)
            .output()
            .expect("whodunit starts");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Returns the processes that were started in this directory and still run: id and command.
    #[must_use]
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("WHODUNIT_TEST_MARK={}", self.mark);
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let ours = environment
                .split(|byte| *byte == 0)
                .any(|var| var == mark.as_bytes());
            if ours {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                // A zombie has no command line any more.
                if !line.is_empty() {
                    found.push((pid, line));
                }
            }
        }
        found
    }

    /// Waits until no process of this directory runs.
    ///
    /// # Panics
    /// When one still runs after `limit`.
    #[track_caller]
    pub fn wait_empty(&self, limit: Duration) {
        let began = std::time::Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(began.elapsed() < limit, "still running: {left:#?}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl Mesh {
    /// Starts `whodunit ARGS` in `directory` and waits until the mesh is up.
    ///
    /// # Panics
    /// When it is not up within a minute.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(directory: Directory, args: impl IntoIterator<Item = S>) -> Self {
        let mut mesh = Self::start_only(directory, args);
        let began = std::time::Instant::now();
        while mesh.state().is_none() || !mesh.printed().contains("with a mesh around it") {
            let ended = mesh.launcher.try_wait().expect("the launcher can be asked");
            assert!(ended.is_none(), "ended with {ended:?}: {}", mesh.printed());
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "not up: {}",
                mesh.printed()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
        mesh
    }

    /// Starts `whodunit ARGS` in `directory` and returns at once.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start_only<S: AsRef<OsStr>>(
        directory: Directory,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut launcher = directory
            .command("whodunit")
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("whodunit starts");
        let printed = Arc::new(Mutex::new(String::new()));
        collect(launcher.stdout.take(), printed.clone());
        collect(launcher.stderr.take(), printed.clone());
        Self {
            launcher,
            printed,
            directory,
        }
    }

    /// Returns the directory.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Returns all that the launcher printed so far.
    ///
    /// # Panics
    /// Never: the lock is not poisoned by readers.
    #[must_use]
    pub fn printed(&self) -> String {
        self.printed.lock().expect("readers do not panic").clone()
    }

    /// Returns the state file of the running mesh.
    #[must_use]
    pub fn state(&self) -> Option<Value> {
        let path = self.directory.path.join("run/whodunit/local.json");
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    /// Returns an address from the state file: `api`, `grpc` or `app`.
    ///
    /// # Panics
    /// When the state has no such address.
    #[must_use]
    #[track_caller]
    pub fn address(&self, what: &str) -> SocketAddr {
        let state = self.state().expect("a state file");
        let text = state[what]
            .as_str()
            .unwrap_or_else(|| panic!("no {what} in {state}"));
        let text = text.trim_start_matches("http://").trim_end_matches('/');
        text.parse()
            .unwrap_or_else(|error| panic!("{what} {text}: {error}"))
    }

    /// Runs a `whodunit` command against this mesh.
    #[track_caller]
    pub fn whodunit<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.directory.whodunit(args)
    }

    /// Runs a `whodunit` command with `-o json` and returns what it printed.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.whodunit(args.iter().copied().chain(["-o", "json"]))
            .json()
    }

    /// Returns the ids of running processes whose command line contains `text`.
    #[must_use]
    pub fn pids(&self, text: &str) -> Vec<i32> {
        let processes = self.directory.processes();
        processes
            .into_iter()
            .filter(|(_, line)| line.contains(text))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Sends a signal to the launcher.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.launcher.id().cast_signed()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for the launcher to end; returns its exit code.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let status = until("the launcher to end", limit, || {
            self.launcher.try_wait().expect("the launcher can be asked")
        });
        status.code()
    }

    /// Stops the mesh in order and returns its directory.
    ///
    /// # Panics
    /// When something still runs half a minute later.
    #[track_caller]
    pub fn stop(mut self) -> Directory {
        self.signal(Signal::INT);
        self.wait(Duration::from_secs(30));
        self.directory.wait_empty(Duration::from_secs(10));
        std::mem::take(&mut self.directory)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

fn collect(stream: Option<impl Read + Send + 'static>, into: Arc<Mutex<String>>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            if let Ok(mut into) = into.lock() {
                into.push_str(&String::from_utf8_lossy(&line));
            }
            line.clear();
        }
    });
}

/// Kills a process at once, as the kernel does when memory is short.
pub fn kill_now(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Returns where a binary of ours lies: beside the running one, or where `WHODUNIT_BIN_DIR` says.
#[must_use]
pub fn binary_path(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("WHODUNIT_BIN_DIR") {
        return PathBuf::from(directory).join(name);
    }
    let own = std::env::current_exe().unwrap_or_default();
    let directory = own.parent().unwrap_or(Path::new("."));
    let directory = if directory.ends_with("deps") {
        directory.parent().unwrap_or(directory)
    } else {
        directory
    };
    directory.join(name)
}
