//! What is done with rows as time passes: they move from memory to files, and
//! old hours are deleted. Neither holds up batches or questions.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use whodunit_model::Rows;

use crate::boots::BootState;
use crate::checkpoint::{self, Checkpoint};
use crate::columns::{self, Wanted};
use crate::error::{StoreError, io_error};
use crate::hot::Chunk;
use crate::log;
use crate::segment::{self, HOUR_US, Segment};
use crate::shared::{Shared, chain, count, lock};

/// How often the keeper looks what is due.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long after a failed flush it is tried again.
const RETRY_US: i64 = 5_000_000;

/// How long after a failure small files stay as they are.
const COMPACT_RETRY_US: i64 = 60_000_000;

/// How often hours are looked at for deletion.
const RETAIN_INTERVAL_US: i64 = 60_000_000;

/// What the keeper remembers from one time to the next.
#[derive(Debug)]
pub(crate) struct Keeping {
    retained_us: i64,
    retry_us: i64,
    /// When small files are looked at again.
    compact_us: i64,
    /// Files that were replaced, until nobody reads them any more.
    replaced: Vec<Arc<Segment>>,
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            retained_us: i64::MIN,
            retry_us: i64::MIN,
            compact_us: i64::MIN,
            replaced: Vec::new(),
        }
    }
}

/// Rows that are being written to files. They do not change any more.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// The last log file that has rows of it.
    generation: u64,
    pub(crate) chunks: Vec<Arc<Chunk>>,
    pub(crate) rows: usize,
    /// The boots as of the end of that log file.
    boots: Vec<BootState>,
}

/// Starts the threads that sync the log and keep the store.
pub(crate) fn spawn(shared: &Arc<Shared>, interval: Duration) -> io::Result<Vec<JoinHandle<()>>> {
    let syncing = shared.clone();
    let syncer = std::thread::Builder::new()
        .name("store-sync".to_owned())
        .spawn(move || {
            while syncing.rest(interval, false) {
                // A failure was logged and counted by `sync`.
                let _ = syncing.sync();
            }
        })?;
    let keeping = shared.clone();
    let keeper = std::thread::Builder::new()
        .name("store-keep".to_owned())
        .spawn(move || {
            while keeping.rest(KEEP_INTERVAL, true) {
                // A failure was logged and counted by `maintain`.
                let _ = keeping.maintain(now_us());
            }
        })?;
    Ok(vec![syncer, keeper])
}

