//! `load-adapter`: an adapter from a folder of the peft library.

use super::{FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved, adapters};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::model::AdapterFile;
use crate::model::adapter::{CONFIG_FILE, WEIGHTS_FILE};
use crate::plan::Estimate;
use serde_json::json;
use std::path::PathBuf;

pub static SPEC: OpSpec = OpSpec {
    name: "load-adapter",
    summary: "Reads a LoRA adapter from a folder in the format of the peft library",
    doc: "\
Reads `adapter_config.json` and `adapter_model.safetensors` in the folder `path`, and checks that the adapter fits \
`model`: every tensor of it must have its place there. The output is what `lora-train` gives as well: one row with the \
columns `id`, `adapter_config` and `adapter_weights`, for the port `adapter` of operators that use a model.

LoRA on the linear layers of attention and MLP is supported, with one rank and one alpha (`use_rslora` too). What else \
peft knows is refused by name.",
    version: 2,
    inputs: &[],
    outputs: OUT,
    fields: &[
        FieldSpec::new("path", FieldKind::Path, "the folder with the two files").required(),
        FieldSpec::new("model", FieldKind::Model, "the model that the adapter was trained on").required(),
    ],
    sink: false,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
load "problems" path="problems.jsonl" { columns { question "string"; response "string" } }
load-adapter "trained" path="adapters/gsm8k" model="student"
score-ppl "scored" from="problems" model="student" adapter="trained"
write "scores" from="scored" path="scores.parquet"
"#,
    build,
};

#[derive(Debug)]
struct LoadAdapter {
    path: PathBuf,
    path_span: Span,
    model: Spanned<String>,
}

fn build(fields: &Fields, _: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let path = fields.str("path");
    Some(Box::new(LoadAdapter { path: path.value.into(), path_span: path.span, model: fields.str("model") }))
}

impl Operator for LoadAdapter {
    /// The files themselves and the model are in the fingerprint.
    fn canonical(&self) -> serde_json::Value {
        json!({})
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let model = (cx.models)(&self.model.value)?;
        let files = [CONFIG_FILE, WEIGHTS_FILE].map(|name| self.path.join(name));
        if let Some(file) = files.iter().find(|file| cx.files_must_exist && !file.is_file()) {
            cx.error(
                Diagnostic::error("file-missing", format!("there is no file `{}`", file.display()))
                    .at(self.path_span, "an adapter has two files here")
                    .help("name the folder with `adapter_config.json` and `adapter_model.safetensors`"),
            );
            return None;
        }
        let estimate = Estimate { rows: Some(1), ..Estimate::default() };
        let mut resolved = Resolved::new(vec![adapters::schema(&model.decl)], estimate);
        resolved.files = files.to_vec();
        resolved.models = vec![self.model.value.clone()];
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let file = AdapterFile::read(&self.path)?;
        file.adapter(&cx.model(&self.model.value)?.text()?.config).map_err(|e| e.about(self.path.display()))?;
        cx.emit(0, adapters::batch(&cx.output_schema(0), &file)?)
    }
}

#[cfg(test)]
mod tests {
    use crate::diag::{Diagnostics, Sources, render};

    #[test]
    fn an_adapter_is_used_with_its_own_model_in_any_dtype() {
        let planned = |other: &str| {
            let text = format!(
                r#"
                model "student" dataset="smollm2-135m-instruct" dtype="f32"
                model "other" {other} dtype="bf16"
                load "rows" path="rows.jsonl" {{ columns {{ question "string"; response "string" }} }}
                load-adapter "trained" path="trained" model="student"
                score-ppl "scored" from="rows" model="other" adapter="trained" unused="ok"
                "#
            );
            let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
            let pipeline = crate::config::load_text("adapters.kdl", &text, &[], &mut sources, &mut diagnostics);
            let graph = crate::graph::build(pipeline.unwrap(), &mut diagnostics).unwrap();
            crate::plan::build(graph, &crate::plan::PlanEnv::pure(), &mut diagnostics);
            render(&diagnostics, &sources, false)
        };
        assert_eq!(planned(r#"dataset="smollm2-135m-instruct""#), "");
        insta::assert_snapshot!(planned(r#"hub="some/other""#));
    }
}
