//! `initial-prediction`: what the target answers before it is trained.

use super::settings::{INPUTS, ON_TRUNCATED, PROMPT, SAMPLES, SAMPLING, USAGE, WRITER, column, count, joined};
use super::single::{OneCall, trimmed};
use super::{Prompt, Writing};
use crate::diag::Diagnostics;
use crate::ops::{FieldSpec, Fields, OUT, OpSpec, Operator};

pub static SPEC: OpSpec = OpSpec {
    name: "initial-prediction",
    summary: "Has the model that will be trained answer each question, zero-shot",
    doc: "\
Asks the target as it is trained and tested: the question stands alone in the user turn, followed, for `task=\"math\"`, \
`\"ecqa\"` and `\"code\"`, by the request to put the final answer after the marker. Where the question has that request \
in it already, `task=\"free\"` leaves it alone. What comes back is what other operators correct (`min-change`), compare \
with (`edit-distance`) or check (`check-answer`).

The target is a `model` of the pipeline; one that is served elsewhere is a `teacher`. Decoding takes the likeliest token \
unless `temperature` says otherwise; `max-tokens` is 1024 as in the paper.

Adds the column `initial_prediction`, or the one that `column` names, without white space around the text.",
    version: 1,
    inputs: INPUTS,
    outputs: OUT,
    fields: &FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
load "problems" path="problems.jsonl" { columns { question "string"; gold "float" } }
initial-prediction "drafts" from="problems" model="student" task="math"
check-answer "checked" from="drafts" task="math" response="initial_prediction"
write "drafts-file" from="checked" path="drafts.jsonl"
"#,
    build,
};

const PARTS: &[&[FieldSpec]] =
    &[WRITER, &[column("initial_prediction")], PROMPT, SAMPLING, SAMPLES, ON_TRUNCATED, USAGE];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let writing = Writing::read(fields, diagnostics)?;
    Some(Box::new(OneCall { writing, prompt: Prompt::built_in("initial-prediction"), text: trimmed }))
}
