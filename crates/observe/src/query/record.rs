//! One row as the API shows it.

use whodunit_api::record::{Attribute, Party, Record};
use whodunit_model::outcome::grpc_status_name;
use whodunit_model::redact::Attributes;
use whodunit_model::time::format_utc;
use whodunit_model::{Cause, Origin, Rows};

/// Returns row `index` as the API shows it.
///
/// # Panics
/// When there is no such row.
#[must_use]
pub fn record(rows: &Rows, index: usize) -> Record {
    let row = rows.row(index);
    let text = |symbol| rows.text(symbol).to_owned();
    Record {
        id: row.id.to_string(),
        kind: row.kind.name().to_owned(),
        side: row.side.name().to_owned(),
        start: format_utc(row.start_at_us),
        at_us: row.at_us,
        latency_ms: ms(row.latency_us),
        duration_ms: ms(row.duration_us),
        from: Party {
            namespace: text(row.src_namespace),
            workload: text(row.src_workload),
            instance: text(row.src_instance),
            version: text(row.src_version),
        },
        to: Party {
            namespace: text(row.dst_namespace),
            workload: text(row.dst_workload),
            instance: text(row.dst_instance),
            version: text(row.dst_version),
        },
        service: text(row.service),
        authority: text(row.authority),
        protocol: row.protocol.name().to_owned(),
        detected: row.detected.name().to_owned(),
        tls: row.tls.name().to_owned(),
        twin: row.twin.name().to_owned(),
        method: text(row.method),
        route: text(row.route),
        path: text(row.path),
        status: (row.status != 0).then_some(row.status),
        grpc_status: row.grpc_status,
        grpc_status_name: row
            .grpc_status
            .map(|code| grpc_status_name(code).to_owned())
            .unwrap_or_default(),
        outcome: row.outcome.name().to_owned(),
        cause: named(row.cause, Cause::None, Cause::name),
        origin: named(row.origin, Origin::None, Origin::name),
        client_error: row.client_error,
        attempts: row.attempts,
        request_bytes: row.request_bytes,
        response_bytes: row.response_bytes,
        request_messages: row.request_messages,
        response_messages: row.response_messages,
        endpoint: text(row.endpoint),
        queue_ms: ms(row.queue_us),
        reused: row.reused,
        trace_id: match row.trace.trace_id {
            0 => String::new(),
            id => format!("{id:032x}"),
        },
        correlation: text(row.correlation),
        attributes: attributes(rows.text(row.attributes)),
        trail: attributes(rows.text(row.trail)),
        probe: row.probe,
    }
}

fn attributes(text: &str) -> Vec<Attribute> {
    Attributes::iter(text)
        .map(|(name, value)| Attribute {
            name: name.into_owned(),
            value: value.into_owned(),
        })
        .collect()
}

fn named<T: PartialEq + Copy>(value: T, none: T, name: fn(T) -> &'static str) -> String {
    if value == none {
        String::new()
    } else {
        name(value).to_owned()
    }
}

/// Returns milliseconds of a duration in µs.
#[expect(
    clippy::cast_precision_loss,
    reason = "durations stay far below 2^52 µs"
)]
pub(crate) fn ms(us: i64) -> f64 {
    us as f64 / 1_000.0
}
