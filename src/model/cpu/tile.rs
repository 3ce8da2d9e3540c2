//! The inner product kernel: rows of f32 against panels of 16 weight columns.
//!
//! Every output is one chain `c = fma(a[k], w[k], c)` over ascending k in one accumulator, on every path and in
//! every tile shape. So neither the tile's shape nor the splitting of rows, columns, or k changes a bit.

// Plain loops over constant ranges become registers; iterators with closures may not be inlined, and what is not
// inlined is not compiled for the path.
#![allow(clippy::needless_range_loop)]

use super::Rows;
use super::simd::Simd;
use std::ops::Range;

/// Where the 16 columns of one panel stand for a pair of successive k.
pub(crate) trait Weights: Copy + Send + Sync {
    /// Rows of a tile at most: what is more does not fit into the registers beside the weights.
    const TALLEST: usize;

    /// The weights of panel `panel` at `2 * pair` and `2 * pair + 1`; where that is beyond the last k, any value.
    ///
    /// # Safety
    /// `panel` and `2 * pair` are within the bounds that the value was made for.
    unsafe fn pair<S: Simd>(self, s: S, panel: usize, pair: usize) -> [S::V; 2];
    /// The weights at `k` alone, of which it is known that it is the last and even.
    ///
    /// # Safety
    /// `panel` and `k` are within the bounds that the value was made for.
    unsafe fn last<S: Simd>(self, s: S, panel: usize, k: usize) -> S::V;
}

/// f32 weights: lane l of panel p at k is `base[p * panel_stride + k * row_stride + l]`.
#[derive(Clone, Copy)]
pub(crate) struct F32Weights<'a> {
    base: *const f32,
    panel_stride: usize,
    row_stride: usize,
    of: std::marker::PhantomData<&'a [f32]>,
}

// SAFETY: it stands for a shared slice.
unsafe impl Send for F32Weights<'_> {}
// SAFETY: as above.
unsafe impl Sync for F32Weights<'_> {}

impl<'a> F32Weights<'a> {
    /// `panels` panels with `inner` rows each. Panics where the slice is too short for that.
    pub(crate) fn new(x: &'a [f32], panels: usize, inner: usize, panel_stride: usize, row_stride: usize) -> Self {
        if panels > 0 && inner > 0 {
            let last = (panels - 1) * panel_stride + (inner - 1) * row_stride + 16;
            assert!(last <= x.len(), "weights: {} values, {last} needed", x.len());
        }
        F32Weights { base: x.as_ptr(), panel_stride, row_stride, of: std::marker::PhantomData }
    }
}

impl Weights for F32Weights<'_> {
    const TALLEST: usize = 6;

    #[inline(always)]
    unsafe fn pair<S: Simd>(self, s: S, panel: usize, pair: usize) -> [S::V; 2] {
        // SAFETY: the caller keeps to the bounds checked in `new`; the tile asks for a pair only if both exist.
        unsafe {
            let at = self.base.add(panel * self.panel_stride + 2 * pair * self.row_stride);
            [s.load(&*at.cast()), s.load(&*at.add(self.row_stride).cast())]
        }
    }
    #[inline(always)]
    unsafe fn last<S: Simd>(self, s: S, panel: usize, k: usize) -> S::V {
        // SAFETY: as above.
        unsafe { s.load(&*self.base.add(panel * self.panel_stride + k * self.row_stride).cast()) }
    }
}

/// bf16 weights in pairs: line `p * pairs + i` holds, per column, the weights at 2 i (low half) and 2 i + 1.
#[derive(Clone, Copy)]
pub(crate) struct PairWeights<'a> {
    lines: &'a [[u32; 16]],
    pairs: usize,
}

impl<'a> PairWeights<'a> {
    /// Panels of `pairs` lines each.
    pub(crate) fn new(lines: &'a [[u32; 16]], pairs: usize) -> Self {
        PairWeights { lines, pairs }
    }
}

