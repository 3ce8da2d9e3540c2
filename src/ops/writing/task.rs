//! What operators say of a row: what to ask for it, and what its answers make of it.

use crate::ops::rows::{ID, cell_json};
use crate::teacher::{Ask, Failure, Outcome};
use arrow::array::{Array, AsArray, RecordBatch};
use serde_json::Value;
use std::sync::Arc;

/// A row on its way from what is asked for it to what is made of it: plain code that is called again with the answers.
///
/// What it does must depend on its row and the answers alone, because it starts over after a crash and then finds its
/// answers in the journal.
pub trait RowTask {
    /// What is next. `last` holds the outcomes of the calls of the last step, in their order; there are none at first.
    fn next(&mut self, last: Vec<Outcome>) -> Step;
}

/// A row's task while it lasts.
pub type Task<'a> = Box<dyn RowTask + 'a>;

/// What a task wants.
pub enum Step {
    /// Calls that do not depend on each other; at least one. To ask the same again for another answer, give another
    /// number of the sample: what was asked before has its answer in the journal.
    Ask(Vec<Ask>),
    /// The rows that are made of this one, in their order.
    Ready(Vec<NewRow>),
    /// The row goes to quarantine.
    Reject(Failure),
}

impl Step {
    /// A single call.
    pub fn ask(ask: Ask) -> Self {
        Self::Ask(vec![ask])
    }

    /// One row of the first output.
    pub fn row(cells: Vec<Cell>) -> Self {
        Self::Ready(vec![NewRow { output: 0, sample: None, cells }])
    }
}

/// The outcome of a step that made one call; `None` before it.
pub fn one(last: Vec<Outcome>) -> Option<Outcome> {
    last.into_iter().next()
}

/// A row of an output: the input's columns, and these.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRow {
    /// Which of the operator's outputs it is for.
    pub output: usize,
    /// Which sample of the row it is, where one task makes the rows of several: it gets the id `<id>#<sample>`.
    pub sample: Option<usize>,
    /// Values of the columns that this output has besides the input's, in the order of its schema.
    pub cells: Vec<Cell>,
}

/// A value of a column that a writer adds.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
}

impl From<Option<f64>> for Cell {
    fn from(value: Option<f64>) -> Self {
        value.map_or(Self::Null, Self::Float)
    }
}

/// A row of the input.
#[derive(Debug, Clone)]
pub struct InRow {
    pub(super) batch: Arc<RecordBatch>,
    pub(super) row: usize,
    pub(super) id: Arc<str>,
}

impl InRow {
    /// A row of a batch, which is row `number` of the input.
    pub fn of(batch: &Arc<RecordBatch>, row: usize, number: u64) -> Self {
        let ids = batch.column_by_name(ID).and_then(|c| c.as_string_opt::<i32>());
        let id = match ids.filter(|ids| ids.is_valid(row)) {
            Some(ids) => ids.value(row).into(),
            None => format!("#{number}").into(),
        };
        Self { batch: batch.clone(), row, id }
    }

    /// Its `id`; of a table without ids `#` and the row's position.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A column's value; null where there is no such column.
    pub fn value(&self, column: &str) -> Value {
        self.batch.column_by_name(column).map_or(Value::Null, |c| cell_json(c, self.row))
    }

    /// A column's value as prompts show it.
    pub fn shown(&self, column: &str) -> Value {
        super::prompt::cell(&self.batch, self.row, column)
    }

    /// The text of a string column; `None` where it is null.
    pub fn text(&self, column: &str) -> Option<&str> {
        let column = self.batch.column_by_name(column)?;
        if column.is_null(self.row) {
            return None;
        }
        let narrow = column.as_string_opt::<i32>().map(|c| c.value(self.row));
        narrow.or_else(|| column.as_string_opt::<i64>().map(|c| c.value(self.row)))
    }

    /// The text of a column that a prompt cannot do without.
    pub fn need_text(&self, column: &str) -> Result<&str, Failure> {
        self.text(column).ok_or_else(|| Failure::new("null-value", format!("`{column}` is null")))
    }
}
