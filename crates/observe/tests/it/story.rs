//! A small mesh to ask about: a bot votes at web, web asks voting, poop fails.

use whodunit_model::record::Party;
use whodunit_model::{
    BootId, Cause, Origin, Outcome, Protocol, RequestId, RequestRecord, Side, Twin,
};

/// Boot of the proxy that issued the ids.
pub(crate) const BOOT: u64 = 0xb0;

fn party(workload: &str) -> Party {
    Party {
        namespace: "n".into(),
        workload: workload.into(),
        instance: format!("{workload}-0").into(),
        version: "v1".into(),
    }
}

/// Four records of one vote, made at `at_us`: both sides of bot → web and of web → voting.
pub(crate) fn vote(at_us: i64, n: u32, poop: bool) -> Vec<RequestRecord> {
    let outer = call("bot", "web", at_us, 2 * n, 9_000, poop);
    let inner = call("web", "voting", at_us + 1_000, 2 * n + 1, 4_000, poop);
    [outer, inner].concat()
}

/// Returns the id of the call from web to voting of the `n`th vote.
pub(crate) fn inner_id(at_us: i64, n: u32) -> RequestId {
    RequestId {
        start_us: at_us + 1_000,
        boot: BootId(BOOT),
        n: 2 * n + 1,
    }
}

fn call(
    from: &str,
    to: &str,
    start_us: i64,
    n: u32,
    duration_us: i64,
    poop: bool,
) -> Vec<RequestRecord> {
    let id = RequestId {
        start_us,
        boot: BootId(BOOT),
        n,
    };
    let choice = if poop { ":poop:" } else { ":joy:" };
    [(Side::Outbound, 0), (Side::Inbound, 200)]
        .into_iter()
        .map(|(side, inside_us)| {
            let mut record = RequestRecord::new(id, side, start_us + inside_us);
            record.duration_us = duration_us - 2 * inside_us;
            record.latency_us = record.duration_us;
            record.at_us = record.start_at_us + record.duration_us;
            record.src = party(from);
            record.dst = party(to);
            record.service = to.into();
            record.twin = Twin::Yes;
            record.outcome = Outcome::Success;
            record.status = 200;
            if to == "web" {
                record.method = "GET".into();
                record.route = "GET /api/vote".into();
                record.path = format!("/api/vote?choice={choice}").into();
                record.attributes = format!("choice={choice}").into();
            } else {
                let method = if poop { "VotePoop" } else { "VoteJoy" };
                record.protocol = Protocol::Grpc;
                record.method = "POST".into();
                record.route = format!("v1.Voting/{method}").into();
                record.path = format!("/v1.Voting/{method}").into();
                record.grpc_status = Some(0);
            }
            if poop {
                record.outcome = Outcome::Failure;
                record.origin = Origin::Server;
                record.cause = Cause::AppHttp5xx;
                record.status = 500;
                if to == "voting" {
                    record.status = 200;
                    record.grpc_status = Some(2);
                    record.cause = Cause::AppGrpcStatus;
                }
            }
            record
        })
        .collect()
}

/// Many votes, one each 100 ms, the last one just before `until_us`; every fifth is poop.
pub(crate) fn votes(count: u32, until_us: i64) -> Vec<RequestRecord> {
    (0..count)
        .flat_map(|n| vote(until_us - i64::from(count - n) * 100_000, n, n % 5 == 4))
        .collect()
}
