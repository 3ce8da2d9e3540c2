//! Low-rank updates of frozen linear layers and their gradients.

use super::linear::{Target, with_scratch};
use super::simd::{Kernel, Simd, dispatch};
use super::tile::{self, Block, F32Weights};
use super::{Isa, Rows};
use rayon::prelude::*;
use std::ops::Range;

/// Rows per task.
const BLOCK_ROWS: usize = 48;
/// Panels of 16 columns per task where gradients are summed over rows.
const BLOCK_PANELS: usize = 6;
/// Below this many multiplications a product is not worth waking other threads for.
const SERIAL: usize = 1 << 17;

/// `scale * (x Aᵀ) Bᵀ` with A `[rank, inner]` and B `[out, rank]` in f32, packed for both directions.
///
/// Rows do not see each other, and gradients of A and B are sums over each sequence's tokens in their order, added up
/// sequence by sequence: so all bits are the same for any packing and any number of threads.
#[derive(Debug)]
pub struct LowRank {
    rank: usize,
    inner: usize,
    out: usize,
    scale: f32,
    /// Outputs over inputs, in panels `[outputs / 16, inputs, 16]`: x to rank, rank to y, dy to rank, rank to dx.
    down: Vec<f32>,
    up: Vec<f32>,
    back_down: Vec<f32>,
    back_up: Vec<f32>,
}

/// Gradients of one [`LowRank`], in the layouts of its matrices. They are added to.
#[derive(Debug)]
pub struct LowRankGradient<'a> {
    /// `[rank, inner]`
    pub a: &'a mut [f32],
    /// `[out, rank]`
    pub b: &'a mut [f32],
}

/// Panels of a matrix of `out` outputs of `inner` inputs, whose weight at (output, input) `at` gives.
fn panels(out: usize, inner: usize, at: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut panels = vec![0.0; out.next_multiple_of(16) * inner];
    for (panel, values) in panels.chunks_exact_mut((16 * inner).max(1)).enumerate() {
        for (k, line) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            for (lane, value) in line.iter_mut().enumerate().take(out - (panel * 16).min(out)) {
                *value = at(panel * 16 + lane, k);
            }
        }
    }
    panels
}

/// Rows of f32 with a stride, to be written: row r starts at `values[r * stride]`.
struct RowsMut<'a> {
    target: Target<f32>,
    stride: usize,
    of: std::marker::PhantomData<&'a mut [f32]>,
}

impl<'a> RowsMut<'a> {
    /// `rows` rows from a column on, of `width` values each.
    fn new(values: &'a mut [f32], stride: usize, column: usize, rows: usize, width: usize) -> Self {
        assert!(column + width <= stride, "{width} columns from {column} in rows of {stride}");
        assert_eq!(values.len(), rows * stride, "{rows} rows of {stride}");
        let target = Target(values[column.min(rows * stride)..].as_mut_ptr());
        Self { target, stride, of: std::marker::PhantomData }
    }

    /// # Safety
    /// The row is one of `new`'s, `width` at most its width, and nobody else uses it.
    unsafe fn add(&self, row: usize, width: usize, values: &[f32]) {
        // SAFETY: the caller's contract.
        let to = unsafe { self.target.slice(row * self.stride, width) };
        to.iter_mut().zip(values).for_each(|(to, value)| *to += value);
    }
}

impl LowRank {
    /// Takes A `[rank, inner]` and B `[out, rank]`, row-major.
    ///
    /// # Panics
    /// If there are not as many values.
    pub fn new(a: &[f32], b: &[f32], rank: usize, scale: f32) -> Self {
        assert!(rank > 0 && a.len().is_multiple_of(rank) && b.len().is_multiple_of(rank), "matrices of rank {rank}");
        let (inner, out) = (a.len() / rank, b.len() / rank);
        Self {
            rank,
            inner,
            out,
            scale,
            down: panels(rank, inner, |r, k| a[r * inner + k]),
            up: panels(out, rank, |j, r| b[j * rank + r]),
            back_down: panels(rank, out, |r, j| b[j * rank + r]),
            back_up: panels(inner, rank, |k, r| a[r * inner + k]),
        }
    }

