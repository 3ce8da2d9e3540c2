use super::super::lexer::{TokenKind, lex};
use super::*;
use crate::syntax::format;

fn formatted(text: &str) -> String {
    let mut diagnostics = Diagnostics::new();
    let out = format(text, SOURCE, &mut diagnostics);
    assert!(diagnostics.is_empty(), "{diagnostics:?} in:\n{text}");
    out.expect("formatted")
}

/// Every comment, by its words, in order.
fn comments(text: &str) -> Vec<String> {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let comment = |t: &super::super::lexer::Token| match t.kind {
        TokenKind::LineComment | TokenKind::BlockComment => Some(words(&text[t.range()])),
        TokenKind::LineContinuation => Some(words(&text[t.start + 1..t.end])).filter(|w| !w.is_empty()),
        _ => None,
    };
    lex(text, SOURCE, &mut Diagnostics::new()).iter().filter_map(comment).collect()
}

fn slashdashes(text: &str) -> usize {
    lex(text, SOURCE, &mut Diagnostics::new()).iter().filter(|t| t.kind == TokenKind::Slashdash).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn formatting_keeps_meaning_and_comments_and_settles_at_once(text in prop_oneof![documents(), pieces()]) {
        let (document, messages) = parsed(&text);
        if !messages.is_empty() {
            return Ok(());
        }
        let once = formatted(&text);
        prop_assert_eq!(outline(&valid(&once)), outline(&document.expect("no errors")), "{:?} -> {:?}", text, once);
        prop_assert_eq!(comments(&once), comments(&text), "{:?} -> {:?}", text, once);
        prop_assert_eq!(slashdashes(&once), slashdashes(&text));
        let twice = formatted(&once);
        prop_assert_eq!(&twice, &once, "from {:?}", text);
        prop_assert!(once.is_empty() || once.ends_with('\n') && !once.ends_with("\n\n"));
    }
}

#[test]
fn one_style() {
    let text = "\u{FEFF}\r\n\r\npipeline   'x'\r\n".replace('\'', "\"")
        + "\n\n\n// about a\nload rows \"limit\"=5 path = \"a\"{fields{a \"b\";c d}}   // behind\n\n\n\n"
        + "write \"out\" \\\n  from=\"rows\" /* why */ path=(t)\"x\"   {\n\n  // first\n\n\n  value \"a\"; value \"b\"\n\n}\n"
        + "/- gone   1\n\n\n";
    insta::assert_snapshot!(formatted(&text), @r#"
    pipeline "x"

    // about a
    load "rows" limit=5 path="a" { fields { a "b"; c "d" } } // behind

    write "out" \
        from="rows" /* why */ path=(t)"x" {
        // first

        value "a"
        value "b"
    }
    /-gone 1
    "#);
}

#[test]
fn a_text_with_errors_is_not_formatted() {
    let mut diagnostics = Diagnostics::new();
    assert_eq!(format("a {\n", SOURCE, &mut diagnostics), None);
    assert!(diagnostics.has_errors());
    assert_eq!(formatted(""), "");
    assert_eq!(formatted("\n \n"), "");
}
