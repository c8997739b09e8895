//! Every question, asked about one small story.

use whodunit_api::culprit::Culprit;
use whodunit_api::edges::Edges;
use whodunit_api::explain::Explain;
use whodunit_api::routes::Routes;
use whodunit_api::stat::{Stat, StatRow};
use whodunit_api::status::Status;
use whodunit_api::tap::Tap;
use whodunit_api::top::Top;
use whodunit_model::time::format_utc;
use whodunit_wire::v1;
use whodunit_wire::v1::recorder_client::RecorderClient;

use crate::story::{inner_id, votes};
use crate::{TestServer, get, hello, now_us, options};

const BASE: &str = "/api/whodunit/v1";

/// A server that has seen a hundred votes; returns the moment after the last.
async fn server() -> (TestServer, i64) {
    let server = TestServer::start().await;
    // Old enough for the verdict to take both sides of every call as arrived.
    let until_us = now_us() - 600_000;
    let mut proxy = server.connect("web-0", 1).await;
    proxy.send(1, votes(100, until_us)).await;
    proxy.durable(1).await;
    (server, until_us)
}

fn row<'a>(stat: &'a Stat, name: &str) -> &'a StatRow {
    let found = stat.rows.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {stat:?}"))
}

#[tokio::test]
async fn stat_counts_each_call_once_with_exact_quantiles() {
    let (server, _) = server().await;
    let stat: Stat = server.ask(&format!("{BASE}/stat?kind=workload")).await;
    let web = row(&stat, "web");
    assert_eq!((web.requests, web.failed), (100, 20));
    assert!((web.success.unwrap() - 0.8).abs() < 1e-9);
    assert_eq!(web.latency_ms_p99, Some(8.6));
    assert!((web.rps - 100.0 / 60.0).abs() < 1e-9, "{web:?}");
    assert!(web.exact);
    let voting = row(&stat, "voting");
    assert_eq!((voting.requests, voting.failed), (100, 20));
    let bot = row(&stat, "bot");
    assert_eq!(
        (bot.requests, bot.success, bot.latency_ms_p50),
        (0, None, None)
    );

    assert_eq!(stat.trust.records, 400);
    assert_eq!(stat.trust.damaged, 0);
    assert!(stat.trust.exact && stat.trust.complete);
    assert!(
        stat.trust.newest_age_ms.unwrap() < 60_000,
        "{:?}",
        stat.trust
    );

    for (question, names) in [
        ("kind=instance", vec!["bot-0", "voting-0", "web-0"]),
        ("kind=service", vec!["voting", "web"]),
        ("kind=namespace", vec!["n"]),
        ("kind=workload&name=web", vec!["web"]),
        ("kind=workload&namespace=other", vec![]),
        (
            "kind=route&name=v1.Voting/VotePoop",
            vec!["v1.Voting/VotePoop"],
        ),
        ("kind=workload&since=2h&until=1h", vec![]),
    ] {
        let stat: Stat = server.ask(&format!("{BASE}/stat?{question}")).await;
        let found: Vec<&str> = stat.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(found, names, "{question}");
    }
    let from: Stat = server
        .ask(&format!("{BASE}/stat?kind=workload&from=web"))
        .await;
    assert_eq!(row(&from, "voting").requests, 100);
    assert!(
        from.rows
            .iter()
            .all(|row| row.name == "voting" || row.requests == 0),
        "{from:?}"
    );
}

