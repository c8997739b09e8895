//! Questions about the past: one scan over recent rows and files.

use std::sync::Arc;

use arrow_array::RecordBatch;
use whodunit_model::{Filter, Rows};

use crate::columns::{self, Wanted};
use crate::error::StoreError;
use crate::filter;
use crate::hot::Chunk;
use crate::segment::{self, Segment};

/// Rows that one scan returns at most, unless told otherwise: about 1.5 GiB.
pub const ROWS_MAX: usize = 5_000_000;

/// In which order rows are looked for and returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// With a limit, the newest ones are kept. Rows come back oldest first.
    #[default]
    NewestFirst,
    /// With a limit, the oldest ones are kept. Rows come back oldest first.
    OldestFirst,
    /// Rows come back in no particular order, which saves sorting them. With a
    /// limit this is [`Order::NewestFirst`].
    Unordered,
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Scan {
    /// First moment, µs since the epoch: rows with `at ≥ from_us`.
    pub from_us: i64,
    /// Moment after the last, µs since the epoch: rows with `at < until_us`.
    pub until_us: i64,
    /// Which rows.
    pub filter: Filter,
    /// Keep at most this many rows; 0 only counts.
    pub limit: Option<usize>,
    /// Which rows are kept when there are more than the limit, and how they are returned.
    pub order: Order,
    /// Without a limit, more rows than this are an error.
    pub rows_max: usize,
    /// The columns of `docs/formats/requests-v1.md` that are needed; all if
    /// none. `at` and the id are always read, every other column that is not
    /// named holds its default.
    pub columns: Option<Vec<&'static str>>,
}

impl Scan {
    /// Returns the scan for all rows of a time range.
    #[must_use]
    pub fn range(from_us: i64, until_us: i64) -> Self {
        Self {
            from_us,
            until_us,
            ..Self::default()
        }
    }

    /// Looks for the rows that match `filter`.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Keeps at most `limit` rows.
    #[must_use]
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Keeps and returns rows in this order.
    #[must_use]
    pub const fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            from_us: i64::MIN,
            until_us: i64::MAX,
            filter: Filter::All,
            limit: None,
            order: Order::default(),
            rows_max: ROWS_MAX,
            columns: None,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    /// The rows, by ascending `at_us` unless the scan was unordered.
    pub rows: Rows,
    /// How many rows match, kept or not.
    pub matched: u64,
    /// Whether `matched` is exact. With a limit, history that cannot hold a row
    /// to keep is passed by, and `matched` is then a lower bound.
    pub matched_exact: bool,
    /// How many rows were looked at.
    pub looked_at: u64,
    /// Whether everything ever taken in for this time range, and not deleted by
    /// retention, was there to be looked at.
    pub complete: bool,
    /// Damaged files and log frames that may have held rows of this time range.
    pub damaged: u64,
    /// Whether rows that match were left out because of the limit, or may have
    /// been if `matched` is not exact.
    pub truncated: bool,
}

/// A scan as files and chunks need it.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) from_us: i64,
    pub(crate) until_us: i64,
    pub(crate) filter: &'a Filter,
    pub(crate) columns: Option<&'a [&'static str]>,
    limit: Option<usize>,
    order: Order,
}

/// A row that matches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Its number within the chunk or row group.
    pub(crate) index: u32,
    at_us: i64,
}

impl Query<'_> {
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        Wanted(self.columns)
    }

    pub(crate) fn newest_first(&self) -> bool {
        self.order != Order::OldestFirst
    }

    /// Says whether every row with a time in the given range is selected.
    pub(crate) fn takes_all(&self, first_us: i64, last_us: i64) -> bool {
        *self.filter == Filter::All
            && self.limit.is_none()
            && first_us >= self.from_us
            && last_us < self.until_us
    }

    /// Adds the rows of `batch` that match to `places`, numbered from `base`.
    pub(crate) fn select(&self, batch: &RecordBatch, base: u32, places: &mut Vec<Place>) {
        let Some(times) = columns::times(batch, "at") else {
            return;
        };
        let mask = filter::mask(self.filter, batch);
        let in_range = |at_us: i64| self.from_us <= at_us && at_us < self.until_us;
        let found = times
            .iter()
            .zip(mask)
            .zip(base..)
            .filter(|((at_us, matches), _)| *matches && in_range(**at_us))
            .map(|((at_us, _), index)| Place {
                index,
                at_us: *at_us,
            });
        places.extend(found);
    }

    /// With a limit, leaves only the rows that can be among the best, ties included.
    pub(crate) fn keep_best(&self, places: &mut Vec<Place>) {
        let Some(limit) = self.limit.filter(|limit| *limit < places.len()) else {
            return;
        };
        if limit == 0 {
            places.clear();
            return;
        }
        let mut times: Vec<i64> = places.iter().map(|place| place.at_us).collect();
        if self.newest_first() {
            let worst = times.len() - limit;
            let worst = *times.select_nth_unstable(worst).1;
            places.retain(|place| place.at_us >= worst);
        } else {
            let worst = *times.select_nth_unstable(limit - 1).1;
            places.retain(|place| place.at_us <= worst);
        }
    }
}

/// How much of a chunk or row group was looked at, and matched.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) matched: u64,
    pub(crate) looked_at: u64,
}

/// Collects the rows that a query selects.
#[derive(Debug)]
pub(crate) struct Gather<'a> {
    query: &'a Query<'a>,
    pub(crate) rows: Rows,
    rows_max: usize,
    total: Counts,
    skipped: bool,
}

