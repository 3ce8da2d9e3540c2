//! The columns that a `load` gives, and rows fitted to them.

use super::reader::{Cell, Cells, Fault};
use crate::ops::expression::type_word;
use crate::ops::rows::{id_field, text_list};
use arrow::array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What values a column takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Strict: texts alone. Otherwise any value, numbers and structures as their JSON text.
    Text {
        strict: bool,
    },
    Int,
    Float,
    Bool,
    Texts,
    /// A type that only columnar files have.
    Exact(DataType),
}

/// The type names of `columns`; with `?` a value may be missing.
pub const KINDS: &[&str] =
    &["string", "string?", "text", "text?", "int", "int?", "float", "float?", "bool", "bool?", "list", "list?"];

impl Kind {
    /// The kind of a declared type, and whether a value may be missing.
    pub fn declared(word: &str) -> (Self, bool) {
        let (name, nullable) = match word.strip_suffix('?') {
            Some(name) => (name, true),
            None => (word, false),
        };
        let kind = match name {
            "int" => Self::Int,
            "float" => Self::Float,
            "bool" => Self::Bool,
            "list" => Self::Texts,
            other => Self::Text { strict: other == "string" },
        };
        (kind, nullable)
    }

    pub fn data_type(&self) -> DataType {
        match self {
            Self::Text { .. } => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Texts => text_list(),
            Self::Exact(data_type) => data_type.clone(),
        }
    }
}

/// One column of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct OutColumn {
    pub name: String,
    /// The field of the source that fills it.
    pub source: String,
    pub kind: Kind,
    pub nullable: bool,
}

/// Where row ids come from.
#[derive(Debug, Clone, PartialEq)]
pub enum IdFrom {
    Field(String),
    /// `<prefix>:<index>`.
    Index,
}

/// All columns of the output, and what is to be done with other fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub columns: Vec<OutColumn>,
    pub id: IdFrom,
    /// Fields of the source that are known and left out on purpose.
    pub left_out: HashSet<String>,
    /// Fields that no column takes are left out as well.
    pub only_mapped: bool,
}

impl Shape {
    pub fn schema(&self) -> SchemaRef {
        let column = |c: &OutColumn| Field::new(&c.name, c.kind.data_type(), c.nullable);
        let columns = self.columns.iter().map(column);
        Arc::new(Schema::new(std::iter::once(id_field()).chain(columns).collect::<Vec<_>>()))
    }
}

/// A value that fits its column.
enum Slot<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Texts(Vec<Option<String>>),
}

/// Fits a value to a kind of column; `Err` says what was found instead.
fn fit<'a>(cell: Cell<'a>, kind: &Kind) -> Result<Slot<'a>, String> {
    match (kind, cell) {
        (_, Cell::Null) => Ok(Slot::Null),
        (Kind::Text { .. }, Cell::Text(text)) => Ok(Slot::Text(text)),
        (Kind::Text { .. }, Cell::Untyped(text)) => Ok(Slot::Text(text.into())),
        (Kind::Text { strict: false }, other) => Ok(Slot::Text(as_json(other).to_string().into())),
        (Kind::Int, Cell::Int(int)) => Ok(Slot::Int(int)),
        (Kind::Int, Cell::Float(float)) if float.fract() == 0.0 && float.abs() < 9e15 => Ok(Slot::Int(float as i64)),
        (Kind::Int, Cell::Untyped(text)) => text.trim().parse().map(Slot::Int).map_err(|_| shown(text)),
        (Kind::Float, Cell::Float(float)) => Ok(Slot::Float(float)),
        (Kind::Float, Cell::Int(int)) => Ok(Slot::Float(int as f64)),
        (Kind::Float, Cell::Untyped(text)) => text.trim().parse().map(Slot::Float).map_err(|_| shown(text)),
        (Kind::Bool, Cell::Bool(bool)) => Ok(Slot::Bool(bool)),
        (Kind::Bool, Cell::Untyped(text)) => parse_bool(text).map(Slot::Bool).ok_or_else(|| shown(text)),
        (Kind::Texts, Cell::Texts(items)) => Ok(Slot::Texts(items)),
        (Kind::Texts, Cell::Untyped(text)) => match serde_json::from_str(text) {
            Ok(items) => Ok(Slot::Texts(items)),
            Err(_) => Err(shown(text)),
        },
        (_, other) => Err(shown(&as_json(other).to_string())),
    }
}

/// `true` and `false`, in any case.
pub fn parse_bool(text: &str) -> Option<bool> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

fn as_json(cell: Cell<'_>) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Bool(b) => b.into(),
        Cell::Int(i) => i.into(),
        Cell::Float(f) => f.into(),
        Cell::Text(t) => t.into_owned().into(),
        Cell::Untyped(t) => t.into(),
        Cell::Texts(items) => items.into_iter().map(Value::from).collect(),
        Cell::Nested(value) => value,
    }
}

/// The beginning of a value, for messages.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

