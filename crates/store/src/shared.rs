//! What the store's callers and its threads share, and how a batch comes in.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use whodunit_model::Rows;

use crate::boots::{BootKey, Boots};
use crate::checkpoint::{Totals, sync_dir};
use crate::error::{BatchError, StoreError, io_error};
use crate::hot::{Chunk, Hot};
use crate::keep::{Keeping, Sealed};
use crate::log::{self, Frame};
use crate::options::{Options, Sync};
use crate::scan::{self, Scan, Scanned, Snapshot};
use crate::segment::{self, Segment};
use crate::stats::Damage;
use crate::store::{Appended, ReceivedBatch};

/// Damages that are remembered by name.
pub(crate) const DAMAGES_MAX: usize = 100;

/// What the store's threads and callers share. Locks are taken in the order of the fields.
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    /// Held while rows move to files or files are deleted.
    pub(crate) keeping: Mutex<Keeping>,
    /// How many frames are durable; held while the log is synced.
    pub(crate) synced: Mutex<u64>,
    /// Counts the times the durable numbers moved.
    pub(crate) durable_moves: Mutex<u64>,
    pub(crate) durable_signal: Condvar,
    /// None if opened for reading only.
    pub(crate) ingest: Option<Mutex<Ingest>>,
    pub(crate) view: Mutex<View>,
    /// The number of rows that came, for those who wait for more.
    pub(crate) ingested: Mutex<u64>,
    pub(crate) ingested_signal: Condvar,
    /// Tells the threads what to do.
    pub(crate) orders: Mutex<Orders>,
    pub(crate) orders_signal: Condvar,
    pub(crate) on_durable: Listeners,
    pub(crate) on_ingested: Listeners,
    pub(crate) run: u32,
    /// Rows that were there when the store was opened.
    pub(crate) opened_with: u64,
    pub(crate) counters: Counters,
    pub(crate) lock: Mutex<Option<File>>,
    #[cfg(test)]
    pub(crate) on_step: OnStep,
}

/// Is called when something moved.
pub(crate) type Listener = dyn Fn() + Send + std::marker::Sync;

pub(crate) type Listeners = Mutex<Vec<Arc<Listener>>>;

/// Is called at each step of a flush.
#[cfg(test)]
pub(crate) type OnStep = Mutex<Option<Box<dyn Fn(&'static str) + Send>>>;

#[derive(Debug, Default)]
pub(crate) struct Orders {
    pub(crate) stop: bool,
    pub(crate) keep: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) batches: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) overloaded: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) flush_failures: AtomicU64,
    pub(crate) sync_failures: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compaction_failures: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The writing side.
#[derive(Debug)]
pub(crate) struct Ingest {
    pub(crate) log: log::Writer,
    /// Bytes of the log files before the present one that are still there.
    pub(crate) older_log_bytes: u64,
    pub(crate) boots: Boots,
    /// Boots with batches that are not durable yet.
    pub(crate) dirty: HashMap<BootKey, u64>,
    /// Earlier log files with frames that are not durable yet.
    pub(crate) unsynced: Vec<Arc<File>>,
    /// Frames written since the store was opened.
    pub(crate) frames: u64,
    /// A file was created since the log's directory was last synced.
    pub(crate) new_file: bool,
    /// A sync of this log file failed: what is in it can only become durable by a flush.
    pub(crate) poisoned: Option<u64>,
    pub(crate) closed: bool,
}

/// The reading side.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) hot: Hot,
    /// Rows that are being written to files.
    pub(crate) sealed: Option<Arc<Sealed>>,
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) log_damages: Vec<Damage>,
    pub(crate) file_damages: Vec<Damage>,
    /// Things with names of ours that are not what these names say.
    pub(crate) foreign: Vec<Damage>,
    pub(crate) totals: Totals,
    pub(crate) last_error: Option<String>,
}

impl View {
    /// First and last `at` of the rows in memory, in parts.
    pub(crate) fn hot_times(&self) -> impl Iterator<Item = (i64, i64)> {
        let sealed = self.sealed.iter().flat_map(|sealed| &sealed.chunks);
        let sealed = sealed.map(|chunk| (chunk.from_us, chunk.last_us));
        sealed.chain(self.hot.times())
    }

    fn chunks(&mut self) -> Result<Vec<Arc<Chunk>>, StoreError> {
        let hot = self.hot.snapshot().map_err(StoreError::Columns)?;
        let sealed = self.sealed.iter().flat_map(|sealed| sealed.chunks.clone());
        Ok(sealed.chain(hot).collect())
    }

