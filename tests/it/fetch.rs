//! `idiolect fetch`.

use crate::common::Sandbox;

/// In a folder without manifests of its own the built-in ones are known.
#[test]
fn the_list_knows_what_is_here() {
    let sandbox = Sandbox::new();
    let list = sandbox.run(&["fetch", "--list", "--json"]).exits(0);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&list.stdout).unwrap();
    let state = |rows: &[serde_json::Value], name: &str| {
        let row = rows.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("{name} is not listed"));
        (row["kind"].as_str().unwrap().to_string(), row["state"].as_str().unwrap().to_string())
    };
    assert_eq!(state(&rows, "smollm2-135m-instruct"), ("model".into(), "absent".into()));
    assert_eq!(state(&rows, "grade-school"), ("data set".into(), "absent".into()));
    let fetched = sandbox.run(&["fetch", "grade-school", "--json"]).exits(0);
    let files: Vec<serde_json::Value> = serde_json::from_str(&fetched.stdout).unwrap();
    assert_eq!((files[0]["name"].as_str(), files[0]["state"].as_str()), (Some("grade-school/train"), Some("fetched")));
    assert!(std::path::Path::new(files[0]["path"].as_str().unwrap()).starts_with(sandbox.path("cache")));
    let list = sandbox.run(&["fetch", "--list", "--json", "grade-school"]).exits(0);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&list.stdout).unwrap();
    assert_eq!((rows.len(), state(&rows, "grade-school").1), (1, "cached".into()));
    let again = sandbox.run(&["fetch", "grade-school/train"]).exits(0);
    assert!(again.stdout.contains("was here"), "{}", again.stdout);
}

#[test]
fn wrong_names_exit_with_2_and_say_what_is_near() {
    let sandbox = Sandbox::new();
    sandbox.run(&["fetch", "grade-scool"]).exits(2).says(&["no data set or model `grade-scool`", "`grade-school`?"]);
    sandbox.run(&["fetch", "grade-school/test"]).exits(2).says(&["no split `test` in `grade-school`"]);
    sandbox.run(&["fetch", "--list", "nothing"]).exits(2);
    sandbox.run(&["fetch", "--hub", "../evil"]).exits(2).says(&["`org/name`"]);
    sandbox.run(&["fetch"]).exits(2);
}

#[test]
fn what_cannot_be_had_exits_with_1_and_the_rest_comes() {
    let sandbox = Sandbox::new();
    let manifest = r#"dataset "mine" {
        summary "mine"; license "MIT"
        columns { question "string"; }
        split "a" { file "a.jsonl" { path "${NOT_SET_ANYWHERE}/a.jsonl"; }; }
        split "b" { file "b.jsonl" { path "b.jsonl"; }; }
    }"#;
    sandbox.write("datasets/mine.kdl", manifest);
    sandbox.write("datasets/b.jsonl", "{\"question\":\"?\"}\n");
    let ran = sandbox.run(&["fetch", "mine"]).exits(1);
    assert!(ran.stdout.contains("mine/b/b.jsonl"), "{}", ran.stdout);
    ran.says(&["NOT_SET_ANYWHERE", "hint: set NOT_SET_ANYWHERE"]);
}

#[test]
fn a_bad_manifest_exits_with_2_and_points_at_it() {
    let sandbox = Sandbox::new();
    sandbox.write("datasets/bad.kdl", "dataset \"x\" {\n    summary 5\n}\n");
    sandbox.run(&["fetch", "--list"]).exits(2).says(&["bad-manifest", "datasets/bad.kdl:2"]);
}

#[test]
fn another_folder_than_the_cache() {
    let sandbox = Sandbox::new();
    sandbox.run(&["fetch", "grade-school", "--dir", "here", "--quiet"]).exits(0);
    assert!(sandbox.path("here/datasets/grade-school/rows.jsonl").exists());
}

#[test]
fn a_pipeline_says_what_it_needs() {
    let sandbox = Sandbox::new();
    let text = r#"pipeline "p"
load "rows" dataset="grade-school"
write "out" from="rows" path="out.parquet"
"#;
    sandbox.write("p.kdl", text);
    let ran = sandbox.run(&["fetch", "--pipeline", "p.kdl"]).exits(0);
    assert!(ran.stdout.contains("grade-school/train/rows.jsonl"), "{}", ran.stdout);
    sandbox.write("q.kdl", text.replace("grade-school", "grade-scool"));
    sandbox.run(&["fetch", "--pipeline", "q.kdl"]).exits(2).says(&["`grade-school`?"]);
}
