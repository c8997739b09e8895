//! Promises of the store, tested at its interface.

mod basics;
mod compacting;
mod crash;
mod damage;
mod follow;
mod keeping;
mod scanning;

use std::path::Path;

use whodunit_model::{BootId, Outcome, RequestId, RequestRecord, Rows, Side};

use crate::{Appended, Options, ProxyName, ReceivedBatch, Scan, Store, StoreError, open};

/// 2026-01-31T14:02:31Z, µs.
const NOW: i64 = 1_769_868_151_000_000;
const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

fn proxy() -> ProxyName {
    ProxyName {
        namespace: "emojivoto".into(),
        workload: "web".into(),
        instance: "web-0".into(),
    }
}

const BOOT: BootId = BootId(0xfeed);

/// Options without threads, so that a test decides what happens when.
fn quiet(dir: &Path) -> Options {
    Options {
        background: false,
        ..Options::new(dir)
    }
}

fn record(n: u32, at_us: i64) -> RequestRecord {
    let id = RequestId {
        start_us: at_us - 1_500,
        boot: BOOT,
        n,
    };
    let mut record = RequestRecord::new(id, Side::Inbound, at_us - 1_500);
    record.at_us = at_us;
    record.latency_us = 1_000 + i64::from(n);
    record.duration_us = 1_500;
    record.src.workload = "web".into();
    record.dst.namespace = "emojivoto".into();
    record.dst.workload = if n.is_multiple_of(3) {
        "voting"
    } else {
        "emoji"
    }
    .into();
    record.route = format!("emojivoto.v1.Service/Route{}", n % 7).into();
    record.path = format!("/emojivoto.v1.Service/Route{}?n={n}", n % 7).into();
    record.outcome = if n.is_multiple_of(5) {
        Outcome::Failure
    } else {
        Outcome::Success
    };
    record.grpc_status = Some(if n.is_multiple_of(5) { 2 } else { 0 });
    record.status = 200;
    record.trace.trace_id = u128::from(n) + 1;
    record
}

/// Rows numbered from `first`, one millisecond apart.
fn batch(first: u32, count: u32, at_us: i64) -> Rows {
    (first..first + count)
        .map(|n| record(n, at_us + i64::from(n) * 1_000))
        .collect()
}

fn append(store: &Store, sequence: u64, rows: &Rows) -> Result<Appended, StoreError> {
    append_at(store, sequence, rows, NOW)
}

fn append_at(
    store: &Store,
    sequence: u64,
    rows: &Rows,
    now_us: i64,
) -> Result<Appended, StoreError> {
    let mut payload = Vec::new();
    whodunit_flight::encode(rows, &mut payload);
    let batch = ReceivedBatch {
        proxy: &proxy(),
        boot: BOOT,
        sequence,
        payload: &payload,
        clock_offset_us: 7,
    };
    store.append(batch, now_us)
}

/// The counters `n` of all rows, in the order of time.
fn numbers(store: &Store) -> Vec<u32> {
    let scanned = store.scan(&Scan::default()).unwrap();
    scanned.rows.id.iter().map(|id| id.n).collect()
}

fn reopen(store: Store) -> Store {
    let dir = store.path().to_owned();
    drop(store);
    open(quiet(&dir)).unwrap()
}

fn records(rows: &Rows) -> Vec<RequestRecord> {
    (0..rows.len()).map(|index| rows.record(index)).collect()
}

/// Copies a directory as a crash would leave it.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All files below a directory with this extension, sorted.
fn files(dir: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}
