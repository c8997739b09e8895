//! The body of a batch: which column is written how.

use whodunit_model::id::{BootId, RequestId};
use whodunit_model::rows::{Row, Rows, Symbol};
use whodunit_model::{
    Cause, Detected, Kind, Origin, Outcome, Protocol, Side, TlsState, TraceContext, Twin,
};

use super::{DecodeError, ROWS_MAX};
use crate::bytes_io::{Reader, put_signed, put_varint};

/// Numbers of the columns: never reused, never changed.
mod id {
    pub(super) const KIND: u64 = 1;
    pub(super) const SIDE: u64 = 2;
    pub(super) const ID_START: u64 = 3;
    pub(super) const ID_BOOT: u64 = 4;
    pub(super) const ID_N: u64 = 5;
    pub(super) const START_AT: u64 = 6;
    pub(super) const AT: u64 = 7;
    pub(super) const LATENCY: u64 = 8;
    pub(super) const DURATION: u64 = 9;
    pub(super) const SRC_NAMESPACE: u64 = 10;
    pub(super) const SRC_WORKLOAD: u64 = 11;
    pub(super) const SRC_INSTANCE: u64 = 12;
    pub(super) const SRC_VERSION: u64 = 13;
    pub(super) const DST_NAMESPACE: u64 = 14;
    pub(super) const DST_WORKLOAD: u64 = 15;
    pub(super) const DST_INSTANCE: u64 = 16;
    pub(super) const DST_VERSION: u64 = 17;
    pub(super) const SERVICE: u64 = 18;
    pub(super) const AUTHORITY: u64 = 19;
    pub(super) const TWIN: u64 = 20;
    pub(super) const PROTOCOL: u64 = 21;
    pub(super) const DETECTED: u64 = 22;
    pub(super) const TLS: u64 = 23;
    pub(super) const PEER_IDENTITY: u64 = 24;
    pub(super) const METHOD: u64 = 25;
    pub(super) const ROUTE: u64 = 26;
    pub(super) const PATH: u64 = 27;
    pub(super) const STATUS: u64 = 28;
    pub(super) const GRPC_STATUS: u64 = 29;
    pub(super) const OUTCOME: u64 = 30;
    pub(super) const CAUSE: u64 = 31;
    pub(super) const ORIGIN: u64 = 32;
    pub(super) const FLAGS: u64 = 33;
    pub(super) const ATTEMPTS: u64 = 34;
    pub(super) const REQUEST_BYTES: u64 = 35;
    pub(super) const RESPONSE_BYTES: u64 = 36;
    pub(super) const REQUEST_MESSAGES: u64 = 37;
    pub(super) const RESPONSE_MESSAGES: u64 = 38;
    pub(super) const ENDPOINT: u64 = 39;
    pub(super) const QUEUE: u64 = 40;
    pub(super) const TRACE: u64 = 41;
    pub(super) const CORRELATION: u64 = 42;
    pub(super) const ATTRIBUTES: u64 = 43;
    pub(super) const TRAIL: u64 = 44;
}

const FLAG_CLIENT_ERROR: u8 = 1;
const FLAG_REUSED: u8 = 2;
const FLAG_PROBE: u8 = 4;
const FLAG_STRIPPED: u8 = 8;

/// Byte of an absent gRPC status.
const NO_GRPC_STATUS: u8 = 255;

/// Symbol columns in the order of their numbers: number, reader of a row, writer of a row.
type SymbolColumn = (u64, fn(&Rows) -> &Vec<Symbol>, fn(&mut Row) -> &mut Symbol);

macro_rules! symbol_columns {
    ($($number:ident $name:ident),* $(,)?) => {
        &[$((id::$number, |rows| &rows.$name, |row| &mut row.$name)),*]
    };
}

const SYMBOLS: &[SymbolColumn] = symbol_columns![
    SRC_NAMESPACE src_namespace,
    SRC_WORKLOAD src_workload,
    SRC_INSTANCE src_instance,
    SRC_VERSION src_version,
    DST_NAMESPACE dst_namespace,
    DST_WORKLOAD dst_workload,
    DST_INSTANCE dst_instance,
    DST_VERSION dst_version,
    SERVICE service,
    AUTHORITY authority,
    PEER_IDENTITY peer_identity,
    METHOD method,
    ROUTE route,
    PATH path,
    ENDPOINT endpoint,
    CORRELATION correlation,
    ATTRIBUTES attributes,
    TRAIL trail,
];

