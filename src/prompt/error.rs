//! What can be wrong with a template, and with what it is given.

use super::InputKind;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// A template file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptError {
    pub path: PathBuf,
    /// From 1.
    pub line: Option<usize>,
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl PromptError {
    pub(super) fn new(path: &Path, line: Option<usize>, message: impl Into<String>) -> Self {
        Self { path: path.to_path_buf(), line, message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// `prompts/mine.jinja:7: message`.
impl fmt::Display for PromptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for PromptError {}

/// A row that a template cannot be rendered for. Who renders adds the row's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderError {
    pub template: String,
    /// Line of the template, from 1.
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template `{}`", self.template)?;
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for RenderError {}

/// What an input should be, with its article.
pub(super) fn a_kind(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Text => "text",
        InputKind::Number => "a number",
        InputKind::List => "a list",
        InputKind::Flag => "true or false",
        InputKind::Any => "a value",
    }
}

/// What a value is, with its article.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a record",
    }
}
