//! Keys and values of one sequence in one layer, as the attention kernel reads them.

use super::Rows;
use super::panels::Line;
use std::ops::Range;
use std::sync::Arc;

/// Positions of a page: whole panels of 16.
pub(crate) const PAGE: usize = 32;

/// Keys and values of positions `0..len` of a sequence, in one layer, in pages of 32 positions.
///
/// Clones share their pages: a sequence that begins like another one is a clone of it that was appended to. A shared
/// page is copied when one of its holders writes to it, so at most one page per clone is held twice.
///
/// Keys stand in panels of 16 successive positions (position p in lane `p % 16`), values position by position. Pages
/// are aligned to absolute positions, so attention reads the same numbers in the same order whoever made them.
#[derive(Debug, Clone)]
pub struct KvCache {
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    pages: Vec<Arc<Page>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// `[panel, kv head, dimension]`.
    keys: Box<[Line<f32>]>,
    /// `[position, kv head, dimension / 16]`, the last line of a head padded with zeros.
    values: Box<[Line<f32>]>,
}

impl KvCache {
    /// An empty sequence.
    pub fn new(kv_heads: usize, head_dim: usize) -> KvCache {
        KvCache { kv_heads, head_dim, len: 0, pages: Vec::new() }
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
        self.kv_heads
    }

    /// Values per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bytes of a page.
    pub fn page_bytes(kv_heads: usize, head_dim: usize) -> usize {
        64 * (PAGE / 16 * kv_heads * head_dim + PAGE * kv_heads * head_dim.div_ceil(16))
    }

    /// Bytes that appending `n` positions will take: pages, and a copy of the last one if it is shared and not full.
    pub fn growth(&self, n: usize) -> usize {
        let copied =
            self.pages.last().is_some_and(|page| !self.len.is_multiple_of(PAGE) && Arc::strong_count(page) > 1);
        let new = (self.len + n).div_ceil(PAGE) - self.pages.len();
        (new + usize::from(copied && n > 0)) * KvCache::page_bytes(self.kv_heads, self.head_dim)
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
        let (mut row, width) = (0, self.width());
        while row < n {
            let (at, page) = (self.len % PAGE, self.len / PAGE);
            let count = (PAGE - at).min(n - row);
            if page == self.pages.len() {
                self.pages.push(Arc::new(Page::new(self.kv_heads, self.head_dim)));
            }
            let page = Arc::make_mut(&mut self.pages[page]);
            for i in 0..count {
                page.write(at + i, self.head_dim, keys.row(row + i, width), values.row(row + i, width));
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
            Segment { page: &self.pages[page], first: held.start, panels, cache: self }
        })
    }

    fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl Page {
    fn new(kv_heads: usize, head_dim: usize) -> Page {
        let zeros = |lines: usize| vec![Line([0.0; 16]); lines].into_boxed_slice();
        Page { keys: zeros(PAGE / 16 * kv_heads * head_dim), values: zeros(PAGE * kv_heads * head_dim.div_ceil(16)) }
    }

    fn write(&mut self, position: usize, dim: usize, key: &[f32], value: &[f32]) {
        let panel = &mut self.keys[position / 16 * key.len()..][..key.len()];
        for (line, key) in panel.iter_mut().zip(key) {
            line.0[position % 16] = *key;
        }
        let heads = value.chunks(dim.max(1));
        let lines = self.values.chunks_mut(dim.div_ceil(16).max(1)).skip(position * heads.len());
        for (lines, head) in lines.zip(heads) {
            for (line, part) in lines.iter_mut().zip(head.chunks(16)) {
                line.0[..part.len()].copy_from_slice(part);
            }
        }
    }
}

/// A run of panels that stand in one page.
#[derive(Clone)]
pub(crate) struct Segment<'a> {
    cache: &'a KvCache,
    page: &'a Page,
    /// The page's first panel.
    first: usize,
    /// In absolute numbers.
    pub panels: Range<usize>,
}

impl<'a> Segment<'a> {
    /// The keys of a head from a panel on; the panels are `Segment::panel_stride` values apart.
    pub(crate) fn keys(&self, head: usize, panel: usize) -> &'a [f32] {
        let lines = (panel - self.first) * self.cache.width() + head * self.cache.head_dim;
        super::panels::flat(&self.page.keys[lines..])
    }

    /// The values of a head from a position on; positions are `Segment::position_stride` values apart.
    pub(crate) fn values(&self, head: usize, position: usize) -> &'a [f32] {
        let per_head = self.cache.head_dim.div_ceil(16);
        let lines = ((position - self.first * 16) * self.cache.kv_heads + head) * per_head;
        super::panels::flat(&self.page.values[lines..])
    }

    pub(crate) fn panel_stride(&self) -> usize {
        self.cache.width() * 16
    }

    pub(crate) fn position_stride(&self) -> usize {
        self.cache.kv_heads * self.cache.head_dim.div_ceil(16) * 16
    }
}
