//! The fields that writing operators share, and what they mean.

use super::prompt::{Bound, Prompt, shots};
use super::task::Cell;
use crate::config::TeacherSource;
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::ops::{Arity, Default, FROM, FieldKind, FieldSpec, Fields, InputSpec, ResolveCx, Resolved};
use crate::ops::{adapters, samples, unknown_input};
use crate::plan::{Calls, Estimate, ModelInfo};
use crate::teacher::{Answer, Failure, Finish, LocalTeacher, Settings, Teacher};
use arrow::datatypes::{DataType, Field};
use indexmap::IndexMap;
use serde_json::{Value, json};
use std::sync::Arc;

/// The rows to write for.
pub const FROM_WITH_ADAPTER: &[InputSpec] = &[FROM[0], adapters::PORT];

/// The rows to write for, and few-shot examples.
pub const INPUTS: &[InputSpec] = &[
    InputSpec { name: "from", doc: "the rows to write for", arity: Arity::One, accepts_skipped: false },
    InputSpec {
        name: "examples",
        doc: "few-shot examples, a row each, with the columns that the prompt reads and the answer in `response`",
        arity: Arity::Optional,
        accepts_skipped: false,
    },
    adapters::PORT,
];

/// Who writes: exactly one of them is given.
pub const WRITER: &[FieldSpec] = &[
    FieldSpec::new("teacher", FieldKind::Teacher, "who writes: a declared teacher"),
    FieldSpec::new("model", FieldKind::Model, "who writes: a model of the pipeline, instead of a teacher"),
];

pub const TASKS: &[&str] = &["free", "math", "ecqa", "code"];

/// What is asked.
pub const PROMPT: &[FieldSpec] = &[
    FieldSpec::new("task", FieldKind::Choice(TASKS), "the kind of question, which decides what the prompt demands")
        .default(Default::Str("free")),
    FieldSpec::new("marker", FieldKind::Str, "what the prompt asks to be put before the final answer")
        .default(Default::Str("Final Answer:")),
    FieldSpec::new("system", FieldKind::Str, "the text of a system turn before the prompt, in place of its own"),
    FieldSpec::new(
        "inputs",
        FieldKind::Map(&FieldKind::Column),
        "which columns the prompt's inputs are read from; an input that is not named is the column of its own name",
    ),
];

