//! Tables as CSV and JSON, for machines: nothing is rounded.

use crate::ops::rows::cell_json;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use serde_json::Value;

/// CSV as RFC 4180 has it, with a head line and `\n` line ends. No value is an empty field; an empty text is `""`.
pub fn csv(batch: &RecordBatch) -> String {
    let schema = batch.schema();
    let mut out = String::new();
    let heads: Vec<String> = schema.fields().iter().map(|f| quoted(f.name())).collect();
    out.push_str(&heads.join(","));
    out.push('\n');
    for row in 0..batch.num_rows() {
        let cells: Vec<String> = batch.columns().iter().map(|c| csv_cell(c, row)).collect();
        out.push_str(&cells.join(","));
        out.push('\n');
    }
    out
}

fn csv_cell(column: &dyn Array, row: usize) -> String {
    match exact(column, row) {
        Value::Null => String::new(),
        Value::String(text) if text.is_empty() => "\"\"".into(),
        Value::String(text) => quoted(&text),
        other => quoted(&other.to_string()),
    }
}

fn quoted(text: &str) -> String {
    let plain = !text.contains(['"', ',', '\n', '\r']) && text.trim() == text;
    if plain { text.to_string() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// A JSON array with one object for each row, a row to a line. JSON has no NaN and no infinity: they are texts.
pub fn json(batch: &RecordBatch) -> String {
    let schema = batch.schema();
    let object = |row: usize| {
        let cell = |(f, c): (&std::sync::Arc<arrow::datatypes::Field>, &arrow::array::ArrayRef)| {
            (f.name().clone(), exact(c, row))
        };
        Value::Object(schema.fields().iter().zip(batch.columns()).map(cell).collect()).to_string()
    };
    let rows: Vec<String> = (0..batch.num_rows()).map(object).collect();
    if rows.is_empty() { "[]\n".into() } else { format!("[\n{}\n]\n", rows.join(",\n")) }
}

/// A cell as JSON, with the numbers that JSON lacks as texts.
fn exact(column: &dyn Array, row: usize) -> Value {
    use arrow::array::AsArray;
    let number = match column.data_type() {
        _ if column.is_null(row) => return Value::Null,
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row),
        DataType::Float32 => f64::from(column.as_primitive::<Float32Type>().value(row)),
        _ => return cell_json(column, row),
    };
    match number {
        n if n.is_nan() => "NaN".into(),
        n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        n => n.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, StringArray};
    use std::sync::Arc;

    fn batch() -> RecordBatch {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a \"b\", c\nd"), Some(""), None, Some(" x")]));
        let numbers = [Some(0.1 + 0.2), Some(f64::NAN), Some(f64::NEG_INFINITY), None];
        let numbers: ArrayRef = Arc::new(Float64Array::from(numbers.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("te,xt", text, true), ("n", numbers, true)]).unwrap()
    }

    #[test]
    fn csv_keeps_every_value_apart() {
        let expected = "\"te,xt\",n\n\"a \"\"b\"\", c\nd\",0.30000000000000004\n\"\",NaN\n,-Infinity\n\" x\",\n";
        assert_eq!(csv(&batch()), expected);
    }

    #[test]
    fn json_reads_back() {
        let rows: Vec<Value> = serde_json::from_str(&json(&batch())).unwrap();
        assert_eq!(rows[0], serde_json::json!({ "te,xt": "a \"b\", c\nd", "n": 0.1 + 0.2 }));
        assert_eq!(rows[1]["n"], "NaN");
        assert_eq!(rows[3]["n"], Value::Null);
        assert_eq!(json(&batch().slice(0, 0)), "[]\n");
    }
}
