//! `lora-train`: fine-tunes a model on rows, as a low-rank adapter.
//!
//! ```text
//! rows -> examples (tokens, which are labels) -> batches in the epoch's order -> optimizer steps -> adapter and log
//! ```

mod examples;
mod log;
mod settings;
mod state;
mod training;

use super::{Arity, FROM, InputSpec, OpSpec, Operator, OutputSpec, ResolveCx, Resolved, adapters};
use crate::diag::Diagnostic;
use crate::exec::{NodeCx, RunError};
use crate::plan::{Estimate, InputInfo};
use arrow::datatypes::DataType;
use settings::{FIELDS, Settings, Text};

pub static SPEC: OpSpec = OpSpec {
    name: "lora-train",
    summary: "Trains a low-rank adapter (LoRA) of a model on rows",
    doc: "\
Fine-tunes a model without changing its weights: to the outputs of some of its linear layers it adds
`alpha / rank * B A x`, and trains `A` and `B` with AdamW. Each row's question and response are put into the model's own
chat template, by the same code that `score-ppl` and generation use, so what is learned is what is asked. The loss of a
step is the mean negative log-likelihood of its label tokens: those of the response and the token that closes it, or with
`mask-prompt=#false` all tokens of the row.

A column of conversations is trained on with `messages`: JSON lists of `{\"role\": ..., \"content\": ...}`. Then every turn of
the assistant is a label, with the token that closes it, and each follows the prompt that the model would be given to write
it. What comes after the last of them is not read.

The result is one row, an adapter in the format of the peft library, for the port `adapter` of other operators and for
`write`. The output `log` has a row for each optimizer step:

- `step`, `epoch`: counted from 1;
- `loss`: before the step's update, over its label tokens;
- `learning_rate`, `grad_norm`: the rate used, and the norm of all gradients before clipping;
- `label_tokens`, `tokens`: of the step's rows;
- `validation_loss`: after the update, over all label tokens of the port `validation`; null where it was not measured.

With rows at `validation` their loss is measured after every epoch, or every `validation-every` steps, and after the last
step. The adapter with the lowest one is kept (`keep=\"best\"`), and with `patience=3` training ends when three measurements
in a row were no better. Rows may not be in both: choosing an adapter by the rows that it was trained on says nothing.

A row longer than `max-prompt-tokens` or `max-response-tokens` goes to quarantine as `too-long`; with
`on-too-long=\"truncate\"` a prompt loses its beginning, a response its end (and then no closing token is a label), a
conversation its end, and the number of such rows is said at the end of the run. Rows without a label go to quarantine as
`no-labels` or `empty-response`, others as `null-value`, `messages` (no list of turns) or `template` (the chat template
refused them).

The adapter's weights carry hashes of the questions that it was trained on or chosen by, so that `evaluate` can refuse to
test it on them.

The adapter depends on rows, seed and settings alone, bit for bit: not on threads, on `micro-batch`, on `checkpointing`, or
on kills in between. A killed run goes on from its last checkpoint (`checkpoint-every`).",
    version: 2,
    inputs: &[
        FROM[0],
        InputSpec {
            name: "validation",
            doc: "rows that are not trained on, to measure the loss on",
            arity: Arity::Optional,
            accepts_skipped: false,
        },
        InputSpec { doc: "an adapter to train further, from `lora-train` or `load-adapter`", ..adapters::PORT },
    ],
    outputs: &[
        OutputSpec { name: "adapter", doc: "one row: the adapter" },
        OutputSpec { name: "log", doc: "one row for each optimizer step" },
    ],
    fields: FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct" dtype="bf16"
load "rows" path="rows.jsonl" { columns { question "string"; response "string" } }
load "held-out" path="held-out.jsonl" { columns { question "string"; response "string" } }
lora-train "tuned" from="rows" validation="held-out" model="student" {
    learning-rate 2e-4
    epochs 2
}
write "adapter" from="tuned" path="adapter.parquet"
write "curve" from="tuned.log" path="curve.csv"
"#,
    build: |fields, diagnostics| Some(Box::new(LoraTrain { settings: Settings::of(fields, diagnostics)? })),
};

