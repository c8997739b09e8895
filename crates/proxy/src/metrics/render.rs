//! The text that `/metrics` answers, format 0.0.4.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use whodunit_flight::Counters;
use whodunit_model::latency::LATENCY_BUCKETS_MS;

use super::scope::Snapshot;
use crate::limits::Limit;
use crate::stats::{Count, IdentityStats};

/// Numbers of the process itself.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// Labels of the workload.
    pub(crate) labels: String,
    /// Accounting of records.
    pub(crate) counters: Counters,
    /// Connections whose protocol was not recognized, by listener.
    pub(crate) fall_backs: Vec<(String, u64)>,
    /// How often each limit was reached.
    pub(crate) limits: Vec<(Limit, u64)>,
    /// Certificates and handshakes, with an identity.
    pub(crate) identity: Option<Arc<IdentityStats>>,
    /// Buffers of opaque bulk that had to be copied.
    pub(crate) pipes_missing: u64,
    /// Seconds since discovery was last connected; none without discovery.
    pub(crate) discovery_age_s: Option<f64>,
    /// The proxy's clock minus the server's, seconds.
    pub(crate) clock_offset_s: f64,
    /// Seconds since the epoch at which the process started.
    pub(crate) start_time_s: f64,
    /// What the kernel says about the process.
    pub(crate) process: Process,
}

/// What the kernel says about the process; none where it does not say.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) cpu_s: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
    pub(crate) threads: Option<u64>,
}

