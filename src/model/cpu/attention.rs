//! Fused causal attention over packed sequences.

use super::cache::KvCache;
use super::linear::{Target, with_scratch};
use super::simd::{Kernel, Simd, dispatch};
use super::tile::{self, Block, F32Weights};
use super::{Isa, Rows};
use rayon::prelude::*;
use std::ops::Range;

/// Rows (a token and a query head each) that are computed together; a tile of the product kernel.
const TILE: usize = 6;
/// Rows per task.
const TASK_ROWS: usize = 96;
/// Below this many multiplications an attention is not worth waking other threads for.
const SERIAL: usize = 1 << 17;

/// Shape and rule of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads; a multiple of `kv_heads`. Query head h reads the keys and values of head `h / (heads / kv_heads)`.
    pub heads: usize,
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// What the product of query and key is multiplied by, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A query sees this many positions, its own the last. All before it if `None`.
    pub window: Option<usize>,
}

/// Queries of one sequence.
#[derive(Debug, Clone)]
pub struct Queries<'a> {
    /// The sequence's keys and values, those of the queries' own positions included.
    pub cache: &'a KvCache,
    /// Which rows of the query matrix (and of the output) these are.
    pub rows: Range<usize>,
    /// The position of the first row; the others follow.
    pub first: usize,
}

impl Attention {
    /// Causal softmax attention. Row r of `queries` holds the query heads of one token, one after another; `out`
    /// is `[tokens, heads * head_dim]` and is written in the rows that a sequence names.
    ///
    /// Bits: a score is one chain of fused multiply-adds over the head's dimensions. The softmax takes the exact maximum
    /// over the visible positions; its sum has 16 lanes, position p in lane `p % 16`, in ascending order; the output is
    /// one chain over ascending positions, then divided by the sum. Positions that a query does not see
    /// take no part. So a row's result depends on its query and on the keys and values it sees: not on packing,
    /// threads, path, or on how much of the sequence is a shared prefix.
    ///
    /// # Panics
    /// If shapes disagree, a sequence's rows overlap with another's, or positions are not in the cache.
    pub fn forward(&self, isa: Isa, queries: Rows<'_>, sequences: &[Queries<'_>], out: &mut [f32]) {
        let width = self.heads * self.head_dim;
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "heads in equal groups");
        let mut rows: Vec<_> = sequences.iter().map(|sequence| sequence.rows.clone()).collect();
        rows.sort_by_key(|rows| rows.start);
        assert!(rows.windows(2).all(|pair| pair[0].end <= pair[1].start), "sequences' rows overlap");
        for Queries { cache, rows, first } in sequences {
            assert!((cache.kv_heads(), cache.head_dim()) == (self.kv_heads, self.head_dim), "the cache's shape");
            assert!(first + rows.len() <= cache.len(), "positions up to {} are cached", cache.len());
            assert!(rows.end * width <= out.len(), "outputs of row {}", rows.end);
        }
        let target = Target(out.as_mut_ptr());
        let group = self.heads / self.kv_heads;
        let step = (TASK_ROWS / group).max(1);
        let mut tasks = Vec::new();
        for sequence in sequences {
            for from in (0..sequence.rows.len()).step_by(step) {
                let tokens = from..sequence.rows.len().min(from + step);
                tasks.extend((0..self.kv_heads).map(|kv_head| Task {
                    attention: self,
                    queries,
                    sequence,
                    kv_head,
                    tokens: tokens.clone(),
                    target,
                }));
            }
        }
        let work: usize = sequences.iter().map(|s| s.rows.len() * (s.first + s.rows.len()) * width).sum();
        if work < SERIAL {
            tasks.iter().for_each(|task| task.run(isa));
        } else {
            // The last tokens of a sequence cost most: they begin.
            tasks.par_iter().rev().with_max_len(1).for_each(|task| task.run(isa));
        }
    }

    /// The positions that the query at a position sees.
    pub(crate) fn visible(&self, position: usize) -> Range<usize> {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
    }
}

/// Some tokens of a sequence, under the query heads that share one head of keys.
struct Task<'a> {
    attention: &'a Attention,
    queries: Rows<'a>,
    sequence: &'a Queries<'a>,
    kv_head: usize,
    /// Counted in the sequence's rows.
    tokens: Range<usize>,
    target: Target<f32>,
}

