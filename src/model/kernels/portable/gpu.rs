//! How the portable kernels work on a GPU, where a launch costs more than most of what it starts: all sequences of a pass
//! at once, in products of fixed shapes, whose indices and masks are made once for all layers.

use super::super::{Angles, AttentionShape, LayerCache, Packing};
use super::fixed::{Blocks, noise, same};
#[cfg(test)]
use super::kept::Rows;
use super::kept::Store;
use super::tiles::{Plan, Span, spans};
use candle_core::{DType, Device, Result, Tensor};
use std::collections::{HashMap, VecDeque};
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Plans that are kept: a model has one or two kinds of layers.
const PLANS: usize = 4;

/// What was tried on a device, and what a pass's layers share.
#[derive(Debug, Default)]
pub(super) struct Gpu {
    /// Tests of what is computed do without trials, and count as not invariant.
    untried: bool,
    /// By kind of weights, inputs and outputs.
    layers: Mutex<HashMap<(String, usize, usize), Blocks>>,
    /// Whether attention does not depend on the pass, by heads, key heads and their width.
    attention: Mutex<HashMap<(usize, usize, usize), bool>>,
    plans: Mutex<VecDeque<(Pass, Arc<Plan>)>>,
    store: Mutex<Store>,
    turns: Mutex<Option<Turns>>,
}

/// The angles of all positions below a number, `[positions, head_dim / 2]`, and the frequencies they are of.
#[derive(Debug)]
struct Turns {
    frequencies: Vec<f32>,
    cos: Tensor,
    sin: Tensor,
}

/// What a plan was made for.
#[derive(Debug, Clone, PartialEq)]
struct Pass {
    packing: Packing,
    /// Of the store, where it holds the keys.
    turn: Option<u64>,
    shape: AttentionShape,
}

impl Gpu {
    #[cfg(test)]
    pub fn untried() -> Self {
        Self { untried: true, ..Self::default() }
    }

    /// Whether every trial so far showed that a row's bits do not depend on the pass.
    pub fn invariant(&self) -> bool {
        let attention = lock(&self.attention);
        let products = lock(&self.layers).values().all(|blocks| blocks.invariant);
        products && !attention.is_empty() && attention.values().all(|same| *same)
    }

    /// The blocks for a layer's products; layers of one kind and shape are tried once.
    pub fn blocks(
        &self,
        kind: String,
        (input, output): (usize, usize),
        dtype: DType,
        device: &Device,
        product: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Blocks> {
        let key = (kind, input, output);
        if let Some(known) = lock(&self.layers).get(&key) {
            return Ok(known.clone());
        }
        let blocks = match self.untried {
            true => Blocks::untried(),
            false => Blocks::of((input, output), dtype, device, product)?,
        };
        lock(&self.layers).insert(key, blocks.clone());
        Ok(blocks)
    }

    /// Tries attention of a shape.
    pub fn prepare(&self, shape: &AttentionShape, dtype: DType, device: &Device) -> Result<()> {
        let key = (shape.heads, shape.key_value_heads, shape.head_dim);
        if self.untried || lock(&self.attention).contains_key(&key) {
            return Ok(());
        }
        let invariant = trial(&AttentionShape { window: None, ..*shape }, dtype, device)?;
        lock(&self.attention).insert(key, invariant);
        Ok(())
    }

    /// Each position's angles, as the processor computed them once for all passes.
    pub fn angles(&self, frequencies: &[f32], positions: &[u32], device: &Device) -> Result<Angles> {
        let needed = positions.iter().map(|p| *p as usize + 1).max().unwrap_or(0);
        let mut turns = lock(&self.turns);
        let known = |turns: &Turns| turns.frequencies == frequencies && turns.cos.dims()[0] >= needed;
        if !turns.as_ref().is_some_and(known) {
            let all = 0..u32::try_from(needed.next_power_of_two()).unwrap_or(u32::MAX);
            let Angles::Tensors { cos, sin } = super::angles_of(frequencies, all, device)? else {
                candle_core::bail!("angles of other kernels")
            };
            *turns = Some(Turns { frequencies: frequencies.to_vec(), cos, sin });
        }
        let Some(Turns { cos, sin, .. }) = &*turns else { candle_core::bail!("no angles") };
        let positions = Tensor::new(positions, device)?;
        Ok(Angles::Tensors { cos: cos.index_select(&positions, 0)?, sin: sin.index_select(&positions, 0)? })
    }

    /// Attention of a pass. `q` is `[tokens, heads, head_dim]`, turned already, `k` and `v` are `[tokens,
    /// key_value_heads, head_dim]`; gives `[tokens, heads * head_dim]`.
    pub fn attention(
        &self,
        q: &Tensor,
        k: Tensor,
        v: Tensor,
        shape: &AttentionShape,
        packing: &Packing,
        kept: &mut [Option<&mut LayerCache>],
    ) -> Result<Tensor> {
        if kept.iter().all(Option::is_none) {
            let spans = spans(packing, 0, &[])?;
            let pass = Pass { packing: packing.clone(), turn: None, shape: *shape };
            return self.plan(pass, &spans, q.device())?.attend(q, &k, &v, shape);
        }
        let rows = kept.iter_mut().map(|cache| match cache {
            Some(LayerCache::Rows(rows)) => Ok(Some(rows)),
            Some(_) => candle_core::bail!("a sequence of other kernels"),
            None => Ok(None),
        });
        let held = lock(&self.store).append(&k, &v, packing, rows.collect::<Result<_>>()?)?;
        let pass = Pass { packing: packing.clone(), turn: Some(held.turn), shape: *shape };
        self.plan(pass, &held.spans, q.device())?.attend(q, &held.keys, &held.values, shape)
    }

    fn plan(&self, pass: Pass, spans: &[Span], device: &Device) -> Result<Arc<Plan>> {
        let mut plans = lock(&self.plans);
        if let Some((_, plan)) = plans.iter().find(|(known, _)| *known == pass) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Plan::new(spans, &pass.shape, device)?);
        plans.truncate(PLANS - 1);
        plans.push_front((pass, plan.clone()));
        Ok(plan)
    }

