//! Answers from recorded requests.
//!
//! Everything here is a pure function of [`Rows`](whodunit_model::Rows): no
//! clock, no I/O, no randomness, so every answer can be computed again from the
//! same records. The order of rows never matters, and ties are broken by text,
//! so equal records give equal answers.
//!
//! - [`stat`], [`routes`], [`edges`], [`top`]: golden signals with exact quantiles.
//! - [`calltree`]: which call was made on behalf of which.
//! - [`attributes`]: what separates failed requests from good ones.
//! - [`culprit`]: who did it.
//!
//! Times are microseconds since the Unix epoch, durations microseconds.

mod hops;
mod numbers;
mod symbols;
#[cfg(test)]
mod traffic;
mod window;

pub mod attributes;
pub mod calltree;
pub mod culprit;
pub mod edges;
pub mod routes;
pub mod stat;
pub mod top;

pub use numbers::Quantiles;
pub use window::Window;
