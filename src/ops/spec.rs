//! What an operator says of itself: its inputs, outputs and fields.
//!
//! One [`OpSpec`] drives decoding, type checking, `docs/operators.md`, shell completion and
//! `idiolect op show`. The decoder (`config`) reads a KDL node by its spec into [`Fields`]; the operator's
//! `build` turns fields into an [`Operator`](super::Operator).

use crate::diag::{Diagnostics, Span, Spanned};
use crate::eval::task::Task;
use indexmap::IndexMap;
use std::sync::Arc;

/// The registry entry of an operator.
pub struct OpSpec {
    /// The node name in KDL: the field's words in kebab case.
    pub name: &'static str,
    /// One line, without a full stop.
    pub summary: &'static str,
    /// Markdown: what it does, why, what columns it adds, how it fails.
    pub doc: &'static str,
    /// Part of every fingerprint; raised whenever the same inputs give other bytes.
    pub version: u32,
    pub inputs: &'static [InputSpec],
    pub outputs: &'static [OutputSpec],
    pub fields: &'static [FieldSpec],
    /// Gives files or a report to the user, so that nobody need read its outputs.
    pub sink: bool,
    /// A whole pipeline that checks without any file being present beyond those of the repository.
    pub example: &'static str,
    /// Makes the operator from decoded fields. Types, ranges and required fields are already checked;
    /// what only the operator can judge (an expression that does not parse) goes into the diagnostics.
    pub build: fn(&Fields, &mut Diagnostics) -> Option<Box<dyn super::Operator>>,
}

#[cfg(test)]
impl OpSpec {
    /// What operators made for a test begin with: one input, one output, nothing to decode or to build.
    pub const BLANK: Self = Self {
        name: "",
        summary: "",
        doc: "",
        version: 1,
        inputs: FROM,
        outputs: OUT,
        fields: &[],
        sink: false,
        example: "",
        build: |_, _| None,
    };
}

impl std::fmt::Debug for OpSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpSpec({})", self.name)
    }
}

/// An input port. Written as a property or child node of the port's name: `from="rows"`.
#[derive(Clone, Copy, Debug)]
pub struct InputSpec {
    pub name: &'static str,
    pub doc: &'static str,
    pub arity: Arity,
    /// A skipped producer reaches this port as an empty input that says why, instead of skipping the node.
    pub accepts_skipped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    One,
    Optional,
    /// One or more references; a reference to a node with free matrix axes gathers all its instances.
    Many,
}

/// An output port. The first is the default: `halves` means `halves.<first>`.
#[derive(Clone, Copy, Debug)]
pub struct OutputSpec {
    pub name: &'static str,
    pub doc: &'static str,
}

/// The single output of most operators.
pub const OUT: &[OutputSpec] = &[OutputSpec { name: "out", doc: "the rows" }];
/// The single input of most operators.
pub const FROM: &[InputSpec] =
    &[InputSpec { name: "from", doc: "the rows to work on", arity: Arity::One, accepts_skipped: false }];

/// A property (`limit=5`) or child node (`limit 5`) of an operator. Both forms mean the same; a field given
/// twice is an error that points at both places.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    pub name: &'static str,
    pub doc: &'static str,
    pub kind: FieldKind,
    pub required: bool,
    pub default: Default,
    /// Inside [`FieldKind::Records`]: taken from the arguments, in the order of the specs.
    pub positional: bool,
}

impl FieldSpec {
    pub const fn new(name: &'static str, kind: FieldKind, doc: &'static str) -> Self {
        Self { name, doc, kind, required: false, default: Default::None, positional: false }
    }
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }
    pub const fn default(mut self, default: Default) -> Self {
        self.default = default;
        self
    }
    pub const fn positional(mut self) -> Self {
        self.positional = true;
        self
    }
}

/// The value a field has when it is not written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    None,
    Str(&'static str),
    Int(i64),
    Float(f64),
    Bool(bool),
}

/// The type of a field.
#[derive(Clone, Copy, Debug)]
pub enum FieldKind {
    Str,
    /// A path of the user's files. A relative one is relative to the pipeline file that wrote it; operators get it
    /// resolved.
    Path,
    /// A polars SQL expression over the input's columns.
    Expr,
    /// A whole SQL query.
    Sql,
    /// The name of an input column.
    Column,
    /// The name of a `model` declaration.
    Model,
    /// The name of a `teacher` declaration.
    Teacher,
    /// The name of a `task`, declared or built in; the decoder puts the task in its place.
    Task,
    /// The name of a manifest in `datasets/`.
    Dataset,
    Int {
        min: i64,
        max: i64,
    },
    Float {
        min: f64,
        max: f64,
    },
    Bool,
    Choice(&'static [&'static str]),
    /// Any KDL scalar: string, number, boolean or null.
    Scalar,
    /// One or more values: `columns "a" "b"`. A single value may also be a property.
    List(&'static FieldKind),
    /// A block with one child per entry: `fields { question "prompt" }`. Order is kept.
    Map(&'static FieldKind),
    /// Repeated child nodes of the field's name, each with fields of its own:
    /// `value "mean_ppl" fn="mean" column="ppl"`.
    Records(&'static [FieldSpec]),
}

/// A decoded value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Spanned<Value>>),
    /// Key spans point at the key, value spans at the value.
    Map(IndexMap<String, (Span, Spanned<Value>)>),
    Records(Vec<Fields>),
    Task(Arc<Task>),
}

/// The decoded fields of a node (or of one record inside it): checked against the specs, defaults filled in.
///
/// Getters panic when the spec has no such field or kind: that is a mistake in the operator, caught by the
/// registry's meta-tests, never by input.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    pub values: IndexMap<&'static str, Spanned<Value>>,
    /// The node that holds them.
    pub span: Span,
}

