//! The header of a template: KDL inside the comment that the file begins with.

use super::error::PromptError;
use super::{Input, InputKind, SETTINGS};
use crate::config::reader::{NodeReader, Written};
use crate::diag::{Diagnostic, Diagnostics, Sources, Span, Spanned};
use crate::ops::list;
use crate::syntax::{self, Entry, Node, Scalar};
use std::path::Path;

const SHAPE: &str =
    "a template begins with `{# prompt \"name\" version=1 { doc \"...\"; input \"question\" \"text\" doc=\"...\" } #}`";

/// What a header says.
#[derive(Debug)]
pub struct Header {
    pub name: String,
    pub version: u32,
    pub doc: String,
    pub tasks: Vec<String>,
    pub inputs: Vec<Declared>,
}

/// An input, and the line of its declaration.
#[derive(Debug)]
pub struct Declared {
    pub input: Input,
    pub line: usize,
}

impl Header {
    pub fn read(path: &Path, text: &str) -> Result<Self, PromptError> {
        let kdl = comment(text).ok_or_else(|| PromptError::new(path, Some(1), "the header is missing").help(SHAPE))?;
        let mut sources = Sources::new();
        let source = sources.add(path.display().to_string(), Some(path), kdl.as_str());
        let mut found = Diagnostics::new();
        let document = syntax::parse(&kdl, source, &mut found);
        let line = |span: Span| sources.line_column(source, span.start).0;
        let header = match document.as_ref().map(|d| d.nodes.as_slice()) {
            Some([node]) if node.name.value == "prompt" && !node.is_broken() => decode(node, &line, &mut found),
            Some(_) if !found.has_errors() => {
                return Err(PromptError::new(path, Some(1), "the header is not one `prompt` node").help(SHAPE));
            }
            _ => None,
        };
        match (found.iter().find(|d| d.is_error()), header) {
            (None, Some(header)) => Ok(header),
            (Some(error), _) => Err(PromptError {
                path: path.to_path_buf(),
                line: error.labels.first().map(|l| line(l.span)).or(Some(1)),
                message: error.message.clone(),
                help: error.help.first().cloned(),
            }),
            (None, None) => Err(PromptError::new(path, Some(1), "the header cannot be read").help(SHAPE)),
        }
    }
}

/// The inside of the first comment, at its place: what stands before it is blanked, so that lines stay.
fn comment(text: &str) -> Option<String> {
    let start = text.find("{#")?;
    if !text[..start].trim_start_matches('\u{FEFF}').trim().is_empty() {
        return None;
    }
    let inside = &text[start + 2..];
    let inside = &inside[..inside.find("#}")?];
    // `{#-` and `-#}` only say what becomes of white space.
    let inside = inside.strip_prefix('-').unwrap_or(inside);
    let inside = inside.strip_suffix('-').unwrap_or(inside);
    let lines = text[..start].matches('\n').count();
    Some(format!("{}{inside}", "\n".repeat(lines)))
}

fn decode(node: &Node, line: &dyn Fn(Span) -> usize, found: &mut Diagnostics) -> Option<Header> {
    let mut reader = NodeReader::new(node);
    let name = match reader.argument() {
        Some(entry) => text(entry, "the template's name", found),
        None => {
            found.push(missing(node.name.span, "the template needs a name"));
            None
        }
    };
    let version = match reader.field("version", found) {
        Some(written) => version(written, found),
        None => {
            found.push(missing(node.name.span, "the template needs `version=1`"));
            None
        }
    };
    let doc = optional(&mut reader, "doc", found);
    let tasks = texts(&mut reader, "tasks", found);
    let mut inputs: Vec<Declared> = Vec::new();
    for child in reader.children("input") {
        let Some((input, span)) = input(child, found) else { continue };
        if let Some(earlier) = inputs.iter().find(|d| d.input.name == input.name) {
            let message = format!("input `{}` is declared twice, here and in line {}", input.name, earlier.line);
            found.push(Diagnostic::error("bad-prompt", message).at(span, "second here"));
        }
        if let Some(task) = input.tasks.iter().find(|t| !tasks.contains(t)) {
            let message = format!("input `{}` is for the task `{task}`, which the template does not name", input.name);
            let help = format!("add it to the header's `tasks`: `tasks \"{task}\"`");
            found.push(Diagnostic::error("bad-prompt", message).at(span, "declared here").help(help));
        }
        inputs.push(Declared { input, line: line(span) });
    }
    reader.finish("a template's header", found);
    Some(Header { name: name?.value, version: version?, doc: doc?, tasks, inputs })
}

