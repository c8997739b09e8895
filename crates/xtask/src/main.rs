//! The chores of this repository: `cargo xtask demo`, `test`, `ci`,
//! `bench`, `soak`, `sim`, `codegen`.
//!
//! One command, one file. This crate starts other programs and reads their
//! answers; nothing that the product needs to build or run lives here. It is
//! compiled before any command can begin, so it keeps its dependencies few.

mod bench;
mod ci;
mod codegen;
mod demo;
mod deps_map;
mod program;
mod sim;
mod test;
mod tools;
mod unsafe_code;
mod workspace;

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};

use crate::workspace::Workspace;

const HELP: &str = "\
Usage: cargo xtask COMMAND

Commands:
  demo [ARGS]             build the demo and start it; ARGS go to `whodunit demo`
  test [-p CRATE] [-- ARGS]
                          install what the tests need and run them; ARGS go to the test binaries
  test --prepare          only install, and print the variables that the tests read
  ci [--keep-going] [STEP ...]
                          everything a change must pass; name steps to run only those
  bench verdict [ARGS]    measure whether the verdict is right, and how soon; ARGS are
                          --runs N, --quiet-runs N, --rate VOTES_PER_SECOND, --first-seed N
  bench commands [ARGS]   measure how fast the commands answer; ARGS are --records N, --runs N
  bench proxy [ARGS]      measure the proxy beside HAProxy and nginx, where installed; ARGS are
                          --rounds N, --seconds S, --only NAME,NAME, --ours PATH
  bench outage [ARGS]     kill the server under load, count what fails until it is back; ARGS are
                          --seconds N, --rate REQUESTS_PER_SECOND, --patience FACTOR
  bench restart           restart instances under load in every order, and count failed requests
  soak [ARGS]             run the demo with churn, and fail if memory, descriptors or threads grow;
                          ARGS are --minutes N, --rate VOTES_PER_SECOND
  sim [--first N] [--seeds COUNT]
                          run a mesh in a simulated network, one failure schedule per seed
  sim --seed N            the same for one seed, and print all that happens
  codegen [--check]       generate Rust from the .proto files and docs/limits.md; --check compares only
";

/// Exit code for a command line we do not understand, as in the product itself.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let command = args.next();
    let rest: Vec<OsString> = args.collect();
    match dispatch(command, rest) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Option<OsString>, rest: Vec<OsString>) -> Result<ExitCode> {
    let Some(command) = command else {
        return usage("a command is missing");
    };
    match command.to_str() {
        Some("help" | "-h" | "--help") => {
            io::stdout()
                .write_all(HELP.as_bytes())
                .context("print the help")?;
            Ok(ExitCode::SUCCESS)
        }
        Some("demo") => demo::run(&Workspace::load()?, &rest),
        Some("test") => match test::Request::parse(&rest) {
            Ok(request) => test::run(&Workspace::load()?, &request),
            Err(error) => usage(&error.to_string()),
        },
        Some("ci") => match ci::Request::parse(&rest) {
            Ok(request) => ci::run(&Workspace::load()?, &request),
            Err(error) => usage(&error.to_string()),
        },
        Some("bench") => bench::run(&Workspace::load()?, &rest),
        Some("soak") => bench::soak(&Workspace::load()?, &rest),
        Some("sim") => sim::run(&Workspace::load()?, &rest),
        Some("codegen") => codegen::run(&Workspace::load()?, &rest),
        _ => usage(&format!("unknown command `{}`", command.to_string_lossy())),
    }
}

fn usage(problem: &str) -> Result<ExitCode> {
    write!(io::stderr(), "error: {problem}\n\n{HELP}").context("print the usage")?;
    Ok(ExitCode::from(USAGE))
}
