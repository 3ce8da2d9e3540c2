//! `lint`: checks of data before it costs anything.

mod across;
mod columns;
mod overlap;
mod rows;

use super::gather::distinguishing;
use super::rows::{ID, arrow_failed, batches, emit_in_batches};
use super::{
    Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OpSpec, Operator, OutputSpec, ResolveCx, Resolved,
};
use super::{is_number, is_string, list};
use crate::diag::{Diagnostic, Diagnostics, Severity, Span, Spanned};
use crate::eval::answer::{Checker, Extractor, MARKER, Task};
use crate::exec::{NodeCx, RunError, RunInput};
use crate::plan::{Estimate, InputInfo, NodeName};
use crate::report::grid::{Format, texts};
use crate::report::terminal;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::json;
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "lint",
    summary: "Looks for known kinds of mistakes in data sets and between them",
    doc: DOC,
    version: 2,
    inputs: &[
        InputSpec {
            name: "from",
            doc: "the data sets to check, each alone and all against each other",
            arity: Arity::Many,
            accepts_skipped: true,
        },
        InputSpec {
            name: "test",
            doc: "a test set whose questions must not be in the others",
            arity: Arity::Optional,
            accepts_skipped: true,
        },
    ],
    outputs: &[OutputSpec { name: "findings", doc: "one row for each finding, the worst first" }],
    fields: &[
        FieldSpec::new("question", FieldKind::Column, "The column of questions").default(Default::Str("question")),
        FieldSpec::new("response", FieldKind::Column, "The column of responses").default(Default::Str("response")),
        FieldSpec::new(
            "task",
            FieldKind::Choice(&["math", "ecqa"]),
            "How answers are read: `math` as numbers that agree at two decimals, `ecqa` as one of five options",
        ),
        FieldSpec::new("answer", FieldKind::Column, "The column of right answers; needs `task`"),
        FieldSpec::new(
            "options",
            FieldKind::List(&FieldKind::Column),
            "For `ecqa`: the columns of the five options' texts",
        ),
        FieldSpec::new(
            "extractor",
            FieldKind::Choice(&["marker", "boxed"]),
            "For `math`: the first number after the marker, or the last `\\boxed{}` and otherwise the last number",
        )
        .default(Default::Str("marker")),
        FieldSpec::new(
            "marker",
            FieldKind::Str,
            "What stands before the answer in every response (default with `task`: `Final Answer:`)",
        ),
        FieldSpec::new(
            "forbid",
            FieldKind::List(&FieldKind::Str),
            "Phrases that no response may hold, in upper or lower case",
        ),
        FieldSpec::new("allow", FieldKind::List(&FieldKind::Choice(CHECKS)), "Checks to leave out"),
        FieldSpec::new(
            "fail-on",
            FieldKind::Choice(&["error", "warning", "never"]),
            "The severity from which findings fail the run",
        )
        .default(Default::Str("never")),
    ],
    sink: true,
    example: EXAMPLE,
    build,
};

/// Findings shown in the terminal.
const MAX_SHOWN: usize = 50;

/// The checks by name.
const CHECKS: &[&str] = &[
    "answer-unreadable",
    "answer-wrong",
    "constant-column",
    "duplicate-columns",
    "duplicate-ids",
    "duplicate-inputs",
    "duplicate-questions",
    "forbidden-phrase",
    "marker-missing",
    "response-empty",
    "response-truncated",
    "skipped-input",
    "stale-column",
    "stale-perplexity",
    "test-overlap",
    "test-overlap-near",
];

const DOC: &str = "\
Gives one row for each finding: `check`, `severity`, `input`, `count` and `share` of the rows concerned, `examples` \
(ids of the first ones) and `message`; shows them as a table. Checks of each input:

- `response-empty` (error), `response-truncated` (warning): the text ends within a sentence, after an opening bracket or \
  inside a code block, or right behind the marker.
- `marker-missing` (error), with `marker` or `task`.
- `answer-unreadable`, `answer-wrong` (warning), with `task` and `answer`: nothing can be read as an answer, or the \
  answer is not the right one.
- `forbidden-phrase` (warning), with `forbid`.
- `duplicate-ids` (error), `duplicate-questions` (warning).
- `duplicate-columns` (warning): two columns with the same values under different names; `constant-column` (note).
- `test-overlap` (error): a question of `test`, letter by letter; `test-overlap-near` (error): the same but for case, \
  punctuation and blanks, or with more text behind it.

