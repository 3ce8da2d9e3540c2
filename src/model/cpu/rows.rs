//! Elementwise kernels over rows: norms, rotary positions, gates.

use super::Isa;
use super::linear::Target;
use super::simd::{Kernel, Simd, dispatch};
use rayon::prelude::*;

/// Values below which a pass over rows is not worth waking other threads for.
const SERIAL: usize = 1 << 15;

/// Rows of f32 with a stride: row r starts at `values[r * stride]`. Several views of one buffer (the queries, keys and
/// values of a fused product) are rows with one stride and different starts.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows that follow one another.
    pub fn packed(values: &'a [f32], width: usize) -> Rows<'a> {
        Rows { values, stride: width }
    }

    /// The first `width` values of a row.
    ///
    /// # Panics
    /// If they are not there.
    #[inline(always)]
    pub fn row(&self, row: usize, width: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..width]
    }
}

/// Which heads of rows are meant: `count` heads of `dim` values, the first at `offset` in its row of `stride` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub stride: usize,
    pub offset: usize,
    pub count: usize,
    pub dim: usize,
}

impl Heads {
    /// Heads that fill their rows.
    pub fn packed(count: usize, dim: usize) -> Heads {
        Heads { stride: count * dim, offset: 0, count, dim }
    }

    /// Calls `f(row index, head)` for every head of every row, several rows at once.
    pub(crate) fn for_each(self, x: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
        let Heads { stride, offset, count, dim } = self;
        assert!(offset + count * dim <= stride, "{count} heads of {dim} at {offset} in rows of {stride}");
        assert!(x.len().is_multiple_of(stride.max(1)), "rows of {stride} in {} values", x.len());
        let row = |(at, row): (usize, &mut [f32])| {
            row[offset..offset + count * dim].chunks_exact_mut(dim.max(1)).for_each(|head| f(at, head));
        };
        for_each_row(x, stride, row);
    }
}

/// Calls `f` for every row, in parallel where that pays.
pub(crate) fn for_each_row(x: &mut [f32], width: usize, f: impl Fn((usize, &mut [f32])) + Send + Sync) {
    if width == 0 {
        return;
    }
    if x.len() < SERIAL {
        x.chunks_exact_mut(width).enumerate().for_each(f);
    } else {
        x.par_chunks_exact_mut(width).enumerate().with_min_len((SERIAL / 4).div_ceil(width)).for_each(f);
    }
}

/// `y = x / sqrt(mean(x²) + epsilon) * weight` per row; x and y are `[m, weight.len()]`.
///
/// # Panics
/// If x and y differ in length or are no whole rows.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    assert!(x.len() == y.len() && x.len().is_multiple_of(width.max(1)), "rows of {width} in {} values", x.len());
    for_each_row(y, width, |(row, y)| {
        dispatch(isa, Norm { x: &x[row * width..][..width], weight, epsilon, y });
    });
}

/// `sum = x + delta`, then `y = rms_norm(sum)`: the step between two halves of a decoder layer.
///
/// # Panics
/// As [`rms_norm`].
pub fn add_rms_norm(isa: Isa, x: &[f32], delta: &[f32], weight: &[f32], epsilon: f32, sum: &mut [f32], y: &mut [f32]) {
    assert!(x.len() == delta.len() && x.len() == sum.len() && x.len() == y.len(), "inputs and outputs of one length");
    assert!(x.len().is_multiple_of(weight.len().max(1)), "rows of {} in {} values", weight.len(), x.len());
    let y = Target(y.as_mut_ptr());
    for_each_row(sum, weight.len(), |(row, sum)| {
        let part = row * sum.len();
        sum.iter_mut().zip(x[part..].iter().zip(&delta[part..])).for_each(|(sum, (x, d))| *sum = x + d);
        // SAFETY: y is as long as the sum and borrowed until the end; each row is one call's.
        let y = unsafe { y.slice(part, sum.len()) };
        dispatch(isa, Norm { x: sum, weight, epsilon, y });
    });
}

