use proptest::prelude::*;

use super::*;
use crate::open_read_only;

fn log_file(dir: &Path) -> std::path::PathBuf {
    files(&dir.join("log"), "log").pop().unwrap()
}

#[test]
fn a_torn_last_frame_is_cut_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 20, NOW)).unwrap();
    append(&store, 2, &batch(20, 20, NOW)).unwrap();
    drop(store);
    let path = log_file(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let reader = open_read_only(dir.path()).unwrap();
    assert_eq!(numbers(&reader), (0..20).collect::<Vec<_>>());
    assert_eq!(reader.stats().damaged, [], "its owner may be writing it");
    assert_eq!(std::fs::read(&path).unwrap().len(), bytes.len() - 3);
    let store = open(quiet(dir.path())).unwrap();
    assert_eq!(numbers(&store), (0..20).collect::<Vec<_>>());
    let stats = store.stats();
    assert_eq!(stats.damaged_total, 1);
    assert!(stats.damaged[0].what.contains("00000001.log at byte"));
    assert!(stats.damaged[0].why.contains("torn"));
    assert!(!stats.complete);
    let whole = |from, until| store.scan(&Scan::range(from, until)).unwrap().complete;
    assert!(!whole(NOW - SECOND, NOW + SECOND));
    assert!(whole(NOW - 2 * HOUR, NOW - HOUR), "long before");
    let again = append(&store, 2, &batch(20, 20, NOW)).unwrap();
    assert!(!again.duplicate, "the proxy kept it and sends it again");
    store.flush().unwrap();
    let store = reopen(store);
    assert_eq!(numbers(&store), (0..40).collect::<Vec<_>>());
    assert_eq!(store.stats().damaged, []);
    assert_eq!(store.stats().damaged_total, 1, "it stays counted");
}

#[test]
fn a_damaged_frame_in_the_middle_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 20, NOW)).unwrap();
    let start = usize::try_from(store.stats().log_bytes).unwrap();
    append(&store, 2, &batch(20, 20, NOW)).unwrap();
    append(&store, 3, &batch(40, 20, NOW)).unwrap();
    drop(store);
    let path = log_file(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[start + 60] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let store = open(quiet(dir.path())).unwrap();
    let expected: Vec<u32> = (0..20).chain(40..60).collect();
    assert_eq!(numbers(&store), expected);
    let stats = store.stats();
    assert_eq!(stats.damaged_total, 1);
    let place = format!("at byte {start}");
    assert!(stats.damaged[0].what.contains(&place), "{stats:?}");
    let scanned = store.scan(&Scan::default()).unwrap();
    assert_eq!((scanned.complete, scanned.damaged), (false, 1));
    assert!(append(&store, 4, &batch(60, 1, NOW)).is_ok());
}

#[test]
fn a_log_without_header_or_with_a_gap_is_read_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 20, NOW)).unwrap();
    drop(store);
    let path = log_file(dir.path());
    let moved = path.with_file_name("00000003.log");
    std::fs::rename(&path, &moved).unwrap();
    let mut bytes = std::fs::read(&moved).unwrap();
    bytes[..16].fill(0);
    std::fs::write(&moved, bytes).unwrap();
    std::fs::write(path.with_file_name("00000004.log"), b"WHO").unwrap();
    let store = open(quiet(dir.path())).unwrap();
    assert_eq!(numbers(&store), (0..20).collect::<Vec<_>>());
    let why: Vec<String> = store.stats().damaged.into_iter().map(|d| d.why).collect();
    assert_eq!(why.len(), 3, "{why:?}");
    assert!(why[0].contains("missing"));
    append(&store, 2, &batch(20, 20, NOW)).unwrap();
    store.flush().unwrap();
    assert_eq!(numbers(&reopen(store)), (0..40).collect::<Vec<_>>());
}

#[test]
fn an_emptied_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 20, NOW)).unwrap();
    drop(store);
    std::fs::write(log_file(dir.path()), "").unwrap();
    let store = open(quiet(dir.path())).unwrap();
    let stats = store.stats();
    assert_eq!((stats.damaged_total, stats.complete), (1, false));
    assert!(stats.damaged[0].why.contains("empty"), "{stats:?}");
    append(&store, 1, &batch(0, 20, NOW)).unwrap();
    assert_eq!(numbers(&reopen(store)), (0..20).collect::<Vec<_>>());
}

