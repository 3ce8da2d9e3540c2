//! Adapters on edges: a row with the two files of the peft format. An operator that uses a model takes one through its
//! port `adapter`.

use super::rows::{arrow_failed, batches, id_field};
use super::trained_on::TrainedOn;
use super::{Arity, InputSpec, ResolveCx};
use crate::config::ModelDecl;
use crate::diag::{Diagnostic, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::model::files::WeightFiles;
use crate::model::{AdapterFile, ModelLane};
use crate::plan::InputInfo;
use arrow::array::{Array, AsArray, LargeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::collections::HashMap;
use std::sync::Arc;

/// The port of operators that use a model.
pub const PORT: InputSpec = InputSpec {
    name: "adapter",
    doc: "an adapter that the model is used with, from `lora-train` or `load-adapter`",
    arity: Arity::Optional,
    accepts_skipped: false,
};

/// The column with the content of `adapter_config.json`.
pub const CONFIG: &str = "adapter_config";
/// The column with the content of `adapter_model.safetensors`.
pub const WEIGHTS: &str = "adapter_weights";
/// Metadata of the column of weights: whose adapter it is.
const BASE: &str = "idiolect:base";

/// Metadata of the column of weights: what the peft library is to call the model.
const BASE_NAME: &str = "idiolect:base-name";

/// The columns of an adapter for a model.
pub fn schema(model: &ModelDecl) -> SchemaRef {
    let metadata = [(BASE.to_string(), model.weights()), (BASE_NAME.to_string(), model.base_name())];
    let metadata = HashMap::from(metadata);
    let weights = Field::new(WEIGHTS, DataType::LargeBinary, false).with_metadata(metadata);
    Arc::new(Schema::new(vec![id_field(), Field::new(CONFIG, DataType::Utf8, false), weights]))
}

/// What the peft library is to call the model of an adapter.
pub fn base_name(schema: &SchemaRef) -> String {
    let weights = schema.field_with_name(WEIGHTS).ok();
    weights.and_then(|field| field.metadata().get(BASE_NAME)).cloned().unwrap_or_default()
}

/// An adapter as a row. Its id says what it holds and not which node made it: nodes that make the same adapter share it.
pub fn batch(schema: &SchemaRef, file: &AdapterFile) -> Result<RecordBatch, RunError> {
    let id = format!("adapter-{}", &file.digest()[..12]);
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(StringArray::from(vec![id])),
        Arc::new(StringArray::from(vec![file.config.as_str()])),
        Arc::new(LargeBinaryArray::from(vec![file.weights.as_slice()])),
    ];
    RecordBatch::try_new(schema.clone(), columns).map_err(arrow_failed)
}

/// Checks what is bound to the port, if anything is: that it is an adapter, and of this model. `model` is what names the
/// model; without one there is nothing that an adapter could change. `None` after an error.
pub fn check(cx: &mut ResolveCx<'_>, model: Option<&Spanned<String>>) -> Option<()> {
    let Some(input) = cx.port(PORT.name).first().copied() else { return Some(()) };
    let Some(model) = model else {
        cx.error(
            Diagnostic::error("adapter-without-model", format!("`{}` uses no model of the pipeline here", cx.op.name))
                .at(input.span, "an adapter changes a model")
                .help(
                    "name the model with `model=`; the weights of a teacher that is served elsewhere cannot be changed",
                ),
        );
        return None;
    };
    let schema = need(cx, input)?;
    let weights = schema.field_with_name(WEIGHTS).ok()?;
    let known = (cx.models)(&model.value)?;
    let own = known.decl.weights();
    match weights.metadata().get(BASE).filter(|base| **base != own) {
        None => Some(()),
        Some(base) => {
            cx.error(
                Diagnostic::error(
                    "adapter-of-another-model",
                    format!("the adapter of `{}` is not for this model", input.producer),
                )
                .at(model.span, format!("this is {own}"))
                .and(input.producer_span, format!("makes an adapter for {base}"))
                .help("use an adapter with the weights that it was trained on; the dtype may be another"),
            );
            None
        }
    }
}

/// The columns of an adapter that an input gives. `None` after an error.
pub fn need(cx: &mut ResolveCx<'_>, input: &InputInfo) -> Option<SchemaRef> {
    let column = |name: &str, kind: DataType| {
        input.schema.field_with_name(name).ok().filter(|f| *f.data_type() == kind).cloned()
    };
    let (config, weights) = (column(CONFIG, DataType::Utf8), column(WEIGHTS, DataType::LargeBinary));
    if let (Some(config), Some(weights)) = (config, weights) {
        return Some(Arc::new(Schema::new(vec![id_field(), config, weights])));
    }
    cx.error(
        Diagnostic::error("not-an-adapter", format!("`{}` gives rows and no adapter", input.producer))
            .at(input.span, "an adapter is expected here")
            .and(input.producer_span, "gives no columns `adapter_config` and `adapter_weights`")
            .help("name a `lora-train` or a `load-adapter`"),
    );
    None
}

/// The lane of a model, with the adapter that is bound to the port if there is one.
pub fn lane(cx: &NodeCx, model: &str) -> Result<Arc<dyn ModelLane>, RunError> {
    let lane = cx.model(model)?;
    match port(cx) {
        Some(at) => lane.adapted(read(cx, at)?),
        None => Ok(lane),
    }
}

/// Which input is bound to the port, if one is.
pub fn port(cx: &NodeCx) -> Option<usize> {
    cx.inputs().iter().position(|input| input.port == PORT.name)
}

/// What the adapter was trained on that was merged into a model's weights, if one was.
pub fn merged_into(lane: &dyn ModelLane) -> Result<Option<TrainedOn>, RunError> {
    match lane.text()?.weights() {
        WeightFiles::Gguf(_) => Ok(None),
        WeightFiles::Safetensors(files) => files.first().map_or(Ok(None), |file| TrainedOn::of_file(file)),
    }
}

/// The adapter of an input: its only row.
pub fn read(cx: &NodeCx, input: usize) -> Result<AdapterFile, RunError> {
    let producer = &cx.inputs()[input].producer;
    let one = |found: &str| {
        RunError::failed("adapter-rows", format!("`{producer}` should give one adapter, and gives {found}"))
            .help("keep the row of one adapter, for example with `filter`")
    };
    let mut found = None;
    for batch in batches(cx, input)? {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            let (Some(config), Some(weights)) = (batch.column_by_name(CONFIG), batch.column_by_name(WEIGHTS)) else {
                return Err(one("none"));
            };
            let file = AdapterFile {
                config: config.as_string::<i32>().value(row).to_string(),
                weights: weights.as_binary::<i64>().value(row).to_vec(),
            };
            if found.replace(file).is_some() {
                return Err(one("several"));
            }
        }
    }
    found.ok_or_else(|| one("none"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::{Diagnostics, Sources, render};
    use crate::ops::testing::MemoryHost;

    fn files() -> [AdapterFile; 2] {
        ["{}", "{\"r\": 1}"].map(|config| AdapterFile { config: config.into(), weights: vec![1, 2, 3] })
    }

    fn columns() -> SchemaRef {
        let fields = [(CONFIG, DataType::Utf8), (WEIGHTS, DataType::LargeBinary)];
        let fields = fields.map(|(name, kind)| Field::new(name, kind, false));
        Arc::new(Schema::new([vec![id_field()], fields.to_vec()].concat()))
    }

    fn cx(files: &[AdapterFile]) -> NodeCx {
        let rows = files.iter().map(|file| batch(&columns(), file).unwrap());
        let all = std::iter::once(RecordBatch::new_empty(columns())).chain(rows).collect();
        Arc::new(MemoryHost::new(vec![("adapter", all)], vec![]))
    }

    #[test]
    fn an_adapter_is_one_row() {
        let [a, b] = files();
        assert_eq!(read(&cx(std::slice::from_ref(&b)), 0).unwrap(), b);
        let messages = [vec![], vec![a, b]].map(|files| read(&cx(&files), 0).unwrap_err().to_string());
        assert_eq!(messages[0], "`adapter-rows` should give one adapter, and gives none");
        assert_eq!(messages[1], "`adapter-rows` should give one adapter, and gives several");
    }

    #[test]
    fn what_is_no_adapter_is_refused_at_plan_time() {
        let text = r#"
            model "student" dataset="smollm2-135m-instruct"
            load "rows" path="rows.jsonl" { columns { question "string"; response "string" } }
            score-ppl "scored" from="rows" model="student" adapter="rows" unused="ok"
            load "adapters" path="adapters.parquet" {
                columns { adapter_config "string"; adapter_weights "string" }
            }
            initial-prediction "answered" from="rows" model="student" adapter="adapters" unused="ok"
        "#;
        let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
        let pipeline = crate::config::load_text("adapters.kdl", text, &[], &mut sources, &mut diagnostics);
        let graph = crate::graph::build(pipeline.unwrap(), &mut diagnostics).unwrap();
        assert!(crate::plan::build(graph, &crate::plan::PlanEnv::pure(), &mut diagnostics).is_none());
        insta::assert_snapshot!(render(&diagnostics, &sources, false));
    }
}
