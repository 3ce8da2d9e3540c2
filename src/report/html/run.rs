//! A run as its report sees it: what `run.json` says, and the artifacts that are still in the store.

use crate::exec::{NodeInfo, RunError, RunInfo};
use crate::plan::Fingerprint;
use crate::report::words::duration;
use crate::store::{Artifact, Store};
use indexmap::IndexMap;
use std::collections::HashMap;

/// A run, its artifacts, and its nodes by their names in the file.
pub struct Run<'a> {
    pub info: &'a RunInfo,
    /// Of each node; `None` where the store has none.
    pub artifacts: Vec<Option<Artifact>>,
    /// Instances by the name in the file, in the order of the plan.
    pub groups: IndexMap<String, Vec<usize>>,
    by_print: HashMap<Fingerprint, usize>,
}

/// What became of a node, as colours tell it; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Failed,
    Unfinished,
    Ran,
    Cached,
    Skipped,
}

impl State {
    pub fn of(node: &NodeInfo) -> Self {
        match node.ending.word.as_str() {
            "failed" => Self::Failed,
            "ran" => Self::Ran,
            "cached" | "shared" => Self::Cached,
            "skipped" | "not_needed" => Self::Skipped,
            _ => Self::Unfinished,
        }
    }

    pub fn class(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Unfinished => "unfinished",
            Self::Ran => "ran",
            Self::Cached => "cached",
            Self::Skipped => "skipped",
        }
    }
}

/// A node's end in a few words.
pub fn ending(node: &NodeInfo) -> String {
    let message = || node.ending.message.as_deref().unwrap_or_default();
    match node.ending.word.as_str() {
        "shared" => format!("same as {}", message()),
        "skipped" => format!("skipped: {}", message()),
        "not_needed" => "not needed: all that reads it is cached".into(),
        "cancelled" => format!("not run, because {} failed", message()),
        "interrupted" => "stopped".into(),
        "unfinished" => "not finished".into(),
        other => other.to_string(),
    }
}

impl<'a> Run<'a> {
    pub fn new(info: &'a RunInfo, store: Option<&Store>) -> Self {
        let mut groups: IndexMap<String, Vec<usize>> = IndexMap::new();
        let mut by_print = HashMap::new();
        for (at, node) in info.nodes.iter().enumerate() {
            groups.entry(node.name.base.clone()).or_default().push(at);
            by_print.entry(node.fingerprint.clone()).or_insert(at);
        }
        let artifact = |n: &NodeInfo| store.and_then(|s| s.artifact(&n.fingerprint));
        Self { info, artifacts: info.nodes.iter().map(artifact).collect(), groups, by_print }
    }

    /// The node whose output a fingerprint names.
    pub fn node_of(&self, fingerprint: &Fingerprint) -> Option<usize> {
        self.by_print.get(fingerprint).copied()
    }

    /// The anchor of a node's group.
    pub fn anchor(&self, node: usize) -> String {
        let base = &self.info.nodes[node].name.base;
        self.groups.get_index_of(base).map(group_anchor).unwrap_or_default()
    }

    pub fn name(&self, node: usize) -> String {
        self.info.nodes[node].name.to_string()
    }

    /// The state of a group: the worst of its instances.
    pub fn state(&self, instances: &[usize]) -> State {
        instances.iter().map(|i| State::of(&self.info.nodes[*i])).min().unwrap_or(State::Skipped)
    }

    /// `ran, 12 s`; `18 ran, 6 cached, 3m 05s`.
    pub fn state_text(&self, instances: &[usize]) -> String {
        let mut counts: IndexMap<&str, usize> = IndexMap::new();
        for i in instances {
            let class = State::of(&self.info.nodes[*i]).class();
            *counts.entry(if class == "unfinished" { "not finished" } else { class }).or_default() += 1;
        }
        let counted = |(word, n): (&&str, &usize)| match instances.len() {
            1 => word.to_string(),
            _ => format!("{n} {word}"),
        };
        let mut parts: Vec<String> = counts.iter().map(counted).collect();
        parts.extend(self.time(instances));
        parts.join(", ")
    }

    /// Time at work in this run, without waiting; of nodes that were all cached, nothing.
    pub fn time(&self, instances: &[usize]) -> Option<String> {
        let spent = instances.iter().filter_map(|i| self.info.nodes[*i].counts.as_ref()).map(|c| c.busy_seconds);
        let spent: Vec<f64> = spent.collect();
        (!spent.is_empty()).then(|| duration(spent.iter().sum()))
    }
}

pub fn group_anchor(group: usize) -> String {
    format!("n{group}")
}

/// Why something of the store cannot be shown.
pub fn unreadable(error: &RunError) -> String {
    format!("cannot be read: {error}")
}
