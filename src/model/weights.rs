//! Tensors of a checkpoint by the checkpoint's own names, from safetensors or GGUF.

use super::error::{Doing, Result, bad_file};
use super::files::Precision;
use super::gguf::{GgufFile, gguf_name};
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
    pub fn safetensors(folder: &Path, precision: Precision, device: &Device) -> Result<Self> {
        if precision == Precision::Quantized {
            return Err(bad_file(folder, "safetensors are not quantised, and `dtype=\"quantized\"` was asked for")
                .help("take `dtype=\"f32\"` or `\"bf16\"`, or a GGUF file"));
        }
        let source = Source::Safetensors(Shards::open(folder)?);
        Ok(Self { source, device: device.clone(), precision, interleaved: None })
    }

    /// `head_dim` is given for architectures whose query and key rows are interleaved in GGUF files.
    pub(super) fn gguf(file: GgufFile, precision: Precision, interleaved: Option<usize>, device: &Device) -> Self {
        Self { source: Source::Gguf(file), device: device.clone(), precision, interleaved }
    }

    /// The type of activations and dense weights.
    pub fn dtype(&self) -> DType {
        match self.precision {
            Precision::Bf16 => DType::BF16,
            Precision::F32 | Precision::Quantized => DType::F32,
        }
    }

    pub fn is_quantized(&self) -> bool {
        self.precision == Precision::Quantized
    }

    /// A tensor in the compute type.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.tensor_as(name, shape, self.dtype())
    }

    /// A tensor in float32: norms, which are computed in it whatever the weights are in.
    pub fn tensor_f32(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.tensor_as(name, shape, DType::F32)
    }

    /// The matrix of a linear layer.
    pub fn matrix(&self, name: &str, out: usize, input: usize) -> Result<Matrix> {
        match &self.source {
            Source::Gguf(file) if self.precision == Precision::Quantized => {
                let tensor = self.gguf_tensor(file, name, &[out, input])?;
                Ok(Matrix::Quantized(Arc::new(tensor)))
            }
            _ => Ok(Matrix::Dense(self.tensor(name, &[out, input])?)),
        }
    }

    fn tensor_as(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let doing = || format!("loading `{name}` {shape:?} of {}", self.path().display());
        let tensor = match &self.source {
            Source::Gguf(file) => self.gguf_tensor(file, name, shape)?.dequantize(&self.device),
            Source::Safetensors(shards) => shards.view(name, shape)?.load(&self.device),
        };
        tensor.and_then(|t| t.to_dtype(dtype)?.contiguous()).doing(doing)
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
            Source::Safetensors(shards) => &shards.folder,
        }
    }

    /// Checks a tensor's shape before its bytes are touched.
    fn check(&self, name: &str, expected: &[usize], found: &[usize]) -> Result<()> {
        check_shape(self.path(), name, expected, found)
    }

    fn absent(&self, name: &str, shape: &[usize]) -> crate::exec::RunError {
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

/// Safetensors files of a folder, mapped into memory.
struct Shards {
    folder: PathBuf,
    files: Vec<(PathBuf, MmapedSafetensors)>,
    /// Which file holds a tensor.
    index: HashMap<String, usize>,
}

impl Shards {
    fn open(folder: &Path) -> Result<Self> {
        let mut shards = Self { folder: folder.to_path_buf(), files: Vec::new(), index: HashMap::new() };
        for path in shard_paths(folder)? {
            // SAFETY: read-only map; fetched files are put in place by rename and never rewritten.
            let file = unsafe { MmapedSafetensors::new(&path) }
                .map_err(|e| bad_file(&path, format!("not a safetensors file that can be read: {e}")))?;
            let position = shards.files.len();
            shards.index.extend(file.tensors().into_iter().map(|(name, _)| (name, position)));
            shards.files.push((path, file));
        }
        Ok(shards)
    }

    fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let Some(&position) = self.index.get(name) else {
            let message = format!(
                "the weights have no tensor `{name}` (expected, of shape {shape:?}); there are {} and others",
                self.some_names()
            );
            return Err(bad_file(&self.folder, message));
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

/// `model.safetensors`, or the files that `model.safetensors.index.json` names, in order.
fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index)
        .map_err(|e| bad_file(folder, format!("neither `model.safetensors` nor its index can be read: {e}")))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| bad_file(&index, format!("not valid JSON: {e}")))?;
    let map = json.get("weight_map").and_then(|m| m.as_object());
    let map = map.ok_or_else(|| bad_file(&index, "`weight_map` is missing"))?;
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    // A name with a folder in it could point anywhere.
    if let Some(name) = names.iter().find(|n| n.contains(['/', '\\']) || n.starts_with('.')) {
        return Err(bad_file(&index, format!("`{name}` is not the name of a file in this folder")));
    }
    let missing = |name: &&&str| !folder.join(name).is_file();
    match names.iter().find(missing) {
        Some(name) => Err(bad_file(folder, format!("shard `{name}` is missing")).help("fetch the model again")),
        None if names.is_empty() => Err(bad_file(&index, "`weight_map` names no file")),
        None => Ok(names.iter().map(|n| folder.join(n)).collect()),
    }
}
