//! Products with quantised weights: they stay quantised in memory, inputs are rounded to bytes.

mod activations;
mod by_hand;
mod kernel;
mod lanes;
mod layout;
#[cfg(test)]
mod tests;

pub use layout::QuantType;

use super::Isa;
use super::linear::{BLOCK_ROWS, Grid, Target, with_scratch};
use super::product::{Product, ProductBlock};
use activations::ByteRows;
use layout::{LANES, LINE};
use rayon::prelude::*;
use std::ops::Range;

/// Below this many multiplications a product is not worth waking other threads for.
const SERIAL: usize = 1 << 17;

/// A quantised matrix `[out, inner]`, row-major blocks as a GGUF file holds them.
#[derive(Debug, Clone, Copy)]
pub struct QuantMatrix<'a> {
    pub kind: QuantType,
    pub out: usize,
    pub blocks: &'a [u8],
}

/// A frozen linear layer `y = x Wᵀ (+ bias)` with quantised weights; its outputs may be those of several matrices, of
/// different types, side by side.
///
/// Inputs are rounded to bytes in blocks of 32, each with a scale of its own: a 127th of its greatest magnitude. Sums
/// inside a block are exact, sums over blocks float32 in ascending order. So each row of y depends on the same row of
/// x and on the weights alone: not on the other rows, their number, the threads, or the path.
///
/// The rounding of inputs changes an output by at most `Σ |w[k]| greatest(block of k) / 254`.
///
/// A NaN or infinite input makes all of its row's outputs NaN, and no other row's.
#[derive(Debug)]
pub struct QuantizedLinear {
    inner: usize,
    out: usize,
    parts: Vec<Part>,
    bias: Option<Vec<f32>>,
}

/// The panels of one matrix.
#[derive(Debug)]
struct Part {
    kind: QuantType,
    /// Columns of the layer.
    columns: Range<usize>,
    /// Panels of the layer.
    panels: Range<usize>,
    panel_bytes: usize,
    lines: Vec<Half>,
}

/// Half a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Half([u8; LINE / 2]);

impl Part {
    fn pack(matrix: &QuantMatrix<'_>, inner: usize, column: usize, panel: usize) -> Part {
        let QuantMatrix { kind, out, blocks } = *matrix;
        let row_bytes = inner / kind.block_inputs() * kind.block_bytes();
        assert!(inner.is_multiple_of(kind.block_inputs()), "{inner} inputs in blocks of {}", kind.block_inputs());
        assert_eq!(blocks.len(), out * row_bytes, "{kind:?} blocks of [{out}, {inner}]");
        let panels = out.div_ceil(LANES);
        let panel_bytes = inner / kind.block_inputs() * kind.shape().unit();
        let mut lines = vec![Half([0; LINE / 2]); panels * panel_bytes / size_of::<Half>()];
        let part =
            Part { kind, columns: column..column + out, panels: panel..panel + panels, panel_bytes, lines: Vec::new() };
        if panel_bytes > 0 {
            let of_panel = |(panel, lines): (usize, &mut [Half])| {
                let rows = panel * LANES..out.min((panel + 1) * LANES);
                let rows: Vec<&[u8]> = rows.map(|row| &blocks[row * row_bytes..][..row_bytes]).collect();
                kind.pack(&rows, bytes_mut(lines));
            };
            lines.par_chunks_exact_mut(panel_bytes / size_of::<Half>()).enumerate().for_each(of_panel);
        }
        Part { lines, ..part }
    }

    /// The bytes of some of the layer's panels, which are this part's.
    fn bytes(&self, panels: Range<usize>) -> &[u8] {
        let panels = panels.start - self.panels.start..panels.end - self.panels.start;
        &bytes(&self.lines)[panels.start * self.panel_bytes..panels.end * self.panel_bytes]
    }
}

