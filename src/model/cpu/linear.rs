//! Products with frozen weights.

#[cfg(target_arch = "x86_64")]
use super::amx::{self, Output, TileProduct};
#[cfg(target_arch = "x86_64")]
use super::bf16::PairProduct;
use super::pairs::{Layout, PairRows};
use super::panels::{self, Format, Line, Panels};
use super::product::{Product, ProductBlock};
use super::simd::{Kernel, Simd, dispatch};
use super::tile::{self, Block, F32Weights, PairWeights, Weights};
use super::{Isa, Path, Rows};
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;
use std::cell::RefCell;
use std::convert::Infallible;
use std::ops::Range;

/// Below this many multiplications a product is not worth waking other threads for.
const SERIAL: usize = 1 << 17;
/// Rows of a block: its inputs stay in the second-level cache.
pub(crate) const BLOCK_ROWS: usize = 96;
/// The same for AMX. Over a part of k a block of 16 x 16 tiles reads 16 KiB of inputs and 16 of weights per 256 tile
/// products of 16 cycles: 8 bytes a cycle from memory or the third level, if nothing of them was left in the second.
const TILE_BLOCK_ROWS: usize = 256;
/// Panels of a block: its weights over [`BLOCK_INNER`] stay in the second-level cache.
const BLOCK_PANELS: usize = 16;
/// Steps of k over which one panel stays in the first-level cache.
const BLOCK_INNER: usize = 320;

/// A frozen linear layer `y = x Wᵀ (+ bias)`, its weights packed once.
///
/// Each row of y depends on the same row of x and on the weights alone: not on the other rows, their number, or
/// the threads; with [`Format::F32`] and [`Format::Bf16Weights`] not on the path either. Work is
/// shared among the threads of the current rayon pool.
///
/// Values that are not finite go through as in any sum of products: a NaN or infinite input makes its row's outputs
/// NaN or infinite and no other row's.
#[derive(Debug)]
pub struct PackedLinear {
    out: usize,
    inner: usize,
    format: Format,
    panels: Panels,
    bias: Option<Vec<f32>>,
}

/// What is done with a product.
#[derive(Clone, Copy, PartialEq)]
enum Into {
    Assign,
    Add,
}

impl PackedLinear {
    /// Packs weights `[out, inner]`, row-major.
    ///
    /// # Panics
    /// If there are not `out * inner` weights.
    pub fn pack_f32(weights: &[f32], out: usize, inner: usize, format: Format) -> PackedLinear {
        assert_eq!(weights.len(), out * inner, "weights of [{out}, {inner}]");
        let row = |j: usize, row: &mut [f32]| row.copy_from_slice(&weights[j * inner..][..inner]);
        PackedLinear::pack_rows(out, inner, format, row)
    }

    /// Packs bf16 weights `[out, inner]`, row-major.
    ///
    /// # Panics
    /// If there are not `out * inner` weights.
    pub fn pack_bf16(weights: &[bf16], out: usize, inner: usize, format: Format) -> PackedLinear {
        assert_eq!(weights.len(), out * inner, "weights of [{out}, {inner}]");
        PackedLinear::pack_rows(out, inner, format, |j, row| {
            for (to, from) in row.iter_mut().zip(&weights[j * inner..][..inner]) {
                *to = from.to_f32();
            }
        })
    }

    /// Packs weights row by row: `row(j, buffer)` writes the `inner` weights of output j. It is called once for each
    /// j, from several threads; no second copy of the weights is made.
    pub fn pack_rows(out: usize, inner: usize, format: Format, row: impl Fn(usize, &mut [f32]) + Sync) -> PackedLinear {
        let packed = PackedLinear::try_pack_rows(out, inner, format, |j, buffer: &mut [f32]| {
            row(j, buffer);
            Ok::<(), Infallible>(())
        });
        match packed {
            Ok(packed) => packed,
            Err(never) => match never {},
        }
    }

