use proptest::prelude::*;
use whodunit_model::filter::{Comparison, Field, Op, Value};
use whodunit_model::{
    Cause, Detected, Filter, Kind, Origin, Party, Protocol, TlsState, TraceContext, Twin,
};

use super::*;
use crate::Order;

/// Few values, so that filters often match.
const NAMES: [&str; 5] = ["", "web", "voting", "emoji", "vote-bot"];
const ROUTES: [&str; 4] = [
    "",
    "GET /api/vote",
    "emojivoto.v1.VotingService/VotePoop",
    "a.B/VoteJoy",
];
const ATTRIBUTES: [&str; 3] = ["", "choice=:poop:", "choice=:joy:&user=a%20b"];

fn party() -> impl Strategy<Value = Party> {
    (0..5usize, 0..5usize, 0..5usize, 0..5usize).prop_map(|(a, b, c, d)| Party {
        namespace: NAMES[a].into(),
        workload: NAMES[b].into(),
        instance: NAMES[c].into(),
        version: NAMES[d].into(),
    })
}

prop_compose! {
    fn words()(
        kind in prop::sample::select(Kind::ALL), side in prop::sample::select(Side::ALL),
        twin in prop::sample::select(Twin::ALL), protocol in prop::sample::select(Protocol::ALL),
        detected in prop::sample::select(Detected::ALL), tls in prop::sample::select(TlsState::ALL),
        outcome in prop::sample::select(Outcome::ALL), cause in prop::sample::select(Cause::ALL),
        origin in prop::sample::select(Origin::ALL), flags: [bool; 4],
    ) -> RequestRecord {
        let mut record = RequestRecord::new(RequestId::default(), side, 0);
        record.kind = kind;
        record.twin = twin;
        record.protocol = protocol;
        record.detected = detected;
        record.tls = tls;
        record.outcome = outcome;
        record.cause = cause;
        record.origin = origin;
        [record.client_error, record.reused, record.probe, record.stripped] = flags;
        record
    }
}

prop_compose! {
    fn any_record()(
        words in words(), src in party(), dst in party(),
        texts in prop::array::uniform7(0..5usize), route in 0..4usize, attributes in 0..3usize,
        times in (0..40i64, 0..2_000i64, 0..2_000i64, 0..50i64), n in 0..8u32, boot in 0..2u64,
        status in prop::sample::select(vec![0u16, 200, 404, 500]),
        grpc_status in prop::option::of(prop::sample::select(vec![0u8, 2, 14, 200])),
        sizes in (0..3u16, 0..4_000u64, 0..4_000u64, 0..9u32, 0..9u32),
        trace in (0..4u128, any::<u64>()),
    ) -> RequestRecord {
        let text = |place: usize| NAMES[texts[place]].into();
        let at_us = NOW + times.0 * HOUR / 13;
        RequestRecord {
            id: RequestId { start_us: NOW, boot: BootId(u64::MAX - boot), n },
            start_at_us: NOW,
            at_us,
            latency_us: times.1,
            duration_us: times.2,
            queue_us: times.3,
            src, dst,
            service: text(0), authority: text(1), peer_identity: text(2), method: text(3),
            path: text(4), endpoint: text(5), correlation: text(6),
            route: ROUTES[route].into(), attributes: ATTRIBUTES[attributes].into(),
            status, grpc_status,
            attempts: sizes.0, request_bytes: sizes.1, response_bytes: sizes.2,
            request_messages: sizes.3, response_messages: sizes.4,
            trace: TraceContext { trace_id: trace.0 << 100, parent_id: trace.1 },
            ..words
        }
    }
}

fn any_field() -> impl Strategy<Value = Field> {
    let names = Field::NAMES
        .iter()
        .copied()
        .chain(["attribute.choice", "attribute.user"]);
    let fields: Vec<Field> = names.filter_map(Field::from_name).collect();
    prop::sample::select(fields)
}

