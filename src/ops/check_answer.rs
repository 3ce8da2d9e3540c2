//! `check-answer`: the checker of a task, as columns.

use super::rows::{batches, cell_json, reject_row, text_column, widened};
use super::{Default, FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use super::{is_number, is_string};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::eval::answer::{Checker, Extractor, Fault, MARKER, OPTIONS, Task, Verdict};
use crate::exec::{NodeCx, RunError};
use crate::plan::{Estimate, InputInfo};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Value, json};
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "check-answer",
    summary: "Reads the answer of each response and says whether it is right",
    doc: DOC,
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &[
        FieldSpec::new(
            "task",
            FieldKind::Choice(&["math", "ecqa"]),
            "how answers are read: `math` as numbers that agree at two decimals, `ecqa` as one of five options",
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
    ],
    sink: false,
    example: r#"
load "drafts" path="drafts.jsonl" { columns { question "string"; response "string"; gold "float" } }
check-answer "checked" from="drafts" task="math"
filter "right" from="checked" where="correct"
filter "to-correct" from="checked" where="NOT correct"
write "right-file" from="right" path="right.jsonl"
write "to-correct-file" from="to-correct" path="to-correct.jsonl"
"#,
    build,
};

const DOC: &str = "\
Adds the columns

- `extracted`: the answer that was read, as text: a number (`0.75` for `3/4` and for `75%`) or an option's digit; null \
where none can be read;
- `correct`: whether it is the right one;
- `reason`: why it is not: `empty` (no text, or null), `unmarked` (the marker is missing), `unreadable` (nothing can be \
read where the answer should stand) or `wrong`; null where it is right.

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

Code (MBPP, HumanEval) is judged by running it against its tests, which this operator does not do.";

#[derive(Debug)]
struct CheckAnswer {
    checker: Checker,
    response: Spanned<String>,
    gold: Spanned<String>,
    /// None: those of the contracts, where they are.
    options: Vec<Spanned<String>>,
    prefix: String,
    span: Span,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let task = if fields.str("task").value == "math" { Task::Math } else { Task::Ecqa };
    let boxed = fields.str("extractor").value == "boxed";
    let (marker, options) = (fields.str("marker"), fields.strs("options"));
    let mut errors = Vec::new();
    let meaningless = |field: &str, task: &str| {
        Diagnostic::error("meaningless-field", format!("`{field}` is for `task=\"{task}\"`"))
            .at(fields.span_of(field), "not read")
            .and(fields.span_of("task"), "because of this")
    };
    if task == Task::Math && !options.is_empty() {
        errors.push(meaningless("options", "ecqa"));
    }
    if task == Task::Ecqa && boxed {
        errors.push(meaningless("extractor", "math").help("options are read behind the marker: remove `extractor`"));
    }
    if task == Task::Ecqa && !options.is_empty() && options.len() != OPTIONS.len() {
        errors.push(
            Diagnostic::error("bad-options", format!("`options` names {} columns, not five", options.len()))
                .at(fields.span_of("options"), "one for each option, in their order"),
        );
    }
    if marker.value.trim().is_empty() {
        errors.push(
            Diagnostic::error("empty-value", "the marker is empty")
                .at(marker.span, "needs a text that stands before every answer")
                .help("leave it out for `Final Answer:`"),
        );
    }
    let sound = errors.is_empty();
    errors.into_iter().for_each(|e| diagnostics.push(e));
    let extractor = if boxed { Extractor::Boxed } else { Extractor::Marker };
    sound.then(|| {
        Box::new(CheckAnswer {
            checker: Checker { task, extractor, marker: marker.value },
            response: fields.str("response"),
            gold: fields.str("gold"),
            options,
            prefix: fields.str("prefix").value,
            span: fields.span,
        }) as Box<dyn Operator>
    })
}

impl CheckAnswer {
    fn added(&self) -> Vec<Field> {
        let field = |name: &str, t: DataType, nullable| Field::new(format!("{}{name}", self.prefix), t, nullable);
        vec![
            field("extracted", DataType::Utf8, true),
            field("correct", DataType::Boolean, false),
            field("reason", DataType::Utf8, true),
        ]
    }

    /// The columns of options in an input.
    fn option_columns<'a>(&'a self, input: &Schema) -> Vec<&'a str> {
        let there = |name: &&str| input.field_with_name(name).is_ok_and(|f| is_string(f.data_type()));
        match (self.checker.task, self.options.is_empty()) {
            (Task::Math, _) => Vec::new(),
            (Task::Ecqa, false) => self.options.iter().map(|o| o.value.as_str()).collect(),
            (Task::Ecqa, true) if OPTIONS.iter().all(there) => OPTIONS.to_vec(),
            (Task::Ecqa, true) => Vec::new(),
        }
    }

    fn check_columns(&self, input: &InputInfo, cx: &mut ResolveCx<'_>) -> bool {
        let value = |t: &DataType| is_string(t) || is_number(t);
        let mut sound = cx.need_column(input, &self.response.value, "string", is_string, self.response.span).is_some();
        sound &= cx.need_column(input, &self.gold.value, "string or number", value, self.gold.span).is_some();
        for option in &self.options {
            sound &= cx.need_column(input, &option.value, "string", is_string, option.span).is_some();
        }
        sound
    }

    fn check(&self, cx: &NodeCx, batch: &RecordBatch) -> Result<RecordBatch, RunError> {
        let responses = text_column(batch, &self.response.value)?;
        let golds = batch.column_by_name(&self.gold.value);
        let names = self.option_columns(&batch.schema());
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

impl Operator for CheckAnswer {
    fn canonical(&self) -> Value {
        let options: Vec<&String> = self.options.iter().map(|o| &o.value).collect();
        json!({
            "task": format!("{:?}", self.checker.task),
            "extractor": format!("{:?}", self.checker.extractor),
            "marker": self.checker.marker,
            "response": self.response.value,
            "gold": self.gold.value,
            "options": options,
            "prefix": self.prefix,
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let sound = self.check_columns(input, cx);
        let schema = cx.widened(input, self.added(), self.span)?;
        let estimate = Estimate { rows: input.estimate.rows, ..Estimate::default() };
        sound.then(|| Resolved::new(vec![schema], estimate))
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        for batch in batches(cx, 0)? {
            let checked = self.check(cx, &batch?)?;
            if checked.num_rows() > 0 {
                cx.emit(0, checked)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
