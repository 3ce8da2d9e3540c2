//! The inner product kernel: rows of bytes against panels of 16 quantised outputs.
//!
//! In block b of 32 inputs, an activation is `a q` with a scale `a`, a weight `s w + m`. Each output is one chain over
//! ascending b, `c = fma(s a, Σ w q, c)` and then, where there are minima, `c = fma(m, a Σ q, c)`: the same on every path
//! and in every tile, so that neither the tile's shape nor the cut of rows and panels changes a bit. The integer sums
//! are exact, and exact in float32 (below 2^24).

// Plain loops over constant ranges become registers; iterators with closures may not be inlined, and what is not
// inlined is not compiled for the path.
#![allow(clippy::needless_range_loop)]

use super::activations::ByteRows;
use super::lanes::{Lanes, Portable};
use super::layout::{BLOCK, LANES, LINE, QuantType, Shape};
use crate::model::cpu::Isa;
use std::ops::Range;

/// How many bytes ahead weights are asked for.
const AHEAD: usize = 2048;

/// A type of quantised weights, for the compiler.
trait Weights {
    const SHAPE: Shape;
    /// Whether numbers are signed.
    const SIGNED: bool = false;
    /// Scales of a block.
    const SCALES: usize = 1;
    /// Whether weights have a minimum, or an offset that is treated as one.
    const MIN: bool = true;
    /// Successive groups of four inputs whose products with bytes of at most 127 are summed in 16 bits.
    const STEP: usize;
    /// The scales and the minimum.
    ///
    /// # Safety
    /// The heads of the unit and of the block can be read.
    unsafe fn factors<L: Lanes>(l: L, unit: *const u8, head: *const u8) -> ([L::F; 2], L::F);
}

struct Q4_0;
struct Q4_1;
struct Q5_0;
struct Q5_1;
struct Q8_0;
struct Q4K;
struct Q5K;
struct Q6K;

/// A scale; the numbers are `offset` too great.
///
/// # Safety
/// 32 bytes can be read.
#[inline(always)]
unsafe fn offset<L: Lanes>(l: L, head: *const u8, offset: f32) -> ([L::F; 2], L::F) {
    // SAFETY: the caller's contract.
    let scale = unsafe { l.halves(head) };
    ([scale; 2], l.mul(scale, l.splat(-offset)))
}

/// A scale and a minimum.
///
/// # Safety
/// 64 bytes can be read.
#[inline(always)]
unsafe fn minimum<L: Lanes>(l: L, head: *const u8) -> ([L::F; 2], L::F) {
    // SAFETY: the caller's contract.
    unsafe { ([l.halves(head); 2], l.halves(head.add(32))) }
}

/// A scale and a minimum, each the product of a float of the unit and an integer of the block.
///
/// # Safety
/// 64 bytes of the unit and 32 of the block can be read.
#[inline(always)]
unsafe fn nested<L: Lanes>(l: L, unit: *const u8, head: *const u8) -> ([L::F; 2], L::F) {
    // SAFETY: the caller's contract.
    unsafe {
        let scale = l.mul(l.halves(unit), l.unsigned_bytes(head));
        ([scale; 2], l.mul(l.halves(unit.add(32)), l.unsigned_bytes(head.add(LANES))))
    }
}

// SAFETY of the blocks in these implementations: the heads are as long as their shapes say.
impl Weights for Q4_0 {
    const SHAPE: Shape = QuantType::Q4_0.shape();
    const STEP: usize = 8;
    #[inline(always)]
    unsafe fn factors<L: Lanes>(l: L, _: *const u8, head: *const u8) -> ([L::F; 2], L::F) {
        unsafe { offset(l, head, 8.0) }
    }
}

impl Weights for Q4_1 {
    const SHAPE: Shape = QuantType::Q4_1.shape();
    const STEP: usize = 8;
    #[inline(always)]
    unsafe fn factors<L: Lanes>(l: L, _: *const u8, head: *const u8) -> ([L::F; 2], L::F) {
        unsafe { minimum(l, head) }
    }
}

impl Weights for Q5_0 {
    const SHAPE: Shape = QuantType::Q5_0.shape();
    const STEP: usize = 4;
    #[inline(always)]
    unsafe fn factors<L: Lanes>(l: L, _: *const u8, head: *const u8) -> ([L::F; 2], L::F) {
        unsafe { offset(l, head, 16.0) }
    }
}

impl Weights for Q5_1 {
    const SHAPE: Shape = QuantType::Q5_1.shape();
    const STEP: usize = 4;
    #[inline(always)]
    unsafe fn factors<L: Lanes>(l: L, _: *const u8, head: *const u8) -> ([L::F; 2], L::F) {
        unsafe { minimum(l, head) }
    }
}

