//! Where a model's parts are on disk.

use super::error::{Result, bad_file};
use crate::config::ModelDecl;
use crate::exec::RunError;
use crate::fetch::{self, WeightsKind};
use indexmap::IndexMap;
use std::path::{Path, PathBuf};

/// The files of a model and what may replace parts of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    pub weights: WeightFiles,
    /// The files beside the weights by name: `config.json`, `tokenizer.json`, `tokenizer_config.json`,
    /// `generation_config.json`, `special_tokens_map.json`, `chat_template.jinja`.
    pub companions: IndexMap<String, PathBuf>,
    /// A chat template that replaces the model's own.
    pub chat_template: Option<PathBuf>,
    /// Replaces the context length of the weights' own configuration.
    pub context: Option<u32>,
    pub precision: Precision,
}

/// The layouts that are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightFiles {
    /// One GGUF file, which holds configuration, vocabulary and template as well. A `tokenizer.json` among the
    /// companions goes before its vocabulary.
    Gguf(PathBuf),
    /// One or more safetensors files; each tensor is in one of them.
    Safetensors(Vec<PathBuf>),
}

/// The number format that a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    F32,
    Bf16,
    /// Weights as the GGUF file holds them. Activations are float32; on a processor, a product rounds its inputs to bytes,
    /// 32 of them with one scale.
    Quantized,
}

impl Precision {
    /// The names of `dtype` in a pipeline.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Self::F32),
            "bf16" => Some(Self::Bf16),
            "quantized" => Some(Self::Quantized),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Quantized => "quantized",
        }
    }
}

impl ModelFiles {
    /// A declared model's files, as they were fetched.
    pub fn fetched(fetched: fetch::ModelFiles, decl: &ModelDecl) -> Result<Self> {
        let weights = match (fetched.kind, fetched.weights) {
            (WeightsKind::Gguf, mut files) if files.len() == 1 => WeightFiles::Gguf(files.remove(0)),
            (WeightsKind::Gguf, files) => {
                let path = files.first().cloned().unwrap_or_default();
                return Err(bad_file(&path, format!("a model in GGUF is one file, not {}", files.len()))
                    .help("join the parts with `llama-gguf-split --merge`"));
            }
            (WeightsKind::Safetensors, files) => WeightFiles::Safetensors(files),
        };
        let dtype = &decl.dtype.value;
        let precision = Precision::parse(dtype)
            .ok_or_else(|| RunError::failed("model-unsupported", format!("`{dtype}` is no dtype of a model")))?;
        Ok(Self {
            weights,
            companions: fetched.files,
            chat_template: fetched.chat_template,
            context: decl.context.as_ref().map(|c| c.value),
            precision,
        })
    }

    /// A single GGUF file.
    pub fn gguf(path: &Path, precision: Precision) -> Self {
        Self {
            weights: WeightFiles::Gguf(path.to_path_buf()),
            companions: IndexMap::new(),
            chat_template: None,
            context: None,
            precision,
        }
    }

    /// A file beside the weights.
    pub fn companion(&self, name: &str) -> Option<&Path> {
        self.companions.get(name).map(PathBuf::as_path)
    }

    /// What the model is called in messages: its weights' file, or the folder of several.
    pub fn path(&self) -> &Path {
        match &self.weights {
            WeightFiles::Gguf(file) => file,
            WeightFiles::Safetensors(files) => match files.as_slice() {
                [one] => one,
                several => several.first().and_then(|f| f.parent()).unwrap_or(Path::new("model")),
            },
        }
    }
}
