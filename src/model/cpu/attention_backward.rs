//! The gradient of causal attention over packed sequences.
//!
//! Nothing is kept of the forward pass but queries, keys and values. Two sweeps: the first takes a tile of query rows
//! against the keys they see, finds their softmax again and gives the queries' gradient; the second takes a tile of
//! keys against the queries that see them and gives the gradients of keys and values. Both multiply the same numbers
//! in the same order, so they agree on every probability bit for bit, and each output is one task's alone.

use super::attention::Attention;
use super::linear::{Target, with_scratch};
use super::simd::{Kernel, Simd, dispatch};
use super::tile::{self, Block, F32Weights};
use super::{Isa, Rows};
use rayon::prelude::*;
use std::ops::Range;

/// Rows that are computed together; a tile of the product kernel.
const TILE: usize = 6;
/// Rows per task.
const TASK_ROWS: usize = 96;

/// Gradients of causal softmax attention, as [`Attention::forward`] computes it.
///
/// `qkv` is `[tokens, (heads + 2 kv_heads) * head_dim]`: each row holds the query heads (rotary positions applied), the key
/// heads, the value heads of one token. `d_out` is `[tokens, heads * head_dim]`, and `d_qkv` is written, in the layout
/// of `qkv`, in the rows of `sequences`, which each are a whole sequence.
///
/// A sequence's gradients depend on that sequence alone: not on packing, threads or path.
///
/// # Panics
/// If lengths disagree or sequences overlap.
pub fn attention_backward(
    isa: Isa,
    attention: &Attention,
    qkv: &[f32],
    d_out: &[f32],
    sequences: &[Range<usize>],
    d_qkv: &mut [f32],
) {
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "heads in equal groups");
    let width = (heads + 2 * kv_heads) * head_dim;
    assert!(qkv.len() == d_qkv.len() && qkv.len().is_multiple_of(width.max(1)), "rows of {width}");
    assert_eq!(d_out.len() * (heads + 2 * kv_heads), qkv.len() * heads, "gradients of every head");
    let mut sorted: Vec<_> = sequences.iter().collect();
    sorted.sort_by_key(|rows| rows.start);
    assert!(sorted.windows(2).all(|pair| pair[0].end <= pair[1].start), "sequences' rows overlap");
    assert!(sorted.last().is_none_or(|last| last.end * width <= qkv.len()), "sequences of the rows given");
    let target = Target(d_qkv.as_mut_ptr());
    let prepared: Vec<Prepared<'_>> = sequences
        .par_iter()
        .with_max_len(1)
        .map(|rows| Prepared::new(attention, qkv, d_out, rows.clone(), target))
        .collect();
    let group = heads / kv_heads;
    let tasks = |step: usize| {
        prepared.iter().enumerate().flat_map(move |(sequence, p)| {
            (0..p.tokens).step_by(step).flat_map(move |from| (0..kv_heads).map(move |head| (sequence, head, from)))
        })
    };
    let step = (TASK_ROWS / group).max(1);
    let mut stats: Vec<Vec<f32>> = prepared.iter().map(|p| vec![0.0; stats_at(p, heads, 0)]).collect();
    let targets: Vec<_> = stats.iter_mut().map(|stats| Target(stats.as_mut_ptr())).collect();
    // The last tokens of a sequence see most: they begin.
    tasks(step).collect::<Vec<_>>().par_iter().rev().with_max_len(1).for_each(|(sequence, head, from)| {
        let p = &prepared[*sequence];
        let tokens = *from..p.tokens.min(from + step);
        with_scratch(TILE * (2 * head_dim + p.padded + 2 * p.tokens.next_multiple_of(16)), |scratch| {
            dispatch(isa, OfQueries { p, stats: targets[*sequence], kv_head: *head, tokens, scratch });
        });
    });
    // The first keys of a sequence are seen most.
    tasks(TASK_ROWS / 2).collect::<Vec<_>>().par_iter().with_max_len(1).for_each(|(sequence, head, from)| {
        let p = &prepared[*sequence];
        let tokens = *from..p.tokens.min(from + TASK_ROWS / 2);
        with_scratch(TILE * (2 * p.padded + 2 * p.tokens.next_multiple_of(16)), |scratch| {
            dispatch(isa, OfKeys { p, stats: &stats[*sequence], kv_head: *head, tokens, scratch });
        });
    });
}

