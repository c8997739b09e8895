//! The HTTP surface: who may ask, and what is said to those who ask wrongly.

use whodunit_api::check::Check;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{DEADLINE, TestServer, get, send};

const BASE: &str = "/api/whodunit/v1";

#[tokio::test]
async fn only_loopback_hosts_and_origins_are_answered() {
    let server = TestServer::start().await;
    let ask = async |path: &str, headers: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        send(server.http(), &request).await
    };
    for path in [
        "/",
        "/live",
        "/metrics",
        "/nowhere",
        &format!("{BASE}/status"),
    ] {
        for headers in [
            "Host: evil.example\r\n",
            "Host: 127.0.0.1.evil.example\r\n",
            "Host: localhost\r\nOrigin: https://evil.example\r\n",
            "Host: localhost\r\nOrigin: null\r\n",
            "Host: localhost\r\nHost: evil.example\r\n",
            "",
        ] {
            let response = ask(path, headers).await;
            assert_eq!(response.status, 403, "{path} {headers}");
            assert!(
                response.body.contains("forbidden_host"),
                "{}",
                response.body
            );
        }
    }
    for headers in [
        "Host: localhost:1\r\n",
        "Host: [::1]:7070\r\nOrigin: http://localhost:3000\r\n",
        "Host: 127.0.0.1\r\n",
    ] {
        assert_eq!(ask("/live", headers).await.status, 200, "{headers}");
    }
    let metrics = get(server.http(), "/metrics").await.body;
    assert!(
        metrics.contains("whodunit_http_forbidden_total 30\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn everything_is_read_by_get_and_unknown_paths_are_named() {
    let server = TestServer::start().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"] {
        let request = format!(
            "{method} {BASE}/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\
             Connection: close\r\n\r\n{{}}"
        );
        let response = send(server.http(), &request).await;
        assert_eq!(response.status, 405, "{method}");
        assert!(response.head.contains("allow: get"), "{}", response.head);
    }
    let error = server.refuses("/api/whodunit/v2/stat", 404).await;
    assert!(
        error.contains("not_found") && error.contains(BASE),
        "{error}"
    );
    let error = server.refuses(&format!("{BASE}/stats?x=1"), 404).await;
    assert!(error.contains("/api/whodunit/v1/stats"), "{error}");
    let error = server
        .refuses(&format!("/{}", "x".repeat(40_000)), 414)
        .await;
    assert!(error.contains("too_large"), "{error}");
}

#[tokio::test]
async fn a_body_is_ignored() {
    let server = TestServer::start().await;
    let request = format!(
        "GET {BASE}/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\
         Connection: close\r\n\r\njunk"
    );
    assert_eq!(send(server.http(), &request).await.status, 200);
}

#[tokio::test]
async fn answers_are_hardened() {
    let server = TestServer::start().await;
    for path in [
        "/",
        "/live",
        "/ready",
        "/metrics",
        "/nowhere",
        &format!("{BASE}/check"),
    ] {
        let head = get(server.http(), path).await.head;
        assert!(
            head.contains("x-content-type-options: nosniff"),
            "{path}: {head}"
        );
        assert!(head.contains("cache-control: no-store"), "{path}: {head}");
        assert!(head.contains("x-frame-options: deny"), "{path}: {head}");
    }
    let page = get(server.http(), "/").await;
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none'"),
        "{}",
        page.head
    );
    assert!(!page.body.contains("<script"), "{}", page.body);
    assert!(page.body.contains("whodunit tap --failed"), "{}", page.body);
}

