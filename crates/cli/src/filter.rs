//! Turns flags into the filter's syntax tree.
//!
//! One function builds the tree for `tap`, whether it looks back or follows, so
//! the two can never select different requests. A flag given twice matches
//! either value; different flags all have to match.

use whodunit_model::filter::{Comparison, Field, Filter, Op, Value};
use whodunit_model::outcome::{Cause, Outcome, grpc_status_code};
use whodunit_model::time::parse_duration;
use whodunit_model::{Side, Twin};

use crate::failure::Failure;
use crate::target::{Kind, Target};

/// Which requests are meant.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Filters (a flag given twice matches either)")]
pub(crate) struct FilterArgs {
    /// Only failed requests
    #[arg(long)]
    failed: bool,
    /// HTTP status: 500, or a class such as 5xx
    #[arg(long, value_name = "STATUS")]
    status: Vec<String>,
    /// gRPC status: a number or a name such as Unavailable
    #[arg(long, value_name = "STATUS")]
    grpc_status: Vec<String>,
    /// Only requests that took at least this long (250ms, 1.5s)
    #[arg(long, value_name = "DURATION")]
    min_latency: Option<String>,
    /// Only requests that took at most this long
    #[arg(long, value_name = "DURATION")]
    max_latency: Option<String>,
    /// HTTP method
    #[arg(long)]
    method: Vec<String>,
    /// The path begins with this
    #[arg(long, value_name = "PREFIX")]
    path: Vec<String>,
    /// Route, whole (`GET /api/vote`) or the method of a gRPC one (VotePoop)
    #[arg(long)]
    route: Vec<String>,
    /// Calling workload
    #[arg(long, value_name = "WORKLOAD")]
    from: Vec<String>,
    /// Called workload or service
    #[arg(long, value_name = "NAME")]
    to: Vec<String>,
    /// Cause of the failure, for example connect_refused
    #[arg(long)]
    cause: Vec<String>,
    /// Captured attribute: NAME=VALUE, or NAME for any value
    #[arg(long, value_name = "NAME[=VALUE]")]
    attribute: Vec<String>,
    /// Only what the proxy of the callee (inbound) or of the caller (outbound) saw; without it,
    /// and unless a workload or an instance is named, each call is shown once
    #[arg(long, value_name = "inbound|outbound")]
    side: Vec<String>,
    /// Only requests that were still open when the proxy looked (after 1 s, 10 s, each minute)
    #[arg(long)]
    open: bool,
    /// Show each try of a retried request too
    #[arg(long)]
    attempts: bool,
    /// Show health probes too
    #[arg(long)]
    probes: bool,
    /// Any field of the record: FIELD=VALUE (instance=web-0, version=v2, origin=network)
    #[arg(long = "where", value_name = "FIELD=VALUE")]
    wanted: Vec<String>,
    /// Leave out: FIELD=VALUE, where FIELD is any flag above or field (from=vote-bot)
    #[arg(long, value_name = "FIELD=VALUE")]
    not: Vec<String>,
}

/// Builds the filter for a target, a namespace and the flags.
///
/// # Errors
/// When a value is not one that its field can have.
pub(crate) fn build(
    target: Option<&Target>,
    namespace: Option<&str>,
    args: &FilterArgs,
) -> Result<Filter, Failure> {
    let mut parts: Vec<Filter> = Vec::new();
    if let Some(target) = target
        && let Some(name) = &target.name
    {
        parts.push(Filter::text(made_at(target.kind), name));
    }
    if let Some(namespace) = namespace {
        parts.push(Filter::text(Field::Namespace, namespace));
    }

    if args.side.is_empty() && !matches!(target, Some(target) if is_place(target)) {
        parts.push(once());
    }
    parts.push(kinds(args));
    if !args.probes {
        parts.push(Filter::number(Field::Probe, Op::Eq, 0));
    }
    if args.failed {
        parts.push(Filter::text(Field::Outcome, Outcome::Failure.name()));
    }

    let flags: [(&str, &[String]); 12] = [
        ("status", &args.status),
        ("grpc-status", &args.grpc_status),
        ("min-latency", args.min_latency.as_slice()),
        ("max-latency", args.max_latency.as_slice()),
        ("method", &args.method),
        ("path", &args.path),
        ("route", &args.route),
        ("from", &args.from),
        ("to", &args.to),
        ("cause", &args.cause),
        ("attribute", &args.attribute),
        ("side", &args.side),
    ];
    for (name, values) in flags {
        let flag = format!("--{name}");
        let terms = values.iter().map(|value| term(name, Some(value), &flag));
        parts.extend(either(terms.collect::<Result<_, _>>()?));
    }
    for text in &args.wanted {
        let (name, value) = split(text);
        parts.push(term(name, value, "--where")?);
    }
    for text in &args.not {
        let (name, value) = split(text);
        parts.push(Filter::Not(Box::new(term(name, value, "--not")?)));
    }

    let filter = parts.into_iter().fold(Filter::All, Filter::and);
    filter
        .check()
        .map_err(|error| Failure::usage("too many filters").why(error))?;
    Ok(filter)
}

/// The field that says at which thing of this kind a record was made.
const fn made_at(kind: Kind) -> Field {
    match kind {
        Kind::Workload => Field::Workload,
        Kind::Instance => Field::Instance,
        Kind::Service => Field::Service,
        Kind::Namespace => Field::Namespace,
        Kind::Route => Field::Route,
    }
}

