//! The programs that `ci` needs beside the toolchain, each in one fixed version.
//!
//! They are built by `cargo install` into `target/tools`, so nothing outside the
//! repository changes, and used again as long as the version is right.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{program, workspace::Workspace};

/// A program from crates.io.
pub(crate) struct Tool {
    /// The crate to install.
    package: &'static str,
    version: &'static str,
    /// The file that it installs.
    binary: &'static str,
}

/// Checks licenses, bans and sources of what we depend on.
pub(crate) const DENY: Tool = Tool {
    package: "cargo-deny",
    version: "0.20.2",
    binary: "cargo-deny",
};
/// Finds dependencies that nothing uses; reads sources only, so it needs no build.
pub(crate) const MACHETE: Tool = Tool {
    package: "cargo-machete",
    version: "0.9.2",
    binary: "cargo-machete",
};
/// Finds misspelled words.
pub(crate) const TYPOS: Tool = Tool {
    package: "typos-cli",
    version: "1.52.0",
    binary: "typos",
};

/// All of them: they share most of what they are built from, so whoever needs one
/// gets all in half the time that one after the other takes.
const ALL: &[&Tool] = &[&DENY, &MACHETE, &TYPOS];

/// Returns a command for the tool, after installing it if it is not there.
pub(crate) fn command(workspace: &Workspace, tool: &Tool) -> Result<Command> {
    let root = workspace.target.join("tools");
    let file = |tool: &Tool| root.join("bin").join(tool.binary);
    let has = |tool: &Tool| installed_version(&file(tool)).as_deref() == Some(tool.version);
    if !has(tool) {
        let missing: Vec<&Tool> = ALL.iter().copied().filter(|tool| !has(tool)).collect();
        install(workspace, &root, &missing)?;
    }
    let mut command = Command::new(file(tool));
    command.current_dir(&workspace.root);
    Ok(command)
}

fn install(workspace: &Workspace, root: &Path, tools: &[&Tool]) -> Result<()> {
    let crates: Vec<String> = tools
        .iter()
        .map(|tool| format!("{}@{}", tool.package, tool.version))
        .collect();
    program::say(&format!(
        "Installing from crates.io into {}, which takes minutes: {}.",
        root.display(),
        crates.join(" ")
    ))?;
    let begin = Instant::now();
    let build = root.join("build");
    let mut cargo = program::cargo();
    cargo
        .args(["install", "--quiet", "--locked", "--force", "--root"])
        .arg(root)
        .args(&crates)
        .env("CARGO_TARGET_DIR", &build)
        // They run for a second and take minutes to build, so build them cheaply.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .current_dir(&workspace.root);
    let installed = program::run(&mut cargo);
    // About 1 GB that nothing needs again.
    if build.exists() {
        fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))?;
    }
    installed?;
    program::say(&format!("Installed in {} s.", begin.elapsed().as_secs()))
}

/// The version a program says it has; nothing when it is absent or says none.
fn installed_version(file: &Path) -> Option<String> {
    let output = Command::new(file)
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Reads `cargo-deny 0.20.2` and, as some print it, a bare `0.9.2`.
fn parse_version(printed: &str) -> Option<String> {
    let word = printed.lines().next()?.split_whitespace().last()?;
    word.starts_with(|c: char| c.is_ascii_digit())
        .then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_and_without_the_program_name() {
        assert_eq!(
            parse_version("cargo-deny 0.20.2\n").as_deref(),
            Some("0.20.2")
        );
        assert_eq!(parse_version("0.9.2\n").as_deref(), Some("0.9.2"));
        assert_eq!(parse_version(""), None);
        assert_eq!(parse_version("usage: typos\n"), None);
    }

    #[test]
    fn an_absent_program_has_no_version() {
        assert_eq!(installed_version(Path::new("/no/such/program")), None);
    }
}