    /// Like [`PackedLinear::pack_rows`], where reading a row may fail.
    pub fn try_pack_rows<E: Send>(
        out: usize,
        inner: usize,
        format: Format,
        row: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<PackedLinear, E> {
        let panels = Panels::from_rows(out, inner, format, row)?;
        Ok(PackedLinear { out, inner, format, panels, bias: None })
    }

    /// Packs the transpose of weights `[out, inner]`, given row by row: the layer `dx = dy W` of `inner` outputs, for
    /// gradients. `row(j, buffer)` writes row j of W; it is called once for each j, from several threads.
    pub fn pack_transposed_rows(
        out: usize,
        inner: usize,
        format: Format,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> PackedLinear {
        let panels = Panels::from_columns(inner, out, format, row);
        PackedLinear { out: inner, inner: out, format, panels, bias: None }
    }

    /// The layer `dx = dy W` of the gradient with respect to the inputs, from the packed weights themselves and with
    /// their format. A bias has no part in it.
    pub fn transposed(&self) -> PackedLinear {
        let panels = self.panels.transposed(self.out, self.inner);
        PackedLinear { out: self.inner, inner: self.out, format: self.format, panels, bias: None }
    }

    /// Adds a bias to the layer's outputs.
    ///
    /// # Panics
    /// If there are not as many values as outputs.
    pub fn with_bias(mut self, bias: Vec<f32>) -> PackedLinear {
        assert_eq!(bias.len(), self.out, "one bias per output");
        self.bias = Some(bias);
        self
    }

    /// Number of outputs.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Number of inputs.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// How the weights are kept.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// Writes the weights of an output, as they are kept.
    ///
    /// # Panics
    /// If there is no such output, or not as many values as inputs.
    pub fn row(&self, output: usize, row: &mut [f32]) {
        assert!(output < self.out, "output {output} of {}", self.out);
        assert_eq!(row.len(), self.inner, "one value per input");
        self.panels.row(output, row);
    }

    /// `y = x Wᵀ + bias`; x is `[m, inner]`, y `[m, out]`, row-major.
    ///
    /// # Panics
    /// If x or y has another length.
    pub fn forward(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32]) {
        self.product(isa, x, m, y, Into::Assign);
    }

    /// `y += x Wᵀ + bias`: the product is summed by itself and then added.
    ///
    /// # Panics
    /// As [`PackedLinear::forward`].
    pub fn forward_add(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32]) {
        self.product(isa, x, m, y, Into::Add);
    }

