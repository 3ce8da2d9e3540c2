//! Gradients by our own kernels.

use super::{Linear, Native, copied, made_of, tensor, with};
use crate::model::cpu::{self, Heads, Isa, LowRank, LowRankGradient};
use crate::model::kernels::{Angles, AttentionShape, Backward, Dropout, LowRankUpdate, Packing, Turned};
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

impl Linear {
    fn transposed(&self) -> &cpu::PackedLinear {
        self.transposed.get_or_init(|| self.packed.transposed())
    }

    pub(super) fn input_gradient(&self, dy: &Tensor) -> Result<Tensor> {
        let (rows, _) = dy.dims2()?;
        let product = |dy: &[f32], dx: &mut [f32]| self.transposed().forward(self.isa, dy, rows, dx);
        // SAFETY: a product assigns all its outputs.
        let dx = unsafe { made_of(dy, rows * self.packed.inner(), product) }?;
        tensor(dx, (rows, self.packed.inner()))
    }

    pub(super) fn label_gradient(&self, hidden: &Tensor, labels: &[u32], weight: f32) -> Result<(Vec<f32>, Tensor)> {
        let mut nll = vec![0.0; labels.len()];
        let mut d = vec![0.0; hidden.elem_count()];
        with(hidden, |hidden| {
            let transposed = self.transposed();
            cpu::label_nll_backward(self.isa, hidden, &self.packed, transposed, labels, weight, &mut nll, &mut d);
            Ok(())
        })?;
        Ok((nll, tensor(d, hidden.dims())?))
    }
}

impl Backward for Native {
    fn rms_norm_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
        dy: &Tensor,
        residual: Tensor,
    ) -> Result<Tensor> {
        with(x, |x: &[f32]| {
            with(weight, |weight: &[f32]| {
                with(dy, |dy: &[f32]| {
                    change(residual, |dx| {
                        cpu::rms_norm_backward(self.isa, x, weight, eps, dy, dx);
                        Ok(())
                    })
                })
            })
        })
    }

    fn attention_backward(
        &self,
        qkv: &Tensor,
        turned: Turned<'_>,
        shape: &AttentionShape,
        packing: &Packing,
        d_out: &Tensor,
    ) -> Result<Tensor> {
        let sequences = whole_sequences(packing)?;
        let d = with(qkv, |raw: &[f32]| {
            let mut qkv = copied(raw)?;
            self.turn(&mut qkv, turned, shape)?;
            let mut d = vec![0.0; qkv.len()];
            with(d_out, |d_out| {
                cpu::attention_backward(self.isa, &shape.attention(), &qkv, d_out, &sequences, &mut d);
                Ok(())
            })?;
            self.turn_back(raw, &mut d, turned, shape)?;
            Ok(d)
        })?;
        tensor(d, qkv.dims())
    }

    fn swiglu_backward(&self, gate_up: &Tensor, d_out: &Tensor) -> Result<Tensor> {
        let (_, width) = d_out.dims2()?;
        let mut d = vec![0.0; gate_up.elem_count()];
        with(gate_up, |gate_up| {
            with(d_out, |d_out| {
                cpu::swiglu_backward(self.isa, gate_up, width, d_out, &mut d);
                Ok(())
            })
        })?;
        tensor(d, gate_up.dims())
    }

    fn low_rank(&self, a: &[f32], b: &[f32], rank: usize, scale: f32) -> Result<Arc<dyn LowRankUpdate>> {
        Ok(Arc::new(Update { factors: LowRank::new(a, b, rank, scale), isa: self.isa }))
    }

    fn dropout(&self, x: &Tensor, dropout: &Dropout<'_>) -> Result<Tensor> {
        let (_, width) = x.dims2()?;
        let mut y = with(x, copied)?;
        y.par_chunks_exact_mut(width.max(1)).enumerate().with_min_len(32).for_each_init(
            || vec![0.0; width],
            |factors, (token, row)| {
                dropout.factors(token, factors);
                row.iter_mut().zip(factors).for_each(|(y, f)| *y *= *f);
            },
        );
        tensor(y, x.dims())
    }
}

impl Native {
    /// Turns gradients of turned and normed queries and keys into those of `raw` ones, in place.
    fn turn_back(&self, raw: &[f32], d: &mut [f32], turned: Turned<'_>, shape: &AttentionShape) -> Result<()> {
        let AttentionShape { heads, key_value_heads, head_dim: dim, .. } = *shape;
        let stride = shape.qkv_width();
        let Angles::Native(rotary) = turned.angles else { candle_core::bail!("angles of other kernels") };
        rotary.inverse().apply(self.isa, d, Heads { stride, offset: 0, count: heads + key_value_heads, dim });
        if let Some((query_norm, key_norm)) = turned.norms {
            let queries = Heads { stride, offset: 0, count: heads, dim };
            let keys = Heads { stride, offset: heads * dim, count: key_value_heads, dim };
            for (weight, heads) in [(query_norm, queries), (key_norm, keys)] {
                with(weight, |weight| {
                    cpu::rms_norm_heads_backward(self.isa, raw, heads, weight, turned.eps, d);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}

/// The rows of each sequence.
fn whole_sequences(packing: &Packing) -> Result<Vec<Range<usize>>> {
    if packing.runs().iter().any(|run| run.start > 0) {
        candle_core::bail!("gradients are computed of whole sequences");
    }
    Ok(packing.runs().iter().map(|run| run.rows.clone()).collect())
}

#[derive(Debug)]
struct Update {
    factors: LowRank,
    isa: Isa,
}

impl LowRankUpdate for Update {
    fn add(&self, x: &Tensor, y: Tensor, column: usize) -> Result<Tensor> {
        let (rows, width) = y.dims2()?;
        with(x, |x: &[f32]| {
            change(y, |y| {
                self.factors.add(self.isa, x, rows, y, width, column);
                Ok(())
            })
        })
    }

    fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        column: usize,
        packing: &Packing,
        mut gradient: LowRankGradient<'_>,
        dx: Option<Tensor>,
    ) -> Result<Option<Tensor>> {
        let (_, width) = dy.dims2()?;
        let sequences = whole_sequences(packing)?;
        with(x, |x: &[f32]| {
            with(dy, |dy: &[f32]| {
                let mut backward = |dx: Option<&mut [f32]>| {
                    self.factors.backward(self.isa, x, dy, width, column, &sequences, &mut gradient, dx);
                };
                match dx {
                    Some(dx) => change(dx, |dx| {
                        backward(Some(dx));
                        Ok(())
                    })
                    .map(Some),
                    None => {
                        backward(None);
                        Ok(None)
                    }
                }
            })
        })
    }
}

/// Changes a tensor's values in place, which no other tensor shares.
pub(super) fn change(x: Tensor, f: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<Tensor> {
    struct Change<F>(RefCell<Option<F>>);
    impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for Change<F> {
        fn name(&self) -> &'static str {
            "change"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let CpuStorage::F32(values) = storage else { candle_core::bail!("a tensor of float32 is needed") };
            let Some((start, end)) = layout.contiguous_offsets() else {
                candle_core::bail!("a contiguous tensor is needed")
            };
            match self.0.take() {
                Some(f) => f(&mut values[start..end]),
                None => candle_core::bail!("a tensor is changed once"),
            }
        }
    }
    x.inplace_op1(&Change(RefCell::new(Some(f))))?;
    Ok(x)
}
