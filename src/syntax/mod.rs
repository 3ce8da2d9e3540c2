//! KDL 2 text -> [`Document`] with exact spans; the formatter.
//!
//! The parser is our own, because a pipeline file is untrusted text and its errors are what users see of us first: it
//! takes linear time and bounded stack on every input, gives every key and value its byte range, and goes on after an
//! error. `docs/architecture.md` has the measurements behind that choice.

mod document;
mod format;
mod lexer;
mod number;
mod parser;
mod string;

pub use document::{Block, Document, Entry, Node, Scalar};
pub use format::format;
pub use parser::parse;

/// Longest source text, in bytes. Pipelines are written by people; what is longer is another kind of file.
pub const MAX_BYTES: usize = 4 << 20;
/// Deepest nesting of blocks. The language itself needs four.
pub const MAX_DEPTH: usize = 64;

#[cfg(test)]
mod tests;