/// Says whether records are made at the target: elsewhere both sides of a call fit.
const fn is_place(target: &Target) -> bool {
    target.name.is_some() && matches!(target.kind, Kind::Workload | Kind::Instance)
}

/// Each call once: what the callee's proxy saw, or the caller's where the callee has none.
fn once() -> Filter {
    let twin = Filter::text(Field::Twin, Twin::Yes.name());
    Filter::Or(vec![
        Filter::text(Field::Side, Side::Inbound.name()),
        Filter::Not(Box::new(twin)),
    ])
}

fn kinds(args: &FilterArgs) -> Filter {
    let mut kinds = if args.open {
        vec!["open".to_owned()]
    } else {
        vec!["request".to_owned(), "connection".to_owned()]
    };
    if args.attempts {
        kinds.push("attempt".to_owned());
    }
    Filter::Is(Comparison {
        field: Field::Kind,
        op: Op::Eq,
        value: Value::Any(kinds),
    })
}

fn either(mut terms: Vec<Filter>) -> Option<Filter> {
    match terms.len() {
        0 | 1 => terms.pop(),
        _ => Some(Filter::Or(terms)),
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    }
}

/// Returns the filter for one `name=value`, the same for a flag, `--where` and `--not`.
fn term(name: &str, value: Option<&str>, flag: &str) -> Result<Filter, Failure> {
    // Flags are written with hyphens, fields with underscores; both mean the same.
    let name = name.trim_start_matches("--");
    let field = name.replace('-', "_");
    match (field.as_str(), value) {
        ("failed", None) => return Ok(Filter::text(Field::Outcome, Outcome::Failure.name())),
        ("open", None) => return Ok(Filter::text(Field::Kind, "open")),
        ("probe" | "probes", None) => return Ok(Filter::number(Field::Probe, Op::Eq, 1)),
        ("client_error", None) => return Ok(Filter::number(Field::ClientError, Op::Eq, 1)),
        ("attribute", Some(value)) => return Ok(attribute(value)),
        _ => {}
    }
    let wrong = |value: &str, expected: &str| {
        let said = if flag.trim_start_matches("--") == name {
            value.to_owned()
        } else {
            format!("{name}={value}")
        };
        Failure::usage(format!("wrong value `{said}` of {flag}")).why(expected)
    };
    let Some(value) = value else {
        return Err(
            Failure::usage(format!("`{name}` of {flag} has no value")).fix(format!(
                "write {flag} FIELD=VALUE, for example {flag} from=vote-bot"
            )),
        );
    };
    let duration = |field, op| match parse_duration(value) {
        Ok(us) => Ok(Filter::number(field, op, us)),
        Err(error) => Err(wrong(value, &error.to_string())),
    };
    match field.as_str() {
        "status" => {
            status(value).ok_or_else(|| wrong(value, "a status is 100 to 599, or 1xx to 5xx"))
        }
        "grpc_status" => grpc_status_code(value)
            .map(|code| Filter::number(Field::GrpcStatus, Op::Eq, i64::from(code)))
            .ok_or_else(|| {
                wrong(
                    value,
                    "a gRPC status is 0 to 16, or a name such as Unknown or Unavailable",
                )
            }),
        "min_latency" => duration(Field::Latency, Op::Ge),
        "max_latency" => duration(Field::Latency, Op::Le),
        "latency" => duration(Field::Latency, Op::Eq),
        "duration" => duration(Field::Duration, Op::Eq),
        "method" => Ok(Filter::text(Field::Method, value.to_ascii_uppercase())),
        "path" => Ok(Filter::Is(Comparison {
            field: Field::Path,
            op: Op::Prefix,
            value: Value::Text(value.to_owned()),
        })),
        "cause" => match Cause::from_name(value) {
            Some(cause) => Ok(Filter::text(Field::Cause, cause.name())),
            None => {
                let names: Vec<&str> = Cause::ALL[1..].iter().map(|cause| cause.name()).collect();
                Err(wrong(value, &format!("a cause is {}", names.join(", "))))
            }
        },
        "side" => match value {
            "inbound" | "in" => Ok(Filter::text(Field::Side, "inbound")),
            "outbound" | "out" => Ok(Filter::text(Field::Side, "outbound")),
            _ => Err(wrong(value, "a side is inbound or outbound")),
        },
        _ => match Field::from_name(&field).or_else(|| Field::from_name(name)) {
            Some(field) => Ok(Filter::text(field, value)),
            None => Err(
                Failure::usage(format!("`{name}` of {flag} is no field")).fix(format!(
                    "fields are failed, min-latency, max-latency, attribute.NAME, {}",
                    Field::NAMES.join(", ")
                )),
            ),
        },
    }
}

fn attribute(text: &str) -> Filter {
    let (name, value) = split(text);
    Filter::Is(Comparison {
        field: Field::Attribute(name.to_owned()),
        op: if value.is_some() { Op::Eq } else { Op::Prefix },
        value: Value::Text(value.unwrap_or_default().to_owned()),
    })
}

fn status(text: &str) -> Option<Filter> {
    if let Some(class) = text.to_ascii_lowercase().strip_suffix("xx") {
        let class: i64 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
        return Some(Filter::And(vec![
            Filter::number(Field::Status, Op::Ge, class * 100),
            Filter::number(Field::Status, Op::Lt, class * 100 + 100),
        ]));
    }
    let status: i64 = text.parse().ok().filter(|s| (100..600).contains(s))?;
    Some(Filter::number(Field::Status, Op::Eq, status))
}

#[cfg(test)]
mod tests;