/// What is kept of the first sweep per query head and token: greatest score, one over the sum of exponentials, mean
/// gradient of the probabilities; `[heads, 3, tokens rounded up to panels]`, zero beyond the last token.
fn stats_at(p: &Prepared<'_>, head: usize, i: usize) -> usize {
    (head * 3 + i) * p.tokens.next_multiple_of(16)
}

/// The numbers of one head, laid out for products.
struct Panels {
    /// `[token / 16, dimension, 16]`: for products over dimensions.
    columns: Vec<f32>,
    /// `[token, padded dimension]`: for products over tokens.
    rows: Vec<f32>,
}

impl Panels {
    fn new(x: Rows<'_>, tokens: usize, dim: usize, scale: f32) -> Self {
        let padded = dim.next_multiple_of(16);
        let mut columns = vec![0.0; tokens.next_multiple_of(16) * dim];
        let mut rows = vec![0.0; tokens * padded];
        for token in 0..tokens {
            let panel = &mut columns[token / 16 * 16 * dim..][..16 * dim];
            let row = &mut rows[token * padded..][..dim];
            for (i, value) in x.row(token, dim).iter().enumerate() {
                panel[i * 16 + token % 16] = value * scale;
                row[i] = value * scale;
            }
        }
        Self { columns, rows }
    }
}

/// One sequence.
struct Prepared<'a> {
    attention: &'a Attention,
    tokens: usize,
    /// A head's dimensions, rounded up to whole panels.
    padded: usize,
    /// The sequence's rows.
    qkv: Rows<'a>,
    d_out: Rows<'a>,
    /// Scaled.
    queries: Vec<Panels>,
    keys: Vec<Panels>,
    values: Vec<Panels>,
    d_outs: Vec<Panels>,
    /// Where the sequence's gradients go.
    first: usize,
    target: Target<f32>,
}

impl<'a> Prepared<'a> {
    fn new(
        attention: &'a Attention,
        qkv: &'a [f32],
        d_out: &'a [f32],
        rows: Range<usize>,
        target: Target<f32>,
    ) -> Self {
        let Attention { heads, kv_heads, head_dim, scale, .. } = *attention;
        let (width, tokens) = ((heads + 2 * kv_heads) * head_dim, rows.len());
        let qkv = Rows { values: &qkv[rows.start * width..rows.end * width], stride: width };
        let d_out = Rows {
            values: &d_out[rows.start * heads * head_dim..rows.end * heads * head_dim],
            stride: heads * head_dim,
        };
        let panels = |x: Rows<'a>, heads: Range<usize>, scale: f32| -> Vec<Panels> {
            let head = |head| Panels::new(columns(x, head * head_dim), tokens, head_dim, scale);
            heads.map(head).collect()
        };
        Self {
            attention,
            tokens,
            padded: head_dim.next_multiple_of(16),
            queries: panels(qkv, 0..heads, scale),
            keys: panels(qkv, heads..heads + kv_heads, 1.0),
            values: panels(qkv, heads + kv_heads..heads + 2 * kv_heads, 1.0),
            d_outs: panels(d_out, 0..heads, 1.0),
            qkv,
            d_out,
            first: rows.start,
            target,
        }
    }

    /// Where the gradient of a head of a token begins.
    fn place(&self, token: usize, head: usize) -> usize {
        (self.first + token) * self.qkv.stride + head * self.attention.head_dim
    }

    /// The tokens that see a token.
    fn seeing(&self, token: usize) -> Range<usize> {
        token..self.attention.window.map_or(self.tokens, |window| (token + window.max(1)).min(self.tokens))
    }

    /// `rows · panelsᵀ` over the dimensions of a head, for the panels of tokens `from / 16..to / 16`.
    #[inline(always)]
    fn scores<S: Simd>(&self, s: S, a: Rows<'_>, count: usize, panels: &Panels, tokens: &Range<usize>, to: &mut [f32]) {
        let (dim, n) = (self.attention.head_dim, tokens.len() / 16);
        let w = F32Weights::new(&panels.columns[tokens.start * dim..], n, dim, 16 * dim, 16);
        // SAFETY: `w` was made for these panels and dimensions.
        unsafe { tile::multiply(s, a, w, count, 0..n, 0..dim, &mut Block { values: to, stride: n * 16 }, true) };
    }

    /// `out += weights · rows` over tokens.
    #[inline(always)]
    fn sums<S: Simd>(
        &self,
        s: S,
        weights: &[f32],
        count: usize,
        panels: &Panels,
        tokens: &Range<usize>,
        out: &mut [f32],
    ) {
        let (padded, n) = (self.padded, tokens.end.min(self.tokens) - tokens.start);
        let w = F32Weights::new(&panels.rows[tokens.start * padded..], padded / 16, n, 16, padded);
        let a = Rows { values: weights, stride: tokens.len() };
        let mut c = Block { values: out, stride: padded };
        // SAFETY: `w` was made for these panels and tokens.
        unsafe { tile::multiply(s, a, w, count, 0..padded / 16, 0..n, &mut c, false) };
    }
}

