//! `write-adapter`: an adapter as a folder of the peft library.

use super::write::inside_run;
use super::{Arity, FieldKind, FieldSpec, Fields, InputSpec, OUT, OpSpec, Operator, ResolveCx, Resolved, adapters};
use crate::diag::Diagnostics;
use crate::exec::{NodeCx, RunError};
use crate::model::adapter::{CONFIG_FILE, WEIGHTS_FILE};
use crate::plan::Estimate;
use crate::store::io_error;
use serde_json::json;
use std::path::Path;

pub static SPEC: OpSpec = OpSpec {
    name: "write-adapter",
    summary: "Writes an adapter as a folder in the format of the peft library",
    doc: "\
Writes `adapter_config.json` and `adapter_model.safetensors` into the folder `path` of the run. \
`PeftModel.from_pretrained(model, folder)` loads them in Python, `load-adapter` in another pipeline. The adapter is passed \
on. A whole model with the adapter in its weights is written by `merge-adapter`.",
    version: 1,
    inputs: &[InputSpec {
        doc: "an adapter, from `lora-train` or `load-adapter`",
        arity: Arity::One,
        ..adapters::PORT
    }],
    outputs: OUT,
    fields: &[FieldSpec::new("path", FieldKind::Str, "the folder, relative to the run's folder (`--out`)").required()],
    sink: true,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
load "problems" path="problems.jsonl" { columns { question "string"; response "string" } }
lora-train "trained" from="problems" model="student"
write-adapter "kept" adapter="trained" path="adapters/problems"
"#,
    build,
};

#[derive(Debug)]
struct WriteAdapter {
    path: String,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let path = fields.str("path");
    inside_run(&path, "folder", diagnostics).then(|| Box::new(WriteAdapter { path: path.value }) as Box<dyn Operator>)
}

impl Operator for WriteAdapter {
    fn canonical(&self) -> serde_json::Value {
        json!({ "path": self.path })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input(adapters::PORT.name);
        let schema = adapters::need(cx, input)?;
        let estimate = Estimate { rows: Some(1), ..Estimate::default() };
        let mut resolved = Resolved::new(vec![schema], estimate);
        resolved.files_out = vec![self.path.clone()];
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let adapter = adapters::read(cx, 0)?;
        for (name, content) in [(CONFIG_FILE, adapter.config.as_bytes()), (WEIGHTS_FILE, &adapter.weights)] {
            let path = cx.file(&Path::new(&self.path).join(name).to_string_lossy())?;
            std::fs::write(&path, content).map_err(|e| io_error("write", &path, &e))?;
        }
        cx.emit(0, adapters::batch(&cx.output_schema(0), &adapter)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AdapterFile;
    use crate::ops::rows::id_field;
    use crate::ops::testing_node::{given, lines, refusal, rows, run};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    #[test]
    fn the_files_are_written_and_the_adapter_is_passed_on() {
        let file = AdapterFile { config: "{\"r\": 8}".into(), weights: vec![1, 2, 3] };
        let weights = Field::new(adapters::WEIGHTS, DataType::LargeBinary, false);
        let columns = vec![id_field(), Field::new(adapters::CONFIG, DataType::Utf8, false), weights];
        let adapter = adapters::batch(&Arc::new(Schema::new(columns)), &file).unwrap();
        let ran =
            run("write-adapter \"w\" adapter=\"x\" path=\"kept/it\"", &[given("adapter", "x", adapter.clone())], 1);
        assert_eq!(AdapterFile::read(&ran.host.folder.path().join("kept/it")).unwrap(), file);
        assert_eq!(lines(&ran.rows[0]), lines(&adapter));
    }

    #[test]
    fn rows_and_places_outside_are_refused() {
        let refused = |path: &str| {
            let given = [given("adapter", "x", rows(r#"[{"id": "a", "text": "b"}]"#))];
            refusal(&format!("write-adapter \"w\" adapter=\"x\" path={path:?}"), &given)
        };
        assert!(refused("kept").contains("not-an-adapter"), "{}", refused("kept"));
        assert!(refused("../kept").contains("path-outside"), "{}", refused("../kept"));
    }
}