/// Writes everything.
pub(crate) fn render(snapshot: &Snapshot, own: &Own) -> String {
    let mut out = String::with_capacity(16 << 10);
    requests(&mut out, snapshot);
    connections(&mut out, snapshot);
    authorizations(&mut out, snapshot);
    ours(&mut out, own);
    process(&mut out, own);
    out
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn requests(out: &mut String, snapshot: &Snapshot) {
    family(
        out,
        "request_total",
        "counter",
        "Total count of HTTP requests.",
    );
    for (labels, scope) in &snapshot.scopes {
        let _ = writeln!(out, "request_total{{{labels}}} {}", scope.requests);
    }
    family(
        out,
        "response_total",
        "counter",
        "Total count of HTTP responses.",
    );
    for (labels, scope) in &snapshot.scopes {
        for (response, count) in &scope.responses {
            let _ = writeln!(
                out,
                "response_total{{{labels},{}}} {count}",
                response.labels()
            );
        }
    }
    let help = "Elapsed times between a request's headers being received and its response \
                stream beginning or completing, in milliseconds.";
    family(out, "response_latency_ms", "histogram", help);
    for (labels, scope) in &snapshot.scopes {
        for (status, histogram) in &scope.latencies {
            let labels = match status {
                0 => labels.clone(),
                status => format!("{labels},status_code=\"{status}\""),
            };
            let mut count = 0;
            for (bound, more) in LATENCY_BUCKETS_MS.iter().zip(histogram.counts) {
                count += more;
                let _ = writeln!(
                    out,
                    "response_latency_ms_bucket{{{labels},le=\"{bound}\"}} {count}"
                );
            }
            count += histogram.counts[LATENCY_BUCKETS_MS.len()];
            let _ = writeln!(
                out,
                "response_latency_ms_bucket{{{labels},le=\"+Inf\"}} {count}"
            );
            let _ = writeln!(out, "response_latency_ms_count{{{labels}}} {count}");
            let _ = writeln!(
                out,
                "response_latency_ms_sum{{{labels}}} {}",
                histogram.sum_ms
            );
        }
    }
}

fn connections(out: &mut String, snapshot: &Snapshot) {
    type Number = fn(&super::scope::TransportNumbers) -> u64;
    let families: [(&str, &str, &str, Number); 4] = [
        (
            "tcp_open_total",
            "counter",
            "Total count of opened connections.",
            |t| t.open_total,
        ),
        (
            "tcp_open_connections",
            "gauge",
            "Number of currently open connections.",
            |t| t.open_total.saturating_sub(t.close_total),
        ),
        (
            "tcp_read_bytes_total",
            "counter",
            "Total count of bytes read from peers.",
            |t| t.read,
        ),
        (
            "tcp_write_bytes_total",
            "counter",
            "Total count of bytes written to peers.",
            |t| t.wrote,
        ),
    ];
    for (name, kind, help, number) in families {
        family(out, name, kind, help);
        for (labels, transport) in &snapshot.transports {
            let _ = writeln!(out, "{name}{{{labels}}} {}", number(transport));
        }
    }
    family(
        out,
        "tcp_close_total",
        "counter",
        "Total count of closed connections.",
    );
    for (labels, transport) in &snapshot.transports {
        for (errno, count) in &transport.errors {
            let _ = writeln!(out, "tcp_close_total{{{labels},errno=\"{errno}\"}} {count}");
        }
    }
}

fn authorizations(out: &mut String, snapshot: &Snapshot) {
    let mut before = "";
    for ((name, labels), count) in &snapshot.authorizations {
        if *name != before {
            let help = match *name {
                "inbound_http_authz_allow_total" => "Requests that policy allowed.",
                "inbound_http_authz_deny_total" => "Requests that policy denied.",
                "inbound_tcp_authz_allow_total" => "Opaque connections that policy allowed.",
                "inbound_tcp_authz_deny_total" => "Opaque connections that policy denied.",
                _ => "Requests and opaque connections that policy would have denied.",
            };
            family(out, name, "counter", help);
            before = name;
        }
        let _ = writeln!(out, "{name}{{{labels}}} {count}");
    }
}

fn ours(out: &mut String, own: &Own) {
    let (labels, counters) = (&own.labels, &own.counters);
    let mut single = |name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display| {
        family(out, name, kind, help);
        let _ = writeln!(out, "{name}{{{labels}}} {value}");
    };
    let counter = "counter";
    single(
        "whodunit_recorder_started_total",
        counter,
        "Requests whose head was read or refused.",
        &counters.started,
    );
    single(
        "whodunit_recorder_recorded_total",
        counter,
        "Requests with a final row.",
        &counters.recorded,
    );
    single(
        "whodunit_recorder_in_flight",
        "gauge",
        "Requests not finished.",
        &counters.in_flight,
    );
    single(
        "whodunit_recorder_rows_total",
        counter,
        "Rows handed to the recorder.",
        &counters.rows,
    );
    single(
        "whodunit_recorder_acknowledged_rows_total",
        counter,
        "Rows that are durable at the server.",
        &counters.acknowledged,
    );
    single(
        "whodunit_recorder_buffered_rows",
        "gauge",
        "Rows waiting in the proxy.",
        &counters.buffered,
    );
    single(
        "whodunit_pipes_missing_total",
        counter,
        "Buffers of opaque bulk that were copied because no pipe was to be had.",
        &own.pipes_missing,
    );
    single(
        "whodunit_clock_offset_seconds",
        "gauge",
        "The proxy's clock minus the server's.",
        &own.clock_offset_s,
    );
    if let Some(age) = own.discovery_age_s {
        let help = "Time since discovery was last connected.";
        single("whodunit_discovery_age_seconds", "gauge", help, &age);
    }
    if let Some(identity) = &own.identity {
        let read = |count: &Count| count.read();
        single(
            "control_identity_cert_expiration_timestamp_seconds",
            "gauge",
            "When the certificate in use expires, seconds since the Unix epoch.",
            &identity.not_after_s.load(Ordering::Relaxed),
        );
        for (name, help, count) in [
            (
                "control_identity_cert_refreshes_total",
                "Certificates taken into use.",
                &identity.renewals,
            ),
            (
                "whodunit_identity_renewal_failures_total",
                "New certificates that could not be had or used.",
                &identity.failures,
            ),
            (
                "whodunit_tls_accepted_total",
                "Handshakes with those who connected that succeeded.",
                &identity.accepted,
            ),
            (
                "whodunit_tls_refused_total",
                "Handshakes with those who connected that failed.",
                &identity.refused,
            ),
            (
                "whodunit_tls_connected_total",
                "Handshakes with endpoints that succeeded.",
                &identity.connected,
            ),
            (
                "whodunit_tls_failed_total",
                "Handshakes with endpoints that failed.",
                &identity.failed,
            ),
        ] {
            single(name, counter, help, &read(count));
        }
    }
    let name = "whodunit_detection_fall_backs_total";
    let help = "Connections whose protocol was not recognized.";
    family(out, name, counter, help);
    // Names of listeners are plain: the configuration takes no others.
    for (listener, count) in &own.fall_backs {
        let _ = writeln!(out, "{name}{{{labels},listener=\"{listener}\"}} {count}");
    }
    let name = "whodunit_limit_hits_total";
    family(
        out,
        name,
        counter,
        "How often a limit was reached, see docs/limits.md.",
    );
    for (limit, hits) in &own.limits {
        let limit = limit.name();
        let _ = writeln!(out, "{name}{{{labels},limit=\"{limit}\"}} {hits}");
    }
    let reasons = |name: &str, help: &str, reasons: &[(&str, u64)], out: &mut String| {
        family(out, name, counter, help);
        for (reason, count) in reasons {
            let _ = writeln!(out, "{name}{{{labels},reason=\"{reason}\"}} {count}");
        }
    };
    reasons(
        "whodunit_recorder_dropped_total",
        "Requests without a final row.",
        &dropped(counters),
        out,
    );
    reasons(
        "whodunit_recorder_discarded_rows_total",
        "Rows given up.",
        &discarded(counters),
        out,
    );
}

/// Returns the requests without a final row, by reason.
pub(crate) const fn dropped(counters: &Counters) -> [(&'static str, u64); 2] {
    [
        ("abandoned", counters.dropped_abandoned),
        ("queue_full", counters.dropped_queue_full),
    ]
}

/// Returns the rows given up, by reason.
pub(crate) const fn discarded(counters: &Counters) -> [(&'static str, u64); 3] {
    [
        ("buffer_full", counters.discarded_buffer_full),
        ("queue_full", counters.discarded_queue_full),
        ("mode", counters.discarded_mode),
    ]
}

fn process(out: &mut String, own: &Own) {
    let process = &own.process;
    let mut single = |name: &str, kind: &str, help: &str, value: Option<String>| {
        if let Some(value) = value {
            family(out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        }
    };
    single(
        "process_start_time_seconds",
        "gauge",
        "Time that the process started, in seconds since the Unix epoch.",
        Some(format!("{:.3}", own.start_time_s)),
    );
    single(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        process.cpu_s.map(|s| s.to_string()),
    );
    let gauges = [
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            process.resident_bytes,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            process.virtual_bytes,
        ),
        (
            "process_open_fds",
            "Number of open file descriptors.",
            process.open_fds,
        ),
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            process.max_fds,
        ),
        (
            "process_threads",
            "Number of OS threads in the process.",
            process.threads,
        ),
    ];
    for (name, help, value) in gauges {
        single(name, "gauge", help, value.map(|n| n.to_string()));
    }
}
