//! A few operators that together use every kind of field. Decoding alone is tested: nothing is built.

use crate::ops::{Arity, Default, FROM, FieldKind, FieldSpec, InputSpec, OpSpec, OutputSpec};

pub static OPS: &[&OpSpec] = &[LOAD, SCORE, SPLIT, CONCAT, SUMMARIZE, WRITE, ASK];

pub static LOAD: &OpSpec = &OpSpec {
    name: "load",
    inputs: &[],
    fields: &[
        FieldSpec::new("path", FieldKind::Path, "File or glob to read").required(),
        FieldSpec::new("limit", FieldKind::Int { min: 1, max: 1000 }, "Rows to read at most").default(Default::Int(10)),
        FieldSpec::new("share", FieldKind::Float { min: 0.0, max: 1.0 }, "Share of rows to take"),
        FieldSpec::new("on-missing", FieldKind::Choice(&["error", "skip"]), "What a missing file does")
            .default(Default::Str("error")),
        FieldSpec::new("header", FieldKind::Bool, "Whether the first line names the columns"),
        FieldSpec::new("fields", FieldKind::Map(&FieldKind::Str), "Columns and the source fields that they come from"),
        FieldSpec::new("casts", FieldKind::Map(&FieldKind::List(&FieldKind::Str)), "Types to try for columns"),
    ],
    ..OpSpec::BLANK
};

static SCORE: &OpSpec = &OpSpec {
    name: "score-ppl",
    fields: &[
        FieldSpec::new("model", FieldKind::Model, "The model that scores").required(),
        FieldSpec::new("question", FieldKind::Column, "Column of prompts").default(Default::Str("question")),
        FieldSpec::new("suffix", FieldKind::Str, "Added to the names of the new columns"),
    ],
    ..OpSpec::BLANK
};

static SPLIT: &OpSpec = &OpSpec {
    name: "split-by-ppl",
    outputs: &[OutputSpec { name: "lower", doc: "" }, OutputSpec { name: "higher", doc: "" }],
    fields: &[FieldSpec::new("threshold", FieldKind::Float { min: f64::MIN, max: f64::MAX }, "Where to split")],
    ..OpSpec::BLANK
};

static CONCAT: &OpSpec = &OpSpec {
    name: "concat",
    inputs: &[InputSpec { name: "from", doc: "rows one after another", arity: Arity::Many, accepts_skipped: true }],
    ..OpSpec::BLANK
};

const VALUE: &[FieldSpec] = &[
    FieldSpec::new("name", FieldKind::Str, "Name of the new column").positional().required(),
    FieldSpec::new("fn", FieldKind::Choice(&["mean", "median", "quantile"]), "What to compute").required(),
    FieldSpec::new("column", FieldKind::Column, "Column to read"),
    FieldSpec::new("at", FieldKind::List(&FieldKind::Float { min: 0.0, max: 1.0 }), "Quantiles"),
];

static SUMMARIZE: &OpSpec = &OpSpec {
    name: "summarize",
    fields: &[
        FieldSpec::new("by", FieldKind::List(&FieldKind::Column), "Columns that make groups"),
        FieldSpec::new("value", FieldKind::Records(VALUE), "A value to compute").required(),
    ],
    ..OpSpec::BLANK
};

static WRITE: &OpSpec = &OpSpec {
    name: "write",
    sink: true,
    inputs: &[
        FROM[0],
        InputSpec { name: "published", doc: "values to print beside", arity: Arity::Optional, accepts_skipped: false },
    ],
    fields: &[
        FieldSpec::new("path", FieldKind::Path, "File to write").required(),
        FieldSpec::new("where", FieldKind::Expr, "Rows to write"),
        FieldSpec::new("constant", FieldKind::Scalar, "A value"),
    ],
    ..OpSpec::BLANK
};

static ASK: &OpSpec = &OpSpec {
    name: "ask",
    fields: &[FieldSpec::new("teacher", FieldKind::Teacher, "Who is asked").required()],
    ..OpSpec::BLANK
};
