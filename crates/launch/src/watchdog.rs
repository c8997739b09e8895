//! Ends what is left when the launcher dies without having ended it.
//!
//! The watchdog is a process in a session of its own that reads a pipe whose
//! other end only the launcher has. Over it the launcher tells which process
//! groups it started. When the pipe ends, however the launcher came to its end,
//! the watchdog asks these groups to end, kills what does not, and ends itself.
//! On Linux it also finds processes that left their group, or that were started
//! in the launcher's last moment, by a mark in their environment.
//!
//! The watchdog holds the lock of the data directory until it is done, so that
//! the next launcher does not meet the remains of the last.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, kill_process, kill_process_group, setsid, test_kill_process_group,
};

use crate::isolate::{Tools, clear_leftovers};

/// The argument that makes the executable a watchdog.
pub const WATCHDOG_COMMAND: &str = "__watchdog";

/// The environment variable that marks what a launcher started.
pub(crate) const MARK: &str = "WHODUNIT_LAUNCH";

/// What the watchdog says when it is out of reach of the terminal's signals.
const WATCHING: &str = "watching";

/// How long processes may take to end before they are killed.
const GRACE: Duration = Duration::from_secs(3);

/// How long to wait for killed processes to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Pause between two looks at what is left.
const LOOK: Duration = Duration::from_millis(20);

/// The launcher's side.
#[derive(Debug)]
pub(crate) struct Watchdog {
    executable: PathBuf,
    lock: File,
    mark: String,
    /// Whether there are networks to remove.
    isolated: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Child,
    pipe: Option<ChildStdin>,
    groups: BTreeSet<u32>,
}

impl Watchdog {
    /// Starts a watchdog. `mark` is the value of [`MARK`] in the environment of
    /// everything that will be started; `isolated` says that there will be networks to remove.
    pub(crate) fn start(
        executable: &Path,
        lock: File,
        mark: String,
        isolated: bool,
    ) -> io::Result<Self> {
        let groups = BTreeSet::new();
        let (child, pipe) = spawn(executable, &lock, &mark, isolated, &groups)?;
        let state = Mutex::new(State {
            child,
            pipe: Some(pipe),
            groups,
        });
        Ok(Self {
            executable: executable.to_owned(),
            lock,
            mark,
            isolated,
            state,
        })
    }

    /// Watches over a process group.
    pub(crate) fn add(&self, group: u32) -> io::Result<()> {
        self.tell(group, true)
    }

    /// Forgets a process group: all of it has ended.
    pub(crate) fn remove(&self, group: u32) -> io::Result<()> {
        self.tell(group, false)
    }

    /// Returns the mark for the environment of everything that is started.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    fn tell(&self, group: u32, added: bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if added {
            state.groups.insert(group);
        } else {
            state.groups.remove(&group);
        }
        let line = format!("{}{group}\n", if added { '+' } else { '-' });
        if let Some(pipe) = &mut state.pipe
            && pipe.write_all(line.as_bytes()).is_ok()
        {
            return Ok(());
        }
        // It was killed: a new one is told everything again.
        state.pipe = None;
        state.child.wait()?;
        let (child, pipe) = spawn(
            &self.executable,
            &self.lock,
            &self.mark,
            self.isolated,
            &state.groups,
        )?;
        state.child = child;
        state.pipe = Some(pipe);
        Ok(())
    }

    /// Lets the watchdog end what is left, if anything, and waits for it.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pipe = None;
        state.child.wait().map(drop)
    }
}

fn spawn(
    executable: &Path,
    lock: &File,
    mark: &str,
    isolated: bool,
    groups: &BTreeSet<u32>,
) -> io::Result<(Child, ChildStdin)> {
    let mut child = Command::new(executable)
        .arg(WATCHDOG_COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // The lock lasts as long as anyone holds this file open.
        .stderr(lock.try_clone()?)
        .env_remove(MARK)
        .spawn()?;
    let (Some(mut pipe), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the watchdog has no pipes"));
    };
    let mut said = String::new();
    BufReader::new(stdout.take(64)).read_line(&mut said)?;
    if said.trim_end() != WATCHING {
        let status = child.wait()?;
        return Err(io::Error::other(format!(
            "the watchdog ended at once ({status})"
        )));
    }
    let mut lines = format!("={mark}\n");
    if isolated {
        lines.push_str("~\n");
    }
    for group in groups {
        lines.push_str(&format!("+{group}\n"));
    }
    pipe.write_all(lines.as_bytes())?;
    Ok((child, pipe))
}

/// Is the watchdog: the whole of the hidden command [`WATCHDOG_COMMAND`].
#[must_use]
pub fn watchdog_main() -> ExitCode {
    // Fails for the leader of a process group, which was started by hand.
    let _already_apart = setsid();
    let mut stdout = io::stdout();
    if writeln!(stdout, "{WATCHING}")
        .and_then(|()| stdout.flush())
        .is_err()
    {
        return ExitCode::FAILURE;
    }
    let mut groups = BTreeSet::new();
    let mut mark = String::new();
    let mut isolated = false;
    for line in io::stdin().lines().map_while(Result::ok) {
        let Some((kind, rest)) = line.split_at_checked(1) else {
            continue;
        };
        match (
            kind,
            rest.parse::<i32>()
                .ok()
                .filter(|group| *group > 1)
                .and_then(Pid::from_raw),
        ) {
            ("=", _) => rest.clone_into(&mut mark),
            ("~", _) => isolated = true,
            ("+", Some(group)) => drop(groups.insert(group.as_raw_nonzero())),
            ("-", Some(group)) => drop(groups.remove(&group.as_raw_nonzero())),
            _ => {}
        }
    }
    let groups: Vec<Pid> = groups
        .into_iter()
        .filter_map(|group| Pid::from_raw(group.get()))
        .collect();
    end(&groups, &mark);
    // A launcher that lives removes its own.
    if isolated && let Ok(tools) = Tools::find() {
        clear_leftovers(&tools);
    }
    ExitCode::SUCCESS
}

/// Ends the groups and whatever bears the mark.
fn end(groups: &[Pid], mark: &str) {
    let signal = |signal| {
        for group in groups {
            let _already_gone = kill_process_group(*group, signal);
        }
        for process in marked(mark) {
            let _already_gone = kill_process(process, signal);
        }
    };
    let anything_left = || {
        groups
            .iter()
            .any(|group| test_kill_process_group(*group).is_ok())
            || !marked(mark).is_empty()
    };
    // What was started a moment ago may not show its environment yet.
    thread::sleep(LOOK);
    if !anything_left() {
        return;
    }
    signal(Signal::TERM);
    if !wait_until(GRACE, || !anything_left()) {
        signal(Signal::KILL);
        // Dead processes that nobody reaps count as left: hence only a while.
        wait_until(KILL_PATIENCE, || !anything_left());
    }
}

/// Returns the living processes that have the mark in their environment.
fn marked(mark: &str) -> Vec<Pid> {
    if mark.is_empty() {
        return Vec::new();
    }
    let wanted = format!("{MARK}={mark}");
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|process| {
            // Empty for the dead; unreadable for those of others.
            std::fs::read(format!("/proc/{process}/environ")).is_ok_and(|environment| {
                environment
                    .split(|byte| *byte == 0)
                    .any(|pair| pair == wanted.as_bytes())
            })
        })
        .filter_map(Pid::from_raw)
        .collect()
}

fn wait_until(patience: Duration, done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}
