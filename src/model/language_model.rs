//! A model as a whole: its text side, and its weights. [`Engine`](super::Engine) puts it to work.

use super::adapter::Adapter;
use super::chat::{ChatTemplate, SpecialTokens};
use super::config::Config;
use super::decoder::Decoder;
use super::device;
use super::error::{Result, bad_file};
use super::files::{ModelFiles, Precision, WeightFiles};
use super::generate::{GenerateFailure, GenerateRequest, Prompt, Prompted};
use super::gguf::GgufFile;
use super::kernels::{self, Kernels};
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use super::{RAW, ScoreFailure, ScoreRequest};
use crate::exec::RunError;
use candle_core::Device;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a model knows without its weights: enough to render, count and check lengths.
pub struct TextModel {
    pub config: Config,
    pub tokenizer: Tokenizer,
    /// `None` for models that were not made for conversations.
    pub chat: Option<Chat>,
    /// The most tokens that the model takes.
    pub context: u32,
    /// The token that raw texts begin with, where the tokenizer puts one.
    start: Option<u32>,
    pub(super) files: ModelFiles,
}

/// The text of a conversation that is raw text.
fn raw(messages: &[(String, String)]) -> Option<&str> {
    match messages {
        [(role, text)] if role == RAW => Some(text),
        _ => None,
    }
}

/// A chat template and the token that ends its turns.
pub struct Chat {
    pub template: ChatTemplate,
    pub end_of_turn: u32,
}

/// A row as tokens: the prompt, the response, and what closes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Prompt and response.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt's.
    pub prompt: usize,
    /// The token that closes the response: the last label, never read.
    pub end: u32,
}

impl TextModel {
    /// The files of its weights.
    pub fn weights(&self) -> &WeightFiles {
        &self.files.weights
    }

    pub fn load(files: &ModelFiles) -> Result<Self> {
        let parts = match &files.weights {
            WeightFiles::Gguf(file) => Parts::from_gguf(&GgufFile::open(file)?, files)?,
            WeightFiles::Safetensors(_) => Parts::from_hub(files)?,
        };
        let template = match &files.chat_template {
            Some(path) => Some((read(path)?, path.clone())),
            None => parts.template,
        };
        let chat = template.map(|(source, origin)| -> Result<Chat> {
            let template = ChatTemplate::new(&source, parts.special, &origin)?;
            let end_of_turn = template.end_of_turn(&parts.tokenizer, &origin)?;
            Ok(Chat { template, end_of_turn })
        });
        let own = u32::try_from(parts.config.max_position_embeddings).unwrap_or(u32::MAX);
        let context = files.context.unwrap_or(own);
        let (config, tokenizer, start) = (parts.config, parts.tokenizer, parts.start);
        Ok(Self { config, tokenizer, chat: chat.transpose()?, context, start, files: files.clone() })
    }

    /// Puts a row into the chat template. `limit` bounds prompt and response together.
    pub fn encode(&self, row: &ScoreRequest, limit: u32) -> Result<std::result::Result<Encoded, ScoreFailure>> {
        match raw(&row.messages) {
            Some(text) => Ok(self.encode_raw(text, &row.response, limit as usize)),
            None => Ok(self.encode_with(self.chat()?, row, limit as usize)),
        }
    }

    /// Raw text and what follows it: see [`ScoreRequest`].
    fn encode_raw(&self, text: &str, follows: &str, limit: usize) -> std::result::Result<Encoded, ScoreFailure> {
        let before = text.trim_end();
        let all = self.raw_tokens(&format!("{text}{follows}")).map_err(ScoreFailure::Template)?;
        let prompt = match self.raw_tokens(before).map_err(ScoreFailure::Template)?.len() {
            // Something must stand before the first label.
            0 => {
                return Err(ScoreFailure::Template(
                    "there is no text before it, and no token that texts begin with".into(),
                ));
            }
            tokens => tokens,
        };
        if all.len() <= prompt {
            return Err(ScoreFailure::Empty);
        }
        if all.len() > limit {
            return Err(ScoreFailure::TooLong { tokens: all.len(), limit });
        }
        self.has_embeddings(&all).map_err(ScoreFailure::Template)?;
        Ok(Encoded { end: self.ends().first().copied().unwrap_or(0), tokens: all, prompt })
    }