fn any_text() -> impl Strategy<Value = String> {
    let id = RequestId {
        start_us: NOW,
        boot: BootId(u64::MAX),
        n: 3,
    }
    .to_string();
    let trace = format!("{:032x}", 1u128 << 100);
    let mut texts: Vec<String> = NAMES
        .iter()
        .chain(&ROUTES)
        .map(|t| (*t).to_owned())
        .collect();
    texts.extend([id, trace]);
    texts.extend(
        [
            "VotePoop",
            "Vote",
            ":poop:",
            "a b",
            "failure",
            "success",
            "request",
            "inbound",
            "grpc",
            "yes",
            "UNKNOWN",
            "UNKNOWN_CODE",
            "2",
            "14",
            "200",
            "1000",
            "v",
            "e",
            "0",
            "1",
            "reset",
        ]
        .map(str::to_owned),
    );
    prop::sample::select(texts)
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let value = prop_oneof![
        prop::sample::select(vec![-1i64, 0, 1, 2, 14, 200, 500, 1_000]).prop_map(Value::Number),
        any_text().prop_map(Value::Text),
        prop::collection::vec(any_text(), 0..3).prop_map(Value::Any),
    ];
    let op = prop::sample::select(vec![
        Op::Eq,
        Op::Eq,
        Op::Eq,
        Op::Lt,
        Op::Le,
        Op::Gt,
        Op::Ge,
        Op::Prefix,
        Op::Contains,
    ]);
    let is = (any_field(), op, value)
        .prop_map(|(field, op, value)| Filter::Is(Comparison { field, op, value }));
    let leaf = prop_oneof![1 => Just(Filter::All), 9 => is];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::Or),
            inner.prop_map(|part| Filter::Not(Box::new(part))),
        ]
    })
}

/// A store with the records spread over files, a log that was replayed, and memory.
fn spread(dir: &Path, records: &[RequestRecord]) -> Store {
    let third = records.len() / 3;
    let rows = |part: &[RequestRecord]| part.iter().cloned().collect::<Rows>();
    let store = open(quiet(dir)).unwrap();
    append(&store, 1, &rows(&records[..third])).unwrap();
    store.flush().unwrap();
    append(&store, 2, &rows(&records[third..2 * third])).unwrap();
    store.flush().unwrap();
    append(&store, 3, &rows(&records[2 * third..2 * third + third / 2])).unwrap();
    let store = reopen(store);
    append(&store, 4, &rows(&records[2 * third + third / 2..])).unwrap();
    store
}

fn sorted(mut records: Vec<RequestRecord>) -> Vec<RequestRecord> {
    records.sort_by_key(|record| format!("{record:?}"));
    records
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// The scan finds what the filter's own meaning finds, whatever the rows and the filters.
    #[test]
    fn a_scan_finds_what_a_look_at_each_row_finds(
        all in prop::collection::vec(any_record(), 0..120),
        filters in prop::collection::vec(any_filter(), 12),
        from in 0..40i64, hours in 0..4i64, limit in 1..20usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = spread(dir.path(), &all);
        let rows: Rows = all.iter().cloned().collect();
        let (from_us, until_us) = (NOW + from * HOUR / 13, NOW + from * HOUR / 13 + hours * HOUR);
        for filter in &filters {
            let expected: Vec<RequestRecord> = (0..rows.len())
                .filter(|i| (from_us..until_us).contains(&rows.at_us[*i]))
                .filter(|i| filter.matches(&rows, *i))
                .map(|i| all[i].clone())
                .collect();
            let scan = Scan::range(from_us, until_us).filter(filter.clone());
            let found = store.scan(&scan).unwrap();
            prop_assert_eq!(sorted(records(&found.rows)), sorted(expected.clone()), "{:?}", filter);
            prop_assert_eq!(found.matched, expected.len() as u64);
            prop_assert!(found.rows.at_us.is_sorted());
            prop_assert!(found.complete && found.matched_exact && !found.truncated);
            let unordered = store.scan(&scan.clone().order(Order::Unordered)).unwrap();
            prop_assert_eq!(sorted(records(&unordered.rows)), sorted(expected.clone()));

            let counted = store.scan(&scan.clone().limit(0)).unwrap();
            prop_assert_eq!((counted.matched, counted.rows.len()), (expected.len() as u64, 0));

            let mut times: Vec<i64> = expected.iter().map(|record| record.at_us).collect();
            times.sort_unstable();
            let kept = limit.min(times.len());
            let newest = store.scan(&scan.clone().limit(limit)).unwrap();
            prop_assert_eq!(&newest.rows.at_us[..], &times[times.len() - kept..]);
            let oldest = store.scan(&scan.limit(limit).order(Order::OldestFirst)).unwrap();
            prop_assert_eq!(&oldest.rows.at_us[..], &times[..kept]);
            for limited in [newest, oldest] {
                prop_assert!(limited.truncated || kept == times.len());
                prop_assert!(!limited.truncated || !limited.matched_exact || kept < times.len());
                prop_assert!(limited.matched <= expected.len() as u64);
                prop_assert!(!limited.matched_exact || limited.matched == expected.len() as u64);
                for record in records(&limited.rows) {
                    prop_assert!(expected.contains(&record));
                }
            }
        }
    }
}

