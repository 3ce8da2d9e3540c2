use crate::diag::{Diagnostics, Sources};
use crate::exec::RunError;
use crate::fetch::{Catalog, FetchEnv, Fetcher};
use crate::ops::testing_node::{Node, Ran, lines, refusal, rows_json};
use proptest::prelude::*;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Text without this folder's own path.
    pub fn scrub(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

pub fn load(path: &Path, rest: &str) -> Ran {
    load_in(path, rest, 1024)
}

fn load_in(path: &Path, rest: &str, batch_rows: usize) -> Ran {
    Node::new(&format!("load \"x\" path={path:?} {rest}"), &[])
        .unwrap_or_else(|e| panic!("{e}"))
        .run(batch_rows)
        .unwrap()
}

fn refused(folder: &Folder, path: &Path, rest: &str) -> String {
    folder.scrub(&refusal(&format!("load \"x\" path={path:?} {rest}"), &[]))
}

pub fn rejected(folder: &Folder, ran: &Ran) -> Vec<String> {
    ran.rejected.iter().map(|r| folder.scrub(&format!("{} {}", r.id, r.reason))).collect()
}

const PROBLEMS: &str = r#"{"question":"a?","answer":"1","level":2,"tags":["x"]}
{"question":"b?","answer":"2","level":2.5,"tags":[]}
{"question":"c?","answer":null,"level":null,"tags":null,"extra":{"k":[1]}}
"#;

#[test]
fn columns_are_mapped_and_inferred() {
    let folder = Folder::new();
    let path = folder.file("problems.jsonl", PROBLEMS);
    let ran = load(&path, "{ fields { response \"answer\" } }");
    insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
    {"id":"problems:0","response":"1","question":"a?","level":2.0,"tags":["x"],"extra":null}
    {"id":"problems:1","response":"2","question":"b?","level":2.5,"tags":[],"extra":null}
    {"id":"problems:2","response":null,"question":"c?","level":null,"tags":null,"extra":"{\"k\":[1]}"}
    "#);
    insta::assert_snapshot!(crate::ops::expression::described(&ran.rows[0].schema()), @"`id` (text), `response` (text), `question` (text), `level` (number), `tags` (list of text), `extra` (text)");
    let ran = load(
        &path,
        "only-mapped=#true { fields { response \"answer\"; question \"answer\" }; columns { tags \"list?\" } }",
    );
    insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
    {"id":"problems:0","response":"1","question":"1","tags":["x"]}
    {"id":"problems:1","response":"2","question":"2","tags":[]}
    {"id":"problems:2","response":null,"question":null,"tags":null}
    "#);
}

#[test]
fn every_format_gives_the_same_rows() {
    let folder = Folder::new();
    let array: Vec<&str> = PROBLEMS.lines().collect();
    let text = format!("[{}]", array.join(",\n  "));
    let expected = rows_json(&load(&folder.file("p.json", &text), "").rows[0]);
    assert_eq!(expected.len(), 3);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    for (name, bytes) in [
        ("p.jsonl", PROBLEMS.as_bytes().to_vec()),
        ("p.json.gz", gz.finish().unwrap()),
        ("p.jsonl.zst", zstd::encode_all(PROBLEMS.as_bytes(), 3).unwrap()),
    ] {
        assert_eq!(rows_json(&load(&folder.file(name, bytes), "").rows[0]), expected, "{name}");
    }
}

#[test]
fn ids_name_rows_for_good() {
    let folder = Folder::new();
    let path = folder.file("p.jsonl", PROBLEMS);
    let ids = |rest: &str| -> Vec<String> {
        rows_json(&load(&path, rest).rows[0]).iter().map(|r| r["id"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(ids(""), ["p:0", "p:1", "p:2"]);
    assert_eq!(ids("id-prefix=\"q\" offset=1 limit=1"), ["q:1"]);
    assert_eq!(ids("id=\"question\""), ["a?", "b?", "c?"]);
    let own = folder.file("own.jsonl", "{\"id\":5}\n{\"id\":null}\n{\"id\":\"\"}\n{\"x\":1}\n{\"id\":1.5}\n");
    let ran = load(&own, "{ columns { x \"int?\" } }");
    assert_eq!(lines(&ran.rows[0]), "{\"id\":\"5\",\"x\":null}\n");
    assert_eq!(ran.rejected.iter().map(|r| r.reason).collect::<Vec<_>>(), ["bad-id"; 4]);
    let ran = load(&folder.file("y.jsonl", "{\"id\":\"a\"}"), "{ fields { theirs \"id\" } }");
    assert_eq!(lines(&ran.rows[0]), "{\"id\":\"y:0\",\"theirs\":\"a\"}\n");
}

#[test]
fn many_files_are_one_source() {
    let folder = Folder::new();
    folder.file("b.jsonl", "{\"n\":1}\n{\"n\":2}\n");
    folder.file("a.jsonl", "{\"n\":0.5,\"s\":\"x\"}\n");
    let glob = folder.0.path().join("*.jsonl");
    insta::assert_snapshot!(lines(&load(&glob, "").rows[0]), @r#"
    {"id":"a:0","n":0.5,"s":"x"}
    {"id":"b:0","n":1.0,"s":null}
    {"id":"b:1","n":2.0,"s":null}
    "#);
    insta::assert_snapshot!(lines(&load(&glob, "id-prefix=\"all\" offset=1").rows[0]), @r#"
    {"id":"all:1","n":1.0,"s":null}
    {"id":"all:2","n":2.0,"s":null}
    "#);
}

#[test]
fn rows_at_fault_go_alone() {
    let folder = Folder::new();
    let path = folder.file(
        "p.jsonl",
        b"{\"q\":\"a\",\"n\":1}\n{\"q\":null,\"n\":1}\n{\"q\":\"\xff\",\"n\":1}\n{\"q\":\"b\"\n[]\n{\"q\":\"c\",\"n\":\"x\"}\n{\"q\":\"d\",\"n\":2}\n{\"q\":\"e\",\"n",
    );
    let ran = load(&path, "{ columns { q \"string\"; n \"int?\" } }");
    insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
    {"id":"p:0","q":"a","n":1}
    {"id":"p:6","q":"d","n":2}
    "#);
    let found: Vec<String> = ran
        .rejected
        .iter()
        .map(|r| format!("{} {}: {} {}\n", folder.scrub(&r.id), r.reason, r.message, r.row))
        .collect();
    insta::assert_snapshot!(found.concat(), @r#"
    p.jsonl:2 null-value: column `q` (field `q`) must be text, found null {"q":null,"n":1}
    p.jsonl:3 non-utf8: expected UTF-8 text, found other bytes from byte 6 of the row {"text":"{\"q\":\"�\",\"n\":1}"}
    p.jsonl:4 truncated: the row is cut short: EOF while parsing an object (byte 8) {"text":"{\"q\":\"b\""}
    p.jsonl:5 not-an-object: expected a JSON object: invalid type: sequence, expected an object (byte 0) {"text":"[]"}
    p.jsonl:6 wrong-type: column `n` (field `n`) must be integer, found "x" {"q":"c","n":"x"}
    p.jsonl:8 truncated: the row is cut short: EOF while parsing a string (byte 11) {"text":"{\"q\":\"e\",\"n"}
    "#);
}

#[test]
fn a_cut_array_keeps_what_came_before() {
    let folder = Folder::new();
    let path = folder.file("p.json", r#"[{"a":1},{"a":2},{"a":"#);
    let ran = load(&path, "");
    assert_eq!(ran.rows[0].num_rows(), 2);
    assert_eq!(rejected(&folder, &ran), ["p.json#2 truncated"]);
}

#[test]
fn csv_has_types_of_its_own() {
    let folder = Folder::new();
    let path = folder.file("p.csv", "name,zip,n,x,ok\n\"a, b\",007,1,1.5,true\n,010,,2,FALSE\nragged\n");
    let ran = load(&path, "");
    insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
    {"id":"p:0","name":"a, b","zip":"007","n":1,"x":1.5,"ok":true}
    {"id":"p:1","name":null,"zip":"010","n":null,"x":2.0,"ok":false}
    "#);
    assert_eq!(rejected(&folder, &ran), ["p.csv:4 ragged-row"]);
    let tabs = folder.file("p.tsv", "a\tb\n1\t[\"x\"]\n");
    let ran = load(&tabs, "{ columns { a \"string\"; b \"list\" } }");
    assert_eq!(lines(&ran.rows[0]), "{\"id\":\"p:0\",\"a\":\"1\",\"b\":[\"x\"]}\n");
}

#[test]
fn late_fields_and_types_are_reported() {
    let folder = Folder::new();
    let mut text = "{\"n\":1}\n".repeat(1000);
    text += "{\"n\":2,\"late\":true}\n{\"n\":\"three\"}\n{\"n\":4.0}\n";
    let path = folder.file("p.jsonl", text);
    let ran = load(&path, "");
    assert_eq!(ran.rows[0].num_rows(), 1001);
    assert_eq!(rejected(&folder, &ran), ["p.jsonl:1001 unknown-field", "p.jsonl:1002 wrong-type"]);
    assert_eq!(load(&path, "{ columns { late \"bool?\"; n \"text\" } }").rows[0].num_rows(), 1003);
}

#[test]
fn what_is_wrong_is_said_at_plan_time() {
    let folder = Folder::new();
    let path = folder.file("problems.jsonl", PROBLEMS);
    let missing = folder.0.path().join("problem.jsonl");
    insta::assert_snapshot!(refused(&folder, &missing, ""), @"
    error [file-missing]: there is no file `problem.jsonl`
      at: named here
      help: did you mean `problems.jsonl`?
    ");
    insta::assert_snapshot!(refused(&folder, &path, "{ fields { question \"qestion\" }; columns { no \"int\" } }"), @"
    error [field-missing]: the source has no field `qestion`
      at: it has `question`, `answer`, `level`, `tags` and `extra`
      help: did you mean `question`?
    error [field-missing]: the source has no field `no`
      at: it has `question`, `answer`, `level`, `tags` and `extra`
    ");
    insta::assert_snapshot!(refused(&folder, &path, "{ columns { question \"int\"; tags \"string\" } }"), @"
    error [column-type]: field `question` is text, not int
      at: declared as int
      help: declare `text` to take any value as its text
    error [column-type]: field `tags` is list of text, not string
      at: declared as string
      help: declare `text` to take any value as its text
    ");
    insta::assert_snapshot!(refused(&folder, &path, "id=\"answers\" { fields { id \"answer\" } }"), @r#"
    error [field-missing]: the source has no field `answers`
      at: it has `question`, `answer`, `level`, `tags` and `extra`
      help: did you mean `answer`?
    error [reserved-column]: `id` is not mapped under `fields`
      at: the name of the row
      help: write id="answer" on the node
    "#);
    insta::assert_snapshot!(refused(&folder, &folder.file("x.txt", "{}"), ""), @r#"
    error [unknown-format]: the extension of `x.txt` names no format
      at: named here
      help: say which it is: format="jsonl" (or json, jsonl, csv, parquet, arrow)
    "#);
    insta::assert_snapshot!(refused(&folder, &folder.file("own.jsonl", "{\"id\":1}"), "id-prefix=\"p\""), @r#"
    error [column-clash]: the source has a field `id` besides the one that names the rows
      at: names the rows
      help: map it to another name: fields { source_id "id" }
    "#);
    insta::assert_snapshot!(refused(&folder, &folder.file("bad.parquet", "PAR1 no"), ""), @"
    error [bad-data-file]: `bad.parquet` is no Parquet file, or is damaged: EOF: Parquet file too small. Size is 7 but need 8
      at: named here
    ");
    insta::assert_snapshot!(refused(&folder, &path, "delimiter=\"ab\""), @"
    error [bad-delimiter]: a delimiter is one ASCII character, not `ab`
      at: more or less than one
    ");
}

#[test]
fn a_missing_file_can_be_skipped() {
    let kdl = "load \"x\" path=\"no/such.json\" on-missing=\"skip\" { fields { response \"answer\" } }";
    let node = Node::new(kdl, &[]).unwrap();
    assert_eq!(node.resolved.skipped.as_deref(), Some("there is no file `such.json`"));
    assert!(node.schema().field_with_name("response").is_ok());
}

#[test]
fn examples_need_no_files() {
    let kdl = "load \"x\" path=\"no/such.json\" { columns { question \"string\"; n \"int?\" } }";
    let node = Node::with(kdl, &[], false).unwrap();
    assert_eq!(crate::ops::expression::described(node.schema()), "`id` (text), `question` (text), `n` (integer)");
    assert!(node.resolved.skipped.is_none());
}

#[test]
fn rows_are_estimated() {
    let folder = Folder::new();
    let path = folder.file("p.jsonl", PROBLEMS);
    let rows = |path: &Path, rest: &str| {
        Node::new(&format!("load \"x\" path={path:?} {rest}"), &[]).unwrap().resolved.estimate.rows
    };
    assert_eq!(rows(&path, ""), Some(3));
    assert_eq!(rows(&path, "offset=1 limit=5"), Some(2));
    assert_eq!(rows(&path, "limit=1"), Some(1));
    let long = folder.file("l.jsonl", "{\"n\":123}\n".repeat(5000));
    assert_eq!(rows(&long, ""), Some(5000));
    assert_eq!(rows(&long, "sample=10"), Some(10));
}

#[test]
fn samples_do_not_depend_on_batches() {
    let folder = Folder::new();
    let text: String = (0..300).map(|i| format!("{{\"n\":{i}}}\n")).collect();
    let path = folder.file("p.jsonl", text);
    let drawn = |rest: &str, batch| lines(&load_in(&path, rest, batch).rows[0]);
    let expected = drawn("sample=20 seed=1", 1024);
    assert_eq!(expected.lines().count(), 20);
    assert_eq!(drawn("sample=20 seed=1", 7), expected);
    assert_ne!(drawn("sample=20 seed=2", 7), expected);
    assert_eq!(drawn("sample=500 seed=2 limit=30", 7).lines().count(), 30);
}

#[test]
fn a_row_of_ten_megabytes_passes() {
    let folder = Folder::new();
    let long = "x".repeat(10 << 20);
    let path = folder.file("p.jsonl", format!("{{\"t\":\"a\"}}\n{{\"t\":\"{long}\"}}\n{{\"t\":\"b\"}}\n"));
    let ran = load(&path, "");
    let rows = rows_json(&ran.rows[0]);
    assert_eq!((rows.len(), rows[1]["t"].as_str().unwrap().len()), (3, 10 << 20));
}

#[test]
fn a_source_that_changes_after_planning_is_refused() {
    let folder = Folder::new();
    let path = folder.file("p.jsonl", "{\"a\":1}\n");
    let node = Node::new(&format!("load \"x\" path={path:?}"), &[]).unwrap();
    folder.file("p.jsonl", "{\"a\":\"text\"}\n");
    assert!(matches!(node.run(10), Err(RunError::Failed { code: "source-changed", .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(node.run(10), Err(RunError::Failed { code: "file-missing", .. })));
}

const MANIFEST: &str = r#"
dataset "toy" {
    summary "Problems"
    license "MIT"
    columns {
        question "string" doc="q"
        response "string" doc="r"
        tags "strings" doc="t"
    }
    fields {
        question "prompt"
        response "answer"
        tags "tags"
    }
    split "train" rows=2 {
        file "train.jsonl" {
            path "train.jsonl"
        }
    }
    split "test" rows=7 {
        file "test.jsonl" sha256="0000000000000000000000000000000000000000000000000000000000000000" {
            path "${IDIOLECT_NOT_SET}/test.jsonl"
        }
    }
    split "far" rows=9 {
        file "far.jsonl" sha256="0000000000000000000000000000000000000000000000000000000000000000" {
            url "http://127.0.0.1:9/far.jsonl"
        }
    }
}
"#;

fn toy(folder: &Folder) -> Arc<Fetcher> {
    folder.file("toy.kdl", MANIFEST);
    folder.file("train.jsonl", "{\"prompt\":\"a?\",\"answer\":1,\"tags\":[\"x\"],\"more\":0}\n{\"prompt\":\"b?\",\"answer\":2,\"tags\":null,\"more\":0}\n");
    let mut found = Diagnostics::new();
    let catalog = Catalog::load(folder.0.path(), &mut Sources::new(), &mut found);
    assert!(found.is_empty(), "{found:?}");
    let cache = folder.0.path().join("cache").to_string_lossy().into_owned();
    Arc::new(Fetcher::new(
        catalog,
        FetchEnv::from_lookup(move |name| (name == "IDIOLECT_CACHE").then(|| cache.clone())),
    ))
}

#[test]
fn data_sets_are_read_by_their_manifests() {
    let folder = Folder::new();
    let fetcher = toy(&folder);
    let node =
        |rest: &str, look| Node::knowing(&format!("load \"x\" dataset=\"toy\" {rest}"), &[], look, Some(&fetcher));
    let run = |rest: &str| lines(&node(rest, true).unwrap().run(10).unwrap().rows[0]);
    insta::assert_snapshot!(run("split=\"train\""), @r#"
    {"id":"toy/train:0","question":"a?","response":"1","tags":["x"]}
    {"id":"toy/train:1","question":"b?","response":"2","tags":null}
    "#);
    insta::assert_snapshot!(run("split=\"train\" id=\"question\" only-mapped=#true { fields { q \"question\" } }"), @r#"
    {"id":"a?","q":"a?"}
    {"id":"b?","q":"b?"}
    "#);
    insta::assert_snapshot!(run("split=\"train\" id-prefix=\"p\" limit=1 { fields { tags \"response\" }; columns { tags \"int\" } }"), @r#"{"id":"p:0","tags":1,"question":"a?"}"#);
    assert_eq!(node("split=\"far\"", true).unwrap().resolved.estimate.rows, Some(9));
    assert_eq!(node("split=\"test\"", false).unwrap().resolved.estimate.rows, Some(7));
    let unknown = node("split=\"other\" on-missing=\"skip\"", true).unwrap().resolved;
    assert_eq!(unknown.skipped.unwrap(), "there is no split `other` in `toy`");
    let skipped = node("split=\"test\" on-missing=\"skip\"", true).unwrap().resolved.skipped.unwrap();
    assert!(skipped.contains("IDIOLECT_NOT_SET"), "{skipped}");
    let known = |rest: &str| node(rest, true).err().unwrap().replace(&folder.0.path().display().to_string(), "");
    insta::assert_snapshot!(known(""), @r#"
    error [missing-field]: `toy` has 3 splits
      at: named here
      help: say which: split="train" or "test" or "far"
    "#);
    insta::assert_snapshot!(known("split=\"trian\""), @"
    error [unknown-dataset]: there is no split `trian` in `toy`
      at: named here
      help: did you mean `train`?
    ");
    insta::assert_snapshot!(known("split=\"test\""), @"
    error [file-missing]: cannot fetch `test.jsonl` from path ${IDIOLECT_NOT_SET}/test.jsonl: the environment variable IDIOLECT_NOT_SET is not set
      at: named here
      help: set IDIOLECT_NOT_SET to the folder that holds the file
    ");
    insta::assert_snapshot!(known("split=\"train\" { fields { question \"prompt\" }; columns { no \"int\" } }"), @"
    error [field-missing]: the data set has no column `prompt`
      at: it has `question`, `response` and `tags`
    ");
    insta::assert_snapshot!(known("split=\"train\" format=\"csv\""), @"
    error [conflicting-fields]: `format` has no meaning here: the manifest of the data set says it
      at: given here
    ");
    insta::assert_snapshot!(known("path=\"x.json\""), @"
    error [conflicting-fields]: `load` takes `path` or `dataset`, not both
      at: one of the two
      at: and the other
    ");
    insta::assert_snapshot!(refusal("load \"x\" dataset=\"tyo\"", &[]), @"
    error [unknown-dataset]: no data sets are known here
      at: cannot be looked up
    ");
    insta::assert_snapshot!(refusal("load \"x\"", &[]), @r#"
    error [missing-field]: `load` needs `path` or `dataset`
      at: says not what to read
      help: path="data/rows.jsonl", or dataset="gsm8k" split="train"
    "#);
    insta::assert_snapshot!(Node::knowing("load \"x\" dataset=\"tyo\"", &[], true, Some(&fetcher)).err().unwrap(), @"
    error [unknown-dataset]: there is no data set `tyo`
      at: named here
      help: did you mean `toy`?
    ");
}

#[test]
fn fingerprints_know_names_that_name_rows() {
    let folder = Folder::new();
    folder.file("a.jsonl", "{\"n\":1}\n");
    let canonical = |path: &str, rest: &str| {
        let path = folder.0.path().join(path);
        let node = Node::new(&format!("load \"x\" path={path:?} {rest}"), &[]).unwrap();
        assert!(!node.operator.canonical().to_string().contains(&folder.0.path().display().to_string()));
        (node.operator.canonical(), node.resolved.files.len())
    };
    let before = canonical("*.jsonl", "");
    assert_eq!(before, canonical("a.jsonl", ""));
    folder.file("b.jsonl", "{\"n\":1}\n");
    assert_ne!(before, canonical("b.jsonl", ""));
    assert_eq!(canonical("a.jsonl", "id-prefix=\"p\""), canonical("b.jsonl", "id-prefix=\"p\""));
    let fetcher = toy(&folder);
    let far = Node::knowing("load \"x\" dataset=\"toy\" split=\"far\"", &[], true, Some(&fetcher)).unwrap();
    assert!(far.operator.canonical().to_string().contains("0000000000"), "{}", far.operator.canonical());
}

proptest! {
    #[test]
    fn any_batch_size_gives_the_same_rows(
        rows in prop::collection::vec(prop_oneof![Just("{\"a\":1}"), Just("{\"a\":null}"), Just("{\"a\":\"x\"}"), Just("{}"), Just("{\"a\":"), Just("")], 0..40),
        batch in 1usize..20,
        offset in 0usize..10,
    ) {
        let folder = Folder::new();
        let path = folder.file("p.jsonl", rows.join("\n"));
        let rest = format!("offset={offset} {{ columns {{ a \"int\" }} }}");
        if let Ok(node) = Node::new(&format!("load \"x\" path={path:?} {rest}"), &[]) {
            let (one, other) = (node.run(1024).unwrap(), node.run(batch).unwrap());
            prop_assert_eq!(lines(&one.rows[0]), lines(&other.rows[0]));
            prop_assert_eq!(rejected(&folder, &one), rejected(&folder, &other));
        }
    }
}
