//! A model with an adapter's updates added to its weights, as a folder in the hub's layout.
//!
//! Tensors are read, changed and written one after another, so that memory does not grow with the model.

use super::{Adapter, Module};
use crate::exec::RunError;
use crate::model::config::Config;
use crate::model::error::{Doing, Result, unsupported};
use crate::model::files::{Precision, WeightFiles};
use crate::model::gguf::GgufFile;
use crate::model::language_model::TextModel;
use crate::model::weights::{Matrix, Weights};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The number format that merged weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    F32,
    Bf16,
    F16,
}

impl Stored {
    /// The names of `dtype` in a pipeline.
    pub const NAMES: &[&str] = &["f32", "bf16", "f16"];

    pub fn parse(name: &str) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16].into_iter().find(|stored| stored.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Its name in safetensors, in `config.json`, and its bytes.
    fn names(self) -> (&'static str, &'static str, u64) {
        match self {
            Self::F32 => ("F32", "float32", 4),
            Self::Bf16 => ("BF16", "bfloat16", 2),
            Self::F16 => ("F16", "float16", 2),
        }
    }

    fn put(self, value: f32, bytes: &mut [u8]) {
        match self {
            Self::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
            Self::Bf16 => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            Self::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    pub parameters: u64,
    /// Of the weights' file.
    pub bytes: u64,
}

/// Writes the model: weights, configuration, tokenizer, chat template. `note` is a text that the weights' file keeps under a
/// name; `file` gives the path of each file by its name; `stopping` is asked between tensors.
pub fn write(
    text: &TextModel,
    adapter: &Adapter,
    stored: Stored,
    note: Option<(&str, String)>,
    file: &dyn Fn(&str) -> Result<PathBuf>,
    stopping: &dyn Fn() -> bool,
) -> Result<Merged> {
    let merged = write_weights(text, adapter, stored, note, &file("model.safetensors")?, stopping)?;
    for (name, content) in companions(text, stored)? {
        let path = file(&name)?;
        std::fs::write(&path, content).map_err(|e| crate::store::io_error("write", &path, &e))?;
    }
    Ok(merged)
}

fn write_weights(
    text: &TextModel,
    adapter: &Adapter,
    stored: Stored,
    note: Option<(&str, String)>,
    path: &Path,
    stopping: &dyn Fn() -> bool,
) -> Result<Merged> {
    let failed = |e: std::io::Error| crate::store::io_error("write", path, &e);
    let weights = Weights::of(&text.files, &text.config, Precision::F32, &Device::Cpu)?;
    let tensors = text.config.tensors();
    let (header, bytes) = header(&tensors, stored, note);
    let mut out = BufWriter::new(File::create(path).map_err(failed)?);
    out.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| out.write_all(&header)).map_err(failed)?;
    let (mut parameters, mut buffer) = (0, Vec::new());
    for (name, shape) in &tensors {
        if stopping() {
            return Err(RunError::Interrupted);
        }
        let mut values = values(&weights, name, shape)?;
        let module = adapter.modules.iter().find(|m| name.strip_suffix(".weight") == Some(&m.name()));
        if let Some(module) = module {
            add_update(adapter, module, &mut values);
        }
        parameters += values.len() as u64;
        let size = stored.names().2 as usize;
        buffer.resize(values.len() * size, 0);
        buffer.par_chunks_mut(size).zip(&values).for_each(|(bytes, value)| stored.put(*value, bytes));
        out.write_all(&buffer).map_err(failed)?;
    }
    let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok(Merged { parameters, bytes: 8 + header.len() as u64 + bytes })
}

/// The header of a safetensors file, padded to eight bytes, and how many bytes follow it.
fn header(tensors: &[(String, Vec<usize>)], stored: Stored, note: Option<(&str, String)>) -> (Vec<u8>, u64) {
    let (dtype, _, size) = stored.names();
    let mut map = Map::new();
    let format = ("format".to_string(), json!("pt"));
    let texts = std::iter::once(format).chain(note.map(|(name, text)| (name.to_string(), json!(text))));
    map.insert("__metadata__".into(), texts.collect::<Map<_, _>>().into());
    let mut at = 0;
    for (name, shape) in tensors {
        let end = at + size * shape.iter().product::<usize>() as u64;
        map.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::Object(map).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    (header, at)
}

/// A tensor's values in float32.
fn values(weights: &Weights, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let tensor: Tensor = match shape {
        [length] => weights.vector(name, *length)?,
        [rows, columns] => match weights.matrix(name, *rows, *columns)? {
            Matrix::Dense(tensor) => tensor,
            Matrix::Quantized(quantized) => quantized.dequantize(&Device::Cpu).doing(|| format!("reading `{name}`"))?,
        },
        _ => unreachable!("the family's tensors have one dimension or two"),
    };
    let flat = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
    flat.doing(|| format!("reading `{name}`"))
}

/// `W + scale * B A`, each element summed in one order.
fn add_update(adapter: &Adapter, module: &Module, weights: &mut [f32]) {
    let (a, b) = (&adapter.values[module.a.clone()], &adapter.values[module.b.clone()]);
    let (rank, scale) = (adapter.config.rank, adapter.config.scale());
    weights.par_chunks_mut(module.inputs).zip(b.par_chunks(rank)).for_each(|(row, b)| {
        for (column, weight) in row.iter_mut().enumerate() {
            let product = |r: usize| f64::from(b[r]) * f64::from(a[r * module.inputs + column]);
            *weight = (f64::from(*weight) + scale * (0..rank).map(product).sum::<f64>()) as f32;
        }
    });
}

/// The files beside the weights.
fn companions(text: &TextModel, stored: Stored) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = match &text.files.weights {
        WeightFiles::Gguf(path) => from_gguf(text, &GgufFile::open(path)?)?,
        WeightFiles::Safetensors(_) => Vec::new(),
    };
    for (name, path) in &text.files.companions {
        let content = std::fs::read(path).map_err(|e| crate::store::io_error("read", path, &e))?;
        files.retain(|(known, _)| known != name);
        files.push((name.clone(), content));
    }
    if let Some((_, config)) = files.iter_mut().find(|(name, _)| name == "config.json") {
        let mut json: Value = serde_json::from_slice(config).unwrap_or_default();
        let key = if json.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        json[key] = stored.names().1.into();
        *config = format!("{json:#}\n").into_bytes();
    }
    if let Some(path) = &text.files.chat_template {
        let content = std::fs::read(path).map_err(|e| crate::store::io_error("read", path, &e))?;
        files.retain(|(known, _)| known != "chat_template.jinja");
        files.push(("chat_template.jinja".into(), content));
    }
    Ok(files)
}

/// What a GGUF file holds besides its weights, in the hub's layout.
fn from_gguf(text: &TextModel, gguf: &GgufFile) -> Result<Vec<(String, Vec<u8>)>> {
    let config = text.config.to_json().ok_or_else(|| {
        unsupported(gguf.path(), "its rotary factors cannot be said in a `config.json`")
            .help("merge into the safetensors of the same model")
    })?;
    let json = |value: Value| format!("{value:#}\n").into_bytes();
    let mut files = vec![
        ("config.json".to_string(), json(config)),
        ("tokenizer.json".to_string(), text.tokenizer.to_json()?.into_bytes()),
    ];
    let mut settings = json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": text.context});
    if let Some(chat) = &text.chat {
        for (key, token) in chat.template.special().named() {
            settings[key] = token.into();
        }
        files.push(("chat_template.jinja".to_string(), chat.template.source().as_bytes().to_vec()));
    }
    files.push(("tokenizer_config.json".to_string(), json(settings)));
    Ok(files)
}

impl Config {
    /// As `config.json`; `None` where that cannot say it.
    fn to_json(&self) -> Option<Value> {
        let name = self.architecture.name();
        let mut json = json!({
            "architectures": [self.architecture.class()],
            "model_type": name,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": shortest(self.rms_norm_eps),
            "rope_theta": shortest(self.rope_theta),
            "rope_scaling": self.rope_scaling.to_json()?,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.o_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": match self.eos_token_ids.as_slice() {
                [one] => json!(one),
                several => json!(several),
            },
        });
        match self.sliding_window.first().copied().flatten() {
            Some(window) => {
                json["sliding_window"] = window.into();
                json["use_sliding_window"] = true.into();
                json["max_window_layers"] = 0.into();
            }
            None => json["sliding_window"] = Value::Null,
        }
        Some(json)
    }
}

