//! What travels between the services: methods, messages, metrics, health.

use emojivoto::catalog::{self, Era};
use emojivoto::health_v1::{HealthCheckRequest, HealthCheckResponse};
use emojivoto::{rpc, v1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::app::{self, get, vote_at};

/// Method names of a service, read from the committed protocol file.
fn methods(service: &str) -> Vec<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = protox::compile(["emojivoto.proto"], [directory]).unwrap();
    let services = files.file.iter().flat_map(|file| &file.service);
    let service = services
        .clone()
        .find(|candidate| candidate.name() == service)
        .unwrap();
    service
        .method
        .iter()
        .map(|method| method.name().to_owned())
        .collect()
}

#[test]
fn the_protocol_has_a_method_for_each_emoji_by_the_naming_rule() {
    let mut expected: Vec<String> = catalog::votes()
        .iter()
        .map(|(method, _)| method.clone())
        .collect();
    expected.push("Results".to_owned());
    assert_eq!(methods("VotingService"), expected);
    assert_eq!(methods("EmojiService"), ["ListAll", "FindByShortcode"]);
}

#[tokio::test]
async fn all_hundred_votes_exist_and_no_other() {
    let voting = app::start_voting(app::any_port(), "none", 0).await;
    for method in methods("VotingService")
        .iter()
        .filter(|method| *method != "Results")
    {
        vote_at(voting.addr, method).await.unwrap();
    }
    for method in [
        "VoteNobody",
        "votepoop",
        "Vote",
        "",
        "VoteJoy/",
        "a/VoteJoy",
    ] {
        let status = vote_at(voting.addr, method).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{method}");
    }
    let channel = rpc::channel(&voting.addr.to_string()).unwrap();
    let path = "/emojivoto.v1.NoService/VotePoop".to_owned();
    let answer: Result<v1::VoteResponse, _> = rpc::call(&channel, path, v1::VoteRequest {}).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_failing_vote_says_error_and_nothing_else() {
    let voting = app::start_voting(app::any_port(), "poop", 0).await;
    let status = vote_at(voting.addr, "VotePoop").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "ERROR"));
    vote_at(voting.addr, "VoteDoughnut").await.unwrap();
}

#[tokio::test]
async fn an_unknown_emoji_is_an_empty_answer() {
    let emoji = app::start_emoji(app::any_port(), Era::Y2019).await;
    let channel = rpc::channel(&emoji.addr.to_string()).unwrap();
    for (shortcode, expected) in [(":poop:", Some("\u{1F4A9}")), (":relaxed:", None)] {
        let path = "/emojivoto.v1.EmojiService/FindByShortcode".to_owned();
        let question = v1::FindByShortcodeRequest {
            shortcode: shortcode.to_owned(),
        };
        let answer: v1::FindByShortcodeResponse =
            rpc::call(&channel, path, question).await.unwrap();
        assert_eq!(answer.emoji.map(|emoji| emoji.unicode).as_deref(), expected);
    }
}

#[tokio::test]
async fn metrics_count_calls_and_votes() {
    let voting = app::start_voting(app::any_port(), "poop", 0).await;
    vote_at(voting.addr, "VoteJoy").await.unwrap();
    vote_at(voting.addr, "VotePoop").await.unwrap_err();
    let metrics = get(voting.prom.unwrap(), "/metrics").await;
    assert!(
        metrics.head.contains("text/plain; version=0.0.4"),
        "{}",
        metrics.head
    );
    let labels = r#"grpc_service="emojivoto.v1.VotingService",grpc_type="unary"}"#;
    for expected in [
        "emojivoto_votes_total{emoji=\":joy:\"} 1".to_owned(),
        format!(r#"grpc_server_handled_total{{grpc_code="OK",grpc_method="VoteJoy",{labels} 1"#),
        format!(
            r#"grpc_server_handled_total{{grpc_code="Unknown",grpc_method="VotePoop",{labels} 1"#
        ),
        format!(r#"grpc_server_handling_seconds_count{{grpc_method="VotePoop",{labels} 1"#),
        // Known before the first call.
        format!(r#"grpc_server_started_total{{grpc_method="VoteRelaxed",{labels} 0"#),
    ] {
        assert!(
            metrics.body.lines().any(|line| line == expected),
            "{expected}"
        );
    }
    assert!(
        !metrics
            .body
            .contains("emojivoto_votes_total{emoji=\":poop:\"}")
    );
}

#[tokio::test]
async fn health_is_green_while_votes_fail() {
    let app = app::start(Era::Y2018, "env-only").await;
    assert_eq!(app::vote(&app, ":joy:").await, 500);
    let doors = [
        app.web.addr,
        app.emoji.prom.unwrap(),
        app.voting.prom.unwrap(),
    ];
    for door in doors {
        for path in ["/healthz", "/readyz"] {
            let answer = get(door, path).await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (200, "ok\n"),
                "{door}{path}"
            );
        }
    }
    for (addr, service) in [
        (app.emoji.addr, "emojivoto.v1.EmojiService"),
        (app.voting.addr, "emojivoto.v1.VotingService"),
        (app.voting.addr, ""),
    ] {
        assert_eq!(health(addr, service).await, Ok(1), "{service}");
    }
    assert_eq!(health(app.voting.addr, "nobody").await, Err(Code::NotFound));
}

async fn health(addr: std::net::SocketAddr, service: &str) -> Result<i32, Code> {
    let channel = rpc::channel(&addr.to_string()).unwrap();
    let question = HealthCheckRequest {
        service: service.to_owned(),
    };
    let path = "/grpc.health.v1.Health/Check".to_owned();
    let answer: Result<HealthCheckResponse, _> = rpc::call(&channel, path, question).await;
    answer
        .map(|answer| answer.status)
        .map_err(|status| status.code())
}

#[tokio::test]
async fn readiness_is_what_the_listener_says() {
    // A side door whose gRPC server is not there.
    let gone = app::start_emoji(app::any_port(), Era::Y2018).await;
    let addr = gone.addr;
    gone.stop().await;
    let reason = rpc::SelfCheck::new(addr).unwrap().run().await.unwrap_err();
    assert!(reason.contains("health check failed"), "{reason}");
}

#[tokio::test]
async fn junk_on_a_port_harms_nobody() {
    let app = app::start(Era::Y2018, "none").await;
    let mut random = emojivoto::random::Random::new(5);
    let junk: Vec<u8> = (0..4096).map(|_| random.bits().to_le_bytes()[0]).collect();
    for addr in [
        app.web.addr,
        app.emoji.addr,
        app.voting.addr,
        app.voting.prom.unwrap(),
    ] {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        // The server may hang up before it has read everything.
        let _refused_early = socket.write_all(&junk).await;
        let _refused_early = socket.shutdown().await;
        let mut answer = Vec::new();
        let _reset = socket.read_to_end(&mut answer).await;
    }
    assert_eq!(app::vote(&app, ":joy:").await, 200);
    assert_eq!(get(app.voting.prom.unwrap(), "/readyz").await.status, 200);
}
