//! Kernels out of the tensor library's own operations: runs on every device it knows, and is what faster kernels
//! are measured against.

mod backward;
mod fixed;
mod gpu;
mod groups;
mod kept;
mod tiles;

pub use kept::Rows;

use super::{Angles, AttentionShape, FrozenLinear, Kernels, LayerCache, Matrix, Packing, Part, Turned};
use crate::model::files::Precision;
use candle_core::quantized::QMatMul;
use candle_core::{D, DType, Device, Module, Result, Tensor};
use fixed::Blocks;
use gpu::Gpu;
use std::ops::Range;
use std::sync::Arc;

/// Queries of a sequence that attention takes at once: bounds its scores to `heads * BLOCK * tokens`.
const QUERY_BLOCK: usize = 256;
/// Bytes of float32 logits held at once.
const LOGIT_BYTES: usize = 32 << 20;

#[derive(Debug)]
pub struct Portable {
    device: Device,
    activations: DType,
    /// On a GPU, all sequences of a pass are computed at once.
    gpu: Option<Gpu>,
}

impl Portable {
    pub fn new(device: &Device, precision: Precision) -> Self {
        Self { gpu: device.is_cuda().then(Gpu::default), ..Self::one_by_one(device, precision) }
    }

    /// Computes on any device as on a GPU.
    #[cfg(test)]
    pub fn as_on_a_gpu(device: &Device, precision: Precision) -> Self {
        Self { gpu: Some(Gpu::untried()), ..Self::one_by_one(device, precision) }
    }

    /// The same after the trials, which a processor passes.
    #[cfg(test)]
    pub fn tried_as_on_a_gpu(device: &Device, precision: Precision) -> Self {
        Self { gpu: Some(Gpu::default()), ..Self::one_by_one(device, precision) }
    }

    fn one_by_one(device: &Device, precision: Precision) -> Self {
        let activations = match precision {
            Precision::Bf16 => DType::BF16,
            Precision::F32 | Precision::Quantized => DType::F32,
        };
        Self { device: device.clone(), activations, gpu: None }
    }
}

#[derive(Debug)]
struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    outputs: usize,
    /// On a GPU.
    blocks: Option<Blocks>,
}

#[derive(Debug)]
enum Weight {
    /// `[in, out]`, a view of the checkpoint's `[out, in]`.
    Transposed(Tensor),
    /// One below the other; they may differ in how they are quantised.
    Quantized(Vec<QMatMul>),
    /// The same, made float32 for each product. A GPU's products with quantised weights round activations to eight bits, and
    /// divide sums by the number of multiprocessors: a row's bits depend on its place.
    Unpacked(Vec<QMatMul>),
}

impl Weight {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Transposed(w) => x.matmul(w),
            Self::Quantized(parts) => side_by_side(parts.iter().map(|w| w.forward(x)).collect::<Result<_>>()?, 1),
            Self::Unpacked(parts) => x.matmul(&unpacked(parts)?.t()?),
        }
    }
}

impl Linear {
    /// Of how many labels logits are held at once.
    fn label_rows(&self) -> usize {
        match &self.blocks {
            Some(blocks) => blocks.largest(),
            None => (LOGIT_BYTES / (4 * self.outputs)).max(1),
        }
    }
}

/// Each position's angles.
fn angles_of(frequencies: &[f32], positions: impl Iterator<Item = u32> + Clone, device: &Device) -> Result<Angles> {
    let angles = positions.flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
    let table = |f: fn(f32) -> f32| {
        let values: Vec<f32> = angles.clone().map(f).collect();
        let rows = values.len() / frequencies.len().max(1);
        Tensor::from_vec(values, (rows, frequencies.len()), device)
    };
    Ok(Angles::Tensors { cos: table(f32::cos)?, sin: table(f32::sin)? })
}

/// The numbers of several tensors, read at the end: a GPU is not waited for between chunks.
fn read(chunks: Vec<Tensor>) -> Result<Vec<f32>> {
    match chunks.is_empty() {
        true => Ok(Vec::new()),
        false => side_by_side(chunks, 0)?.to_vec1(),
    }
}

impl FrozenLinear for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.blocks {
            Some(blocks) => blocks.product(x, |x| self.weight.product(x))?,
            None => self.weight.product(x)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    fn rows(&self, outputs: &[u32]) -> Result<Tensor> {
        match &self.weight {
            Weight::Transposed(w) => w.t()?.index_select(&Tensor::new(outputs, w.device())?, 0),
            Weight::Quantized(parts) | Weight::Unpacked(parts) => match parts.as_slice() {
                [one] => one.embedding(&Tensor::new(outputs, &Device::Cpu)?),
                _ => candle_core::bail!("a table is one matrix"),
            },
        }
    }

