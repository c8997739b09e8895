//! The state of the store in numbers.

use std::sync::atomic::Ordering;

use crate::segment::Segment;
use crate::shared::{Shared, lock};

/// Something on disk that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, with the place in it where that is known.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// First moment its rows can be of, µs since the epoch.
    pub from_us: i64,
    /// Last moment its rows can be of, µs since the epoch.
    pub last_us: i64,
}

/// The state of the store in numbers. Counters without another note count since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Rows held, in memory and in files.
    pub records: u64,
    /// Rows in memory, those being written to files included.
    pub hot_rows: u64,
    /// Files of records.
    pub files: u64,
    /// Bytes on disk, log included.
    pub disk_bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// `at` of the oldest row, µs since the epoch; none without rows.
    pub oldest_us: Option<i64>,
    /// `at` of the newest row, µs since the epoch; none without rows.
    pub newest_us: Option<i64>,
    /// What is damaged, the first two hundred of them.
    pub damaged: Vec<Damage>,
    /// How much is or was damaged: files, and log frames since the directory was made.
    pub damaged_total: u64,
    /// Whether nothing that is held is damaged.
    pub complete: bool,
    /// Batches taken.
    pub batches: u64,
    /// Batches that were there already and were dropped.
    pub duplicates: u64,
    /// Batches refused because they cannot be read.
    pub refused_batches: u64,
    /// Batches refused because too many rows waited for their file.
    pub overloaded_batches: u64,
    /// Boots that are remembered.
    pub boots: u64,
    /// Boots forgotten for lack of room.
    pub boots_forgotten: u64,
    /// Times rows were written to files.
    pub flushes: u64,
    /// Times that failed. It is tried again.
    pub flush_failures: u64,
    /// Times the log could not be made durable.
    pub sync_failures: u64,
    /// Times small files of a closed hour became one.
    pub compactions: u64,
    /// Times that failed. It is tried again.
    pub compaction_failures: u64,
    /// Rows deleted by retention since the directory was made.
    pub deleted_rows: u64,
    /// Hours deleted by retention since the directory was made.
    pub deleted_hours: u64,
    /// The last thing that failed, if anything did.
    pub last_error: Option<String>,
}

impl Shared {
    pub(crate) fn stats(&self) -> StoreStats {
        let (log_bytes, boots, boots_forgotten) = match self.ingest() {
            Ok(ingest) => (
                ingest.older_log_bytes + ingest.log.length(),
                ingest.boots.iter().count() as u64,
                ingest.boots.forgotten,
            ),
            Err(_) => (0, 0, 0),
        };
        let view = lock(&self.view);
        let files = view
            .segments
            .iter()
            .map(|file| (file.from_us, file.last_us));
        let times: Vec<(i64, i64)> = files.chain(view.hot_times()).collect();
        let sum = |part: fn(&Segment) -> u64| view.segments.iter().map(|file| part(file)).sum();
        let file_bytes: u64 = sum(|file| file.bytes);
        let file_rows: u64 = sum(|file| match file.damage.get() {
            None => file.rows,
            Some(_) => 0,
        });
        let damaged_files: u64 = sum(|file| u64::from(file.is_hurt.load(Ordering::Relaxed)));
        let hot_rows = view.hot_rows() as u64;
        let counter = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            records: hot_rows + file_rows,
            hot_rows,
            files: view.segments.len() as u64,
            disk_bytes: log_bytes + file_bytes,
            log_bytes,
            oldest_us: times.iter().map(|times| times.0).min(),
            newest_us: times.iter().map(|times| times.1).max(),
            damaged: [&view.log_damages[..], &view.file_damages, &view.foreign].concat(),
            damaged_total: view.totals.damaged_frames + damaged_files + view.foreign.len() as u64,
            complete: view.log_damages.is_empty() && view.foreign.is_empty() && damaged_files == 0,
            batches: counter(&self.counters.batches),
            duplicates: counter(&self.counters.duplicates),
            refused_batches: counter(&self.counters.refused),
            overloaded_batches: counter(&self.counters.overloaded),
            boots,
            boots_forgotten,
            flushes: counter(&self.counters.flushes),
            flush_failures: counter(&self.counters.flush_failures),
            sync_failures: counter(&self.counters.sync_failures),
            compactions: counter(&self.counters.compactions),
            compaction_failures: counter(&self.counters.compaction_failures),
            deleted_rows: view.totals.deleted_rows,
            deleted_hours: view.totals.deleted_hours,
            last_error: view.last_error.clone(),
        }
    }
}
