//! Recent rows in memory, in the order in which they came.
//!
//! New rows collect in a tail, which becomes a chunk (an Arrow batch) when it
//! is large enough or when somebody asks. Chunks never change, so a query, a
//! flush and a follower share them without copies.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use whodunit_model::Rows;

use crate::columns;

/// Rows after which the tail becomes a chunk. Larger chunks scan faster, a
/// larger tail costs more when a query comes between two batches.
const TAIL_ROWS: usize = 4096;

/// How long rows are kept for followers. One reads within milliseconds, and one that was cut
/// off comes back within seconds; without this a quiet server would go on filling the room
/// that a busy one needs, for hours.
const RECENT_US: i64 = 60_000_000;

/// Some rows that came one after the other.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) batch: RecordBatch,
    /// How many rows came before the first, since the store was opened.
    pub(crate) base: u64,
    /// First and last `at`, µs since the epoch.
    pub(crate) from_us: i64,
    pub(crate) last_us: i64,
}

impl Chunk {
    pub(crate) fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    fn end(&self) -> u64 {
        self.base + self.rows() as u64
    }

    fn new(rows: &Rows, base: u64) -> Result<Arc<Self>, ArrowError> {
        Ok(Arc::new(Self {
            batch: columns::to_batch(rows)?,
            base,
            from_us: rows.at_us.iter().copied().min().unwrap_or(i64::MAX),
            last_us: rows.at_us.iter().copied().max().unwrap_or(i64::MIN),
        }))
    }
}

/// The rows in memory that are not yet being written to files.
#[derive(Debug)]
pub(crate) struct Hot {
    chunks: Vec<Arc<Chunk>>,
    tail: Rows,
    tail_base: u64,
    /// The tail as a chunk, if nothing came since it was made.
    tail_chunk: Option<Arc<Chunk>>,
    rows: usize,
    /// When the oldest of the rows came, µs since the epoch by the store's clock.
    oldest_received_us: Option<i64>,
    newest_received_us: i64,
    /// The latest chunks for followers, some of which are in files already.
    recent: VecDeque<Arc<Chunk>>,
    /// When each of them was complete, µs since the epoch by the store's clock.
    recent_us: VecDeque<i64>,
    recent_rows: usize,
    recent_rows_max: usize,
}

impl Hot {
    pub(crate) fn new(recent_rows_max: usize) -> Self {
        Self {
            chunks: Vec::new(),
            tail: Rows::default(),
            tail_base: 0,
            tail_chunk: None,
            rows: 0,
            oldest_received_us: None,
            newest_received_us: i64::MIN,
            recent: VecDeque::new(),
            recent_us: VecDeque::new(),
            recent_rows: 0,
            recent_rows_max,
        }
    }

    /// Takes rows that came at `received_us`.
    pub(crate) fn push(&mut self, rows: &Rows, received_us: i64) -> Result<(), ArrowError> {
        if rows.is_empty() {
            return Ok(());
        }
        columns::append(&mut self.tail, rows);
        self.tail_chunk = None;
        self.rows += rows.len();
        self.oldest_received_us.get_or_insert(received_us);
        self.newest_received_us = received_us;
        if self.tail.len() >= TAIL_ROWS {
            self.close_tail()?;
        }
        self.forget_followed();
        Ok(())
    }

    /// Lets go of rows that are too many or too old for followers.
    fn forget_followed(&mut self) {
        let since_us = self.newest_received_us.saturating_sub(RECENT_US);
        while self.recent_rows > self.recent_rows_max
            || self
                .recent_us
                .front()
                .is_some_and(|at_us| *at_us < since_us)
        {
            self.recent_us.pop_front();
            let Some(oldest) = self.recent.pop_front() else {
                return;
            };
            self.recent_rows -= oldest.rows();
        }
    }

    fn close_tail(&mut self) -> Result<(), ArrowError> {
        let Some(chunk) = self.tail_chunk()? else {
            return Ok(());
        };
        self.tail = Rows::default();
        self.tail_chunk = None;
        self.tail_base = chunk.end();
        self.recent_rows += chunk.rows();
        self.recent.push_back(chunk.clone());
        self.recent_us.push_back(self.newest_received_us);
        self.forget_followed();
        self.chunks.push(chunk);
        Ok(())
    }

    fn tail_chunk(&mut self) -> Result<Option<Arc<Chunk>>, ArrowError> {
        if self.tail.is_empty() {
            return Ok(None);
        }
        if self.tail_chunk.is_none() {
            self.tail_chunk = Some(Chunk::new(&self.tail, self.tail_base)?);
        }
        Ok(self.tail_chunk.clone())
    }