/// The same rows from a column on.
fn columns(x: Rows<'_>, from: usize) -> Rows<'_> {
    Rows { values: x.values.get(from..).unwrap_or_default(), stride: x.stride }
}

/// Whole panels around a range of tokens.
fn panels_around(tokens: Range<usize>) -> Range<usize> {
    tokens.start / 16 * 16..tokens.end.next_multiple_of(16)
}

/// The first sweep over some tokens under the query heads that share one head of keys.
struct OfQueries<'a> {
    p: &'a Prepared<'a>,
    stats: Target<f32>,
    kv_head: usize,
    tokens: Range<usize>,
    scratch: &'a mut [f32],
}

impl Kernel for OfQueries<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.p;
        let Attention { heads, kv_heads, head_dim: dim, scale, .. } = *p.attention;
        let group = heads / kv_heads;
        let (query, scratch) = self.scratch.split_at_mut(TILE * dim);
        let (d_out, scratch) = scratch.split_at_mut(TILE * dim);
        let (d_query, scratch) = scratch.split_at_mut(TILE * p.padded);
        let (scores, slopes) = scratch.split_at_mut(scratch.len() / 2);
        let rows = self.tokens.len() * group;
        // Row i is token `i / group` under head `i % group`: rows near each other see nearly the same positions.
        let place = |row: usize| (self.tokens.start + row / group, self.kv_head * group + row % group);
        for from in (0..rows).step_by(TILE) {
            let count = TILE.min(rows - from);
            for row in 0..count {
                let (token, head) = place(from + row);
                let values = columns(p.qkv, head * dim).row(token, dim);
                for (to, value) in query[row * dim..].iter_mut().zip(values) {
                    *to = value * scale;
                }
                d_out[row * dim..][..dim].copy_from_slice(columns(p.d_out, head * dim).row(token, dim));
            }
            let seen = |row: usize| p.attention.visible(place(from + row).0);
            // Rows ascend in position: the first sees least to the right, the last least to the left.
            let tokens = panels_around(seen(0).start..seen(count - 1).end);
            let stride = tokens.len();
            p.scores(s, Rows { values: query, stride: dim }, count, &p.keys[self.kv_head], &tokens, scores);
            p.scores(s, Rows { values: d_out, stride: dim }, count, &p.values[self.kv_head], &tokens, slopes);
            for row in 0..count {
                let (token, head) = place(from + row);
                let seen = seen(row).start - tokens.start..seen(row).end - tokens.start;
                let stats = row_of_slopes(
                    s,
                    &mut scores[row * stride..][..stride],
                    &mut slopes[row * stride..][..stride],
                    seen,
                );
                for (i, value) in stats.into_iter().enumerate() {
                    // SAFETY: in bounds; this token under this head is this task's alone, and read when all are done.
                    unsafe { self.stats.slice(stats_at(p, head, i) + token, 1)[0] = value };
                }
            }
            d_query[..count * p.padded].fill(0.0);
            p.sums(s, slopes, count, &p.keys[self.kv_head], &tokens, d_query);
            for row in 0..count {
                let (token, head) = place(from + row);
                // SAFETY: rows are in bounds and of one sequence only; this token under this head is this task's alone.
                let to = unsafe { p.target.slice(p.place(token, head), dim) };
                for (to, value) in to.iter_mut().zip(&d_query[row * p.padded..]) {
                    *to = value * scale;
                }
            }
        }
    }
}

