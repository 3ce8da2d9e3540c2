//! Several answers to one question: the column that numbers them, and the ids that they have.

use super::rows::ID;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use std::sync::Arc;

/// The column that numbers the answers to a question, from 0.
pub const SAMPLE: &str = "sample";

/// The column [`SAMPLE`].
pub fn field() -> Field {
    Field::new(SAMPLE, DataType::Int64, false)
}

/// The id of an answer: `q:7#2` for the sample 2 of `q:7`.
pub fn id(question: &str, sample: usize) -> String {
    format!("{question}#{sample}")
}

/// The numbers of the rows, where there are any.
pub fn numbers(batch: &RecordBatch) -> Option<&Int64Array> {
    batch.column_by_name(SAMPLE)?.as_primitive_opt::<Int64Type>()
}

/// The ids of the questions that the rows answer; `None` where nothing is numbered.
pub fn questions(batch: &RecordBatch) -> Option<ArrayRef> {
    let ids = batch.column_by_name(ID)?.as_string_opt::<i32>()?;
    let ids = ids.iter().zip(numbers(batch)?).map(|(id, sample)| Some(question(id?, sample)));
    Some(Arc::new(ids.collect::<StringArray>()))
}

/// The question of an [`id`]; one that does not end in its row's number is a question's own.
fn question(id: &str, sample: Option<i64>) -> &str {
    match (id.rsplit_once('#'), sample) {
        (Some((question, number)), Some(sample)) if number == sample.to_string() => question,
        _ => id,
    }
}
