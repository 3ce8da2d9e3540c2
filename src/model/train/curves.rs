//! Training of SmolLM2-135M-Instruct follows the peft library's curves step by step.
//!
//! Rows and curves are not part of the project: they are looked for beside it, and never in CI. A step takes seconds, so
//! only the first few are made, unless `IDIOLECT_CURVE_STEPS` says how many.

use super::*;
use crate::model::adapter::{Adapter, LoraConfig};
use crate::model::files::Precision;
use crate::model::{Encoded, ScoreRequest, real};
use serde_json::Value;
use std::path::Path;

const STEPS: &str = "IDIOLECT_CURVE_STEPS";

fn follow(curve: &str) {
    if std::env::var_os("CI").is_some() {
        eprintln!("skipped: not in CI");
        return;
    }
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let Ok(text) = std::fs::read_to_string(shared.join("reference").join(curve)) else {
        eprintln!("skipped: {} has no `{curve}`", shared.display());
        return;
    };
    let Some(files) = real::files("f32") else { return };
    assert_eq!(files.precision, Precision::F32);
    let curve: Value = serde_json::from_str(&text).unwrap();
    let steps = curve["steps"].as_array().unwrap();
    let count = std::env::var(STEPS).map_or(3, |n| n.parse().unwrap());
    let model = real::load(&files);
    let data = shared.join("data/speak-my-language").join(curve["file"].as_str().unwrap());
    let data: Value = serde_json::from_str(&std::fs::read_to_string(data).unwrap()).unwrap();
    let masked = curve["prompt_masked"].as_bool().unwrap();
    let example = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap().to_string();
        let request = ScoreRequest::new(None, &text("question"), &text("answer"));
        let encoded: Encoded = model.text.encode(&request, 8192).unwrap().unwrap();
        if masked { Example::response(&encoded) } else { Example::whole(&encoded) }
    };
    let rows: Vec<Example> = data.as_array().unwrap().iter().take(4 * steps.len()).map(example).collect();
    let config = LoraConfig {
        rank: curve["rank"].as_u64().unwrap() as usize,
        alpha: curve["alpha"].as_f64().unwrap(),
        ..LoraConfig::default()
    };
    let mut adapter = Adapter::zero(config, &model.text.config);
    for module in &adapter.modules {
        for (i, value) in adapter.values[module.a.clone()].iter_mut().enumerate() {
            *value = (0.05 * (0.7 * i as f64 + 1.0).sin()) as f32;
        }
    }
    let schedule = Schedule {
        peak: 1e-3,
        shape: Shape::Cosine,
        steps: steps.len() as u64,
        warm_up_steps: steps.len() as u64 / 10,
        warm_up: WarmUp::FromFirstStep,
    };
    let mut trainer = Trainer::new(adapter, AdamWConfig::default(), schedule);
    let (mut worst, mut tokens) = (0.0f64, 0);
    let start = std::time::Instant::now();
    for (expected, batch) in steps.iter().zip(rows.chunks(4)).take(count) {
        let report = trainer.step(model.decoder(), &batch.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(report.label_tokens as u64, expected["label_tokens"].as_u64().unwrap(), "{expected}");
        let found = [("lr", report.learning_rate), ("loss", report.loss), ("grad_norm", report.grad_norm)];
        for (name, found) in found {
            let expected = expected[name].as_f64().unwrap();
            let off = (found - expected).abs() / expected.abs().max(1e-12);
            assert!(off < 1e-3, "step {}: {name} {found}, expected {expected}", report.step);
            worst = worst.max(off);
        }
        tokens += report.tokens;
    }
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{} steps, greatest error {worst:.1e}, {:.0} tokens/s", trainer.step, tokens as f64 / seconds);
}

#[test]
fn masked_training_follows_the_reference() {
    follow("lora_curve_gsm8k_masked_f32.json");
}

#[test]
fn unmasked_training_follows_the_reference() {
    follow("lora_curve_gsm8k_unmasked_f32.json");
}
