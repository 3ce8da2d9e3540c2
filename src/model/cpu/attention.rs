//! Fused causal attention over packed sequences.

use super::cache::{Held, KvCache, Segment};
use super::linear::{Target, with_scratch};
use super::simd::{Kernel, Simd, dispatch};
use super::tile::{self, Block, SecondOfPair};
use super::{Isa, Rows};
use rayon::prelude::*;
use std::ops::Range;

/// Rows (a token and a query head each) per task, at most.
const TASK_ROWS: usize = 96;
/// Rows that a tile of the product kernel takes.
const TILE_ROWS: usize = 6;
/// Scores of a task, where a few rows do not have more: they stay in the second-level cache.
const TASK_SCORES: usize = 1 << 16;
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
        let mut tasks = Vec::new();
        for sequence in sequences {
            let positions = sequence.first + sequence.rows.len();
            let most = self.window.map_or(positions, |window| positions.min(window.saturating_add(TASK_ROWS)));
            let step = ((TASK_SCORES / most.max(1)).clamp(12, TASK_ROWS) / group).max(1);
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
        let rows = self.rows();
        let padded = dim.next_multiple_of(16);
        with_scratch(rows * (1 + dim + padded + self.stride()), |scratch| {
            let (query, scratch) = scratch.split_at_mut(rows * dim);
            let (output, scratch) = scratch.split_at_mut(rows * padded);
            let (sums, scores) = scratch.split_at_mut(rows);
            dispatch(isa, Attend { task: self, padded, query, output, sums, scores });
        });
    }

    /// Query heads that share the task's head of keys.
    fn group(&self) -> usize {
        self.attention.heads / self.attention.kv_heads
    }

    /// A row is a token under a head: row i is token `i / group` under head `i % group`.
    fn rows(&self) -> usize {
        self.tokens.len() * self.group()
    }

    /// The row of the query matrix and the head of a row.
    fn place(&self, row: usize) -> (usize, usize) {
        let group = self.group();
        (self.sequence.rows.start + self.tokens.start + row / group, self.kv_head * group + row % group)
    }

    /// The positions that a row sees. Both ends ascend with the rows.
    fn seen(&self, row: usize) -> Range<usize> {
        self.attention.visible(self.sequence.first + self.tokens.start + row / self.group())
    }

    /// The panels of 16 positions that any row sees.
    fn panels(&self) -> Range<usize> {
        self.seen(0).start / 16..self.seen(self.rows() - 1).end.div_ceil(16)
    }

    /// From a row's scores to the next one's: an odd number of lines, so that rows do not compete for the same places in
    /// the caches.
    fn stride(&self) -> usize {
        16 * (self.panels().len() | 1)
    }
}

/// A task with its memory.
struct Attend<'a> {
    task: &'a Task<'a>,
    /// A head's dimensions, in whole lines.
    padded: usize,
    /// `[rows, head_dim]`, with the scale.
    query: &'a mut [f32],
    /// `[rows, padded]`.
    output: &'a mut [f32],
    /// `[rows]`.
    sums: &'a mut [f32],
    /// `[rows, stride]`.
    scores: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        self.scale_queries();
        self.score(s);
        let panels = self.task.panels();
        let stride = self.task.stride();
        if let Some(first) = self.task.sequence.cache.segments(panels.clone()).next() {
            first.ask_for_values(self.task.kv_head, false);
        }
        for row in 0..self.task.rows() {
            let (seen, first) = (self.task.seen(row), panels.start * 16);
            let scores = &mut self.scores[row * stride..][..stride];
            self.sums[row] = softmax(s, scores, seen.start - first, seen.end - first);
        }
        self.weigh(s);
        self.write();
    }
}

