//! `extract-code`: the code of a response, as a response.

use super::settings::{FROM_WITH_ADAPTER, ON_TRUNCATED, PROMPT, SAMPLING, USAGE, WRITER, column, count, empty, joined};
use super::single::OneCall;
use super::{Prompt, Writing};
use crate::diag::Diagnostics;
use crate::eval::code::text_of;
use crate::ops::{FieldSpec, Fields, OUT, OpSpec, Operator};
use crate::teacher::Failure;

pub static SPEC: OpSpec = OpSpec {
    name: "extract-code",
    summary: "Has a teacher copy the code out of each response, never corrected",
    doc: "\
For sets whose answers are programs (MBPP, HumanEval): a second call copies the code and its comments out of a response, \
as they stand, mistakes included, without tests and examples of use. The column `extracted_code`, or the one that \
`column` names, gets the marker, a line break and the code: the response that a model is trained on.

Fences that a teacher puts around code all the same are taken off: where there are fenced blocks, they are the code (of those that say \
what they are the ones in Python), and the text between them is not. Another column than `response` is read with `inputs { response \"...\" }`.

Rows go to quarantine as `empty-answer` where no code comes back, and otherwise as those of `teacher-generate`.",
    version: 2,
    inputs: FROM_WITH_ADAPTER,
    outputs: OUT,
    fields: &FIELDS,
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
teacher "local" kind="local" model="student"
load "tasks" path="tasks.jsonl" { columns { question "string" } }
teacher-generate "answers" from="tasks" teacher="local" style="answer-directly" task="code"
extract-code "code" from="answers" teacher="local"
write "code-file" from="code" path="code.jsonl"
"#,
    build,
};

const PARTS: &[&[FieldSpec]] = &[WRITER, &[column("extracted_code")], PROMPT, SAMPLING, ON_TRUNCATED, USAGE];
const FIELDS: [FieldSpec; count(PARTS)] = joined(PARTS);

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let writing = Writing::read(fields, diagnostics)?;
    Some(Box::new(OneCall { writing, prompt: Prompt::built_in("extract-code"), text: marked }))
}

/// The marker and the code of an answer.
fn marked(writing: &Writing, text: &str) -> Result<String, Failure> {
    let code = text_of(text);
    if code.trim().is_empty() {
        return Err(empty());
    }
    Ok(format!("{}\n{code}", writing.marker))
}