    fn product(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32], into: Into) {
        assert_eq!(y.len(), m * self.out, "outputs of [{m}, {}]", self.out);
        let target = Target(y.as_mut_ptr());
        #[cfg(target_arch = "x86_64")]
        if isa.path() == Path::Amx && self.format == Format::Bf16 && into == Into::Assign && self.bias.is_none() {
            return self.tiles_into(isa, x, m, target);
        }
        self.for_each_block(isa, x, m, 4, |block| {
            for row in block.rows.clone() {
                let values = block.row(row);
                // SAFETY: blocks are disjoint and within [m, out], which `y` was asserted to hold; `y` is borrowed
                // until `for_each_block` returns.
                let y = unsafe { target.slice(row * self.out + block.columns.start, values.len()) };
                match into {
                    Into::Assign => y.copy_from_slice(values),
                    Into::Add => y.iter_mut().zip(values).for_each(|(y, v)| *y += v),
                }
            }
        });
    }

    /// The inputs as the format and the path want them.
    fn prepare<'a>(&self, isa: Isa, x: &'a [f32], m: usize) -> Inputs<'a> {
        match self.format {
            Format::F32 | Format::Bf16Weights => Inputs::F32(Cow::Borrowed(x)),
            #[cfg(target_arch = "x86_64")]
            Format::Bf16 if isa.path() == Path::Amx => {
                Inputs::Pairs(PairRows::new(isa, x, m, self.inner, amx::layout(m, self.inner)))
            }
            Format::Bf16 if isa.has_bf16_dot() => Inputs::Pairs(PairRows::new(isa, x, m, self.inner, Layout::Rows)),
            Format::Bf16 => Inputs::F32(Cow::Owned(super::bf16::rounded(isa, x))),
        }
    }

    /// How many values `block` needs.
    fn block_values(&self, x: &Inputs<'_>, rows: usize, panels: usize) -> usize {
        let values = rows * panels * 16;
        #[cfg(target_arch = "x86_64")]
        if matches!(x, Inputs::Pairs(x) if x.layout() != Layout::Rows) {
            return values + TileProduct::scratch(rows, panels);
        }
        values
    }

    /// The product of some rows and some panels, row-major with `16 * panels.len()` columns.
    fn block(&self, isa: Isa, x: &Inputs<'_>, rows: Range<usize>, panels: Range<usize>, values: &mut [f32]) {
        let count = self.out.div_ceil(16);
        let inner = self.inner;
        let shape = Shape { rows: rows.len(), panels: panels.clone(), inner };
        match (&self.panels, x) {
            (Panels::F32(lines), Inputs::F32(x)) => {
                let a = Rows::packed(&x[rows.start * inner..rows.end * inner], inner);
                let w = F32Weights::new(panels::flat(lines), count, inner, inner * 16, 16);
                dispatch(isa, Multiply { a, w, shape, values });
            }
            (Panels::Bf16 { lines, pairs }, Inputs::F32(x)) => {
                let a = Rows::packed(&x[rows.start * inner..rows.end * inner], inner);
                let w = PairWeights::new(panels::arrays(lines), *pairs);
                dispatch(isa, Multiply { a, w, shape, values });
            }
            #[cfg(target_arch = "x86_64")]
            (Panels::Bf16 { lines, pairs }, Inputs::Pairs(x)) if x.layout() == Layout::Rows => {
                let (a, w) = (&x.lines()[rows.start * x.steps()..], &panels::arrays(lines)[panels.start * pairs..]);
                let product = PairProduct { a, w, pairs: *pairs, rows: rows.len(), panels: panels.len() };
                super::bf16::dot_products(isa, product, values);
            }
            #[cfg(target_arch = "x86_64")]
            (Panels::Bf16 { lines, pairs }, Inputs::Pairs(x)) => {
                let stride = panels.len() * 16;
                let (values, scratch) = values.split_at_mut(rows.len() * stride);
                let w = &panels::arrays(lines)[panels.start * pairs..];
                let product = TileProduct { a: x, rows, w, panels: panels.len() };
                let out = Output { values: values.as_mut_ptr(), stride, columns: stride };
                assert_eq!(isa.path(), Path::Amx);
                // SAFETY: AMX was detected and permitted; `values` has so many rows and columns.
                unsafe { amx::multiply(&product, &out, scratch) };
            }
            (_, Inputs::Pairs(_)) => unreachable!("pairs are only prepared for bf16 weights and a unit for them"),
        }
    }

    /// The product by AMX, stored from its registers to y, which has `m` rows, without a block between.
    #[cfg(target_arch = "x86_64")]
    fn tiles_into(&self, isa: Isa, x: &[f32], m: usize, y: Target<f32>) {
        let (Panels::Bf16 { lines, pairs }, Path::Amx) = (&self.panels, isa.path()) else {
            unreachable!("bf16 weights on the path for tiles");
        };
        self.for_each_task(isa, x, m, 4, |x, rows, panels| {
            let Inputs::Pairs(a) = x else { unreachable!("pairs are prepared for this path") };
            let w = &panels::arrays(lines)[panels.start * pairs..];
            let first = panels.start * 16;
            with_scratch(TileProduct::scratch(rows.len(), panels.len()), |scratch| {
                // SAFETY: AMX was detected and permitted; tasks are disjoint and within [m, out], which y has.
                unsafe {
                    let values = y.from(rows.start * self.out + first).0;
                    let columns = self.out.min(panels.end * 16) - first;
                    let out = Output { values, stride: self.out, columns };
                    amx::multiply(&TileProduct { a, rows, w, panels: panels.len() }, &out, scratch);
                }
            });
        });
    }

    /// Prepares the inputs and shares the product out: some rows and some panels a task.
    fn for_each_task(
        &self,
        isa: Isa,
        x: &[f32],
        m: usize,
        chunk: usize,
        task: impl Fn(&Inputs<'_>, Range<usize>, Range<usize>) + Sync,
    ) {
        assert_eq!(x.len(), m * self.inner, "inputs of [{m}, {}]", self.inner);
        let panels = self.out.div_ceil(16);
        if m == 0 || panels == 0 {
            return;
        }
        let x = self.prepare(isa, x, m);
        let serial = m * self.inner * self.out < SERIAL;
        let (unit, most) = match &x {
            Inputs::Pairs(x) if x.layout() != Layout::Rows => (32, TILE_BLOCK_ROWS),
            _ => (6, BLOCK_ROWS),
        };
        let grid = Grid::new(m, panels, (unit, most), chunk, if serial { 1 } else { rayon::current_num_threads() });
        let one = |at: usize| {
            let (rows, panels) = grid.task(at);
            task(&x, rows, panels);
        };
        match grid.len() {
            1 => one(0),
            n if serial => (0..n).for_each(one),
            n => (0..n).into_par_iter().for_each(one),
        }
    }
}

impl Product for PackedLinear {
    fn out(&self) -> usize {
        self.out
    }

