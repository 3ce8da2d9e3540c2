//! The same small model in both file formats.

use super::config::Config;
use super::synthetic::{self, VOCABULARY};
use super::{Encoded, LanguageModel, ModelFiles, Precision, ScoreRequest, Scored, TextModel, WeightFiles};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::path::Path;
use std::sync::Arc;

/// A model folder as its declaration would give it.
pub(super) fn folder_files(folder: &Path) -> ModelFiles {
    let companions = ["config.json", "tokenizer.json", "tokenizer_config.json"];
    ModelFiles {
        weights: WeightFiles::Safetensors(vec![folder.join("model.safetensors")]),
        companions: companions.iter().map(|n| (n.to_string(), folder.join(n))).collect(),
        chat_template: None,
        context: None,
        precision: Precision::F32,
    }
}

/// Rows of every head from halves to pairs, as the conversion to GGUF does.
fn interleave(values: &[f32], head_dim: usize, width: usize) -> Vec<f32> {
    let rows = values.len() / width;
    let from = |row: usize| {
        let (head, at) = (row / head_dim, row % head_dim);
        head * head_dim + (at % 2) * head_dim / 2 + at / 2
    };
    (0..rows).flat_map(|row| values[from(row) * width..][..width].to_vec()).collect()
}

/// Writes the model of a folder as GGUF, its matrices in one type.
fn write_gguf(folder: &Path, dtype: GgmlDType) -> ModelFiles {
    write_mixed_gguf(folder, |_| dtype)
}

/// Writes the model of a folder as GGUF; `dtype` is told the names of its matrices in the checkpoint.
fn write_mixed_gguf(folder: &Path, dtype: impl Fn(&str) -> GgmlDType) -> ModelFiles {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = Config::from_json(&text, Path::new("config.json")).unwrap();
    let mut tensors = Vec::new();
    for (name, shape) in config.tensors() {
        let mut values = synthetic::weights(&name, &shape);
        if name.contains("q_proj") || name.contains("k_proj") {
            values = interleave(&values, config.head_dim, config.hidden_size);
        }
        let tensor = Tensor::from_vec(values, &shape[..], &Device::Cpu).unwrap();
        let dtype = if shape.len() == 2 { dtype(&name) } else { GgmlDType::F32 };
        tensors.push((super::gguf::gguf_name(&name).unwrap(), QTensor::quantize(&tensor, dtype).unwrap()));
    }
    let number = |n: usize| Value::U32(n as u32);
    let tokenizer: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("tokenizer.json")).unwrap()).unwrap();
    let mut vocab: Vec<(&String, u64)> =
        tokenizer["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (t, id.as_u64().unwrap())).collect();
    vocab.sort_by_key(|(_, id)| *id);
    let kind = |(_, id): &(&String, u64)| Value::I32(if *id < 4 { 3 } else { 1 });
    let settings: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("tokenizer_config.json")).unwrap()).unwrap();
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", number(config.num_hidden_layers)),
        ("llama.context_length", number(config.max_position_embeddings)),
        ("llama.embedding_length", number(config.hidden_size)),
        ("llama.feed_forward_length", number(config.intermediate_size)),
        ("llama.attention.head_count", number(config.num_attention_heads)),
        ("llama.attention.head_count_kv", number(config.num_key_value_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps)),
        ("llama.rope.freq_base", Value::F32(config.rope_theta)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens", Value::Array(vocab.iter().map(|(t, _)| Value::String(t.to_string())).collect())),
        ("tokenizer.ggml.token_type", Value::Array(vocab.iter().map(kind).collect())),
        ("tokenizer.ggml.merges", Value::Array(vec![])),
        ("tokenizer.ggml.eos_token_id", Value::U32(0)),
        ("tokenizer.chat_template", Value::String(settings["chat_template"].as_str().unwrap().into())),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let path = folder.join("model.gguf");
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
    ModelFiles::gguf(&path, Precision::F32)
}

pub(super) fn request(question: &str, response: &str) -> ScoreRequest {
    ScoreRequest::new(None, question, response)
}

fn scores(files: &ModelFiles) -> (Vec<Encoded>, Vec<Scored>) {
    let text = Arc::new(TextModel::load(files).unwrap());
    let rows = [request("2 + 2?", "4"), request("Wie heißt du?", "Ich heiße Ada.\n\n 1. Ada"), request("", "…")];
    let encoded: Vec<Encoded> = rows.iter().map(|r| text.encode(r, 512).unwrap().unwrap()).collect();
    let model = LanguageModel::load(files, text, &Device::Cpu).unwrap();
    let scored = model.score(&encoded.iter().collect::<Vec<_>>(), &|| false).unwrap();
    (encoded.clone(), scored.into_iter().map(Result::unwrap).collect())
}