Checks between inputs:

- `duplicate-inputs` (error): the same responses to the same questions under different names; a warning where it is \
  nine in ten rows.
- `stale-perplexity` (error): a column named like a score of the response (`ppl`, `perplexity`, `nll`, `loss`, `logprob`) \
  has the same values although the responses differ; `stale-column` (warning): the same of a column named like a \
  model's output (`prediction`, `pred`, `output`, `generation`).

Inputs are compared row by row in their order. Memory holds a few numbers for each row, and the questions of `test`.";

const EXAMPLE: &str = r#"
matrix "writers" {
    writer "human" "teacher"
}
load "answers" matrix="writers" path="${writer}.jsonl" {
    columns { question "string"; response "string"; gold "string" }
}
load "test" path="test.jsonl" { columns { question "string" } }
lint "data-checks" task="math" answer="gold" fail-on="error" {
    from "answers"
    test "test"
    forbid "as an AI" "previous prediction"
}
"#;

/// One finding.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    pub check: &'static str,
    pub severity: Severity,
    pub input: String,
    pub count: u64,
    /// Of the input's rows; `None` where rows are not what is counted.
    pub share: Option<f64>,
    pub examples: Vec<String>,
    pub message: String,
}

#[derive(Debug)]
struct Lint {
    question: Spanned<String>,
    response: Spanned<String>,
    answers: Option<Answers>,
    marker: Option<String>,
    forbid: Vec<String>,
    allow: Vec<String>,
    fail_on: Option<Severity>,
}

