//! The four workloads over real sockets, and the binary as somebody would start it.

mod app;
mod binary;
mod faults;
mod rest;
mod wire;
