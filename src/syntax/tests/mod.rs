//! Properties that hold for every text, and examples of what the parser and the formatter do.

mod format;
mod parse;

use super::{Document, Node, Scalar, parse};
use crate::diag::{Diagnostics, SourceId, Sources, Span, render};
use proptest::prelude::*;

const SOURCE: SourceId = SourceId(0);

/// Parses a text that must have no errors.
fn valid(text: &str) -> Document {
    let (document, messages) = parsed(text);
    assert_eq!(messages, "", "in:\n{text}");
    document.expect("a document")
}

/// Parses any text; the document and the rendered messages.
fn parsed(text: &str) -> (Option<Document>, String) {
    let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
    let source = sources.add("x.kdl", None, text);
    let document = parse(text, source, &mut diagnostics);
    for label in diagnostics.iter().flat_map(|d| &d.labels) {
        assert_inside(text, label.span);
    }
    (document, render(&diagnostics, &sources, false))
}

fn assert_inside(text: &str, span: Span) {
    assert!(text.get(span.range()).is_some(), "{span:?} is no part of {text:?}");
}

/// The meaning of a document: what it says without where it says it.
fn outline(document: &Document) -> String {
    let mut out = String::new();
    for node in &document.nodes {
        node_outline(node, 0, &mut out);
    }
    out
}

fn node_outline(node: &Node, depth: usize, out: &mut String) {
    let annotation =
        |a: &Option<crate::diag::Spanned<String>>| a.as_ref().map_or(String::new(), |a| format!("({:?})", a.value));
    *out += &format!("{:depth$}{}{:?}", "", annotation(&node.annotation), node.name.value);
    for entry in &node.entries {
        let name = entry.name.as_ref().map_or(String::new(), |n| format!("{:?}=", n.value));
        *out += &format!(" {name}{}{:?}", annotation(&entry.annotation), entry.value.value);
    }
    *out += if node.children.is_some() { " {\n" } else { "\n" };
    for child in node.child_nodes() {
        node_outline(child, depth + 1, out);
    }
    if node.children.is_some() {
        *out += &format!("{:depth$}}}\n", "");
    }
}

/// Pieces that texts are made of: valid ones are likely, and every token meets every other.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => Just(" "),
        4 => Just("\n"),
        6 => prop::sample::select(vec!["a", "b-1", "load", "\"c d\"", "\"x\"", "#\"r\\w\"#", "\"e\\n\\u{e9}\"", "é"]),
        3 => prop::sample::select(vec!["5", "-1.5e3", "0x1F", "#true", "#null", "#-inf"]),
        3 => prop::sample::select(vec!["k=1", "k=\"v\"", "\"k\" = v", "k=(t)2", "(t)x"]),
        3 => prop::sample::select(vec!["a {\n", "a {", "}", "}", " {", "{}"]),
        3 => prop::sample::select(vec!["/-", "/- ", ";", "\\\n", "\\ // c\n", " \\ /* c */\r\n", "="]),
        3 => prop::sample::select(vec!["// c\n", "/* c */", "/* c\n /* d */ */", "//\n", "\r\n", "\t", "\n\n\n"]),
        1 => prop::sample::select(vec!["\"\"\"\n  m\n    n\n  \"\"\"", "#\"\"\"\n m\n \"\"\"#", "\u{FEFF}", "(", ")", "[", "\"", "#"]),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// Valid documents with white space, comments and slashdashes in every place that has room for them.
fn documents() -> impl Strategy<Value = String> {
    let leaf = node(prop_oneof![3 => Just(String::new()), 1 => Just("{}".to_string())].boxed());
    let node = leaf.prop_recursive(3, 24, 4, |inner| {
        let block = (prop::collection::vec((inner, terminator()), 0..4), lines(), proptest::option::of(node_line()));
        let block = block.prop_map(|(nodes, lines, last)| {
            let nodes: String = nodes.into_iter().map(|(n, t)| n + &t).collect();
            format!("{{{nodes}{lines}{}}}", last.unwrap_or_default())
        });
        node(block.boxed())
    });
    (lines(), prop::collection::vec((node, terminator(), lines()), 0..6))
        .prop_map(|(first, nodes)| first + &nodes.into_iter().map(|(n, t, l)| n + &t + &l).collect::<String>())
}

fn node_line() -> impl Strategy<Value = String> {
    node(Just(String::new()).boxed())
}

fn node(block: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let name = prop::sample::select(vec!["a", "load", "\"load\"", "\"c d\"", "#\"r\\w\"#", "\"true\"", "é"]);
    let value = prop::sample::select(vec![
        "b",
        "\"x\"",
        "5",
        "-1.5e3",
        "#true",
        "#null",
        "\"\"\"\n  m\n    n\n  \"\"\"",
        "\"\\u{e9}\"",
    ]);
    let annotation = || prop_oneof![8 => Just(""), 1 => Just("(t)"), 1 => Just("( \"t\" )/* c */")];
    let key = prop_oneof![2 => Just(String::new()), 1 => (prop::sample::select(vec!["k", "\"k\"", "\"k 2\""]), space0(), space0()).prop_map(|(k, a, b)| format!("{k}{a}={b}"))];
    let entry = (space1(), slashdash(), key, annotation(), value).prop_map(|(s, d, k, a, v)| s + &d + &k + a + v);
    let hidden = prop_oneof![12 => Just(String::new()), 1 => Just(" /-{ x }".to_string()), 1 => Just("/-\n{ // c\n}".to_string())];
    let entries = prop::collection::vec(entry, 0..4).prop_map(|e| e.concat());
    (slashdash(), annotation(), name, entries, hidden, space0(), block)
        .prop_map(|(d, a, n, e, h, s, b)| format!("{d}{a}{n}{e}{h}{s}{b}"))
        .boxed()
}

fn slashdash() -> impl Strategy<Value = String> {
    prop_oneof![10 => Just(String::new()), 1 => Just("/-".to_string()), 1 => lines().prop_map(|l| format!("/-{l}"))]
}

fn space0() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::new()), 1 => space1()]
}

fn space1() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        " ",
        " ",
        "  \t",
        "/* c */",
        " /* c\n /* d */ */ ",
        "\\\n",
        " \\ // c\n ",
        " \\ /* c */\r\n",
    ])
    .prop_map(str::to_string)
}

fn lines() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "\n",
        "\r\n",
        "// c\n",
        "\n\n\n",
        "/* c\n d */",
        " ",
        "/* c */",
        "\\\n",
        "\\ // c\n",
    ]);
    prop::collection::vec(line, 0..4).prop_map(|l| l.concat())
}

fn terminator() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["\n", ";", " // c\n", "\r\n", "/* c */\n", " ; ", "\n\n"]).prop_map(str::to_string)
}
