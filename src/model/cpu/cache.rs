//! Keys and values of one sequence in one layer, as the attention kernel reads them.

use super::Rows;
use super::panels::{self, Line};
use super::tile::{F32Weights, StridedPairs};
use std::ops::Range;
use std::sync::Arc;

/// Positions of a page: whole panels of 16.
pub(crate) const PAGE: usize = 32;

/// The half of a lane where a bf16 number stands as in f32.
const HIGH: u32 = 0xffff_0000;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheFormat {
    /// As they come.
    F32,
    /// As bf16 numbers, which they are to be rounded to before ([`round_heads`](super::round_heads)): half the memory, and
    /// half of what attention reads for each new token.
    Bf16,
}

/// Keys and values of positions `0..len` of a sequence, in one layer, in pages of 32 positions.
///
/// Clones share their pages: a sequence that begins like another one is a clone of it that was appended to. A shared
/// page is copied when one of its holders writes to it, so at most one page per clone is held twice.
///
/// Keys stand in panels of 16 successive positions (position p in lane `p % 16`), values position by position. Pages
/// are aligned to absolute positions, so attention reads the same numbers in the same order whoever made them.
#[derive(Debug, Clone)]
pub struct KvCache {
    shape: Shape,
    len: usize,
    pages: Vec<Arc<Page>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Shape {
    kv_heads: usize,
    head_dim: usize,
    format: CacheFormat,
}

impl Shape {
    /// Lines of a head's keys in one panel: one per dimension, or per pair of them.
    fn key_lines(self) -> usize {
        match self.format {
            CacheFormat::F32 => self.head_dim,
            CacheFormat::Bf16 => self.head_dim.div_ceil(2),
        }
    }

    /// Lines of a head's values in 16 dimensions, over all positions of a page: one per position, or per pair of them.
    fn value_lines(self) -> usize {
        match self.format {
            CacheFormat::F32 => PAGE,
            CacheFormat::Bf16 => PAGE / 2,
        }
    }

    /// Panels of 16 dimensions.
    fn columns(self) -> usize {
        self.head_dim.div_ceil(16)
    }

    fn page_lines(self) -> usize {
        self.kv_heads * (PAGE / 16 * self.key_lines() + self.columns() * self.value_lines())
    }
}

/// The heads one after another, so that what a head's attention reads is contiguous. In bf16 a lane holds two
/// numbers, the first in the low half.
#[derive(Debug, Clone)]
pub(crate) enum Page {
    F32(Lines<f32>),
    Bf16(Lines<u32>),
}

#[derive(Debug, Clone)]
pub(crate) struct Lines<T> {
    /// `[kv head, panel, dimension]`, in bf16 `[kv head, panel, dimension / 2]`.
    keys: Box<[Line<T>]>,
    /// `[kv head, position, dimension / 16]`, in bf16 `[kv head, position / 2, dimension / 16]`, the last line of a head
    /// padded with zeros.
    values: Box<[Line<T>]>,
}

impl KvCache {
    /// An empty sequence.
    pub fn new(kv_heads: usize, head_dim: usize, format: CacheFormat) -> KvCache {
        KvCache { shape: Shape { kv_heads, head_dim, format }, len: 0, pages: Vec::new() }
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.shape.kv_heads
    }

    /// Values per head.
    pub fn head_dim(&self) -> usize {
        self.shape.head_dim
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        64 * self.shape.page_lines()
    }

    /// Bytes that appending `n` positions will take: pages, and a copy of the last one if it is shared and not full.
    pub fn growth(&self, n: usize) -> usize {
        let copied =
            self.pages.last().is_some_and(|page| !self.len.is_multiple_of(PAGE) && Arc::strong_count(page) > 1);
        let new = (self.len + n).div_ceil(PAGE) - self.pages.len();
        (new + usize::from(copied && n > 0)) * self.page_bytes()
    }