    /// Keys and values `[positions, key_value_heads, head_dim]` that a sequence holds.
    #[cfg(test)]
    pub fn read(&self, rows: &Rows) -> Option<(Tensor, Tensor)> {
        lock(&self.store).read(rows)
    }
}

/// Whether sequences of many lengths get the same bits together, in another order, each alone, and cut in two.
fn trial(shape: &AttentionShape, dtype: DType, device: &Device) -> Result<bool> {
    const LENGTHS: [usize; 7] = [300, 5, 64, 1, 129, 257, 600];
    let tokens: usize = LENGTHS.iter().sum();
    let numbers =
        |heads: usize| noise(tokens * heads * shape.head_dim, device)?.reshape((tokens, heads, shape.head_dim));
    let q = numbers(shape.heads)?.to_dtype(dtype)?;
    // Keys and values that are like neither the queries nor each other.
    let (k, v) =
        ((numbers(shape.key_value_heads)? * 3.0)?.to_dtype(dtype)?, (&q * 1.0)?.narrow(1, 0, shape.key_value_heads)?);
    let whole = spans(&Packing::new(LENGTHS), 0, &[])?;
    let attend = |spans: &[Span]| Plan::new(spans, shape, device)?.attend(&q, &k, &v, shape);
    let together = attend(&whole)?;
    let cut = |span: &Span| {
        let middle = span.rows.start + span.rows.len() / 3;
        let (start, end) = (span.rows.start, span.rows.end);
        let first = Span { rows: start..middle, start: 0, keys: iter::once(start..middle).collect() };
        [first, Span { rows: middle..end, start: middle - start, keys: vec![start..middle, middle..end] }]
    };
    let mut ways = vec![whole.iter().rev().cloned().collect::<Vec<_>>(), whole.iter().flat_map(cut).collect()];
    ways.extend(whole.iter().map(|span| vec![span.clone()]));
    for way in ways {
        let other = attend(&way)?;
        for rows in way.into_iter().map(|span| span.rows).filter(|rows| !rows.is_empty()) {
            let part = |t: &Tensor| t.narrow(0, rows.start, rows.len());
            if !same(&part(&other)?, &part(&together)?)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The processor's products do not depend on the place of a row, and the trials say so: what they compare is right.
    #[test]
    fn trials_pass_where_products_depend_on_nothing_else() {
        let gpu = Gpu::default();
        assert!(!gpu.invariant(), "nothing was tried yet");
        let shape = AttentionShape { heads: 2, key_value_heads: 1, head_dim: 8, window: Some(9) };
        gpu.prepare(&shape, DType::F32, &Device::Cpu).unwrap();
        assert!(gpu.invariant());
        let bad = |x: &Tensor| x + Tensor::arange(0f32, 256.0 * 4.0, &Device::Cpu)?.reshape((256, 4))?;
        let blocks = gpu.blocks("dense".into(), (4, 4), DType::F32, &Device::Cpu, bad).unwrap();
        assert!(!blocks.invariant && !gpu.invariant());
    }
}
