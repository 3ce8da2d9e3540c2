//! Damaged pipelines and arbitrary bytes: always an answer, never a panic, and every label inside its source.

use super::*;
use crate::syntax;
use proptest::prelude::*;

const WHOLE: &str = include_str!("cases/whole.kdl");
const COMMON: &str = include_str!("cases/part-common.kdl");

/// A pipeline with every part of the language, in one text.
fn whole() -> String {
    WHOLE.replace("include \"part-common.kdl\"\n", COMMON)
}

/// Loads a text and checks what every message promises.
fn answer(text: &str, overrides: &[(String, String)]) -> Result<(), TestCaseError> {
    let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
    let input = Input::Text { name: "x.kdl", text };
    let pipeline = load_with(OPS, input, overrides, &mut sources, &mut diagnostics);
    prop_assert!(pipeline.is_some() || diagnostics.has_errors());
    for diagnostic in diagnostics.iter() {
        prop_assert!(crate::diag::codes::explain(diagnostic.code).is_some(), "{}", diagnostic.code);
        for label in &diagnostic.labels {
            let source = &sources.get(label.span.source).text;
            prop_assert!(source.get(label.span.range()).is_some(), "{:?} of {:?}", label, source);
        }
    }
    // Rendering has arithmetic of its own on the spans.
    let rendered = render(&diagnostics, &sources, true);
    prop_assert_eq!(rendered.is_empty(), diagnostics.is_empty());
    crate::diag::to_json(&diagnostics, &sources);
    Ok(())
}

/// A place of a text, on a character boundary.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

/// Deletes, doubles or moves a slice, or puts something foreign in.
#[derive(Clone, Debug)]
enum Damage {
    Delete(usize, usize),
    Double(usize, usize),
    Move(usize, usize, usize),
    Insert(usize, String),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = 0..whole().len();
    let length = prop_oneof![3 => 1..8usize, 1 => 1..200usize];
    let foreign = prop::sample::select(vec![
        "{",
        "}",
        "\"",
        "=",
        " ",
        "\n",
        ";",
        "/-",
        "/*",
        "*/",
        "//",
        "\\",
        "#",
        "(",
        ")",
        "${",
        "${set}",
        "$${",
        ".",
        "é",
        "\u{1F600}",
        "5",
        "-1",
        "#true",
        "#null",
        "\"\"\"\n",
        "include \"x\"\n",
        "set",
        "/-{",
        "\u{0}",
        "\u{FEFF}",
    ]);
    prop_oneof![
        (at.clone(), length.clone()).prop_map(|(a, l)| Damage::Delete(a, l)),
        (at.clone(), length.clone()).prop_map(|(a, l)| Damage::Double(a, l)),
        (at.clone(), length, at.clone()).prop_map(|(a, l, b)| Damage::Move(a, l, b)),
        (at, foreign).prop_map(|(a, f)| Damage::Insert(a, f.to_string())),
    ]
}

fn damaged(mut text: String, damages: &[Damage]) -> String {
    for damage in damages {
        let slice = |at: usize, length: usize| boundary(&text, at)..boundary(&text, at + length);
        match damage {
            Damage::Delete(at, length) => {
                let slice = slice(*at, *length);
                text.replace_range(slice, "");
            }
            Damage::Double(at, length) => {
                let slice = slice(*at, *length);
                let doubled = text[slice.clone()].to_string();
                text.insert_str(slice.end, &doubled);
            }
            Damage::Move(at, length, to) => {
                let slice = slice(*at, *length);
                let moved: String = text.drain(slice).collect();
                text.insert_str(boundary(&text, *to), &moved);
            }
            Damage::Insert(at, foreign) => text.insert_str(boundary(&text, *at), foreign),
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_pipeline_has_an_answer(damages in prop::collection::vec(damage(), 1..6)) {
        let text = damaged(whole(), &damages);
        answer(&text, &[])?;
    }

    #[test]
    fn a_damaged_pipeline_that_is_still_sound_formats_to_the_same_pipeline(damages in prop::collection::vec(damage(), 1..3)) {
        let text = damaged(whole(), &damages);
        let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
        let source = sources.add("x.kdl", None, text.as_str());
        if let Some(formatted) = syntax::format(&text, source, &mut diagnostics) {
            prop_assert_eq!(meaning(&formatted), meaning(&text));
        }
    }

    #[test]
    fn any_text_has_an_answer(text in "\\PC{0,60}", name in "[a-z]{0,4}", value in ".{0,10}") {
        answer(&text, &[(name, value)])?;
    }

    #[test]
    fn any_override_has_an_answer(name in prop::sample::select(vec!["limit", "sets", "data", "lmit"]), value in ".{0,12}") {
        answer(&whole(), &[(name.to_string(), value)])?;
    }

    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("x.kdl");
        std::fs::write(&file, &bytes).expect("a file");
        let (pipeline, messages) = load(&file, &[]);
        prop_assert!(pipeline.is_some() || !messages.is_empty());
    }
}

/// What a text decodes to, without places.
fn meaning(text: &str) -> (Vec<String>, Vec<&'static str>) {
    let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
    let pipeline = load_with(OPS, Input::Text { name: "x", text }, &[], &mut sources, &mut diagnostics);
    let node = |n: &super::super::NodeDecl| {
        let values = n.fields.values.iter().map(|(k, v)| format!("{k}={}", without_places(&format!("{:?}", v.value))));
        let inputs = n.inputs.iter().map(|i| format!("{}<-{}.{:?}", i.port, i.node, i.output));
        format!("{} {}: {:?}", n.op.name, n.name, values.chain(inputs).collect::<Vec<_>>())
    };
    let nodes = pipeline.iter().flat_map(|p| &p.nodes).map(node).collect();
    (nodes, diagnostics.iter().map(|d| d.code).collect())
}

/// Drops the `0:1..2` of spans.
fn without_places(text: &str) -> String {
    text.split(' ').filter(|w| !w.contains("..")).collect::<Vec<_>>().join(" ")
}

/// As large as a file may be, and of one thing too many: what takes quadratic time would be seen here.
#[test]
fn large_texts_have_an_answer_in_time() {
    let fill = |piece: &str| piece.repeat(syntax::MAX_BYTES / piece.len());
    let numbered = |from: &str, to: &str, n: usize| (0..n).map(|i| format!("{from}{i}{to}")).collect::<String>();
    let texts = [
        fill("a{}"),
        fill("a b\n"),
        fill("}"),
        fill("n (("),
        fill("a=="),
        format!("n {}", fill("#\"a\"#")),
        fill("#\"x\n"),
        fill("\"\\"),
        format!("n {}", numbered("k", "=1 ", 9000)),
        numbered("load \"n", "\" path=\"${x}\"\n", 9000),
        format!("matrix \"m\" {{ a {} }}", numbered("\"v", "\" ", 9000)),
        format!(
            "matrix \"m\" {{ a {}; keep a=\"v1\" {{ a {} }} }}",
            numbered("\"v", "\" ", 9000),
            numbered("\"w", "\" ", 1000)
        ),
        format!("load \"r\" path=\"x\" {{ fields {{ {} }} }}", numbered("f", " \"x\";", 9000)),
        format!("concat \"c\" {{ from {} }}", numbered("\"n", "\" ", 9000)),
        numbered("param \"p", "\" type=\"int\"\n", 9000),
    ];
    for text in texts {
        answer(&text, &[]).expect("an answer");
    }
}
