use expect_test::{Expect, expect};

use super::*;
use crate::traffic::traffic;

/// The tree of the `n`th request of a route, one line per hop.
#[track_caller]
fn check(text: &str, route: &str, n: usize, expected: Expect) {
    let rows = traffic(text);
    let hops = Hops::new(&rows, Window::ALL, true);
    let id = hops
        .hops
        .iter()
        .filter(|hop| rows.text(hop.route) == route)
        .nth(n)
        .unwrap()
        .id;
    let tree = tree(&rows, id);
    let mut found = format!("{}\n", tree.says);
    for (index, hop) in tree.hops.iter().enumerate() {
        let record = hop.inbound.as_ref().or(hop.outbound.as_ref()).unwrap();
        found += &format!(
            "{}{} {} +{} took {} network {:?} self {} {}{:.2}{}\n",
            "  ".repeat(depth(&tree, index)),
            record.dst.workload,
            short(&record.route),
            hop.offset_us,
            hop.duration_us,
            hop.network_us,
            hop.self_us,
            match hop.linked_by {
                Some(LinkedBy::Trace) => "trace ",
                Some(LinkedBy::Timing) => "timing ",
                None => "root ",
            },
            hop.certainty,
            if index == tree.asked { " <" } else { "" },
        );
    }
    expected.assert_eq(&found);
}

fn depth(tree: &Tree, hop: usize) -> usize {
    std::iter::successors(tree.hops[hop].parent, |&at| tree.hops[at].parent).count()
}

const VOTE: &str = "
3 x bot -> web GET /api/vote takes 4ms
  web -> emoji Emoji/Find takes 2ms
  web -> voting Voting/VotePoop takes 3ms fails 100%
    voting -> db Db/Read takes 1ms
";

#[test]
fn a_failed_request_is_explained_by_the_call_that_failed() {
    check(
        VOTE,
        "GET /api/vote",
        1,
        expect![[r#"
        web GET /api/vote failed with 500 because web's call to voting VotePoop answered gRPC UNKNOWN
        web GET /api/vote +0 took 10800 network Some(200) self 4000 root 1.00 <
          emoji Find +2100 took 2200 network Some(200) self 2000 timing 1.00
          voting VotePoop +4300 took 4400 network Some(200) self 3000 timing 1.00
            db Read +5900 took 1200 network Some(200) self 1000 timing 1.00
    "#]],
    );
}

#[test]
fn a_call_is_shown_within_the_request_it_was_made_for() {
    check(
        VOTE,
        "Db/Read",
        2,
        expect![[r#"
        db Read succeeded in 1.2 ms
        web GET /api/vote +0 took 10800 network Some(200) self 4000 root 1.00
          emoji Find +2100 took 2200 network Some(200) self 2000 timing 1.00
          voting VotePoop +4300 took 4400 network Some(200) self 3000 timing 1.00
            db Read +5900 took 1200 network Some(200) self 1000 timing 1.00 <
    "#]],
    );
}

#[test]
fn own_failures_and_successes_are_told_apart() {
    check(
        "1 x - -> web GET /a fails 100%",
        "GET /a",
        0,
        expect![[r#"
        web GET /a failed with 500: it began in web itself
        web GET /a +0 took 1000 network None self 1000 root 1.00 <
    "#]],
    );
    check(
        "1 x - -> web GET /a",
        "GET /a",
        0,
        expect![[r#"
        web GET /a succeeded in 1.0 ms
        web GET /a +0 took 1000 network None self 1000 root 1.00 <
    "#]],
    );
    check(
        "1 x - -> web GET /a fails 100% by 404",
        "GET /a",
        0,
        expect![[r#"
            web GET /a was answered 404 (the caller's mistake) in 1.0 ms
            web GET /a +0 took 1000 network None self 1000 root 1.00 <
        "#]],
    );
    check(
        "1 x - -> web GET /a fails 100% by cancel",
        "GET /a",
        0,
        expect![[r#"
            web GET /a failed because the caller went away
            web GET /a +0 took 1000 network None self 1000 root 1.00 <
        "#]],
    );
    check(
        "
        1 x bot -> web GET /a
          web -> b B/Do fails 100% by refused
        ",
        "GET /a",
        0,
        expect![[r#"
            web GET /a failed with 500 because web's call to b Do failed: the connection was refused
            web GET /a +0 took 2400 network Some(200) self 1000 root 1.00 <
              b Do +600 took 1200 network None self 1200 timing 1.00
        "#]],
    );
}

#[test]
fn traces_make_parents_certain() {
    check(
        "
        10 x bot -> web GET /a every 1ms takes 20ms traced
          web -> b B/Do takes 5ms
        ",
        "GET /a",
        5,
        expect![[r#"
            web GET /a succeeded in 25.4 ms
            web GET /a +0 took 25400 network Some(200) self 20000 root 1.00 <
              b Do +10100 took 5200 network Some(200) self 5000 trace 1.00
        "#]],
    );
}

#[test]
fn requests_in_flight_together_make_parents_less_certain() {
    check(
        "
        10 x bot -> web GET /a every 3ms takes 20ms
          web -> b B/Do takes 5ms
        ",
        "GET /a",
        5,
        expect![[r#"
            web GET /a succeeded in 25.4 ms
            web GET /a +0 took 25400 network Some(200) self 20000 root 1.00 <
              b Do +1100 took 5200 network Some(200) self 5000 timing 0.25
        "#]],
    );
}

#[test]
fn unknown_ids_are_said_so() {
    let found = tree(&Rows::default(), RequestId::default());
    assert!(found.hops.is_empty());
    assert_eq!(
        found.says,
        "no record of request 00000000000000-0000000000000000-0"
    );
}
