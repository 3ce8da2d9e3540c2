//! What the head of a weights file or a model's `config.json` says, without reading weights.

use super::error::{FetchError, Kind};
use super::manifest::WeightsKind;
use serde_json::Value;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// What is known of a model before it is loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub architecture: Option<String>,
    pub context: Option<u32>,
    pub parameters: Option<u64>,
    pub chat_template: Option<bool>,
    /// Bytes of the weights' files.
    pub file_bytes: u64,
}

/// Reads what can be known cheaply. `get` finds a model file by its name.
pub fn facts(
    kind: WeightsKind,
    weights: &[PathBuf],
    get: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Facts, FetchError> {
    let mut facts = match (kind, weights) {
        (WeightsKind::Gguf, [file]) => {
            let own = gguf(file)?;
            Facts { chat_template: Some(own.chat_template == Some(true) || has_template(&get)?), ..own }
        }
        _ => safetensors(weights, &get)?,
    };
    for file in weights {
        facts.file_bytes += std::fs::metadata(file).map_err(|e| FetchError::io("read", file, &e))?.len();
    }
    Ok(facts)
}

fn unreadable(path: &Path, what: impl std::fmt::Display) -> FetchError {
    FetchError::new(Kind::WrongContent, format!("`{}` cannot be read as a model: {what}", path.display()))
        .help("it may be damaged or cut off: fetch or copy it again")
}

fn safetensors(weights: &[PathBuf], get: &impl Fn(&str) -> Option<PathBuf>) -> Result<Facts, FetchError> {
    let mut facts = Facts { chat_template: Some(has_template(get)?), ..Facts::default() };
    if let Some(path) = get("config.json") {
        let config = json(&path)?;
        facts.architecture = config["model_type"].as_str().map(str::to_string);
        facts.context = config["max_position_embeddings"].as_u64().and_then(|c| c.try_into().ok());
    }
    let mut parameters = 0u64;
    for file in weights {
        parameters = parameters.saturating_add(tensor_elements(file)?);
    }
    facts.parameters = Some(parameters);
    Ok(facts)
}

fn has_template(get: &impl Fn(&str) -> Option<PathBuf>) -> Result<bool, FetchError> {
    if get("chat_template.jinja").or_else(|| get("chat_template.json")).is_some() {
        return Ok(true);
    }
    let Some(path) = get("tokenizer_config.json") else { return Ok(false) };
    Ok(!json(&path)?["chat_template"].is_null())
}

fn json(path: &Path) -> Result<Value, FetchError> {
    let bytes = std::fs::read(path).map_err(|e| FetchError::io("read", path, &e))?;
    serde_json::from_slice(&bytes).map_err(|e| unreadable(path, e))
}

/// The number of elements in a safetensors file, from its header.
fn tensor_elements(path: &Path) -> Result<u64, FetchError> {
    let mut file = Source::open(path)?;
    let length = file.u64()?;
    let header = file.bytes(length)?;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&header).map_err(|e| unreadable(path, e))?;
    let mut elements = 0u64;
    for (_, tensor) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let shape = tensor["shape"].as_array().ok_or_else(|| unreadable(path, "a tensor has no shape"))?;
        let count = shape.iter().fold(1u64, |n, d| n.saturating_mul(d.as_u64().unwrap_or(0)));
        elements = elements.saturating_add(count);
    }
    Ok(elements)
}

