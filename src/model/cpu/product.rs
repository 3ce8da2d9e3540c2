//! What a product with frozen weights is to those who use its outputs block by block.

use super::Isa;
use std::ops::Range;

/// A product `x Wᵀ (+ bias)` with frozen weights `[out, inner]`.
pub trait Product: Sync {
    /// Number of outputs.
    fn out(&self) -> usize;

    /// Number of inputs.
    fn inner(&self) -> usize;

    /// `y = x Wᵀ + bias`; x is `[m, inner]`, y `[m, out]`, row-major.
    ///
    /// # Panics
    /// If x or y has another length.
    fn forward(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32]);

    /// Computes the outputs of `x` `[m, inner]` block by block, in any order and on several threads. Each block is
    /// handed to `consume` and then forgotten. Of one matrix, blocks begin at multiples of `16 * chunk` columns.
    ///
    /// # Panics
    /// If x has another length.
    fn for_each_block(&self, isa: Isa, x: &[f32], m: usize, chunk: usize, consume: impl Fn(ProductBlock<'_>) + Sync);
}

/// A part of a product.
pub struct ProductBlock<'a> {
    /// Rows of the whole product.
    pub rows: Range<usize>,
    /// Columns of the whole product.
    pub columns: Range<usize>,
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
}

impl ProductBlock<'_> {
    /// The block's columns of a row of the whole product.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[(row - self.rows.start) * self.stride..][..self.columns.len()]
    }
}
