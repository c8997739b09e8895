//! `whodunit tap`: the requests themselves, past or live.
//!
//! Looking back and following ask the server with the same filter and print
//! with the same function.

mod line;

use std::collections::HashSet;
use std::time::Duration;

use clap::Args;
use whodunit_api::record::Record;
use whodunit_api::tap::{Lost, Tap, TapQuery};

use crate::client::Events;
use crate::failure::{Exit, Failure};
use crate::figures::{count, counted};
use crate::filter::{self, FilterArgs};
use crate::output::{self, Format, Stop};
use crate::session::Session;
use crate::source::Source;
use crate::sse::Event;
use crate::target::TargetArgs;
use crate::trust;
use crate::view::{Tone, View};
use line::Lines;

/// Records printed before following begins, unless told otherwise.
const RECENT: u32 = 10;

/// A server that restarts is back within a few seconds; after this it is given up.
const RECONNECTS_MAX: u32 = 60;

/// Between two tries to reconnect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  whodunit tap deploy/web                          What web answered and asked, newest at the bottom
  whodunit tap deploy/web --failed -f              Its failures, as they come
  whodunit tap svc/voting --grpc-status Unknown --since 15m --until 5m
  whodunit tap --min-latency 250ms --not from=vote-bot
  whodunit tap deploy/web --attribute choice=:poop: --limit 3 -o json

For a workload or an instance, what it answered (in) and what it called (out) is shown; for
everything else each call once, as the callee's proxy saw it where it has one. Health probes are left out unless asked for with --probes.";

/// Flags of `tap`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TapArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Keep printing what comes
    #[arg(short, long)]
    follow: bool,
    /// Most records to print, the newest ones; with --follow, before following
    /// [default: 100, 10 with --follow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    limit: Option<u32>,
    /// The oldest records of the window instead of the newest
    #[arg(long, conflicts_with = "follow")]
    oldest: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Asks and prints.
pub(crate) async fn run(args: &TapArgs, session: &mut Session) -> Result<Exit, Stop> {
    let target = args.target.target()?;
    let namespace = session.global.namespace.as_deref();
    let filter = filter::build(target.as_ref(), namespace, &args.filter)?;
    let filter = serde_json::to_string(&filter)
        .map_err(|error| Failure::failed("cannot write the filter as JSON", error))?;
    if args.follow && session.global.until.is_some() {
        return Err(
            Failure::usage("--follow has no end, so --until cannot be used with it").into(),
        );
    }
    let source = session.connect()?;
    let query = TapQuery {
        filter: Some(filter),
        limit: args.limit.or(args.follow.then_some(RECENT)),
        oldest_first: args.oldest,
        follow: false,
        range: session.range()?,
    };
    if args.follow {
        return follow(&source, &query, session).await;
    }
    let answer = source.tap(&query).await?;
    session.show(&answer, |view| {
        if answer.records.is_empty() {
            return trust::nothing_found(&answer.trust, "requests", view);
        }
        Lines::default().render(&answer.records, view)
    })?;
    show_matched(&answer, args.oldest, session)?;
    session.show_footer(&answer.trust, None)?;
    Ok(Exit::Ok)
}

fn show_matched(answer: &Tap, oldest: bool, session: &Session) -> Result<(), Stop> {
    if session.global.output.is_data() || answer.records.is_empty() {
        return Ok(());
    }
    let line = session.view.paint(Tone::Quiet, &matched(answer, oldest)) + "\n";
    if session.view.terminal {
        return output::write(&line);
    }
    output::note(&line);
    Ok(())
}

fn matched(answer: &Tap, oldest: bool) -> String {
    let shown = answer.records.len() as u64;
    let least = if answer.matched_at_least {
        "at least "
    } else {
        ""
    };
    if shown >= answer.matched && !answer.matched_at_least {
        return format!("{} matched", counted(answer.matched, "request"));
    }
    let which = if oldest { "oldest" } else { "newest" };
    format!(
        "the {which} {} of {least}{} that matched; --limit shows more",
        count(shown),
        count(answer.matched)
    )
}