    /// Tokens of a raw text, after the one that texts begin with.
    fn raw_tokens(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        let tokens = self.tokenizer.encode(text)?;
        let begun = self.start.is_some_and(|start| tokens.first() == Some(&start));
        Ok(self.start.filter(|_| !begun).into_iter().chain(tokens).collect())
    }

    pub(super) fn chat(&self) -> Result<&Chat> {
        self.chat.as_ref().ok_or_else(|| {
            RunError::failed("chat-template-absent", format!("{} has no chat template", self.path().display()))
                .help("give the model one: `chat-template=\"template.jinja\"`")
        })
    }

    fn encode_with(&self, chat: &Chat, row: &ScoreRequest, limit: usize) -> std::result::Result<Encoded, ScoreFailure> {
        let mut tokens = self.prompt(chat, &row.messages).map_err(ScoreFailure::Template)?;
        let prompt = tokens.len();
        tokens.extend(self.tokenizer.encode(&row.response).map_err(ScoreFailure::Template)?);
        if tokens.len() == prompt {
            return Err(ScoreFailure::Empty);
        }
        if tokens.len() > limit {
            return Err(ScoreFailure::TooLong { tokens: tokens.len(), limit });
        }
        self.has_embeddings(&tokens).map_err(ScoreFailure::Template)?;
        Ok(Encoded { tokens, prompt, end: chat.end_of_turn })
    }

    /// A request's prompt as tokens, with what ends its texts.
    pub fn prompted(&self, request: &GenerateRequest) -> Result<std::result::Result<Prompted, GenerateFailure>> {
        request.check().map_err(|why| RunError::failed("sampling", why))?;
        let tokens = match &request.prompt {
            Prompt::Messages(messages) => match raw(messages) {
                Some(text) => self.raw_tokens(text).and_then(|tokens| match tokens.is_empty() {
                    true => Err("the prompt has no tokens".into()),
                    false => Ok(tokens),
                }),
                None => self.prompt(self.chat()?, messages),
            },
            Prompt::Tokens(tokens) if tokens.is_empty() => Err("the prompt has no tokens".into()),
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
        };
        Ok(tokens.map_err(GenerateFailure::Template).and_then(|tokens| self.prompted_by(request, tokens)))
    }

    fn prompted_by(
        &self,
        request: &GenerateRequest,
        tokens: Vec<u32>,
    ) -> std::result::Result<Prompted, GenerateFailure> {
        self.has_embeddings(&tokens).map_err(GenerateFailure::Template)?;
        let room = (self.context as usize).saturating_sub(tokens.len());
        if room == 0 {
            return Err(GenerateFailure::TooLong { tokens: tokens.len(), limit: self.context as usize });
        }
        let GenerateRequest { samples, sampling, seed, row, stop, .. } = request.clone();
        let ends = if request.ignore_end { Vec::new() } else { self.ends() };
        Ok(Prompted {
            tokens,
            samples,
            most: room.min(request.max_new_tokens as usize),
            sampling,
            seed,
            row,
            stop,
            ends,
        })
    }

    /// Tokens that end a text: the chat template's end of turn, and the model's own.
    fn ends(&self) -> Vec<u32> {
        let turn = self.chat.iter().map(|chat| chat.end_of_turn);
        turn.chain(self.config.eos_token_ids.iter().copied()).collect()
    }

    fn prompt(&self, chat: &Chat, messages: &[(String, String)]) -> std::result::Result<Vec<u32>, String> {
        let tokens = self.tokenizer.encode(&chat.template.prompt(messages)?)?;
        match tokens.is_empty() {
            true => Err("the chat template gives an empty prompt".into()),
            false => Ok(tokens),
        }
    }

    pub(super) fn has_embeddings(&self, tokens: &[u32]) -> std::result::Result<(), String> {
        let vocab = self.config.vocab_size;
        match tokens.iter().find(|id| **id as usize >= vocab) {
            Some(id) => Err(format!("token {id} is beyond the model's {vocab} embeddings")),
            None => Ok(()),
        }
    }

    /// Where the model's files are, for messages.
    pub(super) fn path(&self) -> &Path {
        self.files.path()
    }

