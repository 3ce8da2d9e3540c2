//! Forward and backward through the decoder with an adapter.
//!
//! Only what products need is kept of a forward pass, and norms, rotary angles, gates and probabilities are computed
//! again; with checkpointing only the layers' inputs are kept. Nothing flows below the lowest layer that has an update.

use crate::exec::RunError;
use crate::model::adapter::{LayerUpdates, PreparedAdapter, Target};
use crate::model::config::Config;
use crate::model::cpu::LowRankGradient;
use crate::model::decoder::{Decoder, Layer, Norm};
use crate::model::error::{Doing, Result};
use crate::model::kernels::{Angles, Dropout, Kernels, Packing, Turned};
use crate::model::language_model::Encoded;
use candle_core::Tensor;
use std::ops::Range;

type TensorResult<T> = candle_core::Result<T>;

/// A row to train on: tokens, and which of them are labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub tokens: Vec<u32>,
    /// Ranges of tokens that are labels, ascending; each is predicted from the tokens before it, so 0 is none.
    pub labels: Vec<Range<usize>>,
}

impl Example {
    /// The response and the token that closes it are labels, the prompt is not.
    pub fn response(row: &Encoded) -> Self {
        let example = Self::whole(row);
        Self { labels: std::iter::once(row.prompt.max(1)..example.tokens.len()).collect(), ..example }
    }

    /// All tokens but the first are labels.
    pub fn whole(row: &Encoded) -> Self {
        let tokens: Vec<u32> = row.tokens.iter().copied().chain([row.end]).collect();
        Self { labels: std::iter::once(1..tokens.len()).collect(), tokens }
    }

    pub fn label_tokens(&self) -> usize {
        self.labels.iter().map(ExactSizeIterator::len).sum()
    }

    /// How many tokens are read: none after the last label.
    fn read(&self) -> usize {
        self.labels.last().map_or(0, |labels| labels.end - 1)
    }
}

/// How a batch is computed. On our own kernels no setting changes a bit of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassOptions {
    /// Keeps only the inputs of layers and computes the rest a second time: less memory, a third more work.
    pub checkpointing: bool,
    /// Rows are packed together up to this number of tokens; a longer row is alone.
    pub tokens: usize,
    /// The most rows that are packed together.
    pub rows: usize,
}

impl Default for PassOptions {
    fn default() -> Self {
        Self { checkpointing: false, tokens: 1024, rows: usize::MAX }
    }
}

impl PassOptions {
    /// About how many bytes the passes over such rows keep at a time: of the most tokens that may be packed together, all
    /// that products of a layer gave, or with checkpointing the layer's input.
    pub fn bytes(&self, config: &Config, rows: &[Example]) -> u64 {
        let mut lengths: Vec<usize> = rows.iter().map(Example::read).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let longest = lengths.first().copied().unwrap_or(0);
        let packed = lengths.iter().take(self.rows).fold(0usize, |sum, n| sum.saturating_add(*n));
        let tokens = longest.max(packed.min(self.tokens)) as u64;
        let heads = config.num_attention_heads + 2 * config.num_key_value_heads;
        let layer = 3 * config.hidden_size + heads * config.head_dim + 2 * config.intermediate_size;
        let layers = config.num_hidden_layers;
        let kept = if self.checkpointing { layers * config.hidden_size + layer } else { layers * layer };
        tokens.saturating_mul((kept * size_of::<f32>()) as u64)
    }
}

/// What the passes over a batch give.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// Of the adapter's values, in their order.
    pub values: Vec<f32>,
    /// Mean over the label tokens.
    pub loss: f64,
    pub label_tokens: usize,
    pub tokens: usize,
}

