//! One running process, in a process group of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::event::{Event, Events};
use crate::log::{self, LogFile, Tail};
use crate::stop::Wish;
use crate::watchdog::{MARK, Watchdog};

/// How long a process that was killed may take to disappear before the
/// launcher stops waiting for it: only one stuck inside the kernel does.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for what an ended process printed last: all of it has come when the pipe
/// ends, which somebody who left its group may hold open.
const PIPE_PATIENCE: Duration = Duration::from_millis(500);

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Name for events.
    pub(crate) instance: String,
    /// The executable, found already.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Its environment on top of the launcher's.
    pub(crate) env: Vec<(String, String)>,
    /// Folder to start in.
    pub(crate) working_dir: PathBuf,
    /// Where what it prints goes.
    pub(crate) log: PathBuf,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    group: Pid,
    tail: Tail,
    collector: JoinHandle<()>,
    watchdog: Arc<Watchdog>,
}

impl Process {
    /// Starts it, with a watchdog over it.
    pub(crate) fn spawn(
        spec: &Spec,
        watchdog: &Arc<Watchdog>,
        events: &Events,
    ) -> io::Result<Self> {
        // One pipe for both outputs keeps the order of their lines.
        let (reader, writer) = io::pipe()?;
        let log = LogFile::open(&spec.log, log::BYTES_MAX)?;
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.arguments)
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .env(MARK, watchdog.mark())
            .current_dir(&spec.working_dir)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        let mut child = command.spawn()?;
        // The command holds the writing end of the pipe.
        drop(command);
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(group) = group else {
            child.start_kill()?;
            return Err(io::Error::other("the process has no id"));
        };
        let tail = Tail::default();
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let instance = spec.instance.clone();
        let collector = tokio::spawn(collect(reader, log, tail.clone(), instance, events.clone()));
        let process = Self {
            child,
            group,
            tail,
            collector,
            watchdog: Arc::clone(watchdog),
        };
        watchdog.add(process.id())?;
        Ok(process)
    }

    pub(crate) fn id(&self) -> u32 {
        self.group.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits until the process has ended, and ends what it left behind in its group.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        // Workers of a dead master would keep its port.
        let _usually_gone = kill_process_group(self.group, Signal::KILL);
        // A watchdog that cannot be told is started anew with the next process.
        let _told_later = self.watchdog.remove(self.id());
        Ok(status)
    }

    /// Asks the process to end, and kills its group if it has not done so after
    /// `grace` or when somebody wants everything to end at once. Returns
    /// whether it had to be killed.
    pub(crate) async fn stop(&mut self, grace: Duration, wish: &mut watch::Receiver<Wish>) -> bool {
        let asked =
            *wish.borrow() < Wish::AtOnce && kill_process_group(self.group, Signal::TERM).is_ok();
        if asked {
            let at_once = async {
                if wish.wait_for(|wish| *wish == Wish::AtOnce).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                _ = self.wait() => return false,
                () = at_once => {}
                () = tokio::time::sleep(grace) => {}
            }
        }
        let _already_gone = kill_process_group(self.group, Signal::KILL);
        let _stuck = tokio::time::timeout(KILL_PATIENCE, self.wait()).await;
        true
    }

    /// Returns the last lines that it printed, oldest first. Call it when the process has ended.
    pub(crate) async fn last_lines(&mut self) -> Vec<String> {
        if !self.collector.is_finished() {
            // What was printed last may still be in the pipe.
            let _held_open = tokio::time::timeout(PIPE_PATIENCE, &mut self.collector).await;
        }
        self.tail.lines()
    }
}

/// Copies what a process prints until nobody can print any more.
async fn collect(
    mut reader: pipe::Receiver,
    mut log: LogFile,
    tail: Tail,
    instance: String,
    events: Events,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut lost = false;
    while let Ok(length @ 1..) = reader.read(&mut buffer).await {
        let bytes = &buffer[..length];
        tail.push(bytes);
        // On a full disk the process goes on; its output is lost, which is said once.
        if let Err(error) = log.append(bytes)
            && !lost
        {
            lost = true;
            let what = format!("the output of {instance} is being lost: {error}");
            events.send(Event::Warning { what });
        }
    }
}