#[test]
fn the_newest_rows_of_a_long_history_are_found_without_reading_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    for hour in 0..20u32 {
        let rows = batch(hour * 100, 100, NOW + i64::from(hour) * HOUR);
        append(&store, u64::from(hour) + 1, &rows).unwrap();
    }
    store.flush().unwrap();
    let scan = Scan::default().filter(Filter::text(Field::Outcome, "failure"));
    let newest = store.scan(&scan.clone().limit(5)).unwrap();
    let found: Vec<u32> = newest.rows.id.iter().map(|id| id.n).collect();
    assert_eq!(found, [1_975, 1_980, 1_985, 1_990, 1_995]);
    assert_eq!((newest.looked_at, newest.matched), (100, 20));
    assert_eq!((newest.matched_exact, newest.truncated), (false, true));
    let oldest = store
        .scan(&scan.limit(25).order(Order::OldestFirst))
        .unwrap();
    assert_eq!(oldest.rows.id[24].n, 120);
    assert_eq!(oldest.looked_at, 200);
}

#[test]
fn only_the_columns_that_are_asked_for_are_filled() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 10, NOW)).unwrap();
    let mut scan = Scan::default().filter(Filter::text(Field::To, "voting"));
    scan.columns = Some(vec!["route", "latency_us"]);
    for _ in 0..2 {
        let rows = store.scan(&scan).unwrap().rows;
        assert_eq!(rows.len(), 4);
        assert_eq!(rows.text(rows.route[1]), "emojivoto.v1.Service/Route3");
        assert_eq!(rows.latency_us, [1_000, 1_003, 1_006, 1_009]);
        assert_eq!(rows.text(rows.dst_workload[0]), "");
        assert_eq!(rows.status, [0; 4]);
        store.flush().unwrap();
    }
    scan.columns = Some(vec!["rout"]);
    let error = store.scan(&scan).unwrap_err().to_string();
    assert!(error.contains("`rout`"), "{error}");
}

#[test]
fn too_many_rows_are_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 50, NOW)).unwrap();
    store.flush().unwrap();
    append(&store, 2, &batch(50, 50, NOW)).unwrap();
    let mut scan = Scan {
        rows_max: 99,
        ..Scan::default()
    };
    let error = store.scan(&scan).unwrap_err().to_string();
    assert!(
        error.contains("more than 99") && error.contains("--since"),
        "{error}"
    );
    assert_eq!(
        store.scan(&scan.clone().limit(1_000)).unwrap().rows.len(),
        99
    );
    scan.rows_max = 100;
    assert_eq!(store.scan(&scan).unwrap().rows.len(), 100);
    let mut filter = Filter::All;
    for _ in 0..40 {
        filter = Filter::Not(Box::new(filter));
    }
    let error = store.scan(&Scan::default().filter(filter)).unwrap_err();
    assert!(matches!(error, StoreError::Filter(_)));
}

#[test]
fn files_are_as_the_specification_says() {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 1_000, NOW)).unwrap();
    store.flush().unwrap();
    let path = &files(dir.path(), "parquet")[0];
    let file = std::fs::File::open(path).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let group = builder.metadata().row_group(0);
    assert_eq!(group.num_rows(), 1_000);
    let column = |name: &str| {
        let found = group
            .columns()
            .iter()
            .find(|c| c.column_path().string() == name);
        found.unwrap()
    };
    for column in group.columns() {
        assert!(column.statistics().is_some());
        assert!(column.column_index_offset().is_some(), "page index");
        assert!(format!("{:?}", column.compression()).contains("ZSTD"));
    }
    assert!(column("trace_id").bloom_filter_offset().is_some());
    let types: Vec<String> = builder
        .schema()
        .fields()
        .iter()
        .map(|f| f.data_type().to_string())
        .collect();
    for kind in &types {
        assert!(
            !kind.starts_with("UInt") && !kind.starts_with("Dictionary"),
            "{kind}"
        );
    }
    let document = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats/requests-v1.md"),
    )
    .unwrap();
    for field in builder.schema().fields() {
        let row = format!("| `{}` |", field.name());
        assert!(document.contains(&row), "{row}");
    }
    let batches: Vec<_> = builder.build().unwrap().map(Result::unwrap).collect();
    let workloads: Vec<String> = batches
        .iter()
        .flat_map(|batch| {
            let column = batch.column_by_name("dst_workload").unwrap();
            let texts = column
                .as_any()
                .downcast_ref::<arrow_array::StringArray>()
                .unwrap();
            texts
                .iter()
                .map(|t| t.unwrap().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(workloads.is_sorted());
}