    /// Bytes that the weights will take in memory.
    pub fn weight_bytes(&self, files: &ModelFiles) -> u64 {
        let parameters = self.config.parameters();
        match files.precision {
            Precision::F32 => 4 * parameters,
            Precision::Bf16 => 2 * parameters,
            // A file that cannot be read is reported when it is loaded.
            Precision::Quantized => GgufFile::open(files.path()).map_or(0, |file| file.quantized_bytes()),
        }
    }
}

/// What both file layouts give.
struct Parts {
    config: Config,
    tokenizer: Tokenizer,
    template: Option<(String, PathBuf)>,
    special: SpecialTokens,
    start: Option<u32>,
}

impl Parts {
    /// The file itself; a tokenizer and a chat template beside it go before its own.
    fn from_gguf(gguf: &GgufFile, files: &ModelFiles) -> Result<Self> {
        let tokenizer = match files.companion("tokenizer.json") {
            Some(path) => Tokenizer::from_json(path)?,
            None => Tokenizer::from_gguf(gguf)?,
        };
        let token = |key: &str| -> Result<Option<String>> {
            let id = gguf.opt_u64(&format!("tokenizer.ggml.{key}_token_id"))?;
            Ok(id.and_then(|id| tokenizer.text(u32::try_from(id).ok()?)))
        };
        let special =
            SpecialTokens { bos: token("bos")?, eos: token("eos")?, unk: token("unknown")?, pad: token("padding")? };
        let settings = json_if_there(files.companion("tokenizer_config.json"))?;
        let own = gguf.opt_str("tokenizer.chat_template")?.map(|t| (t.to_string(), gguf.path().to_path_buf()));
        let template = hub_template(files, &settings)?.or(own);
        let id = gguf.opt_u64("tokenizer.ggml.bos_token_id")?.and_then(|id| u32::try_from(id).ok());
        let begins = match gguf.opt_bool("tokenizer.ggml.add_bos_token")? {
            Some(begins) => begins,
            // As llama.cpp has it where the file says nothing.
            None => gguf.opt_str("tokenizer.ggml.model")? == Some("llama"),
        };
        let start = id.filter(|_| begins).or_else(|| tokenizer.start());
        Ok(Self { config: Config::from_gguf(gguf)?, tokenizer, template, special, start })
    }

    /// The hub's layout.
    fn from_hub(files: &ModelFiles) -> Result<Self> {
        let needed = |name: &str| {
            files
                .companion(name)
                .ok_or_else(|| bad_file(files.path(), format!("there is no `{name}` beside the weights")))
        };
        let path = needed("config.json")?;
        let mut config = Config::from_json(&read(path)?, path)?;
        let generation = json_if_there(files.companion("generation_config.json"))?;
        match generation.get("eos_token_id") {
            Some(Value::Number(id)) => config.eos_token_ids = id.as_u64().map(|id| id as u32).into_iter().collect(),
            Some(Value::Array(ids)) => {
                config.eos_token_ids = ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect();
            }
            _ => {}
        }
        let tokenizer = Tokenizer::from_json(needed("tokenizer.json")?)?;
        let settings = json_if_there(files.companion("tokenizer_config.json"))?;
        let map = json_if_there(files.companion("special_tokens_map.json"))?;
        let named = |key: &str| special_token(&settings, key).or_else(|| special_token(&map, key));
        let special = SpecialTokens {
            bos: named("bos_token").or_else(|| tokenizer.text(config.bos_token_id?)),
            eos: named("eos_token").or_else(|| tokenizer.text(*config.eos_token_ids.first()?)),
            unk: named("unk_token"),
            pad: named("pad_token"),
        };
        let start = tokenizer.start();
        Ok(Self { config, tokenizer, template: hub_template(files, &settings)?, special, start })
    }
}

/// A special token is written as its text or as an object that describes it.
fn special_token(settings: &Value, key: &str) -> Option<String> {
    let value = settings.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
}

