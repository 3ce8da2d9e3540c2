//! Code that is run against its tests.

use crate::eval::answer::Fault;
use crate::eval::code::{CodeChecker, CodeProblem, CodeVerdict, TestColumns};
use crate::exec::{NodeCx, RunError};
use crate::ops::rows::{cell_json, reject_row, text_column, widened};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use serde_json::Value;
use std::sync::Arc;

/// The rows of a batch with what became of their code. The programs of a batch run side by side.
pub fn check(
    cx: &NodeCx,
    batch: &RecordBatch,
    response: &str,
    columns: &TestColumns,
    checker: &CodeChecker,
) -> Result<RecordBatch, RunError> {
    let responses = text_column(batch, response)?;
    let mut problems: Vec<(usize, CodeProblem)> = Vec::with_capacity(batch.num_rows());
    let mut keep = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let cell = |name: &str| batch.column_by_name(name).map_or(Value::Null, |c| cell_json(c, row));
        let problem = columns.problem(cell);
        keep.push(problem.is_ok());
        match problem {
            Ok(problem) => problems.push((row, problem)),
            Err((reason, message)) => reject_row(cx, batch, row, reason, message)?,
        }
    }
    let answer = |(row, problem)| (responses.is_valid(row).then(|| responses.value(row)), problem);
    let answers: Vec<_> = problems.iter().map(|(row, problem)| answer((*row, problem))).collect();
    let verdicts = checker.check_all(&answers, &|| cx.stopping())?;
    widened(batch, keep, added(&verdicts), cx.output_schema(0))
}

fn added(verdicts: &[CodeVerdict]) -> Vec<ArrayRef> {
    let texts = |text: &dyn Fn(&CodeVerdict) -> Option<String>| -> ArrayRef {
        Arc::new(verdicts.iter().map(text).collect::<StringArray>())
    };
    let correct: BooleanArray = verdicts.iter().map(|v| Some(v.correct())).collect();
    vec![
        texts(&|v| v.extracted.clone()),
        Arc::new(correct),
        texts(&|v| v.why.map(|why| Fault::name(why).to_string())),
        texts(&|v| v.detail.clone()),
        texts(&|v| Some(v.stdout.clone()).filter(|said| !said.is_empty())),
        texts(&|v| Some(v.stderr.clone()).filter(|said| !said.is_empty())),
    ]
}
