//! `whodunit check`: is the mesh itself well?

use std::fmt::Write as _;

use clap::Args;
use whodunit_api::check::{Check, CheckItem, Count, Proxy};

use super::shows_namespaces;
use crate::failure::Exit;
use crate::figures::{age_ms, count, counted};
use crate::output::{self, Format, Stop};
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::text::{safe, wrap};
use crate::view::{Tone, View};

const EXAMPLES: &str = "\
Examples:
  whodunit check                     Everything, with every proxy
  whodunit check -o short            Only what is not well
  whodunit check -o wide             With the conservation numbers of each proxy
  whodunit check -o json

Exit code 1 if a check failed; warnings alone do not fail.

  started = recorded + in flight + dropped    (requests)
  rows = acknowledged + buffered + discarded  (rows)

DROPPED is the sum of dropped requests and discarded rows of this boot of the proxy.";

/// Flags of `check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {}

/// Asks and prints.
pub(crate) async fn run(_: &CheckArgs, session: &mut Session) -> Result<Exit, Stop> {
    let answer = session.connect()?.check().await?;
    if session.global.output == Format::Short {
        output::write(&render(&answer, &session.view, true))?;
    } else {
        session.show(&answer, |view| render(&answer, view, false))?;
    }
    Ok(if answer.success {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

fn render(answer: &Check, view: &View, problems_only: bool) -> String {
    let mut out = String::new();
    for category in &answer.categories {
        let checks: Vec<&CheckItem> = category
            .checks
            .iter()
            .filter(|check| !problems_only || check.result != "success")
            .collect();
        if checks.is_empty() {
            continue;
        }
        let name = safe(&category.name);
        let _ = writeln!(out, "{}", view.paint(Tone::Strong, &name));
        let _ = writeln!(out, "{}", "-".repeat(crate::text::width(&name)));
        for check in checks {
            item(check, view, &mut out);
        }
        out.push('\n');
    }
    if !problems_only && !answer.proxies.is_empty() {
        out.push_str(&listed(&answer.proxies, view));
        out.push('\n');
    }
    let (mark, tone) = if answer.success {
        (view.tick(), Tone::Good)
    } else {
        (view.cross(), Tone::Bad)
    };
    let _ = writeln!(out, "Status check results are {}", view.paint(tone, mark));
    out
}

fn item(check: &CheckItem, view: &View, out: &mut String) {
    let (mark, tone) = match check.result.as_str() {
        "success" => (view.tick(), Tone::Good),
        "warning" => (view.caution(), Tone::Warn),
        _ => (view.cross(), Tone::Bad),
    };
    let _ = writeln!(
        out,
        "{} {}",
        view.paint(tone, mark),
        safe(&check.description)
    );
    for (label, text) in [("", &check.error), ("fix: ", &check.hint)] {
        let text = format!("{label}{}", safe(text));
        if text.len() > label.len() {
            for line in wrap(&text, view.text_width() - 4) {
                let _ = writeln!(out, "    {line}");
            }
        }
    }
}

/// The table of proxies, without those that ended in order: they are history.
fn listed(all: &[Proxy], view: &View) -> String {
    let is_past = |proxy: &&Proxy| proxy.state == "closed" && !proxy.tail_unknown && !view.wide;
    let (past, present): (Vec<&Proxy>, Vec<&Proxy>) = all.iter().partition(is_past);
    let mut out = String::new();
    if !present.is_empty() {
        out.push_str(&proxies(&present, view));
    }
    if !past.is_empty() {
        let note = format!(
            "{} ended in order; -o wide lists all",
            counted(past.len() as u64, "earlier boot")
        );
        let _ = writeln!(out, "{}", view.paint(Tone::Quiet, &note));
    }
    out
}

fn proxies(proxies: &[&Proxy], view: &View) -> String {
    let namespaces = shows_namespaces(view, proxies.iter().map(|p| p.namespace.as_str()));
    let mut columns = Vec::new();
    if namespaces {
        columns.push(Column::text("NAMESPACE"));
    }
    columns.extend([
        Column::text("NAME"),
        Column::text("VERSION"),
        Column::text("STATE"),
        Column::number("REPORTED"),
        Column::number("DISCOVERY_AGE"),
        Column::number("DROPPED"),
        Column::number("FALL_BACKS"),
        Column::number("CONNECTIONS"),
        Column::number("UPTIME"),
    ]);
    if view.wide {
        columns.extend([
            Column::number("STARTED"),
            Column::number("RECORDED"),
            Column::number("IN_FLIGHT"),
            Column::number("ROWS"),
            Column::number("ACKNOWLEDGED"),
            Column::number("BUFFERED"),
            Column::text("DROPPED_BECAUSE"),
            Column::number("CLOCK_OFFSET"),
            Column::text("BOOT"),
        ]);
    }
    let mut table = Table::new(columns);
    for proxy in proxies {
        let mut row: Vec<Cell> = Vec::new();
        if namespaces {
            row.push((&proxy.namespace).into());
        }
        row.extend(cells(proxy, view.wide));
        table.push(row);
    }
    table.render(view)
}

fn cells(proxy: &Proxy, wide: bool) -> Vec<Cell> {
    let numbers = &proxy.conservation;
    let lost = || numbers.dropped.iter().chain(&numbers.discarded);
    let dropped: u64 = lost().map(|lost| lost.count).sum();
    let mut state = proxy.state.clone();
    if proxy.tail_unknown {
        state.push_str(", tail unknown");
    }
    let state_tone = match proxy.state.as_str() {
        "connected" | "closed" => Tone::Plain,
        "silent" => Tone::Warn,
        _ => Tone::Bad,
    };
    let warn_above_zero = |number: u64| {
        let tone = if number > 0 { Tone::Warn } else { Tone::Plain };
        Cell::toned(count(number), tone)
    };
    let mut cells = vec![
        Cell::from(&proxy.instance),
        (&proxy.version).into(),
        Cell::toned(state, state_tone),
        age_ms(proxy.reported_age_ms).into(),
        proxy
            .discovery_age_ms
            .map(age_ms)
            .unwrap_or_default()
            .into(),
        warn_above_zero(dropped),
        warn_above_zero(proxy.detection_fall_backs),
        count(proxy.open_connections).into(),
        age_ms(proxy.uptime_s.saturating_mul(1_000)).into(),
    ];
    if wide {
        cells.extend([
            Cell::from(count(numbers.started)),
            count(numbers.recorded).into(),
            count(numbers.in_flight).into(),
            count(numbers.rows).into(),
            count(numbers.acknowledged).into(),
            count(numbers.buffered).into(),
            reasons(lost()).into(),
            format!("{:+.1}ms", proxy.clock_offset_ms).into(),
            (&proxy.boot).into(),
        ]);
    }
    cells
}

fn reasons<'a>(lost: impl Iterator<Item = &'a Count>) -> String {
    let reasons: Vec<String> = lost
        .filter(|lost| lost.count > 0)
        .map(|lost| format!("{} {}", lost.reason, count(lost.count)))
        .collect();
    reasons.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use whodunit_api::check::{Category, Conservation};

    fn answer() -> Check {
        let check = |description: &str, result: &str, error: &str, hint: &str| CheckItem {
            description: description.to_owned(),
            result: result.to_owned(),
            error: error.to_owned(),
            hint: hint.to_owned(),
        };
        let proxy = |instance: &str, state: &str, discarded| Proxy {
            namespace: "emojivoto".to_owned(),
            workload: instance.trim_end_matches("-0").to_owned(),
            instance: instance.to_owned(),
            version: "0.1.0".to_owned(),
            boot: "00000000000000aa".to_owned(),
            state: state.to_owned(),
            reported_age_ms: 900,
            uptime_s: 3_700,
            discovery_age_ms: Some(1_200),
            conservation: Conservation {
                started: 2_000,
                recorded: 1_999,
                in_flight: 1,
                rows: 2_001,
                acknowledged: 1_900,
                buffered: 101 - discarded,
                discarded: vec![Count {
                    reason: "buffer_full".to_owned(),
                    count: discarded,
                }],
                ..Conservation::default()
            },
            ..Proxy::default()
        };
        Check {
            success: false,
            categories: vec![
                Category {
                    name: "server".to_owned(),
                    checks: vec![check("the server answers", "success", "", "")],
                },
                Category {
                    name: "proxies".to_owned(),
                    checks: vec![
                        check(
                            "every proxy keeps its records",
                            "warning",
                            "emoji-0 discarded 40 rows: buffer_full",
                            "raise [record] buffer_bytes, or bring the server back sooner",
                        ),
                        check(
                            "every proxy reports",
                            "error",
                            "voting-0 is gone",
                            "restart it",
                        ),
                    ],
                },
            ],
            proxies: vec![
                proxy("emoji-0", "closed", 0),
                proxy("emoji-0", "connected", 40),
                proxy("voting-0", "gone", 0),
            ],
        }
    }

    #[track_caller]
    fn check(problems_only: bool, change: impl FnOnce(&mut View), expected: Expect) {
        let mut view = View::plain();
        change(&mut view);
        expected.assert_eq(&render(&answer(), &view, problems_only));
    }

    #[test]
    fn check_reads_like_linkerds() {
        check(
            false,
            |_| {},
            expect![[r#"
                server
                ------
                √ the server answers

                proxies
                -------
                ‼ every proxy keeps its records
                    emoji-0 discarded 40 rows: buffer_full
                    fix: raise [record] buffer_bytes, or bring the server back sooner
                × every proxy reports
                    voting-0 is gone
                    fix: restart it

                NAME       VERSION   STATE       REPORTED   DISCOVERY_AGE   DROPPED   FALL_BACKS   CONNECTIONS   UPTIME
                emoji-0    0.1.0     connected      900ms              1s        40            0             0      61m
                voting-0   0.1.0     gone           900ms              1s         0            0             0      61m
                1 earlier boot ended in order; -o wide lists all

                Status check results are ×
            "#]],
        );
    }

    #[test]
    fn short_is_what_is_not_well() {
        check(
            true,
            |view| view.unicode = false,
            expect![[r#"
            proxies
            -------
            !! every proxy keeps its records
                emoji-0 discarded 40 rows: buffer_full
                fix: raise [record] buffer_bytes, or bring the server back sooner
            xx every proxy reports
                voting-0 is gone
                fix: restart it

            Status check results are xx
        "#]],
        );
    }

    #[test]
    fn wide_proves_conservation() {
        let mut view = View::plain();
        view.wide = true;
        expect![[r#"
            NAME       VERSION   STATE       REPORTED   DISCOVERY_AGE   DROPPED   FALL_BACKS   CONNECTIONS   UPTIME   STARTED   RECORDED   IN_FLIGHT    ROWS   ACKNOWLEDGED   BUFFERED   DROPPED_BECAUSE   CLOCK_OFFSET   BOOT
            emoji-0    0.1.0     closed         900ms              1s         0            0             0      61m     2,000      1,999           1   2,001          1,900        101   -                       +0.0ms   00000000000000aa
            emoji-0    0.1.0     connected      900ms              1s        40            0             0      61m     2,000      1,999           1   2,001          1,900         61   buffer_full 40          +0.0ms   00000000000000aa
            voting-0   0.1.0     gone           900ms              1s         0            0             0      61m     2,000      1,999           1   2,001          1,900        101   -                       +0.0ms   00000000000000aa
        "#]].assert_eq(&listed(&answer().proxies, &view));
    }
}
