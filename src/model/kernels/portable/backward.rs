//! Gradients out of the tensor library's operations.

use super::groups::{self, Group};
use super::{
    Linear, Portable, QUERY_BLOCK, Weight, causal_mask, nll_and_softmax, read, rotary, side_by_side, unpacked,
};
use crate::model::cpu::LowRankGradient;
use crate::model::kernels::{Angles, AttentionShape, Backward, Dropout, Kernels, LowRankUpdate, Packing, Turned};
use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

impl Linear {
    pub(super) fn input_gradient(&self, dy: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Transposed(w) => dy.matmul(&w.t()?),
            Weight::Quantized(parts) | Weight::Unpacked(parts) => dy.matmul(&unpacked(parts)?),
        }
    }

    pub(super) fn label_gradient(&self, hidden: &Tensor, labels: &[u32], weight: f32) -> Result<(Vec<f32>, Tensor)> {
        use crate::model::kernels::FrozenLinear;
        let rows = self.label_rows();
        let (mut nll, mut gradients) = (Vec::new(), Vec::new());
        for (nth, chunk) in labels.chunks(rows).enumerate() {
            let hidden = hidden.narrow(0, nth * rows, chunk.len())?;
            let logits = self.forward(&hidden)?.to_dtype(DType::F32)?;
            let places = Tensor::new(chunk, logits.device())?.unsqueeze(1)?;
            let (own, [weights, sum]) = nll_and_softmax(&logits, &places)?;
            nll.push(own);
            let minus_one = Tensor::full(-1f32, places.shape(), logits.device())?;
            let d = weights.broadcast_div(&sum)?.scatter_add(&places, &minus_one, 1)?;
            gradients.push(self.input_gradient(&(d * f64::from(weight))?.to_dtype(hidden.dtype())?)?);
        }
        if gradients.is_empty() {
            return Ok((Vec::new(), hidden.zeros_like()?));
        }
        Ok((read(nll)?, side_by_side(gradients, 0)?))
    }
}