/// How answers are drawn.
pub const SAMPLING: &[FieldSpec] = &[
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
pub const TOP_P: FieldSpec = FieldSpec::new(
    "top-p",
    FieldKind::Float { min: 0.0, max: 1.0 },
    "draws from the likeliest tokens that together have this probability",
);
pub const TOP_K: FieldSpec =
    FieldSpec::new("top-k", FieldKind::Int { min: 1, max: 1_000_000 }, "draws from this many of the likeliest tokens");
pub const MAX_TOKENS: FieldSpec =
    FieldSpec::new("max-tokens", FieldKind::Int { min: 1, max: 1 << 20 }, "the most tokens of an answer")
        .default(Default::Int(1024));
pub const STOP: FieldSpec = FieldSpec::new(
    "stop",
    FieldKind::List(&FieldKind::Str),
    "texts that end an answer where they first appear; they are not part of it",
);

/// Several answers to a row.
pub const SAMPLES: &[FieldSpec] = &[FieldSpec::new(
    "samples",
    FieldKind::Int { min: 1, max: 1000 },
    "answers to each row; with more than one each is a row with the id `<id>#<k>` and its number in a column `sample`",
)
.default(Default::Int(1))];

pub const ON_TRUNCATED: &[FieldSpec] = &[FieldSpec::new(
    "on-truncated",
    FieldKind::Choice(&["quarantine", "keep"]),
    "what becomes of an answer that was cut off at `max-tokens`",
)
.default(Default::Str("quarantine"))];

pub const USAGE: &[FieldSpec] = &[FieldSpec::new(
    "usage",
    FieldKind::Bool,
    "adds `<column>_finish`, `<column>_input_tokens`, `<column>_output_tokens` and `<column>_cost` (US dollars)",
)
.default(Default::Bool(false))];

/// The text column that is added.
pub const fn column(default: &'static str) -> FieldSpec {
    FieldSpec::new("column", FieldKind::Str, "the column that the text is put in").default(Default::Str(default))
}

/// How many fields some lists have together.
pub const fn count(parts: &[&[FieldSpec]]) -> usize {
    let (mut part, mut all) = (0, 0);
    while part < parts.len() {
        all += parts[part].len();
        part += 1;
    }
    all
}

/// Lists of fields as one; `N` is their [`count`].
pub const fn joined<const N: usize>(parts: &[&[FieldSpec]]) -> [FieldSpec; N] {
    let mut all = [MAX_TOKENS; N];
    let (mut part, mut at) = (0, 0);
    while part < parts.len() {
        let mut i = 0;
        while i < parts[part].len() {
            all[at] = parts[part][i];
            (at, i) = (at + 1, i + 1);
        }
        part += 1;
    }
    all
}

/// Where the answer of an example stands, unless an operator says otherwise.
const SHOWN: &str = "response";

/// For estimates before rows are read: how much of `max-tokens` an answer uses.
const TYPICAL_ANSWER: f64 = 0.25;
/// For estimates: floating-point operations per second of a small machine.
const TYPICAL_SPEED: f64 = 2e11;

/// Who writes.
#[derive(Debug)]
enum Writer {
    Teacher(Spanned<String>),
    Model(Spanned<String>),
}

/// The shared fields of a writing operator. A field that its spec does not have takes its default.
#[derive(Debug)]
pub struct Writing {
    writer: Writer,
    /// The text column that is added.
    pub column: Spanned<String>,
    pub task: String,
    task_span: Span,
    pub marker: String,
    system: Option<String>,
    /// Inputs of prompts, with the places of their names, and the columns that they are read from.
    inputs: IndexMap<String, (Span, Spanned<String>)>,
    /// Inputs whose columns the operator reads itself.
    reads: &'static [&'static str],
    /// The column of an example's answer, for templates that do not take examples themselves.
    shown: Spanned<String>,
    pub settings: Arc<Settings>,
    /// Where `max-tokens` is written, if it is.
    max_tokens: Option<Span>,
    /// Answers to a row.
    pub samples: u32,
    samples_span: Span,
    /// Whether one of the answers is chosen, so that a row stays one row.
    chosen: bool,
    keep_truncated: bool,
    usage: bool,
    /// Prompts go to the model as they are, without a chat template.
    raw: bool,
    span: Span,
}

impl Writing {
    pub fn read(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Self> {
        let writer = match (fields.opt_str("teacher"), fields.opt_str("model")) {
            (Some(teacher), None) => Writer::Teacher(teacher),
            (None, Some(model)) => Writer::Model(model),
            (Some(teacher), Some(model)) => {
                let error = Diagnostic::error("two-writers", "`teacher` and `model` both say who writes");
                diagnostics.push(error.at(model.span, "one").and(teacher.span, "another").help("keep one of them"));
                return None;
            }
            (None, None) => {
                diagnostics.push(
                    Diagnostic::error("missing-field", "nothing says who writes")
                        .at(fields.span, "has neither `teacher` nor `model`")
                        .help(
                            "name a declared teacher, `teacher=\"...\"`, or a model of the pipeline, `model=\"...\"`",
                        ),
                );
                return None;
            }
        };
        let column = fields.str("column");
        if column.value.trim().is_empty() {
            let error = Diagnostic::error("empty-value", "the added column has no name");
            diagnostics.push(error.at(column.span, "needs a name"));
            return None;
        }
        let natural = |n: Spanned<i64>| u32::try_from(n.value).unwrap_or(u32::MAX);
        let max_tokens = fields.opt_int("max-tokens");
        Some(Self {
            writer,
            column,
            task: match fields.get("task").map(|t| &t.value) {
                Some(crate::ops::Value::Str(task)) => task.clone(),
                _ => "free".into(),
            },
            task_span: fields.span_of("task"),
            marker: fields.opt_str("marker").map_or_else(|| "Final Answer:".into(), |m| m.value),
            system: fields.opt_str("system").map(|s| s.value),
            inputs: fields.get("inputs").map(|_| fields.str_map("inputs")).unwrap_or_default(),
            reads: &[],
            shown: Spanned::new(SHOWN.into(), fields.span),
            settings: Arc::new(Settings {
                max_tokens: max_tokens.clone().map_or(1024, natural),
                temperature: fields.opt_float("temperature").map(|t| t.value),
                top_p: fields.opt_float("top-p").map(|p| p.value),
                top_k: fields.opt_int("top-k").map(natural),
                stop: fields.strs("stop").into_iter().map(|s| s.value).collect(),
            }),
            max_tokens: max_tokens.map(|m| m.span).filter(|span| *span != fields.span),
            samples: fields.opt_int("samples").map_or(1, natural),
            samples_span: fields.span_of("samples"),
            chosen: false,
            keep_truncated: fields.opt_str("on-truncated").is_some_and(|t| t.value == "keep"),
            usage: fields.opt_bool("usage").unwrap_or(false),
            raw: false,
            span: fields.span,
        })
    }

    /// For operators that read columns of their own under names that `inputs` may give other columns.
    pub fn reading(self, inputs: &'static [&'static str]) -> Self {
        Self { reads: inputs, ..self }
    }

