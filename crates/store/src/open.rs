//! Opening a data directory: what a crash left is put right here.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use crate::boots::Boots;
use crate::checkpoint::{self, Checkpoint, Totals};
use crate::compact;
use crate::error::{StoreError, io_error};
use crate::hot::Hot;
use crate::log::{self, Step};
use crate::options::Options;
use crate::segment::{self, Listing, Segment};
use crate::shared::{
    Counters, DAMAGES_MAX, Ingest, Orders, Shared, View, chain, push_damage, segment_damage,
};
use crate::stats::Damage;

/// Batches are dated by when they came, records by when they ended: a damaged
/// frame may hold records this much older than its neighbors, µs.
const RECORD_AGE_US: i64 = 300_000_000;

/// How often a directory is read again when its owner changed it meanwhile.
const READ_TRIES: usize = 10;

/// Opens a data directory for reading and writing.
pub(crate) fn open(options: Options) -> Result<Shared, StoreError> {
    let dir = options.dir.clone();
    let log_dir = dir.join("log");
    for folder in [&dir, &log_dir, &dir.join(segment::FOLDER)] {
        fs::create_dir_all(folder).map_err(unusable(folder))?;
    }
    let lock_file = lock_dir(&dir)?;
    let mut listing = segment::list(&dir)?;
    let files = log::list(&log_dir).map_err(io_error("read", &log_dir))?;
    let checkpoint = match checkpoint::read(&dir)? {
        Some(checkpoint) => checkpoint,
        None => begin(&dir, &listing, &files)?,
    };
    clean(&mut listing, checkpoint.generation)?;
    compact::resume(&dir, &mut listing)?;
    let mut replayed = Replayed::new(&options, &checkpoint);
    for (number, path) in files {
        if path.is_dir() {
            replayed.no_file(number, &path);
        } else if number <= checkpoint.generation {
            fs::remove_file(&path).map_err(io_error("delete", &path))?;
        } else {
            let bytes = fs::read(&path).map_err(io_error("read", &path))?;
            replayed.file(number, &path, &bytes)?;
        }
    }
    let ingest = replayed.resume(&log_dir)?;
    let view = view(listing, &mut replayed, checkpoint.totals);
    let shared = shared(dir, options, Some(ingest), view, Some(lock_file))?;
    let stats = shared.stats();
    tracing::info!(
        dir = %shared.dir.display(),
        records = stats.records,
        replayed = stats.hot_rows,
        files = stats.files,
        damaged = stats.damaged_total,
        "the store is open"
    );
    Ok(shared)
}

/// Opens a data directory or one file for reading.
pub(crate) fn open_read_only(path: &Path) -> Result<Shared, StoreError> {
    let metadata = fs::metadata(path).map_err(io_error("read", path))?;
    let options = Options {
        background: false,
        ..Options::new(path)
    };
    if metadata.is_file() {
        return open_file(path, options);
    }
    let is_ours = checkpoint::path(path).exists() || path.join(segment::FOLDER).exists();
    if !is_ours {
        return Err(StoreError::NotRecords {
            path: path.to_owned(),
            why: "it is not a data directory: checkpoint.json and requests/v1 are missing"
                .to_owned(),
        });
    }
    for _ in 1..READ_TRIES {
        if let Some(shared) = try_read(path, &options)? {
            return Ok(shared);
        }
    }
    Err(StoreError::NotRecords {
        path: path.to_owned(),
        why: "its owner changes it faster than it can be read: ask the server instead".to_owned(),
    })
}

fn open_file(path: &Path, options: Options) -> Result<Shared, StoreError> {
    let segment = segment::open(path.to_owned(), 0);
    let readable = match segment.damage.get() {
        Some(why) => Err(why.clone()),
        None => segment::read_summary(path),
    };
    let (from_us, last_us, rows) = readable.map_err(|why| StoreError::NotRecords {
        path: path.to_owned(),
        why,
    })?;
    let listing = Listing {
        segments: vec![Segment {
            from_us,
            last_us,
            rows,
            ..segment
        }],
        ..Listing::default()
    };
    let mut replayed = Replayed::new(&options, &Checkpoint::default());
    let view = view(listing, &mut replayed, Totals::default());
    shared(path.to_owned(), options, None, view, None)
}