    /// What tells its pages from others that are in memory at the same time.
    pub fn page_addresses(&self) -> impl Iterator<Item = usize> {
        self.pages.iter().map(|page| Arc::as_ptr(page).addr())
    }

    /// Appends `n` positions: row r of `keys` and of `values` holds the heads of one position, one after another, keys
    /// with their rotary positions applied.
    ///
    /// # Panics
    /// If a row is too short.
    pub fn append(&mut self, keys: Rows<'_>, values: Rows<'_>, n: usize) {
        let (mut row, width) = (0, self.shape.kv_heads * self.shape.head_dim);
        while row < n {
            let (at, page) = (self.len % PAGE, self.len / PAGE);
            let count = (PAGE - at).min(n - row);
            if page == self.pages.len() {
                self.pages.push(Arc::new(Page::new(self.shape)));
            }
            let page = Arc::make_mut(&mut self.pages[page]);
            for i in 0..count {
                page.write(self.shape, at + i, keys.row(row + i, width), values.row(row + i, width));
            }
            self.len += count;
            row += count;
        }
    }

    /// Forgets all positions from `len` on, to go on from there.
    ///
    /// # Panics
    /// If there are fewer positions.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len, "{len} of {} positions", self.len);
        self.pages.truncate(len.div_ceil(PAGE));
        self.len = len;
    }

    /// The pages that hold these panels, each with the part of the panels that it holds.
    pub(crate) fn segments(&self, panels: Range<usize>) -> impl Iterator<Item = Segment<'_>> {
        const PANELS: usize = PAGE / 16;
        let pages = panels.start / PANELS..panels.end.div_ceil(PANELS);
        pages.map(move |page| {
            let held = page * PANELS..(page + 1) * PANELS;
            let panels = held.start.max(panels.start)..held.end.min(panels.end);
            let next = self.pages.get(page + 1).map(|page| &**page);
            Segment { page: &self.pages[page], next, first: held.start, panels, shape: self.shape }
        })
    }
}

impl<T: Copy> Lines<T> {
    fn new(shape: Shape, zero: T) -> Self {
        let zeros = |lines: usize| vec![Line([zero; 16]); lines * shape.kv_heads].into_boxed_slice();
        Lines { keys: zeros(PAGE / 16 * shape.key_lines()), values: zeros(shape.columns() * shape.value_lines()) }
    }
}

impl Page {
    fn new(shape: Shape) -> Page {
        match shape.format {
            CacheFormat::F32 => Page::F32(Lines::new(shape, 0.0)),
            CacheFormat::Bf16 => Page::Bf16(Lines::new(shape, 0)),
        }
    }

    /// Writes the heads of one position, counted in the page.
    fn write(&mut self, shape: Shape, position: usize, key: &[f32], value: &[f32]) {
        let (dim, columns) = (shape.head_dim.max(1), shape.columns());
        let (panel, lane) = (position / 16, position % 16);
        for (head, (key, value)) in key.chunks(dim).zip(value.chunks(dim)).enumerate() {
            let keys = (head * (PAGE / 16) + panel) * shape.key_lines();
            match self {
                Page::F32(lines) => {
                    lines.keys[keys..][..dim].iter_mut().zip(key).for_each(|(line, key)| line.0[lane] = *key);
                    let values = (head * PAGE + position) * columns;
                    for (line, part) in lines.values[values..].iter_mut().zip(value.chunks(16)) {
                        line.0[..part.len()].copy_from_slice(part);
                    }
                }
                Page::Bf16(lines) => {
                    for (line, pair) in lines.keys[keys..].iter_mut().zip(key.chunks(2)) {
                        line.0[lane] = pair[0].to_bits() >> 16 | pair.get(1).map_or(0, |high| high.to_bits() & HIGH);
                    }
                    let values = (head * (PAGE / 2) + position / 2) * columns;
                    for (line, part) in lines.values[values..].iter_mut().zip(value.chunks(16)) {
                        for (to, value) in line.0.iter_mut().zip(part) {
                            *to = match position % 2 {
                                0 => value.to_bits() >> 16,
                                _ => *to & !HIGH | value.to_bits() & HIGH,
                            };
                        }
                    }
                }
            }
        }
    }
}

