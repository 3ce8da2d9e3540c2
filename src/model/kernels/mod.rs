//! The seam between the decoder and the machine: frozen linear layer, attention, norm, rotary, SwiGLU, and the
//! negative log-likelihood of labels.
//!
//! On a processor it is [`Native`], our own kernels of [`cpu`]; on other devices [`Portable`], made of the tensor
//! library's operations.
//!
//! The decoder is written against [`Kernels`] and [`FrozenLinear`]; which implementation it gets is decided when
//! a model is loaded. Weights never change after loading, so an implementation may keep them in whatever layout
//! suits its matrix product.

mod backward;
mod native;
mod packing;
mod portable;

pub use backward::{Backward, Dropout, LowRankUpdate};
pub use native::Native;
pub(in crate::model) use native::quant_type;
pub use packing::{Forest, Packing, Run, common};
pub use portable::{Portable, Rows};

use super::cpu::{self, KvCache};
use super::files::Precision;
use super::weights::Matrix;
use crate::exec::RunError;
use candle_core::{DType, Device, Result, Tensor};
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

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

impl AttentionShape {
    /// As our own kernels want it.
    pub fn attention(&self) -> cpu::Attention {
        let AttentionShape { heads, key_value_heads: kv_heads, head_dim, window } = *self;
        cpu::Attention { heads, kv_heads, head_dim, scale: self.scale() as f32, window }
    }

    /// Where queries, keys and values of a token begin.
    pub fn columns(&self) -> [usize; 3] {
        let keys = self.heads * self.head_dim;
        [0, keys, keys + self.key_value_heads * self.head_dim]
    }

    /// Queries, keys and values of a token side by side.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.key_value_heads) * self.head_dim
    }
}

/// What attention does to queries and keys before it compares them.
#[derive(Debug, Clone, Copy)]
pub struct Turned<'a> {
    /// Weights `[head_dim]` of the norms of every query head and key head, in models that have them.
    pub norms: Option<(&'a Tensor, &'a Tensor)>,
    pub eps: f32,
    pub angles: &'a Angles,
}

/// Keys and values of one sequence in one layer.
#[derive(Debug, Clone)]
pub enum LayerCache {
    Native(KvCache),
    /// `[key_value_heads, positions, head_dim]` each, `None` before the first token.
    Tensors(Option<(Tensor, Tensor)>),
    Rows(Rows),
}

/// Keys and values of a sequence in all layers: what later passes go on from. A clone shares its memory.
#[derive(Debug, Clone)]
pub struct Sequence {
    pub(crate) layers: Vec<LayerCache>,
    pub(crate) len: usize,
}

impl Sequence {
    /// Number of tokens that it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all tokens from `len` on, to go on from there.
    ///
    /// # Panics
    /// If there are fewer tokens.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        assert!(len <= self.len, "{len} of {} tokens", self.len);
        let mut rows = Vec::new();
        for layer in &mut self.layers {
            match layer {
                LayerCache::Native(cache) => cache.truncate(len),
                LayerCache::Rows(own) => rows.push(own),
                LayerCache::Tensors(cache) => {
                    if let Some((keys, values)) = cache.take().filter(|_| len > 0) {
                        *cache = Some((keys.narrow(1, 0, len)?, values.narrow(1, 0, len)?));
                    }
                }
            }
        }
        Rows::truncate(rows, len);
        self.len = len;
        Ok(())
    }

    /// Bytes that appending so many tokens will take.
    pub fn growth(&self, tokens: usize) -> u64 {
        let layer = |layer: &LayerCache| match layer {
            LayerCache::Native(cache) => cache.growth(tokens),
            LayerCache::Tensors(cache) => cache.as_ref().map_or(0, |pair| tensor_bytes(pair) / self.len * tokens),
            LayerCache::Rows(rows) => rows.row_bytes() * tokens,
        };
        self.layers.iter().map(|l| layer(l) as u64).sum()
    }
}

/// Bytes that sequences hold together: what they share is counted once.
pub fn memory<'a>(sequences: impl Iterator<Item = &'a Sequence>) -> u64 {
    let mut pages = HashSet::new();
    let (mut bytes, mut rows, mut row_bytes) = (0, Vec::new(), 0);
    for sequence in sequences {
        // What is shared in one layer is shared in all.
        bytes += match sequence.layers.first() {
            Some(LayerCache::Native(cache)) => {
                let new = cache.page_addresses().filter(|page| pages.insert(*page)).count();
                new * cache.page_bytes() * sequence.layers.len()
            }
            Some(LayerCache::Tensors(Some(pair))) => tensor_bytes(pair) * sequence.layers.len(),
            Some(LayerCache::Rows(first)) => {
                first.mark(&mut rows);
                row_bytes = sequence.growth(1);
                0
            }
            Some(LayerCache::Tensors(None)) | None => 0,
        } as u64;
    }
    bytes + row_bytes * rows.into_iter().filter(|named| *named).count() as u64
}

