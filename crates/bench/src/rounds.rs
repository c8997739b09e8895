//! The scenarios, and the rounds that measure them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, getrlimit, setpriority_process, setrlimit};

use crate::engine::{Done, Engine, Load, Pace, Speak};
use crate::proxies::{self, Kind, Setting};
use crate::report::{Judge, Measure, table};
use crate::sample::{resident_bytes, run_time_ns};
use crate::secure::Identity;
use crate::sink::Sink;

/// Load, applications and sink.
const LOAD_CORE: usize = 0;

/// The proxy that is measured.
const PROXY_CORE: usize = 1;

/// Before a proxy is measured.
const WARM_UP: Duration = Duration::from_millis(700);

/// For memory that comes and goes at the start or after a burst.
const SETTLE: Duration = Duration::from_millis(300);

/// Connections whose memory is measured.
const MANY: usize = 2000;

/// Readers that do not read; each lets the kernel hold megabytes.
const STALLED: usize = 100;

const MIB: f64 = 1024.0 * 1024.0;

/// What was asked for.
pub(crate) struct Wanted {
    rounds: usize,
    seconds: f64,
    only: Vec<String>,
    ours: PathBuf,
}

impl Wanted {
    /// Reads the command line.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let own = std::env::current_exe().context("path of this program")?;
        let mut wanted = Self {
            rounds: 10,
            seconds: 2.0,
            only: Vec::new(),
            ours: own.with_file_name("whodunit-proxy"),
        };
        while let Some(name) = args.next() {
            let value = args
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--rounds" => wanted.rounds = value.parse().context("--rounds")?,
                "--seconds" => wanted.seconds = value.parse().context("--seconds")?,
                "--only" => wanted.only = value.split(',').map(str::to_owned).collect(),
                "--ours" => wanted.ours = value.into(),
                _ => bail!("--rounds N, --seconds S, --only NAME,NAME, --ours PATH"),
            }
        }
        let known = |name: &String| SCENARIOS.iter().any(|scenario| scenario.name == name);
        if let Some(unknown) = wanted.only.iter().find(|name| !known(name)) {
            let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            bail!("there is no `{unknown}`; there are {}", names.join(", "));
        }
        if wanted.rounds == 0 || !(0.1..=600.0).contains(&wanted.seconds) {
            bail!("at least one round, of 0.1 to 600 seconds");
        }
        Ok(wanted)
    }
}

/// A load, the proxies that carry it, and what is read from it.
struct Scenario {
    name: &'static str,
    speak: Speak,
    connections: usize,
    streams: usize,
    pace: Pace,
    kinds: &'static [Kind],
    measures: &'static [(What, &'static str, Judge, usize)],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Microseconds of run time per request.
    RunTime,
    /// Per cent of run time that recording adds.
    Recording,
    /// Microseconds.
    Median,
    Tail,
    /// GB per second of run time.
    Bytes,
    /// MiB after the start.
    Fresh,
    /// MiB at the end of the load.
    Loaded,
    /// KiB that each connection adds.
    PerConnection,
}

