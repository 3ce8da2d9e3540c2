//! One configuration for the Llama family, read from `config.json` or from GGUF metadata.

use super::error::{Result, bad_file, unsupported};
use super::gguf::GgufFile;
use super::rope::Scaling;
use serde_json::Value;
use std::path::Path;

/// The members of the family, which differ by configuration only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM.
    Llama,
    /// Sliding-window attention on every layer.
    Mistral,
    /// Bias on query, key and value.
    Qwen2,
    /// Norms on each head's query and key.
    Qwen3,
}

impl Architecture {
    const ALL: [(&str, Self); 4] =
        [("llama", Self::Llama), ("mistral", Self::Mistral), ("qwen2", Self::Qwen2), ("qwen3", Self::Qwen3)];

    /// As `model_type` names it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// The class that the transformers library loads it with.
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    fn parse(name: &str, path: &Path) -> Result<Self> {
        let known = Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, a)| *a);
        known.ok_or_else(|| {
            let names: Vec<String> = Self::ALL.iter().map(|(n, _)| format!("`{n}`")).collect();
            unsupported(path, format!("architecture `{name}` is not supported; supported are {}", names.join(", ")))
                .help("SmolLM is of type `llama`; take a model of a supported family")
        })
    }
}

/// Everything about a decoder but its weights. Field names are those of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f32,
    pub rope_scaling: Scaling,
    pub max_position_embeddings: usize,
    /// For each layer, how many positions back (its own included) a token sees; `None` sees all.
    pub sliding_window: Vec<Option<usize>>,
    pub tie_word_embeddings: bool,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    pub qk_norm: bool,
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text: one for most models, several for some.
    pub eos_token_ids: Vec<u32>,
}

