//! Kernels for the processor, on plain slices.
//!
//! Every kernel is row-invariant by construction: the bits of an output row depend on that row's inputs
//! and the weights alone, never on how many rows there are, how they are packed, or how many threads work.
//!
//! In f32 the portable, AVX2 and AVX-512 paths give the same bits too: all is written once against 16 lanes
//! (`simd.rs`), each sum in a fixed order of fused multiply-adds. `Format::Bf16` is the exception: its sums are the
//! unit's own (AMX, AVX-512 BF16, or f32 where there is none), the same for a row on any machine with that unit.
//!
//! Products with quantised weights (`quant`) sum integers, which is exact, and floats in a fixed order: the same bits on
//! every path, too.
//!
//! The unit tests run every path that the machine has. The AVX-512 and AMX paths were checked instruction by
//! instruction in emulators, which says that they are right and nothing about their speed; the rounding of inputs by
//! AVX-512 BF16 (`pairs.rs`) has not been executed anywhere yet.
//!
//! Work is shared among the threads of the rayon pool that the caller is in.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod attention_backward;
mod bf16;
mod cache;
mod cross_entropy;
mod gradients;
mod isa;
mod linear;
mod lora;
mod nll;
mod pairs;
mod panels;
mod product;
mod quant;
mod rows;
mod simd;
#[cfg(test)]
mod testing;
mod tile;

pub use attention::{Attention, Queries};
pub use attention_backward::attention_backward;
pub use bf16::round_heads;
pub use cache::{CacheFormat, KvCache};
pub use cross_entropy::label_nll_backward;
pub use gradients::{rms_norm_backward, rms_norm_heads_backward, swiglu_backward};
pub use isa::{Isa, IsaError, KERNEL_VARIABLE, Path};
pub use linear::PackedLinear;
pub use lora::{LowRank, LowRankGradient};
pub use nll::{label_nll, log_sum_exp};
pub use panels::Format;
pub use product::{Product, ProductBlock};
pub use quant::{QuantMatrix, QuantType, QuantizedLinear};
pub use rows::{Heads, Rotary, RotaryLayout, Rows, add_rms_norm, rms_norm, rms_norm_heads, swiglu};
