//! Attention of many sequences at once, in products of one shape: for GPUs.
//!
//! Queries are cut into tiles of [`QUERIES`], keys into blocks of [`KEYS`] by their position. A chunk of [`TILES`] tiles meets
//! its blocks in the order of positions; sums are rescaled as the greatest score grows (H. Dao et al. 2022,
//! "FlashAttention", algorithm 1). A block that holds nothing for a query leaves its sums as they are, bit for bit, so
//! a query's result depends neither on the tile that it is in nor on what the others of its chunk need.

use super::super::{AttentionShape, Packing};
use candle_core::{D, DType, Device, Result, Tensor};
use std::ops::Range;

// Tests have small sequences, and should cross the borders of tiles, blocks and chunks.
const QUERIES: usize = if cfg!(test) { 8 } else { 64 };
const KEYS: usize = if cfg!(test) { 32 } else { 256 };
const TILES: usize = if cfg!(test) { 4 } else { 32 };
/// What is added to the score of a key that a query must not see. Finite, so that a query without a visible key yet
/// has finite sums, which the first visible key multiplies with zero.
const HIDDEN: f64 = -1e30;
/// The row that stands for none: selecting it gives zeros.
const NO_ROW: u32 = u32::MAX;
/// The position of a key that is none: after every query.
const NO_KEY: f32 = f32::MAX;

/// Queries of a sequence and where the keys up to the last of them lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Rows of the queries.
    pub rows: Range<usize>,
    /// The first query's position.
    pub start: usize,
    /// Rows of the keys of positions 0, 1, ..., in pieces.
    pub keys: Vec<Range<usize>>,
}

/// The spans of a pass whose keys are the rows from `base` on; `kept` names those that were kept for each run.
pub(super) fn spans(packing: &Packing, base: usize, kept: &[Vec<Range<usize>>]) -> Result<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::with_capacity(packing.runs().len());
    for (i, run) in packing.runs().iter().enumerate() {
        let mut keys = match run.parent {
            Some(parent) => spans[parent].keys.clone(),
            None => kept.get(i).cloned().unwrap_or_default(),
        };
        let known: usize = keys.iter().map(Range::len).sum();
        if known != run.start {
            candle_core::bail!("a run at position {} of a sequence of {known}", run.start);
        }
        if !run.rows.is_empty() {
            keys.push(base + run.rows.start..base + run.rows.end);
        }
        spans.push(Span { rows: run.rows.clone(), start: run.start, keys });
    }
    Ok(spans)
}

/// Which rows meet in which product: made once for a pass, used by every layer of one shape.
#[derive(Debug)]
pub(super) struct Plan {
    chunks: Vec<Chunk>,
    /// Where each token's heads are among the results, `[tokens * heads]`.
    back: Tensor,
}

#[derive(Debug)]
struct Chunk {
    /// Rows of `[tokens * heads]` queries, by tile, head and place: `[TILES * heads * QUERIES]`.
    queries: Tensor,
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    /// Rows of `[tokens * key_value_heads]` keys, by tile, head and place: `[TILES * key_value_heads * KEYS]`.
    keys: Tensor,
    /// 0 where the query sees the key, else [`HIDDEN`]: `[TILES, 1, QUERIES, KEYS]`.
    mask: Tensor,
}

/// A tile before it is laid out: its first query within the span, and how many there are.
struct Tile<'a> {
    span: &'a Span,
    first: usize,
    queries: usize,
    /// Blocks of keys that any of its queries sees.
    blocks: Range<usize>,
}

impl Tile<'_> {
    fn position(&self) -> usize {
        self.span.start + self.first
    }

    /// The row of each position of a block of keys.
    fn key_rows(&self, block: usize) -> Vec<u32> {
        let end = self.position() + self.queries;
        let wanted = block * KEYS..((block + 1) * KEYS).min(end);
        let mut rows = Vec::with_capacity(KEYS);
        let mut from = 0;
        for piece in &self.span.keys {
            let (first, last) = (wanted.start.max(from), wanted.end.min(from + piece.len()));
            rows.extend((first..last).map(|position| (piece.start + position - from) as u32));
            from += piece.len();
        }
        rows
    }
}