fn now_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Shared {
    /// Waits for `time`, less if the keeper is wanted; `false` when the store closes.
    fn rest(&self, time: Duration, is_keeper: bool) -> bool {
        let deadline = Instant::now() + time;
        let mut orders = lock(&self.orders);
        loop {
            if orders.stop {
                return false;
            }
            if is_keeper && std::mem::take(&mut orders.keep) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            (orders, _) = self
                .orders_signal
                .wait_timeout(orders, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Marks a point at which a test may look at the directory.
    pub(crate) fn step(&self, _name: &'static str) {
        #[cfg(test)]
        if let Some(on_step) = &*lock(&self.on_step) {
            on_step(_name);
        }
    }

    /// Flushes what is due, deletes what is too old or too much, and makes small files one.
    pub(crate) fn maintain(&self, now_us: i64) -> Result<(), StoreError> {
        let mut keeping = lock(&self.keeping);
        let mut flushed = Ok(());
        if self.flush_is_due(now_us) && now_us >= keeping.retry_us {
            flushed = self.flush();
            keeping.retry_us = match &flushed {
                Ok(()) => i64::MIN,
                Err(_) => now_us.saturating_add(RETRY_US),
            };
        }
        let mut retained = Ok(());
        if now_us.saturating_sub(keeping.retained_us) >= RETAIN_INTERVAL_US {
            keeping.retained_us = now_us;
            retained = self.retain(now_us);
        }
        let mut compacted = Ok(());
        if now_us >= keeping.compact_us {
            compacted = self.compact(now_us, &mut keeping.replaced);
            keeping.compact_us = match &compacted {
                Ok(()) => i64::MIN,
                Err(_) => now_us.saturating_add(COMPACT_RETRY_US),
            };
        }
        drop(keeping);
        self.verify(1);
        flushed.and(retained).and(compacted)
    }

    /// Compares up to `files` files that were not read yet with their checksums,
    /// so that damage is known before somebody asks for what is damaged.
    pub(crate) fn verify(&self, files: usize) {
        let segments = lock(&self.view).segments.clone();
        let unverified = segments.iter().filter(|segment| segment.is_unverified());
        for segment in unverified.take(files) {
            self.damaged(segment, segment.verify());
        }
    }

    fn flush_is_due(&self, now_us: i64) -> bool {
        let Ok(ingest) = self.ingest() else {
            return false;
        };
        let long = ingest.older_log_bytes + ingest.log.length() >= self.options.flush_log_bytes;
        let poisoned = ingest.poisoned.is_some();
        drop(ingest);
        let view = lock(&self.view);
        let age_us = i64::try_from(self.options.flush_age.as_micros()).unwrap_or(i64::MAX);
        let old = view
            .hot
            .oldest_received_us()
            .is_some_and(|received_us| now_us.saturating_sub(received_us) >= age_us);
        long || poisoned
            || old
            || view.sealed.is_some()
            || view.hot.rows() >= self.options.flush_rows
    }

    /// Writes all rows in memory to files. `keeping` is held meanwhile.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let result = self.try_flush();
        if let Err(error) = &result {
            count(&self.counters.flush_failures);
            tracing::error!(
                error = chain(error),
                "records could not be written to files; they stay in memory and in the log"
            );
            self.note_error(error);
        }
        result
    }

    fn try_flush(&self) -> Result<(), StoreError> {
        let pending = lock(&self.view).sealed.clone();
        if let Some(sealed) = pending {
            self.save(&sealed)?;
        }
        match self.seal()? {
            Some(sealed) => self.save(&sealed),
            None => Ok(()),
        }
    }

    /// Takes the rows in memory and the log file they are in out of use; none if there are none.
    fn seal(&self) -> Result<Option<Arc<Sealed>>, StoreError> {
        let mut ingest = self.ingest()?;
        if ingest.log.is_empty() && ingest.older_log_bytes == 0 && ingest.poisoned.is_none() {
            return Ok(None);
        }
        let log_dir = self.log_dir();
        let generation = ingest.log.number();
        let next = log::Writer::create(&log_dir, generation + 1)
            .map_err(io_error("create a log file in", &log_dir))?;
        let old = std::mem::replace(&mut ingest.log, next);
        ingest.older_log_bytes += old.length();
        ingest.new_file = true;
        if ingest.poisoned.is_some() {
            ingest.unsynced.clear();
        } else {
            ingest.unsynced.push(old.file());
        }
        let mut view = lock(&self.view);
        let rows = view.hot.rows();
        let sealed = Arc::new(Sealed {
            generation,
            chunks: view.hot.seal().map_err(StoreError::Columns)?,
            rows,
            boots: ingest.boots.iter().cloned().collect(),
        });
        view.sealed = Some(sealed.clone());
        drop(view);
        drop(ingest);
        self.step("sealed");
        Ok(Some(sealed))
    }

    /// Writes sealed rows to files and forgets their log.
    fn save(&self, sealed: &Sealed) -> Result<(), StoreError> {
        let mut rows = Rows::default();
        rows.reserve(sealed.rows);
        for chunk in &sealed.chunks {
            let length = u32::try_from(chunk.rows()).unwrap_or(u32::MAX);
            let indices: Vec<u32> = (0..length).collect();
            columns::take(&chunk.batch, Wanted(None), &indices, &mut rows);
        }
        let step = |name| self.step(name);
        let segments = segment::write(&self.dir, sealed.generation, &rows, &step)?;
        drop(rows);
        self.step("files written");
        let totals = lock(&self.view).totals;
        let checkpointed = checkpoint::write(
            &self.dir,
            &Checkpoint {
                version: checkpoint::VERSION,
                generation: sealed.generation,
                boots: sealed
                    .boots
                    .iter()
                    .map(|state| BootState {
                        durable: state.written,
                        ..state.clone()
                    })
                    .collect(),
                totals,
            },
        );
        if let Err(error) = checkpointed {
            segment::discard(&segments);
            return Err(error);
        }
        self.step("checkpoint written");
        {
            let mut view = lock(&self.view);
            let all = view.segments.iter().cloned();
            let all = all.chain(segments.into_iter().map(Arc::new)).collect();
            view.segments = Arc::new(all);
            view.sealed = None;
        }
        {
            let mut ingest = self.ingest()?;
            for state in &sealed.boots {
                let key = (state.proxy.clone(), state.boot);
                ingest.boots.set_durable(&key, state.written);
            }
            ingest.poisoned = ingest.poisoned.filter(|number| *number > sealed.generation);
        }
        count(&self.counters.flushes);
        self.durable_moved();
        let left = self.delete_log(sealed.generation)?;
        let mut ingest = self.ingest()?;
        ingest.older_log_bytes = left;
        drop(ingest);
        self.step("log deleted");
        Ok(())
    }

    /// Deletes log files up to `generation`; returns the bytes of older log files that are left.
    fn delete_log(&self, generation: u64) -> Result<u64, StoreError> {
        let dir = self.log_dir();
        let files = log::list(&dir).map_err(io_error("read", &dir))?;
        let present = self.ingest()?.log.number();
        let mut left = 0;
        for (number, path) in files {
            if number <= generation {
                if path.is_dir() {
                    continue;
                }
                remove(&path)?;
                self.step("one log file deleted");
            } else if number < present {
                left += fs::metadata(&path).map_or(0, |metadata| metadata.len());
            }
        }
        Ok(left)
    }

    /// Deletes whole hours, oldest first: those that are too old, and as many as are too much.
    fn retain(&self, now_us: i64) -> Result<(), StoreError> {
        let age_us = i64::try_from(self.options.retention_age_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        let oldest_us = now_us.saturating_sub(age_us);
        let log_bytes = {
            let ingest = self.ingest()?;
            ingest.older_log_bytes + ingest.log.length()
        };
        let segments = lock(&self.view).segments.clone();
        let mut hours: BTreeMap<i64, Vec<Arc<Segment>>> = BTreeMap::new();
        for segment in segments.iter() {
            hours.entry(segment.hour).or_default().push(segment.clone());
        }
        let mut bytes = log_bytes + segments.iter().map(|segment| segment.bytes).sum::<u64>();
        let newest = hours.last_key_value().map(|(hour, _)| *hour);
        for (hour, segments) in hours {
            let is_old = (hour + 1).saturating_mul(HOUR_US) <= oldest_us;
            let is_too_much = bytes > self.options.retention_bytes && Some(hour) != newest;
            if !is_old && !is_too_much {
                continue;
            }
            self.delete_hour(&segments)?;
            let rows: u64 = segments.iter().map(|segment| segment.rows).sum();
            bytes -= segments.iter().map(|segment| segment.bytes).sum::<u64>();
            let mut view = lock(&self.view);
            view.totals.deleted_hours += 1;
            view.totals.deleted_rows += rows;
            drop(view);
            tracing::info!(
                hour = %segment::folder_of(hour).display(),
                rows,
                reason = if is_old { "age" } else { "bytes" },
                "an hour of records was deleted"
            );
        }
        Ok(())
    }

    /// Deletes the files of one hour, first from sight, then from disk.
    fn delete_hour(&self, segments: &[Arc<Segment>]) -> Result<(), StoreError> {
        {
            let mut view = lock(&self.view);
            let is_deleted = |held: &Arc<Segment>| segments.iter().any(|s| Arc::ptr_eq(s, held));
            let kept = view.segments.iter().filter(|held| !is_deleted(held));
            view.segments = Arc::new(kept.cloned().collect());
            let names: Vec<String> = segments
                .iter()
                .map(|segment| segment.path.display().to_string())
                .collect();
            view.file_damages
                .retain(|damage| !names.contains(&damage.what));
        }
        for segment in segments {
            remove(&segment.path)?;
        }
        let folder = segments.first().and_then(|segment| segment.path.parent());
        if let Some(folder) = folder {
            // Fails for a folder with somebody else's files in it, which stays.
            let emptied = fs::remove_dir(folder).is_ok();
            if let Some(day) = folder.parent().filter(|_| emptied) {
                let _ = fs::remove_dir(day);
            }
        }
        Ok(())
    }
}

/// Deletes a file that may be gone already.
fn remove(path: &std::path::Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("delete", path)(error))
        }
        _ => Ok(()),
    }
}
