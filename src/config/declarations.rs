//! `pipeline`, `run`, `model` and `teacher`, decoded by the tables of [`language`](super::language).

use super::fields::{Decoder, head_span};
use super::language::{self, NodeSpec};
use super::params::check_name;
use super::reader::{NodeReader, Written};
use super::scope::Scope;
use super::{ModelDecl, ModelSource, RunOptions, TeacherDecl};
use crate::diag::{Diagnostic, Diagnostics, Sources, Span, Spanned};
use crate::ops::{Fields, Value};
use crate::size;
use crate::syntax::{Entry, Node, Scalar};
use std::path::PathBuf;

/// A node whose name was claimed.
pub(super) struct Declaration<'n> {
    pub name: Spanned<String>,
    pub reader: NodeReader<'n>,
}

/// Claims the name that a node begins with. `None` after an error.
pub(super) fn named<'n>(node: &'n Node, what: &str, diagnostics: &mut Diagnostics) -> Option<Declaration<'n>> {
    let mut reader = NodeReader::new(node);
    let name = reader.argument();
    match name.map(|e| (&e.value.value, e.value.span)) {
        Some((Scalar::Str(name), span)) => {
            let name = Spanned::new(name.clone(), span);
            check_name(what, &name, diagnostics).then_some(Declaration { name, reader })
        }
        found => {
            let (span, label) = match found {
                Some((other, span)) => (span, format!("expected a name in quotes, found {}", other.kind())),
                None => (node.name.span, "expected a name after this".into()),
            };
            diagnostics.push(
                Diagnostic::error("missing-name", format!("`{}` begins with the name of the {what}", node.name.value))
                    .at(span, label)
                    .help(format!("write `{} \"some-name\" ...`", node.name.value)),
            );
            None
        }
    }
}

