//! Nodes that wait for each other.

use super::Graph;
use crate::diag::{Diagnostic, Diagnostics, Span};
use petgraph::algo::tarjan_scc;
use petgraph::graph::{EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// Reports each cycle with every edge labelled, and marks its nodes as broken.
pub(super) fn report(graph: &mut Graph, diagnostics: &mut Diagnostics) {
    let mut components: Vec<Vec<NodeIndex>> =
        tarjan_scc(&graph.graph).into_iter().filter(|c| is_cyclic(graph, c)).collect();
    for component in &mut components {
        component.sort();
    }
    components.sort();
    // The instances of a sweep repeat the cycle of their declarations: one report is enough.
    let mut reported: HashSet<BTreeSet<Span>> = HashSet::new();
    for component in components {
        let declarations = component.iter().map(|&n| graph.decl(n).name_span).collect();
        if reported.insert(declarations) {
            diagnostics.push(describe(graph, &shortest(graph, &component)));
        }
        graph.broken.extend(component);
    }
}

fn is_cyclic(graph: &Graph, component: &[NodeIndex]) -> bool {
    component.len() > 1 || graph.graph.contains_edge(component[0], component[0])
}

/// The edges of a shortest cycle through the component's first node that lies on one.
fn shortest(graph: &Graph, component: &[NodeIndex]) -> Vec<EdgeIndex> {
    let members: HashSet<NodeIndex> = component.iter().copied().collect();
    component.iter().map(|&start| cycle_through(graph, start, &members)).min_by_key(Vec::len).unwrap_or_default()
}

/// Breadth first from `start` back to `start`. Every node of a strongly connected component is on a cycle.
fn cycle_through(graph: &Graph, start: NodeIndex, members: &HashSet<NodeIndex>) -> Vec<EdgeIndex> {
    let mut came_by: HashMap<NodeIndex, EdgeIndex> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for edge in graph.graph.edges(node).filter(|e| members.contains(&e.target())) {
            if edge.target() == start {
                return walk_back(graph, start, edge.id(), &came_by);
            }
            if let Entry::Vacant(entry) = came_by.entry(edge.target()) {
                entry.insert(edge.id());
                queue.push_back(edge.target());
            }
        }
    }
    Vec::new()
}

fn walk_back(
    graph: &Graph,
    start: NodeIndex,
    last: EdgeIndex,
    came_by: &HashMap<NodeIndex, EdgeIndex>,
) -> Vec<EdgeIndex> {
    let mut edges = vec![last];
    let source = |e: EdgeIndex| graph.graph.edge_endpoints(e).map_or(start, |(from, _)| from);
    let mut node = source(last);
    while node != start {
        let edge = came_by[&node];
        edges.push(edge);
        node = source(edge);
    }
    edges.reverse();
    edges
}

fn describe(graph: &Graph, edges: &[EdgeIndex]) -> Diagnostic {
    let name = |n: NodeIndex| graph.decl(n).name.base.as_str();
    let ends = |e: &EdgeIndex| graph.graph.edge_endpoints(*e);
    let mut path: Vec<String> = edges.iter().filter_map(ends).map(|(from, _)| format!("`{}`", name(from))).collect();
    path.extend(path.first().cloned());
    let message = match path.as_slice() {
        [one, _] => format!("{one} waits for itself"),
        path => format!("nodes wait for each other: {}", path.join(" -> ")),
    };
    let mut d = Diagnostic::error("cycle", message);
    for (i, edge) in edges.iter().enumerate() {
        let Some((from, to)) = ends(edge) else { continue };
        let text = format!("`{}` reads `{}`", name(to), name(from));
        let span = graph.graph[*edge].span;
        d = if i == 0 { d.at(span, text) } else { d.and(span, text) };
    }
    d.help("rows flow one way: let one of these read an earlier node instead")
}
