//! Our own kernels for the processor behind the seam.

mod backward;
mod quantized;

use self::backward::change;
use super::{Angles, AttentionShape, FrozenLinear, Kernels, LayerCache, Matrix, Packing, Part, Turned};
use crate::model::cpu::{
    self, CacheFormat, Format, Heads, Isa, KvCache, PackedLinear, Queries, Rotary, RotaryLayout, Rows,
};
use crate::model::files::Precision;
use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor};
use half::bf16;
use quantized::Quantized;
pub(in crate::model) use quantized::quant_type;
use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

/// Keys below which appending them is not worth waking other threads for.
const SERIAL: usize = 1 << 15;

/// Activations are float32; products with bfloat16 weights round their inputs to it and sum in float32, those with
/// quantised weights round them to bytes.
#[derive(Debug)]
pub struct Native {
    isa: Isa,
    precision: Precision,
}

#[derive(Debug)]
struct Linear {
    packed: PackedLinear,
    /// For gradients; packed when the first is asked for.
    transposed: OnceLock<PackedLinear>,
    isa: Isa,
}

impl Native {
    pub fn new(isa: Isa, precision: Precision) -> Self {
        Self { isa, precision }
    }

    /// A layer of weights that are multiplied in floating point.
    fn dense(&self, parts: &[Part]) -> Result<PackedLinear> {
        let weight = |part: &Part| match &part.matrix {
            Matrix::Dense(weight) => Ok(weight.clone()),
            Matrix::Quantized(weight) if weight.dtype() == GgmlDType::BF16 => {
                weight.dequantize(&Device::Cpu)?.to_dtype(DType::BF16)
            }
            Matrix::Quantized(weight) => weight.dequantize(&Device::Cpu),
        };
        let weights: Vec<Tensor> = parts.iter().map(weight).collect::<Result<_>>()?;
        let packed = self.pack(&weights)?;
        Ok(match bias(parts)? {
            Some(bias) => packed.with_bias(bias),
            None => packed,
        })
    }

    /// Packs parts one below the other.
    fn pack(&self, parts: &[Tensor]) -> Result<PackedLinear> {
        let inner = parts[0].dim(1)?;
        let outs: Vec<usize> = parts.iter().map(|part| part.dim(0)).collect::<Result<_>>()?;
        let out = outs.iter().sum();
        let find = |mut row: usize| {
            let part = outs
                .iter()
                .take_while(|out| {
                    row >= **out && {
                        row -= **out;
                        true
                    }
                })
                .count();
            (part, row)
        };
        let computes_in_bf16 = self.precision == Precision::Bf16;
        if parts.iter().all(|part| part.dtype() == DType::BF16) {
            // Float32 arithmetic on weights that are bfloat16 numbers gives the same bits from half the memory.
            let format = if computes_in_bf16 { Format::Bf16 } else { Format::Bf16Weights };
            return lend(parts, |parts: &[&[bf16]]| {
                Ok(PackedLinear::pack_rows(out, inner, format, |j, row| {
                    let (part, j) = find(j);
                    let weights = &parts[part][j * inner..][..inner];
                    row.iter_mut().zip(weights).for_each(|(to, from)| *to = from.to_f32());
                }))
            });
        }
        let format = if computes_in_bf16 { Format::Bf16 } else { Format::F32 };
        let parts: Vec<Tensor> = parts.iter().map(|part| part.to_dtype(DType::F32)).collect::<Result<_>>()?;
        lend(&parts, |parts: &[&[f32]]| {
            Ok(PackedLinear::pack_rows(out, inner, format, |j, row| {
                let (part, j) = find(j);
                row.copy_from_slice(&parts[part][j * inner..][..inner]);
            }))
        })
    }
}

