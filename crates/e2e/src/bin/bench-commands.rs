//! Measures how long each command takes on one hour's worth of demo history.
//!
//! Fills an empty demo with as many records as it makes in an hour at its own
//! pace (five votes a second, ten records a vote), then runs every command as a
//! user would, the whole process from start to exit, over the whole history.
//!
//! `bench-commands [--records N] [--runs N]`; exit code 1 if a median is above 300 ms.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use whodunit_e2e::http;
use whodunit_e2e::mesh::{Directory, Mesh};

/// What a command may take, milliseconds.
const LIMIT_MS: f64 = 300.0;

/// Records of one hour of the demo: 5 votes/s × 3,600 s × 10 records.
const RECORDS: u64 = 180_000;

/// Connections that fill the history.
const CONNECTIONS: usize = 8;

fn main() -> ExitCode {
    let mut records = RECORDS;
    let mut runs = 9;
    let mut args = std::env::args().skip(1);
    while let (Some(name), value) = (args.next(), args.next()) {
        let number = value.and_then(|value| value.parse::<u64>().ok());
        match (name.as_str(), number) {
            ("--records", Some(number)) => records = number,
            ("--runs", Some(number)) => runs = number.max(1),
            _ => {
                let _ = writeln!(io::stderr(), "bench-commands: --records N, --runs N");
                return ExitCode::from(2);
            }
        }
    }
    match measure(records, runs) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench-commands: {error}");
            ExitCode::from(2)
        }
    }
}

fn measure(records: u64, runs: u64) -> io::Result<bool> {
    let directory = Directory::new();
    let data = directory.data().display().to_string();
    let mesh = Mesh::start(directory, ["demo", "--data", &data]);
    let held = fill(&mesh, records);
    let tap = mesh.json(&[
        "tap",
        "deploy/voting",
        "--failed",
        "--limit",
        "1",
        "--since",
        "1h",
    ]);
    let id = tap["records"][0]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let commands: [&[&str]; 10] = [
        &["culprit", "--since", "1h"],
        &["stat", "deploy", "--since", "1h"],
        &["stat", "route", "--since", "1h"],
        &["routes", "--since", "1h"],
        &["edges", "--since", "1h"],
        &["top", "--since", "1h"],
        &["tap", "deploy/voting", "--failed", "--since", "1h"],
        &[
            "tap",
            "deploy/web",
            "--min-latency",
            "50ms",
            "--since",
            "1h",
        ],
        &["explain", &id],
        &["check"],
    ];
    let mut out = io::stdout();
    writeln!(
        out,
        "{held} records; whole processes, {runs} runs each, milliseconds:"
    )?;
    writeln!(
        out,
        "{:<44} {:>7} {:>7} {:>7}",
        "command", "min", "median", "max"
    )?;
    let mut well = true;
    for command in commands {
        let mut times: Vec<f64> = (0..runs)
            .map(|_| {
                let began = Instant::now();
                let output = mesh.whodunit(command);
                assert_eq!(output.code, 0, "{command:?}: {output:?}");
                began.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        well &= median <= LIMIT_MS;
        let name = command.join(" ");
        let name: String = name.chars().take(44).collect();
        writeln!(
            out,
            "{name:<44} {:>7.0} {median:>7.0} {:>7.0}",
            times[0],
            times[times.len() - 1]
        )?;
    }
    mesh.stop();
    Ok(well)
}

/// Votes until the server holds `records`; returns how many it holds.
fn fill(mesh: &Mesh, records: u64) -> u64 {
    let app = mesh.address("app");
    let api = mesh.address("api");
    let enough = AtomicBool::new(false);
    let held = || -> u64 {
        let answer = http::get(api, "/api/whodunit/v1/status").ok();
        let status: Option<Value> =
            answer.and_then(|answer| serde_json::from_str(&answer.body).ok());
        status
            .and_then(|status| status["records"].as_u64())
            .unwrap_or(0)
    };
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let votes = [
                    ":doughnut:",
                    ":poop:",
                    ":joy:",
                    ":ghost:",
                    ":rainbow:",
                    ":taco:",
                    ":dog:",
                ];
                for vote in votes.iter().cycle() {
                    if enough.load(Ordering::Relaxed) {
                        break;
                    }
                    let _ = http::get(app, "/api/list");
                    let _ = http::get(app, &format!("/api/vote?choice={vote}"));
                }
            });
        }
        while held() < records {
            std::thread::park_timeout(Duration::from_millis(200));
        }
        enough.store(true, Ordering::Relaxed);
    });
    held()
}