impl Weights for PairWeights<'_> {
    // Both halves of a pair stay in registers.
    const TALLEST: usize = 5;

    #[inline(always)]
    unsafe fn pair<S: Simd>(self, s: S, panel: usize, pair: usize) -> [S::V; 2] {
        // SAFETY: the caller keeps to the bounds.
        s.widen_pairs(unsafe { self.lines.get_unchecked(panel * self.pairs + pair) })
    }
    #[inline(always)]
    unsafe fn last<S: Simd>(self, s: S, panel: usize, k: usize) -> S::V {
        // SAFETY: as above.
        unsafe { self.pair(s, panel, k / 2)[0] }
    }
}

/// bf16 weights in pairs, as [`PairWeights`], lines anywhere: that of pair i of panel p is `p * panel_stride + i *
/// pair_stride`.
#[derive(Clone, Copy)]
pub(crate) struct StridedPairs<'a> {
    lines: &'a [[u32; 16]],
    panel_stride: usize,
    pair_stride: usize,
}

impl<'a> StridedPairs<'a> {
    /// `panels` panels of `pairs` lines each; strides in lines. Panics where there are not so many lines.
    pub(crate) fn new(
        lines: &'a [[u32; 16]],
        panels: usize,
        pairs: usize,
        panel_stride: usize,
        pair_stride: usize,
    ) -> Self {
        if panels > 0 && pairs > 0 {
            let last = (panels - 1) * panel_stride + (pairs - 1) * pair_stride;
            assert!(last < lines.len(), "weights: {} lines, {} needed", lines.len(), last + 1);
        }
        StridedPairs { lines, panel_stride, pair_stride }
    }
}

impl Weights for StridedPairs<'_> {
    const TALLEST: usize = PairWeights::TALLEST;

    #[inline(always)]
    unsafe fn pair<S: Simd>(self, s: S, panel: usize, pair: usize) -> [S::V; 2] {
        let at = panel * self.panel_stride + pair * self.pair_stride;
        // SAFETY: the caller keeps to the bounds checked in `new`.
        s.widen_pairs(unsafe { self.lines.get_unchecked(at) })
    }
    #[inline(always)]
    unsafe fn last<S: Simd>(self, s: S, panel: usize, k: usize) -> S::V {
        // SAFETY: as above.
        unsafe { self.pair(s, panel, k / 2)[0] }
    }
}

/// The second weights of the first pairs alone, as if they were the only ones.
#[derive(Clone, Copy)]
pub(crate) struct SecondOfPair<'a>(pub StridedPairs<'a>);

impl Weights for SecondOfPair<'_> {
    const TALLEST: usize = PairWeights::TALLEST;

    #[inline(always)]
    unsafe fn pair<S: Simd>(self, _: S, _: usize, _: usize) -> [S::V; 2] {
        unreachable!("one weight is no pair")
    }
    #[inline(always)]
    unsafe fn last<S: Simd>(self, s: S, panel: usize, _: usize) -> S::V {
        // SAFETY: the caller keeps to the bounds of the pairs.
        unsafe { self.0.pair(s, panel, 0)[1] }
    }
}

/// Output: row r, column c of the block's first panel at `values[r * stride + c]`.
pub(crate) struct Block<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
}

/// Adds (or, if `fresh`, assigns) `a[r][k] w[p][k][..]` over `k`, for `rows` rows and the panels `panels`, to `c[r][..]`.
///
/// Panics where `a` or `c` is too short. `k.start` must be even.
///
/// # Safety
/// `panels` and `k` are within the bounds that `w` was made for.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn multiply<S: Simd, W: Weights>(
    s: S,
    a: Rows<'_>,
    w: W,
    rows: usize,
    panels: Range<usize>,
    k: Range<usize>,
    c: &mut Block<'_>,
    fresh: bool,
) {
    if rows == 0 || panels.is_empty() {
        return;
    }
    assert!(k.start.is_multiple_of(2) && (rows - 1) * a.stride + k.end <= a.values.len());
    assert!((rows - 1) * c.stride + panels.len() * 16 <= c.values.len());
    let tiles = rows.div_ceil(W::TALLEST);
    let mut at = panels.start;
    while at < panels.end {
        let left = panels.end - at;
        let mut width = 0;
        let mut row = 0;
        for tile in 0..tiles {
            // Tiles of nearly equal height, because low ones use the registers badly.
            let next = rows * (tile + 1) / tiles;
            let height = next - row;
            width = width_of::<S>(rows.div_ceil(tiles), left);
            // SAFETY: rows `row..next` and panels `at..at + width` are in the bounds asserted above.
            unsafe {
                let t = Tile {
                    s,
                    a: a.values.as_ptr().add(row * a.stride),
                    a_stride: a.stride,
                    w,
                    panel: at,
                    k: k.clone(),
                    c: c.values.as_mut_ptr().add(row * c.stride + (at - panels.start) * 16),
                    c_stride: c.stride,
                    fresh,
                };
                t.of_shape(height, width);
            }
            row = next;
        }
        at += width;
    }
}

