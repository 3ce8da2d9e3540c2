//! `docs/operators.md`, and an operator as `op show` prints it.

use crate::config::expected;
use crate::config::language::{COMMON, DOC, LANGUAGE};
use crate::ops::{Arity, Default, FieldKind, FieldSpec, InputSpec, OpSpec, REGISTRY};
use crate::prompt::{self, Input, Template};
use std::fmt::Write;

const HEAD: &str = "\
# Operators

Made from the operators' own descriptions by `idiolect docs --write`; `idiolect op show NAME` prints one of them. How
nodes, references and sweeps are written is told in [the language](language.md).

";

/// The page of all operators and of the language's own nodes.
pub fn page() -> String {
    let mut out = HEAD.to_string();
    out += "| operator | what it does |\n|---|---|\n";
    for op in REGISTRY {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "| [`{0}`](#{0}) | {1} |", op.name, op.summary);
    }
    out += "\nEvery operator also takes:\n\n";
    fields_table(&mut out, COMMON.iter().chain(DOC));
    for op in REGISTRY {
        let _ = write!(out, "\n{}", operator(op));
    }
    out += "\n# Other nodes\n";
    for node in LANGUAGE {
        let _ = write!(out, "\n## {}\n\n{}.\n\n{}\n", node.name, node.summary, node.doc.trim());
        if let Some(argument) = node.argument {
            let _ = writeln!(out, "\nIts argument is {argument}.");
        }
        if !node.fields.is_empty() {
            out.push('\n');
            fields_table(&mut out, node.fields.iter());
        }
        // An excerpt and not a whole pipeline, so it is not fenced as one.
        let _ = write!(out, "\n```text\n{}\n```\n", node.example.trim());
    }
    out
}

/// One operator, as Markdown.
pub fn operator(op: &OpSpec) -> String {
    let mut out = format!("## {}\n\n{}.\n\n{}\n", op.name, op.summary, op.doc.trim());
    if !op.inputs.is_empty() {
        out += "\n| input | takes | |\n|---|---|---|\n";
        for input in op.inputs {
            let _ = writeln!(out, "| `{}` | {} | {} |", input.name, arity(input), cell(input.doc));
        }
    }
    if !op.outputs.is_empty() {
        out += "\n| output | |\n|---|---|\n";
        for output in op.outputs {
            let _ = writeln!(out, "| `{}` | {} |", output.name, cell(output.doc));
        }
    }
    if !op.fields.is_empty() {
        out.push('\n');
        fields_table(&mut out, op.fields.iter());
    }
    templates(&mut out, op.name);
    let _ = write!(out, "\n```kdl\n{}\n```\n", op.example.trim());
    out
}

/// The templates that an operator writes its prompts with.
fn templates(out: &mut String, operator: &str) {
    for (at, template) in prompt::used_by(operator).enumerate() {
        if at == 0 {
            *out += "\n| prompt | version | | inputs |\n|---|---|---|---|\n";
        }
        let inputs: Vec<String> = template.inputs.iter().map(input).collect();
        let (name, doc) = (&template.name, cell(&template.doc));
        let _ = writeln!(out, "| `{name}` | {} | {doc} | {} |", template.version, cell(&inputs.join(", ")));
    }
}

/// An input of a template: its name, and when it is needed.
fn input(input: &Input) -> String {
    let tasks: Vec<String> = input.tasks.iter().map(|t| format!("`{t}`")).collect();
    let when = match (tasks.is_empty(), input.required) {
        (true, true) => String::new(),
        (true, false) => " (optional)".into(),
        (false, true) => format!(" ({})", tasks.join(", ")),
        (false, false) => format!(" (optional, {})", tasks.join(", ")),
    };
    format!("`{}`{when}", input.name)
}

/// The texts of an operator's templates, as Markdown.
pub fn template_texts(operator: &str) -> String {
    let text =
        |t: &Template| format!("\n### {} (version {})\n\n````jinja\n{}\n````\n", t.name, t.version, t.text().trim());
    prompt::used_by(operator).map(text).collect()
}

fn arity(input: &InputSpec) -> &'static str {
    match input.arity {
        Arity::One => "one node",
        Arity::Optional => "one node or none",
        Arity::Many => "one node or more",
    }
}

fn fields_table<'a>(out: &mut String, fields: impl Iterator<Item = &'a FieldSpec>) {
    *out += "| field | type | default | |\n|---|---|---|---|\n";
    for field in fields {
        row(out, "", field);
    }
}

/// A field, and those of its records below it.
fn row(out: &mut String, prefix: &str, field: &FieldSpec) {
    let name = if field.positional { format!("{prefix}<{}>", field.name) } else { format!("{prefix}{}", field.name) };
    let _ = writeln!(out, "| `{name}` | {} | {} | {} |", cell(&type_of(&field.kind)), default(field), cell(field.doc));
    if let FieldKind::Records(inner) = field.kind {
        for field in inner {
            row(out, &format!("{name} "), field);
        }
    }
}

fn type_of(kind: &FieldKind) -> String {
    match kind {
        FieldKind::Records(_) => "child nodes, as often as needed".into(),
        other => expected(other),
    }
}

fn default(field: &FieldSpec) -> String {
    match field.default {
        Default::None if field.required => "required".into(),
        Default::None => String::new(),
        Default::Str(s) => format!("`\"{s}\"`"),
        Default::Int(i) => format!("`{i}`"),
        Default::Float(f) => format!("`{f:?}`"),
        Default::Bool(b) => format!("`#{b}`"),
    }
}

/// Text for one cell of a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}
