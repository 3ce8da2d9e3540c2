//! Gradients and curves: against an independent implementation (transformers and peft, float32), against differences,
//! and against themselves in other packings.

use super::*;
use crate::model::adapter::{LoraConfig, Target};
use crate::model::config::Config;
use crate::model::cpu::Isa;
use crate::model::files::Precision;
use crate::model::kernels::{self, Kernels, Native, Portable};
use crate::model::synthetic;
use crate::model::weights::Weights;
use candle_core::Device;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const DECODERS: &str = include_str!("../../../tests/golden/decoders.json");
const LORA: &str = include_str!("../../../tests/golden/lora.json");

struct Small {
    config: Config,
    decoder: Decoder,
}

fn small(name: &str, precision: Precision, kernels: Arc<dyn Kernels>) -> Small {
    let golden: Value = serde_json::from_str(DECODERS).unwrap();
    let case = golden["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = synthetic::write_weights(folder.path(), &case["config"], 1).unwrap();
    let config = Config::from_json(&case["config"].to_string(), Path::new("config.json")).unwrap();
    let weights = Weights::safetensors(&files, precision, &Device::Cpu).unwrap();
    let decoder = Decoder::load(&weights, &config, kernels, &Device::Cpu).unwrap();
    Small { config, decoder }
}

fn native() -> Arc<dyn Kernels> {
    kernels::select(&Device::Cpu, Precision::F32).unwrap()
}

fn portable() -> Arc<dyn Kernels> {
    Arc::new(Portable::new(&Device::Cpu, Precision::F32))
}

/// The golden file's rows: the tokens of a seed, the first so many of them a prompt.
fn examples() -> Vec<Example> {
    let golden: Value = serde_json::from_str(LORA).unwrap();
    let rows: Vec<[usize; 3]> = serde_json::from_value(golden["rows"].clone()).unwrap();
    let example = |[seed, length, prompt]: [usize; 3]| {
        let tokens = synthetic::tokens(seed as u32, length, 97);
        Example { tokens, labels: std::iter::once(prompt..length).collect() }
    };
    rows.into_iter().map(example).collect()
}

/// An adapter whose values are those of its matrices' names.
fn named_adapter(config: LoraConfig, model: &Config) -> Adapter {
    let mut adapter = Adapter::zero(config, model);
    for module in adapter.modules.clone() {
        for (matrix, range) in [("lora_A", module.a.clone()), ("lora_B", module.b.clone())] {
            let values = synthetic::values(&format!("{}.{matrix}.weight", module.name()), range.len());
            adapter.values[range].iter_mut().zip(values).for_each(|(to, v)| *to = v * 0.4);
        }
    }
    adapter
}

fn all_targets(rank: usize, dropout: f64) -> LoraConfig {
    LoraConfig { rank, alpha: 2.0 * rank as f64 + 1.0, dropout, targets: Target::ALL.to_vec() }
}

fn run(small: &Small, adapter: &Adapter, options: PassOptions, drawn: u64) -> Gradients {
    let examples = examples();
    let batch: Vec<&Example> = examples.iter().collect();
    let prepared = adapter.prepare(&small.decoder).unwrap();
    pass::gradients(&small.decoder, &prepared, &batch, &options, drawn).unwrap()
}

fn assert_near(what: &str, found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < tolerance, "{what}: {found}, expected {expected}");
}