/// The id that a value gives.
fn id_of(cell: Cell<'_>, field: &str) -> Result<String, Fault> {
    let wrong = |found: String| {
        Fault::new("bad-id", format!("field `{field}` names the row and must be a text or an integer, found {found}"))
    };
    match cell {
        Cell::Text(text) if !text.is_empty() => Ok(text.into_owned()),
        Cell::Untyped(text) => Ok(text.to_string()),
        Cell::Int(int) => Ok(int.to_string()),
        Cell::Text(_) => Err(wrong("an empty text".into())),
        other => Err(wrong(shown(&as_json(other).to_string()))),
    }
}

enum Builder {
    Text(StringBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Texts(ListBuilder<StringBuilder>),
}

impl Builder {
    fn new(kind: &Kind) -> Self {
        match kind {
            Kind::Text { .. } | Kind::Exact(_) => Self::Text(StringBuilder::new()),
            Kind::Int => Self::Int(Int64Builder::new()),
            Kind::Float => Self::Float(Float64Builder::new()),
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Texts => Self::Texts(ListBuilder::new(StringBuilder::new())),
        }
    }

    /// Appends a value that [`fit`] made for this column; returns its bytes.
    fn append(&mut self, slot: Slot<'_>) -> usize {
        match (self, slot) {
            (Self::Text(b), Slot::Text(text)) => {
                b.append_value(&text);
                text.len() + 4
            }
            (Self::Texts(b), Slot::Texts(items)) => {
                let bytes = items.iter().map(|i| i.as_ref().map_or(0, String::len) + 4).sum();
                b.append_value(items);
                bytes
            }
            (Self::Int(b), Slot::Int(v)) => {
                b.append_value(v);
                8
            }
            (Self::Float(b), Slot::Float(v)) => {
                b.append_value(v);
                8
            }
            (Self::Bool(b), Slot::Bool(v)) => {
                b.append_value(v);
                1
            }
            (builder, _) => {
                builder.append_null();
                4
            }
        }
    }

    fn append_null(&mut self) {
        match self {
            Self::Text(b) => b.append_null(),
            Self::Int(b) => b.append_null(),
            Self::Float(b) => b.append_null(),
            Self::Bool(b) => b.append_null(),
            Self::Texts(b) => b.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(b) => Arc::new(b.finish()),
            Self::Int(b) => Arc::new(b.finish()),
            Self::Float(b) => Arc::new(b.finish()),
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Texts(b) => Arc::new(b.finish()),
        }
    }
}

/// Builds batches from rows of cells.
pub struct TableBuilder<'s> {
    shape: &'s Shape,
    schema: SchemaRef,
    /// Which columns a field of the source fills.
    takers: HashMap<&'s str, Vec<usize>>,
    ids: StringBuilder,
    columns: Vec<Builder>,
    rows: usize,
    bytes: usize,
}

impl<'s> TableBuilder<'s> {
    pub fn new(shape: &'s Shape) -> Self {
        let mut takers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, column) in shape.columns.iter().enumerate() {
            takers.entry(&column.source).or_default().push(i);
        }
        let columns = shape.columns.iter().map(|c| Builder::new(&c.kind)).collect();
        let ids = StringBuilder::new();
        Self { shape, schema: shape.schema(), takers, ids, columns, rows: 0, bytes: 0 }
    }

    /// Adds a row, or says why it does not fit. `index` makes its id where no field does.
    pub fn push(&mut self, cells: Cells<'_>, index: impl FnOnce() -> String) -> Result<(), Fault> {
        let (id, slots) = self.fit(cells)?;
        let id = id.unwrap_or_else(index);
        self.bytes += id.len() + 4;
        self.ids.append_value(id);
        for (builder, slot) in self.columns.iter_mut().zip(slots) {
            self.bytes += builder.append(slot);
        }
        self.rows += 1;
        Ok(())
    }

    fn fit<'a>(&self, cells: Cells<'a>) -> Result<(Option<String>, Vec<Slot<'a>>), Fault> {
        let mut slots: Vec<Slot<'a>> = self.columns.iter().map(|_| Slot::Null).collect();
        let mut id = None;
        for (name, cell) in cells {
            let names_row = matches!(&self.shape.id, IdFrom::Field(field) if *field == name);
            if names_row {
                id = Some(id_of(cell.clone(), &name)?);
            }
            match self.takers.get(&*name).map(Vec::as_slice) {
                Some([column]) => slots[*column] = self.fit_column(*column, cell)?,
                Some(columns) => {
                    for column in columns {
                        slots[*column] = self.fit_column(*column, cell.clone())?;
                    }
                }
                None if names_row || self.shape.only_mapped || self.shape.left_out.contains(&*name) => {}
                None => return Err(unknown_field(&name)),
            }
        }
        let gap = |(column, slot): &(&OutColumn, &Slot)| !column.nullable && matches!(slot, Slot::Null);
        if let Some((column, _)) = self.shape.columns.iter().zip(&slots).find(gap) {
            return Err(null_value(column));
        }
        match &self.shape.id {
            IdFrom::Field(field) if id.is_none() => {
                Err(Fault::new("bad-id", format!("there is no field `{field}` to name the row")))
            }
            _ => Ok((id, slots)),
        }
    }

    fn fit_column<'a>(&self, column: usize, cell: Cell<'a>) -> Result<Slot<'a>, Fault> {
        let column = &self.shape.columns[column];
        fit(cell, &column.kind).map_err(|found| wrong_type(column, &found))
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the values held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows added since the last call.
    pub fn finish(&mut self) -> RecordBatch {
        (self.rows, self.bytes) = (0, 0);
        let ids: ArrayRef = Arc::new(self.ids.finish());
        let columns = std::iter::once(ids).chain(self.columns.iter_mut().map(Builder::finish)).collect();
        RecordBatch::try_new(self.schema.clone(), columns).expect("every row was fitted to the schema")
    }
}

