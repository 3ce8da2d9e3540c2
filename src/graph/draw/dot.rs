//! Graphviz.

use super::Picture;
use std::fmt::Write;

pub(super) fn write(picture: &Picture) -> String {
    let mut out = format!("digraph {} {{\n", quoted(&picture.title));
    out += "    node [shape=box, style=\"rounded,filled\", fontname=\"DejaVu Sans\", fontsize=11, margin=\"0.16,0.09\"];\n";
    out += "    edge [fontname=\"DejaVu Sans\", fontsize=9, color=\"#64789b\", arrowsize=0.7];\n";
    for (i, node) in picture.boxes.iter().enumerate() {
        let mut lines = vec![node.name.as_str(), node.op.as_str()];
        if !node.sweep.is_empty() {
            lines.push(&node.sweep);
        }
        let (fill, stroke) = node.kind.light();
        let peripheries = if node.stacked { ", peripheries=2" } else { "" };
        let tooltip = node.doc.as_deref().map(|d| format!(", tooltip={}", quoted(d))).unwrap_or_default();
        let label = quoted(&lines.join("\n"));
        // Writing to a string cannot fail.
        let _ =
            writeln!(out, "    n{i} [label={label}, fillcolor=\"{fill}\", color=\"{stroke}\"{peripheries}{tooltip}];");
    }
    for link in &picture.links {
        let mut attributes = Vec::new();
        if let Some(output) = link.output {
            attributes.push(format!("taillabel={}", quoted(output)));
        }
        if let Some(head) = link.head() {
            attributes.push(format!("headlabel={}", quoted(&head)));
        }
        let tail = if attributes.is_empty() { String::new() } else { format!(" [{}]", attributes.join(", ")) };
        let _ = writeln!(out, "    n{} -> n{}{tail};", link.from, link.to);
    }
    out + "}\n"
}

/// A quoted DOT string; line breaks become DOT's own.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
