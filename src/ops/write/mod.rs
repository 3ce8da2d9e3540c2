//! `write`: rows as a file for the user.

mod formats;

use super::rows::{Slabs, arrow_failed, batches};
use super::{FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use formats::{FORMATS, Form, RowWriter};
use serde_json::json;
use std::path::{Component, Path};

pub static SPEC: OpSpec = OpSpec {
    name: "write",
    summary: "Writes rows to a Parquet, JSONL, JSON, CSV or Arrow file",
    doc: "\
Writes the rows to `path` in the run's folder, in the format of its extension: `.parquet`, `.jsonl`, `.json` (an array),
`.csv`, `.arrow` (Arrow IPC). A further `.gz` or `.zst` compresses the text formats; Parquet is compressed inside. The
file appears when it is complete, never in part, and its bytes depend on the rows alone. The rows are passed on.

JSON has nulls written out. CSV has an empty field for null and lists as JSON.",
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &[
        FieldSpec::new("path", FieldKind::Str, "the file, relative to the run's folder (`--out`)").required(),
        FieldSpec::new("format", FieldKind::Choice(FORMATS), "the format, where the extension does not tell"),
    ],
    sink: true,
    example: r#"
load "problems" path="problems.jsonl" { columns { question "string" } }
write "copy" from="problems" path="data/problems.csv.gz"
"#,
    build,
};

/// What is written at once: a row group of Parquet, a batch of Arrow.
const SLAB_ROWS: usize = 16_384;
const SLAB_BYTES: u64 = 16 << 20;

#[derive(Debug)]
struct Write {
    path: String,
    form: Form,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let path = fields.str("path");
    let inside = inside_run(&path, "file", diagnostics);
    let form = match Form::new(&path, fields.opt_str("format").map(|f| f.value).as_deref()) {
        Ok(form) => Some(form),
        Err(problem) => {
            let help =
                format!("end it in one of {}, or say format=\"jsonl\"", FORMATS.map(|f| format!(".{f}")).join(", "));
            diagnostics.push(Diagnostic::error("unknown-format", problem).at(path.span, "names the file").help(help));
            None
        }
    };
    let form = form.filter(|_| inside)?;
    Some(Box::new(Write { path: path.value, form }))
}

/// Whether a path names a `file` or a `folder` inside the run's folder.
pub fn inside_run(path: &Spanned<String>, what: &str, diagnostics: &mut Diagnostics) -> bool {
    let normal = |c: Component| matches!(c, Component::Normal(_) | Component::CurDir);
    let named = !path.is_empty() && (what == "folder" || !path.ends_with('/'));
    let inside = named && Path::new(&path.value).components().all(normal);
    if !inside {
        diagnostics.push(
            Diagnostic::error("path-outside", format!("`{}` is no {what} inside the run's folder", path.value))
                .at(path.span, "must be a relative path without `..`")
                .help("`idiolect run --out DIR` says where the run's folder is"),
        );
    }
    inside
}

impl Operator for Write {
    fn canonical(&self) -> serde_json::Value {
        json!({ "path": self.path, "format": self.form.name() })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let estimate = Estimate { rows: input.estimate.rows, ..Estimate::default() };
        let mut resolved = Resolved::new(vec![input.schema.clone()], estimate);
        resolved.files_out = vec![self.path.clone()];
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let schema = cx.output_schema(0);
        let mut writer = RowWriter::create(&cx.file(&self.path)?, self.form, &schema)?;
        let mut slabs = Slabs::new(schema, SLAB_ROWS, SLAB_BYTES);
        for batch in batches(cx, 0)? {
            let batch = batch?;
            for slab in slabs.push(&batch).map_err(arrow_failed)? {
                writer.write(&slab)?;
            }
            cx.emit(0, batch)?;
        }
        if let Some(slab) = slabs.finish().map_err(arrow_failed)? {
            writer.write(&slab)?;
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::RunOptions;
    use crate::ops::testing_node::{Given, Node, given, lines, refusal, rows};
    use proptest::prelude::*;

    const ROWS: &str = r#"[{"id":"a","t":"x, \"y\"\nz","n":1,"f":0.1,"b":true,"l":["p",null]},{"id":"b","t":null,"n":null,"f":null,"b":null,"l":null}]"#;

    fn input() -> Vec<Given> {
        vec![given("from", "x", rows(ROWS))]
    }

    fn written(path: &str, input: &[Given], batch: usize) -> (Vec<u8>, String) {
        let ran = Node::new(&format!("write \"w\" from=\"x\" path={path:?}"), input).unwrap().run(batch).unwrap();
        (std::fs::read(ran.host.folder.path().join(path)).unwrap(), lines(&ran.rows[0]))
    }

    #[test]
    fn rows_are_written_and_passed_on() {
        let (bytes, passed) = written("w.jsonl", &input(), 1);
        assert_eq!(String::from_utf8(bytes).unwrap(), passed);
        assert_eq!(passed, lines(&rows(ROWS)));
        insta::assert_snapshot!(String::from_utf8(written("w.json", &input(), 1).0).unwrap(), @r#"
        [
        {"id":"a","t":"x, \"y\"\nz","n":1,"f":0.1,"b":true,"l":["p",null]},
        {"id":"b","t":null,"n":null,"f":null,"b":null,"l":null}
        ]
        "#);
        insta::assert_snapshot!(String::from_utf8(written("w.csv", &input(), 1).0).unwrap(), @r#"
        id,t,n,f,b,l
        a,"x, ""y""
        z",1,0.1,true,"[""p"",null]"
        b,,,,,
        "#);
    }

    #[test]
    fn what_is_written_loads_again() {
        for name in ["w.parquet", "w.arrow", "w.jsonl", "w.json", "w.jsonl.gz", "w.json.zst", "deep/er/w.parquet"] {
            let (bytes, _) = written(name, &input(), 1);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name.rsplit('/').next().unwrap());
            std::fs::write(&path, bytes).unwrap();
            let again = Node::new(&format!("load \"x\" path={path:?}"), &[]).unwrap().run(10).unwrap();
            assert_eq!(lines(&again.rows[0]), lines(&rows(ROWS)), "{name}");
        }
        let (bytes, _) = written("w.csv.gz", &input(), 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.csv.gz");
        std::fs::write(&path, bytes).unwrap();
        let again = Node::new(&format!("load \"x\" path={path:?} {{ columns {{ l \"list?\" }} }}"), &[]).unwrap();
        assert_eq!(lines(&again.run(10).unwrap().rows[0]), lines(&rows(ROWS)));
    }

    #[test]
    fn a_file_without_rows_has_its_columns() {
        let none = vec![given("from", "x", rows(ROWS).slice(0, 0))];
        assert_eq!(written("w.jsonl", &none, 1).0, b"");
        assert_eq!(written("w.json", &none, 1).0, b"[]\n");
        assert_eq!(written("w.csv", &none, 1).0, b"id,t,n,f,b,l\n");
        assert!(written("w.parquet", &none, 1).0.len() > 8);
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        let refused = |path: &str| refusal(&format!("write \"w\" from=\"x\" path={path:?}"), &input());
        insta::assert_snapshot!(refused("../w.jsonl"), @"
        error [path-outside]: `../w.jsonl` is no file inside the run's folder
          at: must be a relative path without `..`
          help: `idiolect run --out DIR` says where the run's folder is
        ");
        insta::assert_snapshot!(refused("/etc/w"), @r#"
        error [path-outside]: `/etc/w` is no file inside the run's folder
          at: must be a relative path without `..`
          help: `idiolect run --out DIR` says where the run's folder is
        error [unknown-format]: the extension of `/etc/w` names no format
          at: names the file
          help: end it in one of .parquet, .jsonl, .json, .csv, .arrow, or say format="jsonl"
        "#);
        insta::assert_snapshot!(refused("w.parquet.gz"), @r#"
        error [unknown-format]: `w.parquet.gz` would be compressed twice: Parquet and Arrow files are compressed inside
          at: names the file
          help: end it in one of .parquet, .jsonl, .json, .csv, .arrow, or say format="jsonl"
        "#);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn bytes_do_not_depend_on_batches(texts in prop::collection::vec(any::<Option<String>>(), 1..60), batch in 1usize..20) {
            let json: serde_json::Value = texts.iter().enumerate().map(|(i, t)| serde_json::json!({"id": i.to_string(), "t": t, "n": i})).collect();
            let input = vec![given("from", "x", rows(&json.to_string()))];
            for name in ["w.parquet", "w.arrow", "w.jsonl", "w.json.gz", "w.csv.zst"] {
                prop_assert_eq!(written(name, &input, batch), written(name, &input, RunOptions::default().batch_rows));
            }
        }
    }
}
