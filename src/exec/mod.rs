//! Runs a [`Plan`](crate::plan::Plan): stages of streaming nodes, one lane per device, events, quarantine.
//!
//! Nodes with one streaming input run together with their producer over a bounded channel; every other
//! input is read from the store when its producer has finished. Streaming edges therefore form trees, and
//! no cycle of full channels can arise.
//!
//! Every node's rows go to its artifact in the store as well, whatever its readers do: one that has enough (or fails)
//! does not keep its producer from finishing. When a node fails, the nodes that read from it are not run; all others
//! are, because what they finish need not be computed again, and every error is reported.

mod edge;
mod event;
mod folder;
mod host;
mod info;
mod report;
mod schedule;
pub(crate) mod survey;
#[cfg(test)]
mod tests;

pub use event::{Counts, Event, NoObserver, Node, Observer, TEXTS_OPEN, TOKENS_WRITTEN};
pub use info::{
    Ending, ModelUsed, NodeInfo, OutputInfo, Provenance, RUN_FILE, RUN_FORMAT, RunInfo, Setting, TeacherUsed, TextInfo,
};
pub use report::{NodeOutcome, NodeReport, RunReport};
pub use schedule::run;

use crate::plan::{ModelInfo, NodeName};
use crate::report::grid::Grid;
use crate::store::Journal;
use crate::teacher::{Teacher, Teachers};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why a node stopped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunError {
    /// The run was asked to stop; finished rows are kept.
    #[error("interrupted")]
    Interrupted,
    /// The other end went away: not an error of this node.
    #[error("the other end of a stream went away")]
    Closed,
    /// The message says what was expected, what was found, where, and what to do.
    #[error("{message}")]
    Failed { code: &'static str, message: String, help: Option<String> },
}

impl RunError {
    pub fn failed(code: &'static str, message: impl Into<String>) -> Self {
        Self::Failed { code, message: message.into(), help: None }
    }

    pub fn help(self, text: impl Into<String>) -> Self {
        match self {
            Self::Failed { code, message, .. } => Self::Failed { code, message, help: Some(text.into()) },
            other => other,
        }
    }

    /// Puts before the message what it is about: a model, a file.
    pub fn about(self, what: impl std::fmt::Display) -> Self {
        match self {
            Self::Failed { code, message, help } => Self::Failed { code, message: format!("{what}: {message}"), help },
            other => other,
        }
    }
}

/// A row that could not be processed.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// The row's `id`, or a place such as `data.jsonl:17` when it never got one.
    pub id: String,
    /// Kebab-case kind, such as `too-long` or `null-value`.
    pub reason: &'static str,
    /// For people: what was expected and what was found.
    pub message: String,
    /// The row as JSON, as far as it is known.
    pub row: serde_json::Value,
}

/// One bound input while running.
#[derive(Clone)]
pub struct RunInput {
    pub port: &'static str,
    pub producer: NodeName,
    /// The producer's output port.
    pub output: &'static str,
    pub schema: SchemaRef,
    /// Set when the producer was skipped: there are no rows, and this is why.
    pub skipped: Option<String>,
}

/// Batches of one input, in order.
pub type BatchStream = Box<dyn Iterator<Item = Result<RecordBatch, RunError>> + Send>;

/// What the executor (or a test) provides to a running node.
pub trait NodeHost: Send + Sync {
    fn node(&self) -> &NodeName;
    /// This node's seed: drawn from the pipeline's seed and the node's name.
    fn seed(&self) -> u64;
    fn inputs(&self) -> &[RunInput];
    /// The rows of input `index` (into `inputs()`). A stored input can be opened again; a live one once.
    fn open(&self, index: usize) -> Result<BatchStream, RunError>;
    fn output_schema(&self, output: usize) -> SchemaRef;
    /// Hands rows on; waits when consumers are behind. Any batch size; the store's bytes do not depend on it.
    fn emit(&self, output: usize, batch: RecordBatch) -> Result<(), RunError>;
    /// Sends a row to quarantine. Whether there are too many is judged when the node has finished: its good rows are
    /// kept either way.
    fn reject(&self, row: Rejected) -> Result<(), RunError>;
    /// A path for a file of the node's own (`write`, `table`, `plot`), by its name in the run directory. It
    /// appears there, atomically, when the node has finished.
    fn file(&self, name: &str) -> Result<PathBuf, RunError>;
    /// Text for the end of the run on standard output (a table, a chart); kept with the artifact, so that a
    /// cached node shows it as well.
    fn present(&self, text: &str) -> Result<(), RunError>;
    /// Keeps a table as people are shown it, for reports.
    fn show(&self, table: &Grid) -> Result<(), RunError>;
    /// The journal of a scope: results by content key that outlive a crash. `scope` must name everything
    /// that determines a result besides the key (model digest, settings).
    fn journal(&self, scope: &serde_json::Value) -> Result<Journal, RunError>;
    /// What [`NodeHost::save_checkpoint`] last kept of this very node, in this run or in one that was stopped or killed.
    fn checkpoint(&self) -> Option<Vec<u8>>;
    /// Keeps where the node has got to, all at once, until it has finished: `done` of `total` of what it counts.
    fn save_checkpoint(&self, state: Vec<u8>, done: u64, total: u64) -> Result<(), RunError>;
    /// Scores, generates: the lane of the device that holds a declared model.
    fn model(&self, name: &str) -> Result<Arc<dyn crate::model::ModelLane>, RunError>;
    /// A declared teacher.
    fn teacher(&self, name: &str) -> Result<Arc<dyn Teacher>, RunError>;
    /// Counts model tokens, for progress and events.
    fn count_tokens(&self, tokens: u64);
    /// Counts rows finished out of an expected number where output rows do not show it.
    fn progress(&self, done: u64, total: Option<u64>);
    /// Shows what the node measures as it goes, such as a loss, by name; later values take the place of earlier ones.
    fn measured(&self, _values: &[(&str, f64)]) {}
    /// Set when the run is to stop: return [`RunError::Interrupted`] soon.
    fn stopping(&self) -> bool;
    fn options(&self) -> &crate::config::RunOptions;
}

/// Shared handle to a node's host.
pub type NodeCx = Arc<dyn NodeHost>;

/// Asks a run to stop: set once, seen by every node.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The flag itself, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Gives out the lanes of the devices that hold models.
pub trait Lanes: Send + Sync {
    /// The lane of a declared model, with its weights loaded when it is first used.
    fn lane(&self, name: &str, model: &ModelInfo) -> Result<Arc<dyn crate::model::ModelLane>, RunError>;
}

/// For pipelines without models.
pub struct NoLanes;

impl Lanes for NoLanes {
    fn lane(&self, name: &str, _: &ModelInfo) -> Result<Arc<dyn crate::model::ModelLane>, RunError> {
        Err(RunError::failed(
            "no-models",
            format!("model `{name}` cannot be used: this run was started without models"),
        ))
    }
}

/// How to run a plan. Nothing here changes a result.
pub struct RunConfig {
    /// The run folder, for the user's files.
    pub out: PathBuf,
    pub options: crate::config::RunOptions,
    pub lanes: Arc<dyn Lanes>,
    pub teachers: Arc<dyn Teachers>,
    pub stop: Stop,
    /// For `run.json`.
    pub provenance: Provenance,
}
