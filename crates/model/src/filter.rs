//! The syntax tree of request filters, and what it means.
//!
//! Command-line flags, the API and later the filter language all build this
//! tree; [`Filter::matches`] is its meaning. A text matches case sensitively.

use serde::{Deserialize, Serialize};

use crate::outcome::grpc_status_name;
use crate::record::Side;
use crate::redact::Attributes;
use crate::route;
use crate::rows::{Rows, Symbol};

/// Deepest nesting of a filter that is accepted.
pub const DEPTH_MAX: usize = 32;

/// Most comparisons of a filter that are accepted.
pub const TERMS_MAX: usize = 256;

/// Which requests are meant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Every request.
    #[default]
    All,
    /// Requests that match every part.
    And(Vec<Filter>),
    /// Requests that match at least one part.
    Or(Vec<Filter>),
    /// Requests that do not match.
    Not(Box<Filter>),
    /// Requests whose field compares as said.
    Is(Comparison),
}

/// One comparison of a field with a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The field.
    pub field: Field,
    /// How it is compared.
    pub op: Op,
    /// With what. For numbers, the decimal digits; durations are µs.
    pub value: Value,
}

/// A value to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A number; durations are in µs.
    Number(i64),
    /// A text.
    Text(String),
    /// Any of these texts.
    Any(Vec<String>),
}

/// How a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Equal; for a list, equal to one of it.
    Eq,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// The text begins with the value.
    Prefix,
    /// The text contains the value.
    Contains,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident $text:literal,)*) => {
        /// A field of a request.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Field {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// A captured attribute by name.
            Attribute(String),
        }

        impl Field {
            /// The names of all fields but attributes.
            pub const NAMES: &'static [&'static str] = &[$($text,)*];

            /// Returns the field with this name; `attribute.NAME` is an attribute.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$variant),)*
                    _ => name.strip_prefix("attribute.").map(|name| Self::Attribute(name.to_owned())),
                }
            }
        }
    };
}

fields! {
    /// Request id, text.
    Id "id",
    /// `request`, `attempt`, `connection` or `open`.
    Kind "kind",
    /// `inbound` or `outbound`.
    Side "side",
    /// Namespace of either end.
    Namespace "namespace",
    /// The workload that made the record.
    Workload "workload",
    /// The instance that made the record.
    Instance "instance",
    /// Caller's workload.
    From "from",
    /// Caller's instance.
    FromInstance "from_instance",
    /// Caller's namespace.
    FromNamespace "from_namespace",
    /// Callee's workload or service.
    To "to",
    /// Callee's instance.
    ToInstance "to_instance",
    /// Callee's namespace.
    ToNamespace "to_namespace",
    /// Callee's version.
    Version "version",
    /// Service name.
    Service "service",
    /// `Host` or `:authority`.
    Authority "authority",
    /// HTTP method.
    Method "method",
    /// Route, whole or short (`VotePoop`).
    Route "route",
    /// Redacted path and query.
    Path "path",
    /// HTTP status, number.
    Status "status",
    /// gRPC status, number or name.
    GrpcStatus "grpc_status",
    /// `success`, `failure` or `pending`.
    Outcome "outcome",
    /// Cause of the failure.
    Cause "cause",
    /// Origin of the failure.
    Origin "origin",
    /// `http1`, `http2`, `grpc` or `tcp`.
    Protocol "protocol",
    /// `disabled`, `mutual` or `opaque`.
    Tls "tls",
    /// `yes`, `no` or `unknown`: whether the other side was ours too.
    Twin "twin",
    /// Time to the first body byte, µs.
    Latency "latency",
    /// Time to the end, µs.
    Duration "duration",
    /// Request body bytes.
    RequestBytes "request_bytes",
    /// Response body bytes.
    ResponseBytes "response_bytes",
    /// Tries made.
    Attempts "attempts",
    /// Chosen address.
    Endpoint "endpoint",
    /// Trace id, 32 hexadecimal digits.
    TraceId "trace_id",
    /// `x-request-id`.
    Correlation "correlation",
    /// 1 for a 4xx, else 0.
    ClientError "client_error",
    /// 1 for a health probe, else 0.
    Probe "probe",
}