impl Gather<'_> {
    /// Says whether rows of this time range cannot be among the best.
    pub(crate) fn skips(&mut self, first_us: i64, last_us: i64) -> bool {
        let Some(limit) = self.query.limit.filter(|limit| *limit > 0) else {
            return false;
        };
        if self.rows.len() < limit {
            return false;
        }
        self.keep_best();
        let skips = if self.query.newest_first() {
            self.rows
                .at_us
                .first()
                .is_some_and(|worst| last_us < *worst)
        } else {
            self.rows
                .at_us
                .last()
                .is_some_and(|worst| first_us > *worst)
        };
        self.skipped |= skips;
        skips
    }

    pub(crate) fn count(&mut self, counts: Counts) {
        self.total.matched += counts.matched;
        self.total.looked_at += counts.looked_at;
    }

    /// Says whether there are more rows than may be returned.
    pub(crate) fn is_over(&self) -> bool {
        self.query.limit.is_none() && self.rows.len() > self.rows_max
    }

    fn add_chunk(&mut self, chunk: &Chunk) {
        if self.skips(chunk.from_us, chunk.last_us) {
            return;
        }
        let mut places = Vec::new();
        self.query.select(&chunk.batch, 0, &mut places);
        self.count(Counts {
            matched: places.len() as u64,
            looked_at: chunk.rows() as u64,
        });
        self.query.keep_best(&mut places);
        let indices: Vec<u32> = places.iter().map(|place| place.index).collect();
        columns::take(&chunk.batch, self.query.wanted(), &indices, &mut self.rows);
    }

    /// Sorts the rows and drops those beyond the limit.
    fn keep_best(&mut self) {
        sort(&mut self.rows);
        let Some(limit) = self.query.limit.filter(|limit| *limit < self.rows.len()) else {
            return;
        };
        if self.query.newest_first() {
            let kept: Vec<usize> = (self.rows.len() - limit..self.rows.len()).collect();
            self.rows.reorder(&kept);
        } else {
            self.rows.truncate(limit);
        }
    }
}

/// Sorts rows by time; rows of one moment by id, kind and side, so that the order is always the same.
fn sort(rows: &mut Rows) {
    let key = |index: usize| {
        (
            rows.at_us[index],
            rows.id[index],
            rows.kind[index],
            rows.side[index],
        )
    };
    let mut order: Vec<usize> = (0..rows.len()).collect();
    if order.is_sorted_by_key(|index| key(*index)) {
        return;
    }
    order.sort_by_key(|index| key(*index));
    rows.reorder(&order);
}

/// The rows there are, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) chunks: Vec<Arc<Chunk>>,
    pub(crate) segments: Vec<Arc<Segment>>,
}

enum Source {
    Chunk(Arc<Chunk>),
    Segment(Arc<Segment>),
}

impl Source {
    fn times(&self) -> (i64, i64) {
        match self {
            Self::Chunk(chunk) => (chunk.from_us, chunk.last_us),
            Self::Segment(segment) => (segment.from_us, segment.last_us),
        }
    }
}

/// Looks for rows in a snapshot. `on_damage` hears of each file that is damaged
/// and says whether it counts, `false` for one that was deleted on purpose.
///
/// # Errors
/// When the filter is too large, a column is unknown, or too many rows match.
pub(crate) fn scan(
    snapshot: Snapshot,
    scan: &Scan,
    on_damage: &mut dyn FnMut(&Arc<Segment>, segment::Outcome) -> bool,
) -> Result<Scanned, StoreError> {
    scan.filter.check()?;
    if let Some(wanted) = &scan.columns {
        let names = columns::names();
        if let Some(name) = wanted
            .iter()
            .find(|name| !names.iter().any(|n| n == **name))
        {
            return Err(StoreError::Column {
                name: (*name).to_owned(),
            });
        }
    }
    let query = Query {
        from_us: scan.from_us,
        until_us: scan.until_us,
        filter: &scan.filter,
        columns: scan.columns.as_deref(),
        limit: scan.limit.map(|limit| limit.min(scan.rows_max)),
        order: scan.order,
    };
    let mut gather = Gather {
        query: &query,
        rows: Rows::default(),
        rows_max: scan.rows_max,
        total: Counts::default(),
        skipped: false,
    };
    let mut damaged = 0;
    for source in sources(snapshot, &query) {
        let (first_us, last_us) = source.times();
        match source {
            Source::Chunk(chunk) => gather.add_chunk(&chunk),
            Source::Segment(segment) => {
                if gather.skips(first_us, last_us) {
                    continue;
                }
                match segment::read(&segment, &query, &mut gather) {
                    segment::Outcome::Whole => {}
                    outcome => damaged += u64::from(on_damage(&segment, outcome)),
                }
            }
        }
        if gather.is_over() {
            return Err(StoreError::TooLarge {
                rows_max: scan.rows_max,
            });
        }
    }
    if scan.order != Order::Unordered || scan.limit.is_some() {
        gather.keep_best();
    }
    Ok(Scanned {
        truncated: gather.skipped || gather.total.matched > gather.rows.len() as u64,
        rows: gather.rows,
        matched: gather.total.matched,
        matched_exact: !gather.skipped,
        looked_at: gather.total.looked_at,
        complete: damaged == 0,
        damaged,
    })
}

/// Returns what can hold rows of the query, best first.
fn sources(snapshot: Snapshot, query: &Query<'_>) -> Vec<Source> {
    let chunks = snapshot.chunks.into_iter().map(Source::Chunk);
    let segments = snapshot.segments.into_iter().map(Source::Segment);
    let mut sources: Vec<Source> = chunks
        .chain(segments)
        .filter(|source| {
            let (first_us, last_us) = source.times();
            last_us >= query.from_us && first_us < query.until_us
        })
        .collect();
    if query.newest_first() {
        sources.sort_by_key(|source| std::cmp::Reverse(source.times().1));
    } else {
        sources.sort_by_key(|source| source.times().0);
    }
    sources
}
