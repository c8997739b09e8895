//! `whodunit routes`: golden signals per route, the worst first.

use clap::Args;
use whodunit_api::routes::{RouteRow, Routes, RoutesQuery};

use super::shows_namespaces;
use crate::failure::Exit;
use crate::figures::{count, ms_or_missing, rps, share_or_missing};
use crate::output::Stop;
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::target::{Kind, TargetArgs};
use crate::trust::nothing_found;
use crate::view::{Tone, View};

const EXAMPLES: &str = "\
Examples:
  whodunit routes                              Every route, most failures first
  whodunit routes deploy/voting -o wide        With failed requests and their most frequent cause
  whodunit routes svc/voting --from web        As web calls it

A route is what mesh.toml declares, else gRPC service and method, else method and path with
variable segments as {}.";

/// Flags of `routes`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RoutesArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Only calls from this workload
    #[arg(long, value_name = "WORKLOAD")]
    from: Option<String>,
}

/// Asks and prints.
pub(crate) async fn run(args: &RoutesArgs, session: &mut Session) -> Result<Exit, Stop> {
    let source = session.connect()?;
    let mut namespace = session.global.namespace.clone();
    let mut name = None;
    if let Some(target) = args.target.caller_or_callee("routes")? {
        match target.kind {
            Kind::Namespace => namespace = target.name.or(namespace),
            _ => name = target.name,
        }
    }
    let query = RoutesQuery {
        name,
        namespace,
        from: args.from.clone(),
        range: session.range()?,
    };
    let answer = source.routes(&query).await?;
    session.show(&answer, |view| render(&answer, view))?;
    let requests = answer.rows.iter().map(|row| row.requests).sum();
    session.show_footer(&answer.trust, Some(requests))?;
    Ok(Exit::Ok)
}

fn render(answer: &Routes, view: &View) -> String {
    if answer.rows.is_empty() {
        return nothing_found(&answer.trust, "routes", view);
    }
    let rows = &answer.rows;
    let namespaces = shows_namespaces(view, rows.iter().map(|row| row.namespace.as_str()));
    let mut columns = Vec::new();
    if namespaces {
        columns.push(Column::text("NAMESPACE"));
    }
    columns.extend([
        Column::shrinking("ROUTE"),
        Column::text("SERVICE"),
        Column::number("SUCCESS"),
        Column::number("RPS"),
        Column::number("LATENCY_P50"),
        Column::number("LATENCY_P95"),
        Column::number("LATENCY_P99"),
    ]);
    if view.wide {
        columns.extend([
            Column::number("REQUESTS"),
            Column::number("FAILED"),
            Column::text("CAUSE"),
        ]);
    }
    let mut table = Table::new(columns);
    for row in rows {
        table.push(cells(row, namespaces, view.wide));
    }
    table.render(view)
}

fn cells(row: &RouteRow, namespaces: bool, wide: bool) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    if namespaces {
        cells.push((&row.namespace).into());
    }
    let route = if wide {
        &row.route
    } else {
        whodunit_model::route::short(&row.route)
    };
    let service = if row.service.is_empty() {
        &row.workload
    } else {
        &row.service
    };
    cells.extend([
        Cell::from(route),
        service.into(),
        Cell::toned(share_or_missing(row.success), Tone::of_success(row.success)),
        rps(row.rps).into(),
        ms_or_missing(row.latency_ms_p50).into(),
        ms_or_missing(row.latency_ms_p95).into(),
        ms_or_missing(row.latency_ms_p99).into(),
    ]);
    if wide {
        cells.extend([
            Cell::from(count(row.requests)),
            count(row.failed).into(),
            (&row.cause).into(),
        ]);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn answer() -> Routes {
        let row = |route: &str, failed: u64| RouteRow {
            route: route.to_owned(),
            namespace: "emojivoto".to_owned(),
            workload: "voting".to_owned(),
            requests: 66,
            failed,
            success: Some(if failed > 0 { 0.0 } else { 1.0 }),
            rps: 1.0,
            latency_ms_p50: Some(0.4),
            latency_ms_p95: Some(0.5),
            latency_ms_p99: Some(12.0),
            exact: true,
            cause: if failed > 0 { "app_grpc_status" } else { "" }.to_owned(),
            ..RouteRow::default()
        };
        Routes {
            rows: vec![
                row("emojivoto.v1.VotingService/VotePoop", 66),
                row("GET /a\u{1b}[2J/{}", 0),
            ],
            ..Routes::default()
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut View), expected: Expect) {
        let mut view = View::plain();
        change(&mut view);
        expected.assert_eq(&render(&answer(), &view));
    }

    #[test]
    fn routes_have_short_names_and_cannot_write_to_the_terminal() {
        check(
            |_| {},
            expect![[r#"
                ROUTE              SERVICE   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99
                VotePoop           voting      0.00%   1.0rps         0.4ms         0.5ms          12ms
                GET /a\x1b[2J/{}   voting    100.00%   1.0rps         0.4ms         0.5ms          12ms
            "#]],
        );
    }

    #[test]
    fn wide_says_why() {
        check(
            |view| view.wide = true,
            expect![[r#"
                ROUTE                                 SERVICE   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   REQUESTS   FAILED   CAUSE
                emojivoto.v1.VotingService/VotePoop   voting      0.00%   1.0rps         0.4ms         0.5ms          12ms         66       66   app_grpc_status
                GET /a\x1b[2J/{}                      voting    100.00%   1.0rps         0.4ms         0.5ms          12ms         66        0   -
            "#]],
        );
    }
}
