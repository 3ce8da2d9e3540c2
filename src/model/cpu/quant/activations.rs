//! Activations as bytes: each row by itself, 32 values with a scale of their own.

use super::layout::BLOCK;
use crate::model::cpu::Isa;
use crate::model::cpu::linear::Target;
use crate::model::cpu::simd::{Kernel, Simd, dispatch};
use rayon::prelude::*;

/// Blocks whose greatest magnitude is below this (2^-100) count as zeros: the reciprocal of their scale may be infinite.
const TINY: f32 = 7.888_609e-31;
/// Adding 1.5 * 2^23 rounds a float32 to the nearest integer, ties to even, whose low byte then stands in the low bits.
const ROUNDING: f32 = 12_582_912.0;
/// Values below which rows are not worth waking other threads for.
const SERIAL: usize = 1 << 15;

/// Rows of bytes in [-127, 127] with their scales.
pub(crate) struct ByteRows {
    /// `[rows, inner]`.
    pub values: Vec<i8>,
    /// `[rows, inner / 32]`: a block's scale, and the product of the scale and the sum of the block's bytes.
    pub scales: Vec<[f32; 2]>,
}

impl ByteRows {
    /// Rounds rows of `inner` values; `inner` is a multiple of 32. A block with a value that is not finite has NaN for
    /// a scale.
    pub(crate) fn new(isa: Isa, x: &[f32], inner: usize) -> ByteRows {
        let blocks = x.len() / BLOCK;
        let (mut values, mut scales) = (Vec::with_capacity(x.len()), Vec::with_capacity(blocks));
        let rows = x.len() / inner.max(1);
        let (to, of) = (Target(values.as_mut_ptr()), Target(scales.as_mut_ptr()));
        let row = |row: usize| {
            let x = &x[row * inner..][..inner];
            // SAFETY: both vectors have room for all rows, each of which is written by one call; bytes and floats have no
            // invalid contents, and nothing is read before it is written.
            let (values, scales) =
                unsafe { (to.slice(row * inner, inner), of.slice(row * (inner / BLOCK), inner / BLOCK)) };
            dispatch(isa, Round { x, values, scales });
        };
        match x.len() < SERIAL {
            true => (0..rows).for_each(row),
            false => (0..rows).into_par_iter().for_each(row),
        }
        // SAFETY: every row was written, and `inner` is whole blocks.
        unsafe {
            values.set_len(rows * inner);
            scales.set_len(rows * (inner / BLOCK));
        }
        ByteRows { values, scales }
    }
}

struct Round<'a> {
    x: &'a [f32],
    values: &'a mut [i8],
    scales: &'a mut [[f32; 2]],
}

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let blocks = self.x.as_chunks::<BLOCK>().0.iter();
        for ((x, values), scale) in blocks.zip(self.values.as_chunks_mut::<BLOCK>().0).zip(self.scales) {
            *scale = round(s, x, values);
        }
    }
}

#[inline(always)]
fn round<S: Simd>(s: S, x: &[f32; BLOCK], values: &mut [i8; BLOCK]) -> [f32; 2] {
    let (halves, _) = x.as_chunks::<16>();
    let (a, b) = (s.load(&halves[0]), s.load(&halves[1]));
    let zero = s.splat(0.0);
    let magnitude = |v| s.max(s.sub(zero, v), v);
    let greatest = s.greatest(s.max(magnitude(a), magnitude(b)));
    // Of what is not finite the factor is 0, and the sum NaN, or the value itself makes it so.
    let factor = if greatest < TINY { 0.0 } else { 127.0 / greatest };
    let (factor, rounding) = (s.splat(factor), s.splat(ROUNDING));
    let (a, b) = (s.fma(a, factor, rounding), s.fma(b, factor, rounding));
    let sum = s.sum(s.add(s.sub(a, rounding), s.sub(b, rounding)));
    if sum.is_nan() {
        values.fill(0);
        return [f32::NAN; 2];
    }
    let mut integers = [[0.0f32; 16]; 2];
    s.store(&mut integers[0], a);
    s.store(&mut integers[1], b);
    for i in 0..BLOCK {
        values[i] = integers[i / 16][i % 16].to_bits() as i8;
    }
    let scale = if greatest < TINY { 0.0 } else { greatest / 127.0 };
    [scale, scale * sum]
}