fn input(node: &Node, found: &mut Diagnostics) -> Option<(Input, Span)> {
    let mut reader = NodeReader::new(node);
    let (name, kind) = (reader.argument(), reader.argument());
    let (Some(name), Some(kind)) = (name, kind) else {
        found.push(missing(node.name.span, "an input needs a name and a type: `input \"question\" \"text\"`"));
        return None;
    };
    let (name, kind) = (text(name, "the input's name", found)?, text(kind, "the input's type", found)?);
    if !is_variable(&name.value) || SETTINGS.contains(&name.value.as_str()) {
        let why = match SETTINGS.contains(&name.value.as_str()) {
            true => "is always there and is not declared",
            false => "is no name of a variable: letters, digits and `_`, beginning with a letter",
        };
        found.push(Diagnostic::error("bad-prompt", format!("`{}` {why}", name.value)).at(name.span, "here"));
    }
    let kinds = [InputKind::Text, InputKind::Number, InputKind::List, InputKind::Flag];
    let Some(known) = kinds.into_iter().find(|k| k.name() == kind.value) else {
        let message = format!("`{}` is no type of an input", kind.value);
        let help = format!("an input is one of {}", list(InputKind::NAMES));
        found.push(Diagnostic::error("bad-prompt", message).at(kind.span, "unknown").help(help));
        return None;
    };
    let optional = match reader.field("optional", found).and_then(first) {
        None => false,
        Some(entry) => match entry.value.value {
            Scalar::Bool(optional) => optional,
            ref other => {
                found.push(expected("`optional`", "#true or #false", other, entry.value.span));
                false
            }
        },
    };
    let doc = self::optional(&mut reader, "doc", found)?;
    let tasks = texts(&mut reader, "task", found);
    let fields = texts(&mut reader, "fields", found);
    if !fields.is_empty() && known != InputKind::List {
        let message = format!("input `{}` is {}, and only a list has `fields`", name.value, known.name());
        found.push(Diagnostic::error("bad-prompt", message).at(name.span, "declared here"));
    }
    reader.finish(&format!("the input `{}`", name.value), found);
    let span = name.span;
    Some((Input { name: name.value, kind: known, required: !optional, doc, tasks, fields }, span))
}

fn version(written: Written<'_>, found: &mut Diagnostics) -> Option<u32> {
    let entry = first(written)?;
    match entry.value.value {
        Scalar::Int(version @ 1..=0xFFFF_FFFF) => u32::try_from(version).ok(),
        Scalar::Int(other) => {
            let message = format!("`version` is a whole number from 1, found {other}");
            found.push(Diagnostic::error("bad-prompt", message).at(entry.value.span, "found here"));
            None
        }
        ref other => {
            found.push(expected("`version`", "a whole number from 1", other, entry.value.span));
            None
        }
    }
}

/// A text that may be left out, and is empty then. `None` after an error.
fn optional(reader: &mut NodeReader<'_>, name: &'static str, found: &mut Diagnostics) -> Option<String> {
    match reader.field(name, found).and_then(first) {
        None => Some(String::new()),
        Some(entry) => text(entry, &format!("`{name}`"), found).map(|t| t.value),
    }
}

/// One or more texts: `task="ecqa"`, or `task "math" "ecqa"` in the block.
fn texts(reader: &mut NodeReader<'_>, name: &'static str, found: &mut Diagnostics) -> Vec<String> {
    let entries: Vec<&Entry> = match reader.field(name, found) {
        None => Vec::new(),
        Some(Written::Property(entry)) => vec![entry],
        Some(Written::Child(node)) => node.arguments().collect(),
    };
    entries.into_iter().filter_map(|e| text(e, &format!("`{name}`"), found)).map(|t| t.value).collect()
}

fn first(written: Written<'_>) -> Option<&Entry> {
    match written {
        Written::Property(entry) => Some(entry),
        Written::Child(node) => node.arguments().next(),
    }
}

fn text(entry: &Entry, what: &str, found: &mut Diagnostics) -> Option<Spanned<String>> {
    match &entry.value.value {
        Scalar::Str(text) => Some(Spanned::new(text.clone(), entry.value.span)),
        other => {
            found.push(expected(what, "a string", other, entry.value.span));
            None
        }
    }
}

fn expected(what: &str, expected: &str, found: &Scalar, span: Span) -> Diagnostic {
    Diagnostic::error("bad-prompt", format!("{what} is {expected}, found {}", found.kind())).at(span, "found here")
}

fn missing(span: Span, message: &str) -> Diagnostic {
    Diagnostic::error("bad-prompt", message).at(span, "here").help(SHAPE)
}

/// A name as Jinja knows it.
fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
