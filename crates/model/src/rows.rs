//! Records in columns: what the store scans and analysis reads.
//!
//! Strings are interned: a column holds [`Symbol`]s, small numbers that index
//! [`Strings`]. Comparing two symbols of the same [`Rows`] compares the strings.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::{BootId, RequestId};
use crate::outcome::{Cause, Origin, Outcome};
use crate::record::{
    Detected, Kind, Party, Protocol, RequestRecord, Side, TlsState, TraceContext, Twin,
};

/// Stands for a string within one [`Strings`] table. The empty string is always 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(pub u32);

impl Symbol {
    /// The empty string: "not known".
    pub const EMPTY: Self = Self(0);

    /// Says whether this is the empty string.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A table of distinct strings.
#[derive(Clone, Debug)]
pub struct Strings {
    texts: Vec<Arc<str>>,
    index: HashMap<Arc<str>, Symbol>,
}

impl Default for Strings {
    fn default() -> Self {
        let empty: Arc<str> = Arc::default();
        Self {
            texts: vec![empty.clone()],
            index: HashMap::from([(empty, Symbol::EMPTY)]),
        }
    }
}

impl Strings {
    /// Returns the symbol of `text`, adding it if it is new.
    ///
    /// # Panics
    /// When the table would exceed 2³² strings, which no memory holds.
    pub fn intern(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.index.get(text) {
            return *symbol;
        }
        self.add(text.into())
    }

    /// As [`Strings::intern`], sharing the allocation of `text`.
    pub fn intern_shared(&mut self, text: &Arc<str>) -> Symbol {
        if text.is_empty() {
            return Symbol::EMPTY;
        }
        if let Some(symbol) = self.index.get(&**text) {
            return *symbol;
        }
        self.add(text.clone())
    }

    fn add(&mut self, text: Arc<str>) -> Symbol {
        let symbol = Symbol(u32::try_from(self.texts.len()).expect("fewer than 2^32 strings"));
        self.texts.push(text.clone());
        self.index.insert(text, symbol);
        symbol
    }

    /// Returns the symbol of `text` if the table has it.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Symbol> {
        self.index.get(text).copied()
    }

    /// Returns the string of a symbol of this table, or the empty string for a foreign one.
    #[must_use]
    pub fn text(&self, symbol: Symbol) -> &str {
        self.texts.get(symbol.0 as usize).map_or("", |text| text)
    }

    /// As [`Strings::text`], shared.
    #[must_use]
    pub fn shared(&self, symbol: Symbol) -> Arc<str> {
        self.texts
            .get(symbol.0 as usize)
            .cloned()
            .unwrap_or_default()
    }

    /// Returns the number of strings, the empty one included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Says whether there is nothing but the empty string.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.len() == 1
    }
}

macro_rules! columns {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// Records in columns. All columns have the same length.
        ///
        /// Units and meanings are those of [`RequestRecord`].
        #[derive(Clone, Debug, Default)]
        pub struct Rows {
            /// The strings the symbols stand for.
            pub strings: Strings,
            $($(#[$doc])* pub $name: Vec<$type>,)*
        }

        /// One row of [`Rows`] by value, symbols not resolved.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Row {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Rows {
            /// Returns row `index`.
            ///
            /// # Panics
            /// When there is no such row.
            #[must_use]
            pub fn row(&self, index: usize) -> Row {
                Row { $($name: self.$name[index],)* }
            }

            /// Appends a row whose symbols belong to `self.strings`.
            pub fn push_row(&mut self, row: Row) {
                $(self.$name.push(row.$name);)*
            }

            /// Makes room for `additional` rows.
            pub fn reserve(&mut self, additional: usize) {
                $(self.$name.reserve(additional);)*
            }

            /// Keeps the first `length` rows.
            pub fn truncate(&mut self, length: usize) {
                $(self.$name.truncate(length);)*
            }

            /// Returns the rows named by `order`, in that order.
            ///
            /// # Panics
            /// When there is no such row.
            #[must_use]
            pub fn select(&self, order: &[usize]) -> Self {
                Self {
                    strings: self.strings.clone(),
                    $($name: order.iter().map(|&index| self.$name[index]).collect(),)*
                }
            }

            /// Puts row `order[i]` at place `i`. `order` may leave rows out.
            pub fn reorder(&mut self, order: &[usize]) {
                $(self.$name = order.iter().map(|&index| self.$name[index]).collect();)*
            }
        }
    };
}

