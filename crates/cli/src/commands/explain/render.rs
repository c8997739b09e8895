//! The call tree as a waterfall, then what each side of each hop saw and decided.

use std::fmt::Write as _;

use whodunit_api::explain::{Explain, Hop};
use whodunit_api::record::{Party, Record};
use whodunit_model::outcome::Cause;
use whodunit_model::route::short as short_route;

use crate::figures::{MISSING, bytes, ms, ms_or_missing};
use crate::text::{cut, pad, pad_left, safe, width, wrap};
use crate::view::{Tone, View};

/// Columns of the drawn bars.
const BAR_COLUMNS: usize = 24;

/// Links less certain than this are marked with a question mark.
const CERTAIN: f64 = 0.9;

/// Prints the tree.
pub(super) fn render(answer: &Explain, view: &View) -> String {
    let mut out = String::new();
    let asked = answer.hops.iter().find(|hop| hop.id == answer.id);
    if let Some(record) = asked.and_then(seen) {
        let title = format!("{} {}", who(record, view), what(record));
        let _ = writeln!(
            out,
            "{}  {}\n",
            view.paint(Tone::Strong, &title),
            view.paint(Tone::Quiet, &view.clock.moment_ms(start_us(record)))
        );
    }
    for line in wrap(&safe(&answer.says), view.text_width() - 2) {
        let _ = writeln!(out, "  {line}");
    }
    out.push('\n');
    waterfall(answer, view, &mut out);
    for (i, hop) in answer.hops.iter().enumerate() {
        out.push('\n');
        details(i, hop, answer, view, &mut out);
    }
    out
}

