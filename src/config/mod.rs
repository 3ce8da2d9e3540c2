//! Document -> [`Pipeline`]: includes read, parameters bound, sweeps expanded, nodes decoded by their specs.

mod declarations;
mod fields;
mod files;
pub mod language;
mod load;
mod matrix;
mod operators;
mod params;
mod paths;
pub mod reader;
mod scope;
pub mod tasks;
mod teachers;

pub use fields::expected;
pub use files::{read_text, utf8};
pub use load::{Input, decode_fields, load, load_text, load_with};
pub use paths::RELATIVE;
pub use teachers::{Api, Budget, Hosted, Limits, Price, Replay, ReplayFrom, TeacherDecl, TeacherSource};

use crate::diag::{Span, Spanned};
use crate::ops::{Fields, OpSpec};
use crate::plan::NodeName;
use indexmap::IndexMap;
use std::path::PathBuf;

/// A decoded pipeline file with everything it includes.
#[derive(Debug)]
pub struct Pipeline {
    pub name: String,
    pub doc: String,
    /// Fixes every random choice of the run.
    pub seed: u64,
    pub params: IndexMap<String, Param>,
    pub models: IndexMap<String, ModelDecl>,
    pub teachers: IndexMap<String, TeacherDecl>,
    pub options: RunOptions,
    /// One entry for each node instance, after sweeps are expanded, in the order of the file.
    pub nodes: Vec<NodeDecl>,
    /// Names of nodes that are declared but could not be decoded, which is already reported: a reference to
    /// one of them is not reported again.
    pub failed_nodes: Vec<String>,
}

/// A parameter and the value it has in this run.
#[derive(Debug, Clone)]
pub struct Param {
    pub name: String,
    pub doc: String,
    /// `string`, `int`, `float`, `bool`, `path` or `list`.
    pub kind: &'static str,
    pub value: crate::ops::Value,
    /// Whether the command line set it.
    pub given: bool,
    pub span: Span,
}

/// A declared model.
#[derive(Debug, Clone)]
pub struct ModelDecl {
    pub name: String,
    pub source: ModelSource,
    /// `f32`, `bf16` or `quantized` (as loaded from GGUF).
    pub dtype: Spanned<String>,
    /// Overrides the context length of the weights' own configuration.
    pub context: Option<Spanned<u32>>,
    /// A chat template file that replaces the model's own.
    pub chat_template: Option<Spanned<PathBuf>>,
    pub span: Span,
}

/// What becomes of a node that nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unused {
    /// It runs: its rows are wanted in the store.
    Run,
    /// It is left out, with what only it reads.
    Skip,
}

impl ModelDecl {
    /// Whose weights it has, whatever it is called and in whatever number format it computes.
    pub fn weights(&self) -> String {
        match &self.source {
            ModelSource::Manifest(name) => format!("data set `{}`", name.value),
            ModelSource::Hub { repo, revision, file } => {
                let part = |sign: char, p: &Option<Spanned<String>>| {
                    p.as_ref().map(|text| format!("{sign}{}", text.value)).unwrap_or_default()
                };
                format!("`{}{}{}`", repo.value, part('@', revision), part('/', file))
            }
            ModelSource::Path(path) => format!("`{}`", path.value.display()),
        }
    }

    /// What others call it: its repository, its data set, or the last part of its path.
    pub fn base_name(&self) -> String {
        match &self.source {
            ModelSource::Manifest(name) => name.value.clone(),
            ModelSource::Hub { repo, .. } => repo.value.clone(),
            ModelSource::Path(path) => {
                path.value.file_name().unwrap_or(path.value.as_os_str()).to_string_lossy().into_owned()
            }
        }
    }
}

#[derive(Debug, Clone)]
pub enum ModelSource {
    /// A manifest in `datasets/` of kind `model`.
    Manifest(Spanned<String>),
    /// A repository of the Hugging Face hub.
    Hub { repo: Spanned<String>, revision: Option<Spanned<String>>, file: Option<Spanned<String>> },
    /// A GGUF file or a folder in the hub's layout.
    Path(Spanned<PathBuf>),
}

/// Options of the `run` block: they bound resources and never change a result.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Rows of a record batch between operators.
    pub batch_rows: usize,
    /// Batches that an edge holds before its producer waits.
    pub channel_batches: usize,
    /// Bytes that a barrier may hold in memory.
    pub memory: u64,
    /// Stages that run at once.
    pub stages: usize,
    /// Share of a node's rows that may go to quarantine before the run counts as failed (exit code 3).
    pub tolerance: f64,
}

impl std::default::Default for RunOptions {
    fn default() -> Self {
        Self { batch_rows: 1024, channel_batches: 4, memory: 4 << 30, stages: 4, tolerance: 0.0 }
    }
}

/// One node instance.
#[derive(Debug)]
pub struct NodeDecl {
    pub name: NodeName,
    pub op: &'static OpSpec,
    pub fields: Fields,
    pub inputs: Vec<InputDecl>,
    /// This node's own `tolerance`, if it has one.
    pub tolerance: Option<f64>,
    /// What becomes of it when nobody reads its outputs; otherwise that is an error.
    pub unused: Option<Unused>,
    pub doc: Option<String>,
    /// The node's name in the file.
    pub name_span: Span,
    pub span: Span,
}

/// A reference that a node makes: `from="halves.lower"`.
#[derive(Debug, Clone)]
pub struct InputDecl {
    /// The port's name.
    pub port: &'static str,
    pub node: String,
    pub output: Option<String>,
    pub span: Span,
}

#[cfg(test)]
mod tests;
