//! Kernels out of the tensor library's own operations: runs on every device it knows, and is what faster kernels
//! are measured against.

use super::{Angles, AttentionShape, FrozenLinear, Kernels, Matrix, Packing};
use crate::model::files::Precision;
use candle_core::quantized::QMatMul;
use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_transformers::utils::build_additive_causal_mask;
use std::sync::Arc;

/// Queries of a sequence that attention takes at once: bounds its scores to `heads * BLOCK * tokens`.
const QUERY_BLOCK: usize = 256;
/// Bytes of float32 logits held at once.
const LOGIT_BYTES: usize = 32 << 20;

#[derive(Debug)]
pub struct Portable {
    device: Device,
    activations: DType,
}

impl Portable {
    pub fn new(device: &Device, precision: Precision) -> Self {
        let activations = match precision {
            Precision::Bf16 => DType::BF16,
            Precision::F32 | Precision::Quantized => DType::F32,
        };
        Self { device: device.clone(), activations }
    }
}

#[derive(Debug)]
struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    outputs: usize,
}

#[derive(Debug)]
enum Weight {
    /// `[in, out]`, a view of the checkpoint's `[out, in]`.
    Transposed(Tensor),
    Quantized(QMatMul),
}

impl FrozenLinear for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.weight {
            Weight::Transposed(w) => x.matmul(w)?,
            Weight::Quantized(w) => w.forward(x)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    fn label_nll(&self, hidden: &Tensor, labels: &[u32]) -> Result<Vec<f32>> {
        let rows = (LOGIT_BYTES / (4 * self.outputs)).max(1);
        let mut nll = Vec::with_capacity(labels.len());
        for chunk in labels.chunks(rows) {
            let logits = self.forward(&hidden.narrow(0, nll.len(), chunk.len())?)?;
            nll.extend(nll_of_logits(&logits.to_dtype(DType::F32)?, chunk)?);
        }
        Ok(nll)
    }
}

impl Kernels for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn activations(&self) -> DType {
        self.activations
    }

    /// The blocking of a general matrix product depends on the number of rows.
    fn batch_invariant(&self) -> bool {
        false
    }

    fn linear(&self, matrix: Matrix, bias: Option<Tensor>) -> Result<Arc<dyn FrozenLinear>> {
        let (outputs, _) = matrix.dims();
        let weight = match matrix {
            Matrix::Dense(w) => Weight::Transposed(w.to_dtype(self.activations)?.t()?),
            Matrix::Quantized(q) => Weight::Quantized(QMatMul::from_arc(q)?),
        };
        let bias = bias.map(|b| b.to_dtype(self.activations)).transpose()?;
        Ok(Arc::new(Linear { weight, bias, outputs }))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let y = x.to_dtype(DType::F32)?;
        let mean = (y.sqr()?.sum_keepdim(D::Minus1)? / y.dim(D::Minus1)? as f64)?;
        let y = y.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?;
        y.broadcast_mul(weight)?.to_dtype(x.dtype())
    }

    fn angles(&self, frequencies: &[f32], positions: &[u32]) -> Result<Angles> {
        let angles = || positions.iter().flat_map(|p| frequencies.iter().map(move |f| *p as f32 * f));
        let table = |f: fn(f32) -> f32| {
            Tensor::from_vec(angles().map(f).collect(), (positions.len(), frequencies.len()), &self.device)
        };
        Ok(Angles::Tensors { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }

    fn rotary(&self, x: &Tensor, angles: &Angles) -> Result<Tensor> {
        let Angles::Tensors { cos, sin } = angles else { candle_core::bail!("angles of other kernels") };
        let half = x.dim(D::Minus1)? / 2;
        let y = x.to_dtype(DType::F32)?;
        let (a, b) = (y.narrow(D::Minus1, 0, half)?, y.narrow(D::Minus1, half, half)?);
        let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], D::Minus1)?.to_dtype(x.dtype())
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: &AttentionShape,
        packing: &Packing,
    ) -> Result<Tensor> {
        let sequence = |range: std::ops::Range<usize>| {
            let part = |t: &Tensor| t.narrow(0, range.start, range.len())?.transpose(0, 1)?.contiguous();
            attend(&part(q)?, &part(k)?, &part(v)?, shape)
        };
        let parts: Vec<Tensor> = packing.sequences().filter(|s| !s.is_empty()).map(sequence).collect::<Result<_>>()?;
        match parts.as_slice() {
            [one] => Ok(one.clone()),
            several => Tensor::cat(several, 0),
        }
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gate.silu()? * up
    }
}

/// Attention of one sequence, `[heads, tokens, head_dim]` each, a block of queries at a time.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    let (heads, tokens, dim) = q.dims3()?;
    let group = heads / shape.key_value_heads;
    let mut blocks = Vec::with_capacity(tokens.div_ceil(QUERY_BLOCK));
    for start in (0..tokens).step_by(QUERY_BLOCK) {
        let end = (start + QUERY_BLOCK).min(tokens);
        let first = shape.window.map_or(0, |w| (start + 1).saturating_sub(w));
        let (rows, columns) = (end - start, end - first);
        // Heads that share keys and values lie side by side, so that they are one product's rows.
        let queries = q.narrow(1, start, rows)?.reshape((shape.key_value_heads, group * rows, dim))?;
        let keys = k.narrow(1, first, columns)?;
        let values = v.narrow(1, first, columns)?.contiguous()?;
        let scores = (queries.matmul(&keys.t()?.contiguous()?)? * shape.scale())?;
        // The window counts the query's own position, the mask only those before it.
        let before = shape.window.map(|w| w.saturating_sub(1));
        let mask = build_additive_causal_mask(rows, start - first, before, q.device(), DType::F32)?.squeeze(0)?;
        let scores = scores.reshape((heads, rows, columns))?.to_dtype(DType::F32)?.broadcast_add(&mask)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(q.dtype())?;
        let out = weights.reshape((shape.key_value_heads, group * rows, columns))?.matmul(&values)?;
        blocks.push(out.reshape((heads, rows, dim))?.transpose(0, 1)?.reshape((rows, heads * dim))?);
    }
    Tensor::cat(&blocks, 0)
}

/// `log(sum(exp(logits))) - logits[label]` for each row.
fn nll_of_logits(logits: &Tensor, labels: &[u32]) -> Result<Vec<f32>> {
    let labels = Tensor::new(labels, logits.device())?.unsqueeze(1)?;
    let max = logits.max_keepdim(D::Minus1)?;
    let sum = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    let label = logits.gather(&labels, D::Minus1)?;
    (sum.log()? - (label - max)?)?.squeeze(D::Minus1)?.to_vec1()
}
