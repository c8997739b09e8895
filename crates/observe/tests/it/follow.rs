//! The live stream.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use whodunit_api::record::Record;

use crate::story::{vote, votes};
use crate::{DEADLINE, TestServer, get, now_us};

/// One Server-Sent Event.
#[derive(Debug, Default)]
struct Event {
    id: String,
    name: String,
    data: String,
}

/// A reader of a live stream.
struct Reader(BufReader<TcpStream>);

impl Reader {
    async fn open(server: &TestServer, question: &str, last_event: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(server.http()).await.unwrap();
        let resume = last_event
            .map(|id| format!("Last-Event-ID: {id}\r\n"))
            .unwrap_or_default();
        let question = question.replace('"', "%22");
        let request = format!(
            "GET /api/whodunit/v1/tap?follow=true{question} HTTP/1.1\r\nHost: localhost\r\n{resume}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reader = Self(BufReader::new(stream));
        assert_eq!(reader.line().await, "HTTP/1.1 200 OK");
        while !reader.line().await.is_empty() {}
        reader
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(DEADLINE, self.0.read_line(&mut line)).await;
        assert!(
            read.expect("a line in time").unwrap() > 0,
            "the stream ended"
        );
        line.trim_end().to_owned()
    }

    /// Returns the next event; chunk sizes and comments are passed by.
    async fn event(&mut self) -> Event {
        let mut event = Event::default();
        loop {
            let line = self.line().await;
            match line.split_once(": ") {
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("data", data)) => event.data = data.to_owned(),
                _ if line.is_empty() && !event.data.is_empty() => return event,
                _ => {}
            }
        }
    }

    async fn record(&mut self) -> (String, Record) {
        let event = self.event().await;
        assert_eq!(event.name, "record", "{event:?}");
        (event.id, serde_json::from_str(&event.data).unwrap())
    }
}

#[tokio::test]
async fn a_follower_gets_a_record_within_a_second() {
    let server = TestServer::start().await;
    let filter = r#"&filter={"is":{"field":"outcome","op":"eq","value":"failure"}}"#;
    let mut reader = Reader::open(&server, filter, None).await;
    let proxy = server.connect("web-0", 1).await;
    proxy.send(1, vote(now_us(), 0, false)).await;
    proxy.send(2, vote(now_us(), 1, true)).await;
    let (_, record) = tokio::time::timeout(Duration::from_secs(1), reader.record())
        .await
        .expect("within a second");
    assert_eq!(
        (record.outcome.as_str(), record.to.workload.as_str()),
        ("failure", "web")
    );
}

#[tokio::test]
async fn a_reader_goes_on_where_it_ended() {
    let server = TestServer::start().await;
    let mut reader = Reader::open(&server, "", None).await;
    let mut proxy = server.connect("web-0", 1).await;
    proxy.send(1, votes(2, now_us())).await;
    let mut seen = Vec::new();
    let mut last = String::new();
    for _ in 0..5 {
        let (id, record) = reader.record().await;
        last = id;
        seen.push((record.id, record.side));
    }
    drop(reader);
    proxy.send(2, vote(now_us() + 1_000_000, 7, true)).await;
    proxy.durable(2).await;

    let mut reader = Reader::open(&server, "", Some(&last)).await;
    for _ in 0..7 {
        let (_, record) = reader.record().await;
        seen.push((record.id, record.side));
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((all, seen.len()), (12, 12), "each record once");
}

#[tokio::test]
async fn the_past_comes_first_when_asked_for() {
    let server = TestServer::start().await;
    let mut proxy = server.connect("web-0", 1).await;
    proxy.send(1, votes(3, now_us())).await;
    proxy.durable(1).await;
    let mut reader = Reader::open(&server, "&since=1m", None).await;
    for _ in 0..12 {
        reader.record().await;
    }
    proxy.send(2, vote(now_us(), 9, true)).await;
    let (_, record) = reader.record().await;
    assert_eq!(record.outcome, "failure");
}

#[tokio::test]
async fn followers_are_bounded_and_leave_room_when_they_go() {
    let server = TestServer::start().await;
    let mut readers = Vec::new();
    for _ in 0..64 {
        readers.push(Reader::open(&server, "", None).await);
    }
    let error = server
        .refuses("/api/whodunit/v1/tap?follow=true", 503)
        .await;
    assert!(error.contains("64 followers"), "{error}");
    drop(readers);
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let metrics = get(server.http(), "/metrics").await.body;
        if metrics.contains("whodunit_tap_followers 0\n") {
            break;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "followers do not leave: {metrics}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Reader::open(&server, "", None).await;
}

#[tokio::test]
async fn a_bad_last_event_id_is_named() {
    let server = TestServer::start().await;
    let request = "GET /api/whodunit/v1/tap?follow=true HTTP/1.1\r\nHost: localhost\r\n\
                   Last-Event-ID: junk\r\nConnection: close\r\n\r\n";
    let response = crate::send(server.http(), request).await;
    assert_eq!(response.status, 400);
    assert!(response.body.contains("Last-Event-ID"), "{}", response.body);
}