    /// For operators whose prompts may be raw text.
    pub fn in_raw_text(self, raw: bool) -> Self {
        Self { raw, ..self }
    }

    pub(super) fn is_raw(&self) -> bool {
        self.raw
    }

    /// For operators whose prompts have a marker of their own.
    pub fn marked(self, marker: &str) -> Self {
        Self { marker: marker.to_string(), ..self }
    }

    /// For operators whose answers are drawn in ways of their own; fields that are written go before.
    pub fn settled(self, settle: impl FnOnce(&mut Settings, bool)) -> Self {
        let mut settings = (*self.settings).clone();
        settle(&mut settings, self.max_tokens.is_some());
        Self { settings: Arc::new(settings), ..self }
    }

    /// For operators whose examples have their answer in another column than `response`.
    pub fn shown_by(self, column: Spanned<String>) -> Self {
        Self { shown: column, ..self }
    }

    /// For operators that choose one of several answers.
    pub fn choosing(self) -> Self {
        Self { chosen: true, ..self }
    }

    /// Everything that can change a byte of the output, besides the prompts.
    pub fn canonical(&self) -> Value {
        let inputs: Vec<_> = self.inputs.iter().map(|(name, (_, column))| (name, &column.value)).collect();
        json!({
            "column": self.column.value,
            "task": self.task,
            "marker": self.marker,
            "system": self.system,
            "inputs": inputs,
            "shown": self.shown.value,
            "settings": &*self.settings,
            "samples": self.samples,
            "keep_truncated": self.keep_truncated,
            "usage": self.usage,
            "raw": self.raw,
        })
    }

    /// Checks everything that writers share. `prompts` are those that may be rendered, each with the inputs that the
    /// operator gives itself; `added` are the columns of the first output besides the text and its usage.
    pub fn resolve(
        &self,
        cx: &mut ResolveCx<'_>,
        prompts: &[(&Prompt, &[&str])],
        added: Vec<Field>,
    ) -> Option<Resolved> {
        let mut sound = true;
        for (prompt, own) in prompts {
            sound &= prompt.resolve(self, own, cx).is_some();
        }
        sound &= self.check_inputs(prompts, cx);
        let local = self.local_model(cx)?;
        sound &= match (local, &self.writer) {
            (Some((model, span)), _) => self.check_model(model, span, cx),
            // A recording does not look at how it was asked.
            (None, Writer::Teacher(name)) if self.raw => self.check_raw(name, cx),
            (None, _) => true,
        };
        sound &= self.check_samples(local.is_some(), cx);
        sound &= adapters::check(cx, self.own_model()).is_some();
        let input = cx.input("from");
        let columns = self.columns().into_iter().chain(added).collect();
        let schema = cx.widened(input, columns, self.column.span);
        if !sound {
            return None;
        }
        let calls = self.calls(input.estimate.rows, prompts);
        let estimate = self.estimate(input.estimate.rows, &calls, local.map(|(model, _)| model));
        let mut resolved = Resolved::new(vec![schema?], estimate);
        match &self.writer {
            Writer::Teacher(name) => {
                resolved.teachers = vec![name.value.clone()];
                resolved.calls = calls;
            }
            Writer::Model(name) => resolved.models = vec![name.value.clone()],
        }
        resolved.files = prompts.iter().filter_map(|(prompt, _)| prompt.file()).collect();
        resolved.seeded = !self.is_greedy(local.is_some());
        resolved.journalled = true;
        Some(resolved)
    }

