//! The counters of the two gRPC services, in the Prometheus text format.
//!
//! Names, labels and buckets are those of the original: `emojivoto_votes_total` and
//! the `grpc_server_…` family of the Go gRPC middleware. Series exist for known
//! methods and known emoji only, so their number is bounded.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::{Code, Status};

use crate::go;

/// Upper bounds in seconds of the handling-time buckets: Prometheus' defaults.
const BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
const CODES: usize = 17;

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    service: &'static str,
    methods: Mutex<BTreeMap<String, Method>>,
    votes: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Clone, Debug, Default)]
struct Method {
    started: u64,
    received: u64,
    sent: u64,
    handled: [u64; CODES],
    /// Not cumulative; the last one counts what exceeds every bound.
    buckets: [u64; BUCKETS.len() + 1],
    seconds: f64,
}

impl Metrics {
    /// Starts with no series for the gRPC service of this full name.
    pub fn new(service: &'static str) -> Self {
        Self {
            service,
            methods: Mutex::default(),
            votes: Mutex::default(),
        }
    }

    /// Creates the series of these methods at zero, so that a rate over the first call
    /// is right.
    pub fn register<'a>(&self, methods: impl IntoIterator<Item = &'a str>) {
        let mut known = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        for method in methods {
            known.entry(method.to_owned()).or_default();
        }
    }

    /// Runs one unary call and counts it. A call whose caller goes away before the end
    /// counts as started and not as handled.
    pub async fn measure<A>(
        &self,
        method: &str,
        call: impl Future<Output = Result<A, Status>>,
    ) -> Result<A, Status> {
        self.update(method, |counts| {
            counts.started += 1;
            counts.received += 1;
        });
        let start = Instant::now();
        let result = call.await;
        let elapsed = start.elapsed();
        self.update(method, |counts| {
            counts.handled(result.as_ref().err(), elapsed)
        });
        result
    }

    /// Counts a successful vote.
    pub fn voted(&self, shortcode: &'static str) {
        let mut votes = self.votes.lock().unwrap_or_else(PoisonError::into_inner);
        *votes.entry(shortcode).or_default() += 1;
    }

    /// Prints every series.
    pub fn render(&self) -> String {
        let mut text = String::new();
        self.render_votes(&mut text);
        let methods = self
            .methods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        self.render_counter(
            &mut text,
            &methods,
            "started",
            "RPCs started on the server.",
            |m| m.started,
        );
        self.render_counter(
            &mut text,
            &methods,
            "msg_received",
            "RPC messages received on the server.",
            |m| m.received,
        );
        self.render_counter(
            &mut text,
            &methods,
            "msg_sent",
            "RPC messages sent by the server.",
            |m| m.sent,
        );
        self.render_handled(&mut text, &methods);
        self.render_seconds(&mut text, &methods);
        text
    }

    fn update(&self, method: &str, change: impl FnOnce(&mut Method)) {
        let mut methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        match methods.get_mut(method) {
            Some(counts) => change(counts),
            None => change(methods.entry(method.to_owned()).or_default()),
        }
    }

    fn render_votes(&self, text: &mut String) {
        let votes = self.votes.lock().unwrap_or_else(PoisonError::into_inner);
        if votes.is_empty() {
            return;
        }
        header(
            text,
            "emojivoto_votes_total",
            "counter",
            "Number of emoji votes",
        );
        for (emoji, count) in votes.iter() {
            line(
                text,
                format_args!("emojivoto_votes_total{{emoji=\"{emoji}\"}} {count}"),
            );
        }
    }

    fn labels(&self, method: &str) -> String {
        let service = self.service;
        format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"unary\"")
    }

    fn render_counter(
        &self,
        text: &mut String,
        methods: &BTreeMap<String, Method>,
        name: &str,
        help: &str,
        value: impl Fn(&Method) -> u64,
    ) {
        let name = format!("grpc_server_{name}_total");
        header(text, &name, "counter", help);
        for (method, counts) in methods {
            line(
                text,
                format_args!("{name}{{{}}} {}", self.labels(method), value(counts)),
            );
        }
    }

    fn render_handled(&self, text: &mut String, methods: &BTreeMap<String, Method>) {
        let name = "grpc_server_handled_total";
        header(
            text,
            name,
            "counter",
            "RPCs completed on the server, whatever their outcome.",
        );
        for (method, counts) in methods {
            let labels = self.labels(method);
            for (code, count) in (0..).zip(counts.handled) {
                let code = go::code_name(Code::from_i32(code));
                line(
                    text,
                    format_args!("{name}{{grpc_code=\"{code}\",{labels}}} {count}"),
                );
            }
        }
    }

    fn render_seconds(&self, text: &mut String, methods: &BTreeMap<String, Method>) {
        let name = "grpc_server_handling_seconds";
        header(
            text,
            name,
            "histogram",
            "Time the server took to handle an RPC, in seconds.",
        );
        for (method, counts) in methods {
            let labels = self.labels(method);
            let mut total = 0;
            for (index, count) in counts.buckets.iter().enumerate() {
                total += count;
                let bound = BUCKETS.get(index).map_or("+Inf".to_owned(), f64::to_string);
                line(
                    text,
                    format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {total}"),
                );
            }
            line(
                text,
                format_args!("{name}_sum{{{labels}}} {}", counts.seconds),
            );
            line(text, format_args!("{name}_count{{{labels}}} {total}"));
        }
    }
}

impl Method {
    fn handled(&mut self, error: Option<&Status>, elapsed: Duration) {
        let code = error.map_or(Code::Ok, Status::code);
        if error.is_none() {
            self.sent += 1;
        }
        if let Some(count) = self.handled.get_mut(code as usize) {
            *count += 1;
        }
        let seconds = elapsed.as_secs_f64();
        let bucket = BUCKETS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(BUCKETS.len());
        self.buckets[bucket] += 1;
        self.seconds += seconds;
    }
}

fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, format_args!("# HELP {name} {help}"));
    line(text, format_args!("# TYPE {name} {kind}"));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _always_ok = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_counted_by_outcome_and_time() {
        let metrics = Metrics::new("emojivoto.v1.VotingService");
        metrics.register(["VoteJoy", "VotePoop"]);
        metrics.measure("VoteJoy", async { Ok(()) }).await.unwrap();
        metrics
            .measure("VotePoop", async { Err::<(), _>(Status::unknown("x")) })
            .await
            .unwrap_err();
        metrics.voted(":joy:");
        let text = metrics.render();
        let joy =
            r#"grpc_method="VoteJoy",grpc_service="emojivoto.v1.VotingService",grpc_type="unary""#;
        let poop = joy.replace("Joy", "Poop");
        for expected in [
            "emojivoto_votes_total{emoji=\":joy:\"} 1".to_owned(),
            format!("grpc_server_started_total{{{joy}}} 1"),
            format!("grpc_server_msg_sent_total{{{poop}}} 0"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{joy}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"Unknown\",{poop}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"Unknown\",{joy}}} 0"),
            format!("grpc_server_handling_seconds_bucket{{{joy},le=\"0.005\"}} 1"),
            format!("grpc_server_handling_seconds_bucket{{{joy},le=\"+Inf\"}} 1"),
            format!("grpc_server_handling_seconds_count{{{poop}}} 1"),
        ] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected} is not in\n{text}"
            );
        }
    }
}
