//! One Parquet file of records.
//!
//! A file holds rows of one hour and never changes. Its name says what a query
//! needs to pass it by: the generation that made it, its first and last
//! moment, and how many rows it has; and the checksum of its bytes, because
//! Parquet pages have none and a flipped bit would otherwise be a wrong number.

mod read;
mod write;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use whodunit_model::time::civil_from_days;

use crate::error::{StoreError, io_error};
use crate::shared::lock;
use crate::stats::Damage;

pub(crate) use read::{Outcome, read, read_summary};
pub(crate) use write::{discard, merge, write};

/// Rows of a row group, at most. Small enough that one group is sorted in memory,
/// large enough that dictionaries pay: 14.7 bytes per row against 15.2 at 65,536.
pub(crate) const ROW_GROUP_ROWS: usize = 262_144;

/// Microseconds of an hour.
pub(crate) const HOUR_US: i64 = 3_600_000_000;

/// The last hour that has a folder: the end of the year 9999.
const HOUR_MAX: i64 = 70_389_527;

/// Where the files lie below a data directory.
pub(crate) const FOLDER: &str = "requests/v1";

/// The highest generation: what a name or a checkpoint says above it is not ours.
pub(crate) const GENERATION_MAX: u64 = u64::MAX / 4;

/// What begins the name of a file that is not finished.
const TEMPORARY: &str = ".tmp-";

/// A file of records.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// The generation that made it, 0 if its name does not say.
    pub(crate) generation: u64,
    /// Hours since the epoch: the folder it lies in.
    pub(crate) hour: i64,
    /// First `at`, µs since the epoch.
    pub(crate) from_us: i64,
    /// Last `at`, µs since the epoch.
    pub(crate) last_us: i64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// CRC-32 of all its bytes, if its name says it.
    pub(crate) sum: Option<u32>,
    /// When the file that matched the checksum was last changed, and its length.
    pub(crate) verified: Mutex<Option<(SystemTime, u64)>>,
    /// What is wrong with all of it, if that was seen when it was listed.
    pub(crate) damage: OnceLock<String>,
    /// All or part of it could not be read.
    pub(crate) is_hurt: AtomicBool,
}

/// Returns the hour whose folder a row is filed in.
pub(crate) fn hour_of(at_us: i64) -> i64 {
    at_us.div_euclid(HOUR_US).clamp(0, HOUR_MAX)
}

/// Returns the folder of an hour, below [`FOLDER`].
pub(crate) fn folder_of(hour: i64) -> PathBuf {
    let (year, month, day) = civil_from_days(hour.div_euclid(24));
    PathBuf::from(format!("date={year:04}-{month:02}-{day:02}"))
        .join(format!("hour={:02}", hour.rem_euclid(24)))
}

/// The part of a segment that its name holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    generation: u64,
    from_us: i64,
    last_us: i64,
    rows: u64,
    sum: Option<u32>,
}

impl Name {
    fn text(self) -> String {
        let sum = self.sum.map_or(String::new(), |sum| format!("-{sum:08x}"));
        format!(
            "{:010}-{:016x}-{:016x}-{}{sum}.parquet",
            self.generation,
            u64::from_ne_bytes(self.from_us.to_ne_bytes()),
            u64::from_ne_bytes(self.last_us.to_ne_bytes()),
            self.rows
        )
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".parquet")?.split('-');
        let generation = parts.next()?.parse().ok()?;
        let mut time = || {
            let bits = u64::from_str_radix(parts.next()?, 16).ok()?;
            Some(i64::from_ne_bytes(bits.to_ne_bytes()))
        };
        let (from_us, last_us) = (time()?, time()?);
        let rows = parts.next()?.parse().ok()?;
        let sum = match parts.next() {
            Some(sum) => Some(u32::from_str_radix(sum, 16).ok()?),
            None => None,
        };
        let name = Self {
            generation,
            from_us,
            last_us,
            rows,
            sum,
        };
        (parts.next().is_none() && generation <= GENERATION_MAX).then_some(name)
    }
}

/// The files found below a data directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) segments: Vec<Segment>,
    /// Files that were not finished.
    pub(crate) unfinished: Vec<PathBuf>,
    /// Folders that cannot be read because they are none.
    pub(crate) damages: Vec<Damage>,
}

impl Listing {
    /// Notes that `path` is no folder, though its name says that it holds these hours.
    fn no_folder(&mut self, path: PathBuf, hours: std::ops::Range<i64>) {
        self.damages.push(Damage {
            what: path.display().to_string(),
            why: "it is not a folder and was skipped: move it away".to_owned(),
            from_us: hours.start.saturating_mul(HOUR_US),
            last_us: hours.end.saturating_mul(HOUR_US).saturating_sub(1),
        });
    }
}

/// Lists the files of records below `dir`, which may not exist.
///
/// The end of each file is looked at, so that one that was cut short is known
/// at once. Files with names of other shapes are read as far as their footer.
pub(crate) fn list(dir: &Path) -> Result<Listing, StoreError> {
    let mut listing = Listing::default();
    let root = dir.join(FOLDER);
    for (date, day_path) in folders(&root, "date=")? {
        let Some(day) = parse_date(&date) else {
            continue;
        };
        if !day_path.is_dir() {
            listing.no_folder(day_path, day * 24..day * 24 + 24);
            continue;
        }
        for (hour, hour_path) in folders(&day_path, "hour=")? {
            let Some(hour) = hour
                .parse::<i64>()
                .ok()
                .filter(|hour| (0..24).contains(hour))
            else {
                continue;
            };
            let hour = day * 24 + hour;
            if hour_path.is_dir() {
                list_hour(&hour_path, hour, &mut listing)?;
            } else {
                listing.no_folder(hour_path, hour..hour + 1);
            }
        }
    }
    listing
        .segments
        .sort_unstable_by(|a, b| (a.from_us, &a.path).cmp(&(b.from_us, &b.path)));
    Ok(listing)
}

