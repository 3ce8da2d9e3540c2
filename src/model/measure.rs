//! Where the time of a pass goes: kernels that count what they do.

mod backward;

use super::kernels::{Angles, AttentionShape, FrozenLinear, Kernels, LayerCache, Packing, Part, Turned};
use candle_core::{DType, Result, Tensor};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time and arithmetic of one kind of work.
#[derive(Debug, Default)]
pub struct Meter {
    nanoseconds: AtomicU64,
    operations: AtomicU64,
}

impl Meter {
    fn time<R>(&self, operations: u64, work: impl FnOnce() -> R) -> R {
        let begin = Instant::now();
        let result = work();
        self.nanoseconds.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.operations.fetch_add(operations, Ordering::Relaxed);
        result
    }

    /// Time spent, as the caller of the kernels sees it.
    pub fn time_spent(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// Floating-point operations, a multiplication and an addition counted as two.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }
}

/// What a decoder did since it was loaded.
#[derive(Debug, Default)]
pub struct Meters {
    /// Linear layers of the decoder and their updates.
    pub products: Meter,
    /// Attention, with rotary positions and the copying of keys and values.
    pub attention: Meter,
    /// Norms, residual sums and gates. Their few operations are not counted.
    pub elementwise: Meter,
    /// The head, at labels and where a token is chosen.
    pub head: Meter,
}

impl Meters {
    /// All kinds by name.
    pub fn all(&self) -> [(&'static str, &Meter); 4] {
        [
            ("products", &self.products),
            ("attention", &self.attention),
            ("elementwise", &self.elementwise),
            ("head", &self.head),
        ]
    }
}

/// Kernels whose work is counted. Time is that of the calls: on a device that works asynchronously it tells little.
#[derive(Debug)]
pub struct Measured {
    kernels: Arc<dyn Kernels>,
    meters: Arc<Meters>,
}

impl Measured {
    pub fn new(kernels: Arc<dyn Kernels>) -> (Self, Arc<Meters>) {
        let meters = Arc::new(Meters::default());
        (Self { kernels, meters: meters.clone() }, meters)
    }
}

#[derive(Debug)]
struct MeasuredLinear {
    layer: Arc<dyn FrozenLinear>,
    meters: Arc<Meters>,
    outputs: usize,
    inputs: usize,
    /// The vocabulary's layer. It is told from the others by its size: no other has as many outputs.
    head: bool,
}

impl MeasuredLinear {
    fn time<R>(&self, x: &Tensor, work: impl FnOnce() -> R) -> Result<R> {
        let meter = if self.head { &self.meters.head } else { &self.meters.products };
        Ok(meter.time((2 * x.dim(0)? * self.inputs * self.outputs) as u64, work))
    }
}

impl FrozenLinear for MeasuredLinear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.time(x, || self.layer.forward(x))?
    }

    fn gated(&self, x: &Tensor) -> Result<Option<Tensor>> {
        self.time(x, || self.layer.gated(x))?
    }

    fn rows(&self, outputs: &[u32]) -> Result<Tensor> {
        self.layer.rows(outputs)
    }

    fn label_nll(&self, hidden: &Tensor, labels: &[u32]) -> Result<Vec<f32>> {
        self.time(hidden, || self.layer.label_nll(hidden, labels))?
    }

    fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        self.time(dy, || self.layer.backward(dy))?
    }

    fn label_nll_backward(&self, hidden: &Tensor, labels: &[u32], weight: f32) -> Result<(Vec<f32>, Tensor)> {
        let meter = if self.head { &self.meters.head } else { &self.meters.products };
        let operations = 4 * hidden.dim(0)? * self.inputs * self.outputs;
        meter.time(operations as u64, || self.layer.label_nll_backward(hidden, labels, weight))
    }
}

/// Of scores and of weighted sums.
fn attention_operations(shape: &AttentionShape, packing: &Packing) -> u64 {
    let seen = |position: usize| (position + 1).min(shape.window.unwrap_or(usize::MAX));
    let positions = packing.runs().iter().flat_map(|run| run.start..run.end());
    let pairs: usize = positions.map(seen).sum();
    (4 * pairs * shape.heads * shape.head_dim) as u64
}

/// More outputs than any layer inside a decoder has for its inputs.
fn is_head(outputs: usize, inputs: usize) -> bool {
    outputs > 16 * inputs
}

impl Kernels for Measured {
    fn name(&self) -> &'static str {
        self.kernels.name()
    }

    fn activations(&self) -> DType {
        self.kernels.activations()
    }

    fn batch_invariant(&self) -> bool {
        self.kernels.batch_invariant()
    }

    fn prepare(&self, shape: &AttentionShape) -> Result<()> {
        self.kernels.prepare(shape)
    }

    fn linear(&self, parts: Vec<Part>) -> Result<Arc<dyn FrozenLinear>> {
        let outputs = parts.iter().map(|part| part.matrix.dims().0).sum();
        let inputs = parts.first().map_or(0, |part| part.matrix.dims().1);
        let layer = self.kernels.linear(parts)?;
        let (meters, head) = (self.meters.clone(), is_head(outputs, inputs));
        Ok(Arc::new(MeasuredLinear { layer, meters, outputs, inputs, head }))
    }

    fn angles(&self, frequencies: &[f32], positions: &[u32]) -> Result<Angles> {
        self.meters.elementwise.time(0, || self.kernels.angles(frequencies, positions))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        self.meters.elementwise.time(0, || self.kernels.rms_norm(x, weight, eps))
    }

    fn add_rms_norm(&self, x: &Tensor, delta: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
        self.meters.elementwise.time(0, || self.kernels.add_rms_norm(x, delta, weight, eps))
    }

    fn cache(&self, layer: usize, shape: &AttentionShape) -> LayerCache {
        self.kernels.cache(layer, shape)
    }

    fn attention(
        &self,
        qkv: Tensor,
        turned: Turned<'_>,
        shape: &AttentionShape,
        packing: &Packing,
        kept: &mut [Option<&mut LayerCache>],
    ) -> Result<Tensor> {
        let work = || self.kernels.attention(qkv, turned, shape, packing, kept);
        self.meters.attention.time(attention_operations(shape, packing), work)
    }

    fn swiglu(&self, gate_up: &Tensor) -> Result<Tensor> {
        self.meters.elementwise.time(0, || self.kernels.swiglu(gate_up))
    }
}
