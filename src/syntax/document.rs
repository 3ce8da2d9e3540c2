//! The syntax tree: nodes, entries and blocks, each with the bytes that it was written in.

use crate::diag::{Span, Spanned};

/// A parsed source text. Comments and slashdashed parts are gone; the formatter works on tokens and keeps them.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub nodes: Vec<Node>,
    /// The whole text.
    pub span: Span,
}

/// `(annotation)name entry entry { block }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub annotation: Option<Spanned<String>>,
    pub name: Spanned<String>,
    /// Arguments and properties, in the order of the text.
    pub entries: Vec<Entry>,
    pub children: Option<Block>,
    /// From the annotation or name to the last entry or the closing brace.
    pub span: Span,
    /// An error inside was already reported, so that parts may be missing.
    pub broken: bool,
}

/// `{ ... }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub nodes: Vec<Node>,
    /// Both braces included.
    pub span: Span,
}

/// An argument (`"a"`) or a property (`name="a"`).
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key of a property.
    pub name: Option<Spanned<String>>,
    pub annotation: Option<Spanned<String>>,
    /// The span covers the value alone, with its quotes.
    pub value: Spanned<Scalar>,
    /// Where a string's characters stand in the source, when they are written there one to one (no escapes): lets
    /// messages point inside a string.
    pub verbatim: Option<Span>,
    /// Key, annotation and value.
    pub span: Span,
}

/// A KDL value. Integers beyond 64 bits are an error of the parser.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
}

impl Scalar {
    /// What it is, for messages: `a string`, `an integer`.
    pub fn kind(&self) -> &'static str {
        match self {
            Scalar::Null => "null",
            Scalar::Bool(_) => "a boolean",
            Scalar::Int(_) => "an integer",
            Scalar::Float(_) => "a number",
            Scalar::Str(_) => "a string",
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Scalar::Str(s) => Some(s),
            _ => None,
        }
    }
}

impl Node {
    /// The node or one inside it has an error that was already reported.
    pub fn is_broken(&self) -> bool {
        self.broken || self.child_nodes().iter().any(Node::is_broken)
    }

    /// The arguments: entries without a key.
    pub fn arguments(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| e.name.is_none())
    }

    /// The properties: entries with a key.
    pub fn properties(&self) -> impl Iterator<Item = (&Spanned<String>, &Entry)> {
        self.entries.iter().filter_map(|e| e.name.as_ref().map(|n| (n, e)))
    }

    /// The nodes of the block; none when there is no block.
    pub fn child_nodes(&self) -> &[Node] {
        self.children.as_ref().map_or(&[], |b| &b.nodes)
    }
}
