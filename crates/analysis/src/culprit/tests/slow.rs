//! Traffic that is slow, hangs or is given up on.

use expect_test::expect;
use whodunit_model::{Cause, Kind, Origin, Outcome};

use super::{check, summary};
use crate::culprit::{Options, culprit};
use crate::traffic::{records, ten_minutes, traffic};

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

#[test]
fn requests_that_never_end_lead_to_who_hangs() {
    check(
        "
        300 x bot -> web GET /list every 100ms
          web -> catalog GET /items fails 100% after 20s by hang
            catalog -> db GET /rows
        300 x bot -> web GET /home every 100ms from 30ms
        ",
        expect![[r#"
            culprit 0.96: catalog GET /items hangs: 100 of 100 calls have no answer since 14:02:20 UTC; web GET /list is slow because of it
              culprit catalog `GET /items` server/slow 100/100
              symptom web `GET /list` latency 100/100
              not web `GET /list` 0.00: it was slow 100 times while it waited for catalog GET /items
        "#]],
    );
}

#[test]
fn a_hanging_leaf_is_found_below_those_that_wait_for_it() {
    check(
        "
        300 x bot -> web GET /list every 100ms
          web -> catalog GET /items
            catalog -> db GET /rows fails 50% after 20s by hang
        ",
        expect![[r#"
            culprit 0.90: db GET /rows hangs: 37 of 93 calls have no answer since 14:02:20 UTC; web GET /list is slow because of it
              culprit db `GET /rows` server/slow 37/93
              symptom web `GET /list` latency 37/100
              not web `GET /list` 0.00: it was slow 37 times while it waited for db GET /rows
              not catalog `GET /items` 0.00: it was slow 37 times while it waited for db GET /rows
        "#]],
    );
}

#[test]
fn streams_that_stay_open_accuse_nobody() {
    let mut rows = traffic("300 x bot -> web GET /events every 100ms fails 50% after 10s by hang");
    for row in 0..rows.len() {
        if rows.kind[row] == Kind::Open {
            // The answer began at once, and goes on.
            rows.status[row] = 200;
        }
    }
    let verdict = culprit(&rows, ten_minutes(), &Options::default());
    expect![[r#"
        nothing 0.00: nothing stands out: 186 requests to 1 service from 14:02:00 to 14:12:00 UTC, none failed
    "#]].assert_eq(&summary(&verdict));
}

#[test]
fn evidence_of_slowness_names_the_instance_and_the_same_limit_before() {
    let verdict = culprit(
        &traffic(
            "
            400 x bot -> web GET /list every 100ms
              web -> db GET /rows instances 3 slows 300ms after 20s on db-1
            ",
        ),
        ten_minutes(),
        &Options::default(),
    );
    let commands: Vec<String> = verdict
        .evidence
        .iter()
        .map(|evidence| format!("{}\n  {}\n", evidence.says, evidence.command))
        .collect();
    expect![[r#"
        the median call to db GET /rows takes 301 ms, before it took 1.2 ms
          whodunit tap workload/db -n emojivoto --route 'GET /rows' --min-latency 301ms --where 'instance=db-1' --since 2026-01-31T14:02:20.200Z --until 2026-01-31T14:12:00.000Z
        that is 100 % of the time that slow requests to web GET /list take
          whodunit routes workload/db -n emojivoto --since 2026-01-31T14:02:20.200Z --until 2026-01-31T14:12:00.000Z
        elsewhere 0 of 130 such calls were that slow
          whodunit stat instance --to db -n emojivoto --since 2026-01-31T14:02:20.200Z --until 2026-01-31T14:12:00.000Z
        before 14:02:20 UTC, 0 of 202 were that slow
          whodunit tap workload/db -n emojivoto --route 'GET /rows' --min-latency 301ms --since 2026-01-31T14:02:00.000Z --until 2026-01-31T14:02:20.200Z
        66 of 198 requests to web GET /list are slow because of it
          whodunit tap workload/web -n emojivoto --route 'GET /list' --since 2026-01-31T14:02:20.200Z --until 2026-01-31T14:12:00.000Z
    "#]].assert_eq(&commands.concat());
}

#[test]
fn users_who_give_up_are_followed_down_to_who_hangs() {
    // The services in between do not notice that the user went away: their calls stay open.
    let text = "
        300 x bot -> web GET /buy every 100ms
          web -> pay GET /charge
            pay -> bank GET /transfer fails 100% after 20s by hang
        ";
    let mut records = records(text);
    for record in &mut records {
        if record.kind == Kind::Open && &*record.dst.workload == "web" {
            record.kind = Kind::Request;
            record.outcome = Outcome::Failure;
            record.cause = Cause::ClientCancelled;
            record.origin = Origin::Client;
            record.duration_us = 3_000_000;
            record.latency_us = 3_000_000;
            record.at_us = record.start_at_us + 3_000_000;
        }
    }
    let verdict = culprit(
        &records.into_iter().collect(),
        ten_minutes(),
        &Options::default(),
    );
    expect![[r#"
        culprit 0.96: bank GET /transfer hangs: 100 of 100 calls have no answer since 14:02:20 UTC; web GET /buy is slow because of it
          culprit bank `GET /transfer` server/slow 100/100
          symptom web `GET /buy` latency 100/100
          not web `GET /buy` 0.00: it was slow 100 times while it waited for bank GET /transfer
          not pay `GET /charge` 0.00: it was slow 100 times while it waited for bank GET /transfer
    "#]].assert_eq(&summary(&verdict));
}

#[test]
fn who_answers_without_its_hanging_callee_is_a_victim() {
    // `pay` gives up after two seconds and answers an error, but leaves its call open.
    let text = "
        300 x bot -> web GET /buy every 100ms
          web -> pay GET /charge
            pay -> bank GET /transfer fails 100% after 20s by hang
        ";
    let mut records = records(text);
    for record in &mut records {
        if record.kind == Kind::Open && &*record.dst.workload != "bank" {
            record.kind = Kind::Request;
            record.outcome = Outcome::Failure;
            record.cause = Cause::AppHttp5xx;
            record.origin = Origin::Server;
            record.status = 504;
            record.duration_us = 2_000_000;
            record.latency_us = 2_000_000;
            record.at_us = record.start_at_us + 2_000_000;
        }
    }
    let verdict = culprit(
        &records.into_iter().collect(),
        ten_minutes(),
        &Options::default(),
    );
    expect![[r#"
        culprit 0.96: bank GET /transfer hangs: callers gave up on 100 % of its calls (100 of 100) since 14:02:20 UTC; web GET /buy fails because of it
          culprit bank `GET /transfer` server/slow 100/100
          symptom web `GET /buy` failures 100/100
          not web `GET /buy` 0.00: 100 of its failures contain a failed call to bank GET /transfer; it failed 0 times on its own
          not pay `GET /charge` 0.00: 100 of its failures contain a failed call to bank GET /transfer; it failed 0 times on its own
    "#]].assert_eq(&summary(&verdict));
}

#[test]
fn a_slow_request_now_and_then_is_what_busy_machines_do() {
    check(
        "2000 x bot -> web GET /vote every 100ms slows 120ms after 60s share 1%",
        expect![[r#"
            nothing 0.00: nothing stands out: 2000 requests to 1 service from 14:02:00 to 14:12:00 UTC, none failed
        "#]],
    );
}
