use expect_test::{Expect, expect};
use whodunit_api::culprit::{AttributeSet, Evidence, RunnerUp, Term, VERSION, Victim};

use super::*;

fn checked_range() -> Checked {
    Checked {
        requests: 1_204,
        from: "2026-01-31T13:52:31Z".to_owned(),
        until: "2026-01-31T14:02:31Z".to_owned(),
        services: 3,
    }
}

fn talk() -> Culprit {
    let victim = |workload: &str| Victim {
        namespace: "emojivoto".to_owned(),
        workload: workload.to_owned(),
        route: "GET /api/vote".to_owned(),
        failed: 66,
        requests: 320,
    };
    Culprit {
        version: VERSION,
        verdict: "culprit".to_owned(),
        confidence: 0.97,
        says: "voting fails every VotePoop (66 of 66), which is why 20.62% of GET /api/vote at \
               web fail."
            .to_owned(),
        symptom: Some(Symptom {
            namespace: "emojivoto".to_owned(),
            service: "web".to_owned(),
            route: "GET /api/vote".to_owned(),
            signal: "failures".to_owned(),
            since: "2026-01-31T14:01:07Z".to_owned(),
            since_recording_began: false,
            until: None,
            failed: 66,
            requests: 320,
        }),
        culprit: Some(Named {
            namespace: "emojivoto".to_owned(),
            workload: "voting".to_owned(),
            service: "voting".to_owned(),
            route: "emojivoto.v1.VotingService/VotePoop".to_owned(),
            origin: "server".to_owned(),
            cause: "app_grpc_status".to_owned(),
            failed: 66,
            requests: 66,
            ..Named::default()
        }),
        victims: vec![victim("web")],
        attributes: vec![
            AttributeSet {
                terms: vec![Term {
                    name: "route".to_owned(),
                    value: "emojivoto.v1.VotingService/VotePoop".to_owned(),
                }],
                workload: "voting".to_owned(),
                covered: 1.0,
                lift: 5.4,
            },
            AttributeSet {
                terms: vec![Term {
                    name: "choice".to_owned(),
                    value: ":poop:".to_owned(),
                }],
                workload: "web".to_owned(),
                covered: 1.0,
                lift: 4.84,
            },
        ],
        evidence: vec![
            Evidence {
                says: "66 of 66 requests to VotePoop failed at voting itself".to_owned(),
                number: 66.0,
                command: "whodunit tap workload/voting --route VotePoop --failed".to_owned(),
            },
            Evidence {
                says: "all other routes of voting answer without a failure, so the workload, its \
                       instance and its network are well"
                    .to_owned(),
                number: 0.0,
                command: "whodunit routes workload/voting".to_owned(),
            },
        ],
        runners_up: vec![RunnerUp {
            workload: "web".to_owned(),
            route: "GET /api/vote".to_owned(),
            confidence: 0.12,
            lost_because: "each of its failures follows a failed VotePoop".to_owned(),
        }],
        examples: vec!["00064a7b3c5d1e-00000000000000aa-1f".to_owned()],
        checked: checked_range(),
    }
}

fn calls() -> Vec<EdgeRow> {
    let call = |src: &str, dst: &str, failed| EdgeRow {
        src: src.to_owned(),
        dst: dst.to_owned(),
        failed,
        ..EdgeRow::default()
    };
    vec![
        call("vote-bot", "web", 66),
        call("web", "emoji", 0),
        call("web", "voting", 66),
    ]
}

#[track_caller]
fn check(answer: &Culprit, change: impl FnOnce(&mut View), expected: Expect) {
    let mut view = View::plain();
    change(&mut view);
    expected.assert_eq(&render(answer, &calls(), &view));
}

