//! Inputs rounded to bf16, in the order in which a unit reads them.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use super::Isa;
use super::linear::Target;
use super::panels::Line;
use super::simd::{Kernel, Simd, dispatch};
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Values that one thread rounds at once.
const PART: usize = 1 << 14;
/// Lines that a thread keeps for its next product: 32 MiB.
const KEPT: usize = 1 << 19;
/// k per line.
const STEP: usize = 32;

/// The bits of the nearest bf16 number, ties to even, as the high half of an f32; NaN stays NaN.
#[inline(always)]
pub(crate) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    (if x.is_nan() { bits | 0x0040_0000 } else { rounded }) & 0xffff_0000
}

/// How the lines, each of 32 successive k of a row, follow one another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Layout {
    /// Row after row.
    Rows,
    /// In tiles of 16 rows, 1 KiB each. K is cut into so many parts of nearly equal length; part follows part, in each
    /// of them 16 rows follow 16 rows, and in those k ascends: a product of one part reads on and on.
    Tiles { parts: usize },
}

/// Inputs rounded to bf16, in pairs of successive k (the first in the low half); k, and in tiles rows, that the inputs
/// do not have are zero.
pub(crate) struct PairRows {
    /// Written by `new`, all of them.
    lines: Vec<MaybeUninit<Line<u32>>>,
    rows: usize,
    /// Lines per row.
    steps: usize,
    layout: Layout,
}

thread_local! {
    /// The lines of an earlier product: fresh memory would cost a page fault for every 4 KiB.
    static LINES: RefCell<Vec<MaybeUninit<Line<u32>>>> = const { RefCell::new(Vec::new()) };
}

impl Drop for PairRows {
    fn drop(&mut self) {
        if self.lines.capacity() <= KEPT {
            LINES.with(|kept| kept.replace(std::mem::take(&mut self.lines)));
        }
    }
}

impl PairRows {
    /// `m` rows of `inner` values.
    pub(crate) fn new(isa: Isa, x: &[f32], m: usize, inner: usize, layout: Layout) -> PairRows {
        assert_eq!(x.len(), m * inner, "inputs of [{m}, {inner}]");
        let steps = inner.div_ceil(STEP);
        let rows = if layout == Layout::Rows { m } else { m.next_multiple_of(16) };
        let mut lines = LINES.with(RefCell::take);
        if lines.capacity() < rows * steps {
            lines = Vec::with_capacity(rows * steps);
        }
        // SAFETY: there is room for so many; they need no value to be `MaybeUninit`.
        unsafe { lines.set_len(rows * steps) };
        let target = Target(lines.as_mut_ptr().cast());
        let made = PairRows { lines, rows, steps, layout };
        let fill = |rows: Range<usize>| {
            // SAFETY: `target` has all lines of all rows, and no two calls have a row in common.
            unsafe { fill(isa, Fill { x, inner, pairs: &made, target, rows }) }
        };
        // Sixteen rows share their tiles' pages and, in this order, the sixteen lines of a tile.
        let per = (PART / inner.max(1)).max(1).next_multiple_of(16);
        if rows <= per {
            fill(0..rows);
        } else {
            (0..rows.div_ceil(per)).into_par_iter().for_each(|at| fill(at * per..rows.min((at + 1) * per)));
        }
        made
    }

    /// The lines, as arrays of pairs.
    pub(crate) fn lines(&self) -> &[[u32; 16]] {
        // SAFETY: `new` wrote each line of each row; a line is `repr(C)` around an array of its size.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len()) }
    }

    /// Lines per row.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// Rows for which there are lines.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// How the lines follow one another.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Parts of k.
    pub(crate) fn parts(&self) -> usize {
        match self.layout {
            Layout::Rows => 1,
            Layout::Tiles { parts } => parts,
        }
    }

    /// The steps of k that are in a part.
    pub(crate) fn part(&self, part: usize) -> Range<usize> {
        self.steps * part / self.parts()..self.steps * (part + 1) / self.parts()
    }

    /// Where a row's first line of a part is among the lines; the next one is `line_step` further.
    pub(crate) fn line(&self, row: usize, part: &Range<usize>) -> usize {
        match self.layout {
            Layout::Rows => row * self.steps + part.start,
            Layout::Tiles { .. } => self.rows * part.start + row / 16 * 16 * part.len() + row % 16,
        }
    }

    fn line_step(&self) -> usize {
        if self.layout == Layout::Rows { 1 } else { 16 }
    }
}

