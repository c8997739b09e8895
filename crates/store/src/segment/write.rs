//! Writes rows to Parquet files, one per hour.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use whodunit_model::Rows;

use super::{FOLDER, Name, ROW_GROUP_ROWS, Segment, TEMPORARY, folder_of, hour_of};
use crate::checkpoint::sync_dir;
use crate::columns;
use crate::error::{StoreError, io_error};

/// Rows of a page, at most: pages are what statistics let a reader pass by.
const PAGE_ROWS: usize = 20_000;

/// Most files of one flush. Rows of more hours than that, as from a clock gone
/// wrong, go into the last file; its name says what it holds.
const HOURS_MAX: usize = 100;

/// Writes `rows` to new files of `generation`. All of them are durable when this returns.
///
/// # Errors
/// When a file cannot be written. Files that were finished before are deleted.
pub(crate) fn write(
    dir: &Path,
    generation: u64,
    rows: &Rows,
    step: &dyn Fn(&'static str),
) -> Result<Vec<Segment>, StoreError> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by_key(|index| (rows.at_us[*index], *index));
    let mut segments = Vec::new();
    let mut rest = &order[..];
    while let Some(first) = rest.first() {
        let hour = hour_of(rows.at_us[*first]);
        let end = if segments.len() + 1 < HOURS_MAX {
            rest.partition_point(|index| hour_of(rows.at_us[*index]) <= hour)
        } else {
            rest.len()
        };
        let (in_hour, after) = rest.split_at(end);
        let ready = |_: &Path| {
            step("file not yet renamed");
            Ok(())
        };
        match write_hour(dir, generation, hour, rows, in_hour, &ready) {
            Ok(segment) => segments.push(segment),
            Err(error) => {
                discard(&segments);
                return Err(error);
            }
        }
        step("one file written");
        rest = after;
    }
    Ok(segments)
}

/// Writes `rows` to one new file in the folder of `hour`. `ready` hears of its name when it is
/// whole, before it takes that name.
///
/// # Errors
/// When the file cannot be written, or `ready` fails: then there is no new file.
pub(crate) fn merge(
    dir: &Path,
    generation: u64,
    hour: i64,
    rows: &Rows,
    ready: &dyn Fn(&Path) -> io::Result<()>,
) -> Result<Segment, StoreError> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by_key(|index| (rows.at_us[*index], *index));
    write_hour(dir, generation, hour, rows, &order, ready)
}

/// Deletes files that no checkpoint will name: they will be written anew.
pub(crate) fn discard(segments: &[Segment]) {
    for segment in segments {
        // What stays is replaced by the next try, or deleted at the next start.
        let _ = fs::remove_file(&segment.path);
    }
}

fn write_hour(
    dir: &Path,
    generation: u64,
    hour: i64,
    rows: &Rows,
    order: &[usize],
    ready: &dyn Fn(&Path) -> io::Result<()>,
) -> Result<Segment, StoreError> {
    let root = dir.join(FOLDER);
    let folder = root.join(folder_of(hour));
    fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
    let at = |index: Option<&usize>| index.map_or(0, |index| rows.at_us[*index]);
    let name = Name {
        generation,
        from_us: at(order.first()),
        last_us: at(order.last()),
        rows: order.len() as u64,
        sum: None,
    };
    let temporary = folder.join(format!("{TEMPORARY}{}", name.text()));
    let finish = || -> io::Result<_> {
        let written = write_file(&temporary, rows, order)?;
        let name = Name {
            sum: Some(written.sum),
            ..name
        };
        let path = folder.join(name.text());
        ready(&path)?;
        fs::rename(&temporary, &path)?;
        for folder in [folder.as_path(), folder.parent().unwrap_or(&root), &root] {
            sync_dir(folder)?;
        }
        Ok((path, written))
    };
    let (path, written) = finish().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        io_error("write", &temporary)(error)
    })?;
    Ok(Segment {
        path,
        generation,
        hour,
        from_us: name.from_us,
        last_us: name.last_us,
        rows: name.rows,
        bytes: written.bytes,
        sum: Some(written.sum),
        verified: Mutex::new(Some((written.changed, written.bytes))),
        damage: OnceLock::new(),
        is_hurt: AtomicBool::new(false),
    })
}

/// What was written.
struct Written {
    bytes: u64,
    sum: u32,
    changed: SystemTime,
}

/// A file whose bytes are summed up as they are written.
struct Summed {
    file: File,
    hasher: crc32fast::Hasher,
}

impl io::Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes the rows named by `order`, which are in the order of time.
fn write_file(path: &Path, rows: &Rows, order: &[usize]) -> io::Result<Written> {
    let options = ArrowWriterOptions::new()
        .with_properties(properties())
        .with_skip_arrow_metadata(true);
    let file = Summed {
        file: File::create(path)?,
        hasher: crc32fast::Hasher::new(),
    };
    let mut writer = ArrowWriter::try_new_with_options(file, columns::schema(), options)?;
    for group in order.chunks(ROW_GROUP_ROWS) {
        let mut sorted = group.to_vec();
        sorted.sort_by_cached_key(|index| {
            let text = |symbol| rows.strings.shared(symbol);
            (
                text(rows.dst_workload[*index]),
                text(rows.route[*index]),
                rows.at_us[*index],
            )
        });
        let batch = columns::to_batch(&rows.select(&sorted)).map_err(io::Error::other)?;
        writer.write(&batch)?;
        writer.flush()?;
    }
    let Summed { file, hasher } = writer.into_inner()?;
    file.sync_all()?;
    let metadata = file.metadata()?;
    Ok(Written {
        bytes: metadata.len(),
        sum: hasher.finalize(),
        changed: metadata.modified()?,
    })
}

fn properties() -> WriterProperties {
    let column = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("whodunit ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_column_bloom_filter_enabled(column("trace_id"), true);
    for time in ["at", "start_at", "id_start"] {
        properties = properties
            .set_column_dictionary_enabled(column(time), false)
            .set_column_encoding(column(time), Encoding::DELTA_BINARY_PACKED);
    }
    properties.build()
}
