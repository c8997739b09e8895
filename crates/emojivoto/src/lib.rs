//! Emojivoto, the demo application: one binary that plays all four workloads.
//!
//! `web` serves the pages and a small REST API, `emoji` knows the list, `voting`
//! counts, `vote-bot` votes. The protocol, routes, environment variables and metrics
//! are those of the well-known demo of this name, so its tutorials apply. One vote
//! is broken on purpose, and nothing the application itself reports says which.
//!
//! It knows nothing of any mesh: whatever watches it must do so from outside.

pub mod bot;
pub mod catalog;
pub mod cli;
pub mod control;
pub mod emoji;
pub mod faults;
pub mod go;
mod http_client;
pub mod log;
pub mod metrics;
pub mod random;
pub mod rpc;
pub mod serve;
pub mod voting;
pub mod web;

/// The messages of `emojivoto.v1`, generated from `proto/emojivoto.proto`.
pub mod v1 {
    include!("generated/emojivoto.v1.rs");
}

/// The messages of `grpc.health.v1`, generated from `proto/health.proto`.
pub mod health_v1 {
    include!("generated/grpc.health.v1.rs");
}