impl Task<'_> {
    fn run(&self, isa: Isa) {
        let dim = self.attention.head_dim;
        let positions = (self.sequence.first + self.tokens.end).next_multiple_of(16);
        with_scratch(TILE * (dim + dim.next_multiple_of(16) + positions), |scratch| {
            dispatch(isa, Attend { task: self, scratch });
        });
    }

    /// Row i is token `i / group` under head `i % group`: rows near each other see nearly the same positions.
    /// Gives the row of the query matrix and the head.
    fn place(&self, row: usize) -> (usize, usize) {
        let group = self.attention.heads / self.attention.kv_heads;
        (self.sequence.rows.start + self.tokens.start + row / group, self.kv_head * group + row % group)
    }
}

struct Attend<'a> {
    task: &'a Task<'a>,
    scratch: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let task = self.task;
        let Attention { heads, kv_heads, head_dim, scale, .. } = *task.attention;
        let padded = head_dim.next_multiple_of(16);
        let (query, scratch) = self.scratch.split_at_mut(TILE * head_dim);
        let (output, scores) = scratch.split_at_mut(TILE * padded);
        let rows = task.tokens.len() * (heads / kv_heads);
        for from in (0..rows).step_by(TILE) {
            let count = TILE.min(rows - from);
            let mut tile = Tile { seen: [const { 0..0 }; TILE], count, head_dim, padded, query, output, scores };
            for row in 0..count {
                let (at, head) = task.place(from + row);
                tile.seen[row] = task.attention.visible(task.sequence.first + at - task.sequence.rows.start);
                let query = &task.queries.row(at, heads * head_dim)[head * head_dim..][..head_dim];
                for (to, from) in tile.query[row * head_dim..].iter_mut().zip(query) {
                    *to = from * scale;
                }
            }
            tile.attend(s, task.sequence.cache, task.kv_head);
            for row in 0..count {
                let (at, head) = task.place(from + row);
                // SAFETY: rows of the output were asserted to be in bounds and of one sequence only; this token under
                // this head is this task's alone.
                let out = unsafe { task.target.slice((at * heads + head) * head_dim, head_dim) };
                out.copy_from_slice(&tile.output[row * padded..][..head_dim]);
            }
        }
    }
}

/// Up to six rows.
struct Tile<'a> {
    /// The positions that each row sees.
    seen: [Range<usize>; TILE],
    count: usize,
    head_dim: usize,
    padded: usize,
    query: &'a mut [f32],
    output: &'a mut [f32],
    scores: &'a mut [f32],
}

impl Tile<'_> {
    #[inline(always)]
    fn attend<S: Simd>(&mut self, s: S, cache: &KvCache, head: usize) {
        // Rows ascend in position: the first sees least to the right, the last least to the left.
        let (front, back) = (self.seen[0].clone(), self.seen[self.count - 1].clone());
        let (first, last) = (front.start / 16, back.end.div_ceil(16));
        let stride = (last - first) * 16;
        for segment in cache.segments(first..last) {
            let panels = segment.panels.clone();
            let keys = segment.keys(head, panels.start);
            let w = F32Weights::new(keys, panels.len(), self.head_dim, segment.panel_stride(), 16);
            let mut c = Block { values: &mut self.scores[(panels.start - first) * 16..], stride };
            let a = Rows { values: self.query, stride: self.head_dim };
            // SAFETY: `w` was made for these panels and dimensions.
            unsafe { tile::multiply(s, a, w, self.count, 0..panels.len(), 0..self.head_dim, &mut c, true) };
        }
        let mut sums = [0.0; TILE];
        for (row, sum) in sums[..self.count].iter_mut().enumerate() {
            let (from, to) = (self.seen[row].start - first * 16, self.seen[row].end - first * 16);
            *sum = softmax(s, &mut self.scores[row * stride..][..stride], from, to);
        }
        self.output[..self.count * self.padded].fill(0.0);
        // Per row in ascending order: positions that it sees and the last row does not, those that all see, the rest.
        let common = back.start..front.end.max(back.start);
        for piece in 0..=2 * self.count {
            let (row, count, positions) = match piece {
                row if row < self.count => (row, 1, self.seen[row].start..self.seen[row].end.min(common.start)),
                row if row == self.count => (0, self.count, common.start..front.end),
                row => {
                    let row = row - self.count - 1;
                    (row, 1, self.seen[row].start.max(common.end)..self.seen[row].end)
                }
            };
            if positions.is_empty() {
                continue;
            }
            for segment in cache.segments(positions.start / 16..positions.end.div_ceil(16)) {
                let part = positions.start.max(segment.panels.start * 16)..positions.end.min(segment.panels.end * 16);
                let panels = self.padded / 16;
                let values = segment.values(head, part.start);
                let w = F32Weights::new(values, panels, part.len(), 16, segment.position_stride());
                let a = Rows { values: &self.scores[row * stride + part.start - first * 16..], stride };
                let mut c = Block { values: &mut self.output[row * self.padded..], stride: self.padded };
                // SAFETY: `w` was made for these panels and positions.
                unsafe { tile::multiply(s, a, w, count, 0..panels, 0..part.len(), &mut c, false) };
            }
        }
        for (row, sum) in sums[..self.count].iter().enumerate() {
            for value in &mut self.output[row * self.padded..][..self.head_dim] {
                *value /= sum;
            }
        }
    }
}

