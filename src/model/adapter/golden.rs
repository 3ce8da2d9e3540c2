//! An adapter that the peft library wrote, and the scores that its model gives with it. `benches/adapters.py golden` makes
//! the numbers; the values of its tensors are those of their names.

use super::*;
use crate::model::files::Precision;
use crate::model::kernels;
use crate::model::synthetic;
use crate::model::train::{Example, PassOptions, pass};
use crate::model::weights::Weights;
use candle_core::Device;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::Value;
use std::path::Path;

const GOLDEN: &str = include_str!("../../../tests/golden/peft.json");

fn adapter_file(golden: &Value) -> AdapterFile {
    let tensors = golden["tensors"].as_object().unwrap().iter().map(|(name, shape)| {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
        let values = synthetic::values(name, shape.iter().product());
        (name, shape, values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter();
    let views = views.map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    AdapterFile { config: golden["adapter_config"].to_string(), weights: serialize(views, None).unwrap() }
}

#[test]
fn an_adapter_made_by_peft_scores_as_in_peft() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_model(folder.path(), 1).unwrap();
    let json = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let config = Config::from_json(&json, Path::new("config.json")).unwrap();
    let files = [folder.path().join("model.safetensors")];
    let weights = Weights::safetensors(&files, Precision::F32, &Device::Cpu).unwrap();
    let kernels = kernels::select(&Device::Cpu, Precision::F32).unwrap();
    let decoder = Decoder::load(&weights, &config, kernels, &Device::Cpu).unwrap();
    let adapter = adapter_file(&golden).adapter(&config).unwrap();
    assert_eq!((adapter.config.rank, adapter.config.alpha, adapter.config.targets.len()), (4, 6.0, 7));
    let nothing = Adapter::zero(adapter.config.clone(), &config);
    for row in golden["rows"].as_array().unwrap() {
        let count = row["tokens"].as_u64().unwrap() as usize;
        let tokens = synthetic::tokens(row["seed"].as_u64().unwrap() as u32, count, synthetic::VOCABULARY);
        let example = Example { tokens, labels: std::iter::once(1..count).collect() };
        for (adapter, expected) in [(&adapter, &row["nll"]), (&nothing, &row["without"])] {
            let prepared = adapter.prepare(&decoder).unwrap();
            let (sum, labels) = pass::loss(&decoder, &prepared, &[&example], &PassOptions::default()).unwrap();
            let off = sum / expected.as_f64().unwrap() - 1.0;
            assert!(labels == count - 1 && off.abs() < 1e-5, "{row}: {sum}, expected {expected}");
        }
    }
}
