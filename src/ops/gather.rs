//! Several inputs of one port as one table: rows one input after the other, with a column for each matrix axis that
//! the reader does not share with them, and a row with a `note` for each skipped one.

use super::expression::type_word;
use super::rows::{arrow_failed, batches};
use super::{ResolveCx, did_you_mean, list};
use crate::diag::{Diagnostic, Spanned};
use crate::exec::{NodeCx, RunError, RunInput};
use crate::plan::NodeName;
use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// The column that says why a row stands for something that is not there, or what to know about its numbers.
pub const NOTE: &str = "note";

/// The axes of the producers that the consumer lacks, in the order in which they are met.
pub fn free_axes<'a>(producers: impl Iterator<Item = &'a NodeName>, consumer: &NodeName) -> Vec<String> {
    let mut axes: Vec<String> = Vec::new();
    for (axis, _) in producers.flat_map(|p| &p.bindings.0) {
        if consumer.bindings.get(axis).is_none() && !axes.contains(axis) {
            axes.push(axis.clone());
        }
    }
    axes
}

/// A column that has one type in one input and another in another.
struct Clash {
    column: String,
    /// Positions of the inputs, and the types there.
    places: [(usize, DataType); 2],
}

/// The schema of the gathered inputs of a port. Every column may be null; integers that meet floats become floats.
pub fn schema(cx: &mut ResolveCx<'_>, port: &str) -> Option<SchemaRef> {
    let axes = free_axes(cx.inputs.iter().filter(|i| i.port == port).map(|i| &i.producer), cx.node);
    let columns = columns(cx, port)?;
    let skipped = cx.port(port).iter().any(|i| i.skipped.is_some());
    Some(with_extras(&columns, &axes, skipped))
}

/// Checks that the gathered schema has a column of a type that `accept` takes; otherwise reports an error that points
/// at the field that named it. `expected` names the type in words.
pub fn need_column(
    cx: &mut ResolveCx<'_>,
    schema: &Schema,
    column: &Spanned<String>,
    expected: &str,
    accept: impl Fn(&DataType) -> bool,
) -> bool {
    let found = match schema.field_with_name(column) {
        Ok(field) if accept(field.data_type()) => return true,
        Ok(field) => type_word(field.data_type()),
        Err(_) => {
            missing_column(cx, schema, column, "");
            return false;
        }
    };
    let message = format!("column `{}` is {found}, and `{}` needs {expected}", column.value, cx.op.name);
    cx.error(Diagnostic::error("column-type", message).at(column.span, format!("needs {expected}")));
    false
}

/// Reports that the gathered rows of the port `from` lack a column; `what_for` ends the message.
pub fn missing_column(cx: &mut ResolveCx<'_>, schema: &Schema, column: &Spanned<String>, what_for: &str) {
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let message = format!("`{}` has no column `{}`{what_for}", cx.node, column.value);
    let mut d = Diagnostic::error("column-missing", message)
        .at(column.span, "named here")
        .help(format!("there are {}", list(&names)));
    for input in cx.port("from").into_iter().filter(|i| i.skipped.is_none()).take(1) {
        d = d.and(input.producer_span, format!("`{}` gives the rows", input.producer));
    }
    if let Some(near) = did_you_mean(column, names.iter().copied()) {
        d = d.help(format!("did you mean `{near}`?"));
    }
    cx.error(d);
}

/// The columns of all inputs of a port. A column that an input lacks may be null.
pub fn columns(cx: &mut ResolveCx<'_>, port: &str) -> Option<SchemaRef> {
    let inputs = cx.port(port);
    let schemas: Vec<Option<&Schema>> =
        inputs.iter().map(|i| i.skipped.is_none().then_some(i.schema.as_ref())).collect();
    let clash = match unite(&schemas) {
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

/// The union of the columns; `None` stands for an input of which nothing is known.
fn unite(schemas: &[Option<&Schema>]) -> Result<SchemaRef, Clash> {
    let mut fields: Vec<(Field, usize, usize)> = Vec::new();
    let known = || schemas.iter().enumerate().filter_map(|(at, s)| Some((at, (*s)?)));
    for (at, schema) in known() {
        for field in schema.fields() {
            let kind = field.data_type();
            let Some((known, first, times)) = fields.iter_mut().find(|(f, ..)| f.name() == field.name()) else {
                fields.push((field.as_ref().clone(), at, 1));
                continue;
            };
            if known.data_type() != kind {
                if !known.data_type().is_numeric() || !kind.is_numeric() {
                    let places = [(*first, known.data_type().clone()), (at, kind.clone())];
                    return Err(Clash { column: field.name().clone(), places });
                }
                known.set_data_type(DataType::Float64);
            }
            known.set_nullable(known.is_nullable() || field.is_nullable());
            *times += 1;
        }
    }
    let inputs = known().count();
    let field = |(f, _, times): (Field, usize, usize)| if times < inputs { f.with_nullable(true) } else { f };
    Ok(Arc::new(Schema::new(fields.into_iter().map(field).collect::<Vec<_>>())))
}

/// The axes first, then the columns, and a `note` where an input is skipped. Every column may be null.
fn with_extras(columns: &Schema, axes: &[String], skipped: bool) -> SchemaRef {
    let has = |name: &str| columns.field_with_name(name).is_ok();
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let mut all: Vec<Field> = axes.iter().filter(|a| !has(a)).map(|a| text(a)).collect();
    all.extend(columns.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)));
    all.extend((skipped && !has(NOTE)).then(|| text(NOTE)));
    Arc::new(Schema::new(all))
}

