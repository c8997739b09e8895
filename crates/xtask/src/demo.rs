//! `cargo xtask demo`: builds the demo's three programs, then becomes `whodunit demo`.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::{program, workspace::Workspace};

/// Builds in release mode, because the demo's latencies are on show, and hands
/// the terminal over. The demo replaces this process, so Ctrl-C and the exit
/// code are its own.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    program::say(
        "Building whodunit, whodunit-proxy and emojivoto (the first time takes minutes).",
    )?;
    program::run(
        program::cargo()
            .args(["build", "--locked", "--release", "--bins"])
            .args(["-p", "whodunit", "-p", "whodunit-proxy", "-p", "emojivoto"])
            .current_dir(&workspace.root),
    )?;
    let whodunit = workspace.target.join("release/whodunit");
    let error = Command::new(&whodunit).arg("demo").args(args).exec();
    Err(error).with_context(|| format!("start {}", whodunit.display()))
}
