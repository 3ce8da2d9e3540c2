//! Measuring a model: what is printed, and what is wrong with an input. Never how fast it is.

use super::common::Sandbox;
use super::tiny;
use serde_json::Value;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    tiny::write(&sandbox, "model");
    let row = |i: usize, response: &str| serde_json::json!({ "question": format!("How many are {i} and {i}?"), "answer": response });
    let rows: Vec<Value> = (0..6).map(|i| row(i, &format!("{} in all.", 2 * i))).collect();
    sandbox.write("terse.json", Value::from(rows).to_string());
    let lines: Vec<String> = (0..6).map(|i| row(i, &format!("There are {} of them.", 2 * i)).to_string()).collect();
    sandbox.write("wordy.jsonl", lines.join("\n"));
    sandbox
}

fn measured(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    let ran =
        sandbox.run(&[&["bench"], arguments, &["--model", "model", "--json", "--device", "cpu"]].concat()).exits(0);
    serde_json::from_str(&ran.stdout).expect("one JSON object")
}

#[test]
fn scores_are_those_of_a_pipeline() {
    let sandbox = sandbox();
    let both = ["--rows", "terse.json", "wordy.jsonl"];
    let report = measured(&sandbox, &[&["score", "--dtype", "f32", "--parts"], &both[..]].concat());
    assert_eq!(report["rows"], 12);
    assert_eq!(report["model"], "model");
    assert!(report["parts"]["products"]["seconds"].as_f64().unwrap() > 0.0);
    let limited = measured(&sandbox, &[&["score", "--dtype", "f32", "--limit", "2"], &both[..]].concat());
    assert_eq!(limited["rows"], 4);

    sandbox.write(
        "p.kdl",
        "pipeline \"p\" seed=1\nmodel \"m\" path=\"model\" dtype=\"f32\"\n\
         load \"rows\" path=\"terse.json\" { fields { question \"question\"; response \"answer\" } }\n\
         score-ppl \"scored\" from=\"rows\" model=\"m\"\n\
         sql \"mean\" { from \"scored\"; query \"SELECT AVG(ppl) AS mean FROM scored\" }\n\
         write \"out\" from=\"mean\" path=\"mean.jsonl\"\n",
    );
    sandbox.run(&["run", "p.kdl", "--out", "out"]).exits(0);
    let mean: Value = serde_json::from_slice(&sandbox.read("out/mean.jsonl")).unwrap();
    let report = measured(&sandbox, &["score", "--dtype", "f32", "--rows", "terse.json"]);
    let (found, expected) = (report["mean_ppl"].as_f64().unwrap(), mean["mean"].as_f64().unwrap());
    assert!((found / expected - 1.0).abs() < 1e-12, "{found}, {expected}");
}

#[test]
fn training_lowers_the_loss() {
    let sandbox = sandbox();
    let train = ["train", "--rows", "terse.json", "--batch", "2", "--learning-rate", "0.01", "--dtype", "f32"];
    let losses = |report: &Value| -> Vec<f64> { serde_json::from_value(report["losses"].clone()).unwrap() };
    let kept = losses(&measured(&sandbox, &train));
    assert_eq!(kept.len(), 3);
    assert!(kept[2] < kept[0], "{kept:?}");
    // Computing activations again changes no bit.
    assert_eq!(losses(&measured(&sandbox, &[&train[..], &["--checkpointing"]].concat())), kept);
}

#[test]
fn every_question_gets_its_tokens() {
    let sandbox = sandbox();
    let write = ["generate", "--rows", "terse.json", "--new-tokens", "9", "--dtype", "f32"];
    let report = measured(&sandbox, &write);
    assert_eq!((&report["rows"], &report["tokens"]), (&6.into(), &54.into()));
    let alone = measured(&sandbox, &[&write[..], &["--limit", "1"]].concat());
    assert_eq!(alone["first"], report["first"]);
}

#[test]
fn a_single_stream_reads_and_writes() {
    let sandbox = sandbox();
    for work in ["prefill", "decode"] {
        let report = measured(&sandbox, &[work, "--tokens", "40", "--repeat", "1", "--dtype", "bf16"]);
        assert_eq!(report["tokens"], 40);
        assert!(report["tokens_per_s"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn what_is_wrong_with_the_input_is_said() {
    let sandbox = sandbox();
    sandbox.write("cut.json", "[{\"question\": ");
    let wrong = |arguments: &[&str], texts: &[&str]| {
        let ran = sandbox.run(&[&["bench", "score", "--device", "cpu"], arguments].concat());
        ran.exits(2).says(texts);
    };
    wrong(&["--model", "model", "--rows", "none.json"], &["none.json", "cannot read"]);
    wrong(&["--model", "model", "--rows", "cut.json"], &["cut.json", "not valid JSON"]);
    wrong(
        &["--model", "model", "--rows", "terse.json", "--response", "reply"],
        &["row 0 has no text `reply`", "--response"],
    );
    wrong(&["--model", "smollm2-135m-instruc", "--rows", "terse.json"], &["smollm2-135m-instruct"]);
    wrong(&["--model", "model", "--rows", "terse.json", "--dtype", "f8"], &["quantized"]);
}
