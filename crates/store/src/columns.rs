//! The columns of a record in Arrow and in Parquet, and the way to and from [`Rows`].
//!
//! Recent rows and rows read from files have the same columns: texts and words
//! are dictionaries of strings, everything else is a plain array. The schema is
//! specified in `docs/formats/requests-v1.md`. A column that a batch lacks
//! (an older file) reads as its default; one that is not known is ignored.

use std::sync::Arc;

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use whodunit_model::id::{BootId, RequestId};
use whodunit_model::{
    Cause, Detected, Kind, Origin, Outcome, Protocol, Rows, Side, Strings, Symbol, TlsState,
    TraceContext, Twin,
};

/// Bytes of a trace id.
const TRACE_ID_BYTES: i32 = 16;

/// Which columns a reader wants; all if none are named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a>(pub(crate) Option<&'a [&'static str]>);

impl Wanted<'_> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.is_none_or(|names| names.contains(&name))
    }
}

fn text_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Hands every column of one shape to a macro: `field` of `Rows`, and what it needs.
macro_rules! for_texts {
    ($then:ident) => {
        $then!(
            src_namespace,
            src_workload,
            src_instance,
            src_version,
            dst_namespace,
            dst_workload,
            dst_instance,
            dst_version,
            service,
            authority,
            peer_identity,
            method,
            route,
            path,
            endpoint,
            correlation,
            attributes,
            trail
        );
    };
}

macro_rules! for_words {
    ($then:ident) => {
        $then!(
            kind: Kind = Kind::Request,
            side: Side = Side::Inbound,
            twin: Twin = Twin::Unknown,
            protocol: Protocol = Protocol::Http1,
            detected: Detected = Detected::Declared,
            tls: TlsState = TlsState::Disabled,
            outcome: Outcome = Outcome::Pending,
            cause: Cause = Cause::Unknown,
            origin: Origin = Origin::None
        );
    };
}

macro_rules! for_flags {
    ($then:ident) => {
        $then!(client_error, reused, probe, stripped);
    };
}

/// Numbers stored as INT64. Unsigned ones above the signed range become the largest one.
macro_rules! for_longs {
    ($then:ident) => {
        $then!(
            latency_us: i64,
            duration_us: i64,
            queue_us: i64,
            request_bytes: u64,
            response_bytes: u64,
            request_messages: u32,
            response_messages: u32
        );
    };
}

/// Numbers stored as INT32.
macro_rules! for_ints {
    ($then:ident) => {
        $then!(status: u16, attempts: u16);
    };
}

/// Name and type of every column, in the order of a file.
fn fields() -> Vec<Field> {
    let mut fields = Vec::with_capacity(48);
    let mut add = |name: &str, kind: DataType, nullable: bool| {
        fields.push(Field::new(name, kind, nullable));
    };
    add("at", time_type(), false);
    add("start_at", time_type(), false);
    add("id_start", time_type(), false);
    add("id_boot", DataType::Int64, false);
    add("id_n", DataType::Int64, false);
    macro_rules! words {
        ($($name:ident: $type:ty = $default:expr),*) => { $(add(stringify!($name), text_type(), false);)* };
    }
    for_words!(words);
    macro_rules! texts {
        ($($name:ident),*) => { $(add(stringify!($name), text_type(), false);)* };
    }
    for_texts!(texts);
    macro_rules! ints {
        ($($name:ident: $type:ty),*) => { $(add(stringify!($name), DataType::Int32, false);)* };
    }
    for_ints!(ints);
    add("grpc_status", DataType::Int32, true);
    macro_rules! longs {
        ($($name:ident: $type:ty),*) => { $(add(stringify!($name), DataType::Int64, false);)* };
    }
    for_longs!(longs);
    macro_rules! flags {
        ($($name:ident),*) => { $(add(stringify!($name), DataType::Boolean, false);)* };
    }
    for_flags!(flags);
    add("trace_id", DataType::FixedSizeBinary(TRACE_ID_BYTES), true);
    add("trace_parent", DataType::Int64, false);
    fields
}

/// The schema of recent rows and of new files.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(fields()))
}

/// Names of all columns.
pub(crate) fn names() -> Vec<String> {
    fields()
        .into_iter()
        .map(|field| field.name().clone())
        .collect()
}