#[test]
fn a_newer_log_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(quiet(dir.path())).unwrap());
    let path = log_file(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[12] = 9;
    std::fs::write(&path, bytes).unwrap();
    let error = open(quiet(dir.path())).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 9, .. }));
    assert!(error.to_string().contains("update whodunit"), "{error}");
}

/// Three files of one hour each; the middle one is replaced by what `damage` makes of it.
fn with_damage(damage: impl Fn(Vec<u8>) -> Option<Vec<u8>>) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    for hour in 0..3u32 {
        let rows = batch(hour * 20, 20, NOW + i64::from(hour) * HOUR);
        append(&store, u64::from(hour) + 1, &rows).unwrap();
    }
    store.flush().unwrap();
    let middle = &files(dir.path(), "parquet")[1];
    match damage(std::fs::read(middle).unwrap()) {
        Some(bytes) => std::fs::write(middle, bytes).unwrap(),
        None => std::fs::remove_file(middle).unwrap(),
    }
    (dir, store)
}

#[track_caller]
fn check_damaged(store: &Store, expected: &str) {
    let others: Vec<u32> = (0..20).chain(40..60).collect();
    assert_eq!(numbers(store), others);
    let scanned = store.scan(&Scan::default()).unwrap();
    assert_eq!((scanned.complete, scanned.damaged), (false, 1));
    let first_hour = Scan::range(NOW, NOW + HOUR / 2);
    assert!(store.scan(&first_hour).unwrap().complete);
    let stats = store.stats();
    assert_eq!((stats.damaged_total, stats.complete), (1, false));
    assert!(stats.damaged[0].what.contains("hour=15"), "{stats:?}");
    assert!(stats.damaged[0].why.contains(expected), "{stats:?}");
}

#[test]
fn a_file_cut_in_half_is_named_and_skipped() {
    let (_dir, store) = with_damage(|bytes| Some(bytes[..bytes.len() / 2].to_vec()));
    check_damaged(&store, "");
    let store = reopen(store);
    check_damaged(&store, "cut short");
    assert_eq!(store.stats().records, 40);
}

#[test]
fn a_file_of_junk_an_empty_one_and_a_missing_one_are_named_and_skipped() {
    let (_dir, store) = with_damage(|bytes| Some(vec![0x5a; bytes.len()]));
    check_damaged(&store, "");
    check_damaged(&reopen(store), "does not end like a Parquet file");
    let (_dir, store) = with_damage(|_| Some(Vec::new()));
    check_damaged(&reopen(store), "too short");
    let (_dir, store) = with_damage(|_| None);
    check_damaged(&store, "the file is missing");
}

#[test]
fn a_foreign_parquet_file_is_named_and_skipped() {
    let (dir, store) = with_damage(Some);
    drop(store);
    let path = files(dir.path(), "parquet")[1].clone();
    // A name without a checksum, as its own writer would not know it.
    let name = path.file_name().unwrap().to_str().unwrap();
    let (name, _) = name.rsplit_once('-').unwrap();
    std::fs::remove_file(&path).unwrap();
    let path = path.with_file_name(format!("{name}.parquet"));
    let batch = arrow_array::RecordBatch::try_from_iter([(
        "x",
        std::sync::Arc::new(arrow_array::Int32Array::from(vec![1])) as arrow_array::ArrayRef,
    )])
    .unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    check_damaged(&store, "column `at` is missing");
}

#[test]
fn a_flipped_bit_anywhere_in_a_file_is_noticed() {
    let (dir, store) = with_damage(Some);
    let path = files(dir.path(), "parquet")[1].clone();
    let good = std::fs::read(&path).unwrap();
    let mut store = store;
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        store = reopen(store);
        store.verify();
        assert_eq!(store.stats().damaged_total, 1, "byte {at}");
        check_damaged(&store, "");
        std::fs::write(&path, &good).unwrap();
    }
    let store = reopen(store);
    assert_eq!(numbers(&store), (0..60).collect::<Vec<_>>());
    std::fs::write(&path, [&good[..100], &[0x5a], &good[101..]].concat()).unwrap();
    check_damaged(&store, "its bytes are not those that were written");
}

