//! Traffic that is slow, hangs or is given up on.

use expect_test::expect;

use super::{check, summary};
use crate::culprit::{Options, culprit};
use crate::traffic::{ten_minutes, traffic};

#[test]
fn slow_leaf() {
    check(
        "
        200 x bot -> web GET /vote
          web -> emoji Emoji/Find
          web -> voting Voting/Vote slows 100ms after 20s
            voting -> db Db/Write
        ",
        expect![[r#"
            culprit 0.96: voting Vote takes 101 ms of its own instead of 1.2 ms since 14:02:20 UTC; web GET /vote is slow because of it
              culprit voting `Vote` server/slow 100/100
              symptom web `GET /vote` latency 100/100
              not web `GET /vote` 0.00: it was slow 100 times while it waited for voting Vote
        "#]],
    );
}

#[test]
fn slow_in_the_middle() {
    check(
        "
        200 x bot -> web GET /vote
          web -> voting Voting/Vote takes 3ms slows 80ms after 20s
            voting -> db Db/Write takes 4ms
            voting -> db Db/Read takes 5ms
        ",
        expect![[r#"
            culprit 0.96: voting Vote takes 83 ms of its own instead of 3.2 ms since 14:02:20 UTC; web GET /vote is slow because of it
              culprit voting `Vote` server/slow 100/100
              symptom web `GET /vote` latency 100/100
              not web `GET /vote` 0.00: it was slow 100 times while it waited for voting Vote
        "#]],
    );
}

#[test]
fn one_call_in_five_is_slow() {
    check(
        "
        400 x bot -> web GET /vote every 100ms
          web -> voting Voting/VotePoop pick 20% slows 300ms after 20s tag choice=:poop:
          web -> voting Voting/VoteJoy pick 80% tag choice=:joy:
        ",
        expect![[r#"
            culprit 0.91: voting VotePoop takes 301 ms of its own instead of 1.2 ms since 14:02:20 UTC; web GET /vote is slow because of it
              culprit voting `VotePoop` server/slow 40/40
              symptom web `GET /vote` latency 40/200
              not web `GET /vote` 0.00: it was slow 40 times while it waited for voting VotePoop
        "#]],
    );
}

#[test]
fn slow_from_the_start_is_only_a_lead() {
    check(
        "
        50 x - -> nginx GET /delay every 4s
          nginx -> httpbin GET /delay takes 3s
        ",
        expect![[r#"
            leads 0.35: a lead: httpbin GET /delay takes 3.0 s of its own since recording began (14:02:00 UTC); nginx GET /delay is slow because of it
              culprit httpbin `GET /delay` server/slow 50/50
              symptom nginx `GET /delay` latency 50/50 since recording began
              not nginx `GET /delay` 0.00: it was slow 50 times while it waited for httpbin GET /delay
        "#]],
    );
}

#[test]
fn a_hanging_leaf_is_named_when_callers_give_up() {
    check(
        "
        60 x bot -> web GET /rate every 4s
          web -> rating Rating/Rate pick 20% takes 2ms
          web -> rating Rating/Rate pick 80% takes 700ms fails 100% by cancel
        ",
        expect![[r#"
            culprit 0.92: rating Rate hangs: callers gave up on 82 % of its calls (49 of 60) since recording began (14:02:00 UTC); web GET /rate fails because of it
              culprit rating `Rate` server/slow 49/60
              symptom web `GET /rate` failures 49/60 since recording began
              not web `GET /rate` 0.00: 49 of its failures contain a failed call to rating Rate; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn giving_up_on_a_quick_answer_is_the_callers_own_doing() {
    check(
        "
        60 x bot -> web GET /rate every 4s
          web -> rating Rating/Rate takes 2ms fails 30% by cancel
        ",
        expect![[r#"
            culprit 0.80: web GET /rate fails 27 % of its calls (16 of 60) with HTTP 500 since recording began (14:02:00 UTC)
              culprit web `GET /rate` server/app_http_5xx 16/60
              symptom web `GET /rate` failures 16/60 since recording began
        "#]],
    );
}

#[test]
fn a_slow_network_is_told_from_a_slow_service() {
    let mut rows = traffic(
        "
        200 x bot -> web GET /vote
          web -> voting Voting/Vote slows 100ms after 20s
        ",
    );
    // The callee's proxy saw the request late and the answer quick.
    for row in 0..rows.len() {
        let inbound = rows.side[row] == whodunit_model::Side::Inbound;
        if inbound && rows.text(rows.dst_workload[row]) == "voting" {
            rows.start_at_us[row] += (rows.duration_us[row] - 1_000) / 2;
            rows.duration_us[row] = 1_000;
            rows.latency_us[row] = 1_000;
        }
    }
    let verdict = culprit(&rows, ten_minutes(), &Options::default());
    expect![[r#"
        culprit 0.96: the way to voting Vote takes 100 ms instead of 0.2 ms since 14:02:20 UTC; web GET /vote is slow because of it
          culprit voting `Vote` network/slow 100/100
          symptom web `GET /vote` latency 100/100
          not web `GET /vote` 0.00: it was slow 100 times while it waited for voting Vote
    "#]].assert_eq(&summary(&verdict));
}

#[test]
fn a_machine_that_is_slow_all_over_accuses_nobody_for_sure() {
    check(
        "
        200 x bot -> web GET /vote slows 20ms after 20s
          web -> emoji Emoji/Find slows 20ms after 20s
          web -> voting Voting/Vote slows 20ms after 20s
            voting -> db Db/Write slows 20ms after 20s
        ",
        expect![[r#"
            leads 0.24: a lead: db Write takes 21 ms of its own instead of 1.2 ms since 14:02:20 UTC; web GET /vote is slow because of it
              culprit db `Write` server/slow 100/100
              symptom web `GET /vote` latency 100/100
              not web `GET /vote` 0.00: it was slow 100 times while it waited for db Write
              not voting `Vote` 0.00: it was slow 100 times while it waited for db Write
        "#]],
    );
}

#[test]
fn timeouts_are_blamed_on_who_does_not_answer() {
    check(
        "
        60 x bot -> web GET /vote every 4s
          web -> voting Voting/Vote fails 50% by timeout takes 1s
        ",
        expect![[r#"
            culprit 0.87: voting Vote does not answer in time: 26 of 60 calls failed since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `Vote` client_proxy/request_timeout 26/60
              symptom web `GET /vote` failures 26/60 since recording began
              not voting `Vote` 0.35: less sure: 34 requests slow because of it (34 of 60 calls, slow), 26 because of voting Vote
              not web `GET /vote` 0.00: 26 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}