    /// Number of inputs.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Number of outputs.
    pub fn out(&self) -> usize {
        self.out
    }

    /// `y[:, column..column + out] += scale * (x Aᵀ) Bᵀ`; x is `[m, inner]`, y `[m, stride]`.
    ///
    /// # Panics
    /// If the lengths disagree.
    pub fn add(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32], stride: usize, column: usize) {
        assert_eq!(x.len(), m * self.inner, "inputs of [{m}, {}]", self.inner);
        let y = RowsMut::new(y, stride, column, m, self.out);
        let rank = self.rank.next_multiple_of(16);
        self.for_each_block(m, |rows| {
            with_scratch(rows.len() * (rank + self.out.next_multiple_of(16)), |scratch| {
                let (low, sum) = scratch.split_at_mut(rows.len() * rank);
                let x = Rows::packed(&x[rows.start * self.inner..rows.end * self.inner], self.inner);
                product(isa, x, &self.down, rows.len(), self.inner, self.scale, low);
                let low = Rows { values: low, stride: rank };
                product(isa, low, &self.up, rows.len(), self.rank, 1.0, sum);
                add_rows(sum, self.out, &y, rows);
            });
        });
    }

    /// Given the inputs `x` `[m, inner]` and the gradient of the outputs, `dy[:, column..column + out]` of `[m, stride]`, adds
    /// the gradients of A, B and (where `dx` is given) of the inputs.
    ///
    /// # Panics
    /// If lengths disagree or a sequence is not within the rows.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        isa: Isa,
        x: &[f32],
        dy: &[f32],
        stride: usize,
        column: usize,
        sequences: &[Range<usize>],
        gradient: &mut LowRankGradient<'_>,
        dx: Option<&mut [f32]>,
    ) {
        let (rank, inner, out) = (self.rank, self.inner, self.out);
        let m = dy.len() / stride.max(1);
        assert!(column + out <= stride && dy.len() == m * stride, "{out} columns from {column} in rows of {stride}");
        assert_eq!(x.len(), m * inner, "inputs of [{m}, {inner}]");
        assert!(gradient.a.len() == rank * inner && gradient.b.len() == rank * out, "gradients of rank {rank}");
        assert!(sequences.iter().all(|s| s.start <= s.end && s.end <= m), "sequences within {m} rows");
        let dy = Rows { values: dy.get(column..).unwrap_or_default(), stride };
        let dx = dx.map(|dx| RowsMut::new(dx, inner, 0, m, inner));
        // The low sides of both factors, transposed: what the sums over tokens read.
        let (mut of_x, mut of_dy) = (vec![0.0; rank * m], vec![0.0; rank * m]);
        let (low_x, low_dy) = (Target(of_x.as_mut_ptr()), Target(of_dy.as_mut_ptr()));
        let padded = rank.next_multiple_of(16);
        self.for_each_block(m, |rows| {
            with_scratch(rows.len() * (padded + inner.next_multiple_of(16)), |scratch| {
                let (low, sum) = scratch.split_at_mut(rows.len() * padded);
                let inputs = Rows::packed(&x[rows.start * inner..rows.end * inner], inner);
                product(isa, inputs, &self.down, rows.len(), inner, self.scale, low);
                // SAFETY: these rows are this block's alone, `[rank, m]` holds them.
                unsafe { transpose(low, padded, rank, &rows, m, low_x) };
                let slopes = Rows { values: &dy.values[rows.start * stride..], stride };
                product(isa, slopes, &self.back_down, rows.len(), out, self.scale, low);
                // SAFETY: as above.
                unsafe { transpose(low, padded, rank, &rows, m, low_dy) };
                if let Some(dx) = &dx {
                    let low = Rows { values: low, stride: padded };
                    product(isa, low, &self.back_up, rows.len(), rank, 1.0, sum);
                    add_rows(sum, inner, dx, rows);
                }
            });
        });
        let x = Rows::packed(x, inner);
        let (a, b) = ([inner, 1], [1, rank]);
        sum_over_tokens(isa, Rows::packed(&of_dy, m), rank, x, inner, sequences, Strided(gradient.a, a));
        sum_over_tokens(isa, Rows::packed(&of_x, m), rank, dy, out, sequences, Strided(gradient.b, b));
    }

    fn for_each_block(&self, m: usize, f: impl Fn(Range<usize>) + Sync + Send) {
        let block = |i: usize| i * BLOCK_ROWS..m.min((i + 1) * BLOCK_ROWS);
        let blocks = m.div_ceil(BLOCK_ROWS);
        if m * self.rank * (self.inner + self.out) < SERIAL {
            (0..blocks).for_each(|i| f(block(i)));
        } else {
            (0..blocks).into_par_iter().for_each(|i| f(block(i)));
        }
    }
}

