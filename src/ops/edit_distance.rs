//! `edit-distance`: how much of a reference a text keeps.

use super::is_string;
use super::rows::{batches, reject_row, text_column, widened};
use super::{Default, FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostics, Span, Spanned};
use crate::eval::edit::{Edits, edits};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use serde_json::json;
use std::sync::Arc;
use unicode_segmentation::UnicodeSegmentation;

pub static SPEC: OpSpec = OpSpec {
    name: "edit-distance",
    summary: "Counts the tokens that a text keeps of a reference, and those inserted and deleted",
    doc: "\
Compares the tokens of a text with those of a reference, the shortest way from the reference to the text being one of \
insertions and deletions alone (a longest common subsequence; a token that was replaced is one deleted and one inserted). \
Adds the columns

- `kept`: tokens of the reference that stand in the text, in the same order;
- `inserted`: tokens of the text that are not kept ones: `kept + inserted` is the length of the text;
- `deleted`: tokens of the reference that are not kept: `kept + deleted` is the length of the reference;
- `edit_ratio`: `(inserted + deleted) / (2 * kept + inserted + deleted)`, from 0 where both are the same (also where both \
are empty) to 1 where they have nothing in common.

With `model` tokens are those of the model's tokenizer; its weights are not loaded. Without it they are words, numbers \
and punctuation marks by Unicode's word boundaries (UAX #29), blanks left out; upper and lower case differ.

Rows whose text or reference is null go to quarantine as `null-value`. With `prefix` two distances can stand in one table.",
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &[
        FieldSpec::new("column", FieldKind::Column, "the column of texts").default(Default::Str("response")),
        FieldSpec::new("reference", FieldKind::Column, "the column that texts are compared with").required(),
        FieldSpec::new("model", FieldKind::Model, "the model whose tokens are counted; words if not given"),
        FieldSpec::new("prefix", FieldKind::Str, "stands before the names of the added columns, as in `draft_`")
            .default(Default::Str("")),
    ],
    sink: false,
    example: r#"
load "corrected" path="corrected.jsonl" { columns { response "string"; initial_prediction "string" } }
edit-distance "edited" from="corrected" reference="initial_prediction"
filter "light" from="edited" where="edit_ratio < 0.3"
write "light-file" from="light" path="light.jsonl"
"#,
    build,
};

#[derive(Debug)]
struct EditDistance {
    column: Spanned<String>,
    reference: Spanned<String>,
    model: Option<Spanned<String>>,
    prefix: String,
    span: Span,
}

fn build(fields: &Fields, _: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    Some(Box::new(EditDistance {
        column: fields.str("column"),
        reference: fields.str("reference"),
        model: fields.opt_str("model"),
        prefix: fields.str("prefix").value,
        span: fields.span,
    }))
}

impl EditDistance {
    fn added(&self) -> Vec<Field> {
        let field = |name: &str, t: DataType| Field::new(format!("{}{name}", self.prefix), t, false);
        vec![
            field("kept", DataType::Int64),
            field("inserted", DataType::Int64),
            field("deleted", DataType::Int64),
            field("edit_ratio", DataType::Float64),
        ]
    }

    fn compare(&self, cx: &NodeCx, tokens: Option<&Tokens>, batch: &RecordBatch) -> Result<RecordBatch, RunError> {
        let names = [&self.column.value, &self.reference.value];
        let (texts, references) = (text_column(batch, names[0])?, text_column(batch, names[1])?);
        let mut keep = Vec::with_capacity(batch.num_rows());
        let mut found = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let null = [&texts, &references].into_iter().zip(names).find(|(c, _)| c.is_null(row));
            keep.push(null.is_none());
            match null {
                Some((_, name)) => reject_row(cx, batch, row, "null-value", format!("`{name}` is null"))?,
                None => found.push(compared(texts.value(row), references.value(row), tokens)?),
            }
        }
        widened(batch, keep, columns(&found), cx.output_schema(0))
    }
}

/// A model's tokenizer.
type Tokens = dyn Fn(&str) -> Result<Vec<u32>, RunError>;

fn compared(text: &str, reference: &str, tokens: Option<&Tokens>) -> Result<Edits, RunError> {
    Ok(match tokens {
        Some(tokens) => edits(&tokens(text)?, &tokens(reference)?),
        None => edits(&words(text), &words(reference)),
    })
}

/// Words, numbers and punctuation marks, blanks left out.
fn words(text: &str) -> Vec<&str> {
    text.split_word_bounds().filter(|word| !word.trim().is_empty()).collect()
}

fn columns(found: &[Edits]) -> Vec<ArrayRef> {
    let count = |of: fn(&Edits) -> usize| -> ArrayRef {
        Arc::new(found.iter().map(|e| Some(of(e) as i64)).collect::<Int64Array>())
    };
    let ratios: Float64Array = found.iter().map(|e| Some(e.ratio())).collect();
    vec![count(|e| e.kept), count(|e| e.inserted), count(|e| e.deleted), Arc::new(ratios)]
}

impl Operator for EditDistance {
    fn canonical(&self) -> serde_json::Value {
        json!({ "column": self.column.value, "reference": self.reference.value, "prefix": self.prefix })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let text = cx.need_column(input, &self.column.value, "string", is_string, self.column.span);
        let reference = cx.need_column(input, &self.reference.value, "string", is_string, self.reference.span);
        let schema = cx.widened(input, self.added(), self.span)?;
        let mut resolved = Resolved::new(vec![schema], Estimate { rows: input.estimate.rows, ..Estimate::default() });
        resolved.models = self.model.iter().map(|m| m.value.clone()).collect();
        text.and(reference).map(|_| resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let lane = self.model.as_ref().map(|m| cx.model(&m.value)).transpose()?;
        let tokens = lane.map(|lane| Box::new(move |text: &str| lane.tokens(text)) as Box<Tokens>);
        for batch in batches(cx, 0)? {
            let compared = self.compare(cx, tokens.as_deref(), &batch?)?;
            if compared.num_rows() > 0 {
                cx.emit(0, compared)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