/// RMS norm of every head by itself, in place (the norms of queries and keys of some models). `weight` has one value
/// per dimension of a head.
///
/// # Panics
/// If x is no whole rows or the weights are not a head's.
pub fn rms_norm_heads(isa: Isa, x: &mut [f32], heads: Heads, weight: &[f32], epsilon: f32) {
    assert_eq!(weight.len(), heads.dim, "weights of a head");
    heads.for_each(x, |_, head| {
        dispatch(isa, NormInPlace { x: head, weight, epsilon });
    });
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    y: &'a mut [f32],
}

struct NormInPlace<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    epsilon: f32,
}

/// What a row is multiplied by before the weights.
#[inline(always)]
pub(crate) fn norm_scale<S: Simd>(s: S, x: &[f32], epsilon: f32) -> f32 {
    let mut sum = s.splat(0.0);
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        let v = s.load(chunk);
        sum = s.fma(v, v, sum);
    }
    let v = s.load(&padded(rest));
    let sum = s.sum(s.fma(v, v, sum));
    1.0 / (sum / x.len() as f32 + epsilon).sqrt()
}

/// Fewer than 16 values, then zeros.
#[inline(always)]
pub(crate) fn padded(rest: &[f32]) -> [f32; 16] {
    let mut all = [0.0; 16];
    all[..rest.len()].copy_from_slice(rest);
    all
}

impl Kernel for Norm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = norm_scale(s, self.x, self.epsilon);
        for i in 0..self.y.len() {
            self.y[i] = self.x[i] * scale * self.weight[i];
        }
    }
}

impl Kernel for NormInPlace<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = norm_scale(s, self.x, self.epsilon);
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = *x * scale * weight;
        }
    }
}

/// `out = silu(gate) * up` per value, with `silu(g) = g / (1 + exp(-g))`; out is `[m, width]`.
///
/// A fused product `[m, 2 * width]` with the gates first is `gate = Rows { values: &x, stride: 2 * width }` and
/// `up = Rows { values: &x[width..], stride: 2 * width }`.
///
/// # Panics
/// If gate or up has fewer rows than out.
pub fn swiglu(isa: Isa, gate: Rows<'_>, up: Rows<'_>, width: usize, out: &mut [f32]) {
    assert!(out.len().is_multiple_of(width.max(1)), "rows of {width} in {} values", out.len());
    for_each_row(out, width, |(row, out)| {
        swiglu_row(isa, gate.row(row, width), up.row(row, width), out);
    });
}

/// [`swiglu`] of one row.
pub(crate) fn swiglu_row(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    dispatch(isa, SwiGlu { gate, up, out });
}

struct SwiGlu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gate_rest) = self.gate.as_chunks::<16>();
        let (ups, up_rest) = self.up.as_chunks::<16>();
        let (outs, out_rest) = self.out.as_chunks_mut::<16>();
        for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
            swiglu_lanes(s, gate, up, out);
        }
        let mut last = [0.0; 16];
        swiglu_lanes(s, &padded(gate_rest), &padded(up_rest), &mut last);
        out_rest.copy_from_slice(&last[..out_rest.len()]);
    }
}

#[inline(always)]
fn swiglu_lanes<S: Simd>(s: S, gate: &[f32; 16], up: &[f32; 16], out: &mut [f32; 16]) {
    let g = s.load(gate);
    let e = s.exp(s.sub(s.splat(0.0), g));
    let silu = s.div(g, s.add(s.splat(1.0), e));
    s.store(out, s.mul(silu, s.load(up)));
}

/// Which values of a head form a pair that is turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RotaryLayout {
    /// Value i with value i + half: as Hugging Face checkpoints have it.
    Halves,
    /// Value 2 i with value 2 i + 1: as the Llama family's GGUF files have it.
    Interleaved,
}

/// Cosines and sines for the rows of one pass through a decoder, made once and used by all layers.
#[derive(Debug, Clone)]
pub struct Rotary {
    layout: RotaryLayout,
    pairs: usize,
    /// `[rows, pairs]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// The frequencies `theta^(-2 i / dim)` of the pairs of `dim` values, radians per position.
    pub fn frequencies(theta: f64, dim: usize) -> Vec<f32> {
        (0..dim / 2).map(|i| theta.powf(-((2 * i) as f64) / dim as f64) as f32).collect()
    }

