//! Keys and values that passes leave for later ones, on a GPU.
//!
//! Each layer has two tensors with a row for every token. A pass writes its rows behind the others, in one copy each, and
//! attention reads keys and values where they lie. What a sequence holds is a table: the row of each of its positions, the
//! same in all layers. Rows never change, so that tables share them; where none is left for a pass, the rows that no
//! table names are dropped and the others move together.

use super::super::{AttentionShape, Packing};
use super::gpu::lock;
use super::tiles::{Span, spans};
use candle_core::{DType, Result, Tensor};
use std::collections::HashSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

/// Rows are made by so many.
const GRAIN: usize = if cfg!(test) { 16 } else { 1024 };

/// A layer's number, its key heads and their width.
type Layer = (usize, usize, usize);

/// The keys and values of a sequence in one layer.
#[derive(Debug, Clone)]
pub struct Rows {
    layer: Layer,
    /// Bytes of a token's key and value in this layer.
    bytes: usize,
    /// None before the first token. The same in all layers of a sequence.
    table: Option<Arc<Table>>,
}

/// The row of each position.
#[derive(Debug)]
struct Table {
    rows: Mutex<Vec<u32>>,
    tables: Arc<Tables>,
}

/// All tables that name rows of a store.
#[derive(Debug, Default)]
struct Tables(Mutex<Vec<Weak<Table>>>);

impl Tables {
    fn add(self: &Arc<Self>, rows: Vec<u32>) -> Arc<Table> {
        let table = Arc::new(Table { rows: Mutex::new(rows), tables: self.clone() });
        let mut tables = lock(&self.0);
        if tables.len() == tables.capacity() {
            tables.retain(|table| table.strong_count() > 0);
        }
        tables.push(Arc::downgrade(&table));
        drop(tables);
        table
    }

    /// Those that somebody holds.
    fn held(&self) -> Vec<Arc<Table>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }
}

impl Rows {
    pub fn new(layer: usize, shape: &AttentionShape, dtype: DType) -> Self {
        let bytes = 2 * shape.key_value_heads * shape.head_dim * dtype.size_in_bytes();
        Self { layer: (layer, shape.key_value_heads, shape.head_dim), bytes, table: None }
    }

    pub fn row_bytes(&self) -> usize {
        self.bytes
    }

    /// Marks the rows that it names.
    pub fn mark(&self, named: &mut Vec<bool>) {
        if let Some(table) = &self.table {
            mark(&lock(&table.rows), named);
        }
    }

    /// Leaves a sequence its first tokens; `layers` are all of its layers.
    pub fn truncate(layers: Vec<&mut Self>, len: usize) {
        let table = layers.first().and_then(|rows| rows.table.as_ref()).filter(|_| len > 0).map(|table| {
            let rows = lock(&table.rows);
            if rows.len() <= len {
                return table.clone();
            }
            let first = rows[..len].to_vec();
            drop(rows);
            table.tables.add(first)
        });
        layers.into_iter().for_each(|rows| rows.table = table.clone());
    }
}

fn mark(rows: &[u32], named: &mut Vec<bool>) {
    for row in rows {
        let row = *row as usize;
        if named.len() <= row {
            named.resize(row + 1, false);
        }
        named[row] = true;
    }
}

/// The keys and values of all layers, and who holds which.
#[derive(Debug, Default)]
pub(super) struct Store {
    layers: BTreeMap<Layer, Pair>,
    tables: Arc<Tables>,
    /// Rows of each tensor.
    capacity: usize,
    /// Rows from here on are free.
    end: usize,
    /// Moving rows failed half way: what tables name is not there any more.
    lost: bool,
    turn: Option<Turn>,
    /// How many turns there were.
    turns: u64,
}

/// Keys and values of a layer, `[capacity, key_value_heads, head_dim]`.
#[derive(Debug)]
struct Pair {
    keys: Tensor,
    values: Tensor,
}