fn bytes(lines: &[Half]) -> &[u8] {
    // SAFETY: `Half` is `repr(C)` around an array of 32 bytes and 32 bytes aligned: no padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

fn bytes_mut(lines: &mut [Half]) -> &mut [u8] {
    // SAFETY: as in `bytes`; any byte is valid.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

impl QuantizedLinear {
    /// Repacks matrices with the same inputs; their outputs stand side by side.
    ///
    /// # Panics
    /// If the inputs are no whole blocks of a matrix's type, or a matrix has another number of bytes.
    pub fn pack(matrices: &[QuantMatrix<'_>], inner: usize) -> QuantizedLinear {
        let (mut column, mut panel) = (0, 0);
        let mut parts = Vec::with_capacity(matrices.len());
        for matrix in matrices {
            let part = Part::pack(matrix, inner, column, panel);
            (column, panel) = (part.columns.end, part.panels.end);
            parts.push(part);
        }
        QuantizedLinear { inner, out: column, parts, bias: None }
    }

    /// Adds a bias to the layer's outputs.
    ///
    /// # Panics
    /// If there are not as many values as outputs.
    pub fn with_bias(mut self, bias: Vec<f32>) -> QuantizedLinear {
        assert_eq!(bias.len(), self.out, "one bias per output");
        self.bias = Some(bias);
        self
    }

    /// Number of outputs.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Number of inputs.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| size_of_val(&part.lines[..])).sum()
    }

    /// Writes the weights of an output, in float32.
    ///
    /// # Panics
    /// If there is no such output, or not as many values as inputs.
    pub fn row(&self, output: usize, row: &mut [f32]) {
        assert!(output < self.out, "output {output} of {}", self.out);
        assert_eq!(row.len(), self.inner, "one value per input");
        let at = self.parts.partition_point(|part| part.columns.end <= output);
        let part = &self.parts[at];
        let output = output - part.columns.start;
        let panel = part.panels.start + output / LANES;
        part.kind.unpack(part.bytes(panel..panel + 1), output % LANES, row);
    }

    /// `y = x Wᵀ + bias`; x is `[m, inner]`, y `[m, out]`, row-major.
    ///
    /// # Panics
    /// If x or y has another length.
    pub fn forward(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32]) {
        self.forward_at(isa, x, m, y, self.out, 0);
    }

    /// Like [`QuantizedLinear::forward`], into columns of wider rows: y is `[m, stride]`, and the outputs begin at
    /// column `first`.
    ///
    /// # Panics
    /// If x or y has another length, or the outputs do not fit into a row.
    pub fn forward_at(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32], stride: usize, first: usize) {
        assert!(first + self.out <= stride, "{} outputs at {first} in rows of {stride}", self.out);
        assert_eq!(y.len(), m * stride, "outputs of [{m}, {stride}]");
        let target = Target(y.as_mut_ptr());
        self.for_each_task(isa, x, m, self.panels(), 4, |x, rows, panels| {
            self.for_each_part(panels, |part, panels, columns| {
                // SAFETY: tasks and parts are disjoint and their columns within a row of `y`, which was asserted to have
                // m of them; `y` is borrowed until `for_each_task` returns.
                unsafe {
                    let out = target.from(rows.start * stride + first + columns.start);
                    self.product(isa, x, rows.clone(), part, panels, columns, out, stride);
                }
            });
        });
    }

    /// Whether it is two matrices with equally many outputs.
    pub fn has_halves(&self) -> bool {
        matches!(&self.parts[..], [first, second] if first.columns.len() == second.columns.len())
    }

    /// `y = silu(gate) * up` of a product whose first half of outputs are the gates; x is `[m, inner]`, y `[m, out / 2]`.
    ///
    /// # Panics
    /// If x or y has another length, or there is no [`QuantizedLinear::has_halves`].
    pub fn forward_gated(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32]) {
        assert!(self.has_halves(), "gates and what they gate");
        let (half, width) = (self.panels() / 2, self.out / 2);
        assert_eq!(y.len(), m * width, "outputs of [{m}, {width}]");
        let target = Target(y.as_mut_ptr());
        self.for_each_task(isa, x, m, half, 4, |x, rows, panels| {
            let (first, most) = (panels.start * LANES, panels.len() * LANES);
            with_scratch(rows.len() * 2 * most, |values| {
                let out = Target(values.as_mut_ptr());
                for (at, from) in [(0, 0), (most, half)] {
                    self.for_each_part(panels.start + from..panels.end + from, |part, panels, columns| {
                        // SAFETY: the scratch has room for both halves of all rows.
                        unsafe { self.product(isa, x, rows.clone(), part, panels, columns, out.from(at), 2 * most) };
                    });
                }
                let count = most.min(width - first);
                for (values, row) in values.chunks_exact(2 * most).zip(rows.clone()) {
                    // SAFETY: tasks are disjoint, and their columns within a row of `y`.
                    let y = unsafe { target.slice(row * width + first, count) };
                    super::rows::swiglu_row(isa, &values[..count], &values[most..][..count], y);
                }
            });
        });
    }

    /// Number of panels of all matrices.
    fn panels(&self) -> usize {
        self.parts.last().map_or(0, |part| part.panels.end)
    }

    /// Rounds the inputs and shares the product out: some rows and some of the first `panels` panels a task.
    fn for_each_task(
        &self,
        isa: Isa,
        x: &[f32],
        m: usize,
        panels: usize,
        chunk: usize,
        task: impl Fn(&ByteRows, Range<usize>, Range<usize>) + Sync,
    ) {
        assert_eq!(x.len(), m * self.inner, "inputs of [{m}, {}]", self.inner);
        if m == 0 || panels == 0 {
            return;
        }
        let x = ByteRows::new(isa, x, self.inner);
        let serial = m * self.inner * self.out < SERIAL;
        let grid = Grid::new(m, panels, (6, BLOCK_ROWS), chunk, if serial { 1 } else { rayon::current_num_threads() });
        let one = |at: usize| {
            let (rows, panels) = grid.task(at);
            task(&x, rows, panels);
        };
        match grid.len() {
            1 => one(0),
            n if serial => (0..n).for_each(one),
            n => (0..n).into_par_iter().for_each(one),
        }
    }

    /// Cuts panels into those of each matrix, with their columns.
    fn for_each_part(&self, panels: Range<usize>, mut f: impl FnMut(&Part, Range<usize>, Range<usize>)) {
        for part in &self.parts {
            let panels = panels.start.max(part.panels.start)..panels.end.min(part.panels.end);
            if panels.is_empty() {
                continue;
            }
            let first = part.columns.start + (panels.start - part.panels.start) * LANES;
            let columns = first..part.columns.end.min(first + panels.len() * LANES);
            f(part, panels, columns);
        }
    }

    /// The product of some rows and some panels of a matrix.
    ///
    /// # Safety
    /// As many values as columns may be written from `out` on, and `stride` further on for each further row.
    #[allow(clippy::too_many_arguments)]
    unsafe fn product(
        &self,
        isa: Isa,
        x: &ByteRows,
        rows: Range<usize>,
        part: &Part,
        panels: Range<usize>,
        columns: Range<usize>,
        out: Target<f32>,
        stride: usize,
    ) {
        let (count, panels) = (rows.len(), part.bytes(panels));
        let product =
            kernel::Product { inner: self.inner, x, rows, panels, columns: columns.len(), out: out.0, stride };
        // SAFETY: the caller's contract.
        unsafe { kernel::multiply(isa, part.kind, product) };
        if let Some(bias) = &self.bias {
            for row in 0..count {
                // SAFETY: the caller's contract.
                let values = unsafe { out.slice(row * stride, columns.len()) };
                values.iter_mut().zip(&bias[columns.clone()]).for_each(|(v, b)| *v += b);
            }
        }
    }
}

impl Product for QuantizedLinear {
    fn out(&self) -> usize {
        self.out
    }

    fn inner(&self) -> usize {
        self.inner
    }

    fn forward(&self, isa: Isa, x: &[f32], m: usize, y: &mut [f32]) {
        QuantizedLinear::forward(self, isa, x, m, y);
    }

    fn for_each_block(&self, isa: Isa, x: &[f32], m: usize, chunk: usize, consume: impl Fn(ProductBlock<'_>) + Sync) {
        self.for_each_task(isa, x, m, self.panels(), chunk, |x, rows, panels| {
            self.for_each_part(panels, |part, panels, columns| {
                let stride = columns.len();
                with_scratch(rows.len() * stride, |values| {
                    let out = Target(values.as_mut_ptr());
                    // SAFETY: the scratch has room for all rows and columns.
                    unsafe { self.product(isa, x, rows.clone(), part, panels, columns.clone(), out, stride) };
                    consume(ProductBlock { rows: rows.clone(), columns, values, stride });
                });
            });
        });
    }
}
