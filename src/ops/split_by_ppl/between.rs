//! The choice between several answers to the same question.

use super::super::gather;
use super::super::rows::{Held, arrow_failed, batches, emit_in_batches, reject_row};
use super::super::{Fields, ResolveCx, Resolved, is_string};
use super::{HIGHER, LOWER, score, scores};
use crate::diag::{Diagnostic, Span, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::{Estimate, NodeName};
use crate::report::grid::{Format, texts};
use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::compute::{concat_batches, interleave};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use indexmap::IndexMap;
use serde_json::json;
use std::sync::Arc;

#[derive(Debug)]
pub struct Between {
    key: Spanned<String>,
    source: Spanned<String>,
    labels: Vec<Spanned<String>>,
    span: Span,
}

/// All rows of one input.
struct Input {
    rows: RecordBatch,
    keys: Vec<Option<String>>,
    scores: Float64Array,
    label: String,
}

impl Between {
    pub fn of(fields: &Fields) -> Self {
        let text = |name: &str, default: &str| {
            fields.opt_str(name).unwrap_or_else(|| Spanned::new(default.to_string(), fields.span_of("per")))
        };
        let (key, source) = (text("key", "id"), text("source", "source"));
        Self { key, source, labels: fields.strs("labels"), span: fields.span_of("per") }
    }

    pub fn canonical(&self) -> serde_json::Value {
        let labels: Vec<&String> = self.labels.iter().map(|l| &l.value).collect();
        json!({ "key": self.key.value, "source": self.source.value, "labels": labels })
    }

    pub fn resolve(&self, mut sound: bool, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let inputs = cx.port("from");
        for input in &inputs {
            let key = |t: &DataType| is_string(t) || t.is_integer();
            sound &= cx.need_column(input, &self.key.value, "text or an integer", key, self.key.span).is_some();
        }
        if let [only] = inputs.as_slice() {
            cx.error(
                Diagnostic::error("too-few-inputs", "`per=\"row\"` chooses between two or more inputs")
                    .at(self.span, "asks for a choice")
                    .and(only.span, "there is only this one")
                    .help("name another input, or split this one with quantile=0.5"),
            );
            sound = false;
        }
        if let Some(first) = self.labels.first().filter(|_| self.labels.len() != inputs.len()) {
            let message = format!("there are {} labels for {} inputs", self.labels.len(), inputs.len());
            cx.error(Diagnostic::error("wrong-count", message).at(first.span, "one label for each input is needed"));
            sound = false;
        }
        let schema = gather::columns(cx, "from")?;
        if schema.field_with_name(&self.source.value).is_ok() {
            let message = format!("the inputs have a column `{}` already", self.source.value);
            cx.error(
                Diagnostic::error("duplicate-column", message)
                    .at(self.source.span, "would be made again")
                    .help("give the new column another name with `source`"),
            );
            sound = false;
        }
        let rows = inputs.iter().filter_map(|i| i.estimate.rows).min();
        let memory = inputs.iter().map(|i| i.estimate.memory).sum();
        let estimate = Estimate { rows, tokens: Some(0), seconds: None, memory };
        let schema = self.with_source(&schema);
        let mut resolved = Resolved::new(vec![schema.clone(), schema], estimate);
        resolved.barrier = true;
        resolved.reads_bindings = true;
        sound.then_some(resolved)
    }

    fn with_source(&self, schema: &Schema) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(&self.source.value, DataType::Utf8, false)));
        Arc::new(Schema::new(fields))
    }

    pub fn run(&self, column: &str, cx: &NodeCx) -> Result<(), RunError> {
        let inputs = self.read(column, cx)?;
        let mut chosen: [Vec<(usize, usize)>; 2] = [Vec::new(), Vec::new()];
        for (key, places) in self.questions(&inputs, cx)? {
            let scored: Vec<Option<f64>> =
                places.iter().zip(&inputs).map(|(place, i)| score(&i.scores, (*place)?).ok()).collect();
            match scored.iter().copied().collect::<Option<Vec<f64>>>() {
                Some(scores) => {
                    let (low, high) = ends(&scores);
                    let place = |input: usize| (input, places[input].unwrap_or_default());
                    chosen[LOWER].push(place(low));
                    chosen[HIGHER].push(place(high));
                }
                None => self.refuse(&key, &places, &inputs, column, cx)?,
            }
        }
        for output in [LOWER, HIGHER] {
            self.emit(output, &chosen[output], &inputs, cx)?;
        }
        Ok(())
    }

    fn read(&self, column: &str, cx: &NodeCx) -> Result<Vec<Input>, RunError> {
        let mut held = Held::new(cx, "the answers to choose from");
        let producers: Vec<&NodeName> = cx.inputs().iter().map(|i| &i.producer).collect();
        let mut inputs = Vec::new();
        for (index, input) in cx.inputs().iter().enumerate() {
            let mut all = Vec::new();
            for batch in batches(cx, index)? {
                let batch = batch?;
                held.add_batch(&batch)?;
                all.push(batch);
            }
            let rows = concat_batches(&input.schema, &all).map_err(arrow_failed)?;
            let keys = rows.column_by_name(&self.key.value).map(|c| texts(c, Format::default()));
            let label = match self.labels.get(index) {
                Some(label) => label.value.clone(),
                None => gather::distinguishing(&producers, index),
            };
            inputs.push(Input { scores: scores(&rows, column)?, keys: keys.unwrap_or_default(), rows, label });
        }
        Ok(inputs)
    }

    /// For every question its row in each input, in the order in which questions are first met.
    fn questions(&self, inputs: &[Input], cx: &NodeCx) -> Result<IndexMap<String, Vec<Option<usize>>>, RunError> {
        let mut questions: IndexMap<String, Vec<Option<usize>>> = IndexMap::new();
        for (at, input) in inputs.iter().enumerate() {
            for (row, key) in input.keys.iter().enumerate() {
                let Some(key) = key else {
                    reject_row(cx, &input.rows, row, "null-value", format!("`{}` has no value", self.key.value))?;
                    continue;
                };
                let places = questions.entry(key.clone()).or_insert_with(|| vec![None; inputs.len()]);
                if places[at].is_some() {
                    let message = format!("`{}` has a second row with {} {key:?}", input.label, self.key.value);
                    reject_row(cx, &input.rows, row, "duplicate-key", message)?;
                    continue;
                }
                places[at] = Some(row);
            }
        }
        Ok(questions)
    }

    /// Sends all answers to a question to quarantine because one is missing or cannot be compared.
    fn refuse(
        &self,
        key: &str,
        places: &[Option<usize>],
        inputs: &[Input],
        column: &str,
        cx: &NodeCx,
    ) -> Result<(), RunError> {
        let wrong = |at: usize| match places[at] {
            None => {
                Some(("no-counterpart", format!("`{}` has no row with {} {key:?}", inputs[at].label, self.key.value)))
            }
            Some(row) => match score(&inputs[at].scores, row) {
                Err((reason, message)) => Some((reason, format!("`{column}` {message} in `{}`", inputs[at].label))),
                Ok(_) => None,
            },
        };
        let first = (0..inputs.len()).find_map(wrong);
        for (at, input) in inputs.iter().enumerate() {
            let Some(row) = places[at] else { continue };
            if let Some((reason, message)) = wrong(at).or_else(|| first.clone()) {
                reject_row(cx, &input.rows, row, reason, message)?;
            }
        }
        Ok(())
    }

    fn emit(&self, output: usize, chosen: &[(usize, usize)], inputs: &[Input], cx: &NodeCx) -> Result<(), RunError> {
        if chosen.is_empty() {
            return Ok(());
        }
        let schema = cx.output_schema(output);
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in schema.fields().iter().take(schema.fields().len() - 1) {
            let of_inputs: Vec<ArrayRef> =
                inputs.iter().map(|i| gather::column(&i.rows, field)).collect::<Result<_, _>>()?;
            let arrays: Vec<&dyn Array> = of_inputs.iter().map(|a| a.as_ref()).collect();
            columns.push(interleave(&arrays, chosen).map_err(arrow_failed)?);
        }
        let sources = chosen.iter().map(|(input, _)| inputs[*input].label.as_str());
        columns.push(Arc::new(StringArray::from_iter_values(sources)));
        emit_in_batches(cx, output, &RecordBatch::try_new(schema, columns).map_err(arrow_failed)?)
    }
}

/// The place of the lowest score and, of the others, that of the highest; the first where scores are equal.
fn ends(scores: &[f64]) -> (usize, usize) {
    let first = |places: &mut dyn Iterator<Item = usize>, better: fn(f64, f64) -> bool| {
        places.reduce(|best, at| if better(scores[at], scores[best]) { at } else { best }).unwrap_or(0)
    };
    let low = first(&mut (0..scores.len()), |a, b| a < b);
    let high = first(&mut (0..scores.len()).filter(|at| *at != low), |a, b| a > b);
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::ends;

    #[test]
    fn ties_go_to_the_first() {
        assert_eq!(ends(&[2.0, 1.0]), (1, 0));
        assert_eq!(ends(&[1.0, 1.0]), (0, 1));
        assert_eq!(ends(&[3.0, 1.0, 3.0, 1.0]), (1, 0));
        assert_eq!(ends(&[2.0, 2.0, 2.0]), (0, 1));
        assert_eq!(ends(&[1.0, f64::INFINITY]), (0, 1));
    }
}
