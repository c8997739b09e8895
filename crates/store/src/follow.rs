//! Rows as they come in: the live side of the same filter.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use whodunit_model::{Filter, Rows};

use crate::columns::{self, Wanted};
use crate::filter;
use crate::hot::Chunk;

/// A place in the order in which rows come in.
///
/// It has a text form, `RUN-ORDINAL` in hexadecimal, so that a reader can go on
/// where it ended. A cursor of an earlier run of the store stands for the
/// beginning of the present run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Random number of this run of the store.
    pub(crate) run: u32,
    /// How many rows came before it.
    pub(crate) ordinal: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:x}", self.run, self.ordinal)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (run, ordinal) = text.split_once('-').ok_or(CursorError)?;
        Ok(Self {
            run: u32::from_str_radix(run, 16).map_err(|_| CursorError)?,
            ordinal: u64::from_str_radix(ordinal, 16).map_err(|_| CursorError)?,
        })
    }
}

/// The text is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: expected one as an earlier answer gave it")]
pub struct CursorError;

/// Rows that came after a cursor.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The rows that match, in the order in which they came.
    pub rows: Rows,
    /// For each row, the cursor after it.
    pub cursors: Vec<Cursor>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Rows, matching or not, that came after the cursor asked for and are no
    /// longer kept for followers.
    pub lost: u64,
    /// Whether more rows wait after [`Followed::cursor`].
    pub more: bool,
}

/// Returns the rows of `chunks` after `from` that match, at most `max`.
pub(crate) fn follow(
    chunks: &[Arc<Chunk>],
    from: Cursor,
    end: u64,
    filter: &Filter,
    max: usize,
) -> Followed {
    let kept_from = chunks.first().map_or(end, |chunk| chunk.base);
    let mut followed = Followed {
        rows: Rows::default(),
        cursors: Vec::new(),
        cursor: from,
        lost: kept_from.saturating_sub(from.ordinal),
        more: false,
    };
    let mut at = from.ordinal.max(kept_from);
    for chunk in chunks {
        let skip = usize::try_from(at.saturating_sub(chunk.base)).unwrap_or(usize::MAX);
        let left = max - followed.cursors.len();
        let matching = filter::mask(filter, &chunk.batch);
        let indices: Vec<u32> = (0u32..)
            .zip(matching)
            .skip(skip)
            .filter_map(|(index, matches)| matches.then_some(index))
            .take(left)
            .collect();
        columns::take(&chunk.batch, Wanted(None), &indices, &mut followed.rows);
        let after = |index: u32| chunk.base + u64::from(index) + 1;
        followed.cursors.extend(indices.iter().map(|index| Cursor {
            run: from.run,
            ordinal: after(*index),
        }));
        if followed.cursors.len() >= max {
            at = indices.last().map_or(at, |index| after(*index));
            break;
        }
        at = chunk.base + chunk.rows() as u64;
    }
    followed.more = at < end;
    followed.cursor.ordinal = at;
    followed
}