/// Takes a row of scores and of the probabilities' gradients, of which those at `seen` count, and turns the latter into
/// the scores' gradients. Gives greatest score, one over the sum of exponentials, mean gradient.
#[inline(always)]
fn row_of_slopes<S: Simd>(s: S, scores: &mut [f32], slopes: &mut [f32], seen: Range<usize>) -> [f32; 3] {
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let (scores, slopes) = (scores.as_chunks_mut::<16>().0, slopes.as_chunks_mut::<16>().0);
    let mut greatest = s.splat(f32::NEG_INFINITY);
    for scores in scores.iter() {
        greatest = s.max(s.load(scores), greatest);
    }
    let greatest = s.greatest(greatest);
    let (shift, mut sum) = (s.splat(greatest), s.splat(0.0));
    for scores in scores.iter_mut() {
        let weight = s.exp(s.sub(s.load(scores), shift));
        sum = s.add(sum, weight);
        s.store(scores, weight);
    }
    let factor = 1.0 / s.sum(sum);
    let (inverse, mut mean) = (s.splat(factor), s.splat(0.0));
    for (scores, slopes) in scores.iter_mut().zip(slopes.iter()) {
        let p = s.mul(s.load(scores), inverse);
        s.store(scores, p);
        mean = s.fma(p, s.load(slopes), mean);
    }
    let mean = s.sum(mean);
    for (scores, slopes) in scores.iter().zip(slopes.iter_mut()) {
        let slope = s.mul(s.load(scores), s.sub(s.load(slopes), s.splat(mean)));
        s.store(slopes, slope);
    }
    [greatest, factor, mean]
}

/// The second sweep over some keys of one head.
struct OfKeys<'a> {
    p: &'a Prepared<'a>,
    stats: &'a [f32],
    kv_head: usize,
    tokens: Range<usize>,
    scratch: &'a mut [f32],
}

impl Kernel for OfKeys<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.p;
        let Attention { heads, kv_heads, head_dim: dim, .. } = *p.attention;
        let group = heads / kv_heads;
        let (d_key, scratch) = self.scratch.split_at_mut(TILE * p.padded);
        let (d_value, scratch) = scratch.split_at_mut(TILE * p.padded);
        let (scores, slopes) = scratch.split_at_mut(scratch.len() / 2);
        let keys = columns(p.qkv, (heads + self.kv_head) * dim);
        let values = columns(p.qkv, (heads + kv_heads + self.kv_head) * dim);
        for from in self.tokens.clone().step_by(TILE) {
            let count = TILE.min(self.tokens.end - from);
            let tokens = panels_around(from..p.seeing(from + count - 1).end);
            let stride = tokens.len();
            d_key[..count * p.padded].fill(0.0);
            d_value[..count * p.padded].fill(0.0);
            for head in self.kv_head * group..(self.kv_head + 1) * group {
                p.scores(s, columns(keys, from * keys.stride), count, &p.queries[head], &tokens, scores);
                p.scores(s, columns(values, from * values.stride), count, &p.d_outs[head], &tokens, slopes);
                for row in 0..count {
                    let seeing = p.seeing(from + row);
                    let seeing = seeing.start - tokens.start..seeing.end - tokens.start;
                    let stats = [0, 1, 2].map(|i| &self.stats[stats_at(p, head, i)..][tokens.clone()]);
                    let (scores, slopes) =
                        (&mut scores[row * stride..][..stride], &mut slopes[row * stride..][..stride]);
                    column_of_slopes(s, scores, slopes, seeing, stats);
                }
                p.sums(s, scores, count, &p.d_outs[head], &tokens, d_value);
                p.sums(s, slopes, count, &p.queries[head], &tokens, d_key);
            }
            for row in 0..count {
                for (gradient, head) in [(&*d_key, heads), (&*d_value, heads + kv_heads)] {
                    // SAFETY: as for queries.
                    let to = unsafe { p.target.slice(p.place(from + row, head + self.kv_head), dim) };
                    to.copy_from_slice(&gradient[row * p.padded..][..dim]);
                }
            }
        }
    }
}

