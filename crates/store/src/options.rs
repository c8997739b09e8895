//! Where records are kept, for how long, and how carefully.

use std::path::PathBuf;
use std::time::Duration;

/// When the log is made to survive a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// This long after the last time, for all batches of the meantime together.
    Interval(Duration),
    /// Before a batch is answered. Batches that come at the same time share one write.
    Always,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; created if it is missing.
    pub dir: PathBuf,
    /// Bytes of records that are kept on disk. Over it, whole hours are deleted,
    /// oldest first; the newest hour always stays.
    pub retention_bytes: u64,
    /// Seconds after which an hour is deleted.
    pub retention_age_s: u64,
    /// Rows in memory after which they are written to files.
    pub flush_rows: usize,
    /// Age at which rows in memory are written to files.
    pub flush_age: Duration,
    /// Bytes of log after which rows are written to files, so that a start stays fast.
    pub flush_log_bytes: u64,
    /// Rows in memory, those being written to files included, above which
    /// batches are refused until some are written.
    pub hot_rows_max: usize,
    /// When the log is made durable.
    pub sync: Sync,
    /// Rows that are kept for live followers, for a minute at most; who is slower loses some.
    pub follow_rows: usize,
    /// Boots of proxies that are remembered for dropping repeated batches.
    pub boots_max: usize,
    /// Whether threads of the store's own sync, flush and delete. Without them
    /// the owner calls [`crate::Store::sync`] and [`crate::Store::maintain`].
    pub background: bool,
}

impl Options {
    /// Returns the defaults for a data directory.
    ///
    /// 10 GiB or 7 days, whichever is less: half a year of the demo, or a week
    /// at about 1,000 requests a second. A flush each 300 s makes 12 or 13 files
    /// an hour at demo traffic; one at 262,144 rows fills a row group.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            retention_bytes: 10 << 30,
            retention_age_s: 7 * 86_400,
            flush_rows: 262_144,
            flush_age: Duration::from_secs(300),
            flush_log_bytes: 256 << 20,
            hot_rows_max: 2_097_152,
            sync: Sync::Interval(Duration::from_millis(200)),
            follow_rows: 131_072,
            boots_max: 100_000,
            background: true,
        }
    }
}
