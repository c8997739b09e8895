//! Reads what a query needs from one Parquet file.
//!
//! Two passes per row group: the first reads the time and the columns of the
//! filter and finds the rows, the second reads the wanted columns of these rows
//! only. Statistics of a row group, and the bloom filter of the trace id, spare
//! both passes where they can.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use whodunit_model::Filter;
use whodunit_model::filter::Field;

use super::Segment;
use crate::columns;
use crate::filter;
use crate::scan::{Counts, Gather, Query};

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 65_536;

/// What came of reading a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All that was asked for was read.
    Whole,
    /// Part or all of it is damaged; the rest was read.
    Damaged(String),
    /// The file is not there any more.
    Gone,
}

/// Hands the rows of a file that the query selects to `gather`.
///
/// Damage never fails the query: it is described in the outcome.
pub(crate) fn read(segment: &Segment, query: &Query<'_>, gather: &mut Gather<'_>) -> Outcome {
    match segment.verify() {
        Outcome::Whole => {}
        hurt => return hurt,
    }
    let (file, metadata) = match open(&segment.path) {
        Ok(opened) => opened,
        Err(Failure::Gone) => return Outcome::Gone,
        Err(Failure::Damaged(why)) => return Outcome::Damaged(why),
    };
    let mut groups: Vec<usize> = (0..metadata.metadata().num_row_groups()).collect();
    if query.newest_first() {
        groups.reverse();
    }
    let mut damage = None;
    for group in groups {
        let mark = gather.rows.len();
        match guard(|| read_group(&file, &metadata, group, query, gather)) {
            Ok(counts) => gather.count(counts),
            Err(why) => {
                gather.rows.truncate(mark);
                damage = Some(format!("row group {group}: {why}"));
            }
        }
        if gather.is_over() {
            break;
        }
    }
    damage.map_or(Outcome::Whole, Outcome::Damaged)
}

enum Failure {
    Gone,
    Damaged(String),
}

/// Runs a read of bytes that may be damaged.
///
/// The Parquet reader checks what it reads, yet a length that lies can make it
/// panic; a damaged file must not take the process or the query with it.
fn guard<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the bytes contradict themselves".to_owned()),
    }
}

fn open(path: &Path) -> Result<(File, ArrowReaderMetadata), Failure> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Gone,
        _ => Failure::Damaged(error.to_string()),
    })?;
    let options = || ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = guard(|| {
        let plain = ArrowReaderMetadata::load(&file, options())?;
        let schema = columns::reading_schema(plain.schema());
        if let Some(why) = columns::mismatch(&schema) {
            return Err(ParquetError::General(format!(
                "this is not a file of requests: {why}"
            )));
        }
        ArrowReaderMetadata::try_new(plain.metadata().clone(), options().with_schema(schema))
    })
    .map_err(Failure::Damaged)?;
    Ok((file, metadata))
}

/// Returns first and last `at` and the number of rows, from the footer.
pub(crate) fn read_summary(path: &Path) -> Result<(i64, i64, u64), String> {
    let (_, metadata) = open(path).map_err(|failure| match failure {
        Failure::Gone => "the file is not there".to_owned(),
        Failure::Damaged(why) => why,
    })?;
    let (mut from_us, mut last_us, mut rows) = (i64::MAX, i64::MIN, 0);
    for group in metadata.metadata().row_groups() {
        let (first, last) = group_times(group).unwrap_or((i64::MIN, i64::MAX));
        from_us = from_us.min(first);
        last_us = last_us.max(last);
        rows += u64::try_from(group.num_rows()).unwrap_or(0);
    }
    Ok((from_us, last_us, rows))
}

/// Returns the first and last `at` of a row group, if its statistics tell.
fn group_times(group: &RowGroupMetaData) -> Option<(i64, i64)> {
    let column = group
        .columns()
        .iter()
        .find(|column| column.column_path().string() == "at")?;
    match column.statistics()? {
        Statistics::Int64(statistics) => Some((*statistics.min_opt()?, *statistics.max_opt()?)),
        _ => None,
    }
}

