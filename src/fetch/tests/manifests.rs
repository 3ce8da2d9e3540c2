//! Mistakes in manifests, each at its place.

use crate::diag::{Diagnostics, Sources, render};
use crate::fetch::Origin;
use crate::fetch::decode;

/// What is said of a text.
fn report(text: &str) -> String {
    let (mut sources, mut diags) = (Sources::new(), Diagnostics::new());
    let source = sources.add("test.kdl", None, text);
    decode::manifests(text, source, &Origin::BuiltIn, &mut diags);
    render(&diags, &sources, false)
}

/// Compares with a snapshot that shows the messages alone.
#[track_caller]
fn expect(name: &str, report: String) {
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(name, report) });
}

/// A data set with this text in its split's file.
fn in_file(text: &str) -> String {
    let head =
        "dataset \"t\" summary=\"t\" license=\"MIT\" {\n    columns { question \"string\"; }\n    split \"s\" {\n";
    format!("{head}        {text}\n    }}\n}}\n")
}

#[test]
fn mistakes_of_data_sets() {
    expect(
        "data_set",
        report(
            r##"
dataset "bad name!" {
    sumary "mine"
    license 7
    columns {
        question "string"
        question "string"
        answer "strng"
        unused "int" color="red"
    }
    fields { question "q"; respnse "a"; }
    split "train" rows=-1 { file "a.jsonl" { path "a.jsonl"; }; }
    split "train" { file "b.jsonl" { path "b.jsonl"; }; }
    split "empty"
}
datset "x"
"##,
        ),
    );
}

#[test]
fn mistakes_of_models() {
    expect(
        "model",
        report(
            r##"
model "m" {
    summary "m"; license "MIT"; kind "pytorch"; architecture "llama"; context 0; chat-template "yes"
    file "w.bin" { url "ftp://host/w.bin"; }
    file "w.bin" { url "https://host/w.bin"; }
}
model "n" {
    summary "n"; license "MIT"; kind "gguf"; architecture "llama"; context 10; parameters 10
    file "w.safetensors" { url "https://host/w"; }
}
"##,
        ),
    );
}

#[test]
fn mistakes_of_files() {
    let texts = [
        r#"file "a.jsonl""#,
        r#"file "a.what" { path "x"; }"#,
        r#"file "../a.jsonl" { path "x"; }"#,
        r#"file "a.jsonl" sha256="ABC" { path "x"; }"#,
        r#"file "a.jsonl" { ulr "https://host/a"; }"#,
        r#"file "a.jsonl" { hub "noslash" file="a"; }"#,
        r#"file "a.jsonl" { hub "org/name" revision="../x" file="a" repo-type="space"; }"#,
        r#"file "a.jsonl" { package "--index-url=x" version=">=1" member="a"; }"#,
        r#"file "a.jsonl" { archive "none.zip" member="a"; }"#,
        r#"file "a.jsonl" { concat { url "https://host/a"; }; }"#,
        r#"file "a.jsonl" { url "https://host/a" bytes=7; }"#,
        r#"file "a.jsonl" bytes=1 { bytes 2; path "x"; path; }"#,
    ];
    let reports: Vec<String> = texts.iter().map(|t| report(&in_file(t))).collect();
    expect("file", reports.concat());
}

#[test]
fn broken_text_is_an_error_and_no_panic() {
    for text in ["dataset \"x\" {", "}", "dataset", "model", "\u{0}", "dataset \"x\" \"y\" { split; file; columns 1 }"]
    {
        assert!(report(text).contains("error"), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(cut in 0usize..4000, with in ".{0,8}") {
        let whole = include_str!("../../../datasets/all-mpnet-base-v2.kdl");
        let mut at = cut.min(whole.len());
        while !whole.is_char_boundary(at) {
            at -= 1;
        }
        report(&format!("{}{with}{}", &whole[..at], &whole[(at + 3).min(whole.len())..]));
    }
}

#[test]
fn the_manifests_of_the_documentation_are_right() {
    let text = include_str!("../../../docs/manifests.md");
    let blocks: Vec<&str> =
        text.split("```kdl,").skip(1).filter_map(|b| b.split("```").next()?.split_once('\n')).map(|b| b.1).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        assert_eq!(report(block), "");
    }
}