#[test]
fn both_formats_give_the_same_tokens_and_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_model(folder.path(), 1).unwrap();
    let hub = scores(&folder_files(folder.path()));
    let gguf = scores(&write_gguf(folder.path(), GgmlDType::F32));
    assert_eq!(VOCABULARY, 260);
    assert_eq!(hub, gguf);
    // <user> 2 + 2 ? <end> <assistant> and the response, closed by <end>.
    assert_eq!((hub.0[0].prompt, hub.0[0].tokens.len(), hub.0[0].end), (9, 10, 0));
}

#[test]
fn a_template_beside_a_gguf_file_goes_before_its_own() {
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_model(folder.path(), 1).unwrap();
    let mut files = write_gguf(folder.path(), GgmlDType::F32);
    let row = request("2 + 2?", "4");
    let prompt = |files: &ModelFiles| TextModel::load(files).unwrap().encode(&row, 100).unwrap().unwrap().prompt;
    let own = prompt(&files);
    let template = folder.path().join("chat_template.jinja");
    std::fs::write(&template, "{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    files.companions.insert("chat_template.jinja".into(), template);
    assert_eq!((own, prompt(&files)), (9, 6), "without <user>, <end> and <assistant>");
}

/// Every type of matrix in one file, dense ones among them, also side by side in one product.
fn mixed(name: &str, wide: bool) -> GgmlDType {
    let types = [
        ("embed_tokens", GgmlDType::Q8_0, GgmlDType::Q6K),
        ("lm_head", GgmlDType::Q5_1, GgmlDType::Q4K),
        ("q_proj", GgmlDType::Q4_0, GgmlDType::Q4K),
        ("k_proj", GgmlDType::F16, GgmlDType::Q4K),
        ("v_proj", GgmlDType::Q5_1, GgmlDType::Q6K),
        ("o_proj", GgmlDType::BF16, GgmlDType::Q5K),
        ("gate_proj", GgmlDType::Q4_1, GgmlDType::Q5K),
        ("up_proj", GgmlDType::Q5_0, GgmlDType::Q4_1),
        ("down_proj", GgmlDType::F32, GgmlDType::Q2K),
    ];
    let (_, narrow, of_256) = types.iter().find(|(part, ..)| name.contains(part)).unwrap();
    if wide { *of_256 } else { *narrow }
}

#[test]
fn quantised_weights_are_used_as_they_are() {
    for (wide, tied) in [(false, true), (true, true), (true, false)] {
        let folder = tempfile::tempdir().unwrap();
        let (width, inner) = if wide { (256, 512) } else { (64, 96) };
        let config = serde_json::json!({"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": width,
            "intermediate_size": inner, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": tied,
            "eos_token_id": 0});
        synthetic::write_weights(folder.path(), &config, 1).unwrap();
        synthetic::write_tokenizer(folder.path()).unwrap();
        let files = write_mixed_gguf(folder.path(), |name| mixed(name, wide));
        let (_, dequantised) = scores(&files);
        let files = ModelFiles { precision: Precision::Quantized, ..files };
        let (rows, quantised) = scores(&files);
        for (a, b) in dequantised.iter().zip(&quantised) {
            let mean = |s: &Scored| s.token_nll.iter().sum::<f32>() / s.token_nll.len() as f32;
            assert!((mean(a) / mean(b) - 1.0).abs() < 0.02, "{a:?} {b:?}");
        }
        assert_ne!(dequantised, quantised);
        // Alone, a row has the bits that it has among others.
        let model = LanguageModel::load(&files, Arc::new(TextModel::load(&files).unwrap()), &Device::Cpu).unwrap();
        for (row, together) in rows.iter().zip(&quantised) {
            assert_eq!(model.score(&[row], &|| false).unwrap(), [Ok(together.clone())]);
        }
    }
}

#[test]
fn quantised_weights_take_the_memory_that_is_said_before() {
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_model(folder.path(), 1).unwrap();
    let bytes = |dtype| {
        let files = ModelFiles { precision: Precision::Quantized, ..write_gguf(folder.path(), dtype) };
        TextModel::load(&files).unwrap().weight_bytes(&files)
    };
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    // Norms are not counted: five of 64 values, in float32.
    let matrices = Config::from_json(&config, Path::new("config.json")).unwrap().parameters();
    assert_eq!(bytes(GgmlDType::Q4_0), matrices * 18 / 32 + 5 * 64 * 4);
    assert_eq!(bytes(GgmlDType::Q5_0), matrices * 34 / 32 + 5 * 64 * 4);
    assert_eq!(bytes(GgmlDType::BF16), matrices * 2 + 5 * 64 * 4);
}

#[test]
fn a_file_cut_short_says_so() {
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_model(folder.path(), 1).unwrap();
    let files = write_gguf(folder.path(), GgmlDType::F32);
    let length = std::fs::metadata(files.path()).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(files.path()).unwrap().set_len(length - 1000).unwrap();
    let text = Arc::new(TextModel::load(&files).unwrap());
    let error = LanguageModel::load(&files, text, &Device::Cpu).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("lies outside the file of"), "{error}");
}