// All rows meet a page of keys or values while it is near the processor.
impl Attend<'_> {
    #[inline(always)]
    fn scale_queries(&mut self) {
        let Attention { heads, head_dim, scale, .. } = *self.task.attention;
        for (row, to) in self.query.chunks_exact_mut(head_dim.max(1)).enumerate() {
            let (at, head) = self.task.place(row);
            let query = &self.task.queries.row(at, heads * head_dim)[head * head_dim..][..head_dim];
            to.iter_mut().zip(query).for_each(|(to, from)| *to = from * scale);
        }
    }

    /// Scores of all positions of a page that a row sees any of.
    #[inline(always)]
    fn score<S: Simd>(&mut self, s: S) {
        let (task, dim, panels) = (self.task, self.task.attention.head_dim, self.task.panels());
        let stride = task.stride();
        for segment in task.sequence.cache.segments(panels.clone()) {
            let held = segment.panels.clone();
            segment.ask_for_next_keys(task.kv_head);
            let sees = |row: &usize| task.seen(*row).end > held.start * 16 && task.seen(*row).start < held.end * 16;
            let Some(first) = (0..task.rows()).find(sees) else { continue };
            let count = (first..task.rows()).take_while(sees).count();
            let a = Rows { values: &self.query[first * dim..], stride: dim };
            let mut c = Block { values: &mut self.scores[first * stride + (held.start - panels.start) * 16..], stride };
            // SAFETY: the keys are those of the segment's panels, over all dimensions.
            unsafe {
                match segment.keys(task.kv_head) {
                    Held::F32(w) => tile::multiply(s, a, w, count, 0..held.len(), 0..dim, &mut c, true),
                    Held::Bf16(w) => tile::multiply(s, a, w, count, 0..held.len(), 0..dim, &mut c, true),
                }
            }
        }
    }

    /// Sums of values: for each row in ascending order of the positions that it sees.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S) {
        let (task, panels) = (self.task, self.task.panels());
        self.output.fill(0.0);
        for segment in task.sequence.cache.segments(panels) {
            let held = segment.panels.start * 16..segment.panels.end * 16;
            segment.ask_for_values(task.kv_head, true);
            let part = |row: usize| {
                let seen = task.seen(row);
                held.start.max(seen.start)..held.end.min(seen.end)
            };
            let mut row = 0;
            while row < task.rows() {
                let alike = (row..task.rows()).take_while(|next| part(*next) == part(row)).count();
                // Rows that see other positions fill a tile together, over those that all of them see.
                let count = alike.max(TILE_ROWS.min(task.rows() - row));
                let rows = row..row + count;
                let shared = part(rows.end - 1).start..part(row).end;
                if alike == count || shared.is_empty() {
                    self.weigh_alike(s, &segment, rows, part);
                } else {
                    let before = |row: usize| part(row).start..shared.start.min(part(row).end);
                    let after = |row: usize| shared.end.max(part(row).start)..part(row).end;
                    self.weigh_alike(s, &segment, rows.clone(), before);
                    self.weigh_alike(s, &segment, rows.clone(), |_| shared.clone());
                    self.weigh_alike(s, &segment, rows, after);
                }
                row += count;
            }
        }
    }

    /// Adds the values of some positions for each row, those of rows with the same positions together.
    #[inline(always)]
    fn weigh_alike<S: Simd>(
        &mut self,
        s: S,
        segment: &Segment<'_>,
        rows: Range<usize>,
        positions: impl Fn(usize) -> Range<usize>,
    ) {
        let mut row = rows.start;
        while row < rows.end {
            let of_row = positions(row);
            let count = (row..rows.end).take_while(|next| positions(*next) == of_row).count();
            if !of_row.is_empty() {
                self.add_values(s, segment, row..row + count, of_row);
            }
            row += count;
        }
    }

    #[inline(always)]
    fn add_values<S: Simd>(&mut self, s: S, segment: &Segment<'_>, rows: Range<usize>, positions: Range<usize>) {
        let (task, padded, first) = (self.task, self.padded, self.task.panels().start * 16);
        let (stride, panels, count) = (task.stride(), 0..padded / 16, positions.len());
        let weights = |position: usize| Rows { values: &self.scores[rows.start * stride + position - first..], stride };
        let a = weights(positions.start);
        let mut c = Block { values: &mut self.output[rows.start * padded..], stride: padded };
        // SAFETY: the values are those of these positions, in panels of all dimensions.
        unsafe {
            match segment.values(task.kv_head, positions.start, count) {
                Held::F32(w) => tile::multiply(s, a, w, rows.len(), panels, 0..count, &mut c, false),
                Held::Bf16(w) if positions.start.is_multiple_of(2) => {
                    tile::multiply(s, a, w, rows.len(), panels, 0..count, &mut c, false);
                }
                Held::Bf16(w) => {
                    tile::multiply(s, a, SecondOfPair(w), rows.len(), panels.clone(), 0..1, &mut c, false);
                    let a = weights(positions.start - 1);
                    tile::multiply(s, a, w, rows.len(), panels, 2..count + 1, &mut c, false);
                }
            }
        }
    }

    #[inline(always)]
    fn write(&self) {
        let Attention { heads, head_dim, .. } = *self.task.attention;
        for (row, output) in self.output.chunks_exact(self.padded.max(1)).enumerate() {
            let (at, head) = self.task.place(row);
            // SAFETY: rows of the output were asserted to be in bounds and of one sequence only; this token under this
            // head is this task's alone.
            let out = unsafe { self.task.target.slice((at * heads + head) * head_dim, head_dim) };
            out.iter_mut().zip(output).for_each(|(out, value)| *out = value / self.sums[row]);
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
    use super::super::cache::CacheFormat;
    use super::super::testing::*;
    use super::super::{Heads, round_heads};
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
            self.kept(a, prefix, cuts, CacheFormat::F32)
        }

        fn kept(&self, a: &Attention, prefix: Option<&KvCache>, cuts: &[usize], format: CacheFormat) -> KvCache {
            let mut cache = prefix.cloned().unwrap_or_else(|| KvCache::new(a.kv_heads, a.head_dim, format));
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
            let mut growing = KvCache::new(a.kv_heads, a.head_dim, CacheFormat::F32);
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
    fn bf16_numbers_kept_in_half_the_memory_give_the_same_bits() {
        let mut rng = rng(34);
        let odd = Attention { heads: 2, kv_heads: 1, head_dim: 17, scale: 0.2, window: Some(7) };
        for a in shapes().into_iter().chain([odd]) {
            let mut s = sequence(&mut rng, &a, 131);
            for x in [&mut s.k, &mut s.v] {
                round_heads(Isa::best(), x, Heads::packed(a.kv_heads, a.head_dim));
            }
            let [whole, half] = [CacheFormat::F32, CacheFormat::Bf16].map(|format| s.kept(&a, None, &[], format));
            let expected = bits(&same_on_all_paths(|isa| alone(isa, &a, &s, &whole, 0)));
            assert_eq!(bits(&same_on_all_paths(|isa| alone(isa, &a, &s, &half, 0))), expected, "{a:?}");
            if a.head_dim % 2 == 0 {
                assert_eq!(half.page_bytes() * 2, whole.page_bytes());
            }
            // Cut off in the middle of a pair, and in parts that begin and end anywhere.
            for cut in [0, 1, 30, 63, 97] {
                let mut cache = half.clone();
                cache.truncate(cut);
                let cache = s.kept(&a, Some(&cache), &[cut + 1, cut + 4, 128], CacheFormat::Bf16);
                let from = cut.saturating_sub(3);
                let part = expected[from * a.heads * a.head_dim..].to_vec();
                assert_eq!(bits(&alone(Isa::best(), &a, &s, &cache, from)), part, "{a:?} {cut}");
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
        let cache = KvCache::new(3, 64, CacheFormat::F32);
        let empty = Queries { cache: &cache, rows: 0..0, first: 0 };
        a.forward(Isa::best(), Rows::packed(&[], 9 * 64), &[empty], &mut []);
        assert!(cache.is_empty());
    }
}
