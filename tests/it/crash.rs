//! kill -9 while a model scores rows: the same command goes on, no finished row is scored again, and the files are
//! those of an undisturbed run.

use super::common::{Sandbox, until};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fmt::Write;

const WIDTH: usize = 32;
const HIDDEN: usize = 64;
const LAYERS: usize = 1;
const HEADS: usize = 2;
const KV_HEADS: usize = 1;

const PIPELINE: &str = r#"
pipeline "p" seed=1 { doc "Scores that take a while" }
model "tiny" path="tiny"
load "rows" path="rows.jsonl"
score-ppl "scored" from="rows" model="tiny"
filter "likely" from="scored" where="ppl < 1000000"
write "file" from="likely" path="scored.jsonl"
"#;

/// A Llama of random weights, in the hub's layout, that reads bytes.
fn write_model(s: &Sandbox) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": WIDTH,
        "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": 259, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 256, "eos_token_id": 258,
        "torch_dtype": "float32",
    });
    s.write("tiny/config.json", config.to_string());
    let special = [(256, "<|start|>"), (257, "<|mid|>"), (258, "<|end|>")];
    let vocabulary: serde_json::Map<String, Value> =
        byte_names().into_iter().enumerate().map(|(i, name)| (name.to_string(), json!(i))).collect();
    let added = special.map(|(id, content)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    });
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    });
    s.write("tiny/tokenizer.json", tokenizer.to_string());
    let template = "{% for m in messages %}{{ '<|start|>' + m['role'] + '<|mid|>' + m['content'] + '<|end|>' }}\
                    {% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|mid|>' }}{% endif %}";
    let settings = json!({"bos_token": "<|start|>", "eos_token": "<|end|>", "chat_template": template,
        "tokenizer_class": "PreTrainedTokenizerFast"});
    s.write("tiny/tokenizer_config.json", settings.to_string());
    s.write("tiny/model.safetensors", weights());
}

/// GPT-2's printable stand-ins for the 256 bytes.
fn byte_names() -> Vec<char> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256;
    let name = |b: u32| {
        let code = if printable(b) {
            b
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).expect("a letter of the Latin planes")
    };
    (0..256).map(name).collect()
}