/// Turns scores of one key into the probabilities that queries give it, and their gradients into the scores'; those
/// outside `seeing` into zero.
#[inline(always)]
fn column_of_slopes<S: Simd>(s: S, scores: &mut [f32], slopes: &mut [f32], seeing: Range<usize>, stats: [&[f32]; 3]) {
    scores[..seeing.start].fill(f32::NEG_INFINITY);
    scores[seeing.end..].fill(f32::NEG_INFINITY);
    let (scores, slopes) = (scores.as_chunks_mut::<16>().0, slopes.as_chunks_mut::<16>().0);
    let [greatest, factor, mean] = stats.map(|x| x.as_chunks::<16>().0);
    for i in 0..scores.len() {
        let weight = s.exp(s.sub(s.load(&scores[i]), s.load(&greatest[i])));
        let p = s.mul(weight, s.load(&factor[i]));
        let slope = s.mul(p, s.sub(s.load(&slopes[i]), s.load(&mean[i])));
        s.store(&mut scores[i], p);
        s.store(&mut slopes[i], slope);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> Attention {
        Attention { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window }
    }

    fn shapes() -> Vec<Attention> {
        vec![
            shape(9, 3, 64, None),
            shape(4, 4, 16, None),
            shape(6, 1, 8, Some(5)),
            shape(2, 2, 20, Some(40)),
            shape(8, 2, 32, Some(1)),
        ]
    }

    fn width(a: &Attention) -> usize {
        (a.heads + 2 * a.kv_heads) * a.head_dim
    }

    fn backward(isa: Isa, a: &Attention, qkv: &[f32], d_out: &[f32], sequences: &[Range<usize>]) -> Vec<f32> {
        let mut d = vec![f32::NAN; qkv.len()];
        attention_backward(isa, a, qkv, d_out, sequences, &mut d);
        d
    }

    /// By the textbook, in f64.
    fn reference(a: &Attention, qkv: &[f32], d_out: &[f32], len: usize) -> Vec<f64> {
        let (dim, group, width) = (a.head_dim, a.heads / a.kv_heads, width(a));
        let at = |t: usize, head: usize, i: usize| f64::from(qkv[t * width + head * dim + i]);
        let mut d = vec![0.0; qkv.len()];
        for (t, head) in (0..len).flat_map(|t| (0..a.heads).map(move |h| (t, h))) {
            let (key, value) = (a.heads + head / group, a.heads + a.kv_heads + head / group);
            let seen: Vec<usize> = a.visible(t).collect();
            let dot = |j: usize| (0..dim).map(|i| at(t, head, i) * at(j, key, i)).sum::<f64>() * f64::from(a.scale);
            let e: Vec<f64> = seen.iter().map(|j| dot(*j).exp()).collect();
            let sum: f64 = e.iter().sum();
            let out = |i: usize| f64::from(d_out[(t * a.heads + head) * dim + i]);
            let dp: Vec<f64> = seen.iter().map(|j| (0..dim).map(|i| out(i) * at(*j, value, i)).sum()).collect();
            let mean: f64 = e.iter().zip(&dp).map(|(e, dp)| e / sum * dp).sum();
            for ((j, e), dp) in seen.iter().zip(&e).zip(&dp) {
                let (p, slope) = (e / sum, e / sum * (dp - mean) * f64::from(a.scale));
                for i in 0..dim {
                    d[t * width + head * dim + i] += slope * at(*j, key, i);
                    d[j * width + key * dim + i] += slope * at(t, head, i);
                    d[j * width + value * dim + i] += p * out(i);
                }
            }
        }
        d
    }

    #[test]
    fn agrees_with_f64_on_every_path() {
        let mut rng = rng(61);
        for a in shapes() {
            for len in [1, 2, 15, 16, 17, 50, 131] {
                let qkv: Vec<f32> = uniform(&mut rng, len * width(&a)).iter().map(|x| x * 2.0).collect();
                let d_out = uniform(&mut rng, len * a.heads * a.head_dim);
                let got = same_on_all_paths(|isa| backward(isa, &a, &qkv, &d_out, std::slice::from_ref(&(0..len))));
                assert_close("attention", &got, &reference(&a, &qkv, &d_out, len), 4e-5);
            }
        }
    }

    #[test]
    fn packing_and_threads_change_no_bit() {
        let mut rng = rng(62);
        for a in shapes() {
            let (lengths, w, out) = ([70usize, 1, 33, 128], width(&a), a.heads * a.head_dim);
            let total = lengths.iter().sum::<usize>();
            let (qkv, d_out) = (uniform(&mut rng, total * w), uniform(&mut rng, total * out));
            let mut sequences = Vec::new();
            let mut expected = Vec::new();
            for len in lengths {
                let rows = sequences.last().map_or(0, |s: &Range<usize>| s.end)..0;
                let rows = rows.start..rows.start + len;
                let (qkv, d_out) = (&qkv[rows.start * w..rows.end * w], &d_out[rows.start * out..rows.end * out]);
                expected.extend(backward(Isa::best(), &a, qkv, d_out, std::slice::from_ref(&(0..len))));
                sequences.push(rows);
            }
            for threads in [1, 3] {
                let got = with_threads(threads, || backward(Isa::best(), &a, &qkv, &d_out, &sequences));
                assert_eq!(bits(&got), bits(&expected), "{a:?}");
            }
        }
    }

    #[test]
    fn nothing_to_do() {
        attention_backward(Isa::best(), &shapes()[0], &[], &[], &[], &mut []);
        attention_backward(Isa::best(), &shapes()[0], &[], &[], std::slice::from_ref(&(0..0)), &mut []);
    }
}
