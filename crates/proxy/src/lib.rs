//! The data plane: one proxy beside each instance of an application.
//!
//! Requests come in through listeners, go out to the application or to another
//! instance, and leave one record each in the flight recorder. The way of a
//! request is one function, `http::serve`; recording sits around it, so what the
//! proxy itself refuses or fails is recorded like any other request.
//!
//! Each worker thread has a runtime, listeners and upstream connections of its
//! own; a connection never leaves its thread, so the request path needs no lock.
//! Discovery, sending of records and the admin address live on one more thread.
//! Nothing here may delay a request for the sake of a record, and no connection
//! may bring the process down.

#![cfg_attr(
    feature = "simulation",
    expect(
        clippy::useless_conversion,
        reason = "time is the runtime's already there"
    )
)]

mod admin;
mod buffers;
mod call;
mod clock;
mod coalesce;
pub mod config;
mod control;
mod detect;
mod frames;
#[doc(hidden)]
pub mod fuzz;
mod h1;
mod http;
mod limits;
pub mod log;
mod metrics;
mod net;
mod opaque;
mod policy;
mod running;
mod sending;
mod snapshot;
mod stats;
mod strings;
mod targets;
mod thread;
mod tls;
mod upstream;
mod worker;

pub use config::{Config, ConfigError};
pub use running::{Proxy, Running, StartError};

/// The version of the proxy.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