/// `c = scale * (a · panelsᵀ)`, row-major with whole panels of columns.
fn product(isa: Isa, a: Rows<'_>, panels: &[f32], rows: usize, inner: usize, scale: f32, c: &mut [f32]) {
    struct Product<'a> {
        a: Rows<'a>,
        panels: &'a [f32],
        rows: usize,
        inner: usize,
        scale: f32,
        c: &'a mut [f32],
    }
    impl Kernel for Product<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let n = self.panels.len() / (16 * self.inner);
            let w = F32Weights::new(self.panels, n, self.inner, 16 * self.inner, 16);
            let mut c = Block { values: self.c, stride: n * 16 };
            // SAFETY: `w` was made for these panels and inputs.
            unsafe { tile::multiply(s, self.a, w, self.rows, 0..n, 0..self.inner, &mut c, true) };
            if self.scale != 1.0 {
                c.values[..self.rows * n * 16].iter_mut().for_each(|v| *v *= self.scale);
            }
        }
    }
    if inner > 0 {
        dispatch(isa, Product { a, panels, rows, inner, scale, c });
    }
}

/// Adds rows of whole panels to `width` columns of `to`.
fn add_rows(sum: &[f32], width: usize, to: &RowsMut<'_>, rows: Range<usize>) {
    for (sum, row) in sum.chunks_exact(width.next_multiple_of(16).max(1)).zip(rows) {
        // SAFETY: rows are a block's, and blocks are disjoint and within the rows that `to` was made for.
        unsafe { to.add(row, width, sum) };
    }
}

/// Writes `low` `[rows, stride]` as the columns `rows` of `to` `[rank, m]`.
///
/// # Safety
/// `to` has that size, and nobody else uses these columns.
unsafe fn transpose(low: &[f32], stride: usize, rank: usize, rows: &Range<usize>, m: usize, to: Target<f32>) {
    for r in 0..rank {
        // SAFETY: the caller's contract.
        let to = unsafe { to.slice(r * m + rows.start, rows.len()) };
        for (to, low) in to.iter_mut().zip(low.chunks_exact(stride)) {
            *to = low[r];
        }
    }
}

/// A matrix and the distances of its rows and columns.
struct Strided<'a>(&'a mut [f32], [usize; 2]);

/// For each sequence in turn, `to += factors[:, tokens] · x[tokens, ..width]`; factors are `[rank, tokens of all]`.
fn sum_over_tokens(
    isa: Isa,
    factors: Rows<'_>,
    rank: usize,
    x: Rows<'_>,
    width: usize,
    sequences: &[Range<usize>],
    to: Strided<'_>,
) {
    let Strided(to, [row_stride, column_stride]) = to;
    let blocks = width.div_ceil(16 * BLOCK_PANELS);
    let columns = |i: usize| i * 16 * BLOCK_PANELS..width.min((i + 1) * 16 * BLOCK_PANELS);
    let block = |i: usize| {
        let columns = columns(i);
        let padded = columns.len().next_multiple_of(16);
        let (mut total, mut sum) = (vec![0.0; rank * padded], vec![0.0; rank * padded]);
        for (row, total) in total.chunks_exact_mut(padded).enumerate() {
            for (column, total) in columns.clone().zip(total) {
                *total = to[row * row_stride + column * column_stride];
            }
        }
        for tokens in sequences.iter().filter(|tokens| !tokens.is_empty()) {
            let factors = Rows { values: &factors.values[tokens.start..], stride: factors.stride };
            let x = Rows { values: &x.values[tokens.start * x.stride..], stride: x.stride };
            dispatch(
                isa,
                OverTokens { factors, rank, x, columns: columns.clone(), tokens: tokens.len(), sum: &mut sum },
            );
            total.iter_mut().zip(&sum).for_each(|(t, s)| *t += s);
        }
        total
    };
    let totals: Vec<_> = match factors.values.len() * width < SERIAL {
        true => (0..blocks).map(block).collect(),
        false => (0..blocks).into_par_iter().map(block).collect(),
    };
    for (i, total) in totals.iter().enumerate() {
        let columns = columns(i);
        for (row, total) in total.chunks_exact(columns.len().next_multiple_of(16)).enumerate() {
            for (column, total) in columns.clone().zip(total) {
                to[row * row_stride + column * column_stride] = *total;
            }
        }
    }
}

