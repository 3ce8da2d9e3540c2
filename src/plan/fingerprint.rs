//! What a node's output depends on, by name, and the hash of it.

use super::{Fingerprint, InputInfo, ModelInfo, NodeName, PlanInput, PlanNode, TeacherInfo};
use crate::ops::{OpSpec, Operator, Resolved};
use indexmap::IndexMap;

/// Raised when the layout of artifacts or of ingredients changes, so that older outputs are not taken for new ones.
const FORMAT: u32 = 1;

/// All that goes into a node's ingredients.
pub(super) struct Parts<'a> {
    pub op: &'static OpSpec,
    pub operator: &'a dyn Operator,
    pub resolved: &'a Resolved,
    pub inputs: &'a [PlanInput],
    pub infos: &'a [InputInfo],
    pub nodes: &'a [PlanNode],
    pub models: &'a IndexMap<String, ModelInfo>,
    pub teachers: &'a IndexMap<String, TeacherInfo>,
    /// Path and digest of every file that the node reads.
    pub files: &'a [(String, String)],
    pub seed: u64,
}

impl Parts<'_> {
    /// Values are what the hash sees; keys also tell a person where a value comes from.
    pub fn ingredients(&self) -> IndexMap<String, String> {
        let mut all = IndexMap::new();
        all.insert("format".to_string(), FORMAT.to_string());
        all.insert("op".to_string(), format!("{}@{}", self.op.name, self.op.version));
        all.insert("config".to_string(), self.operator.canonical().to_string());
        let mut positions: IndexMap<&str, usize> = IndexMap::new();
        for (input, info) in self.inputs.iter().zip(self.infos) {
            let position = positions.entry(input.port).or_insert(0);
            let place = format!("{}:{position}", input.port);
            *position += 1;
            all.insert(format!("input:{place}"), self.input(input, info));
            if self.resolved.reads_bindings {
                all.insert(format!("producer:{place}"), info.producer.to_string());
            }
        }
        for name in &self.resolved.models {
            if let Some(model) = self.models.get(name) {
                all.insert(format!("model:{name}"), model.digest.clone());
                // Decides which rows are too long. Apart from the digest, so that journalled rows outlive a change.
                if let Some(context) = &model.decl.context {
                    all.insert(format!("model:{name}:context"), format!("context {}", context.value));
                }
            }
        }
        for name in &self.resolved.teachers {
            if let Some(teacher) = self.teachers.get(name) {
                all.insert(format!("teacher:{name}"), teacher.digest.clone());
            }
        }
        for (path, digest) in self.files {
            all.insert(format!("file:{path}"), digest.clone());
        }
        if self.resolved.seeded {
            all.insert("seed".to_string(), self.seed.to_string());
        }
        if let Some(reason) = &self.resolved.skipped {
            all.insert("skipped".to_string(), reason.clone());
        }
        all
    }

    fn input(&self, input: &PlanInput, info: &InputInfo) -> String {
        match &info.skipped {
            Some(reason) => format!("skipped: {reason}"),
            None => format!("{}.{}", self.nodes[input.node].fingerprint, info.output),
        }
    }
}

/// The hash of ingredients. Names that only the user's file gives (of models, of paths) stay outside: calling the same
/// model by another name makes nothing new.
pub(super) fn of(ingredients: &IndexMap<String, String>) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in ingredients {
        let class = match key.split_once(':') {
            Some((class @ ("model" | "teacher" | "file"), _)) => class,
            _ => key.as_str(),
        };
        for part in [class, value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    Fingerprint(hasher.finalize().to_hex().to_string())
}

/// The seed of a node: the same for the same pipeline seed and node name, whatever else is in the file.
pub fn node_seed(pipeline_seed: u64, node: &NodeName) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"node seed");
    hasher.update(&pipeline_seed.to_le_bytes());
    hasher.update(node.to_string().as_bytes());
    let mut seed = [0; 8];
    seed.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(seed)
}
