//! References -> edges: names, outputs, and the instances of a sweep that a reference means.

use super::{Edge, Graph};
use crate::config::{InputDecl, NodeDecl};
use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::ops::{Arity, InputSpec, did_you_mean, list};
use indexmap::IndexMap;
use petgraph::graph::NodeIndex;
use std::collections::{HashMap, HashSet};

/// Names that some reference means, also where the reference is wrong: such nodes are not reported as unused.
pub(super) type ReadNames = HashSet<String>;

/// Instances of a producer by their values on the axes that it shares with a consumer.
type ByShared<'a> = HashMap<Vec<&'a str>, Vec<usize>>;

struct Binder<'a> {
    nodes: &'a [NodeDecl],
    groups: IndexMap<&'a str, Vec<usize>>,
    /// By producer name and consumer declaration.
    shared: HashMap<(&'a str, Span), (Vec<&'a str>, ByShared<'a>)>,
    diagnostics: &'a mut Diagnostics,
    /// An error is reported once for a declaration, not for each of its instances.
    reported: HashSet<(&'static str, Span)>,
    read: ReadNames,
}

/// Adds an edge for every reference; marks nodes with a wrong one as broken.
pub(super) fn bind(graph: &mut Graph, diagnostics: &mut Diagnostics) -> ReadNames {
    let pipeline = &graph.pipeline;
    let mut binder = Binder {
        nodes: &pipeline.nodes,
        groups: group(&pipeline.nodes),
        shared: HashMap::new(),
        diagnostics,
        reported: HashSet::new(),
        read: HashSet::new(),
    };
    let mut edges: Vec<(usize, usize, Edge)> = Vec::new();
    for (consumer, decl) in pipeline.nodes.iter().enumerate() {
        let mut sound = true;
        for port in decl.op.inputs {
            match binder.port(decl, port, pipeline) {
                Some(bound) => edges.extend(bound.into_iter().map(|(producer, edge)| (producer, consumer, edge))),
                None => sound = false,
            }
        }
        if !sound {
            graph.broken.insert(NodeIndex::new(consumer));
        }
    }
    let read = binder.read;
    for (producer, consumer, edge) in edges {
        graph.graph.add_edge(NodeIndex::new(producer), NodeIndex::new(consumer), edge);
    }
    read
}

/// Instances by name. Two declarations of a name are reported when they are read; the first counts.
fn group(nodes: &[NodeDecl]) -> IndexMap<&str, Vec<usize>> {
    let mut groups: IndexMap<&str, Vec<usize>> = IndexMap::new();
    for (i, node) in nodes.iter().enumerate() {
        groups.entry(&node.name.base).or_default().push(i);
    }
    groups
}

impl<'a> Binder<'a> {
    fn report(&mut self, diagnostic: Diagnostic) {
        let place = diagnostic.labels.first().map(|l| (diagnostic.code, l.span));
        if place.is_none_or(|p| self.reported.insert(p)) {
            self.diagnostics.push(diagnostic);
        }
    }

    /// The producers of a port, in order; `None` when a reference is wrong.
    fn port(
        &mut self,
        decl: &'a NodeDecl,
        port: &InputSpec,
        pipeline: &'a crate::config::Pipeline,
    ) -> Option<Vec<(usize, Edge)>> {
        let references: Vec<&InputDecl> = decl.inputs.iter().filter(|i| i.port == port.name).collect();
        let mut bound = Vec::new();
        let mut sound = self.any(decl, port, &references);
        for reference in references {
            match self.reference(decl, port, reference, pipeline) {
                Some((output, producers)) => {
                    for producer in producers {
                        let edge = Edge { output, port: port.name, position: bound.len(), span: reference.span };
                        bound.push((producer, edge));
                    }
                }
                None => sound = false,
            }
        }
        sound.then_some(bound)
    }

    /// An empty list parameter may leave a port without references. Too many are found when the node is read.
    fn any(&mut self, decl: &NodeDecl, port: &InputSpec, references: &[&InputDecl]) -> bool {
        if port.arity == Arity::Optional || !references.is_empty() {
            return true;
        }
        self.report(
            Diagnostic::error(
                "missing-input",
                format!("`{}` reads rows through `{}`: {}", decl.op.name, port.name, port.doc),
            )
            .at(decl.name_span, format!("`{}` names no node", port.name))
            .help(format!("write `{}=\"node\"`, with the name of the node to read", port.name)),
        );
        false
    }

    /// The output and the producer instances that a reference means.
    fn reference(
        &mut self,
        decl: &'a NodeDecl,
        port: &InputSpec,
        reference: &'a InputDecl,
        pipeline: &'a crate::config::Pipeline,
    ) -> Option<(usize, Vec<usize>)> {
        self.read.insert(reference.node.clone());
        let Some(instances) = self.groups.get(reference.node.as_str()) else {
            self.unresolved(reference, pipeline);
            return None;
        };
        let (first, count) = (instances[0], instances.len());
        let producer = &self.nodes[first];
        let output = self.output(producer, reference)?;
        let matching = self.matching(producer, decl);
        match (matching.len(), port.arity) {
            (0, _) => {
                self.report(no_instance(decl, producer, reference, count));
                None
            }
            (1, _) | (_, Arity::Many) => Some((output, matching)),
            (n, _) => {
                self.report(ambiguous(decl, producer, port, reference, n));
                None
            }
        }
    }

    fn unresolved(&mut self, reference: &InputDecl, pipeline: &crate::config::Pipeline) {
        let name = reference.node.as_str();
        if pipeline.failed_nodes.iter().any(|n| n == name) {
            return;
        }
        let mut d = Diagnostic::error("unresolved-reference", format!("there is no node `{name}`"))
            .at(reference.span, "refers to no node");
        let other_kind = [
            (pipeline.models.contains_key(name), "model"),
            (pipeline.teachers.contains_key(name), "teacher"),
            (pipeline.params.contains_key(name), "param"),
        ];
        if let Some((_, kind)) = other_kind.iter().find(|(is, _)| *is) {
            d = d.help(format!("`{name}` is a {kind}; an input reads the rows of a node"));
        }
        let near =
            did_you_mean(name, self.groups.keys().copied().chain(pipeline.failed_nodes.iter().map(|s| s.as_str())));
        match near {
            Some(near) => {
                self.read.insert(near.to_string());
                d = d.help(format!("did you mean `{near}`?"));
            }
            None if self.groups.len() <= 12 && d.help.is_empty() => {
                let names: Vec<&str> = self.groups.keys().copied().collect();
                d = d.help(format!("the nodes are {}", list(&names)));
            }
            None => {}
        }
        self.report(d);
    }

    fn output(&mut self, producer: &NodeDecl, reference: &InputDecl) -> Option<usize> {
        let names: Vec<&str> = producer.op.outputs.iter().map(|o| o.name).collect();
        let found = match &reference.output {
            None => (!names.is_empty()).then_some(0),
            Some(output) => names.iter().position(|n| n == output),
        };
        if found.is_some() {
            return found;
        }
        let written = reference.output.as_deref();
        let message = match written {
            Some(output) => format!("`{}` has no output `{output}`", reference.node),
            None => format!("`{}` gives no rows to read", reference.node),
        };
        let mut d = Diagnostic::error("unknown-output", message)
            .at(reference.span, "reads it here")
            .and(producer.name_span, format!("a `{}` gives {}", producer.op.name, list(&names)));
        if let Some(near) = written.and_then(|w| did_you_mean(w, names.iter().copied())) {
            d = d.help(format!("did you mean `{}.{near}`?", reference.node));
        }
        self.report(d);
        None
    }

    /// The producer's instances that agree with the consumer on every axis that both have.
    fn matching(&mut self, producer: &'a NodeDecl, consumer: &'a NodeDecl) -> Vec<usize> {
        let (nodes, groups) = (self.nodes, &self.groups);
        let (axes, by_shared) =
            self.shared.entry((producer.name.base.as_str(), consumer.name_span)).or_insert_with(|| {
                let shared = |(axis, _): &'a (String, String)| {
                    consumer.name.bindings.get(axis).is_some().then_some(axis.as_str())
                };
                let axes: Vec<&str> = producer.name.bindings.0.iter().filter_map(shared).collect();
                let mut by_shared = ByShared::new();
                for &i in &groups[producer.name.base.as_str()] {
                    by_shared.entry(values(&nodes[i], &axes)).or_default().push(i);
                }
                (axes, by_shared)
            });
        by_shared.get(&values(consumer, axes)).cloned().unwrap_or_default()
    }
}

