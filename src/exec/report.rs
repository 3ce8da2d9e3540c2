//! How a run ended.

use super::event::Counts;
use crate::plan::{Fingerprint, NodeName};
use crate::teacher::hosted::Spent;
use indexmap::IndexMap;
use serde::Serialize;
use std::path::PathBuf;

/// How a run ended, node by node.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    pub pipeline: String,
    pub out: PathBuf,
    pub store: PathBuf,
    pub seconds: f64,
    /// The run was asked to stop before it had finished.
    pub interrupted: bool,
    /// In the order of the plan.
    pub nodes: Vec<NodeReport>,
    /// Files for the user, as they lie in the run folder.
    pub files: Vec<PathBuf>,
    /// Texts for the end of the run, in the order of the plan.
    pub presented: Vec<String>,
    /// What was spent on hosted teachers.
    pub teachers: Vec<Spent>,
}

/// How a node ended.
#[derive(Debug, Clone, Serialize)]
pub struct NodeReport {
    #[serde(serialize_with = "as_text")]
    pub node: NodeName,
    pub op: &'static str,
    pub fingerprint: Fingerprint,
    pub outcome: NodeOutcome,
    pub rows_in: u64,
    pub rows_out: u64,
    pub quarantined: u64,
    /// The same by reason.
    pub reasons: IndexMap<String, u64>,
    /// Share of its rows that may be quarantined.
    pub tolerance: f64,
    /// More rows were quarantined than tolerated.
    pub beyond_tolerance: bool,
    /// What was done in this run.
    pub counts: Option<Counts>,
    /// Files that the node gave, by their names in the run folder.
    pub files: Vec<String>,
}

fn as_text<S: serde::Serializer>(name: &NodeName, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(name)
}

/// What became of a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NodeOutcome {
    Ran,
    /// The output was in the store already.
    Cached,
    /// No node that ran needed it, and its output is not in the store.
    NotNeeded,
    /// Identical to another node, which ran for both.
    Shared {
        with: String,
    },
    /// Not run, as the pipeline allows: why.
    Skipped {
        reason: String,
    },
    Failed {
        code: &'static str,
        message: String,
        help: Option<String>,
    },
    /// Not run, or not to its end, because this node failed.
    Cancelled {
        because: String,
    },
    /// Not run, or not to its end, because the run was stopped.
    Interrupted,
}

impl NodeOutcome {
    /// The kind in one word, as it stands in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::Cached => "cached",
            Self::NotNeeded => "not_needed",
            Self::Shared { .. } => "shared",
            Self::Skipped { .. } => "skipped",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

impl RunReport {
    /// How many nodes ended in that way.
    pub fn count(&self, outcome: impl Fn(&NodeOutcome) -> bool) -> usize {
        self.nodes.iter().filter(|n| outcome(&n.outcome)).count()
    }

    /// Whether a node failed.
    pub fn failed(&self) -> bool {
        self.nodes.iter().any(|n| matches!(n.outcome, NodeOutcome::Failed { .. }))
    }

    /// Whether a node has more rows in quarantine than tolerated.
    pub fn beyond_tolerance(&self) -> bool {
        self.nodes.iter().any(|n| n.beyond_tolerance)
    }

    /// Rows in quarantine. Shared nodes count once.
    pub fn quarantined(&self) -> u64 {
        let own = |n: &&NodeReport| !matches!(n.outcome, NodeOutcome::Shared { .. });
        self.nodes.iter().filter(own).map(|n| n.quarantined).sum()
    }

    /// `done`, `failed`, `interrupted` or `beyond_tolerance`.
    pub fn outcome(&self) -> &'static str {
        match (self.interrupted, self.failed(), self.beyond_tolerance()) {
            (true, ..) => "interrupted",
            (_, true, _) => "failed",
            (.., true) => "beyond_tolerance",
            _ => "done",
        }
    }
}