/// A type in words, and whether a column is of it.
type Expected = (&'static str, fn(&DataType) -> bool);

/// How answers are read and judged.
#[derive(Debug)]
struct Answers {
    checker: Checker,
    gold: Option<Spanned<String>>,
    options: Vec<Spanned<String>>,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let task = fields.opt_str("task");
    let mut sound = true;
    let mut needs = |name: &str, wanted: &str, holds: bool, diagnostics: &mut Diagnostics| {
        if fields.get(name).is_some() && !holds {
            diagnostics.push(
                Diagnostic::error("meaningless-field", format!("`{name}` needs {wanted}"))
                    .at(fields.span_of(name), "not read without it"),
            );
            sound = false;
        }
    };
    needs("answer", "`task`", task.is_some(), diagnostics);
    let ecqa = task.as_ref().is_some_and(|t| t.value == "ecqa");
    needs("options", "`task=\"ecqa\"`", ecqa, diagnostics);
    let marker = fields.opt_str("marker").map(|m| m.value).or_else(|| task.as_ref().map(|_| MARKER.to_string()));
    let answers = task.as_ref().map(|task| Answers {
        checker: Checker {
            task: if task.value == "math" { Task::Math } else { Task::Ecqa },
            extractor: if fields.str("extractor").value == "boxed" { Extractor::Boxed } else { Extractor::Marker },
            marker: marker.clone().unwrap_or_default(),
        },
        gold: fields.opt_str("answer"),
        options: fields.strs("options"),
    });
    let phrases = |name: &str| fields.strs(name).into_iter().map(|t| t.value).collect();
    let fail_on = match fields.str("fail-on").value.as_str() {
        "error" => Some(Severity::Error),
        "warning" => Some(Severity::Warning),
        _ => None,
    };
    let (question, response) = (fields.str("question"), fields.str("response"));
    let lint =
        Lint { question, response, answers, marker, forbid: phrases("forbid"), allow: phrases("allow"), fail_on };
    sound.then(|| Box::new(lint) as Box<dyn Operator>)
}

impl Operator for Lint {
    fn canonical(&self) -> serde_json::Value {
        let answers = self.answers.as_ref().map(|a| {
            let options: Vec<&String> = a.options.iter().map(|o| &o.value).collect();
            json!([
                format!("{:?}", a.checker.task),
                format!("{:?}", a.checker.extractor),
                a.gold.as_ref().map(|g| &g.value),
                options
            ])
        });
        json!({
            "question": self.question.value, "response": self.response.value, "answers": answers, "marker": self.marker,
            "forbid": self.forbid, "allow": self.allow, "fail-on": self.fail_on.map(|s| s.to_string()),
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let mut sound = true;
        for input in cx.inputs.iter().filter(|i| i.skipped.is_none()) {
            sound &= self.check_columns(input, cx);
        }
        let mut resolved = Resolved::new(vec![findings_schema()], Estimate { tokens: Some(0), ..Estimate::default() });
        resolved.barrier = true;
        resolved.reads_bindings = true;
        sound.then_some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let mut findings = self.findings(cx)?;
        findings.retain(|f| !self.allow.iter().any(|a| a == f.check));
        findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
        let table = table(&findings)?;
        let text = self.shown(&findings, cx);
        cx.present(&text)?;
        if let Some(limit) = self.fail_on {
            let bad = findings.iter().filter(|f| f.severity >= limit).count();
            if bad > 0 {
                return Err(RunError::failed(
                    "lint",
                    format!("findings of severity {limit} or worse: {bad}\n\n{text}"),
                )
                .help("mend the data, leave a check out with `allow`, or let the run go on with fail-on=\"never\""));
            }
        }
        emit_in_batches(cx, 0, &table)
    }
}

impl Lint {
    /// The columns that are read from an input, the type that each must have, and where it is named.
    fn check_columns(&self, input: &InputInfo, cx: &mut ResolveCx<'_>) -> bool {
        let text: Expected = ("text", is_string);
        let value: Expected = ("text or a number", |t| is_string(t) || is_number(t));
        let mut needed: Vec<(&str, Span, Expected)> = vec![(&self.question.value, self.question.span, text)];
        if input.port == "from" {
            needed.push((&self.response.value, self.response.span, text));
            if let Some(answers) = &self.answers {
                needed.extend(answers.gold.iter().map(|g| (g.value.as_str(), g.span, value)));
                needed.extend(answers.options.iter().map(|o| (o.value.as_str(), o.span, text)));
            }
        }
        let mut sound = true;
        for (column, span, (expected, accepts)) in needed {
            sound &= cx.need_column(input, column, expected, accepts, span).is_some();
        }
        sound
    }

    fn findings(&self, cx: &NodeCx) -> Result<Vec<Finding>, RunError> {
        let mut findings = Vec::new();
        let test = match cx.inputs().iter().position(|i| i.port == "test" && i.skipped.is_none()) {
            Some(index) => Some(overlap::TestSet::read(&self.question.value, index, cx)?),
            None => None,
        };
        let from: Vec<(usize, &RunInput)> = cx.inputs().iter().enumerate().filter(|(_, i)| i.port == "from").collect();
        let producers: Vec<&NodeName> = from.iter().map(|(_, i)| &i.producer).collect();
        let mut profiles = Vec::new();
        for (at, (index, input)) in from.iter().enumerate() {
            let label = distinguishing(&producers, at);
            if let Some(reason) = &input.skipped {
                findings.push(Finding {
                    check: "skipped-input",
                    severity: Severity::Note,
                    input: label,
                    count: 0,
                    share: None,
                    examples: Vec::new(),
                    message: format!("not checked: {reason}"),
                });
                continue;
            }
            let mut rows = rows::RowChecks::new(self);
            let mut overlaps = test.as_ref().map(overlap::Overlaps::new);
            let mut profile = columns::Profile::new(label, &input.schema, self);
            for batch in batches(cx, *index)? {
                let batch = batch?;
                let table = Batch::of(&batch, self)?;
                rows.add(&table);
                if let Some(overlaps) = &mut overlaps {
                    overlaps.add(&table);
                }
                profile.add(&batch, &table)?;
            }
            findings.extend(rows.finish(&profile));
            findings.extend(overlaps.into_iter().flat_map(|o| o.finish(&profile)));
            findings.extend(profile.findings());
            profiles.push(profile);
        }
        findings.extend(across::findings(&profiles));
        Ok(findings)
    }

    fn shown(&self, findings: &[Finding], cx: &NodeCx) -> String {
        let of = |severity: Severity| findings.iter().filter(|f| f.severity == severity).count() as u64;
        let parts = [Severity::Error, Severity::Warning, Severity::Note].map(|s| counted(of(s), &s.to_string()));
        let inputs = counted(cx.inputs().iter().filter(|i| i.port == "from").count() as u64, "input");
        let title = format!("{}: {} in {inputs}", cx.node(), parts.join(", "));
        let mut out = format!("{title}\n");
        for finding in findings.iter().take(MAX_SHOWN) {
            out.push('\n');
            out.push_str(&finding.shown());
        }
        if findings.len() > MAX_SHOWN {
            out.push_str(&format!("\n{} more are in the output `findings`\n", findings.len() - MAX_SHOWN));
        }
        out
    }
}

impl Finding {
    /// Severity, check and input on one line, what was found below it.
    fn shown(&self) -> String {
        let rows = match (self.count, self.share) {
            (count, Some(share)) => format!(", {} ({:.1}%)", counted(count, "row"), share * 100.0),
            (_, None) => String::new(),
        };
        let lines =
            [format!("{:<8} {}: {}{rows}", self.severity.to_string(), self.check, self.input), self.message.clone()];
        let mut out = String::new();
        for (line, first) in lines.iter().zip(["", "         "]) {
            let wrap = textwrap::Options::new(terminal::WIDTH).initial_indent(first).subsequent_indent("         ");
            out.push_str(&textwrap::fill(&terminal::plain(line), wrap));
            out.push('\n');
        }
        out
    }
}

/// The columns of a batch that checks read, as texts.
pub(super) struct Batch {
    pub ids: Vec<Option<String>>,
    pub questions: Vec<Option<String>>,
    pub responses: Vec<Option<String>>,
    pub gold: Option<Vec<Option<String>>>,
    pub options: Vec<Vec<Option<String>>>,
}

impl Batch {
    fn of(batch: &RecordBatch, lint: &Lint) -> Result<Self, RunError> {
        let column = |name: &str| -> Vec<Option<String>> {
            match batch.column_by_name(name) {
                Some(column) if is_number(column.data_type()) => numbers_as_written(column),
                Some(column) => texts(column, Format::default()),
                None => vec![None; batch.num_rows()],
            }
        };
        let answers = lint.answers.as_ref();
        Ok(Self {
            ids: column(ID),
            questions: column(&lint.question.value),
            responses: column(&lint.response.value),
            gold: answers.and_then(|a| a.gold.as_ref()).map(|g| column(&g.value)),
            options: answers.map_or_else(Vec::new, |a| a.options.iter().map(|o| column(&o.value)).collect()),
        })
    }
}

/// Numbers in full, unlike those of a table.
fn numbers_as_written(column: &ArrayRef) -> Vec<Option<String>> {
    (0..column.len())
        .map(|row| match super::rows::cell_json(column, row) {
            serde_json::Value::Null => None,
            value => Some(value.to_string()),
        })
        .collect()
}

fn findings_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("check"),
        text("severity"),
        text("input"),
        Field::new("count", DataType::Int64, false),
        Field::new("share", DataType::Float64, true),
        text("examples"),
        text("message"),
    ]))
}

