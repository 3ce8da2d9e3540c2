//! A small random model in the hub's layout: for tests in which the values of scores do not matter.

use super::common::Sandbox;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::BTreeMap;

const HIDDEN: usize = 32;
const INNER: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const LAYERS: usize = 1;
/// 256 bytes and the two marks of a turn.
const VOCABULARY: usize = 258;

/// Writes the model's folder.
pub fn write(sandbox: &Sandbox, folder: &str) {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "bos_token_id": 256, "eos_token_id": 257, "torch_dtype": "float32",
    });
    sandbox.write(&format!("{folder}/config.json"), config.to_string());
    sandbox.write(&format!("{folder}/tokenizer.json"), tokenizer().to_string());
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let settings = serde_json::json!({
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": template,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    sandbox.write(&format!("{folder}/tokenizer_config.json"), settings.to_string());
    sandbox.write(&format!("{folder}/model.safetensors"), weights());
}

/// One token for each byte, in the byte-level alphabet that GPT-2 introduced.
fn tokenizer() -> serde_json::Value {
    let mut vocabulary = serde_json::Map::new();
    for (id, symbol) in alphabet().into_iter().enumerate() {
        vocabulary.insert(symbol.to_string(), id.into());
    }
    let mark = |id: usize, text: &str| {
        serde_json::json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let bytes =
        serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [mark(256, "<|im_start|>"), mark(257, "<|im_end|>")],
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}

/// Printable bytes stand for themselves, the others for code points from 256 on.
fn alphabet() -> Vec<char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    let symbol = |b: u32| {
        let code = if printable(b) {
            b
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).expect("below the surrogates")
    };
    (0..256).map(symbol).collect()
}

fn weights() -> Vec<u8> {
    let kv = HIDDEN / HEADS * KV_HEADS;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".into(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![kv, HIDDEN]),
            ("self_attn.v_proj", vec![kv, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let data: BTreeMap<String, (Vec<usize>, Vec<u8>)> =
        shapes.into_iter().enumerate().map(|(i, (name, shape))| (name, (shape.clone(), values(i, &shape)))).collect();
    let views: BTreeMap<&String, TensorView<'_>> = data
        .iter()
        .map(|(name, (shape, bytes))| {
            (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("shape and bytes agree"))
        })
        .collect();
    serialize(views, None).expect("tensors in memory")
}

/// Waves of small numbers; norms near one.
fn values(tensor: usize, shape: &[usize]) -> Vec<u8> {
    let (offset, scale) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, 0.2) };
    let count: usize = shape.iter().product();
    let value = |i: usize| {
        (offset + scale * (0.37 * i as f64 + 1.7 * tensor as f64 + 0.001 * (i * i % 911) as f64).sin()) as f32
    };
    (0..count).flat_map(|i| value(i).to_le_bytes()).collect()
}