#[test]
fn gradients_and_steps_agree_with_an_independent_implementation() {
    let golden: Value = serde_json::from_str(LORA).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let on_a_gpu = Arc::new(Portable::as_on_a_gpu(&Device::Cpu, Precision::F32));
        for kernels in [native(), portable(), on_a_gpu] {
            let what = format!("{} {} with {} kernels", case["decoder"], case["targets"], kernels.name());
            let small = small(case["decoder"].as_str().unwrap(), Precision::F32, kernels);
            let targets = case["targets"].as_array().unwrap().iter().map(|t| Target::parse(t.as_str().unwrap()));
            let config = LoraConfig {
                rank: case["rank"].as_u64().unwrap() as usize,
                alpha: case["alpha"].as_f64().unwrap(),
                dropout: 0.0,
                targets: targets.map(Option::unwrap).collect(),
            };
            let adapter = named_adapter(config, &small.config);

            let first = run(&small, &adapter, PassOptions::default(), 0);
            for module in &adapter.modules {
                for (matrix, range) in [("lora_A", module.a.clone()), ("lora_B", module.b.clone())] {
                    let name = format!("{}.{matrix}.weight", module.name());
                    let (found, expected) = (&first.values[range], &case["gradients"][&name]);
                    assert_near(&format!("{what}: norm of {name}"), norm(found), &expected[0], 1e-4);
                    for (value, expected) in [(found[0], &expected[1]), (found[found.len() - 1], &expected[2])] {
                        let apart = (f64::from(value) - expected.as_f64().unwrap()).abs();
                        assert!(apart < 1e-4 * norm(found), "{what}: {name}: {value}, expected {expected}");
                    }
                }
            }

            let adam = AdamWConfig { betas: (0.9, 0.99), eps: 1e-8, weight_decay: 0.1 };
            let schedule =
                Schedule { peak: 0.01, shape: Shape::Constant, steps: 4, warm_up_steps: 0, warm_up: WarmUp::default() };
            let mut trainer = Trainer::new(adapter, adam, schedule);
            trainer.max_norm = Some(0.5);
            let examples = examples();
            let batch: Vec<&Example> = examples.iter().collect();
            for expected in case["steps"].as_array().unwrap() {
                let report = trainer.step(&small.decoder, &batch).unwrap();
                assert_eq!(report.label_tokens as u64, case["label_tokens"].as_u64().unwrap());
                assert_near(&format!("{what}: loss"), report.loss, &expected["loss"], 1e-4);
                assert_near(&format!("{what}: gradient norm"), report.grad_norm, &expected["grad_norm"], 1e-3);
            }
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    for name in ["qwen3", "mistral", "llama-2 with biases"] {
        let small = small(name, Precision::F32, native());
        let mut adapter = named_adapter(all_targets(3, 0.2), &small.config);
        let gradients = run(&small, &adapter, PassOptions::default(), 5);
        // Along the gradient, and along a direction of its own in every module.
        let modules = adapter.modules.clone();
        let directions = modules.iter().map(|m| m.a.start..m.b.end).chain(std::iter::once(0..adapter.values.len()));
        for range in directions {
            let direction: Vec<f32> = gradients.values[range.clone()].to_vec();
            let length = norm(&direction);
            let step = 0.02 / length;
            let mut loss_at = |by: f64| {
                let before = adapter.values.clone();
                for (value, d) in adapter.values[range.clone()].iter_mut().zip(&direction) {
                    *value += (by * f64::from(*d)) as f32;
                }
                let loss = run(&small, &adapter, PassOptions::default(), 5).loss;
                adapter.values = before;
                loss
            };
            // Fourth order, so that the step can be large against rounding.
            let [a, b, c, d] = [-2.0, -1.0, 1.0, 2.0].map(|by| loss_at(by * step));
            let slope = (a - 8.0 * b + 8.0 * c - d) / (12.0 * step);
            assert!((slope / (length * length) - 1.0).abs() < 5e-3, "{name} {range:?}: {slope}, {}", length * length);
        }
    }
}

#[test]
fn packing_checkpointing_threads_and_paths_change_no_bit() {
    let bits = |g: &Gradients| (g.loss.to_bits(), g.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
    for name in ["qwen2 with a window", "smollm"] {
        let small_model = small(name, Precision::F32, native());
        let adapter = named_adapter(all_targets(4, 0.1), &small_model.config);
        let expected = bits(&run(&small_model, &adapter, PassOptions::default(), 9));
        for checkpointing in [false, true] {
            for tokens in [1, 45, 2048] {
                let found =
                    run(&small_model, &adapter, PassOptions { checkpointing, tokens, ..PassOptions::default() }, 9);
                assert_eq!(bits(&found), expected, "{name} {checkpointing} {tokens}");
            }
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| run(&small_model, &adapter, PassOptions::default(), 9));
            assert_eq!(bits(&found), expected, "{name} on {threads} threads");
        }
        for isa in Isa::available() {
            let other = small(name, Precision::F32, Arc::new(Native::new(isa, Precision::F32)));
            assert_eq!(bits(&run(&other, &adapter, PassOptions::default(), 9)), expected, "{name} {isa:?}");
        }
    }
}

#[test]
fn dropout_is_the_same_on_all_kernels_and_another_in_every_step() {
    let [one, two] = [native(), portable()].map(|kernels| small("llama-3", Precision::F32, kernels));
    let adapter = named_adapter(all_targets(4, 0.3), &one.config);
    let (a, b) = (run(&one, &adapter, PassOptions::default(), 1), run(&two, &adapter, PassOptions::default(), 1));
    assert!((a.loss / b.loss - 1.0).abs() < 1e-5);
    let apart: Vec<f32> = a.values.iter().zip(&b.values).map(|(a, b)| a - b).collect();
    assert!(norm(&apart) < 1e-4 * norm(&a.values));
    assert_ne!(run(&one, &adapter, PassOptions::default(), 2).loss, a.loss);
    let tokens: Vec<u64> = (0..200).collect();
    let dropout = kernels::Dropout { probability: 0.3, key: 7, tokens: &tokens };
    let mut kept = 0;
    let mut factors = vec![0.0; 333];
    for token in 0..200 {
        dropout.factors(token, &mut factors);
        assert!(factors.iter().all(|f| *f == 0.0 || *f == 1.0 / (1.0 - 0.3)));
        kept += factors.iter().filter(|f| **f > 0.0).count();
    }
    assert!((kept as f64 / (200.0 * 333.0) - 0.7).abs() < 0.01);
}

#[test]
fn bfloat16_stays_near() {
    let exact = small("llama-2", Precision::F32, native());
    let adapter = named_adapter(all_targets(4, 0.0), &exact.config);
    let expected = run(&exact, &adapter, PassOptions::default(), 0);
    let both: [Arc<dyn Kernels>; 2] = [
        kernels::select(&Device::Cpu, Precision::Bf16).unwrap(),
        Arc::new(Portable::new(&Device::Cpu, Precision::Bf16)),
    ];
    for kernels in both {
        let near = small("llama-2", Precision::Bf16, kernels);
        let found = run(&near, &adapter, PassOptions::default(), 0);
        assert!((found.loss / expected.loss - 1.0).abs() < 0.02, "{} {}", found.loss, expected.loss);
        let dot: f64 = found.values.iter().zip(&expected.values).map(|(a, b)| f64::from(a * b)).sum();
        let cosine = dot / (norm(&found.values) * norm(&expected.values));
        assert!(cosine > 0.995, "{cosine}");
    }
}

#[test]
fn what_cannot_be_trained_on_is_an_error() {
    let small = small("llama-2", Precision::F32, native());
    let prepared = named_adapter(all_targets(2, 0.0), &small.config).prepare(&small.decoder).unwrap();
    let train = |example: &Example| {
        let run = pass::gradients(&small.decoder, &prepared, &[example], &PassOptions::default(), 0);
        run.unwrap_err().to_string()
    };
    let example = |labels: std::ops::Range<usize>| Example { tokens: vec![1, 2, 3], labels: vec![labels] };
    assert!(train(&Example { tokens: vec![1, 2, 3], labels: vec![] }).contains("no label token"));
    assert!(train(&example(0..2)).contains("labels [0..2] of a row of 3 tokens"));
    assert!(train(&example(2..4)).contains("labels [2..4] of a row of 3 tokens"));
}

/// Rows without labels take no part; turns of a conversation can be labels one by one.
#[test]
fn labels_of_several_turns_are_a_mean_over_them_all() {
    let small = small("llama-2", Precision::F32, native());
    let prepared = named_adapter(all_targets(2, 0.0), &small.config).prepare(&small.decoder).unwrap();
    let tokens = synthetic::tokens(3, 30, 97);
    let of = |turns: &[[usize; 2]]| {
        let labels = turns.iter().map(|[from, to]| *from..*to).collect();
        let example = Example { tokens: tokens.clone(), labels };
        let nothing = Example { tokens: tokens.clone(), labels: vec![] };
        let batch = [&nothing, &example];
        pass::gradients(&small.decoder, &prepared, &batch, &PassOptions::default(), 0).unwrap()
    };
    let (one, two, both) = (of(&[[4, 9]]), of(&[[20, 30]]), of(&[[4, 9], [20, 30]]));
    assert_eq!(both.label_tokens, 15);
    assert!((both.loss - (one.loss * 5.0 + two.loss * 10.0) / 15.0).abs() < 1e-6);
    for ((one, two), both) in one.values.iter().zip(&two.values).zip(&both.values) {
        assert!((both - (one * 5.0 + two * 10.0) / 15.0).abs() < 1e-5);
    }
}