/// Some rows to be rounded.
struct Fill<'a> {
    x: &'a [f32],
    inner: usize,
    pairs: &'a PairRows,
    target: Target<Line<u32>>,
    rows: Range<usize>,
}

impl Fill<'_> {
    /// # Safety
    /// The target has the lines of all rows, and nothing else uses those of these.
    #[inline(always)]
    unsafe fn run(self, line: impl Fn(&[f32; STEP]) -> [u32; 16]) {
        for row in self.rows.clone() {
            let x = self.x.get(row * self.inner..(row + 1) * self.inner).unwrap_or_default();
            for part in 0..self.pairs.parts() {
                let steps = self.pairs.part(part);
                let first = self.pairs.line(row, &steps);
                for (nth, step) in steps.enumerate() {
                    let x = &x[x.len().min(step * STEP)..];
                    let line = match x.first_chunk() {
                        Some(x) => line(x),
                        None => {
                            let mut padded = [0.0; STEP];
                            padded[..x.len()].copy_from_slice(x);
                            line(&padded)
                        }
                    };
                    // SAFETY: the line is this row's.
                    unsafe { self.target.from(first + nth * self.pairs.line_step()).0.write(Line(line)) };
                }
            }
        }
    }
}

/// # Safety
/// As `Fill::run`.
unsafe fn fill(isa: Isa, fill: Fill<'_>) {
    struct InLanes<'a>(Fill<'a>);
    impl Kernel for InLanes<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            // SAFETY: the contract of the function around.
            unsafe {
                self.0.run(|x| {
                    let mut line = [0; 16];
                    for i in 0..16 {
                        line[i] = round(x[2 * i]) >> 16 | round(x[2 * i + 1]);
                    }
                    line
                })
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    if isa.has_bf16_dot() {
        // SAFETY: the instructions were detected; the caller's contract.
        return unsafe { by_unit(fill) };
    }
    dispatch(isa, InLanes(fill));
}

/// By the instruction made for it: as [`round`], but for magnitudes below 2^-126, which become zero as in the products.
///
/// # Safety
/// As `Fill::run`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn by_unit(fill: Fill<'_>) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's contract; the loads are of 16 values each, all bits are valid as values.
    unsafe {
        fill.run(|x| {
            let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
            std::mem::transmute::<__m512bh, [u32; 16]>(_mm512_cvtne2ps_pbh(high, low))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use half::bf16;

    #[test]
    fn every_pair_is_where_its_layout_says() {
        for (m, inner) in [(1, 1), (2, 33), (16, 64), (37, 95), (50, 700), (3, 0)] {
            let x = uniform(&mut rng(m as u64), m * inner);
            for layout in [Layout::Rows, Layout::Tiles { parts: 1 }, Layout::Tiles { parts: 3 }] {
                for isa in Isa::available() {
                    // Whatever an earlier product left behind.
                    LINES.with(|kept| kept.replace(vec![MaybeUninit::new(Line([0x7fc0_7fc0; 16])); 40]));
                    let pairs = PairRows::new(isa, &x, m, inner, layout);
                    let mut seen = 0;
                    for row in 0..pairs.rows() {
                        for part in 0..pairs.parts() {
                            let steps = pairs.part(part);
                            let first = pairs.line(row, &steps);
                            for (nth, step) in steps.enumerate() {
                                let line = pairs.lines()[first + nth * pairs.line_step()];
                                for k in step * 32..step * 32 + 32 {
                                    let there = row < m && k < inner;
                                    let expected = if there { bf16::from_f32(x[row * inner + k]).to_bits() } else { 0 };
                                    assert_eq!(
                                        (line[k % 32 / 2] >> (k % 2 * 16)) as u16,
                                        expected,
                                        "{layout:?} {row} {k}"
                                    );
                                }
                                seen += 1;
                            }
                        }
                    }
                    assert_eq!(seen, pairs.lines().len());
                }
            }
        }
    }

    #[test]
    fn rounds_like_half() {
        let mut x: Vec<f32> = (0..20_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))).collect();
        x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, 1.0 + 1.0 / 256.0]);
        for isa in Isa::available() {
            let pairs = PairRows::new(isa, &x, 1, x.len(), Layout::Rows);
            for (k, x) in x.iter().enumerate() {
                let bits = (pairs.lines()[k / 32][k % 32 / 2] >> (k % 2 * 16)) as u16;
                let expected = if x.is_subnormal() && isa.has_bf16_dot() { 0.0_f32.copysign(*x) } else { *x };
                assert_eq!(bits, bf16::from_f32(expected).to_bits(), "{isa:?} {x}");
            }
        }
    }
}
