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
        Format::Svg => svg::write(&picture, svg::Place::File),
    }
}

/// A node of a run, or a group of instances, as the picture of a run shows it.
pub struct RunBox {
    pub name: String,
    pub op: String,
    pub kind: Kind,
    /// Axes or number of instances; empty outside a sweep.
    pub sweep: String,
    pub stacked: bool,
    pub doc: Option<String>,
    /// State and time.
    pub note: String,
    /// Where a click leads.
    pub href: String,
}

/// An arrow of a run's picture: boxes by their places, and the names of output and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunLink {
    pub from: usize,
    pub to: usize,
    pub output: String,
    pub port: String,
}

/// Draws a run as an SVG element for a page: without a ground or heading of its own, every box a link.
pub fn draw_run(title: &str, boxes: Vec<RunBox>, links: &[RunLink]) -> String {
    let spec = |at: usize| crate::ops::find(&boxes[at].op);
    let link = |l: &RunLink| {
        let outputs = spec(l.from).map_or(&[][..], |op| op.outputs);
        let ports = spec(l.to).map_or(&[][..], |op| op.inputs);
        Link {
            from: l.from,
            to: l.to,
            output: outputs.iter().map(|o| o.name).find(|name| outputs.len() > 1 && *name == l.output),
            port: ports.iter().map(|p| p.name).find(|name| ports.len() > 1 && *name == l.port),
            gathered: Vec::new(),
        }
    };
    let links = links.iter().map(link).collect();
    let node = |b: RunBox| Node {
        name: b.name,
        op: b.op,
        kind: b.kind,
        sweep: b.sweep,
        stacked: b.stacked,
        doc: b.doc,
        note: b.note,
        href: Some(b.href),
    };
    let boxes = boxes.into_iter().map(node).collect();
    svg::write(&Picture { title: title.to_string(), doc: String::new(), boxes, links }, svg::Place::Page)
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
    op: String,
    kind: Kind,
    /// `24 × set, variant` for a sweep, the values for one instance of it; empty outside a sweep.
    sweep: String,
    /// More than one instance in this box.
    stacked: bool,
    doc: Option<String>,
    /// A last line; empty where there is none.
    note: String,
    /// Where a click leads.
    href: Option<String>,
}

/// What a box does or, in the picture of a run, what became of it: this gives it its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Source,
    Transform,
    Model,
    Sink,
    Ran,
    Cached,
    Skipped,
    Unfinished,
    Failed,
}

impl Kind {
    const WORK: [Kind; 4] = [Kind::Source, Kind::Transform, Kind::Model, Kind::Sink];
    const ENDINGS: [Kind; 5] = [Kind::Ran, Kind::Cached, Kind::Skipped, Kind::Unfinished, Kind::Failed];

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
            Self::Ran => "ran",
            Self::Cached => "cached",
            Self::Skipped => "skipped",
            Self::Unfinished => "not finished",
            Self::Failed => "failed",
        }
    }

    /// The name as a class.
    fn class(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            other => other.name(),
        }
    }

    /// Fill and stroke on a light ground.
    fn light(self) -> (&'static str, &'static str) {
        match self {
            Self::Source => ("#dff3ee", "#2f8f7b"),
            Self::Transform => ("#e8edf5", "#64789b"),
            Self::Model => ("#fdeed3", "#c07a10"),
            Self::Sink => ("#efe6fa", "#8257b8"),
            Self::Ran => ("#dcf3e3", "#2c8a4b"),
            Self::Cached => ("#e3ecfa", "#4672b4"),
            Self::Skipped => ("#f1f2f4", "#8b93a1"),
            Self::Unfinished => ("#fdf1d6", "#b57a12"),
            Self::Failed => ("#fde2e0", "#c43d36"),
        }
    }

    /// Fill and stroke on a dark ground.
    fn dark(self) -> (&'static str, &'static str) {
        match self {
            Self::Source => ("#14352e", "#4fb8a1"),
            Self::Transform => ("#222c3d", "#8ea3c7"),
            Self::Model => ("#3d2c10", "#e0a040"),
            Self::Sink => ("#31224a", "#b08be0"),
            Self::Ran => ("#123420", "#53b877"),
            Self::Cached => ("#18283f", "#7ea8e2"),
            Self::Skipped => ("#222730", "#828c9b"),
            Self::Unfinished => ("#3a2c0e", "#dba544"),
            Self::Failed => ("#421a19", "#ee7f78"),
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
        Kind::WORK.into_iter().chain(Kind::ENDINGS).filter(|k| self.boxes.iter().any(|b| b.kind == *k))
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
        op: decl.op.name.to_string(),
        kind: Kind::of(decl.op),
        sweep,
        stacked: instances.len() > 1,
        doc: decl.doc.clone().filter(|d| !d.is_empty()),
        note: String::new(),
        href: None,
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
