//! Nodes whose rows nobody reads.

use super::Graph;
use super::bind::ReadNames;
use crate::config::Unused;
use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::ops::list;
use indexmap::IndexMap;
use petgraph::Direction;
use petgraph::graph::NodeIndex;
use std::collections::HashSet;

/// Reports declarations that no reference means.
pub(super) fn report(graph: &Graph, read: &ReadNames, diagnostics: &mut Diagnostics) {
    let mut seen: HashSet<&str> = HashSet::new();
    for node in graph.graph.node_indices() {
        let decl = graph.decl(node);
        let meant = graph.is_root(node) || decl.unused == Some(Unused::Skip);
        if meant || read.contains(&decl.name.base) || !seen.insert(&decl.name.base) {
            continue;
        }
        let outputs: Vec<&str> = decl.op.outputs.iter().map(|o| o.name).collect();
        diagnostics.push(
            Diagnostic::error("unused-node", format!("nobody reads `{}`", decl.name.base))
                .at(decl.name_span, format!("its {} would be computed for nothing", outputs_in_words(&outputs)))
                .help(format!(
                    "read it (`from=\"{}\"`), remove it, or write `unused=\"ok\"` to keep its rows in the store",
                    decl.name.base
                )),
        );
    }
}

fn outputs_in_words(outputs: &[&str]) -> String {
    match outputs {
        [_] => "output".into(),
        many => format!("outputs {}", list(many)),
    }
}

/// Leaves out instances that no sink needs: a smaller sweep reads a part of a larger one.
pub(super) fn prune(graph: &mut Graph, diagnostics: &mut Diagnostics) {
    let needed = needed(graph);
    let mut unread: IndexMap<&str, (Span, Vec<String>)> = IndexMap::new();
    for node in graph.graph.node_indices() {
        let decl = graph.decl(node);
        let read = graph.graph.neighbors_directed(node, Direction::Outgoing).next().is_some();
        if !needed.contains(&node) && !read && decl.unused != Some(Unused::Skip) {
            let name = decl.name.to_string();
            unread.entry(&decl.name.base).or_insert_with(|| (decl.name_span, Vec::new())).1.push(name);
        }
    }
    for (base, (span, instances)) in unread {
        let shown: Vec<&str> = instances.iter().take(4).map(String::as_str).collect();
        let more = instances.len() - shown.len();
        let tail = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        diagnostics.push(
            Diagnostic::warning(
                "unused-instances",
                format!("{} of `{base}` are read by nobody", count(instances.len())),
            )
            .at(span, format!("not run: {}{tail}", list(&shown)))
            .help("`keep` or `exclude` them in the matrix if they are not wanted"),
        );
    }
    graph.order.retain(|n| needed.contains(n));
}

fn count(n: usize) -> String {
    if n == 1 { "1 instance".into() } else { format!("{n} instances") }
}

/// All that sinks read, directly or through others.
fn needed(graph: &Graph) -> HashSet<NodeIndex> {
    let mut needed: HashSet<NodeIndex> = HashSet::new();
    let mut open: Vec<NodeIndex> = graph.graph.node_indices().filter(|&n| graph.is_root(n)).collect();
    while let Some(node) = open.pop() {
        if needed.insert(node) {
            open.extend(graph.graph.neighbors_directed(node, Direction::Incoming));
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use crate::diag::{Diagnostics, Sources, render};

    /// Names of the nodes that would run, and what is said.
    fn ran(unused: &str, read: &str) -> (Vec<String>, String) {
        let text = format!(
            r#"
            param "from" type="string" default="{read}"
            load "a" path="a.jsonl" {unused} {{ columns {{ t "string" }} }}
            load "source" path="b.jsonl" {{ columns {{ t "string" }} }}
            select "b" from="source" {unused} {{ columns "t" }}
            write "out" from="${{from}}" path="out.jsonl"
            "#
        );
        let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
        let pipeline = crate::config::load_text("p.kdl", &text, &[], &mut sources, &mut diagnostics).unwrap();
        let graph = crate::graph::build(pipeline, &mut diagnostics).unwrap();
        let names = graph.order.iter().map(|node| graph.decl(*node).name.to_string()).collect();
        (names, render(&diagnostics, &sources, false))
    }

    #[test]
    fn a_parameter_may_choose_who_is_read() {
        let (_, said) = ran("", "a");
        assert!(said.contains("unused-node") && said.contains("`b`"), "{said}");
        assert_eq!(ran("unused=\"skip\"", "a"), (vec!["a".into(), "out".into()], String::new()));
        assert_eq!(ran("unused=\"skip\"", "b"), (vec!["source".into(), "b".into(), "out".into()], String::new()));
        let (all, said) = ran("unused=\"ok\"", "a");
        assert_eq!((all.len(), said.as_str()), (4, ""));
    }
}
