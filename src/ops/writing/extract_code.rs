//! `extract-code`: the code of a response, as a response.

use super::settings::{FROM_WITH_ADAPTER, ON_TRUNCATED, PROMPT, SAMPLING, USAGE, WRITER, column, count, empty, joined};
use super::single::OneCall;
use super::{Prompt, Writing};
use crate::diag::Diagnostics;
use crate::ops::{FieldSpec, Fields, OUT, OpSpec, Operator};
use crate::teacher::Failure;

pub static SPEC: OpSpec = OpSpec {
    name: "extract-code",
    summary: "Has a teacher copy the code out of each response, never corrected",
    doc: "\
For sets whose answers are programs (MBPP, HumanEval): a second call copies the code and its comments out of a response, \
as they stand, mistakes included, without tests and examples of use. The column `extracted_code`, or the one that \
`column` names, gets the marker, a line break and the code: the response that a model is trained on.

Fences that a teacher puts around code all the same are taken off: where there are fenced blocks, they are the code and \
the text between them is not. Another column than `response` is read with `inputs { response \"...\" }`.

Rows go to quarantine as `empty-answer` where no code comes back, and otherwise as those of `teacher-generate`.",
    version: 1,
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
    let code = code(text);
    if code.trim().is_empty() {
        return Err(empty());
    }
    Ok(format!("{}\n{code}", writing.marker))
}

/// The code of an answer: what its fences hold, or all of it. The first line's indentation is kept.
pub fn code(text: &str) -> String {
    let fenced = fenced(text);
    let code = if fenced.is_empty() { text.to_string() } else { fenced.join("\n\n") };
    let lines: Vec<&str> = code.lines().collect();
    let first = lines.iter().position(|l| !l.trim().is_empty()).unwrap_or(lines.len());
    lines[first..].join("\n").trim_end().to_string()
}

/// The contents of fenced blocks; of one that is not closed what follows its fence.
fn fenced(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut open: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        let start = line.trim_start();
        let fence = ["```", "~~~"].into_iter().find(|f| start.starts_with(f));
        match (&mut open, fence) {
            (Some((opened, lines)), Some(fence)) if *opened == fence && start.trim_end() == fence => {
                blocks.push(lines.join("\n"));
                open = None;
            }
            (Some((_, lines)), _) => lines.push(line),
            (None, Some(fence)) => open = Some((fence, Vec::new())),
            (None, None) => {}
        }
    }
    blocks.extend(open.map(|(_, lines)| lines.join("\n")));
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_are_taken_off_and_indentation_is_kept() {
        let cases = [
            ("def f():\n    return 1\n", "def f():\n    return 1"),
            ("\n\n    return 1\n", "    return 1"),
            ("```python\ndef f():\n    pass\n```", "def f():\n    pass"),
            ("Here it is:\n\n```\nimport re\n```\nand\n~~~py\nx = '```'\n~~~\nDone.", "import re\n\nx = '```'"),
            ("```python\ndef f():\n    pass", "def f():\n    pass"),
            ("```\n```", ""),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(code(text), expected, "{text:?}");
        }
    }
}
