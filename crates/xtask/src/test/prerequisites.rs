//! What the end-to-end tests drive and we do not build: nginx, httpbin under
//! gunicorn, Redis, curl and wrk.
//!
//! Programs come from Debian, and only root can install them; Python packages
//! go into a virtual environment in the target folder. Nothing is installed
//! without saying so first, and nothing that is there already.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::Variable;
use crate::{program, workspace::Workspace};

/// A program that Debian has.
struct Program {
    name: &'static str,
    /// The package that has it.
    debian: &'static str,
    /// The environment variable that tells the tests where it is.
    variable: Option<&'static str>,
    /// The service that the package starts where systemd runs.
    service: Option<&'static str>,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "nginx",
        debian: "nginx",
        variable: Some("WHODUNIT_TEST_NGINX"),
        service: Some("nginx"),
    },
    Program {
        name: "redis-server",
        debian: "redis-server",
        variable: Some("WHODUNIT_TEST_REDIS"),
        service: Some("redis-server"),
    },
    Program {
        name: "curl",
        debian: "curl",
        variable: Some("WHODUNIT_TEST_CURL"),
        service: None,
    },
    Program {
        name: "wrk",
        debian: "wrk",
        variable: Some("WHODUNIT_TEST_WRK"),
        service: None,
    },
    Program {
        name: "ip",
        debian: "iproute2",
        variable: None,
        service: None,
    },
    Program {
        name: "nft",
        debian: "nftables",
        variable: None,
        service: None,
    },
    Program {
        name: "python3",
        debian: "python3",
        variable: None,
        service: None,
    },
];

/// Debian ships Python without the part that makes virtual environments.
const PYTHON_VENV: &str = "python3-venv";

/// The packages of the virtual environment, all with their versions.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// Installs what is missing and returns the variables that tell the tests where
/// everything is.
pub(super) fn install(workspace: &Workspace) -> Result<Vec<Variable>> {
    let missing = missing_packages();
    if !missing.is_empty() {
        install_debian(&missing)?;
    }
    let venv = workspace.target.join("tools/venv");
    install_python(&venv)?;

    let mut variables = vec![
        ("WHODUNIT_TEST_GUNICORN", venv.join("bin/gunicorn").into()),
        ("WHODUNIT_TEST_VENV", venv.into()),
    ];
    for wanted in PROGRAMS {
        let found = program::find(wanted.name);
        let found = found.with_context(|| format!("{} is still missing", wanted.name))?;
        variables.extend(wanted.variable.map(|variable| (variable, found.into())));
    }
    Ok(variables)
}

fn missing_packages() -> Vec<&'static str> {
    let absent = |wanted: &&Program| program::find(wanted.name).is_none();
    let mut packages: Vec<_> = PROGRAMS
        .iter()
        .filter(absent)
        .map(|found| found.debian)
        .collect();
    let has_venv = Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_venv {
        packages.push(PYTHON_VENV);
    }
    packages
}

fn install_debian(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if program::find("apt-get").is_none() || !is_root() {
        bail!(
            "the end-to-end tests need programs that are not here; install them first, \
             on Debian with `sudo apt-get install {list}`"
        );
    }
    program::say(&format!(
        "Installing from Debian, for the end-to-end tests: {list}."
    ))?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        // Another apt may be at work, such as the machine's own updates.
        command
            .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
            .args(args);
        program::run(command.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    let install = || {
        let head = ["install", "-y", "--no-install-recommends"];
        apt(&[&head, packages].concat())
    };
    // A fresh machine has no package lists, an old one has stale ones.
    if install().is_err() {
        apt(&["update"])?;
        install()?;
    }
    // Where systemd runs, packages start servers, nginx on port 80 for one. Nobody
    // asked for those; the tests start their own.
    if Path::new("/run/systemd/system").exists() {
        let new = PROGRAMS
            .iter()
            .filter(|wanted| packages.contains(&wanted.debian));
        for service in new.filter_map(|wanted| wanted.service) {
            program::run(Command::new("systemctl").args(["disable", "--now", service]))?;
        }
    }
    Ok(())
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Makes the virtual environment, unless it is there with exactly these packages.
fn install_python(venv: &Path) -> Result<()> {
    // Scripts in it carry its full path, so one that was moved is made anew.
    let wanted = format!("# {}\n{REQUIREMENTS}", venv.display());
    let stamp = venv.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    program::say(&format!(
        "Installing from PyPI into {}, for the end-to-end tests: {}.",
        venv.display(),
        requirement_names(REQUIREMENTS).join(" ")
    ))?;
    program::run(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(venv),
    )?;
    let list = venv.join("requirements.txt");
    fs::write(&list, REQUIREMENTS).with_context(|| format!("write {}", list.display()))?;
    program::run(
        Command::new(venv.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .arg("--requirement")
            .arg(&list),
    )?;
    // Last, so that an installation cut short is not taken for a whole one.
    fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))
}

/// The packages of a requirements file, `name==version` each.
fn requirement_names(text: &str) -> Vec<&str> {
    let lines = text
        .lines()
        .map(|line| line.split(['#', ';']).next().unwrap_or("").trim());
    lines.filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_named_without_comments_and_conditions() {
        let text = "# Why.\n\nsix==1.17.0\ngreenlet==2.0.2; python_version < \"3.12\" # x\n";
        assert_eq!(requirement_names(text), ["six==1.17.0", "greenlet==2.0.2"]);
    }

    #[test]
    fn every_python_package_is_pinned() {
        let names = requirement_names(REQUIREMENTS);
        assert!(names.iter().any(|name| name.starts_with("httpbin==")));
        assert!(names.iter().any(|name| name.starts_with("gunicorn==")));
        let loose: Vec<_> = names.iter().filter(|name| !name.contains("==")).collect();
        assert!(loose.is_empty(), "{loose:?}");
    }
}