    fn label_nll(&self, hidden: &Tensor, labels: &[u32]) -> Result<Vec<f32>> {
        let rows = self.label_rows();
        let mut nll = Vec::with_capacity(labels.len().div_ceil(rows));
        for (nth, chunk) in labels.chunks(rows).enumerate() {
            let logits = self.forward(&hidden.narrow(0, nth * rows, chunk.len())?)?;
            let labels = Tensor::new(chunk, logits.device())?.unsqueeze(1)?;
            nll.push(nll_of_logits(&logits.to_dtype(DType::F32)?, &labels)?);
        }
        read(nll)
    }

    fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        self.input_gradient(dy)
    }

    fn label_nll_backward(&self, hidden: &Tensor, labels: &[u32], weight: f32) -> Result<(Vec<f32>, Tensor)> {
        self.label_gradient(hidden, labels, weight)
    }
}

impl Kernels for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn activations(&self) -> DType {
        self.activations
    }

    /// The blocking of a general matrix product depends on the number of rows. On a GPU the products have fixed shapes,
    /// and trials tell.
    fn batch_invariant(&self) -> bool {
        self.gpu.as_ref().is_some_and(Gpu::invariant)
    }

    fn prepare(&self, shape: &AttentionShape) -> Result<()> {
        match &self.gpu {
            Some(gpu) => gpu.prepare(shape, self.activations, &self.device),
            None => Ok(()),
        }
    }

    fn linear(&self, parts: Vec<Part>) -> Result<Arc<dyn FrozenLinear>> {
        let outs: Vec<usize> = parts.iter().map(|part| part.matrix.dims().0).collect();
        let bias = |part: &Part, out: usize| match &part.bias {
            Some(bias) => bias.to_dtype(self.activations),
            None => Tensor::zeros(out, self.activations, &self.device),
        };
        let bias = match parts.iter().any(|part| part.bias.is_some()) {
            true => {
                Some(side_by_side(parts.iter().zip(&outs).map(|(p, out)| bias(p, *out)).collect::<Result<_>>()?, 0)?)
            }
            false => None,
        };
        let inputs = parts.first().map_or(0, |part| part.matrix.dims().1);
        let kinds: Vec<String> = parts.iter().map(|part| kind(&part.matrix)).collect();
        let (mut dense, mut quantized) = (Vec::new(), Vec::new());
        for part in parts {
            match part.matrix {
                Matrix::Dense(w) => dense.push(w.to_dtype(self.activations)?),
                Matrix::Quantized(q) => quantized.push(QMatMul::from_arc(q)?),
            }
        }
        let weight = match (dense.is_empty(), quantized.is_empty()) {
            (false, true) => Weight::Transposed(side_by_side(dense, 0)?.t()?),
            (true, false) if self.gpu.is_some() => Weight::Unpacked(quantized),
            (true, false) => Weight::Quantized(quantized),
            _ => candle_core::bail!("a layer of dense and quantised parts"),
        };
        let outputs = outs.iter().sum();
        let blocks = match &self.gpu {
            Some(gpu) => {
                let shape = (inputs, outputs);
                Some(gpu.blocks(kinds.join(" "), shape, self.activations, &self.device, |x| weight.product(x))?)
            }
            None => None,
        };
        Ok(Arc::new(Linear { weight, bias, outputs, blocks }))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let y = x.to_dtype(DType::F32)?;
        if self.gpu.is_some() {
            return candle_nn::ops::rms_norm(&y.contiguous()?, weight, eps)?.to_dtype(x.dtype());
        }
        let mean = (y.sqr()?.sum_keepdim(D::Minus1)? / y.dim(D::Minus1)? as f64)?;
        let y = y.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?;
        y.broadcast_mul(weight)?.to_dtype(x.dtype())
    }

    fn angles(&self, frequencies: &[f32], positions: &[u32]) -> Result<Angles> {
        if let Some(gpu) = &self.gpu {
            return gpu.angles(frequencies, positions, &self.device);
        }
        angles_of(frequencies, positions.iter().copied(), &self.device)
    }

    fn cache(&self, layer: usize, shape: &AttentionShape) -> LayerCache {
        match self.gpu {
            Some(_) => LayerCache::Rows(Rows::new(layer, shape, self.activations)),
            None => LayerCache::Tensors(None),
        }
    }

    fn attention(
        &self,
        qkv: Tensor,
        turned: Turned<'_>,
        shape: &AttentionShape,
        packing: &Packing,
        kept: &mut [Option<&mut LayerCache>],
    ) -> Result<Tensor> {
        let AttentionShape { heads, key_value_heads: kv_heads, head_dim, .. } = *shape;
        let tokens = qkv.dim(0)?;
        let part = |first: usize, count: usize| {
            qkv.narrow(1, first * head_dim, count * head_dim)?.reshape((tokens, count, head_dim))
        };
        let rotary = if self.gpu.is_some() { fused_rotary } else { rotary };
        let turn = |x: Tensor, norm: Option<&Tensor>| match norm {
            Some(weight) => rotary(&self.rms_norm(&x, weight, turned.eps)?, turned.angles),
            None => rotary(&x, turned.angles),
        };
        let q = turn(part(0, heads)?, turned.norms.map(|n| n.0))?;
        let k = turn(part(heads, kv_heads)?, turned.norms.map(|n| n.1))?;
        let v = part(heads + kv_heads, kv_heads)?;
        if let Some(gpu) = &self.gpu {
            return gpu.attention(&q, k, v, shape, packing, kept);
        }
        let mut caches: Vec<Option<(Tensor, Tensor)>> = Vec::with_capacity(packing.runs().len());
        let mut parts = Vec::with_capacity(packing.runs().len());
        for (i, run) in packing.runs().iter().enumerate() {
            let rows = |t: &Tensor| t.narrow(0, run.rows.start, run.rows.len())?.transpose(0, 1)?.contiguous();
            let before = match (run.parent, kept.get(i)) {
                (Some(parent), _) => caches[parent].clone(),
                (None, Some(Some(LayerCache::Tensors(cache)))) => cache.clone(),
                (None, Some(Some(_))) => candle_core::bail!("a sequence of other kernels"),
                (None, _) => None,
            };
            if run.rows.is_empty() {
                caches.push(before);
                continue;
            }
            let (k, v) = match before {
                Some((keys, values)) => (Tensor::cat(&[keys, rows(&k)?], 1)?, Tensor::cat(&[values, rows(&v)?], 1)?),
                None => (rows(&k)?, rows(&v)?),
            };
            if k.dim(1)? != run.end() {
                candle_core::bail!("a run at position {} of a sequence of {}", run.start, k.dim(1)? - run.rows.len());
            }
            parts.push(attend(&rows(&q)?, &k, &v, shape)?);
            caches.push(Some((k, v)));
        }
        for (kept, cache) in kept.iter_mut().zip(caches) {
            if let Some(kept) = kept {
                **kept = LayerCache::Tensors(cache);
            }
        }
        side_by_side(parts, 0)
    }

    fn swiglu(&self, gate_up: &Tensor) -> Result<Tensor> {
        let width = gate_up.dim(1)? / 2;
        gate_up.narrow(1, 0, width)?.silu()? * gate_up.narrow(1, width, width)?
    }
}