    /// Tables for rows at these positions. `magnitude` multiplies cosines and sines (1 for most models). Heads longer
    /// than two values per frequency keep the rest as it is.
    ///
    /// The angle is the f32 product of position and frequency, as in the models' own training code; its
    /// cosine and sine are correctly rounded.
    pub fn new(layout: RotaryLayout, frequencies: &[f32], positions: &[u32], magnitude: f32) -> Rotary {
        let angles = || positions.iter().flat_map(|p| frequencies.iter().map(move |f| f64::from(*p as f32 * f)));
        Rotary {
            layout,
            pairs: frequencies.len(),
            cos: angles().map(|angle| angle.cos() as f32 * magnitude).collect(),
            sin: angles().map(|angle| angle.sin() as f32 * magnitude).collect(),
        }
    }

    /// The angles turned back: applied to gradients of turned values, it gives those of the values before.
    pub fn inverse(&self) -> Rotary {
        let sin = self.sin.iter().map(|sin| -sin).collect();
        Rotary { layout: self.layout, pairs: self.pairs, cos: self.cos.clone(), sin }
    }

    /// Turns heads in place; row r of x stands at position r of the table.
    ///
    /// # Panics
    /// If x is not as many rows as positions, or a head is too short.
    pub fn apply(&self, isa: Isa, x: &mut [f32], heads: Heads) {
        assert!(2 * self.pairs <= heads.dim, "{} pairs in a head of {}", self.pairs, heads.dim);
        if self.pairs == 0 {
            return;
        }
        assert_eq!(x.len() * self.pairs, self.cos.len() * heads.stride, "one position per row");
        heads.for_each(x, |row, head| {
            let table = row * self.pairs..(row + 1) * self.pairs;
            let (cos, sin) = (&self.cos[table.clone()], &self.sin[table]);
            dispatch(isa, Turn { layout: self.layout, head: &mut head[..2 * self.pairs], cos, sin });
        });
    }
}

