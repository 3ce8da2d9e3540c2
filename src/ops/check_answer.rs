//! `check-answer`: the checker of a task, as columns.

mod answers;
mod code;

use super::code::{CODE, CodeTask};
use super::rows::batches;
use super::writing::settings::{count, joined};
use super::{Default, FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved, is_string};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::eval::answer::{Checker, Extractor, MARKER, OPTIONS, Task};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use answers::Answers;
use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};

pub static SPEC: OpSpec = OpSpec {
    name: "check-answer",
    summary: "Reads the answer of each response and says whether it is right",
    doc: DOC,
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &FIELDS,
    sink: false,
    example: EXAMPLE,
    build,
};

const OWN: &[FieldSpec] = &[
    FieldSpec::new(
        "task",
        FieldKind::Choice(&["math", "ecqa", "code"]),
        "how answers are judged: `math` as numbers that agree at two decimals, `ecqa` as one of five options, `code` \
             by running it against tests",
    )
    .required(),
    FieldSpec::new("response", FieldKind::Column, "the column of responses").default(Default::Str("response")),
    FieldSpec::new("gold", FieldKind::Column, "the column of right answers, text or numbers")
        .default(Default::Str("gold")),
    FieldSpec::new("marker", FieldKind::Str, "what stands before the answer").default(Default::Str(MARKER)),
    FieldSpec::new(
        "extractor",
        FieldKind::Choice(&["marker", "boxed"]),
        "for `math`: the first number after the last marker, or the last `\\boxed{}` and otherwise the last number",
    )
    .default(Default::Str("marker")),
    FieldSpec::new(
        "options",
        FieldKind::List(&FieldKind::Column),
        "for `ecqa`: the columns of the five options' texts; if not given, `option_1` to `option_5` where the input \
             has them",
    ),
    FieldSpec::new("prefix", FieldKind::Str, "stands before the names of the added columns, as in `draft_`")
        .default(Default::Str("")),
];

const PARTS: &[&[FieldSpec]] = &[OWN, CODE];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

const EXAMPLE: &str = r#"
load "drafts" path="drafts.jsonl" { columns { question "string"; response "string"; gold "float" } }
check-answer "checked" from="drafts" task="math"
filter "right" from="checked" where="correct"
filter "to-correct" from="checked" where="NOT correct"
write "right-file" from="right" path="right.jsonl"
write "to-correct-file" from="to-correct" path="to-correct.jsonl"

load "solutions" dataset="humaneval"
check-answer "judged" from="solutions" task="code" timeout=5
write "judged-file" from="judged" path="judged.jsonl"
"#;

const DOC: &str = "\
Adds the columns

- `extracted`: the answer that was read, as text: a number (`0.75` for `3/4` and for `75%`) or an option's digit; null \
where none can be read;
- `correct`: whether it is the right one;
- `reason`: why it is not: `empty` (no text, or null), `unmarked` (the marker is missing), `unreadable` (nothing can be \
read where the answer should stand) or `wrong`; null where it is right. Code has more of them.

A response that gives no answer is not right, so it stays in the table with `correct` false: keep or drop rows with \
`filter`. With `prefix` two checks can stand in one table.

`task=\"math\"` takes the first number after the last marker, or with `extractor=\"boxed\"` the content of the last \
`\\boxed{}` and otherwise the last number of the response. Fractions, roots and powers are evaluated, separators of \
thousands and signs of currencies are skipped, a percent sign divides by 100; numbers are compared at two decimals. \
`task=\"ecqa\"` takes the first digit from 1 to 5 after the last marker, otherwise the one option whose text stands there. \
The page on answers (`docs/answers.md`) shows in tables how each way of writing is read.