/// Loss and gradients of a batch: means over its label tokens, whatever passes it is cut into. `drawn` is what dropout
/// is drawn from.
pub fn gradients(
    decoder: &Decoder,
    adapter: &PreparedAdapter,
    batch: &[&Example],
    options: &PassOptions,
    drawn: u64,
) -> Result<Gradients> {
    let label_tokens: usize = batch.iter().map(|row| row.label_tokens()).sum();
    if label_tokens == 0 {
        let text = format!("a batch of {} rows has no label token", batch.len());
        return Err(RunError::failed("no-labels", text)
            .help("quarantine rows whose response was cut away, or raise the length limit"));
    }
    check(batch)?;
    let mut sums = Gradients {
        values: vec![0.0; adapter.values],
        loss: 0.0,
        label_tokens,
        tokens: batch.iter().map(|row| row.tokens.len()).sum(),
    };
    let weight = (1.0 / label_tokens as f64) as f32;
    for rows in passes(batch, options) {
        let pass = Pass::new(decoder, adapter, &batch[rows.clone()], rows.start, options, drawn);
        pass.and_then(|pass| pass.run(weight, &mut sums)).doing(|| {
            let tokens: usize = batch[rows.clone()].iter().map(|row| row.tokens.len()).sum();
            format!("training on {} rows of {tokens} tokens", rows.len())
        })?;
    }
    sums.loss /= label_tokens as f64;
    Ok(sums)
}

/// The negative log-likelihoods of a batch's labels, summed row by row, and their number. Nothing is dropped.
pub fn loss(
    decoder: &Decoder,
    adapter: &PreparedAdapter,
    batch: &[&Example],
    options: &PassOptions,
) -> Result<(f64, usize)> {
    check(batch)?;
    let mut sum = 0.0;
    for rows in passes(batch, options) {
        let pass = Pass::new(decoder, adapter, &batch[rows.clone()], rows.start, options, 0);
        pass.and_then(|pass| Pass { dropout: 0.0, ..pass }.measure(&mut sum)).doing(|| {
            let tokens: usize = batch[rows.clone()].iter().map(|row| row.tokens.len()).sum();
            format!("validating on {} rows of {tokens} tokens", rows.len())
        })?;
    }
    Ok((sum, batch.iter().map(|row| row.label_tokens()).sum()))
}

fn check(batch: &[&Example]) -> Result<()> {
    let Some(row) = batch.iter().find(|row| !row.is_well_formed()) else { return Ok(()) };
    let text = format!("labels {:?} of a row of {} tokens", row.labels, row.tokens.len());
    Err(RunError::failed("labels-out-of-range", text))
}

impl Example {
    fn is_well_formed(&self) -> bool {
        let ascending = self.labels.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let inside = |labels: &Range<usize>| 0 < labels.start && labels.start < labels.end;
        ascending && self.labels.iter().all(inside) && self.labels.last().is_none_or(|l| l.end <= self.tokens.len())
    }
}

/// Successive rows of at most so many tokens together.
fn passes(batch: &[&Example], options: &PassOptions) -> Vec<Range<usize>> {
    let mut passes: Vec<Range<usize>> = Vec::new();
    let mut room = 0;
    // Rows without labels add nothing, and a pass over them alone would have no token.
    for (i, row) in batch.iter().enumerate().filter(|(_, row)| row.read() > 0) {
        match passes.last_mut() {
            Some(pass) if row.read() <= room && pass.len() < options.rows => pass.end = i + 1,
            _ => {
                passes.push(i..i + 1);
                room = options.tokens;
            }
        }
        room = room.saturating_sub(row.read());
    }
    passes
}

/// One pass over packed rows.
struct Pass<'a> {
    decoder: &'a Decoder,
    kernels: &'a dyn Kernels,
    adapter: &'a PreparedAdapter,
    tokens: Vec<u32>,
    packing: Packing,
    angles: Angles,
    /// Where labels are predicted, and the labels.
    places: Vec<u32>,
    labels: Vec<u32>,
    /// How many labels each row has.
    counts: Vec<usize>,
    /// A number for each token that does not depend on the pass.
    numbers: Vec<u64>,
    checkpointing: bool,
    /// Probability with which an input of an update is dropped.
    dropout: f32,
    drawn: u64,
}

/// What is kept of a layer's forward pass: its input, and unless it is computed again, what products gave.
struct Kept {
    x: Tensor,
    inner: Option<Inner>,
}

struct Inner {
    /// Before norms and rotary angles.
    qkv: Tensor,
    attended: Tensor,
    /// The sum after the attention.
    middle: Tensor,
    gate_up: Tensor,
}

