//! A few operators that show every way in which a node can depend on things.

use crate::exec::{NodeCx, RunError};
use crate::ops::{
    Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OpSpec, Operator, OutputSpec, ResolveCx, Resolved,
    is_string,
};
use crate::plan::Estimate;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::json;
use std::sync::Arc;

pub static TOYS: &[&OpSpec] = &[&ROWS, &SCORE, &HALVES, &GATHER, &DRAW, &SAVE];

const BASE: OpSpec = OpSpec { build: |fields, _| Some(Box::new(Toy { fields: fields.clone() })), ..OpSpec::BLANK };

const LIMIT: FieldSpec =
    FieldSpec::new("limit", FieldKind::Int { min: 1, max: 1000 }, "rows").default(Default::Int(10));
const COLUMN: FieldSpec = FieldSpec::new("column", FieldKind::Column, "a column").default(Default::Str("question"));

static ROWS: OpSpec = OpSpec {
    name: "rows",
    inputs: &[],
    fields: &[
        LIMIT,
        FieldSpec::new("threads", FieldKind::Int { min: 1, max: 64 }, "never in a fingerprint"),
        FieldSpec::new("file", FieldKind::Path, "read"),
        FieldSpec::new("skip", FieldKind::Str, "skipped for this reason"),
        FieldSpec::new("number", FieldKind::Bool, "the column is a number").default(Default::Bool(false)),
    ],
    ..BASE
};

static SCORE: OpSpec = OpSpec {
    name: "score",
    fields: &[
        COLUMN,
        FieldSpec::new("model", FieldKind::Model, "scores").required(),
        FieldSpec::new("teacher", FieldKind::Teacher, "is asked"),
        FieldSpec::new("tokens", FieldKind::Int { min: 1, max: 1 << 30 }, "longest row").default(Default::Int(8)),
    ],
    ..BASE
};

static HALVES: OpSpec = OpSpec {
    name: "halves",
    outputs: &[OutputSpec { name: "lower", doc: "" }, OutputSpec { name: "higher", doc: "" }],
    ..BASE
};

static GATHER: OpSpec = OpSpec {
    name: "gather",
    inputs: &[InputSpec { name: "from", doc: "rows to gather", arity: Arity::Many, accepts_skipped: true }],
    ..BASE
};

static DRAW: OpSpec = OpSpec { name: "draw", ..BASE };

static SAVE: OpSpec = OpSpec { name: "save", outputs: &[], fields: &[COLUMN], sink: true, ..BASE };

#[derive(Debug)]
struct Toy {
    fields: Fields,
}

fn schema(number: bool) -> SchemaRef {
    let question = if number { DataType::Int64 } else { DataType::Utf8 };
    Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, false), Field::new("question", question, true)]))
}

impl Operator for Toy {
    fn canonical(&self) -> serde_json::Value {
        let text = |name: &str| self.fields.get(name).map(|v| format!("{:?}", v.value));
        json!({ "limit": text("limit"), "column": text("column"), "tokens": text("tokens") })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let mut models = Vec::new();
        if let Some(name) = self.fields.opt_str_of(cx.op, "model") {
            let model = (cx.models)(&name)?;
            let span = self.fields.span_of("model");
            cx.need_chat_template(model, span)?;
            cx.need_context(model, self.fields.int("tokens") as u64, self.fields.span_of("tokens"))?;
            models.push(name);
        }
        if let (Some(column), [input]) = (self.fields.opt_str_of(cx.op, "column"), cx.inputs) {
            cx.need_column(input, &column, "a string", is_string, self.fields.span_of("column"))?;
        }
        let number = self.fields.get("number").is_some() && self.fields.bool("number");
        let given = cx.inputs.iter().find(|i| i.skipped.is_none()).map(|i| i.schema.clone());
        let outputs = vec![given.unwrap_or_else(|| schema(number)); cx.op.outputs.len()];
        let mut resolved = Resolved::new(outputs, Estimate { rows: Some(10), ..Estimate::default() });
        resolved.models = models;
        resolved.files = self.fields.opt_str_of(cx.op, "file").into_iter().map(Into::into).collect();
        resolved.skipped = self.fields.opt_str_of(cx.op, "skip");
        resolved.seeded = cx.op.name == "draw";
        resolved.reads_bindings = cx.op.name == "gather";
        resolved.journalled = cx.op.name == "score";
        Some(resolved)
    }

    fn run(&self, _: &NodeCx) -> Result<(), RunError> {
        unreachable!("plans of toys are not run")
    }
}

impl Fields {
    /// A string field, where the operator has it.
    fn opt_str_of(&self, op: &OpSpec, name: &str) -> Option<String> {
        op.fields.iter().any(|f| f.name == name).then(|| self.opt_str(name).map(|s| s.value)).flatten()
    }
}
