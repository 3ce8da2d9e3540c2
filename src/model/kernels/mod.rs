//! The seam between the decoder and the machine: frozen linear layer, attention, norm, rotary, SwiGLU, and the
//! negative log-likelihood of labels.
//!
//! On a processor it is [`Native`], our own kernels of [`cpu`]; on other devices, and for quantised weights,
//! [`Portable`], made of the tensor library's operations.
//!
//! The decoder is written against [`Kernels`] and [`FrozenLinear`]; which implementation it gets is decided when
//! a model is loaded. Weights never change after loading, so an implementation may keep them in whatever layout
//! suits its matrix product.

mod native;
mod portable;

pub use native::Native;
pub use portable::Portable;

use super::cpu;
use super::files::Precision;
use super::weights::Matrix;
use crate::exec::RunError;
use candle_core::{DType, Device, Result, Tensor};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// Sequences laid end to end, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packing {
    /// Where each sequence begins, and the end of the last.
    offsets: Vec<usize>,
}

impl Packing {
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        for length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        Self { offsets }
    }

    /// Number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.offsets[self.offsets.len() - 1]
    }

    /// The token ranges of the sequences.
    pub fn sequences(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|w| w[0]..w[1])
    }

    /// Each token's position in its sequence.
    pub fn positions(&self) -> Vec<u32> {
        self.sequences().flat_map(|s| 0..s.len() as u32).collect()
    }
}

/// The shape of a causal attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    pub heads: usize,
    pub key_value_heads: usize,
    pub head_dim: usize,
    /// How many positions a token sees, its own included; `None` sees all before it.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// What scores are multiplied with before the softmax.
    pub fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

/// A linear layer whose weights never change: `x` `[tokens, in]` to `[tokens, out]`.
pub trait FrozenLinear: Debug + Send + Sync {
    fn forward(&self, x: &Tensor) -> Result<Tensor>;

    /// `-log softmax(forward(hidden))[label]` for each row of `hidden` `[labels, in]`, without ever holding the logits
    /// of more than a bounded number of rows. The softmax is taken in float32 or better.
    fn label_nll(&self, hidden: &Tensor, labels: &[u32]) -> Result<Vec<f32>>;
}

/// Rotary angles of one batch's tokens.
#[derive(Debug)]
pub enum Angles {
    /// `[tokens, head_dim / 2]` in float32.
    Tensors {
        cos: Tensor,
        sin: Tensor,
    },
    Native(cpu::Rotary),
}

/// One implementation of everything that a decoder computes. Activations are `[tokens, width]`.
pub trait Kernels: Debug + Send + Sync {
    /// For logs and benchmarks.
    fn name(&self) -> &'static str;

    /// The type of activations.
    fn activations(&self) -> DType;

    /// Whether each token's results are, bit for bit, the same whatever other sequences are packed beside its own.
    /// The scorer runs one sequence at a time where they are not.
    fn batch_invariant(&self) -> bool;

    /// Takes the matrix of a linear layer in the layout that [`FrozenLinear::forward`] wants. `bias` has length `out`
    /// and is float32.
    fn linear(&self, matrix: Matrix, bias: Option<Tensor>) -> Result<Arc<dyn FrozenLinear>>;

    /// Angles for tokens at these positions: the float32 product of position and frequency.
    fn angles(&self, frequencies: &[f32], positions: &[u32]) -> Result<Angles>;

    /// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension, in float32; the result has `x`'s type.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor>;

    /// `x + delta`, and the norm of it.
    fn add_rms_norm(&self, x: &Tensor, delta: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
        let sum = (x + delta)?;
        let norm = self.rms_norm(&sum, weight, eps)?;
        Ok((sum, norm))
    }

    /// Turns each head's pairs `(i, i + head_dim / 2)` of `x` `[tokens, heads, head_dim]` by the token's angles.
    fn rotary(&self, x: &Tensor, angles: &Angles) -> Result<Tensor>;

    /// Causal attention within every sequence. `q` is `[tokens, heads, head_dim]`, `k` and `v`
    /// `[tokens, key_value_heads, head_dim]`; the result is `[tokens, heads * head_dim]`.
    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: &AttentionShape,
        packing: &Packing,
    ) -> Result<Tensor>;

    /// `silu(gate) * up`
    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor>;
}

/// The implementation for a device and a number format.
pub fn select(device: &Device, precision: Precision) -> std::result::Result<Arc<dyn Kernels>, RunError> {
    // Products with quantised weights are the tensor library's.
    if !device.is_cpu() || precision == Precision::Quantized {
        return Ok(Arc::new(Portable::new(device, precision)));
    }
    let isa = cpu::Isa::from_env().map_err(|e| {
        RunError::failed("kernels", e.to_string()).help(format!("`{}` chooses among them", cpu::KERNEL_VARIABLE))
    })?;
    Ok(Arc::new(Native::new(isa, precision)))
}
