//! Keeps one process alive: starts it, asks whether it is well, starts it again.

use std::fmt::Write as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use whodunit_control::mesh_file::Restart;

use crate::event::{Event, Events};
use crate::isolate::Namespaces;
use crate::probe::Question;
use crate::process::{Process, Spec};
use crate::stop::Wish;
use crate::topology::{Place, TopologyFile};
use crate::watchdog::Watchdog;

/// Starts in a row that may fail before the first that succeeds. After that
/// a process is started again for as long as its restart policy says.
const FIRST_STARTS_MAX: u32 = 5;

/// A process that lived this long starts its count of failures over.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// A process without a check counts as ready once it has lived this long: most
/// that are called wrongly end sooner.
const ASSUMED_READY_AFTER: Duration = Duration::from_millis(250);

/// First and longest pause between two questions to a process that starts.
const EAGER: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

/// A process to keep alive.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) spec: Spec,
    pub(crate) restart: Restart,
    /// Pause before the first restart.
    pub(crate) backoff: Duration,
    /// Longest pause before a restart.
    pub(crate) backoff_max: Duration,
    /// How long it may take to become ready.
    pub(crate) start_timeout: Duration,
    /// How long it may take to end before it is killed.
    pub(crate) stop_timeout: Duration,
    /// Says when it is ready; none: as soon as it has lived for a moment.
    pub(crate) ready: Option<Probe>,
    /// Says when it must be started again.
    pub(crate) live: Option<Probe>,
    /// The endpoint that is as ready as this process.
    pub(crate) place: Option<Place>,
    /// Whether the first start is not worth an event; what goes wrong always is.
    pub(crate) quiet: bool,
}

/// A question that is asked again and again.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) question: Question,
    /// From where it is asked; none: from here.
    pub(crate) by: Option<Arc<Namespaces>>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) threshold: u16,
}

impl Probe {
    /// Asks; the error says what was wrong with the answer.
    pub(crate) async fn ask(&self) -> Result<(), String> {
        self.question.ask(self.timeout, self.by.as_deref()).await
    }
}

/// What all supervisors share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) watchdog: Arc<Watchdog>,
    pub(crate) events: Events,
    pub(crate) topology: TopologyFile,
}

/// How a process is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It was not ready yet, or is not any more.
    Down,
    /// It is ready.
    Ready,
    /// It ended, and nothing is wrong with that.
    Ended,
    /// It could not be brought up, and that is given up.
    Failed {
        /// How it ended.
        how: String,
        /// The last lines it printed.
        last_lines: Vec<String>,
    },
}

/// A process with its supervisor.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) instance: String,
    pub(crate) status: watch::Receiver<Status>,
    wish: watch::Sender<Wish>,
    task: JoinHandle<()>,
}

impl Kept {
    /// Starts a process and its supervisor.
    pub(crate) fn start(unit: Unit, shared: Arc<Shared>) -> Self {
        let (status_sender, status) = watch::channel(Status::Down);
        let (wish, wishes) = watch::channel(Wish::Run);
        let instance = unit.spec.instance.clone();
        let supervisor = Supervisor {
            unit,
            shared,
            status: status_sender,
            wish: wishes,
        };
        let task = tokio::spawn(supervisor.run());
        Self {
            instance,
            status,
            wish,
            task,
        }
    }

    /// Says what is wanted of the process.
    pub(crate) fn wish(&self, wish: Wish) {
        self.wish.send_if_modified(|current| {
            let stronger = wish > *current;
            *current = (*current).max(wish);
            stronger
        });
    }

    /// Waits until the process is ready, has ended well, or was given up.
    pub(crate) fn started(&self) -> impl Future<Output = Status> + use<> {
        let mut status = self.status.clone();
        async move {
            let started = status.wait_for(|status| *status != Status::Down).await;
            started.map_or(Status::Ended, |status| status.clone())
        }
    }

    /// Waits until the process is gone and will not be started again.
    pub(crate) async fn gone(&mut self) {
        if !self.task.is_finished() {
            let _panicked = (&mut self.task).await;
        }
    }
}