/// Gives the strings that are used numbers of their own, in order of first use.
struct Interner<'a> {
    rows: &'a Rows,
    numbers: Vec<u32>,
    order: Vec<Symbol>,
}

impl Interner<'_> {
    fn number(&mut self, symbol: Symbol) -> u64 {
        let index = symbol.0 as usize;
        if index >= self.numbers.len() {
            return 0;
        }
        if self.numbers[index] == u32::MAX {
            self.numbers[index] = self.order.len() as u32;
            self.order.push(symbol);
        }
        u64::from(self.numbers[index])
    }
}

/// Appends the body of the batch of `rows`.
pub(super) fn write(rows: &Rows, out: &mut Vec<u8>) {
    let mut strings = Interner {
        rows,
        numbers: vec![u32::MAX; rows.strings.len()],
        order: Vec::new(),
    };
    strings.number(Symbol::EMPTY);
    let mut columns = Vec::with_capacity(rows.len() * 48);
    let mut count = 0;
    let mut column = |number: u64, write: &mut dyn FnMut(&mut Vec<u8>)| {
        let mut bytes = Vec::with_capacity(rows.len() * 2);
        write(&mut bytes);
        put_varint(&mut columns, number);
        put_varint(&mut columns, bytes.len() as u64);
        columns.extend_from_slice(&bytes);
        count += 1;
    };

    macro_rules! words {
        ($number:ident, $name:ident) => {
            column(id::$number, &mut |out| {
                out.extend(rows.$name.iter().map(|value| value.number()));
            });
        };
    }
    words!(KIND, kind);
    words!(SIDE, side);
    words!(TWIN, twin);
    words!(PROTOCOL, protocol);
    words!(DETECTED, detected);
    words!(TLS, tls);
    words!(OUTCOME, outcome);
    words!(CAUSE, cause);
    words!(ORIGIN, origin);

    column(id::ID_START, &mut |out| {
        put_deltas(out, rows.id.iter().map(|id| id.start_us))
    });
    column(id::ID_N, &mut |out| {
        put_deltas(out, rows.id.iter().map(|id| i64::from(id.n)))
    });
    column(id::ID_BOOT, &mut |out| put_boots(out, rows));
    column(id::START_AT, &mut |out| {
        put_deltas(out, rows.start_at_us.iter().copied())
    });
    column(id::AT, &mut |out| {
        put_deltas(out, rows.at_us.iter().copied())
    });
    column(id::LATENCY, &mut |out| {
        rows.latency_us.iter().for_each(|v| put_signed(out, *v))
    });
    column(id::DURATION, &mut |out| {
        rows.duration_us.iter().for_each(|v| put_signed(out, *v))
    });
    column(id::QUEUE, &mut |out| {
        rows.queue_us.iter().for_each(|v| put_signed(out, *v))
    });

    for (number, values, _) in SYMBOLS {
        column(*number, &mut |out| {
            for symbol in values(rows) {
                put_varint(out, strings.number(*symbol));
            }
        });
    }

    macro_rules! counts {
        ($number:ident, $name:ident) => {
            column(id::$number, &mut |out| {
                rows.$name
                    .iter()
                    .for_each(|value| put_varint(out, u64::from(*value)));
            });
        };
    }
    counts!(STATUS, status);
    counts!(ATTEMPTS, attempts);
    counts!(REQUEST_BYTES, request_bytes);
    counts!(RESPONSE_BYTES, response_bytes);
    counts!(REQUEST_MESSAGES, request_messages);
    counts!(RESPONSE_MESSAGES, response_messages);

    column(id::GRPC_STATUS, &mut |out| {
        out.extend(
            rows.grpc_status
                .iter()
                .map(|code| code.unwrap_or(NO_GRPC_STATUS)),
        );
    });
    column(id::FLAGS, &mut |out| {
        out.extend((0..rows.len()).map(|i| {
            [
                (rows.client_error[i], FLAG_CLIENT_ERROR),
                (rows.reused[i], FLAG_REUSED),
                (rows.probe[i], FLAG_PROBE),
                (rows.stripped[i], FLAG_STRIPPED),
            ]
            .into_iter()
            .fold(
                0,
                |flags, (set, flag)| if set { flags | flag } else { flags },
            )
        }));
    });
    if rows
        .trace
        .iter()
        .any(|trace| *trace != TraceContext::default())
    {
        column(id::TRACE, &mut |out| {
            rows.trace.iter().for_each(|trace| put_trace(out, *trace))
        });
    }

    put_varint(out, rows.len() as u64);
    put_varint(out, strings.order.len() as u64);
    for symbol in &strings.order {
        put_varint(out, strings.rows.text(*symbol).len() as u64);
    }
    for symbol in &strings.order {
        out.extend_from_slice(strings.rows.text(*symbol).as_bytes());
    }
    put_varint(out, count);
    out.extend_from_slice(&columns);
}

