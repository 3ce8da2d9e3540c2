//! KDL 2 text -> [`Document`] with exact spans; the formatter.
//!
//! Our own parser, which takes linear time and bounded stack on every input, gives every key and value its byte range,
//! words the errors and goes on after them; what a sound text means is then taken from the `kdl` crate (`values`).

mod braces;
mod document;
mod format;
mod lexer;
mod number;
mod parser;
mod string;
mod values;

pub use document::{Block, Document, Entry, Node, Scalar};
pub use format::format;
pub use parser::parse;

/// Longest source text, in bytes. Pipelines are written by people; what is longer is another kind of file.
pub const MAX_BYTES: usize = 1 << 20;
/// Most values of a node, and most nodes of a block.
pub const MAX_ITEMS: usize = 10_000;
/// Deepest nesting of blocks. The language itself needs four.
pub const MAX_DEPTH: usize = 64;

#[cfg(test)]
mod tests;
