//! Finished rows as batches of the outputs.

use super::line::Finished;
use super::task::{Cell, InRow};
use crate::exec::{NodeCx, Rejected, RunError};
use crate::ops::rows::{ID, arrow_failed, emit_in_batches, row_json};
use crate::ops::samples;
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, Field};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A row of an output.
struct OutRow {
    from: InRow,
    sample: Option<usize>,
    cells: Vec<Cell>,
}

/// Hands rows on and rejects those that failed, in their order.
pub fn emit(cx: &NodeCx, rows: Vec<Finished>) -> Result<(), RunError> {
    let mut outputs: BTreeMap<usize, Vec<OutRow>> = BTreeMap::new();
    for Finished { row, sample, outcome, .. } in rows {
        match outcome {
            Ok(rows) => {
                for new in rows {
                    let output = outputs.entry(new.output).or_default();
                    output.push(OutRow { from: row.clone(), sample: new.sample.or(sample), cells: new.cells });
                }
            }
            Err(failure) => cx.reject(Rejected {
                id: id(&row, sample),
                reason: failure.reason,
                message: failure.message,
                row: row_json(&row.batch, row.row),
            })?,
        }
    }
    for (output, rows) in outputs {
        emit_in_batches(cx, output, &batch(cx, output, rows)?)?;
    }
    Ok(())
}

fn id(row: &InRow, sample: Option<usize>) -> String {
    match sample {
        Some(sample) => samples::id(row.id(), sample),
        None => row.id().to_string(),
    }
}

fn batch(cx: &NodeCx, output: usize, mut rows: Vec<OutRow>) -> Result<RecordBatch, RunError> {
    let schema = cx.output_schema(output);
    let mut sources: Vec<Arc<RecordBatch>> = Vec::new();
    let mut places = Vec::with_capacity(rows.len());
    for row in &rows {
        // Rows of a batch stand together: its place is the last one, if it has any.
        if !sources.last().is_some_and(|last| Arc::ptr_eq(last, &row.from.batch)) {
            sources.push(row.from.batch.clone());
        }
        places.push((sources.len() - 1, row.from.row));
    }
    let sources: Vec<&RecordBatch> = sources.iter().map(|s| &**s).collect();
    let taken = interleave_record_batch(&sources, &places).map_err(arrow_failed)?;
    let mut columns = taken.columns().to_vec();
    if rows.iter().any(|r| r.sample.is_some())
        && let Ok(at) = schema.index_of(ID)
    {
        columns[at] = Arc::new(rows.iter().map(|r| Some(id(&r.from, r.sample))).collect::<StringArray>());
    }
    for (at, field) in schema.fields()[columns.len()..].iter().enumerate() {
        let cells =
            rows.iter_mut().map(|r| r.cells.get_mut(at).map_or(Cell::Null, |c| std::mem::replace(c, Cell::Null)));
        columns.push(column(field, cells)?);
    }
    RecordBatch::try_new(schema, columns).map_err(arrow_failed)
}

fn column(field: &Field, cells: impl Iterator<Item = Cell>) -> Result<ArrayRef, RunError> {
    let wrong = |cell: Cell| {
        let message = format!("bug in an operator: `{}` is {} and got {cell:?}", field.name(), field.data_type());
        RunError::failed("operator-bug", message)
    };
    macro_rules! collected {
        ($array:ty, $kind:path) => {{
            let value = |cell| match cell {
                Cell::Null => Ok(None),
                $kind(value) => Ok(Some(value)),
                other => Err(wrong(other)),
            };
            Arc::new(cells.map(value).collect::<Result<$array, RunError>>()?) as ArrayRef
        }};
    }
    Ok(match field.data_type() {
        DataType::Utf8 => collected!(StringArray, Cell::Text),
        DataType::Int64 => collected!(Int64Array, Cell::Int),
        DataType::Float64 => collected!(Float64Array, Cell::Float),
        DataType::Boolean => collected!(BooleanArray, Cell::Bool),
        _ => return Err(wrong(Cell::Null)),
    })
}