fn put_deltas(out: &mut Vec<u8>, values: impl Iterator<Item = i64>) {
    let mut before = 0i64;
    for value in values {
        put_signed(out, value.wrapping_sub(before));
        before = value;
    }
}

/// Boots: the distinct ones as 8 bytes each, then one index per row.
fn put_boots(out: &mut Vec<u8>, rows: &Rows) {
    let mut distinct: Vec<BootId> = Vec::new();
    let indexes: Vec<u64> = rows
        .id
        .iter()
        .map(|id| {
            let known = distinct.iter().rposition(|boot| *boot == id.boot);
            let index = known.unwrap_or_else(|| {
                distinct.push(id.boot);
                distinct.len() - 1
            });
            index as u64
        })
        .collect();
    put_varint(out, distinct.len() as u64);
    for boot in distinct {
        out.extend_from_slice(&boot.0.to_le_bytes());
    }
    for index in indexes {
        put_varint(out, index);
    }
}

fn put_trace(out: &mut Vec<u8>, trace: TraceContext) {
    let present = trace != TraceContext::default();
    out.push(u8::from(present));
    if present {
        out.extend_from_slice(&trace.trace_id.to_le_bytes());
        out.extend_from_slice(&trace.parent_id.to_le_bytes());
    }
}

/// Reads the body of a batch.
pub(super) fn read(body: &[u8]) -> Result<Rows, DecodeError> {
    let damaged = |part| DecodeError::Damaged { part };
    let mut reader = Reader::new(body);
    let length = reader.length().ok_or(damaged("the row count"))?;
    if length > ROWS_MAX {
        return Err(DecodeError::TooLarge { what: "rows" });
    }
    let mut rows = Rows::default();
    let symbols = read_strings(&mut reader, &mut rows).ok_or(damaged("the strings"))?;
    // Every row takes at least a byte of the kind column, so a length that the
    // body cannot hold is refused before memory is taken for it.
    if length > body.len() {
        return Err(damaged("the row count"));
    }
    let mut table = vec![Row::default(); length];
    let count = reader.varint().ok_or(damaged("the columns"))?;
    for _ in 0..count {
        let number = reader.varint().ok_or(damaged("the columns"))?;
        let bytes = reader.length().and_then(|length| reader.take(length));
        let bytes = bytes.ok_or(damaged("the columns"))?;
        read_column(number, bytes, &symbols, &mut table).ok_or(damaged("a column"))?;
    }
    if !reader.is_at_end() {
        return Err(damaged("the end"));
    }
    rows.reserve(length);
    for row in table {
        rows.push_row(row);
    }
    Ok(rows)
}

fn read_strings(reader: &mut Reader<'_>, rows: &mut Rows) -> Option<Vec<Symbol>> {
    let count = reader.length()?;
    let mut lengths = Vec::new();
    for _ in 0..count {
        lengths.push(reader.length()?);
    }
    let mut symbols = Vec::with_capacity(lengths.len());
    for length in lengths {
        let text = std::str::from_utf8(reader.take(length)?).ok()?;
        symbols.push(rows.strings.intern(text));
    }
    Some(symbols)
}

