//! `run.json`: all that a report needs of a run and that its plan and its artifacts do not say.
//!
//! Written when the run begins, so that a run that is killed can be reported as well, and again when it ends. It holds no
//! secret: keys come from environment variables, and only the names of these stand in a pipeline.

use super::event::Counts;
use super::{NodeOutcome, NodeReport, RunConfig, RunReport};
use crate::config::{Api, ModelSource, Param, ReplayFrom, RunOptions, TeacherSource};
use crate::model::cpu::Isa;
use crate::ops::Value;
use crate::plan::{Fingerprint, ModelInfo, NodeName, Plan, PlanNode, StoreView, TeacherInfo, statuses};
use crate::size;
use crate::store::Store;
use crate::store::manifest::{Column, InputRef, columns, rfc3339};
use crate::teacher::hosted::Spent;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// The file's name in the run folder.
pub const RUN_FILE: &str = "run.json";

/// The version of its layout.
pub const RUN_FORMAT: u32 = 1;

/// What only the caller of a run knows of it.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// The pipeline file and what it includes.
    pub texts: Vec<TextInfo>,
    /// Set when the first model is loaded: the device, in words.
    pub device: Arc<OnceLock<String>>,
}

/// A file of the pipeline, as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextInfo {
    pub name: String,
    pub text: String,
}

/// The content of `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunInfo {
    pub format: u32,
    /// The version of idiolect.
    pub idiolect: String,
    pub pipeline: String,
    pub doc: String,
    pub seed: u64,
    /// RFC 3339, UTC.
    pub started: String,
    /// As [`RunReport::outcome`] has it; `unfinished` until the run ends.
    pub outcome: String,
    pub seconds: f64,
    pub out: PathBuf,
    pub store: PathBuf,
    pub params: Vec<Setting>,
    pub options: Vec<Setting>,
    /// What numbers can depend on besides the pipeline.
    pub environment: Vec<Setting>,
    pub models: Vec<ModelUsed>,
    pub teachers: Vec<TeacherUsed>,
    pub texts: Vec<TextInfo>,
    /// In the order of the plan.
    pub nodes: Vec<NodeInfo>,
}

/// A name and its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub name: String,
    pub value: String,
    /// What it means, or where it comes from.
    pub note: String,
}

/// A model that some node names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelUsed {
    pub name: String,
    pub source: String,
    pub dtype: String,
    pub digest: String,
    /// Tokens.
    pub context: Option<u32>,
    pub parameters: Option<u64>,
}

/// A teacher that some node names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TeacherUsed {
    pub name: String,
    pub source: String,
    pub digest: String,
    /// Of a hosted teacher that was asked in this run.
    pub spent: Option<Spent>,
}

/// A node of the plan and how it ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    pub name: NodeName,
    pub op: String,
    pub op_version: u32,
    pub doc: Option<String>,
    pub fingerprint: Fingerprint,
    pub ingredients: IndexMap<String, String>,
    pub seed: u64,
    pub tolerance: f64,
    pub inputs: Vec<InputRef>,
    pub outputs: Vec<OutputInfo>,
    /// Why it was to be run, when the run began.
    pub why: Vec<String>,
    pub ending: Ending,
    pub rows_in: u64,
    pub rows_out: u64,
    pub quarantined: u64,
    /// The same by reason.
    pub reasons: IndexMap<String, u64>,
    pub beyond_tolerance: bool,
    /// What was done in this run.
    pub counts: Option<Counts>,
    /// Names in the run folder.
    pub files: Vec<String>,
}

/// The columns that an output has by the plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutputInfo {
    pub name: String,
    pub columns: Vec<Column>,
}

/// How a node ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ending {
    /// As [`NodeOutcome::word`] has it; `unfinished` until the run ends.
    pub word: String,
    /// Of a failure.
    pub code: Option<String>,
    /// The reason, the message, or the node that it was shared with or cancelled for.
    pub message: Option<String>,
    pub help: Option<String>,
}

