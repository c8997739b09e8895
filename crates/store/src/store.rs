//! The store itself: what callers hold.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use whodunit_model::filter::Field;
use whodunit_model::{BootId, Filter, RequestId, Rows};

use crate::boots::{BootState, ProxyName};
use crate::error::{StoreError, io_error};
use crate::follow::{self, Cursor, Followed};
use crate::keep;
use crate::log::Frame;
use crate::options::{Options, Sync};
use crate::scan::{Order, Scan, Scanned};
use crate::shared::{Listener, Shared, lock};
use crate::stats::StoreStats;

/// A batch as it came from a proxy.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedBatch<'a> {
    /// Who sent it.
    pub proxy: &'a ProxyName,
    /// The boot of the proxy.
    pub boot: BootId,
    /// Its number within the boot, from 1; gaps are allowed.
    pub sequence: u64,
    /// The encoded rows: see `whodunit_flight::encode`.
    pub payload: &'a [u8],
    /// The proxy's clock minus the server's, µs.
    pub clock_offset_us: i64,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Rows that are visible now.
    pub rows: u32,
    /// The batch was there already and was dropped.
    pub duplicate: bool,
    /// Highest sequence of the boot that is written.
    pub written: u64,
    /// Highest sequence of the boot that survives a crash.
    pub durable: u64,
}

/// Opens the store in a data directory for reading and writing.
///
/// # Errors
/// When the directory cannot be used, another process uses it, or a newer
/// version wrote it. Damage within is no error: see [`StoreStats::damaged`].
pub fn open(options: Options) -> Result<Store, StoreError> {
    let background = options.background;
    let interval = match options.sync {
        Sync::Interval(interval) => interval,
        Sync::Always => Duration::from_secs(1),
    };
    let shared = Arc::new(crate::open::open(options)?);
    let threads = if background {
        keep::spawn(&shared, interval).map_err(io_error("start threads for", &shared.dir))?
    } else {
        Vec::new()
    };
    Ok(Store {
        owner: Arc::new(Owner {
            shared,
            threads: Mutex::new(threads),
        }),
    })
}

/// Opens a data directory, which another process may be using, or a single
/// Parquet file, for questions only. Nothing on disk is changed; what comes in
/// later is not seen.
///
/// # Errors
/// When the path cannot be read, holds no records, or a newer version wrote it.
pub fn open_read_only(path: &Path) -> Result<Store, StoreError> {
    Ok(Store {
        owner: Arc::new(Owner {
            shared: Arc::new(crate::open::open_read_only(path)?),
            threads: Mutex::default(),
        }),
    })
}

/// A store of records. Clones share it; the last one closes it.
#[derive(Clone, Debug)]
pub struct Store {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close(&self.threads);
    }
}

impl Store {
    /// Takes a batch that came at `now_us` (µs since the epoch): writes it to
    /// the log and shows its rows to every question. A batch whose sequence is
    /// not above the last one of its boot is dropped as a duplicate.
    ///
    /// # Errors
    /// [`StoreError::Batch`] when the batch itself is bad: it is counted, and
    /// the next one may be fine. Otherwise the store could not take it, and it
    /// should be sent again.
    pub fn append(&self, batch: ReceivedBatch<'_>, now_us: i64) -> Result<Appended, StoreError> {
        self.owner.shared.append(batch, now_us)
    }