impl Plan {
    pub fn new(spans: &[Span], shape: &AttentionShape, device: &Device) -> Result<Self> {
        let mut tiles = Vec::new();
        for span in spans {
            for first in (0..span.rows.len()).step_by(QUERIES) {
                let queries = QUERIES.min(span.rows.len() - first);
                let position = span.start + first;
                let seen = shape.window.map_or(0, |w| (position + 1).saturating_sub(w));
                let blocks = seen / KEYS..(position + queries).div_ceil(KEYS);
                tiles.push(Tile { span, first, queries, blocks });
            }
        }
        // Tiles that need as many blocks share chunks.
        tiles.sort_by_key(|tile| tile.blocks.len());
        let tokens = spans.iter().map(|s| s.rows.end).max().unwrap_or(0);
        let mut back = vec![0u32; tokens * shape.heads];
        for (number, tile) in tiles.iter().enumerate() {
            for query in 0..tile.queries {
                let row = tile.span.rows.start + tile.first + query;
                for head in 0..shape.heads {
                    back[row * shape.heads + head] = ((number * shape.heads + head) * QUERIES + query) as u32;
                }
            }
        }
        let chunks = tiles.chunks(TILES).map(|tiles| Chunk::new(tiles, shape, device)).collect::<Result<_>>()?;
        Ok(Self { chunks, back: Tensor::from_vec(back, tokens * shape.heads, device)? })
    }

    /// Attention of `q` `[tokens, heads, head_dim]` to `k` and `v` `[rows, key_value_heads, head_dim]`; gives
    /// `[tokens, heads * head_dim]`.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
        let (_, heads, dim) = q.dims3()?;
        if self.chunks.is_empty() {
            return Tensor::zeros((0, heads * dim), q.dtype(), q.device());
        }
        let flat = |t: &Tensor| t.contiguous()?.reshape(((), dim));
        let (q, k, v) = (flat(q)?, flat(k)?, flat(v)?);
        let chunks: Vec<Tensor> = self.chunks.iter().map(|c| c.attend(&q, &k, &v, shape)).collect::<Result<_>>()?;
        let all = match chunks.as_slice() {
            [one] => one.clone(),
            several => Tensor::cat(several, 0)?,
        };
        all.index_select(&self.back, 0)?.reshape(((), heads * dim))
    }
}

