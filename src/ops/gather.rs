//! Several inputs of one port as one table: rows one input after the other, with a column for each matrix axis that
//! the reader does not share with them, and a row with a `note` for each skipped one.

use super::ResolveCx;
use super::rows::{arrow_failed, batches};
use crate::diag::Diagnostic;
use crate::exec::{NodeCx, RunError, RunInput};
use crate::plan::NodeName;
use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// The column that says why a row stands for something that is not there, or what to know about its numbers.
pub const NOTE: &str = "note";

/// One input as far as its columns matter.
struct Part<'a> {
    producer: &'a NodeName,
    schema: &'a Schema,
    skipped: bool,
}

/// A column that has one type in one input and another in another.
struct Clash {
    column: String,
    /// Positions of the inputs, and the types there.
    places: [(usize, DataType); 2],
}

/// The schema of the gathered inputs of a port. Every column may be null; integers that meet floats become floats.
pub fn schema(cx: &mut ResolveCx<'_>, port: &str) -> Option<SchemaRef> {
    let inputs = cx.port(port);
    let part = |i: &&crate::plan::InputInfo| i.skipped.is_some();
    let parts: Vec<Part> =
        inputs.iter().map(|i| Part { producer: &i.producer, schema: &i.schema, skipped: part(i) }).collect();
    let clash = match unite(cx.node, &parts) {
        Ok(schema) => return Some(schema),
        Err(clash) => clash,
    };
    let message = format!("column `{}` has different types in the inputs of `{}`", clash.column, cx.node);
    let [(first, first_kind), (second, second_kind)] = clash.places;
    let text = |at: usize, kind: DataType| format!("{kind} in `{}`", inputs[at].producer);
    cx.error(
        Diagnostic::error("column-type", message)
            .at(inputs[second].span, text(second, second_kind))
            .and(inputs[first].producer_span, text(first, first_kind))
            .help("give the columns one type with `derive`, or leave the column out with `select`"),
    );
    None
}

fn unite(node: &NodeName, parts: &[Part<'_>]) -> Result<SchemaRef, Clash> {
    let mut fields: Vec<(Field, usize)> = Vec::new();
    for (at, part) in parts.iter().enumerate().filter(|(_, p)| !p.skipped) {
        for field in part.schema.fields() {
            let kind = field.data_type();
            match fields.iter_mut().find(|(f, _)| f.name() == field.name()) {
                None => fields.push((field.as_ref().clone().with_nullable(true), at)),
                Some((known, _)) if known.data_type() == kind => {}
                Some((known, _)) if known.data_type().is_numeric() && kind.is_numeric() => {
                    known.set_data_type(DataType::Float64);
                }
                Some((known, first)) => {
                    let places = [(*first, known.data_type().clone()), (at, kind.clone())];
                    return Err(Clash { column: field.name().clone(), places });
                }
            }
        }
    }
    let has = |name: &str| fields.iter().any(|(f, _)| f.name() == name);
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let mut all: Vec<Field> = axes(node, parts).into_iter().filter(|a| !has(a)).map(text).collect();
    let note = parts.iter().any(|p| p.skipped) && !has(NOTE);
    all.extend(fields.into_iter().map(|(f, _)| f));
    all.extend(note.then(|| text(NOTE)));
    Ok(Arc::new(Schema::new(all)))
}

/// The axes of the producers that the reader lacks, in the order of the matrix.
fn axes<'a>(node: &NodeName, parts: &[Part<'a>]) -> Vec<&'a str> {
    let mut axes: Vec<&str> = Vec::new();
    for (axis, _) in parts.iter().flat_map(|p| &p.producer.bindings.0) {
        if node.bindings.get(axis).is_none() && !axes.contains(&axis.as_str()) {
            axes.push(axis);
        }
    }
    axes
}

/// The gathered rows of a port, batch by batch.
pub fn rows(cx: &NodeCx, port: &'static str) -> Result<(SchemaRef, Gathered), RunError> {
    let inputs: Vec<(usize, RunInput)> =
        cx.inputs().iter().cloned().enumerate().filter(|(_, i)| i.port == port).collect();
    let parts: Vec<Part> = inputs
        .iter()
        .map(|(_, i)| Part { producer: &i.producer, schema: &i.schema, skipped: i.skipped.is_some() })
        .collect();
    let schema = unite(cx.node(), &parts).map_err(|c| {
        RunError::failed("column-type", format!("column `{}` has different types in the inputs", c.column))
    })?;
    Ok((schema.clone(), Gathered { cx: cx.clone(), schema, inputs: inputs.into_iter(), open: None }))
}

/// Batches of the gathered schema.
pub struct Gathered {
    cx: NodeCx,
    schema: SchemaRef,
    inputs: std::vec::IntoIter<(usize, RunInput)>,
    open: Option<(RunInput, crate::exec::BatchStream)>,
}

impl Iterator for Gathered {
    type Item = Result<RecordBatch, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((input, stream)) = &mut self.open {
                if let Some(batch) = stream.next() {
                    return Some(batch.and_then(|b| conform(&b, input, &self.schema)));
                }
                self.open = None;
            }
            let (index, input) = self.inputs.next()?;
            if let Some(reason) = &input.skipped {
                return Some(skipped_row(reason, &input, &self.schema));
            }
            match batches(&self.cx, index) {
                Ok(stream) => self.open = Some((input, Box::new(stream))),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn conform(batch: &RecordBatch, input: &RunInput, schema: &SchemaRef) -> Result<RecordBatch, RunError> {
    let column = |field: &Arc<Field>| -> Result<ArrayRef, RunError> {
        match (batch.column_by_name(field.name()), input.producer.bindings.get(field.name())) {
            (Some(column), _) if column.data_type() == field.data_type() => Ok(column.clone()),
            (Some(column), _) => cast(column, field.data_type()).map_err(arrow_failed),
            (None, Some(value)) if *field.data_type() == DataType::Utf8 => {
                Ok(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, batch.num_rows()))))
            }
            (None, _) => Ok(new_null_array(field.data_type(), batch.num_rows())),
        }
    };
    let columns: Vec<ArrayRef> = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(arrow_failed)
}

/// What stands for a skipped input: its axis values and the reason.
fn skipped_row(reason: &str, input: &RunInput, schema: &SchemaRef) -> Result<RecordBatch, RunError> {
    let column = |field: &Arc<Field>| -> ArrayRef {
        match input.producer.bindings.get(field.name()) {
            _ if field.name() == NOTE => Arc::new(StringArray::from(vec![format!("skipped: {reason}")])),
            Some(value) if *field.data_type() == DataType::Utf8 => Arc::new(StringArray::from(vec![value])),
            _ => new_null_array(field.data_type(), 1),
        }
    };
    RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect()).map_err(arrow_failed)
}
