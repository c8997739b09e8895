//! What the launcher has to say while it works.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

/// Something that happened. `Display` gives one plain line; last lines of a
/// log, where there are any, are for the receiver to show below it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A wanted port is taken and another one is used.
    PortReplaced {
        /// Whose port it is, such as "service `web`" or "the server's API".
        what: String,
        /// The port that was asked for.
        wanted: u16,
        /// The port that is used.
        used: u16,
    },
    /// A process was started, for the first time or again.
    Starting {
        /// Name of the instance; "server" is the server, a proxy is `INSTANCE.proxy`.
        instance: String,
        /// Its process id.
        pid: u32,
    },
    /// The server answers.
    ServerReady {
        /// Its HTTP API.
        api: SocketAddr,
        /// Its gRPC address.
        grpc: SocketAddr,
    },
    /// An instance may get requests, for the first time or again.
    Ready {
        /// Name of the instance.
        instance: String,
        /// Time since its process was started.
        after: Duration,
    },
    /// An instance may not get requests any more.
    Unready {
        /// Name of the instance.
        instance: String,
        /// What its check found.
        why: String,
    },
    /// A process ended without being asked to, or could not be started.
    Exited {
        /// Name of the instance.
        instance: String,
        /// How it ended, such as "exit status: 1".
        how: String,
        /// The last lines it printed, if it never became ready.
        last_lines: Vec<String>,
    },
    /// A process that ended will be started again.
    Restarting {
        /// Name of the instance.
        instance: String,
        /// Counts the failures in a row, 1 is the first.
        attempt: u32,
        /// Pause until then.
        after: Duration,
    },
    /// Everything is up.
    AllReady {
        /// URL of the application, if a service has a port of its own.
        app: Option<String>,
        /// URL of the server.
        api: String,
        /// Where each instance can be reached from outside.
        listening: Vec<Listening>,
    },
    /// Another mesh of this machine is the one that commands ask by default.
    StateFileHeld {
        /// The file that says which mesh commands ask.
        path: PathBuf,
        /// The launcher that it names.
        pid: u32,
    },
    /// Something is odd but handled.
    Warning {
        /// What, and what it means.
        what: String,
    },
    /// The mesh is being stopped.
    Stopping {
        /// Whether everything is killed without waiting.
        at_once: bool,
    },
    /// A process ended as it was asked to.
    Stopped {
        /// Name of the instance.
        instance: String,
        /// Whether it had to be killed.
        killed: bool,
    },
}

/// Where an instance can be reached: its inbound proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The service.
    pub service: String,
    /// The instance.
    pub instance: String,
    /// Where callers connect.
    pub address: SocketAddr,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortReplaced { what, wanted, used } => {
                write!(f, "port {wanted} of {what} is taken, using {used}")
            }
            Self::Starting { instance, pid } => write!(f, "starting {instance} (pid {pid})"),
            Self::ServerReady { api, grpc } => {
                write!(f, "server ready: http://{api} (gRPC on {grpc})")
            }
            Self::Ready { instance, after } => {
                write!(f, "{instance} ready after {:.1} s", after.as_secs_f64())
            }
            Self::Unready { instance, why } => write!(f, "{instance} is not ready: {why}"),
            Self::Exited { instance, how, .. } => write!(f, "{instance} ended: {how}"),
            Self::Restarting {
                instance,
                attempt,
                after,
            } => {
                let seconds = after.as_secs_f64();
                write!(
                    f,
                    "restarting {instance} in {seconds:.1} s (failure {attempt} in a row)"
                )
            }
            Self::AllReady { app, api, .. } => match app {
                Some(app) => write!(f, "all ready: application {app}, API {api}"),
                None => write!(f, "all ready: API {api}"),
            },
            Self::StateFileHeld { path, pid } => write!(
                f,
                "commands ask the mesh of process {pid} by default ({}): use --addr for this one",
                path.display()
            ),
            Self::Warning { what } => f.write_str(what),
            Self::Stopping { at_once: false } => f.write_str("stopping"),
            Self::Stopping { at_once: true } => f.write_str("stopping at once"),
            Self::Stopped {
                instance,
                killed: false,
            } => write!(f, "{instance} stopped"),
            Self::Stopped {
                instance,
                killed: true,
            } => {
                write!(f, "{instance} did not stop and was killed")
            }
        }
    }
}

/// Hands events to whoever listens, and counts those nobody took in time.
///
/// The channel is bounded, and supervision never waits for it: a terminal that
/// hangs must not keep a process from being restarted.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
}

impl Events {
    pub(crate) fn new(sender: mpsc::Sender<Event>) -> Self {
        Self {
            sender,
            lost: Arc::default(),
        }
    }

    pub(crate) fn send(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(event) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many events were lost because the channel was full.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
