//! `paraphrase`: responses in other words, with their mistakes and their answers.

use super::again::{again, billed};
use super::judge::{checker, same_answer};
use super::settings::{FROM_WITH_ADAPTER, ON_TRUNCATED, PROMPT, SAMPLING, USAGE, WRITER, column, count, joined};
use super::{InRow, Prompt, RowTask, Step, Task, Writing, drive, one};
use crate::diag::Diagnostics;
use crate::eval::answer::{Checker, Extractor};
use crate::exec::{NodeCx, RunError};
use crate::ops::{Default, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::prompt::Template;
use crate::teacher::{Answer, Ask, Failure, Outcome};
use serde_json::{Value, json};

pub static SPEC: OpSpec = OpSpec {
    name: "paraphrase",
    summary: "Has a teacher reword each response, mistakes included, with its answer kept as it stands",
    doc: "\
Each response comes back in other words: the content and the mistakes are the same, and so are the marker and the answer \
at the end. Two texts that differ in their wording alone show what wording does: with `split-by-ppl` the pairs of a \
response and its paraphrase become the higher- and the lower-perplexity set of \"I Learn Better If You Speak My Language\".

The end of the response, from its last marker on, is looked for in what comes back: there it must stand as it was. For \
`math` and `ecqa` another wording of the same answer behind the same marker (`72.` for `72`) will do, for `code` only the \
same code. A response without a marker must come back without one. With `task=\"free\"` ends are not looked at. What fails \
is asked for again in the same conversation, at most `attempts` times; then the row goes to quarantine as \
`answer-changed`.

The response is read from the column `response`, or the one that `inputs { response \"...\" }` names. Adds the column \
`paraphrase`, or the one that `column` names, without white space around the text. With `usage` the columns sum up all \
calls of a row.

Rows go to quarantine as `answer-changed`, and as those of `teacher-generate`.",
    version: 1,
    inputs: FROM_WITH_ADAPTER,
    outputs: OUT,
    fields: &FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
teacher "local" kind="local" model="student"
load "problems" path="problems.jsonl" { columns { question "string" } }
teacher-generate "direct" from="problems" teacher="local" style="answer-directly" task="math"
paraphrase "reworded" from="direct" teacher="local" task="math" temperature=0.7
write "reworded-file" from="reworded" path="reworded.jsonl"
"#,
    build,
};

const ATTEMPTS: &[FieldSpec] = &[FieldSpec::new(
    "attempts",
    FieldKind::Int { min: 0, max: 20 },
    "how often a text whose end has changed is asked for again",
)
.default(Default::Int(2))];

const PARTS: &[&[FieldSpec]] = &[WRITER, &[column("paraphrase")], PROMPT, ATTEMPTS, SAMPLING, ON_TRUNCATED, USAGE];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

#[derive(Debug)]
struct Paraphrase {
    writing: Writing,
    prompt: Prompt,
    again: &'static Template,
    checker: Option<Checker>,
    attempts: usize,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let writing = Writing::read(fields, diagnostics)?;
    Some(Box::new(Paraphrase {
        prompt: Prompt::built_in("paraphrase"),
        again: super::again::template("paraphrase-again"),
        checker: checker(&writing.task, &writing, Extractor::Marker),
        attempts: fields.int("attempts") as usize,
        writing,
    }))
}

impl Operator for Paraphrase {
    fn canonical(&self) -> Value {
        json!({
            "writing": self.writing.canonical(),
            "prompt": self.prompt.canonical(),
            "again": self.again.digest(),
            "attempts": self.attempts,
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        self.writing.resolve(cx, &[(&self.prompt, &[])], Vec::new())
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let prompt = self.writing.bind(&self.prompt, &[], cx)?;
        let (column, _) = self.writing.column_of("response");
        drive(cx, self.writing.teacher(cx)?, &|row| {
            let response = row.need_text(column)?.trim().to_string();
            let ask = prompt.ask(row, 0, &[])?;
            let task: Task<'_> =
                Box::new(Rewording { op: self, row: row.clone(), response, ask, asked: 0, bill: None });
            Ok(vec![task])
        })
    }
}

impl Paraphrase {
    /// Whether a text ends as the response does.
    fn keeps_end(&self, text: &str, response: &str, row: &InRow) -> bool {
        let marker = self.writing.marker.as_str();
        if self.writing.task == "free" {
            return true;
        }
        match (ending(text, marker), ending(response, marker)) {
            (None, None) => true,
            (Some(text), Some(response)) => {
                text == response || self.checker.as_ref().is_some_and(|c| same_answer(c, text, response, row))
            }
            _ => false,
        }
    }
}

/// A text from its last marker on, without white space at the end.
fn ending<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    text.rfind(marker).map(|at| text[at..].trim_end())
}

/// A response on its way to other words.
struct Rewording<'a> {
    op: &'a Paraphrase,
    row: InRow,
    response: String,
    /// The last call, or the one to begin with.
    ask: Ask,
    asked: usize,
    /// What was answered so far, with the tokens of all calls.
    bill: Option<Answer>,
}

impl RowTask for Rewording<'_> {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        let step = match one(last) {
            None => Ok(Step::ask(self.ask.clone())),
            Some(outcome) => outcome.and_then(|answer| self.judge(answer)),
        };
        step.unwrap_or_else(Step::Reject)
    }
}

impl Rewording<'_> {
    fn judge(&mut self, answer: Answer) -> Result<Step, Failure> {
        let op = self.op;
        op.writing.check(&answer)?;
        let text = answer.text.trim().to_string();
        let answer = billed(self.bill.take(), answer);
        if op.keeps_end(&text, &self.response, &self.row) {
            return Ok(Step::row(op.writing.cells(text, Some(&answer), 0)));
        }
        let end = ending(&self.response, &op.writing.marker);
        if self.asked == op.attempts {
            return Err(changed(end, ending(&text, &op.writing.marker), self.asked + 1));
        }
        self.asked += 1;
        self.bill = Some(answer);
        let mut values = vec![("marker", op.writing.marker.as_str()), ("task", op.writing.task.as_str())];
        values.extend(end.map(|end| ("ending", end)));
        self.ask = again(&self.ask, &text, op.again, &values)?;
        Ok(Step::ask(self.ask.clone()))
    }
}

fn changed(expected: Option<&str>, found: Option<&str>, times: usize) -> Failure {
    let show = |end: Option<&str>| match end {
        None => "no marker".to_string(),
        Some(end) => format!("\"{}\"", end.chars().take(80).collect::<String>()),
    };
    let message = format!("expected the end to stay {}, found {} (asked {times} times)", show(expected), show(found));
    Failure::new("answer-changed", message)
}

#[cfg(test)]
mod tests;
