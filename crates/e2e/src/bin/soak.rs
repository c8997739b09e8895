//! Runs the demo's mesh with churn for a long time, and says what grows.
//!
//! Instances of applications are killed in turn every ten seconds, connections are opened and
//! closed, some with bad heads, some whose client hardly reads. Meanwhile memory, descriptors
//! and threads of the server and of all proxies are read, and at the end a line is laid
//! through each, after a warm-up.
//!
//! `soak [--minutes N] [--rate VOTES_PER_SECOND]`; exit code 1 if something grows.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use whodunit_e2e::mesh::{Directory, Mesh, kill_now};
use whodunit_e2e::slope::{Line, drifts, leaks};

/// How often an instance is killed.
const CHURN: Duration = Duration::from_secs(10);

/// How often processes are looked at.
const SAMPLE: Duration = Duration::from_secs(5);

/// The applications, by what their command lines contain.
const APPLICATIONS: [&str; 4] = [
    "emojivoto voting",
    "emojivoto emoji",
    "emojivoto vote-bot",
    "emojivoto web",
];

/// The longest warm-up; of a short run it is a third.
const WARM_UP: Duration = Duration::from_secs(30 * 60);

/// What memory may grow in an hour.
const BYTES_PER_HOUR: f64 = 1_048_576.0;

/// How far counts may drift, as a part of their mean.
const DRIFT: f64 = 0.05;

/// Counts that may come and go whatever the mean.
const SLACK: f64 = 4.0;

/// Clients that hardly read, at one time.
const SLOW_READERS: usize = 4;

/// Bytes that are no request, or one that must be refused.
const BAD_HEADS: [&[u8]; 5] = [
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET\t/ HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    b"\x16\x03\x01\x00\x05hello",
];

fn main() -> ExitCode {
    let (mut minutes, mut rate) = (60, 5);
    let mut args = std::env::args().skip(1);
    while let (Some(name), value) = (args.next(), args.next()) {
        let number = value.and_then(|value| value.parse::<u64>().ok());
        match (name.as_str(), number) {
            ("--minutes", Some(number)) => minutes = number.max(1),
            ("--rate", Some(number)) => rate = number.max(1),
            _ => {
                let _ = writeln!(io::stderr(), "soak: --minutes N, --rate VOTES_PER_SECOND");
                return ExitCode::from(2);
            }
        }
    }
    match soak(Duration::from_secs(minutes * 60), rate) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "soak: {error}");
            ExitCode::from(2)
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// What one process was found to use at one moment.
struct Sample {
    at: Duration,
    memory_bytes: f64,
    descriptors: f64,
    threads: f64,
}

/// What the churn did.
#[derive(Default)]
struct Done {
    over: AtomicBool,
    connections: AtomicU64,
    bad_heads: AtomicU64,
    slow: AtomicU64,
    kills: AtomicU64,
}

fn soak(time: Duration, rate: u64) -> io::Result<bool> {
    let directory = Directory::new();
    let data = directory.data().display().to_string();
    let rate_text = rate.to_string();
    let mesh = Mesh::start(directory, ["demo", "--data", &data, "--rate", &rate_text]);
    let web = mesh.address("app");
    say(&format!(
        "soaking for {} min, {rate} votes a second; lines begin after {:.1} min",
        time.as_secs() / 60,
        warm_up(time).as_secs_f64() / 60.0
    ))?;
    let done = Done::default();
    let mut samples: BTreeMap<(String, i32), Vec<Sample>> = BTreeMap::new();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| kill_in_turn(&mesh, &done));
        scope.spawn(|| come_and_go(web, rate, &done));
        for _ in 0..SLOW_READERS {
            scope.spawn(|| hardly_read(web, &done));
        }
        while begin.elapsed() < time {
            for (pid, line) in mesh.directory().processes() {
                if let (Some(name), Some(sample)) = (name(&line), sample(pid, begin.elapsed())) {
                    samples.entry((name, pid)).or_default().push(sample);
                }
            }
            std::thread::park_timeout(SAMPLE);
        }
        done.over.store(true, Ordering::Relaxed);
    });
    say(&format!(
        "{} connections, {} bad heads, {} slow readers, {} instances killed",
        done.connections.load(Ordering::Relaxed),
        done.bad_heads.load(Ordering::Relaxed),
        done.slow.load(Ordering::Relaxed),
        done.kills.load(Ordering::Relaxed),
    ))?;
    let good = report(&samples, time)?;
    drop(mesh.stop());
    Ok(good)
}

/// Returns what a process is called here, if it is the server or a proxy.
fn name(command: &str) -> Option<String> {
    if command.contains("whodunit-proxy") {
        let config = command
            .split_whitespace()
            .find(|word| word.ends_with(".toml"))?;
        let file = config.rsplit('/').next()?;
        return Some(format!("proxy {}", file.trim_end_matches(".toml")));
    }
    command.contains(" serve").then(|| "server".to_owned())
}

fn sample(pid: i32, at: Duration) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |key: &str| -> Option<f64> {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some(Sample {
        at,
        memory_bytes: number("VmRSS:")? * 1_024.0,
        descriptors: f64::from(u32::try_from(descriptors).ok()?),
        threads: number("Threads:")?,
    })
}

