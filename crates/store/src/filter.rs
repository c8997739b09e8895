//! Evaluates a filter over a whole batch.
//!
//! The meaning is the one of [`Filter::matches`]; a test holds the two
//! together. Texts are compared once per distinct string, not once per row.

use arrow_array::{Array, RecordBatch};
use whodunit_model::filter::{Comparison, Field, Op, Value};
use whodunit_model::outcome::grpc_status_name;
use whodunit_model::redact::Attributes;
use whodunit_model::{Filter, RequestId, Side, route};

use crate::columns::{self, Ids, Texts};

/// Adds the names of the columns that `filter` looks at.
pub(crate) fn columns_of(filter: &Filter, names: &mut Vec<&'static str>) {
    match filter {
        Filter::All => {}
        Filter::And(parts) | Filter::Or(parts) => {
            for part in parts {
                columns_of(part, names);
            }
        }
        Filter::Not(part) => columns_of(part, names),
        Filter::Is(comparison) => {
            for name in field_columns(&comparison.field) {
                if !names.contains(name) {
                    names.push(name);
                }
            }
        }
    }
}

fn field_columns(field: &Field) -> &'static [&'static str] {
    match field {
        Field::Id => &["id_start", "id_boot", "id_n"],
        Field::Kind => &["kind"],
        Field::Side => &["side"],
        Field::Namespace => &["src_namespace", "dst_namespace"],
        Field::Workload => &["side", "src_workload", "dst_workload"],
        Field::Instance => &["side", "src_instance", "dst_instance"],
        Field::From => &["src_workload"],
        Field::FromInstance => &["src_instance"],
        Field::FromNamespace => &["src_namespace"],
        Field::To => &["dst_workload", "service"],
        Field::ToInstance => &["dst_instance"],
        Field::ToNamespace => &["dst_namespace"],
        Field::Version => &["dst_version"],
        Field::Service => &["service"],
        Field::Authority => &["authority"],
        Field::Method => &["method"],
        Field::Route => &["route"],
        Field::Path => &["path"],
        Field::Status => &["status"],
        Field::GrpcStatus => &["grpc_status"],
        Field::Outcome => &["outcome"],
        Field::Cause => &["cause"],
        Field::Origin => &["origin"],
        Field::Protocol => &["protocol"],
        Field::Tls => &["tls"],
        Field::Twin => &["twin"],
        Field::Latency => &["latency_us"],
        Field::Duration => &["duration_us"],
        Field::RequestBytes => &["request_bytes"],
        Field::ResponseBytes => &["response_bytes"],
        Field::Attempts => &["attempts"],
        Field::Endpoint => &["endpoint"],
        Field::TraceId => &["trace_id"],
        Field::Correlation => &["correlation"],
        Field::ClientError => &["client_error"],
        Field::Probe => &["probe"],
        Field::Attribute(_) => &["attributes"],
    }
}

/// Says of each row of `batch` whether it matches.
pub(crate) fn mask(filter: &Filter, batch: &RecordBatch) -> Vec<bool> {
    let rows = batch.num_rows();
    match filter {
        Filter::All => vec![true; rows],
        Filter::And(parts) => {
            let mut all = vec![true; rows];
            for part in parts {
                if !all.contains(&true) {
                    break;
                }
                for (all, one) in all.iter_mut().zip(mask(part, batch)) {
                    *all &= one;
                }
            }
            all
        }
        Filter::Or(parts) => {
            let mut any = vec![false; rows];
            for part in parts {
                or(&mut any, &mask(part, batch));
            }
            any
        }
        Filter::Not(part) => {
            let mut mask = mask(part, batch);
            for one in &mut mask {
                *one = !*one;
            }
            mask
        }
        Filter::Is(comparison) => compare(comparison, batch),
    }
}

fn or(any: &mut [bool], more: &[bool]) {
    for (any, one) in any.iter_mut().zip(more) {
        *any |= *one;
    }
}

fn compare(comparison: &Comparison, batch: &RecordBatch) -> Vec<bool> {
    let text = |name| texts(batch, name, |found| comparison.compare_text(found));
    let number = |name| numbers(comparison, batch, name);
    match &comparison.field {
        Field::Id => ids(comparison, batch),
        Field::Kind => text("kind"),
        Field::Side => text("side"),
        Field::Namespace => {
            let mut either = text("src_namespace");
            or(&mut either, &text("dst_namespace"));
            either
        }
        Field::Workload => own_side(batch, text("src_workload"), &text("dst_workload")),
        Field::Instance => own_side(batch, text("src_instance"), &text("dst_instance")),
        Field::From => text("src_workload"),
        Field::FromInstance => text("src_instance"),
        Field::FromNamespace => text("src_namespace"),
        Field::To => {
            let mut either = text("dst_workload");
            or(&mut either, &text("service"));
            either
        }
        Field::ToInstance => text("dst_instance"),
        Field::ToNamespace => text("dst_namespace"),
        Field::Version => text("dst_version"),
        Field::Service => text("service"),
        Field::Authority => text("authority"),
        Field::Method => text("method"),
        Field::Route => texts(batch, "route", |name| {
            comparison.compare_text(name) || comparison.compare_text(route::short(name))
        }),
        Field::Path => text("path"),
        Field::Status => number("status"),
        Field::GrpcStatus => grpc_statuses(comparison, batch),
        Field::Outcome => text("outcome"),
        Field::Cause => text("cause"),
        Field::Origin => text("origin"),
        Field::Protocol => text("protocol"),
        Field::Tls => text("tls"),
        Field::Twin => text("twin"),
        Field::Latency => number("latency_us"),
        Field::Duration => number("duration_us"),
        Field::RequestBytes => number("request_bytes"),
        Field::ResponseBytes => number("response_bytes"),
        Field::Attempts => number("attempts"),
        Field::Endpoint => text("endpoint"),
        Field::TraceId => trace_ids(comparison, batch),
        Field::Correlation => text("correlation"),
        Field::ClientError => flags(comparison, batch, "client_error"),
        Field::Probe => flags(comparison, batch, "probe"),
        Field::Attribute(wanted) => texts(batch, "attributes", |found| {
            Attributes::value(found, wanted).is_some_and(|value| comparison.compare_text(&value))
        }),
    }
}

