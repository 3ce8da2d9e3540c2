use super::*;
use crate::syntax::parser::read;
use crate::syntax::{MAX_BYTES, MAX_DEPTH};

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_ends_in_a_document_or_messages(text in prop_oneof![pieces(), ".{0,80}", "[ -~\n]{0,80}"]) {
        let (document, messages) = parsed(&text);
        prop_assert!(document.is_some() || !messages.is_empty());
        for node in document.iter().flat_map(|d| &d.nodes) {
            check_spans(&text, node, 0..text.len());
        }
    }

    #[test]
    fn documents_are_valid(text in documents()) {
        valid(&text);
    }

    /// A text that both accept means the same to the reference implementation. (They do not accept quite the same: it
    /// refuses `a { /-b ; }`, which is valid, and takes `a {}/-b`, which is not.)
    #[test]
    fn the_reference_implementation_agrees(text in prop_oneof![documents(), pieces()]) {
        let mut diagnostics = Diagnostics::new();
        let ours = read(&text, SOURCE, &mut diagnostics);
        if let (true, Some((document, _)), Ok(reference)) = (diagnostics.is_empty(), ours, kdl::KdlDocument::parse_v2(&text)) {
            prop_assert_eq!(outline(&document), reference_outline(&reference), "{:?}", text);
        }
    }
}

fn reference_outline(document: &kdl::KdlDocument) -> String {
    let mut out = String::new();
    for node in document.nodes() {
        reference_node(node, 0, &mut out);
    }
    out
}

fn reference_node(node: &kdl::KdlNode, depth: usize, out: &mut String) {
    let annotation = |a: Option<&kdl::KdlIdentifier>| a.map_or(String::new(), |a| format!("({:?})", a.value()));
    *out += &format!("{:depth$}{}{:?}", "", annotation(node.ty()), node.name().value());
    for entry in node.entries() {
        let name = entry.name().map_or(String::new(), |n| format!("{:?}=", n.value()));
        let value = match entry.value() {
            kdl::KdlValue::String(s) => Scalar::Str(s.clone()),
            kdl::KdlValue::Integer(i) => Scalar::Int(*i as i64),
            kdl::KdlValue::Float(f) => Scalar::Float(*f),
            kdl::KdlValue::Bool(b) => Scalar::Bool(*b),
            kdl::KdlValue::Null => Scalar::Null,
        };
        *out += &format!(" {name}{}{value:?}", annotation(entry.ty()));
    }
    *out += if node.children().is_some() { " {\n" } else { "\n" };
    for child in node.children().map_or(&[][..], |c| c.nodes()) {
        reference_node(child, depth + 1, out);
    }
    if node.children().is_some() {
        *out += &format!("{:depth$}}}\n", "");
    }
}

/// Every span lies inside its parent's, on character boundaries, and begins and ends at what it names.
fn check_spans(text: &str, node: &Node, outer: std::ops::Range<usize>) {
    let inside = |span: Span, outer: &std::ops::Range<usize>| {
        assert_inside(text, span);
        assert!(span.range().start >= outer.start && span.range().end <= outer.end, "{span:?} {outer:?} {text:?}");
        let written = &text[span.range()];
        assert!(!written.is_empty() && written.trim() == written, "{written:?} in {text:?}");
    };
    inside(node.span, &outer);
    inside(node.name.span, &node.span.range());
    for entry in &node.entries {
        inside(entry.span, &node.span.range());
        inside(entry.value.span, &entry.span.range());
        entry.name.iter().chain(&entry.annotation).for_each(|n| inside(n.span, &entry.span.range()));
        if let (Some(span), Scalar::Str(value)) = (entry.verbatim, &entry.value.value) {
            assert_eq!(&text[span.range()], value);
        }
    }
    if let Some(block) = &node.children {
        inside(block.span, &node.span.range());
        assert!(text[block.span.range()].starts_with('{') && text[block.span.range()].ends_with('}'));
        block.nodes.iter().for_each(|n| check_spans(text, n, block.span.range()));
    }
}