impl Weights for Q8_0 {
    const SHAPE: Shape = QuantType::Q8_0.shape();
    const SIGNED: bool = true;
    const MIN: bool = false;
    const STEP: usize = 1;
    #[inline(always)]
    unsafe fn factors<L: Lanes>(l: L, _: *const u8, head: *const u8) -> ([L::F; 2], L::F) {
        unsafe { ([l.halves(head); 2], l.zero()) }
    }
}

impl Weights for Q4K {
    const SHAPE: Shape = QuantType::Q4K.shape();
    const STEP: usize = 8;
    #[inline(always)]
    unsafe fn factors<L: Lanes>(l: L, unit: *const u8, head: *const u8) -> ([L::F; 2], L::F) {
        unsafe { nested(l, unit, head) }
    }
}

impl Weights for Q5K {
    const SHAPE: Shape = QuantType::Q5K.shape();
    const STEP: usize = 4;
    #[inline(always)]
    unsafe fn factors<L: Lanes>(l: L, unit: *const u8, head: *const u8) -> ([L::F; 2], L::F) {
        unsafe { nested(l, unit, head) }
    }
}

impl Weights for Q6K {
    const SHAPE: Shape = QuantType::Q6K.shape();
    const SIGNED: bool = true;
    const SCALES: usize = 2;
    const MIN: bool = false;
    const STEP: usize = 4;
    #[inline(always)]
    unsafe fn factors<L: Lanes>(l: L, unit: *const u8, head: *const u8) -> ([L::F; 2], L::F) {
        unsafe {
            let shared = l.halves(unit);
            let (first, second) = (l.signed_bytes(head), l.signed_bytes(head.add(LANES)));
            ([l.mul(shared, first), l.mul(shared, second)], l.zero())
        }
    }
}

/// The product of some rows and some panels, row-major with `16 * panels.len()` columns.
pub(crate) struct Product<'a> {
    pub inner: usize,
    pub x: &'a ByteRows,
    pub rows: Range<usize>,
    /// The panels, one after another.
    pub panels: &'a [u8],
    pub values: &'a mut [f32],
}

/// Computes a product with weights of a type.
pub(crate) fn multiply(isa: Isa, kind: QuantType, product: Product<'_>) {
    match kind {
        QuantType::Q4_0 => dispatch::<Q4_0>(isa, product),
        QuantType::Q4_1 => dispatch::<Q4_1>(isa, product),
        QuantType::Q5_0 => dispatch::<Q5_0>(isa, product),
        QuantType::Q5_1 => dispatch::<Q5_1>(isa, product),
        QuantType::Q8_0 => dispatch::<Q8_0>(isa, product),
        QuantType::Q4K => dispatch::<Q4K>(isa, product),
        QuantType::Q5K => dispatch::<Q5K>(isa, product),
        QuantType::Q6K => dispatch::<Q6K>(isa, product),
    }
}