fn table(findings: &[Finding]) -> Result<RecordBatch, RunError> {
    let text = |of: &dyn Fn(&Finding) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(findings.iter().map(of)))
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|f| f.check.to_string()),
        text(&|f| f.severity.to_string()),
        text(&|f| f.input.clone()),
        Arc::new(Int64Array::from_iter_values(findings.iter().map(|f| f.count as i64))),
        Arc::new(findings.iter().map(|f| f.share).collect::<Float64Array>()),
        text(&|f| f.examples.join(", ")),
        text(&|f| f.message.clone()),
    ];
    RecordBatch::try_new(findings_schema(), columns).map_err(arrow_failed)
}

/// How many rows a check found, and the first of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub count: u64,
    pub examples: Vec<String>,
}

impl Tally {
    const EXAMPLES: usize = 5;

    /// Counts a row if `found`.
    pub fn see(&mut self, found: bool, id: &Option<String>) {
        if found {
            self.count += 1;
            if self.examples.len() < Self::EXAMPLES {
                self.examples.extend(id.clone());
            }
        }
    }

    /// The finding, if any row was found; the message gets the examples.
    pub fn finding(
        self,
        check: &'static str,
        severity: Severity,
        profile: &columns::Profile,
        message: impl Into<String>,
    ) -> Option<Finding> {
        let mut message = message.into();
        if let Some(first) = self.examples.first() {
            message.push_str(&format!(", first {first}"));
        }
        (self.count > 0).then(|| Finding {
            check,
            severity,
            input: profile.label.clone(),
            count: self.count,
            share: Some(self.count as f64 / profile.rows.max(1) as f64),
            examples: self.examples,
            message,
        })
    }
}

/// "1 row", "2 rows".
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// "`a` and `b`" of owned names.
pub(super) fn quoted(names: &[String]) -> String {
    list(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A text's hash, 64 bits of BLAKE3.
pub(super) fn hash(text: &str) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests;