    fn inner(&self) -> usize {
        self.inner
    }

    fn forward(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32]) {
        PackedLinear::forward(self, isa, x, m, y);
    }

    fn for_each_block(&self, isa: Isa, x: &[f32], m: usize, chunk: usize, consume: impl Fn(ProductBlock<'_>) + Sync) {
        self.for_each_task(isa, x, m, chunk, |x, rows, panels| {
            let stride = panels.len() * 16;
            with_scratch(self.block_values(x, rows.len(), panels.len()), |values| {
                self.block(isa, x, rows.clone(), panels.clone(), values);
                let columns = panels.start * 16..self.out.min(panels.end * 16);
                if let Some(bias) = &self.bias {
                    for row in values.chunks_exact_mut(stride).take(rows.len()) {
                        row.iter_mut().zip(&bias[columns.clone()]).for_each(|(v, b)| *v += b);
                    }
                }
                consume(ProductBlock { rows, columns, values, stride });
            });
        });
    }
}

/// Inputs of a product, ready for a path.
enum Inputs<'a> {
    F32(Cow<'a, [f32]>),
    Pairs(PairRows),
}

struct Shape {
    rows: usize,
    panels: Range<usize>,
    inner: usize,
}

struct Multiply<'a, W> {
    a: Rows<'a>,
    w: W,
    shape: Shape,
    values: &'a mut [f32],
}

impl<W: Weights> Kernel for Multiply<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Shape { rows, panels, inner } = self.shape;
        // One tile of rows reads each weight once: nothing to keep in the cache.
        let parts = if rows <= 6 { 1 } else { inner.div_ceil(BLOCK_INNER).max(1) };
        let step = inner.div_ceil(parts).next_multiple_of(2);
        let mut c = Block { values: self.values, stride: panels.len() * 16 };
        let mut from = 0;
        loop {
            let to = inner.min(from + step);
            // SAFETY: the panels are a block's, within those that `w` was made for; k is below `inner`.
            unsafe { tile::multiply(s, self.a, self.w, rows, panels.clone(), from..to, &mut c, from == 0) };
            from = to;
            if from == inner {
                return;
            }
        }
    }
}

/// How a product is cut into blocks. The cut decides about speed, never about a bit of the result.
pub(crate) struct Grid {
    rows: usize,
    panels: usize,
    /// Rows that stay together.
    unit: usize,
    /// Panels that stay together.
    chunk: usize,
    row_blocks: usize,
    panel_blocks: usize,
}

impl Grid {
    /// Blocks of at most so many rows, in units of rows that stay together: `(unit, most)`.
    pub(crate) fn new(rows: usize, panels: usize, (unit, most): (usize, usize), chunk: usize, threads: usize) -> Grid {
        let row_blocks = rows.div_ceil(most);
        let widest = if rows <= 12 { 4 * BLOCK_PANELS } else { BLOCK_PANELS };
        // Several blocks per thread, so that no thread waits long for the last one.
        let wanted = if threads == 1 { 1 } else { (4 * threads).div_ceil(row_blocks) };
        let width = panels.div_ceil(wanted).next_multiple_of(chunk).min(widest);
        Grid { rows, panels, unit, chunk, row_blocks, panel_blocks: panels.div_ceil(width) }
    }

    pub(crate) fn len(&self) -> usize {
        self.row_blocks * self.panel_blocks
    }

    /// Successive tasks share their weights.
    pub(crate) fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (r, p) = (task % self.row_blocks, task / self.row_blocks);
        let part = |n: usize, of: usize, at: usize, unit: usize| {
            let units = n.div_ceil(unit);
            (units * at / of * unit).min(n)..(units * (at + 1) / of * unit).min(n)
        };
        (part(self.rows, self.row_blocks, r, self.unit), part(self.panels, self.panel_blocks, p, self.chunk))
    }
}

/// A pointer to outputs that several threads write, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Target<T>(pub *mut T);

// SAFETY: it is only used for disjoint parts, as `slice` demands.
unsafe impl<T: Send> Send for Target<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Target<T> {}

impl<T> Target<T> {
    /// The outputs from some one on.
    ///
    /// # Safety
    /// It is within the slice that the pointer came from.
    #[inline]
    pub(crate) unsafe fn from(self, at: usize) -> Target<T> {
        // SAFETY: the caller's contract.
        Target(unsafe { self.0.add(at) })
    }

