//! `unsafe` stands only in named modules, each with its reason.
//!
//! The workspace denies it, and every crate takes the workspace's lints; a module that
//! needs it says so with `#[expect(unsafe_code, reason = "…")]`. This check keeps the list
//! of those modules, so that a new one is a decision somebody sees.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// The modules, relative to the repository. Each has tests of its own.
const ALLOWED: &[&str] = &["crates/sim/src/random.rs"];

/// Fails when a crate does not take the workspace's lints, or a file that is not named
/// lifts the ban.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let root = &workspace.root;
    let manifest = root.join("Cargo.toml");
    let mut problems = Vec::new();
    if !read(&manifest)?.contains("unsafe_code = \"deny\"") {
        problems.push("Cargo.toml: unsafe_code is not denied".to_owned());
    }
    for entry in fs::read_dir(root.join("crates")).context("read crates")? {
        let folder = entry.context("read crates")?.path();
        let manifest = folder.join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        if !read(&manifest)?.contains("[lints]\nworkspace = true") {
            problems.push(format!(
                "{}: does not take the workspace's lints",
                shown(root, &manifest)
            ));
        }
        let mut sources = Vec::new();
        find_sources(&folder, &mut sources)?;
        for source in sources {
            let name = shown(root, &source);
            if lifts_the_ban(&read(&source)?) && !ALLOWED.contains(&name.as_str()) {
                problems.push(format!("{name}: unsafe is not for this module"));
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("{}", problems.join("\n"))
    }
}

/// Says whether an attribute of the text names the lint.
fn lifts_the_ban(text: &str) -> bool {
    let lines = text.lines().map(str::trim_start);
    let code: Vec<&str> = lines.filter(|line| !line.starts_with("//")).collect();
    let code = code.join("\n");
    // Attributes may be broken over lines.
    let outer = code.split("#[").skip(1);
    outer.chain(code.split("#![").skip(1)).any(|rest| {
        let attribute = rest.split(']').next().unwrap_or_default();
        let lifts = ["allow", "expect", "warn"];
        attribute.contains("unsafe_code") && lifts.iter().any(|word| attribute.contains(word))
    })
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn find_sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find_sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_lifts_the_ban_is_seen_and_other_words_are_not() {
        let lint = ["unsafe", "_code"].concat();
        for lifting in [
            format!("#[expect({lint}, reason = \"a\")]\nmod m;"),
            format!("#![allow(\n    {lint},\n)]"),
        ] {
            assert!(lifts_the_ban(&lifting), "{lifting}");
        }
        for harmless in [
            format!("// {lint} is denied"),
            format!("#[test]\nfn {lint}() {{}}"),
            format!("#![deny({lint})]"),
        ] {
            assert!(!lifts_the_ban(&harmless), "{harmless}");
        }
    }
}
