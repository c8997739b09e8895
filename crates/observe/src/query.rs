//! The questions, one file each.
//!
//! A question is a plain blocking function of what was asked, the store and
//! `now`: the HTTP surface and the command line (for a data directory without a
//! server) call the same ones. Each reads a range of the store once, lets
//! `analysis` compute, and says with its answer how much it can be trusted.

mod error;
pub mod record;

pub mod check;
pub mod culprit;
pub mod edges;
pub mod explain;
pub mod routes;
pub mod stat;
pub mod status;
pub mod tap;
pub mod top;

pub use error::QueryError;

use std::sync::Arc;

use whodunit_analysis::Window;
use whodunit_api::{Range, Trust};
use whodunit_model::filter::{Field, Filter};
use whodunit_model::time::{SECOND_US, format_utc, parse_moment};
use whodunit_store::{Order, Scan, Scanned, Store, StoreError};

use crate::live::Live;

/// Most rows one question reads: at some 250 bytes a row in memory, half a gigabyte.
pub const ROWS_MAX: usize = 2_000_000;

/// Earliest and latest moment a range may name, µs: the years 1970 to 2500.
const MOMENTS: std::ops::RangeInclusive<i64> = 0..=16_725_225_600 * SECOND_US;

/// Answers questions from a store, and from what a running server knows.
#[derive(Clone, Debug)]
pub struct Queries {
    store: Store,
    live: Option<Arc<Live>>,
    rows_max: usize,
}

impl Queries {
    /// Answers from `store`; `live` is there in a running server only.
    #[must_use]
    pub const fn new(store: Store, live: Option<Arc<Live>>) -> Self {
        Self {
            store,
            live,
            rows_max: ROWS_MAX,
        }
    }

    /// Returns the same with another bound on the rows that one question reads.
    #[must_use]
    pub const fn with_rows_max(mut self, rows_max: usize) -> Self {
        self.rows_max = rows_max;
        self
    }

    /// Returns the store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Reads some columns of every row of `window` that matches, in no particular order.
    fn rows(
        &self,
        window: Window,
        filter: Filter,
        columns: Columns,
    ) -> Result<Scanned, QueryError> {
        let scan = Scan {
            columns: columns.names(),
            ..self.range(window, filter)
        };
        self.read(&scan)
    }

    /// Returns the scan for the rows of `window` that match, in no particular order.
    fn range(&self, window: Window, filter: Filter) -> Scan {
        Scan {
            order: Order::Unordered,
            rows_max: self.rows_max,
            ..Scan::range(window.from_us, window.until_us).filter(filter)
        }
    }

    fn read(&self, scan: &Scan) -> Result<Scanned, QueryError> {
        self.store.scan(scan).map_err(|error| store_error(&error))
    }

    /// Says how much an answer from `scanned` can be trusted.
    fn trust(&self, window: Window, scanned: &Scanned) -> Trust {
        let newest = self.store.stats().newest_us;
        let newest = newest
            .filter(|newest_us| *newest_us < window.until_us)
            .or_else(|| scanned.rows.at_us.iter().copied().max());
        let age_ms = |newest_us: i64| u64::try_from((window.until_us - newest_us) / 1_000).ok();
        Trust {
            from: format_utc(window.from_us),
            until: format_utc(window.until_us),
            records: scanned.looked_at,
            newest_age_ms: newest.and_then(age_ms),
            dropped: self.live.as_ref().map_or(0, |live| live.proxies.lost()),
            exact: true,
            complete: scanned.complete,
            damaged: scanned.damaged,
        }
    }
}

/// Which columns a question reads: a row has some fifty, and most questions need few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    /// All of them.
    All,
    /// What golden signals are made of.
    Signals,
    /// The same, and what edges show.
    Edges,
    /// The same as signals, and what `top` groups by.
    Top,
}