impl Chunk {
    fn new(tiles: &[Tile<'_>], shape: &AttentionShape, device: &Device) -> Result<Self> {
        let heads = shape.heads;
        let mut queries = vec![NO_ROW; TILES * heads * QUERIES];
        // Queries that are none see the first key, if they see any.
        let mut positions = vec![0f32; TILES * QUERIES];
        for (number, tile) in tiles.iter().enumerate() {
            for query in 0..tile.queries {
                positions[number * QUERIES + query] = (tile.position() + query) as f32;
                let row = tile.span.rows.start + tile.first + query;
                for head in 0..heads {
                    queries[(number * heads + head) * QUERIES + query] = (row * heads + head) as u32;
                }
            }
        }
        let positions = Tensor::from_vec(positions, (TILES, QUERIES, 1), device)?;
        let most = tiles.iter().map(|tile| tile.blocks.len()).max().unwrap_or(0);
        let blocks = (0..most).map(|nth| Block::new(tiles, nth, &positions, shape)).collect::<Result<_>>()?;
        Ok(Self { queries: Tensor::from_vec(queries, TILES * heads * QUERIES, device)?, blocks })
    }

    /// Rows `[TILES * heads * QUERIES, head_dim]`.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
        let AttentionShape { heads, key_value_heads: kv_heads, head_dim: dim, .. } = *shape;
        // Heads that share keys and values lie side by side, so that they are one product's rows.
        let q = q.index_select(&self.queries, 0)?.reshape((TILES * kv_heads, heads / kv_heads * QUERIES, dim))?;
        let mut sums: Option<Sums> = None;
        for block in &self.blocks {
            let part = |t: &Tensor| t.index_select(&block.keys, 0)?.reshape((TILES * kv_heads, KEYS, dim));
            let (keys, values) = (part(k)?, part(v)?);
            let scores = q.matmul(&keys.t()?)?.to_dtype(DType::F32)?;
            let scores =
                (scores.reshape((TILES, heads, QUERIES, KEYS))? * shape.scale())?.broadcast_add(&block.mask)?;
            let greatest = scores.max_keepdim(D::Minus1)?;
            let greatest = match &sums {
                Some(sums) => sums.greatest.maximum(&greatest)?,
                None => greatest,
            };
            let weights = scores.broadcast_sub(&greatest)?.exp()?;
            let total = weights.sum_keepdim(D::Minus1)?;
            let weights = weights.to_dtype(values.dtype())?;
            let weighted = weights.reshape((TILES * kv_heads, heads / kv_heads * QUERIES, KEYS))?.matmul(&values)?;
            let weighted = weighted.to_dtype(DType::F32)?.reshape((TILES, heads, QUERIES, dim))?;
            sums = Some(match sums {
                Some(sums) => {
                    let scale = (sums.greatest - &greatest)?.exp()?;
                    Sums {
                        total: ((sums.total * &scale)? + total)?,
                        weighted: (sums.weighted.broadcast_mul(&scale)? + weighted)?,
                        greatest,
                    }
                }
                None => Sums { greatest, total, weighted },
            });
        }
        let Some(Sums { total, weighted, .. }) = sums else { candle_core::bail!("a chunk without keys") };
        weighted.broadcast_div(&total)?.to_dtype(v.dtype())?.reshape(((), dim))
    }
}

/// What a query has gathered: its greatest score, the sum of its weights, and of its weighted values, in float32.
struct Sums {
    greatest: Tensor,
    total: Tensor,
    weighted: Tensor,
}

impl Block {
    /// The nth block of keys of each tile; nothing for a tile that has fewer.
    fn new(tiles: &[Tile<'_>], nth: usize, queries: &Tensor, shape: &AttentionShape) -> Result<Self> {
        let kv_heads = shape.key_value_heads;
        let mut keys = vec![NO_ROW; TILES * kv_heads * KEYS];
        let mut positions = vec![NO_KEY; TILES * KEYS];
        for (number, tile) in tiles.iter().enumerate() {
            let block = tile.blocks.start + nth;
            if !tile.blocks.contains(&block) {
                continue;
            }
            for (key, row) in tile.key_rows(block).into_iter().enumerate() {
                positions[number * KEYS + key] = (block * KEYS + key) as f32;
                for head in 0..kv_heads {
                    keys[(number * kv_heads + head) * KEYS + key] = row * kv_heads as u32 + head as u32;
                }
            }
        }
        let device = queries.device();
        let positions = Tensor::from_vec(positions, (TILES, 1, KEYS), device)?;
        let mask = mask(&positions, queries, shape.window)?.unsqueeze(1)?;
        Ok(Self { keys: Tensor::from_vec(keys, TILES * kv_heads * KEYS, device)?, mask })
    }
}

/// 0 where a query sees a key, else [`HIDDEN`], by their positions in float32: keys lie along the last dimension, queries
/// along the one before.
pub(super) fn mask(keys: &Tensor, queries: &Tensor, window: Option<usize>) -> Result<Tensor> {
    let mut sees = keys.broadcast_le(queries)?.to_dtype(DType::F32)?;
    if let Some(window) = window {
        // The window counts the query's own position.
        let first = (queries - (window as f64 - 1.0))?;
        sees = (sees * keys.broadcast_ge(&first)?.to_dtype(DType::F32)?)?;
    }
    (sees - 1.0)? * -HIDDEN
}

#[cfg(test)]
#[path = "tiles_tests.rs"]
mod tests;
