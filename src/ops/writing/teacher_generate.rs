//! `teacher-generate`: responses by a teacher, in the styles of the method or by a prompt of one's own.

use super::settings::{INPUTS, ON_TRUNCATED, PROMPT, SAMPLES, SAMPLING, USAGE, WRITER, column, count, joined};
use super::single::{OneCall, trimmed};
use super::{Prompt, Writing};
use crate::diag::{Diagnostic, Diagnostics};
use crate::ops::{FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, list};
use std::path::PathBuf;

pub static SPEC: OpSpec = OpSpec {
    name: "teacher-generate",
    summary: "Has a teacher write a response to each row, in a style of the method or by a prompt of one's own",
    doc: "\
`style` takes one of the prompts that come with the program, for the responses that \"I Learn Better If You Speak My \
Language\" compares. What each of them sees and demands:

- `answer-directly`: the question (for `ecqa` also the right option, never the rationale); reasoning first, then the \
marker and the answer, no preamble;
- `step-by-step`: the same in explicit, detailed steps;
- `rewrite-groundtruth`: the question, the human rationale (`groundtruth`) and the right answer (`gold`); the rationale \
in the teacher's own words with its logic kept, as if it had not been seen;
- `step-by-step-transform`: the same inputs; the rationale brought into steps, its words and style kept as far as they go;
- `detailed-step-by-step-transform`: the same, with the detail added that is missing in each step.

`prompt` names a template of one's own instead: a Jinja file that declares its inputs, shown in `docs/prompts.md`. \
`task` tells a template which kind of question it is for; `idiolect op show teacher-generate` shows the texts.

Each input of a template is read from the column of its name, or the one that `inputs` names, and is checked when the \
pipeline is planned. With `examples`, rows of another node stand before the row as few-shot examples: as the template's \
own input `examples` where it has one, otherwise as turns, each the template filled with the example's columns and \
answered by its `response`.

Adds the column `response`, or the one that `column` names, without white space around the text. With `samples` above 1 \
a row becomes as many, with the ids `<id>#0`, `<id>#1`, ... and their number in `sample`.

A row's text depends on what is asked of whom, on the pipeline's seed and the node's name (unless decoding is greedy), \
and on nothing else. Answers are journalled before they are used: none is asked for twice, also after a crash, with more \
rows, or in another node with the same seed.

Rows go to quarantine as `null-value`, `empty-answer`, `truncated` (cut off at `max-tokens`; `on-truncated=\"keep\"` keeps \
the text), `too-long` (the prompt does not fit), `template`, or as the teacher says why it would not answer.",
    version: 1,
    inputs: INPUTS,
    outputs: OUT,
    fields: &FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
teacher "local" kind="local" model="student"
load "problems" path="problems.jsonl" { columns { problem "string"; solution "string"; gold "float" } }
teacher-generate "direct" from="problems" teacher="local" style="answer-directly" task="math" {
    inputs { question "problem" }
    temperature 0.7
    samples 4
}
teacher-generate "rewritten" from="problems" teacher="local" style="rewrite-groundtruth" task="math" {
    inputs { question "problem"; groundtruth "solution" }
}
write "direct-file" from="direct" path="direct.jsonl"
write "rewritten-file" from="rewritten" path="rewritten.jsonl"
"#,
    build,
};

const STYLES: &[&str] = &[
    "answer-directly",
    "rewrite-groundtruth",
    "step-by-step",
    "step-by-step-transform",
    "detailed-step-by-step-transform",
];

const WHAT: &[FieldSpec] = &[
    FieldSpec::new("style", FieldKind::Choice(STYLES), "the prompt: one of those that come with the program"),
    FieldSpec::new("prompt", FieldKind::Path, "the prompt: a template file of one's own"),
];

const PARTS: &[&[FieldSpec]] = &[WRITER, WHAT, &[column("response")], PROMPT, SAMPLING, SAMPLES, ON_TRUNCATED, USAGE];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let writing = Writing::read(fields, diagnostics);
    let prompt = match (fields.opt_str("style"), fields.opt_str("prompt")) {
        (Some(style), None) => Prompt::built_in(&style.value),
        (None, Some(path)) => Prompt::of_file(path.map(PathBuf::from)),
        (Some(style), Some(path)) => {
            let error = Diagnostic::error("two-prompts", "`style` and `prompt` both name a prompt");
            diagnostics.push(error.at(path.span, "one").and(style.span, "another").help("keep one of them"));
            return None;
        }
        (None, None) => {
            diagnostics.push(
                Diagnostic::error("missing-field", "nothing says what the teacher is asked")
                    .at(fields.span, "has neither `style` nor `prompt`")
                    .help(format!("`style` is one of {}; `prompt` names a template file of your own", list(STYLES))),
            );
            return None;
        }
    };
    Some(Box::new(OneCall { writing: writing?, prompt, text: trimmed }))
}
