//! [`Graph`](crate::graph::Graph) -> [`Plan`]: every edge has a schema, every node a fingerprint and a cost.
//!
//! Pure: no network, no weights, no data beyond schemas and file digests.

mod build;
mod cost;
mod digest;
mod environment;
mod fingerprint;
mod leaks;
mod models;
mod status;
mod teachers;

use crate::config::{ModelDecl, Param, RunOptions, TeacherDecl};
use crate::diag::{Diagnostics, Sources, Span};
use crate::fetch::{Catalog, FetchEnv, Fetcher};
use crate::ops::{OpSpec, Operator, Recording, SplitName};
use arrow::datatypes::SchemaRef;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use build::build;
pub use cost::{Calls, TeacherCost, costs};
pub use digest::FileDigests;
pub use fingerprint::node_seed;
pub use models::{DeclaredOnly, ModelCatalog};
pub use status::{State, Status, StoreView, statuses};

/// What a plan may look at besides the pipeline itself.
pub struct PlanEnv {
    /// Knows models that are not loaded yet.
    pub catalog: Box<dyn ModelCatalog>,
    /// The manifests of data sets, and the means to find their files. Without them, `load` knows no data set.
    pub datasets: Option<Arc<Fetcher>>,
    /// Content digests of the files that nodes read.
    pub digests: FileDigests,
    /// Whether operators may look at files of the user's machine (`load` reads schemas).
    pub look_at_files: bool,
    /// A file that a node reads must be there, even where its columns are declared. Off in a plain `check`.
    pub files_must_exist: bool,
    /// Also report what only a run needs: secrets, files and fetched models (`check --env`).
    pub check_environment: bool,
}

impl PlanEnv {
    /// Looks at files; remembers their digests in this process only.
    pub fn new(catalog: impl ModelCatalog + 'static) -> Self {
        Self {
            catalog: Box::new(catalog),
            datasets: None,
            digests: FileDigests::in_memory(),
            look_at_files: true,
            files_must_exist: true,
            check_environment: false,
        }
    }

    /// Looks at no file at all, and knows the built-in data sets: for checks of examples.
    pub fn pure() -> Self {
        let catalog = Catalog::built_in(&mut Sources::new(), &mut Diagnostics::new());
        let datasets = Some(Arc::new(Fetcher::new(catalog, FetchEnv::from_lookup(|_| None))));
        Self {
            datasets,
            digests: FileDigests::off(),
            look_at_files: false,
            files_must_exist: false,
            ..Self::new(DeclaredOnly)
        }
    }
}

/// Reads, resolves and plans a pipeline file. Every pass adds what it finds to `diagnostics`; there is a plan only
/// when none of it is an error.
pub fn compile(
    path: &Path,
    overrides: &[(String, String)],
    env: &PlanEnv,
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Option<Plan> {
    let pipeline = crate::config::load(path, overrides, sources, diagnostics)?;
    let graph = crate::graph::build(pipeline, diagnostics)?;
    build(graph, env, diagnostics)
}

/// A node instance's name: the name in the file and the values of its matrix axes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeName {
    pub base: String,
    /// Axis -> value, in the order of the matrix; empty outside a sweep.
    pub bindings: IndexMapOrd,
}

/// Axis values in the order of the matrix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IndexMapOrd(pub Vec<(String, String)>);

impl IndexMapOrd {
    pub fn get(&self, axis: &str) -> Option<&str> {
        self.0.iter().find(|(a, _)| a == axis).map(|(_, v)| v.as_str())
    }
}

impl NodeName {
    pub fn plain(base: impl Into<String>) -> Self {
        Self { base: base.into(), bindings: IndexMapOrd::default() }
    }
}

/// `scored` or `scored[set=GSM8K, variant=gpt-4]`.
impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)?;
        if !self.bindings.0.is_empty() {
            let pairs: Vec<String> = self.bindings.0.iter().map(|(a, v)| format!("{a}={v}")).collect();
            write!(f, "[{}]", pairs.join(", "))?;
        }
        Ok(())
    }
}