fn weights() -> Vec<u8> {
    let kv = WIDTH / HEADS * KV_HEADS;
    let mut shapes =
        vec![("model.embed_tokens.weight".to_string(), vec![259, WIDTH]), ("model.norm.weight".into(), vec![WIDTH])];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("self_attn.q_proj", vec![WIDTH, WIDTH]),
            ("self_attn.k_proj", vec![kv, WIDTH]),
            ("self_attn.v_proj", vec![kv, WIDTH]),
            ("self_attn.o_proj", vec![WIDTH, WIDTH]),
            ("mlp.gate_proj", vec![HIDDEN, WIDTH]),
            ("mlp.up_proj", vec![HIDDEN, WIDTH]),
            ("mlp.down_proj", vec![WIDTH, HIDDEN]),
            ("input_layernorm", vec![WIDTH]),
            ("post_attention_layernorm", vec![WIDTH]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let (mut header, mut data, mut state) = (serde_json::Map::new(), Vec::new(), 1u64);
    for (name, shape) in shapes {
        let start = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            // A linear congruential generator is random enough for weights that mean nothing.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            let value = if shape.len() == 1 { 1.0 + unit * 0.1 } else { unit * 0.4 };
            data.extend(value.to_le_bytes());
        }
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    file.extend(data);
    file
}

fn sandbox(rows: usize) -> Sandbox {
    let s = Sandbox::new();
    write_model(&s);
    let mut lines = String::new();
    for i in 0..rows {
        let answer = "so it is that number again and again ".repeat(1 + i * 7 % 5);
        writeln!(lines, r#"{{"question":"What is {i}?","response":"{i}, {answer}"}}"#).unwrap();
    }
    s.write("rows.jsonl", lines);
    s.write("p.kdl", PIPELINE);
    s
}

/// Keys of the whole records in all segments of the journal, and how many records there are.
fn journalled(s: &Sandbox) -> (HashSet<Vec<u8>>, usize) {
    let (mut keys, mut records) = (HashSet::new(), 0);
    for (name, bytes) in s.tree(".idiolect/store/journal") {
        let mut rest = match bytes.strip_prefix(b"idiojnl1") {
            Some(rest) if name.ends_with(".seg") => rest,
            _ => continue,
        };
        while rest.len() >= 28 {
            let length = 28 + u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            if rest.len() < length {
                break;
            }
            keys.insert(rest[4..20].to_vec());
            records += 1;
            rest = &rest[length..];
        }
    }
    (keys, records)
}

#[test]
fn a_killed_scoring_goes_on_and_ends_in_the_same_bytes() {
    const ROWS: usize = 1600;
    let undisturbed = sandbox(ROWS);
    undisturbed.run(&["run", "p.kdl"]).exits(0);
    let s = sandbox(ROWS);
    let mut kills = 0;
    let mut seen = 0;
    for wait in [5, 60, 20, 120, 0, 40, 90].into_iter().cycle() {
        let mut run = s.spawn(&["run", "p.kdl", "--quiet"]);
        // Killed soon after it has finished further rows, so that every round gets somewhere.
        until("further rows or the end", || {
            run.try_wait().unwrap().is_some() || (s.path(".idiolect/store/journal").exists() && journalled(&s).1 > seen)
        });
        std::thread::sleep(std::time::Duration::from_millis(wait));
        let ended = run.try_wait().unwrap();
        run.kill().unwrap();
        run.wait().unwrap();
        if let Some(status) = ended {
            assert_eq!(status.code(), Some(0));
            break;
        }
        kills += 1;
        let (keys, records) = journalled(&s);
        assert_eq!(keys.len(), records, "a finished row was scored again");
        seen = records;
        if kills == 3 {
            let plan = s.run(&["plan", "p.kdl"]).exits(0).stdout;
            assert!(plan.contains("partial"), "{plan}");
        }
    }
    assert!(kills >= 3, "only {kills} kills: the run is too quick for this test");
    let (keys, records) = journalled(&s);
    assert_eq!((keys.len(), records), (ROWS, ROWS), "every row is scored, and none twice");
    assert_eq!(s.read("runs/p/scored.jsonl"), undisturbed.read("runs/p/scored.jsonl"));
    assert_eq!(s.parts(".idiolect/store"), undisturbed.parts(".idiolect/store"));
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached"]);
}

#[test]
fn rows_scored_once_are_not_scored_again_when_the_pipeline_grows() {
    let s = sandbox(200);
    s.run(&["run", "p.kdl"]).exits(0);
    // More rows and another operator version of the same question: only the new rows go to the model.
    let more = s
        .read("rows.jsonl")
        .iter()
        .chain(br#"{"question":"And?","response":"One more."}"#)
        .copied()
        .collect::<Vec<_>>();
    s.write("rows.jsonl", more);
    s.write("p.kdl", PIPELINE.replace("model=\"tiny\"\nfilter", "model=\"tiny\" count-end=#false\nfilter"));
    s.run(&["run", "p.kdl"]).exits(0);
    let (keys, records) = journalled(&s);
    assert_eq!((keys.len(), records), (201, 201));
}

#[test]
fn scores_do_not_depend_on_batches_stages_or_what_runs_beside() {
    let a = sandbox(300);
    a.run(&["run", "p.kdl"]).exits(0);
    let b = sandbox(300);
    b.run(&["run", "p.kdl", "--batch-rows", "7", "--channel-batches", "1", "--stages", "1"]).exits(0);
    assert_eq!(a.read("runs/p/scored.jsonl"), b.read("runs/p/scored.jsonl"));
    assert_eq!(a.parts(".idiolect/store"), b.parts(".idiolect/store"));
}
