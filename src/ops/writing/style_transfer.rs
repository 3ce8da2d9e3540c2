//! `style-transfer`: human solutions in the target's own style.

use super::again::billed;
use super::judge::{Bench, Gold, JUDGE, Judge};
use super::settings::{MAX_TOKENS, PROMPT, STOP, TOP_K, TOP_P, USAGE, WRITER, column, count, joined};
use super::{Bound, Cell, InRow, NewRow, Prompt, RowTask, Step, Task, Writing, drive, one};
use crate::diag::Diagnostics;
use crate::eval::answer::Fault;
use crate::exec::{NodeCx, RunError};
use crate::ops::{Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OpSpec, Operator, OutputSpec};
use crate::ops::{ResolveCx, Resolved, adapters};
use crate::teacher::{Answer, Failure, Finish, Outcome};
use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};

pub static SPEC: OpSpec = OpSpec {
    name: "style-transfer",
    summary: "Has the target rewrite human solutions in its own style, and keeps those whose answer is right",
    doc: "\
The style-transferred ground truth of \"I Learn Better If You Speak My Language\": the target is shown a question with its human solution and \
rewrites the solution the way it would answer itself. Two examples, rows of the port `examples` with the target's own \
right answers, show it what that is: they stand before the row as turns, each with its question, its human solution and, \
as the answer, the column that `own` names. `self-sample` makes such rows.

Texts whose answer passes the checker (as `check-answer` reads it) are given by `out`, the others by `dropped`. What is \
left is no fair sample of the questions, so the control is the ground truth on the same ids: a `join` on `id`, as in the \
example. `samples` above 1 draws again where a text does not pass, and keeps the first that does; it needs a `temperature` \
above 0. Each draw is a call of its own and is journalled.

The prompt reads the columns `question`, `groundtruth` and, for `ecqa`, `option_1` to `option_5`, or those that `inputs` \
names, of the rows and of the examples. Both outputs get the column `response`, or the one that `column` names, without \
white space around the text; `dropped` also `<column>_reason`: why the last text does not pass: `empty`, `unmarked`, \
`unreadable` or `wrong` as in `check-answer`, or `truncated` (cut off at `max-tokens`). With `usage` the columns sum up \
all calls of a row.

Rows go to quarantine as `null-value`, `gold-unreadable`, and as the teacher says why it would not answer.",
    version: 1,
    inputs: &[
        InputSpec { name: "from", doc: "the rows to write for", arity: Arity::One, accepts_skipped: false },
        InputSpec {
            name: "examples",
            doc: "rows that the target has answered well; two are usual",
            arity: Arity::One,
            accepts_skipped: false,
        },
        adapters::PORT,
    ],
    outputs: &[
        OutputSpec { name: "out", doc: "rows whose text has the right answer" },
        OutputSpec { name: "dropped", doc: "the others" },
    ],
    fields: &FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
load "problems" path="problems.jsonl" { columns { question "string"; groundtruth "string"; gold "float" } }
self-sample "own" from="problems" model="student" task="math" check="math"
sample "shots" from="own" n=2
style-transfer "styled" from="problems" examples="shots" model="student" task="math"
join "control" left="problems" right="styled" on="id" how="semi"
write "styled-file" from="styled" path="styled.jsonl"
write "dropped-file" from="styled.dropped" path="dropped.jsonl"
write "control-file" from="control" path="control.jsonl"
"#,
    build,
};

const OWN: &[FieldSpec] = &[
    FieldSpec::new(
        "task",
        FieldKind::Choice(&["math", "ecqa"]),
        "the kind of question, which decides what the prompt demands and how answers are read",
    )
    .required(),
    FieldSpec::new("own", FieldKind::Str, "the column of the examples that holds the target's own answers")
        .default(Default::Str("response")),
];

