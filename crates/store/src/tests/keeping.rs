use super::*;

/// A store with `hours` hours of records, one file each, the last one of now.
fn with_hours(options: Options, hours: u32) -> Store {
    let store = open(options).unwrap();
    for hour in 0..hours {
        let at_us = NOW - i64::from(hours - 1 - hour) * HOUR;
        append(&store, u64::from(hour) + 1, &batch(hour * 20, 20, at_us)).unwrap();
        store.flush().unwrap();
    }
    store
}

fn folders(dir: &Path) -> Vec<String> {
    files(&dir.join("requests"), "parquet")
        .iter()
        .map(|path| {
            let folder = path.parent().unwrap().strip_prefix(dir).unwrap();
            folder.to_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn files_lie_by_hour_in_folders_that_others_can_read() {
    let dir = tempfile::tempdir().unwrap();
    drop(with_hours(quiet(dir.path()), 2));
    assert_eq!(
        folders(dir.path()),
        [
            "requests/v1/date=2026-01-31/hour=13",
            "requests/v1/date=2026-01-31/hour=14"
        ]
    );
}

#[test]
fn hours_that_are_too_old_are_deleted_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        retention_age_s: 3 * 3_600,
        ..quiet(dir.path())
    };
    let store = with_hours(options, 6);
    store.maintain(NOW).unwrap();
    // 14:02 now; hour 11 ended at 12:00, less than three hours ago.
    assert_eq!(numbers(&store), (40..120).collect::<Vec<_>>());
    let stats = store.stats();
    assert_eq!((stats.deleted_hours, stats.deleted_rows), (2, 40));
    assert_eq!(stats.files, 4);
    assert_eq!(folders(dir.path()).len(), 4);
    let gone = dir.path().join("requests/v1/date=2026-01-31/hour=09");
    assert!(!gone.exists());
    store.maintain(NOW + 48 * HOUR).unwrap();
    assert!(numbers(&store).is_empty());
    let day = dir.path().join("requests/v1/date=2026-01-31");
    assert!(!day.exists());
    append(&store, 9, &batch(0, 1, NOW)).unwrap();
    store.flush().unwrap();
    let store = reopen(store);
    assert_eq!(store.stats().deleted_hours, 6, "counted across starts");
    assert!(append(&store, 9, &batch(0, 1, NOW)).unwrap().duplicate);
}

#[test]
fn over_the_bytes_the_oldest_hours_go_first_and_the_newest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_hours(quiet(dir.path()), 5);
    let bytes = store.stats().disk_bytes;
    drop(store);
    let limited = |bytes| Options {
        retention_bytes: bytes,
        ..quiet(dir.path())
    };
    let store = open(limited(bytes / 2)).unwrap();
    store.maintain(NOW).unwrap();
    let left = numbers(&store);
    assert!(left.len() >= 20 && left.len() <= 60, "{}", left.len());
    assert_eq!(*left.last().unwrap(), 99);
    assert!(store.stats().disk_bytes <= bytes / 2);
    drop(store);
    let store = open(limited(0)).unwrap();
    store.maintain(NOW).unwrap();
    assert_eq!(numbers(&store), (80..100).collect::<Vec<_>>());
}

#[test]
fn rows_move_to_files_when_they_are_many_old_or_the_log_is_long() {
    let check = |options: Options, now_us: i64, moved: bool| {
        let store = open(options).unwrap();
        append(&store, 1, &batch(0, 100, NOW)).unwrap();
        store.maintain(now_us).unwrap();
        assert_eq!(store.stats().hot_rows == 0, moved);
        assert_eq!(numbers(&store).len(), 100);
    };
    let dir = tempfile::tempdir().unwrap();
    let mut number = 0;
    let mut usual = || {
        number += 1;
        quiet(&dir.path().join(number.to_string()))
    };
    check(usual(), NOW + 299 * SECOND, false);
    check(usual(), NOW + 300 * SECOND, true);
    let few = Options {
        flush_rows: 100,
        ..usual()
    };
    check(few, NOW, true);
    let long = Options {
        flush_log_bytes: 100,
        ..usual()
    };
    check(long, NOW, true);
}

#[test]
fn the_keeper_flushes_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Options {
        flush_rows: 100,
        retention_age_s: u64::MAX,
        ..Options::new(dir.path())
    })
    .unwrap();
    append(&store, 1, &batch(0, 100, NOW)).unwrap();
    assert!(store.wait_durable(&proxy(), BOOT, 1, std::time::Duration::from_secs(30)));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while store.stats().files == 0 {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(numbers(&store).len(), 100);
}

#[test]
fn an_hour_of_the_demo_makes_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    for second in 0..3_600i64 {
        let at_us = NOW + second * SECOND;
        let sequence = u64::try_from(second).unwrap() + 1;
        let n = u32::try_from(second).unwrap();
        let rows: Rows = [record(n, at_us)].into_iter().collect();
        append_at(&store, sequence, &rows, at_us).unwrap();
        if second % 10 == 0 {
            store.maintain(at_us).unwrap();
        }
    }
    let files = store.stats().files;
    assert!((10..=20).contains(&files), "{files}");
    assert_eq!(numbers(&store).len(), 3_600);
}

#[test]
fn a_clock_gone_wrong_makes_a_bounded_number_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    let mut rows: Rows = (0..500u32)
        .map(|n| record(n, NOW + i64::from(n) * 5 * HOUR))
        .collect();
    for (n, at_us) in [(500, i64::MIN + 2_000), (501, -1), (502, i64::MAX - 1)] {
        let mut record = record(n, NOW);
        record.at_us = at_us;
        rows.push(&record);
    }
    append(&store, 1, &rows).unwrap();
    store.flush().unwrap();
    assert!(store.stats().files <= 100);
    let mut found = numbers(&reopen(store));
    found.sort_unstable();
    assert_eq!(found, (0..503).collect::<Vec<_>>());
}
