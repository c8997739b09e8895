//! `whodunit explain`: one request from both sides, and the calls it made.

mod render;

use clap::Args;
use whodunit_api::explain::ExplainQuery;
use whodunit_model::RequestId;

use crate::failure::{Exit, Failure};
use crate::output::Stop;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  whodunit explain 00064a7b3c5d1e-9f86d081884c7d65-1f
  whodunit tap deploy/web --failed --limit 1 -o wide     Ids are in the wide format
  whodunit explain ID -o json

Times are differences of durations, never of two machines' clocks: total is what the caller
waited, net the time between the two proxies, self what was not spent in the calls below.";

/// Flags of `explain`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExplainArgs {
    /// Request id, as `culprit` and `tap -o wide` print it
    id: String,
}

/// Asks and prints.
pub(crate) async fn run(args: &ExplainArgs, session: &mut Session) -> Result<Exit, Stop> {
    let id: RequestId = args.id.trim().parse().map_err(|error| {
        Failure::usage(format!("`{}` is no request id", args.id))
            .why(error)
            .fix("`whodunit tap -o wide` and `whodunit culprit` print ids")
    })?;
    let source = session.connect()?;
    let query = ExplainQuery { id: id.to_string() };
    let answer = source.explain(&query).await?;
    session.show(&answer, |view| render::render(&answer, view))?;
    session.show_footer(&answer.trust, None)?;
    Ok(Exit::Ok)
}
