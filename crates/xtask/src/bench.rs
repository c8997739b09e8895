//! `cargo xtask bench`: measures the real product from outside.
//!
//! The measuring itself is a program of the end-to-end crate, because it drives
//! the product the way the end-to-end tests do, or of the crate `bench`, which
//! makes more load than those can; this starts it.

use std::{
    ffi::{OsStr, OsString},
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};

use crate::{program, workspace::Workspace};

/// Our programs that take part in a measurement.
const PACKAGES: &[&str] = &[
    "whodunit",
    "whodunit-proxy",
    "emojivoto",
    "whodunit-e2e",
    "whodunit-bench",
];

/// What can be measured: the name, and the program that does.
const BENCHES: &[(&str, &str)] = &[
    ("verdict", "bench-verdict"),
    ("commands", "bench-commands"),
    ("proxy", "bench-proxy"),
    ("outage", "bench-outage"),
];

/// Builds in release mode and measures; what follows the name goes to the program.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    if let [name] = args
        && name == "restart"
    {
        return restart(workspace);
    }
    let Some((bench, rest)) = args
        .split_first()
        .and_then(|(name, rest)| Some((find(name)?, rest)))
    else {
        let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        bail!(
            "bench needs the name of a measurement: {}, restart",
            names.join(", ")
        );
    };
    measure(workspace, bench, Profile::Release, rest)?;
    Ok(ExitCode::SUCCESS)
}

/// Restarts three instances twenty times at 1,000 requests per second, in each order; the
/// tests of the proxy do the same in small.
fn restart(workspace: &Workspace) -> Result<ExitCode> {
    let mut test = program::cargo();
    test.args(["test", "--locked", "--release", "-p", "whodunit-proxy"])
        .args(["--test", "it", "rolling::", "--", "--nocapture"])
        .args(["--test-threads", "1"])
        .env("WHODUNIT_RESTART_ROUNDS", "20")
        .env("WHODUNIT_RESTART_RATE", "1000")
        .current_dir(&workspace.root);
    program::run(&mut test)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the demo for a long time, and says what grows.
pub(crate) fn soak(workspace: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    measure(workspace, "soak", Profile::Release, args)?;
    Ok(ExitCode::SUCCESS)
}

/// A few runs of each kind with the binaries that the tests use: enough for CI
/// to see a verdict that is wrong or late.
pub(crate) fn quick_verdict(workspace: &Workspace) -> Result<()> {
    let args = ["--runs", "3", "--quiet-runs", "3"].map(OsString::from);
    measure(workspace, "bench-verdict", Profile::Debug, &args)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Debug,
    Release,
}

fn measure(workspace: &Workspace, bench: &str, profile: Profile, args: &[OsString]) -> Result<()> {
    let mut build = program::cargo();
    build
        .args(["build", "--locked", "--bins"])
        .current_dir(&workspace.root);
    let folder = match profile {
        // As in `test`, so that what it built is used as it is.
        Profile::Debug => {
            build.args(["--workspace", "--tests", "--examples"]);
            "debug"
        }
        Profile::Release => {
            build
                .arg("--release")
                .args(PACKAGES.iter().flat_map(|name| ["-p", name]));
            "release"
        }
    };
    program::run(&mut build)?;
    program::run(Command::new(workspace.target.join(folder).join(bench)).args(args))
}

fn find(name: &OsStr) -> Option<&'static str> {
    BENCHES
        .iter()
        .find(|(known, _)| name == *known)
        .map(|(_, bench)| *bench)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_found_by_name_only() {
        assert_eq!(find(OsStr::new("verdict")), Some("bench-verdict"));
        assert_eq!(find(OsStr::new("proxy")), Some("bench-proxy"));
        assert_eq!(find(OsStr::new("bench-verdict")), None);
    }
}
