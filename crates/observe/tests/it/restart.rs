//! What survives the end of the server, in order or not.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use whodunit_api::check::Check;
use whodunit_api::stat::Stat;
use whodunit_api::tap::Tap;
use whodunit_observe::store::open_read_only;
use whodunit_observe::{Queries, Server};

use crate::story::votes;
use crate::{DEADLINE, Proxy, TestServer, get, hello, now_us, options, start};

const BASE: &str = "/api/whodunit/v1";

/// Copies a directory as it lies on disk at this moment: what `kill -9` leaves behind.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_killed_server_answers_as_before_and_counts_repeats_once() {
    let server = TestServer::start().await;
    let until_us = now_us();
    let mut proxy = server.connect("web-0", 1).await;
    for sequence in 1..=3 {
        proxy.send(sequence, votes(10, until_us)).await;
    }
    proxy.durable(3).await;
    let before: Tap = server.ask(&format!("{BASE}/tap?limit=1000")).await;

    let left = tempfile::tempdir().unwrap();
    copy(server.dir.path(), left.path());
    let running = start(left.path()).await;
    let after = get(running.http(), &format!("{BASE}/tap?limit=1000")).await;
    let after: Tap = serde_json::from_str(&after.body).unwrap();
    assert_eq!((after.matched, &after.records), (120, &before.records));

    let check = get(running.http(), &format!("{BASE}/check")).await;
    let check: Check = serde_json::from_str(&check.body).unwrap();
    assert_eq!(check.proxies.len(), 1, "the boot is remembered: {check:?}");

    let mut proxy = Proxy::connect(running.grpc(), hello("web-0", 1)).await;
    assert_eq!((proxy.told.written, proxy.told.durable), (3, 3));
    proxy.send(3, votes(10, until_us)).await;
    proxy.send(4, votes(1, until_us)).await;
    proxy.durable(4).await;
    let after = get(running.http(), &format!("{BASE}/tap?limit=1000")).await;
    let after: Tap = serde_json::from_str(&after.body).unwrap();
    assert_eq!(after.matched, 124);
    running.shutdown().await;
}

#[tokio::test]
async fn an_orderly_restart_answers_as_before() {
    let mut server = TestServer::start().await;
    let mut proxy = server.connect("web-0", 1).await;
    proxy.send(1, votes(10, now_us())).await;
    proxy.durable(1).await;
    let before: Tap = server.ask(&format!("{BASE}/tap?limit=1000")).await;
    server.restart().await;
    let after: Tap = server.ask(&format!("{BASE}/tap?limit=1000")).await;
    assert_eq!((after.matched, after.records), (40, before.records));
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_the_end() {
    let mut server = TestServer::start().await;
    let mut proxy = server.connect("web-0", 1).await;
    let running = server.running.take().unwrap();
    let began = std::time::Instant::now();
    running.shutdown().await;
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
    assert!(proxy.responses.message().await.is_err());
}

#[tokio::test]
async fn a_data_directory_is_read_without_a_server() {
    let mut server = TestServer::start().await;
    let mut proxy = server.connect("web-0", 1).await;
    proxy.send(1, votes(10, now_us())).await;
    proxy.durable(1).await;
    server.running.take().unwrap().shutdown().await;

    let store = open_read_only(server.dir.path()).unwrap();
    let queries = Queries::new(store, None);
    let query = whodunit_api::stat::StatQuery {
        kind: "workload".to_owned(),
        ..whodunit_api::stat::StatQuery::default()
    };
    let stat: Stat = queries.stat(&query, now_us()).unwrap();
    assert_eq!(stat.rows.iter().map(|row| row.requests).sum::<u64>(), 20);
    assert_eq!(queries.status().records, 40);
    assert!(queries.check(now_us()).success);
}

/// Returns the files under `dir` whose names end with `suffix`.
fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_string_lossy().ends_with(suffix)
            && !path.to_string_lossy().contains(".tmp-")
        {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn damage_is_named_and_counted_and_the_rest_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.store.flush_rows = 10;
    let running = Server::start(options).await.unwrap();
    let proxy = Proxy::connect(running.grpc(), hello("web-0", 1)).await;
    proxy.send(1, votes(10, now_us())).await;
    let end = tokio::time::Instant::now() + DEADLINE;
    while files(dir.path(), ".parquet").is_empty() {
        assert!(tokio::time::Instant::now() < end, "nothing was flushed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.shutdown().await;

    // Half a file of records, and a log whose last frame was not finished.
    let parquet = files(dir.path(), ".parquet").remove(0);
    let half = std::fs::metadata(&parquet).unwrap().len() / 2;
    File::options()
        .write(true)
        .open(&parquet)
        .unwrap()
        .set_len(half)
        .unwrap();
    let running = start(dir.path()).await;
    let mut proxy = Proxy::connect(running.grpc(), hello("web-0", 1)).await;
    proxy.send(2, votes(3, now_us())).await;
    proxy.send(3, votes(4, now_us())).await;
    proxy.durable(3).await;
    running.shutdown().await;
    let log = files(dir.path(), ".log").pop().unwrap();
    let length = std::fs::metadata(&log).unwrap().len();
    File::options()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(length - 10)
        .unwrap();

    let running = start(dir.path()).await;
    let tap = get(running.http(), &format!("{BASE}/tap")).await;
    let tap: Tap = serde_json::from_str(&tap.body).unwrap();
    assert_eq!(
        tap.matched, 12,
        "the whole frame is there, the torn one is not"
    );
    assert!(
        tap.trust.damaged > 0 && !tap.trust.complete,
        "{:?}",
        tap.trust
    );
    let check = get(running.http(), &format!("{BASE}/check")).await;
    let check: Check = serde_json::from_str(&check.body).unwrap();
    let store = check
        .categories
        .iter()
        .find(|category| category.name == "store")
        .unwrap();
    let damage = store
        .checks
        .iter()
        .find(|item| item.description.contains("damaged"))
        .unwrap();
    let name = parquet.file_name().unwrap().to_string_lossy();
    assert!(damage.error.contains(&*name), "{damage:?}");
    assert_eq!(
        (damage.result.as_str(), damage.hint.is_empty()),
        ("warning", false)
    );
    running.shutdown().await;
}