impl FrozenLinear for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, _) = x.dims2()?;
        // SAFETY: a product assigns all its outputs.
        let y = unsafe { made_of(x, rows * self.packed.out(), |x, y| self.packed.forward(self.isa, x, rows, y)) }?;
        tensor(y, (rows, self.packed.out()))
    }

    fn rows(&self, outputs: &[u32]) -> Result<Tensor> {
        let packed = &self.packed;
        weights(outputs, packed.out(), packed.inner(), |output, row| packed.row(output, row))
    }

    fn label_nll(&self, hidden: &Tensor, labels: &[u32]) -> Result<Vec<f32>> {
        let mut nll = vec![0.0; labels.len()];
        with(hidden, |hidden| {
            cpu::label_nll(self.isa, hidden, &self.packed, labels, &mut nll);
            Ok(())
        })?;
        Ok(nll)
    }

    fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        self.input_gradient(dy)
    }

    fn label_nll_backward(&self, hidden: &Tensor, labels: &[u32], weight: f32) -> Result<(Vec<f32>, Tensor)> {
        self.label_gradient(hidden, labels, weight)
    }
}

impl Kernels for Native {
    fn name(&self) -> &'static str {
        self.isa.path().name()
    }

    fn activations(&self) -> DType {
        DType::F32
    }

    fn batch_invariant(&self) -> bool {
        true
    }

    fn linear(&self, parts: Vec<Part>) -> Result<Arc<dyn FrozenLinear>> {
        if self.precision == Precision::Quantized
            && let Some(layer) = Quantized::new(self, &parts)?
        {
            return Ok(Arc::new(layer));
        }
        Ok(Arc::new(Linear { packed: self.dense(&parts)?, transposed: OnceLock::new(), isa: self.isa }))
    }

    fn angles(&self, frequencies: &[f32], positions: &[u32]) -> Result<Angles> {
        Ok(Angles::Native(Rotary::new(RotaryLayout::Halves, frequencies, positions, 1.0)))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let y = with(weight, |weight| {
            // SAFETY: a norm assigns all its outputs.
            unsafe { made_of(x, x.elem_count(), |x, y| cpu::rms_norm(self.isa, x, weight, eps, y)) }
        })?;
        tensor(y, x.dims())
    }

    fn add_rms_norm(&self, x: &Tensor, delta: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
        let norm = |delta: &[f32], weight: &[f32], sum: &mut [f32]| {
            // SAFETY: norms, and before them the sums, are all assigned.
            unsafe { made_of(x, x.elem_count(), |x, y| cpu::add_rms_norm(self.isa, x, delta, weight, eps, sum, y)) }
        };
        let mut y = Vec::new();
        let both = |sum: &mut [f32]| {
            y = with(delta, |delta| with(weight, |weight| norm(delta, weight, sum)))?;
            Ok(())
        };
        // SAFETY: as above.
        let sum = unsafe { written(x.elem_count(), both) }?;
        Ok((tensor(sum, x.dims())?, tensor(y, x.dims())?))
    }

    fn cache(&self, _: usize, shape: &AttentionShape) -> LayerCache {
        LayerCache::Native(self.empty(shape))
    }

    fn attention(
        &self,
        qkv: Tensor,
        turned: Turned<'_>,
        shape: &AttentionShape,
        packing: &Packing,
        kept: &mut [Option<&mut LayerCache>],
    ) -> Result<Tensor> {
        let width = shape.heads * shape.head_dim;
        let mut out = Vec::new();
        change(qkv, |qkv| {
            self.turn(qkv, turned, shape)?;
            let caches = self.append(qkv, shape, packing, kept)?;
            let queries = |(cache, run): (_, &super::Run)| Queries { cache, rows: run.rows.clone(), first: run.start };
            let sequences: Vec<Queries<'_>> = caches.iter().zip(packing.runs()).map(queries).collect();
            let queries = Rows { values: qkv, stride: shape.qkv_width() };
            let attend = |out: &mut [f32]| {
                shape.attention().forward(self.isa, queries, &sequences, out);
                Ok(())
            };
            // SAFETY: the runs name all rows of the output.
            out = unsafe { written(packing.tokens() * width, attend) }?;
            for (kept, cache) in kept.iter_mut().zip(caches) {
                if let Some(kept) = kept {
                    **kept = LayerCache::Native(cache);
                }
            }
            Ok(())
        })?;
        tensor(out, (packing.tokens(), width))
    }

    fn swiglu(&self, gate_up: &Tensor) -> Result<Tensor> {
        let (rows, both) = gate_up.dims2()?;
        let width = both / 2;
        let gate = |values: &[f32], y: &mut [f32]| {
            let half = |from: usize| Rows { values: values.get(from..).unwrap_or(&[]), stride: both };
            cpu::swiglu(self.isa, half(0), half(width), width, y);
        };
        // SAFETY: all gated values are assigned.
        let y = unsafe { made_of(gate_up, rows * width, gate) }?;
        tensor(y, (rows, width))
    }
}

