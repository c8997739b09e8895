//! `cargo xtask codegen`: runs the generator, which is a crate of its own so
//! that no other command waits for a protobuf compiler to build.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{program, workspace::Workspace};

/// Generates the committed code, or with `--check` compares only.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    program::run(
        program::cargo()
            .args([
                "run",
                "--quiet",
                "--locked",
                "--package",
                "whodunit-codegen",
                "--",
            ])
            .args(args)
            .current_dir(&workspace.root),
    )?;
    Ok(ExitCode::SUCCESS)
}