    /// Notes that a boot ended in order after the batch with `last_sequence`.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn closing(
        &self,
        proxy: &ProxyName,
        boot: BootId,
        last_sequence: u64,
        now_us: i64,
    ) -> Result<(), StoreError> {
        let shared = &self.owner.shared;
        let frame = Frame {
            proxy: proxy.clone(),
            boot,
            sequence: last_sequence,
            received_us: now_us,
            clock_offset_us: 0,
            payload: None,
        };
        let mut ingest = shared.ingest()?;
        if ingest.closed {
            return Err(StoreError::Closed);
        }
        shared.write(&mut ingest, &frame, None, now_us).map(|_| ())
    }

    /// Makes everything durable that was written before the call.
    ///
    /// # Errors
    /// When the disk does not take it. Its records are then saved in files as
    /// soon as that works, and become durable by that.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.owner.shared.sync()
    }

    /// Writes all rows in memory to files now.
    ///
    /// # Errors
    /// When files cannot be written; the rows stay in memory and in the log.
    pub fn flush(&self) -> Result<(), StoreError> {
        let shared = &self.owner.shared;
        shared.check_writable()?;
        let _keeping = lock(&shared.keeping);
        shared.flush()
    }

    /// Flushes what is due and deletes what is too old or too much at `now_us`
    /// (µs since the epoch). Threads of the store's own do this each second
    /// unless [`Options::background`] is off.
    ///
    /// # Errors
    /// When files cannot be written or deleted.
    pub fn maintain(&self, now_us: i64) -> Result<(), StoreError> {
        let shared = &self.owner.shared;
        shared.check_writable()?;
        shared.maintain(now_us)
    }

    /// Highest sequence of a boot that is written, 0 if it is not known.
    #[must_use]
    pub fn written(&self, proxy: &ProxyName, boot: BootId) -> u64 {
        self.boot(proxy, boot).map_or(0, |state| state.written)
    }

    /// Highest sequence of a boot that survives a crash, 0 if it is not known.
    #[must_use]
    pub fn durable(&self, proxy: &ProxyName, boot: BootId) -> u64 {
        self.boot(proxy, boot).map_or(0, |state| state.durable)
    }

    fn boot(&self, proxy: &ProxyName, boot: BootId) -> Option<BootState> {
        let ingest = self.owner.shared.ingest().ok()?;
        ingest.boots.get(proxy, boot).cloned()
    }

    /// Every boot that is remembered, by proxy and time.
    #[must_use]
    pub fn boots(&self) -> Vec<BootState> {
        let Ok(ingest) = self.owner.shared.ingest() else {
            return Vec::new();
        };
        let mut boots: Vec<BootState> = ingest.boots.iter().cloned().collect();
        drop(ingest);
        boots.sort_by(|a, b| (&a.proxy, a.last_seen_us).cmp(&(&b.proxy, b.last_seen_us)));
        boots
    }

    /// Waits until the boot's batches up to `sequence` are durable; `false` when the time is over.
    #[must_use]
    pub fn wait_durable(
        &self,
        proxy: &ProxyName,
        boot: BootId,
        sequence: u64,
        timeout: Duration,
    ) -> bool {
        let shared = &self.owner.shared;
        wait(
            &shared.durable_moves,
            &shared.durable_signal,
            timeout,
            |_| self.durable(proxy, boot) >= sequence,
        )
    }

    /// Calls `listener` each time a durable number moved, on the thread that
    /// moved it. It must be quick, must not flush, and must not hold a clone of
    /// the store, which would then never be closed.
    pub fn on_durable(&self, listener: Box<Listener>) {
        lock(&self.owner.shared.on_durable).push(listener.into());
    }

    /// Calls `listener` each time rows came, under the conditions of [`Store::on_durable`].
    pub fn on_ingested(&self, listener: Box<Listener>) {
        lock(&self.owner.shared.on_ingested).push(listener.into());
    }

    /// Looks for rows of the past, up to this moment.
    ///
    /// # Errors
    /// When the filter is too large, a column is not known, or more rows match
    /// than may be returned. Damage is no error: see [`Scanned::complete`].
    pub fn scan(&self, scan: &Scan) -> Result<Scanned, StoreError> {
        self.owner.shared.scan(scan)
    }

    /// Returns the rows of one request, both sides, its open rows and attempts included.
    ///
    /// Rows are filed by their end, so they are looked for from shortly before
    /// the start in the id until `slack_us` after it, and only if the last
    /// word is not among them until the end of history.
    ///
    /// # Errors
    /// When it has absurdly many rows.
    pub fn get(&self, id: RequestId, slack_us: i64) -> Result<Rows, StoreError> {
        let filter = Filter::text(Field::Id, id.to_string());
        let early = slack_us.min(CLOCK_SKEW_US);
        let mut scan = Scan::range(
            id.start_us.saturating_sub(early),
            id.start_us.saturating_add(slack_us),
        )
        .filter(filter)
        .order(Order::OldestFirst);
        let rows = self.scan(&scan)?.rows;
        if (0..rows.len()).any(|index| rows.is_final(index)) {
            return Ok(rows);
        }
        scan.until_us = i64::MAX;
        Ok(self.scan(&scan)?.rows)
    }

    /// Returns the cursor after the last row that came.
    #[must_use]
    pub fn cursor_now(&self) -> Cursor {
        let shared = &self.owner.shared;
        Cursor {
            run: shared.run,
            ordinal: lock(&shared.view).hot.end(),
        }
    }

    /// Returns rows that came after `cursor` and match, at most `max` of them.
    ///
    /// A cursor of an earlier run of the store stands for the start of this run.
    ///
    /// # Errors
    /// When the filter is too large.
    pub fn follow(
        &self,
        cursor: Cursor,
        filter: &Filter,
        max: usize,
    ) -> Result<Followed, StoreError> {
        filter.check()?;
        let cursor = self.present(cursor);
        let (chunks, end) = {
            let mut view = lock(&self.owner.shared.view);
            let chunks = view.hot.since(cursor.ordinal);
            (chunks.map_err(StoreError::Columns)?, view.hot.end())
        };
        Ok(follow::follow(&chunks, cursor, end, filter, max))
    }

    /// Waits until a row came after `cursor`; `false` when the time is over.
    #[must_use]
    pub fn wait_ingested(&self, cursor: Cursor, timeout: Duration) -> bool {
        let shared = &self.owner.shared;
        let cursor = self.present(cursor);
        wait(&shared.ingested, &shared.ingested_signal, timeout, |end| {
            *end > cursor.ordinal
        })
    }

    fn present(&self, cursor: Cursor) -> Cursor {
        let shared = &self.owner.shared;
        if cursor.run == shared.run {
            return cursor;
        }
        Cursor {
            run: shared.run,
            ordinal: shared.opened_with,
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.owner.shared
    }

    #[cfg(test)]
    pub(crate) fn shared_on_step(&self) -> &crate::shared::OnStep {
        &self.owner.shared.on_step
    }

    /// Does as a failed sync does.
    #[cfg(test)]
    pub(crate) fn poison_log(&self) {
        if let Ok(mut ingest) = self.owner.shared.ingest() {
            ingest.poisoned = Some(ingest.log.number());
        }
    }

    /// Compares every file that was not read yet with its checksum. Reads all of
    /// history once; what is damaged is in [`Store::stats`] afterwards.
    pub fn verify(&self) {
        self.owner.shared.verify(usize::MAX);
    }

    /// Returns the state of the store in numbers.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.owner.shared.stats()
    }

    /// The data directory or file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.owner.shared.dir
    }

    /// Makes the log durable, stops the store's threads and lets go of the
    /// directory. Questions are still answered, batches are not taken any more.
    /// Dropping the last clone does the same.
    pub fn close(&self) {
        self.owner.shared.close(&self.owner.threads);
    }
}

/// How far the clocks of two proxies of one request may lie apart, µs.
const CLOCK_SKEW_US: i64 = 60_000_000;

/// Waits until `done` holds for the value; `false` when the time is over.
fn wait<T>(
    value: &Mutex<T>,
    signal: &Condvar,
    timeout: Duration,
    done: impl Fn(&T) -> bool,
) -> bool {
    let deadline = Instant::now() + timeout;
    let mut guard = lock(value);
    loop {
        if done(&guard) {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        (guard, _) = signal
            .wait_timeout(guard, left)
            .unwrap_or_else(PoisonError::into_inner);
    }
}