/// Reads a directory that somebody else may be writing to; none if it changed meanwhile.
fn try_read(dir: &Path, options: &Options) -> Result<Option<Shared>, StoreError> {
    let checkpoint = checkpoint::read(dir)?.unwrap_or_default();
    let mut listing = segment::list(dir)?;
    listing
        .segments
        .retain(|segment| segment.generation <= checkpoint.generation);
    compact::drop_replaced(dir, &mut listing)?;
    let log_dir = dir.join("log");
    let files = match log::list(&log_dir) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(io_error("read", log_dir)(error)),
    };
    let mut replayed = Replayed::new(options, &checkpoint);
    let newest = files.last().map(|(number, _)| *number);
    for (number, path) in files {
        if number <= checkpoint.generation {
            continue;
        }
        if path.is_dir() {
            replayed.no_file(number, &path);
            continue;
        }
        match fs::read(&path) {
            Ok(bytes) => replayed.file(number, &path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", path)(error)),
        }
    }
    if newest == replayed.last.as_ref().map(|last| last.number) {
        // Its owner may be writing this frame at this moment.
        replayed.forgive_tail();
    }
    let now = checkpoint::read(dir)?.unwrap_or_default();
    if now.generation != checkpoint.generation {
        return Ok(None);
    }
    let view = view(listing, &mut replayed, checkpoint.totals);
    shared(dir.to_owned(), options.clone(), None, view, None).map(Some)
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Unusable { path, source }
}

/// Takes the directory for this process.
fn lock_dir(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(unusable(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim();
            let is_number = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
            return Err(StoreError::Locked {
                path: dir.to_owned(),
                holder: if is_number {
                    format!(" by process {pid}")
                } else {
                    String::new()
                },
            });
        }
        Err(fs::TryLockError::Error(error)) => return Err(io_error("lock", path)(error)),
    }
    let note = || -> io::Result<()> {
        file.set_len(0)?;
        writeln!(&file, "{}", std::process::id())
    };
    note().map_err(io_error("write", &path))?;
    Ok(file)
}

/// Writes the first checkpoint of a directory, or one in place of one that is missing.
fn begin(dir: &Path, listing: &Listing, log: &[(u64, PathBuf)]) -> Result<Checkpoint, StoreError> {
    let generations = listing.segments.iter().map(|segment| segment.generation);
    let generations: BTreeSet<u64> = generations.collect();
    let mut newest = generations.into_iter().rev();
    let mut generation = newest.next().unwrap_or(0);
    // If the log that the newest files were made of is still there, they may not be all:
    // the log is.
    let before = newest.next().unwrap_or(0);
    let is_there = |number: u64| {
        log.binary_search_by_key(&number, |(number, _)| *number)
            .is_ok()
    };
    if generation > before
        && generation - before <= log.len() as u64
        && (before + 1..=generation).all(is_there)
    {
        generation = before;
    }
    let checkpoint = Checkpoint {
        version: checkpoint::VERSION,
        generation,
        ..Checkpoint::default()
    };
    if checkpoint.generation > 0 {
        tracing::warn!(
            dir = %dir.display(),
            generation = checkpoint.generation,
            "checkpoint.json is missing and was rebuilt from the files of records"
        );
    }
    for folder in [&dir.join("requests"), dir.parent().unwrap_or(dir)] {
        if folder.exists() {
            checkpoint::sync_dir(folder).map_err(io_error("sync", folder))?;
        }
    }
    checkpoint::write(dir, &checkpoint)?;
    Ok(checkpoint)
}

/// Deletes what was being written when the last process ended: its rows are still in the log.
fn clean(listing: &mut Listing, generation: u64) -> Result<(), StoreError> {
    let unfinished = std::mem::take(&mut listing.unfinished);
    let (kept, above) = std::mem::take(&mut listing.segments)
        .into_iter()
        .partition(|segment| segment.generation <= generation);
    listing.segments = kept;
    let above: Vec<Segment> = above;
    let above = above.into_iter().map(|segment| segment.path);
    for path in unfinished.into_iter().chain(above) {
        fs::remove_file(&path).map_err(io_error("delete", &path))?;
    }
    Ok(())
}

/// What the log held.
struct Replayed {
    boots: Boots,
    hot: Hot,
    damages: Vec<Damage>,
    /// Things with names of ours that are not what these names say.
    foreign: Vec<Damage>,
    damaged: u64,
    bytes: u64,
    /// When the last batch came.
    received_us: Option<i64>,
    last: Option<LastFile>,
    generation: u64,
    /// The torn end of the last file, described.
    torn: Option<Damage>,
}