impl Config {
    /// Reads `config.json`, with the defaults that the reference implementations have for absent keys.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let json: Value = serde_json::from_str(text).map_err(|e| bad_file(path, format!("not valid JSON: {e}")))?;
        let json = Json { json: &json, path };
        let model_type = json.str("model_type").ok_or_else(|| bad_file(path, "`model_type` is missing"))?;
        let architecture = Architecture::parse(model_type, path)?;
        json.refuse_unknown_maths()?;
        let heads = json.size("num_attention_heads")?;
        let hidden_size = json.size("hidden_size")?;
        let layers = json.size("num_hidden_layers")?;
        let bias = json.bool("attention_bias")?.unwrap_or(false);
        let default_head_dim = match architecture {
            Architecture::Qwen3 => 128,
            _ => hidden_size / heads,
        };
        let (rope_theta, rope_scaling) = json.rope()?;
        let config = Self {
            architecture,
            vocab_size: json.size("vocab_size")?,
            hidden_size,
            intermediate_size: json.size("intermediate_size")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: json.opt_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim: json.opt_size("head_dim")?.unwrap_or(default_head_dim),
            rms_norm_eps: json.opt_f64("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            max_position_embeddings: json.size("max_position_embeddings")?,
            sliding_window: json.windows(architecture, layers)?,
            tie_word_embeddings: json.bool("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: bias || architecture == Architecture::Qwen2,
            o_bias: bias,
            mlp_bias: json.bool("mlp_bias")?.unwrap_or(false),
            qk_norm: architecture == Architecture::Qwen3,
            bos_token_id: json.ids("bos_token_id").first().copied(),
            eos_token_ids: json.ids("eos_token_id"),
        };
        config.checked(path)
    }

    /// Reads GGUF metadata; what metadata does not say follows from which tensors there are.
    pub(super) fn from_gguf(gguf: &GgufFile) -> Result<Self> {
        let path = gguf.path();
        let name = gguf.str("general.architecture")?;
        let architecture = Architecture::parse(name, path)?;
        let key = |suffix: &str| format!("{name}.{suffix}");
        if gguf.opt_u64(&key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(unsupported(path, "mixtures of experts are not supported"));
        }
        let heads = gguf.size(&key("attention.head_count"))?;
        let hidden_size = gguf.size(&key("embedding_length"))?;
        let layers = gguf.size(&key("block_count"))?;
        let window = gguf.opt_u64(&key("attention.sliding_window"))?.filter(|w| *w > 0);
        let vocab_size = match gguf.shape("token_embd.weight") {
            Some([vocab, _]) => *vocab,
            _ => return Err(bad_file(path, "tensor `token_embd.weight` is missing or has not two dimensions")),
        };
        let has = |tensor: &str| gguf.shape(tensor).is_some();
        let config = Self {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size: gguf.size(&key("feed_forward_length"))?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: gguf.opt_size(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_dim: gguf.opt_size(&key("attention.key_length"))?.unwrap_or(hidden_size / heads),
            rms_norm_eps: gguf.opt_f32(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-6),
            rope_theta: gguf.opt_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_scaling: gguf.rope_scaling(name)?,
            max_position_embeddings: gguf.size(&key("context_length"))?,
            sliding_window: vec![window.map(|w| w as usize); layers],
            tie_word_embeddings: !has("output.weight"),
            qkv_bias: has("blk.0.attn_q.bias"),
            o_bias: has("blk.0.attn_output.bias"),
            mlp_bias: has("blk.0.ffn_gate.bias"),
            qk_norm: has("blk.0.attn_q_norm.weight"),
            bos_token_id: gguf.opt_u64("tokenizer.ggml.bos_token_id")?.map(|id| id as u32),
            eos_token_ids: gguf.opt_u64("tokenizer.ggml.eos_token_id")?.map(|id| id as u32).into_iter().collect(),
        };
        config.checked(path)
    }

    /// Number of weights in the linear layers and embeddings, for estimates of time and memory.
    pub fn parameters(&self) -> u64 {
        let (h, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let attention = self.hidden_size * (2 * h + 2 * kv);
        let mlp = 3 * self.hidden_size * self.intermediate_size;
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        (self.num_hidden_layers * (attention + mlp) + tables * self.vocab_size * self.hidden_size) as u64
    }

    /// The tensors of a model by the names of its checkpoint, in the checkpoint's order, with their shapes.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let heads = self.num_attention_heads * self.head_dim;
        let kv_heads = self.num_key_value_heads * self.head_dim;
        let mut all = vec![("model.embed_tokens.weight".to_string(), vec![self.vocab_size, width])];
        for layer in 0..self.num_hidden_layers {
            let mut add = |name: &str, shape: Vec<usize>| all.push((format!("model.layers.{layer}.{name}"), shape));
            for (name, out, input, bias) in [
                ("self_attn.q_proj", heads, width, self.qkv_bias),
                ("self_attn.k_proj", kv_heads, width, self.qkv_bias),
                ("self_attn.v_proj", kv_heads, width, self.qkv_bias),
                ("self_attn.o_proj", width, heads, self.o_bias),
                ("mlp.gate_proj", inner, width, self.mlp_bias),
                ("mlp.up_proj", inner, width, self.mlp_bias),
                ("mlp.down_proj", width, inner, self.mlp_bias),
            ] {
                add(&format!("{name}.weight"), vec![out, input]);
                if bias {
                    add(&format!("{name}.bias"), vec![out]);
                }
            }
            if self.qk_norm {
                add("self_attn.q_norm.weight", vec![self.head_dim]);
                add("self_attn.k_norm.weight", vec![self.head_dim]);
            }
            add("input_layernorm.weight", vec![width]);
            add("post_attention_layernorm.weight", vec![width]);
        }
        all.push(("model.norm.weight".into(), vec![width]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".into(), vec![self.vocab_size, width]));
        }
        all
    }

    /// Sizes that cannot be right would otherwise show as wrong shapes, far from their cause.
    fn checked(self, path: &Path) -> Result<Self> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(bad_file(
                path,
                format!("{heads} attention heads do not divide into {kv_heads} key-value heads"),
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(bad_file(path, format!("the head dimension must be even, not {}", self.head_dim)));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0 && self.rms_norm_eps >= 0.0) {
            return Err(bad_file(path, "`rope_theta` must be positive and `rms_norm_eps` not negative"));
        }
        if let Scaling::Factors(factors) = &self.rope_scaling
            && factors.len() != self.head_dim / 2
        {
            return Err(bad_file(path, format!("{} rope factors for head dimension {}", factors.len(), self.head_dim)));
        }
        Ok(self)
    }
}

/// Sizes beyond this are corrupt files, and products of a few of them must not overflow.
pub(super) const MAX_SIZE: u64 = 1 << 28;

struct Json<'a> {
    json: &'a Value,
    path: &'a Path,
}

impl Json<'_> {
    /// A key's value; null counts as absent, as it does for the reference implementations.
    fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    fn wrong(&self, key: &str, expected: &str) -> crate::exec::RunError {
        bad_file(self.path, format!("`{key}` must be {expected}, not {}", self.json[key]))
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false"))).transpose()
    }

    fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| v.as_f64().ok_or_else(|| self.wrong(key, "a number"))).transpose()
    }

    fn opt_size(&self, key: &str) -> Result<Option<usize>> {
        let size = |v: &Value| v.as_u64().filter(|n| (1..=MAX_SIZE).contains(n)).map(|n| n as usize);
        self.get(key).map(|v| size(v).ok_or_else(|| self.wrong(key, "a positive size"))).transpose()
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.opt_size(key)?.ok_or_else(|| bad_file(self.path, format!("`{key}` is missing")))
    }

    /// One token id or a list of them.
    fn ids(&self, key: &str) -> Vec<u32> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.get(key) {
            Some(Value::Array(items)) => items.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn refuse_unknown_maths(&self) -> Result<()> {
        if let Some(act) = self.str("hidden_act").filter(|act| !matches!(*act, "silu" | "swish")) {
            return Err(unsupported(self.path, format!("activation `{act}` is not supported; supported is `silu`")));
        }
        let partial = self.opt_f64("partial_rotary_factor")?.unwrap_or(1.0);
        if partial != 1.0 {
            return Err(unsupported(self.path, format!("partial rotary embedding ({partial}) is not supported")));
        }
        Ok(())
    }

    /// Base and scaling, from `rope_parameters` or from the older `rope_theta` and `rope_scaling`.
    fn rope(&self) -> Result<(f32, Scaling)> {
        let parameters = self.get("rope_parameters").or_else(|| self.get("rope_scaling"));
        let nested = parameters.and_then(|p| p.get("rope_theta")).and_then(Value::as_f64);
        let theta = match nested {
            Some(theta) => theta,
            None => self.opt_f64("rope_theta")?.unwrap_or(10_000.0),
        };
        let scaling = match parameters {
            Some(parameters) => Scaling::from_json(parameters, self.path)?,
            None => Scaling::None,
        };
        Ok((theta as f32, scaling))
    }

    fn windows(&self, architecture: Architecture, layers: usize) -> Result<Vec<Option<usize>>> {
        let window = match architecture {
            Architecture::Llama => None,
            Architecture::Mistral if self.json.get("sliding_window").is_none() => Some(4096),
            Architecture::Mistral => self.opt_size("sliding_window")?,
            Architecture::Qwen2 | Architecture::Qwen3 if self.bool("use_sliding_window")?.unwrap_or(false) => {
                Some(self.opt_size("sliding_window")?.unwrap_or(4096))
            }
            Architecture::Qwen2 | Architecture::Qwen3 => None,
        };
        if let Some(Value::Array(types)) = self.get("layer_types") {
            if types.len() != layers {
                return Err(bad_file(self.path, format!("{} `layer_types` for {layers} layers", types.len())));
            }
            return types.iter().map(|t| self.window_of(t, window)).collect();
        }
        let first = match architecture {
            Architecture::Qwen2 | Architecture::Qwen3 => {
                self.get("max_window_layers").map_or(28, |v| v.as_u64().unwrap_or(u64::MAX).min(layers as u64) as usize)
            }
            _ => 0,
        };
        Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect())
    }

    fn window_of(&self, layer_type: &Value, window: Option<usize>) -> Result<Option<usize>> {
        match layer_type.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") if window.is_some() => Ok(window),
            Some("sliding_attention") => Err(bad_file(self.path, "layers slide, and `sliding_window` is missing")),
            _ => Err(unsupported(self.path, format!("layer type {layer_type} is not supported"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Config> {
        Config::from_json(&value.to_string(), Path::new("config.json"))
    }

    fn base(model_type: &str) -> Value {
        json!({"model_type": model_type, "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5})
    }

    fn with(model_type: &str, more: Value) -> Value {
        let mut value = base(model_type);
        for (k, v) in more.as_object().unwrap() {
            value[k] = v.clone();
        }
        value
    }

    #[test]
    fn members_of_the_family_differ_by_configuration() {
        let llama = read(base("llama")).unwrap();
        assert_eq!((llama.head_dim, llama.qkv_bias, llama.qk_norm), (16, false, false));
        assert_eq!(llama.sliding_window, [None; 4]);
        assert!(read(base("qwen2")).unwrap().qkv_bias);
        let qwen3 = read(base("qwen3")).unwrap();
        assert_eq!((qwen3.head_dim, qwen3.qk_norm), (128, true));
        assert_eq!(read(base("mistral")).unwrap().sliding_window, [Some(4096); 4]);
        assert_eq!(read(with("mistral", json!({"sliding_window": null}))).unwrap().sliding_window, [None; 4]);
    }

    #[test]
    fn windows_begin_at_the_configured_layer() {
        let sliding = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2});
        assert_eq!(read(with("qwen2", sliding)).unwrap().sliding_window, [None, None, Some(8), Some(8)]);
        let types = json!({"use_sliding_window": true, "sliding_window": 8,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]});
        assert_eq!(read(with("qwen3", types)).unwrap().sliding_window, [None, Some(8), None, Some(8)]);
    }

    #[test]
    fn rope_is_read_in_both_spellings() {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let old = read(with("llama", json!({"rope_theta": 5e5, "rope_scaling": scaling}))).unwrap();
        let mut nested = scaling.clone();
        nested["rope_theta"] = json!(5e5);
        let new = read(with("llama", json!({"rope_parameters": nested}))).unwrap();
        assert_eq!((old.rope_theta, &old.rope_scaling), (5e5, &new.rope_scaling));
        assert_eq!(new.rope_theta, 5e5);
        assert!(matches!(old.rope_scaling, Scaling::Llama3 { .. }));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let message = |v| read(v).unwrap_err().to_string();
        insta::assert_snapshot!(message(base("gemma")), @"config.json: architecture `gemma` is not supported; supported are `llama`, `mistral`, `qwen2`, `qwen3`");
        insta::assert_snapshot!(message(with("llama", json!({"hidden_act": "gelu"}))), @"config.json: activation `gelu` is not supported; supported is `silu`");
        insta::assert_snapshot!(message(with("llama", json!({"rope_scaling": {"type": "yarn"}}))), @"config.json: rope scaling `yarn` is not supported; supported are `default`, `linear` and `llama3`");
        insta::assert_snapshot!(message(with("llama", json!({"num_key_value_heads": 3}))), @"config.json: 4 attention heads do not divide into 3 key-value heads");
        insta::assert_snapshot!(message(with("llama", json!({"hidden_size": -1}))), @"config.json: `hidden_size` must be a positive size, not -1");
        insta::assert_snapshot!(message(json!({})), @"config.json: `model_type` is missing");
    }
}
