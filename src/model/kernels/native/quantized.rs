//! Layers whose weights stay quantised.

use super::{Native, tensor, with};
use crate::model::cpu::{self, Format, Isa, PackedLinear, QuantMatrix, QuantType, QuantizedLinear};
use crate::model::kernels::{FrozenLinear, Matrix, Part};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Result, Tensor};
use std::sync::OnceLock;

/// A layer of quantised matrices, and of dense ones where a file has both side by side.
#[derive(Debug)]
pub(super) struct Quantized {
    pieces: Vec<Piece>,
    inner: usize,
    out: usize,
    /// For gradients, in float32; made when the first is asked for.
    transposed: OnceLock<PackedLinear>,
    isa: Isa,
}

/// Successive outputs of the layer.
#[derive(Debug)]
enum Piece {
    Quantized(QuantizedLinear),
    Dense(PackedLinear),
}

impl Piece {
    fn new(kernels: &Native, parts: &[Part]) -> Result<Self> {
        let matrices: Option<Vec<_>> = parts.iter().map(|part| quantized(&part.matrix)).collect();
        let Some(matrices) = matrices else { return kernels.dense(parts).map(Piece::Dense) };
        let blocks: Vec<_> = matrices.iter().map(|(weight, _)| weight.data()).collect::<Result<_>>()?;
        let each = parts.iter().zip(&matrices).zip(&blocks);
        let matrices: Vec<QuantMatrix<'_>> = each
            .map(|((part, (_, kind)), blocks)| QuantMatrix { kind: *kind, out: part.matrix.dims().0, blocks })
            .collect();
        let layer = QuantizedLinear::pack(&matrices, parts[0].matrix.dims().1);
        Ok(Piece::Quantized(match super::bias(parts)? {
            Some(bias) => layer.with_bias(bias),
            None => layer,
        }))
    }

    fn out(&self) -> usize {
        match self {
            Piece::Quantized(layer) => layer.out(),
            Piece::Dense(layer) => layer.out(),
        }
    }

    fn row(&self, output: usize, row: &mut [f32]) {
        match self {
            Piece::Quantized(layer) => layer.row(output, row),
            Piece::Dense(layer) => layer.row(output, row),
        }
    }
}

/// How our kernels know a type of a GGUF file's matrices, if they multiply with it as it is.
pub(in crate::model) fn quant_type(dtype: GgmlDType) -> Option<QuantType> {
    match dtype {
        GgmlDType::Q4_0 => Some(QuantType::Q4_0),
        GgmlDType::Q4_1 => Some(QuantType::Q4_1),
        GgmlDType::Q5_0 => Some(QuantType::Q5_0),
        GgmlDType::Q5_1 => Some(QuantType::Q5_1),
        GgmlDType::Q8_0 => Some(QuantType::Q8_0),
        GgmlDType::Q4K => Some(QuantType::Q4K),
        GgmlDType::Q5K => Some(QuantType::Q5K),
        GgmlDType::Q6K => Some(QuantType::Q6K),
        _ => None,
    }
}

fn quantized(matrix: &Matrix) -> Option<(&QTensor, QuantType)> {
    match matrix {
        Matrix::Dense(_) => None,
        Matrix::Quantized(weight) => quant_type(weight.dtype()).map(|kind| (&**weight, kind)),
    }
}

impl Quantized {
    /// The layer, if a part of it stays quantised.
    pub(super) fn new(kernels: &Native, parts: &[Part]) -> Result<Option<Self>> {
        let stays = |part: &Part| quantized(&part.matrix).is_some();
        if !parts.iter().any(stays) {
            return Ok(None);
        }
        let pieces = parts.chunk_by(|a, b| stays(a) == stays(b)).map(|run| Piece::new(kernels, run));
        let pieces: Vec<Piece> = pieces.collect::<Result<_>>()?;
        let out = pieces.iter().map(Piece::out).sum();
        Ok(Some(Quantized {
            pieces,
            inner: parts[0].matrix.dims().1,
            out,
            transposed: OnceLock::new(),
            isa: kernels.isa,
        }))
    }

    fn product(&self, x: &[f32], rows: usize, y: &mut [f32]) {
        let mut first = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Quantized(layer) => layer.forward_at(self.isa, x, rows, y, self.out, first),
                Piece::Dense(layer) => {
                    let mut own = vec![0.0; rows * layer.out()];
                    layer.forward(self.isa, x, rows, &mut own);
                    for (y, own) in y.chunks_exact_mut(self.out).zip(own.chunks_exact(layer.out())) {
                        y[first..first + layer.out()].copy_from_slice(own);
                    }
                }
            }
            first += piece.out();
        }
    }

    fn transposed(&self) -> &PackedLinear {
        let row = |output: usize, row: &mut [f32]| self.output(output, row);
        self.transposed.get_or_init(|| PackedLinear::pack_transposed_rows(self.out, self.inner, Format::F32, row))
    }

    /// The layer as a head.
    fn head(&self) -> Result<&QuantizedLinear> {
        match &self.pieces[..] {
            [Piece::Quantized(layer)] => Ok(layer),
            _ => candle_core::bail!("a head is one matrix"),
        }
    }

    /// Writes the weights of an output.
    fn output(&self, mut output: usize, row: &mut [f32]) {
        for piece in &self.pieces {
            if output < piece.out() {
                return piece.row(output, row);
            }
            output -= piece.out();
        }
    }
}

impl FrozenLinear for Quantized {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, _) = x.dims2()?;
        // SAFETY: the pieces' products assign all outputs.
        let y = unsafe { super::made_of(x, rows * self.out, |x, y| self.product(x, rows, y)) }?;
        tensor(y, (rows, self.out))
    }

    fn gated(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let [Piece::Quantized(layer)] = &self.pieces[..] else { return Ok(None) };
        if !layer.has_halves() {
            return Ok(None);
        }
        let (rows, _) = x.dims2()?;
        // SAFETY: all gated values are assigned.
        let y = unsafe { super::made_of(x, rows * (self.out / 2), |x, y| layer.forward_gated(self.isa, x, rows, y)) }?;
        tensor(y, (rows, self.out / 2)).map(Some)
    }

    fn rows(&self, outputs: &[u32]) -> Result<Tensor> {
        super::weights(outputs, self.out, self.inner, |output, row| self.output(output, row))
    }

    fn label_nll(&self, hidden: &Tensor, labels: &[u32]) -> Result<Vec<f32>> {
        let head = self.head()?;
        let mut nll = vec![0.0; labels.len()];
        with(hidden, |hidden| {
            cpu::label_nll(self.isa, hidden, head, labels, &mut nll);
            Ok(())
        })?;
        Ok(nll)
    }

    /// The rounding of inputs to bytes is passed through as if it were none.
    fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        let (rows, _) = dy.dims2()?;
        let mut dx = vec![0.0; rows * self.inner];
        with(dy, |dy| {
            self.transposed().forward(self.isa, dy, rows, &mut dx);
            Ok(())
        })?;
        tensor(dx, (rows, self.inner))
    }

    fn label_nll_backward(&self, hidden: &Tensor, labels: &[u32], weight: f32) -> Result<(Vec<f32>, Tensor)> {
        let (head, transposed) = (self.head()?, self.transposed());
        let (mut nll, mut d) = (vec![0.0; labels.len()], vec![0.0; hidden.elem_count()]);
        with(hidden, |hidden| {
            cpu::label_nll_backward(self.isa, hidden, head, transposed, labels, weight, &mut nll, &mut d);
            Ok(())
        })?;
        Ok((nll, tensor(d, hidden.dims())?))
    }
}