/// Joins tensors along a dimension; one alone is not copied.
fn side_by_side(parts: Vec<Tensor>, dim: usize) -> Result<Tensor> {
    match parts.as_slice() {
        [one] => Ok(one.clone()),
        several => Tensor::cat(several, dim),
    }
}

/// Quantised matrices in float32, one below the other: `[out, in]`.
fn unpacked(parts: &[QMatMul]) -> Result<Tensor> {
    let part = |part: &QMatMul| match part {
        QMatMul::QTensor(w) => w.dequantize(&w.device()),
        QMatMul::Tensor(w) | QMatMul::TensorF16(w) => w.to_dtype(DType::F32),
    };
    side_by_side(parts.iter().map(part).collect::<Result<_>>()?, 0)
}

/// Turns each head's pairs `(i, i + head_dim / 2)` of `x` `[tokens, heads, head_dim]` by the token's angles.
fn rotary(x: &Tensor, angles: &Angles) -> Result<Tensor> {
    let Angles::Tensors { cos, sin } = angles else { candle_core::bail!("angles of other kernels") };
    let half = x.dim(D::Minus1)? / 2;
    let y = x.to_dtype(DType::F32)?;
    let (a, b) = (y.narrow(D::Minus1, 0, half)?, y.narrow(D::Minus1, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)?.to_dtype(x.dtype())
}

/// The same in one launch.
fn fused_rotary(x: &Tensor, angles: &Angles) -> Result<Tensor> {
    let Angles::Tensors { cos, sin } = angles else { candle_core::bail!("angles of other kernels") };
    let y = x.to_dtype(DType::F32)?.contiguous()?.unsqueeze(0)?;
    candle_nn::rotary_emb::rope_thd(&y, cos, sin)?.squeeze(0)?.to_dtype(x.dtype())
}

/// What distinguishes the products of a matrix from those of another of its shape.
fn kind(matrix: &Matrix) -> String {
    match matrix {
        Matrix::Dense(_) => "dense".into(),
        Matrix::Quantized(q) => format!("{:?}", q.dtype()),
    }
}

/// Attention of a run, whose queries `[heads, rows, head_dim]` are the last of the sequence's positions; keys and values
/// are `[key_value_heads, positions, head_dim]`. A block of queries at a time; gives `[rows, heads * head_dim]`.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    let (heads, tokens, dim) = q.dims3()?;
    let before_run = k.dim(1)? - tokens;
    let group = heads / shape.key_value_heads;
    let mut blocks = Vec::with_capacity(tokens.div_ceil(QUERY_BLOCK));
    for start in (0..tokens).step_by(QUERY_BLOCK) {
        let rows = (tokens - start).min(QUERY_BLOCK);
        let (position, end) = (before_run + start, before_run + start + rows);
        let first = shape.window.map_or(0, |w| (position + 1).saturating_sub(w));
        let columns = end - first;
        // Heads that share keys and values lie side by side, so that they are one product's rows.
        let queries = q.narrow(1, start, rows)?.reshape((shape.key_value_heads, group * rows, dim))?;
        let keys = k.narrow(1, first, columns)?;
        let values = v.narrow(1, first, columns)?.contiguous()?;
        let scores = (queries.matmul(&keys.t()?.contiguous()?)? * shape.scale())?;
        let mask = causal_mask(position..end, first..end, shape.window, q.device())?;
        let scores = scores.reshape((heads, rows, columns))?.to_dtype(DType::F32)?.broadcast_add(&mask)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(q.dtype())?;
        let out = weights.reshape((shape.key_value_heads, group * rows, columns))?.matmul(&values)?;
        blocks.push(out.reshape((heads, rows, dim))?.transpose(0, 1)?.reshape((rows, heads * dim))?);
    }
    side_by_side(blocks, 0)
}

