//! Small tools that operators share: the types of our edges, rows as JSON, batches cut to fixed sizes, and
//! accounts of memory held.

use crate::exec::{NodeCx, Rejected, RunError};
use crate::store::{cut, normal, row_bytes};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;
use std::sync::Arc;

/// The column that names a row, from its source through every join and table.
pub const ID: &str = "id";

/// The non-null text column [`ID`].
pub fn id_field() -> Field {
    Field::new(ID, DataType::Utf8, false)
}

/// The type of a column that holds a list of texts.
pub fn text_list() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))
}

/// The type that a value has on our edges: text, 64-bit integers and floats, booleans, lists of texts or numbers.
/// All else (dates, decimals, structures) travels as text.
pub fn plain_type(given: &DataType) -> DataType {
    use DataType as T;
    match given {
        T::Boolean => T::Boolean,
        t if t.is_integer() => T::Int64,
        T::Float16 | T::Float32 | T::Float64 => T::Float64,
        T::Dictionary(_, value) => plain_type(value),
        T::List(item) | T::LargeList(item) | T::FixedSizeList(item, _) | T::ListView(item) => match item.data_type() {
            T::Float32 => list_of(T::Float32),
            t if t.is_integer() || t.is_floating() || *t == T::Boolean => list_of(plain_type(t)),
            T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Null => text_list(),
            _ => T::Utf8,
        },
        _ => T::Utf8,
    }
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// An array in the type that [`plain_type`] says. Fails where a value does not fit (an unsigned integer beyond
/// 63 bits, bytes that are no text) rather than losing it.
pub fn to_plain(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let target = plain_type(array.data_type());
    match array.data_type() {
        given if *given == target => Ok(array.clone()),
        DataType::Null => Ok(new_null_array(&target, array.len())),
        given if target == DataType::Utf8 && given.is_nested() => Ok(nested_as_json(array)),
        _ => cast_with_options(array, &target, &CastOptions { safe: false, ..Default::default() }),
    }
}

/// Structures, maps and nested lists as JSON text.
pub fn nested_as_json(array: &ArrayRef) -> ArrayRef {
    let text = |row| (!array.is_null(row)).then(|| cell_json(array, row).to_string());
    Arc::new((0..array.len()).map(text).collect::<arrow::array::StringArray>())
}

/// One cell as JSON.
pub fn cell_json(array: &dyn Array, row: usize) -> Value {
    use DataType as T;
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        T::Utf8 => array.as_string::<i32>().value(row).into(),
        T::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        T::Boolean => array.as_boolean().value(row).into(),
        T::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        T::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        T::Float32 => array.as_primitive::<Float32Type>().value(row).into(),
        T::List(_) => list_json(&array.as_list::<i32>().value(row)),
        T::LargeList(_) => list_json(&array.as_list::<i64>().value(row)),
        T::FixedSizeList(_, _) => list_json(&array.as_fixed_size_list().value(row)),
        T::Struct(fields) => {
            let cell = |(f, c): (&Arc<Field>, &ArrayRef)| (f.name().clone(), cell_json(c, row));
            Value::Object(fields.iter().zip(array.as_struct().columns()).map(cell).collect())
        }
        _ => shown(array, row),
    }
}

fn list_json(items: &ArrayRef) -> Value {
    (0..items.len()).map(|i| cell_json(items, i)).collect()
}

/// A cell as prompts and recordings show it: whole numbers without a fraction, in whatever type the column is.
pub fn cell_shown(array: &dyn Array, row: usize) -> Value {
    /// Up to here every whole number is a float.
    const WHOLE: f64 = (1_u64 << 53) as f64;
    let value = cell_json(array, row);
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && number.abs() < WHOLE => (number as i64).into(),
        _ => value,
    }
}

/// A cell of any other type: a number if it reads as one, otherwise its text.
fn shown(array: &dyn Array, row: usize) -> Value {
    let options = FormatOptions::default();
    let text = match ArrayFormatter::try_new(array, &options) {
        Ok(formatter) => formatter.value(row).to_string(),
        Err(error) => format!("<{error}>"),
    };
    match serde_json::from_str(&text) {
        Ok(number @ Value::Number(_)) if array.data_type().is_numeric() => number,
        _ => Value::String(text),
    }
}