struct Turn<'a> {
    layout: RotaryLayout,
    head: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // Plain code: the compiler does not fuse these products, so all paths round alike.
        let turned = |a: f32, b: f32, cos: f32, sin: f32| (a * cos - b * sin, b * cos + a * sin);
        match self.layout {
            RotaryLayout::Halves => {
                let (first, second) = self.head.split_at_mut(self.cos.len());
                for i in 0..self.cos.len() {
                    (first[i], second[i]) = turned(first[i], second[i], self.cos[i], self.sin[i]);
                }
            }
            RotaryLayout::Interleaved => {
                for (i, pair) in self.head.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    (pair[0], pair[1]) = turned(pair[0], pair[1], self.cos[i], self.sin[i]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn norm_reference(x: &[f32], weight: &[f32], epsilon: f64) -> Vec<f64> {
        let row = |x: &[f32]| {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (mean + epsilon).sqrt();
            x.iter().zip(weight).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect::<Vec<_>>()
        };
        x.chunks(weight.len()).flat_map(row).collect()
    }

    #[test]
    fn norms_agree_with_f64_and_do_not_see_other_rows() {
        let mut rng = rng(11);
        for width in [1, 15, 16, 17, 64, 576, 1000] {
            let (x, weight) = (uniform(&mut rng, 70 * width), uniform(&mut rng, width));
            let norm = |isa, x: &[f32]| {
                let mut y = vec![0.0; x.len()];
                rms_norm(isa, x, &weight, 1e-5, &mut y);
                y
            };
            let y = same_on_all_paths(|isa| norm(isa, &x));
            assert_close("norm", &y, &norm_reference(&x, &weight, f64::from(1e-5_f32)), 2e-6);
            for row in [0, 3, 69] {
                let part = row * width..(row + 1) * width;
                assert_eq!(bits(&norm(Isa::best(), &x[part.clone()])), bits(&y[part]));
            }
            let mut heads = x.clone();
            rms_norm_heads(Isa::best(), &mut heads, Heads::packed(2, width), &weight, 1e-5);
            assert_eq!(bits(&heads), bits(&y));
        }
    }

    #[test]
    fn the_fused_norm_is_sum_then_norm() {
        let mut rng = rng(12);
        let (x, delta, weight) = (uniform(&mut rng, 300), uniform(&mut rng, 300), uniform(&mut rng, 100));
        let (mut fused, mut y, mut expected) = (vec![0.0; 300], vec![0.0; 300], vec![0.0; 300]);
        add_rms_norm(Isa::best(), &x, &delta, &weight, 1e-6, &mut fused, &mut y);
        let sum: Vec<f32> = x.iter().zip(&delta).map(|(a, b)| a + b).collect();
        rms_norm(Isa::best(), &sum, &weight, 1e-6, &mut expected);
        assert_eq!((fused, y), (sum, expected));
    }

    #[test]
    fn swiglu_agrees_with_f64_apart_and_fused() {
        let mut rng = rng(13);
        for width in [1, 16, 37, 1536] {
            let m = 5;
            let x: Vec<f32> = uniform(&mut rng, m * 2 * width).iter().map(|x| x * 30.0).collect();
            let y = same_on_all_paths(|isa| {
                let mut y = vec![0.0; m * width];
                let up = Rows { values: &x[width..], stride: 2 * width };
                swiglu(isa, Rows { values: &x, stride: 2 * width }, up, width, &mut y);
                y
            });
            let at = |i: usize, half: usize| f64::from(x[i / width * 2 * width + half * width + i % width]);
            let expected: Vec<f64> = (0..m * width).map(|i| at(i, 0) / (1.0 + (-at(i, 0)).exp()) * at(i, 1)).collect();
            assert_close("swiglu", &y, &expected, 3e-4);
            let relative = y.iter().zip(&expected).map(|(y, e)| (f64::from(*y) - e).abs() / e.abs().max(1e-20));
            assert!(relative.fold(0.0, f64::max) < 1e-6);
        }
    }

    #[test]
    fn swiglu_of_extremes() {
        let gate = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 200.0, -200.0, 0.0];
        for isa in Isa::available() {
            let mut y = [1.0; 6];
            swiglu(isa, Rows::packed(&gate, 6), Rows::packed(&[1.0; 6], 6), 6, &mut y);
            assert!(y[0].is_nan() && y[1] == f32::INFINITY && y[2].is_nan());
            assert_eq!(y[3..], [200.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn rotary_turns_pairs_and_leaves_the_rest() {
        let mut rng = rng(14);
        let frequencies = Rotary::frequencies(10_000.0, 8);
        let positions = [0, 1, 7, 4000];
        let heads = Heads { stride: 50, offset: 5, count: 3, dim: 12 };
        let x = uniform(&mut rng, 200);
        for layout in [RotaryLayout::Halves, RotaryLayout::Interleaved] {
            let rotary = Rotary::new(layout, &frequencies, &positions, 1.0);
            let y = same_on_all_paths(|isa| {
                let mut y = x.clone();
                rotary.apply(isa, &mut y, heads);
                y
            });
            let mut expected: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for (row, position) in positions.iter().enumerate() {
                for head in 0..3 {
                    for (i, frequency) in frequencies.iter().enumerate() {
                        let base = row * 50 + 5 + head * 12;
                        let (a, b) = match layout {
                            RotaryLayout::Halves => (base + i, base + i + 4),
                            RotaryLayout::Interleaved => (base + 2 * i, base + 2 * i + 1),
                        };
                        let (sin, cos) = f64::from(*position as f32 * frequency).sin_cos();
                        let (first, second) = (expected[a], expected[b]);
                        (expected[a], expected[b]) = (first * cos - second * sin, second * cos + first * sin);
                    }
                }
            }
            assert_close("rotary", &y, &expected, 3e-7);
        }
    }

    #[test]
    fn no_rows() {
        rms_norm(Isa::best(), &[], &[1.0; 4], 1e-5, &mut []);
        swiglu(Isa::best(), Rows::packed(&[], 4), Rows::packed(&[], 4), 4, &mut []);
        Rotary::new(RotaryLayout::Halves, &[1.0], &[], 1.0).apply(Isa::best(), &mut [], Heads::packed(2, 4));
    }
}
