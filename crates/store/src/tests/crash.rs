use std::sync::{Arc, Mutex};

use super::*;
use crate::shared::lock;

/// Copies the directory at each step of a flush and opens every copy: each row
/// must be there once, and what came after the flush must still be dropped as
/// a duplicate or taken, as it was before.
#[test]
fn a_crash_at_any_step_of_a_flush_neither_loses_nor_doubles_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 50, NOW)).unwrap();
    append(&store, 2, &batch(50, 50, NOW + HOUR)).unwrap();
    store.flush().unwrap();
    append(&store, 3, &batch(100, 50, NOW)).unwrap();
    append(&store, 5, &batch(150, 50, NOW + 2 * HOUR)).unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = steps.clone();
    let (from, to) = (dir.path().to_owned(), copies.path().to_owned());
    *lock(store.shared_on_step()) = Some(Box::new(move |name| {
        let mut seen = seen.lock().unwrap();
        copy_dir(&from, &to.join(seen.len().to_string()));
        seen.push(name);
    }));
    store.flush().unwrap();
    *lock(store.shared_on_step()) = None;
    let steps = steps.lock().unwrap().clone();
    assert_eq!(
        steps,
        [
            "sealed",
            "file not yet renamed",
            "one file written",
            "file not yet renamed",
            "one file written",
            "files written",
            "checkpoint written",
            "one log file deleted",
            "log deleted",
        ]
    );
    let mut expected: Vec<u32> = (0..200).collect();
    expected.sort_unstable();
    for (place, step) in steps.iter().enumerate() {
        let copy = copies.path().join(place.to_string());
        for round in ["first start", "second start", "after a flush"] {
            let store = open(quiet(&copy)).unwrap();
            let mut found = numbers(&store);
            found.sort_unstable();
            assert_eq!(found, expected, "{step}, {round}");
            assert!(append(&store, 5, &batch(0, 1, NOW)).unwrap().duplicate);
            assert_eq!(store.stats().damaged, []);
            if round == "second start" {
                store.flush().unwrap();
            }
        }
        let left: Vec<_> = files(&copy, "parquet")
            .into_iter()
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with('.'))
            .collect();
        assert_eq!(left, Vec::<std::path::PathBuf>::new(), "{step}");
    }
}

#[test]
fn what_comes_during_a_flush_is_seen_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 50, NOW)).unwrap();
    let during = store.clone();
    let sequence = Mutex::new(1u32);
    *lock(store.shared_on_step()) = Some(Box::new(move |step| {
        let mut sequence = sequence.lock().unwrap();
        assert_eq!(numbers(&during).len() as u32, *sequence * 50, "at {step}");
        let rows = batch(*sequence * 50, 50, NOW);
        *sequence += 1;
        append(&during, u64::from(*sequence), &rows).unwrap();
        assert_eq!(numbers(&during).len() as u32, *sequence * 50, "at {step}");
    }));
    store.flush().unwrap();
    *lock(store.shared_on_step()) = None;
    let found = numbers(&store);
    assert!(found.len() > 200);
    assert_eq!(found, (0..found.len() as u32).collect::<Vec<_>>());
    let store = reopen(store);
    assert_eq!(numbers(&store), found);
}

#[test]
fn a_flush_that_fails_loses_nothing_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 50, NOW)).unwrap();
    // A file where the folder of the day should be.
    let blocker = dir.path().join("requests/v1/date=2026-01-31");
    std::fs::write(&blocker, b"").unwrap();
    let later = NOW + 600 * SECOND;
    assert!(store.maintain(later).is_err());
    assert_eq!(store.stats().flush_failures, 1);
    assert!(
        store
            .stats()
            .last_error
            .unwrap()
            .contains("date=2026-01-31")
    );
    append(&store, 2, &batch(50, 50, NOW)).unwrap();
    assert_eq!(numbers(&store).len(), 100);
    store.maintain(later + SECOND).unwrap();
    assert_eq!(store.stats().flush_failures, 1, "not at once");
    std::fs::remove_file(&blocker).unwrap();
    store.maintain(later + 10 * SECOND).unwrap();
    assert_eq!(store.stats().hot_rows, 0);
    assert_eq!(numbers(&store), (0..100).collect::<Vec<_>>());
    let store = reopen(store);
    assert_eq!(numbers(&store), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_lost_sync_is_made_good_by_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 50, NOW)).unwrap();
    store.poison_log();
    append(&store, 2, &batch(50, 50, NOW)).unwrap();
    assert!(store.sync().is_err());
    assert_eq!(store.durable(&proxy(), BOOT), 0);
    store.maintain(NOW).unwrap();
    assert_eq!(store.durable(&proxy(), BOOT), 2);
    append(&store, 3, &batch(100, 50, NOW)).unwrap();
    store.sync().unwrap();
    assert_eq!(store.durable(&proxy(), BOOT), 3);
    assert_eq!(numbers(&reopen(store)).len(), 150);
}

#[test]
fn memory_is_bounded_when_files_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Options {
        hot_rows_max: 100,
        ..quiet(dir.path())
    })
    .unwrap();
    append(&store, 1, &batch(0, 100, NOW)).unwrap();
    let refused = append(&store, 2, &batch(100, 10, NOW));
    assert!(matches!(refused, Err(StoreError::Overloaded { rows: 100 })));
    assert_eq!(store.stats().overloaded_batches, 1);
    store.flush().unwrap();
    assert!(!append(&store, 2, &batch(100, 10, NOW)).unwrap().duplicate);
    assert_eq!(numbers(&store).len(), 110);
}

/// Many proxies send, rows move to files all the time, and each look finds
/// every acknowledged row exactly once.
#[test]
fn rows_are_seen_once_while_everything_happens_at_once() {
    const BATCHES: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let store = open(Options {
        flush_rows: 60,
        retention_age_s: u64::MAX,
        sync: crate::Sync::Interval(std::time::Duration::from_millis(1)),
        ..Options::new(dir.path())
    })
    .unwrap();
    let total = || store.scan(&Scan::default()).unwrap().matched;
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3u64)
            .map(|boot| {
                let store = &store;
                scope.spawn(move || {
                    for sequence in 1..=BATCHES {
                        let mut payload = Vec::new();
                        whodunit_flight::encode(&batch(0, 5, NOW), &mut payload);
                        let batch = ReceivedBatch {
                            proxy: &proxy(),
                            boot: BootId(boot),
                            sequence,
                            payload: &payload,
                            clock_offset_us: 0,
                        };
                        store.append(batch, NOW).unwrap();
                        assert!(store.append(batch, NOW).unwrap().duplicate);
                    }
                })
            })
            .collect();
        let mut seen = 0;
        while !senders
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            let now = total();
            assert!(now >= seen && now.is_multiple_of(5), "{seen} then {now}");
            seen = now;
            store.flush().unwrap();
        }
    });
    assert_eq!(total(), 3 * BATCHES * 5);
    for boot in 0..3 {
        assert!(store.wait_durable(
            &proxy(),
            BootId(boot),
            BATCHES,
            std::time::Duration::from_secs(30)
        ));
    }
    let store = reopen(store);
    assert_eq!(numbers(&store).len() as u64, 3 * BATCHES * 5);
    assert_eq!(store.stats().damaged, []);
}
