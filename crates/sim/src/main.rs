//! A small mesh in a simulated network: `cargo xtask sim`.
//!
//! One thread runs a server, three backends with inbound proxies, and clients with an
//! outbound proxy. A seed decides everything: delays, choices, and which links and hosts
//! fail when. The proxies and the server's discovery are the real ones. What must hold is
//! checked at every step, and after the last fault that the mesh recovers. The same seed
//! gives the same trace, to the byte.

mod backend;
mod client;
mod random;
mod scenario;
mod server;
mod watcher;
mod world;

use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// Seeds that are run when none is named.
const SEEDS: u64 = 200;

/// So many of them are run twice, to see that their traces are equal.
const TWICE: u64 = 10;

/// Whether anything has panicked: tasks of a runtime swallow it.
static PANICKED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn dispatch(args: &[String]) -> Result<bool> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| {
        text.parse()
            .with_context(|| format!("`{text}` is no number"))
    };
    match words[..] {
        ["--seed", seed] => Ok(one(number(seed)?, true)),
        ["--quiet-seed", seed] => Ok(one(number(seed)?, false)),
        [] => many(0, SEEDS),
        ["--seeds", count] => many(0, number(count)?),
        ["--first", first, "--seeds", count] => many(number(first)?, number(count)?),
        _ => bail!("expected --seed N, or [--first N] --seeds COUNT"),
    }
}

fn say(line: &str) {
    // Nobody is left to tell when standard output is gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs one seed; says whether all held.
fn one(seed: u64, loud: bool) -> bool {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, Ordering::Relaxed);
        hook(panic);
    }));
    let report = scenario::run(seed);
    if loud {
        report.trace.iter().for_each(|line| say(line));
    }
    let mut violations = report.violations;
    if PANICKED.load(Ordering::Relaxed) {
        violations.push("something panicked".to_owned());
    }
    for violation in &violations {
        say(&format!("seed {seed}: {violation}"));
    }
    say(&format!(
        "seed {seed} trace {:016x} {}",
        report.hash, report.answers
    ));
    violations.is_empty()
}

/// Runs many seeds, each in a process of its own: nothing of one is left for the next.
fn many(first: u64, count: u64) -> Result<bool> {
    let begin = Instant::now();
    let program = std::env::current_exe().context("find this program")?;
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let fail = |seed: u64, why: &str| {
        say(&format!(
            "{}seed {seed} FAILED; again with: cargo xtask sim --seed {seed}",
            why
        ));
        failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(seed);
    };
    let run = |seed: u64| {
        let output = Command::new(&program)
            .args(["--quiet-seed", &seed.to_string()])
            .output();
        match output {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                (output.status.success(), text, error)
            }
            Err(error) => (false, String::new(), format!("{error}\n")),
        }
    };
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let seed = first + index;
            let (good, text, error) = run(seed);
            if !good {
                fail(seed, &format!("{text}{error}"));
            } else if index < TWICE && run(seed).1 != text {
                fail(seed, "the same seed gave another trace\n");
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    say(&format!(
        "{count} seeds from {first} in {:.1} s: {} failed, {} traces compared",
        begin.elapsed().as_secs_f64(),
        failed.len(),
        count.min(TWICE),
    ));
    Ok(failed.is_empty())
}