/// Decodes a node by its spec and reports what it does not know. `None` after an error.
pub(super) fn decode(
    spec: &'static NodeSpec,
    mut reader: NodeReader<'_>,
    scope: &Scope<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Fields> {
    let owner = format!("`{}`", spec.name);
    let head = head_span(reader.node());
    let fields = Decoder { scope, diagnostics, owner: owner.clone() }.fields(spec.fields, &mut reader, head);
    let finished = reader.finish(&owner, diagnostics);
    fields.filter(|_| finished)
}

/// The options of a `run` node.
pub(super) fn run(node: &Node, scope: &Scope<'_>, diagnostics: &mut Diagnostics) -> Option<RunOptions> {
    let fields = decode(&language::RUN, NodeReader::new(node), scope, diagnostics)?;
    let count = |name: &str| usize::try_from(fields.int(name)).unwrap_or(usize::MAX);
    Some(RunOptions {
        batch_rows: count("batch-rows"),
        channel_batches: count("channel-batches"),
        memory: memory(fields.get("memory")?, diagnostics)?,
        stages: count("stages"),
        tolerance: fields.float("tolerance"),
    })
}

fn memory(value: &Spanned<Value>, diagnostics: &mut Diagnostics) -> Option<u64> {
    let bytes = match &value.value {
        Value::Int(bytes) => u64::try_from(*bytes).ok(),
        Value::Str(text) => size::parse(text),
        _ => None,
    };
    let bytes = bytes.filter(|b| *b > 0);
    if bytes.is_none() {
        diagnostics.push(
            Diagnostic::error("bad-size", "`memory` must be a size above zero")
                .at(value.span, "not a size")
                .help("write a number of bytes, or a number with a unit: `\"512MiB\"`, `\"4GiB\"`, `\"1.5GB\"`"),
        );
    }
    bytes
}

/// A `model` node.
pub(super) fn model(
    declaration: Declaration<'_>,
    scope: &Scope<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<ModelDecl> {
    let head = head_span(declaration.reader.node());
    let fields = decode(&language::MODEL, declaration.reader, scope, diagnostics)?;
    let given: Vec<&str> = ["dataset", "hub", "path"].into_iter().filter(|n| fields.get(n).is_some()).collect();
    let path = |v: Spanned<String>| v.map(PathBuf::from);
    let source = match given.as_slice() {
        ["dataset"] => ModelSource::Manifest(fields.str("dataset")),
        ["hub"] => ModelSource::Hub {
            repo: fields.str("hub"),
            revision: fields.opt_str("revision"),
            file: fields.opt_str("file"),
        },
        ["path"] => ModelSource::Path(path(fields.str("path"))),
        several => {
            diagnostics.push(model_source(several, &fields, head));
            return None;
        }
    };
    let mut ok = true;
    for name in ["revision", "file"].into_iter().filter(|n| given != ["hub"] && fields.get(n).is_some()) {
        ok = false;
        diagnostics.push(
            Diagnostic::error("meaningless-field", format!("`{name}` belongs to a model of the hub"))
                .at(fields.span_of(name), "means nothing here")
                .help(format!("drop it, or name the repository with `hub` instead of `{}`", given[0])),
        );
    }
    ok.then(|| ModelDecl {
        name: declaration.name.value,
        source,
        dtype: fields.str("dtype"),
        context: fields.opt_int("context").map(|c| c.map(|c| u32::try_from(c).unwrap_or(u32::MAX))),
        chat_template: fields.opt_str("chat-template").map(path),
        span: declaration.name.span,
    })
}

fn model_source(given: &[&str], fields: &Fields, head: Span) -> Diagnostic {
    let help = "give one of `dataset=\"...\"` (a manifest), `hub=\"org/name\"` and `path=\"model.gguf\"`";
    match given {
        [first, second, ..] => Diagnostic::error("model-source", "a model comes from one place")
            .at(fields.span_of(second), format!("`{second}` is one"))
            .and(fields.span_of(first), format!("`{first}` is another")),
        _ => Diagnostic::error("model-source", "the model does not say where it comes from").at(head, "no source"),
    }
    .help(help)
}

/// A `teacher` node. A key that is written in the file is masked in `sources`, so that no message shows it.
pub(super) fn teacher(
    declaration: Declaration<'_>,
    scope: &Scope<'_>,
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Option<TeacherDecl> {
    let secrets = literal_secrets(&declaration.reader);
    if !secrets.is_empty() {
        for secret in secrets {
            sources.mask(secret);
            diagnostics.push(literal_secret(secret));
        }
        return None;
    }
    let fields = decode(&language::TEACHER, declaration.reader, scope, diagnostics)?;
    let keys = fields.records("api-key");
    if let [_, second, ..] = keys.as_slice() {
        let error = Diagnostic::error("duplicate-field", "`api-key` is given twice");
        diagnostics.push(error.at(second.span, "second here").and(keys[0].span, "first here").help("keep one"));
        return None;
    }
    let api_key_env = keys.first().map(|k| k.str("env"));
    if let Some(name) = api_key_env.as_ref().filter(|n| !is_variable(n)) {
        sources.mask(name.span);
        diagnostics.push(literal_secret(name.span));
        return None;
    }
    Some(TeacherDecl {
        name: declaration.name.value,
        kind: fields.str("kind"),
        model: fields.opt_str("model"),
        base_url: fields.opt_str("base-url"),
        api_key_env,
        span: declaration.name.span,
    })
}

/// Places of `api-key="..."` and `api-key "..."`.
fn literal_secrets(reader: &NodeReader<'_>) -> Vec<Span> {
    let value = |e: &Entry| e.value.span;
    let places = |w: &Written<'_>| match w {
        Written::Property(entry) => vec![value(entry)],
        Written::Child(node) => node.arguments().map(value).collect(),
    };
    reader.written("api-key").iter().flat_map(places).collect()
}

fn literal_secret(span: Span) -> Diagnostic {
    Diagnostic::error("literal-secret", "a key must not stand in a pipeline file")
        .at(span, "a literal key (masked here)")
        .help("write `api-key env=\"OPENAI_API_KEY\"` and set that variable where the pipeline runs")
        .help("if the file was shared, replace the key at its provider")
}

fn is_variable(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}