#[test]
fn the_keeper_finds_damage_before_anybody_asks() {
    let (_dir, store) = with_damage(|mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Some(bytes)
    });
    let store = reopen(store);
    assert_eq!(store.stats().damaged_total, 0);
    for _ in 0..3 {
        store.maintain(NOW + 3 * HOUR).unwrap();
    }
    assert_eq!(store.stats().damaged_total, 1);
}

#[test]
fn things_in_the_way_are_named_and_the_rest_is_read() {
    let (dir, store) = with_damage(Some);
    append(&store, 9, &batch(60, 20, NOW)).unwrap();
    drop(store);
    let root = dir.path().join("requests/v1");
    let day = files(dir.path(), "parquet")[0].clone();
    let day = day.parent().unwrap().parent().unwrap();
    std::fs::write(root.join("date=2026-01-01"), "x").unwrap();
    std::fs::write(day.join("hour=03"), "x").unwrap();
    std::fs::create_dir(day.join("hour=14/.tmp-mine")).unwrap();
    std::fs::create_dir(dir.path().join("log/00000007.log")).unwrap();
    std::fs::create_dir(dir.path().join("log/00000000.log")).unwrap();
    std::fs::write(dir.path().join("log/18446744073709551615.log"), "x").unwrap();
    std::fs::write(day.join("hour=14/18446744073709551615-0-0-0.parquet"), "x").unwrap();
    let read_only = open_read_only(dir.path()).unwrap();
    assert_eq!(read_only.scan(&Scan::default()).unwrap().matched, 80);
    for sequence in [10, 11] {
        let store = open(quiet(dir.path())).unwrap();
        let first = u32::try_from(sequence).unwrap() * 20;
        append(&store, sequence, &batch(first, 20, NOW)).unwrap();
        store.flush().unwrap();
        let found = store.scan(&Scan::default()).unwrap();
        assert_eq!(found.matched, 80 + 20 * (sequence - 9));
        assert!(!found.complete);
        let stats = store.stats();
        let named = |what: &str| stats.damaged.iter().any(|d| d.what.ends_with(what));
        assert!(named("date=2026-01-01") && named("hour=03"), "{stats:?}");
        assert!(named("00000007.log") || sequence == 11, "{stats:?}");
    }
}

/// A start without checkpoint.json after a flush that was not over.
#[test]
fn a_missing_checkpoint_costs_nothing_even_in_the_middle_of_a_flush() {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 50, NOW)).unwrap();
    store.flush().unwrap();
    append(&store, 2, &batch(50, 50, NOW)).unwrap();
    append(&store, 3, &batch(100, 50, NOW + HOUR)).unwrap();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let (from, to) = (dir.path().to_owned(), copies.path().to_owned());
    *crate::shared::lock(store.shared_on_step()) = Some(Box::new(move |_| {
        let place = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        copy_dir(&from, &to.join(place.to_string()));
    }));
    store.flush().unwrap();
    *crate::shared::lock(store.shared_on_step()) = None;
    let mut copies: Vec<_> = std::fs::read_dir(copies.path()).unwrap().collect();
    assert!(copies.len() > 5);
    for copy in copies.drain(..) {
        let copy = copy.unwrap().path();
        std::fs::remove_file(copy.join("checkpoint.json")).unwrap();
        let store = open(quiet(&copy)).unwrap();
        let mut found = numbers(&store);
        found.sort_unstable();
        assert_eq!(found, (0..150).collect::<Vec<_>>(), "{}", copy.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a byte of a file turns into, the other files answer and nothing panics.
    #[test]
    fn no_damaged_byte_takes_anything_else_along(place in 0.0f64..1.0, bits in 1u8..=255, cut in 0usize..4) {
        let (_dir, store) = with_damage(|mut bytes| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a small file")]
            let at = (place * (bytes.len() - 1) as f64) as usize;
            bytes[at] ^= bits;
            bytes.drain(at..at + cut.min(bytes.len() - at));
            Some(bytes)
        });
        let mut store = store;
        for _ in 0..2 {
            let scanned = store.scan(&Scan::default().filter(
                whodunit_model::Filter::text(whodunit_model::filter::Field::From, "web"))).unwrap();
            let found = |n: u32| scanned.rows.id.iter().filter(|id| id.n == n).count();
            for n in (0..20).chain(40..60) {
                prop_assert!(found(n) >= 1, "row {}", n);
            }
            store = reopen(store);
        }
    }
}
