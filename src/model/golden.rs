//! Agreement with an independent implementation (transformers, float32), whose numbers are in `tests/golden`.

use super::config::Config;
use super::decoder::Decoder;
use super::files::Precision;
use super::kernels::{self, Forest, Kernels, Packing, Portable};
use super::synthetic;
use super::weights::Weights;
use candle_core::Device;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const DECODERS: &str = include_str!("../../tests/golden/decoders.json");

struct Sequence {
    tokens: Vec<u32>,
    nll: Vec<f64>,
    last_logits: Vec<f64>,
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn sequences(case: &Value) -> Vec<Sequence> {
    let sequence = |s: &Value| Sequence {
        tokens: numbers(&s["tokens"]).into_iter().map(|t| t as u32).collect(),
        nll: numbers(&s["nll"]),
        last_logits: numbers(&s["last_logits"]),
    };
    case["sequences"].as_array().unwrap().iter().map(sequence).collect()
}

pub(super) fn cases() -> Vec<Value> {
    let golden: Value = serde_json::from_str(DECODERS).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

fn load(case: &Value, precision: Precision, kernels: Arc<dyn Kernels>) -> Decoder {
    let folder = tempfile::tempdir().unwrap();
    let files = synthetic::write_weights(folder.path(), &case["config"], 2).unwrap();
    let config = Config::from_json(&case["config"].to_string(), Path::new("config.json")).unwrap();
    let weights = Weights::safetensors(&files, precision, &Device::Cpu).unwrap();
    Decoder::load(&weights, &config, kernels, &Device::Cpu).unwrap()
}

/// Likelihoods of every token after the first of each sequence, all packed together.
fn packed_nll(decoder: &Decoder, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
    let packing = Packing::new(sequences.iter().map(|s| s.len()));
    let hidden = decoder.forward(&sequences.concat(), &packing).unwrap();
    let positions: Vec<u32> = packing.runs().iter().flat_map(|r| r.rows.start as u32..r.rows.end as u32 - 1).collect();
    let labels: Vec<u32> = sequences.iter().flat_map(|s| s[1..].iter().copied()).collect();
    let mut nll = decoder.label_nll(&hidden, &positions, &labels).unwrap().into_iter();
    sequences.iter().map(|s| nll.by_ref().take(s.len() - 1).collect()).collect()
}

fn last_logits(decoder: &Decoder, tokens: &[u32]) -> Vec<f32> {
    let hidden = decoder.forward(tokens, &Packing::new([tokens.len()])).unwrap();
    decoder.logits(&hidden, &[tokens.len() as u32 - 1]).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn all(precision: Precision) -> [Arc<dyn Kernels>; 3] {
    let device = Device::Cpu;
    [
        Arc::new(Portable::new(&device, precision)),
        Arc::new(Portable::as_on_a_gpu(&device, precision)),
        kernels::select(&device, precision).unwrap(),
    ]
}

fn assert_near(what: &str, found: impl IntoIterator<Item = f32>, expected: &[f64], tolerance: f64) {
    for (i, (found, expected)) in found.into_iter().zip(expected).enumerate() {
        assert!((f64::from(found) - expected).abs() < tolerance, "{what} [{i}]: {found}, expected {expected}");
    }
}

#[test]
fn decoders_of_the_family_agree_with_an_independent_implementation() {
    for case in cases() {
        for kernels in all(Precision::F32) {
            let what = format!("{} with {} kernels", case["name"], kernels.name());
            let decoder = load(&case, Precision::F32, kernels);
            let sequences = sequences(&case);
            let tokens: Vec<&[u32]> = sequences.iter().map(|s| &s.tokens[..]).collect();
            for (sequence, nll) in sequences.iter().zip(packed_nll(&decoder, &tokens)) {
                assert_eq!(nll.len(), sequence.nll.len());
                assert_near(&what, nll, &sequence.nll, 1e-4);
                assert_near(&what, last_logits(&decoder, &sequence.tokens), &sequence.last_logits, 1e-4);
            }
        }
    }
}

/// Wrong rotary scaling, windows, norms or biases must show in these numbers.
#[test]
fn what_distinguishes_the_models_shows_in_the_golden_numbers() {
    let cases = cases();
    let nll = |name: &str| sequences(cases.iter().find(|c| c["name"] == name).unwrap()).remove(0).nll;
    let apart = |a: &str, b: &str| nll(a).iter().zip(nll(b)).any(|(a, b)| (a - b).abs() > 1e-2);
    assert!(apart("llama-2", "llama-2 with biases"));
    assert!(apart("llama-2", "llama-3"));
    assert!(apart("llama-2", "llama with linear rope scaling"));
    assert!(apart("llama-2", "mistral"));
    assert!(apart("mistral without a window", "qwen3"));
}

#[test]
fn bfloat16_stays_near() {
    for case in cases() {
        for kernels in all(Precision::Bf16) {
            let what = format!("{} with {} kernels", case["name"], kernels.name());
            let decoder = load(&case, Precision::Bf16, kernels);
            let sequence = sequences(&case).remove(0);
            let nll = packed_nll(&decoder, &[&sequence.tokens]).remove(0);
            let mean = |v: &mut dyn Iterator<Item = f64>| v.sum::<f64>() / sequence.nll.len() as f64;
            let (found, expected) =
                (mean(&mut nll.iter().map(|v| f64::from(*v))), mean(&mut sequence.nll.iter().copied()));
            assert!((found / expected - 1.0).abs() < 0.03, "{what}: {found}, expected {expected}");
        }
    }
}

/// Our kernels give a sequence the same bits alone, first, last, and among others; one thread or several.
#[test]
fn a_sequence_has_the_same_bits_in_any_packing() {
    let bits = |nll: &[f32]| nll.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for (case, precision) in cases().iter().flat_map(|c| [(c, Precision::F32), (c, Precision::Bf16)]) {
        let decoder = load(case, precision, kernels::select(&Device::Cpu, precision).unwrap());
        assert!(decoder.batch_invariant());
        let lengths = [40, 13, 2, 33, 97, 16, 17, 1 + 64];
        let all: Vec<Vec<u32>> = (0..).zip(lengths).map(|(seed, n)| synthetic::tokens(seed, n, 97)).collect();
        let alone: Vec<Vec<u32>> = all.iter().map(|s| bits(&packed_nll(&decoder, &[s])[0])).collect();
        for order in [vec![0, 1], vec![1, 0], vec![7, 6, 5, 4, 3, 2, 1, 0], vec![2, 0, 4], vec![3, 3, 3]] {
            let group: Vec<&[u32]> = order.iter().map(|i| &all[*i][..]).collect();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + order.len() % 3).build().unwrap();
            let packed = pool.install(|| packed_nll(&decoder, &group));
            for (i, nll) in order.iter().zip(packed) {
                assert_eq!(bits(&nll), alone[*i], "{} {precision:?} {order:?}", case["name"]);
            }
        }
    }
}

fn rows_of(hidden: &candle_core::Tensor) -> Vec<Vec<f32>> {
    hidden.to_dtype(candle_core::DType::F32).unwrap().to_vec2().unwrap()
}

/// Sequences that begin alike, the ways in which they are computed, and how near the results must be.
fn every_way(decoder: &Decoder, same: impl Fn(&str, &[Vec<f32>], &[Vec<f32>])) {
    let question = synthetic::tokens(1, 37, 97);
    let with = |seed, n| [&question[..], &synthetic::tokens(seed, n, 97)].concat();
    let all = [with(2, 1), with(3, 30), question.clone(), with(3, 12), with(4, 60), synthetic::tokens(5, 20, 97)];
    let sequences: Vec<&[u32]> = all.iter().map(Vec::as_slice).collect();
    let alone = |s: &[u32]| rows_of(&decoder.forward(s, &Packing::new([s.len()])).unwrap());
    let expected: Vec<_> = sequences.iter().map(|s| alone(s)).collect();

    let forest = Forest::new(&sequences);
    assert!(forest.tokens.len() < all.iter().map(Vec::len).sum());
    let shared = rows_of(&decoder.forward(&forest.tokens, &forest.packing).unwrap());
    for (i, expected) in expected.iter().enumerate() {
        let rows = (0..expected.len()).map(|position| shared[forest.row(i, position)].clone());
        same("with shared beginnings", &rows.collect::<Vec<_>>(), expected);
    }

    // The question once, then every answer a token or a few at a time, all in one pass.
    let mut begun = decoder.sequence();
    decoder.pass(&question, &Packing::new([question.len()]), &mut [Some(&mut begun)]).unwrap();
    let mut kept = [begun.clone(), begun.clone(), begun.clone(), begun, decoder.sequence()];
    let chosen = [0, 1, 3, 4, 5];
    let mut step = 1;
    loop {
        let (mut packing, mut tokens, mut what, mut states) = (Packing::default(), vec![], vec![], vec![]);
        for (sequence, i) in kept.iter_mut().zip(chosen) {
            let start = sequence.len();
            let end = all[i].len().min(start + step);
            if start < end {
                packing.go_on(end - start, start);
                tokens.extend_from_slice(&all[i][start..end]);
                what.push((i, start..end));
                states.push(Some(sequence));
            }
        }
        if what.is_empty() {
            break;
        }
        let hidden = rows_of(&decoder.pass(&tokens, &packing, &mut states).unwrap());
        for ((i, positions), run) in what.into_iter().zip(packing.runs()) {
            same("step by step", &hidden[run.rows.clone()], &expected[i][positions]);
        }
        step = step % 7 + 1;
    }

    // Branches of one pass are kept as well.
    let mut packing = Packing::default();
    let parent = packing.begin(question.len());
    packing.branch(30, parent);
    packing.branch(60, parent);
    let tokens = [&question[..], &all[1][37..], &all[4][37..]].concat();
    let (mut one, mut two) = (decoder.sequence(), decoder.sequence());
    decoder.pass(&tokens, &packing, &mut [None, Some(&mut one), Some(&mut two)]).unwrap();
    assert_eq!((one.len(), two.len()), (67, 97));
    let mut longer = all[4].clone();
    longer.push(11);
    let mut packing = Packing::default();
    packing.go_on(1, 97);
    let hidden = rows_of(&decoder.pass(&[11], &packing, &mut [Some(&mut two)]).unwrap());
    same("after a branch", &hidden, &alone(&longer)[97..]);
}

#[test]
fn shared_beginnings_and_steps_give_the_bits_of_one_pass() {
    for (case, precision) in cases().iter().flat_map(|c| [(c, Precision::F32), (c, Precision::Bf16)]) {
        let decoder = load(case, precision, kernels::select(&Device::Cpu, precision).unwrap());
        let bits = |rows: &[Vec<f32>]| rows.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        every_way(&decoder, |way, found, expected| {
            assert_eq!(bits(found), bits(expected), "{} {precision:?} {way}", case["name"]);
        });
    }
}

#[test]
fn portable_kernels_share_and_step_within_rounding() {
    let cases = cases();
    let [one_by_one, on_a_gpu, _] = all(Precision::F32);
    for (case, kernels) in cases.iter().flat_map(|case| [(case, &one_by_one), (case, &on_a_gpu)]) {
        let decoder = load(case, Precision::F32, kernels.clone());
        every_way(&decoder, |way, found, expected| {
            for (found, expected) in found.iter().zip(expected) {
                let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
                assert_near(&format!("{} {way}", case["name"]), found.iter().copied(), &expected, 1e-3);
            }
        });
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = cases()[0]["config"].clone();
    let files = synthetic::write_weights(folder.path(), &config, 1).unwrap();
    config["intermediate_size"] = 81.into();
    let config = Config::from_json(&config.to_string(), Path::new("config.json")).unwrap();
    let weights = Weights::safetensors(&files, Precision::F32, &Device::Cpu).unwrap();
    let kernels = kernels::select(&Device::Cpu, Precision::F32).unwrap();
    let error = Decoder::load(&weights, &config, kernels, &Device::Cpu).map(|_| ()).unwrap_err().to_string();
    let (_, message) = error.split_once(": ").unwrap();
    assert_eq!(
        message,
        "tensor `model.layers.0.mlp.gate_proj.weight` has shape [80, 48], and the configuration asks for [81, 48]"
    );
}