/// What tells one producer from the others: the axis values in which they differ, or its name where names differ.
pub fn distinguishing(producers: &[&NodeName], at: usize) -> String {
    let own = producers[at];
    let others = || producers.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, p)| *p);
    let differs = |(axis, value): &&(String, String)| others().any(|o| o.bindings.get(axis) != Some(value));
    let values: Vec<&str> = own.bindings.0.iter().filter(differs).map(|(_, v)| v.as_str()).collect();
    let same_name = others().all(|o| o.base == own.base);
    match (values.is_empty(), same_name) {
        (false, true) => values.join(", "),
        (false, false) => format!("{}, {}", own.base, values.join(", ")),
        (true, _) => own.base.clone(),
    }
}

/// The gathered rows of a port, batch by batch.
pub fn rows(cx: &NodeCx, port: &'static str) -> Result<(SchemaRef, Gathered), RunError> {
    let inputs: Vec<(usize, RunInput)> =
        cx.inputs().iter().cloned().enumerate().filter(|(_, i)| i.port == port).collect();
    let schemas: Vec<Option<&Schema>> =
        inputs.iter().map(|(_, i)| i.skipped.is_none().then_some(i.schema.as_ref())).collect();
    let columns = unite(&schemas).map_err(|c| {
        RunError::failed("column-type", format!("column `{}` has different types in the inputs", c.column))
    })?;
    let axes = free_axes(inputs.iter().map(|(_, i)| &i.producer), cx.node());
    let schema = with_extras(&columns, &axes, schemas.contains(&None));
    Ok((schema.clone(), Gathered { cx: cx.clone(), schema, axes, inputs: inputs.into_iter(), open: None }))
}

/// Batches of the gathered schema.
pub struct Gathered {
    cx: NodeCx,
    schema: SchemaRef,
    axes: Vec<String>,
    inputs: std::vec::IntoIter<(usize, RunInput)>,
    open: Option<(RunInput, crate::exec::BatchStream)>,
}

impl Iterator for Gathered {
    type Item = Result<RecordBatch, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((input, stream)) = &mut self.open {
                if let Some(batch) = stream.next() {
                    return Some(batch.and_then(|b| fitted(&b, &self.schema, &self.axes, &input.producer)));
                }
                self.open = None;
            }
            let (index, input) = self.inputs.next()?;
            if let Some(reason) = &input.skipped {
                let note = [(NOTE, format!("skipped: {reason}"))];
                return Some(stand_in(&self.schema, &self.axes, &input.producer, &note));
            }
            match batches(&self.cx, index) {
                Ok(stream) => self.open = Some((input, Box::new(stream))),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A batch in the columns of a schema, with the producer's values for the axes that the batch lacks.
pub fn fitted(
    batch: &RecordBatch,
    schema: &SchemaRef,
    axes: &[String],
    producer: &NodeName,
) -> Result<RecordBatch, RunError> {
    let own = |field: &Arc<Field>| -> Result<ArrayRef, RunError> {
        if axes.contains(field.name()) && batch.column_by_name(field.name()).is_none() {
            let value = producer.bindings.get(field.name());
            return Ok(Arc::new(StringArray::from(vec![value; batch.num_rows()])));
        }
        column(batch, field)
    };
    let columns = schema.fields().iter().map(own).collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(arrow_failed)
}

/// A batch's column in the type of the gathered one; nulls where it has none.
pub fn column(batch: &RecordBatch, field: &Field) -> Result<ArrayRef, RunError> {
    match batch.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
        Some(column) => cast(column, field.data_type()).map_err(arrow_failed),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    }
}

/// The row that stands for a skipped input: its axis values, and texts by column.
pub fn stand_in(
    schema: &SchemaRef,
    axes: &[String],
    producer: &NodeName,
    texts: &[(&str, String)],
) -> Result<RecordBatch, RunError> {
    let column = |field: &Arc<Field>| -> ArrayRef {
        let text = texts.iter().find(|(name, _)| name == field.name()).map(|(_, text)| text.as_str());
        let axis = || producer.bindings.get(field.name()).filter(|_| axes.contains(field.name()));
        match text.or_else(axis) {
            Some(text) if *field.data_type() == DataType::Utf8 => Arc::new(StringArray::from(vec![text])),
            _ => new_null_array(field.data_type(), 1),
        }
    };
    RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect()).map_err(arrow_failed)
}