    /// # Safety
    /// The part is within the slice that the pointer came from, that slice is still borrowed, and no other part
    /// in use overlaps with it.
    #[inline]
    pub(crate) unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// Runs `f` with `len` values of the thread's own memory, from a cache line's start on, their contents unspecified. Not
/// to be nested.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Vec<Line<f32>>> = const { RefCell::new(Vec::new()) });
    // Taken out and put back, so that a nested use is slow but not wrong.
    let mut scratch = SCRATCH.with(RefCell::take);
    if scratch.len() < len.div_ceil(16) {
        scratch.resize(len.div_ceil(16), Line([0.0; 16]));
    }
    let result = f(&mut panels::flat_mut(&mut scratch)[..len]);
    SCRATCH.with(|cell| cell.replace(scratch));
    result
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use rand::Rng;

    fn reference(w: &[f32], x: &[f32], m: usize, out: usize, inner: usize) -> Vec<f64> {
        let dot = |i: usize, j: usize| {
            let pairs = x[i * inner..][..inner].iter().zip(&w[j * inner..][..inner]);
            pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
        };
        (0..m * out).map(|at| dot(at / out, at % out)).collect()
    }

    fn forward(layer: &PackedLinear, isa: Isa, x: &[f32], m: usize) -> Vec<f32> {
        let mut y = vec![f32::NAN; m * layer.out()];
        layer.forward(isa, x, m, &mut y);
        y
    }

    fn rounded(x: &[f32]) -> Vec<f32> {
        x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
    }

    #[test]
    fn agrees_with_f64_in_odd_shapes() {
        let mut rng = rng(1);
        for round in 0..40 {
            let (m, out, inner) = (rng.random_range(1..40), rng.random_range(1..200), rng.random_range(1..90));
            // Some in several parts of k, some of those in several blocks of rows.
            let (m, inner) = match round % 8 {
                0 => (m, inner + 700),
                4 => (m + 90, inner + 300),
                _ => (m, inner),
            };
            let (w, x) = (uniform(&mut rng, out * inner), uniform(&mut rng, m * inner));
            let tolerance = 1e-6 * inner as f64;
            let f32_layer = PackedLinear::pack_f32(&w, out, inner, Format::F32);
            let y = same_on_all_paths(|isa| forward(&f32_layer, isa, &x, m));
            assert_close("f32", &y, &reference(&w, &x, m, out, inner), tolerance);

            let halved = PackedLinear::pack_f32(&w, out, inner, Format::Bf16Weights);
            let y = same_on_all_paths(|isa| forward(&halved, isa, &x, m));
            let w = rounded(&w);
            assert_eq!(y, forward(&PackedLinear::pack_f32(&w, out, inner, Format::F32), Isa::best(), &x, m));

            let layer = PackedLinear::pack_f32(&w, out, inner, Format::Bf16);
            for isa in Isa::available() {
                let expected = reference(&w, &rounded(&x), m, out, inner);
                assert_close("bf16", &forward(&layer, isa, &x, m), &expected, tolerance);
            }
        }
    }

    #[test]
    fn a_row_is_the_same_alone_in_groups_and_on_any_threads() {
        let mut rng = rng(2);
        let (m, out, inner) = (211, 333, 401);
        let (w, x) = (uniform(&mut rng, out * inner), uniform(&mut rng, m * inner));
        for format in [Format::F32, Format::Bf16Weights, Format::Bf16] {
            let layer = PackedLinear::pack_f32(&w, out, inner, format);
            for isa in Isa::available() {
                let whole = bits(&with_threads(1, || forward(&layer, isa, &x, m)));
                for threads in [2, 3, 7] {
                    assert_eq!(bits(&with_threads(threads, || forward(&layer, isa, &x, m))), whole);
                }
                let mut from = 0;
                while from < m {
                    let n = rng.random_range(1..20).min(m - from);
                    let part = forward(&layer, isa, &x[from * inner..(from + n) * inner], n);
                    assert_eq!(bits(&part), whole[from * out..(from + n) * out], "{format:?} {isa:?} {from} {n}");
                    from += n;
                }
            }
        }
    }

    #[test]
    fn rows_are_the_weights() {
        let (out, inner) = (37, 51);
        let w = uniform(&mut rng(6), out * inner);
        for (format, kept) in
            [(Format::F32, w.clone()), (Format::Bf16Weights, rounded(&w)), (Format::Bf16, rounded(&w))]
        {
            let layer = PackedLinear::pack_f32(&w, out, inner, format);
            for (j, kept) in kept.chunks(inner).enumerate() {
                let mut row = vec![f32::NAN; inner];
                layer.row(j, &mut row);
                assert_eq!(row, kept, "{format:?} {j}");
            }
        }
    }