/// The record that shows a hop best: the caller saw all of it.
const fn seen(hop: &Hop) -> Option<&Record> {
    match &hop.outbound {
        Some(record) => Some(record),
        None => hop.inbound.as_ref(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "µs of one request fit")]
fn start_us(record: &Record) -> i64 {
    record.at_us - (record.duration_ms * 1_000.0) as i64
}

fn who(record: &Record, view: &View) -> String {
    let name = |party: &Party, otherwise: &str| match (party.workload.as_str(), otherwise) {
        ("", "") => MISSING.to_owned(),
        ("", otherwise) => safe(otherwise).into_owned(),
        (workload, _) => safe(workload).into_owned(),
    };
    format!(
        "{} {} {}",
        name(&record.from, ""),
        view.arrow(),
        name(&record.to, &record.service)
    )
}

fn what(record: &Record) -> String {
    let text = match record.protocol.as_str() {
        "grpc" => short_route(&record.route).to_owned(),
        "tcp" => "tcp".to_owned(),
        _ => format!("{} {}", record.method, record.path),
    };
    safe(text.trim()).into_owned()
}

fn status(record: &Record) -> String {
    match (record.grpc_status_name.as_str(), record.status) {
        ("", None) => MISSING.to_owned(),
        ("", Some(status)) => status.to_string(),
        (name, _) => safe(name).into_owned(),
    }
}

/// How deep a hop lies in the tree. A parent comes before its children; one that
/// does not is taken as absent, so that no answer can make this run in a circle.
fn depths(hops: &[Hop]) -> Vec<usize> {
    let mut depths: Vec<usize> = Vec::with_capacity(hops.len());
    for (i, hop) in hops.iter().enumerate() {
        let depth = match hop.parent {
            Some(parent) if parent < i => depths[parent] + 1,
            _ => 0,
        };
        depths.push(depth);
    }
    depths
}

fn waterfall(answer: &Explain, view: &View, out: &mut String) {
    let depths = depths(&answer.hops);
    let labels: Vec<String> = answer
        .hops
        .iter()
        .zip(&depths)
        .map(|(hop, depth)| label(hop, *depth, view))
        .collect();
    let room = view
        .width
        .unwrap_or(120)
        .saturating_sub(BAR_COLUMNS + 48)
        .max(24);
    let columns = labels
        .iter()
        .map(|l| width(l))
        .fold(4, usize::max)
        .min(room);
    let end = answer
        .hops
        .iter()
        .map(|hop| hop.offset_ms + hop.duration_ms)
        .fold(0.0, f64::max);
    let header = format!(
        "{}  {}  {}  {}  {}  0 to {}",
        pad("CALL", columns),
        pad("STATUS", 10),
        pad_left("TOTAL", 8),
        pad_left("NET", 7),
        pad_left("SELF", 8),
        ms(end)
    );
    let _ = writeln!(out, "{}", view.paint(Tone::Strong, &header));
    for (hop, label) in answer.hops.iter().zip(&labels) {
        let record = seen(hop);
        let failed = record.is_some_and(|record| record.outcome == "failure");
        let tone = if failed { Tone::Bad } else { Tone::Plain };
        let status = record.map_or_else(|| MISSING.to_owned(), status);
        let line = format!(
            "{}  {}  {}  {}  {}  {}",
            pad(&cut(label, columns, view.ellipsis()), columns),
            view.paint(tone, &pad(&cut(&status, 10, view.ellipsis()), 10)),
            pad_left(&ms(hop.duration_ms), 8),
            pad_left(&ms_or_missing(hop.network_ms), 7),
            pad_left(&ms(hop.self_ms), 8),
            view.paint(tone, &bar(hop, end, view)),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn label(hop: &Hop, depth: usize, view: &View) -> String {
    let indent = match depth {
        0 => String::new(),
        _ => format!("{}{}", "  ".repeat(depth.min(24) - 1), view.branch()),
    };
    let Some(record) = seen(hop) else {
        return format!("{indent}{}", safe(&hop.id));
    };
    let doubt = if hop.parent.is_some() && hop.certainty < CERTAIN {
        " ?"
    } else {
        ""
    };
    format!("{indent}{} {}{doubt}", who(record, view), what(record))
}

/// Draws when the hop ran: the callee's part full, what lies between the proxies light.
fn bar(hop: &Hop, end: f64, view: &View) -> String {
    if end <= 0.0 {
        return String::new();
    }
    #[expect(clippy::cast_precision_loss, reason = "a few dozen columns")]
    let scale = BAR_COLUMNS as f64 / end;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the columns of the bar"
    )]
    let column = |ms: f64| (ms * scale).round().clamp(0.0, BAR_COLUMNS as f64) as usize;
    let start = column(hop.offset_ms).min(BAR_COLUMNS - 1);
    let stop = column(hop.offset_ms + hop.duration_ms).max(start + 1);
    let network = column(hop.network_ms.unwrap_or(0.0)).min(stop - start - 1);
    let before = network / 2;
    let (light, full) = (view.light_bar(), view.bar());
    format!(
        "{}{}{}{}",
        " ".repeat(start),
        light.repeat(before),
        full.repeat(stop - start - network),
        light.repeat(network - before)
    )
}

fn details(i: usize, hop: &Hop, answer: &Explain, view: &View, out: &mut String) {
    let title = match seen(hop) {
        Some(record) => format!("{} {}", who(record, view), what(record)),
        None => String::new(),
    };
    let _ = writeln!(
        out,
        "{}  {}",
        view.paint(Tone::Strong, &format!("{}. {title}", i + 1)),
        view.paint(Tone::Quiet, &safe(&hop.id))
    );
    let link = match (hop.parent, hop.linked_by.as_str()) {
        (None, _) => None,
        (Some(parent), "trace") => Some(format!(
            "called by {}: the application passed its trace on",
            parent + 1
        )),
        (Some(parent), _) => Some(format!(
            "called by {}: inferred from timing, certainty {:.2}",
            parent + 1,
            hop.certainty
        )),
    };
    if let Some(link) = link.filter(|_| answer.hops.len() > 1) {
        let _ = writeln!(out, "   {link}");
    }
    let sides = [
        ("caller's proxy", &hop.outbound),
        ("callee's proxy", &hop.inbound),
    ];
    for (name, record) in sides {
        match record {
            Some(record) => side(name, record, view, out),
            None => {
                let _ = writeln!(out, "   {name}: no record");
            }
        }
    }
}

fn side(name: &str, record: &Record, view: &View, out: &mut String) {
    let failed = record.outcome == "failure";
    let tone = if failed { Tone::Bad } else { Tone::Plain };
    let mut result = status(record);
    if failed {
        let explanation = Cause::from_name(&record.cause).map_or("", Cause::explanation);
        let _ = write!(result, " {}", safe(&record.cause));
        if !record.origin.is_empty() {
            let _ = write!(result, ", origin {}", safe(&record.origin));
        }
        if !explanation.is_empty() {
            let _ = write!(result, ": {explanation}");
        }
    } else if record.outcome == "pending" {
        result.push_str(" still open");
    }
    let _ = writeln!(out, "   {name}: {}", view.paint(tone, &result));
    let indent = " ".repeat(6);
    let mut times = format!(
        "first byte after {}, end after {}",
        ms(record.latency_ms),
        ms(record.duration_ms)
    );
    if record.side == "outbound" {
        let _ = write!(times, ", queued {}", ms(record.queue_ms));
    }
    let _ = write!(
        times,
        "; {} sent, {} received",
        bytes(record.request_bytes),
        bytes(record.response_bytes)
    );
    let _ = writeln!(out, "{indent}{times}");
    let decisions = decisions(record).join("; ");
    for line in wrap(&decisions, view.text_width() - indent.len()) {
        let _ = writeln!(out, "{indent}{line}");
    }
}

/// What the proxy knew and chose.
fn decisions(record: &Record) -> Vec<String> {
    let mut said = Vec::new();
    if !record.endpoint.is_empty() {
        let connection = if record.reused { "reused" } else { "new" };
        said.push(format!(
            "endpoint {} over a {connection} connection",
            safe(&record.endpoint)
        ));
    }
    let instance = match record.side.as_str() {
        "inbound" => &record.to.instance,
        _ => &record.from.instance,
    };
    if !instance.is_empty() {
        said.push(format!("seen at {}", safe(instance)));
    }
    let how = match record.detected.as_str() {
        "declared" => "as declared",
        "bytes" => "by its first bytes",
        "remembered" => "as remembered",
        "fall_back" => "as a fall-back: it was not recognized",
        _ => "",
    };
    said.push(
        format!("{} {how}", safe(&record.protocol))
            .trim()
            .to_owned(),
    );
    said.push(match record.tls.as_str() {
        "mutual" => "secured by mutual TLS".to_owned(),
        "disabled" | "" => "not secured".to_owned(),
        other => format!("TLS {}", safe(other)),
    });
    let policy = record.trail.iter().find(|step| step.name == "policy");
    if let Some((action, rule)) = policy.and_then(|step| step.value.split_once(':')) {
        let did = match action {
            "allow" => "allowed",
            "audit" => "would have been denied",
            "deny" => "denied",
            other => other,
        };
        said.push(match rule {
            "default" => format!("{} by the default policy", safe(did)),
            rule => format!("{} by policy rule {}", safe(did), safe(rule)),
        });
    }
    if record.attempts > 1 {
        said.push(format!("{} tries", record.attempts));
    }
    if record.side == "outbound" && record.twin == "no" {
        said.push("the other side has no proxy of ours".to_owned());
    }
    for attribute in &record.attributes {
        said.push(format!(
            "{}={}",
            safe(&attribute.name),
            safe(&attribute.value)
        ));
    }
    if !record.correlation.is_empty() {
        said.push(format!("x-request-id {}", safe(&record.correlation)));
    }
    if !record.trace_id.is_empty() {
        said.push(format!("trace {}", safe(&record.trace_id)));
    }
    said
}

#[cfg(test)]
mod tests;