fn read_group(
    file: &File,
    metadata: &ArrowReaderMetadata,
    group: usize,
    query: &Query<'_>,
    gather: &mut Gather<'_>,
) -> Result<Counts, ParquetError> {
    let times = group_times(metadata.metadata().row_group(group));
    let (first, last) = times.unwrap_or((i64::MIN, i64::MAX));
    if last < query.from_us || first >= query.until_us || gather.skips(first, last) {
        return Ok(Counts::default());
    }
    if !may_have_trace(file, metadata, group, query.filter)? {
        return Ok(Counts::default());
    }
    let rows = metadata.metadata().row_group(group).num_rows();
    let rows = usize::try_from(rows).unwrap_or(0);
    let mut counts = Counts {
        matched: rows as u64,
        looked_at: rows as u64,
    };
    let mut selection = None;
    if !query.takes_all(first, last) {
        let mut names = vec!["at"];
        filter::columns_of(query.filter, &mut names);
        let mut places = Vec::new();
        let mut base = 0;
        for batch in reader(file, metadata, group, Some(&names), None)? {
            let batch = batch?;
            query.select(&batch, base, &mut places);
            base += u32::try_from(batch.num_rows()).unwrap_or(0);
        }
        counts.matched = places.len() as u64;
        query.keep_best(&mut places);
        if places.is_empty() {
            return Ok(counts);
        }
        let ranges = places
            .chunk_by(|a, b| a.index + 1 == b.index)
            .map(|run| run[0].index as usize..run[run.len() - 1].index as usize + 1);
        selection = Some(RowSelection::from_consecutive_ranges(ranges, rows));
    }
    for batch in reader(file, metadata, group, query.columns, selection)? {
        let batch = batch?;
        let indices: Vec<u32> = (0..u32::try_from(batch.num_rows()).unwrap_or(0)).collect();
        columns::take(&batch, query.wanted(), &indices, &mut gather.rows);
    }
    Ok(counts)
}

fn reader(
    file: &File,
    metadata: &ArrowReaderMetadata,
    group: usize,
    names: Option<&[&'static str]>,
    selection: Option<RowSelection>,
) -> Result<ParquetRecordBatchReader, ParquetError> {
    let file = file.try_clone()?;
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
        .with_row_groups(vec![group])
        .with_batch_size(BATCH_ROWS);
    if let Some(names) = names {
        let always = ["at", "id_start", "id_boot", "id_n"];
        let names = names.iter().copied().chain(always);
        let mask = ProjectionMask::columns(metadata.parquet_schema(), names);
        builder = builder.with_projection(mask);
    }
    if let Some(selection) = selection {
        builder = builder.with_row_selection(selection);
    }
    builder.build()
}

/// Says whether the row group can have the trace id that the filter asks for, if it asks for one.
fn may_have_trace(
    file: &File,
    metadata: &ArrowReaderMetadata,
    group: usize,
    filter: &Filter,
) -> Result<bool, ParquetError> {
    let Some(wanted) = wanted_traces(filter) else {
        return Ok(true);
    };
    let columns = metadata.metadata().row_group(group).columns();
    let place = columns
        .iter()
        .position(|column| column.column_path().string() == "trace_id");
    let Some(place) = place else { return Ok(true) };
    let builder =
        ParquetRecordBatchReaderBuilder::new_with_metadata(file.try_clone()?, metadata.clone());
    let Some(bloom) = builder.get_row_group_column_bloom_filter(group, place)? else {
        return Ok(true);
    };
    Ok(wanted
        .iter()
        .any(|id| bloom.check(id.to_be_bytes().as_slice())))
}

/// Returns the trace ids one of which every match must have.
fn wanted_traces(filter: &Filter) -> Option<Vec<u128>> {
    match filter {
        Filter::Is(comparison) if comparison.field == Field::TraceId => {
            let texts = filter::exact_texts(comparison)?;
            Some(
                texts
                    .iter()
                    .filter_map(|text| filter::parse_trace_id(text))
                    .collect(),
            )
        }
        Filter::And(parts) => parts.iter().find_map(wanted_traces),
        _ => None,
    }
}