/// What is added to the scores of queries and keys at these positions: `[queries, keys]`. It is made on the device.
fn causal_mask(queries: Range<usize>, keys: Range<usize>, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let line = |positions: Range<usize>| positions.map(|p| p as f32).collect::<Vec<_>>();
    let (rows, columns) = (queries.len(), keys.len());
    let queries = Tensor::from_vec(line(queries), (rows, 1), device)?;
    tiles::mask(&Tensor::from_vec(line(keys), (1, columns), device)?, &queries, window)
}

/// `log(sum(exp(logits))) - logits[label]` for each row, `labels` being `[rows, 1]`.
fn nll_of_logits(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    Ok(nll_and_softmax(logits, labels)?.0)
}

/// The same; and the softmax as what it is a quotient of.
fn nll_and_softmax(logits: &Tensor, labels: &Tensor) -> Result<(Tensor, [Tensor; 2])> {
    let max = logits.max_keepdim(D::Minus1)?;
    let weights = logits.broadcast_sub(&max)?.exp()?;
    let sum = weights.sum_keepdim(D::Minus1)?;
    let label = logits.gather(labels, D::Minus1)?;
    Ok(((sum.log()? - (label - max)?)?.squeeze(D::Minus1)?, [weights, sum]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor};

    /// On a GPU, products with quantised weights are those with the numbers that the weights stand for.
    #[test]
    fn quantised_weights_are_unpacked_on_a_gpu() {
        let [wide, narrow] =
            [24, 40].map(|out| fixed::noise(out * 64, &Device::Cpu).unwrap().reshape((out, 64)).unwrap());
        let kernels = Portable::as_on_a_gpu(&Device::Cpu, Precision::Quantized);
        let parts = [(&wide, GgmlDType::Q4_1), (&narrow, GgmlDType::Q8_0)].map(|(w, dtype)| {
            let matrix = Matrix::Quantized(Arc::new(QTensor::quantize(w, dtype).unwrap()));
            Part { matrix, bias: None }
        });
        let exact: Vec<Tensor> = parts
            .iter()
            .map(|part| match &part.matrix {
                Matrix::Quantized(q) => q.dequantize(&Device::Cpu).unwrap(),
                Matrix::Dense(w) => w.clone(),
            })
            .collect();
        let exact = Tensor::cat(&exact, 0).unwrap();
        let layer = kernels.linear(parts.into()).unwrap();
        let x = fixed::noise(3 * 64, &Device::Cpu).unwrap().reshape((3, 64)).unwrap();
        let near = |a: &Tensor, b: &Tensor| {
            let off = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(a.dims() == b.dims() && off < 1e-4, "{off}");
        };
        let y = layer.forward(&x).unwrap();
        near(&y, &x.matmul(&exact.t().unwrap()).unwrap());
        near(&layer.backward(&y).unwrap(), &y.matmul(&exact).unwrap());
    }
}