impl<'a> Pass<'a> {
    fn new(
        decoder: &'a Decoder,
        adapter: &'a PreparedAdapter,
        rows: &[&Example],
        first: usize,
        options: &PassOptions,
        drawn: u64,
    ) -> TensorResult<Self> {
        let packing = Packing::new(rows.iter().map(|row| row.read()));
        let kernels = &*decoder.kernels;
        let (mut tokens, mut places, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        let mut numbers = Vec::new();
        for ((row, run), number) in rows.iter().zip(packing.runs()).zip(first as u64..) {
            tokens.extend_from_slice(&row.tokens[..row.read()]);
            numbers.extend((0..row.read() as u64).map(|position| number << 32 | position));
            for label in row.labels.iter().cloned().flatten() {
                places.push((run.rows.start + label - 1) as u32);
                labels.push(row.tokens[label]);
            }
        }
        let angles = kernels.angles(&decoder.inverse_frequencies, &packing.positions())?;
        let counts = rows.iter().map(|row| row.label_tokens()).collect();
        let checkpointing = options.checkpointing;
        Ok(Self {
            decoder,
            kernels,
            adapter,
            tokens,
            packing,
            angles,
            places,
            labels,
            counts,
            numbers,
            checkpointing,
            dropout: adapter.dropout,
            drawn,
        })
    }

    /// Adds to the gradients, scaled by `weight`, and the labels' negative log-likelihoods to the loss.
    fn run(&self, weight: f32, sums: &mut Gradients) -> TensorResult<()> {
        let decoder = self.decoder;
        let lowest = self.adapter.layers.iter().position(|updates| updates.any(&Target::ALL));
        let first = lowest.unwrap_or(decoder.layers.len());
        let mut x = decoder.embed(&self.tokens)?;
        let mut kept = Vec::with_capacity(decoder.layers.len() - first);
        for i in 0..decoder.layers.len() {
            let (inner, out) = self.forward(i, &x)?;
            if i >= first {
                kept.push(Kept { x, inner: (!self.checkpointing).then_some(inner) });
            }
            x = out;
        }
        let mut dx = self.head(&x, weight, &mut sums.loss)?;
        drop(x);
        for i in (first..decoder.layers.len()).rev() {
            let Some(Kept { x, inner }) = kept.pop() else { candle_core::bail!("a layer was not kept") };
            let inner = match inner {
                Some(inner) => inner,
                None => self.forward(i, &x)?.0,
            };
            match self.backward(i, &x, inner, dx, i == first, &mut sums.values)? {
                Some(below) => dx = below,
                None => break,
            }
        }
        Ok(())
    }

    /// Adds the labels' negative log-likelihoods to the loss.
    fn measure(&self, loss: &mut f64) -> TensorResult<()> {
        let mut x = self.decoder.embed(&self.tokens)?;
        for i in 0..self.decoder.layers.len() {
            x = self.forward(i, &x)?.1;
        }
        let at_labels = x.index_select(&Tensor::new(&self.places[..], &self.decoder.device)?, 0)?;
        let hidden = self.decoder.norm.forward(&at_labels, self.kernels)?;
        self.add_up(self.decoder.lm_head.label_nll(&hidden, &self.labels)?, loss);
        Ok(())
    }

    /// Adds the labels' negative log-likelihoods row by row, so that the sum does not depend on the passes; gives the
    /// gradient of the last layer's output.
    fn head(&self, x: &Tensor, weight: f32, loss: &mut f64) -> TensorResult<Tensor> {
        let norm = &self.decoder.norm;
        let places = Tensor::new(&self.places[..], &self.decoder.device)?;
        let at_labels = x.index_select(&places, 0)?;
        let hidden = norm.forward(&at_labels, self.kernels)?;
        let (nll, d) = self.decoder.lm_head.label_nll_backward(&hidden, &self.labels, weight)?;
        let d = self.norm_backward(norm, &at_labels, &d, at_labels.zeros_like()?)?;
        let dx = x.zeros_like()?.index_add(&places, &d, 0)?;
        self.add_up(nll, loss);
        Ok(dx)
    }

    fn add_up(&self, nll: Vec<f32>, loss: &mut f64) {
        let mut nll = nll.into_iter();
        for count in &self.counts {
            *loss += nll.by_ref().take(*count).map(f64::from).sum::<f64>();
        }
    }

    /// A layer's output, and what its gradients need.
    fn forward(&self, index: usize, x: &Tensor) -> TensorResult<(Inner, Tensor)> {
        let (layer, kernels) = (&self.decoder.layers[index], self.kernels);
        let [queries, keys, values] = layer.self_attn.shape.columns();
        let y = layer.input_layernorm.forward(x, kernels)?;
        let mut qkv = layer.self_attn.qkv_proj.forward(&y)?;
        for (target, column) in [(Target::Query, queries), (Target::Key, keys), (Target::Value, values)] {
            qkv = self.update(index, target, &y, qkv, column)?;
        }
        drop(y);
        let shape = &layer.self_attn.shape;
        let attended = kernels.attention(qkv.copy()?, self.turned(layer), shape, &self.packing, &mut [])?;
        let delta = layer.self_attn.o_proj.forward(&attended)?;
        let delta = self.update(index, Target::Output, &attended, delta, 0)?;
        let (middle, y) = layer.post_attention_layernorm.add_forward(x, &delta, kernels)?;
        let mut gate_up = layer.mlp.gate_up_proj.forward(&y)?;
        let width = gate_up.dim(1)? / 2;
        for (target, column) in [(Target::Gate, 0), (Target::Up, width)] {
            gate_up = self.update(index, target, &y, gate_up, column)?;
        }
        let activated = kernels.swiglu(&gate_up)?;
        let delta = layer.mlp.down_proj.forward(&activated)?;
        let delta = self.update(index, Target::Down, &activated, delta, 0)?;
        let out = (&middle + delta)?;
        Ok((Inner { qkv, attended, middle, gate_up }, out))
    }

    /// The gradient of a layer's input from that of its output, unless nothing below (`lowest`) needs it.
    fn backward(
        &self,
        index: usize,
        x: &Tensor,
        inner: Inner,
        dx: Tensor,
        lowest: bool,
        gradients: &mut [f32],
    ) -> TensorResult<Option<Tensor>> {
        use Target::{Down, Gate, Key, Output, Query, Up, Value};
        let (layer, kernels, updates) = (&self.decoder.layers[index], self.kernels, &self.adapter.layers[index]);
        let Inner { qkv, attended, middle, gate_up } = inner;
        let needed = |targets: &[Target]| !lowest || updates.any(targets);

        let down = match needed(&[Query, Key, Value, Output, Gate, Up]) {
            true => Some(layer.mlp.down_proj.backward(&dx)?),
            false => None,
        };
        let down = match updates.get(Down) {
            Some(_) => {
                let activated = kernels.swiglu(&gate_up)?;
                self.update_backward(index, &[(Down, 0)], &activated, &dx, down, gradients)?
            }
            None => down,
        };
        let Some(d) = down else { return Ok(None) };

        let d = kernels.swiglu_backward(&gate_up, &d)?;
        drop(gate_up);
        let width = d.dim(1)? / 2;
        let up = match needed(&[Query, Key, Value, Output]) {
            true => Some(layer.mlp.gate_up_proj.backward(&d)?),
            false => None,
        };
        let norm = &layer.post_attention_layernorm;
        let up = match updates.any(&[Gate, Up]) {
            true => {
                let y = norm.forward(&middle, kernels)?;
                self.update_backward(index, &[(Gate, 0), (Up, width)], &y, &d, up, gradients)?
            }
            false => up,
        };
        let Some(dy) = up else { return Ok(None) };
        let dx = self.norm_backward(norm, &middle, &dy, dx)?;
        drop((d, dy, middle));

        let out = match needed(&[Query, Key, Value]) {
            true => Some(layer.self_attn.o_proj.backward(&dx)?),
            false => None,
        };
        let out = self.update_backward(index, &[(Output, 0)], &attended, &dx, out, gradients)?;
        let Some(d) = out else { return Ok(None) };
        let shape = &layer.self_attn.shape;
        let d = kernels.attention_backward(&qkv, self.turned(layer), shape, &self.packing, &d)?;
        drop((qkv, attended));

        let input = match lowest {
            true => None,
            false => Some(layer.self_attn.qkv_proj.backward(&d)?),
        };
        let input = match updates.any(&[Query, Key, Value]) {
            true => {
                let [queries, keys, values] = layer.self_attn.shape.columns();
                let y = layer.input_layernorm.forward(x, kernels)?;
                let parts = [(Query, queries), (Key, keys), (Value, values)];
                self.update_backward(index, &parts, &y, &d, input, gradients)?
            }
            false => input,
        };
        let Some(dy) = input else { return Ok(None) };
        self.norm_backward(&layer.input_layernorm, x, &dy, dx).map(Some)
    }

    /// `y` with a target's update added, where it has one.
    fn update(&self, layer: usize, target: Target, x: &Tensor, y: Tensor, column: usize) -> TensorResult<Tensor> {
        let Some(own) = self.adapter.layers[layer].get(target) else { return Ok(y) };
        match self.dropout(layer, target) {
            Some(dropout) => own.update.add(&self.kernels.dropout(x, &dropout)?, y, column),
            None => own.update.add(x, y, column),
        }
    }

    /// Adds the gradients of targets that read the same input `x` and wrote their columns of what `dy` is the gradient
    /// of; gives `dx` with theirs.
    fn update_backward(
        &self,
        layer: usize,
        targets: &[(Target, usize)],
        x: &Tensor,
        dy: &Tensor,
        mut dx: Option<Tensor>,
        gradients: &mut [f32],
    ) -> TensorResult<Option<Tensor>> {
        let updates: &LayerUpdates = &self.adapter.layers[layer];
        for (target, column) in targets {
            let Some(own) = updates.get(*target) else { continue };
            let (a, b) = gradients[own.a.start..own.b.end].split_at_mut(own.a.len());
            let gradient = LowRankGradient { a, b };
            let Some(dropout) = self.dropout(layer, *target) else {
                dx = own.update.backward(x, dy, *column, &self.packing, gradient, dx)?;
                continue;
            };
            let dropped = self.kernels.dropout(x, &dropout)?;
            let zero = dx.as_ref().map(|_| x.zeros_like()).transpose()?;
            let through = own.update.backward(&dropped, dy, *column, &self.packing, gradient, zero)?;
            dx = match dx.zip(through) {
                Some((dx, through)) => Some((dx + self.kernels.dropout(&through, &dropout)?)?),
                None => None,
            };
        }
        Ok(dx)
    }

    /// Each module of each step draws for itself.
    fn dropout(&self, layer: usize, target: Target) -> Option<Dropout<'_>> {
        let module = (layer * Target::ALL.len() + target as usize) as u64 + 1;
        let key = self.drawn ^ module.wrapping_mul(0xd134_2543_de82_ef95);
        let probability = self.dropout;
        (probability > 0.0).then_some(Dropout { probability, key, tokens: &self.numbers })
    }