fn unknown_field(name: &str) -> Fault {
    let message = format!(
        "field `{name}` is not among the fields of the first rows, from which the columns were taken; declare it under \
         `columns`, or take only the mapped fields with `only-mapped=#true`"
    );
    Fault::new("unknown-field", message)
}

/// A value that must not be missing is.
pub fn null_value(column: &OutColumn) -> Fault {
    let kind = type_word(&column.kind.data_type());
    let message = format!("column `{}` (field `{}`) must be {kind}, found null", column.name, column.source);
    Fault::new("null-value", message)
}

/// A value is not of its column's type.
pub fn wrong_type(column: &OutColumn, found: &str) -> Fault {
    let kind = type_word(&column.kind.data_type());
    Fault::new(
        "wrong-type",
        format!("column `{}` (field `{}`) must be {kind}, found {found}", column.name, column.source),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(columns: &[(&str, &str)]) -> Shape {
        let column = |(name, word): &(&str, &str)| {
            let (kind, nullable) = Kind::declared(word);
            OutColumn { name: name.to_string(), source: name.to_string(), kind, nullable }
        };
        let columns = columns.iter().map(column).collect();
        Shape { columns, id: IdFrom::Index, left_out: HashSet::new(), only_mapped: false }
    }

    fn push(shape: &Shape, row: &str) -> Result<Value, Fault> {
        let mut builder = TableBuilder::new(shape);
        builder.push(super::super::json::cells(row.as_bytes()).unwrap(), || "x:0".into())?;
        let mut value = crate::ops::rows::row_json(&builder.finish(), 0);
        value.as_object_mut().unwrap().shift_remove("id");
        Ok(value)
    }

    #[test]
    fn values_widen_but_are_never_bent() {
        let all = shape(&[("s", "text?"), ("i", "int?"), ("f", "float?"), ("b", "bool?"), ("l", "list?")]);
        let row = push(&all, r#"{"s":{"a":[1.5]},"i":3.0,"f":2,"b":true,"l":["x",null]}"#).unwrap();
        assert_eq!(row.to_string(), r#"{"s":"{\"a\":[1.5]}","i":3,"f":2.0,"b":true,"l":["x",null]}"#);
        for (row, reason) in [
            (r#"{"i":3.5}"#, "wrong-type"),
            (r#"{"i":"3"}"#, "wrong-type"),
            (r#"{"f":"x"}"#, "wrong-type"),
            (r#"{"b":1}"#, "wrong-type"),
            (r#"{"l":[1]}"#, "wrong-type"),
            (r#"{"i":18446744073709551615}"#, "wrong-type"),
            (r#"{"new":1}"#, "unknown-field"),
        ] {
            assert_eq!(push(&all, row).unwrap_err().reason, reason, "{row}");
        }
        assert_eq!(push(&all, r#"{"s":18446744073709551615}"#).unwrap()["s"], "18446744073709551615");
    }

    #[test]
    fn strict_text_takes_no_number_and_no_null() {
        let strict = shape(&[("q", "string")]);
        assert_eq!(push(&strict, r#"{"q":""}"#).unwrap()["q"], "");
        assert_eq!(push(&strict, r#"{"q":5}"#).unwrap_err().message, "column `q` (field `q`) must be text, found 5");
        assert_eq!(push(&strict, r#"{"q":null}"#).unwrap_err().reason, "null-value");
        assert_eq!(push(&strict, "{}").unwrap_err().reason, "null-value");
    }

    #[test]
    fn a_row_at_fault_leaves_nothing_behind() {
        let strict = shape(&[("a", "int"), ("b", "string")]);
        let mut builder = TableBuilder::new(&strict);
        let cells = |t: &'static str| super::super::json::cells(t.as_bytes()).unwrap();
        assert!(builder.push(cells(r#"{"a":1,"b":null}"#), || "x:0".into()).is_err());
        builder.push(cells(r#"{"a":2,"b":"two"}"#), || "x:1".into()).unwrap();
        let batch = builder.finish();
        assert_eq!(crate::ops::rows::row_json(&batch, 0).to_string(), r#"{"id":"x:1","a":2,"b":"two"}"#);
        assert_eq!(batch.num_rows(), 1);
    }
}
