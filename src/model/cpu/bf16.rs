//! Products of bf16 inputs and bf16 weights on units made for them.

use super::Isa;
use super::pairs::round;
use super::rows::Heads;
use super::simd::{Kernel, Simd, dispatch};
use rayon::prelude::*;

/// Values that one thread rounds at once.
const PART: usize = 1 << 14;

/// Inputs rounded to bf16 in place of f32, for paths without a unit for bf16.
pub(crate) fn rounded(isa: Isa, x: &[f32]) -> Vec<f32> {
    struct Round<'a>(&'a [f32], &'a mut [f32]);
    impl Kernel for Round<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            for (to, x) in self.1.iter_mut().zip(self.0) {
                *to = f32::from_bits(round(*x));
            }
        }
    }
    let mut to = vec![0.0; x.len()];
    if x.len() <= PART {
        dispatch(isa, Round(x, &mut to));
    } else {
        x.par_chunks(PART).zip(to.par_chunks_mut(PART)).for_each(|(x, to)| dispatch(isa, Round(x, to)));
    }
    to
}

/// Rounds heads of rows to bf16 numbers, in place.
///
/// # Panics
/// If x is no whole rows.
pub fn round_heads(isa: Isa, x: &mut [f32], heads: Heads) {
    struct Round<'a>(&'a mut [f32]);
    impl Kernel for Round<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            self.0.iter_mut().for_each(|x| *x = f32::from_bits(round(*x)));
        }
    }
    heads.for_each(x, |_, head| dispatch(isa, Round(head)));
}

/// What the unit for dot products multiplies: rows of pairs with panels of pairs.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct PairProduct<'a> {
    /// From the first row on; `pairs / 16` lines a row.
    pub a: &'a [[u32; 16]],
    /// From the first panel on; `pairs` lines a panel.
    pub w: &'a [[u32; 16]],
    pub pairs: usize,
    pub rows: usize,
    pub panels: usize,
}

/// The product by AVX-512 BF16's dot product of pairs: `c[r][..]`, row-major with `16 * panels` columns. Every output is
/// one chain over ascending pairs, so a row's bits do not depend on the others.
///
/// # Panics
/// If the path has no such instruction or a slice is too short.
#[cfg(target_arch = "x86_64")]
pub(crate) fn dot_products(isa: Isa, p: PairProduct<'_>, c: &mut [f32]) {
    assert!(isa.has_bf16_dot());
    assert!(p.rows * p.pairs <= p.a.len() * 16 && p.panels * p.pairs <= p.w.len());
    assert!(p.rows * p.panels * 16 <= c.len());
    // SAFETY: the instructions were detected, the slices are long enough.
    unsafe { dot::multiply(p, c) }
}

#[cfg(target_arch = "x86_64")]
mod dot {
    // Plain loops over constant ranges become registers.
    #![allow(clippy::needless_range_loop)]

    use super::PairProduct;
    use std::arch::x86_64::*;

    /// # Safety
    /// The slices hold what `p` says.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn multiply(p: PairProduct<'_>, c: &mut [f32]) {
        let mut panel = 0;
        while panel < p.panels {
            let width = if p.panels - panel >= 4 { 4 } else { 1 };
            for row in (0..p.rows).step_by(6) {
                // SAFETY: up to six rows from `row` and `width` panels from `panel` are there.
                unsafe {
                    match (6.min(p.rows - row), width) {
                        (6, 4) => tile::<6, 4>(p, row, panel, c),
                        (5, 4) => tile::<5, 4>(p, row, panel, c),
                        (4, 4) => tile::<4, 4>(p, row, panel, c),
                        (3, 4) => tile::<3, 4>(p, row, panel, c),
                        (2, 4) => tile::<2, 4>(p, row, panel, c),
                        (1, 4) => tile::<1, 4>(p, row, panel, c),
                        (rows, _) => (row..row + rows).for_each(|row| tile::<1, 1>(p, row, panel, c)),
                    }
                }
            }
            panel += width;
        }
    }

    #[inline(always)]
    fn as_bf16(x: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes, of which every value is a valid one.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
    }

    /// # Safety
    /// As `multiply`; `M` rows from `row` and `P` panels from `panel` are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn tile<const M: usize, const P: usize>(p: PairProduct<'_>, row: usize, panel: usize, c: &mut [f32]) {
        // SAFETY: indices are below those that the caller vouches for; a line is 64 bytes.
        unsafe {
            let (a, w) = (p.a.as_ptr().cast::<u32>().add(row * p.pairs), p.w.as_ptr().add(panel * p.pairs));
            let mut sum = [[_mm512_setzero_ps(); P]; M];
            for i in 0..p.pairs {
                let mut weights = [_mm512_setzero_si512(); P];
                for j in 0..P {
                    weights[j] = _mm512_loadu_si512(w.add(j * p.pairs + i).cast());
                }
                for r in 0..M {
                    let a = _mm512_set1_epi32(*a.add(r * p.pairs + i) as i32);
                    for j in 0..P {
                        sum[r][j] = _mm512_dpbf16_ps(sum[r][j], as_bf16(a), as_bf16(weights[j]));
                    }
                }
            }
            for r in 0..M {
                for j in 0..P {
                    let at = (row + r) * p.panels * 16 + (panel + j) * 16;
                    _mm512_storeu_ps(c.as_mut_ptr().add(at), sum[r][j]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rounds_like_half() {
        let mut x: Vec<f32> = (0..20_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))).collect();
        x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, 1.0 + 1.0 / 256.0]);
        for isa in Isa::available() {
            for (x, y) in x.iter().zip(rounded(isa, &x)) {
                assert_eq!(y.to_bits() >> 16, u32::from(bf16::from_f32(*x).to_bits()), "{x}");
            }
        }
    }
}
