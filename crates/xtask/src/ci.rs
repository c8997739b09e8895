//! `cargo xtask ci`: everything that a change must pass, on a developer's
//! machine and in CI alike.
//!
//! Cheap steps come first, so that most mistakes are known within a minute. The
//! first failure stops unless `--keep-going` is given; either way the last lines
//! say which steps passed, failed or did not run, and how long each took.

use std::{
    ffi::OsString,
    fmt::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    bench, codegen, deps_map, program, sim, test, tools, unsafe_code, workspace::Workspace,
};

/// One thing to check.
struct Step {
    name: &'static str,
    /// What it says about the change, for the heading.
    about: &'static str,
    run: fn(&Workspace) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step {
        name: "format",
        about: "rustfmt has nothing to change",
        run: format,
    },
    Step {
        name: "map",
        about: "dependencies between our crates point down",
        run: deps_map::check,
    },
    Step {
        name: "unsafe",
        about: "unsafe code stands in named modules only",
        run: unsafe_code::check,
    },
    Step {
        name: "unused",
        about: "every dependency is used",
        run: unused,
    },
    Step {
        name: "spelling",
        about: "no misspelled words",
        run: spelling,
    },
    Step {
        name: "licenses",
        about: "licenses, bans and sources of dependencies",
        run: licenses,
    },
    Step {
        name: "lint",
        about: "clippy has no warning",
        run: lint,
    },
    Step {
        name: "generated",
        about: "generated code is current",
        run: generated,
    },
    Step {
        name: "docs",
        about: "documentation builds without a warning",
        run: docs,
    },
    Step {
        name: "test",
        about: "all tests pass",
        run: tests,
    },
    Step {
        name: "simulation",
        about: "a mesh in a simulated network keeps its promises",
        run: sim::check,
    },
    Step {
        name: "verdict",
        about: "the demo's verdict is right and in time",
        run: bench::quick_verdict,
    },
];

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed(Duration),
    Failed(Duration),
    NotRun,
}

/// Which steps to run, and whether a failure stops the rest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    keep_going: bool,
    /// Names of steps; all of them when empty.
    only: Vec<String>,
}

impl Request {
    /// Reads `[--keep-going] [STEP ...]`.
    pub(crate) fn parse(args: &[OsString]) -> Result<Self> {
        let mut request = Self::default();
        for arg in args {
            let arg = arg.to_string_lossy();
            if arg == "--keep-going" {
                request.keep_going = true;
            } else if STEPS.iter().any(|step| step.name == arg) {
                request.only.push(arg.into_owned());
            } else {
                let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
                bail!("unknown step `{arg}`; the steps are {}", names.join(", "));
            }
        }
        Ok(request)
    }

    fn wants(&self, step: &Step) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == step.name)
    }
}

/// Runs the steps and prints how they went.
pub(crate) fn run(workspace: &Workspace, request: &Request) -> Result<ExitCode> {
    let begin = Instant::now();
    let mut outcomes = Vec::new();
    let mut stopped = false;
    for step in STEPS.iter().filter(|step| request.wants(step)) {
        if stopped {
            outcomes.push((step.name, Outcome::NotRun));
            continue;
        }
        program::say(&format!("\n== {}: {}", step.name, step.about))?;
        let begin = Instant::now();
        let result = (step.run)(workspace);
        let took = begin.elapsed();
        let outcome = match result {
            Ok(()) => {
                program::say(&format!("== {} passed in {}", step.name, seconds(took)))?;
                Outcome::Passed(took)
            }
            Err(error) => {
                program::say(&format!(
                    "== {} FAILED in {}: {error:#}",
                    step.name,
                    seconds(took)
                ))?;
                stopped = !request.keep_going;
                Outcome::Failed(took)
            }
        };
        outcomes.push((step.name, outcome));
    }
    program::say(&summary(&outcomes, begin.elapsed()))?;
    let passed = outcomes
        .iter()
        .all(|(_, outcome)| matches!(outcome, Outcome::Passed(_)));
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn summary(outcomes: &[(&str, Outcome)], took: Duration) -> String {
    let mut text = "\n== summary\n".to_owned();
    for (name, outcome) in outcomes {
        let (word, time) = match outcome {
            Outcome::Passed(took) => ("ok", seconds(*took)),
            Outcome::Failed(took) => ("FAILED", seconds(*took)),
            Outcome::NotRun => ("not run", String::new()),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}",
            format!("{name:<10} {word:<8} {time:>9}").trim_end()
        );
    }
    let _ = write!(text, "{:<19} {:>9}", "total", seconds(took));
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn format(workspace: &Workspace) -> Result<()> {
    let mut cargo = program::cargo();
    program::run(
        cargo
            .args(["fmt", "--all", "--check"])
            .current_dir(&workspace.root),
    )
}

fn unused(workspace: &Workspace) -> Result<()> {
    let mut machete = tools::command(workspace, &tools::MACHETE)?;
    // Not `--with-metadata`: when cargo cannot answer, it passes without a look.
    program::run(machete.arg("crates"))
}

fn spelling(workspace: &Workspace) -> Result<()> {
    let mut typos = tools::command(workspace, &tools::TYPOS)?;
    program::run(typos.args(["--hidden", "."]))
}

fn licenses(workspace: &Workspace) -> Result<()> {
    let mut deny = tools::command(workspace, &tools::DENY)?;
    // Not `advisories`: its database is fetched at run time, and a change must
    // not fail for what is published elsewhere meanwhile.
    program::run(
        deny.args(["--locked", "check", "--hide-inclusion-graph"])
            .args(["bans", "licenses", "sources"]),
    )
}

fn lint(workspace: &Workspace) -> Result<()> {
    let mut cargo = program::cargo();
    cargo.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]);
    program::run(cargo.current_dir(&workspace.root))
}

fn generated(workspace: &Workspace) -> Result<()> {
    codegen::run(workspace, &["--check".into()]).map(drop)
}

fn docs(workspace: &Workspace) -> Result<()> {
    let mut cargo = program::cargo();
    cargo
        .args(["doc", "--no-deps", "--workspace", "--locked"])
        .env("RUSTDOCFLAGS", "-Dwarnings");
    program::run(cargo.current_dir(&workspace.root))
}

fn tests(workspace: &Workspace) -> Result<()> {
    test::run(workspace, &test::Request::default()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_can_be_picked_by_name() {
        let request = Request::parse(&["--keep-going".into(), "lint".into()]).unwrap();
        assert!(request.keep_going);
        let names = STEPS
            .iter()
            .filter(|step| request.wants(step))
            .map(|step| step.name);
        assert_eq!(names.collect::<Vec<_>>(), ["lint"]);
        let all = Request::default();
        assert!(STEPS.iter().all(|step| all.wants(step)));
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_known_ones() {
        let error = Request::parse(&["clippy".into()]).unwrap_err().to_string();
        assert!(
            error.starts_with("unknown step `clippy`; the steps are format, map,"),
            "{error}"
        );
    }

    #[test]
    fn the_summary_says_what_did_not_run() {
        let outcomes = [
            ("format", Outcome::Passed(Duration::from_millis(1250))),
            ("lint", Outcome::Failed(Duration::from_secs(90))),
            ("test", Outcome::NotRun),
        ];
        assert_eq!(
            summary(&outcomes, Duration::from_secs(92)),
            "\n== summary\n\
             format     ok           1.2 s\n\
             lint       FAILED      90.0 s\n\
             test       not run\n\
             total                  92.0 s"
        );
    }
}
