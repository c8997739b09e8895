//! `whodunit stat`: golden signals.

use clap::Args;
use whodunit_api::stat::{Stat, StatQuery, StatRow};
use whodunit_model::route::short;

use super::shows_namespaces;
use crate::failure::Exit;
use crate::figures::{bytes_rate, count, ms_or_missing, rps, share_or_missing};
use crate::output::Stop;
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::target::{Kind, Target, TargetArgs};
use crate::trust::nothing_found;
use crate::view::{Tone, View};

const EXAMPLES: &str = "\
Examples:
  whodunit stat deploy                         Every workload, in the last minute
  whodunit stat deploy/web --since 1h          web, in the last hour
  whodunit stat route --from web               Every route that web calls
  whodunit stat svc -n emojivoto -o wide       More columns
  whodunit stat deploy --since 14:02 --until 14:10 -o json

Each call is counted once, health probes are left out. Latency is the time to the first
byte of the response body. Quantiles are exact: they come from every recorded request.";

/// Flags of `stat`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Only calls from this workload
    #[arg(long, value_name = "WORKLOAD")]
    from: Option<String>,
    /// Only calls to this workload or service
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
}

/// Asks and prints.
pub(crate) async fn run(args: &StatArgs, session: &mut Session) -> Result<Exit, Stop> {
    let source = session.connect()?;
    let target = args.target.target()?.unwrap_or(Target {
        kind: Kind::Workload,
        name: None,
    });
    let query = StatQuery {
        kind: target.kind.name().to_owned(),
        name: target.name,
        namespace: session.global.namespace.clone(),
        from: args.from.clone(),
        to: args.to.clone(),
        range: session.range()?,
    };
    let answer = source.stat(&query).await?;
    session.show(&answer.rows, |view| render(&answer, target.kind, view))?;
    let requests = answer.rows.iter().map(|row| row.requests).sum();
    session.show_footer(&answer.trust, Some(requests))?;
    Ok(Exit::Ok)
}

fn render(answer: &Stat, kind: Kind, view: &View) -> String {
    if answer.rows.is_empty() {
        return nothing_found(&answer.trust, &format!("{}s", kind.name()), view);
    }
    let rows = &answer.rows;
    let namespaces = kind != Kind::Namespace
        && shows_namespaces(view, rows.iter().map(|row| row.namespace.as_str()));
    let mut columns = Vec::new();
    if namespaces {
        columns.push(Column::text("NAMESPACE"));
    }
    columns.extend([
        Column::shrinking("NAME"),
        Column::number("MESHED"),
        Column::number("SUCCESS"),
        Column::number("RPS"),
        Column::number("LATENCY_P50"),
        Column::number("LATENCY_P95"),
        Column::number("LATENCY_P99"),
        Column::number("TCP_CONN"),
    ]);
    if view.wide {
        columns.extend([
            Column::number("REQUESTS"),
            Column::number("FAILED"),
            Column::number("OPEN"),
            Column::number("READ_BYTES/SEC"),
            Column::number("WRITE_BYTES/SEC"),
        ]);
    }
    let mut table = Table::new(columns);
    for row in rows {
        table.push(cells(row, namespaces, view.wide));
    }
    table.render(view)
}

/// Routes go by the name people say, unless there is room for all of it.
fn name(row: &StatRow, wide: bool) -> &str {
    if row.kind == Kind::Route.name() && !wide {
        short(&row.name)
    } else {
        &row.name
    }
}

