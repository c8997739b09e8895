//! Small files of closed hours become large ones.
//!
//! A flush every few minutes leaves a dozen files an hour, and rows that come
//! late leave more. Large files are smaller in sum, and a question opens fewer.
//!
//! The step from many files to one must not show rows twice or not at all,
//! whenever the process ends: a note beside the checkpoint names the new file
//! and those it replaces. While the note is there, the old files do not count
//! if the new one exists, and the new one takes its name after the note is durable.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::checkpoint::sync_dir;
use crate::error::{StoreError, io_error};
use crate::scan::{self, Order, Scan, Snapshot};
use crate::segment::{self, HOUR_US, Listing, ROW_GROUP_ROWS, Segment};
use crate::shared::{Shared, chain, count, lock};

/// How long after its end an hour counts as closed: most late rows have come by then.
const CLOSED_AFTER_US: i64 = 600_000_000;

/// Files with more rows than this stay as they are.
const SMALL_ROWS: u64 = ROW_GROUP_ROWS as u64 / 2;

/// Most files that become one: each is open while it is read.
const FILES_MAX: usize = 256;

/// The version of the note that this build writes and reads.
const VERSION: u64 = 1;

/// Which file replaces which. Paths are relative to the folder of all files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u64,
    new: PathBuf,
    old: Vec<PathBuf>,
}

fn note_path(dir: &Path) -> PathBuf {
    dir.join("compaction.json")
}

/// Reads the note; none if there is none that can be followed.
///
/// A note that cannot be read is passed by: it became whole before the new file
/// got its name, so a note in pieces is one whose new file is not there either.
fn read_note(dir: &Path) -> Result<Option<Note>, StoreError> {
    let path = note_path(dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    match serde_json::from_slice::<Note>(&bytes) {
        Ok(note) if note.version > VERSION => Err(StoreError::Newer {
            path,
            found: note.version,
            supported: VERSION,
        }),
        Ok(note) => Ok(Some(note)),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "a note that cannot be read is ignored");
            Ok(None)
        }
    }
}

fn write_note(dir: &Path, note: &Note) -> io::Result<()> {
    let temporary = dir.join(".tmp-compaction.json");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_all()?;
    fs::rename(&temporary, note_path(dir))?;
    sync_dir(dir)
}

fn forget_note(dir: &Path) -> Result<(), StoreError> {
    let path = note_path(dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("delete", path)(error))
        }
        _ => sync_dir(dir).map_err(io_error("sync", dir)),
    }
}

/// Takes files that were replaced out of `listing`, and returns them.
pub(crate) fn drop_replaced(dir: &Path, listing: &mut Listing) -> Result<Vec<Segment>, StoreError> {
    let Some(note) = read_note(dir)? else {
        return Ok(Vec::new());
    };
    let root = dir.join(segment::FOLDER);
    let new = root.join(&note.new);
    let is_whole = |segment: &Segment| segment.path == new && segment.damage.get().is_none();
    if !listing.segments.iter().any(is_whole) {
        return Ok(Vec::new());
    }
    let old: Vec<PathBuf> = note.old.iter().map(|path| root.join(path)).collect();
    let (replaced, kept) = std::mem::take(&mut listing.segments)
        .into_iter()
        .partition(|segment| old.contains(&segment.path));
    listing.segments = kept;
    Ok(replaced)
}

/// Finishes what the process before began, or forgets it.
pub(crate) fn resume(dir: &Path, listing: &mut Listing) -> Result<(), StoreError> {
    for replaced in drop_replaced(dir, listing)? {
        fs::remove_file(&replaced.path).map_err(io_error("delete", &replaced.path))?;
    }
    if note_path(dir).exists() {
        forget_note(dir)?;
    }
    Ok(())
}

impl Shared {
    /// Turns some small files of one closed hour into one. `keeping` is held meanwhile.
    ///
    /// Files that were replaced stay on disk until no question reads them any more;
    /// nothing else is replaced before they are gone.
    pub(crate) fn compact(
        &self,
        now_us: i64,
        replaced: &mut Vec<Arc<Segment>>,
    ) -> Result<(), StoreError> {
        if !replaced.is_empty() {
            return self.delete_replaced(replaced);
        }
        let Some(small) = self.small_files(now_us) else {
            return Ok(());
        };
        let result = self.merge(&small, replaced);
        drop(small);
        if let Err(error) = &result {
            count(&self.counters.compaction_failures);
            tracing::error!(
                error = chain(error),
                "small files could not be made one; they stay as they are"
            );
            self.note_error(error);
        }
        result?;
        if replaced.is_empty() {
            return Ok(());
        }
        count(&self.counters.compactions);
        self.delete_replaced(replaced)
    }