impl Backward for Portable {
    fn rms_norm_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
        dy: &Tensor,
        residual: Tensor,
    ) -> Result<Tensor> {
        residual + norm_backward(x, weight, eps, dy)?
    }

    fn attention_backward(
        &self,
        qkv: &Tensor,
        turned: Turned<'_>,
        shape: &AttentionShape,
        packing: &Packing,
        d_out: &Tensor,
    ) -> Result<Tensor> {
        let AttentionShape { heads, key_value_heads: kv_heads, head_dim, .. } = *shape;
        let tokens = qkv.dim(0)?;
        let part = |first: usize, count: usize| {
            qkv.narrow(1, first * head_dim, count * head_dim)?.reshape((tokens, count, head_dim))
        };
        let turn = |x: &Tensor, norm: Option<&Tensor>| match norm {
            Some(weight) => rotary(&self.rms_norm(x, weight, turned.eps)?, turned.angles),
            None => rotary(x, turned.angles),
        };
        let norms = (turned.norms.map(|n| n.0), turned.norms.map(|n| n.1));
        let (raw_q, raw_k) = (part(0, heads)?, part(heads, kv_heads)?);
        let (q, k, v) = (turn(&raw_q, norms.0)?, turn(&raw_k, norms.1)?, part(heads + kv_heads, kv_heads)?);
        let d_out = d_out.reshape((tokens, heads, head_dim))?;
        let mut gradients: [Vec<Tensor>; 3] = Default::default();
        let groups = Group::of(packing, heads)?;
        for group in &groups {
            let rows = |t: &Tensor| group.gather(t);
            let wide = AttentionShape { heads: heads * group.len(), key_value_heads: kv_heads * group.len(), ..*shape };
            let own = attend_backward(&rows(&q)?, &rows(&k)?, &rows(&v)?, &rows(&d_out)?, &wide)?;
            for (all, own) in gradients.iter_mut().zip(own) {
                all.push(own.flatten_to(1)?);
            }
        }
        let [dq, dk, dv] = gradients.map(|parts| groups::back(&groups, side_by_side(parts, 0)?, tokens));
        let inverse = inverse(turned.angles)?;
        let back = |x: &Tensor, d: Tensor, norm: Option<&Tensor>| {
            let d = rotary(&d, &inverse)?;
            match norm {
                Some(weight) => norm_backward(x, weight, turned.eps, &d),
                None => Ok(d),
            }
        };
        let parts = [back(&raw_q, dq?, norms.0)?, back(&raw_k, dk?, norms.1)?, dv?];
        let flat: Vec<Tensor> = parts.iter().map(|d| d.flatten_from(1)).collect::<Result<_>>()?;
        side_by_side(flat, 1)
    }

    fn swiglu_backward(&self, gate_up: &Tensor, d_out: &Tensor) -> Result<Tensor> {
        let width = gate_up.dim(1)? / 2;
        let half = |from| gate_up.narrow(1, from, width)?.to_dtype(DType::F32);
        let (gate, up, d) = (half(0)?, half(width)?, d_out.to_dtype(DType::F32)?);
        let p = candle_nn::ops::sigmoid(&gate)?;
        let slope = (&p * ((&gate * p.affine(-1.0, 1.0)?)? + 1.0)?)?;
        let d_gate = ((&d * &up)? * slope)?;
        let d_up = (d * (gate * p)?)?;
        Tensor::cat(&[d_gate, d_up], 1)?.to_dtype(gate_up.dtype())
    }

    fn low_rank(&self, a: &[f32], b: &[f32], rank: usize, scale: f32) -> Result<Arc<dyn LowRankUpdate>> {
        let a = Tensor::from_slice(a, (rank, a.len() / rank), &self.device)?;
        let b = Tensor::from_slice(b, (b.len() / rank, rank), &self.device)?;
        Ok(Arc::new(Update { a, b, scale: f64::from(scale) }))
    }

    fn dropout(&self, x: &Tensor, dropout: &Dropout<'_>) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let mut factors = vec![0.0; tokens * width];
        let rows = factors.par_chunks_exact_mut(width.max(1)).enumerate();
        rows.for_each(|(token, factors)| dropout.factors(token, factors));
        x * Tensor::from_vec(factors, (tokens, width), &Device::Cpu)?.to_device(x.device())?.to_dtype(x.dtype())?
    }
}

/// The gradient of an RMS norm's input over the last dimension, as `cpu::rms_norm_backward` has it.
fn norm_backward(x: &Tensor, weight: &Tensor, eps: f32, dy: &Tensor) -> Result<Tensor> {
    let dtype = x.dtype();
    let (x, dy) = (x.to_dtype(DType::F32)?, dy.to_dtype(DType::F32)?);
    let mean = |t: Tensor| t.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64;
    let scale = (mean(x.sqr()?)? + f64::from(eps))?.sqrt()?.recip()?;
    let g = dy.broadcast_mul(weight)?;
    let shift = (mean((&g * &x)?)? * (scale.sqr()? * &scale)?)?;
    (g.broadcast_mul(&scale)? - x.broadcast_mul(&shift)?)?.to_dtype(dtype)
}

/// The angles turned back.
fn inverse(angles: &Angles) -> Result<Angles> {
    let Angles::Tensors { cos, sin } = angles else { candle_core::bail!("angles of other kernels") };
    Ok(Angles::Tensors { cos: cos.clone(), sin: sin.neg()? })
}