impl Filter {
    /// Returns the filter that matches when both do.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, other) => other,
            (this, Self::All) => this,
            (Self::And(mut parts), other) => {
                parts.push(other);
                Self::And(parts)
            }
            (this, other) => Self::And(vec![this, other]),
        }
    }

    /// Returns the filter for `field = text`.
    #[must_use]
    pub fn text(field: Field, text: impl Into<String>) -> Self {
        Self::Is(Comparison {
            field,
            op: Op::Eq,
            value: Value::Text(text.into()),
        })
    }

    /// Returns the filter that compares `field` with a number.
    #[must_use]
    pub const fn number(field: Field, op: Op, number: i64) -> Self {
        Self::Is(Comparison {
            field,
            op,
            value: Value::Number(number),
        })
    }

    /// Checks the bounds on size and nesting.
    ///
    /// # Errors
    /// When the filter is larger than [`TERMS_MAX`] or deeper than [`DEPTH_MAX`].
    pub fn check(&self) -> Result<(), FilterError> {
        let mut terms = 0;
        self.check_part(0, &mut terms)
    }

    fn check_part(&self, depth: usize, terms: &mut usize) -> Result<(), FilterError> {
        *terms += 1;
        if depth > DEPTH_MAX || *terms > TERMS_MAX {
            return Err(FilterError);
        }
        match self {
            Self::All | Self::Is(_) => Ok(()),
            Self::Not(part) => part.check_part(depth + 1, terms),
            Self::And(parts) | Self::Or(parts) => parts
                .iter()
                .try_for_each(|part| part.check_part(depth + 1, terms)),
        }
    }

    /// Says whether row `index` matches.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn matches(&self, rows: &Rows, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::And(parts) => parts.iter().all(|part| part.matches(rows, index)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(rows, index)),
            Self::Not(part) => !part.matches(rows, index),
            Self::Is(comparison) => comparison.matches(rows, index),
        }
    }
}

impl Comparison {
    fn matches(&self, rows: &Rows, i: usize) -> bool {
        let symbol = |symbol: Symbol| self.compare_text(rows.text(symbol));
        let inbound = rows.side[i] == Side::Inbound;
        match &self.field {
            Field::Id => self.compare_text(&rows.id[i].to_string()),
            Field::Kind => self.compare_text(rows.kind[i].name()),
            Field::Side => self.compare_text(rows.side[i].name()),
            Field::Namespace => symbol(rows.src_namespace[i]) || symbol(rows.dst_namespace[i]),
            Field::Workload => symbol(if inbound {
                rows.dst_workload[i]
            } else {
                rows.src_workload[i]
            }),
            Field::Instance => symbol(if inbound {
                rows.dst_instance[i]
            } else {
                rows.src_instance[i]
            }),
            Field::From => symbol(rows.src_workload[i]),
            Field::FromInstance => symbol(rows.src_instance[i]),
            Field::FromNamespace => symbol(rows.src_namespace[i]),
            Field::To => symbol(rows.dst_workload[i]) || symbol(rows.service[i]),
            Field::ToInstance => symbol(rows.dst_instance[i]),
            Field::ToNamespace => symbol(rows.dst_namespace[i]),
            Field::Version => symbol(rows.dst_version[i]),
            Field::Service => symbol(rows.service[i]),
            Field::Authority => symbol(rows.authority[i]),
            Field::Method => symbol(rows.method[i]),
            Field::Route => {
                let name = rows.text(rows.route[i]);
                self.compare_text(name) || self.compare_text(route::short(name))
            }
            Field::Path => symbol(rows.path[i]),
            Field::Status => self.compare_number(i64::from(rows.status[i])),
            Field::GrpcStatus => rows.grpc_status[i].is_some_and(|code| {
                self.compare_number(i64::from(code)) || self.compare_text(grpc_status_name(code))
            }),
            Field::Outcome => self.compare_text(rows.outcome[i].name()),
            Field::Cause => self.compare_text(rows.cause[i].name()),
            Field::Origin => self.compare_text(rows.origin[i].name()),
            Field::Protocol => self.compare_text(rows.protocol[i].name()),
            Field::Tls => self.compare_text(rows.tls[i].name()),
            Field::Twin => self.compare_text(rows.twin[i].name()),
            Field::Latency => self.compare_number(rows.latency_us[i]),
            Field::Duration => self.compare_number(rows.duration_us[i]),
            Field::RequestBytes => self.compare_count(rows.request_bytes[i]),
            Field::ResponseBytes => self.compare_count(rows.response_bytes[i]),
            Field::Attempts => self.compare_number(i64::from(rows.attempts[i])),
            Field::Endpoint => symbol(rows.endpoint[i]),
            Field::TraceId => {
                let trace_id = rows.trace[i].trace_id;
                trace_id != 0 && self.compare_text(&format!("{trace_id:032x}"))
            }
            Field::Correlation => symbol(rows.correlation[i]),
            Field::ClientError => self.compare_number(i64::from(rows.client_error[i])),
            Field::Probe => self.compare_number(i64::from(rows.probe[i])),
            Field::Attribute(name) => Attributes::value(rows.text(rows.attributes[i]), name)
                .is_some_and(|value| self.compare_text(&value)),
        }
    }

