//! Our own kernels for the processor behind the seam.

use super::{Angles, AttentionShape, FrozenLinear, Kernels, Matrix, Packing};
use crate::model::cpu::{
    self, Attention, Format, Heads, Isa, KvCache, PackedLinear, Queries, Rotary, RotaryLayout, Rows,
};
use crate::model::files::Precision;
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use half::bf16;
use std::sync::Arc;

/// Activations are float32; products with bfloat16 weights round their inputs to it and sum in float32.
#[derive(Debug)]
pub struct Native {
    isa: Isa,
    precision: Precision,
}

#[derive(Debug)]
struct Linear {
    packed: PackedLinear,
    isa: Isa,
}

impl Native {
    pub fn new(isa: Isa, precision: Precision) -> Self {
        Self { isa, precision }
    }

    fn pack(&self, weight: &Tensor) -> Result<PackedLinear> {
        let (out, inner) = weight.dims2()?;
        let computes_in_bf16 = self.precision == Precision::Bf16;
        if weight.dtype() == DType::BF16 {
            // Float32 arithmetic on weights that are bfloat16 numbers gives the same bits from half the memory.
            let format = if computes_in_bf16 { Format::Bf16 } else { Format::Bf16Weights };
            return with(weight, |w: &[bf16]| Ok(PackedLinear::pack_bf16(w, out, inner, format)));
        }
        let format = if computes_in_bf16 { Format::Bf16 } else { Format::F32 };
        with(&weight.to_dtype(DType::F32)?, |w: &[f32]| Ok(PackedLinear::pack_f32(w, out, inner, format)))
    }
}

impl FrozenLinear for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, _) = x.dims2()?;
        let mut y = vec![0.0; rows * self.packed.out()];
        with(x, |x| {
            self.packed.forward(self.isa, x, rows, &mut y);
            Ok(())
        })?;
        tensor(y, (rows, self.packed.out()))
    }

    fn label_nll(&self, hidden: &Tensor, labels: &[u32]) -> Result<Vec<f32>> {
        let mut nll = vec![0.0; labels.len()];
        with(hidden, |hidden| {
            cpu::label_nll(self.isa, hidden, &self.packed, labels, &mut nll);
            Ok(())
        })?;
        Ok(nll)
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

    fn linear(&self, matrix: Matrix, bias: Option<Tensor>) -> Result<Arc<dyn FrozenLinear>> {
        let mut packed = match matrix {
            Matrix::Dense(weight) => self.pack(&weight)?,
            Matrix::Quantized(weight) => self.pack(&weight.dequantize(&Device::Cpu)?)?,
        };
        if let Some(bias) = bias {
            packed = packed.with_bias(bias.to_vec1()?);
        }
        Ok(Arc::new(Linear { packed, isa: self.isa }))
    }

    fn angles(&self, frequencies: &[f32], positions: &[u32]) -> Result<Angles> {
        Ok(Angles::Native(Rotary::new(RotaryLayout::Halves, frequencies, positions, 1.0)))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let mut y = vec![0.0; x.elem_count()];
        with(x, |x| {
            with(weight, |weight| {
                cpu::rms_norm(self.isa, x, weight, eps, &mut y);
                Ok(())
            })
        })?;
        tensor(y, x.dims())
    }

    fn add_rms_norm(&self, x: &Tensor, delta: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
        let mut sum = with(x, |x: &[f32]| Ok(x.to_vec()))?;
        let mut y = vec![0.0; sum.len()];
        with(delta, |delta| {
            with(weight, |weight| {
                cpu::add_rms_norm(self.isa, &mut sum, delta, weight, eps, &mut y);
                Ok(())
            })
        })?;
        Ok((tensor(sum, x.dims())?, tensor(y, x.dims())?))
    }

    fn rotary(&self, x: &Tensor, angles: &Angles) -> Result<Tensor> {
        let Angles::Native(rotary) = angles else { candle_core::bail!("angles of other kernels") };
        let (_, heads, dim) = x.dims3()?;
        let mut y = with(x, |x: &[f32]| Ok(x.to_vec()))?;
        rotary.apply(self.isa, &mut y, Heads::packed(heads, dim));
        tensor(y, x.dims())
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: &AttentionShape,
        packing: &Packing,
    ) -> Result<Tensor> {
        let AttentionShape { heads, key_value_heads: kv_heads, head_dim, window } = *shape;
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let caches: Vec<KvCache> = with(k, |k: &[f32]| {
            with(v, |v: &[f32]| {
                let cache = |range: std::ops::Range<usize>| {
                    let part = range.start * kv_width..range.end * kv_width;
                    let mut cache = KvCache::new(kv_heads, head_dim);
                    cache.append(
                        Rows::packed(&k[part.clone()], kv_width),
                        Rows::packed(&v[part], kv_width),
                        range.len(),
                    );
                    cache
                };
                Ok(packing.sequences().map(cache).collect())
            })
        })?;
        let queries = |(cache, rows)| Queries { cache, rows, first: 0 };
        let sequences: Vec<Queries<'_>> = caches.iter().zip(packing.sequences()).map(queries).collect();
        let attention = Attention { heads, kv_heads, head_dim, scale: shape.scale() as f32, window };
        let mut out = vec![0.0; packing.tokens() * width];
        with(q, |q| {
            attention.forward(self.isa, Rows::packed(q, width), &sequences, &mut out);
            Ok(())
        })?;
        tensor(out, (packing.tokens(), width))
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let (_, width) = gate.dims2()?;
        let mut y = vec![0.0; gate.elem_count()];
        with(gate, |gate| {
            with(up, |up| {
                cpu::swiglu(self.isa, Rows::packed(gate, width), Rows::packed(up, width), width, &mut y);
                Ok(())
            })
        })?;
        tensor(y, gate.dims())
    }
}

/// A tensor that takes the values over.
fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Lends a tensor's values, row-major.
fn with<T: Value, R>(x: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("a tensor in the processor's memory is needed") };
    let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("a contiguous tensor is needed") };
    f(&T::values(storage)?[start..end])
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