impl From<&NodeOutcome> for Ending {
    fn from(outcome: &NodeOutcome) -> Self {
        let word = outcome.word().to_string();
        let (code, message, help) = match outcome.clone() {
            NodeOutcome::Shared { with } => (None, Some(with), None),
            NodeOutcome::Skipped { reason } => (None, Some(reason), None),
            NodeOutcome::Cancelled { because } => (None, Some(because), None),
            NodeOutcome::Failed { code, message, help } => (Some(code.to_string()), Some(message), help),
            NodeOutcome::Ran | NodeOutcome::Cached | NodeOutcome::NotNeeded | NodeOutcome::Interrupted => {
                (None, None, None)
            }
        };
        Self { word, code, message, help }
    }
}

impl RunInfo {
    /// What is known when a run begins.
    pub fn begun(plan: &Plan, store: &Store, config: &RunConfig) -> Self {
        let whys = statuses(plan, Some(store as &dyn StoreView)).into_iter().map(|s| s.why);
        Self {
            format: RUN_FORMAT,
            idiolect: env!("CARGO_PKG_VERSION").into(),
            pipeline: plan.name.clone(),
            doc: plan.doc.clone(),
            seed: plan.seed,
            started: rfc3339(SystemTime::now()),
            outcome: "unfinished".into(),
            seconds: 0.0,
            out: config.out.clone(),
            store: store.root().to_path_buf(),
            params: plan.params.values().map(parameter).collect(),
            options: options(&config.options),
            environment: environment(&config.provenance),
            models: plan.models.values().map(model).collect(),
            teachers: plan.teachers.values().map(teacher).collect(),
            texts: config.provenance.texts.clone(),
            nodes: plan.nodes.iter().zip(whys).map(|(node, why)| NodeInfo::planned(plan, node, why)).collect(),
        }
    }

    /// Adds how the run ended.
    pub fn ended(&mut self, report: &RunReport, provenance: &Provenance) {
        self.outcome = report.outcome().into();
        self.seconds = report.seconds;
        self.environment = environment(provenance);
        for teacher in &mut self.teachers {
            teacher.spent = report.teachers.iter().find(|s| s.teacher == teacher.name).cloned();
        }
        self.nodes.iter_mut().zip(&report.nodes).for_each(|(node, report)| node.ended(report));
    }
}

impl NodeInfo {
    fn planned(plan: &Plan, node: &PlanNode, why: Vec<String>) -> Self {
        let input = |i: &crate::plan::PlanInput| InputRef {
            port: i.port.to_string(),
            node: i.producer.clone(),
            fingerprint: plan.nodes[i.node].fingerprint.clone(),
            output: plan.nodes[i.node].op.outputs[i.output].name.to_string(),
        };
        let outputs = node.op.outputs.iter().zip(&node.outputs);
        Self {
            name: node.name.clone(),
            op: node.op.name.into(),
            op_version: node.op.version,
            doc: node.doc.clone().filter(|d| !d.is_empty()),
            fingerprint: node.fingerprint.clone(),
            ingredients: node.ingredients.clone(),
            seed: node.seed,
            tolerance: node.tolerance,
            inputs: node.inputs.iter().map(input).collect(),
            outputs: outputs
                .map(|(spec, schema)| OutputInfo { name: spec.name.into(), columns: columns(schema) })
                .collect(),
            why,
            ending: Ending { word: "unfinished".into(), ..Ending::default() },
            rows_in: 0,
            rows_out: 0,
            quarantined: 0,
            reasons: IndexMap::new(),
            beyond_tolerance: false,
            counts: None,
            files: Vec::new(),
        }
    }

    fn ended(&mut self, report: &NodeReport) {
        self.ending = Ending::from(&report.outcome);
        (self.rows_in, self.rows_out, self.quarantined) = (report.rows_in, report.rows_out, report.quarantined);
        self.reasons.clone_from(&report.reasons);
        self.beyond_tolerance = report.beyond_tolerance;
        self.counts.clone_from(&report.counts);
        self.files.clone_from(&report.files);
    }
}

