//! `evaluate`: what a model makes of a task.
//!
//! ```text
//! row --prompt--> n answers (journalled by the driver) --judge--> n rows of `out`, one of `questions`
//! ```

pub(super) mod asked;
mod choices;
mod generate;
mod judge;
mod overlap;
mod pass;
mod run;
mod scorer;

use super::code::CODE;
use super::writing::settings::{INPUTS, SAMPLES, SAMPLING, WRITER, column, count, joined};
use super::{FieldKind, FieldSpec, Fields, OpSpec, Operator, OutputSpec};
use crate::diag::Diagnostics;
use asked::OVERRIDES;

pub static SPEC: OpSpec = OpSpec {
    name: "evaluate",
    summary: "Has a model answer the questions of a task, and judges its answers",
    doc: DOC,
    version: 2,
    inputs: INPUTS,
    outputs: &[
        OutputSpec { name: "out", doc: "a row for each answer" },
        OutputSpec { name: "questions", doc: "a row for each question: how many of its answers are right" },
    ],
    fields: &FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
load "test" dataset="gsm8k" split="test" limit=200
evaluate "tested" from="test" model="student" task="gsm8k"
summarize "accuracy" from="tested" {
    value "n" fn="count"
    value "accuracy" fn="mean" column="correct"
}
table "result" from="accuracy"
write "answers" from="tested" path="answers.jsonl"
"#,
    build,
};

const DOC: &str = "\
Asks a model, with or without an adapter, or a teacher, every question of a task, reads the answers and says which are \
right. What is asked, how an answer is read and when it is right is what the `task` says: one that comes with the program \
(`gsm8k`, `math-algebra`, `ecqa`, ...) or one that the pipeline declares; `docs/evaluation.md` lists and explains them.

The prompt is the one that a model is trained with: the question, and below it the task's request for the final answer \
behind the marker, unless the question has that in it already. `request` puts another one in its place, for models that \
were trained with other words. With `examples` each of them is a turn of its own before the question, its answer in the \
column `response`.

Decoding takes the likeliest token unless `temperature` says otherwise. With more than one sample each answer is a row with \
the id `<id>#<k>`. An answer that is cut off at `max-tokens` or empty is judged like any other: see `finish`.

Adds to `out` the columns

- `output`, or the one that `column` names: what the model wrote;
- `asked`: the prompt; of a conversation of several turns their JSON;
- `sample`: the number of the answer, from 0; `output_tokens`; `finish`: `stop`, or `length` where it was cut off;
- `extracted`: the answer that was read; null where none can be read;
- `correct`: whether it is right; `reason`: why it is not, as in `check-answer`;
- of programs `detail`: more on the reason; where the task measures it, `rouge_l` and `rouge_l_difference`.

Of a multiple choice `output` and `extracted` are the likeliest choice, and in place of `sample`, `output_tokens` and \
`finish` there are `log_likelihoods` (a JSON list, one of each choice), `correct_norm` (whether the choice is right that is \
likeliest for its length) and `mc2` (the right choices' share of the probability).

`questions` has the input's columns and `n` (answers), `c` (right ones) and for each `k` `pass_at_<k>`: the unbiased \
estimate of the chance that one of k answers is right, 1 - C(n-c, k) / C(n, k). Its mean over questions is pass@k.

Rows go to quarantine as `null-value`, `gold-unreadable`, `no-tests`, `no-choices` (nothing can be said about an answer to \
them), `template` (the prompt cannot be made), `too-long`, or for the reason of a teacher that refused one of their \
samples.

A question that the adapter was trained on tests nothing. Adapters of `lora-train`, and models that they were merged into, \
carry hashes of what they learned; where a question of `from` is among them, the node fails before it asks anything \
(`training-overlap`). With `on-overlap=\"quarantine\"` such questions are set aside as `trained-on`, with `\"keep\"` they are \
asked, and both ways their number is said at the end of the run. `docs/evaluation.md` says what counts as the same question.

Answers are journalled one by one: an evaluation that was killed goes on, and one with more samples draws the \
new ones only.";

const OWN: &[FieldSpec] = &[
    FieldSpec::new("gold", FieldKind::Column, "the column of right answers, in place of the task's"),
    FieldSpec::new(
        "format",
        FieldKind::Choice(&["chat", "text"]),
        "whether the prompt goes into the model's chat template or to the model as it is, in place of the task's",
    ),
    FieldSpec::new(
        "k",
        FieldKind::List(&FieldKind::Int { min: 1, max: 1000 }),
        "for which k `questions` says pass@k; 1 if not given",
    ),
    FieldSpec::new(
        "seed",
        FieldKind::Int { min: 0, max: i64::MAX },
        "fixes what is drawn, in place of the pipeline's seed and the node's name",
    ),
    FieldSpec::new("system", FieldKind::Str, "the text of a system turn before the prompt"),
    overlap::ON_OVERLAP,
    FieldSpec::new(
        "max-tokens",
        FieldKind::Int { min: 1, max: 1 << 20 },
        "the most tokens of an answer; the task's if not given",
    ),
];

/// All but `max-tokens`, whose default is the task's.
const DRAWING: &[FieldSpec] = &[SAMPLING[0], SAMPLING[1], SAMPLING[2], SAMPLING[4]];

const PARTS: &[&[FieldSpec]] = &[WRITER, OVERRIDES, OWN, DRAWING, SAMPLES, &[column("output")], CODE];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    run::Evaluate::build(fields, diagnostics).map(|op| Box::new(op) as Box<dyn Operator>)
}

#[cfg(test)]
mod tests;
