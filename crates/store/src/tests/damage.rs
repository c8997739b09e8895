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
