//! Scoring with a small random model: rows a second through the whole runtime but tokenising.

use candle_core::Device;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use idiolect::model::{Encoded, LanguageModel, ModelFiles, Precision, TextModel, WeightFiles, synthetic};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// A model with the widths of the smallest that are in use, and a tenth of their layers.
fn write_model(folder: &Path) {
    let config = json!({"model_type": "llama", "vocab_size": 8192, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 3, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048,
        "rope_theta": 10000.0, "tie_word_embeddings": true});
    synthetic::write_weights(folder, &config, 1).expect("a small model is written");
    synthetic::write_tokenizer(folder).expect("its tokenizer is written");
}

fn load(folder: &Path, precision: Precision) -> LanguageModel {
    let companions = ["config.json", "tokenizer.json", "tokenizer_config.json"];
    let files = ModelFiles {
        weights: WeightFiles::Safetensors(vec![folder.join("model.safetensors")]),
        companions: companions.iter().map(|n| (n.to_string(), folder.join(n))).collect(),
        chat_template: None,
        context: None,
        precision,
    };
    let text = Arc::new(TextModel::load(&files).expect("the model's text side loads"));
    LanguageModel::load(&files, text, &Device::Cpu).expect("the model's weights load")
}

/// Rows of the lengths of school problems with their answers.
fn rows() -> Vec<Encoded> {
    let row = |seed: u32| {
        let tokens = synthetic::tokens(seed, 120 + (seed as usize * 37) % 160, 8192);
        Encoded { tokens, prompt: 90, end: 0 }
    };
    (0..16).map(row).collect()
}

fn score(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_model(folder.path());
    let rows = rows();
    let mut group = c.benchmark_group("score");
    group.sample_size(10);
    for precision in [Precision::F32, Precision::Bf16] {
        let model = load(folder.path(), precision);
        for count in [1, rows.len()] {
            let rows: Vec<&Encoded> = rows.iter().take(count).collect();
            group.throughput(Throughput::Elements(rows.iter().map(|r| r.tokens.len() as u64).sum()));
            group.bench_function(format!("{}, {count} rows", precision.name()), |b| {
                b.iter(|| model.score(&rows, &|| false).expect("rows are scored"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, score);
criterion_main!(benches);