/// Turns the scores `from..to` into `exp(score - greatest)` and gives their sum. The row begins at a multiple of 16
/// positions.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32], from: usize, to: usize) -> f32 {
    let lanes = from / 16 * 16..to.next_multiple_of(16);
    scores[lanes.start..from].fill(f32::NEG_INFINITY);
    scores[to..lanes.end].fill(f32::NEG_INFINITY);
    let lanes = scores[lanes].as_chunks_mut::<16>().0;
    let mut greatest = s.splat(f32::NEG_INFINITY);
    for scores in lanes.iter() {
        greatest = s.max(s.load(scores), greatest);
    }
    let shift = s.splat(s.greatest(greatest));
    let mut sum = s.splat(0.0);
    for scores in lanes.iter_mut() {
        let weight = s.exp(s.sub(s.load(scores), shift));
        sum = s.add(sum, weight);
        s.store(scores, weight);
    }
    s.sum(sum)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use rand::Rng;

    /// One sequence's queries, keys and values.
    struct Sequence {
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        len: usize,
    }

    fn sequence(rng: &mut impl Rng, attention: &Attention, len: usize) -> Sequence {
        let width = |heads: usize| len * heads * attention.head_dim;
        let mut of = |heads| uniform(rng, width(heads)).iter().map(|x| x * 3.0).collect();
        Sequence { q: of(attention.heads), k: of(attention.kv_heads), v: of(attention.kv_heads), len }
    }

    impl Sequence {
        fn cache(&self, a: &Attention, prefix: Option<&KvCache>, cuts: &[usize]) -> KvCache {
            let mut cache = prefix.cloned().unwrap_or_else(|| KvCache::new(a.kv_heads, a.head_dim));
            let width = a.kv_heads * a.head_dim;
            for to in cuts.iter().copied().chain([self.len]) {
                let from = cache.len();
                let rows = |x| Rows { values: &<[f32]>::as_ref(x)[from * width..], stride: width };
                cache.append(rows(&self.k), rows(&self.v), to - from);
            }
            cache
        }

        fn reference(&self, a: &Attention) -> Vec<f64> {
            let (d, group) = (a.head_dim, a.heads / a.kv_heads);
            let mut out = vec![0.0; self.len * a.heads * d];
            for p in 0..self.len {
                for head in 0..a.heads {
                    let at = |x: &[f32], p: usize, heads: usize, head: usize, i: usize| {
                        f64::from(x[(p * heads + head) * d + i])
                    };
                    let seen = a.visible(p);
                    let score = |j: usize| {
                        let products = (0..d)
                            .map(|i| at(&self.q, p, a.heads, head, i) * at(&self.k, j, a.kv_heads, head / group, i));
                        (products.sum::<f64>() * f64::from(a.scale)).exp()
                    };
                    let weights: Vec<f64> = seen.clone().map(score).collect();
                    let sum: f64 = weights.iter().sum();
                    for i in 0..d {
                        let value = |j| at(&self.v, j, a.kv_heads, head / group, i);
                        out[(p * a.heads + head) * d + i] =
                            seen.clone().zip(&weights).map(|(j, weight)| weight / sum * value(j)).sum();
                    }
                }
            }
            out
        }
    }

    fn shapes() -> Vec<Attention> {
        let shape = |heads, kv_heads, head_dim, window| Attention {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window,
        };
        vec![
            shape(9, 3, 64, None),
            shape(4, 4, 16, None),
            shape(6, 1, 8, Some(5)),
            shape(2, 2, 20, Some(40)),
            shape(8, 2, 32, Some(1)),
        ]
    }

    fn alone(isa: Isa, a: &Attention, s: &Sequence, cache: &KvCache, from: usize) -> Vec<f32> {
        let width = a.heads * a.head_dim;
        let mut out = vec![f32::NAN; (s.len - from) * width];
        let queries = Rows { values: &s.q[from * width..], stride: width };
        a.forward(isa, queries, &[Queries { cache, rows: 0..s.len - from, first: from }], &mut out);
        out
    }

    #[test]
    fn agrees_with_f64_on_every_path() {
        let mut rng = rng(31);
        for a in shapes() {
            for len in [1, 2, 15, 16, 17, 50, 131] {
                let s = sequence(&mut rng, &a, len);
                let cache = s.cache(&a, None, &[]);
                let out = same_on_all_paths(|isa| alone(isa, &a, &s, &cache, 0));
                assert_close("attention", &out, &s.reference(&a), 1e-5);
            }
        }
    }

    #[test]
    fn packing_threads_steps_and_prefixes_change_no_bit() {
        let mut rng = rng(32);
        for a in shapes() {
            let width = a.heads * a.head_dim;
            let isa = Isa::best();
            let sequences: Vec<_> = [70, 1, 33, 128].map(|len| sequence(&mut rng, &a, len)).into();
            let caches: Vec<_> = sequences.iter().map(|s| s.cache(&a, None, &[])).collect();
            let expected: Vec<_> = sequences.iter().zip(&caches).map(|(s, c)| alone(isa, &a, s, c, 0)).collect();
            // All at once, in rows of a wider matrix, on several threads.
            let stride = width + 5;
            let total: usize = sequences.iter().map(|s| s.len).sum();
            let mut q = vec![f32::NAN; total * stride];
            let mut packed = Vec::new();
            let mut at = 0;
            for (s, cache) in sequences.iter().zip(&caches) {
                for row in 0..s.len {
                    q[(at + row) * stride..][..width].copy_from_slice(&s.q[row * width..][..width]);
                }
                packed.push(Queries { cache, rows: at..at + s.len, first: 0 });
                at += s.len;
            }
            for threads in [1, 3] {
                let mut out = vec![f32::NAN; total * width];
                with_threads(threads, || a.forward(isa, Rows { values: &q, stride }, &packed, &mut out));
                assert_eq!(bits(&out), bits(&expected.concat()), "{a:?}");
            }
            let (s, expected) = (&sequences[3], bits(&expected[3]));
            // Token by token, as in generation.
            let mut growing = KvCache::new(a.kv_heads, a.head_dim);
            for p in 0..s.len {
                let kv = a.kv_heads * a.head_dim;
                growing.append(Rows::packed(&s.k[p * kv..], kv), Rows::packed(&s.v[p * kv..], kv), 1);
                let mut out = vec![0.0; width];
                let queries = Rows::packed(&s.q[p * width..], width);
                a.forward(isa, queries, &[Queries { cache: &growing, rows: 0..1, first: p }], &mut out);
                assert_eq!(bits(&out), expected[p * width..][..width], "{a:?} {p}");
            }
            growing.truncate(40);
            assert_eq!(growing.len(), 40);
            // With shared prefixes, one on another, ending anywhere.
            for (one, two) in [(1, 1), (16, 30), (15, 17), (37, 37), (64, 96), (3, 127)] {
                let cut = |prefix, len| {
                    let part = Sequence { q: vec![], k: s.k.clone(), v: s.v.clone(), len };
                    part.cache(&a, prefix, &[])
                };
                let first = cut(None, one);
                let second = cut(Some(&first), two);
                let shared = s.cache(&a, Some(&second), &[127]);
                for from in [two, one, 0] {
                    let out = alone(isa, &a, s, &shared, from);
                    assert_eq!(bits(&out), expected[from * width..], "{a:?} {one} {two} {from}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_seen_only_by_those_who_see_it() {
        let mut rng = rng(33);
        for a in shapes() {
            let width = a.heads * a.head_dim;
            let mut s = sequence(&mut rng, &a, 40);
            let before = alone(Isa::best(), &a, &s, &s.cache(&a, None, &[]), 0);
            let kv = a.kv_heads * a.head_dim;
            s.k[20 * kv..21 * kv].fill(f32::NAN);
            s.v[20 * kv..21 * kv].fill(f32::INFINITY);
            let out = alone(Isa::best(), &a, &s, &s.cache(&a, None, &[]), 0);
            for p in 0..40 {
                let part = p * width..(p + 1) * width;
                if a.visible(p).contains(&20) {
                    assert!(out[part].iter().all(|x| x.is_nan()));
                } else {
                    assert_eq!(bits(&out[part.clone()]), bits(&before[part]));
                }
            }
        }
    }

    #[test]
    fn nothing_to_do() {
        let a = shapes()[0];
        a.forward(Isa::best(), Rows::packed(&[], 9 * 64), &[], &mut []);
        let cache = KvCache::new(3, 64);
        let empty = Queries { cache: &cache, rows: 0..0, first: 0 };
        a.forward(Isa::best(), Rows::packed(&[], 9 * 64), &[empty], &mut []);
        assert!(cache.is_empty());
    }
}
