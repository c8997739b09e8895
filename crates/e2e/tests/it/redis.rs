//! A dependency that speaks no HTTP: an application that counts in Redis.

use std::time::Duration;

use whodunit_e2e::mesh::kill_now;
use whodunit_e2e::{http, until};

use crate::support::{alone, can_isolate, example, installed, verdict_when};

/// Connections asked for after the end of Redis: one by each visit but the first,
/// which finds the kept one broken.
const REFUSED: u64 = 19;

#[test]
fn redis_is_named_when_it_is_gone() {
    if installed(&["python3", "redis-server"]) {
        is_named_when_it_is_gone(&[]);
    }
}

#[test]
fn redis_in_a_network_of_its_own_is_named_the_same() {
    if installed(&["python3", "redis-server"]) && can_isolate() {
        is_named_when_it_is_gone(&["--isolate"]);
    }
}

fn is_named_when_it_is_gone(extra: &[&str]) {
    let _alone = alone();
    let mesh = example("redis", extra);
    let app = mesh.address("app");
    for visit in 1..=20 {
        let answer = http::get(app, "/visit").unwrap();
        assert_eq!(
            (answer.status, answer.body),
            (200, format!("visit {visit}\n"))
        );
        assert_eq!(http::get(app, "/about").unwrap().status, 200);
    }

    let redis = mesh.pids("redis-server");
    assert_eq!(redis.len(), 1, "{}", mesh.printed());
    kill_now(redis[0]);
    until("the end of Redis", Duration::from_secs(30), || {
        mesh.pids("redis-server").is_empty().then_some(())
    });
    for _ in 0..=REFUSED {
        assert_eq!(http::get(app, "/visit").unwrap().status, 500);
        assert_eq!(http::get(app, "/about").unwrap().status, 200);
    }

    let verdict = verdict_when(&mesh, "all refused connections", |verdict| {
        verdict["verdict"] == "culprit" && verdict["culprit"]["failed"].as_u64() >= Some(REFUSED)
    });
    assert_eq!(verdict["culprit"]["workload"], "redis", "{verdict:#}");
    assert_eq!(verdict["culprit"]["origin"], "server", "{verdict:#}");
    assert_eq!(
        verdict["culprit"]["cause"], "connect_refused",
        "{verdict:#}"
    );
    assert_eq!(verdict["symptom"]["service"], "counter", "{verdict:#}");
    assert_eq!(verdict["symptom"]["route"], "GET /visit", "{verdict:#}");
    assert_eq!(verdict["victims"][0]["workload"], "counter", "{verdict:#}");

    // The connection is known from both sides, and on whose behalf it was asked for.
    let examples = verdict["examples"].as_array().unwrap();
    let id = examples.last().unwrap().as_str().unwrap();
    let tree = mesh.json(&["explain", id]);
    let hops = tree["hops"].as_array().unwrap();
    let refused = hops.iter().find(|hop| hop["id"] == id).unwrap();
    for side in ["inbound", "outbound"] {
        assert_eq!(refused[side]["kind"], "connection", "{tree:#}");
        assert_eq!(refused[side]["cause"], "connect_refused", "{tree:#}");
        assert_eq!(refused[side]["from"]["workload"], "counter", "{tree:#}");
    }
    let parent = usize::try_from(refused["parent"].as_u64().unwrap()).unwrap();
    assert_eq!(hops[parent]["inbound"]["route"], "GET /visit", "{tree:#}");

    // It was not to be started again.
    let redis = mesh.pids("redis-server");
    assert!(redis.is_empty(), "started again: {redis:?}");
    mesh.stop();
}