    #[test]
    fn bias_and_sum_come_after_the_product() {
        let mut rng = rng(3);
        let (m, out, inner) = (9, 37, 50);
        let (w, x) = (uniform(&mut rng, out * inner), uniform(&mut rng, m * inner));
        let (bias, before) = (uniform(&mut rng, out), uniform(&mut rng, m * out));
        let plain = PackedLinear::pack_f32(&w, out, inner, Format::F32);
        let product = forward(&plain, Isa::best(), &x, m);
        let biased = PackedLinear::pack_f32(&w, out, inner, Format::F32).with_bias(bias.clone());
        let mut y = before.clone();
        plain.forward_add(Isa::best(), &x, m, &mut y);
        let mut z = before.clone();
        biased.forward_add(Isa::best(), &x, m, &mut z);
        let with_bias = forward(&biased, Isa::best(), &x, m);
        for i in 0..m * out {
            assert_eq!(y[i], before[i] + product[i]);
            assert_eq!(with_bias[i], product[i] + bias[i % out]);
            assert_eq!(z[i], before[i] + (product[i] + bias[i % out]));
        }
    }

    #[test]
    fn the_transpose_is_the_backward_product() {
        let mut rng = rng(4);
        for (out, inner) in [(1, 1), (33, 70), (64, 31), (50, 48)] {
            let m = 5;
            let (w, dy) = (uniform(&mut rng, out * inner), uniform(&mut rng, m * out));
            let transposed: Vec<f32> = (0..inner * out).map(|at| w[at % out * inner + at / out]).collect();
            for format in [Format::F32, Format::Bf16Weights] {
                let row = |j: usize, row: &mut [f32]| row.copy_from_slice(&w[j * inner..][..inner]);
                let back = PackedLinear::pack_transposed_rows(out, inner, format, row);
                assert_eq!((back.out(), back.inner()), (inner, out));
                let expected = PackedLinear::pack_f32(&transposed, inner, out, format);
                let own = PackedLinear::pack_f32(&w, out, inner, format).transposed();
                assert_eq!(bits(&forward(&own, Isa::best(), &dy, m)), bits(&forward(&back, Isa::best(), &dy, m)));
                assert_eq!(forward(&back, Isa::best(), &dy, m), forward(&expected, Isa::best(), &dy, m));
            }
        }
    }

    #[test]
    fn nothing_in_nothing_out() {
        let layer = PackedLinear::pack_f32(&[], 0, 7, Format::F32);
        layer.forward(Isa::best(), &[0.0; 21], 3, &mut []);
        let layer = PackedLinear::pack_f32(&[0.5; 21], 3, 7, Format::Bf16);
        layer.forward(Isa::best(), &[], 0, &mut []);
        for format in [Format::F32, Format::Bf16Weights, Format::Bf16] {
            let empty = PackedLinear::pack_f32(&[], 3, 0, format).with_bias(vec![1.0, 2.0, 3.0]);
            assert_eq!(forward(&empty, Isa::best(), &[], 2), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        }
    }

    #[test]
    fn what_is_not_finite_stays_in_its_row() {
        let (out, inner) = (20, 24);
        let w = uniform(&mut rng(5), out * inner);
        for format in [Format::F32, Format::Bf16Weights, Format::Bf16] {
            let layer = PackedLinear::pack_f32(&w, out, inner, format);
            for isa in Isa::available() {
                let mut x = vec![1.0; 3 * inner];
                x[inner + 3] = f32::NAN;
                let y = forward(&layer, isa, &x, 3);
                assert!(y[..out].iter().chain(&y[2 * out..]).all(|y| y.is_finite()));
                assert!(y[out..2 * out].iter().all(|y| y.is_nan()));
                x[inner + 3] = f32::INFINITY;
                assert!(forward(&layer, isa, &x, 3)[out..2 * out].iter().all(|y| y.is_infinite()));
            }
        }
    }

    #[test]
    fn an_error_of_the_source_comes_back() {
        let fail = |j: usize, _: &mut [f32]| if j == 17 { Err("row 17") } else { Ok(()) };
        assert_eq!(PackedLinear::try_pack_rows(40, 8, Format::F32, fail).err(), Some("row 17"));
    }
}