struct Supervisor {
    unit: Unit,
    shared: Arc<Shared>,
    status: watch::Sender<Status>,
    wish: watch::Receiver<Wish>,
}

/// How one life of the process came to its end.
struct Death {
    how: String,
    /// Whether it ended by itself with exit code 0.
    clean: bool,
    last_lines: Vec<String>,
    /// Whether waiting for it to become ready was given up.
    never_ready: bool,
}

impl Supervisor {
    async fn run(mut self) {
        let mut ever_ready = false;
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let Some(death) = self.live(failures > 0).await else {
                self.status.send_replace(Status::Ended);
                return;
            };
            ever_ready |= *self.status.borrow() == Status::Ready;
            let short = started.elapsed() < HEALTHY_AFTER;
            failures = if short { failures + 1 } else { 1 };
            let again = match self.unit.restart {
                Restart::Always => true,
                Restart::OnFailure => !death.clean,
                Restart::Never => false,
            };
            let given_up = !ever_ready && (death.never_ready || failures >= FIRST_STARTS_MAX);
            let last_lines = if short || death.never_ready {
                death.last_lines
            } else {
                Vec::new()
            };
            if again && !given_up {
                self.set(Status::Down);
            } else if ever_ready || (death.clean && !again) {
                self.set(Status::Ended);
            } else {
                let how = death.how.clone();
                self.set(Status::Failed {
                    how,
                    last_lines: last_lines.clone(),
                });
            }
            self.say(Event::Exited {
                instance: self.name(),
                how: death.how,
                last_lines,
            });
            if !again || given_up {
                return;
            }
            let doublings = (failures - 1).min(16);
            let pause = self
                .unit
                .backoff
                .saturating_mul(1 << doublings)
                .min(self.unit.backoff_max);
            let instance = self.name();
            self.say(Event::Restarting {
                instance,
                attempt: failures,
                after: pause,
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wished(&mut self.wish) => {
                    self.status.send_replace(Status::Ended);
                    return;
                }
            }
        }
    }

    /// Starts the process and stays with it to its end; none when it was asked to end.
    async fn live(&mut self, again: bool) -> Option<Death> {
        let quiet = self.unit.quiet && !again;
        let started = Instant::now();
        let shared = Arc::clone(&self.shared);
        let spawned = Process::spawn(&self.unit.spec, &shared.watchdog, &shared.events);
        let mut process = match spawned {
            Ok(process) => process,
            Err(error) => {
                let how = format!("cannot start {}: {error}", self.unit.spec.program.display());
                let last_lines = Vec::new();
                return Some(Death {
                    how,
                    clean: false,
                    last_lines,
                    never_ready: false,
                });
            }
        };
        if !quiet {
            self.say(Event::Starting {
                instance: self.name(),
                pid: process.id(),
            });
        }
        let mut wish = self.wish.clone();
        let mut death = tokio::select! {
            status = process.wait() => match status {
                Ok(status) => Death {
                    how: describe(status),
                    clean: status.success(),
                    last_lines: Vec::new(),
                    never_ready: false,
                },
                Err(error) => Death {
                    how: format!("lost sight of it: {error}"),
                    clean: false,
                    last_lines: Vec::new(),
                    never_ready: false,
                },
            },
            unwell = self.watch(started, quiet) => {
                let was_ready = *self.status.borrow() == Status::Ready;
                self.set_ready(false);
                process.stop(self.unit.stop_timeout, &mut self.wish.clone()).await;
                Death {
                    how: unwell,
                    clean: false,
                    last_lines: Vec::new(),
                    never_ready: !was_ready,
                }
            }
            () = wished(&mut wish) => {
                self.set(Status::Down);
                let killed = process.stop(self.unit.stop_timeout, &mut wish).await;
                self.say(Event::Stopped { instance: self.name(), killed });
                return None;
            }
        };
        if *self.wish.borrow() > Wish::Run {
            return None;
        }
        death.last_lines = process.last_lines().await;
        Some(death)
    }