/// Returns the schema with which a file is read: its own, strings as dictionaries.
pub(crate) fn reading_schema(file: &Schema) -> SchemaRef {
    let fields: Vec<Field> = file
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 => {
                Field::new(field.name(), text_type(), field.is_nullable())
            }
            _ => field.as_ref().clone(),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// Returns the first column that has another type than it must have, or that
/// is missing and cannot be done without.
pub(crate) fn mismatch(file: &Schema) -> Option<String> {
    for expected in fields() {
        let name = expected.name();
        match file.field_with_name(name) {
            Ok(found) if found.data_type() != expected.data_type() => {
                return Some(format!("column `{name}` has type {}", found.data_type()));
            }
            Ok(_) => {}
            Err(_) if matches!(name.as_str(), "at" | "id_start" | "id_boot" | "id_n") => {
                return Some(format!("column `{name}` is missing"));
            }
            Err(_) => {}
        }
    }
    None
}

fn long(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

fn signed(bits: u64) -> i64 {
    i64::from_ne_bytes(bits.to_ne_bytes())
}

fn unsigned(bits: i64) -> u64 {
    u64::from_ne_bytes(bits.to_ne_bytes())
}

/// Turns rows into a batch of [`schema`]. All texts share one dictionary.
pub(crate) fn to_batch(rows: &Rows) -> Result<RecordBatch, ArrowError> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(48);
    let times = |values: Vec<i64>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
    };
    columns.push(times(rows.at_us.clone()));
    columns.push(times(rows.start_at_us.clone()));
    columns.push(times(rows.id.iter().map(|id| id.start_us).collect()));
    columns.push(Arc::new(Int64Array::from_iter_values(
        rows.id.iter().map(|id| signed(id.boot.0)),
    )));
    columns.push(Arc::new(Int64Array::from_iter_values(
        rows.id.iter().map(|id| i64::from(id.n)),
    )));
    macro_rules! words {
        ($($name:ident: $type:ty = $default:expr),*) => {$({
            let values: ArrayRef = Arc::new(StringArray::from_iter_values(
                <$type>::ALL.iter().map(|word| word.name()),
            ));
            let keys: Vec<i32> = rows.$name.iter().map(|word| i32::from(word.number())).collect();
            columns.push(Arc::new(DictionaryArray::<Int32Type>::try_new(keys.into(), values)?));
        })*};
    }
    for_words!(words);
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows.strings.len()).map(
        |index| {
            rows.strings
                .text(Symbol(u32::try_from(index).unwrap_or(u32::MAX)))
        },
    )));
    macro_rules! texts {
        ($($name:ident),*) => {$({
            let keys: Vec<i32> = rows.$name.iter()
                .map(|symbol| i32::try_from(symbol.0).unwrap_or(i32::MAX)).collect();
            columns.push(Arc::new(DictionaryArray::<Int32Type>::try_new(keys.into(), texts.clone())?));
        })*};
    }
    for_texts!(texts);
    macro_rules! ints {
        ($($name:ident: $type:ty),*) => {$(
            columns.push(Arc::new(Int32Array::from_iter_values(rows.$name.iter().map(|v| i32::from(*v)))));
        )*};
    }
    for_ints!(ints);
    columns.push(Arc::new(Int32Array::from_iter(
        rows.grpc_status.iter().map(|code| code.map(i32::from)),
    )));
    macro_rules! longs {
        ($($name:ident: $type:ty),*) => {$(
            columns.push(Arc::new(Int64Array::from_iter_values(rows.$name.iter().map(|v| long(*v)))));
        )*};
    }
    for_longs!(longs);
    macro_rules! flags {
        ($($name:ident),*) => {$(
            columns.push(Arc::new(BooleanArray::from(rows.$name.clone())));
        )*};
    }
    for_flags!(flags);
    let mut trace_ids = FixedSizeBinaryBuilder::with_capacity(rows.len(), TRACE_ID_BYTES);
    for trace in &rows.trace {
        if trace.trace_id == 0 {
            trace_ids.append_null();
        } else {
            trace_ids.append_value(trace.trace_id.to_be_bytes())?;
        }
    }
    columns.push(Arc::new(trace_ids.finish()));
    columns.push(Arc::new(Int64Array::from_iter_values(
        rows.trace.iter().map(|trace| signed(trace.parent_id)),
    )));
    RecordBatch::try_new(schema(), columns)
}

/// A dictionary column: keys into a list of strings.
pub(crate) struct Texts<'a> {
    array: &'a DictionaryArray<Int32Type>,
    values: &'a StringArray,
}

impl<'a> Texts<'a> {
    /// Returns the column, or none if the batch lacks it.
    pub(crate) fn of(batch: &'a RecordBatch, name: &str) -> Option<Self> {
        let array = batch
            .column_by_name(name)?
            .as_any()
            .downcast_ref::<DictionaryArray<Int32Type>>()?;
        let values = array.values().as_any().downcast_ref::<StringArray>()?;
        Some(Self { array, values })
    }

