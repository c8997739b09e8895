//! Runs small meshes of real processes.

mod bench;
mod lifecycle;
mod refused;
mod watchdog;
