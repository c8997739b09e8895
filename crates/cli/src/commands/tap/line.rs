//! One record as one line, aligned so that the eye can run down a column.

use whodunit_api::record::{Party, Record};
use whodunit_model::route::short as short_route;

use crate::figures::{MISSING, bytes, length, ms};
use crate::text::{cut, pad, pad_left, safe, width};
use crate::view::{Tone, View};

/// Columns grow with what was printed, up to these; longer texts push the rest aside.
const WHO_MAX: usize = 40;
const WHAT_MAX: usize = 48;
const STATUS_MAX: usize = 20;

/// What stays free for the cause when paths are cut to fit a terminal.
const CAUSE_COLUMNS: usize = 26;

/// A path is never cut below this.
const WHAT_MIN: usize = 16;

/// Column widths so far. Records that come later are aligned with those before.
#[derive(Debug)]
pub(crate) struct Lines {
    time: usize,
    who: usize,
    what: usize,
    status: usize,
    latency: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            time: 12,
            who: 14,
            what: 16,
            status: 3,
            latency: 6,
        }
    }
}

/// The columns of one record, safe to print.
struct Parts {
    time: String,
    side: &'static str,
    who: String,
    what: String,
    status: String,
    latency: String,
    note: String,
    tone: Tone,
}

impl Lines {
    /// Prints records, one line each.
    pub(crate) fn render(&mut self, records: &[Record], view: &View) -> String {
        let parts: Vec<Parts> = records.iter().map(|record| parts(record, view)).collect();
        for part in &parts {
            self.time = self.time.max(width(&part.time));
            self.who = self.who.max(width(&part.who).min(WHO_MAX));
            self.what = self.what.max(width(&part.what).min(WHAT_MAX));
            self.status = self.status.max(width(&part.status).min(STATUS_MAX));
            self.latency = self.latency.max(width(&part.latency));
        }
        let mut out = String::new();
        for (part, record) in parts.iter().zip(records) {
            out.push_str(&self.line(part, view));
            out.push('\n');
            if view.wide {
                out.push_str(&view.paint(Tone::Quiet, &details(record)));
                out.push('\n');
            }
        }
        out
    }

    fn line(&self, part: &Parts, view: &View) -> String {
        let what_columns = self.what_columns(part, view);
        let what = cut(&part.what, what_columns, view.ellipsis());
        let line = format!(
            "{}  {}  {}  {}  {}  {}  {}",
            view.paint(Tone::Quiet, &pad_left(&part.time, self.time)),
            view.paint(Tone::Quiet, part.side),
            pad(&part.who, self.who),
            pad(&what, what_columns),
            view.paint(part.tone, &pad(&part.status, self.status)),
            pad_left(&part.latency, self.latency),
            view.paint(part.tone, &part.note),
        );
        line.trim_end().to_owned()
    }

    /// The column of paths gives way on a narrow terminal; a pipe gets whole paths.
    fn what_columns(&self, part: &Parts, view: &View) -> usize {
        let Some(columns) = view.width.filter(|_| !view.wide) else {
            return self.what.max(width(&part.what));
        };
        let others = self.time + 3 + self.who + self.status + self.latency + 6 * 2;
        let room = columns.saturating_sub(others + CAUSE_COLUMNS);
        self.what.min(room.max(WHAT_MIN))
    }
}

fn parts(record: &Record, view: &View) -> Parts {
    let failed = record.outcome == "failure";
    let open = record.kind == "open";
    let tone = match () {
        () if failed => Tone::Bad,
        () if open || record.client_error => Tone::Warn,
        () => Tone::Plain,
    };
    Parts {
        time: view.clock.moment_ms(record.at_us),
        side: match record.side.as_str() {
            "inbound" => "in ",
            _ => "out",
        },
        who: format!(
            "{} {} {}",
            party(&record.from, ""),
            view.arrow(),
            to(record)
        ),
        what: what(record, view.wide),
        status: status(record),
        latency: if open {
            open_for(record.duration_ms)
        } else {
            ms(record.latency_ms)
        },
        note: note(record),
        tone,
    }
}