impl Fields {
    /// The value and its place; `None` when not written and without default.
    pub fn get(&self, name: &str) -> Option<&Spanned<Value>> {
        self.values.get(name)
    }

    /// Where a field was written; the node itself for a default.
    pub fn span_of(&self, name: &str) -> Span {
        self.values.get(name).map_or(self.span, |v| v.span)
    }

    pub fn opt_str(&self, name: &str) -> Option<Spanned<String>> {
        self.get(name).map(|v| match &v.value {
            Value::Str(s) => Spanned::new(s.clone(), v.span),
            other => panic!("field `{name}` is {other:?}, not a string"),
        })
    }

    pub fn str(&self, name: &str) -> Spanned<String> {
        self.opt_str(name).unwrap_or_else(|| panic!("field `{name}` is neither required nor defaulted"))
    }

    pub fn opt_int(&self, name: &str) -> Option<Spanned<i64>> {
        self.get(name).map(|v| match v.value {
            Value::Int(i) => Spanned::new(i, v.span),
            ref other => panic!("field `{name}` is {other:?}, not an integer"),
        })
    }

    pub fn int(&self, name: &str) -> i64 {
        self.opt_int(name).unwrap_or_else(|| panic!("field `{name}` is neither required nor defaulted")).value
    }

    pub fn opt_float(&self, name: &str) -> Option<Spanned<f64>> {
        self.get(name).map(|v| match v.value {
            Value::Float(f) => Spanned::new(f, v.span),
            Value::Int(i) => Spanned::new(i as f64, v.span),
            ref other => panic!("field `{name}` is {other:?}, not a number"),
        })
    }

    pub fn float(&self, name: &str) -> f64 {
        self.opt_float(name).unwrap_or_else(|| panic!("field `{name}` is neither required nor defaulted")).value
    }

    pub fn opt_bool(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| match v.value {
            Value::Bool(b) => b,
            ref other => panic!("field `{name}` is {other:?}, not a boolean"),
        })
    }

    pub fn bool(&self, name: &str) -> bool {
        self.opt_bool(name).unwrap_or_else(|| panic!("field `{name}` is neither required nor defaulted"))
    }

    /// The task and the place of its name.
    pub fn task(&self, name: &str) -> Spanned<Arc<Task>> {
        match self.get(name).map(|v| (&v.value, v.span)) {
            Some((Value::Task(task), span)) => Spanned::new(task.clone(), span),
            other => panic!("field `{name}` is {other:?}, not a task"),
        }
    }

    /// The strings of a list field; empty when not written.
    pub fn strs(&self, name: &str) -> Vec<Spanned<String>> {
        let Some(v) = self.get(name) else { return Vec::new() };
        let Value::List(items) = &v.value else { panic!("field `{name}` is not a list") };
        let text = |i: &Spanned<Value>| match &i.value {
            Value::Str(s) => Spanned::new(s.clone(), i.span),
            other => panic!("field `{name}` holds {other:?}, not a string"),
        };
        items.iter().map(text).collect()
    }

    /// The numbers of a list field; empty when not written.
    pub fn floats(&self, name: &str) -> Vec<Spanned<f64>> {
        let Some(v) = self.get(name) else { return Vec::new() };
        let Value::List(items) = &v.value else { panic!("field `{name}` is not a list") };
        let number = |i: &Spanned<Value>| match i.value {
            Value::Float(f) => Spanned::new(f, i.span),
            Value::Int(n) => Spanned::new(n as f64, i.span),
            ref other => panic!("field `{name}` holds {other:?}, not a number"),
        };
        items.iter().map(number).collect()
    }

    /// The entries of a map field; empty when not written.
    pub fn map(&self, name: &str) -> IndexMap<String, (Span, Spanned<Value>)> {
        match self.get(name).map(|v| &v.value) {
            None => IndexMap::new(),
            Some(Value::Map(m)) => m.clone(),
            Some(other) => panic!("field `{name}` is {other:?}, not a map"),
        }
    }

    /// The entries of a map of strings.
    pub fn str_map(&self, name: &str) -> IndexMap<String, (Span, Spanned<String>)> {
        let text = |(k, (ks, v)): (String, (Span, Spanned<Value>))| match v.value {
            Value::Str(s) => (k, (ks, Spanned::new(s, v.span))),
            other => panic!("field `{name}` holds {other:?}, not a string"),
        };
        self.map(name).into_iter().map(text).collect()
    }

    /// The records of a repeated child; empty when not written.
    pub fn records(&self, name: &str) -> Vec<Fields> {
        match self.get(name).map(|v| &v.value) {
            None => Vec::new(),
            Some(Value::Records(r)) => r.clone(),
            Some(other) => panic!("field `{name}` is {other:?}, not records"),
        }
    }
}