fn list_hour(folder: &Path, hour: i64, listing: &mut Listing) -> Result<(), StoreError> {
    for entry in entries(folder)? {
        let path = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(TEMPORARY) && !path.is_dir() {
            listing.unfinished.push(path);
        } else if name.ends_with(".parquet") {
            listing.segments.push(open(path, hour));
        }
    }
    Ok(())
}

/// Describes the file at `path`, damaged or not.
pub(crate) fn open(path: PathBuf, hour: i64) -> Segment {
    let known = path
        .file_name()
        .and_then(|name| Name::parse(name.to_str()?));
    let damage = OnceLock::new();
    let bytes = match check_end(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let _ = damage.set(error.to_string());
            fs::metadata(&path).map_or(0, |metadata| metadata.len())
        }
    };
    let name = known.unwrap_or_else(|| {
        let summary = match damage.get() {
            None => read_summary(&path).map_err(|why| {
                let _ = damage.set(why);
            }),
            Some(_) => Err(()),
        };
        let (from_us, last_us, rows) = summary.unwrap_or((
            hour.saturating_mul(HOUR_US),
            hour.saturating_mul(HOUR_US).saturating_add(HOUR_US - 1),
            0,
        ));
        Name {
            generation: 0,
            from_us,
            last_us,
            rows,
            sum: None,
        }
    });
    Segment {
        path,
        generation: name.generation,
        hour,
        from_us: name.from_us,
        last_us: name.last_us,
        rows: name.rows,
        bytes,
        sum: name.sum,
        verified: Mutex::default(),
        is_hurt: AtomicBool::new(damage.get().is_some()),
        damage,
    }
}

impl Segment {
    /// Says whether the file can and should be compared with its checksum.
    pub(crate) fn is_unverified(&self) -> bool {
        self.sum.is_some() && self.damage.get().is_none() && lock(&self.verified).is_none()
    }

    /// Compares the file with its checksum, unless that was done since it last changed.
    pub(crate) fn verify(&self) -> Outcome {
        if let Some(damage) = self.damage.get() {
            return Outcome::Damaged(damage.clone());
        }
        match self.sum.map(|sum| self.matches(sum)) {
            None | Some(Ok(true)) => Outcome::Whole,
            Some(Ok(false)) => {
                let why = "its bytes are not those that were written: the checksum in its name \
                           does not match";
                Outcome::Damaged(self.damage.get_or_init(|| why.to_owned()).clone())
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Outcome::Gone,
            Some(Err(error)) => Outcome::Damaged(error.to_string()),
        }
    }

    fn matches(&self, sum: u32) -> io::Result<bool> {
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        let present = (metadata.modified()?, metadata.len());
        let mut verified = lock(&self.verified);
        if *verified == Some(present) {
            return Ok(true);
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut bytes = vec![0; 1 << 16];
        loop {
            match file.read(&mut bytes)? {
                0 => break,
                count => hasher.update(&bytes[..count]),
            }
        }
        let is_whole = hasher.finalize() == sum;
        *verified = is_whole.then_some(present);
        Ok(is_whole)
    }
}

/// Checks that a file ends as Parquet files do; returns its length.
fn check_end(path: &Path) -> io::Result<u64> {
    let damaged = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length < 12 {
        return Err(damaged("the file is too short to be a Parquet file"));
    }
    let mut magic = [0; 4];
    file.seek(SeekFrom::End(-4))?;
    file.read_exact(&mut magic)?;
    if &magic != b"PAR1" {
        return Err(damaged(
            "the file does not end like a Parquet file: it was cut short or overwritten",
        ));
    }
    Ok(length)
}

fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    let read = || fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>();
    match read() {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error("read", folder)(error)),
    }
}

/// Returns the folders whose names begin with `prefix`, by the rest of their names.
fn folders(folder: &Path, prefix: &str) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for entry in entries(folder)? {
        let name = entry.file_name();
        if let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(prefix)) {
            found.push((rest.to_owned(), entry.path()));
        }
    }
    Ok(found)
}

fn parse_date(date: &str) -> Option<i64> {
    let midnight = whodunit_model::time::parse_rfc3339(&format!("{date}T00:00:00Z"))?;
    Some(midnight.div_euclid(24 * HOUR_US))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for from_us in [0, -1, 1_769_868_151_000_000, i64::MIN, i64::MAX] {
            let name = Name {
                generation: 12,
                from_us,
                last_us: from_us,
                rows: 9,
                sum: None,
            };
            assert_eq!(Name::parse(&name.text()), Some(name));
            let name = Name {
                sum: Some(0xbeef),
                ..name
            };
            assert_eq!(Name::parse(&name.text()), Some(name));
        }
        assert_eq!(Name::parse("18446744073709551615-0-0-0.parquet"), None);
        assert_eq!(Name::parse("mine.parquet"), None);
        assert_eq!(Name::parse("a-b-c-d.parquet"), None);
    }

    #[test]
    fn every_moment_has_a_folder() {
        let folder = |us| folder_of(hour_of(us)).to_string_lossy().into_owned();
        assert_eq!(folder(1_769_868_151_000_000), "date=2026-01-31/hour=14");
        assert_eq!(folder(i64::MIN), "date=1970-01-01/hour=00");
        assert_eq!(folder(i64::MAX), "date=9999-12-31/hour=23");
        assert_eq!(parse_date("2026-01-31"), Some(20_484));
        assert_eq!(parse_date("2026-1-31"), None);
    }
}
