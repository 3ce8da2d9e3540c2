//! The author's loop: check, plan, graph, op, schema, completions.

use super::common::{Sandbox, lines};
use serde_json::Value;

const PIPELINE: &str = r#"
pipeline "p" { doc "Some rows"; }
param "least" type="int" default=2
load "rows" path="rows.jsonl"
filter "some" from="rows" where="n >= ${least}"
write "kept" from="some" path="kept.parquet"
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("p.kdl", PIPELINE);
    sandbox.write("rows.jsonl", lines(10));
    sandbox
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}:\n{text}"))
}

#[test]
fn check_tells_errors_to_people_and_to_programs() {
    let s = sandbox();
    let ok = s.run(&["check", "p.kdl"]).exits(0).says(&["3 nodes, no errors"]);
    assert_eq!(ok.stdout, "");
    s.write("p.kdl", PIPELINE.replace("from=\"some\"", "from=\"som\""));
    s.run(&["check", "p.kdl"]).exits(2).says(&["error[unresolved-reference]", "p.kdl:6:19", "did you mean `some`?"]);
    let found = json(&s.run(&["check", "p.kdl", "--json"]).exits(2).stdout);
    assert_eq!((&found["ok"], &found["diagnostics"][0]["code"]), (&false.into(), &"unresolved-reference".into()));
    assert_eq!(found["diagnostics"][0]["labels"][0]["line"], 6);
    assert!(!s.path(".idiolect").exists(), "a check writes nothing");
}

#[test]
fn plan_says_what_would_run_and_why() {
    let s = sandbox();
    let state = |arguments: &[&str]| -> Vec<(String, String)> {
        let plan = json(&s.run(&[&["plan", "p.kdl", "--json"], arguments].concat()).exits(0).stdout);
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        let nodes = plan["nodes"].as_array().expect("nodes");
        nodes.iter().map(|n| (text(&n["state"]), text(&n["why"][0]))).collect()
    };
    let is = |state: &str, why: &str| (state.to_string(), why.to_string());
    assert_eq!(state(&[]), vec![is("to run", "never run"); 3]);
    assert!(!s.path(".idiolect/store/artifacts").exists(), "a plan runs nothing");
    s.run(&["run", "p.kdl"]).exits(0);
    assert_eq!(state(&[]), vec![is("cached", ""); 3]);
    let changed = state(&["-P", "least=5"]);
    assert_eq!(changed[0], is("cached", ""));
    assert!(changed[1].1.contains("n >= 2") && changed[1].1.contains("n >= 5"), "{changed:?}");
    assert_eq!(changed[2], is("to run", "input `some` changed"));
    s.write("rows.jsonl", lines(11));
    assert!(state(&[])[0].1.ends_with("rows.jsonl changed"));
    let text = s.run(&["plan", "p.kdl", "-P", "least=5"]).exits(0).stdout;
    assert!(text.contains("3 nodes: 3 to run") && text.lines().all(|l| l.chars().count() <= 80), "{text}");
    assert_eq!(s.run(&["run", "p.kdl", "-P", "least=5", "--dry-run"]).exits(0).stdout, text);
}

#[test]
fn graphs_in_three_languages() {
    let s = sandbox();
    assert!(s.run(&["graph", "p.kdl"]).exits(0).stdout.starts_with("<svg "));
    assert!(s.run(&["graph", "p.kdl", "--format", "dot"]).exits(0).stdout.contains("n0 -> n1;"));
    s.run(&["graph", "p.kdl", "-o", "p.mmd"]).exits(0);
    assert!(String::from_utf8(s.read("p.mmd")).unwrap().contains("n0 --> n1"));
    s.run(&["graph", "p.kdl", "-o", "no/such/folder.svg"]).exits(1).says(&["no/such/folder.svg"]);
}

#[test]
fn operators_contracts_and_completions() {
    let s = sandbox();
    assert!(s.run(&["op", "list"]).exits(0).stdout.contains("score-ppl"));
    assert!(s.run(&["op", "show", "filter"]).exits(0).stdout.contains("| `where` |"));
    s.run(&["op", "show", "fliter"]).exits(2).says(&["did you mean `filter`?"]);
    assert!(s.run(&["schema", "gsm8k"]).exits(0).stdout.contains("split \"train\" rows=7473"));
    s.run(&["schema", "gsm9k"]).exits(2).says(&["did you mean `gsm8k`?"]);
    for shell in ["bash", "zsh", "fish"] {
        assert!(s.run(&["completions", shell]).exits(0).stdout.contains("expand"), "{shell}");
    }
}

#[test]
fn check_env_names_the_secret_that_is_not_set() {
    let s = sandbox();
    let teacher = "teacher \"writer\" kind=\"openai\" model=\"m\" { api-key env=\"IDIOLECT_TEST_NO_SUCH_KEY\" }\n";
    let asked = "teacher-generate \"written\" from=\"questions\" teacher=\"writer\" style=\"answer-directly\" unused=\"ok\"\n\
                 load \"questions\" path=\"questions.jsonl\" { columns { question \"string\" } }\n";
    s.write("questions.jsonl", "{\"question\": \"why?\"}\n");
    s.write("t.kdl", format!("{teacher}{asked}{PIPELINE}"));
    s.run(&["check", "t.kdl"]).exits(0);
    s.run(&["check", "t.kdl", "--env"]).exits(2).says(&[
        "error[secret-missing]",
        "t.kdl:1:56",
        "export IDIOLECT_TEST_NO_SUCH_KEY=... before the run",
    ]);
}

#[test]
fn a_graph_is_not_written_as_what_it_is_not() {
    let s = sandbox();
    s.run(&["graph", "p.kdl", "-o", "p.pdf"]).exits(2).says(&["error[unknown-format]", "`.pdf`", "`--format`"]);
    assert!(!s.path("p.pdf").exists());
    s.run(&["graph", "p.kdl", "-o", "p.mmd"]).exits(0);
}

#[test]
fn a_file_without_nodes_has_nothing_to_run() {
    let s = sandbox();
    s.write("empty.kdl", "");
    s.run(&["run", "empty.kdl"]).exits(0).says(&["empty: there is nothing to run"]);
}