#[cfg(target_arch = "x86_64")]
fn dispatch<W: Weights>(isa: Isa, product: Product<'_>) {
    use super::lanes::Avx2;
    use crate::model::cpu::Path;
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2<W: Weights>(product: Product<'_>) {
        // SAFETY: this function can only be called where AVX2, FMA and F16C are known to be there.
        product.run::<_, W>(unsafe { Avx2::new() });
    }
    match isa.path() {
        Path::Portable => product.run::<_, W>(Portable),
        // SAFETY: an `Isa` with one of these paths is only made after detecting AVX2, FMA and F16C.
        Path::Avx2 | Path::Avx512 | Path::Amx => unsafe { avx2::<W>(product) },
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn dispatch<W: Weights>(_: Isa, product: Product<'_>) {
    product.run::<_, W>(Portable);
}

impl Product<'_> {
    #[inline(always)]
    fn run<L: Lanes, W: Weights>(self, l: L) {
        let (inner, blocks) = (self.inner, self.inner / BLOCK);
        let panel_bytes = blocks / W::SHAPE.blocks * W::SHAPE.unit();
        let stride = self.values.len() / self.rows.len().max(1);
        let panels = stride / LANES;
        assert!(inner.is_multiple_of(BLOCK * W::SHAPE.blocks), "inputs are whole units");
        assert!(self.panels.len() >= panels * panel_bytes, "the panels' bytes");
        assert!(self.x.values.len() >= self.rows.end * inner, "the rows' bytes");
        assert!(self.x.scales.len() >= self.rows.end * blocks, "the rows' scales");
        for panel in 0..panels {
            let mut row = 0;
            while row < self.rows.len() {
                let left = self.rows.len() - row;
                let at = self.rows.start + row;
                let tile = Tile {
                    l,
                    units: blocks / W::SHAPE.blocks,
                    // SAFETY: within the lengths asserted above.
                    panel: unsafe { self.panels.as_ptr().add(panel * panel_bytes) },
                    x: self.x.values[at * inner..].as_ptr(),
                    scales: self.x.scales[at * blocks..].as_ptr(),
                    blocks,
                };
                let out = &mut self.values[row * stride + panel * LANES..];
                // SAFETY: as many rows as the tile has are left, and the panel is whole.
                row += unsafe {
                    match left.min(L::ROWS) {
                        1 => tile.run::<W, 1>(out, stride),
                        2 => tile.run::<W, 2>(out, stride),
                        3 => tile.run::<W, 3>(out, stride),
                        _ => tile.run::<W, 4>(out, stride),
                    }
                };
            }
        }
    }
}

/// Some rows and one panel.
struct Tile<L> {
    l: L,
    units: usize,
    panel: *const u8,
    x: *const i8,
    scales: *const [f32; 2],
    /// Blocks of a row.
    blocks: usize,
}

impl<L: Lanes> Tile<L> {
    /// Writes the outputs of `M` rows; gives their number.
    ///
    /// # Safety
    /// `M` rows of bytes and scales, and a panel of so many units can be read.
    #[inline(always)]
    unsafe fn run<W: Weights, const M: usize>(self, out: &mut [f32], stride: usize) -> usize {
        let l = self.l;
        let shape = W::SHAPE;
        let mut sums = [l.zero(); M];
        for unit in 0..self.units {
            for i in 0..shape.blocks {
                let block = unit * shape.blocks + i;
                // SAFETY: units and blocks are in the panel's bounds, blocks and rows in those of the activations.
                unsafe {
                    let unit = self.panel.add(unit * shape.unit());
                    let head = unit.add(shape.unit_head + i * shape.block());
                    if M == 1 {
                        // A single row waits for its weights: they are asked for some blocks ahead, past the panel's end.
                        for line in 0..shape.block().div_ceil(LINE) {
                            l.prefetch(head.wrapping_add(AHEAD + line * LINE));
                        }
                    }
                    let (factors, min) = W::factors(l, unit, head);
                    for part in 0..W::SCALES {
                        let dots = self.dots::<W, M>(head.add(shape.head), block, part);
                        for r in 0..M {
                            let [scale, _] = *self.scales.add(r * self.blocks + block);
                            sums[r] = l.fma(l.mul(factors[part], l.splat(scale)), l.to_float(dots[r]), sums[r]);
                        }
                    }
                    if W::MIN {
                        for r in 0..M {
                            let [_, sum] = *self.scales.add(r * self.blocks + block);
                            sums[r] = l.fma(min, l.splat(sum), sums[r]);
                        }
                    }
                }
            }
        }
        for r in 0..M {
            if let Some(out) = out[r * stride..].first_chunk_mut() {
                l.store(out, sums[r]);
            }
        }
        M
    }

    /// The integer products of a block's lines with `M` rows: of all of them, or of a half that has its own scale.
    ///
    /// # Safety
    /// The lines and the rows' block can be read.
    #[inline(always)]
    unsafe fn dots<W: Weights, const M: usize>(&self, lines: *const u8, block: usize, part: usize) -> [L::I; M] {
        let l = self.l;
        let mut sums = [l.no_sum(); M];
        // SAFETY: lines are below 4 or 8, as the shape has them; groups are below 8, rows below `M`.
        unsafe {
            let x = self.x.add(block * BLOCK);
            let row = self.blocks * BLOCK;
            if W::SHAPE.nibbles {
                let mut dots = [l.none(); M];
                for line in 0..4 {
                    let [low, high] = l.nibbles(lines.add(line * LINE));
                    for r in 0..M {
                        dots[r] = l.dot(dots[r], low, bytes(x.add(r * row), line));
                        dots[r] = l.dot(dots[r], high, bytes(x.add(r * row), 4 + line));
                    }
                }
                for r in 0..M {
                    sums[r] = l.widen(dots[r]);
                }
                return sums;
            }
            let groups = 8 / W::SCALES;
            let step = if L::WIDE { groups } else { W::STEP };
            for from in (part * groups..(part + 1) * groups).step_by(step) {
                let mut dots = [l.none(); M];
                for group in from..from + step {
                    let line = lines.add(group * LINE);
                    for r in 0..M {
                        dots[r] = match W::SIGNED {
                            true => l.dot_signed(dots[r], l.signed(line), bytes(x.add(r * row), group)),
                            false => l.dot(dots[r], l.unsigned(line), bytes(x.add(r * row), group)),
                        };
                    }
                }
                for r in 0..M {
                    sums[r] = l.add(sums[r], l.widen(dots[r]));
                }
            }
            sums
        }
    }
}

/// Four bytes of a row.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn bytes(x: *const i8, group: usize) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { x.add(4 * group).cast::<i32>().read_unaligned() }
}
