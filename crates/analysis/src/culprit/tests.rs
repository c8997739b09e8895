//! Traffic in, verdict out. The language of the traffic is described in [`crate::traffic`].

mod random;
mod slow;

use expect_test::{Expect, expect};
use whodunit_model::Rows;
use whodunit_model::route::short;

use super::{Options, Verdict, culprit};
use crate::traffic::{ten_minutes, traffic};

/// The first lines of the verdict: what it says, whom it names, where it shows.
#[track_caller]
fn check(text: &str, expected: Expect) {
    let verdict = judge(text);
    expected.assert_eq(&summary(&verdict));
}

fn judge(text: &str) -> Verdict {
    culprit(&traffic(text), ten_minutes(), &Options::default())
}

fn summary(verdict: &Verdict) -> String {
    let mut text = format!(
        "{} {:.2}: {}\n",
        verdict.level.name(),
        verdict.confidence,
        verdict.says
    );
    if let Some(named) = &verdict.culprit {
        let mut line = format!(
            "  culprit {} `{}` {}/{} {}/{}",
            named.workload,
            short(&named.route),
            named.origin,
            named.cause,
            named.failed,
            named.requests
        );
        if let Some(instance) = &named.instance {
            line += &format!(" instance {instance}");
        }
        if let Some(version) = &named.app_version {
            line += &format!(" version {version}");
        }
        text += &(line + "\n");
    }
    if let Some(symptom) = &verdict.symptom {
        text += &format!(
            "  symptom {} `{}` {} {}/{}{}\n",
            symptom.service,
            short(&symptom.route),
            symptom.signal.name(),
            symptom.failed,
            symptom.requests,
            if symptom.since_recording_began {
                " since recording began"
            } else {
                ""
            }
        );
    }
    for runner_up in &verdict.runners_up {
        text += &format!(
            "  not {} `{}` {:.2}: {}\n",
            runner_up.workload,
            short(&runner_up.route),
            runner_up.confidence,
            runner_up.lost_because
        );
    }
    text
}

/// Everything the verdict contains.
#[track_caller]
fn check_all(rows: &Rows, expected: Expect) {
    let verdict = culprit(rows, ten_minutes(), &Options::default());
    let mut text = summary(&verdict);
    for victim in &verdict.victims {
        text += &format!(
            "  victim {} {} {}/{}\n",
            victim.workload, victim.route, victim.failed, victim.requests
        );
    }
    for telling in &verdict.attributes {
        let terms: Vec<String> = telling
            .set
            .terms
            .iter()
            .map(|term| format!("{}={}", term.name, term.value))
            .collect();
        text += &format!(
            "  at {} {}: covers {:.2} lift {:.2}\n",
            telling.workload,
            terms.join(" and "),
            telling.set.covered,
            telling.set.lift
        );
    }
    for evidence in &verdict.evidence {
        text += &format!(
            "  {} ({:.2})\n    {}\n",
            evidence.says, evidence.number, evidence.command
        );
    }
    for example in &verdict.examples {
        text += &format!("  example {example}\n");
    }
    text += &format!(
        "  checked {} requests, {} services\n",
        verdict.checked.requests, verdict.checked.services
    );
    expected.assert_eq(&text);
}

/// The talk: the bot votes 15 % doughnut, 20 % poop, else anything; poop fails.
const TALK: &str = "
200 x vote-bot -> web GET /api/list
  web -> emoji emojivoto.v1.EmojiService/ListAll
200 x vote-bot -> web GET /api/vote from 50ms
  web -> emoji emojivoto.v1.EmojiService/FindByShortcode
  web -> voting emojivoto.v1.VotingService/VotePoop pick 20% fails 100% tag choice=:poop:
  web -> voting emojivoto.v1.VotingService/VoteDoughnut pick 15% tag choice=:doughnut:
  web -> voting emojivoto.v1.VotingService/Vote{100} pick 65% tag choice=:any:
";

