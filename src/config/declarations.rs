//! `pipeline`, `run` and `model`, decoded by the tables of [`language`](super::language).

use super::fields::{Decoder, head_span};
use super::language::{self, NodeSpec};
use super::params::check_name;
use super::reader::NodeReader;
use super::scope::Scope;
use super::{ModelDecl, ModelSource, RunOptions};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::ops::{Fields, Value};
use crate::size;
use crate::syntax::{Node, Scalar};
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
