use expect_test::{Expect, expect};
use whodunit_api::record::Attribute;

use super::*;

fn record(side: &str, from: &str, to: &str) -> Record {
    let party = |workload: &str| Party {
        namespace: "emojivoto".to_owned(),
        workload: workload.to_owned(),
        instance: format!("{workload}-0"),
        version: "v1".to_owned(),
    };
    Record {
        kind: "request".to_owned(),
        side: side.to_owned(),
        at_us: 1_769_868_151_123_000,
        latency_ms: 4.1,
        duration_ms: 4.2,
        from: party(from),
        to: party(to),
        service: to.to_owned(),
        protocol: "http1".to_owned(),
        detected: "bytes".to_owned(),
        tls: "disabled".to_owned(),
        twin: "yes".to_owned(),
        method: "GET".to_owned(),
        route: "GET /api/vote".to_owned(),
        path: "/api/vote?choice=:poop:".to_owned(),
        status: Some(500),
        outcome: "failure".to_owned(),
        cause: "app_http_5xx".to_owned(),
        origin: "server".to_owned(),
        attempts: 1,
        attributes: vec![Attribute {
            name: "choice".to_owned(),
            value: ":poop:".to_owned(),
        }],
        response_bytes: 2_048,
        ..Record::default()
    }
}

fn answer() -> Explain {
    let grpc = |side: &str| Record {
        latency_ms: 0.8,
        duration_ms: 0.9,
        protocol: "grpc".to_owned(),
        detected: "declared".to_owned(),
        route: "emojivoto.v1.VotingService/VotePoop".to_owned(),
        status: Some(200),
        grpc_status: Some(2),
        grpc_status_name: "UNKNOWN".to_owned(),
        cause: "app_grpc_status".to_owned(),
        endpoint: "127.0.0.1:9001".to_owned(),
        reused: true,
        queue_ms: 0.02,
        attributes: Vec::new(),
        ..record(side, "web", "voting")
    };
    Explain {
        id: "00064a7b3c5d1e-00000000000000aa-1f".to_owned(),
        says: "voting answered UNKNOWN to VotePoop, so web answered 500.".to_owned(),
        hops: vec![
            Hop {
                id: "00064a7b3c5d1e-00000000000000aa-1f".to_owned(),
                inbound: Some(record("inbound", "vote-bot", "web")),
                duration_ms: 4.2,
                self_ms: 3.3,
                certainty: 1.0,
                ..Hop::default()
            },
            Hop {
                id: "00064a7b3c5d9e-00000000000000aa-20".to_owned(),
                parent: Some(0),
                certainty: 0.83,
                linked_by: "timing".to_owned(),
                outbound: Some(grpc("outbound")),
                inbound: Some(grpc("inbound")),
                offset_ms: 2.9,
                duration_ms: 0.9,
                network_ms: Some(0.2),
                self_ms: 0.7,
            },
        ],
        ..Explain::default()
    }
}

#[track_caller]
fn check(answer: &Explain, change: impl FnOnce(&mut View), expected: Expect) {
    let mut view = View::plain();
    change(&mut view);
    expected.assert_eq(&render(answer, &view));
}

#[test]
fn the_tree_and_both_sides() {
    check(
        &answer(),
        |_| {},
        expect![[r#"
        vote-bot → web GET /api/vote?choice=:poop:  14:02:31.118

          voting answered UNKNOWN to VotePoop, so web answered 500.

        CALL                                        STATUS         TOTAL      NET      SELF  0 to 4.2ms
        vote-bot → web GET /api/vote?choice=:poop:  500            4.2ms        -     3.3ms  ████████████████████████
        └ web → voting VotePoop ?                   UNKNOWN        0.9ms    0.2ms     0.7ms                   ████░

        1. vote-bot → web GET /api/vote?choice=:poop:  00064a7b3c5d1e-00000000000000aa-1f
           caller's proxy: no record
           callee's proxy: 500 app_http_5xx, origin server: the application answered a server error
              first byte after 4.1ms, end after 4.2ms; 0B sent, 2.0KiB received
              seen at web-0; http1 by its first bytes; not secured; choice=:poop:

        2. web → voting VotePoop  00064a7b3c5d9e-00000000000000aa-20
           called by 1: inferred from timing, certainty 0.83
           caller's proxy: UNKNOWN app_grpc_status, origin server: the application answered a failing gRPC status
              first byte after 0.8ms, end after 0.9ms, queued 0.0ms; 0B sent, 2.0KiB received
              endpoint 127.0.0.1:9001 over a reused connection; seen at web-0; grpc as
              declared; not secured
           callee's proxy: UNKNOWN app_grpc_status, origin server: the application answered a failing gRPC status
              first byte after 0.8ms, end after 0.9ms; 0B sent, 2.0KiB received
              endpoint 127.0.0.1:9001 over a reused connection; seen at voting-0; grpc
              as declared; not secured
    "#]],
    );
}

#[test]
fn ascii_and_narrow() {
    check(
        &answer(),
        |view| {
            view.unicode = false;
            view.width = Some(90);
        },
        expect![[r#"
            vote-bot -> web GET /api/vote?choice=:poop:  14:02:31.118

              voting answered UNKNOWN to VotePoop, so web answered 500.

            CALL                      STATUS         TOTAL      NET      SELF  0 to 4.2ms
            vote-bot -> web GET /a..  500            4.2ms        -     3.3ms  ########################
            `-web -> voting VotePo..  UNKNOWN        0.9ms    0.2ms     0.7ms                   ####.

            1. vote-bot -> web GET /api/vote?choice=:poop:  00064a7b3c5d1e-00000000000000aa-1f
               caller's proxy: no record
               callee's proxy: 500 app_http_5xx, origin server: the application answered a server error
                  first byte after 4.1ms, end after 4.2ms; 0B sent, 2.0KiB received
                  seen at web-0; http1 by its first bytes; not secured; choice=:poop:

            2. web -> voting VotePoop  00064a7b3c5d9e-00000000000000aa-20
               called by 1: inferred from timing, certainty 0.83
               caller's proxy: UNKNOWN app_grpc_status, origin server: the application answered a failing gRPC status
                  first byte after 0.8ms, end after 0.9ms, queued 0.0ms; 0B sent, 2.0KiB received
                  endpoint 127.0.0.1:9001 over a reused connection; seen at web-0; grpc as declared;
                  not secured
               callee's proxy: UNKNOWN app_grpc_status, origin server: the application answered a failing gRPC status
                  first byte after 0.8ms, end after 0.9ms; 0B sent, 2.0KiB received
                  endpoint 127.0.0.1:9001 over a reused connection; seen at voting-0; grpc as
                  declared; not secured
        "#]],
    );
}

#[test]
fn an_odd_answer_does_no_harm() {
    let mut answer = answer();
    // A parent that comes later, and times that make no sense.
    answer.hops[0].parent = Some(1);
    answer.hops[1].parent = Some(1);
    answer.hops[1].offset_ms = -5.0;
    answer.hops[1].network_ms = Some(1e9);
    answer.hops[1].outbound = None;
    answer.hops[1].inbound = None;
    answer.hops[0].inbound.as_mut().expect("a record").path = "/\u{1b}c".to_owned();
    let text = render(&answer, &View::plain());
    assert!(text.contains("no record"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(!render(&Explain::default(), &View::plain()).is_empty());
}
