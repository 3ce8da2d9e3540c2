//! Which nodes must run, which edges are live, and which nodes therefore run together.

use crate::plan::{Plan, PlanNode};

/// What a look at the store says of a node's artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Missing,
    Whole,
}

/// What is to be done with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Run,
    /// Its artifact is there.
    Cached,
    /// Nothing that runs reads it, and its artifact is not there.
    NotNeeded,
    /// Another node of the same fingerprint stands for it.
    Shared(usize),
    Skipped,
}

/// Nodes that run together, joined by live edges: a tree whose first node is the root.
#[derive(Debug, PartialEq, Eq)]
pub struct Stage {
    /// In the order of the plan.
    pub nodes: Vec<usize>,
    /// Nodes of other stages whose artifacts must be finished first.
    pub after: Vec<usize>,
}

/// The node that stands for a node: itself, or the one that it is identical to.
pub fn representative(plan: &Plan, node: usize) -> usize {
    plan.nodes[node].shared_with.unwrap_or(node)
}

/// Decides what to do with every node. `look(node, read)` looks for a node's artifact; `read` says that its rows or
/// files will be used, so that every byte must be checked.
///
/// A node runs when its artifact is missing and somebody wants it: the user (it gives files or a report, or nobody
/// reads it), or a node that runs.
pub fn tasks(plan: &Plan, mut look: impl FnMut(usize, bool) -> Look) -> Vec<Task> {
    let mut is_read = vec![false; plan.nodes.len()];
    for input in plan.nodes.iter().flat_map(|n| &n.inputs) {
        is_read[representative(plan, input.node)] = true;
    }
    let for_user = |n: &PlanNode| n.op.sink || !n.files_out.is_empty();
    let mut wanted: Vec<bool> = plan.nodes.iter().zip(&is_read).map(|(n, read)| for_user(n) || !read).collect();
    let mut rows_read = vec![false; plan.nodes.len()];
    for (at, node) in plan.nodes.iter().enumerate() {
        if let Some(same) = node.shared_with {
            wanted[same] |= wanted[at];
        }
    }
    let mut tasks = vec![Task::NotNeeded; plan.nodes.len()];
    // Consumers come after producers, so backwards every reader is decided before what it reads.
    for (at, node) in plan.nodes.iter().enumerate().rev() {
        tasks[at] = if node.skipped.is_some() {
            Task::Skipped
        } else if let Some(same) = node.shared_with {
            Task::Shared(same)
        } else {
            let used = wanted[at] && (rows_read[at] || for_user(node));
            match look(at, used) {
                Look::Whole => Task::Cached,
                Look::Missing if wanted[at] => Task::Run,
                Look::Missing => Task::NotNeeded,
            }
        };
        if tasks[at] == Task::Run {
            for input in &node.inputs {
                let producer = representative(plan, input.node);
                wanted[producer] = true;
                rows_read[producer] = true;
            }
        }
    }
    tasks
}

/// The producer that a node streams from, when its only input edge is live.
pub fn live_producer(plan: &Plan, tasks: &[Task], node: usize) -> Option<usize> {
    let PlanNode { inputs, barrier, .. } = &plan.nodes[node];
    match inputs.as_slice() {
        [one] if !barrier => {
            Some(representative(plan, one.node)).filter(|p| tasks[*p] == Task::Run && tasks[node] == Task::Run)
        }
        _ => None,
    }
}

/// The stages, in the order of their roots in the plan.
pub fn stages(plan: &Plan, tasks: &[Task]) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    let mut stage_of = vec![usize::MAX; plan.nodes.len()];
    for (at, node) in plan.nodes.iter().enumerate().filter(|(at, _)| tasks[*at] == Task::Run) {
        if let Some(producer) = live_producer(plan, tasks, at) {
            stage_of[at] = stage_of[producer];
            stages[stage_of[producer]].nodes.push(at);
            continue;
        }
        stage_of[at] = stages.len();
        let mut after: Vec<usize> = node.inputs.iter().map(|i| representative(plan, i.node)).collect();
        after.retain(|p| tasks[*p] == Task::Run);
        after.sort();
        after.dedup();
        stages.push(Stage { nodes: vec![at], after });
    }
    stages
}
