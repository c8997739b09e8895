//! Switching faults in a running service, and who may.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use emojivoto::catalog::Era;
use emojivoto::faults::{SLOW_VOTE_DELAY, State};
use tonic::Code;

use crate::app::{self, Answer, exchange, get, vote_at};

async fn set(door: SocketAddr, fault: &str, host: &str) -> Answer {
    let request = format!(
        "PUT /faults/{fault} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Length: 0\r\n\r\n"
    );
    exchange(door, &request).await
}

#[tokio::test]
async fn a_fault_is_switched_at_run_time() {
    let app = app::start(Era::Y2018, "none").await;
    let door = app.voting.prom.unwrap();
    assert_eq!(app::vote(&app, ":poop:").await, 200);
    for (fault, poop, joy) in [
        ("poop", 500, 200),
        ("env-only", 500, 500),
        ("doughnut", 200, 200),
        ("none", 200, 200),
    ] {
        let answer = set(door, fault, "localhost:1").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let state: State = serde_json::from_str(&get(door, "/faults").await.body).unwrap();
        assert_eq!(state.active, fault);
        assert_eq!(app::vote(&app, ":poop:").await, poop, "{fault}");
        assert_eq!(app::vote(&app, ":joy:").await, joy, "{fault}");
    }
}

#[tokio::test]
async fn a_slow_vote_is_slow_and_counts() {
    let app = app::start(Era::Y2018, "slow-voting").await;
    let start = Instant::now();
    assert_eq!(app::vote(&app, ":joy:").await, 200);
    assert!(start.elapsed() >= SLOW_VOTE_DELAY, "{:?}", start.elapsed());
    let start = Instant::now();
    let board = get(app.web.addr, "/api/leaderboard").await.body;
    assert!(board.contains("\"votes\":\"1\""), "{board}");
    assert!(start.elapsed() < SLOW_VOTE_DELAY, "{:?}", start.elapsed());
}

#[tokio::test]
async fn only_one_instance_fails_when_the_environment_is_broken() {
    let broken = app::start_voting(app::any_port(), "env-only", 0).await;
    let sound = app::start_voting(app::any_port(), "env-only", 1).await;
    assert_eq!(
        vote_at(broken.addr, "VoteJoy").await.unwrap_err().code(),
        Code::Unknown
    );
    vote_at(sound.addr, "VoteJoy").await.unwrap();
}

#[tokio::test]
async fn a_flaky_service_fails_about_one_vote_in_a_hundred() {
    let voting = app::start_voting(app::any_port(), "flaky", 0).await;
    let channel = emojivoto::rpc::channel(&voting.addr.to_string()).unwrap();
    let mut failed = 0;
    for _ in 0..1000 {
        let path = "/emojivoto.v1.VotingService/VoteJoy".to_owned();
        let vote = emojivoto::v1::VoteRequest {};
        let answer: Result<emojivoto::v1::VoteResponse, _> =
            emojivoto::rpc::call(&channel, path, vote).await;
        failed += u32::from(answer.is_err());
    }
    // Seeded, so the same each time; the bounds are three standard deviations.
    assert!((1..=20).contains(&failed), "{failed}");
}

#[tokio::test]
async fn wrong_names_and_wrong_hosts_change_nothing() {
    let app = app::start(Era::Y2018, "none").await;
    let door = app.voting.prom.unwrap();
    let answer = set(door, "pooop", "127.0.0.1").await;
    assert_eq!(answer.status, 404);
    assert!(
        answer.body.contains("unknown fault `pooop`"),
        "{}",
        answer.body
    );
    let answer = set(door, "poop", "evil.example").await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("Host header"), "{}", answer.body);
    let state: State = serde_json::from_str(&get(door, "/faults").await.body).unwrap();
    assert_eq!(state.active, "none");
    // The emoji service has no faults to switch.
    assert_eq!(get(app.emoji.prom.unwrap(), "/faults").await.status, 404);
}

#[tokio::test]
async fn stopping_does_not_wait_for_votes_in_flight() {
    let app = app::start(Era::Y2018, "slow-voting").await;
    let web = app.web.addr;
    let slow = tokio::spawn(async move { get(web, "/api/vote?choice=:joy:").await });
    let door = app.voting.prom.unwrap();
    app::eventually("the vote is in flight", || async move {
        let metrics = get(door, "/metrics").await.body;
        metrics.contains("grpc_server_started_total{grpc_method=\"VoteJoy\",grpc_service=\"emojivoto.v1.VotingService\",grpc_type=\"unary\"} 1")
    })
    .await;
    let start = Instant::now();
    app.web.stop().await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(slow.await.unwrap().status, 200);
}
