//! Mermaid flowcharts, as GitHub and many note tools render them.

use super::Picture;
use std::fmt::Write;

pub(super) fn write(picture: &Picture) -> String {
    let mut out = format!("---\ntitle: {}\n---\nflowchart TD\n", serde_json::Value::from(picture.title.as_str()));
    for (i, node) in picture.boxes.iter().enumerate() {
        let mut label = format!("<b>{}</b><br/>{}", escaped(&node.name), escaped(&node.op));
        if !node.sweep.is_empty() {
            label += &format!("<br/><small>{}</small>", escaped(&node.sweep));
        }
        let (open, close) = if node.stacked { ("[[", "]]") } else { ("(", ")") };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "    n{i}{open}\"{label}\"{close}:::{}", node.kind.name());
    }
    for link in &picture.links {
        let parts: Vec<String> = [link.output.map(str::to_string), link.head()].into_iter().flatten().collect();
        let label = if parts.is_empty() { String::new() } else { format!("|\"{}\"|", escaped(&parts.join(" → "))) };
        let _ = writeln!(out, "    n{} -->{label} n{}", link.from, link.to);
    }
    for kind in picture.kinds() {
        let (fill, stroke) = kind.light();
        let _ = writeln!(out, "    classDef {} fill:{fill},stroke:{stroke},color:#1c2430", kind.name());
    }
    out
}

/// Mermaid's entities, which start with a hash.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out += "#quot;",
            '#' => out += "#35;",
            '<' => out += "#lt;",
            '>' => out += "#gt;",
            '&' => out += "#amp;",
            '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
