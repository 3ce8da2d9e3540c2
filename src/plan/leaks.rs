//! Rows that an adapter is trained on or chosen by must not be those that it is tested on.
//!
//! Followed back through nodes that keep all rows or some of them, to the file or the node that they come from. Where
//! both sides choose some of the same rows, only a run could tell whether they meet.

use super::PlanNode;
use crate::diag::{Diagnostic, Diagnostics, Span};
use serde_json::Value;
use std::collections::HashSet;
use std::ops::Range;

/// Operators that hand on every row of their input `from`, with other columns or in another order.
const KEEPING: &[&str] =
    &["select", "derive", "sort", "score-ppl", "check-answer", "edit-distance", "initial-prediction", "task-prompt"];
/// Operators that hand on some rows of their input `from` or, of a join, `left`.
const NARROWING: &[&str] = &["filter", "sample", "deduplicate", "join"];

/// Where rows come from.
#[derive(Debug, PartialEq)]
struct Source {
    /// The content of a file, or an output of a node.
    what: String,
    /// Which of its rows.
    rows: Range<u64>,
    /// Not all of them.
    narrowed: bool,
}

impl Source {
    /// Whether two sources are sure to have rows in common.
    fn meets(&self, other: &Self) -> bool {
        let in_range = self.rows.start < other.rows.end && other.rows.start < self.rows.end;
        self.what == other.what && in_range && !(self.narrowed && other.narrowed)
    }
}

/// Reports every adapter that is trained on or chosen by the rows that it is tested on.
pub fn check(nodes: &[PlanNode], diagnostics: &mut Diagnostics) {
    let mut told: HashSet<(Span, Span)> = HashSet::new();
    for test in nodes.iter().filter(|node| node.op.name == "evaluate") {
        let Some(rows) = input(test, "from") else { continue };
        for training in trainings(nodes, test) {
            let meets = |port: &str| input(training, port).is_some_and(|port| meet(nodes, port, rows));
            if meets("validation") && told.insert((training.span, test.span)) {
                diagnostics.push(
                    Diagnostic::error(
                        "validation-is-test",
                        format!("`{}` chooses its adapter by rows that `{}` tests it on", training.name, test.name),
                    )
                    .at(training.span, "validates on them")
                    .and(test.span, "tests on them")
                    .help("validate on rows of the training split: a test says nothing of rows that helped to choose"),
                );
            }
            // A test may be told to ask or to leave out what was trained on.
            let refused = test.operator.canonical().get("on_overlap").is_none();
            if refused && meets("from") && told.insert((training.span, test.span)) {
                diagnostics.push(
                    Diagnostic::error(
                        "training-is-test",
                        format!("`{}` trains on rows that `{}` tests its adapter on", training.name, test.name),
                    )
                    .at(training.span, "trains on them")
                    .and(test.span, "tests on them")
                    .help("test on rows of another split: a test on these says how well they are remembered")
                    .help("if that is what you want to know, say `on-overlap=\"keep\"` at the test"),
                );
            }
        }
    }
}

/// Whether two inputs are sure to have rows in common.
fn meet(nodes: &[PlanNode], one: (usize, usize), other: (usize, usize)) -> bool {
    [false, true].into_iter().any(|through| source(nodes, one, through).meets(&source(nodes, other, through)))
}

/// The trainings whose adapters a test uses.
fn trainings<'a>(nodes: &'a [PlanNode], test: &PlanNode) -> Vec<&'a PlanNode> {
    let mut open: Vec<usize> = test.inputs.iter().filter(|i| i.port == "adapter").map(|i| i.node).collect();
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    while let Some(at) = open.pop() {
        if !seen.insert(at) {
            continue;
        }
        let node = &nodes[at];
        if node.op.name == "lora-train" {
            found.push(node);
            // One that it went on from was chosen as well.
            open.extend(node.inputs.iter().filter(|i| i.port == "adapter").map(|i| i.node));
        } else {
            open.extend(node.inputs.iter().map(|i| i.node));
        }
    }
    found
}

fn input(node: &PlanNode, port: &str) -> Option<(usize, usize)> {
    node.inputs.iter().find(|input| input.port == port).map(|input| (input.node, input.output))
}

/// Follows rows back. With `through` also past nodes that choose among them.
fn source(nodes: &[PlanNode], (mut at, mut output): (usize, usize), through: bool) -> Source {
    let mut narrowed = false;
    loop {
        let node = &nodes[at];
        let narrows = NARROWING.contains(&node.op.name);
        let rows = input(node, if node.op.name == "join" { "left" } else { "from" });
        match rows.filter(|_| KEEPING.contains(&node.op.name) || (through && narrows)) {
            Some(before) => {
                narrowed |= narrows;
                (at, output) = before;
            }
            None if node.op.name == "load" => return loaded(node, narrowed),
            None => return Source { what: format!("node {at} output {output}"), rows: 0..u64::MAX, narrowed },
        }
    }
}

/// The rows that a `load` reads: of what, and from where to where.
fn loaded(node: &PlanNode, narrowed: bool) -> Source {
    let config = node.operator.canonical();
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let files = node.ingredients.iter().filter(|(key, _)| key.starts_with("file:"));
    let files: Vec<String> = files.map(|(key, digest)| format!("{key}={digest}")).collect();
    // The prefix names rows, and changes none.
    let checksums = config.get("origin").and_then(|o| o.get("sha256").or(o.get("stems"))).unwrap_or(&Value::Null);
    let start = number("offset").unwrap_or(0);
    let end = number("limit").map_or(u64::MAX, |limit| start.saturating_add(limit));
    let narrowed = narrowed || number("sample").is_some();
    Source { what: format!("{checksums} {}", files.join(" ")), rows: start..end, narrowed }
}