/// Fills one column of `table`; none if the bytes do not fit. Unknown columns are skipped.
fn read_column(number: u64, bytes: &[u8], symbols: &[Symbol], table: &mut [Row]) -> Option<()> {
    let mut reader = Reader::new(bytes);
    if let Some((_, _, field)) = SYMBOLS.iter().find(|column| column.0 == number) {
        for row in table.iter_mut() {
            *field(row) = *symbols.get(reader.length()?)?;
        }
        return reader.is_at_end().then_some(());
    }

    // A word that this build does not know keeps the meaning "unknown": it must
    // never be counted as something it is not.
    macro_rules! words {
        ($name:ident, $type:ty, $unknown:expr) => {
            for row in table.iter_mut() {
                row.$name = <$type>::from_number(reader.byte()?).unwrap_or($unknown);
            }
        };
    }
    macro_rules! each {
        ($name:ident, $read:expr) => {
            for row in table.iter_mut() {
                row.$name = $read?;
            }
        };
    }
    match number {
        id::KIND => words!(kind, Kind, Kind::Attempt),
        id::SIDE => words!(side, Side, Side::Outbound),
        id::TWIN => words!(twin, Twin, Twin::Unknown),
        id::PROTOCOL => words!(protocol, Protocol, Protocol::Tcp),
        id::DETECTED => words!(detected, Detected, Detected::FallBack),
        id::TLS => words!(tls, TlsState, TlsState::Disabled),
        id::OUTCOME => words!(outcome, Outcome, Outcome::Pending),
        id::CAUSE => words!(cause, Cause, Cause::Unknown),
        id::ORIGIN => words!(origin, Origin, Origin::None),
        id::ID_START => deltas(&mut reader, table, |row, v| row.id.start_us = v)?,
        id::ID_N => {
            let mut fits = true;
            deltas(&mut reader, table, |row, v| match u32::try_from(v) {
                Ok(n) => row.id.n = n,
                Err(_) => fits = false,
            })?;
            fits.then_some(())?;
        }
        id::ID_BOOT => read_boots(&mut reader, table)?,
        id::START_AT => deltas(&mut reader, table, |row, v| row.start_at_us = v)?,
        id::AT => deltas(&mut reader, table, |row, v| row.at_us = v)?,
        id::LATENCY => each!(latency_us, reader.signed()),
        id::DURATION => each!(duration_us, reader.signed()),
        id::QUEUE => each!(queue_us, reader.signed()),
        id::STATUS => each!(status, reader.varint().and_then(|v| u16::try_from(v).ok())),
        id::ATTEMPTS => each!(
            attempts,
            reader.varint().and_then(|v| u16::try_from(v).ok())
        ),
        id::REQUEST_BYTES => each!(request_bytes, reader.varint()),
        id::RESPONSE_BYTES => each!(response_bytes, reader.varint()),
        id::REQUEST_MESSAGES => {
            each!(
                request_messages,
                reader.varint().and_then(|v| u32::try_from(v).ok())
            );
        }
        id::RESPONSE_MESSAGES => {
            each!(
                response_messages,
                reader.varint().and_then(|v| u32::try_from(v).ok())
            );
        }
        id::GRPC_STATUS => {
            for row in table.iter_mut() {
                let code = reader.byte()?;
                row.grpc_status = (code != NO_GRPC_STATUS).then_some(code);
            }
        }
        id::FLAGS => {
            for row in table.iter_mut() {
                let flags = reader.byte()?;
                row.client_error = flags & FLAG_CLIENT_ERROR != 0;
                row.reused = flags & FLAG_REUSED != 0;
                row.probe = flags & FLAG_PROBE != 0;
                row.stripped = flags & FLAG_STRIPPED != 0;
            }
        }
        id::TRACE => each!(trace, read_trace(&mut reader)),
        _ => return Some(()),
    }
    reader.is_at_end().then_some(())
}

fn deltas(
    reader: &mut Reader<'_>,
    table: &mut [Row],
    mut set: impl FnMut(&mut Row, i64),
) -> Option<()> {
    let mut value = 0i64;
    for row in table {
        value = value.wrapping_add(reader.signed()?);
        set(row, value);
    }
    Some(())
}

fn read_boots(reader: &mut Reader<'_>, table: &mut [Row]) -> Option<()> {
    let count = reader.length()?;
    let bytes = reader.take(count.checked_mul(8)?)?;
    let (boots, _) = bytes.as_chunks::<8>();
    for row in table {
        row.id = RequestId {
            boot: BootId(u64::from_le_bytes(*boots.get(reader.length()?)?)),
            ..row.id
        };
    }
    Some(())
}

fn read_trace(reader: &mut Reader<'_>) -> Option<TraceContext> {
    if reader.byte()? == 0 {
        return Some(TraceContext::default());
    }
    let trace_id = u128::from_le_bytes(reader.take(16)?.try_into().ok()?);
    let parent_id = u64::from_le_bytes(reader.take(8)?.try_into().ok()?);
    Some(TraceContext {
        trace_id,
        parent_id,
    })
}
