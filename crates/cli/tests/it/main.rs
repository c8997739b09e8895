//! Runs the real binary: exit codes, errors, output formats, and what the
//! client does with the answers of a server.

mod answers;
mod exits;
mod meshes;
mod serve;
mod server;

use std::path::Path;
use std::process::{Command, Output};

/// The binary in an environment of its own: no server, no colors, UTC.
fn whodunit(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whodunit"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home)
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC");
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("standard output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("standard error is UTF-8")
}
