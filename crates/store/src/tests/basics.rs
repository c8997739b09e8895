use std::time::Duration;

use super::*;
use crate::{BatchError, Sync, open_read_only};

#[test]
fn what_comes_in_is_seen_at_once_and_after_every_change_of_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    let rows = batch(0, 100, NOW);
    let appended = append(&store, 1, &rows).unwrap();
    assert_eq!((appended.rows, appended.duplicate), (100, false));
    assert_eq!((appended.written, appended.durable), (1, 0));
    let expected = records(&rows);
    let found = |store: &Store| records(&store.scan(&Scan::default()).unwrap().rows);
    assert_eq!(found(&store), expected, "in memory");
    let store = reopen(store);
    assert_eq!(found(&store), expected, "from the log");
    store.flush().unwrap();
    assert_eq!(found(&store), expected, "in a file");
    assert_eq!(store.stats().hot_rows, 0);
    let store = reopen(store);
    assert_eq!(found(&store), expected, "in a file after a start");
    append(&store, 2, &batch(100, 10, NOW)).unwrap();
    assert_eq!(numbers(&store), (0..110).collect::<Vec<_>>(), "in both");
    assert_eq!(store.stats().records, 110);
    assert_eq!(store.stats().oldest_us, Some(NOW));
    assert_eq!(store.stats().newest_us, Some(NOW + 109_000));
}

#[test]
fn a_batch_counts_once_and_gaps_are_fine() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 5, NOW)).unwrap();
    append(&store, 4, &batch(5, 5, NOW)).unwrap();
    let check = |store: &Store| {
        for sequence in [1, 3, 4] {
            let again = append(store, sequence, &batch(90, 5, NOW)).unwrap();
            assert!(again.duplicate);
            assert_eq!((again.rows, again.written), (0, 4));
        }
        assert_eq!(numbers(store).len(), 10);
        assert_eq!(store.written(&proxy(), BOOT), 4);
    };
    check(&store);
    store = reopen(store);
    check(&store);
    store.flush().unwrap();
    check(&store);
    store = reopen(store);
    check(&store);
    assert_eq!(store.stats().duplicates, 3);
    let other = ReceivedBatch {
        proxy: &proxy(),
        boot: BootId(1),
        sequence: 1,
        payload: &{
            let mut payload = Vec::new();
            whodunit_flight::encode(&batch(20, 5, NOW), &mut payload);
            payload
        },
        clock_offset_us: 0,
    };
    assert!(!store.append(other, NOW).unwrap().duplicate);
    assert_eq!(numbers(&store).len(), 15);
}

#[test]
fn durable_follows_written_when_the_log_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 1, NOW)).unwrap();
    append(&store, 2, &batch(1, 1, NOW)).unwrap();
    assert_eq!(store.durable(&proxy(), BOOT), 0);
    store.sync().unwrap();
    assert_eq!(store.durable(&proxy(), BOOT), 2);
    append(&store, 3, &batch(2, 1, NOW)).unwrap();
    assert_eq!(store.durable(&proxy(), BOOT), 2);
    store.flush().unwrap();
    assert_eq!(store.durable(&proxy(), BOOT), 3, "files are durable too");
    let store = reopen(store);
    assert_eq!(store.durable(&proxy(), BOOT), 3);
}

#[test]
fn always_means_durable_before_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Options {
        sync: Sync::Always,
        ..quiet(dir.path())
    })
    .unwrap();
    let appended = append(&store, 1, &batch(0, 1, NOW)).unwrap();
    assert_eq!(appended.durable, 1);
}

#[test]
fn threads_make_batches_durable_and_tell_who_waits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Options::new(dir.path())).unwrap();
    let (told, heard) = std::sync::mpsc::sync_channel(16);
    store.on_durable(Box::new(move || {
        let _ = told.try_send(());
    }));
    append(&store, 1, &batch(0, 1, NOW)).unwrap();
    assert!(store.wait_durable(&proxy(), BOOT, 1, Duration::from_secs(30)));
    heard.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(!store.wait_durable(&proxy(), BOOT, 2, Duration::from_millis(1)));
}

#[test]
fn an_orderly_end_of_a_boot_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 1, NOW)).unwrap();
    assert_eq!(store.boots()[0].closed, None);
    store.closing(&proxy(), BOOT, 1, NOW + 5).unwrap();
    for _ in 0..3 {
        let boots = store.boots();
        assert_eq!(boots.len(), 1);
        assert_eq!(boots[0].proxy, proxy());
        assert_eq!((boots[0].closed, boots[0].written), (Some(1), 1));
        assert_eq!(boots[0].last_seen_us, NOW + 5);
        store.flush().unwrap();
        store = reopen(store);
    }
}