#[tokio::test]
async fn stat_knows_the_mesh_as_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let topology = dir.path().join("topology.json");
    let endpoint = |name: &str, meshed: bool| {
        format!(
            r#"{{"address":"127.0.0.1:1{}","instance":"{name}","meshed":{meshed},"ready":true}}"#,
            name.len()
        )
    };
    let services = format!(
        r#"{{"services":[{{"namespace":"n","name":"web-svc","workload":"web","endpoints":[{},{}]}},
           {{"namespace":"n","name":"idle","workload":"idle","endpoints":[{}]}}]}}"#,
        endpoint("web-0", true),
        endpoint("web-10", false),
        endpoint("idle-0", true)
    );
    std::fs::write(&topology, services).unwrap();
    let options = whodunit_observe::Options {
        topology: Some(topology),
        ..options(&dir.path().join("data"))
    };
    let running = whodunit_observe::Server::start(options).await.unwrap();
    let mut client = RecorderClient::connect(format!("http://{}", running.grpc()))
        .await
        .unwrap();
    let report = |instance: &str| v1::ReportRequest {
        from: Some(hello(instance, 1)),
        open_connections: 4,
        ..v1::ReportRequest::default()
    };
    client.report(report("web-0")).await.unwrap();
    client.report(report("bot-0")).await.unwrap();

    let ask = async |question: &str| -> Vec<(String, String, Option<u64>)> {
        let response = get(running.http(), &format!("{BASE}/stat?{question}")).await;
        let stat: Stat = serde_json::from_str(&response.body).unwrap();
        let short = |row: StatRow| (row.name, row.meshed, row.tcp_open_connections);
        stat.rows.into_iter().map(short).collect()
    };
    let known = |name: &str, meshed: &str, open| (name.to_owned(), meshed.to_owned(), open);
    // The file is read a moment after the start.
    let end = tokio::time::Instant::now() + crate::DEADLINE;
    while ask("kind=workload").await.len() < 3 && tokio::time::Instant::now() < end {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let expected = [
        known("bot", "1/1", Some(4)),
        known("idle", "1/1", None),
        known("web", "1/2", Some(4)),
    ];
    assert_eq!(ask("kind=workload").await, expected);
    let expected = [known("idle", "1/1", None), known("web-svc", "1/2", Some(4))];
    assert_eq!(ask("kind=service").await, expected);
    assert_eq!(ask("kind=namespace").await, [known("n", "3/4", Some(8))]);
    assert_eq!(
        ask("kind=instance&name=web-10").await,
        [known("web-10", "0/1", None)]
    );
    // The past is told by records alone.
    assert_eq!(ask("kind=workload&since=2h&until=1h").await, []);
    running.shutdown().await;
}

#[tokio::test]
async fn routes_edges_and_top_group_the_calls() {
    let (server, _) = server().await;
    let routes: Routes = server.ask(&format!("{BASE}/routes?name=voting")).await;
    let first = &routes.rows[0];
    assert_eq!(first.route, "v1.Voting/VotePoop", "most failures first");
    assert_eq!((first.requests, first.failed), (20, 20));
    assert_eq!(
        (first.cause.as_str(), first.service.as_str()),
        ("app_grpc_status", "voting")
    );
    assert_eq!(routes.rows.len(), 2);
    let from: Routes = server.ask(&format!("{BASE}/routes?from=bot")).await;
    assert_eq!(from.rows.len(), 1);

    let edges: Edges = server.ask(&format!("{BASE}/edges")).await;
    let found: Vec<_> = edges
        .rows
        .iter()
        .map(|e| (e.src.as_str(), e.dst.as_str()))
        .collect();
    assert_eq!(found, [("bot", "web"), ("web", "voting")]);
    assert_eq!(edges.rows[1].requests, 100);
    assert_eq!(edges.rows[1].network_ms_p50, Some(0.4));
    assert!(!edges.rows[1].secured);
    let one: Edges = server.ask(&format!("{BASE}/edges?name=bot")).await;
    assert_eq!(one.rows.len(), 1);

    let top: Top = server
        .ask(&format!("{BASE}/top?name=voting&routes=true"))
        .await;
    assert_eq!(
        (top.rows[0].count, top.rows[0].path.as_str()),
        (80, "v1.Voting/VoteJoy")
    );
    let top: Top = server.ask(&format!("{BASE}/top?name=bot")).await;
    assert_eq!(
        (top.rows[0].count, top.rows[0].path.as_str()),
        (100, "/api/vote")
    );
    assert!((top.rows[0].success - 0.8).abs() < 1e-9);
}

#[tokio::test]
async fn tap_filters_the_past() {
    let (server, until_us) = server().await;
    let ask = async |question: &str| -> Tap {
        server
            .ask(&format!("{BASE}/tap?{}", question.replace('"', "%22")))
            .await
    };
    let all = ask("").await;
    assert_eq!((all.matched, all.records.len()), (400, 100));
    assert!(all.records.is_sorted_by_key(|record| record.at_us));
    let failed = r#"filter={"is":{"field":"outcome","op":"eq","value":"failure"}}"#;
    assert_eq!(ask(failed).await.matched, 80);

    let inbound = r#"filter={"and":[
        {"is":{"field":"to","op":"eq","value":"voting"}},
        {"is":{"field":"side","op":"eq","value":"inbound"}},
        {"not":{"is":{"field":"outcome","op":"eq","value":"success"}}}]}"#;
    let inbound = inbound.replace(['\n', ' '], "");
    let tap = ask(&format!("{inbound}&limit=3")).await;
    assert_eq!((tap.matched, tap.records.len()), (20, 3));
    let record = &tap.records[2];
    assert_eq!(
        record.id,
        inner_id(until_us - 100_000, 99).to_string(),
        "the newest is last"
    );
    assert_eq!(
        (record.grpc_status, record.grpc_status_name.as_str()),
        (Some(2), "UNKNOWN")
    );
    assert_eq!(
        (record.from.workload.as_str(), record.to.instance.as_str()),
        ("web", "voting-0")
    );
    assert_eq!(
        (record.cause.as_str(), record.origin.as_str()),
        ("app_grpc_status", "server")
    );
    let oldest = ask(&format!("{inbound}&limit=3&oldest_first=true")).await;
    assert_eq!(
        oldest.records[0].id,
        inner_id(until_us - 9_600_000, 4).to_string()
    );

    let poop = r#"filter={"is":{"field":{"attribute":"choice"},"op":"eq","value":":poop:"}}"#;
    assert_eq!(ask(poop).await.matched, 40);
    let since = format!(
        "since={}&until={}",
        format_utc(until_us - 1_000_000),
        format_utc(until_us)
    );
    assert!(ask(&since).await.matched < 60);
}

