//! `cargo xtask test`: installs what the tests need, builds, and runs them.
//!
//! The end-to-end tests start the product's real binaries and real software of
//! other people, so both are made ready first. A crate tested alone with `-p`
//! waits for neither.

mod prerequisites;

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{program, workspace::Workspace};

/// The folder, and the package, of the tests that run the whole product.
const END_TO_END: &str = "e2e";

/// A variable for the tests: its name and value.
type Variable = (&'static str, OsString);

/// What to test.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Folder or package names; all crates when empty.
    crates: Vec<String>,
    /// Install only, and print the variables that the tests read.
    prepare: bool,
    /// Passed to the test binaries: a filter, `--nocapture` and so on.
    rest: Vec<OsString>,
}

impl Request {
    /// Reads `[--prepare] [-p CRATE]... [[--] ARGS]`.
    pub(crate) fn parse(args: &[OsString]) -> Result<Self> {
        let mut request = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "-p" || arg == "--package" {
                let name = args.next().and_then(|name| name.to_str());
                request
                    .crates
                    .push(name.context("-p needs the name of a crate")?.to_owned());
            } else if arg == "--prepare" {
                request.prepare = true;
            } else if arg == "--" {
                request.rest.extend(args.by_ref().cloned());
            } else if arg.as_encoded_bytes().starts_with(b"-") {
                bail!(
                    "unknown option `{}`; options of the test binaries go behind `--`",
                    arg.to_string_lossy()
                );
            } else {
                request.rest.push(arg.clone());
            }
        }
        Ok(request)
    }
}

/// Runs the tests.
pub(crate) fn run(workspace: &Workspace, request: &Request) -> Result<ExitCode> {
    if request.prepare {
        for (name, value) in prerequisites::install(workspace)? {
            program::say(&format!("export {name}='{}'", value.display()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let packages = packages(workspace, &request.crates)?;
    let whole = packages.is_empty();
    let end_to_end = workspace.crates.get(END_TO_END);
    let mut variables = Vec::new();
    if end_to_end.is_some_and(|e2e| whole || packages.contains(&e2e.package)) {
        variables = prerequisites::install(workspace)?;
        let mut build = program::cargo();
        build.args(["build", "--locked", "--workspace", "--bins"]);
        if whole {
            // Together with the tests, so that cargo picks one set of features
            // for both and compiles nothing twice.
            build.args(["--tests", "--examples"]);
        }
        program::run(build.current_dir(&workspace.root))?;
    }

    let mut test = program::cargo();
    test.args(["test", "--locked", "--no-fail-fast"]);
    if whole {
        test.arg("--workspace");
    }
    for package in &packages {
        test.args(["-p", package]);
    }
    if !request.rest.is_empty() {
        test.arg("--").args(&request.rest);
    }
    for (name, value) in variables {
        test.env(name, value);
    }
    program::run(test.current_dir(&workspace.root))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the packages to test, named by folder (`store`) or package (`whodunit-store`).
fn packages(workspace: &Workspace, names: &[String]) -> Result<Vec<String>> {
    let package = |name: &String| {
        let by_folder = workspace.crates.get(name);
        let by_package = || {
            workspace
                .crates
                .values()
                .find(|found| found.package == *name)
        };
        let found = by_folder.or_else(by_package);
        found.map(|found| found.package.clone()).with_context(|| {
            let known: Vec<&str> = workspace.crates.keys().map(String::as_str).collect();
            format!("there is no crate `{name}`; there are {}", known.join(", "))
        })
    };
    names.iter().map(package).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::workspace::Crate;

    fn parse(line: &str) -> Result<Request> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Request::parse(&args)
    }

    fn workspace(crates: &[(&str, &str)]) -> Workspace {
        let named = |(folder, package): &(&str, &str)| {
            let found = Crate {
                package: (*package).to_owned(),
                ..Crate::default()
            };
            ((*folder).to_owned(), found)
        };
        let crates: BTreeMap<_, _> = crates.iter().map(named).collect();
        Workspace {
            root: "/src".into(),
            target: "/src/target".into(),
            crates,
        }
    }

    #[test]
    fn crates_and_filters_are_told_apart() {
        let request = parse("-p store --package whodunit-wire torn_frame -- --nocapture").unwrap();
        assert_eq!(request.crates, ["store", "whodunit-wire"]);
        assert_eq!(request.rest, ["torn_frame", "--nocapture"]);
        assert_eq!(parse("").unwrap(), Request::default());
        assert!(parse("--prepare").unwrap().prepare);
    }

    #[test]
    fn options_that_are_not_ours_are_refused() {
        assert!(parse("-p").is_err());
        let error = parse("--nocapture").unwrap_err().to_string();
        assert!(error.starts_with("unknown option `--nocapture`"), "{error}");
    }

    #[test]
    fn a_crate_is_named_by_its_folder_or_its_package() {
        let workspace = workspace(&[("cli", "whodunit"), ("store", "whodunit-store")]);
        let names = ["cli".to_owned(), "whodunit-store".to_owned()];
        assert_eq!(
            packages(&workspace, &names).unwrap(),
            ["whodunit", "whodunit-store"]
        );
        let error = packages(&workspace, &["stor".to_owned()])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "there is no crate `stor`; there are cli, store");
    }
}
