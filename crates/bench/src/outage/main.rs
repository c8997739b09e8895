//! Kills the server under load, and counts what fails meanwhile.
//!
//! Proxies with identities carry a constant rate of requests. The server dies at once, with
//! no chance to say so, and stays away. Meanwhile one of two proxies on the way is killed and
//! started anew, others are started over and over, and a service that nobody asked for a
//! minute is asked. When the server is back, every proxy has to find it and to deliver the
//! records that it kept.
//!
//! `bench-outage [--seconds N] [--rate N] [--patience FACTOR]`; exit code 1 if a request
//! failed or something took longer than it may, FACTOR times that on a busy machine.

mod field;
mod load;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use field::{Field, Stand};
use load::{Client, Load};
use tokio::time::{sleep, sleep_until};

/// Longest that a proxy may take from its start to the first answer.
const RESTART: Duration = Duration::from_secs(2);

/// Longest that the first answer may take after a silence.
const IDLE: Duration = Duration::from_millis(50);

/// The silence.
const SILENCE: Duration = Duration::from_secs(61);

/// Before the server dies, and after it is back.
const AROUND: Duration = Duration::from_secs(2);

/// How long proxies may take to find the server again and deliver what they kept.
const RECONNECT: Duration = Duration::from_secs(30);

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most starts of a further proxy.
const STARTS: u32 = 20;

struct Wanted {
    seconds: f64,
    rate: f64,
    patience: u32,
}

impl Wanted {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut wanted = Self {
            seconds: 300.0,
            rate: 2_000.0,
            patience: 1,
        };
        while let Some(name) = args.next() {
            let value = args
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--seconds" => wanted.seconds = value.parse().context("--seconds")?,
                "--rate" => wanted.rate = value.parse().context("--rate")?,
                "--patience" => wanted.patience = value.parse().context("--patience")?,
                _ => bail!("--seconds N, --rate N, --patience FACTOR"),
            }
        }
        if !(1.0..=86_400.0).contains(&wanted.seconds) || !(1.0..=100_000.0).contains(&wanted.rate)
        {
            bail!("an outage of 1 to 86400 seconds, at 1 to 100000 requests a second");
        }
        Ok(wanted)
    }
}

/// What is told in the end, and whether all of it is as it must be.
struct Report {
    well: bool,
}

impl Report {
    fn line(&mut self, what: &str, value: &str, well: bool) {
        let mark = if well { "" } else { "   <- MISSED" };
        // Nobody is left to tell when standard output is gone.
        let _ = writeln!(io::stdout(), "{what:<52} {value:>16}{mark}");
        self.well &= well;
    }
}

