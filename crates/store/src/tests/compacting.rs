use std::sync::{Arc, Mutex};

use super::*;
use crate::shared::lock;

/// Two hours after the records of [`with_small_files`]: their hour is closed.
const LATER: i64 = NOW + 2 * HOUR;

/// A store with `count` files of 20 rows in one hour.
fn with_small_files(dir: &Path, count: u32) -> Store {
    let store = open(quiet(dir)).unwrap();
    for n in 0..count {
        append(&store, u64::from(n) + 1, &batch(n * 20, 20, NOW)).unwrap();
        store.flush().unwrap();
    }
    store
}

fn compact(store: &Store) {
    store.maintain(LATER).unwrap();
}

#[test]
fn small_files_of_a_closed_hour_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_small_files(dir.path(), 5);
    let before = records(&store.scan(&Scan::default()).unwrap().rows);
    store.maintain(NOW + 60 * SECOND).unwrap();
    assert_eq!(store.stats().files, 5, "the hour is still open");
    compact(&store);
    let stats = store.stats();
    assert_eq!((stats.files, stats.compactions, stats.records), (1, 1, 100));
    assert_eq!(files(dir.path(), "parquet").len(), 1);
    assert!(!dir.path().join("compaction.json").exists());
    let after = records(&store.scan(&Scan::default()).unwrap().rows);
    assert_eq!(after, before);
    // A late row makes another file until the next time.
    append(&store, 6, &batch(100, 1, NOW)).unwrap();
    store.flush().unwrap();
    assert_eq!(store.stats().files, 2);
    compact(&store);
    assert_eq!(store.stats().files, 1);
    let store = reopen(store);
    assert_eq!(numbers(&store), (0..101).collect::<Vec<_>>());
    assert!(append(&store, 6, &batch(0, 1, NOW)).unwrap().duplicate);
    assert!(store.stats().complete);
}

#[test]
fn a_crash_at_any_step_shows_each_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let store = with_small_files(dir.path(), 3);
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = steps.clone();
    let (from, to) = (dir.path().to_owned(), copies.path().to_owned());
    *lock(store.shared_on_step()) = Some(Box::new(move |name| {
        let mut seen = seen.lock().unwrap();
        copy_dir(&from, &to.join(seen.len().to_string()));
        seen.push(name);
    }));
    compact(&store);
    *lock(store.shared_on_step()) = None;
    let steps = steps.lock().unwrap().clone();
    let deleted = "one old file deleted";
    assert_eq!(
        steps,
        [
            "note written",
            "new file in place",
            deleted,
            deleted,
            deleted
        ]
    );
    for (place, step) in steps.iter().enumerate() {
        let copy = copies.path().join(place.to_string());
        let reader = crate::open_read_only(&copy).unwrap();
        assert_eq!(numbers(&reader), (0..60).collect::<Vec<_>>(), "{step}");
        assert!(reader.stats().complete, "{step}");
        drop(reader);
        for round in ["first start", "second start", "after another try"] {
            let store = open(quiet(&copy)).unwrap();
            assert_eq!(
                numbers(&store),
                (0..60).collect::<Vec<_>>(),
                "{step}, {round}"
            );
            assert!(store.stats().complete, "{step}, {round}");
            assert!(!copy.join("compaction.json").exists(), "{step}, {round}");
            if round == "second start" {
                compact(&store);
                assert_eq!(store.stats().files, 1, "{step}");
            }
        }
        assert_eq!(files(&copy, "parquet").len(), 1, "{step}");
    }
}

#[test]
fn a_question_that_began_before_sees_the_old_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_small_files(dir.path(), 3);
    let held = lock(&store.shared().view).segments.clone();
    compact(&store);
    assert_eq!(store.stats().files, 1);
    assert_eq!(files(dir.path(), "parquet").len(), 4, "they may be read");
    drop(held);
    compact(&store);
    assert_eq!(files(dir.path(), "parquet").len(), 1);
    assert_eq!(numbers(&store), (0..60).collect::<Vec<_>>());
}

#[test]
fn a_damaged_file_stays_apart_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_small_files(dir.path(), 4);
    drop(store);
    let victim = files(dir.path(), "parquet")[1].clone();
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&victim, bytes).unwrap();
    let store = open(quiet(dir.path())).unwrap();
    compact(&store);
    compact(&store);
    let stats = store.stats();
    assert_eq!((stats.files, stats.damaged_total), (2, 1));
    assert_eq!(stats.damaged[0].what, victim.display().to_string());
    assert_eq!(numbers(&store).len(), 60);
    assert!(victim.exists());
}

#[test]
fn a_note_that_cannot_be_followed_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(with_small_files(dir.path(), 2));
    let old: Vec<_> = files(dir.path(), "parquet");
    let name = |path: &Path| {
        path.strip_prefix(dir.path().join("requests/v1"))
            .unwrap()
            .to_owned()
    };
    let foreign = serde_json::json!({"version": 1, "new": "no.parquet", "old": [name(&old[0])]});
    for note in ["", "{", "[1]", &foreign.to_string()] {
        std::fs::write(dir.path().join("compaction.json"), note).unwrap();
        let store = open(quiet(dir.path())).unwrap();
        assert_eq!(numbers(&store), (0..40).collect::<Vec<_>>(), "{note}");
        assert!(!dir.path().join("compaction.json").exists());
    }
    std::fs::write(
        dir.path().join("compaction.json"),
        r#"{"version":9,"new":"","old":[]}"#,
    )
    .unwrap();
    let error = open(quiet(dir.path())).unwrap_err().to_string();
    assert!(error.contains("compaction.json"), "{error}");
}