    /// Returns all rows.
    pub(crate) fn snapshot(&mut self) -> Result<Vec<Arc<Chunk>>, ArrowError> {
        let tail = self.tail_chunk()?;
        Ok(self.chunks.iter().cloned().chain(tail).collect())
    }

    /// Returns all rows and forgets them; followers still see them.
    pub(crate) fn seal(&mut self) -> Result<Vec<Arc<Chunk>>, ArrowError> {
        self.close_tail()?;
        self.rows = 0;
        self.oldest_received_us = None;
        Ok(std::mem::take(&mut self.chunks))
    }

    /// Returns the latest rows from the `ordinal`th on, as far as they are kept.
    pub(crate) fn since(&mut self, ordinal: u64) -> Result<Vec<Arc<Chunk>>, ArrowError> {
        if ordinal >= self.end() {
            return Ok(Vec::new());
        }
        let tail = self.tail_chunk()?;
        let first = self.recent.partition_point(|chunk| chunk.end() <= ordinal);
        Ok(self.recent.range(first..).cloned().chain(tail).collect())
    }

    /// Returns how many rows came since the store was opened.
    pub(crate) fn end(&self) -> u64 {
        self.tail_base + self.tail.len() as u64
    }

    /// Returns the number of rows that are not yet being written to files.
    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the first and last `at` of these rows, in parts.
    pub(crate) fn times(&self) -> impl Iterator<Item = (i64, i64)> {
        let chunks = self
            .chunks
            .iter()
            .map(|chunk| (chunk.from_us, chunk.last_us));
        chunks.chain(self.tail.at_us.iter().map(|at_us| (*at_us, *at_us)))
    }

    /// Returns when the oldest of these rows came.
    pub(crate) const fn oldest_received_us(&self) -> Option<i64> {
        self.oldest_received_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whodunit_model::rows::Row;

    fn rows(count: usize) -> Rows {
        let mut rows = Rows::default();
        for _ in 0..count {
            rows.push_row(Row::default());
        }
        rows
    }

    fn ordinals(chunks: &[Arc<Chunk>]) -> Vec<(u64, usize)> {
        chunks.iter().map(|c| (c.base, c.rows())).collect()
    }

    #[test]
    fn rows_are_seen_once_by_queries_and_followers() {
        let mut hot = Hot::new(10_000);
        hot.push(&rows(5), 1).unwrap();
        assert_eq!(ordinals(&hot.snapshot().unwrap()), [(0, 5)]);
        hot.push(&rows(5_000), 2).unwrap();
        hot.push(&rows(3), 3).unwrap();
        assert_eq!(ordinals(&hot.snapshot().unwrap()), [(0, 5_005), (5_005, 3)]);
        assert_eq!(ordinals(&hot.seal().unwrap()), [(0, 5_005), (5_005, 3)]);
        assert!(hot.snapshot().unwrap().is_empty());
        hot.push(&rows(1), 4).unwrap();
        assert_eq!(hot.end(), 5_009);
        assert_eq!(
            ordinals(&hot.since(5_006).unwrap()),
            [(5_005, 3), (5_008, 1)]
        );
        assert_eq!(ordinals(&hot.since(5_008).unwrap()), [(5_008, 1)]);
        assert!(hot.since(5_009).unwrap().is_empty());
    }

    #[test]
    fn followers_keep_a_bounded_number_of_rows() {
        let mut hot = Hot::new(10_000);
        for _ in 0..4 {
            hot.push(&rows(4_096), 1).unwrap();
        }
        assert_eq!(
            ordinals(&hot.since(0).unwrap()),
            [(8_192, 4_096), (12_288, 4_096)]
        );
    }

    #[test]
    fn followers_keep_rows_for_a_minute_however_few_they_are() {
        let mut hot = Hot::new(1_000_000);
        hot.push(&rows(4_096), 1).unwrap();
        hot.push(&rows(4_096), RECENT_US / 2).unwrap();
        hot.push(&rows(1), RECENT_US + 1).unwrap();
        assert_eq!(hot.since(0).unwrap().len(), 3);
        hot.push(&rows(1), RECENT_US + 2).unwrap();
        assert_eq!(
            ordinals(&hot.since(0).unwrap()),
            [(4_096, 4_096), (8_192, 2)]
        );
        assert_eq!(hot.snapshot().unwrap().len(), 3, "questions see all");
        hot.push(&rows(1), RECENT_US * 2).unwrap();
        assert_eq!(ordinals(&hot.since(0).unwrap()), [(8_192, 3)]);
        // Clocks are set back, too.
        hot.push(&rows(4_096), 5).unwrap();
        assert_eq!(hot.since(0).unwrap().len(), 1);
    }
}