/// One row as a JSON object, nulls included.
pub fn row_json(batch: &RecordBatch, row: usize) -> Value {
    let schema = batch.schema();
    let cell = |(f, c): (&Arc<Field>, &ArrayRef)| (f.name().clone(), cell_json(c, row));
    Value::Object(schema.fields().iter().zip(batch.columns()).map(cell).collect())
}

/// The `id` of a row; for a table without ids its position in the batch.
pub fn row_id(batch: &RecordBatch, row: usize) -> String {
    match batch.column_by_name(ID).and_then(|c| c.as_string_opt::<i32>()) {
        Some(ids) if ids.is_valid(row) => ids.value(row).to_string(),
        _ => format!("#{row}"),
    }
}

/// A column that the plan has found to be text.
pub fn text_column(batch: &RecordBatch, name: &str) -> Result<StringArray, RunError> {
    let column = batch.column_by_name(name).ok_or_else(|| {
        RunError::failed("column-missing", format!("the rows have no column `{name}`, which the plan had seen"))
    })?;
    Ok(cast(column, &DataType::Utf8).map_err(arrow_failed)?.as_string::<i32>().clone())
}

/// The rows of a batch that are to be kept, with columns of their own (one value for each of them) beside them.
pub fn widened(
    batch: &RecordBatch,
    keep: Vec<bool>,
    added: Vec<ArrayRef>,
    schema: SchemaRef,
) -> Result<RecordBatch, RunError> {
    let kept = filter_record_batch(batch, &BooleanArray::from(keep)).map_err(arrow_failed)?;
    let columns = kept.columns().iter().cloned().chain(added).collect();
    RecordBatch::try_new(schema, columns).map_err(arrow_failed)
}

/// Sends one row of a batch to quarantine.
pub fn reject_row(
    cx: &NodeCx,
    batch: &RecordBatch,
    row: usize,
    reason: &'static str,
    message: impl Into<String>,
) -> Result<(), RunError> {
    cx.reject(Rejected { id: row_id(batch, row), reason, message: message.into(), row: row_json(batch, row) })
}

/// Batches cut anew so that bytes written from them do not depend on how rows arrived: a slab ends after a
/// fixed number of rows or of bytes, counted row by row.
pub struct Slabs {
    schema: SchemaRef,
    max_rows: usize,
    max_bytes: u64,
    pending: Vec<RecordBatch>,
    rows: usize,
    bytes: u64,
}

impl Slabs {
    pub fn new(schema: SchemaRef, max_rows: usize, max_bytes: u64) -> Self {
        Self { schema, max_rows, max_bytes, pending: Vec::new(), rows: 0, bytes: 0 }
    }

    /// Takes a batch and returns the slabs that it completes.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>, ArrowError> {
        let sizes = row_bytes(batch);
        let mut done = Vec::new();
        let mut start = 0;
        while start < sizes.len() {
            let end = cut(&sizes[start..], (self.rows, self.bytes), self.max_rows, self.max_bytes);
            let taken = end.unwrap_or(sizes.len() - start);
            self.pending.push(batch.slice(start, taken));
            self.rows += taken;
            self.bytes += sizes[start..start + taken].iter().sum::<u64>();
            start += taken;
            if end.is_some() {
                done.extend(self.finish()?);
            }
        }
        Ok(done)
    }

    /// The rows since the last slab, if there are any, in the one form that their values have.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        (self.rows, self.bytes) = (0, 0);
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(None);
        }
        let whole = concat_batches(&self.schema, &pending)?;
        let columns = whole.columns().iter().map(normal).collect::<Result<_, _>>()?;
        RecordBatch::try_new(self.schema.clone(), columns).map(Some)
    }
}

/// Bytes that an operator holds, kept below the `memory` option of the run.
pub struct Held {
    what: &'static str,
    limit: u64,
    bytes: u64,
}

impl Held {
    /// `what` names the thing held, as in "the right side of the join".
    pub fn new(cx: &NodeCx, what: &'static str) -> Self {
        Self { what, limit: cx.options().memory, bytes: 0 }
    }

    /// Says that this many bytes are held now.
    pub fn set(&mut self, bytes: usize) -> Result<(), RunError> {
        self.bytes = 0;
        self.add(bytes)
    }