use Kind::{HaProxy, Nginx, Ours, OursUnrecorded, PlainPair, Secured, SecuredPair};

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "http1",
        speak: Speak::Http1,
        connections: 32,
        streams: 1,
        pace: Pace::Closed,
        kinds: &[Ours, HaProxy, Nginx, OursUnrecorded],
        measures: &[
            (
                What::RunTime,
                "HTTP/1, 32 connections: CPU µs/request",
                Judge::RatioAtMost(HaProxy, 1.25),
                1,
            ),
            (
                What::Recording,
                "... what recording adds: CPU %",
                Judge::AtMost(8.0),
                1,
            ),
            (
                What::Fresh,
                "memory after start: MiB",
                Judge::AtMost(8.0),
                1,
            ),
            (
                What::Loaded,
                "memory under HTTP/1 load: MiB",
                Judge::AtMost(20.0),
                1,
            ),
        ],
    },
    Scenario {
        name: "http2",
        speak: Speak::Http2,
        connections: 10,
        streams: 32,
        pace: Pace::Closed,
        kinds: &[Ours, HaProxy, Nginx],
        measures: &[
            (
                What::RunTime,
                "HTTP/2, 10 × 32 streams: CPU µs/request",
                Judge::RatioAtMost(HaProxy, 1.25),
                1,
            ),
            (
                What::Loaded,
                "memory under HTTP/2 load: MiB",
                Judge::AtMost(20.0),
                1,
            ),
        ],
    },
    Scenario {
        name: "grpc",
        speak: Speak::Grpc,
        connections: 10,
        streams: 32,
        pace: Pace::Closed,
        kinds: &[Ours, HaProxy, Nginx],
        measures: &[
            (
                What::RunTime,
                "gRPC unary, 10 × 32 streams: CPU µs/request",
                Judge::RatioAtMost(HaProxy, 0.7),
                1,
            ),
            (
                What::Loaded,
                "memory under gRPC load: MiB",
                Judge::AtMost(20.0),
                1,
            ),
        ],
    },
    Scenario {
        name: "latency",
        speak: Speak::Http1,
        connections: 32,
        streams: 1,
        pace: Pace::PerSecond(2000.0),
        kinds: &[Ours, HaProxy, Nginx],
        measures: &[
            (
                What::Median,
                "HTTP/1, 2,000 requests/s: p50 µs",
                Judge::RatioAtMost(HaProxy, 1.15),
                0,
            ),
            (
                What::Tail,
                "HTTP/1, 2,000 requests/s: p99 µs",
                Judge::RatioAtMost(HaProxy, 1.15),
                0,
            ),
            (
                What::RunTime,
                "HTTP/1, 2,000 requests/s: CPU µs/request",
                Judge::Not,
                1,
            ),
        ],
    },
    Scenario {
        name: "bytes",
        speak: Speak::Bytes,
        connections: 4,
        streams: 1,
        pace: Pace::Closed,
        kinds: &[Ours, HaProxy],
        measures: &[(
            What::Bytes,
            "opaque TCP, 4 connections: GB per CPU second",
            Judge::RatioAtLeast(HaProxy, 1.8),
            2,
        )],
    },
    Scenario {
        name: "idle",
        speak: Speak::Http1,
        connections: MANY,
        streams: 1,
        pace: Pace::Never,
        kinds: &[Ours, HaProxy],
        measures: &[(
            What::PerConnection,
            "connection without a request: KiB",
            Judge::AtMost(4.0),
            1,
        )],
    },
    Scenario {
        name: "kept",
        speak: Speak::Http1,
        connections: MANY,
        streams: 1,
        pace: Pace::Once,
        kinds: &[Ours, HaProxy],
        measures: &[(
            What::PerConnection,
            "connection kept alive after a request: KiB",
            Judge::AtMost(12.0),
            1,
        )],
    },
    Scenario {
        name: "stalled",
        speak: Speak::Endless,
        connections: STALLED,
        streams: 1,
        pace: Pace::Once,
        kinds: &[Ours, HaProxy],
        measures: &[(
            What::PerConnection,
            "connection whose reader stalls: KiB",
            Judge::AtMost(128.0),
            1,
        )],
    },
    Scenario {
        name: "mtls-http1",
        speak: Speak::Http1,
        connections: 32,
        streams: 1,
        pace: Pace::Closed,
        kinds: &[SecuredPair, PlainPair],
        measures: &[(
            What::RunTime,
            "HTTP/1 through a pair with mTLS: CPU µs/request",
            Judge::RatioAtMost(PlainPair, 1.5),
            1,
        )],
    },
    Scenario {
        name: "mtls-grpc",
        speak: Speak::Grpc,
        connections: 10,
        streams: 32,
        pace: Pace::Closed,
        kinds: &[SecuredPair, PlainPair],
        measures: &[(
            What::RunTime,
            "gRPC through a pair with mTLS: CPU µs/request",
            Judge::RatioAtMost(PlainPair, 1.5),
            1,
        )],
    },
    Scenario {
        name: "mtls-kept",
        speak: Speak::Http1,
        connections: MANY,
        streams: 1,
        pace: Pace::Once,
        kinds: &[Secured],
        measures: &[(
            What::PerConnection,
            "mTLS connection kept alive after a request: KiB",
            Judge::AtMost(24.0),
            1,
        )],
    },
];