impl Native {
    /// An empty sequence's keys and values.
    fn empty(&self, shape: &AttentionShape) -> KvCache {
        let format = match self.precision {
            Precision::Bf16 => CacheFormat::Bf16,
            _ => CacheFormat::F32,
        };
        KvCache::new(shape.key_value_heads, shape.head_dim, format)
    }

    /// Norms and turns queries and keys in place; in bf16, keys and values are rounded to what is kept of them.
    fn turn(&self, qkv: &mut [f32], turned: Turned<'_>, shape: &AttentionShape) -> Result<()> {
        let AttentionShape { heads, key_value_heads, head_dim: dim, .. } = *shape;
        let stride = shape.qkv_width();
        if let Some((query_norm, key_norm)) = turned.norms {
            let queries = Heads { stride, offset: 0, count: heads, dim };
            let keys = Heads { stride, offset: heads * dim, count: key_value_heads, dim };
            for (weight, heads) in [(query_norm, queries), (key_norm, keys)] {
                with(weight, |weight| {
                    cpu::rms_norm_heads(self.isa, qkv, heads, weight, turned.eps);
                    Ok(())
                })?;
            }
        }
        let Angles::Native(rotary) = turned.angles else { candle_core::bail!("angles of other kernels") };
        // Keys follow the queries: one pass turns both.
        rotary.apply(self.isa, qkv, Heads { stride, offset: 0, count: heads + key_value_heads, dim });
        if self.precision == Precision::Bf16 {
            cpu::round_heads(self.isa, qkv, Heads { stride, offset: heads * dim, count: 2 * key_value_heads, dim });
        }
        Ok(())
    }

    /// Each run's sequence with the run's keys and values at its end.
    fn append(
        &self,
        qkv: &[f32],
        shape: &AttentionShape,
        packing: &Packing,
        kept: &mut [Option<&mut LayerCache>],
    ) -> Result<Vec<KvCache>> {
        let (width, stride) = (shape.key_value_heads * shape.head_dim, shape.qkv_width());
        let [_, keys, values] = shape.columns();
        let append = |mut cache: KvCache, run: &super::Run| {
            if cache.len() != run.start {
                candle_core::bail!("a run at position {} of a sequence of {}", run.start, cache.len());
            }
            if !run.rows.is_empty() {
                let rows = |offset: usize| Rows { values: &qkv[run.rows.start * stride + offset..], stride };
                cache.append(rows(keys), rows(values), run.rows.len());
            }
            Ok(cache)
        };
        let mut caches: Vec<KvCache> = Vec::with_capacity(packing.runs().len());
        let mut rest = packing.runs();
        // Runs that do not begin with one another are appended at once; a parent stands before its children.
        while !rest.is_empty() {
            let done = caches.len();
            let count = rest.iter().take_while(|run| run.parent.is_none_or(|parent| parent < done)).count();
            let (runs, later) = rest.split_at(count);
            let mut begun = Vec::with_capacity(count);
            for (i, run) in runs.iter().enumerate() {
                begun.push(match (run.parent, kept.get_mut(done + i)) {
                    (Some(parent), _) => caches[parent].clone(),
                    // Taken, so that its last page has one holder and need not be copied.
                    (None, Some(Some(LayerCache::Native(cache)))) => std::mem::replace(cache, self.empty(shape)),
                    (None, Some(Some(LayerCache::Tensors(_)))) => candle_core::bail!("a sequence of other kernels"),
                    (None, _) => self.empty(shape),
                });
            }
            let tokens: usize = runs.iter().map(|run| run.rows.len()).sum();
            let appended: Result<Vec<KvCache>> = match tokens * width < SERIAL {
                true => begun.into_iter().zip(runs).map(|(cache, run)| append(cache, run)).collect(),
                false => begun.into_par_iter().zip(runs).map(|(cache, run)| append(cache, run)).collect(),
            };
            caches.extend(appended?);
            rest = later;
        }
        Ok(caches)
    }
}

