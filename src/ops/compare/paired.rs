//! The rows of a comparison, by group, method and question.

use super::super::rows::{Held, ID, arrow_failed, text_column};
use super::super::samples::{SAMPLE, questions};
use super::super::summarize::as_floats;
use super::{Compare, NOTE};
use crate::diag::Spanned;
use crate::eval::statistics;
use crate::exec::{NodeCx, RunError};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Float64Type, Schema};
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use indexmap::{IndexMap, IndexSet};
use std::collections::BTreeMap;

/// Bytes that one question of one method takes, its key aside.
pub const ENTRY_BYTES: usize = 64;

/// All groups, in the order in which they are met.
pub struct Groups<'a> {
    spec: &'a Compare,
    by: Keys,
    on: Keys,
    pub groups: IndexMap<Option<OwnedRow>, Group>,
    held: Held,
}

/// The methods of a group, in the order in which they are met.
#[derive(Default)]
pub struct Group {
    pub methods: IndexMap<String, Method>,
    /// What is to be known of rows that belong to no method.
    pub notes: IndexSet<String>,
    /// Rows that name no method.
    pub nameless: u64,
}

/// One method's questions, in the order of their keys: results do not depend on the order of the rows.
#[derive(Default)]
pub struct Method {
    pub questions: BTreeMap<Option<OwnedRow>, Question>,
    /// Rows without a value.
    pub empty: u64,
    /// Why inputs of the method were skipped.
    pub notes: IndexSet<String>,
}

/// A question under one method.
#[derive(Default, Clone, Copy)]
pub struct Question {
    sum: f64,
    pub rows: u32,
}

impl Question {
    /// The mean of the question's rows.
    pub fn value(self) -> f64 {
        self.sum / f64::from(self.rows)
    }
}

impl Method {
    pub fn mean(&self) -> Option<f64> {
        statistics::mean(&self.questions.values().map(|q| q.value()).collect::<Vec<_>>())
    }
}

impl Group {
    /// Takes a row in; returns the bytes that it adds.
    fn add(
        &mut self,
        method: Option<&str>,
        question: Option<OwnedRow>,
        value: Option<f64>,
        note: Option<&str>,
    ) -> usize {
        let Some(method) = method else {
            match note {
                Some(note) => drop(self.notes.insert(note.to_string())),
                None => self.nameless += 1,
            }
            return 0;
        };
        if !self.methods.contains_key(method) {
            self.methods.insert(method.to_string(), Method::default());
        }
        let method = &mut self.methods[method];
        match (value, note) {
            (Some(value), _) => {
                let bytes = question.as_ref().map_or(0, |q| q.as_ref().len()) + ENTRY_BYTES;
                let question = method.questions.entry(question).or_default();
                question.sum += value;
                question.rows += 1;
                if question.rows == 1 { bytes } else { 0 }
            }
            (None, Some(note)) => {
                method.notes.insert(note.to_string());
                0
            }
            (None, None) => {
                method.empty += 1;
                0
            }
        }
    }
}

impl<'a> Groups<'a> {
    pub fn new(spec: &'a Compare, schema: &Schema, cx: &NodeCx) -> Result<Self, RunError> {
        let held = Held::new(cx, "the questions to compare");
        let of_questions = spec.on.iter().all(|n| n.value != SAMPLE);
        let (by, on) = (Keys::new(&spec.by, schema, false)?, Keys::new(&spec.on, schema, of_questions)?);
        Ok(Self { spec, by, on, groups: IndexMap::new(), held })
    }

    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), RunError> {
        let (by, on) = (self.by.of(batch)?, self.on.of(batch)?);
        let methods = match batch.column_by_name(&self.spec.method) {
            Some(_) => Some(text_column(batch, &self.spec.method)?),
            None => None,
        };
        let values = as_floats(&column(batch, &self.spec.value, &DataType::Float64))?;
        let values = values.as_primitive::<Float64Type>();
        let notes = batch.column_by_name(NOTE).and_then(|c| c.as_string_opt::<i32>());
        let key = |rows: &Option<Rows>, row: usize| rows.as_ref().map(|r| r.row(row).owned());
        for row in 0..batch.num_rows() {
            let method = methods.as_ref().filter(|m| m.is_valid(row)).map(|m| m.value(row));
            let value = values.is_valid(row).then(|| values.value(row));
            let note = notes.filter(|n| n.is_valid(row)).map(|n| n.value(row));
            let group = self.groups.entry(key(&by, row)).or_default();
            let bytes = group.add(method, key(&on, row), value, note);
            self.held.add(bytes)?;
        }
        Ok(())
    }

    /// All methods that have rows, or whose input was skipped.
    pub fn methods(&self) -> IndexSet<String> {
        self.groups.values().flat_map(|g| g.methods.keys().cloned()).collect()
    }

    /// The columns of `by`, one value for each of the groups.
    pub fn columns(&self, groups: &[&Option<OwnedRow>]) -> Result<Vec<ArrayRef>, RunError> {
        match &self.by.converter {
            Some(by) => {
                by.convert_rows(groups.iter().filter_map(|g| g.as_ref()).map(OwnedRow::row)).map_err(arrow_failed)
            }
            None => Ok(Vec::new()),
        }
    }
}

/// Columns whose values make a key.
struct Keys {
    names: Vec<(String, DataType)>,
    /// `None` where no column does: then all rows have the same key.
    converter: Option<RowConverter>,
    /// The id of a numbered sample counts as that of its question.
    of_questions: bool,
}

impl Keys {
    fn new(names: &[Spanned<String>], schema: &Schema, of_questions: bool) -> Result<Self, RunError> {
        // Inputs that are all skipped have no columns.
        let kind = |n: &str| schema.field_with_name(n).map_or(DataType::Utf8, |f| f.data_type().clone());
        let names: Vec<(String, DataType)> = names.iter().map(|n| (n.value.clone(), kind(n))).collect();
        let fields = names.iter().map(|(_, kind)| SortField::new(kind.clone())).collect();
        let converter = match names.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields).map_err(arrow_failed)?),
        };
        Ok(Self { names, converter, of_questions })
    }

    fn of(&self, batch: &RecordBatch) -> Result<Option<Rows>, RunError> {
        let Some(converter) = &self.converter else { return Ok(None) };
        let key = |(name, kind): &(String, DataType)| {
            let questions = if self.of_questions && name == ID { questions(batch) } else { None };
            questions.unwrap_or_else(|| column(batch, name, kind))
        };
        let columns: Vec<ArrayRef> = self.names.iter().map(key).collect();
        converter.convert_columns(&columns).map(Some).map_err(arrow_failed)
    }
}

fn column(batch: &RecordBatch, name: &str, kind: &DataType) -> ArrayRef {
    batch.column_by_name(name).cloned().unwrap_or_else(|| new_null_array(kind, batch.num_rows()))
}