/// Measures, and prints the table. False when a figure misses what it must reach.
pub(crate) fn run(wanted: &Wanted) -> Result<bool> {
    prepare()?;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    proxies::folder(folder.path())?;
    let mut engine = Engine::new()?;
    let mut applications = Vec::new();
    for speak in Speak::ALL {
        applications.push((speak, engine.serve(speak)?));
    }
    let sink = Sink::start()?;
    let setting = Setting {
        applications: applications
            .try_into()
            .map_err(|_| anyhow::anyhow!("one application for each kind"))?,
        sink: sink.address,
        ours: wanted.ours.clone(),
        identity: Identity::new(folder.path())?,
        folder: folder.path().to_owned(),
        core: PROXY_CORE,
    };
    let all = [
        Ours,
        OursUnrecorded,
        Secured,
        SecuredPair,
        PlainPair,
        HaProxy,
        Nginx,
    ];
    let installed: Vec<(Kind, String)> = all
        .into_iter()
        .filter_map(|kind| Some((kind, proxies::version(kind)?)))
        .collect();
    let scenarios: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|each| wanted.only.is_empty() || wanted.only.iter().any(|name| name == each.name))
        .collect();
    let mut measures: Vec<Vec<Measure>> = scenarios.iter().map(|each| each.measures()).collect();
    for round in 0..wanted.rounds {
        for (scenario, measures) in scenarios.iter().zip(&mut measures) {
            let mut kinds: Vec<Kind> = scenario.kinds.to_vec();
            kinds.retain(|kind| installed.iter().any(|(known, _)| known == kind));
            // Nobody is always the first or always after the same one.
            let number = kinds.len();
            kinds.rotate_left(round % number);
            if round / number % 2 == 1 {
                kinds.reverse();
            }
            let mut round_of = Vec::new();
            for kind in kinds {
                let time = Duration::from_secs_f64(wanted.seconds);
                let taken = scenario
                    .measure(kind, &mut engine, &setting, &sink, time)
                    .with_context(|| format!("{} through {}", scenario.name, kind.name()))?;
                round_of.push((kind, taken));
            }
            scenario.note(&round_of, measures);
        }
        proxies::say(&format!("round {} of {}", round + 1, wanted.rounds));
    }
    let peers: Vec<String> = installed
        .into_iter()
        .filter(|(kind, _)| matches!(kind, HaProxy | Nginx))
        .map(|(_, version)| version)
        .collect();
    let measures: Vec<Measure> = measures.into_iter().flatten().collect();
    let (text, reached) = table(&measures);
    writeln!(
        std::io::stdout(),
        "{} rounds of {} s; median (quartiles); {}\n\n{text}",
        wanted.rounds,
        wanted.seconds,
        peers.join(", ")
    )?;
    Ok(reached)
}

/// Files for many connections, this thread on its core, and precedence over what else runs.
fn prepare() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raise the limit of open files")?;
    // Not everyone may; then it is as it is, for all that are measured.
    let _ = setpriority_process(None, -15);
    proxies::pin(LOAD_CORE).context("two cores are needed")
}

/// What one proxy came to in one round.
struct Taken {
    run_time_ns: f64,
    done: Done,
    fresh_bytes: f64,
    loaded_bytes: f64,
}

impl Scenario {
    fn measures(&self) -> Vec<Measure> {
        let each = self.measures.iter();
        each.map(|(_, what, judge, decimals)| Measure {
            what,
            subject: self.kinds[0],
            judge: *judge,
            decimals: *decimals,
            values: BTreeMap::new(),
        })
        .collect()
    }