#[test]
fn the_talk_ends_with_the_culprit() {
    check_all(
        &traffic(TALK),
        expect![[r#"
            culprit 0.91: voting VotePoop fails 100 % of its calls (40 of 40) with gRPC UNKNOWN since recording began (14:02:00 UTC); web GET /api/vote fails because of it
              culprit voting `VotePoop` server/app_grpc_status 40/40
              symptom web `GET /api/vote` failures 40/200 since recording began
              not web `GET /api/vote` 0.00: 40 of its failures contain a failed call to voting VotePoop; it failed 0 times on its own
              victim web GET /api/vote 40/200
              victim vote-bot GET /api/vote 40/200
              at voting route=emojivoto.v1.VotingService/VotePoop: covers 1.00 lift 5.00
              at web choice=:poop:: covers 1.00 lift 5.00
              40 of 40 calls to voting VotePoop failed: the application answered a failing gRPC status with gRPC UNKNOWN (1.00)
                whodunit tap workload/voting -n emojivoto --route VotePoop --failed --since 2026-01-31T14:02:00.050Z --until 2026-01-31T14:12:00.000Z
              its other routes: 0 of 160 calls failed (0.00)
                whodunit routes workload/voting -n emojivoto --since 2026-01-31T14:02:00.050Z --until 2026-01-31T14:12:00.000Z
              40 of 40 failed requests to web GET /api/vote contain such a failed call (1.00)
                whodunit tap workload/web -n emojivoto --route 'GET /api/vote' --failed --since 2026-01-31T14:02:00.050Z --until 2026-01-31T14:12:00.000Z
              example 0649af88985058-0000000000000007-192
              example 0649af89cf97d8-0000000000000007-2c4
              example 0649af8af79d18-0000000000000007-3e7
              checked 1000 requests, 3 services
        "#]],
    );
}

#[test]
fn leaf_fails() {
    check(
        "
        50 x - -> shop GET /buy
          shop -> cart Cart/Get
          shop -> pay Pay/Charge
            pay -> bank Bank/Transfer fails 60%
        ",
        expect![[r#"
            culprit 0.90: bank Transfer fails 70 % of its calls (35 of 50) with gRPC UNKNOWN since recording began (14:02:00 UTC); shop GET /buy fails because of it
              culprit bank `Transfer` server/app_grpc_status 35/50
              symptom shop `GET /buy` failures 35/50 since recording began
              not shop `GET /buy` 0.00: 35 of its failures contain a failed call to bank Transfer; it failed 0 times on its own
              not pay `Charge` 0.00: 35 of its failures contain a failed call to bank Transfer; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn middle_fails() {
    check(
        "
        50 x - -> shop GET /buy
          shop -> pay Pay/Charge fails 40% after 4s
            pay -> bank Bank/Transfer
        ",
        expect![[r#"
            culprit 0.73: pay Charge fails 39 % of its calls (11 of 28) with gRPC UNKNOWN since 14:02:04 UTC; shop GET /buy fails because of it
              culprit pay `Charge` server/app_grpc_status 11/28
              symptom shop `GET /buy` failures 11/28
              not shop `GET /buy` 0.00: 11 of its failures contain a failed call to pay Charge; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn two_causes_bigger_first() {
    check(
        "
        100 x bot -> web GET /list
          web -> emoji Emoji/List fails 30%
        100 x bot -> web GET /vote from 7ms
          web -> voting Voting/Vote fails 60%
        ",
        expect![[r#"
            culprit 0.94: voting Vote fails 67 % of its calls (67 of 100) with gRPC UNKNOWN since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `Vote` server/app_grpc_status 67/100
              symptom web `GET /vote` failures 67/100 since recording began
              not emoji `List` 0.89: a cause of its own, with less harm: 31 requests failed because of it (31 of 100 calls, app_grpc_status), 67 because of voting Vote
              not web `GET /vote` 0.00: 67 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn two_causes_of_one_symptom() {
    check(
        "
        100 x bot -> web GET /vote
          web -> emoji Emoji/Find fails 20%
          web -> voting Voting/Vote fails 40%
        ",
        expect![[r#"
            culprit 0.76: voting Vote fails 36 % of its calls (28 of 78) with gRPC UNKNOWN since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `Vote` server/app_grpc_status 28/78
              symptom web `GET /vote` failures 50/100 since recording began
              not emoji `Find` 0.70: a cause of its own, with less harm: 22 requests failed because of it (22 of 100 calls, app_grpc_status), 28 because of voting Vote
              not web `GET /vote` 0.00: 28 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn network_resets_are_not_blamed_on_the_service() {
    check(
        "
        100 x bot -> web GET /vote
          web -> voting Voting/Vote fails 20% by reset after 5s
        ",
        expect![[r#"
            culprit 0.82: the network on the way to voting Vote breaks connections: 18 of 72 calls failed since 14:02:05 UTC; web GET /vote fails because of it
              culprit voting `Vote` network/reset 18/72
              symptom web `GET /vote` failures 18/72
              not web `GET /vote` 0.00: 18 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn refused_connection() {
    check(
        "
        100 x bot -> web GET /vote
          web -> voting Voting/Vote fails 100% by refused after 10s
        ",
        expect![[r#"
            culprit 0.93: voting Vote refuses connections: 50 of 50 calls failed since 14:02:10 UTC; web GET /vote fails because of it
              culprit voting `Vote` network/connect_refused 50/50
              symptom web `GET /vote` failures 50/50
              not web `GET /vote` 0.00: 50 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn service_without_endpoints() {
    check(
        "
        100 x bot -> web GET /vote
          web -> voting Voting/Vote fails 100% by no_endpoints after 10s
        ",
        expect![[r#"
            culprit 0.93: voting Vote has no instance to answer: 50 of 50 calls failed since 14:02:10 UTC; web GET /vote fails because of it
              culprit voting `Vote` client_proxy/no_endpoints 50/50
              symptom web `GET /vote` failures 50/50
              not web `GET /vote` 0.00: 50 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn entry_is_refused() {
    check(
        "
        100 x bot -> web GET /vote fails 100% by refused after 10s
        ",
        expect![[r#"
            culprit 0.93: web GET /vote refuses connections: 50 of 50 calls failed since 14:02:10 UTC
              culprit web `GET /vote` network/connect_refused 50/50
              symptom web `GET /vote` failures 50/50
        "#]],
    );
}

#[test]
fn quiet_accuses_nobody() {
    check(
        "
        500 x bot -> web GET /vote
          web -> voting Voting/Vote{20} takes 3ms
        ",
        expect![[r#"
            nothing 0.00: nothing stands out: 1000 requests to 2 services from 14:02:00 to 14:12:00 UTC, none failed
        "#]],
    );
}

#[test]
fn no_rows_accuse_nobody() {
    check(
        "",
        expect![[r#"
            nothing 0.00: nothing stands out: no requests from 14:02:00 to 14:12:00 UTC
        "#]],
    );
}

#[test]
fn two_failures_are_noise() {
    check(
        "
        50 x bot -> web GET /vote
          web -> voting Voting/Vote fails 2
        ",
        expect![[r#"
            nothing 0.00: nothing stands out: 100 requests to 2 services from 14:02:00 to 14:12:00 UTC, 4 failed
              not voting `Vote` 0.00: too little to tell: 2 requests failed because of it (2 of 2 calls, app_grpc_status)
        "#]],
    );
}

#[test]
fn a_failure_in_a_thousand_is_noise() {
    check(
        "
        2000 x bot -> web GET /vote
          web -> voting Voting/Vote fails 0.2%
        ",
        expect![[r#"
            nothing 0.00: nothing stands out: 4000 requests to 2 services from 14:02:00 to 14:12:00 UTC, 4 failed
              not voting `Vote` 0.00: too little to tell: 2 requests failed because of it (2 of 2000 calls, app_grpc_status)
        "#]],
    );
}

#[test]
fn four_failures_are_a_lead() {
    check(
        "
        20 x bot -> web GET /vote
          web -> voting Voting/VotePoop pick 20% fails 4
          web -> voting Voting/VoteJoy pick 80%
        ",
        expect![[r#"
            leads 0.39: a lead: voting VotePoop fails 80 % of its calls (4 of 5) with gRPC UNKNOWN since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `VotePoop` server/app_grpc_status 4/5
              symptom web `GET /vote` failures 4/16 since recording began
              not web `GET /vote` 0.00: 4 of its failures contain a failed call to voting VotePoop; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn five_failures_make_it_probable() {
    check(
        "
        20 x bot -> web GET /vote
          web -> voting Voting/Vote fails 5
        ",
        expect![[r#"
            probably 0.56: probably voting Vote fails 100 % of its calls (5 of 5) with gRPC UNKNOWN from 14:02:00 to 14:02:00 UTC; web GET /vote fails because of it
              culprit voting `Vote` server/app_grpc_status 5/5
              symptom web `GET /vote` failures 5/5 since recording began
              not web `GET /vote` 0.00: 5 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn ten_failures_make_a_culprit() {
    check(
        "
        40 x bot -> web GET /vote
          web -> voting Voting/Vote fails 10
        ",
        expect![[r#"
            culprit 0.71: voting Vote fails 100 % of its calls (10 of 10) with gRPC UNKNOWN from 14:02:00 to 14:02:01 UTC; web GET /vote fails because of it
              culprit voting `Vote` server/app_grpc_status 10/10
              symptom web `GET /vote` failures 10/10 since recording began
              not web `GET /vote` 0.00: 10 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn retries_hide_it_from_users() {
    check(
        "
        200 x bot -> web GET /vote
          web -> voting Voting/Vote fails 30% retried
        ",
        expect![[r#"
            probably 0.55: probably voting Vote fails 23 % of its calls (61 of 261) with gRPC UNKNOWN since recording began (14:02:00 UTC); tries that are made again hide it from the callers
              culprit voting `Vote` server/app_grpc_status 61/261
              symptom voting `Vote` failures 61/261 since recording began
        "#]],
    );
}

#[test]
fn tolerated_failures_are_only_probable() {
    check(
        "
        200 x bot -> web GET /vote
          web -> ads Ads/Show fails 50% ignored
          web -> voting Voting/Vote
        ",
        expect![[r#"
            probably 0.57: probably ads Show fails 47 % of its calls (94 of 200) with gRPC UNKNOWN since recording began (14:02:00 UTC); nobody outside sees it
              culprit ads `Show` server/app_grpc_status 94/200
              symptom ads `Show` failures 94/200 since recording began
        "#]],
    );
}

#[test]
fn tolerated_failures_do_not_cover_for_the_culprit() {
    check(
        "
        400 x bot -> web GET /vote fails 20%
          web -> ads Ads/Show fails 50% ignored
          web -> voting Voting/Vote
        ",
        expect![[r#"
            culprit 0.96: web GET /vote fails 24 % of its calls (87 of 366) with HTTP 500 since 14:02:06 UTC
              culprit web `GET /vote` server/app_http_5xx 87/366
              symptom web `GET /vote` failures 87/366
              not ads `Show` 0.58: nobody outside sees it: 198 requests failed because of it (198 of 400 calls, app_grpc_status), 87 because of web GET /vote
        "#]],
    );
}

#[test]
fn one_instance_only() {
    check(
        "
        100 x bot -> web GET /vote
          web -> voting Voting/Vote instances 3 fails 100% on voting-1
        ",
        expect![[r#"
            culprit 0.89: voting Vote fails 100 % of its calls (33 of 33) with gRPC UNKNOWN on instance voting-1 only since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `Vote` server/app_grpc_status 33/33 instance voting-1
              symptom web `GET /vote` failures 33/100 since recording began
              not web `GET /vote` 0.00: 33 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn one_instance_that_balancers_avoid() {
    check(
        "
        10 x bot -> web GET /vote
          web -> voting Voting/Vote instances 2 fails 100% on voting-1
        100 x bot -> web GET /vote from 2s
          web -> voting Voting/Vote instances 1
        ",
        expect![[r#"
            probably 0.56: probably voting Vote fails 100 % of its calls (5 of 5) with gRPC UNKNOWN on instance voting-1 only since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `Vote` server/app_grpc_status 5/5 instance voting-1
              symptom web `GET /vote` failures 5/109 since recording began
              not web `GET /vote` 0.00: 5 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn one_version_only() {
    check(
        "
        200 x bot -> web GET /vote
          web -> voting Voting/Vote instances 4 versions v1,v2 fails 50% on voting-1
        200 x bot -> web GET /vote from 11ms
          web -> voting Voting/Vote instances 4 versions v1,v2 fails 50% on voting-3
        ",
        expect![[r#"
            culprit 0.93: voting Vote fails 26 % of its calls (52 of 200) with gRPC UNKNOWN in version v2 only since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `Vote` server/app_grpc_status 52/200 version v2
              symptom web `GET /vote` failures 52/400 since recording began
              not web `GET /vote` 0.00: 52 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn the_only_instance_of_a_version() {
    check(
        "
        100 x bot -> web GET /vote
          web -> voting Voting/Vote instances 2 versions v1,v2 fails 80% on voting-1
        ",
        expect![[r#"
            culprit 0.90: voting Vote fails 76 % of its calls (38 of 50) with gRPC UNKNOWN on instance voting-1 (version v2) only since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `Vote` server/app_grpc_status 38/50 instance voting-1 version v2
              symptom web `GET /vote` failures 38/100 since recording began
              not web `GET /vote` 0.00: 38 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn client_garbage_accuses_nobody() {
    check(
        "
        100 x - -> web GET /vote fails 50% by 404
          web -> voting Voting/Vote
        ",
        expect![[r#"
            nothing 0.00: nothing stands out: 200 requests to 2 services from 14:02:00 to 14:12:00 UTC, none failed
        "#]],
    );
}

#[test]
fn callers_that_go_away_accuse_nobody() {
    check(
        "
        100 x - -> web GET /vote fails 30% by cancel
          web -> voting Voting/Vote
        ",
        expect![[r#"
            nothing 0.00: nothing stands out: 200 requests to 2 services from 14:02:00 to 14:12:00 UTC, none failed
        "#]],
    );
}

#[test]
fn probes_are_left_out() {
    let mut rows = traffic(
        "
        60 x kubelet -> web GET /live fails 50%
        60 x bot -> web GET /vote
        ",
    );
    for row in 0..rows.len() {
        rows.probe[row] = rows.text(rows.route[row]) == "GET /live";
    }
    let verdict = culprit(&rows, ten_minutes(), &Options::default());
    expect![[r#"
        nothing 0.00: nothing stands out: 60 requests to 1 service from 14:02:00 to 14:12:00 UTC, none failed
    "#]].assert_eq(&summary(&verdict));
}

#[test]
fn trouble_from_before_the_window_did_not_begin_with_recording() {
    let rows = traffic("60 x - -> web GET /vote fails 50%");
    let options = Options {
        recording_began_us: Some(0),
        ..Options::default()
    };
    let verdict = culprit(&rows, ten_minutes(), &options);
    expect![[r#"
        culprit 0.89: web GET /vote fails 52 % of its calls (31 of 60) with HTTP 500 since before 14:02:00 UTC
          culprit web `GET /vote` server/app_http_5xx 31/60
          symptom web `GET /vote` failures 31/60
    "#]].assert_eq(&summary(&verdict));
}

#[test]
fn one_percent_flaky_names_the_service() {
    check(
        "
        3000 x bot -> web GET /vote every 100ms
          web -> voting Voting/Vote{100} fails 1%
        ",
        expect![[r#"
            culprit 0.84: voting fails 0.7 % of its calls (21 of 3000) with gRPC UNKNOWN since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `` server/app_grpc_status 21/3000
              symptom web `GET /vote` failures 21/3000 since recording began
              not web `GET /vote` 0.00: 21 of its failures contain a failed call to voting; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn an_external_dependency_fails() {
    check(
        "
        60 x - -> shop GET /buy
          shop -> pay Pay/Charge
            pay -> bank.example POST /transfer outside fails 50%
        ",
        expect![[r#"
            culprit 0.87: bank.example POST /transfer fails 43 % of its calls (26 of 60) with HTTP 500 since recording began (14:02:00 UTC); shop GET /buy fails because of it
              culprit bank.example `POST /transfer` server/app_http_5xx 26/60
              symptom shop `GET /buy` failures 26/60 since recording began
              not shop `GET /buy` 0.00: 26 of its failures contain a failed call to bank.example POST /transfer; it failed 0 times on its own
              not pay `Charge` 0.00: 26 of its failures contain a failed call to bank.example POST /transfer; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn a_cycle_of_services() {
    check(
        "
        60 x - -> a GET /a
          a -> b B/Do
            b -> a A/Back
              a -> c C/Do fails 40%
        ",
        expect![[r#"
            culprit 0.89: c Do fails 55 % of its calls (33 of 60) with gRPC UNKNOWN since recording began (14:02:00 UTC); a GET /a fails because of it
              culprit c `Do` server/app_grpc_status 33/60
              symptom a `GET /a` failures 33/60 since recording began
              not a `GET /a` 0.00: 33 of its failures contain a failed call to c Do; it failed 0 times on its own
              not b `Do` 0.00: 33 of its failures contain a failed call to c Do; it failed 0 times on its own
              not a `Back` 0.00: 33 of its failures contain a failed call to c Do; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn an_outage_that_is_over_has_an_end() {
    check(
        "
        600 x bot -> web GET /vote
          web -> voting Voting/Vote fails 100% after 30s until 60s
        ",
        expect![[r#"
            culprit 0.97: voting Vote fails 100 % of its calls (150 of 150) with gRPC UNKNOWN from 14:02:30 to 14:02:59 UTC; web GET /vote fails because of it
              culprit voting `Vote` server/app_grpc_status 150/150
              symptom web `GET /vote` failures 150/150
              not web `GET /vote` 0.00: 150 of its failures contain a failed call to voting Vote; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn many_at_once_are_told_apart() {
    check(
        "
        2000 x bot -> web GET /vote every 1ms takes 20ms
          web -> emoji Emoji/Find takes 5ms
          web -> voting Voting/VotePoop pick 20% fails 100% takes 5ms tag choice=:poop:
          web -> voting Voting/VoteJoy pick 80% takes 5ms tag choice=:joy:
        2000 x bot -> web GET /list every 1ms takes 15ms
          web -> emoji Emoji/List takes 5ms
        ",
        expect![[r#"
            culprit 0.99: voting VotePoop fails 100 % of its calls (416 of 416) with gRPC UNKNOWN since recording began (14:02:00 UTC); web GET /vote fails because of it
              culprit voting `VotePoop` server/app_grpc_status 416/416
              symptom web `GET /vote` failures 416/2000 since recording began
              not web `GET /vote` 0.00: 416 of its failures contain a failed call to voting VotePoop; it failed 0 times on its own
        "#]],
    );
}

#[test]
fn only_the_asked_symptom_counts() {
    let rows = traffic(
        "
        100 x bot -> web GET /vote
          web -> voting Voting/Vote fails 50%
        100 x bot -> shop GET /buy from 9ms
          shop -> pay Pay/Charge fails 30%
        ",
    );
    let options = Options {
        service: Some("shop".to_owned()),
        ..Options::default()
    };
    let verdict = culprit(&rows, ten_minutes(), &options);
    expect![[r#"
        culprit 0.91: pay Charge fails 40 % of its calls (40 of 100) with gRPC UNKNOWN since recording began (14:02:00 UTC); shop GET /buy fails because of it
          culprit pay `Charge` server/app_grpc_status 40/100
          symptom shop `GET /buy` failures 40/100 since recording began
          not shop `GET /buy` 0.00: 40 of its failures contain a failed call to pay Charge; it failed 0 times on its own
    "#]].assert_eq(&summary(&verdict));
    let options = Options {
        namespace: Some("elsewhere".to_owned()),
        ..Options::default()
    };
    let verdict = culprit(&rows, ten_minutes(), &options);
    expect![[r#"
        nothing 0.00: nothing stands out: 400 requests to 4 services from 14:02:00 to 14:12:00 UTC, 178 failed
    "#]].assert_eq(&summary(&verdict));
}

#[test]
fn who_copes_with_a_failing_callee_is_no_victim() {
    let verdict = judge(
        "
        200 x bot -> web GET /buy
          web -> cart GET /get fails 60% after 10s ignored
        ",
    );
    assert_eq!(
        verdict.culprit.map(|named| named.workload).as_deref(),
        Some("cart")
    );
    assert_eq!(verdict.victims, []);
}

#[test]
fn a_proxy_s_answer_is_not_taken_for_the_callee_s() {
    let verdict = judge("200 x bot -> web GET /buy fails 60% after 10s by refused");
    let says = &verdict.evidence[0].says;
    assert!(says.ends_with("the connection was refused"), "{says}");
}

#[test]
fn a_name_that_nobody_has_is_said_to_be_unknown() {
    let rows = traffic("50 x bot -> web GET /buy");
    let says = |service: &str| {
        let options = Options {
            service: Some(service.to_owned()),
            ..Options::default()
        };
        culprit(&rows, ten_minutes(), &options).says
    };
    assert!(
        says("wbe").contains("is to or from `wbe`"),
        "{}",
        says("wbe")
    );
    assert!(!says("web").contains("`web`"), "{}", says("web"));
    assert!(!says("bot").contains("`bot`"), "{}", says("bot"));
}
