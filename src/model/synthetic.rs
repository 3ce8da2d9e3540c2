//! Small models whose weights are made of arithmetic, for tests and benchmarks: nothing to download, nothing to
//! keep, and the same numbers anywhere.
//!
//! The weight at index `i` of a tensor is a hash of the tensor's name and `i`: the `(i + 1)`-th output of SplitMix64 seeded
//! with the FNV-1a hash of the name, its upper 24 bits as a fraction, less one half. Norms are one and half of that,
//! embeddings twice, all others half of it.

use super::config::Config;
use super::error::{Result, bad_file};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// `count` numbers in [-0.5, 0.5) that a name stands for.
pub fn values(name: &str, count: usize) -> Vec<f32> {
    let fnv = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    (1..=count as u64).map(|i| (split_mix(seed, i) >> 40) as f32 / 16_777_216.0 - 0.5).collect()
}

fn split_mix(seed: u64, step: u64) -> u64 {
    let z = seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Tokens that a number stands for.
pub fn tokens(seed: u32, count: usize, vocabulary: usize) -> Vec<u32> {
    let token = |v: f32| ((v + 0.5) * vocabulary as f32) as u32;
    values(&format!("tokens {seed}"), count).into_iter().map(token).collect()
}

/// The values of a tensor.
pub fn weights(name: &str, shape: &[usize]) -> Vec<f32> {
    let values = values(name, shape.iter().product());
    let scaled = |v: f32| match name {
        n if n.contains("norm") => 1.0 + v * 0.5,
        n if n.contains("embed") => v * 2.0,
        _ => v * 0.5,
    };
    values.into_iter().map(scaled).collect()
}

/// Writes `config.json` and the weights, spread over so many safetensors files, as the hub lays them out.
/// Returns the weights' files.
pub fn write_weights(folder: &Path, config: &Value, shards: usize) -> Result<Vec<PathBuf>> {
    let path = folder.join("config.json");
    write(&path, &config.to_string())?;
    let shapes = Config::from_json(&config.to_string(), &path)?.tensors();
    let name = |shard: usize| match shards {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
    };
    let mut index = serde_json::Map::new();
    for shard in 0..shards {
        let own = shapes.iter().skip(shard).step_by(shards);
        let tensors =
            own.map(|(n, shape)| Ok((n.clone(), Tensor::from_vec(weights(n, shape), &shape[..], &Device::Cpu)?)));
        let path = folder.join(name(shard));
        let written: candle_core::Result<HashMap<String, Tensor>> = tensors.collect();
        let written = written.and_then(|tensors| {
            index.extend(tensors.keys().map(|n| (n.clone(), name(shard).into())));
            candle_core::safetensors::save(&tensors, &path)
        });
        written.map_err(|e| bad_file(&path, e))?;
    }
    if shards > 1 {
        write(&folder.join("model.safetensors.index.json"), &json!({ "weight_map": index }).to_string())?;
    }
    Ok((0..shards).map(|shard| folder.join(name(shard))).collect())
}

/// Number of tokens of [`write_tokenizer`]'s vocabulary.
pub const VOCABULARY: usize = 260;

/// Writes a tokenizer whose tokens are bytes, and a chat template that marks turns with special tokens.
pub fn write_tokenizer(folder: &Path) -> Result<()> {
    let special = ["<end>", "<user>", "<assistant>", "<system>"];
    let mut alphabet: Vec<String> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().map(String::from).collect();
    alphabet.sort_unstable();
    let vocab = special.iter().map(|s| s.to_string()).chain(alphabet).zip(0u32..);
    let vocab: serde_json::Map<String, Value> = vocab.map(|(t, id)| (t, id.into())).collect();
    let added = |(id, text): (usize, &&str)| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": bytes,
        "post_processor": null, "decoder": bytes, "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    write(&folder.join("tokenizer.json"), &tokenizer.to_string())?;
    let template = "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";
    let settings = json!({"eos_token": "<end>", "chat_template": template});
    write(&folder.join("tokenizer_config.json"), &settings.to_string())
}

/// Writes a whole small model in the hub's layout: a Llama with bytes for tokens.
pub fn write_model(folder: &Path, shards: usize) -> Result<()> {
    let config = json!({"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "eos_token_id": 0});
    write_weights(folder, &config, shards)?;
    write_tokenizer(folder)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| bad_file(path, format!("cannot write: {e}")))
}