/// A content hash that names a node's output: 32 bytes of BLAKE3 in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    /// The first 12 characters, for people.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(12)]
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node is expected to handle. `None` means unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Estimate {
    pub rows: Option<u64>,
    /// Model tokens processed.
    pub tokens: Option<u64>,
    pub seconds: Option<f64>,
    /// Peak memory of the node, bytes.
    pub memory: Option<u64>,
}

/// An input as an operator sees it at plan time.
#[derive(Debug, Clone)]
pub struct InputInfo {
    pub port: &'static str,
    pub schema: SchemaRef,
    pub producer: NodeName,
    /// The producer's output port.
    pub output: &'static str,
    pub producer_span: Span,
    /// Where the reference is written.
    pub span: Span,
    pub estimate: Estimate,
    /// The reason, when the producer is skipped (only at ports that accept it).
    pub skipped: Option<String>,
}

/// What is known of a declared model before its weights are loaded.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    pub decl: ModelDecl,
    /// Digest of weights, tokenizer, template and dtype: what changes numbers.
    pub digest: String,
    /// Context length in tokens, where the manifest or a local file says it.
    pub context: Option<u32>,
    pub parameters: Option<u64>,
    /// Whether there is a chat template; `None` when unknown before the model is fetched.
    pub has_chat_template: Option<bool>,
    /// Bytes of weights in memory.
    pub memory: Option<u64>,
}

/// What is known of a declared teacher before it is asked.
#[derive(Debug, Clone)]
pub struct TeacherInfo {
    pub decl: TeacherDecl,
    /// Digest of all that the teacher's answers depend on besides what it is asked: kind, model, address, extra body;
    /// for a local teacher its model's digest, for a recording the content of its file.
    pub digest: String,
    /// Of a local teacher: the model that writes.
    pub model: Option<ModelInfo>,
    /// Of a replay teacher: where its answers are.
    pub recording: Option<Arc<Recording>>,
    /// Of a recording in a data set: the split that has to be fetched before it can be read.
    pub to_fetch: Option<SplitName>,
}

/// A typed, checked, fingerprinted pipeline. Only a plan can be run.
pub struct Plan {
    pub name: String,
    pub doc: String,
    pub params: IndexMap<String, Param>,
    pub seed: u64,
    pub options: RunOptions,
    pub models: IndexMap<String, ModelInfo>,
    /// Teachers that some planned node names.
    pub teachers: IndexMap<String, TeacherInfo>,
    /// Producers before consumers.
    pub nodes: Vec<PlanNode>,
}

/// One node of a plan.
pub struct PlanNode {
    pub name: NodeName,
    pub op: &'static OpSpec,
    pub operator: Box<dyn Operator>,
    pub fingerprint: Fingerprint,
    /// The parts that the fingerprint was made of, for `store explain` and the reasons in `plan`:
    /// `op`, `config`, `input:<port>:<i>`, `model:<name>`, `file:<path>`, `seed`.
    pub ingredients: IndexMap<String, String>,
    pub inputs: Vec<PlanInput>,
    pub outputs: Vec<SchemaRef>,
    pub estimate: Estimate,
    pub models: Vec<String>,
    pub teachers: Vec<String>,
    /// What it will ask of them.
    pub calls: Vec<Calls>,
    /// The split of a data set that has to be fetched before the node can run.
    pub to_fetch: Option<SplitName>,
    pub barrier: bool,
    pub journalled: bool,
    /// What its progress counts, in the plural.
    pub unit: &'static str,
    pub skipped: Option<String>,
    /// An earlier node with the same fingerprint: that one runs, and this one's readers read from it.
    pub shared_with: Option<usize>,
    /// What [`NodeHost::seed`](crate::exec::NodeHost::seed) gives.
    pub seed: u64,
    pub doc: Option<String>,
    pub files: Vec<PathBuf>,
    pub files_out: Vec<String>,
    /// Share of rows that may be quarantined.
    pub tolerance: f64,
    pub span: Span,
}

/// A bound input of a plan node.
#[derive(Debug, Clone)]
pub struct PlanInput {
    pub port: &'static str,
    /// Index into `Plan::nodes`.
    pub node: usize,
    /// Index into the producer's outputs.
    pub output: usize,
    /// The producer that the file names; `node` is another one where that one's output is the same.
    pub producer: NodeName,
}

#[cfg(test)]
mod tests;
