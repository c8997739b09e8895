//! The product as a whole, on its real binaries.
//!
//! Needs `whodunit`, `whodunit-proxy` and `emojivoto` in the target folder
//! (`cargo xtask test` builds them). Each test has its own directory, ports and
//! processes; meshes run one at a time so that their timings mean something.

mod bad_input;
mod culprit;
mod demo;
mod durability;
mod httpbin;
mod isolate;
mod outage;
mod redis;
mod secrets;
mod slope;
mod support;