    /// Number of distinct strings, at least.
    pub(crate) fn distinct(&self) -> usize {
        self.values.len()
    }

    /// Returns the place of row `index` in the dictionary; none where the text is empty for lack of one.
    pub(crate) fn key(&self, index: usize) -> Option<usize> {
        if self.array.is_null(index) {
            return None;
        }
        usize::try_from(self.array.keys().value(index)).ok()
    }

    /// Returns the string at a place of the dictionary.
    pub(crate) fn value(&self, key: usize) -> &'a str {
        if self.values.is_null(key) {
            ""
        } else {
            self.values.value(key)
        }
    }
}

macro_rules! plain_column {
    ($name:ident, $array:ty, $native:ty) => {
        /// Returns the values of the column, or none if the batch lacks it.
        pub(crate) fn $name<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a [$native]> {
            let array = batch
                .column_by_name(name)?
                .as_any()
                .downcast_ref::<$array>()?;
            let values: &ScalarBuffer<$native> = array.values();
            Some(values)
        }
    };
}

plain_column!(times, TimestampMicrosecondArray, i64);
plain_column!(longs, Int64Array, i64);
plain_column!(ints, Int32Array, i32);

/// Returns the column, or none if the batch lacks it.
pub(crate) fn flags<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a BooleanArray> {
    batch.column_by_name(name)?.as_any().downcast_ref()
}

/// Returns the gRPC statuses, or none if the batch lacks them.
pub(crate) fn grpc_statuses(batch: &RecordBatch) -> Option<&Int32Array> {
    batch.column_by_name("grpc_status")?.as_any().downcast_ref()
}

/// Returns the gRPC status of a row as the model has it.
pub(crate) fn grpc_status(statuses: &Int32Array, index: usize) -> Option<u8> {
    if statuses.is_null(index) {
        return None;
    }
    u8::try_from(statuses.value(index)).ok()
}

/// Returns the trace ids, or none if the batch lacks them.
pub(crate) fn trace_ids(batch: &RecordBatch) -> Option<&FixedSizeBinaryArray> {
    batch.column_by_name("trace_id")?.as_any().downcast_ref()
}

/// Returns the trace id of a row, 0 if it has none.
pub(crate) fn trace_id(ids: &FixedSizeBinaryArray, index: usize) -> u128 {
    if ids.is_null(index) {
        return 0;
    }
    ids.value(index).try_into().map_or(0, u128::from_be_bytes)
}

/// The three columns of an id.
pub(crate) struct Ids<'a> {
    start: &'a [i64],
    boot: &'a [i64],
    n: &'a [i64],
}

impl<'a> Ids<'a> {
    /// Returns the columns, or none if the batch lacks one.
    pub(crate) fn of(batch: &'a RecordBatch) -> Option<Self> {
        Some(Self {
            start: times(batch, "id_start")?,
            boot: longs(batch, "id_boot")?,
            n: longs(batch, "id_n")?,
        })
    }

    /// Returns the id of a row.
    pub(crate) fn id(&self, index: usize) -> RequestId {
        RequestId {
            start_us: self.start[index],
            boot: BootId(unsigned(self.boot[index])),
            n: u32::try_from(self.n[index]).unwrap_or(u32::MAX),
        }
    }
}