/// Gradients of queries, keys and values of sequences of one length, all `[heads, tokens, head_dim]`; a block of queries
/// at a time. Several sequences are one with more heads.
fn attend_backward(q: &Tensor, k: &Tensor, v: &Tensor, d_out: &Tensor, shape: &AttentionShape) -> Result<[Tensor; 3]> {
    let (heads, tokens, dim) = q.dims3()?;
    let (kv_heads, group) = (shape.key_value_heads, heads / shape.key_value_heads);
    let mut d_queries = Vec::with_capacity(tokens.div_ceil(QUERY_BLOCK));
    let (mut dk, mut dv) = (k.zeros_like()?.to_dtype(DType::F32)?, v.zeros_like()?.to_dtype(DType::F32)?);
    for start in (0..tokens).step_by(QUERY_BLOCK) {
        let rows = (tokens - start).min(QUERY_BLOCK);
        let first = shape.window.map_or(0, |w| (start + 1).saturating_sub(w));
        let columns = start + rows - first;
        let block = |t: &Tensor| t.narrow(1, start, rows)?.reshape((kv_heads, group * rows, dim));
        let (queries, d_out) = (block(q)?, block(d_out)?);
        let keys = k.narrow(1, first, columns)?.contiguous()?;
        let values = v.narrow(1, first, columns)?.contiguous()?;
        let scores = (queries.matmul(&keys.t()?)? * shape.scale())?;
        let mask = causal_mask(start..start + rows, first..start + rows, shape.window, q.device())?;
        let scores = scores.reshape((heads, rows, columns))?.to_dtype(DType::F32)?.broadcast_add(&mask)?;
        let p = candle_nn::ops::softmax_last_dim(&scores)?.reshape((kv_heads, group * rows, columns))?;
        let dp = d_out.matmul(&values.t()?)?.to_dtype(DType::F32)?;
        let mean = (&p * &dp)?.sum_keepdim(D::Minus1)?;
        let slopes = ((&p * dp.broadcast_sub(&mean)?)? * shape.scale())?.to_dtype(q.dtype())?;
        let dq = slopes.matmul(&keys)?;
        d_queries.push(dq.reshape((heads, rows, dim))?);
        let p = p.to_dtype(q.dtype())?;
        let add = |sum: &Tensor, own: Tensor| {
            let own = own.to_dtype(DType::F32)?;
            let own = own.pad_with_zeros(1, first, tokens - first - columns)?;
            sum + own
        };
        dk = add(&dk, slopes.t()?.contiguous()?.matmul(&queries)?)?;
        dv = add(&dv, p.t()?.contiguous()?.matmul(&d_out)?)?;
    }
    Ok([side_by_side(d_queries, 1)?, dk.to_dtype(k.dtype())?, dv.to_dtype(v.dtype())?])
}

#[derive(Debug)]
struct Update {
    /// `[rank, in]`
    a: Tensor,
    /// `[out, rank]`
    b: Tensor,
    scale: f64,
}

impl LowRankUpdate for Update {
    fn add(&self, x: &Tensor, y: Tensor, column: usize) -> Result<Tensor> {
        let low = (x.to_dtype(DType::F32)?.matmul(&self.a.t()?)? * self.scale)?;
        add_columns(y, low.matmul(&self.b.t()?)?, column)
    }

    fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        column: usize,
        _: &Packing,
        gradient: LowRankGradient<'_>,
        dx: Option<Tensor>,
    ) -> Result<Option<Tensor>> {
        let x = x.to_dtype(DType::F32)?;
        let dy = dy.narrow(1, column, self.b.dim(0)?)?.to_dtype(DType::F32)?.contiguous()?;
        let low_x = (x.matmul(&self.a.t()?)? * self.scale)?;
        let low_dy = (dy.matmul(&self.b)? * self.scale)?;
        // Read at once: each time, a GPU is waited for.
        let own = [low_dy.t()?.matmul(&x)?.flatten_all()?, dy.t()?.matmul(&low_x)?.flatten_all()?];
        let own = Tensor::cat(&own, 0)?.to_vec1::<f32>()?;
        gradient.a.iter_mut().chain(gradient.b).zip(own).for_each(|(sum, own)| *sum += own);
        dx.map(|dx| add_columns(dx, low_dy.matmul(&self.a)?, 0)).transpose()
    }
}

/// `y` with float32 values added to its columns from `column` on.
fn add_columns(y: Tensor, delta: Tensor, column: usize) -> Result<Tensor> {
    let delta = delta.to_dtype(y.dtype())?;
    let (width, own) = (y.dim(1)?, delta.dim(1)?);
    if own == width {
        return y + delta;
    }
    y + delta.pad_with_zeros(1, column, width - column - own)?
}