    /// Asks whether the process is well; returns what is wrong when it is to be
    /// ended for that.
    async fn watch(&self, started: Instant, quiet: bool) -> String {
        let first = self.first_ready(started);
        if let Err(unwell) = first.await {
            return unwell;
        }
        self.set(Status::Ready);
        if !quiet {
            self.say(Event::Ready {
                instance: self.name(),
                after: started.elapsed(),
            });
        }
        tokio::select! {
            unwell = self.watch_live() => unwell,
            unwell = self.watch_ready() => unwell,
        }
    }

    async fn first_ready(&self, started: Instant) -> Result<(), String> {
        let Some(probe) = &self.unit.ready else {
            tokio::time::sleep(ASSUMED_READY_AFTER).await;
            return Ok(());
        };
        let mut pause = EAGER.0;
        loop {
            let why = match probe.ask().await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if started.elapsed() >= self.unit.start_timeout {
                let limit = self.unit.start_timeout;
                return Err(format!("not ready within {limit:?}: {why}"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(EAGER.1);
        }
    }

    /// Never returns: whoever is not ready gets no requests, and that is all.
    async fn watch_ready(&self) -> String {
        let Some(probe) = &self.unit.ready else {
            return std::future::pending().await;
        };
        let mut failures = 0;
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(probe.interval).await;
            match probe.ask().await {
                Ok(()) => {
                    if failures >= probe.threshold {
                        self.set(Status::Ready);
                        let instance = self.name();
                        self.say(Event::Ready {
                            instance,
                            after: since.elapsed(),
                        });
                    }
                    failures = 0;
                }
                Err(why) => {
                    failures = failures.saturating_add(1);
                    if failures == probe.threshold {
                        since = Instant::now();
                        // The life was a success nevertheless: only the endpoint is not ready.
                        self.set_ready(false);
                        self.say(Event::Unready {
                            instance: self.name(),
                            why,
                        });
                    }
                }
            }
        }
    }

    async fn watch_live(&self) -> String {
        let Some(probe) = &self.unit.live else {
            return std::future::pending().await;
        };
        let mut failures = 0;
        loop {
            tokio::time::sleep(probe.interval).await;
            match probe.ask().await {
                Ok(()) => failures = 0,
                Err(why) => {
                    failures += 1;
                    if failures >= probe.threshold {
                        return format!("not alive any more, ended it: {why}");
                    }
                }
            }
        }
    }

    fn name(&self) -> String {
        self.unit.spec.instance.clone()
    }

    fn say(&self, event: Event) {
        self.shared.events.send(event);
    }

    fn set(&self, status: Status) {
        self.set_ready(status == Status::Ready);
        self.status.send_replace(status);
    }

    fn set_ready(&self, ready: bool) {
        let Some(place) = self.unit.place else { return };
        if let Err(error) = self.shared.topology.set_ready(place, ready) {
            let mut what = format!("cannot tell the server that {}", self.name());
            let state = if ready { "ready" } else { "not ready" };
            let _infallible = write!(what, " is {state}: {error}");
            self.say(Event::Warning { what });
        }
    }
}

/// Waits for the wish to end. A supervisor whose owner is gone ends as well.
async fn wished(wish: &mut watch::Receiver<Wish>) {
    let _owner_gone = wish.wait_for(|wish| *wish > Wish::Run).await;
}

/// Says how a process ended: "exit code 1", "killed by SIGSEGV".
fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    let signal = status.signal().and_then(|signal| {
        let name = match signal {
            1 => "SIGHUP",
            2 => "SIGINT",
            3 => "SIGQUIT",
            4 => "SIGILL",
            6 => "SIGABRT",
            8 => "SIGFPE",
            9 => "SIGKILL",
            11 => "SIGSEGV",
            13 => "SIGPIPE",
            15 => "SIGTERM",
            _ => return None,
        };
        Some(format!("killed by {name}"))
    });
    let code = || status.code().map(|code| format!("exit code {code}"));
    signal.or_else(code).unwrap_or_else(|| status.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn endings_are_told_in_words() {
        assert_eq!(describe(ExitStatus::from_raw(0)), "exit code 0");
        assert_eq!(describe(ExitStatus::from_raw(2 << 8)), "exit code 2");
        assert_eq!(describe(ExitStatus::from_raw(11)), "killed by SIGSEGV");
        assert!(describe(ExitStatus::from_raw(31)).contains("31"));
    }
}
