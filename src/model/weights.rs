//! Tensors of a checkpoint by the checkpoint's own names, from safetensors or GGUF.

use super::config::{Architecture, Config};
use super::error::{Doing, Result, bad_file};
use super::files::{ModelFiles, Precision, WeightFiles};
use super::gguf::{GgufFile, gguf_name};
use crate::exec::RunError;
use candle_core::quantized::QTensor;
use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorView;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The frozen matrix of a linear layer, `[out, in]`.
pub enum Matrix {
    Dense(Tensor),
    Quantized(Arc<QTensor>),
}

impl Matrix {
    /// (out, in)
    pub fn dims(&self) -> (usize, usize) {
        let dims = match self {
            Self::Dense(t) => t.dims(),
            Self::Quantized(q) => q.shape().dims(),
        };
        (dims[0], dims[1])
    }
}

/// An open checkpoint.
pub struct Weights {
    source: Source,
    device: Device,
    precision: Precision,
    /// Llama's GGUF files hold query and key rows in another order than its checkpoints.
    interleaved: Option<usize>,
}

enum Source {
    Gguf(GgufFile),
    Safetensors(Shards),
}

impl Weights {
    /// The weights of a model, as its layers are to compute with them.
    pub fn of(files: &ModelFiles, config: &Config, precision: Precision, device: &Device) -> Result<Self> {
        match &files.weights {
            WeightFiles::Gguf(file) => {
                // Conversion reorders the rows of these two alone.
                let interleaved = matches!(config.architecture, Architecture::Llama | Architecture::Mistral);
                let head_dim = interleaved.then_some(config.head_dim);
                Ok(Self::gguf(GgufFile::open(file)?, precision, head_dim, device))
            }
            WeightFiles::Safetensors(shards) => Self::safetensors(shards, precision, device),
        }
    }

    pub fn safetensors(files: &[PathBuf], precision: Precision, device: &Device) -> Result<Self> {
        let source = Source::Safetensors(Shards::open(files)?);
        let weights = Self { source, device: device.clone(), precision, interleaved: None };
        if precision == Precision::Quantized {
            return Err(bad_file(
                weights.path(),
                "safetensors are not quantised, and `dtype=\"quantized\"` was asked for",
            )
            .help("take `dtype=\"f32\"` or `\"bf16\"`, or a GGUF file"));
        }
        Ok(weights)
    }

    /// `head_dim` is given for architectures whose query and key rows are interleaved in GGUF files.
    pub(super) fn gguf(file: GgufFile, precision: Precision, interleaved: Option<usize>, device: &Device) -> Self {
        Self { source: Source::Gguf(file), device: device.clone(), precision, interleaved }
    }

    pub fn is_quantized(&self) -> bool {
        self.precision == Precision::Quantized
    }

    /// A tensor in float32: norms and biases, which are computed in it whatever the matrices are in.
    pub fn vector(&self, name: &str, length: usize) -> Result<Tensor> {
        self.tensor(name, &[length])?.to_dtype(DType::F32).doing(|| format!("loading `{name}`"))
    }

    /// The embedding table `[vocabulary, width]`: as stored, or in bfloat16 if the model is to compute in it.
    pub fn table(&self, name: &str, rows: usize, width: usize) -> Result<Tensor> {
        let tensor = self.tensor(name, &[rows, width])?;
        match self.precision {
            Precision::Bf16 => tensor.to_dtype(DType::BF16).doing(|| format!("loading `{name}`")),
            Precision::F32 | Precision::Quantized => Ok(tensor),
        }
    }

    /// The matrix of a linear layer: quantised if that was asked for, otherwise as stored, a quantised one in float32.
    pub fn matrix(&self, name: &str, out: usize, input: usize) -> Result<Matrix> {
        match &self.source {
            Source::Gguf(file) if self.is_quantized() => {
                Ok(Matrix::Quantized(Arc::new(self.gguf_tensor(file, name, &[out, input])?)))
            }
            _ => Ok(Matrix::Dense(self.tensor(name, &[out, input])?)),
        }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let doing = || format!("loading `{name}` {shape:?} of {}", self.path().display());
        match &self.source {
            Source::Gguf(file) => self.gguf_tensor(file, name, shape)?.dequantize(&self.device),
            Source::Safetensors(shards) => shards.view(name, shape)?.load(&self.device),
        }
        .doing(doing)
    }

    fn gguf_tensor(&self, file: &GgufFile, name: &str, shape: &[usize]) -> Result<QTensor> {
        let stored = gguf_name(name).ok_or_else(|| self.absent(name, shape))?;
        let found = file.shape(&stored).ok_or_else(|| self.absent(name, shape))?;
        self.check(name, shape, found)?;
        let interleaved = name.contains(".self_attn.q_proj.") || name.contains(".self_attn.k_proj.");
        file.tensor(&stored, self.interleaved.filter(|_| interleaved), &self.device)
    }

    fn path(&self) -> &Path {
        match &self.source {
            Source::Gguf(file) => file.path(),
            Source::Safetensors(shards) => &shards.files[0].0,
        }
    }

    /// Checks a tensor's shape before its bytes are touched.
    fn check(&self, name: &str, expected: &[usize], found: &[usize]) -> Result<()> {
        check_shape(self.path(), name, expected, found)
    }

    fn absent(&self, name: &str, shape: &[usize]) -> RunError {
        bad_file(self.path(), format!("the weights have no tensor `{name}` (expected, of shape {shape:?})"))
    }
}

fn check_shape(path: &Path, name: &str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(bad_file(path, format!("tensor `{name}` has shape {found:?}, and the configuration asks for {expected:?}"))
        .help("weights and configuration belong to different models, or a file is damaged"))
}

/// Safetensors files, mapped into memory.
struct Shards {
    /// At least one.
    files: Vec<(PathBuf, MmapedSafetensors)>,
    /// Which file holds a tensor.
    index: HashMap<String, usize>,
}

impl Shards {
    fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut shards = Self { files: Vec::new(), index: HashMap::new() };
        for path in paths {
            // SAFETY: read-only map; fetched files are put in place by rename and never rewritten.
            let file = unsafe { MmapedSafetensors::new(path) }
                .map_err(|e| bad_file(path, format!("not a safetensors file that can be read: {e}")))?;
            let position = shards.files.len();
            shards.index.extend(file.tensors().into_iter().map(|(name, _)| (name, position)));
            shards.files.push((path.clone(), file));
        }
        match shards.files.is_empty() {
            true => Err(RunError::failed("model-file", "the model has no safetensors file")),
            false => Ok(shards),
        }
    }

    fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let Some(&position) = self.index.get(name) else {
            let message = format!(
                "the weights have no tensor `{name}` (expected, of shape {shape:?}); there are {} and others",
                self.some_names()
            );
            return Err(bad_file(&self.files[0].0, message));
        };
        let (path, file) = &self.files[position];
        let view = file.get(name).map_err(|e| bad_file(path, e))?;
        check_shape(path, name, shape, view.shape())?;
        Ok(view)
    }

    fn some_names(&self) -> String {
        let mut names: Vec<&str> = self.index.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.truncate(3);
        names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
    }
}
