//! `merge-adapter`: a model with an adapter's updates in its weights, as a folder.

use super::adapters;
use super::rows::{arrow_failed, id_field};
use super::trained_on::TrainedOn;
use super::write::inside_run;
use super::{Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::model::adapter::merge::{self, Stored};
use crate::plan::Estimate;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::json;
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "merge-adapter",
    summary: "Writes a model with an adapter merged into its weights, in the layout of the Hugging Face hub",
    doc: "\
Adds an adapter's updates to the weights of its model, `W + alpha / rank * B A`, and writes the whole model into the \
folder `path` of the run: `model.safetensors`, `config.json`, the tokenizer and the chat template. Other programs load \
the folder as they load a model of the hub, converters to GGUF included; here it is `model \"merged\" path=\"...\"`.

The base is read as it is stored, whatever `dtype` its declaration has: of a quantised GGUF file every weight is turned \
into a float first, so the merged model is larger than the file. Sums are made in float64 and rounded once, to `dtype`: \
with `f32` the merged model gives the numbers of model and adapter up to rounding, with `bf16` and `f16` it is half as \
large and the small updates lose digits.

The weights say what the adapter was trained on, where that is known: `evaluate` compares its questions with them.

Weights are read, changed and written tensor by tensor, so that memory does not grow with the model. The output is a \
row: `id`, `path`, `dtype`, `parameters` and `bytes` of the weights.",
    version: 3,
    inputs: &[InputSpec { arity: Arity::One, ..adapters::PORT }],
    outputs: OUT,
    fields: &[
        FieldSpec::new("model", FieldKind::Model, "the model that the adapter was trained on").required(),
        FieldSpec::new("path", FieldKind::Str, "the folder, relative to the run's folder (`--out`)").required(),
        FieldSpec::new("dtype", FieldKind::Choice(Stored::NAMES), "the number format of the weights")
            .default(Default::Str("f32")),
    ],
    sink: true,
    example: r#"
model "student" dataset="smollm2-135m-instruct"
load-adapter "trained" path="adapters/gsm8k" model="student"
merge-adapter "merged" adapter="trained" model="student" path="merged" dtype="bf16"
"#,
    build,
};

#[derive(Debug)]
struct MergeAdapter {
    model: Spanned<String>,
    path: String,
    dtype: Stored,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let path = fields.str("path");
    if !inside_run(&path, "folder", diagnostics) {
        return None;
    }
    let dtype = Stored::parse(&fields.str("dtype").value)?;
    Some(Box::new(MergeAdapter { model: fields.str("model"), path: path.value, dtype }))
}

impl Operator for MergeAdapter {
    fn canonical(&self) -> serde_json::Value {
        json!({ "path": self.path, "dtype": self.dtype.name() })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        adapters::check(cx, Some(&self.model))?;
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        let number = |name: &str| Field::new(name, DataType::Int64, false);
        let columns = vec![id_field(), text("path"), text("dtype"), number("parameters"), number("bytes")];
        let estimate = Estimate { rows: Some(1), ..Estimate::default() };
        let mut resolved = Resolved::new(vec![Arc::new(Schema::new(columns))], estimate);
        resolved.models = vec![self.model.value.clone()];
        resolved.files_out = vec![self.path.clone()];
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let lane = cx.model(&self.model.value)?;
        let text = lane.text()?;
        let given = adapters::read(cx, 0)?;
        let adapter = given.adapter(&text.config)?;
        let mut known = TrainedOn::default();
        known.went_on_from(TrainedOn::of_weights(&given.weights));
        if let Some(before) = adapters::merged_into(&*lane)? {
            known.went_on_from(Some(before));
        }
        let file = |name: &str| cx.file(&format!("{}/{name}", self.path.trim_end_matches('/')));
        let merged = merge::write(&text, &adapter, self.dtype, Some(known.entry()), &file, &|| cx.stopping())?;
        let columns: Vec<arrow::array::ArrayRef> = vec![
            // The path twice: a row's id says what is computed, and not which node did.
            Arc::new(StringArray::from(vec![self.path.as_str()])),
            Arc::new(StringArray::from(vec![self.path.as_str()])),
            Arc::new(StringArray::from(vec![self.dtype.name()])),
            Arc::new(Int64Array::from(vec![merged.parameters as i64])),
            Arc::new(Int64Array::from(vec![merged.bytes as i64])),
        ];
        cx.emit(0, RecordBatch::try_new(cx.output_schema(0), columns).map_err(arrow_failed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode_fields;

    #[test]
    fn the_folder_is_inside_the_run() {
        for (path, good) in [("merged", true), ("a/b", true), ("../merged", false), ("/merged", false), ("", false)] {
            let fields = decode_fields(&SPEC, &format!("merge-adapter \"m\" adapter=\"a\" model=\"m\" path={path:?}"));
            let mut diagnostics = Diagnostics::new();
            assert_eq!(build(&fields.unwrap(), &mut diagnostics).is_some(), good, "{path}");
            assert_eq!(diagnostics.has_errors(), !good, "{path}");
        }
    }
}