const SAMPLING: &[FieldSpec] = &[
    FieldSpec::new(
        "samples",
        FieldKind::Int { min: 1, max: 1000 },
        "texts that are drawn at most for each row; the first that passes is kept",
    )
    .default(Default::Int(1)),
    FieldSpec::new(
        "temperature",
        FieldKind::Float { min: 0.0, max: 2.0 },
        "0 takes the likeliest token; if not given a model of the pipeline does so and a hosted one does as it is used to",
    ),
    TOP_P,
    TOP_K,
    MAX_TOKENS,
    STOP,
];

/// The shared fields of prompts, less the task.
const ASKED: &[FieldSpec] = PROMPT.split_at(1).1;

const PARTS: &[&[FieldSpec]] = &[WRITER, OWN, &[column("response")], ASKED, JUDGE, SAMPLING, USAGE];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

#[derive(Debug)]
struct StyleTransfer {
    writing: Writing,
    prompt: Prompt,
    judge: Judge,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let writing = Writing::read(fields, diagnostics)?.choosing().shown_by(fields.str("own"));
    let judge = Judge::read(fields, "task", &writing, diagnostics)?;
    Some(Box::new(StyleTransfer { writing, prompt: Prompt::built_in("style-transfer"), judge }))
}

impl Operator for StyleTransfer {
    fn canonical(&self) -> Value {
        json!({
            "writing": self.writing.canonical(),
            "prompt": self.prompt.canonical(),
            "judge": self.judge.canonical(),
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let judged = self.judge.resolve(input, cx);
        let mut resolved = self.writing.resolve(cx, &[(&self.prompt, &[])], Vec::new())?;
        let reason = Field::new(format!("{}_reason", self.writing.column.value), DataType::Utf8, false);
        let columns = self.writing.columns().into_iter().chain([reason]).collect();
        resolved.outputs.push(cx.widened(input, columns, self.writing.column.span)?);
        resolved.files.extend(judged?);
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let prompt = self.writing.bind(&self.prompt, &[], cx)?;
        let bench = self.judge.open(cx)?;
        drive(cx, self.writing.teacher(cx)?, &|row| {
            let gold = bench.gold(row)?;
            let (prompt, bench, row) = (&prompt, &bench, row.clone());
            let task: Task<'_> = Box::new(Restyling { op: self, prompt, bench, row, gold, drawn: 0, bill: None });
            Ok(vec![task])
        })
    }
}

/// A solution on its way to the target's style.
struct Restyling<'a> {
    op: &'a StyleTransfer,
    prompt: &'a Bound<'a>,
    bench: &'a Bench<'a>,
    row: InRow,
    gold: Gold,
    /// Texts that were asked for.
    drawn: u32,
    /// The last answer, with the tokens of all calls.
    bill: Option<Answer>,
}

impl RowTask for Restyling<'_> {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        let step = match one(last) {
            None => self.draw(),
            Some(outcome) => outcome.and_then(|answer| self.judge(answer)),
        };
        step.unwrap_or_else(Step::Reject)
    }
}

impl Restyling<'_> {
    fn draw(&mut self) -> Result<Step, Failure> {
        self.drawn += 1;
        Ok(Step::ask(self.prompt.ask(&self.row, self.drawn - 1, &[])?))
    }

    fn judge(&mut self, answer: Answer) -> Result<Step, Failure> {
        let op = self.op;
        let text = answer.text.trim().to_string();
        // What is cut off may still hold an answer, but not the target's last word.
        let reason = match answer.finish {
            Finish::Length => Some("truncated"),
            Finish::Stop => self.bench.fault(&text, &self.gold, &self.row)?.map(Fault::name),
        };
        let bill = billed(self.bill.take(), answer);
        if reason.is_some() && self.drawn < op.writing.samples {
            self.bill = Some(bill);
            return self.draw();
        }
        let mut cells = op.writing.cells(text, Some(&bill), 0);
        cells.extend(reason.map(|r| Cell::Text(r.into())));
        Ok(Step::Ready(vec![NewRow { output: usize::from(reason.is_some()), sample: None, cells }]))
    }
}

#[cfg(test)]
mod tests;