    fn measure(
        &self,
        kind: Kind,
        engine: &mut Engine,
        setting: &Setting,
        sink: &Sink,
        time: Duration,
    ) -> Result<Taken> {
        let proxy = setting.start(kind)?;
        thread::sleep(SETTLE);
        let processes = proxy.processes();
        sink.take();
        let fresh_bytes = resident_bytes(&processes);
        let target = proxy.port(self.speak)?;
        let mut clients = Vec::new();
        if kind == Secured {
            clients = setting.identity.open(self.connections, target, engine)?;
        } else {
            engine.start(Load {
                speak: self.speak,
                target,
                connections: self.connections,
                streams: self.streams,
                pace: self.pace,
            })?;
            if self.pace == Pace::Once && self.speak != Speak::Endless {
                engine.wait_for_answers()?;
            }
        }
        let held = matches!(self.pace, Pace::Once | Pace::Never);
        engine.run(if held { SETTLE } else { WARM_UP }, false)?;
        let before = run_time_ns(&processes);
        let done = engine.run(if held { SETTLE } else { time }, true)?;
        let after = run_time_ns(&processes);
        let loaded_bytes = resident_bytes(&processes);
        engine.stop();
        drop(clients);
        // What was under way is still answered, so that the proxy need not wait for it.
        engine.run(SETTLE, false)?;
        proxy.stop()?;
        let records = sink.take();
        let expected = match kind {
            Ours => done.requests,
            // Each of the two leaves one.
            SecuredPair | PlainPair => done.requests * 2,
            Secured => self.connections as u64,
            OursUnrecorded | HaProxy | Nginx => 0,
        };
        if records < expected {
            bail!("{expected} records were to come, but only {records} did");
        }
        Ok(Taken {
            run_time_ns: (after - before) as f64,
            done,
            fresh_bytes: fresh_bytes as f64,
            loaded_bytes: loaded_bytes as f64,
        })
    }

    /// Enters the results of one round.
    fn note(&self, round: &[(Kind, Taken)], measures: &mut [Measure]) {
        for ((what, ..), measure) in self.measures.iter().zip(measures) {
            for (kind, taken) in round {
                let value = match what {
                    What::Recording if *kind == Ours => {
                        let off = round.iter().find(|(kind, _)| *kind == OursUnrecorded);
                        off.map(|(_, off)| {
                            100.0 * (taken.per_request_us() / off.per_request_us() - 1.0)
                        })
                    }
                    What::Recording => None,
                    What::RunTime => Some(taken.per_request_us()),
                    What::Median => Some(quantile_us(&taken.done.latencies, 0.5)),
                    What::Tail => Some(quantile_us(&taken.done.latencies, 0.99)),
                    What::Bytes => Some(taken.done.bytes as f64 / taken.run_time_ns),
                    What::Fresh => Some(taken.fresh_bytes / MIB),
                    What::Loaded => Some(taken.loaded_bytes / MIB),
                    What::PerConnection => {
                        let more = taken.loaded_bytes - taken.fresh_bytes;
                        Some(more / 1024.0 / self.connections as f64)
                    }
                };
                if let Some(value) = value {
                    measure.add(*kind, value);
                }
            }
        }
    }
}

impl Taken {
    fn per_request_us(&self) -> f64 {
        self.run_time_ns / 1000.0 / self.done.requests.max(1) as f64
    }
}

fn quantile_us(latencies: &[u32], quantile: f64) -> f64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() as f64 * quantile) as usize;
    let nanoseconds = sorted.get(place.min(sorted.len().saturating_sub(1)));
    nanoseconds.map_or(f64::NAN, |nanoseconds| f64::from(*nanoseconds) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_what_is_wrong() {
        let parse = |args: &[&str]| Wanted::parse(args.iter().map(|arg| (*arg).to_owned()));
        assert_eq!(parse(&["--rounds", "3"]).expect("valid").rounds, 3);
        assert!(parse(&["--rounds"]).is_err());
        assert!(parse(&["--only", "http1,http9"]).is_err());
        assert!(parse(&["--seconds", "0"]).is_err());
    }

    #[test]
    fn quantiles_are_taken_from_the_sorted_latencies() {
        let latencies: Vec<u32> = (1..=100).rev().map(|number| number * 1000).collect();
        assert_eq!(quantile_us(&latencies, 0.5), 51.0);
        assert_eq!(quantile_us(&latencies, 0.99), 100.0);
    }
}