/// Prints recent records, then what comes, until Ctrl-C.
async fn follow(source: &Source, query: &TapQuery, session: &Session) -> Result<Exit, Stop> {
    // The stream is opened first, so that nothing falls between the two.
    let live = TapQuery {
        follow: true,
        limit: None,
        range: whodunit_api::Range::default(),
        ..query.clone()
    };
    let mut events = source.follow(&live, None).await?;
    let recent = if query.limit == Some(0) {
        Tap::default()
    } else {
        source.tap(query).await?
    };
    let mut printer = Printer::new(session);
    printer.print(&recent.records)?;
    printer.expect_again(&recent.records);

    let mut last_event = String::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(|error| Failure::failed("cannot wait for Ctrl-C", error))?;
                return Ok(Exit::Interrupted);
            }
        };
        match event {
            Some(event) => {
                if !event.id.is_empty() {
                    last_event.clone_from(&event.id);
                }
                printer.event(&event)?;
            }
            None => match reconnect(source, &live, &last_event).await? {
                Some(stream) => events = stream,
                None => return Ok(Exit::Interrupted),
            },
        }
    }
}

/// Waits until the server is back; none if the user lost patience first.
async fn reconnect(
    source: &Source,
    query: &TapQuery,
    last_event: &str,
) -> Result<Option<Events>, Failure> {
    output::note("the server went away; waiting for it\n");
    let last_event = Some(last_event).filter(|id| !id.is_empty());
    let mut tries = 0;
    loop {
        let pause = tokio::time::sleep(RECONNECT_PAUSE);
        tokio::select! {
            () = pause => {}
            _ = tokio::signal::ctrl_c() => return Ok(None),
        }
        tries += 1;
        match source.follow(query, last_event).await {
            Ok(events) => {
                output::note("the server is back\n");
                return Ok(Some(events));
            }
            Err(failure) if failure.exit != Exit::Unreachable || tries >= RECONNECTS_MAX => {
                return Err(failure);
            }
            Err(_) => {}
        }
    }
}

/// One record as data. JSON takes one line, so that a pipe can read records as they come.
fn document(record: &Record, format: Format) -> Result<String, Failure> {
    if format == Format::Yaml {
        return Ok(format!("---\n{}", output::data(record, format)?));
    }
    serde_json::to_string(record)
        .map(|text| text + "\n")
        .map_err(|error| Failure::failed("cannot print the record", error))
}

/// What makes two records the same one: a request leaves one per side and moment.
type Identity = (String, String, String, i64);

fn identity(record: &Record) -> Identity {
    (
        record.id.clone(),
        record.side.clone(),
        record.kind.clone(),
        record.at_us,
    )
}

/// Prints records one by one in the format that was asked for.
struct Printer<'a> {
    format: Format,
    view: &'a View,
    lines: Lines,
    printed: HashSet<Identity>,
}

impl<'a> Printer<'a> {
    fn new(session: &'a Session) -> Self {
        Self {
            format: session.global.output,
            view: &session.view,
            lines: Lines::default(),
            printed: HashSet::new(),
        }
    }

    /// Remembers records that were printed and may come once more.
    fn expect_again(&mut self, records: &[Record]) {
        self.printed = records.iter().map(identity).collect();
    }

    fn print(&mut self, records: &[Record]) -> Result<(), Stop> {
        if !self.format.is_data() {
            return output::write(&self.lines.render(records, self.view));
        }
        for record in records {
            output::write(&document(record, self.format)?)?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), Stop> {
        let broken = |error| {
            Failure::failed("cannot read an event of the server", error)
                .fix("`whodunit version` shows whether client and server are of one version")
        };
        match event.name.as_str() {
            "record" => {
                let record: Record = serde_json::from_str(&event.data).map_err(broken)?;
                if self.printed.remove(&identity(&record)) {
                    return Ok(());
                }
                self.print(std::slice::from_ref(&record))
            }
            "lost" => {
                let lost: Lost = serde_json::from_str(&event.data).map_err(broken)?;
                let said = format!(
                    "{} {} not shown: they came faster than they could be printed\n",
                    self.view.caution(),
                    counted(lost.records, "record")
                );
                output::note(&said);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_matches_is_said() {
        let mut answer = Tap {
            records: vec![Record::default(); 2],
            matched: 2,
            ..Tap::default()
        };
        assert_eq!(matched(&answer, false), "2 requests matched");
        answer.matched = 1_000;
        assert_eq!(
            matched(&answer, false),
            "the newest 2 of 1,000 that matched; --limit shows more"
        );
        answer.matched_at_least = true;
        assert_eq!(
            matched(&answer, false),
            "the newest 2 of at least 1,000 that matched; --limit shows more"
        );
    }
}
