//! `whodunit culprit`: who did it. The answer most people come for.

mod render;

use clap::Args;
use whodunit_api::Range;
use whodunit_api::culprit::{Culprit, CulpritQuery};
use whodunit_api::edges::{EdgeRow, EdgesQuery};

pub(crate) use render::render;

use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Stop};
use crate::session::Session;
use crate::source::Source;
use crate::target::Kind;
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  whodunit culprit                             The last ten minutes
  whodunit culprit --since 14:02 --until 14:10 Any past window
  whodunit culprit svc/web                     Only symptoms that users of web see
  whodunit culprit --exit-code -o short        One line, and exit code 10 if somebody did it

The verdict is `culprit` (confidence 0.6 and more), `probably` (0.4), `leads` (0.2) or nothing.
Every number comes with the command that reproduces it.";

/// Flags of `culprit`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CulpritArgs {
    /// Only symptoms at this service: service/NAME or NAME
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Exit with 10 if the verdict is culprit or probably
    #[arg(long)]
    exit_code: bool,
}

/// Asks and prints.
pub(crate) async fn run(args: &CulpritArgs, session: &mut Session) -> Result<Exit, Stop> {
    let source = session.connect()?;
    let query = CulpritQuery {
        namespace: session.global.namespace.clone(),
        service: args.service.as_deref().map(service).transpose()?,
        range: session.range()?,
    };
    let answer = source.culprit(&query).await?;
    if session.global.output == Format::Short {
        output::write(&render::short(&answer, &session.view))?;
    } else if session.global.output.is_data() {
        session.show(&answer, |_| String::new())?;
    } else {
        let calls = calls(&source, &answer).await;
        session.show(&answer, |view| render(&answer, &calls, view))?;
    }
    Ok(exit(&answer, args.exit_code))
}

/// Asks who called whom in the time of the verdict, to draw the way to the culprit.
/// Without an answer the drawing shows less.
pub(crate) async fn calls(source: &Source, answer: &Culprit) -> Vec<EdgeRow> {
    if answer.culprit.is_none() {
        return Vec::new();
    }
    let query = EdgesQuery {
        range: Range {
            since: Some(answer.checked.from.clone()),
            until: Some(answer.checked.until.clone()),
        },
        ..EdgesQuery::default()
    };
    source
        .edges(&query)
        .await
        .map_or_else(|_| Vec::new(), |edges| edges.rows)
}

fn service(text: &str) -> Result<String, Failure> {
    if !text.contains('/') {
        return Ok(text.to_owned());
    }
    match text.parse() {
        Ok(Target {
            kind: Kind::Service | Kind::Workload,
            name: Some(name),
        }) => Ok(name),
        _ => Err(Failure::usage(format!("`{text}` is no service"))
            .fix("symptoms show at services: `whodunit culprit service/web`")),
    }
}

fn exit(answer: &Culprit, exit_code: bool) -> Exit {
    if exit_code && names_somebody(answer) {
        Exit::CulpritFound
    } else {
        Exit::Ok
    }
}

/// Says whether the verdict names somebody, at least probably.
pub(crate) fn names_somebody(answer: &Culprit) -> bool {
    matches!(answer.verdict.as_str(), "culprit" | "probably")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_for_those_who_ask() {
        let answer = |verdict: &str| Culprit {
            verdict: verdict.to_owned(),
            ..Culprit::default()
        };
        assert_eq!(exit(&answer("culprit"), true), Exit::CulpritFound);
        assert_eq!(exit(&answer("probably"), true), Exit::CulpritFound);
        assert_eq!(exit(&answer("culprit"), false), Exit::Ok);
        assert_eq!(exit(&answer("leads"), true), Exit::Ok);
        assert_eq!(exit(&answer("nothing"), true), Exit::Ok);
    }

    #[test]
    fn a_service_has_a_kind_or_not() {
        assert_eq!(service("web").as_deref(), Ok("web"));
        assert_eq!(service("svc/web").as_deref(), Ok("web"));
        assert!(service("po/web-0").is_err());
    }
}
