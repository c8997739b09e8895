//! Counters of the request path, one set per worker thread, merged when scraped.
//!
//! Names, labels and buckets of requests and connections are Linkerd's. A scope is
//! one set of labels; its numbers are plain cells, as only its thread touches them.
//! The number of series is bounded: what comes later is counted in one overflow scope.

mod render;
mod scope;

pub(crate) use render::{Own, Process, discarded, dropped, render};
pub(crate) use scope::{
    Authorization, Labels, Metrics, Response, Scope, ScopeKey, Snapshot, Transport,
};
