//! Records and reports from proxies: what is taken, refused and acknowledged.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use whodunit_api::check::Check;
use whodunit_api::status::Status;
use whodunit_api::tap::Tap;
use whodunit_wire::tonic::Code;
use whodunit_wire::v1;
use whodunit_wire::v1::record_request::Message;
use whodunit_wire::v1::recorder_client::RecorderClient;

use crate::story::{vote, votes};
use crate::{Proxy, TestServer, batch, get, hello, now_us, open};

#[tokio::test]
async fn batches_are_answered_when_durable_and_counted_once() {
    let server = TestServer::start().await;
    let mut proxy = server.connect("web-0", 1).await;
    assert_eq!((proxy.told.written, proxy.told.durable), (0, 0));
    assert!((proxy.told.now_us - now_us()).abs() < 10_000_000);
    proxy.send(1, votes(5, now_us())).await;
    proxy.send(2, votes(5, now_us())).await;
    proxy.durable(2).await;
    drop(proxy);

    // After a reconnect the proxy learns where to go on, and what it repeats is dropped.
    let mut proxy = server.connect("web-0", 1).await;
    assert_eq!((proxy.told.written, proxy.told.durable), (2, 2));
    proxy.send(2, votes(5, now_us())).await;
    proxy.send(4, votes(1, now_us())).await;
    proxy.durable(4).await;
    let status: Status = server.ask("/api/whodunit/v1/status").await;
    assert_eq!(status.records, 44);
    let metrics = get(server.http(), "/metrics").await.body;
    assert!(
        metrics.contains("whodunit_ingest_duplicates_total 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("whodunit_store_records 44\n"), "{metrics}");

    // Another boot counts anew.
    let mut other = server.connect("web-0", 2).await;
    assert_eq!(other.told.written, 0);
    other.send(1, votes(1, now_us())).await;
    other.durable(1).await;
    let status: Status = server.ask("/api/whodunit/v1/status").await;
    assert_eq!(status.records, 48);
}

#[tokio::test]
async fn bad_and_newer_batches_are_refused_and_the_stream_goes_on() {
    let server = TestServer::start().await;
    let mut proxy = server.connect("web-0", 1).await;
    proxy.send(1, votes(1, now_us())).await;

    let mut cut = batch(2, votes(20, now_us()));
    cut.payload.truncate(cut.payload.len() / 2);
    proxy.say(Message::Batch(cut)).await;
    let junk = v1::Batch {
        payload: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ..batch(3, vec![])
    };
    proxy.say(Message::Batch(junk)).await;
    let mut newer = batch(4, votes(1, now_us()));
    newer.payload[4] = 200;
    proxy.say(Message::Batch(newer)).await;
    proxy.send(5, votes(2, now_us())).await;
    proxy.durable(5).await;

    let tap: Tap = server.ask("/api/whodunit/v1/tap").await;
    assert_eq!(tap.matched, 12);
    let metrics = get(server.http(), "/metrics").await.body;
    assert!(
        metrics.contains("whodunit_ingest_refused_total 3\n"),
        "{metrics}"
    );
    let check: Check = server.ask("/api/whodunit/v1/check").await;
    let store = check
        .categories
        .iter()
        .find(|category| category.name == "store")
        .unwrap();
    let refused = store
        .checks
        .iter()
        .find(|item| item.error.contains("refused"))
        .unwrap();
    assert_eq!(
        (refused.result.as_str(), refused.hint.is_empty()),
        ("warning", false)
    );
}

#[tokio::test]
async fn a_stream_begins_with_one_hello_that_names_its_proxy() {
    let server = TestServer::start().await;
    let grpc = server.running().grpc();
    let first = open(grpc, Message::Batch(batch(1, vec![])))
        .await
        .unwrap_err();
    assert_eq!(first.code(), Code::InvalidArgument);
    assert!(first.message().contains("hello"), "{first}");
    let nameless = v1::Hello {
        instance: String::new(),
        ..hello("web-0", 1)
    };
    let status = open(grpc, Message::Hello(nameless)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("`instance`"), "{status}");

    let mut proxy = server.connect("web-0", 1).await;
    proxy.say(Message::Hello(hello("web-0", 1))).await;
    let end = proxy.responses.message().await.unwrap_err();
    assert_eq!(end.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_batch_that_is_too_large_ends_the_stream_and_nothing_else() {
    let server = TestServer::start().await;
    let mut proxy = server.connect("web-0", 1).await;
    let huge = v1::Batch {
        payload: vec![0; 17 * 1024 * 1024],
        ..batch(1, vec![])
    };
    proxy.say(Message::Batch(huge)).await;
    let end = proxy.responses.message().await.unwrap_err();
    assert_eq!(end.code(), Code::OutOfRange, "{end}");
    let mut proxy = server.connect("web-0", 1).await;
    proxy.send(1, votes(1, now_us())).await;
    proxy.durable(1).await;
}

#[tokio::test]
async fn a_proxy_that_serves_what_it_kept_says_how_old_that_is() {
    let server = TestServer::start().await;
    let mut client = RecorderClient::connect(format!("http://{}", server.running().grpc()))
        .await
        .unwrap();
    let _web = server.connect("web-0", 7).await;
    let report = v1::ReportRequest {
        from: Some(hello("web-0", 7)),
        discovery_age_ms: Some(12 * 60_000 + 5_000),
        discovery_connected: false,
        ..v1::ReportRequest::default()
    };
    client.report(report).await.unwrap();
    let check: Check = server.ask("/api/whodunit/v1/check").await;
    let all = check
        .categories
        .iter()
        .flat_map(|category| &category.checks);
    let mut said = all.filter(|item| item.description == "discovery of every proxy is fresh");
    let said = said.next().unwrap();
    let expected = "web-0 (12 min old, server unreachable since 20";
    assert!(said.error.contains(expected), "{}", said.error);
    assert_eq!(said.result, "warning");
}

#[tokio::test]
async fn a_certificate_that_is_not_renewed_is_told_before_and_after_it_expires() {
    let server = TestServer::start().await;
    let mut client = RecorderClient::connect(format!("http://{}", server.running().grpc()))
        .await
        .unwrap();
    let _web = server.connect("web-0", 7).await;
    for (left_s, fails, result, says) in [
        (3 * 3_600 + 60, false, "success", ""),
        (3 * 3_600 + 60, true, "warning", "web-0 (expires in 3 h)"),
        (-10 * 60 - 5, true, "error", "web-0 (since 10 min)"),
    ] {
        let report = v1::ReportRequest {
            from: Some(hello("web-0", 7)),
            certificate_expires_s: Some(now_us() / 1_000_000 + left_s),
            certificate_renewal_fails: fails,
            ..v1::ReportRequest::default()
        };
        client.report(report).await.unwrap();
        let check: Check = server.ask("/api/whodunit/v1/check").await;
        let all = check
            .categories
            .iter()
            .flat_map(|category| &category.checks);
        let mut said = all.filter(|item| item.description == "certificates hold and are renewed");
        let said = said.next().unwrap();
        assert_eq!(said.result, result);
        assert!(said.error.ends_with(says), "{}", said.error);
        assert_eq!(check.success, result != "error");
        let left = check.proxies[0].certificate_expires_in_s.unwrap();
        assert!((left - left_s).abs() < 300, "{left}");
    }
}

#[tokio::test]
async fn reports_tell_how_each_proxy_is() {
    let server = TestServer::start().await;
    let mut client = RecorderClient::connect(format!("http://{}", server.running().grpc()))
        .await
        .unwrap();
    let report = |instance: &str, dropped: u64| v1::ReportRequest {
        from: Some(hello(instance, 7)),
        uptime_s: 12,
        discovery_age_ms: Some(40),
        discovery_connected: true,
        detection_fall_backs: 3,
        fall_backs: HashMap::from([("db-out".to_owned(), 2), ("in".to_owned(), 1)]),
        policy_denied: 3,
        policy_audited: 1,
        certificate_expires_s: None,
        certificate_renewal_fails: false,
        conservation: Some(v1::Conservation {
            started: 10,
            recorded: 10 - dropped,
            dropped: HashMap::from([("queue_full".to_owned(), dropped)]),
            ..v1::Conservation::default()
        }),
        clock_offset_us: 1_500,
        listeners: vec![],
        open_connections: 3,
        limits: HashMap::from([
            ("http1_head_bytes".to_owned(), 7),
            ("idle_connection_ms".to_owned(), 2),
            ("of_tomorrow".to_owned(), 1),
        ]),
    };
    let check: Check = server.ask("/api/whodunit/v1/check").await;
    assert!(!check.success, "a server without proxies is not well");

    // Keep both streams open: a proxy that only reports is connected too.
    let mut web = server.connect("web-0", 7).await;
    client.report(report("web-0", 4)).await.unwrap();
    client.report(report("voting-0", 0)).await.unwrap();
    let nobody = client
        .report(v1::ReportRequest::default())
        .await
        .unwrap_err();
    assert_eq!(nobody.code(), Code::InvalidArgument);

    let check: Check = server.ask("/api/whodunit/v1/check").await;
    assert!(check.success, "{check:?}");
    let proxy = check
        .proxies
        .iter()
        .find(|proxy| proxy.instance == "web-0")
        .unwrap();
    assert_eq!((proxy.state.as_str(), proxy.uptime_s), ("connected", 12));
    assert_eq!(proxy.boot, "0000000000000007");
    assert_eq!(
        (proxy.open_connections, proxy.discovery_age_ms),
        (3, Some(40))
    );
    assert!((proxy.clock_offset_ms - 1.5).abs() < 1e-9);
    assert_eq!(proxy.conservation.dropped[0].count, 4);
    assert_eq!((proxy.policy_denied, proxy.policy_audited), (3, 1));
    let says = "policy denied 6 and would have denied 2 requests and connections, at \
                voting-0, web-0";
    let all = check
        .categories
        .iter()
        .flat_map(|category| &category.checks);
    assert!(
        all.into_iter().any(|item| item.description == says),
        "{check:?}"
    );
    let fallen: Vec<(&str, u64)> = proxy
        .fall_backs
        .iter()
        .map(|at| (at.reason.as_str(), at.count))
        .collect();
    assert_eq!(fallen, [("db-out", 2), ("in", 1)]);
    let unknown = check
        .categories
        .iter()
        .flat_map(|category| &category.checks)
        .find(|item| item.description == "every protocol was recognized");
    let said = &unknown.unwrap().error;
    assert!(said.ends_with("web-0 (2 at db-out, 1 at in)"), "{said}");
    let names = proxy.limits.iter().map(|limit| limit.reason.as_str());
    let expected = ["http1_head_bytes", "idle_connection_ms", "of_tomorrow"];
    assert!(names.eq(expected), "{:?}", proxy.limits);
    let limits = check.categories.iter().find(|c| c.name == "limits");
    let [head, idle, unknown] = &limits.unwrap().checks[..] else {
        panic!("{limits:?}");
    };
    assert_eq!(
        head.description,
        "limit http1_head_bytes (64 KiB) is not reached: bytes of an HTTP/1 head"
    );
    assert_eq!(head.result, "warning");
    assert!(
        head.error
            .starts_with("voting-0 7 times, web-0 7 times: a request is answered with 431"),
        "{head:?}"
    );
    assert_eq!(idle.result, "success", "{idle:?}");
    assert!(idle.description.contains("web-0 2 times"), "{idle:?}");
    assert_eq!(unknown.result, "warning", "{unknown:?}");
    let recorder = check
        .categories
        .iter()
        .find(|c| c.name == "recorder")
        .unwrap();
    let lossy = recorder
        .checks
        .iter()
        .find(|item| item.result == "warning")
        .unwrap();
    assert!(lossy.error.contains("web-0 (4 queue_full)"), "{lossy:?}");
    let tap: Tap = server.ask("/api/whodunit/v1/tap").await;
    assert_eq!(tap.trust.dropped, 4);

    // An orderly end: acknowledged at once, and no tail is in doubt.
    web.send(1, vote(now_us(), 0, false)).await;
    web.say(Message::Closing(v1::Closing { last_sequence: 1 }))
        .await;
    web.durable(1).await;
    drop(web);
    let check: Check = server.ask("/api/whodunit/v1/check").await;
    let proxy = check
        .proxies
        .iter()
        .find(|proxy| proxy.instance == "web-0")
        .unwrap();
    assert_eq!(
        (proxy.state.as_str(), proxy.tail_unknown),
        ("closed", false)
    );
    assert_eq!(proxy.batches_durable, 1);
}

#[tokio::test]
async fn junk_on_both_ports_hurts_nobody() {
    let server = TestServer::start().await;
    let mut proxy = server.connect("web-0", 1).await;
    let junk: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        &[0xfe; 200_000],
    ];
    for address in [server.http(), server.running().grpc()] {
        for bytes in junk {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The server may close before it has read all.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            let _ = tokio::time::timeout(crate::DEADLINE, read)
                .await
                .expect("a close");
        }
    }
    proxy.send(1, votes(1, now_us())).await;
    proxy.durable(1).await;
    let tap: Tap = server.ask("/api/whodunit/v1/tap").await;
    assert_eq!(tap.matched, 4);
    let grpc = server.running().grpc();
    assert_eq!(
        Proxy::connect(grpc, hello("web-0", 1)).await.told.written,
        1
    );
}
