//! The backward half of the seam: what training needs besides a forward pass.
//!
//! Weights are frozen, so nothing here is a gradient of one, but for the low-rank factors of adapters. Each method
//! takes what the forward method read; none needs what it wrote.

use super::{AttentionShape, Packing, Turned};
use crate::model::cpu;
use candle_core::{Result, Tensor};
use std::fmt::Debug;
use std::sync::Arc;

/// Gradients of [`Kernels`](super::Kernels). They have the type of activations.
pub trait Backward {
    /// `residual` plus the gradient of `rms_norm(x)`'s input, given that of its output.
    fn rms_norm_backward(&self, x: &Tensor, weight: &Tensor, eps: f32, dy: &Tensor, residual: Tensor)
    -> Result<Tensor>;

    /// The gradient of `qkv`, as [`Kernels::attention`](super::Kernels::attention) takes it, given that of the result. Each
    /// run is a whole sequence.
    fn attention_backward(
        &self,
        qkv: &Tensor,
        turned: Turned<'_>,
        shape: &AttentionShape,
        packing: &Packing,
        d_out: &Tensor,
    ) -> Result<Tensor>;

    /// The gradient of gate and up side by side, given that of `silu(gate) * up`.
    fn swiglu_backward(&self, gate_up: &Tensor, d_out: &Tensor) -> Result<Tensor>;

    /// Takes the factors of a low-rank update of a linear layer: A `[rank, in]` and B `[out, rank]`, row-major.
    fn low_rank(&self, a: &[f32], b: &[f32], rank: usize, scale: f32) -> Result<Arc<dyn LowRankUpdate>>;

    /// `x` with some values zero and the others larger, so that each keeps its mean.
    fn dropout(&self, x: &Tensor, dropout: &Dropout<'_>) -> Result<Tensor>;
}

/// `scale * (x Aᵀ) Bᵀ`, which an adapter adds to a frozen layer's outputs; computed in float32.
pub trait LowRankUpdate: Debug + Send + Sync {
    /// `y` `[tokens, width]` with the update added to its columns from `column` on. `y` may be changed in place.
    fn add(&self, x: &Tensor, y: Tensor, column: usize) -> Result<Tensor>;

    /// Given the inputs and the gradient of [`LowRankUpdate::add`]'s result: adds the factors' gradients to `gradient`,
    /// and that of the inputs to `dx` if there is one.
    fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        column: usize,
        packing: &Packing,
        gradient: cpu::LowRankGradient<'_>,
        dx: Option<Tensor>,
    ) -> Result<Option<Tensor>>;
}

/// Which values are dropped: a function of a key, of the token, and of the place in its row, so that it does not depend
/// on packing, threads, device, or on how often it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Dropout<'a> {
    /// The probability with which a value is dropped, in [0, 1).
    pub probability: f32,
    pub key: u64,
    /// A number for each token.
    pub tokens: &'a [u64],
}

impl Dropout<'_> {
    /// What the values of a token's row are multiplied by.
    pub fn factors(&self, token: usize, factors: &mut [f32]) {
        let threshold = (f64::from(self.probability) * 65536.0).round() as u64;
        let kept = 1.0 / (1.0 - self.probability);
        let seed = mix(self.key ^ mix(self.tokens[token]));
        for (i, four) in factors.chunks_mut(4).enumerate() {
            let bits = mix(seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            for (j, factor) in four.iter_mut().enumerate() {
                *factor = if bits >> (16 * j) & 0xffff < threshold { 0.0 } else { kept };
            }
        }
    }
}

/// The finaliser of SplitMix64.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