impl Columns {
    fn names(self) -> Option<Vec<&'static str>> {
        let signals = [
            "kind",
            "side",
            "twin",
            "outcome",
            "cause",
            "src_namespace",
            "src_workload",
            "src_instance",
            "dst_namespace",
            "dst_workload",
            "dst_instance",
            "service",
            "authority",
            "endpoint",
            "route",
            "latency_us",
            "duration_us",
            "request_bytes",
            "response_bytes",
            "client_error",
            "probe",
        ];
        let more: &[&str] = match self {
            Self::All => return None,
            Self::Signals => &[],
            Self::Edges => &["tls", "peer_identity"],
            Self::Top => &["method", "path"],
        };
        Some([&signals, more].concat())
    }
}

/// Says what a failure of the store means for a question.
fn store_error(error: &StoreError) -> QueryError {
    match error {
        StoreError::TooLarge { .. } => QueryError::TooLarge {
            message: error.to_string(),
            hint: "ask for a shorter range (--since, --until) or filter more".to_owned(),
        },
        StoreError::Filter(error) => QueryError::parameter("filter", error),
        _ => {
            let message = crate::chain(error);
            tracing::error!(message, "a query failed");
            QueryError::Internal { message }
        }
    }
}

/// Returns the window a range names; it begins `default_us` before its end unless it says more.
///
/// # Errors
/// When a moment is not one, or the range is empty.
pub fn window(range: &Range, default_us: i64, now_us: i64) -> Result<Window, QueryError> {
    let moment = |name: &str, text: &str| {
        let found =
            parse_moment(text, now_us, 0).map_err(|error| QueryError::parameter(name, error))?;
        if MOMENTS.contains(&found) {
            Ok(found)
        } else {
            Err(QueryError::parameter(name, "is out of range"))
        }
    };
    let until_us = match &range.until {
        Some(text) => moment("until", text)?,
        None => now_us,
    };
    let from_us = match &range.since {
        Some(text) => moment("since", text)?,
        None => until_us - default_us,
    };
    if from_us >= until_us {
        return Err(QueryError::parameter(
            "since",
            format!(
                "the range is empty: {} is not before {}",
                format_utc(from_us),
                format_utc(until_us)
            ),
        ));
    }
    Ok(Window { from_us, until_us })
}

/// Returns the filter for `field = text` if there is a text.
fn equals(field: Field, text: Option<&String>) -> Filter {
    text.map_or(Filter::All, |text| Filter::text(field, text))
}

/// Says whether `text` is what was asked for, if anything was.
fn wanted(asked: Option<&String>, text: &str) -> bool {
    asked.is_none_or(|asked| asked == text)
}

#[cfg(test)]
mod tests {
    use whodunit_analysis::top::Grouping;
    use whodunit_analysis::{edges, routes, stat, top};
    use whodunit_model::{
        BootId, Cause, Kind, Outcome, Party, RequestId, RequestRecord, Rows, Side, TlsState, Twin,
    };

    use super::*;

    fn range(since: &str, until: &str) -> Range {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Range {
            since: text(since),
            until: text(until),
        }
    }

    #[test]
    fn ranges_end_now_unless_they_say_otherwise() {
        let now_us = 1_000 * SECOND_US;
        let check = |since, until, from_s: i64, until_s: i64| {
            let found = window(&range(since, until), 60 * SECOND_US, now_us);
            let expected = Window {
                from_us: from_s * SECOND_US,
                until_us: until_s * SECOND_US,
            };
            assert_eq!(found, Ok(expected), "{since} {until}");
        };
        check("", "", 940, 1_000);
        check("2m", "", 880, 1_000);
        check("2m", "1m", 880, 940);
        check("", "1m", 880, 940);
        check("1970-01-01T00:00:01Z", "", 1, 1_000);
    }

    #[test]
    fn wrong_ranges_are_named() {
        let check = |since, until, says: &str| {
            let error = window(&range(since, until), SECOND_US, 1_000 * SECOND_US);
            let message = error.expect_err(says).to_string();
            assert!(message.contains(says), "{message}");
        };
        check("yesterday", "", "`since`: `yesterday`");
        check("", "soon", "`until`: `soon`");
        check("1m", "2m", "is empty");
        check("9999d", "", "out of range");
    }

