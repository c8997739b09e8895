//! The lines under a table that say how much the numbers can be trusted.

use whodunit_api::Trust;
use whodunit_model::time::parse_rfc3339;

use crate::figures::{age_ms, count, counted, length};
use crate::text;
use crate::view::{Tone, View};

/// Records older than this at the end of a range mean that no traffic arrives.
const QUIET_MS: u64 = 30_000;

/// Returns the lines under an answer: what the numbers come from, then what is odd.
///
/// `requests` is how many requests the quantiles stand for; none where there are no quantiles.
pub(crate) fn footer(trust: &Trust, requests: Option<u64>, view: &View) -> String {
    let mut says = Vec::new();
    if let Some(requests) = requests {
        let kind = if trust.exact { "exact" } else { "approximate" };
        says.push(format!(
            "quantiles {kind}, from {}",
            counted(requests, "request")
        ));
    }
    let mut range = view.clock.range_text(&trust.from, &trust.until);
    if let (Some(from), Some(until)) = (parse_rfc3339(&trust.from), parse_rfc3339(&trust.until)) {
        range.push_str(&format!(" ({})", length(until - from)));
    }
    says.push(range);
    says.push(format!("{} read", counted(trust.records, "record")));
    let mut out = view.paint(Tone::Quiet, &text::safe(&says.join("; ")));
    out.push('\n');
    for warning in warnings(trust) {
        out.push_str(&view.paint(Tone::Warn, &format!("{} {warning}", view.caution())));
        out.push('\n');
    }
    out
}

fn warnings(trust: &Trust) -> Vec<String> {
    let mut out = Vec::new();
    if !trust.complete && trust.damaged == 0 {
        out.push(
            "history is still being loaded after a restart: these numbers may grow".to_owned(),
        );
    }
    if trust.damaged > 0 {
        out.push(format!(
            "{} of history skipped: `whodunit check` names what and why",
            counted(trust.damaged, "damaged piece")
        ));
    }
    if trust.dropped > 0 {
        out.push(format!(
            "{} lost in proxies since they started: `whodunit check` says where",
            counted(trust.dropped, "record")
        ));
    }
    match trust.newest_age_ms {
        Some(age) if age > QUIET_MS => out.push(format!(
            "the newest record is {} older than the end of this range",
            age_ms(age)
        )),
        _ => {}
    }
    out
}

/// Says that a table is empty, and what to try.
pub(crate) fn nothing_found(trust: &Trust, what: &str, view: &View) -> String {
    let range = view.clock.range_text(&trust.from, &trust.until);
    let records = match trust.records {
        0 => "there are no records in that time".to_owned(),
        records => format!("{} records in that time, none of them fits", count(records)),
    };
    format!("No {what} found from {}: {records}.\n", text::safe(&range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn trust() -> Trust {
        Trust {
            from: "2026-01-31T14:01:31Z".to_owned(),
            until: "2026-01-31T14:02:31Z".to_owned(),
            records: 2_468,
            newest_age_ms: Some(120),
            exact: true,
            complete: true,
            ..Trust::default()
        }
    }

    #[test]
    fn the_footer_says_from_how_many_requests() {
        let found = footer(&trust(), Some(1_234), &View::plain());
        expect![[r#"
            quantiles exact, from 1,234 requests; 14:01:31 to 14:02:31 (1m); 2,468 records read
        "#]]
        .assert_eq(&found);
    }

    #[test]
    fn every_gap_is_said() {
        let trust = Trust {
            complete: false,
            damaged: 1,
            dropped: 12,
            newest_age_ms: Some(95_000),
            exact: false,
            ..trust()
        };
        expect![[r#"
            quantiles approximate, from 1 request; 14:01:31 to 14:02:31 (1m); 2,468 records read
            ‼ 1 damaged piece of history skipped: `whodunit check` names what and why
            ‼ 12 records lost in proxies since they started: `whodunit check` says where
            ‼ the newest record is 95s older than the end of this range
        "#]]
        .assert_eq(&footer(&trust, Some(1), &View::plain()));
    }
}
