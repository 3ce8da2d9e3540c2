//! [`Pipeline`](crate::config::Pipeline) -> [`Graph`]: names resolved, sweeps bound, cycles found.

use crate::config::{NodeDecl, Pipeline};
use crate::diag::Span;
use petgraph::graph::DiGraph;

/// A pipeline whose references point at nodes. Edges run from producer to consumer.
pub struct Graph {
    pub pipeline: Pipeline,
    /// Node weights are indices into `pipeline.nodes`.
    pub graph: DiGraph<usize, Edge>,
    /// Node indices of `graph`, producers before consumers; ties in the order of the file.
    pub order: Vec<petgraph::graph::NodeIndex>,
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
    pub fn decl(&self, index: petgraph::graph::NodeIndex) -> &NodeDecl {
        &self.pipeline.nodes[self.graph[index]]
    }
}
