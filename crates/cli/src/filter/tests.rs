use clap::Parser;
use expect_test::{Expect, expect};
use whodunit_model::record::Side;
use whodunit_model::rows::Rows;
use whodunit_model::{RequestId, RequestRecord};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: FilterArgs,
}

fn parse(flags: &str) -> FilterArgs {
    let words = std::iter::once("tap").chain(flags.split_whitespace());
    Line::try_parse_from(words).expect("the flags parse").args
}

/// Prints the tree without the parts every tree has: kinds, probes, and each call once.
#[track_caller]
fn check(flags: &str, expected: Expect) {
    let found = match build(None, None, &parse(flags)) {
        Ok(Filter::And(parts)) => {
            let parts: Vec<String> = parts
                .iter()
                .filter(|part| **part != once())
                .skip(2)
                .map(|part| serde_json::to_string(part).expect("a tree is JSON") + "\n")
                .collect();
            parts.concat()
        }
        Ok(other) => format!("{other:?}"),
        Err(failure) => format!("{} | {} | {}\n", failure.what, failure.why, failure.fix),
    };
    expected.assert_eq(&found);
}

#[test]
fn every_flag_builds_its_part_of_the_tree() {
    check(
        "--failed --status 5xx --grpc-status Unavailable --min-latency 250ms --max-latency 1.5s \
         --method get --path /api --route VotePoop --from web --to voting --cause reset \
         --attribute choice=:poop: --side inbound --where instance=web-0",
        expect![[r#"
            {"is":{"field":"outcome","op":"eq","value":"failure"}}
            {"and":[{"is":{"field":"status","op":"ge","value":500}},{"is":{"field":"status","op":"lt","value":600}}]}
            {"is":{"field":"grpc_status","op":"eq","value":14}}
            {"is":{"field":"latency","op":"ge","value":250000}}
            {"is":{"field":"latency","op":"le","value":1500000}}
            {"is":{"field":"method","op":"eq","value":"GET"}}
            {"is":{"field":"path","op":"prefix","value":"/api"}}
            {"is":{"field":"route","op":"eq","value":"VotePoop"}}
            {"is":{"field":"from","op":"eq","value":"web"}}
            {"is":{"field":"to","op":"eq","value":"voting"}}
            {"is":{"field":"cause","op":"eq","value":"reset"}}
            {"is":{"field":{"attribute":"choice"},"op":"eq","value":":poop:"}}
            {"is":{"field":"side","op":"eq","value":"inbound"}}
            {"is":{"field":"instance","op":"eq","value":"web-0"}}
        "#]],
    );
}

#[test]
fn a_flag_given_twice_matches_either() {
    check(
        "--from web --from vote-bot --status 404",
        expect![[r#"
            {"is":{"field":"status","op":"eq","value":404}}
            {"or":[{"is":{"field":"from","op":"eq","value":"web"}},{"is":{"field":"from","op":"eq","value":"vote-bot"}}]}
        "#]],
    );
}

#[test]
fn not_takes_the_names_of_flags_and_fields() {
    check(
        "--not from=vote-bot --not status=2xx --not failed --not min-latency=1s \
         --not attribute=choice=:poop: --not attribute.choice=:x: --not grpc_status=2",
        expect![[r#"
            {"not":{"is":{"field":"from","op":"eq","value":"vote-bot"}}}
            {"not":{"and":[{"is":{"field":"status","op":"ge","value":200}},{"is":{"field":"status","op":"lt","value":300}}]}}
            {"not":{"is":{"field":"outcome","op":"eq","value":"failure"}}}
            {"not":{"is":{"field":"latency","op":"ge","value":1000000}}}
            {"not":{"is":{"field":{"attribute":"choice"},"op":"eq","value":":poop:"}}}
            {"not":{"is":{"field":{"attribute":"choice"},"op":"eq","value":":x:"}}}
            {"not":{"is":{"field":"grpc_status","op":"eq","value":2}}}
        "#]],
    );
}

#[test]
fn a_wrong_value_is_named() {
    check(
        "--status 6xx",
        expect![[r#"
            wrong value `6xx` of --status | a status is 100 to 599, or 1xx to 5xx | 
        "#]],
    );
    check(
        "--min-latency soon",
        expect![[r#"
            wrong value `soon` of --min-latency | `soon` is not a duration such as 250ms, 30s, 15m, 2h or 1d | 
        "#]],
    );
    check(
        "--not grpc-status=Sad",
        expect![[r#"
            wrong value `grpc-status=Sad` of --not | a gRPC status is 0 to 16, or a name such as Unknown or Unavailable | 
        "#]],
    );
    check(
        "--not from",
        expect![[r#"
            `from` of --not has no value |  | write --not FIELD=VALUE, for example --not from=vote-bot
        "#]],
    );
}

#[test]
fn each_call_is_shown_once_unless_a_place_is_named() {
    let has_once = |target: Option<&str>, flags: &str| {
        let target: Option<Target> = target.map(|text| text.parse().expect("a target"));
        match build(target.as_ref(), None, &parse(flags)) {
            Ok(Filter::And(parts)) => parts.contains(&once()),
            other => panic!("{other:?}"),
        }
    };
    assert!(has_once(None, "--failed"));
    assert!(has_once(Some("svc/web"), ""));
    assert!(has_once(Some("workload"), ""));
    assert!(!has_once(Some("workload/web"), ""));
    assert!(!has_once(Some("po/web-0"), ""));
    assert!(!has_once(None, "--side outbound"));

    let mut caller = RequestRecord::new(RequestId::default(), Side::Outbound, 0);
    caller.twin = Twin::Yes;
    let mut alone = caller.clone();
    alone.twin = Twin::Unknown;
    let mut callee = caller.clone();
    callee.side = Side::Inbound;
    let rows: Rows = [caller, alone, callee].into_iter().collect();
    let found: Vec<usize> = (0..3).filter(|i| once().matches(&rows, *i)).collect();
    assert_eq!(found, [1, 2]);
}

fn rows() -> Rows {
    let mut failed = RequestRecord::new(RequestId::default(), Side::Inbound, 0);
    failed.src.workload = "web".into();
    failed.dst.workload = "voting".into();
    failed.dst.namespace = "emojivoto".into();
    failed.route = "emojivoto.v1.VotingService/VotePoop".into();
    failed.path = "/emojivoto.v1.VotingService/VotePoop".into();
    failed.method = "POST".into();
    failed.status = 200;
    failed.grpc_status = Some(2);
    failed.outcome = Outcome::Failure;
    failed.cause = Cause::AppGrpcStatus;
    failed.latency_us = 4_000;
    let mut probe = failed.clone();
    probe.probe = true;
    let mut good = failed.clone();
    good.outcome = Outcome::Success;
    good.cause = Cause::None;
    good.grpc_status = Some(0);
    [failed, probe, good].into_iter().collect()
}

#[track_caller]
fn selects(target: Option<&str>, flags: &str, expected: &[usize]) {
    let target: Option<Target> = target.map(|text| text.parse().expect("a target"));
    let filter = build(target.as_ref(), None, &parse(flags)).expect("a filter");
    let rows = rows();
    let found: Vec<usize> = (0..3).filter(|i| filter.matches(&rows, *i)).collect();
    assert_eq!(found, expected, "{target:?} {flags}");
}

#[test]
fn the_tree_selects_what_the_flags_say() {
    selects(None, "", &[0, 2]);
    selects(None, "--probes", &[0, 1, 2]);
    selects(None, "--failed", &[0]);
    selects(None, "--not failed", &[2]);
    selects(None, "--open", &[]);
    selects(None, "--status 2xx --grpc-status UNKNOWN", &[0]);
    selects(
        None,
        "--route VotePoop --method post --path /emojivoto",
        &[0, 2],
    );
    selects(None, "--not from=web", &[]);
    selects(None, "--min-latency 5ms", &[]);
    selects(None, "--max-latency 4ms --cause app_grpc_status", &[0]);
    selects(None, "--where status=200 --where origin=none", &[0, 2]);
    selects(Some("deploy/voting"), "", &[0, 2]);
    selects(Some("workload/web"), "", &[]);
    selects(Some("ns/emojivoto"), "", &[0, 2]);
    selects(Some("route/VotePoop"), "", &[0, 2]);
    selects(Some("workload"), "", &[0, 2]);
}
