//! The front end on small files: one snapshot of a whole pipeline, one for each kind of diagnostic.

mod fuzz;
mod registry;

use super::load::{Input, load_with};
use super::{Pipeline, decode_fields};
use crate::diag::{Diagnostics, Sources, render};
use registry::OPS;
use std::path::{Path, PathBuf};

/// Loads a file with the test operators; the pipeline and the rendered messages.
fn load(path: &Path, overrides: &[(&str, &str)]) -> (Option<Pipeline>, String) {
    let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
    let overrides: Vec<(String, String)> = overrides.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    let pipeline = load_with(OPS, Input::File(path), &overrides, &mut sources, &mut diagnostics);
    (pipeline, render(&diagnostics, &sources, false))
}

fn case(name: &str) -> PathBuf {
    Path::new("src/config/tests/cases").join(name)
}

#[test]
fn a_whole_pipeline() {
    let (pipeline, messages) = load(&case("whole.kdl"), &[("sets", "MATH,GSM8K")]);
    assert_eq!(messages, "");
    let here = std::env::current_dir().expect("a working directory");
    let text = format!("{:#?}", pipeline.expect("a pipeline")).replace(&*here.to_string_lossy(), "[here]");
    insta::assert_snapshot!(text);
}

#[test]
fn fields_of_one_node() {
    let fields = decode_fields(registry::LOAD, "load \"rows\" path=\"x\" matrix=\"m\" { fields { question \"q\" } }");
    let fields = fields.expect("decodes");
    assert_eq!(fields.str("path").value, "x");
    assert_eq!(fields.str_map("fields")["question"].1.value, "q");
    assert_eq!(fields.int("limit"), 10);
    let error = decode_fields(registry::LOAD, "load \"rows\" pth=\"x\"").unwrap_err();
    assert!(error.contains("missing-field") && error.contains("unknown-property"), "{error}");
}

/// Every `.kdl` file in `cases` but `whole.kdl` and the files they include (`part-*`) has one mistake or a few that
/// belong together; its first line says with which parameters it is loaded (`// -P name=value`).
#[test]
fn every_kind_of_mistake() {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(case("")).expect("cases").map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "kdl") && !f.ends_with("whole.kdl"));
    files.retain(|f| f.file_name().is_some_and(|n| !n.to_string_lossy().starts_with("part-")));
    files.sort();
    for file in files {
        let text = String::from_utf8_lossy(&std::fs::read(&file).expect("a case")).into_owned();
        let flags = text.lines().next().and_then(|l| l.strip_prefix("// -P ")).unwrap_or_default();
        let overrides: Vec<(&str, &str)> = flags.split(" -P ").filter_map(|f| f.split_once('=')).collect();
        let (_, messages) = load(&file, &overrides);
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, messages);
        });
    }
}

/// The path of an include may name a parameter: `-P` chooses the file.
#[test]
fn a_parameter_chooses_what_is_included() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("rows-a.kdl", "load \"rows\" path=\"a.jsonl\"");
    write("rows-b.kdl", "load \"rows\" path=\"b.jsonl\"");
    let root = folder.path().join("root.kdl");
    for param in ["param \"from\" type=\"string\" default=\"a\"", "param \"from\" type=\"string\" { default \"a\" }"] {
        write(
            "root.kdl",
            &format!("{param}\ninclude \"rows-${{from}}.kdl\"\nwrite \"w\" from=\"rows\" path=\"w.jsonl\""),
        );
        for (overrides, expected) in [(vec![], "a.jsonl"), (vec![("from", "b")], "b.jsonl")] {
            let (pipeline, messages) = load(&root, &overrides);
            assert_eq!(messages, "");
            let rows = pipeline.expect("a pipeline").nodes.into_iter().find(|n| n.name.base == "rows").expect("rows");
            assert!(rows.fields.str("path").value.ends_with(expected), "{rows:?}");
        }
    }
    write("root.kdl", "include \"rows-${from}.kdl\"\nparam \"from\" type=\"string\" default=\"a\"");
    let (_, messages) = load(&root, &[]);
    assert!(messages.contains("bad-include") && messages.contains("above the `include`"), "{messages}");
}