fn kill_in_turn(mesh: &Mesh, done: &Done) {
    let mut turn = 0;
    while wait(CHURN, done) {
        for pid in mesh.pids(APPLICATIONS[turn % APPLICATIONS.len()]) {
            kill_now(pid);
            done.kills.fetch_add(1, Ordering::Relaxed);
        }
        turn += 1;
    }
}

/// Opens connections, says something or nothing, and closes them.
fn come_and_go(web: SocketAddr, rate: u64, done: &Done) {
    let pause = Duration::from_secs(1) / u32::try_from(rate).unwrap_or(1);
    let mut turn = 0;
    while wait(pause, done) {
        turn += 1;
        // Applications die here, so any of this may fail.
        let _ = visit(web, turn, done);
    }
}

fn visit(web: SocketAddr, turn: usize, done: &Done) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&web, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    done.connections.fetch_add(1, Ordering::Relaxed);
    match turn % 4 {
        // Goes without a word.
        0 => return Ok(()),
        1 => {
            stream.write_all(BAD_HEADS[turn / 4 % BAD_HEADS.len()])?;
            done.bad_heads.fetch_add(1, Ordering::Relaxed);
        }
        // Goes in the middle of a head.
        2 => return stream.write_all(b"GET /api/list HTTP/1.1\r\nHo"),
        _ => {
            let path = format!("/api/vote?choice=:{turn}:");
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {web}\r\n\r\n").as_bytes())?;
        }
    }
    let mut answer = [0; 4_096];
    stream.read(&mut answer).map(drop)
}

/// Asks for much on one connection, and reads a byte now and then.
fn hardly_read(web: SocketAddr, done: &Done) {
    while wait(Duration::from_secs(1), done) {
        let Ok(mut stream) = TcpStream::connect_timeout(&web, Duration::from_secs(2)) else {
            continue;
        };
        done.slow.fetch_add(1, Ordering::Relaxed);
        let request = format!("GET /api/list HTTP/1.1\r\nHost: {web}\r\n\r\n");
        let _ = stream.set_write_timeout(Some(Duration::from_millis(500)));
        // Stops when neither side takes more.
        let _ = stream.write_all(request.repeat(500).as_bytes());
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        for _ in 0..30 {
            if !wait(Duration::from_secs(1), done) || matches!(stream.read(&mut [0]), Ok(0)) {
                break;
            }
        }
    }
}

/// Waits; says whether to go on.
fn wait(time: Duration, done: &Done) -> bool {
    let end = Instant::now() + time;
    while !done.over.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::park_timeout(left.min(Duration::from_millis(200)));
    }
    false
}

fn warm_up(time: Duration) -> Duration {
    (time / 3).min(WARM_UP)
}

/// Prints a line per process and number; says whether none grows.
fn report(samples: &BTreeMap<(String, i32), Vec<Sample>>, time: Duration) -> io::Result<bool> {
    let begin = warm_up(time);
    let mut good = true;
    let mut seen = 0;
    say(&format!(
        "{:<28} {:>9} {:>18} {:>20} {:>18}",
        "process", "MiB", "MiB an hour", "descriptors (drift)", "threads (drift)"
    ))?;
    for ((name, pid), samples) in samples {
        let after = samples.iter().filter(|sample| sample.at >= begin);
        let after: Vec<&Sample> = after.collect();
        let hour = |sample: &Sample| sample.at.as_secs_f64() / 3_600.0;
        let span = match (after.first(), after.last()) {
            (Some(first), Some(last)) => hour(last) - hour(first),
            _ => continue,
        };
        let line = |of: fn(&Sample) -> f64| {
            let points: Vec<_> = after
                .iter()
                .map(|sample| (hour(sample), of(sample)))
                .collect();
            Line::through(&points)
        };
        let lines = (
            line(|sample| sample.memory_bytes),
            line(|sample| sample.descriptors),
            line(|sample| sample.threads),
        );
        let (Some(memory), Some(descriptors), Some(threads)) = lines else {
            continue;
        };
        seen += 1;
        let mut wrong = Vec::new();
        if leaks(&memory, span, BYTES_PER_HOUR) {
            wrong.push("memory grows");
        }
        if drifts(&descriptors, span, DRIFT, SLACK) {
            wrong.push("descriptors drift");
        }
        if drifts(&threads, span, DRIFT, SLACK) {
            wrong.push("threads drift");
        }
        good &= wrong.is_empty();
        let mib = |bytes: f64| bytes / 1_048_576.0;
        say(&format!(
            "{:<28} {:>9.1} {:>9.2} ± {:<6.2} {:>10.1} ({:+6.2}) {:>9.1} ({:+6.2})  {}",
            format!("{name} {pid}"),
            mib(memory.mean),
            mib(memory.slope),
            mib(2.0 * memory.error),
            descriptors.mean,
            descriptors.slope * span,
            threads.mean,
            threads.slope * span,
            wrong.join(", "),
        ))?;
    }
    if seen == 0 {
        say("no process lived long enough to say anything")?;
    }
    Ok(good && seen > 0)
}
