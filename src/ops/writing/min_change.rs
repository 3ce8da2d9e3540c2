//! `min-change`: the target's own predictions, corrected with the fewest edits.

mod correction;
mod leaks;

use super::again;
use super::judge::{JUDGE, Judge};
use super::settings::{FROM_WITH_ADAPTER, ON_TRUNCATED, PROMPT, SAMPLING, USAGE, WRITER, column, count, joined};
use super::{Bound, Prompt, Task, Writing, drive};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::ops::code::CODE;
use crate::ops::{Default, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::ops::{is_number, is_string};
use crate::prompt::Template;
use arrow::datatypes::{DataType, Field};
use correction::Correction;
use serde_json::{Value, json};
use std::path::PathBuf;

pub static SPEC: OpSpec = OpSpec {
    name: "min-change",
    summary: "Has a teacher correct the target's own predictions with the fewest edits",
    doc: "\
The minimum-change data of \"I Learn Better If You Speak My Language\": text that is right, and of the target's own making as far as that \
goes. The teacher sees the question, the target's `initial_prediction`, worked examples of minimal corrections (none for \
code), and what `sees` names: the human solution (`groundtruth`), the right answer (`gold`), or `nothing`. The released \
data was made with the ground truth for GSM8K, the gold label for ECQA and nothing for MATH. Where the prediction is empty \
the teacher reasons itself.

A prediction that is right already stays as it is, and costs no call (`keep-correct=#true`, the default): right by the \
task's checker, or by a column of booleans that `correct` names, as `check-answer` adds one. Code is right if it passes the \
tests of its row, in a sandbox as in `check-answer`; it is kept as the marker and the code. Nothing is known of code \
without tests and of `task=\"free\"` without such a column, and every row is asked for.

A text that gives away how it came about is asked for again in the same conversation, at most `attempts` times; then the \
row goes to quarantine as `leak`. Looked for are these words, upper or lower case, unless they stand in the question or \
the prediction as well: the previous (prior, initial, original, earlier) prediction (draft, answer, response, \
solution, attempt, code); the (this, your, given, provided) prediction; the corrected (revised, fixed, amended) \
draft, version, answer and the like; I corrected (changed, fixed, ...); what was changed; changes made; fewest edits, \
minimal change and the like; ground truth; the gold (reference, given, provided) answer, label, solution; the right answer \
is given; told to me; for you alone; draft.

For `task=\"code\"` two calls are made: the code is copied out of the prediction as it stands, then corrected; the text is \
the marker, a line break and the code. How far a correction went is measured by `edit-distance` with the prediction as \
reference.

Adds the columns

- `response`, or the one that `column` names: the text, without white space around it;
- `<column>_kept`: whether it is the prediction, unchanged and without a call;
- `<column>_correct`: whether its answer passes the checker; null where nothing says so (`free`, code without tests, no column `gold`).

The template's inputs are columns of their names, or those that `inputs` names. Rows go to quarantine as `leak`, \
`null-value`, `gold-unreadable`, and as those of `teacher-generate`.",
    version: 1,
    inputs: FROM_WITH_ADAPTER,
    outputs: OUT,
    fields: &FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
teacher "local" kind="local" model="student"
load "problems" path="problems.jsonl" { columns { question "string"; solution "string"; gold "float" } }
initial-prediction "drafts" from="problems" model="student" task="math"
min-change "corrected" from="drafts" teacher="local" task="math" sees="groundtruth" {
    inputs { groundtruth "solution" }
}
edit-distance "measured" from="corrected" reference="initial_prediction"
write "corrected-file" from="measured" path="corrected.jsonl"
"#,
    build,
};

const OWN: &[FieldSpec] = &[
    FieldSpec::new(
        "sees",
        FieldKind::Choice(&["groundtruth", "gold", "nothing"]),
        "what the teacher is shown besides question and prediction: the human solution, the right answer, or nothing",
    )
    .required(),
    FieldSpec::new("keep-correct", FieldKind::Bool, "keeps a prediction that is right already, and makes no call")
        .default(Default::Bool(true)),
    FieldSpec::new(
        "correct",
        FieldKind::Column,
        "a column that says whether a prediction is right, in place of the checker",
    ),
    FieldSpec::new(
        "attempts",
        FieldKind::Int { min: 0, max: 20 },
        "how often a text that gives away how it came about is asked for again",
    )
    .default(Default::Int(2)),
];

const PARTS: &[&[FieldSpec]] =
    &[WRITER, OWN, &[column("response")], PROMPT, JUDGE, CODE, SAMPLING, ON_TRUNCATED, USAGE];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

/// Inputs of the templates that the operator fills itself, from columns.
const PREDICTION: &str = "initial_prediction";
const GOLD: &str = "gold";
const GROUNDTRUTH: &str = "groundtruth";
const FILLED: &[&str] = &[PREDICTION, GOLD, GROUNDTRUTH];
/// The same of the two templates for code.
const FILLED_EXTRACTING: &[&str] = &["response"];
const FILLED_CODE: &[&str] = &["code", GROUNDTRUTH];

#[derive(Debug)]
struct MinChange {
    writing: Writing,
    /// The correction.
    prompt: Prompt,
    /// For code: the call before it.
    extract: Option<Prompt>,
    again: &'static Template,
    sees: Spanned<String>,
    gold: Spanned<String>,
    keep_correct: bool,
    correct: Option<Spanned<String>>,
    judge: Option<Judge>,
    attempts: usize,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let before = diagnostics.0.len();
    let writing = Writing::read(fields, diagnostics)?.reading(&[PREDICTION, GROUNDTRUTH]);
    let judge = Judge::read(fields, "task", &writing, diagnostics);
    let code = writing.task == "code";
    let sees = fields.str("sees");
    if code && sees.value == GOLD {
        diagnostics.push(
            Diagnostic::error("meaningless-field", "a programming task has no right answer to be seen, only code")
                .at(sees.span, "not for `task=\"code\"`")
                .help("take `sees=\"groundtruth\"` or `sees=\"nothing\"`"),
        );
    }
    (diagnostics.0.len() == before).then(|| {
        Box::new(MinChange {
            prompt: Prompt::built_in(if code { "min-change-code" } else { "min-change" }),
            extract: code.then(|| Prompt::built_in("extract-code")),
            again: again::template("min-change-again"),
            sees,
            gold: fields.str("gold"),
            keep_correct: fields.bool("keep-correct"),
            correct: fields.opt_str("correct"),
            judge,
            attempts: fields.int("attempts") as usize,
            writing,
        }) as Box<dyn Operator>
    })
}

impl Operator for MinChange {
    fn canonical(&self) -> Value {
        json!({
            "writing": self.writing.canonical(),
            "prompt": self.prompt.canonical(),
            "extract": self.extract.as_ref().map(Prompt::canonical),
            "again": self.again.digest(),
            "sees": self.sees.value,
            "gold": self.gold.value,
            "keep_correct": self.keep_correct,
            "correct": self.correct.as_ref().map(|c| &c.value),
            "judge": self.judge.as_ref().map(Judge::canonical),
            "attempts": self.attempts,
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let columns = self.check_columns(cx);
        let files = self.check_tests(cx);
        let field = |what: &str, nullable| {
            Field::new(format!("{}_{what}", self.writing.column.value), DataType::Boolean, nullable)
        };
        let added = vec![field("kept", false), field("correct", true)];
        let mut prompts = vec![(&self.prompt, self.filled())];
        prompts.extend(self.extract.as_ref().map(|p| (p, FILLED_EXTRACTING)));
        let mut resolved = self.writing.resolve(cx, &prompts, added)?;
        resolved.files.extend(files?);
        columns.then_some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let prompt = self.writing.bind(&self.prompt, self.filled(), cx)?;
        let extract = self.extract.as_ref().map(|p| self.writing.bind(p, FILLED_EXTRACTING, cx)).transpose()?;
        let prompts = Prompts { correct: prompt, extract };
        let known = self.judge.as_ref().filter(|judge| judge.is_known(&cx.inputs()[0].schema));
        let bench = known.map(|judge| judge.open(cx)).transpose()?;
        drive(cx, self.writing.teacher(cx)?, &|row| {
            let task: Task<'_> = Box::new(Correction::of(self, &prompts, bench.as_ref(), row)?);
            Ok(vec![task])
        })
    }
}

/// The prompts of a run.
struct Prompts<'a> {
    correct: Bound<'a>,
    extract: Option<Bound<'a>>,
}

impl MinChange {
    fn filled(&self) -> &'static [&'static str] {
        if self.extract.is_some() { FILLED_CODE } else { FILLED }
    }

    /// Whether a row without a right answer cannot be worked on: which predictions stay is not known then. Code may have
    /// no tests.
    fn needs_gold(&self) -> bool {
        self.keep_correct && self.correct.is_none() && self.judge.as_ref().is_some_and(|judge| !judge.is_code())
    }

    /// The column that an input which the operator fills is read from, and where that is said.
    fn column_of<'a>(&'a self, input: &'a str) -> (&'a str, Option<Span>) {
        // The right answer is the checker's as well, and has a field.
        if input == GOLD { (&self.gold.value, Some(self.gold.span)) } else { self.writing.column_of(input) }
    }

    /// Where code has tests, they can be run. Gives the files that verdicts depend on.
    fn check_tests(&self, cx: &mut ResolveCx<'_>) -> Option<Vec<PathBuf>> {
        let input = cx.input("from");
        match self.judge.as_ref().filter(|judge| judge.is_code() && judge.is_known(&input.schema)) {
            Some(judge) => judge.resolve(input, cx),
            None => Some(Vec::new()),
        }
    }

    /// Whether the input has the columns that the operator itself reads.
    fn check_columns(&self, cx: &mut ResolveCx<'_>) -> bool {
        let input = cx.input("from");
        let text = |t: &DataType| is_string(t) || is_number(t);
        let mut sound = true;
        let sees = (self.sees.value != "nothing").then_some(self.sees.value.as_str());
        for name in [Some(PREDICTION), sees].into_iter().flatten() {
            let (column, written) = self.column_of(name);
            let span = written.unwrap_or(if name == PREDICTION { self.writing.span() } else { self.sees.span });
            sound &= cx.need_column(input, column, "string", text, span).is_some();
        }
        if let Some(correct) = &self.correct {
            let boolean = |t: &DataType| *t == DataType::Boolean;
            sound &= cx.need_column(input, &correct.value, "boolean", boolean, correct.span).is_some();
        } else if let Some(judge) = self.judge.as_ref().filter(|_| self.needs_gold() && self.sees.value != GOLD) {
            sound &= judge.resolve(input, cx).is_some();
        }
        sound
    }
}

#[cfg(test)]
mod tests;