/// Appends the rows of `batch` named by `indices` to `out`.
///
/// Columns that are not wanted, or that the batch lacks, get their default.
pub(crate) fn take(batch: &RecordBatch, wanted: Wanted<'_>, indices: &[u32], out: &mut Rows) {
    let length = out.len() + indices.len();
    let each = || indices.iter().map(|index| *index as usize);
    match times(batch, "at") {
        Some(values) => out.at_us.extend(each().map(|i| values[i])),
        None => out.at_us.resize(length, 0),
    }
    match times(batch, "start_at").filter(|_| wanted.has("start_at")) {
        Some(values) => out.start_at_us.extend(each().map(|i| values[i])),
        None => out.start_at_us.resize(length, 0),
    }
    match Ids::of(batch) {
        Some(ids) => out.id.extend(each().map(|i| ids.id(i))),
        None => out.id.resize(length, RequestId::default()),
    }
    macro_rules! words {
        ($($name:ident: $type:ty = $default:expr),*) => {$(
            let column = Texts::of(batch, stringify!($name)).filter(|_| wanted.has(stringify!($name)));
            match column {
                Some(texts) => {
                    let words: Vec<$type> = (0..texts.distinct())
                        .map(|key| <$type>::from_name(texts.value(key)).unwrap_or($default))
                        .collect();
                    out.$name.extend(each().map(|i| texts.key(i).map_or($default, |key| words[key])));
                }
                None => out.$name.resize(length, $default),
            }
        )*};
    }
    for_words!(words);
    let mut memo = Vec::new();
    macro_rules! texts {
        ($($name:ident),*) => {$(
            let column = Texts::of(batch, stringify!($name)).filter(|_| wanted.has(stringify!($name)));
            match column {
                Some(texts) => take_texts(&texts, indices, &mut memo, &mut out.strings, &mut out.$name),
                None => out.$name.resize(length, Symbol::EMPTY),
            }
        )*};
    }
    for_texts!(texts);
    macro_rules! numbers {
        ($read:ident: $($name:ident: $type:ty),*) => {$(
            match $read(batch, stringify!($name)).filter(|_| wanted.has(stringify!($name))) {
                Some(values) => out.$name.extend(each().map(|i| <$type>::try_from(values[i]).unwrap_or_default())),
                None => out.$name.resize(length, 0),
            }
        )*};
    }
    macro_rules! int_columns { ($($t:tt)*) => { numbers!(ints: $($t)*) }; }
    for_ints!(int_columns);
    macro_rules! long_columns { ($($t:tt)*) => { numbers!(longs: $($t)*) }; }
    for_longs!(long_columns);
    match grpc_statuses(batch).filter(|_| wanted.has("grpc_status")) {
        Some(values) => out
            .grpc_status
            .extend(each().map(|i| grpc_status(values, i))),
        None => out.grpc_status.resize(length, None),
    }
    macro_rules! flag_columns {
        ($($name:ident),*) => {$(
            match flags(batch, stringify!($name)).filter(|_| wanted.has(stringify!($name))) {
                Some(values) => out.$name.extend(each().map(|i| values.value(i))),
                None => out.$name.resize(length, false),
            }
        )*};
    }
    for_flags!(flag_columns);
    take_traces(batch, wanted, indices, out);
}

fn take_traces(batch: &RecordBatch, wanted: Wanted<'_>, indices: &[u32], out: &mut Rows) {
    let ids = trace_ids(batch).filter(|_| wanted.has("trace_id"));
    let parents = longs(batch, "trace_parent").filter(|_| wanted.has("trace_parent"));
    out.trace.extend(indices.iter().map(|index| {
        let index = *index as usize;
        TraceContext {
            trace_id: ids.map_or(0, |ids| trace_id(ids, index)),
            parent_id: parents.map_or(0, |parents| unsigned(parents[index])),
        }
    }));
}

fn take_texts(
    texts: &Texts<'_>,
    indices: &[u32],
    memo: &mut Vec<Option<Symbol>>,
    strings: &mut Strings,
    out: &mut Vec<Symbol>,
) {
    memo.clear();
    memo.resize(texts.distinct(), None);
    out.extend(indices.iter().map(|index| {
        let Some(key) = texts.key(*index as usize) else {
            return Symbol::EMPTY;
        };
        *memo[key].get_or_insert_with(|| strings.intern(texts.value(key)))
    }));
}

/// Appends all rows of `from` to `into`.
pub(crate) fn append(into: &mut Rows, from: &Rows) {
    into.reserve(from.len());
    let symbols: Vec<Symbol> = (0..from.strings.len())
        .map(|index| {
            let symbol = Symbol(u32::try_from(index).unwrap_or(u32::MAX));
            into.strings.intern_shared(&from.strings.shared(symbol))
        })
        .collect();
    let translate = |symbol: Symbol| symbols.get(symbol.0 as usize).copied().unwrap_or_default();
    for index in 0..from.len() {
        let mut row = from.row(index);
        macro_rules! texts {
            ($($name:ident),*) => { $(row.$name = translate(row.$name);)* };
        }
        for_texts!(texts);
        into.push_row(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_numbered_by_their_place() {
        macro_rules! words {
            ($($name:ident: $type:ty = $default:expr),*) => {$(
                for (place, word) in <$type>::ALL.iter().enumerate() {
                    assert_eq!(usize::from(word.number()), place, "{word}");
                }
            )*};
        }
        for_words!(words);
    }

    #[test]
    fn a_batch_without_a_column_reads_as_the_default() {
        let mut rows = Rows::default();
        rows.push_row(whodunit_model::rows::Row {
            status: 200,
            ..Default::default()
        });
        let batch = to_batch(&rows).unwrap();
        let without = batch.schema().index_of("status").unwrap();
        let mut batch = batch;
        batch.remove_column(without);
        let mut read = Rows::default();
        take(&batch, Wanted(None), &[0], &mut read);
        assert_eq!(read.status, [0]);
        assert_eq!(read.len(), 1);
        assert_eq!(read.attempts, [1]);
    }
}
