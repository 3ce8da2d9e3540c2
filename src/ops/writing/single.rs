//! Operators whose rows take one call for each of their samples.

use super::settings::Writing;
use super::task::{RowTask, Step, Task, one};
use super::{Prompt, drive};
use crate::exec::{NodeCx, RunError};
use crate::ops::{Operator, ResolveCx, Resolved};
use crate::teacher::{Ask, Failure, Outcome};
use serde_json::{Value, json};

/// What the column gets of an answer that is neither blank nor cut off.
pub type Text = fn(&Writing, &str) -> Result<String, Failure>;

/// Asks once for each sample of a row.
#[derive(Debug)]
pub struct OneCall {
    pub writing: Writing,
    pub prompt: Prompt,
    pub text: Text,
}

impl Operator for OneCall {
    fn canonical(&self) -> Value {
        json!({ "writing": self.writing.canonical(), "prompt": self.prompt.canonical() })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        self.writing.resolve(cx, &[(&self.prompt, &[])], Vec::new())
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let prompt = self.writing.bind(&self.prompt, &[], cx)?;
        drive(cx, self.writing.teacher(cx)?, &|row| {
            let task = |sample| -> Result<Task<'_>, Failure> {
                Ok(Box::new(Single { op: self, ask: prompt.ask(row, sample, &[])? }))
            };
            (0..self.writing.samples).map(task).collect()
        })
    }
}

/// An answer without white space around it, and otherwise as it is.
pub fn trimmed(_: &Writing, text: &str) -> Result<String, Failure> {
    Ok(text.trim().to_string())
}

struct Single<'a> {
    op: &'a OneCall,
    ask: Ask,
}

impl RowTask for Single<'_> {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        let Some(outcome) = one(last) else { return Step::ask(self.ask.clone()) };
        let writing = &self.op.writing;
        let written = outcome.and_then(|answer| {
            writing.check(&answer)?;
            let text = (self.op.text)(writing, &answer.text)?;
            Ok(writing.cells(text, Some(&answer), self.ask.sample))
        });
        match written {
            Ok(cells) => Step::row(cells),
            Err(failure) => Step::Reject(failure),
        }
    }
}
