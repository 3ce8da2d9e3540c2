//! Where a model's parts are on disk.

use super::error::{Result, bad_file};
use std::path::{Path, PathBuf};

/// The weights of a model and what may replace parts of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    pub weights: WeightFiles,
    /// A chat template that replaces the model's own.
    pub chat_template: Option<PathBuf>,
    /// Replaces the context length of the weights' own configuration.
    pub context: Option<u32>,
    pub precision: Precision,
}

/// The layouts that are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightFiles {
    /// One GGUF file. Where a folder was named that also holds a `tokenizer.json`, that one goes before the
    /// vocabulary in the file.
    Gguf { file: PathBuf, tokenizer: Option<PathBuf> },
    /// A folder in the hub's layout: `config.json`, `tokenizer.json`, `*.safetensors`.
    Folder(PathBuf),
}

/// The number format that a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    F32,
    Bf16,
    /// Weights as the GGUF file holds them, activations in float32.
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
    /// The model at `path`: a GGUF file, or a folder that holds one or that follows the hub's layout.
    pub fn at(path: &Path, precision: Precision) -> Result<Self> {
        Ok(Self { weights: WeightFiles::at(path)?, chat_template: None, context: None, precision })
    }
}

impl WeightFiles {
    pub fn at(path: &Path) -> Result<Self> {
        if path.is_file() {
            return match is_gguf(path) {
                true => Ok(Self::Gguf { file: path.to_path_buf(), tokenizer: None }),
                false => Err(bad_file(path, "expected a GGUF file or a folder with `config.json` and safetensors")),
            };
        }
        if path.join("config.json").is_file() {
            return Ok(Self::Folder(path.to_path_buf()));
        }
        let entries = std::fs::read_dir(path).map_err(|e| bad_file(path, format!("cannot read the model: {e}")))?;
        let mut ggufs: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| is_gguf(p)).collect();
        ggufs.sort();
        match ggufs.as_slice() {
            [one] => {
                let tokenizer = Some(path.join("tokenizer.json")).filter(|t| t.is_file());
                Ok(Self::Gguf { file: one.clone(), tokenizer })
            }
            [] => Err(bad_file(path, "the folder has neither `config.json` nor a GGUF file")),
            several => {
                let names: Vec<_> = several.iter().filter_map(|p| p.file_name()?.to_str()).collect();
                Err(bad_file(path, format!("the folder has several GGUF files; name one of {}", names.join(", "))))
            }
        }
    }

    /// The file or folder, for messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf { file, .. } => file,
            Self::Folder(path) => path,
        }
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}