/// The head of a GGUF file: metadata and the tensors' shapes.
fn gguf(path: &Path) -> Result<Facts, FetchError> {
    let mut file = Source::open(path)?;
    if file.bytes(4)? != b"GGUF" {
        return Err(unreadable(path, "it does not begin with `GGUF`"));
    }
    let version = file.u32()?;
    if !(2..=3).contains(&version) {
        return Err(unreadable(path, format!("it is GGUF version {version}, and versions 2 and 3 are known")));
    }
    let (tensors, entries) = (file.u64()?, file.u64()?);
    let mut facts = Facts { chat_template: Some(false), ..Facts::default() };
    let mut contexts: Vec<(String, u64)> = Vec::new();
    for _ in 0..entries {
        let key = file.string()?;
        let kind = file.u32()?;
        match (key.as_str(), kind) {
            ("general.architecture", STRING) => facts.architecture = Some(file.string()?),
            ("tokenizer.chat_template", STRING) => facts.chat_template = Some(!file.string()?.is_empty()),
            (_, U32) if key.ends_with(".context_length") => contexts.push((key, file.u32()?.into())),
            (_, U64) if key.ends_with(".context_length") => contexts.push((key, file.u64()?)),
            _ => file.skip_value(kind)?,
        }
    }
    let context_key = facts.architecture.as_ref().map(|a| format!("{a}.context_length"));
    let context = contexts.into_iter().find(|(key, _)| Some(key) == context_key.as_ref());
    facts.context = context.and_then(|(_, c)| c.try_into().ok());
    let mut parameters = 0u64;
    for _ in 0..tensors {
        file.string()?;
        let dimensions = file.u32()?;
        let mut elements = 1u64;
        for _ in 0..dimensions {
            elements = elements.saturating_mul(file.u64()?);
        }
        parameters = parameters.saturating_add(elements);
        file.skip(4 + 8)?;
    }
    facts.parameters = Some(parameters);
    Ok(facts)
}

const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;

/// A file read from its start, which never reads past its end or takes more memory than it has bytes.
struct Source<'a> {
    path: &'a Path,
    file: BufReader<File>,
    left: u64,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path) -> Result<Self, FetchError> {
        let file = File::open(path).map_err(|e| FetchError::io("read", path, &e))?;
        let left = file.metadata().map_err(|e| FetchError::io("read", path, &e))?.len();
        Ok(Self { path, file: BufReader::with_capacity(1 << 16, file), left })
    }

    fn take(&mut self, bytes: u64) -> Result<(), FetchError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(unreadable(self.path, "it ends in the middle of its header")),
        }
    }

    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, FetchError> {
        self.take(count)?;
        let mut bytes = vec![0; count as usize];
        self.file.read_exact(&mut bytes).map_err(|e| FetchError::io("read", self.path, &e))?;
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), FetchError> {
        self.take(count)?;
        // Within `take`, so it fits a file and hence an i64.
        self.file.seek_relative(count as i64).map_err(|e| FetchError::io("read", self.path, &e))
    }

    fn u32(&mut self) -> Result<u32, FetchError> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&mut self) -> Result<u64, FetchError> {
        Ok(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }

    fn string(&mut self) -> Result<String, FetchError> {
        let length = self.u64()?;
        let bytes = self.bytes(length)?;
        String::from_utf8(bytes).map_err(|_| unreadable(self.path, "a name in its header is not UTF-8"))
    }

    fn skip_value(&mut self, kind: u32) -> Result<(), FetchError> {
        match kind {
            STRING => {
                let length = self.u64()?;
                self.skip(length)
            }
            ARRAY => {
                let (kind, count) = (self.u32()?, self.u64()?);
                match self.width(kind) {
                    Ok(width) => self.skip(width.saturating_mul(count)),
                    // Nested arrays are not in use anywhere; without them, depth is bounded.
                    Err(_) if kind == STRING => (0..count).try_for_each(|_| self.skip_value(STRING)),
                    Err(e) => Err(e),
                }
            }
            kind => {
                let width = self.width(kind)?;
                self.skip(width)
            }
        }
    }

    fn width(&self, kind: u32) -> Result<u64, FetchError> {
        match kind {
            0 | 1 | 7 => Ok(1),
            2 | 3 => Ok(2),
            4..=6 => Ok(4),
            10..=12 => Ok(8),
            other => Err(unreadable(self.path, format!("its header has a value of the unknown kind {other}"))),
        }
    }
}