fn to(record: &Record) -> String {
    let other = [&record.service, &record.authority, &record.endpoint];
    let known = other.into_iter().find(|name| !name.is_empty());
    party(&record.to, known.map_or("", String::as_str))
}

fn party(party: &Party, otherwise: &str) -> String {
    match (party.workload.as_str(), otherwise) {
        ("", "") => MISSING.to_owned(),
        ("", otherwise) => safe(otherwise).into_owned(),
        (workload, _) => safe(workload).into_owned(),
    }
}

/// Method and path; for gRPC the method's name says it all.
fn what(record: &Record, wide: bool) -> String {
    let text = match record.protocol.as_str() {
        "tcp" => "tcp".to_owned(),
        "grpc" if wide => record.route.clone(),
        "grpc" => short_route(&record.route).to_owned(),
        _ => format!("{} {}", record.method, record.path),
    };
    safe(text.trim()).into_owned()
}

fn status(record: &Record) -> String {
    let grpc = safe(&record.grpc_status_name);
    match record.status {
        _ if !grpc.is_empty() => grpc.into_owned(),
        Some(status) => status.to_string(),
        None => MISSING.to_owned(),
    }
}

/// How long a request had been open when the proxy looked: at least this.
fn open_for(duration_ms: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float casts to the nearest integer"
    )]
    let us = (duration_ms * 1_000.0) as i64;
    format!("{}+", length(us))
}

/// Why it failed and where it began, and what else is odd about it.
fn note(record: &Record) -> String {
    let mut notes: Vec<String> = Vec::new();
    if !record.cause.is_empty() && record.cause != "none" {
        let origin = match record.origin.as_str() {
            "" | "none" => String::new(),
            origin => format!(" ({})", safe(origin)),
        };
        notes.push(format!("{}{origin}", safe(&record.cause)));
    }
    if record.kind == "open" {
        notes.push("still open".to_owned());
    }
    if record.kind == "attempt" {
        notes.push("one try".to_owned());
    }
    if record.attempts > 1 {
        notes.push(format!("{} tries", record.attempts));
    }
    if record.probe {
        notes.push("probe".to_owned());
    }
    notes.join(", ")
}