    /// Returns small files of one hour that is closed, if there are some.
    fn small_files(&self, now_us: i64) -> Option<Vec<Arc<Segment>>> {
        let segments = lock(&self.view).segments.clone();
        let mut hours: BTreeMap<i64, Vec<Arc<Segment>>> = BTreeMap::new();
        for segment in segments.iter() {
            let ends_us = segment.hour.saturating_add(1).saturating_mul(HOUR_US);
            let is_closed = ends_us.saturating_add(CLOSED_AFTER_US) <= now_us;
            let is_ours = segment.generation > 0 && segment.sum.is_some();
            let is_hurt = segment.is_hurt.load(Ordering::Relaxed);
            if is_closed && is_ours && !is_hurt && segment.rows <= SMALL_ROWS {
                hours.entry(segment.hour).or_default().push(segment.clone());
            }
        }
        hours.into_values().find_map(|mut files| {
            files.sort_by_key(|file| (file.from_us, file.generation));
            let mut rows = 0;
            files.retain(|file| {
                let fits = rows + file.rows <= ROW_GROUP_ROWS as u64;
                rows += if fits { file.rows } else { 0 };
                fits
            });
            files.truncate(FILES_MAX);
            (files.len() > 1).then_some(files)
        })
    }

    /// Writes the rows of `small` to one file and shows that in their place.
    fn merge(
        &self,
        small: &[Arc<Segment>],
        replaced: &mut Vec<Arc<Segment>>,
    ) -> Result<(), StoreError> {
        let snapshot = Snapshot {
            segments: small.to_vec(),
            ..Snapshot::default()
        };
        let all = Scan::default().order(Order::Unordered);
        let mut hurt = false;
        let mut on_damage = |segment: &Arc<Segment>, outcome| {
            hurt = true;
            self.damaged(segment, outcome)
        };
        let scanned = scan::scan(snapshot, &all, &mut on_damage)?;
        let expected: u64 = small.iter().map(|file| file.rows).sum();
        if hurt {
            // It is known by name now, and is no small file any more.
            return Ok(());
        }
        if scanned.rows.len() as u64 != expected {
            self.find_liar(small);
            return Ok(());
        }
        let generation = small.iter().map(|file| file.generation).max().unwrap_or(0);
        let root = self.dir.join(segment::FOLDER);
        let relative = |path: &Path| path.strip_prefix(&root).unwrap_or(path).to_owned();
        let note = |new: &Path| {
            let note = Note {
                version: VERSION,
                new: relative(new),
                old: small.iter().map(|file| relative(&file.path)).collect(),
            };
            write_note(&self.dir, &note)?;
            self.step("note written");
            Ok(())
        };
        let hour = small.first().map_or(0, |file| file.hour);
        let merged = segment::merge(&self.dir, generation, hour, &scanned.rows, &note)?;
        self.step("new file in place");
        let mut view = lock(&self.view);
        let is_old = |held: &Arc<Segment>| small.iter().any(|file| Arc::ptr_eq(file, held));
        let kept = view.segments.iter().filter(|held| !is_old(held)).cloned();
        let mut segments: Vec<_> = kept.chain([Arc::new(merged)]).collect();
        segments.sort_by(|a, b| (a.from_us, &a.path).cmp(&(b.from_us, &b.path)));
        view.segments = Arc::new(segments);
        drop(view);
        *replaced = small.to_vec();
        Ok(())
    }

    /// Names the files that do not hold the number of rows in their names.
    fn find_liar(&self, small: &[Arc<Segment>]) {
        for file in small {
            let snapshot = Snapshot {
                segments: vec![file.clone()],
                ..Snapshot::default()
            };
            let scanned = scan::scan(snapshot, &Scan::default().limit(0), &mut |_, _| true);
            let holds = scanned.map_or(0, |scanned| scanned.matched);
            if holds != file.rows {
                let why = format!("it holds {holds} rows, its name says {}", file.rows);
                self.damaged(file, segment::Outcome::Damaged(why));
            }
        }
    }

    /// Deletes replaced files that no question reads any more.
    fn delete_replaced(&self, replaced: &mut Vec<Arc<Segment>>) -> Result<(), StoreError> {
        let mut failed = Ok(());
        replaced.retain(|file| {
            if failed.is_err() || Arc::strong_count(file) > 1 {
                return true;
            }
            match fs::remove_file(&file.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    failed = Err(io_error("delete", &file.path)(error));
                    true
                }
                _ => {
                    self.step("one old file deleted");
                    false
                }
            }
        });
        failed?;
        if replaced.is_empty() {
            forget_note(&self.dir)?;
        }
        Ok(())
    }
}