struct LastFile {
    number: u64,
    has_header: bool,
    /// Bytes up to the end of the last whole frame.
    good: u64,
    length: u64,
}

impl Replayed {
    fn new(options: &Options, checkpoint: &Checkpoint) -> Self {
        let mut boots = Boots::new(options.boots_max);
        for boot in &checkpoint.boots {
            boots.insert(boot.clone());
        }
        Self {
            boots,
            hot: Hot::new(options.follow_rows),
            damages: Vec::new(),
            foreign: Vec::new(),
            damaged: 0,
            bytes: 0,
            received_us: None,
            last: None,
            generation: checkpoint.generation,
            torn: None,
        }
    }

    fn file(&mut self, number: u64, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(torn) = self.torn.take() {
            // Only the last file can be torn by a crash; this one was damaged later.
            self.damage(torn);
        }
        let expected = self
            .last
            .as_ref()
            .map_or(self.generation, |last| last.number)
            + 1;
        if number != expected {
            let what = log::path(path.parent().unwrap_or(path), expected);
            let damage = self.describe(&what, None, "the file is missing".to_owned(), None);
            self.damage(damage);
        }
        let steps = log::Reader::new(bytes).map_err(|newer| StoreError::Newer {
            path: path.to_owned(),
            found: newer.0.into(),
            supported: log::VERSION.into(),
        })?;
        let mut good = bytes.len();
        let mut gap: Option<Damage> = None;
        for step in steps {
            match step {
                Step::Frame(frame) => {
                    if let Some(mut gap) = gap.take() {
                        gap.last_us = frame.received_us;
                        self.damage(gap);
                    }
                    self.frame(path, &frame)?;
                }
                Step::Damaged(range) => {
                    let why = format!("{} bytes are damaged and were skipped", range.len());
                    gap = Some(self.describe(path, Some(range.start), why, None));
                }
                Step::Torn(range) => {
                    good = range.start;
                    let why = format!("the last {} bytes are torn and were cut", range.len());
                    self.torn = Some(self.describe(path, Some(range.start), why, None));
                }
            }
        }
        if bytes.is_empty() {
            // Even a file without batches has a header.
            let why = "the file is empty: if it held batches, they are lost".to_owned();
            self.torn = Some(self.describe(path, None, why, None));
        }
        self.bytes += bytes.len() as u64;
        self.last = Some(LastFile {
            number,
            has_header: log::Reader::has_header(bytes),
            good: good as u64,
            length: bytes.len() as u64,
        });
        Ok(())
    }

    /// Passes by something that has the name of a log file but is none.
    fn no_file(&mut self, number: u64, path: &Path) {
        if let Some(torn) = self.torn.take() {
            self.damage(torn);
        }
        let why = "it is not a file and was skipped: move it away".to_owned();
        let damage = self.describe(path, None, why, None);
        self.foreign.push(damage);
        if number > self.generation {
            self.last = Some(LastFile {
                number,
                has_header: false,
                good: 0,
                length: 0,
            });
        }
    }

    fn frame(&mut self, path: &Path, frame: &log::Frame<'_>) -> Result<(), StoreError> {
        self.received_us = Some(frame.received_us);
        let state = self
            .boots
            .entry(&frame.proxy, frame.boot, frame.received_us);
        let Some(payload) = frame.payload else {
            state.closed = Some(frame.sequence);
            return Ok(());
        };
        if frame.sequence <= state.written {
            return Ok(());
        }
        state.written = frame.sequence;
        match whodunit_flight::decode(payload) {
            Ok(rows) => self
                .hot
                .push(&rows, frame.received_us)
                .map_err(StoreError::Columns),
            Err(error) => {
                let why = format!(
                    "batch {} of {} cannot be read: {}",
                    frame.sequence,
                    frame.proxy,
                    chain(&error)
                );
                let damage = self.describe(path, None, why, Some(frame.received_us));
                self.damage(damage);
                Ok(())
            }
        }
    }

    /// Describes damage that follows the frames read so far.
    fn describe(
        &self,
        path: &Path,
        at: Option<usize>,
        why: String,
        last_us: Option<i64>,
    ) -> Damage {
        let at = at.map_or(String::new(), |at| format!(" at byte {at}"));
        Damage {
            what: format!("{}{at}", path.display()),
            why,
            from_us: self
                .received_us
                .map_or(i64::MIN, |us| us.saturating_sub(RECORD_AGE_US)),
            last_us: last_us.unwrap_or(i64::MAX),
        }
    }