/// The second line of the wide format.
fn details(record: &Record) -> String {
    let mut words = vec![
        format!("id={}", safe(&record.id)),
        format!("kind={}", safe(&record.kind)),
        format!("protocol={}", safe(&record.protocol)),
        format!("detected={}", safe(&record.detected)),
        format!("tls={}", safe(&record.tls)),
        format!("twin={}", safe(&record.twin)),
        format!("duration={}", ms(record.duration_ms)),
        format!("queue={}", ms(record.queue_ms)),
        format!("sent={}", bytes(record.request_bytes)),
        format!("received={}", bytes(record.response_bytes)),
    ];
    let texts = [
        ("instance", &record.from.instance),
        ("to_instance", &record.to.instance),
        ("version", &record.to.version),
        ("endpoint", &record.endpoint),
        ("authority", &record.authority),
        ("trace", &record.trace_id),
        ("correlation", &record.correlation),
    ];
    for (name, value) in texts {
        if !value.is_empty() {
            words.push(format!("{name}={}", safe(value)));
        }
    }
    for attribute in &record.attributes {
        words.push(format!(
            "{}={}",
            safe(&attribute.name),
            safe(&attribute.value)
        ));
    }
    format!("    {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use whodunit_api::record::Attribute;

    fn party(workload: &str) -> Party {
        Party {
            namespace: "emojivoto".to_owned(),
            workload: workload.to_owned(),
            instance: format!("{workload}-0"),
            ..Party::default()
        }
    }

    fn records() -> Vec<Record> {
        let vote = Record {
            id: "00064a7b3c5d1e-00000000000000aa-1f".to_owned(),
            kind: "request".to_owned(),
            side: "inbound".to_owned(),
            at_us: 1_769_868_151_123_000,
            latency_ms: 3.1,
            duration_ms: 3.2,
            from: party("vote-bot"),
            to: party("web"),
            protocol: "http1".to_owned(),
            detected: "bytes".to_owned(),
            tls: "disabled".to_owned(),
            twin: "yes".to_owned(),
            method: "GET".to_owned(),
            route: "GET /api/vote".to_owned(),
            path: "/api/vote?choice=:poop:".to_owned(),
            status: Some(500),
            outcome: "failure".to_owned(),
            cause: "app_http_5xx".to_owned(),
            origin: "server".to_owned(),
            attributes: vec![Attribute {
                name: "choice".to_owned(),
                value: ":poop:".to_owned(),
            }],
            attempts: 1,
            ..Record::default()
        };
        let poop = Record {
            side: "outbound".to_owned(),
            at_us: vote.at_us - 2_000,
            latency_ms: 0.84,
            from: party("web"),
            to: party("voting"),
            protocol: "grpc".to_owned(),
            method: "POST".to_owned(),
            route: "emojivoto.v1.VotingService/VotePoop".to_owned(),
            path: "/emojivoto.v1.VotingService/VotePoop".to_owned(),
            status: Some(200),
            grpc_status: Some(2),
            grpc_status_name: "UNKNOWN".to_owned(),
            cause: "app_grpc_status".to_owned(),
            endpoint: "127.0.0.1:9001".to_owned(),
            ..vote.clone()
        };
        let good = Record {
            path: "/".to_owned(),
            status: Some(200),
            outcome: "success".to_owned(),
            cause: String::new(),
            origin: String::new(),
            from: Party::default(),
            at_us: vote.at_us - 86_400_000_000,
            ..vote.clone()
        };
        let open = Record {
            kind: "open".to_owned(),
            outcome: "pending".to_owned(),
            path: "/a\u{1b}[31m/\u{202e}hang".to_owned(),
            status: None,
            duration_ms: 10_000.0,
            ..good.clone()
        };
        vec![poop, vote, good, open]
    }

    #[track_caller]
    fn check(records: &[Record], change: impl FnOnce(&mut View), expected: Expect) {
        let mut view = View::plain();
        change(&mut view);
        expected.assert_eq(&Lines::default().render(records, &view));
    }

    #[test]
    fn a_line_reads_from_left_to_right() {
        check(
            &records(),
            |_| {},
            expect![[r#"
                           14:02:31.121  out  web → voting    VotePoop                     UNKNOWN   0.8ms  app_grpc_status (server)
                           14:02:31.123  in   vote-bot → web  GET /api/vote?choice=:poop:  500       3.1ms  app_http_5xx (server)
                2026-01-30 14:02:31.123  in   - → web         GET /                        200       3.1ms
                2026-01-30 14:02:31.123  in   - → web         GET /a\x1b[31m/\u{202e}hang  -          10s+  still open
            "#]],
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_paths_only() {
        check(
            &records()[..2],
            |view| view.width = Some(100),
            expect![[r#"
                14:02:31.121  out  web → voting    VotePoop              UNKNOWN   0.8ms  app_grpc_status (server)
                14:02:31.123  in   vote-bot → web  GET /api/vote?choic…  500       3.1ms  app_http_5xx (server)
            "#]],
        );
    }

    #[test]
    fn wide_says_the_rest() {
        check(
            &records()[..1],
            |view| {
                view.wide = true;
                view.unicode = false;
            },
            expect![[r#"
                14:02:31.121  out  web -> voting   emojivoto.v1.VotingService/VotePoop  UNKNOWN   0.8ms  app_grpc_status (server)
                    id=00064a7b3c5d1e-00000000000000aa-1f kind=request protocol=grpc detected=bytes tls=disabled twin=yes duration=3.2ms queue=0.0ms sent=0B received=0B instance=web-0 to_instance=voting-0 endpoint=127.0.0.1:9001 choice=:poop:
            "#]],
        );
    }

    #[test]
    fn later_records_line_up_with_earlier_ones() {
        let view = View::plain();
        let mut lines = Lines::default();
        let first = lines.render(&records()[..2], &view);
        let second = lines.render(&records()[..1], &view);
        assert_eq!(first.lines().next(), second.lines().next());
    }
}