    fn norm_backward(&self, norm: &Norm, x: &Tensor, dy: &Tensor, residual: Tensor) -> TensorResult<Tensor> {
        self.kernels.rms_norm_backward(x, &norm.weight, norm.eps, dy, residual)
    }

    fn turned<'b>(&'b self, layer: &'b Layer) -> Turned<'b> {
        let norms = layer.self_attn.q_norm.as_ref().zip(layer.self_attn.k_norm.as_ref());
        let eps = norms.map_or(0.0, |(q, _)| q.eps);
        Turned { norms: norms.map(|(q, k)| (&q.weight, &k.weight)), eps, angles: &self.angles }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GPU starts no work on nothing.
    #[test]
    fn every_pass_has_tokens_and_every_label_a_pass() {
        let row =
            |end: usize| Example { tokens: vec![1; 9], labels: (end > 0).then_some(1..end).into_iter().collect() };
        let rows: Vec<Example> = [0, 4, 0, 0, 9, 2, 0].map(row).to_vec();
        let batch: Vec<&Example> = rows.iter().collect();
        for (tokens, most) in [(1, 1), (3, 9), (1024, 1), (1024, usize::MAX)] {
            let options = PassOptions { tokens, rows: most, ..PassOptions::default() };
            let passes = passes(&batch, &options);
            assert!(passes.iter().all(|pass| batch[pass.clone()].iter().any(|row| row.read() > 0)), "{passes:?}");
            let labelled = |i: &usize| !rows[*i].labels.is_empty();
            let found: Vec<usize> = passes.into_iter().flatten().filter(labelled).collect();
            assert_eq!(found, [1, 4, 5]);
        }
        assert!(passes(&[&rows[0]], &PassOptions::default()).is_empty());
    }
}