/// Compares a text column, each distinct string at most once.
fn texts(batch: &RecordBatch, name: &str, compare: impl Fn(&str) -> bool) -> Vec<bool> {
    let rows = batch.num_rows();
    let Some(texts) = Texts::of(batch, name) else {
        return vec![compare(""); rows];
    };
    let mut known: Vec<Option<bool>> = vec![None; texts.distinct()];
    let mut empty = None;
    (0..rows)
        .map(|index| match texts.key(index) {
            Some(key) => *known[key].get_or_insert_with(|| compare(texts.value(key))),
            None => *empty.get_or_insert_with(|| compare("")),
        })
        .collect()
}

fn numbers(comparison: &Comparison, batch: &RecordBatch, name: &str) -> Vec<bool> {
    if let Some(values) = columns::longs(batch, name) {
        return values
            .iter()
            .map(|value| comparison.compare_number(*value))
            .collect();
    }
    if let Some(values) = columns::ints(batch, name) {
        return values
            .iter()
            .map(|value| comparison.compare_number(i64::from(*value)))
            .collect();
    }
    vec![comparison.compare_number(0); batch.num_rows()]
}

fn flags(comparison: &Comparison, batch: &RecordBatch, name: &str) -> Vec<bool> {
    let (no, yes) = (comparison.compare_number(0), comparison.compare_number(1));
    match columns::flags(batch, name) {
        Some(values) => (0..batch.num_rows())
            .map(|index| if values.value(index) { yes } else { no })
            .collect(),
        None => vec![no; batch.num_rows()],
    }
}

/// Takes `outbound` where the row was recorded beside the caller, else `inbound`.
fn own_side(batch: &RecordBatch, mut outbound: Vec<bool>, inbound: &[bool]) -> Vec<bool> {
    let is_outbound = texts(batch, "side", |side| side == Side::Outbound.name());
    for ((own, inbound), is_outbound) in outbound.iter_mut().zip(inbound).zip(is_outbound) {
        if !is_outbound {
            *own = *inbound;
        }
    }
    outbound
}

fn grpc_statuses(comparison: &Comparison, batch: &RecordBatch) -> Vec<bool> {
    let Some(values) = columns::grpc_statuses(batch) else {
        return vec![false; batch.num_rows()];
    };
    let known: Vec<bool> = (0..=u8::MAX)
        .map(|code| {
            comparison.compare_number(i64::from(code))
                || comparison.compare_text(grpc_status_name(code))
        })
        .collect();
    (0..values.len())
        .map(|index| {
            columns::grpc_status(values, index).is_some_and(|code| known[usize::from(code)])
        })
        .collect()
}

fn trace_ids(comparison: &Comparison, batch: &RecordBatch) -> Vec<bool> {
    let Some(values) = columns::trace_ids(batch) else {
        return vec![false; batch.num_rows()];
    };
    let exact = exact_texts(comparison).map(|texts| {
        let ids = texts.iter().filter_map(|text| parse_trace_id(text));
        ids.collect::<Vec<u128>>()
    });
    (0..values.len())
        .map(|index| match columns::trace_id(values, index) {
            0 => false,
            id => match &exact {
                Some(wanted) => wanted.contains(&id),
                None => comparison.compare_text(&format!("{id:032x}")),
            },
        })
        .collect()
}

/// Reads a trace id in the one spelling that [`Field::TraceId`] compares with.
pub(crate) fn parse_trace_id(text: &str) -> Option<u128> {
    let plain = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !plain {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

fn ids(comparison: &Comparison, batch: &RecordBatch) -> Vec<bool> {
    let rows = batch.num_rows();
    let Some(ids) = Ids::of(batch) else {
        return vec![comparison.compare_text(&RequestId::default().to_string()); rows];
    };
    let exact = exact_texts(comparison).and_then(|texts| {
        let parse = |text: &String| {
            text.parse()
                .ok()
                .filter(|id: &RequestId| id.to_string() == *text)
        };
        texts.iter().map(parse).collect::<Option<Vec<RequestId>>>()
    });
    (0..rows)
        .map(|index| match &exact {
            Some(wanted) => wanted.contains(&ids.id(index)),
            None => comparison.compare_text(&ids.id(index).to_string()),
        })
        .collect()
}

/// Returns the texts of a comparison for equality.
pub(crate) fn exact_texts(comparison: &Comparison) -> Option<&[String]> {
    if comparison.op != Op::Eq {
        return None;
    }
    match &comparison.value {
        Value::Text(text) => Some(std::slice::from_ref(text)),
        Value::Any(texts) => Some(texts),
        Value::Number(_) => None,
    }
}
