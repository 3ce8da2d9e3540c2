//! Keys and values of one sequence in one layer, as the attention kernel reads them.

use super::Rows;
use super::panels::Line;
use std::sync::Arc;

/// Keys and values of positions `0..len` of a sequence, in one layer. It may begin with a prefix that it shares with
/// other sequences.
///
/// Keys stand in panels of 16 successive positions (position p in lane `p % 16` of panel `p / 16`), values
/// position by position. Panels are aligned to absolute positions also where a prefix ends inside one: the shared part
/// of that panel is copied. So attention reads the same numbers in the same order with and without a shared prefix.
#[derive(Debug, Clone)]
pub struct KvCache {
    kv_heads: usize,
    head_dim: usize,
    prefix: Option<Arc<KvCache>>,
    /// The first panel that stands here and not in the prefix.
    first_panel: usize,
    len: usize,
    /// `[panel, kv head, dimension]`.
    keys: Vec<Line<f32>>,
    /// `[position, kv head, dimension / 16]`, the last line of a head padded with zeros.
    values: Vec<Line<f32>>,
}

impl KvCache {
    /// An empty sequence.
    pub fn new(kv_heads: usize, head_dim: usize) -> KvCache {
        KvCache { kv_heads, head_dim, prefix: None, first_panel: 0, len: 0, keys: vec![], values: vec![] }
    }

    /// A sequence that begins with all positions of another one, which it shares.
    pub fn extending(prefix: Arc<KvCache>) -> KvCache {
        let mut cache = KvCache::new(prefix.kv_heads, prefix.head_dim);
        cache.len = prefix.len;
        cache.first_panel = prefix.len / 16;
        if !prefix.len.is_multiple_of(16) {
            let panel = cache.first_panel - prefix.first_panel;
            let (lines, per_position) = (cache.panel_lines(), cache.position_lines());
            cache.keys.extend_from_slice(&prefix.keys[panel * lines..]);
            cache.values.extend_from_slice(&prefix.values[panel * 16 * per_position..]);
        }
        cache.prefix = Some(prefix);
        cache
    }

    /// Number of positions, those of the prefix included.
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

    /// Bytes held here, those of the prefix not counted.
    pub fn bytes(&self) -> usize {
        64 * (self.keys.capacity() + self.values.capacity())
    }

    /// Makes room for that many more positions.
    pub fn reserve(&mut self, positions: usize) {
        let own = self.len + positions - self.first_panel * 16;
        self.keys.reserve((own.div_ceil(16) * self.panel_lines()).saturating_sub(self.keys.len()));
        self.values.reserve((own * self.position_lines()).saturating_sub(self.values.len()));
    }

    /// Appends `n` positions: row r of `keys` and of `values` holds the heads of one position, one after another, keys
    /// with their rotary positions applied.
    ///
    /// # Panics
    /// If a row is too short.
    pub fn append(&mut self, keys: Rows<'_>, values: Rows<'_>, n: usize) {
        let (dim, width) = (self.head_dim, self.kv_heads * self.head_dim);
        let lines = self.panel_lines();
        self.reserve(n);
        for row in 0..n {
            let position = self.len + row - self.first_panel * 16;
            if position.is_multiple_of(16) {
                self.keys.resize(self.keys.len() + lines, Line([0.0; 16]));
            }
            let panel = &mut self.keys[position / 16 * lines..][..lines];
            for (line, key) in panel.iter_mut().zip(keys.row(row, width)) {
                line.0[position % 16] = *key;
            }
            for head in values.row(row, width).chunks(dim.max(1)) {
                let (whole, rest) = head.as_chunks::<16>();
                self.values.extend(whole.iter().map(|values| Line(*values)));
                if !rest.is_empty() {
                    self.values.push(Line(super::rows::padded(rest)));
                }
            }
        }
        self.len += n;
    }

    /// Forgets all positions from `len` on (but none of the prefix), to decode again from there.
    ///
    /// # Panics
    /// If that would cut the prefix or there are fewer positions.
    pub fn truncate(&mut self, len: usize) {
        let shared = self.prefix.as_ref().map_or(0, |prefix| prefix.len);
        assert!((shared..=self.len).contains(&len), "{len} is not between {shared} and {}", self.len);
        let own = len - self.first_panel * 16;
        self.keys.truncate(own.div_ceil(16) * self.panel_lines());
        self.values.truncate(own * self.position_lines());
        self.len = len;
    }

    /// The parts that hold the sequence's panels, in order.
    pub(crate) fn segments(&self) -> Vec<Segment<'_>> {
        let mut segments = Vec::new();
        let (mut part, mut end) = (Some(self), self.len.div_ceil(16));
        while let Some(cache) = part {
            if end > cache.first_panel {
                segments.push(Segment { cache, panels: cache.first_panel..end });
                end = cache.first_panel;
            }
            part = cache.prefix.as_deref();
        }
        segments.reverse();
        segments
    }

    /// Lines of keys per panel.
    fn panel_lines(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Lines of values per position.
    fn position_lines(&self) -> usize {
        self.kv_heads * self.head_dim.div_ceil(16)
    }
}

/// A run of panels that stand in one cache.
pub(crate) struct Segment<'a> {
    cache: &'a KvCache,
    /// In absolute numbers.
    pub panels: std::ops::Range<usize>,
}

impl<'a> Segment<'a> {
    /// The keys of a head from a panel on; the panels are `Segment::panel_stride` values apart.
    pub(crate) fn keys(&self, head: usize, panel: usize) -> &'a [f32] {
        let lines = (panel - self.cache.first_panel) * self.cache.panel_lines() + head * self.cache.head_dim;
        super::panels::flat(&self.cache.keys[lines..])
    }

    /// The values of a head from a position on; positions are `Segment::position_stride` values apart.
    pub(crate) fn values(&self, head: usize, position: usize) -> &'a [f32] {
        let lines = (position - self.cache.first_panel * 16) * self.cache.position_lines()
            + head * self.cache.head_dim.div_ceil(16);
        super::panels::flat(&self.cache.values[lines..])
    }

    pub(crate) fn panel_stride(&self) -> usize {
        self.cache.panel_lines() * 16
    }

    pub(crate) fn position_stride(&self) -> usize {
        self.cache.position_lines() * 16
    }
}
