//! `whodunit top`: what is going on right now, refreshed in place.

mod screen;

use clap::Args;
use whodunit_api::Range;
use whodunit_api::top::{Top, TopQuery};
use whodunit_model::route::short;

use crate::failure::Exit;
use crate::figures::{count, ms, share};
use crate::output::{Format, Stop};
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::target::{Kind, TargetArgs};
use crate::trust;
use crate::view::{Tone, View};

const EXAMPLES: &str = "\
Examples:
  whodunit top                      Busiest calls of the last minute, refreshed each second
  whodunit top deploy/web           Only calls from and to web
  whodunit top --routes             By route instead of path
  whodunit top | cat                One table, then the end: as in any script

Keys: q, Esc or Ctrl-C quit; space pauses; s sorts by the next column; r switches between
routes and paths; ? shows this.";

/// Flags of `top`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Group by route instead of path
    #[arg(long)]
    routes: bool,
}

/// How rows are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    /// Most calls first.
    #[default]
    Count,
    /// Least successful first.
    Failures,
    /// Slowest first.
    Worst,
}

impl Order {
    const fn next(self) -> Self {
        match self {
            Self::Count => Self::Failures,
            Self::Failures => Self::Worst,
            Self::Worst => Self::Count,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Failures => "Success Rate",
            Self::Worst => "Worst",
        }
    }
}

/// Asks and prints: once into a pipe or as data, else until the user quits.
pub(crate) async fn run(args: &TopArgs, session: &mut Session) -> Result<Exit, Stop> {
    let source = session.connect()?;
    let mut query = TopQuery {
        name: None,
        namespace: session.global.namespace.clone(),
        routes: args.routes,
        range: session.range()?,
    };
    if let Some(target) = args.target.caller_or_callee("top")? {
        match target.kind {
            Kind::Namespace => query.namespace = target.name.or(query.namespace),
            _ => query.name = target.name,
        }
    }
    // The first answer comes before the screen is touched, so that a server that is not
    // there is said like anywhere else.
    let answer = source.top(&query).await?;
    let live = session.view.terminal
        && matches!(session.global.output, Format::Table | Format::Wide)
        && query.range == Range::default();
    if live {
        return screen::run(&source, query, answer, &session.view).await;
    }
    session.show(&answer, |view| {
        if answer.rows.is_empty() {
            return trust::nothing_found(&answer.trust, "calls", view);
        }
        table(&answer, query.routes, Order::Count).render(view)
    })?;
    session.show_footer(&answer.trust, None)?;
    Ok(Exit::Ok)
}

/// The table, with the columns of `linkerd viz top`.
fn table(answer: &Top, routes: bool, order: Order) -> Table {
    let mut table = Table::new(vec![
        Column::text("Source"),
        Column::text("Destination"),
        Column::text("Method"),
        Column::shrinking(if routes { "Route" } else { "Path" }),
        Column::number("Count"),
        Column::number("Best"),
        Column::number("Worst"),
        Column::number("Last"),
        Column::number("Success Rate"),
    ]);
    let mut rows: Vec<_> = answer.rows.iter().collect();
    match order {
        Order::Count => rows.sort_by_key(|row| std::cmp::Reverse(row.count)),
        Order::Failures => rows.sort_by(|a, b| a.success.total_cmp(&b.success)),
        Order::Worst => rows.sort_by(|a, b| b.worst_ms.total_cmp(&a.worst_ms)),
    }
    for row in rows {
        let path = if routes { short(&row.path) } else { &row.path };
        table.push(vec![
            Cell::from(&row.source),
            (&row.destination).into(),
            (&row.method).into(),
            path.into(),
            count(row.count).into(),
            ms(row.best_ms).into(),
            ms(row.worst_ms).into(),
            ms(row.last_ms).into(),
            Cell::toned(share(row.success), Tone::of_success(Some(row.success))),
        ]);
    }
    table
}

/// One screen of `rows` lines: a status line, the table, and the keys.
fn frame(answer: &Top, state: &State, rows: usize, view: &View) -> Vec<String> {
    let mut lines = Vec::with_capacity(rows);
    let mut status = format!(
        "whodunit top  {}  by {}",
        view.clock
            .range_text(&answer.trust.from, &answer.trust.until),
        state.order.name()
    );
    if state.paused {
        status.push_str("  PAUSED");
    }
    lines.push(view.paint(Tone::Quiet, &crate::text::safe(&status)));
    match &state.trouble {
        Some(trouble) => lines.push(view.paint(Tone::Bad, &crate::text::safe(trouble))),
        None => lines.push(String::new()),
    }
    if state.help {
        lines.extend(HELP.lines().map(str::to_owned));
    } else {
        lines.extend(table(answer, state.routes, state.order).lines(view));
    }
    lines.truncate(rows.saturating_sub(1));
    lines.resize(rows.saturating_sub(1), String::new());
    lines.push(view.paint(
        Tone::Quiet,
        "q quit  space pause  s sort  r routes/paths  ? help",
    ));
    lines
}

const HELP: &str = "
  q, Esc, Ctrl-C   quit
  space            pause and go on
  s                sort by count, success rate, worst latency
  r                group by route or by path
  ?                this page

  Best, Worst and Last are latencies of the calls of the last minute.
  For past windows: whodunit top --since 15m --until 5m";

/// What the keys changed.
#[derive(Clone, Debug, Default)]
struct State {
    order: Order,
    routes: bool,
    paused: bool,
    help: bool,
    trouble: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use whodunit_api::Trust;
    use whodunit_api::top::TopRow;

    fn answer() -> Top {
        let row = |source: &str, path: &str, count, success| TopRow {
            source: source.to_owned(),
            destination: "web".to_owned(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            count,
            best_ms: 0.8,
            worst_ms: 120.4,
            last_ms: 3.0,
            success,
        };
        Top {
            rows: vec![
                row("vote-bot", "/api/list", 300, 1.0),
                row("", "/a\u{1b}[2J", 5, 0.8),
            ],
            trust: Trust {
                from: "2026-01-31T14:01:31Z".to_owned(),
                until: "2026-01-31T14:02:31Z".to_owned(),
                ..Trust::default()
            },
        }
    }

    #[test]
    fn the_columns_are_linkerds() {
        expect![[r#"
            Source     Destination   Method   Path        Count    Best   Worst    Last   Success Rate
            vote-bot   web           GET      /api/list     300   0.8ms   120ms   3.0ms        100.00%
            -          web           GET      /a\x1b[2J       5   0.8ms   120ms   3.0ms         80.00%
        "#]].assert_eq(&table(&answer(), false, Order::Count).render(&View::plain()));
    }

    #[test]
    fn a_frame_fills_the_screen_exactly() {
        let state = State {
            order: Order::Failures,
            paused: true,
            trouble: Some("cannot reach the server\u{1b}".to_owned()),
            ..State::default()
        };
        let lines = frame(&answer(), &state, 7, &View::plain());
        expect![[r#"
            whodunit top  14:01:31 to 14:02:31  by Success Rate  PAUSED
            cannot reach the server\x1b
            Source     Destination   Method   Path        Count    Best   Worst    Last   Success Rate
            -          web           GET      /a\x1b[2J       5   0.8ms   120ms   3.0ms         80.00%
            vote-bot   web           GET      /api/list     300   0.8ms   120ms   3.0ms        100.00%

            q quit  space pause  s sort  r routes/paths  ? help
        "#]].assert_eq(&(lines.join("\n") + "\n"));
        for rows in 0..12 {
            assert_eq!(
                frame(&answer(), &state, rows, &View::plain()).len(),
                rows.max(1)
            );
        }
    }
}