    fn compare_count(&self, found: u64) -> bool {
        self.compare_number(i64::try_from(found).unwrap_or(i64::MAX))
    }

    /// Says whether a number of the field's, `found`, compares as said.
    #[must_use]
    pub fn compare_number(&self, found: i64) -> bool {
        let wanted = match &self.value {
            Value::Number(number) => *number,
            Value::Text(text) => match text.parse() {
                Ok(number) => number,
                Err(_) => return false,
            },
            Value::Any(texts) => {
                return self.op == Op::Eq && texts.iter().any(|t| t.parse() == Ok(found));
            }
        };
        match self.op {
            Op::Eq => found == wanted,
            Op::Lt => found < wanted,
            Op::Le => found <= wanted,
            Op::Gt => found > wanted,
            Op::Ge => found >= wanted,
            Op::Prefix | Op::Contains => false,
        }
    }

    /// Says whether a text of the field's, `found`, compares as said.
    #[must_use]
    pub fn compare_text(&self, found: &str) -> bool {
        let compare = |wanted: &str| match self.op {
            Op::Eq => found == wanted,
            Op::Prefix => found.starts_with(wanted),
            Op::Contains => found.contains(wanted),
            Op::Lt => found < wanted,
            Op::Le => found <= wanted,
            Op::Gt => found > wanted,
            Op::Ge => found >= wanted,
        };
        match &self.value {
            Value::Text(wanted) => compare(wanted),
            Value::Any(all) => all.iter().any(|wanted| compare(wanted)),
            Value::Number(_) => false,
        }
    }
}

/// The filter is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter is too large: at most {TERMS_MAX} parts, nested at most {DEPTH_MAX} deep")]
pub struct FilterError;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, RequestId, RequestRecord};

    fn rows() -> Rows {
        let mut record = RequestRecord::new(RequestId::default(), Side::Inbound, 0);
        record.dst.workload = "voting".into();
        record.src.workload = "web".into();
        record.route = "emojivoto.v1.VotingService/VotePoop".into();
        record.attributes = "choice=:poop:".into();
        record.status = 200;
        record.grpc_status = Some(2);
        record.outcome = Outcome::Failure;
        record.latency_us = 4_000;
        [record].into_iter().collect()
    }

    #[track_caller]
    fn check(filter: Filter, expected: bool) {
        assert_eq!(filter.matches(&rows(), 0), expected, "{filter:?}");
        let json = serde_json::to_string(&filter).unwrap();
        assert_eq!(
            serde_json::from_str::<Filter>(&json).unwrap(),
            filter,
            "{json}"
        );
    }

    #[test]
    fn filters_mean_what_they_say() {
        check(Filter::All, true);
        check(Filter::text(Field::Route, "VotePoop"), true);
        check(
            Filter::text(Field::Route, "emojivoto.v1.VotingService/VotePoop"),
            true,
        );
        check(Filter::text(Field::Route, "Vote"), false);
        check(Filter::text(Field::To, "voting"), true);
        check(Filter::text(Field::From, "voting"), false);
        check(Filter::text(Field::GrpcStatus, "UNKNOWN"), true);
        check(Filter::number(Field::GrpcStatus, Op::Eq, 2), true);
        check(Filter::number(Field::Latency, Op::Ge, 4_000), true);
        check(Filter::number(Field::Latency, Op::Gt, 4_000), false);
        check(
            Filter::text(Field::Attribute("choice".into()), ":poop:"),
            true,
        );
        check(
            Filter::Not(Box::new(Filter::text(Field::From, "web"))),
            false,
        );
        let both = Filter::text(Field::From, "web").and(Filter::text(Field::Outcome, "success"));
        check(both, false);
        check(
            Filter::Or(vec![Filter::text(Field::Outcome, "failure")]),
            true,
        );
    }

    #[test]
    fn a_filter_that_is_too_deep_is_refused() {
        let mut filter = Filter::All;
        for _ in 0..100 {
            filter = Filter::Not(Box::new(filter));
        }
        assert_eq!(filter.check(), Err(FilterError));
    }
}
