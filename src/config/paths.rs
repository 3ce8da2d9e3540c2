//! A relative path in a file means relative to that file; one on the command line, relative to the working directory.

use super::{ModelSource, Param, Pipeline};
use crate::diag::{Sources, Span, Spanned};
use crate::ops::{FieldKind, FieldSpec, Fields, Value};
use std::path::{Path, PathBuf};

/// How a path is meant, for the help of messages about one that leads nowhere.
pub const RELATIVE: &str =
    "a relative path is relative to the file that writes it; one of `-P`, to the working directory";

/// Anchors every path of a pipeline at the file that wrote it. Paths under the working directory become relative to it,
/// so that messages stay short; what a path is called changes no result.
pub(super) fn anchor(pipeline: &mut Pipeline, sources: &Sources) {
    for node in &mut pipeline.nodes {
        fields(&mut node.fields, node.op.fields, sources);
    }
    for model in pipeline.models.values_mut() {
        if let ModelSource::Path(path) = &mut model.source {
            path.value = PathBuf::from(anchored(&path.value.to_string_lossy(), path.span, sources));
        }
        if let Some(template) = &mut model.chat_template {
            template.value = PathBuf::from(anchored(&template.value.to_string_lossy(), template.span, sources));
        }
    }
}

/// Makes a `path` parameter absolute, so that it keeps its meaning wherever `${name}` puts it.
pub(super) fn anchor_param(param: &mut Param, sources: &Sources) {
    let Value::Str(path) = &mut param.value else { return };
    if param.kind != "path" {
        return;
    }
    let relative = if param.given { path.clone() } else { at_file(path, param.span, sources) };
    if let Ok(absolute) = std::path::absolute(&relative) {
        *path = absolute.to_string_lossy().into_owned();
    }
}

fn fields(fields: &mut Fields, specs: &'static [FieldSpec], sources: &Sources) {
    for spec in specs {
        if let Some(value) = fields.values.get_mut(spec.name) {
            self::value(value, &spec.kind, sources);
        }
    }
}

fn value(value: &mut Spanned<Value>, kind: &FieldKind, sources: &Sources) {
    match (kind, &mut value.value) {
        (FieldKind::Path, Value::Str(path)) => *path = anchored(path, value.span, sources),
        (FieldKind::List(kind), Value::List(items)) => items.iter_mut().for_each(|i| self::value(i, kind, sources)),
        (FieldKind::Map(kind), Value::Map(map)) => map.values_mut().for_each(|(_, v)| self::value(v, kind, sources)),
        (FieldKind::Records(specs), Value::Records(records)) => {
            records.iter_mut().for_each(|r| fields(r, specs, sources));
        }
        _ => {}
    }
}

fn anchored(path: &str, span: Span, sources: &Sources) -> String {
    let path = at_file(path, span, sources);
    let shorter =
        std::env::current_dir().ok().and_then(|here| Some(Path::new(&path).strip_prefix(here).ok()?.to_path_buf()));
    match shorter {
        Some(short) if short.as_os_str().is_empty() => ".".into(),
        Some(short) => short.to_string_lossy().into_owned(),
        None => path,
    }
}

fn at_file(path: &str, span: Span, sources: &Sources) -> String {
    let folder = sources.get(span.source).path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    folder.join(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use crate::diag::{Diagnostics, Sources};

    #[test]
    fn paths_follow_their_file_and_parameters_of_the_command_line_the_working_directory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("p.kdl");
        let text = r#"
            pipeline "p"
            param "data" type="path" default="inside"
            load "a" path="rows.jsonl" unused="ok" { columns { text "string" } }
            load "b" path="${data}/rows.jsonl" unused="ok" { columns { text "string" } }
        "#;
        std::fs::write(&file, text).expect("a writable file");
        let paths = |overrides: &[(String, String)]| {
            let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
            let pipeline = load(&file, overrides, &mut sources, &mut diagnostics).expect("a pipeline");
            assert!(!diagnostics.has_errors(), "{diagnostics:?}");
            pipeline.nodes.iter().map(|n| n.fields.str("path").value).collect::<Vec<_>>()
        };
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        assert_eq!(paths(&[]), [at("rows.jsonl"), at("inside/rows.jsonl")]);
        let given = paths(&[("data".into(), "outside".into())]);
        assert_eq!(given, [at("rows.jsonl"), "outside/rows.jsonl".into()]);
    }
}