fn main() -> ExitCode {
    let run = || -> Result<bool> {
        let wanted = Wanted::parse(std::env::args().skip(1))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("start a runtime")?;
        runtime.block_on(outage(&wanted))
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench-outage: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn outage(wanted: &Wanted) -> Result<bool> {
    let application = load::serve().await?;
    let mut field = Field::build(application)?;
    let outcome = measure(wanted, &mut field).await;
    if !matches!(outcome, Ok(true)) {
        let kept = field.keep().display();
        let _ = writeln!(io::stderr(), "bench-outage: the logs are in {kept}");
    }
    outcome
}

async fn measure(wanted: &Wanted, field: &mut Field) -> Result<bool> {
    field.start_server()?;
    for stand in Stand::ALL {
        field.start(stand)?;
    }
    for (stand, listener) in [
        (Stand::Edge, "web"),
        (Stand::Edge, "quiet"),
        (Stand::Spare, "web"),
    ] {
        let address = field.listener(stand, listener);
        first_answer(address, PATIENCE).await?;
    }
    first_answer(field.listener(Stand::Web1, "in"), PATIENCE).await?;
    field.wait_for_snapshots(PATIENCE).await?;
    field.kill(Stand::Spare)?;

    let load = Load::start(field.listener(Stand::Edge, "web"), wanted.rate);
    sleep(AROUND).await;
    let before = load.so_far();
    field.kill_server()?;
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(wanted.seconds);
    let quiet = tokio::spawn(ask_after_silences(
        field.listener(Stand::Edge, "quiet"),
        end,
    ));

    // One of the two that the load goes through.
    sleep_until((began + (end - began) / 4).into()).await;
    field.kill(Stand::Web1)?;
    let again = field.restart(Stand::Web1, "in", PATIENCE).await?;
    // A further one, again and again.
    let mut starts = Vec::new();
    let pause = (end - began) / 2 / STARTS;
    while starts.len() < STARTS as usize && Instant::now() + Duration::from_millis(500) < end {
        starts.push(field.restart(Stand::Spare, "web", PATIENCE).await?);
        field.kill(Stand::Spare)?;
        sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
    }
    let silences = quiet.await.context("the task that asks now and then")??;
    sleep_until(end.into()).await;
    let during = load.so_far() - before;
    field.start_server()?;
    let back = Instant::now();
    let reconnected = field.wait_for_delivery(RECONNECT * wanted.patience).await?;
    let reconnected = reconnected.then(|| back.elapsed());
    sleep(AROUND).await;
    let done = load.stop().await;
    let accounts = field.accounts(PATIENCE).await?;

    let mut report = Report { well: true };
    let factor = wanted.patience;
    let whole = |count: f64| format!("{count:.0}");
    report.line("outage, s", &format!("{:.0}", wanted.seconds), true);
    report.line(
        "requests during the outage",
        &during.to_string(),
        during > 0,
    );
    report.line("requests in all", &done.requests.to_string(), true);
    report.line(
        "failed requests",
        &done.failed.to_string(),
        done.failed == 0,
    );
    for why in &done.reasons {
        report.line(&format!("  {why}"), "", false);
    }
    for (share, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
        let took = format!("{:.1}", done.latency_ms(share));
        report.line(
            &format!("latency {name}, from when it was due, ms"),
            &took,
            true,
        );
    }
    let ms = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1e3);
    let slowest = starts.iter().max().copied().unwrap_or_default();
    report.line(
        "restarts on the way: first answer after, ms",
        &ms(again),
        again < RESTART * factor,
    );
    let what = format!("{} other starts: slowest first answer, ms", starts.len());
    report.line(
        &what,
        &ms(slowest),
        !starts.is_empty() && slowest < RESTART * factor,
    );
    let slowest = silences.iter().max().copied().unwrap_or_default();
    let what = format!("{} silences: slowest first answer, ms", silences.len());
    let took = format!("{:.1}", slowest.as_secs_f64() * 1e3);
    report.line(
        &what,
        &took,
        !silences.is_empty() && slowest < IDLE * factor,
    );
    let fastest = silences.iter().min().copied().unwrap_or_default();
    let took = format!("{:.1}", fastest.as_secs_f64() * 1e3);
    report.line("  fastest of them, ms", &took, true);
    let took = reconnected.map_or("never".to_owned(), ms);
    report.line(
        "all records delivered after the return, ms",
        &took,
        reconnected.is_some(),
    );
    report.line(
        "rows of the proxies that lived",
        &whole(accounts.rows),
        accounts.rows > 0.0,
    );
    report.line(
        "  durable at the server",
        &whole(accounts.acknowledged),
        true,
    );
    report.line(
        "  given up when the buffer was full",
        &whole(accounts.discarded),
        true,
    );
    let missing = accounts.missing();
    report.line("  not accounted for", &whole(missing), missing == 0.0);
    Ok(report.well)
}

/// Asks until there is an answer; returns how long that took.
async fn first_answer(address: std::net::SocketAddr, patience: Duration) -> Result<Duration> {
    let began = Instant::now();
    loop {
        match Client::new(address).ask().await {
            Ok(()) => return Ok(began.elapsed()),
            Err(why) if began.elapsed() > patience => {
                bail!("{address} never answers: {why}")
            }
            Err(_) => sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Asks once after each silence, or at the end; returns how long the answers took.
async fn ask_after_silences(address: std::net::SocketAddr, end: Instant) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    loop {
        let now = Instant::now();
        let last = now + SILENCE >= end;
        let due = if last { end } else { now + SILENCE };
        if last && !took.is_empty() {
            return Ok(took);
        }
        sleep_until(due.into()).await;
        let asked = Instant::now();
        let answer = Client::new(address).ask().await;
        answer.map_err(|why| anyhow::anyhow!("the first request after a silence failed: {why}"))?;
        took.push(asked.elapsed());
        if last {
            return Ok(took);
        }
    }
}