#[test]
fn the_talk_in_one_screen() {
    check(
        &talk(),
        |_| {},
        expect![[r#"
            CULPRIT  voting VotePoop  confidence 0.97

              voting fails every VotePoop (66 of 66), which is why 20.62% of GET /api/vote
              at web fail.

              vote-bot → web GET /api/vote → voting VotePoop ✗
                         66 of 320 failed    66 of 66 failed

              100.00%              20.62%                        since 14:01:07
              of VotePoop fails    of web GET /api/vote fails    for 1m 24s

            Who suffers
              web GET /api/vote  66 of 320 failed (20.62%)

            What the failed requests have in common
              choice=:poop:  at web: 100.00% of the failed ones; 4.8 times likelier to fail than the rest

            Why, and how to check it
              • 66 of 66 requests to VotePoop failed at voting itself
                  whodunit tap workload/voting --route VotePoop --failed
              • all other routes of voting answer without a failure, so the workload, its
                instance and its network are well
                  whodunit routes workload/voting

            Who else was suspected
              • web GET /api/vote (0.12): each of its failures follows a failed VotePoop

            Examples
              whodunit explain 00064a7b3c5d1e-00000000000000aa-1f

            Checked 1,204 requests of 3 services, 13:52:31 to 14:02:31.
        "#]],
    );
}

#[test]
fn a_narrow_ascii_terminal_gets_the_same_facts() {
    check(
        &talk(),
        |view| {
            view.unicode = false;
            view.width = Some(44);
        },
        expect![[r#"
            CULPRIT  voting VotePoop  confidence 0.97

              voting fails every VotePoop (66 of 66),
              which is why 20.62% of GET /api/vote at
              web fail.

              vote-bot
              -> web GET /api/vote  66 of 320 failed
                -> voting VotePoop X  66 of 66 failed

              100.00% of VotePoop fails
              20.62% of web GET /api/vote fails
              since 14:01:07 for 1m 24s

            Who suffers
              web GET /api/vote  66 of 320 failed (20.62%)

            What the failed requests have in common
              choice=:poop:  at web: 100.00% of the failed ones; 4.8 times likelier to fail than the rest

            Why, and how to check it
              - 66 of 66 requests to VotePoop failed at
                voting itself
                  whodunit tap workload/voting --route VotePoop --failed
              - all other routes of voting answer
                without a failure, so the workload, its
                instance and its network are well
                  whodunit routes workload/voting

            Who else was suspected
              - web GET /api/vote (0.12): each of its
                failures follows a failed VotePoop

            Examples
              whodunit explain 00064a7b3c5d1e-00000000000000aa-1f

            Checked 1,204 requests of 3 services, 13:52:31 to 14:02:31.
        "#]],
    );
}

#[test]
fn only_calls_that_happened_are_drawn() {
    let mut answer = talk();
    let mut other = answer.victims[0].clone();
    other.workload = "mobile".to_owned();
    answer.victims.push(other);
    let mut calls = calls();
    calls.push(EdgeRow {
        dst: "mobile".to_owned(),
        ..calls[2].clone()
    });
    calls[3].src.clear();
    let drawn = |answer: &Culprit, calls: &[EdgeRow]| {
        let steps = steps(answer, calls, &View::plain());
        let says: Vec<String> = steps.into_iter().map(|step| step.says).collect();
        says.join(" → ")
    };
    // The mobile app calls nobody who failed, so it is not on the way.
    assert_eq!(
        drawn(&answer, &calls),
        "vote-bot → web GET /api/vote → voting VotePoop ✗"
    );
    calls.push(EdgeRow {
        src: String::new(),
        ..calls[0].clone()
    });
    assert_eq!(
        drawn(&answer, &calls),
        "callers outside the mesh and 1 more → web GET /api/vote → voting VotePoop ✗"
    );
    assert_eq!(
        drawn(&answer, &[]),
        "voting VotePoop ✗",
        "two victims, but who calls whom?"
    );
    answer.victims.truncate(1);
    assert_eq!(drawn(&answer, &[]), "web GET /api/vote → voting VotePoop ✗");
}

#[test]
fn one_instance_and_one_version_are_named() {
    let mut answer = talk();
    answer.verdict = "probably".to_owned();
    let culprit = answer.culprit.as_mut().expect("the talk has a culprit");
    culprit.instance = Some("voting-1".to_owned());
    culprit.app_version = Some("v2".to_owned());
    culprit.route.clear();
    let text = render(&answer, &calls(), &View::plain());
    let first = text.lines().next().unwrap_or_default();
    expect!["PROBABLY  voting, instance voting-1, version v2  confidence 0.97"].assert_eq(first);
}

#[test]
fn a_latency_symptom_is_slow_not_failed() {
    let mut answer = talk();
    answer.symptom.as_mut().expect("a symptom").signal = "latency".to_owned();
    let text = render(&answer, &calls(), &View::plain());
    assert!(text.contains("66 of 66 slow"), "{text}");
    assert!(text.contains("is slow"), "{text}");
}

#[test]
fn quiet_is_calm_and_says_what_was_checked() {
    let answer = Culprit {
        version: VERSION,
        verdict: "nothing".to_owned(),
        says: "No route fails or is slower than before.".to_owned(),
        checked: checked_range(),
        ..Culprit::default()
    };
    check(
        &answer,
        |_| {},
        expect![[r#"
        NOTHING STANDS OUT

          No route fails or is slower than before.

        Checked 1,204 requests of 3 services, 13:52:31 to 14:02:31.
    "#]],
    );
    let answer = Culprit {
        checked: Checked {
            requests: 0,
            services: 0,
            ..checked_range()
        },
        says: "There was no traffic.".to_owned(),
        ..answer
    };
    check(
        &answer,
        |_| {},
        expect![[r#"
        NOTHING STANDS OUT

          There was no traffic.

        Checked 0 requests of 0 services, 13:52:31 to 14:02:31.
        No requests were recorded in that time: `whodunit check` says whether the
        proxies are well, --since looks further back.
    "#]],
    );
}

#[test]
fn traffic_cannot_write_to_the_terminal() {
    let mut answer = talk();
    answer.says.push_str("\u{1b}]0;owned\u{7}");
    answer.victims[0].workload = "\u{1b}[31mweb".to_owned();
    answer.attributes[0].terms[0].value = "\u{9b}2J".to_owned();
    answer.evidence[0].command.push('\u{1b}');
    answer.runners_up[0].lost_because.push('\u{8}');
    answer.examples[0].push('\r');
    answer.checked.from.push('\u{1b}');
    let text = render(&answer, &calls(), &View::plain());
    let bad = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(bad, None, "{text:?}");
}

#[test]
fn short_is_one_line() {
    expect![[r#"
        culprit: voting fails every VotePoop (66 of 66), which is why 20.62% of GET /api/vote at web fail.
    "#]]
    .assert_eq(&short(&talk(), &View::plain()));
}

#[test]
fn what_is_over_says_how_long_it_lasted() {
    let mut answer = talk();
    if let Some(symptom) = &mut answer.symptom {
        symptom.until = Some("2026-01-31T14:01:37Z".to_owned());
    }
    let symptom = answer.symptom.as_ref().expect("the talk has a symptom");
    let view = View::plain();
    let texts = since(symptom, &answer.checked, &view);
    assert_eq!(
        texts,
        ("14:01:07 to 14:01:37".to_owned(), "for 30s".to_owned())
    );
}