    fn damage(&mut self, damage: Damage) {
        tracing::warn!(place = damage.what, why = damage.why, "the log is damaged");
        self.damaged += 1;
        push_damage(&mut self.damages, damage);
    }

    fn forgive_tail(&mut self) {
        self.torn = None;
    }

    /// Cuts a torn end off and goes on writing, in the last file or a new one.
    fn resume(&mut self, log_dir: &Path) -> Result<Ingest, StoreError> {
        let failed = || io_error("open the log in", log_dir);
        let cut = self.torn.take();
        let mut new_file = false;
        let writer = match &self.last {
            Some(last) if last.has_header => {
                self.bytes -= last.length;
                log::Writer::resume(log_dir, last.number, last.good).map_err(failed())?
            }
            Some(last) => {
                // Not even its header is whole: what can be read of it was.
                new_file = true;
                log::Writer::create(log_dir, last.number + 1).map_err(failed())?
            }
            None => {
                new_file = true;
                log::Writer::create(log_dir, self.generation + 1).map_err(failed())?
            }
        };
        if let Some(mut torn) = cut {
            // What was torn was written last, by a process that ended then.
            torn.last_us = self
                .received_us
                .map_or(i64::MAX, |us| us.saturating_add(RECORD_AGE_US));
            self.damage(torn);
        }
        // Frames may be in the system's memory only: a killed process leaves them there.
        let sync = || -> io::Result<()> {
            for (_, path) in log::list(log_dir)? {
                File::open(path)?.sync_all()?;
            }
            checkpoint::sync_dir(log_dir)
        };
        sync().map_err(io_error("sync", log_dir))?;
        self.boots.set_all_durable();
        Ok(Ingest {
            log: writer,
            older_log_bytes: self.bytes,
            boots: self.boots.clone(),
            dirty: std::collections::HashMap::new(),
            unsynced: Vec::new(),
            frames: 0,
            new_file,
            poisoned: None,
            closed: false,
        })
    }
}

fn view(listing: Listing, replayed: &mut Replayed, totals: Totals) -> View {
    let mut file_damages = Vec::new();
    let mut foreign = listing.damages;
    foreign.append(&mut replayed.foreign);
    for damage in &foreign {
        tracing::warn!(place = damage.what, why = damage.why, "not what it seems");
    }
    foreign.truncate(DAMAGES_MAX);
    for segment in &listing.segments {
        if let Some(why) = segment.damage.get() {
            let damage = segment_damage(segment, why.clone());
            tracing::warn!(
                file = damage.what,
                why = damage.why,
                "a damaged file is skipped"
            );
            push_damage(&mut file_damages, damage);
        }
    }
    View {
        hot: std::mem::replace(&mut replayed.hot, Hot::new(0)),
        sealed: None,
        segments: Arc::new(listing.segments.into_iter().map(Arc::new).collect()),
        log_damages: std::mem::take(&mut replayed.damages),
        file_damages,
        foreign,
        totals: Totals {
            damaged_frames: totals.damaged_frames + replayed.damaged,
            ..totals
        },
        last_error: None,
    }
}

fn shared(
    dir: PathBuf,
    options: Options,
    ingest: Option<Ingest>,
    view: View,
    lock_file: Option<File>,
) -> Result<Shared, StoreError> {
    let opened_with = view.hot.end();
    let run = getrandom::u32().map_err(|error| {
        io_error("draw a random number for", &dir)(io::Error::other(error.to_string()))
    })?;
    Ok(Shared {
        dir,
        options,
        keeping: Mutex::default(),
        synced: Mutex::default(),
        durable_moves: Mutex::default(),
        durable_signal: Condvar::new(),
        ingest: ingest.map(Mutex::new),
        view: Mutex::new(view),
        ingested: Mutex::new(opened_with),
        ingested_signal: Condvar::new(),
        orders: Mutex::new(Orders::default()),
        orders_signal: Condvar::new(),
        on_durable: Mutex::default(),
        on_ingested: Mutex::default(),
        run,
        opened_with,
        counters: Counters::default(),
        lock: Mutex::new(lock_file),
        #[cfg(test)]
        on_step: Mutex::default(),
    })
}