/// The number that a float32 was written as: `1e-5`, not `9.999999747378752e-6`.
fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use super::super::{LoraConfig, Target};
    use super::*;
    use crate::model::gguf_tests::{folder_files, request};
    use crate::model::language_model::LanguageModel;
    use crate::model::{ModelFiles, synthetic};
    use std::sync::Arc;

    fn adapter(config: &Config) -> Adapter {
        let lora = LoraConfig { rank: 2, targets: Target::ALL.to_vec(), ..LoraConfig::default() };
        let mut adapter = Adapter::new(lora, config, 3);
        let more = synthetic::values("adapter", adapter.values.len());
        adapter.values.iter_mut().zip(more).for_each(|(value, more)| *value += 0.4 * more);
        adapter
    }

    fn scores(files: &ModelFiles, adapter: Option<&Adapter>) -> Vec<f32> {
        let text = Arc::new(TextModel::load(files).unwrap());
        let mut model = LanguageModel::load(files, text, &Device::Cpu).unwrap();
        if let Some(adapter) = adapter {
            model = model.with_adapter(adapter).unwrap();
        }
        let row = model.text.encode(&request("what is it?", "nothing at all"), 500).unwrap().unwrap();
        let scored = model.score(&[&row], &|| false).unwrap().pop().unwrap().unwrap();
        scored.token_nll.into_iter().chain([scored.end_nll]).collect()
    }

    fn merged(text: &TextModel, adapter: &Adapter, stored: Stored) -> (tempfile::TempDir, Merged) {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| Ok(folder.path().join(name));
        let merged = write(text, adapter, stored, None, &file, &|| false).unwrap();
        (folder, merged)
    }

    #[test]
    fn a_merged_model_scores_as_the_adapter_did() {
        let folder = tempfile::tempdir().unwrap();
        synthetic::write_model(folder.path(), 1).unwrap();
        let files = folder_files(folder.path());
        let text = TextModel::load(&files).unwrap();
        let adapter = adapter(&text.config);
        let expected = scores(&files, Some(&adapter));
        let (whole, merged_whole) = merged(&text, &adapter, Stored::F32);
        let path = whole.path().join("model.safetensors");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), merged_whole.bytes);
        let found = scores(&folder_files(whole.path()), None);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
        let plain = scores(&files, None);
        assert!(plain.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 0.5), "the adapter changes the model");
    }

    /// Half as large, and every weight the nearest one of its format.
    #[test]
    fn smaller_formats_round_once() {
        let folder = tempfile::tempdir().unwrap();
        synthetic::write_model(folder.path(), 1).unwrap();
        let text = TextModel::load(&folder_files(folder.path())).unwrap();
        let adapter = adapter(&text.config);
        let bytes = |stored| std::fs::read(merged(&text, &adapter, stored).0.path().join("model.safetensors")).unwrap();
        let [whole, bf, half] = [Stored::F32, Stored::Bf16, Stored::F16].map(bytes);
        let [whole, bf, half] = [&whole, &bf, &half].map(|b| safetensors::SafeTensors::deserialize(b).unwrap());
        for (name, tensor) in whole.tensors() {
            let values = tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            let (bf, half) = (bf.tensor(&name).unwrap(), half.tensor(&name).unwrap());
            let rounded: Vec<u8> = values.clone().flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect();
            assert_eq!(bf.data(), rounded, "{name}");
            assert_eq!(half.data(), values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>(), "{name}");
        }
        assert!(TextModel::load(&folder_files(folder.path())).is_ok());
    }

    #[test]
    fn a_configuration_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for kind in ["llama", "mistral", "qwen2", "qwen3"] {
            let json = json!({"model_type": kind, "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
                "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 5e5,
                "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": [2, 3],
                "rope_scaling": {"rope_type": "linear", "factor": 2.0}});
            let path = folder.path().join("config.json");
            let config = Config::from_json(&json.to_string(), &path).unwrap();
            let again = Config::from_json(&config.to_json().unwrap().to_string(), &path).unwrap();
            assert_eq!(again, config, "{kind}");
        }
    }
}
