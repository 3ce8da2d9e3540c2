//! `split-by-ppl`: rows in two sets by perplexity.

mod between;

use super::rows::{arrow_failed, batches, emit_in_batches, reject_row};
use super::{
    Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OpSpec, Operator, OutputSpec, ResolveCx, Resolved,
};
use super::{is_number, list};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::{Estimate, InputInfo};
use arrow::array::{Array, AsArray, BooleanArray, Float64Array, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type};
use between::Between;
use serde_json::json;

pub static SPEC: OpSpec = OpSpec {
    name: "split-by-ppl",
    summary: "Splits rows into those of lower and those of higher perplexity",
    doc: DOC,
    version: 1,
    inputs: &[InputSpec {
        name: "from",
        doc: "scored rows: with `per=\"row\"` two or more inputs with answers to the same questions, otherwise one",
        arity: Arity::Many,
        accepts_skipped: false,
    }],
    outputs: &[
        OutputSpec { name: "lower", doc: "the rows of lower perplexity: the more familiar ones" },
        OutputSpec { name: "higher", doc: "the rows of higher perplexity" },
    ],
    fields: &[
        FieldSpec::new("per", FieldKind::Choice(&["row"]), "`row`: choose between the inputs, question by question"),
        FieldSpec::new(
            "quantile",
            FieldKind::Float { min: 0.0, max: 1.0 },
            "The share of rows that goes to `lower`: those of the lowest perplexity",
        ),
        FieldSpec::new("threshold", FieldKind::Float { min: 0.0, max: f64::MAX }, "Rows below it go to `lower`"),
        FieldSpec::new("column", FieldKind::Column, "The column to split by").default(Default::Str("ppl")),
        FieldSpec::new(
            "key",
            FieldKind::Column,
            "With `per=\"row\"`: the column that is equal for the same question (default `id`)",
        ),
        FieldSpec::new(
            "source",
            FieldKind::Str,
            "With `per=\"row\"`: name of the new column that says which input a row came from (default `source`)",
        ),
        FieldSpec::new(
            "labels",
            FieldKind::List(&FieldKind::Str),
            "With `per=\"row\"`: what `source` calls the inputs, in their order (default: the axis values in which they \
             differ, or the nodes' names)",
        ),
    ],
    sink: false,
    example: EXAMPLE,
    build,
};

const DOC: &str = "\
With `per=\"row\"`: of several answers to each question, the one of the lowest perplexity goes to `lower` and, of the \
others, the one of the highest to `higher`; where two are equal, the input that is named first comes first. Both outputs \
have one row for each question, in the order of the first input, and a column `source` that says where the row came \
from. A question that an input lacks, or that has no perplexity there, goes to quarantine with all its answers; so does \
a second row for a question in one input.

With `quantile` or `threshold`: each row of the one input goes to `lower` or `higher`. `quantile=0.5` puts the half of \
lower perplexity into `lower`, to the nearest whole row; of equal rows the earlier ones are lower. Rows without a \
perplexity, or with one that is not a number, go to quarantine.

`per=\"row\"` holds its inputs in memory, within the `memory` option of the run.";

const EXAMPLE: &str = r#"
load "direct" path="direct.parquet" { columns { question "string"; response "string"; ppl "float" } }
load "paraphrase" path="paraphrase.parquet" { columns { question "string"; response "string"; ppl "float" } }
split-by-ppl "halves" per="row" key="question" {
    from "direct" "paraphrase"
}
write "lower" from="halves.lower" path="lower.parquet"
write "higher" from="halves.higher" path="higher.parquet"
"#;

#[derive(Debug)]
struct Split {
    column: Spanned<String>,
    how: How,
}

#[derive(Debug)]
enum How {
    Between(Between),
    Quantile(f64),
    Threshold(f64),
}

const LOWER: usize = 0;
const HIGHER: usize = 1;

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let ways: Vec<&str> = ["per", "quantile", "threshold"].into_iter().filter(|w| fields.get(w).is_some()).collect();
    let way = match ways.as_slice() {
        [way] => *way,
        [] => {
            diagnostics.push(
                Diagnostic::error("missing-field", "`split-by-ppl` needs a way to split")
                    .at(fields.span, "`per`, `quantile` or `threshold` is missing here")
                    .help("per=\"row\" chooses between several inputs, quantile=0.5 halves one input"),
            );
            return None;
        }
        [first, second, ..] => {
            diagnostics.push(
                Diagnostic::error("meaningless-field", format!("{} say different things", list(&ways)))
                    .at(fields.span_of(second), "one too many")
                    .and(fields.span_of(first), "there is this one"),
            );
            return None;
        }
    };
    let mut sound = true;
    for name in ["key", "source", "labels"].into_iter().filter(|n| way != "per" && fields.get(n).is_some()) {
        diagnostics.push(
            Diagnostic::error("meaningless-field", format!("`{name}` means nothing to `{way}`"))
                .at(fields.span_of(name), "not read")
                .and(fields.span_of(way), "because of this")
                .help(format!("remove `{name}`")),
        );
        sound = false;
    }
    let how = match way {
        "per" => How::Between(Between::of(fields)),
        "quantile" => How::Quantile(fields.float("quantile")),
        _ => How::Threshold(fields.float("threshold")),
    };
    sound.then(|| Box::new(Split { column: fields.str("column"), how }) as Box<dyn Operator>)
}

