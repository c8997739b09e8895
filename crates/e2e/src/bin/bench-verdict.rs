//! Measures whether the demo's verdict is right, and how soon.
//!
//! Each run starts the real demo in an empty directory with its own seed. With
//! `VotePoop` failing, a run passes if the verdict names voting's `VotePoop` as
//! the culprit within ten seconds of its 20th failed inbound record. With
//! faults off, a run passes if nobody is accused at any time until 300 votes
//! were recorded. Exit code 1 if a run did not pass.
//!
//! `bench-verdict [--runs N] [--quiet-runs N] [--rate VOTES_PER_SECOND] [--first-seed N]`

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use whodunit_e2e::mesh::{Directory, Mesh};
use whodunit_e2e::{http, until};

/// How long after the 20th failure the culprit may be named.
const LIMIT: Duration = Duration::from_secs(10);

/// Votes of a run in which nothing fails.
const QUIET_VOTES: u64 = 300;

struct Settings {
    runs: u32,
    quiet_runs: u32,
    rate: f64,
    first_seed: u64,
}

fn main() -> ExitCode {
    match settings().and_then(|settings| measure(&settings)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench-verdict: {error}");
            ExitCode::from(2)
        }
    }
}

fn settings() -> io::Result<Settings> {
    let mut settings = Settings {
        runs: 50,
        quiet_runs: 50,
        rate: 20.0,
        first_seed: 1,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let wrong = || io::Error::other(format!("{name} takes a number"));
        let value = args.next().ok_or_else(wrong)?;
        match name.as_str() {
            "--runs" => settings.runs = value.parse().map_err(|_| wrong())?,
            "--quiet-runs" => settings.quiet_runs = value.parse().map_err(|_| wrong())?,
            "--rate" => settings.rate = value.parse().map_err(|_| wrong())?,
            "--first-seed" => settings.first_seed = value.parse().map_err(|_| wrong())?,
            _ => return Err(io::Error::other(format!("unknown option {name}"))),
        }
    }
    Ok(settings)
}

fn measure(settings: &Settings) -> io::Result<bool> {
    let mut out = io::stdout();
    writeln!(out, "VotePoop fails, {} votes/s:", settings.rate)?;
    let mut passed = 0;
    let mut times = Vec::new();
    for run in 0..settings.runs {
        let seed = settings.first_seed + u64::from(run);
        let found = failing_run(settings.rate, seed);
        let says = match found {
            Some(after) if after <= LIMIT.as_secs_f64() => {
                passed += 1;
                times.push(after);
                format!("named {after:+.1} s after its 20th failure")
            }
            Some(after) => format!("MISSED: named {after:+.1} s after its 20th failure"),
            None => "MISSED: not named".to_owned(),
        };
        writeln!(out, "  seed {seed:>4}  {says}")?;
    }
    writeln!(out, "nothing fails:")?;
    let mut quiet = 0;
    for run in 0..settings.quiet_runs {
        let seed = settings.first_seed + 10_000 + u64::from(run);
        let says = match quiet_run(settings.rate, seed) {
            None => {
                quiet += 1;
                "nobody accused".to_owned()
            }
            Some(accused) => format!("ACCUSED: {accused}"),
        };
        writeln!(out, "  seed {seed:>4}  {says}")?;
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
    let worst = times.last().copied().unwrap_or(f64::NAN);
    writeln!(
        out,
        "named right {passed} of {} (median {median:+.1} s, worst {worst:+.1} s after the 20th failure), nobody accused {quiet} of {}",
        settings.runs, settings.quiet_runs
    )?;
    Ok(passed == settings.runs && quiet == settings.quiet_runs)
}

fn start(rate: f64, seed: u64, fault: &str) -> Mesh {
    let directory = Directory::new();
    let data = directory.data().display().to_string();
    let (rate, seed) = (rate.to_string(), seed.to_string());
    Mesh::start(
        directory,
        [
            "demo", "--data", &data, "--rate", &rate, "--seed", &seed, "--fault", fault,
        ],
    )
}

fn ask(mesh: &Mesh, path: &str) -> Option<Value> {
    let answer = http::get(mesh.address("api"), &format!("/api/whodunit/v1/{path}")).ok()?;
    (answer.status == 200).then(|| serde_json::from_str(&answer.body).ok())?
}

fn now_s() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Seconds from the 20th failed inbound record to the right verdict; may be negative.
fn failing_run(rate: f64, seed: u64) -> Option<f64> {
    let mesh = start(rate, seed, "poop");
    let began = Instant::now();
    let mut named_at = None;
    let mut twentieth_at = None;
    while began.elapsed() < Duration::from_secs(120) {
        if named_at.is_none() {
            let verdict = ask(&mesh, "culprit").unwrap_or_default();
            let right = verdict["verdict"] == "culprit"
                && verdict["culprit"]["workload"] == "voting"
                && verdict["culprit"]["route"]
                    .as_str()
                    .is_some_and(|route| route.ends_with("/VotePoop"));
            named_at = right.then(now_s);
        }
        if twentieth_at.is_none() {
            twentieth_at = twentieth_failure(&mesh);
        }
        match (named_at, twentieth_at) {
            (Some(_), Some(_)) => break,
            (None, Some(twentieth)) if now_s() - twentieth > 2.0 * LIMIT.as_secs_f64() => break,
            _ => std::thread::park_timeout(Duration::from_millis(200)),
        }
    }
    mesh.stop();
    Some(named_at? - twentieth_at?)
}

fn twentieth_failure(mesh: &Mesh) -> Option<f64> {
    let filter = r#"{"and":[{"is":{"field":"workload","op":"eq","value":"voting"}},{"is":{"field":"side","op":"eq","value":"inbound"}},{"is":{"field":"outcome","op":"eq","value":"failure"}}]}"#;
    let filter: String = filter.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let tap = ask(
        mesh,
        &format!("tap?since=1h&oldest_first=true&limit=20&filter={filter}"),
    )?;
    let at_us = tap["records"].as_array()?.get(19)?["at_us"].as_i64()?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds since 1970 fit in 53 bits"
    )]
    Some(at_us as f64 / 1e6)
}

/// Who was accused while nothing failed.
fn quiet_run(rate: f64, seed: u64) -> Option<String> {
    let mesh = start(rate, seed, "none");
    let mut accused = None;
    until("the votes of a quiet run", Duration::from_secs(180), || {
        let verdict = ask(&mesh, "culprit")?;
        if verdict["verdict"] != "nothing" {
            accused = Some(verdict["says"].to_string());
            return Some(());
        }
        let stat = ask(&mesh, "stat?kind=workload&name=voting&since=1h")?;
        (stat["rows"][0]["requests"].as_u64()? >= QUIET_VOTES).then_some(())
    });
    mesh.stop();
    accused
}
