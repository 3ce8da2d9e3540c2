//! The backward half, counted.

use super::{Measured, Meters};
use crate::model::cpu::LowRankGradient;
use crate::model::kernels::{AttentionShape, Backward, Dropout, LowRankUpdate, Packing, Turned};
use candle_core::{Result, Tensor};
use std::sync::Arc;

impl Backward for Measured {
    fn rms_norm_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
        dy: &Tensor,
        residual: Tensor,
    ) -> Result<Tensor> {
        let work = || self.kernels.rms_norm_backward(x, weight, eps, dy, residual);
        self.meters.elementwise.time(0, work)
    }

    fn attention_backward(
        &self,
        qkv: &Tensor,
        turned: Turned<'_>,
        shape: &AttentionShape,
        packing: &Packing,
        d_out: &Tensor,
    ) -> Result<Tensor> {
        // Five products where the forward pass has two.
        let operations = super::attention_operations(shape, packing) / 2 * 5;
        let work = || self.kernels.attention_backward(qkv, turned, shape, packing, d_out);
        self.meters.attention.time(operations, work)
    }

    fn swiglu_backward(&self, gate_up: &Tensor, d_out: &Tensor) -> Result<Tensor> {
        self.meters.elementwise.time(0, || self.kernels.swiglu_backward(gate_up, d_out))
    }

    fn low_rank(&self, a: &[f32], b: &[f32], rank: usize, scale: f32) -> Result<Arc<dyn LowRankUpdate>> {
        let update = self.kernels.low_rank(a, b, rank, scale)?;
        Ok(Arc::new(MeasuredUpdate { update, meters: self.meters.clone(), values: a.len() + b.len() }))
    }

    fn dropout(&self, x: &Tensor, dropout: &Dropout<'_>) -> Result<Tensor> {
        self.meters.elementwise.time(0, || self.kernels.dropout(x, dropout))
    }
}

#[derive(Debug)]
struct MeasuredUpdate {
    update: Arc<dyn LowRankUpdate>,
    meters: Arc<Meters>,
    /// Of both factors.
    values: usize,
}

impl LowRankUpdate for MeasuredUpdate {
    fn add(&self, x: &Tensor, y: Tensor, column: usize) -> Result<Tensor> {
        let operations = 2 * x.dim(0)? * self.values;
        self.meters.products.time(operations as u64, || self.update.add(x, y, column))
    }

    fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        column: usize,
        packing: &Packing,
        gradient: LowRankGradient<'_>,
        dx: Option<Tensor>,
    ) -> Result<Option<Tensor>> {
        // Both low sides, both gradients, and half of that again for the inputs.
        let operations = x.dim(0)? * self.values * if dx.is_some() { 5 } else { 4 };
        let work = || self.update.backward(x, dy, column, packing, gradient, dx);
        self.meters.products.time(operations as u64, work)
    }
}