impl Operator for Split {
    fn canonical(&self) -> serde_json::Value {
        let how = match &self.how {
            How::Between(between) => between.canonical(),
            How::Quantile(quantile) => json!({ "quantile": quantile }),
            How::Threshold(threshold) => json!({ "threshold": threshold }),
        };
        json!({ "column": self.column.value, "how": how })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let inputs = cx.port("from");
        let mut sound = true;
        for input in &inputs {
            sound &= cx.need_column(input, &self.column.value, "a number", is_number, self.column.span).is_some();
        }
        if let How::Between(between) = &self.how {
            return between.resolve(sound, cx);
        }
        if let [_, second, ..] = inputs.as_slice() {
            cx.error(
                Diagnostic::error("too-many-inputs", "`quantile` and `threshold` split one input")
                    .at(second.span, "one too many")
                    .help("per=\"row\" chooses between several inputs; `concat` makes one of them"),
            );
            return None;
        }
        let input: &InputInfo = inputs[0];
        let share = |part: f64| input.estimate.rows.map(|rows| (rows as f64 * part).ceil() as u64);
        let part = if let How::Quantile(q) = self.how { q.max(1.0 - q) } else { 1.0 };
        let estimate = Estimate { rows: share(part), tokens: Some(0), ..Estimate::default() };
        let mut resolved = Resolved::new(vec![input.schema.clone(), input.schema.clone()], estimate);
        // The quantile is known only when all rows are, so they are read twice.
        resolved.barrier = matches!(self.how, How::Quantile(_));
        sound.then_some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        match &self.how {
            How::Between(between) => between.run(&self.column.value, cx),
            How::Threshold(threshold) => self.each_batch(cx, |ppl, _| ppl < *threshold),
            How::Quantile(quantile) => {
                let lower = self.lowest(*quantile, cx)?;
                self.each_batch(cx, |_, row| lower[row])
            }
        }
    }
}

impl Split {
    /// Sends every row to one of the outputs. `is_lower` is given the perplexity and the number of the row among
    /// those that have one.
    fn each_batch(&self, cx: &NodeCx, is_lower: impl Fn(f64, usize) -> bool) -> Result<(), RunError> {
        let mut number = 0;
        for batch in batches(cx, 0)? {
            let batch = batch?;
            let scores = scores(&batch, &self.column.value)?;
            let mut lower = vec![Some(false); batch.num_rows()];
            for (row, lower) in lower.iter_mut().enumerate() {
                match score(&scores, row) {
                    Ok(ppl) => {
                        *lower = Some(is_lower(ppl, number));
                        number += 1;
                    }
                    Err((reason, message)) => {
                        reject_row(cx, &batch, row, reason, format!("`{}` {message}", self.column.value))?;
                        *lower = None;
                    }
                }
            }
            for (output, wanted) in [(LOWER, true), (HIGHER, false)] {
                let mask: BooleanArray = lower.iter().map(|l| Some(*l == Some(wanted))).collect();
                let rows = filter_record_batch(&batch, &mask).map_err(arrow_failed)?;
                if rows.num_rows() > 0 {
                    emit_in_batches(cx, output, &rows)?;
                }
            }
        }
        Ok(())
    }

    /// Whether each row that has a perplexity is among the lowest `quantile` of them.
    fn lowest(&self, quantile: f64, cx: &NodeCx) -> Result<Vec<bool>, RunError> {
        let mut all: Vec<f64> = Vec::new();
        for batch in batches(cx, 0)? {
            let batch = batch?;
            let scores = scores(&batch, &self.column.value)?;
            all.extend((0..batch.num_rows()).filter_map(|row| score(&scores, row).ok()));
        }
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|a, b| all[*a].total_cmp(&all[*b]).then(a.cmp(b)));
        let mut lower = vec![false; all.len()];
        let count = (quantile * all.len() as f64).round() as usize;
        order[..count.min(all.len())].iter().for_each(|row| lower[*row] = true);
        Ok(lower)
    }
}

fn scores(batch: &RecordBatch, column: &str) -> Result<Float64Array, RunError> {
    let column = batch.column_by_name(column).ok_or_else(|| {
        RunError::failed("column-missing", format!("the input has no column `{column}`, though its schema named it"))
    })?;
    Ok(cast(column, &DataType::Float64).map_err(arrow_failed)?.as_primitive::<Float64Type>().clone())
}

/// A row's perplexity, or why it cannot be compared: the kind and what to say of the column.
fn score(scores: &Float64Array, row: usize) -> Result<f64, (&'static str, &'static str)> {
    match scores.is_valid(row).then(|| scores.value(row)) {
        None => Err(("null-value", "has no value")),
        Some(ppl) if ppl.is_nan() => Err(("not-a-number", "is not a number")),
        // Minus zero would come before zero.
        Some(ppl) => Ok(ppl + 0.0),
    }
}

#[cfg(test)]
mod tests;
