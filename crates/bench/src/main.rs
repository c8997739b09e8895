//! Measures the proxy beside its peers, on one machine, in one run.
//!
//! Load and applications share one core, the proxy has the other; what is compared is the
//! run time that the kernel counted for the proxy per request, because that depends least on
//! what else the machine does. Rounds are interleaved, and each starts every proxy afresh.
//! Ours makes, counts and sends every record meanwhile; a sink beside the load takes them.
//!
//! `bench-proxy [--rounds N] [--seconds S] [--only NAME,NAME] [--ours PATH]`; exit code 1 if
//! a figure misses what it must reach.

#[cfg(target_os = "linux")]
mod canned;
#[cfg(target_os = "linux")]
mod engine;
#[cfg(target_os = "linux")]
mod http2;
#[cfg(target_os = "linux")]
mod proxies;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod rounds;
#[cfg(target_os = "linux")]
mod sample;
#[cfg(target_os = "linux")]
mod secure;
#[cfg(target_os = "linux")]
mod sink;

use std::io::{self, Write as _};
use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn run() -> anyhow::Result<bool> {
    rounds::run(&rounds::Wanted::parse(std::env::args().skip(1))?)
}

#[cfg(not(target_os = "linux"))]
fn run() -> anyhow::Result<bool> {
    anyhow::bail!("this measurement needs Linux: it reads run times from /proc")
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench-proxy: {error:#}");
            ExitCode::from(2)
        }
    }
}