#[tokio::test]
async fn the_culprit_is_named() {
    let (server, _) = server().await;
    let verdict: Culprit = server.ask(&format!("{BASE}/culprit")).await;
    assert_eq!(verdict.verdict, "culprit", "{verdict:?}");
    let culprit = verdict.culprit.as_ref().unwrap();
    assert_eq!(
        (culprit.workload.as_str(), culprit.route.as_str()),
        ("voting", "v1.Voting/VotePoop")
    );
    assert_eq!((culprit.failed, culprit.requests), (20, 20));
    assert_eq!(
        (culprit.origin.as_str(), culprit.cause.as_str()),
        ("server", "app_grpc_status")
    );
    assert_eq!(verdict.symptom.as_ref().unwrap().service, "web");
    assert!(verdict.symptom.as_ref().unwrap().since_recording_began);
    assert_eq!(
        verdict
            .victims
            .iter()
            .filter(|victim| victim.workload == "web")
            .count(),
        1
    );
    let choice = verdict
        .attributes
        .iter()
        .flat_map(|set| &set.terms)
        .any(|term| (term.name.as_str(), term.value.as_str()) == ("choice", ":poop:"));
    assert!(choice, "{:?}", verdict.attributes);
    assert_eq!(verdict.examples.len(), 3);
    let page = get(server.http(), "/").await.body;
    assert!(page.contains("VotePoop"), "{page}");

    let other: Culprit = server.ask(&format!("{BASE}/culprit?namespace=other")).await;
    assert_eq!(other.verdict, "nothing");
    let past: Culprit = server
        .ask(&format!("{BASE}/culprit?since=2h&until=1h"))
        .await;
    assert_eq!(
        (past.verdict.as_str(), past.checked.requests),
        ("nothing", 0)
    );
}

#[tokio::test]
async fn one_request_is_explained_from_both_sides() {
    let (server, until_us) = server().await;
    let id = inner_id(until_us - 100_000, 99);
    let explain: Explain = server.ask(&format!("{BASE}/explain?id={id}")).await;
    assert_eq!(explain.hops.len(), 2, "{explain:?}");
    let (root, hop) = (&explain.hops[0], &explain.hops[1]);
    assert_eq!((root.parent, root.linked_by.as_str()), (None, ""));
    assert_eq!((hop.id.clone(), hop.parent), (id.to_string(), Some(0)));
    assert_eq!(hop.linked_by, "timing");
    assert_eq!(hop.outbound.as_ref().unwrap().side, "outbound");
    assert_eq!(hop.inbound.as_ref().unwrap().to.workload, "voting");
    assert!(
        (hop.duration_ms - 4.0).abs() < 1e-9 && hop.network_ms == Some(0.4),
        "{hop:?}"
    );
    assert!((hop.offset_ms - 1.0).abs() < 1e-9);
    assert!(explain.says.contains("voting"), "{}", explain.says);

    let gone = "00000000000001-00000000000000b0-1";
    let error = server
        .refuses(&format!("{BASE}/explain?id={gone}"), 404)
        .await;
    assert!(error.contains(gone) && error.contains("kept"), "{error}");
}

#[tokio::test]
async fn status_says_what_is_held() {
    let (server, until_us) = server().await;
    let status: Status = server.ask(&format!("{BASE}/status")).await;
    assert_eq!((status.records, status.pid), (400, std::process::id()));
    assert_eq!(status.grpc, server.running().grpc().to_string());
    assert!(status.disk_bytes > 0 && status.complete && status.damaged == 0);
    assert!(status.newest.unwrap() <= format_utc(until_us));
    assert_eq!(status.data_dir, server.dir.path().display().to_string());
}
