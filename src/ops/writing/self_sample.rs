//! `self-sample`: the target's own answers, of which a right one is kept.

use super::judge::{Bench, Gold, JUDGE, Judge};
use super::settings::{INPUTS, MAX_TOKENS, PROMPT, STOP, USAGE, WRITER, column, count, joined};
use super::{Bound, Cell, InRow, NewRow, Prompt, RowTask, Step, Task, Writing, drive};
use crate::diag::{Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::ops::code::CODE;
use crate::ops::is_string;
use crate::ops::{Default, FieldKind, FieldSpec, Fields, OpSpec, Operator, OutputSpec, ResolveCx, Resolved};
use crate::store::Journal;
use crate::teacher::{Answer, Failure, Outcome};
use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};

pub static SPEC: OpSpec = OpSpec {
    name: "self-sample",
    summary: "Samples answers of the model that will be trained and keeps one that is right",
    doc: "\
Draws `samples` zero-shot answers to each question from the target (as `initial-prediction` asks them), reads the answer \
of each with the checker of `check-answer`, and keeps one that is right: self-training on what the target can do already \
(the sets \"correct-predicted\" of \"I Learn Better If You Speak My Language\", which draws 5).

- `keep=\"random\"` takes any of the right ones, drawn from the pipeline's seed, the node's name and the row's id, as the \
paper says; `\"last\"` takes the last one, as its released code does; `\"first\"` the first.
- Where none is right the row goes to the second output, `dropped`, as it came. With `fallback` it stays in the first, \
with the text of that column (the ground truth) in place of an answer.

`temperature`, `top-p` and `top-k` are by default those of the released code: 0.95, 0.7 and 50. `check` says how answers \
are judged (`code` in a sandbox, with the tests of the row, as `check-answer` does); `task` what the prompt asks for: where the question has the request for the marker in it already, leave it at \
`free`.

Adds the column `response`, or the one that `column` names, and `<column>_passed`: how many of the samples were right, \
0 where `fallback` stands in. A sample that is empty or cut off is not right. Rows go to quarantine as `null-value`, \
`gold-unreadable` (the right answer cannot be read), `no-tests` (of code), or when no sample could be drawn at all, for the reason of the first.

Samples are journalled one by one: raising `samples` draws only the new ones.",
    version: 1,
    inputs: INPUTS,
    outputs: &[
        OutputSpec { name: "out", doc: "rows with an answer" },
        OutputSpec { name: "dropped", doc: "rows of whose samples none is right, as they came" },
    ],
    fields: &FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
load "problems" path="problems.jsonl" { columns { question "string"; groundtruth "string"; gold "float" } }
self-sample "own" from="problems" model="student" task="math" check="math"
self-sample "own-or-human" from="problems" model="student" task="math" check="math" keep="last" {
    fallback "groundtruth"
}
write "own-file" from="own" path="own.jsonl"
write "unsolved-file" from="own.dropped" path="unsolved.jsonl"
write "own-or-human-file" from="own-or-human" path="own-or-human.jsonl"
"#,
    build,
};

const SAMPLING: &[FieldSpec] = &[
    FieldSpec::new("samples", FieldKind::Int { min: 1, max: 1000 }, "answers that are drawn for each question")
        .default(Default::Int(5)),
    FieldSpec::new("temperature", FieldKind::Float { min: 0.0, max: 2.0 }, "of drawing; 0 takes the likeliest token")
        .default(Default::Float(0.95)),
    FieldSpec::new(
        "top-p",
        FieldKind::Float { min: 0.0, max: 1.0 },
        "draws from the likeliest tokens that together have this probability",
    )
    .default(Default::Float(0.7)),
    FieldSpec::new("top-k", FieldKind::Int { min: 1, max: 1_000_000 }, "draws from this many of the likeliest tokens")
        .default(Default::Int(50)),
    MAX_TOKENS,
    STOP,
];

const CHECK: &[FieldSpec] = &[FieldSpec::new(
    "check",
    FieldKind::Choice(&["math", "ecqa", "code"]),
    "how answers are judged: `math` as numbers that agree at two decimals, `ecqa` as one of five options, `code` by \
     running it against tests",
)
.required()];

const CHOICE: &[FieldSpec] = &[
    FieldSpec::new("keep", FieldKind::Choice(&["random", "first", "last"]), "which of the right answers is kept")
        .default(Default::Str("random")),
    FieldSpec::new("fallback", FieldKind::Column, "the column whose text stands in where no answer is right"),
];

const PARTS: &[&[FieldSpec]] = &[WRITER, &[column("response")], PROMPT, SAMPLING, CHECK, JUDGE, CODE, CHOICE, USAGE];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Keep {
    Random,
    First,
    Last,
}