/// `chat_template.jinja`, then the entry of `tokenizer_config.json`, then `chat_template.json`: one template, or
/// several by name.
fn hub_template(files: &ModelFiles, settings: &Value) -> Result<Option<(String, PathBuf)>> {
    if let Some(file) = files.companion("chat_template.jinja") {
        return Ok(Some((read(file)?, file.to_path_buf())));
    }
    let default = |templates: &Vec<Value>| {
        let named = templates.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"))?;
        named.get("template")?.as_str().map(str::to_string)
    };
    let own = json_if_there(files.companion("chat_template.json"))?;
    for (name, json) in [("tokenizer_config.json", settings), ("chat_template.json", &own)] {
        let template = match json.get("chat_template") {
            Some(Value::String(template)) => Some(template.clone()),
            Some(Value::Array(templates)) => default(templates),
            _ => None,
        };
        if let Some((template, path)) = template.zip(files.companion(name)) {
            return Ok(Some((template, path.to_path_buf())));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| bad_file(path, format!("cannot read: {e}")))
}

/// A JSON object, empty when there is no such file.
fn json_if_there(path: Option<&Path>) -> Result<Value> {
    match path {
        Some(path) => serde_json::from_str(&read(path)?).map_err(|e| bad_file(path, format!("not valid JSON: {e}"))),
        None => Ok(Value::Object(serde_json::Map::new())),
    }
}

/// A model with its weights.
pub struct LanguageModel {
    pub text: Arc<TextModel>,
    decoder: Decoder,
    on_cpu: bool,
    pass_tokens: usize,
}

impl LanguageModel {
    pub fn load(files: &ModelFiles, text: Arc<TextModel>, device: &Device) -> Result<Self> {
        Self::load_with(files, text, device, kernels::select(device, files.precision)?)
    }

    /// Loads a model for certain kernels.
    pub fn load_with(
        files: &ModelFiles,
        text: Arc<TextModel>,
        device: &Device,
        kernels: Arc<dyn Kernels>,
    ) -> Result<Self> {
        let config = &text.config;
        let weights = Weights::of(files, config, files.precision, device)?;
        let decoder = Decoder::load(&weights, config, kernels, device)?;
        let pass_tokens = pass_tokens(config, device);
        Ok(Self { text, decoder, on_cpu: device.is_cpu(), pass_tokens })
    }

    /// A model out of parts.
    pub fn new(text: Arc<TextModel>, decoder: Decoder) -> Self {
        Self { text, decoder, on_cpu: true, pass_tokens: PASS_TOKENS }
    }

    /// The same weights, in the same memory, with an adapter.
    pub fn with_adapter(&self, adapter: &Adapter) -> Result<Self> {
        let decoder = self.decoder.with_adapter(adapter)?;
        Ok(Self { text: self.text.clone(), decoder, on_cpu: self.on_cpu, pass_tokens: self.pass_tokens })
    }

    /// What computes it.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Whether cores share the work out, rather than a GPU.
    pub(super) fn on_cpu(&self) -> bool {
        self.on_cpu
    }

    /// Tokens of a pass that suit its device.
    pub fn pass_tokens(&self) -> usize {
        self.pass_tokens
    }
}

/// Enough to use every product's blocks, and so few that activations stay near a processor.
pub const PASS_TOKENS: usize = 1024;
/// A GPU is busy with so many.
const MOST_PASS_TOKENS: usize = 8192;

/// A GPU takes as many tokens at once as an eighth of the memory holds that the weights leave.
fn pass_tokens(config: &Config, device: &Device) -> usize {
    let free = if device.is_cpu() { None } else { device::free_memory(device) };
    free.map_or(PASS_TOKENS, |free| tokens_in(free / 8, config))
}

fn tokens_in(bytes: u64, config: &Config) -> usize {
    let Config { hidden_size: hidden, intermediate_size: inner, head_dim, .. } = *config;
    let heads = config.num_attention_heads + config.num_key_value_heads;
    // What a layer holds of a token at a time, in float32: sums and norms, queries to values before and after their turn, and
    // gates.
    let token = size_of::<f32>() * (6 * hidden + 4 * heads * head_dim + 5 * inner);
    let tokens = usize::try_from(bytes / token as u64).unwrap_or(usize::MAX);
    (tokens / PASS_TOKENS * PASS_TOKENS).clamp(PASS_TOKENS, MOST_PASS_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_grows_with_the_memory_and_within_bounds() {
        let json = r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 3, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64}"#;
        let config = Config::from_json(json, Path::new("config.json")).unwrap();
        let tokens: Vec<usize> = [0, 1 << 30, 3 << 30, 1 << 40].map(|bytes| tokens_in(bytes, &config)).to_vec();
        assert_eq!(tokens, [1024, 2048, 6144, 8192]);
        assert_eq!(pass_tokens(&config, &Device::Cpu), 1024);
    }
}