Right answers stand alone (`72`, `$1,234`, for `ecqa` the digit or the option's text), or in a rationale behind the \
marker, behind the `####` of GSM8K, or in a box. A row whose right answer is null or cannot be read goes to quarantine as \
`null-value` or `gold-unreadable`: nothing can be said about its response.

`task=\"code\"` runs the code of a response with the row's tests, in a sandbox: without network, without the user's files, \
with limits of time, memory and output (the page on the sandbox, `docs/sandbox.md`, says what that guarantees). The code \
is what stands behind the last marker, or the whole response where there is none; of that the fenced blocks, if there are \
any. Rows of MBPP pass with `test_list` and `challenge_test_list`, run after the code and `test_setup_code`; rows of \
HumanEval with `check(entry_point)`, where the code is the rest of the prompt's function or the function anew. Other \
columns are named with `tests`, `test-setup`, `entry-point` and `beginning`. `reason` can then also be `raised` (an \
exception that is no failed assertion of a test), `timeout`, `memory`, `output` (too much of it) or `ended` (the program \
left or crashed before its tests had passed); these columns are added besides:

- `detail`: more on the reason, such as `test 2: AssertionError`;
- `stdout`, `stderr`: the first 16 KiB of what the program printed; null where it is nothing, or where time ran out.

A row without tests goes to quarantine as `no-tests`, one whose function has no name as `null-value`. No Python, or a \
kernel without the means to confine programs, is an error before any row is read.";

#[derive(Debug)]
struct CheckAnswer {
    judge: Judge,
    response: Spanned<String>,
    prefix: String,
    span: Span,
}

#[derive(Debug)]
enum Judge {
    Answers(Answers),
    Code { task: CodeTask, marker: String },
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let before = diagnostics.0.len();
    let marker = fields.str("marker");
    let judge = match fields.str("task").value.as_str() {
        "code" => {
            not_for_code(fields, diagnostics);
            CodeTask::read(fields, "task", diagnostics).map(|task| Judge::Code { task, marker: marker.value.clone() })
        }
        task => {
            CodeTask::refuse(fields, "task", diagnostics);
            let task = if task == "math" { Task::Math } else { Task::Ecqa };
            Some(Judge::Answers(answers(fields, task, marker.value.clone(), diagnostics)))
        }
    };
    if marker.value.trim().is_empty() {
        diagnostics.push(
            Diagnostic::error("empty-value", "the marker is empty")
                .at(marker.span, "needs a text that stands before every answer")
                .help("leave it out for `Final Answer:`"),
        );
    }
    let judge = judge.filter(|_| diagnostics.0.len() == before)?;
    let (response, prefix) = (fields.str("response"), fields.str("prefix").value);
    Some(Box::new(CheckAnswer { judge, response, prefix, span: fields.span }))
}

fn meaningless(fields: &Fields, field: &str, task: &str) -> Diagnostic {
    Diagnostic::error("meaningless-field", format!("`{field}` is for `task=\"{task}\"`"))
        .at(fields.span_of(field), "not read")
        .and(fields.span_of("task"), "because of this")
}

/// Code has no right answer to be compared with.
fn not_for_code(fields: &Fields, diagnostics: &mut Diagnostics) {
    if fields.span_of("gold") != fields.span {
        let error = meaningless(fields, "gold", "math");
        diagnostics.push(error.help("code is judged by its tests: name their columns with `tests`"));
    }
    if !fields.strs("options").is_empty() {
        diagnostics.push(meaningless(fields, "options", "ecqa"));
    }
    if fields.str("extractor").value == "boxed" {
        diagnostics.push(meaningless(fields, "extractor", "math"));
    }
}

fn answers(fields: &Fields, task: Task, marker: String, diagnostics: &mut Diagnostics) -> Answers {
    let boxed = fields.str("extractor").value == "boxed";
    let options = fields.strs("options");
    if task == Task::Math && !options.is_empty() {
        diagnostics.push(meaningless(fields, "options", "ecqa"));
    }
    if task == Task::Ecqa && boxed {
        let error = meaningless(fields, "extractor", "math");
        diagnostics.push(error.help("options are read behind the marker: remove `extractor`"));
    }
    if task == Task::Ecqa && !options.is_empty() && options.len() != OPTIONS.len() {
        diagnostics.push(
            Diagnostic::error("bad-options", format!("`options` names {} columns, not five", options.len()))
                .at(fields.span_of("options"), "one for each option, in their order"),
        );
    }
    let extractor = if boxed { Extractor::Boxed } else { Extractor::Marker };
    Answers { checker: Checker { task, extractor, marker }, gold: fields.str("gold"), options }
}

impl CheckAnswer {
    fn added(&self) -> Vec<Field> {
        let field = |name: &str, t: DataType, nullable| Field::new(format!("{}{name}", self.prefix), t, nullable);
        let mut added = vec![
            field("extracted", DataType::Utf8, true),
            field("correct", DataType::Boolean, false),
            field("reason", DataType::Utf8, true),
        ];
        if let Judge::Code { .. } = self.judge {
            added.extend(["detail", "stdout", "stderr"].map(|name| field(name, DataType::Utf8, true)));
        }
        added
    }
}

impl Operator for CheckAnswer {
    fn canonical(&self) -> Value {
        let judge = match &self.judge {
            Judge::Answers(answers) => answers.canonical(),
            Judge::Code { task, marker } => json!({ "code": task.canonical(), "marker": marker }),
        };
        json!({ "judge": judge, "response": self.response.value, "prefix": self.prefix })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let response = cx.need_column(input, &self.response.value, "string", is_string, self.response.span);
        let files = match &self.judge {
            Judge::Answers(answers) => answers.resolve(input, cx).map(|()| Vec::new()),
            Judge::Code { task, .. } => task.resolve(input, cx),
        };
        let schema = cx.widened(input, self.added(), self.span)?;
        let estimate = Estimate { rows: input.estimate.rows, ..Estimate::default() };
        let mut resolved = Resolved::new(vec![schema], estimate);
        resolved.files = files?;
        response.map(|_| resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let bench = match &self.judge {
            Judge::Answers(_) => None,
            Judge::Code { task, marker } => Some((task.open(marker)?, task.columns(&cx.inputs()[0].schema))),
        };
        let response = &self.response.value;
        for batch in batches(cx, 0)? {
            let batch = batch?;
            let checked = match (&self.judge, &bench) {
                (Judge::Answers(answers), _) => answers.check(cx, &batch, response)?,
                (_, Some((checker, Some(columns)))) => code::check(cx, &batch, response, columns, checker)?,
                _ => return Err(RunError::failed("column-missing", "the rows have no tests, which the plan had seen")),
            };
            if checked.num_rows() > 0 {
                cx.emit(0, checked)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
