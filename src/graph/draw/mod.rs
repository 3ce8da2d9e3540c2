//! Pictures of a graph: DOT, Mermaid, and an SVG with a layout of our own.

mod dot;
mod layout;
mod mermaid;
mod svg;
#[cfg(test)]
mod svg_tests;

use super::Graph;
use crate::ops::{FieldKind, OpSpec};
use indexmap::{IndexMap, IndexSet};
use petgraph::graph::NodeIndex;
use petgraph::visit::EdgeRef;
use std::collections::HashMap;

/// The language of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Dot,
    Mermaid,
    Svg,
}

/// Draws a graph. The instances of a sweep are one box that names its axes, or a box each when `expand` is set.
pub fn draw(graph: &Graph, format: Format, expand: bool) -> String {
    let picture = Picture::of(graph, expand);
    match format {
        Format::Dot => dot::write(&picture),
        Format::Mermaid => mermaid::write(&picture),
        Format::Svg => svg::write(&picture),
    }
}

/// What is drawn, whatever the language.
struct Picture {
    title: String,
    doc: String,
    boxes: Vec<Node>,
    links: Vec<Link>,
}

/// A box: a declaration with all its instances, or one instance.
struct Node {
    name: String,
    op: &'static str,
    kind: Kind,
    /// `24 × set, variant` for a sweep, the values for one instance of it; empty outside a sweep.
    sweep: String,
    /// More than one instance in this box.
    stacked: bool,
    doc: Option<String>,
}

/// What a box does, which gives it its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Source,
    Transform,
    Model,
    Sink,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Source, Kind::Transform, Kind::Model, Kind::Sink];

    fn of(op: &OpSpec) -> Self {
        let uses_model = |kind: &FieldKind| matches!(kind, FieldKind::Model | FieldKind::Teacher);
        if op.sink {
            Self::Sink
        } else if op.fields.iter().any(|f| uses_model(&f.kind)) {
            Self::Model
        } else if op.inputs.is_empty() {
            Self::Source
        } else {
            Self::Transform
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Transform => "transform",
            Self::Model => "model",
            Self::Sink => "result",
        }
    }

    /// Fill and stroke on a light ground.
    fn light(self) -> (&'static str, &'static str) {
        match self {
            Self::Source => ("#dff3ee", "#2f8f7b"),
            Self::Transform => ("#e8edf5", "#64789b"),
            Self::Model => ("#fdeed3", "#c07a10"),
            Self::Sink => ("#efe6fa", "#8257b8"),
        }
    }

    /// Fill and stroke on a dark ground.
    fn dark(self) -> (&'static str, &'static str) {
        match self {
            Self::Source => ("#14352e", "#4fb8a1"),
            Self::Transform => ("#222c3d", "#8ea3c7"),
            Self::Model => ("#3d2c10", "#e0a040"),
            Self::Sink => ("#31224a", "#b08be0"),
        }
    }
}

/// An arrow between boxes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Link {
    from: usize,
    to: usize,
    /// The output's name, where the producer has several.
    output: Option<&'static str>,
    /// The port's name, where the consumer has several.
    port: Option<&'static str>,
    /// Axes over which instances are gathered at the port.
    gathered: Vec<String>,
}

impl Link {
    /// What stands at the arrow's head: the port, and what is gathered there.
    fn head(&self) -> Option<String> {
        let gathered = (!self.gathered.is_empty()).then(|| format!("all {}", self.gathered.join(", ")));
        match (self.port, gathered) {
            (Some(port), Some(all)) => Some(format!("{port}: {all}")),
            (Some(port), None) => Some(port.to_string()),
            (None, all) => all,
        }
    }
}

impl Picture {
    fn of(graph: &Graph, expand: bool) -> Self {
        let mut groups: IndexMap<String, Vec<NodeIndex>> = IndexMap::new();
        let mut in_file_order = graph.order.clone();
        in_file_order.sort();
        for node in in_file_order {
            let name = &graph.decl(node).name;
            groups.entry(if expand { name.to_string() } else { name.base.clone() }).or_default().push(node);
        }
        let box_of: HashMap<NodeIndex, usize> =
            groups.values().enumerate().flat_map(|(i, nodes)| nodes.iter().map(move |&n| (n, i))).collect();
        let boxes = groups.values().map(|nodes| boxed(graph, nodes, expand)).collect();
        let links = links(graph, &box_of, expand);
        Self { title: graph.pipeline.name.clone(), doc: graph.pipeline.doc.clone(), boxes, links }
    }

    /// The kinds that occur, in the order of the flow.
    fn kinds(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|k| self.boxes.iter().any(|b| b.kind == *k))
    }
}

fn boxed(graph: &Graph, instances: &[NodeIndex], expand: bool) -> Node {
    let decl = graph.decl(instances[0]);
    let bindings = &decl.name.bindings.0;
    let sweep = if bindings.is_empty() {
        String::new()
    } else if expand {
        bindings.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(" · ")
    } else {
        let axes: Vec<&str> = bindings.iter().map(|(axis, _)| axis.as_str()).collect();
        format!("{} × {}", instances.len(), axes.join(", "))
    };
    Node {
        name: decl.name.base.clone(),
        op: decl.op.name,
        kind: Kind::of(decl.op),
        sweep,
        stacked: instances.len() > 1,
        doc: decl.doc.clone().filter(|d| !d.is_empty()),
    }
}

/// One link for all edges that would look the same.
fn links(graph: &Graph, box_of: &HashMap<NodeIndex, usize>, expand: bool) -> Vec<Link> {
    let mut links: IndexSet<Link> = IndexSet::new();
    for edge in graph.graph.edge_references() {
        let (Some(&from), Some(&to)) = (box_of.get(&edge.source()), box_of.get(&edge.target())) else { continue };
        let (producer, consumer) = (graph.decl(edge.source()), graph.decl(edge.target()));
        let weight = edge.weight();
        let free = |(axis, _): &&(String, String)| !expand && consumer.name.bindings.get(axis).is_none();
        let gathered = producer.name.bindings.0.iter().filter(free).map(|(axis, _)| axis.clone()).collect();
        links.insert(Link {
            from,
            to,
            output: (producer.op.outputs.len() > 1).then(|| producer.op.outputs[weight.output].name),
            port: (consumer.op.inputs.len() > 1).then_some(weight.port),
            gathered,
        });
    }
    links.into_iter().collect()
}