columns! {
    /// What the row describes.
    kind: Kind,
    /// The request's id.
    id: RequestId,
    /// Which side recorded it.
    side: Side,
    /// Head read on this side, µs since the epoch.
    start_at_us: i64,
    /// End or observation, µs since the epoch.
    at_us: i64,
    /// Time to the first body byte, µs.
    latency_us: i64,
    /// Time to the end, µs.
    duration_us: i64,
    /// Caller's namespace.
    src_namespace: Symbol,
    /// Caller's workload.
    src_workload: Symbol,
    /// Caller's instance.
    src_instance: Symbol,
    /// Caller's version.
    src_version: Symbol,
    /// Callee's namespace.
    dst_namespace: Symbol,
    /// Callee's workload.
    dst_workload: Symbol,
    /// Callee's instance.
    dst_instance: Symbol,
    /// Callee's version.
    dst_version: Symbol,
    /// Name the caller used.
    service: Symbol,
    /// `Host` or `:authority`.
    authority: Symbol,
    /// Whether the other side was ours too.
    twin: Twin,
    /// What was spoken.
    protocol: Protocol,
    /// How the protocol was known.
    detected: Detected,
    /// Encryption between the proxies.
    tls: TlsState,
    /// Identity from the peer's certificate.
    peer_identity: Symbol,
    /// HTTP method.
    method: Symbol,
    /// Route.
    route: Symbol,
    /// Redacted path and query.
    path: Symbol,
    /// HTTP status, 0 if none.
    status: u16,
    /// gRPC status, if there was one.
    grpc_status: Option<u8>,
    /// Success, failure or pending.
    outcome: Outcome,
    /// Why it failed.
    cause: Cause,
    /// Where the failure began.
    origin: Origin,
    /// The status was a 4xx.
    client_error: bool,
    /// Tries made.
    attempts: u16,
    /// Request body bytes.
    request_bytes: u64,
    /// Response body bytes.
    response_bytes: u64,
    /// Request messages.
    request_messages: u32,
    /// Response messages.
    response_messages: u32,
    /// Chosen address.
    endpoint: Symbol,
    /// Time waited for an endpoint, µs.
    queue_us: i64,
    /// The connection was reused.
    reused: bool,
    /// Trace identifiers.
    trace: TraceContext,
    /// `x-request-id`, redacted.
    correlation: Symbol,
    /// Captured attributes.
    attributes: Symbol,
    /// Decisions on the way.
    trail: Symbol,
    /// A health probe.
    probe: bool,
    /// Some fields were stripped.
    stripped: bool,
}

/// The texts of the last record that was appended to some [`Rows`], and their symbols there.
#[derive(Clone, Debug, Default)]
pub struct Recent(Vec<(Arc<str>, Symbol)>);

impl Row {
    /// Returns the row of a record; `intern` is given its texts, always in the same order.
    fn of(record: &RequestRecord, mut intern: impl FnMut(&Arc<str>) -> Symbol) -> Self {
        Self {
            kind: record.kind,
            id: record.id,
            side: record.side,
            start_at_us: record.start_at_us,
            at_us: record.at_us,
            latency_us: record.latency_us,
            duration_us: record.duration_us,
            src_namespace: intern(&record.src.namespace),
            src_workload: intern(&record.src.workload),
            src_instance: intern(&record.src.instance),
            src_version: intern(&record.src.version),
            dst_namespace: intern(&record.dst.namespace),
            dst_workload: intern(&record.dst.workload),
            dst_instance: intern(&record.dst.instance),
            dst_version: intern(&record.dst.version),
            service: intern(&record.service),
            authority: intern(&record.authority),
            twin: record.twin,
            protocol: record.protocol,
            detected: record.detected,
            tls: record.tls,
            peer_identity: intern(&record.peer_identity),
            method: intern(&record.method),
            route: intern(&record.route),
            path: intern(&record.path),
            status: record.status,
            grpc_status: record.grpc_status,
            outcome: record.outcome,
            cause: record.cause,
            origin: record.origin,
            client_error: record.client_error,
            attempts: record.attempts,
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            request_messages: record.request_messages,
            response_messages: record.response_messages,
            endpoint: intern(&record.endpoint),
            queue_us: record.queue_us,
            reused: record.reused,
            trace: record.trace,
            correlation: intern(&record.correlation),
            attributes: intern(&record.attributes),
            trail: intern(&record.trail),
            probe: record.probe,
            stripped: record.stripped,
        }
    }
}

