//! [`Pipeline`](crate::config::Pipeline) -> [`Graph`]: names resolved, sweeps bound, cycles found.
//!
//! Each pass reports all that it finds and marks the nodes that it cannot trust as broken, so that the
//! plan can still judge the others.

mod bind;
mod cycles;
pub mod draw;
mod unused;

use crate::config::{NodeDecl, Pipeline, Unused};
use crate::diag::{Diagnostics, Span};
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

/// A pipeline whose references point at nodes. Edges run from producer to consumer.
pub struct Graph {
    pub pipeline: Pipeline,
    /// Node weights are indices into `pipeline.nodes`; node `i` of the graph is node `i` of the pipeline.
    pub graph: DiGraph<usize, Edge>,
    /// Nodes to plan: sound and needed by a sink, producers before consumers, ties in the order of the file.
    pub order: Vec<NodeIndex>,
    /// Nodes whose references are wrong, which is already reported; no plan can be made while there are any.
    pub broken: HashSet<NodeIndex>,
}

/// One bound reference.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Index into the producer's `op.outputs`.
    pub output: usize,
    /// Port name at the consumer.
    pub port: &'static str,
    /// Position among the references of that port, after gathering.
    pub position: usize,
    /// Where the reference is written.
    pub span: Span,
}

impl Graph {
    /// The declaration behind a node of the graph.
    pub fn decl(&self, index: NodeIndex) -> &NodeDecl {
        &self.pipeline.nodes[self.graph[index]]
    }

    /// The producers that a node reads, with the edges: in the order of its ports and, within a port, of the
    /// references.
    pub fn inputs(&self, index: NodeIndex) -> Vec<(NodeIndex, &Edge)> {
        let ports = self.decl(index).op.inputs;
        let mut inputs: Vec<_> =
            self.graph.edges_directed(index, Direction::Incoming).map(|e| (e.source(), e.weight())).collect();
        inputs.sort_by_key(|(_, e)| (ports.iter().position(|p| p.name == e.port), e.position));
        inputs
    }

    /// Whether a node's results go to the user, or the file says that nobody need read them.
    pub fn is_root(&self, index: NodeIndex) -> bool {
        let decl = self.decl(index);
        decl.op.sink || decl.unused == Some(Unused::Run)
    }
}

/// Resolves a pipeline's references. Errors go into `diagnostics`; what can still be planned is in the graph's
/// `order`, so that a caller can go on and find more.
pub fn build(pipeline: Pipeline, diagnostics: &mut Diagnostics) -> Option<Graph> {
    let errors_before = diagnostics.iter().filter(|d| d.is_error()).count();
    let mut graph = DiGraph::with_capacity(pipeline.nodes.len(), pipeline.nodes.len());
    for i in 0..pipeline.nodes.len() {
        graph.add_node(i);
    }
    let mut graph = Graph { pipeline, graph, order: Vec::new(), broken: HashSet::new() };
    let read = bind::bind(&mut graph, diagnostics);
    cycles::report(&mut graph, diagnostics);
    if graph.pipeline.failed_nodes.is_empty() {
        unused::report(&graph, &read, diagnostics);
    }
    graph.order = topological(&graph);
    let sound = diagnostics.iter().filter(|d| d.is_error()).count() == errors_before;
    if sound && graph.pipeline.failed_nodes.is_empty() {
        unused::prune(&mut graph, diagnostics);
    }
    Some(graph)
}

/// Producers before consumers, the earliest in the file first. Broken nodes are left out; what reads them stays,
/// for the plan to leave out in silence.
fn topological(graph: &Graph) -> Vec<NodeIndex> {
    let sound = |n: &NodeIndex| !graph.broken.contains(n);
    let mut waits_for: Vec<usize> = graph
        .graph
        .node_indices()
        .map(|n| graph.graph.neighbors_directed(n, Direction::Incoming).filter(sound).count())
        .collect();
    let mut ready: BinaryHeap<Reverse<NodeIndex>> =
        graph.graph.node_indices().filter(|n| sound(n) && waits_for[n.index()] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(waits_for.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for next in graph.graph.neighbors_directed(node, Direction::Outgoing).filter(sound) {
            waits_for[next.index()] -= 1;
            if waits_for[next.index()] == 0 {
                ready.push(Reverse(next));
            }
        }
    }
    order
}
