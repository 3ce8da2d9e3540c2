//! Adapters in the format of the peft library: `adapter_config.json` and `adapter_model.safetensors`.

use super::{Adapter, LoraConfig, Module, Target};
use crate::exec::RunError;
use crate::model::config::Config;
use crate::model::error::Result;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The names of the two files in a folder.
pub const CONFIG_FILE: &str = "adapter_config.json";
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What peft puts before the name of a layer.
const PREFIX: &str = "base_model.model.";

/// An adapter as the peft library stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterFile {
    /// The content of `adapter_config.json`.
    pub config: String,
    /// The content of `adapter_model.safetensors`.
    pub weights: Vec<u8>,
}

impl AdapterFile {
    /// Reads the two files of a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|e| bad(format!("{}: cannot read: {e}", path.display())))
        };
        let config = String::from_utf8(file(CONFIG_FILE)?)
            .map_err(|_| bad(format!("{}: not UTF-8", folder.join(CONFIG_FILE).display())))?;
        Ok(Self { config, weights: file(WEIGHTS_FILE)? })
    }

    /// Digest of all that changes a number.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.config.len() as u64).to_le_bytes());
        hasher.update(self.config.as_bytes()).update(&self.weights);
        hasher.finalize().to_hex().to_string()
    }

    /// The files of an adapter. `base` is what peft calls the model that it belongs to: a hub repository or a path.
    pub fn new(adapter: &Adapter, base: &str) -> Result<Self> {
        let config = &adapter.config;
        let names: Vec<&str> = config.targets.iter().map(|target| target.name()).collect();
        let json = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": config.rank,
            "lora_alpha": number(config.alpha),
            "lora_dropout": config.dropout,
            "target_modules": names,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "use_rslora": false,
            "use_dora": false,
        });
        let mut tensors = BTreeMap::new();
        for module in &adapter.modules {
            let factors = [
                ("lora_A", vec![config.rank, module.inputs], &module.a),
                ("lora_B", vec![module.outputs, config.rank], &module.b),
            ];
            for (factor, shape, range) in factors {
                let bytes: Vec<u8> = adapter.values[range.clone()].iter().flat_map(|v| v.to_le_bytes()).collect();
                tensors.insert(tensor_name(module, factor), (shape, bytes));
            }
        }
        let views = tensors.iter().map(|(name, (shape, bytes))| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            view.map(|view| (name, view)).map_err(|e| bad(format!("`{name}`: {e}")))
        });
        let metadata = Some([("format".to_string(), "pt".to_string())].into());
        let weights = safetensors::serialize(views.collect::<Result<Vec<_>>>()?, metadata)
            .map_err(|e| bad(format!("cannot be put into safetensors: {e}")))?;
        Ok(Self { config: format!("{json:#}\n"), weights })
    }

    /// The adapter for a model: every tensor must have its place there, and every place its tensor.
    pub fn adapter(&self, model: &Config) -> Result<Adapter> {
        let config: Map<String, Value> =
            serde_json::from_str(&self.config).map_err(|e| bad(format!("`{CONFIG_FILE}` is no JSON object: {e}")))?;
        refuse_unknown(&config)?;
        let tensors =
            SafeTensors::deserialize(&self.weights).map_err(|e| bad(format!("`{WEIGHTS_FILE}` is damaged: {e}")))?;
        let mut adapter = Adapter::zero(lora_config(&config)?, model);
        let mut open: std::collections::BTreeSet<&str> = tensors.names().into_iter().collect();
        let modules = adapter.modules.clone();
        for module in &modules {
            let rank = adapter.config.rank;
            for (factor, shape, range) in
                [("lora_A", [rank, module.inputs], &module.a), ("lora_B", [module.outputs, rank], &module.b)]
            {
                let name = tensor_name(module, factor);
                let tensor = tensors.tensor(&name).map_err(|_| misfit(format!("it has no tensor `{name}`")))?;
                if tensor.shape() != shape {
                    let found = tensor.shape();
                    return Err(misfit(format!("`{name}` is {found:?}, and the model needs {shape:?}")));
                }
                read_values(&tensor, &mut adapter.values[range.clone()])
                    .map_err(|why| bad(format!("`{name}` {why}")))?;
                open.remove(name.as_str());
            }
        }
        match open.first() {
            Some(name) => Err(misfit(format!("its tensor `{name}` has no place there"))),
            None => Ok(adapter),
        }
    }
}

/// A file of an adapter that cannot be used.
fn bad(what: impl std::fmt::Display) -> RunError {
    RunError::failed("adapter-file", format!("the adapter cannot be read: {what}"))
        .help("adapters are folders of the peft library: `adapter_config.json` and `adapter_model.safetensors`")
}

/// An adapter that belongs to another model.
fn misfit(what: impl std::fmt::Display) -> RunError {
    RunError::failed("adapter-mismatch", format!("the adapter does not fit the model: {what}"))
        .help("use it with the model that it was trained on")
}

/// A whole number is written as one, as peft does.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}

fn tensor_name(module: &Module, factor: &str) -> String {
    format!("{PREFIX}{}.{factor}.weight", module.name())
}

/// Settings that would change what the values mean, and are not understood.
fn refuse_unknown(config: &Map<String, Value>) -> Result<()> {
    let is_off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text == "none",
        _ => false,
    };
    let unsupported = |what: String| {
        let error = RunError::failed("adapter-unsupported", format!("the adapter {what}, which is not supported"));
        Err(error.help("LoRA on linear layers is, with one rank and one alpha"))
    };
    match config.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        Some(other) => return unsupported(format!("is of the type `{other}`")),
        None => return Err(bad(format!("`{CONFIG_FILE}` has no `peft_type`"))),
    }
    const MUST_BE_OFF: &[&str] = &[
        "use_dora",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "bias",
        "lora_bias",
        "fan_in_fan_out",
        "layers_to_transform",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "exclude_modules",
    ];
    match MUST_BE_OFF.iter().find(|key| config.get(**key).is_some_and(|value| !is_off(value))) {
        Some(key) => unsupported(format!("sets `{key}`")),
        None => Ok(()),
    }
}