/// A pass, from its first layer to its last.
#[derive(Debug)]
struct Turn {
    number: u64,
    packing: Packing,
    /// Per run, the table that it goes on from; nothing where none is kept.
    before: Vec<Option<Option<Arc<Table>>>>,
    /// Per run, the table of its sequence up to its end, where that is kept.
    after: Vec<Option<Arc<Table>>>,
    /// The row of the pass's first token.
    base: usize,
    spans: Arc<Vec<Span>>,
    /// Layers that were computed.
    layers: HashSet<Layer>,
}

/// What attention of one layer reads.
pub(super) struct Held {
    pub turn: u64,
    pub spans: Arc<Vec<Span>>,
    pub keys: Tensor,
    pub values: Tensor,
}

impl Store {
    /// Writes a pass's keys and values `[tokens, key_value_heads, head_dim]` of one layer behind those that are kept,
    /// and has `kept` name what their sequences hold with the pass.
    pub fn append(&mut self, k: &Tensor, v: &Tensor, packing: &Packing, kept: Vec<Option<&mut Rows>>) -> Result<Held> {
        let Some(layer) = kept.iter().flatten().map(|rows| rows.layer).next() else {
            candle_core::bail!("nothing is to be kept")
        };
        let before: Vec<_> = kept.iter().map(|rows| rows.as_ref().map(|rows| rows.table.clone())).collect();
        if !self.turn.as_ref().is_some_and(|turn| turn.goes_on(layer, packing, &before)) {
            self.turn = None;
            self.turn = Some(self.begin(packing, before)?);
        }
        let (capacity, Some(turn)) = (self.capacity, &mut self.turn) else { candle_core::bail!("no turn") };
        turn.layers.insert(layer);
        let (_, heads, dim) = layer;
        let zeros = || Tensor::zeros((capacity, heads, dim), k.dtype(), k.device());
        let pair = match self.layers.entry(layer) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Pair { keys: zeros()?, values: zeros()? }),
        };
        pair.keys.slice_set(&k.contiguous()?, 0, turn.base)?;
        pair.values.slice_set(&v.contiguous()?, 0, turn.base)?;
        for (rows, table) in kept.into_iter().zip(&turn.after) {
            if let Some(rows) = rows {
                rows.table = table.clone();
            }
        }
        let (keys, values) = (pair.keys.clone(), pair.values.clone());
        Ok(Held { turn: turn.number, spans: turn.spans.clone(), keys, values })
    }

    /// Finds rows for a pass and names them.
    fn begin(&mut self, packing: &Packing, before: Vec<Option<Option<Arc<Table>>>>) -> Result<Turn> {
        let tables = || before.iter().flatten().flatten();
        if tables().any(|table| !Arc::ptr_eq(&table.tables, &self.tables)) {
            candle_core::bail!("a sequence of other kernels");
        }
        if self.lost {
            if tables().next().is_some() {
                candle_core::bail!("kept keys and values were lost when the device's memory ran out");
            }
            *self = Self { turns: self.turns, ..Self::default() };
        }
        self.make_room(packing.tokens())?;
        let base = self.end;
        let rows = |table: &Option<Option<Arc<Table>>>| {
            table.as_ref().and_then(Option::as_ref).map_or_else(Vec::new, |table| pieces(&lock(&table.rows)))
        };
        let spans = spans(packing, base, &before.iter().map(rows).collect::<Vec<_>>())?;
        let mut after = Vec::with_capacity(before.len());
        for (table, span) in before.iter().zip(&spans) {
            let rows: Vec<u32> = match table {
                Some(_) => span.keys.iter().cloned().flatten().map(|row| row as u32).collect(),
                None => Vec::new(),
            };
            // Rows behind the last one that is kept are the next pass's.
            self.end = rows.iter().map(|row| *row as usize + 1).fold(self.end, usize::max);
            after.push((!rows.is_empty()).then(|| self.tables.add(rows)));
        }
        self.turns += 1;
        let (number, packing, spans) = (self.turns, packing.clone(), Arc::new(spans));
        Ok(Turn { number, packing, before, after, base, spans, layers: HashSet::new() })
    }

    /// Sees to it that so many rows are free.
    fn make_room(&mut self, tokens: usize) -> Result<()> {
        if self.end + tokens <= self.capacity {
            return Ok(());
        }
        let held = self.tables.held();
        let mut named = vec![false; self.end];
        held.iter().for_each(|table| mark(&lock(&table.rows), &mut named));
        let live: Vec<u32> = (0u32..).zip(&named).filter_map(|(row, named)| named.then_some(row)).collect();
        let needed = live.len() + tokens;
        // A fifth more than is needed, so that rows seldom move.
        let capacity = match needed <= self.capacity / 5 * 4 {
            true => self.capacity,
            false => (needed + needed / 4).next_multiple_of(GRAIN),
        };
        self.lost = true;
        self.move_together(&live, capacity)?;
        let mut places = vec![0u32; self.end];
        live.iter().zip(0u32..).for_each(|(row, place)| places[*row as usize] = place);
        for table in held {
            lock(&table.rows).iter_mut().for_each(|row| *row = places[*row as usize]);
        }
        (self.end, self.capacity, self.lost) = (live.len(), capacity, false);
        Ok(())
    }

    /// Copies the rows that are needed to the front of new tensors, one layer after another.
    fn move_together(&mut self, live: &[u32], capacity: usize) -> Result<()> {
        let mut index: Option<Tensor> = None;
        for pair in self.layers.values_mut() {
            for t in [&mut pair.keys, &mut pair.values] {
                let (_, heads, dim) = t.dims3()?;
                // The device's kernels reckon with 32 bits.
                if capacity.saturating_mul(heads * dim) > u32::MAX as usize {
                    candle_core::bail!("keys of {capacity} tokens in one layer are too many");
                }
                let moved = Tensor::zeros((capacity, heads, dim), t.dtype(), t.device())?;
                if !live.is_empty() {
                    let index = match &index {
                        Some(index) => index,
                        None => index.insert(Tensor::new(live, t.device())?),
                    };
                    moved.slice_set(&t.index_select(index, 0)?, 0, 0)?;
                }
                *t = moved;
            }
        }
        Ok(())
    }

    /// Keys and values `[positions, key_value_heads, head_dim]` that a sequence holds.
    #[cfg(test)]
    pub fn read(&self, rows: &Rows) -> Option<(Tensor, Tensor)> {
        let named = lock(&rows.table.as_ref()?.rows).clone();
        let pair = &self.layers[&rows.layer];
        let index = Tensor::new(named, pair.keys.device()).unwrap();
        Some((pair.keys.index_select(&index, 0).unwrap(), pair.values.index_select(&index, 0).unwrap()))
    }
}

impl Turn {
    /// Whether a layer that begins like this is another one of the same pass.
    fn goes_on(&self, layer: Layer, packing: &Packing, before: &[Option<Option<Arc<Table>>>]) -> bool {
        let same = |a: &Option<Option<Arc<Table>>>, b: &Option<Option<Arc<Table>>>| match (a, b) {
            (Some(Some(a)), Some(Some(b))) => Arc::ptr_eq(a, b),
            (a, b) => a.as_ref().map(Option::is_some) == b.as_ref().map(Option::is_some),
        };
        !self.layers.contains(&layer)
            && self.packing == *packing
            && self.before.len() == before.len()
            && self.before.iter().zip(before).all(|(a, b)| same(a, b))
    }
}

/// Rows as ranges.
fn pieces(rows: &[u32]) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    for row in rows {
        let row = *row as usize;
        match pieces.last_mut() {
            Some(piece) if piece.end == row => piece.end += 1,
            _ => pieces.push(row..row + 1),
        }
    }
    pieces
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