/// A node's values on some axes.
fn values<'a>(node: &'a NodeDecl, axes: &[&str]) -> Vec<&'a str> {
    axes.iter().map(|a| node.name.bindings.get(a).unwrap_or_default()).collect()
}

fn no_instance(decl: &NodeDecl, producer: &NodeDecl, reference: &InputDecl, count: usize) -> Diagnostic {
    Diagnostic::error("no-matching-instance", format!("`{}` has no instance that fits `{}`", reference.node, decl.name))
        .at(reference.span, "read here")
        .and(
            producer.name_span,
            format!("{count} instances over {}, none of which agrees on the shared axes", axes_of(producer)),
        )
        .help("let both nodes use the same matrix, or `keep` the same values in both matrices")
}

fn ambiguous(decl: &NodeDecl, producer: &NodeDecl, port: &InputSpec, reference: &InputDecl, n: usize) -> Diagnostic {
    let free: Vec<&str> = producer
        .name
        .bindings
        .0
        .iter()
        .filter(|(axis, _)| decl.name.bindings.get(axis).is_none())
        .map(|(axis, _)| axis.as_str())
        .collect();
    let message = format!(
        "`{}` has {n} instances that fit `{}`, and `{}` of `{}` takes one node",
        reference.node, decl.name, port.name, decl.op.name
    );
    Diagnostic::error("ambiguous-instances", message)
        .at(reference.span, format!("`{}` is not over {}", decl.name.base, list(&free)))
        .and(producer.name_span, format!("swept over {}", axes_of(producer)))
        .help(format!("give `{}` the same `matrix`, or gather the instances with `concat` first", decl.name.base))
}

fn axes_of(node: &NodeDecl) -> String {
    let axes: Vec<&str> = node.name.bindings.0.iter().map(|(a, _)| a.as_str()).collect();
    list(&axes)
}