#[tokio::test]
async fn junk_in_a_query_is_named() {
    let server = TestServer::start().await;
    let check = async |question: &str, says: &[&str]| {
        let error = server.refuses(&format!("{BASE}/{question}"), 400).await;
        for word in says {
            assert!(error.contains(word), "{question}: {error} lacks {word}");
        }
    };
    for path in [
        "stat?kind=workload&",
        "routes?",
        "edges?",
        "top?",
        "tap?",
        "culprit?",
    ] {
        check(
            &format!("{path}shade=red"),
            &["`shade`", "accepted: ", "since"],
        )
        .await;
        check(
            &format!("{path}since=yesterday"),
            &["`since`", "`yesterday`", "15m"],
        )
        .await;
        check(&format!("{path}until=%00%ff"), &["`until`"]).await;
        check(&format!("{path}since=1m&until=2m"), &["`since`", "empty"]).await;
        check(
            &format!("{path}since=1m&since=2m"),
            &["`since` comes twice"],
        )
        .await;
    }
    for path in ["status?", "check?"] {
        check(&format!("{path}x=1"), &["`x`", "no query parameters"]).await;
    }
    check("stat", &["`kind`", "workload"]).await;
    check("stat?kind=planet", &["`kind`", "`planet`", "workload"]).await;
    check(
        "top?routes=maybe",
        &["`routes`", "`maybe`", "true or false"],
    )
    .await;
    check("tap?limit=many", &["`limit`", "`many`"]).await;
    check("tap?limit=0", &["`limit`", "between 1 and 10000"]).await;
    check("tap?limit=10001", &["`limit`", "between 1 and 10000"]).await;
    check("tap?follow=1", &["`follow`", "`1`"]).await;
    check("tap?follow=true&until=now", &["`until`", "no end"]).await;
    check("tap?filter=outcome", &["`filter`", "line 1"]).await;
    check(
        "tap?filter=%7B%22is%22%3A%7B%22field%22%3A%22shade%22%7D%7D",
        &["`shade`"],
    )
    .await;
    let deep = format!("{}\"all\"{}", "{\"not\":".repeat(60), "}".repeat(60));
    let deep = deep
        .replace('{', "%7B")
        .replace('}', "%7D")
        .replace('"', "%22");
    check(&format!("tap?filter={deep}"), &["`filter`", "too large"]).await;
    check("explain", &["`id`"]).await;
    check("explain?id=42", &["`id`", "START-BOOT-N"]).await;
}

#[tokio::test]
async fn a_server_without_records_answers_every_question() {
    let server = TestServer::start().await;
    for question in [
        "status",
        "stat?kind=workload",
        "stat?kind=instance",
        "stat?kind=service",
        "stat?kind=namespace",
        "stat?kind=route",
        "routes",
        "edges",
        "top",
        "tap",
        "culprit",
    ] {
        let _: serde_json::Value = server.ask(&format!("{BASE}/{question}")).await;
    }
    let check: Check = server.ask(&format!("{BASE}/check")).await;
    let discovery = check
        .categories
        .iter()
        .find(|c| c.name == "discovery")
        .unwrap();
    assert!(
        discovery.checks[0].hint.contains("--topology"),
        "{discovery:?}"
    );
    for path in ["/live", "/ready"] {
        assert_eq!(get(server.http(), path).await.status, 200);
    }
}

#[tokio::test]
async fn clients_that_never_finish_a_request_do_not_keep_others_out() {
    let server = TestServer::start().await;
    let follow = format!("GET {BASE}/tap?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut follower = TcpStream::connect(server.http()).await.unwrap();
    follower.write_all(follow.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    follower.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");

    let mut slow = Vec::new();
    for _ in 0..700 {
        let mut stream = TcpStream::connect(server.http()).await.unwrap();
        // The oldest are cut meanwhile.
        let _ = stream.write_all(b"GET /live HTTP/1.1\r\nHo").await;
        slow.push(stream);
    }
    assert_eq!(get(server.http(), "/live").await.status, 200);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, slow[0].read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the oldest made room");

    let alive = async {
        let mut bytes = [0; 1024];
        let mut text = String::new();
        while !text.contains("alive") {
            let count = follower.read(&mut bytes).await.unwrap();
            assert_ne!(count, 0, "who is being answered stays");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    tokio::time::timeout(DEADLINE, alive).await.expect("alive");
}
