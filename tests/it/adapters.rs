//! Adapters of the peft format: loaded, used, merged.

use super::common::Sandbox;
use super::tiny;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::Value;

const PIPELINE: &str = r#"
pipeline "adapters" seed=1
model "tiny" path="tiny" dtype="f32"
load "rows" path="rows.jsonl"
load-adapter "trained" path="trained" model="tiny"
score-ppl "scored" from="rows" model="tiny" adapter="trained"
score-ppl "plain" from="rows" model="tiny"
merge-adapter "merged" adapter="trained" model="tiny" path="merged"
write-adapter "kept" adapter="trained" path="kept/adapter"
write "scores" from="scored" path="scored.jsonl"
write "plain-scores" from="plain" path="plain.jsonl"
"#;

const AFTER: &str = r#"
pipeline "after" seed=1
model "merged" path="out/merged" dtype="f32"
load "rows" path="rows.jsonl"
score-ppl "scored" from="rows" model="merged"
write "scores" from="scored" path="scored.jsonl"
"#;

/// Two modules of rank 2 of the small model, as peft stores them.
fn write_adapter(s: &Sandbox, folder: &str, layer: usize) {
    let config = serde_json::json!({"peft_type": "LORA", "r": 2, "lora_alpha": 16, "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"], "bias": "none", "base_model_name_or_path": "tiny"});
    s.write(&format!("{folder}/adapter_config.json"), config.to_string());
    let shapes = [
        ("q_proj.lora_A", [2, 32]),
        ("q_proj.lora_B", [32, 2]),
        ("v_proj.lora_A", [2, 32]),
        ("v_proj.lora_B", [16, 2]),
    ];
    let data: Vec<(String, [usize; 2], Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let value = |i: usize| (0.3 * (0.9 * i as f64 + name.len() as f64).sin()) as f32;
            let bytes = (0..shape[0] * shape[1]).flat_map(|i| value(i).to_le_bytes()).collect();
            (format!("base_model.model.model.layers.{layer}.self_attn.{name}.weight"), shape, bytes)
        })
        .collect();
    let views = data.iter().map(|(n, shape, bytes)| (n, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    s.write(&format!("{folder}/adapter_model.safetensors"), serialize(views, None).unwrap());
}

fn sandbox(layer: usize) -> Sandbox {
    let s = Sandbox::new();
    tiny::write(&s, "tiny");
    write_adapter(&s, "trained", layer);
    s.write(
        "rows.jsonl",
        "{\"question\":\"What is it?\",\"response\":\"So it is.\"}\n{\"question\":\"And?\",\"response\":\"No.\"}\n",
    );
    s.write("p.kdl", PIPELINE);
    s.write("after.kdl", AFTER);
    s
}

fn column(s: &Sandbox, path: &str) -> Vec<f64> {
    let text = String::from_utf8(s.read(path)).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["nll"].as_f64().unwrap()).collect()
}

#[test]
fn a_merged_model_scores_as_model_and_adapter_do() {
    let s = sandbox(0);
    s.run(&["run", "p.kdl", "--out", "out"]).exits(0);
    s.run(&["run", "after.kdl", "--out", "after"]).exits(0);
    assert_eq!(s.tree("out/kept/adapter"), s.tree("trained"), "what was loaded is written");
    let (adapted, plain) = (column(&s, "out/scored.jsonl"), column(&s, "out/plain.jsonl"));
    let merged = column(&s, "after/scored.jsonl");
    for ((adapted, plain), merged) in adapted.iter().zip(&plain).zip(&merged) {
        assert!((adapted - merged).abs() < 1e-4 * adapted, "{adapted} {merged}");
        assert!((adapted - plain).abs() > 1e-2, "the adapter changes the score: {adapted} {plain}");
    }
}

#[test]
fn an_adapter_that_changed_is_used_anew_and_one_that_did_not_is_not() {
    let s = sandbox(0);
    s.run(&["run", "p.kdl", "--out", "out"]).exits(0);
    s.run(&["run", "p.kdl", "--out", "again"]).exits(0);
    assert_eq!(s.ran("again"), Vec::<String>::new());
    let config = String::from_utf8(s.read("trained/adapter_config.json")).unwrap();
    s.write("trained/adapter_config.json", config.replace("16", "8"));
    s.run(&["run", "p.kdl", "--out", "third"]).exits(0);
    let mut ran = s.ran("third");
    ran.sort();
    assert_eq!(ran, ["kept", "merged", "scored", "scores", "trained"], "the plain model's scores are as they were");
    assert_ne!(column(&s, "third/scored.jsonl"), column(&s, "out/scored.jsonl"));
}

#[test]
fn what_is_wrong_with_an_adapter_is_said() {
    let s = sandbox(1);
    s.run(&["run", "p.kdl"]).exits(1).says(&["adapter-mismatch", "layers.0.self_attn.q_proj.lora_A"]);
    s.run(&["check", "p.kdl"]).exits(0);
    std::fs::remove_file(s.path("trained/adapter_model.safetensors")).unwrap();
    s.run(&["run", "p.kdl"]).exits(2).says(&["file-missing", "adapter_model.safetensors"]);
}
