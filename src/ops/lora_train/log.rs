//! The log of a training: a row for each optimizer step.

use crate::exec::RunError;
use crate::ops::rows::{arrow_failed, id_field};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// An optimizer step. Steps and epochs are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    pub step: u64,
    pub epoch: u64,
    pub loss: f64,
    pub learning_rate: f64,
    pub grad_norm: f64,
    pub label_tokens: u64,
    pub tokens: u64,
    /// After the step, where it was measured.
    pub validation_loss: Option<f64>,
}

pub fn schema() -> SchemaRef {
    let int = |name: &str| Field::new(name, DataType::Int64, false);
    let float = |name: &str| Field::new(name, DataType::Float64, false);
    Arc::new(Schema::new(vec![
        id_field(),
        int("step"),
        int("epoch"),
        float("loss"),
        float("learning_rate"),
        float("grad_norm"),
        int("label_tokens"),
        int("tokens"),
        Field::new("validation_loss", DataType::Float64, true),
    ]))
}

pub fn batch(schema: &SchemaRef, log: &[Entry]) -> Result<RecordBatch, RunError> {
    let int = |of: fn(&Entry) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(log.iter().map(|e| of(e) as i64)))
    };
    let float = |of: fn(&Entry) -> f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values(log.iter().map(of))) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(log.iter().map(|e| format!("step-{:06}", e.step)))),
        int(|e| e.step),
        int(|e| e.epoch),
        float(|e| e.loss),
        float(|e| e.learning_rate),
        float(|e| e.grad_norm),
        int(|e| e.label_tokens),
        int(|e| e.tokens),
        Arc::new(log.iter().map(|e| e.validation_loss).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(schema.clone(), columns).map_err(arrow_failed)
}

/// The first of the lowest validation losses: its place in the log.
pub fn best(log: &[Entry]) -> Option<usize> {
    let measured = log.iter().enumerate().filter_map(|(at, e)| Some((at, e.validation_loss?)));
    measured.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

/// Measurements since the best one.
pub fn no_better(log: &[Entry]) -> u64 {
    let since = best(log).map_or(log.len(), |at| at + 1);
    log[since..].iter().filter(|e| e.validation_loss.is_some()).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(losses: &[Option<f64>]) -> Vec<Entry> {
        let entry = |(step, validation_loss): (u64, &Option<f64>)| Entry {
            step,
            epoch: 1,
            loss: 1.0,
            learning_rate: 0.1,
            grad_norm: 2.0,
            label_tokens: 3,
            tokens: 4,
            validation_loss: *validation_loss,
        };
        (1..).zip(losses).map(entry).collect()
    }

    #[test]
    fn the_best_is_the_first_of_the_lowest() {
        let log = log(&[None, Some(2.0), None, Some(1.0), Some(1.0), None, Some(3.0)]);
        assert_eq!((best(&log), no_better(&log)), (Some(3), 2));
        assert_eq!((best(&log[..4]), no_better(&log[..4])), (Some(3), 0));
        assert_eq!((best(&log[..1]), no_better(&log[..1])), (None, 0));
    }

    #[test]
    fn a_log_is_rows() {
        let rows = batch(&schema(), &log(&[None, Some(2.0)])).unwrap();
        assert_eq!((rows.num_rows(), rows.column_by_name("validation_loss").unwrap().null_count()), (2, 1));
    }
}