struct OverTokens<'a> {
    factors: Rows<'a>,
    rank: usize,
    x: Rows<'a>,
    columns: Range<usize>,
    tokens: usize,
    /// `[rank, columns rounded up to panels]`
    sum: &'a mut [f32],
}

impl Kernel for OverTokens<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { factors, rank, x, columns, tokens, sum } = self;
        let stride = columns.len().next_multiple_of(16);
        // Rows of x are themselves panels of 16 columns; a last one that is not whole is copied.
        let whole = columns.len() / 16;
        if whole > 0 {
            let w = F32Weights::new(&x.values[columns.start..], whole, tokens, 16, x.stride);
            // SAFETY: `w` was made for these panels and tokens.
            unsafe {
                tile::multiply(s, factors, w, rank, 0..whole, 0..tokens, &mut Block { values: sum, stride }, true)
            };
        }
        let rest = columns.start + whole * 16..columns.end;
        if !rest.is_empty() {
            let row = |token: usize| super::rows::padded(&x.values[token * x.stride..][rest.clone()]);
            let last: Vec<f32> = (0..tokens).flat_map(row).collect();
            let w = F32Weights::new(&last, 1, tokens, 16, 16);
            let mut c = Block { values: &mut sum[whole * 16..], stride };
            // SAFETY: as above.
            unsafe { tile::multiply(s, factors, w, rank, 0..1, 0..tokens, &mut c, true) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    struct Case {
        rank: usize,
        inner: usize,
        out: usize,
        a: Vec<f32>,
        b: Vec<f32>,
        x: Vec<f32>,
        dy: Vec<f32>,
    }

    /// Outputs stand in rows that are three columns longer, from column two on.
    fn case(seed: u64, rank: usize, inner: usize, out: usize, m: usize) -> Case {
        let mut rng = rng(seed);
        let mut of = |n| uniform(&mut rng, n);
        Case { rank, inner, out, a: of(rank * inner), b: of(out * rank), x: of(m * inner), dy: of(m * (out + 3)) }
    }

    impl Case {
        fn low_rank(&self) -> LowRank {
            LowRank::new(&self.a, &self.b, self.rank, 0.5)
        }

        /// x Aᵀ and dy B, scaled, in f64.
        fn low(&self, i: usize, r: usize) -> (f64, f64) {
            let x: f64 = (0..self.inner).map(|k| f(self.x[i * self.inner + k]) * f(self.a[r * self.inner + k])).sum();
            let dy: f64 = (0..self.out).map(|j| self.dy(i, j) * f(self.b[j * self.rank + r])).sum();
            (0.5 * x, 0.5 * dy)
        }

        fn dy(&self, i: usize, j: usize) -> f64 {
            f(self.dy[i * (self.out + 3) + 2 + j])
        }

        /// Gradients of A, B and x; the latter added to ones.
        fn backward(&self, isa: Isa, sequences: &[Range<usize>]) -> Vec<f32> {
            let (mut a, mut b) = (vec![0.0; self.a.len()], vec![0.0; self.b.len()]);
            let mut dx = vec![1.0; self.x.len()];
            let mut gradient = LowRankGradient { a: &mut a, b: &mut b };
            let low_rank = self.low_rank();
            low_rank.backward(isa, &self.x, &self.dy, self.out + 3, 2, sequences, &mut gradient, Some(&mut dx));
            [a, b, dx].concat()
        }
    }

    fn f(x: f32) -> f64 {
        f64::from(x)
    }

    fn shapes() -> [[usize; 4]; 5] {
        [[8, 64, 40, 20], [1, 7, 3, 5], [16, 33, 100, 50], [5, 200, 16, 1], [20, 96, 230, 130]]
    }

    #[test]
    fn the_update_is_added_to_its_columns() {
        for (seed, [rank, inner, out, m]) in shapes().into_iter().enumerate() {
            let c = case(seed as u64, rank, inner, out, m);
            let got = same_on_all_paths(|isa| {
                let mut y = c.dy.clone();
                c.low_rank().add(isa, &c.x, m, &mut y, out + 3, 2);
                y
            });
            let mut expected: Vec<f64> = c.dy.iter().map(|y| f(*y)).collect();
            for (i, j) in (0..m).flat_map(|i| (0..out).map(move |j| (i, j))) {
                expected[i * (out + 3) + 2 + j] += (0..rank).map(|r| c.low(i, r).0 * f(c.b[j * rank + r])).sum::<f64>();
            }
            assert_close("update", &got, &expected, 2e-6 * (rank * inner) as f64);
        }
    }

    #[test]
    fn gradients_agree_with_f64() {
        for (seed, [rank, inner, out, m]) in shapes().into_iter().enumerate() {
            let c = case(10 + seed as u64, rank, inner, out, m);
            let got = same_on_all_paths(|isa| c.backward(isa, std::slice::from_ref(&(0..m))));
            let (mut a, mut b) = (vec![0.0; rank * inner], vec![0.0; out * rank]);
            let mut dx = vec![1.0; m * inner];
            for (i, r) in (0..m).flat_map(|i| (0..rank).map(move |r| (i, r))) {
                let (low_x, low_dy) = c.low(i, r);
                for k in 0..inner {
                    a[r * inner + k] += low_dy * f(c.x[i * inner + k]);
                    dx[i * inner + k] += low_dy * f(c.a[r * inner + k]);
                }
                for j in 0..out {
                    b[j * rank + r] += low_x * c.dy(i, j);
                }
            }
            assert_close("gradients", &got, &[a, b, dx].concat(), 1e-6 * (rank + m) as f64 * (inner + out) as f64);
        }
    }

    #[test]
    fn packing_and_threads_change_no_bit() {
        let c = case(20, 8, 250, 130, 200);
        let sequences = [0..70, 70..71, 71..71, 71..200];
        let whole = bits(&c.backward(Isa::best(), &sequences));
        for threads in [1, 3] {
            assert_eq!(bits(&with_threads(threads, || c.backward(Isa::best(), &sequences))), whole);
        }
        // In two passes, the second of which adds to the first.
        let (mut a, mut b, mut dx) = (vec![0.0; c.a.len()], vec![0.0; c.b.len()], vec![1.0; c.x.len()]);
        for rows in [0..71, 71..200] {
            let mut gradient = LowRankGradient { a: &mut a, b: &mut b };
            let own: Vec<_> = sequences.iter().filter(|s| s.start >= rows.start && s.end <= rows.end).collect();
            let own: Vec<_> = own.iter().map(|s| s.start - rows.start..s.end - rows.start).collect();
            let (x, dy) = (rows.start * 250..rows.end * 250, rows.start * 133..rows.end * 133);
            let dx = Some(&mut dx[x.clone()]);
            c.low_rank().backward(Isa::best(), &c.x[x], &c.dy[dy], 133, 2, &own, &mut gradient, dx);
        }
        assert_eq!(bits(&[a, b, dx].concat()), whole);
    }

    #[test]
    fn nothing_to_do() {
        let low_rank = case(30, 4, 8, 6, 0).low_rank();
        low_rank.add(Isa::best(), &[], 0, &mut [], 9, 2);
        let (mut a, mut b) = (vec![0.0; 32], vec![0.0; 24]);
        let mut gradient = LowRankGradient { a: &mut a, b: &mut b };
        low_rank.backward(Isa::best(), &[], &[], 9, 2, std::slice::from_ref(&(0..0)), &mut gradient, None);
    }
}