/// The biases of a layer's parts, if any has one.
fn bias(parts: &[Part]) -> Result<Option<Vec<f32>>> {
    if parts.iter().all(|part| part.bias.is_none()) {
        return Ok(None);
    }
    let mut all = Vec::new();
    for part in parts {
        match &part.bias {
            Some(bias) => all.extend(bias.to_vec1::<f32>()?),
            None => all.resize(all.len() + part.matrix.dims().0, 0.0),
        }
    }
    Ok(Some(all))
}

/// The weights `[outputs.len(), inner]` of some of a layer's `out` outputs, each written by `row`.
fn weights(outputs: &[u32], out: usize, inner: usize, row: impl Fn(usize, &mut [f32]) + Sync) -> Result<Tensor> {
    if let Some(output) = outputs.iter().find(|output| **output as usize >= out) {
        candle_core::bail!("row {output} of a matrix of {out}");
    }
    let mut rows = vec![0.0; outputs.len() * inner];
    let one = |(output, values): (&u32, &mut [f32])| row(*output as usize, values);
    outputs.par_iter().zip(rows.par_chunks_exact_mut(inner.max(1))).with_min_len(64).for_each(one);
    tensor(rows, (outputs.len(), inner))
}

/// Lends the values of several tensors, row-major.
fn lend<T: Value, R>(tensors: &[Tensor], f: impl FnOnce(&[&[T]]) -> Result<R>) -> Result<R> {
    let tensors: Vec<Tensor> = tensors.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
    let held: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let slices: Vec<&[T]> = held.iter().map(|(storage, layout)| values(storage, layout)).collect::<Result<_>>()?;
    f(&slices)
}

/// A vector of `len` values that `fill` assigns: large ones are not filled with zeros before, by one thread, which costs
/// as much as some of the kernels.
///
/// # Safety
/// Where it gives no error, `fill` has assigned all values; it reads none that it has not assigned.
unsafe fn written(len: usize, fill: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(len);
    // SAFETY: there is room for so many values; floats have no invalid contents, and the caller sees to it that nothing
    // is read before it is written.
    let all = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr(), len) };
    if cfg!(test) {
        // So that a test sees what was forgotten.
        all.fill(f32::NAN);
    }
    fill(all)?;
    // SAFETY: the caller's contract.
    unsafe { values.set_len(len) };
    Ok(values)
}

/// Like [`written`], of a tensor's values.
///
/// # Safety
/// `kernel` assigns all `len` values, and reads none before.
unsafe fn made_of(x: &Tensor, len: usize, kernel: impl FnOnce(&[f32], &mut [f32])) -> Result<Vec<f32>> {
    let fill = |y: &mut [f32]| {
        with(x, |x| {
            kernel(x, y);
            Ok(())
        })
    };
    // SAFETY: the caller's contract.
    unsafe { written(len, fill) }
}

/// A copy, made by several threads.
fn copied(values: &[f32]) -> Result<Vec<f32>> {
    const PART: usize = 1 << 14;
    let copy = |all: &mut [f32]| {
        match values.len() <= 2 * PART {
            true => all.copy_from_slice(values),
            false => {
                all.par_chunks_mut(PART).zip(values.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from))
            }
        }
        Ok(())
    };
    // SAFETY: every value is copied.
    unsafe { written(values.len(), copy) }
}

/// A tensor that takes the values over.
fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Lends a tensor's values, row-major.
fn with<T: Value, R>(x: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    f(values(&storage, layout)?)
}

fn values<'a, T: Value>(storage: &'a Storage, layout: &Layout) -> Result<&'a [T]> {
    let Storage::Cpu(storage) = storage else { candle_core::bail!("a tensor in the processor's memory is needed") };
    let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("a contiguous tensor is needed") };
    Ok(&T::values(storage)?[start..end])
}

/// Element types that are lent.
trait Value: candle_core::WithDType {
    fn values(storage: &CpuStorage) -> Result<&[Self]>;
}

impl Value for f32 {
    fn values(storage: &CpuStorage) -> Result<&[f32]> {
        storage.as_slice()
    }
}

impl Value for bf16 {
    fn values(storage: &CpuStorage) -> Result<&[bf16]> {
        storage.as_slice()
    }
}
