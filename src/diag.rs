//! One kind of message for every phase: syntax, configuration, graph, plan and run.
//!
//! A [`Diagnostic`] carries a stable code, a severity, a message that says what was expected and what was
//! found, labelled places in the source, and help that says what to do. Passes collect diagnostics in a
//! [`Diagnostics`] list and go on, so that a user sees all errors of a file at once.

pub mod codes;
mod render;

pub use render::{render, summary, to_json};

use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A source text known to a [`Sources`] table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SourceId(pub u32);

/// A half-open byte range of one source text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Span {
    pub source: SourceId,
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn new(source: SourceId, start: usize, end: usize) -> Self {
        Self { source, start: start as u32, end: end as u32 }
    }

    /// The byte range inside the source text.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// `0:17..21`: file and bytes. Short, because trees full of spans are printed in tests.
impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}..{}", self.source.0, self.start, self.end)
    }
}

/// A value with the place where it was written.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<T> Spanned<T> {
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: f(self.value), span: self.span }
    }

    pub fn as_ref(&self) -> Spanned<&T> {
        Spanned { value: &self.value, span: self.span }
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)?;
        write!(f, " @ {:?}", self.span)
    }
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// How bad it is. Only errors keep a plan from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Note,
    Warning,
    Error,
}

/// A place in a source text and what is to be seen there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
    /// The first primary label is the place that a reader goes to.
    pub primary: bool,
}

/// One message to the person who wrote the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable and kebab-case, such as `unknown-property`; listed in `docs/diagnostics.md`.
    pub code: &'static str,
    pub severity: Severity,
    pub message: String,
    pub labels: Vec<Label>,
    pub help: Vec<String>,
}

impl Diagnostic {
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, severity: Severity::Error, message: message.into(), labels: Vec::new(), help: Vec::new() }
    }

    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Adds the place that the message is about.
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into(), primary: true });
        self
    }

    /// Adds a place that explains the primary one.
    pub fn and(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into(), primary: false });
        self
    }

    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

const MAX_MESSAGES: usize = 100;

/// The messages of one or more passes, in the order in which they were found.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Says what to do about the last message.
    pub fn help_last(&mut self, text: impl Into<String>) {
        if let Some(last) = self.0.last_mut() {
            last.help.push(text.into());
        }
    }

    pub fn extend(&mut self, other: Diagnostics) {
        self.0.extend(other.0);
    }

    /// Keeps a hundred of the messages that came after the first `before`, and says how many there were more: nobody
    /// reads them, and a hostile file could have hundreds of thousands.
    pub fn limit(&mut self, before: usize) {
        let more = self.0.len().saturating_sub(before + MAX_MESSAGES);
        if more > 0 {
            let errors = self.0[before + MAX_MESSAGES..].iter().any(Diagnostic::is_error);
            self.0.truncate(before + MAX_MESSAGES);
            let make = if errors { Diagnostic::error } else { Diagnostic::warning };
            self.push(
                make("too-many-messages", format!("{more} more messages are not shown")).help("mend the first ones"),
            );
        }
    }

    pub fn has_errors(&self) -> bool {
        self.0.iter().any(Diagnostic::is_error)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }
}

/// One source text.
#[derive(Clone, Debug)]
pub struct Source {
    /// As the user named it: a path, or `<stdin>`.
    pub name: String,
    pub path: Option<PathBuf>,
    pub text: Arc<str>,
}

/// Every source text that spans point into.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&mut self, name: impl Into<String>, path: Option<&Path>, text: impl Into<Arc<str>>) -> SourceId {
        self.0.push(Source { name: name.into(), path: path.map(Path::to_path_buf), text: text.into() });
        SourceId((self.0.len() - 1) as u32)
    }

    pub fn get(&self, id: SourceId) -> &Source {
        &self.0[id.0 as usize]
    }

    /// Overwrites a place with asterisks, for secrets that must not be shown. Offsets stay valid.
    pub fn mask(&mut self, span: Span) {
        let source = &mut self.0[span.source.0 as usize];
        let (range, text) = (span.range(), &source.text);
        if let (Some(before), Some(after)) = (text.get(..range.start), text.get(range.end..)) {
            source.text = format!("{before}{}{after}", "*".repeat(range.len())).into();
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        self.0.iter().enumerate().map(|(i, s)| (SourceId(i as u32), s))
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub fn line_column(&self, id: SourceId, offset: u32) -> (usize, usize) {
        let text = &self.get(id).text;
        let mut end = (offset as usize).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        (line, column)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}
