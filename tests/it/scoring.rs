//! Scoring survives kills, shares finished rows and gives the same bytes whatever the batches.

use super::common::Sandbox;
use super::tiny;
use std::time::Duration;

const PIPELINE: &str = r#"
pipeline "p" seed=3
param "limit" type="int" default=400
param "count-end" type="bool" default=#true
model "m" path="model"
load "rows" path="rows.jsonl" limit="${limit}"
score-ppl "scored" from="rows" model="m" count-end="${count-end}"
write "file" from="scored" path="scored.parquet"
summarize "stats" from="scored" preset="perplexity"
table "table" from="stats"
"#;

fn sandbox(rows: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    tiny::write(&sandbox, "model");
    let row = |i: usize| {
        let words = "seven geese went over the hill and back ".repeat(1 + i % 5);
        serde_json::json!({ "question": format!("What is {i} plus {}?", i * 7 % 13), "response": format!("{words}{i}") })
    };
    let text: String = (0..rows).map(|i| format!("{}\n", row(i))).collect();
    sandbox.write("rows.jsonl", text);
    sandbox.write("p.kdl", PIPELINE);
    sandbox
}

/// Tokens that the scoring node's model worked on in the last run.
fn tokens(sandbox: &Sandbox, out: &str) -> u64 {
    let finished = |e: &serde_json::Value| e["event"] == "node_finished" && e["node"] == "scored";
    sandbox.events(out).iter().find(|e| finished(e)).and_then(|e| e["tokens"].as_u64()).unwrap_or(0)
}

#[test]
fn kills_at_any_moment_cost_no_finished_row_and_change_no_byte() {
    let sandbox = sandbox(400);
    sandbox.run(&["run", "p.kdl", "--store", "undisturbed", "--out", "expected"]).exits(0);
    let all = tokens(&sandbox, "expected");
    assert!(all > 0);
    let mut partial = 0;
    for delay in [30, 80, 130, 180, 60, 250, 110, 400] {
        let mut run = sandbox.spawn(&["run", "p.kdl", "--store", "killed", "--out", "out"]);
        std::thread::sleep(Duration::from_millis(delay));
        // SIGKILL: nothing of the process has a say.
        run.kill().expect("a child of ours");
        let output = run.wait_with_output().expect("a child of ours");
        partial += usize::from(!output.status.success());
    }
    sandbox.run(&["run", "p.kdl", "--store", "killed", "--out", "out"]).exits(0);
    assert!(partial > 0, "every run finished before its kill");
    for file in ["scored.parquet", "table.csv"] {
        assert!(sandbox.read(&format!("out/{file}")) == sandbox.read(&format!("expected/{file}")), "{file} differs");
    }
}

#[test]
fn rows_scored_before_a_kill_are_not_scored_again() {
    let sandbox = sandbox(400);
    sandbox.run(&["run", "p.kdl", "--store", "undisturbed", "--out", "expected"]).exits(0);
    let all = tokens(&sandbox, "expected");
    // The journal of the first 250 rows, and no finished output of the 400.
    sandbox.run(&["run", "p.kdl", "-P", "limit=250", "--out", "first"]).exits(0);
    let first = tokens(&sandbox, "first");
    sandbox.run(&["run", "p.kdl", "--out", "then"]).exits(0);
    assert_eq!(first + tokens(&sandbox, "then"), all, "each row is scored once");
    assert!(sandbox.read("then/scored.parquet") == sandbox.read("expected/scored.parquet"));
}

#[test]
fn other_settings_of_the_same_scores_need_no_model() {
    let sandbox = sandbox(60);
    sandbox.run(&["run", "p.kdl", "--out", "with-end"]).exits(0);
    sandbox.run(&["run", "p.kdl", "-P", "count-end=false", "--out", "without-end"]).exits(0);
    assert_eq!(tokens(&sandbox, "without-end"), 0, "all rows are in the journal");
    assert!(sandbox.read("with-end/table.csv") != sandbox.read("without-end/table.csv"));
}

#[test]
fn batches_channels_and_stores_change_no_byte() {
    let sandbox = sandbox(120);
    let mut outputs = Vec::new();
    for (i, (rows, channel)) in [("1", "1"), ("7", "2"), ("1000", "16")].into_iter().enumerate() {
        let (store, out) = (format!("store-{i}"), format!("out-{i}"));
        let arguments =
            ["run", "p.kdl", "--store", &store, "--out", &out, "--batch-rows", rows, "--channel-batches", channel];
        sandbox.run(&arguments).exits(0);
        outputs.push((sandbox.read(&format!("{out}/scored.parquet")), sandbox.read(&format!("{out}/table.csv"))));
    }
    assert!(outputs.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn rows_that_cannot_be_scored_leave_with_a_reason() {
    let sandbox = sandbox(5);
    let mut rows = String::from_utf8(sandbox.read("rows.jsonl")).expect("UTF-8");
    rows.push_str("{\"question\": \"Nothing?\", \"response\": \"\"}\n");
    rows.push_str(&format!("{{\"question\": \"Long?\", \"response\": \"{}\"}}\n", "so ".repeat(3000)));
    sandbox.write("rows.jsonl", rows);
    let ran = sandbox.run(&["run", "p.kdl", "--out", "out"]).exits(3);
    assert!(ran.stderr.contains("quarantine"), "{}", ran.stderr);
    let quarantine = String::from_utf8(sandbox.read("out/quarantine.jsonl")).expect("UTF-8");
    assert!(quarantine.contains("empty-response") && quarantine.contains("too-long"), "{quarantine}");
}