#[test]
fn spans_leave_out_what_stands_around() {
    let text = "\u{FEFF}/* é */ (t)load \"rows\" /* x */ limit = (u)5 { a ; b } // c\n";
    let document = valid(text);
    let node = &document.nodes[0];
    let written = |span: Span| &text[span.range()];
    assert_eq!(written(node.span), "(t)load \"rows\" /* x */ limit = (u)5 { a ; b }");
    assert_eq!(written(node.annotation.as_ref().expect("annotated").span), "t");
    assert_eq!(written(node.name.span), "load");
    assert_eq!(written(node.entries[0].span), "\"rows\"");
    assert_eq!(written(node.entries[0].verbatim.expect("verbatim")), "rows");
    assert_eq!(written(node.entries[1].span), "limit = (u)5");
    assert_eq!(written(node.entries[1].value.span), "5");
    assert_eq!(written(node.children.as_ref().expect("a block").span), "{ a ; b }");
    assert_eq!(written(node.child_nodes()[1].span), "b");
}

#[test]
fn strings_of_all_forms() {
    for (text, value) in [
        ("word", "word"),
        ("\"\"", ""),
        (r#""a\"b\\c\n\s\u{1F600}""#, "a\"b\\c\n \u{1F600}"),
        ("\"a\\   b\\\n  c\"", "abc"),
        (r##"#"a\n"b"#"##, "a\\n\"b"),
        (r###"##"a"#b"##"###, "a\"#b"),
        ("\"\"\"\n  a\n\n    b\\n\n  \"\"\"", "a\n\n  b\n"),
        ("\"\"\"\r\n\ta\r\n\tb\r\n\t\"\"\"", "a\nb"),
        ("\"\"\"\n\"\"\"", ""),
        ("\"\"\"\n  a \"\" b\\\n      c\n  \"\"\"", "a \"\" bc"),
        ("#\"\"\"\n  \\a\n  \"\"\"#", "\\a"),
    ] {
        let document = valid(&format!("n {text}"));
        assert_eq!(document.nodes[0].entries[0].value.value, Scalar::Str(value.into()), "{text}");
    }
}

#[test]
fn slashdash_comments_out_nodes_entries_and_blocks() {
    let document = valid("/-a 1 {\n b\n}\nc /-1 2 /-k=3 /-{ d } { e } /-{ f }\n/-\n// x\ng\nh { /-i; j }\n");
    assert_eq!(outline(&document), "\"c\" Int(2) {\n \"e\"\n}\n\"h\" {\n \"j\"\n}\n");
}

/// Inputs that take a backtracking parser exponential time or a recursive one its stack: all linear here.
#[test]
fn hostile_texts_end() {
    for n in [30, 100_000] {
        for (text, fine) in [
            ("a /-{".repeat(n), false),
            (format!("{}{}", "a /-{\n".repeat(n), "}\n".repeat(n)), n <= MAX_DEPTH),
            (format!("{}={}", "a /-{\n".repeat(n), "}\n".repeat(n)), false),
            (format!("{}{}", "a {\n".repeat(n), "}\n".repeat(n)), n <= MAX_DEPTH),
            (format!("/*{}*/", "*a".repeat(n)), true),
            (format!("{}{}", "/*".repeat(n), "*/".repeat(n)), true),
            ("/*".repeat(n), false),
            ("a=".repeat(n), false),
            ("(".repeat(n), false),
            ("/-".repeat(n), false),
            ("\"\\".repeat(n), false),
            (format!("n {}", "/-a ".repeat(n)), true),
        ] {
            let mut diagnostics = Diagnostics::new();
            parse(&text, SOURCE, &mut diagnostics);
            assert_eq!(diagnostics.is_empty(), fine, "{} x {n}", &text[..text.len().min(20)]);
        }
    }
}

#[test]
fn a_text_beyond_the_limit_is_refused() {
    let (document, messages) = parsed(&" ".repeat(MAX_BYTES + 1));
    assert!(document.is_none() && messages.contains("file-too-large"), "{messages}");
}
