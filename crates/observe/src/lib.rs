//! The server: takes records from proxies and answers questions about them.
//!
//! [`Server::start`] opens the store, serves gRPC (records, reports, discovery)
//! on one address and HTTP (the API of `whodunit-api`) on another. The
//! questions are a library of their own: [`Queries`] answers the same ones from
//! a data directory without a server.
//!
//! Nothing here touches traffic: proxies go on when this server is gone.

mod accept;
mod clock;
mod http;
mod ingest;
mod live;
mod members;
mod proxies;
pub mod query;
mod seats;
mod server;

pub use live::Live;
pub use query::{Queries, QueryError};
pub use server::{Options, Running, Server, ServerError};
pub use whodunit_store as store;

use tokio::sync::watch;

/// Returns when the server stops, or is dropped without stopping.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Fails only if the server was dropped.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Returns an error with everything that led to it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