fn tensor_bytes((keys, values): &(Tensor, Tensor)) -> usize {
    [keys, values].iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
}

/// One of the matrices `[out, in]` of a linear layer, with its bias `[out]`, float32.
pub struct Part {
    pub matrix: Matrix,
    pub bias: Option<Tensor>,
}

/// A linear layer whose weights never change: `x` `[tokens, in]` to `[tokens, out]`.
pub trait FrozenLinear: Debug + Send + Sync {
    fn forward(&self, x: &Tensor) -> Result<Tensor>;

    /// [`Kernels::swiglu`] of what `forward` gives, which is never in memory as a whole; nothing from layers that compute
    /// the one after the other.
    fn gated(&self, _x: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The weights `[outputs, in]` of some outputs: where a head is the embedding table as well, the same memory serves
    /// both.
    fn rows(&self, outputs: &[u32]) -> Result<Tensor>;

    /// `-log softmax(forward(hidden))[label]` for each row of `hidden` `[labels, in]`, without ever holding the logits
    /// of more than a bounded number of rows. The softmax is taken in float32 or better.
    fn label_nll(&self, hidden: &Tensor, labels: &[u32]) -> Result<Vec<f32>>;

    /// The gradient of the inputs, `dx = dy W`, from that of the outputs: `[tokens, out]` to `[tokens, in]`.
    fn backward(&self, _dy: &Tensor) -> Result<Tensor> {
        candle_core::bail!("these weights cannot be trained through")
    }

    /// What [`FrozenLinear::label_nll`] gives, and `weight` times its gradient: `[labels, in]`.
    fn label_nll_backward(&self, _hidden: &Tensor, _labels: &[u32], _weight: f32) -> Result<(Vec<f32>, Tensor)> {
        candle_core::bail!("these weights cannot be trained through")
    }
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
pub trait Kernels: Backward + Debug + Send + Sync {
    /// For logs and benchmarks.
    fn name(&self) -> &'static str;

    /// The type of activations.
    fn activations(&self) -> DType;

    /// Whether each token's results are, bit for bit, the same whatever other sequences are packed beside its own.
    /// The scorer runs one sequence at a time where they are not.
    fn batch_invariant(&self) -> bool;

    /// Told of every layer's attention before it is used.
    fn prepare(&self, _: &AttentionShape) -> Result<()> {
        Ok(())
    }

    /// Takes the matrices of a linear layer in the layout that [`FrozenLinear::forward`] wants. The outputs of the
    /// parts stand side by side: one product where several layers read the same input.
    fn linear(&self, parts: Vec<Part>) -> Result<Arc<dyn FrozenLinear>>;

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

    /// An empty sequence's keys and values in one layer, by the layer's number.
    fn cache(&self, layer: usize, shape: &AttentionShape) -> LayerCache;

    /// Causal attention. `qkv` `[tokens, (heads + 2 key_value_heads) * head_dim]` holds each token's queries, keys and
    /// values, in memory of its own, which is changed; queries and keys are normed and turned by their angles first. A token sees its run's tokens
    /// up to itself, those of the runs before it, and what `kept` holds. The result is `[tokens, heads * head_dim]`.
    ///
    /// `kept` is empty, or has one entry per run: where there is one, it holds the run's sequence up to the run
    /// (nothing yet, if the run has a parent in this pass) and afterwards also the run.
    fn attention(
        &self,
        qkv: Tensor,
        turned: Turned<'_>,
        shape: &AttentionShape,
        packing: &Packing,
        kept: &mut [Option<&mut LayerCache>],
    ) -> Result<Tensor>;

    /// `silu(gate) * up` of gate and up side by side: `[tokens, 2 * width]` to `[tokens, width]`.
    fn swiglu(&self, gate_up: &Tensor) -> Result<Tensor>;
}

/// The implementation for a device and a number format.
pub fn select(device: &Device, precision: Precision) -> std::result::Result<Arc<dyn Kernels>, RunError> {
    if !device.is_cpu() {
        return Ok(Arc::new(Portable::new(device, precision)));
    }
    let isa = cpu::Isa::from_env().map_err(|e| {
        RunError::failed("kernels", e.to_string()).help(format!("`{}` chooses among them", cpu::KERNEL_VARIABLE))
    })?;
    Ok(Arc::new(Native::new(isa, precision)))
}