fn cells(row: &StatRow, namespaces: bool, wide: bool) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    if namespaces {
        cells.push((&row.namespace).into());
    }
    cells.extend([
        Cell::from(name(row, wide)),
        (&row.meshed).into(),
        Cell::toned(share_or_missing(row.success), Tone::of_success(row.success)),
        rps(row.rps).into(),
        ms_or_missing(row.latency_ms_p50).into(),
        ms_or_missing(row.latency_ms_p95).into(),
        ms_or_missing(row.latency_ms_p99).into(),
        row.tcp_open_connections
            .map(count)
            .unwrap_or_default()
            .into(),
    ]);
    if wide {
        cells.extend([
            Cell::from(count(row.requests)),
            count(row.failed).into(),
            count(row.open).into(),
            bytes_rate(row.request_bytes_rate).into(),
            bytes_rate(row.response_bytes_rate).into(),
        ]);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use whodunit_api::Trust;

    fn row(namespace: &str, name: &str, success: Option<f64>) -> StatRow {
        StatRow {
            namespace: namespace.to_owned(),
            kind: "workload".to_owned(),
            name: name.to_owned(),
            meshed: "1/1".to_owned(),
            requests: 1_234,
            success,
            rps: 5.04,
            latency_ms_p50: success.map(|_| 0.84),
            latency_ms_p95: success.map(|_| 3.0),
            latency_ms_p99: success.map(|_| 17.6),
            exact: true,
            tcp_open_connections: Some(3),
            failed: 255,
            open: 1,
            request_bytes_rate: 120.0,
            response_bytes_rate: 2_048.5,
            client_errors: 0,
        }
    }

    fn answer() -> Stat {
        let mut quiet = row("emojivoto", "vote-bot", None);
        quiet.tcp_open_connections = None;
        Stat {
            rows: vec![
                row("emojivoto", "emoji", Some(1.0)),
                quiet,
                row("emojivoto", "voting", Some(0.7935)),
            ],
            trust: Trust::default(),
        }
    }

    #[track_caller]
    fn check(answer: &Stat, change: impl FnOnce(&mut View), expected: Expect) {
        let mut view = View::plain();
        change(&mut view);
        expected.assert_eq(&render(answer, Kind::Workload, &view));
    }

    #[test]
    fn the_table_is_linkerds() {
        check(
            &answer(),
            |_| {},
            expect![[r#"
                NAME       MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN
                emoji         1/1   100.00%   5.0rps         0.8ms         3.0ms          18ms          3
                vote-bot      1/1         -   5.0rps             -             -             -          -
                voting        1/1    79.35%   5.0rps         0.8ms         3.0ms          18ms          3
            "#]],
        );
    }

    #[test]
    fn wide_adds_columns_and_all_namespaces_adds_the_first() {
        check(
            &answer(),
            |view| {
                view.wide = true;
                view.namespaces = true;
            },
            expect![[r#"
                NAMESPACE   NAME       MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN   REQUESTS   FAILED   OPEN   READ_BYTES/SEC   WRITE_BYTES/SEC
                emojivoto   emoji         1/1   100.00%   5.0rps         0.8ms         3.0ms          18ms          3      1,234      255      1         120.0B/s         2048.5B/s
                emojivoto   vote-bot      1/1         -   5.0rps             -             -             -          -      1,234      255      1         120.0B/s         2048.5B/s
                emojivoto   voting        1/1    79.35%   5.0rps         0.8ms         3.0ms          18ms          3      1,234      255      1         120.0B/s         2048.5B/s
            "#]],
        );
    }

    #[test]
    fn two_namespaces_are_told_apart_without_being_asked() {
        let mut answer = answer();
        answer.rows.truncate(1);
        answer.rows.push(row("books", "emoji", Some(1.0)));
        let view = View::plain();
        assert!(render(&answer, Kind::Workload, &view).starts_with("NAMESPACE"));
    }

    #[test]
    fn nothing_is_said_in_words() {
        let answer = Stat {
            rows: Vec::new(),
            trust: Trust {
                from: "2026-01-31T14:01:31Z".to_owned(),
                until: "2026-01-31T14:02:31Z".to_owned(),
                ..Trust::default()
            },
        };
        check(
            &answer,
            |_| {},
            expect![[r#"
                No workloads found from 14:01:31 to 14:02:31: there are no records in that time.
            "#]],
        );
    }
}