fn lora_config(config: &Map<String, Value>) -> Result<LoraConfig> {
    let missing = |key: &str| bad(format!("`{key}` in `{CONFIG_FILE}` is missing or of another type"));
    let rank = config.get("r").and_then(Value::as_u64).filter(|r| *r > 0).ok_or_else(|| missing("r"))? as usize;
    let mut alpha = config.get("lora_alpha").and_then(Value::as_f64).ok_or_else(|| missing("lora_alpha"))?;
    if config.get("use_rslora").and_then(Value::as_bool) == Some(true) {
        // alpha / sqrt(rank) instead of alpha / rank.
        alpha *= (rank as f64).sqrt();
    }
    let dropout = config.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0);
    let targets = match config.get("target_modules") {
        Some(Value::Array(names)) => names.iter().map(|n| target(n.as_str().unwrap_or_default())).collect(),
        Some(Value::String(name)) if name == "all-linear" => Ok(Target::ALL.to_vec()),
        Some(Value::String(name)) => target(name).map(|target| vec![target]),
        _ => Err(missing("target_modules")),
    };
    Ok(LoraConfig { rank, alpha, dropout, targets: targets? })
}

/// A name may be that of one layer, with its path: then the tensors tell whether all the others are there.
fn target(name: &str) -> Result<Target> {
    let names: Vec<&str> = Target::ALL.into_iter().map(Target::name).collect();
    Target::parse(name.rsplit('.').next().unwrap_or(name)).ok_or_else(|| {
        RunError::failed("adapter-unsupported", format!("the adapter changes `{name}`, which is not supported"))
            .help(format!("supported are {}", names.join(", ")))
    })
}

fn read_values(tensor: &TensorView<'_>, values: &mut [f32]) -> std::result::Result<(), String> {
    let bytes = tensor.data();
    match tensor.dtype() {
        Dtype::F32 => fill(values, bytes, f32::from_le_bytes),
        Dtype::F16 => fill(values, bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => fill(values, bytes, |b| bf16::from_le_bytes(b).to_f32()),
        other => return Err(format!("holds {other:?}; F32, F16 and BF16 are understood")),
    }
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => Err("holds a value that is not finite".into()),
    }
}

fn fill<const N: usize>(values: &mut [f32], bytes: &[u8], read: impl Fn([u8; N]) -> f32) {
    values.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(value, bytes)| *value = read(*bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(layers: usize) -> Config {
        let json = format!(
            r#"{{"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": {layers}, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64}}"#
        );
        Config::from_json(&json, Path::new("config.json")).unwrap()
    }

    fn adapter() -> Adapter {
        let lora = LoraConfig { rank: 3, alpha: 5.0, dropout: 0.1, targets: vec![Target::Query, Target::Down] };
        let mut adapter = Adapter::new(lora, &config(2), 1);
        adapter.values.iter_mut().enumerate().for_each(|(i, v)| *v += i as f32 * 1e-3);
        adapter
    }

    fn failed(result: Result<Adapter>) -> (&'static str, String) {
        let Err(RunError::Failed { code, message, .. }) = result else { panic!("{result:?}") };
        (code, message)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let adapter = adapter();
        let file = AdapterFile::new(&adapter, "some/model").unwrap();
        assert_eq!(file.adapter(&config(2)).unwrap(), adapter);
        assert_eq!(AdapterFile::new(&adapter, "some/model").unwrap(), file, "the same bytes");
        let other = Adapter { values: adapter.values.iter().map(|v| v + 1.0).collect(), ..adapter };
        assert_ne!(AdapterFile::new(&other, "some/model").unwrap().digest(), file.digest());
        let tensors = SafeTensors::deserialize(&file.weights).unwrap();
        let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
        assert_eq!(tensors.tensor(name).unwrap().shape(), [3, 32]);
    }

    #[test]
    fn an_adapter_of_another_model_is_refused() {
        let file = AdapterFile::new(&adapter(), "m").unwrap();
        assert_eq!(failed(file.adapter(&config(3))).0, "adapter-mismatch");
        let (code, message) = failed(file.adapter(&config(1)));
        assert_eq!(code, "adapter-mismatch");
        assert!(message.contains("layers.1.") && message.contains("no place"), "{message}");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let file = AdapterFile::new(&adapter(), "m").unwrap();
        let with = |key: &str, value: Value| {
            let mut json: Map<String, Value> = serde_json::from_str(&file.config).unwrap();
            json.insert(key.into(), value);
            let changed = AdapterFile { config: Value::Object(json).to_string(), ..file.clone() };
            changed.adapter(&config(2))
        };
        for (key, value) in [
            ("peft_type", json!("IA3")),
            ("use_dora", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("rank_pattern", json!({"q_proj": 4})),
            ("bias", json!("all")),
            ("target_modules", json!(["lm_head"])),
        ] {
            assert_eq!(failed(with(key, value)).0, "adapter-unsupported", "{key}");
        }
        assert_eq!(failed(with("r", json!("x"))).0, "adapter-file");
        let scale = with("use_rslora", json!(true)).unwrap().config.scale();
        assert!((scale - 5.0 / 3f64.sqrt()).abs() < 1e-12, "{scale}");
        let cut = AdapterFile { weights: file.weights[..100].to_vec(), ..file.clone() };
        assert_eq!(failed(cut.adapter(&config(2))).0, "adapter-file");
    }
}
