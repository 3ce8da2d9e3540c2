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
use super::by_hand::SixRows;
use super::lanes::{Lanes, Portable};
use super::layout::{BLOCK, LANES, LINE, QuantType, Shape};
use crate::model::cpu::Isa;
use std::mem::MaybeUninit;
use std::ops::Range;

/// How many bytes ahead weights are asked for.
const AHEAD: usize = 2048;
/// Rows up to which a panel is not worth being expanded.
const FEW: usize = 4;
/// Blocks that are expanded at once: with the rows that meet them they stay in the first-level cache.
const EXPANDED: usize = 24;
/// Lines of an expanded block.
pub(super) const EXPANDED_LINES: usize = 10;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

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
    /// Whether an expanded block is one scale, a minimum, and numbers whose products may all be summed in 16 bits.
    const BY_HAND: bool = !Self::SIGNED && Self::MIN && Self::SCALES == 1 && Self::STEP == 8;
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

/// The product of some rows and some panels.
pub(crate) struct Product<'a> {
    pub inner: usize,
    pub x: &'a ByteRows,
    pub rows: Range<usize>,
    /// The panels, one after another.
    pub panels: &'a [u8],
    /// Outputs: as many as the panels have, or some fewer of the last one.
    pub columns: usize,
    /// Where the first output of the first row goes.
    pub out: *mut f32,
    /// From a row's outputs to the next one's.
    pub stride: usize,
}

