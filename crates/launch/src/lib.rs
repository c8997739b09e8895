//! Runs a mesh on one machine: the server, every service as real processes,
//! and a proxy beside each instance.
//!
//! [`run`] takes a checked mesh file and returns when all of it has been
//! stopped again. It starts what is called before those who call it, restarts
//! what dies, tells discovery who is ready, and keeps what processes print. It
//! holds no data itself, and prints nothing: what happens is told as [`Event`]s.
//!
//! Whatever ends the launcher, nothing that it started lives on: a watchdog
//! process ([`watchdog_main`]) clears away when the launcher cannot.

mod error;
mod event;
mod find;
mod fleet;
mod isolate;
mod layout;
mod log;
mod options;
mod order;
mod plan;
mod ports;
mod probe;
mod process;
mod proxy_config;
pub mod state;
mod stop;
mod supervise;
mod topology;
mod watchdog;

pub use error::LaunchError;
pub use event::{Event, Listening};
pub use fleet::{Ended, run};
pub use isolate::{ENTER_COMMAND, enter_main};
pub use options::{Options, RunningServer, default_data_dir};
pub use ports::NoFreePort;
pub use stop::{Stop, StopHandle};
pub use watchdog::{WATCHDOG_COMMAND, watchdog_main};
