//! Answers that are compared with a right one.

use crate::diag::Spanned;
use crate::eval::answer::{Checker, Fault, OPTIONS, Task, Verdict};
use crate::exec::{NodeCx, RunError};
use crate::ops::rows::{cell_json, reject_row, text_column, widened};
use crate::ops::{ResolveCx, is_number, is_string};
use crate::plan::InputInfo;
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema};
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Debug)]
pub struct Answers {
    pub checker: Checker,
    pub gold: Spanned<String>,
    /// Empty: those of the contracts, where they are.
    pub options: Vec<Spanned<String>>,
}

impl Answers {
    pub fn canonical(&self) -> Value {
        let options: Vec<&String> = self.options.iter().map(|o| &o.value).collect();
        json!({
            "task": format!("{:?}", self.checker.task),
            "extractor": format!("{:?}", self.checker.extractor),
            "marker": self.checker.marker,
            "gold": self.gold.value,
            "options": options,
        })
    }

    /// The columns of options in an input.
    fn option_columns<'a>(&'a self, input: &'a Schema) -> Vec<&'a str> {
        let there = |name: &&str| input.field_with_name(name).is_ok_and(|f| is_string(f.data_type()));
        match (self.checker.task, self.options.is_empty()) {
            (Task::Math, _) => Vec::new(),
            (Task::Ecqa, false) => self.options.iter().map(|o| o.value.as_str()).collect(),
            (Task::Ecqa, true) if OPTIONS.iter().all(there) => OPTIONS.to_vec(),
            (Task::Ecqa, true) => Vec::new(),
        }
    }

    pub fn resolve(&self, input: &InputInfo, cx: &mut ResolveCx<'_>) -> Option<()> {
        let value = |t: &DataType| is_string(t) || is_number(t);
        let mut sound = cx.need_column(input, &self.gold.value, "string or number", value, self.gold.span).is_some();
        for option in &self.options {
            sound &= cx.need_column(input, &option.value, "string", is_string, option.span).is_some();
        }
        sound.then_some(())
    }

    pub fn check(&self, cx: &NodeCx, batch: &RecordBatch, response: &str) -> Result<RecordBatch, RunError> {
        let responses = text_column(batch, response)?;
        let golds = batch.column_by_name(&self.gold.value);
        let schema = batch.schema();
        let names = self.option_columns(&schema);
        let options = names.iter().map(|name| text_column(batch, name)).collect::<Result<Vec<_>, _>>()?;
        let mut keep = Vec::with_capacity(batch.num_rows());
        let mut verdicts: Vec<Verdict> = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let options: Vec<&str> = options.iter().map(|o| if o.is_null(row) { "" } else { o.value(row) }).collect();
            let gold = golds.map_or(Value::Null, |g| cell_json(g, row));
            let gold = self.checker.gold_of(&self.gold.value, gold, &options);
            keep.push(gold.is_ok());
            match gold {
                Ok(gold) => {
                    let response = responses.is_valid(row).then(|| responses.value(row));
                    verdicts.push(self.checker.check(response, gold, &options));
                }
                Err((reason, message)) => reject_row(cx, batch, row, reason, message)?,
            }
        }
        widened(batch, keep, columns(&verdicts), cx.output_schema(0))
    }
}

fn columns(verdicts: &[Verdict]) -> Vec<ArrayRef> {
    let extracted: StringArray = verdicts.iter().map(|v| v.extracted.map(|a| a.to_string())).collect();
    let correct: BooleanArray = verdicts.iter().map(|v| Some(v.correct)).collect();
    let reason: StringArray = verdicts.iter().map(|v| v.why.map(Fault::name)).collect();
    vec![Arc::new(extracted), Arc::new(correct), Arc::new(reason)]
}
