//! What every row-wise reader gives: one entry for each row, with its place, and its cells or what is wrong.

use crate::exec::RunError;
use serde_json::Value;
use std::borrow::Cow;

/// No row may be larger: a file without the separators of its format would otherwise be read whole.
pub const MAX_ROW_BYTES: usize = 256 << 20;

/// Reads rows one at a time.
pub trait RowReader: Send {
    /// The next row. An error is the machine's; what is wrong with the file is a [`Fault`].
    fn next(&mut self) -> Result<Option<Entry<'_>>, RunError>;
}

/// One row of a file.
pub struct Entry<'a> {
    pub place: Place,
    pub body: Result<Body<'a>, Fault>,
}

/// Where in a file a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// From 1.
    Line(u64),
    /// From 0.
    Index(u64),
}

impl Place {
    /// `data.jsonl:17` or `data.json#16`.
    pub fn within(self, file: impl std::fmt::Display) -> String {
        match self {
            Self::Line(line) => format!("{file}:{line}"),
            Self::Index(index) => format!("{file}#{index}"),
        }
    }
}

/// A row as it is in the file.
pub enum Body<'a> {
    Json(&'a [u8]),
    Csv { header: &'a [String], record: &'a csv::ByteRecord },
}

impl Body<'_> {
    /// Field names and values.
    pub fn cells(&self) -> Result<Cells<'_>, Fault> {
        match self {
            Self::Json(bytes) => super::json::cells(bytes),
            Self::Csv { header, record } => super::csv::cells(header, record),
        }
    }

    /// Bytes of the row as it is in the file, with one that ends it.
    pub fn size(&self) -> usize {
        match self {
            Self::Json(bytes) => bytes.len() + 1,
            Self::Csv { record, .. } => record.as_slice().len() + record.len(),
        }
    }

    /// The row as JSON, for quarantine.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Json(bytes) => serde_json::from_slice(bytes).unwrap_or_else(|_| excerpt(bytes)),
            Self::Csv { header, record } => {
                let cell = |(i, v): (usize, &[u8])| {
                    let name = header.get(i).cloned().unwrap_or_else(|| format!("#{i}"));
                    (name, Value::String(String::from_utf8_lossy(v).into_owned()))
                };
                Value::Object(record.iter().enumerate().map(cell).collect())
            }
        }
    }
}

/// Field names and values of a row, in the order of the file.
pub type Cells<'a> = Vec<(Cow<'a, str>, Cell<'a>)>;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// A list of texts and nulls.
    Texts(Vec<Option<String>>),
    /// Anything else: an object, another list, an integer beyond 64 bits.
    Nested(Value),
    /// A text that may stand for a value of another type (CSV).
    Untyped(&'a str),
}

impl Cell<'_> {
    /// A list: of texts if it holds nothing else.
    pub fn list(items: Vec<Value>) -> Self {
        if !items.iter().all(|i| matches!(i, Value::String(_) | Value::Null)) {
            return Self::Nested(Value::Array(items));
        }
        let text = |i: Value| match i {
            Value::String(s) => Some(s),
            _ => None,
        };
        Self::Texts(items.into_iter().map(text).collect())
    }
}

/// What is wrong with a row, or with the rest of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub reason: &'static str,
    pub message: String,
    /// The row as far as it is known.
    pub row: Value,
    /// Nothing more can be read from the file.
    pub ends: bool,
}

impl Fault {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), row: Value::Null, ends: false }
    }

    /// Shows the beginning of the bytes at fault.
    pub fn excerpt(mut self, bytes: &[u8]) -> Self {
        self.row = excerpt(bytes);
        self
    }

    /// Marks that the file ends here.
    pub fn ending(mut self) -> Self {
        self.ends = true;
        self
    }
}

/// Bytes that are no row, as text, the beginning of them.
pub fn excerpt(bytes: &[u8]) -> Value {
    const SHOWN: usize = 1000;
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
    if bytes.len() > SHOWN {
        text.push('…');
    }
    serde_json::json!({ "text": text })
}