/// Computes a product with weights of a type.
///
/// # Safety
/// `columns` values from `out` on may be written, and as many `stride` further on for each further row.
pub(crate) unsafe fn multiply(isa: Isa, kind: QuantType, product: Product<'_>) {
    // SAFETY: the caller's contract.
    unsafe {
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
}

/// # Safety
/// As [`multiply`].
#[cfg(target_arch = "x86_64")]
unsafe fn dispatch<W: Weights>(isa: Isa, product: Product<'_>) {
    use super::lanes::Avx2;
    use crate::model::cpu::Path;
    /// # Safety
    /// As [`multiply`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<W: Weights>(product: Product<'_>) {
        // SAFETY: this function can only be called where AVX2, FMA and F16C are known to be there.
        unsafe { product.run::<_, W>(Avx2::new()) };
    }
    // SAFETY: the caller's contract; an `Isa` with another path than the portable one is only made after detecting AVX2,
    // FMA and F16C.
    unsafe {
        match isa.path() {
            Path::Portable => product.run::<_, W>(Portable),
            Path::Avx2 | Path::Avx512 | Path::Amx => avx2::<W>(product),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[cfg(not(target_arch = "x86_64"))]
unsafe fn dispatch<W: Weights>(_: Isa, product: Product<'_>) {
    // SAFETY: the caller's contract.
    unsafe { product.run::<_, W>(Portable) };
}

impl Product<'_> {
    /// # Safety
    /// As [`multiply`].
    #[inline(always)]
    unsafe fn run<L: Lanes, W: Weights>(self, l: L) {
        let (inner, blocks) = (self.inner, self.inner / BLOCK);
        let panel_bytes = blocks / W::SHAPE.blocks * W::SHAPE.unit();
        let panels = self.columns.div_ceil(LANES);
        assert!(inner.is_multiple_of(BLOCK * W::SHAPE.blocks), "inputs are whole units");
        assert!(self.panels.len() >= panels * panel_bytes, "the panels' bytes");
        assert!(self.x.values.len() >= self.rows.end * inner, "the rows' bytes");
        assert!(self.x.scales.len() >= self.rows.end * blocks, "the rows' scales");
        for panel in 0..panels {
            // SAFETY: within the lengths asserted above; outputs are the caller's contract.
            let of_panel = unsafe {
                OfPanel {
                    l,
                    panel: self.panels.as_ptr().add(panel * panel_bytes),
                    units: blocks / W::SHAPE.blocks,
                    x: self.x.values.as_ptr().add(self.rows.start * inner),
                    scales: self.x.scales.as_ptr().add(self.rows.start * blocks),
                    blocks,
                    rows: self.rows.len(),
                    out: self.out.add(panel * LANES),
                    width: LANES.min(self.columns - panel * LANES),
                    stride: self.stride,
                }
            };
            // SAFETY: as above.
            unsafe {
                match self.rows.len() > FEW {
                    true => of_panel.expanded::<W>(),
                    false => of_panel.direct::<W>(),
                }
            }
        }
    }
}

/// Some rows and one panel.
#[derive(Clone, Copy)]
struct OfPanel<L> {
    l: L,
    panel: *const u8,
    units: usize,
    /// The first row.
    x: *const i8,
    scales: *const [f32; 2],
    /// Blocks of a row.
    blocks: usize,
    rows: usize,
    out: *mut f32,
    /// Outputs that are wanted, at most 16.
    width: usize,
    stride: usize,
}

/// Does something with `$m` rows from `$row` on until all rows are done.
macro_rules! in_tiles {
    (@ $count:literal, $row:ident, $m:ident, $tile:expr) => {{
        const $m: usize = $count;
        $tile;
        $row += $m;
    }};
    ($rows:expr, $most:expr, |$row:ident, $m:ident| $tile:expr) => {
        let (rows, mut $row) = ($rows, 0);
        while $row < rows {
            match (rows - $row).min($most) {
                1 => in_tiles!(@ 1, $row, $m, $tile),
                2 => in_tiles!(@ 2, $row, $m, $tile),
                3 => in_tiles!(@ 3, $row, $m, $tile),
                4 => in_tiles!(@ 4, $row, $m, $tile),
                5 => in_tiles!(@ 5, $row, $m, $tile),
                _ => in_tiles!(@ 6, $row, $m, $tile),
            }
        }
    };
}

impl<L: Lanes> OfPanel<L> {
    /// Few rows: the panel is read as it is.
    ///
    /// # Safety
    /// The panel, the rows and the outputs are where the fields say.
    #[inline(always)]
    unsafe fn direct<W: Weights>(self) {
        in_tiles!(self.rows, 4, |row, M| {
            // SAFETY: the caller's contract.
            unsafe { self.at_row(row).run::<W, M>() }
        });
    }

    /// Many rows: the panel is expanded, as much of it at a time as stays near the processor, and all rows read that.
    ///
    /// # Safety
    /// As [`OfPanel::direct`].
    #[inline(always)]
    unsafe fn expanded<W: Weights>(self) {
        let step = EXPANDED / W::SHAPE.blocks;
        // Each panel writes what its rows read: there is no need for zeros.
        let mut lines = [const { MaybeUninit::<Line>::uninit() }; EXPANDED * EXPANDED_LINES];
        for from in (0..self.units).step_by(step) {
            let units = step.min(self.units - from);
            // SAFETY: these units are the panel's, and `lines` has room for so many blocks.
            unsafe { expand::<L, W>(self.l, self.panel.add(from * W::SHAPE.unit()), units, &mut lines) };
            let blocks = from * W::SHAPE.blocks..(from + units) * W::SHAPE.blocks;
            in_tiles!(self.rows, if L::BY_HAND && W::BY_HAND { 6 } else { 4 }, |row, M| {
                // SAFETY: the caller's contract; the lines are those of these blocks.
                unsafe { self.at_row(row).run_expanded::<W, M>(lines.as_ptr().cast(), blocks.clone()) }
            });
        }
    }

    /// # Safety
    /// There is such a row.
    #[inline(always)]
    unsafe fn at_row(self, row: usize) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            OfPanel {
                x: self.x.add(row * self.blocks * BLOCK),
                scales: self.scales.add(row * self.blocks),
                out: self.out.add(row * self.stride),
                rows: self.rows - row,
                ..self
            }
        }
    }

    /// Computes `M` rows.
    ///
    /// # Safety
    /// As [`OfPanel::direct`], and there are as many rows.
    #[inline(always)]
    unsafe fn run<W: Weights, const M: usize>(self) {
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
                    let factors = W::factors(l, unit, head);
                    self.add_block::<W, M>(&mut sums, factors, head.add(shape.head), shape.nibbles, block);
                }
            }
        }
        // SAFETY: the caller's contract.
        unsafe { self.store(sums) };
    }

    /// Computes `M` rows over some blocks, which are expanded at `lines`; goes on from the outputs, unless these are the
    /// first.
    ///
    /// # Safety
    /// As [`OfPanel::run`], and the lines can be read.
    #[inline(always)]
    unsafe fn run_expanded<W: Weights, const M: usize>(self, lines: *const u8, blocks: Range<usize>) {
        // SAFETY: the caller's contract.
        unsafe {
            let mut own = [Line([0; LINE]); 6];
            let aside = OfPanel { out: own.as_mut_ptr().cast(), stride: LANES, width: LANES, ..self };
            if blocks.start > 0 {
                aside.store(self.load::<M>());
            }
            aside.run_whole::<W, M>(lines, blocks);
            self.store(aside.load::<M>());
        }
    }

    /// Like [`OfPanel::run_expanded`], of all 16 outputs.
    ///
    /// # Safety
    /// As [`OfPanel::run_expanded`].
    #[inline(always)]
    unsafe fn run_whole<W: Weights, const M: usize>(self, lines: *const u8, blocks: Range<usize>) {
        // SAFETY: the caller's contract.
        unsafe {
            if M == 6 && L::BY_HAND && W::BY_HAND {
                return self.l.six_rows(SixRows {
                    lines,
                    blocks: blocks.len(),
                    x: self.x.add(blocks.start * BLOCK),
                    x_stride: self.blocks * BLOCK,
                    scales: self.scales.add(blocks.start),
                    scales_stride: self.blocks * size_of::<[f32; 2]>(),
                    out: self.out,
                    out_stride: self.stride * size_of::<f32>(),
                });
            }
            for block in blocks.clone() {
                let head = lines.add((block - blocks.start) * EXPANDED_LINES * LINE);
                let (first, second) = (self.l.load(&*head.cast()), self.l.load(&*head.add(LINE).cast()));
                // Between blocks the sums stay in the outputs: the products need the registers.
                let mut sums = self.load();
                self.add_block::<W, M>(&mut sums, ([first, second], second), head.add(2 * LINE), false, block);
                self.store(sums);
            }
        }
    }

    /// Adds a block's products to the sums: of the scales with the integer products of each part, then of the minimum.
    ///
    /// # Safety
    /// The rows have such a block, and its lines, of nibbles or bytes, can be read.
    #[inline(always)]
    unsafe fn add_block<W: Weights, const M: usize>(
        &self,
        sums: &mut [L::F; M],
        (factors, min): ([L::F; 2], L::F),
        lines: *const u8,
        nibbles: bool,
        block: usize,
    ) {
        let l = self.l;
        // SAFETY: the caller's contract.
        unsafe {
            for part in 0..W::SCALES {
                let dots = match nibbles {
                    true => self.nibble_dots(lines, block),
                    false => self.dots::<W, M>(lines, block, part),
                };
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

    /// The outputs of `M` rows as they are.
    ///
    /// # Safety
    /// As [`OfPanel::run`].
    #[inline(always)]
    unsafe fn load<const M: usize>(&self) -> [L::F; M] {
        let mut sums = [self.l.zero(); M];
        for r in 0..M {
            // SAFETY: the caller's contract.
            let out = unsafe { self.out.add(r * self.stride) };
            if self.width == LANES {
                // SAFETY: 16 values, as the width says.
                sums[r] = self.l.load(unsafe { &*out.cast() });
            } else {
                let mut own = [0.0; LANES];
                // SAFETY: as many values as the width says.
                own[..self.width].copy_from_slice(unsafe { std::slice::from_raw_parts(out, self.width) });
                sums[r] = self.l.load(&own);
            }
        }
        sums
    }

    /// # Safety
    /// As [`OfPanel::run`].
    #[inline(always)]
    unsafe fn store<const M: usize>(&self, sums: [L::F; M]) {
        for r in 0..M {
            // SAFETY: the caller's contract.
            let out = unsafe { self.out.add(r * self.stride) };
            if self.width == LANES {
                // SAFETY: 16 values, as the width says.
                self.l.store(unsafe { &mut *out.cast() }, sums[r]);
            } else {
                let mut own = [0.0; LANES];
                self.l.store(&mut own, sums[r]);
                // SAFETY: as many values as the width says.
                unsafe { std::slice::from_raw_parts_mut(out, self.width) }.copy_from_slice(&own[..self.width]);
            }
        }
    }

    /// The integer products of a block's lines of nibbles with `M` rows.
    ///
    /// # Safety
    /// The lines and the rows' block can be read.
    #[inline(always)]
    unsafe fn nibble_dots<const M: usize>(&self, lines: *const u8, block: usize) -> [L::I; M] {
        let l = self.l;
        let mut dots = [l.none(); M];
        // SAFETY: the caller's contract.
        unsafe {
            let x = self.x.add(block * BLOCK);
            for line in 0..4 {
                let [low, high] = l.nibbles(lines.add(line * LINE));
                for r in 0..M {
                    let x = x.add(r * self.blocks * BLOCK);
                    dots[r] = l.dot(dots[r], low, bytes(x, line));
                    dots[r] = l.dot(dots[r], high, bytes(x, 4 + line));
                }
            }
        }
        let mut sums = [l.no_sum(); M];
        for r in 0..M {
            sums[r] = l.widen(dots[r]);
        }
        sums
    }

    /// The integer products of a block's lines of bytes with `M` rows: of all of them, or of a half that has its own
    /// scale.
    ///
    /// # Safety
    /// The lines and the rows' block can be read.
    #[inline(always)]
    unsafe fn dots<W: Weights, const M: usize>(&self, lines: *const u8, block: usize, part: usize) -> [L::I; M] {
        let l = self.l;
        let mut sums = [l.no_sum(); M];
        let groups = 8 / W::SCALES;
        let step = if L::WIDE || W::STEP > groups { groups } else { W::STEP };
        // SAFETY: the caller's contract; groups are below 8, rows below `M`.
        unsafe {
            let x = self.x.add(block * BLOCK);
            for from in (part * groups..(part + 1) * groups).step_by(step) {
                let mut dots = [l.none(); M];
                for group in from..from + step {
                    let line = lines.add(group * LINE);
                    for r in 0..M {
                        let x = bytes(x.add(r * self.blocks * BLOCK), group);
                        dots[r] = match W::SIGNED {
                            true => l.dot_signed(dots[r], l.signed(line), x),
                            false => l.dot(dots[r], l.unsigned(line), x),
                        };
                    }
                }
                for r in 0..M {
                    sums[r] = l.add(sums[r], l.widen(dots[r]));
                }
            }
        }
        sums
    }
}

/// Writes units with a byte for each number and factors in float32: for each block the scales, the minima (or second
/// scales), and eight lines of numbers.
///
/// # Safety
/// So many units can be read at `panel`.
#[inline(always)]
unsafe fn expand<L: Lanes, W: Weights>(l: L, panel: *const u8, units: usize, lines: &mut [MaybeUninit<Line>]) {
    let shape = W::SHAPE;
    for (at, to) in lines.chunks_exact_mut(EXPANDED_LINES).take(units * shape.blocks).enumerate() {
        // SAFETY: the caller's contract.
        let (unit, block) = unsafe {
            let unit = panel.add(at / shape.blocks * shape.unit());
            (unit, unit.add(shape.unit_head + at % shape.blocks * shape.block()))
        };
        // SAFETY: as above.
        let (factors, min) = unsafe { W::factors(l, unit, block) };
        let mut floats = [Line([0; LINE]); 2];
        // SAFETY: a line has room for 16 values.
        unsafe {
            l.store(&mut *floats[0].0.as_mut_ptr().cast(), factors[0]);
            l.store(&mut *floats[1].0.as_mut_ptr().cast(), if W::MIN { min } else { factors[1] });
        }
        to[0].write(floats[0]);
        to[1].write(floats[1]);
        let count = if shape.nibbles { 4 } else { 8 };
        for line in 0..count {
            // SAFETY: as above; a block has so many lines.
            let from: &[u8; LINE] = unsafe { &*block.add(shape.head + line * LINE).cast() };
            match shape.nibbles {
                true => {
                    to[2 + line].write(Line(from.map(|byte| byte & 15)));
                    to[6 + line].write(Line(from.map(|byte| byte >> 4)));
                }
                false => {
                    to[2 + line].write(Line(*from));
                }
            }
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
