//! `cargo xtask sim`: the mesh in a simulated network.
//!
//! The feature that it needs changes the proxy, so it is built apart from everything else:
//! cargo would otherwise build one proxy, with the feature, for all crates at once.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{program, workspace::Workspace};

/// What is built, and how.
const PACKAGE: &[&str] = &["--locked", "-p", "whodunit-sim", "--features", "simulation"];

/// Runs seeds; the arguments go to the simulation.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    let mut cargo = program::cargo();
    cargo.args(["run", "--quiet"]).args(PACKAGE);
    cargo.arg("--").args(args);
    program::run(cargo.current_dir(&workspace.root))?;
    Ok(ExitCode::SUCCESS)
}

/// Checks the simulation itself, which no other step builds, and runs its usual seeds.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut clippy = program::cargo();
    clippy.arg("clippy").args(PACKAGE);
    clippy.args(["--all-targets", "--", "-D", "warnings"]);
    program::run(clippy.current_dir(&workspace.root))?;
    let mut test = program::cargo();
    test.arg("test").args(PACKAGE);
    program::run(test.current_dir(&workspace.root))?;
    run(workspace, &[]).map(drop)
}