impl Rows {
    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.id.len()
    }

    /// Says whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.id.is_empty()
    }

    /// Returns the string of a symbol of these rows.
    #[must_use]
    pub fn text(&self, symbol: Symbol) -> &str {
        self.strings.text(symbol)
    }

    /// Appends a record.
    pub fn push(&mut self, record: &RequestRecord) {
        let strings = &mut self.strings;
        let row = Row::of(record, |text| strings.intern_shared(text));
        self.push_row(row);
    }

    /// As [`Rows::push`], much faster for records that share texts with the one before.
    /// `recent` must have been used for these rows only.
    pub fn push_recent(&mut self, record: &RequestRecord, recent: &mut Recent) {
        let strings = &mut self.strings;
        let texts = &mut recent.0;
        let mut place = 0;
        let row = Row::of(record, |text| {
            let at = place;
            place += 1;
            match texts.get_mut(at) {
                Some((known, symbol)) if Arc::ptr_eq(known, text) => *symbol,
                Some(known) => {
                    *known = (text.clone(), strings.intern_shared(text));
                    known.1
                }
                None => {
                    let symbol = strings.intern_shared(text);
                    texts.push((text.clone(), symbol));
                    symbol
                }
            }
        });
        self.push_row(row);
    }

    /// Returns row `index` as a record with its own strings.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn record(&self, index: usize) -> RequestRecord {
        let row = self.row(index);
        let text = |symbol| self.strings.shared(symbol);
        RequestRecord {
            kind: row.kind,
            id: row.id,
            side: row.side,
            start_at_us: row.start_at_us,
            at_us: row.at_us,
            latency_us: row.latency_us,
            duration_us: row.duration_us,
            src: Party {
                namespace: text(row.src_namespace),
                workload: text(row.src_workload),
                instance: text(row.src_instance),
                version: text(row.src_version),
            },
            dst: Party {
                namespace: text(row.dst_namespace),
                workload: text(row.dst_workload),
                instance: text(row.dst_instance),
                version: text(row.dst_version),
            },
            service: text(row.service),
            authority: text(row.authority),
            twin: row.twin,
            protocol: row.protocol,
            detected: row.detected,
            tls: row.tls,
            peer_identity: text(row.peer_identity),
            method: text(row.method),
            route: text(row.route),
            path: text(row.path),
            status: row.status,
            grpc_status: row.grpc_status,
            outcome: row.outcome,
            cause: row.cause,
            origin: row.origin,
            client_error: row.client_error,
            attempts: row.attempts,
            request_bytes: row.request_bytes,
            response_bytes: row.response_bytes,
            request_messages: row.request_messages,
            response_messages: row.response_messages,
            endpoint: text(row.endpoint),
            queue_us: row.queue_us,
            reused: row.reused,
            trace: row.trace,
            correlation: text(row.correlation),
            attributes: text(row.attributes),
            trail: text(row.trail),
            probe: row.probe,
            stripped: row.stripped,
        }
    }

    /// Says whether row `index` counts as one call: a finished request that is
    /// no probe, seen inbound, or outbound when the callee has no proxy of ours.
    ///
    /// Counting rows for which this holds counts every call once.
    #[must_use]
    pub fn counts_once(&self, index: usize) -> bool {
        self.is_final(index)
            && !self.probe[index]
            && (self.side[index] == Side::Inbound || self.twin[index] == Twin::No)
    }

    /// Says whether row `index` is the last word on its request or connection.
    #[must_use]
    pub fn is_final(&self, index: usize) -> bool {
        matches!(self.kind[index], Kind::Request | Kind::Connection)
    }

    /// Says whether row `index` failed.
    #[must_use]
    pub fn failed(&self, index: usize) -> bool {
        self.outcome[index] == Outcome::Failure
    }
}

impl FromIterator<RequestRecord> for Rows {
    fn from_iter<I: IntoIterator<Item = RequestRecord>>(records: I) -> Self {
        let mut rows = Self::default();
        for record in records {
            rows.push(&record);
        }
        rows
    }
}

impl Default for Row {
    fn default() -> Self {
        let record = RequestRecord::new(
            RequestId {
                start_us: 0,
                boot: BootId(0),
                n: 0,
            },
            Side::Inbound,
            0,
        );
        let mut rows = Rows::default();
        rows.push(&record);
        rows.row(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_last_record_are_known_again_by_place_and_content() {
        let id = RequestId {
            start_us: 5,
            boot: BootId(1),
            n: 2,
        };
        let (mut rows, mut recent) = (Rows::default(), Recent::default());
        let mut record = RequestRecord::new(id, Side::Outbound, 5);
        for (service, path) in [("a", "/1"), ("a", "/2"), ("/2", "a"), ("", "/1")] {
            record.service = service.into();
            record.path = path.into();
            for _ in 0..2 {
                rows.push_recent(&record, &mut recent);
                let index = rows.len() - 1;
                assert_eq!(rows.record(index), record);
            }
        }
        assert_eq!(rows.strings.len(), 4, "each text once, and the empty one");
    }

    #[test]
    fn a_record_survives_the_columns() {
        let id = RequestId {
            start_us: 5,
            boot: BootId(1),
            n: 2,
        };
        let mut record = RequestRecord::new(id, Side::Outbound, 5);
        record.service = "voting".into();
        record.dst.workload = "voting".into();
        record.grpc_status = Some(2);
        record.outcome = Outcome::Failure;
        let rows: Rows = [record.clone(), record.clone()].into_iter().collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows.record(1), record);
        assert_eq!(rows.service[0], rows.dst_workload[0]);
        assert!(rows.failed(0));
    }

    #[test]
    fn each_call_is_counted_once() {
        let id = RequestId::default();
        let mut outbound = RequestRecord::new(id, Side::Outbound, 0);
        outbound.twin = Twin::Yes;
        let inbound = RequestRecord::new(id, Side::Inbound, 0);
        let mut lone = outbound.clone();
        lone.twin = Twin::No;
        let mut open = inbound.clone();
        open.kind = Kind::Open;
        let mut probe = inbound.clone();
        probe.probe = true;
        let rows: Rows = [outbound, inbound, lone, open, probe].into_iter().collect();
        let counted: Vec<bool> = (0..rows.len()).map(|i| rows.counts_once(i)).collect();
        assert_eq!(counted, [false, true, true, false, false]);
    }
}