    /// Rows whose every field takes several values.
    fn varied() -> Rows {
        let pick = |n: u64, of: &[&str]| of[usize::try_from(n).unwrap() % of.len()].into();
        let party = |n: u64| Party {
            namespace: pick(n, &["n", "m"]),
            workload: pick(n / 2, &["web", "voting", ""]),
            instance: pick(n / 3, &["a-0", "a-1", ""]),
            version: pick(n, &["v1", "v2"]),
        };
        (0..2_000u64)
            .map(|n| {
                let id = RequestId {
                    start_us: i64::try_from(n / 2).unwrap() * 1_000,
                    boot: BootId(1),
                    n: u32::try_from(n / 2).unwrap(),
                };
                let side = Side::ALL[usize::try_from(n % 2).unwrap()];
                let mut record = RequestRecord::new(id, side, id.start_us);
                let word = |n: u64, words: usize| usize::try_from(n).unwrap() % words;
                record.kind = Kind::ALL[word(n / 7, 4)];
                record.twin = Twin::ALL[word(n / 5, 3)];
                record.outcome = Outcome::ALL[word(n / 3, 3)];
                record.cause = Cause::ALL[word(n / 11, 26)];
                record.tls = TlsState::ALL[word(n / 13, 3)];
                record.src = party(n / 2);
                record.dst = party(n / 3 + 1);
                record.service = pick(n / 5, &["web", "voting-svc", ""]);
                record.authority = pick(n / 7, &["db:5432", "web:80", ""]);
                record.endpoint = pick(n / 11, &["127.0.0.1:1", "127.0.0.1:2"]);
                record.peer_identity = pick(n / 13, &["one", "two", ""]);
                record.method = pick(n / 3, &["GET", "POST"]);
                record.route = pick(n / 5, &["GET /", "n.S/M", "GET /{}"]);
                record.path = pick(n / 7, &["/?a=1", "/x", "/?a=2"]);
                record.latency_us = i64::try_from(n * 7 % 997).unwrap();
                record.duration_us = record.latency_us + i64::try_from(n % 31).unwrap();
                record.request_bytes = n % 17;
                record.response_bytes = n % 23;
                record.client_error = n % 19 == 0;
                record.probe = n % 29 == 0;
                record
            })
            .collect()
    }

    #[test]
    fn columns_left_out_change_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let store = whodunit_store::open(whodunit_store::Options::new(dir.path())).unwrap();
        let mut payload = Vec::new();
        whodunit_flight::encode(&varied(), &mut payload);
        let batch = whodunit_store::ReceivedBatch {
            proxy: &whodunit_store::ProxyName::default(),
            boot: BootId(1),
            sequence: 1,
            payload: &payload,
            clock_offset_us: 0,
        };
        store.append(batch, 0).unwrap();
        let queries = Queries::new(store, None);
        let window = Window {
            from_us: 0,
            until_us: 10 * SECOND_US,
        };
        let read = |columns| queries.rows(window, Filter::All, columns).unwrap().rows;
        let all = read(Columns::All);
        assert_eq!(all.len(), 2_000);

        let signals = read(Columns::Signals);
        for by in ["workload", "instance", "service", "namespace", "route"] {
            let by = stat::By::from_name(by).unwrap();
            let whole = stat::stat(&all, window, by);
            assert!(whole.len() > 1, "{by:?}");
            assert_eq!(stat::stat(&signals, window, by), whole, "{by:?}");
        }
        let whole = routes::routes(&all, window);
        assert_eq!(routes::routes(&signals, window), whole);
        let whole = edges::edges(&all, window);
        assert_eq!(edges::edges(&read(Columns::Edges), window), whole);
        for grouping in [Grouping::Path, Grouping::Route] {
            let whole = top::top(&all, window, grouping);
            assert_eq!(top::top(&read(Columns::Top), window, grouping), whole);
        }
    }
}