/// A run of panels that stand in one page.
#[derive(Clone)]
pub(crate) struct Segment<'a> {
    shape: Shape,
    page: &'a Page,
    next: Option<&'a Page>,
    /// The page's first panel.
    first: usize,
    /// In absolute numbers.
    pub panels: Range<usize>,
}

/// Keys or values of a head, as the product kernel reads them.
#[derive(Clone, Copy)]
pub(crate) enum Held<'a> {
    F32(F32Weights<'a>),
    Bf16(StridedPairs<'a>),
}

impl<'a> Segment<'a> {
    /// The keys of a head: panels of positions, from the segment's first on, over the dimensions.
    pub(crate) fn keys(&self, head: usize) -> Held<'a> {
        let (per_panel, count) = (self.shape.key_lines(), self.panels.len());
        let from = self.keys_of(head).0 + (self.panels.start - self.first) * per_panel;
        match self.page {
            Page::F32(lines) => {
                let keys = panels::flat(&lines.keys[from..]);
                Held::F32(F32Weights::new(keys, count, per_panel, per_panel * 16, 16))
            }
            Page::Bf16(lines) => {
                let keys = panels::arrays(&lines.keys[from..]);
                Held::Bf16(StridedPairs::new(keys, count, per_panel, per_panel, 1))
            }
        }
    }

    /// The values of a head: panels of dimensions over `count` positions from `first` on; in bf16 over the pairs of
    /// positions that these are in.
    pub(crate) fn values(&self, head: usize, first: usize, count: usize) -> Held<'a> {
        let (columns, at) = (self.shape.columns(), first - self.first * 16);
        match self.page {
            Page::F32(lines) => {
                let values = panels::flat(&lines.values[(head * PAGE + at) * columns..]);
                Held::F32(F32Weights::new(values, columns, count, 16, columns * 16))
            }
            Page::Bf16(lines) => {
                let values = panels::arrays(&lines.values[(head * (PAGE / 2) + at / 2) * columns..]);
                Held::Bf16(StridedPairs::new(values, columns, (at % 2 + count).div_ceil(2), 1, columns))
            }
        }
    }

    /// Asks for the keys of a head in the next page, so that they are near when they are read: pages lie anywhere in
    /// memory, and those of many texts are more than the caches hold.
    #[inline(always)]
    pub(crate) fn ask_for_next_keys(&self, head: usize) {
        let (from, count) = self.keys_of(head);
        match self.next {
            Some(Page::F32(lines)) => ask_for(&lines.keys[from..from + count]),
            Some(Page::Bf16(lines)) => ask_for(&lines.keys[from..from + count]),
            None => {}
        }
    }

    /// As [`Segment::ask_for_next_keys`], of values, in this page or in the next one.
    #[inline(always)]
    pub(crate) fn ask_for_values(&self, head: usize, next: bool) {
        let count = self.shape.columns() * self.shape.value_lines();
        match if next { self.next } else { Some(self.page) } {
            Some(Page::F32(lines)) => ask_for(&lines.values[head * count..][..count]),
            Some(Page::Bf16(lines)) => ask_for(&lines.values[head * count..][..count]),
            None => {}
        }
    }

    /// The first line of a head's keys in a page, and their number.
    fn keys_of(&self, head: usize) -> (usize, usize) {
        let count = PAGE / 16 * self.shape.key_lines();
        (head * count, count)
    }
}

/// Has lines brought into the first-level cache.
#[inline(always)]
fn ask_for<T>(lines: &[Line<T>]) {
    #[cfg(target_arch = "x86_64")]
    for line in lines {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, and every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = lines;
}