#[test]
fn bad_batches_are_refused_one_by_one_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    let mut good = Vec::new();
    whodunit_flight::encode(&batch(0, 3, NOW), &mut good);
    let mut newer = good.clone();
    newer[3] = 99;
    let long = "x".repeat(2_000);
    let long = ProxyName {
        namespace: long.as_str().into(),
        ..proxy()
    };
    let (usual, cut) = (proxy(), &good[..good.len() - 1]);
    let cases: [(&ProxyName, u64, &[u8], &str); 5] = [
        (&usual, 1, b"junk", "not a record batch"),
        (&usual, 1, &newer, "version 99"),
        (&usual, 1, cut, "damaged"),
        (&usual, 0, &good, "counted from 1"),
        (&long, 1, &good, "longer than 1024"),
    ];
    let count = cases.len() as u64;
    for (proxy, sequence, payload, expected) in cases {
        let batch = ReceivedBatch {
            proxy,
            boot: BOOT,
            sequence,
            payload,
            clock_offset_us: 0,
        };
        let error = store.append(batch, NOW).unwrap_err();
        assert!(matches!(error, StoreError::Batch { .. }));
        let text = crate::shared::chain(&error);
        assert!(text.contains(expected), "{text}");
    }
    assert!(matches!(
        store.append(
            ReceivedBatch {
                proxy: &usual,
                boot: BOOT,
                sequence: 1,
                payload: &newer,
                clock_offset_us: 0,
            },
            NOW
        ),
        Err(StoreError::Batch {
            source: BatchError::Decode(_),
            ..
        })
    ));
    assert_eq!(store.stats().refused_batches, count + 1);
    assert!(!append(&store, 1, &batch(0, 3, NOW)).unwrap().duplicate);
    assert_eq!(numbers(&store), [0, 1, 2]);
}

#[test]
fn one_process_writes_and_others_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 20, NOW)).unwrap();
    store.flush().unwrap();
    append(&store, 2, &batch(20, 20, NOW)).unwrap();
    let error = open(quiet(dir.path())).unwrap_err().to_string();
    let pid = std::process::id().to_string();
    assert!(error.contains(&pid) && error.contains("--data"), "{error}");
    let before = files(dir.path(), "log");
    let reader = open_read_only(dir.path()).unwrap();
    assert_eq!(numbers(&reader), (0..40).collect::<Vec<_>>());
    assert_eq!(files(dir.path(), "log"), before);
    for error in [
        append(&reader, 9, &batch(0, 1, NOW)).map(drop),
        reader.flush(),
        reader.maintain(NOW),
        reader.sync(),
    ] {
        assert!(matches!(error, Err(StoreError::ReadOnly { .. })));
    }
    let file = &files(dir.path(), "parquet")[0];
    let reader = open_read_only(file).unwrap();
    assert_eq!(numbers(&reader), (0..20).collect::<Vec<_>>());
    let moved = dir.path().join("export.parquet");
    std::fs::copy(file, &moved).unwrap();
    let reader = open_read_only(&moved).unwrap();
    assert_eq!(numbers(&reader), (0..20).collect::<Vec<_>>());
    assert_eq!(reader.stats().oldest_us, Some(NOW));
    store.close();
    assert!(matches!(
        append(&store, 3, &batch(0, 1, NOW)),
        Err(StoreError::Closed)
    ));
    open(quiet(dir.path())).unwrap();
}

#[test]
fn paths_without_records_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = open_read_only(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not a data directory"), "{error}");
    let missing = dir.path().join("missing");
    let error = open_read_only(&missing).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
    let junk = dir.path().join("junk.parquet");
    std::fs::write(&junk, b"this is not a Parquet file at all").unwrap();
    let error = open_read_only(&junk).unwrap_err().to_string();
    assert!(
        error.contains("does not end like a Parquet file"),
        "{error}"
    );
    let error = open(quiet(&junk)).unwrap_err();
    assert!(matches!(error, StoreError::Unusable { .. }));
    let error = error.to_string();
    assert!(
        error.contains("junk.parquet") && error.contains("--data"),
        "{error}"
    );
}

#[test]
fn a_newer_or_damaged_checkpoint_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(quiet(dir.path())).unwrap());
    let path = dir.path().join("checkpoint.json");
    std::fs::write(&path, br#"{"version": 2, "other": []}"#).unwrap();
    let error = open(quiet(dir.path())).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 2, .. }));
    std::fs::write(&path, b"{\"version\": 1, \"gen").unwrap();
    let error = open(quiet(dir.path())).unwrap_err().to_string();
    assert!(error.contains("checkpoint.json"), "{error}");
}

#[test]
fn a_missing_checkpoint_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 20, NOW)).unwrap();
    store.flush().unwrap();
    append(&store, 2, &batch(20, 20, NOW)).unwrap();
    drop(store);
    std::fs::remove_file(dir.path().join("checkpoint.json")).unwrap();
    let store = open(quiet(dir.path())).unwrap();
    assert_eq!(numbers(&store), (0..40).collect::<Vec<_>>());
}

#[test]
fn the_rows_of_one_request_are_found_wherever_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    let mut outbound = record(7, NOW);
    outbound.side = Side::Outbound;
    let inbound = record(7, NOW);
    let mut open_row = record(8, NOW);
    open_row.kind = whodunit_model::Kind::Open;
    let mut last = open_row.clone();
    last.kind = whodunit_model::Kind::Request;
    last.at_us = NOW + HOUR;
    let rows: Rows = [outbound, record(6, NOW), open_row].into_iter().collect();
    append(&store, 1, &rows).unwrap();
    store.flush().unwrap();
    let rows: Rows = [inbound.clone(), last.clone()].into_iter().collect();
    append(&store, 2, &rows).unwrap();
    let found = store.get(inbound.id, SECOND).unwrap();
    assert_eq!(found.id, [inbound.id; 2]);
    let found = store.get(last.id, SECOND).unwrap();
    assert_eq!(found.at_us, [NOW, NOW + HOUR], "long after its start");
    let found = store.get(record(99, NOW).id, SECOND).unwrap();
    assert!(found.is_empty());
}