    /// Rows in memory, those being written included.
    pub(crate) fn hot_rows(&self) -> usize {
        self.hot.rows() + self.sealed.as_ref().map_or(0, |sealed| sealed.rows)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn ingest(&self) -> Result<MutexGuard<'_, Ingest>, StoreError> {
        match &self.ingest {
            Some(ingest) => Ok(lock(ingest)),
            None => Err(StoreError::ReadOnly {
                path: self.dir.clone(),
            }),
        }
    }

    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        self.ingest().map(drop)
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub(crate) fn note_error(&self, error: &StoreError) {
        let text = chain(error);
        lock(&self.view).last_error = Some(text);
    }

    pub(crate) fn tell(listeners: &Listeners) {
        let all: Vec<_> = lock(listeners).clone();
        for listener in all {
            listener();
        }
    }

    pub(crate) fn durable_moved(&self) {
        *lock(&self.durable_moves) += 1;
        self.durable_signal.notify_all();
        Self::tell(&self.on_durable);
    }

    pub(crate) fn wake_keeper(&self) {
        lock(&self.orders).keep = true;
        self.orders_signal.notify_all();
    }

    /// Makes everything durable that was written before the call.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let wanted = self.ingest()?.frames;
        let mut synced = lock(&self.synced);
        if *synced >= wanted {
            return Ok(());
        }
        let (mut files, dirty, new_file, frames, path) = {
            let mut ingest = self.ingest()?;
            if ingest.poisoned.is_some() {
                drop(ingest);
                self.wake_keeper();
                return Err(io_error("sync", self.log_dir())(std::io::Error::other(
                    "an earlier write to the log was lost; its records are being saved in files",
                )));
            }
            let files = std::mem::take(&mut ingest.unsynced);
            let dirty = std::mem::take(&mut ingest.dirty);
            let new_file = std::mem::take(&mut ingest.new_file);
            let path = ingest.log.path().to_owned();
            (
                [files, vec![ingest.log.file()]].concat(),
                dirty,
                new_file,
                ingest.frames,
                path,
            )
        };
        let result = files
            .drain(..)
            .try_for_each(|file| file.sync_data())
            .and_then(|()| {
                if new_file {
                    sync_dir(&self.log_dir())
                } else {
                    Ok(())
                }
            });
        let mut ingest = self.ingest()?;
        if let Err(error) = result {
            // After a failed sync the system may have dropped the data, and a
            // second sync would report success. Only files make it durable now.
            ingest.poisoned = Some(ingest.log.number());
            drop(ingest);
            count(&self.counters.sync_failures);
            let error = io_error("sync", path)(error);
            tracing::error!(error = chain(&error), "the log could not be made durable");
            self.note_error(&error);
            self.wake_keeper();
            return Err(error);
        }
        for (key, sequence) in &dirty {
            ingest.boots.set_durable(key, *sequence);
        }
        drop(ingest);
        *synced = frames;
        drop(synced);
        if !dirty.is_empty() {
            self.durable_moved();
        }
        Ok(())
    }

    pub(crate) fn append(
        &self,
        batch: ReceivedBatch<'_>,
        now_us: i64,
    ) -> Result<Appended, StoreError> {
        let refuse = |source: BatchError| {
            count(&self.counters.refused);
            StoreError::Batch {
                proxy: batch.proxy.clone(),
                boot: batch.boot,
                sequence: batch.sequence,
                source,
            }
        };
        check(&batch).map_err(refuse)?;
        let rows = whodunit_flight::decode(batch.payload).map_err(|error| refuse(error.into()))?;
        let mut ingest = self.ingest()?;
        if ingest.closed {
            return Err(StoreError::Closed);
        }
        let state = ingest.boots.entry(batch.proxy, batch.boot, now_us);
        if batch.sequence <= state.written {
            count(&self.counters.duplicates);
            return Ok(Appended {
                rows: 0,
                duplicate: true,
                written: state.written,
                durable: state.durable,
            });
        }
        let hot_rows = lock(&self.view).hot_rows();
        if hot_rows >= self.options.hot_rows_max {
            drop(ingest);
            count(&self.counters.overloaded);
            self.wake_keeper();
            return Err(StoreError::Overloaded { rows: hot_rows });
        }
        let frame = Frame {
            proxy: batch.proxy.clone(),
            boot: batch.boot,
            sequence: batch.sequence,
            received_us: now_us,
            clock_offset_us: batch.clock_offset_us,
            payload: Some(batch.payload),
        };
        let flush_now = self.write(&mut ingest, &frame, Some(&rows), now_us)?;
        let log_is_long =
            ingest.older_log_bytes + ingest.log.length() >= self.options.flush_log_bytes;
        drop(ingest);
        count(&self.counters.batches);
        if flush_now || log_is_long {
            self.wake_keeper();
        }
        self.ingested_signal.notify_all();
        Self::tell(&self.on_ingested);
        if self.options.sync == Sync::Always {
            self.sync()?;
        }
        let ingest = self.ingest()?;
        let state = ingest.boots.get(batch.proxy, batch.boot);
        Ok(Appended {
            rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            duplicate: false,
            written: state.map_or(batch.sequence, |state| state.written),
            durable: state.map_or(0, |state| state.durable),
        })
    }

    /// Writes a frame to the log and shows its rows; says whether memory is full enough for a flush.
    pub(crate) fn write(
        &self,
        ingest: &mut Ingest,
        frame: &Frame<'_>,
        rows: Option<&Rows>,
        now_us: i64,
    ) -> Result<bool, StoreError> {
        let written = ingest.log.append(frame);
        if let Err(error) = written {
            let error = io_error("append to", ingest.log.path())(error);
            if ingest.log.is_broken() {
                ingest.poisoned = Some(ingest.log.number());
                self.wake_keeper();
            }
            self.note_error(&error);
            return Err(error);
        }
        ingest.frames += 1;
        let state = ingest.boots.entry(&frame.proxy, frame.boot, now_us);
        let Some(rows) = rows else {
            state.closed = Some(frame.sequence);
            return Ok(false);
        };
        state.written = frame.sequence;
        let key = (frame.proxy.clone(), frame.boot);
        ingest.dirty.insert(key, frame.sequence);
        let mut view = lock(&self.view);
        view.hot.push(rows, now_us).map_err(StoreError::Columns)?;
        *lock(&self.ingested) = view.hot.end();
        Ok(view.hot.rows() >= self.options.flush_rows)
    }

    pub(crate) fn scan(&self, scan: &Scan) -> Result<Scanned, StoreError> {
        let snapshot = {
            let mut view = lock(&self.view);
            Snapshot {
                chunks: view.chunks()?,
                segments: view.segments.to_vec(),
            }
        };
        let mut on_damage = |segment: &Arc<Segment>, outcome| self.damaged(segment, outcome);
        let mut scanned = scan::scan(snapshot, scan, &mut on_damage)?;
        let view = lock(&self.view);
        let frames = view.log_damages.iter().chain(&view.foreign);
        let frames = frames
            .filter(|damage| damage.last_us >= scan.from_us && damage.from_us < scan.until_us)
            .count();
        drop(view);
        scanned.damaged += frames as u64;
        scanned.complete &= frames == 0;
        Ok(scanned)
    }

    /// Hears of a file that could not be read whole; says whether that is damage.
    pub(crate) fn damaged(&self, segment: &Arc<Segment>, outcome: segment::Outcome) -> bool {
        let why = match outcome {
            segment::Outcome::Whole => return false,
            segment::Outcome::Damaged(why) => why,
            segment::Outcome::Gone => "the file is missing".to_owned(),
        };
        let mut view = lock(&self.view);
        let is_held = view.segments.iter().any(|held| Arc::ptr_eq(held, segment));
        if !is_held {
            return false;
        }
        if !segment.is_hurt.swap(true, Ordering::Relaxed) {
            let damage = segment_damage(segment, why);
            tracing::warn!(
                file = damage.what,
                why = damage.why,
                "a damaged file was skipped"
            );
            push_damage(&mut view.file_damages, damage);
        }
        true
    }

    pub(crate) fn close(&self, threads: &Mutex<Vec<JoinHandle<()>>>) {
        lock(&self.orders).stop = true;
        self.orders_signal.notify_all();
        let this = std::thread::current().id();
        for thread in std::mem::take(&mut *lock(threads)) {
            // A listener may hold the last clone, so this may be one of the threads.
            if thread.thread().id() != this {
                let _ = thread.join();
            }
        }
        if let Ok(mut ingest) = self.ingest() {
            ingest.closed = true;
        }
        if self.ingest.is_some() {
            // A failure was logged and counted, and proxies keep what is not durable.
            let _ = self.sync();
        }
        *lock(&self.lock) = None;
    }
}

/// Remembers a damage unless there are too many already.
pub(crate) fn push_damage(damages: &mut Vec<Damage>, damage: Damage) {
    if damages.len() < DAMAGES_MAX {
        damages.push(damage);
    }
}

pub(crate) fn segment_damage(segment: &Segment, why: String) -> Damage {
    Damage {
        what: segment.path.display().to_string(),
        why,
        from_us: segment.from_us,
        last_us: segment.last_us,
    }
}

/// Prints an error and what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn check(batch: &ReceivedBatch<'_>) -> Result<(), BatchError> {
    if batch.sequence == 0 {
        return Err(BatchError::Sequence);
    }
    if batch.payload.len() > log::PAYLOAD_BYTES_MAX {
        return Err(BatchError::TooLarge {
            bytes: batch.payload.len(),
            bytes_max: log::PAYLOAD_BYTES_MAX,
        });
    }
    let proxy = batch.proxy;
    let names = [&proxy.namespace, &proxy.workload, &proxy.instance];
    if names.iter().any(|name| name.len() > log::NAME_BYTES_MAX) {
        return Err(BatchError::Name {
            bytes_max: log::NAME_BYTES_MAX,
        });
    }
    Ok(())
}