#[derive(Debug)]
struct LoraTrain {
    settings: Settings,
}

impl Operator for LoraTrain {
    fn canonical(&self) -> serde_json::Value {
        self.settings.canonical()
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let from = cx.input(FROM[0].name);
        let validation = cx.port("validation").first().copied();
        let texts = [Some(from), validation].into_iter().flatten().map(|input| self.need_texts(cx, input));
        let texts = texts.collect::<Vec<_>>().into_iter().collect::<Option<Vec<()>>>();
        let adapter = adapters::check(cx, Some(&self.settings.model));
        let consistent = self.check(cx, from, validation);
        let model = (cx.models)(&self.settings.model.value)?;
        cx.need_chat_template(model, self.settings.model.span)?;
        texts.and(adapter).and(consistent)?;

        let rows = from.estimate.rows;
        let steps = rows.map(|rows| self.settings.steps(rows as usize));
        let tokens = steps.map(|steps| steps.saturating_mul(self.settings.batch as u64 * TYPICAL_TOKENS));
        let operations = tokens.zip(model.parameters).map(|(t, p)| OPERATIONS * t as f64 * p as f64);
        let estimate =
            Estimate { rows: Some(1), tokens, seconds: operations.map(|o| o / TYPICAL_SPEED), memory: model.memory };
        let outputs = vec![adapters::schema(&model.decl), log::schema()];
        let mut resolved = Resolved::new(outputs, estimate);
        resolved.models = vec![self.settings.model.value.clone()];
        resolved.barrier = true;
        resolved.journalled = true;
        resolved.unit = "steps";
        resolved.seeded = self.settings.seed.is_none();
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        training::run(&self.settings, cx)
    }
}

/// For estimates before rows are read: a school problem with its worked answer.
const TYPICAL_TOKENS: u64 = 256;
/// Floating-point operations for each parameter and token: forward, and backward without gradients of weights.
const OPERATIONS: f64 = 4.0;
/// For estimates: floating-point operations per second of a small machine.
const TYPICAL_SPEED: f64 = 1e11;

impl LoraTrain {
    /// The columns that hold the text of rows.
    fn need_texts(&self, cx: &mut ResolveCx<'_>, input: &InputInfo) -> Option<()> {
        let text = |t: &DataType| super::is_string(t);
        match &self.settings.text {
            Text::Pair { question, response } => {
                let question = cx.need_column(input, &question.value, "string", text, question.span);
                let response = cx.need_column(input, &response.value, "string", text, response.span);
                question.and(response).map(drop)
            }
            Text::Messages(column) => {
                cx.need_column(input, &column.value, "string (JSON)", text, column.span).map(drop)
            }
        }
    }

    /// What the fields and the ports say together.
    fn check(&self, cx: &mut ResolveCx<'_>, from: &InputInfo, validation: Option<&InputInfo>) -> Option<()> {
        let mut errors = Vec::new();
        if validation.is_none() {
            errors.extend(self.settings.about_validation.iter().map(|field| {
                Diagnostic::error("meaningless-field", format!("`{}` needs rows at `validation`", field.value))
                    .at(field.span, "there is nothing to measure")
                    .help("give the node rows that it does not train on: `validation=\"held-out\"`")
            }));
        }
        if !cx.port(adapters::PORT.name).is_empty() {
            errors.extend(self.settings.about_shape.iter().map(|field| {
                Diagnostic::error("meaningless-field", format!("`{}` is that of the adapter at `adapter`", field.value))
                    .at(field.span, "cannot be changed")
                    .help("leave it out, or train a new adapter without `adapter=`")
            }));
        }
        if let Some(validation) = validation.filter(|v| (&v.producer, v.output) == (&from.producer, from.output)) {
            errors.push(
                Diagnostic::error("validation-overlap", format!("`{}` is trained on and validated on", from.producer))
                    .at(validation.span, "the same rows as `from`")
                    .and(from.span, "trained on")
                    .help("give `validation` rows of another split, or divide the rows with `filter` before"),
            );
        }
        let fine = errors.is_empty();
        errors.into_iter().for_each(|error| cx.error(error));
        fine.then_some(())
    }
}

#[cfg(test)]
mod tests;
