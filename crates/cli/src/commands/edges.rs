//! `whodunit edges`: who calls whom.

use clap::Args;
use whodunit_api::edges::{EdgeRow, Edges, EdgesQuery};

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
  whodunit edges                               Every pair of workloads that talked in the last minute
  whodunit edges deploy/web                    Who calls web, and whom web calls
  whodunit edges --since 1h -o wide            With identities, failures and network time

SECURED says whether every call was encrypted by the mesh. LATENCY is what the caller saw;
NETWORK_P50 is the caller's time minus the callee's.";

/// Flags of `edges`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EdgesArgs {
    #[command(flatten)]
    target: TargetArgs,
}

/// Asks and prints.
pub(crate) async fn run(args: &EdgesArgs, session: &mut Session) -> Result<Exit, Stop> {
    let source = session.connect()?;
    let mut namespace = session.global.namespace.clone();
    let mut name = None;
    if let Some(target) = args.target.caller_or_callee("edges")? {
        match target.kind {
            Kind::Namespace => namespace = target.name.or(namespace),
            _ => name = target.name,
        }
    }
    let query = EdgesQuery {
        name,
        namespace,
        range: session.range()?,
    };
    let answer = source.edges(&query).await?;
    session.show(&answer, |view| render(&answer, view))?;
    let requests = answer.rows.iter().map(|row| row.requests).sum();
    session.show_footer(&answer.trust, Some(requests))?;
    Ok(Exit::Ok)
}

fn render(answer: &Edges, view: &View) -> String {
    if answer.rows.is_empty() {
        return nothing_found(&answer.trust, "edges", view);
    }
    let mut columns = vec![
        Column::text("SRC"),
        Column::text("DST"),
        Column::text("SRC_NS"),
        Column::text("DST_NS"),
        Column::text("SECURED"),
    ];
    if view.wide {
        columns.extend([Column::text("CLIENT_ID"), Column::text("SERVER_ID")]);
    }
    columns.extend([
        Column::number("SUCCESS"),
        Column::number("RPS"),
        Column::number("LATENCY_P50"),
    ]);
    if view.wide {
        columns.extend([
            Column::number("LATENCY_P99"),
            Column::number("NETWORK_P50"),
            Column::number("REQUESTS"),
            Column::number("FAILED"),
        ]);
    }
    let mut table = Table::new(columns);
    for row in &answer.rows {
        table.push(cells(row, view));
    }
    table.render(view)
}

fn cells(row: &EdgeRow, view: &View) -> Vec<Cell> {
    let secured = if row.secured {
        Cell::toned(view.tick(), Tone::Good)
    } else {
        Cell::toned("no", Tone::Plain)
    };
    let mut cells = vec![
        Cell::from(&row.src),
        (&row.dst).into(),
        (&row.src_namespace).into(),
        (&row.dst_namespace).into(),
        secured,
    ];
    if view.wide {
        cells.extend([Cell::from(&row.client_id), (&row.server_id).into()]);
    }
    cells.extend([
        Cell::toned(share_or_missing(row.success), Tone::of_success(row.success)),
        rps(row.rps).into(),
        ms_or_missing(row.latency_ms_p50).into(),
    ]);
    if view.wide {
        cells.extend([
            Cell::from(ms_or_missing(row.latency_ms_p99)),
            ms_or_missing(row.network_ms_p50).into(),
            count(row.requests).into(),
            count(row.failed).into(),
        ]);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[track_caller]
    fn check(change: impl FnOnce(&mut View), expected: Expect) {
        let edge = |src: &str, dst: &str, secured| EdgeRow {
            src: src.to_owned(),
            src_namespace: if src.is_empty() { "" } else { "emojivoto" }.to_owned(),
            dst: dst.to_owned(),
            dst_namespace: "emojivoto".to_owned(),
            secured,
            requests: 600,
            failed: 124,
            success: Some(0.7935),
            rps: 10.0,
            latency_ms_p50: Some(1.24),
            latency_ms_p99: Some(22.0),
            network_ms_p50: Some(0.11),
            ..EdgeRow::default()
        };
        let answer = Edges {
            rows: vec![edge("", "web", false), edge("web", "voting", true)],
            ..Edges::default()
        };
        let mut view = View::plain();
        change(&mut view);
        expected.assert_eq(&render(&answer, &view));
    }

    #[test]
    fn the_first_five_columns_are_linkerds() {
        check(
            |_| {},
            expect![[r#"
                SRC   DST      SRC_NS      DST_NS      SECURED   SUCCESS       RPS   LATENCY_P50
                -     web      -           emojivoto   no         79.35%   10.0rps         1.2ms
                web   voting   emojivoto   emojivoto   √          79.35%   10.0rps         1.2ms
            "#]],
        );
    }

    #[test]
    fn wide_adds_identities_and_network_time() {
        check(
            |view| {
                view.wide = true;
                view.unicode = false;
            },
            expect![[r#"
                SRC   DST      SRC_NS      DST_NS      SECURED   CLIENT_ID   SERVER_ID   SUCCESS       RPS   LATENCY_P50   LATENCY_P99   NETWORK_P50   REQUESTS   FAILED
                -     web      -           emojivoto   no        -           -            79.35%   10.0rps         1.2ms          22ms         0.1ms        600      124
                web   voting   emojivoto   emojivoto   ok        -           -            79.35%   10.0rps         1.2ms          22ms         0.1ms        600      124
            "#]],
        );
    }
}