#[derive(Debug)]
struct SelfSample {
    writing: Writing,
    prompt: Prompt,
    judge: Judge,
    keep: Keep,
    fallback: Option<Spanned<String>>,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let writing = Writing::read(fields, diagnostics)?.choosing();
    let judge = Judge::read(fields, "check", &writing, diagnostics)?;
    Some(Box::new(SelfSample {
        writing,
        prompt: Prompt::built_in("initial-prediction"),
        judge,
        keep: match fields.str("keep").value.as_str() {
            "first" => Keep::First,
            "last" => Keep::Last,
            _ => Keep::Random,
        },
        fallback: fields.opt_str("fallback"),
    }))
}

impl Operator for SelfSample {
    fn canonical(&self) -> Value {
        json!({
            "writing": self.writing.canonical(),
            "prompt": self.prompt.canonical(),
            "judge": self.judge.canonical(),
            "keep": format!("{:?}", self.keep),
            "fallback": self.fallback.as_ref().map(|f| &f.value),
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let gold = self.judge.resolve(input, cx);
        let fallback = match &self.fallback {
            Some(column) => cx.need_column(input, &column.value, "string", is_string, column.span).is_some(),
            None => true,
        };
        let passed = Field::new(format!("{}_passed", self.writing.column.value), DataType::Int64, false);
        let mut resolved = self.writing.resolve(cx, &[(&self.prompt, &[])], vec![passed])?;
        resolved.outputs.push(input.schema.clone());
        resolved.seeded |= self.keep == Keep::Random;
        resolved.files.extend(gold?);
        fallback.then_some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let prompt = self.writing.bind(&self.prompt, &[], cx)?;
        let bench = self.judge.open(cx)?;
        let seed = cx.seed();
        drive(cx, self.writing.teacher(cx)?, &|row| {
            let gold = bench.gold(row)?;
            let row = row.clone();
            let task: Task<'_> = Box::new(Sampling { op: self, prompt: &prompt, bench: &bench, row, gold, seed });
            Ok(vec![task])
        })
    }
}

impl SelfSample {
    /// Which of the right answers is kept.
    fn choose<T>(&self, right: Vec<T>, seed: u64, id: &str) -> Option<T> {
        let at = match self.keep {
            Keep::First => 0,
            Keep::Last => right.len().checked_sub(1)?,
            Keep::Random => {
                let drawn = Journal::key(&[b"self-sample", &seed.to_le_bytes(), id.as_bytes()]);
                (u128::from_le_bytes(drawn) % (right.len() as u128).max(1)) as usize
            }
        };
        right.into_iter().nth(at)
    }
}

/// The samples of a row.
struct Sampling<'a> {
    op: &'a SelfSample,
    prompt: &'a Bound<'a>,
    bench: &'a Bench<'a>,
    row: InRow,
    gold: Gold,
    seed: u64,
}

impl RowTask for Sampling<'_> {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        let step = if last.is_empty() { self.ask() } else { self.judge(last) };
        step.unwrap_or_else(Step::Reject)
    }
}

impl Sampling<'_> {
    fn ask(&self) -> Result<Step, Failure> {
        let asks = (0..self.op.writing.samples).map(|sample| self.prompt.ask(&self.row, sample, &[]));
        Ok(Step::Ask(asks.collect::<Result<_, _>>()?))
    }

    fn judge(&self, samples: Vec<Outcome>) -> Result<Step, Failure> {
        let op = self.op;
        if samples.iter().all(Result::is_err) {
            return samples.into_iter().find_map(Result::err).map_or(Err(super::settings::empty()), Err);
        }
        let whole: Vec<Answer> =
            samples.into_iter().flatten().filter(|answer| op.writing.check(answer).is_ok()).collect();
        let texts: Vec<&str> = whole.iter().map(|answer| answer.text.as_str()).collect();
        let faults = self.bench.faults(&texts, &self.gold, &self.row)?;
        let right: Vec<Answer> = whole.into_iter().zip(faults).filter(|(_, f)| f.is_none()).map(|(a, _)| a).collect();
        let passed = right.len() as i64;
        let mut cells = match (op.choose(right, self.seed, self.row.id()), &op.fallback) {
            (Some(answer), _) => op.writing.cells(answer.text.trim().to_string(), Some(&answer), 0),
            (None, Some(column)) => op.writing.cells(self.row.need_text(&column.value)?.to_string(), None, 0),
            (None, None) => return Ok(Step::Ready(vec![NewRow { output: 1, sample: None, cells: Vec::new() }])),
        };
        cells.push(Cell::Int(passed));
        Ok(Step::row(cells))
    }
}