fn setting(name: &str, value: impl Into<String>, note: impl Into<String>) -> Setting {
    Setting { name: name.into(), value: value.into(), note: note.into() }
}

fn parameter(param: &Param) -> Setting {
    let origin = if param.given { "set on the command line" } else { "as the file has it" };
    let note = if param.doc.is_empty() { origin.into() } else { format!("{}; {origin}", param.doc) };
    setting(&param.name, shown(&param.value), note)
}

/// A parameter's value as it is written on a command line.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Str(text) => text.clone(),
        Value::List(items) => items.iter().map(|i| shown(&i.value)).collect::<Vec<_>>().join(","),
        // Parameters are of none of these kinds.
        Value::Map(_) | Value::Records(_) | Value::Task(_) => "…".into(),
    }
}

fn options(options: &RunOptions) -> Vec<Setting> {
    let same = "never changes a result";
    vec![
        setting("batch-rows", options.batch_rows.to_string(), format!("rows of a batch between operators; {same}")),
        setting("channel-batches", options.channel_batches.to_string(), format!("batches that an edge holds; {same}")),
        setting("memory", size::show(options.memory), format!("for operators that hold their whole input; {same}")),
        setting("stages", options.stages.to_string(), format!("groups of operators that run at once; {same}")),
        setting("tolerance", options.tolerance.to_string(), "share of a node's rows that may be quarantined"),
    ]
}

fn environment(provenance: &Provenance) -> Vec<Setting> {
    let device = provenance.device.get().map_or("no model was loaded", String::as_str);
    let kernels = Isa::from_env().map_or_else(|error| error.to_string(), |isa| isa.path().name().to_string());
    let system = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    vec![
        setting("device", device, "where models ran"),
        setting("kernels", kernels, "instructions of the processor; rounding differs between them in the last digits"),
        setting("system", system, "operating system and processor"),
    ]
}

fn model(info: &ModelInfo) -> ModelUsed {
    let source = match &info.decl.source {
        ModelSource::Manifest(name) => format!("manifest {}", name.value),
        ModelSource::Hub { repo, revision, file } => {
            let part = |p: &Option<crate::diag::Spanned<String>>, mark| {
                p.as_ref().map_or_else(String::new, |p| format!("{mark}{}", p.value))
            };
            format!("hub {}{}{}", repo.value, part(revision, "@"), part(file, " "))
        }
        ModelSource::Path(path) => format!("file {}", path.value.display()),
    };
    ModelUsed {
        name: info.decl.name.clone(),
        source,
        dtype: info.decl.dtype.value.clone(),
        digest: info.digest.clone(),
        context: info.context,
        parameters: info.parameters,
    }
}

fn teacher(info: &TeacherInfo) -> TeacherUsed {
    let source = match &info.decl.source {
        TeacherSource::Hosted(hosted) => {
            let api = match hosted.api {
                Api::OpenAi => "openai",
                Api::Anthropic => "anthropic",
            };
            let host = hosted.base_url.as_ref().and_then(|u| host_of(&u.value));
            let at = host.map_or_else(String::new, |host| format!(" at {host}"));
            format!("{} through the {api} protocol{at}", hosted.model.value)
        }
        TeacherSource::Local { model } => format!("model {}", model.value),
        TeacherSource::Replay(replay) => match &replay.from {
            ReplayFrom::Path(path) => format!("recorded answers in {}", path.value.display()),
            ReplayFrom::Dataset { dataset, split } => {
                let split = split.as_ref().map_or_else(String::new, |s| format!(", split {}", s.value));
                format!("recorded answers in data set {}{split}", dataset.value)
            }
        },
    };
    TeacherUsed { name: info.decl.name.clone(), source, digest: info.digest.clone(), spent: None }
}

/// The host alone: an address may carry a password or a key.
fn host_of(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    let port = url.port().map_or_else(String::new, |p| format!(":{p}"));
    url.host_str().map(|host| format!("{host}{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        assert_eq!(host_of("https://me:secret@api.example.org:8080/v1?key=secret").unwrap(), "api.example.org:8080");
        assert_eq!(host_of("nonsense"), None);
    }
}