    pub fn add(&mut self, bytes: usize) -> Result<(), RunError> {
        self.bytes += bytes as u64;
        if self.bytes <= self.limit {
            return Ok(());
        }
        let message = format!(
            "{} needs more than the {} that `memory` in `run` allows",
            self.what,
            crate::size::show(self.limit)
        );
        Err(RunError::failed("out-of-memory", message)
            .help("raise `memory` in the `run` block, or bring fewer rows or columns here with `filter` or `select`"))
    }

    pub fn add_batch(&mut self, batch: &RecordBatch) -> Result<(), RunError> {
        self.add(batch.get_array_memory_size())
    }
}

/// An error of the arrow library where our own code has made sure that there is none: said, not panicked.
pub fn arrow_failed(error: ArrowError) -> RunError {
    RunError::failed("arrow", format!("a column operation failed: {error}"))
}

/// The rows of an input in batches, each checked for a stop of the run before it is worked on.
pub fn batches(
    cx: &NodeCx,
    index: usize,
) -> Result<impl Iterator<Item = Result<RecordBatch, RunError>> + use<>, RunError> {
    let host = cx.clone();
    let stream = cx.open(index)?;
    Ok(stream
        .filter(|b| !matches!(b, Ok(batch) if batch.num_rows() == 0))
        .map(move |batch| if host.stopping() { Err(RunError::Interrupted) } else { batch }))
}

/// Emits a batch in pieces of at most the run's batch size.
pub fn emit_in_batches(cx: &NodeCx, output: usize, batch: &RecordBatch) -> Result<(), RunError> {
    let size = cx.options().batch_rows.max(1);
    let mut start = 0;
    while start < batch.num_rows() {
        let rows = size.min(batch.num_rows() - start);
        cx.emit(output, batch.slice(start, rows))?;
        start += rows;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, LargeStringArray, StructArray, UInt64Array};
    use proptest::prelude::*;

    fn texts(rows: &[&str]) -> RecordBatch {
        RecordBatch::try_from_iter([("id", Arc::new(StringArray::from(rows.to_vec())) as ArrayRef)]).unwrap()
    }

    #[test]
    fn types_are_widened_or_become_text() {
        assert_eq!(plain_type(&DataType::UInt8), DataType::Int64);
        assert_eq!(plain_type(&DataType::Float32), DataType::Float64);
        assert_eq!(plain_type(&DataType::Date32), DataType::Utf8);
        assert_eq!(plain_type(&DataType::new_large_list(DataType::LargeUtf8, true)), text_list());
        assert_eq!(plain_type(&text_list()), text_list());
    }

    #[test]
    fn values_that_do_not_fit_are_errors() {
        let too_big: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        assert!(to_plain(&too_big).is_err());
    }

    #[test]
    fn structures_become_json() {
        let inner: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
        let name: ArrayRef = Arc::new(LargeStringArray::from(vec!["a", "b"]));
        let structure = StructArray::try_from(vec![("n", inner), ("s", name)]).unwrap();
        let text = to_plain(&(Arc::new(structure) as ArrayRef)).unwrap();
        assert_eq!(text.as_string::<i32>().value(0), r#"{"n":1,"s":"a"}"#);
        assert_eq!(text.as_string::<i32>().value(1), r#"{"n":null,"s":"b"}"#);
    }

    proptest! {
        #[test]
        fn slabs_do_not_depend_on_batches(
            rows in prop::collection::vec("[a-z]{0,30}", 1..80),
            cuts in prop::collection::vec(1usize..9, 1..80),
        ) {
            let all: Vec<&str> = rows.iter().map(String::as_str).collect();
            let whole = texts(&all);
            let slabs = |batches: &[RecordBatch]| {
                let mut slabs = Slabs::new(whole.schema(), 7, 90);
                let mut out: Vec<RecordBatch> = batches.iter().flat_map(|b| slabs.push(b).unwrap()).collect();
                out.extend(slabs.finish().unwrap());
                out
            };
            let mut pieces = Vec::new();
            let mut start = 0;
            for cut in cuts.iter().cycle() {
                if start == whole.num_rows() { break; }
                let n = (*cut).min(whole.num_rows() - start);
                pieces.push(whole.slice(start, n));
                start += n;
            }
            let expected = slabs(std::slice::from_ref(&whole));
            prop_assert_eq!(&expected, &slabs(&pieces));
            prop_assert_eq!(concat_batches(&whole.schema(), &expected).unwrap(), whole);
        }
    }
}