/// How many panels a tile takes: as many as the registers hold, or one.
#[inline(always)]
fn width_of<S: Simd>(height: usize, left: usize) -> usize {
    let most = match (S::WIDE, height) {
        (true, 1) => 8,
        (true, _) => 4,
        (false, 1) => 4,
        (false, 2) => 2,
        (false, _) => 1,
    };
    if left >= most { most } else { 1 }
}

struct Tile<S, W> {
    s: S,
    a: *const f32,
    a_stride: usize,
    w: W,
    panel: usize,
    k: Range<usize>,
    c: *mut f32,
    c_stride: usize,
    fresh: bool,
}

impl<S: Simd, W: Weights> Tile<S, W> {
    /// # Safety
    /// `height` rows of `a` and `c` and `width` panels are in bounds.
    #[inline(always)]
    unsafe fn of_shape(self, height: usize, width: usize) {
        // SAFETY: the caller's contract is that of `run`.
        unsafe {
            match (height, width) {
                (1, 1) => self.run::<1, 1>(),
                (2, 1) => self.run::<2, 1>(),
                (3, 1) => self.run::<3, 1>(),
                (4, 1) => self.run::<4, 1>(),
                (5, 1) => self.run::<5, 1>(),
                (6, 1) => self.run::<6, 1>(),
                (1, 4) => self.run::<1, 4>(),
                (1, 2) if !S::WIDE => self.run::<1, 2>(),
                (2, 2) if !S::WIDE => self.run::<2, 2>(),
                (1, 8) if S::WIDE => self.run::<1, 8>(),
                (2, 4) if S::WIDE => self.run::<2, 4>(),
                (3, 4) if S::WIDE => self.run::<3, 4>(),
                (4, 4) if S::WIDE => self.run::<4, 4>(),
                (5, 4) if S::WIDE => self.run::<5, 4>(),
                (6, 4) if S::WIDE => self.run::<6, 4>(),
                _ => unreachable!("tiles of these shapes are not cut"),
            }
        }
    }

    /// # Safety
    /// `M` rows of `a` and `c` and `P` panels are in bounds, `k` too.
    #[inline(always)]
    unsafe fn run<const M: usize, const P: usize>(self) {
        let s = self.s;
        // SAFETY: the caller keeps `r < M`, `p < P` and `k` in bounds.
        unsafe {
            let mut sum = [[s.splat(0.0); P]; M];
            if !self.fresh {
                for r in 0..M {
                    for p in 0..P {
                        sum[r][p] = s.load(&*self.c.add(r * self.c_stride + p * 16).cast());
                    }
                }
            }
            for pair in self.k.start / 2..self.k.end / 2 {
                let mut w = [[s.splat(0.0); 2]; P];
                for p in 0..P {
                    w[p] = self.w.pair(s, self.panel + p, pair);
                }
                for half in 0..2 {
                    for r in 0..M {
                        let a = s.splat(*self.a.add(r * self.a_stride + 2 * pair + half));
                        for p in 0..P {
                            sum[r][p] = s.fma(a, w[p][half], sum[r][p]);
                        }
                    }
                }
            }
            if self.k.end % 2 == 1 {
                let k = self.k.end - 1;
                for p in 0..P {
                    let w = self.w.last(s, self.panel + p, k);
                    for r in 0..M {
                        let a = s.splat(*self.a.add(r * self.a_stride + k));
                        sum[r][p] = s.fma(a, w, sum[r][p]);
                    }
                }
            }
            for r in 0..M {
                for p in 0..P {
                    s.store(&mut *self.c.add(r * self.c_stride + p * 16).cast(), sum[r][p]);
                }
            }
        }
    }
}