    /// What is left to a local model is the likeliest token.
    fn is_greedy(&self, local: bool) -> bool {
        self.settings.is_greedy() || (local && self.settings.temperature.is_none())
    }

    /// The model that the node names itself.
    pub fn own_model(&self) -> Option<&Spanned<String>> {
        match &self.writer {
            Writer::Model(name) => Some(name),
            Writer::Teacher(_) => None,
        }
    }

    /// The model of a local writer, and what names it. `None` where the writer is not known, which is reported.
    fn local_model<'a>(&self, cx: &ResolveCx<'a>) -> Option<Option<(&'a ModelInfo, Span)>> {
        Some(match &self.writer {
            Writer::Model(name) => Some(((cx.models)(&name.value)?, name.span)),
            Writer::Teacher(name) => (cx.teachers)(&name.value)?.model.as_ref().map(|model| (model, name.span)),
        })
    }

    fn check_model(&self, model: &ModelInfo, span: Span, cx: &mut ResolveCx<'_>) -> bool {
        let template = self.raw || cx.need_chat_template(model, span).is_some();
        let most = self.max_tokens.map_or(Some(()), |at| cx.need_context(model, self.settings.max_tokens.into(), at));
        template && most.is_some()
    }

    /// Providers take conversations and no raw text.
    fn check_raw(&self, name: &Spanned<String>, cx: &mut ResolveCx<'_>) -> bool {
        let hosted = (cx.teachers)(&name.value).is_some_and(|t| matches!(t.decl.source, TeacherSource::Hosted(_)));
        if hosted {
            cx.error(
                Diagnostic::error("raw-text", format!("teacher `{}` takes conversations and no raw text", name.value))
                    .at(name.span, "served elsewhere")
                    .help("ask it with `format=\"chat\"`, or name a model of the pipeline"),
            );
        }
        !hosted
    }

    fn check_samples(&self, local: bool, cx: &mut ResolveCx<'_>) -> bool {
        if self.samples < 2 || !self.is_greedy(local) {
            return true;
        }
        cx.error(
            Diagnostic::error("same-samples", format!("{} samples of a row would be the same text", self.samples))
                .at(self.samples_span, "decoding takes the likeliest token, always the same")
                .help("give a `temperature` above 0, or drop `samples`"),
        );
        false
    }

    /// Every name in `inputs` is one that a prompt reads.
    fn check_inputs(&self, prompts: &[(&Prompt, &[&str])], cx: &mut ResolveCx<'_>) -> bool {
        if prompts.iter().any(|(prompt, _)| prompt.template().is_none()) {
            return true;
        }
        let read = prompts.iter().filter_map(|(p, own)| Some((p.template()?, own)));
        let mut names: Vec<&str> = read
            .flat_map(|(t, own)| t.inputs.iter().map(|i| i.name.as_str()).filter(|name| !own.contains(name)))
            .collect();
        names.extend(self.reads);
        let mut sound = true;
        for (name, (span, _)) in self.inputs.iter().filter(|(name, _)| !names.contains(&name.as_str())) {
            cx.error(unknown_input(name, *span, &names));
            sound = false;
        }
        sound
    }

    /// Calls of each prompt, as far as they are known before rows are read. `rows` are those of the input.
    fn calls(&self, rows: Option<u64>, prompts: &[(&Prompt, &[&str])]) -> Vec<Calls> {
        let (Writer::Teacher(teacher) | Writer::Model(teacher)) = &self.writer;
        let most = u64::from(self.settings.max_tokens);
        let calls = |(prompt, _): &(&Prompt, &[&str])| Calls {
            teacher: teacher.value.clone(),
            calls: rows.map(|rows| rows.saturating_mul(self.samples.into())),
            input_tokens: prompt.typical_tokens(&self.task),
            output_tokens: (most as f64 * TYPICAL_ANSWER).ceil() as u64,
            most_output_tokens: most,
        };
        prompts.iter().map(calls).collect()
    }

    fn estimate(&self, rows: Option<u64>, calls: &[Calls], model: Option<&ModelInfo>) -> Estimate {
        let tokens = |c: &Calls| Some(c.calls?.saturating_mul(c.input_tokens + c.output_tokens));
        let tokens: Option<u64> = calls.iter().map(tokens).sum();
        let operations = tokens.zip(model.and_then(|m| m.parameters)).map(|(t, p)| 2.0 * t as f64 * p as f64);
        let memory = model.and_then(|m| m.memory);
        let made = if self.makes_samples() { self.samples } else { 1 };
        let rows = rows.map(|rows| rows.saturating_mul(made.into()));
        Estimate { rows, tokens, seconds: operations.map(|o| o / TYPICAL_SPEED), memory }
    }

    /// The column that an input of a prompt is read from, and where that is said.
    pub fn column_of<'a>(&'a self, input: &'a str) -> (&'a str, Option<Span>) {
        match self.inputs.get(input) {
            Some((_, column)) => (&column.value, Some(column.span)),
            None => (input, None),
        }
    }

    /// The column of an example's answer, and where that is said.
    pub(super) fn shown(&self) -> &Spanned<String> {
        &self.shown
    }

    pub(super) fn span(&self) -> Span {
        self.span
    }

    pub(super) fn task_span(&self) -> Span {
        self.task_span
    }

    pub(super) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Whether each answer is a row.
    fn makes_samples(&self) -> bool {
        self.samples > 1 && !self.chosen
    }

    /// The columns of the text and its usage.
    pub fn columns(&self) -> Vec<Field> {
        let name = &self.column.value;
        let mut columns = vec![Field::new(name, DataType::Utf8, false)];
        if self.usage {
            let field = |what: &str, t, nullable| Field::new(format!("{name}_{what}"), t, nullable);
            columns.push(field("finish", DataType::Utf8, true));
            columns.push(field("input_tokens", DataType::Int64, true));
            columns.push(field("output_tokens", DataType::Int64, true));
            columns.push(field("cost", DataType::Float64, true));
        }
        if self.makes_samples() {
            columns.push(samples::field());
        }
        columns
    }

    /// The cells of [`columns`](Self::columns). `usage` is that of all calls that the text took; `None` if it took none.
    pub fn cells(&self, text: String, usage: Option<&Answer>, sample: u32) -> Vec<Cell> {
        let mut cells = vec![Cell::Text(text)];
        if self.usage {
            let finish = |a: &Answer| match a.finish {
                Finish::Stop => "stop",
                Finish::Length => "length",
            };
            let cell = |value: &dyn Fn(&Answer) -> Cell| usage.map_or(Cell::Null, value);
            cells.push(cell(&|a| Cell::Text(finish(a).into())));
            cells.push(cell(&|a| Cell::Int(a.usage.input_tokens as i64)));
            cells.push(cell(&|a| Cell::Int(a.usage.output_tokens as i64)));
            cells.push(cell(&|a| a.cost.into()));
        }
        if self.makes_samples() {
            cells.push(Cell::Int(sample.into()));
        }
        cells
    }

    /// A failure where an answer has no text or is cut off.
    pub fn check(&self, answer: &Answer) -> Result<(), Failure> {
        if answer.finish == Finish::Length && !self.keep_truncated {
            let message = format!(
                "the answer was cut off after {} tokens of {} at most: raise `max-tokens`, or keep it with \
                 `on-truncated=\"keep\"`",
                answer.usage.output_tokens, self.settings.max_tokens
            );
            return Err(Failure::new("truncated", message));
        }
        match answer.text.trim().is_empty() {
            true => Err(empty()),
            false => Ok(()),
        }
    }

    /// Whoever writes.
    pub fn teacher(&self, cx: &NodeCx) -> Result<Arc<dyn Teacher>, RunError> {
        match &self.writer {
            Writer::Teacher(name) => cx.teacher(&name.value),
            Writer::Model(name) => Ok(Arc::new(LocalTeacher::new(adapters::lane(cx, &name.value)?, &name.value))),
        }
    }

    /// A prompt that is ready for the rows of a run. `own` are the inputs that the operator gives itself.
    pub fn bind<'a>(&'a self, prompt: &'a Prompt, own: &[&str], cx: &NodeCx) -> Result<Bound<'a>, RunError> {
        Bound::new(self, prompt, own, shots(cx)?, cx)
    }
}

/// Why a row has no text.
pub fn empty() -> Failure {
    Failure::new("empty-answer", "the answer has no text")
}
