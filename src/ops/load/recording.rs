//! Recorded answers: a table that is read outside of the graph, for a `replay` teacher to look answers up.

use super::loading::{Cut, Taker};
use super::origin::Origin;
use super::survey::Wishes;
use super::{Load, SPEC};
use crate::config::{Replay, ReplayFrom};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::{Rejected, RunError};
use crate::fetch::Fetcher;
use crate::ops::rows::{cell_json, cell_shown};
use crate::ops::{Operator, ResolveCx, Resolved, did_you_mean, list};
use crate::plan::NodeName;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use indexmap::IndexMap;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// The column of a file that `record` wrote by which asks find their answers: [`Ask::key`](crate::teacher::Ask::key) in
/// hex.
pub const KEY: &str = "key";

/// Answers by what stands in the recording's `on` columns, in the order of the recording.
pub type Answers = HashMap<Vec<String>, Vec<String>>;

/// A recording, as a teacher's declaration describes it.
#[derive(Debug)]
pub struct Recording {
    load: Load,
    /// By which rows find their answers.
    on: Vec<Spanned<String>>,
    answer: Spanned<String>,
    schema: OnceLock<SchemaRef>,
}

impl Recording {
    pub fn new(replay: &Replay) -> Self {
        let span = replay.answer.span;
        let on = match replay.on.as_slice() {
            [] => vec![Spanned::new(KEY.to_string(), span)],
            on => on.to_vec(),
        };
        let origin = match &replay.from {
            ReplayFrom::Path(path) => Origin::file(path.clone().map(|p| p.to_string_lossy().into_owned())),
            ReplayFrom::Dataset { dataset, split } => Origin::Dataset { name: dataset.clone(), split: split.clone() },
        };
        let wishes = Wishes {
            fields: IndexMap::new(),
            columns: IndexMap::new(),
            only_mapped: false,
            id: None,
            id_prefix: replay.id_prefix.clone(),
        };
        let load = Load {
            origin,
            wishes,
            cut: Cut { offset: 0, limit: None },
            sample: None,
            seed: None,
            skip_missing: false,
            span,
            canonical: json!({}),
            found: OnceLock::new(),
        };
        Self { load, on, answer: replay.answer.clone(), schema: OnceLock::new() }
    }

    /// The columns by which answers are found.
    pub fn on(&self) -> Vec<String> {
        self.on.iter().map(|c| c.value.clone()).collect()
    }

    /// Finds the recording and checks that it has the columns. What it says is what `load` would say of it.
    pub fn resolve(
        &self,
        datasets: Option<&Arc<Fetcher>>,
        look_at_files: bool,
        diagnostics: &mut Diagnostics,
    ) -> Option<Resolved> {
        let resolved = self.load.resolve(&mut ResolveCx {
            node: &NodeName::plain("recording"),
            op: &SPEC,
            span: self.load.span,
            inputs: &[],
            diagnostics,
            models: &|_| None,
            teachers: &|_| None,
            datasets,
            look_at_files,
            files_must_exist: look_at_files,
        })?;
        let schema = resolved.outputs[0].clone();
        // Before it is fetched, only a manifest tells columns.
        let known = look_at_files || schema.fields().len() > 1;
        if known && !self.has_columns(&schema, diagnostics) {
            return None;
        }
        let _ = self.schema.set(schema);
        Some(resolved)
    }

    /// What decides the answers besides the content of the files that `resolve` names.
    pub fn canonical(&self) -> Value {
        json!({ "on": self.on(), "answer": self.answer.value, "source": self.load.canonical() })
    }

    fn has_columns(&self, schema: &Schema, diagnostics: &mut Diagnostics) -> bool {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let mut sound = true;
        for wanted in self.on.iter().chain([&self.answer]) {
            match schema.field_with_name(&wanted.value) {
                Ok(field) if wanted.value != self.answer.value || *field.data_type() == DataType::Utf8 => {}
                Ok(field) => {
                    sound = false;
                    let message =
                        format!("answers are strings, and column `{}` is {}", wanted.value, field.data_type());
                    diagnostics.push(Diagnostic::error("column-type", message).at(wanted.span, "named here"));
                }
                Err(_) => {
                    sound = false;
                    let message = format!("the recorded answers have no column `{}`", wanted.value);
                    let error = Diagnostic::error("column-missing", message).at(wanted.span, "looked for here");
                    let error = match did_you_mean(&wanted.value, names.iter().copied()) {
                        Some(near) => error.help(format!("did you mean `{near}`?")),
                        None => error.help(format!("there are {}", list(&names))),
                    };
                    diagnostics.push(error.help("`answer` names the column of answers, `on` those that find them"));
                }
            }
        }
        sound
    }

    /// Reads all answers.
    pub fn answers(&self) -> Result<Answers, RunError> {
        let Some(schema) = self.schema.get() else {
            return Err(RunError::failed("not-planned", "recorded answers cannot be read before they are planned"));
        };
        let taken = Taken { recording: self, answers: RefCell::default() };
        self.load.read(&taken, schema, None)?;
        Ok(taken.answers.into_inner())
    }
}

/// Keeps the answers of the rows that it gets.
struct Taken<'a> {
    recording: &'a Recording,
    answers: RefCell<Answers>,
}

impl Taker for Taken<'_> {
    fn batch_rows(&self) -> usize {
        4096
    }

    fn take(&self, batch: RecordBatch) -> Result<(), RunError> {
        let column = |name: &str| batch.column_by_name(name).cloned();
        let on: Option<Vec<_>> = self.recording.on.iter().map(|c| column(&c.value)).collect();
        let (Some(on), Some(answers)) = (on, column(&self.recording.answer.value)) else {
            return Err(RunError::failed(
                "source-changed",
                "the recorded answers lost a column since the plan was made",
            ));
        };
        let mut all = self.answers.borrow_mut();
        for row in 0..batch.num_rows() {
            if let Value::String(answer) = cell_json(&*answers, row) {
                let key = on.iter().map(|c| plain(&cell_shown(&**c, row))).collect();
                all.entry(key).or_default().push(answer);
            }
        }
        Ok(())
    }

    /// A recording is whole: half of it would make other rows than the whole.
    fn reject(&self, row: Rejected) -> Result<(), RunError> {
        Err(RunError::failed(
            "bad-recording",
            format!("the recorded answers are damaged at {}: {}", row.id, row.message),
        )
        .help("record them again, or mend the file"))
    }

    fn stopping(&self) -> bool {
        false
    }
}

/// A value as a prompt's input shows it: texts without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
