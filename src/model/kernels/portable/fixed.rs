//! Matrix products in few fixed shapes, for devices whose library chooses its algorithm by the shape.
//!
//! A GPU's product of `n` rows may sum in another order for another `n`, and then a row's bits depend on what else is in
//! its pass. Here every product has one of a few numbers of rows, filled up with rows that are not read. That the results of such a product
//! depend neither on a row's place nor on which of these numbers it is, no library promises; so it is tried when a model
//! is loaded, for each of its shapes, on the device itself. Where the trial fails, sequences are computed one by one.

use super::gpu::lock;
use candle_core::{DType, Device, Result, Tensor};
use std::sync::{Arc, Mutex};

/// Rows of a product that is filled up.
pub(super) const ROWS: usize = 256;
/// Further numbers of rows, largest first, taken where they give the same bits.
const LARGER: [usize; 2] = [4096, 1024];
/// The most bytes of float32 outputs that a larger product may have.
const OUTPUT_BYTES: usize = 256 << 20;
/// By how many rows the trial moves its input: into another place of a tile, into another tile.
const MOVES: [usize; 4] = [1, 16, 37, 128];

/// The numbers of rows in which a layer's products are taken.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    /// Largest first, [`ROWS`] last: all give the same bits.
    sizes: Vec<usize>,
    /// Whether a row's bits were seen not to depend on its place.
    pub invariant: bool,
    /// `[ROWS, inputs]`, where fewer rows are put for a product; what stands behind them does not matter. Made on first
    /// use, and used by one product at a time.
    filled: Arc<Mutex<Option<Tensor>>>,
}

impl Blocks {
    /// Filled up to [`ROWS`], without a trial.
    pub fn untried() -> Self {
        Self::new(vec![ROWS], false)
    }

    fn new(sizes: Vec<usize>, invariant: bool) -> Self {
        Self { sizes, invariant, filled: Arc::default() }
    }

    /// The most rows of a product.
    pub fn largest(&self) -> usize {
        self.sizes[0]
    }

    /// Tries a product `[rows, input]` to `[rows, output]` on its device.
    pub fn of(
        (input, output): (usize, usize),
        dtype: DType,
        device: &Device,
        product: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let x = noise(ROWS * input, device)?.reshape((ROWS, input))?.to_dtype(dtype)?;
        let y = product(&x)?;
        let mut invariant = true;
        for by in MOVES {
            invariant = invariant && same(&product(&moved(&x, by)?)?, &moved(&y, by)?)?;
        }
        let mut sizes = Vec::new();
        for size in LARGER {
            if invariant && 4 * size * output.max(input) <= OUTPUT_BYTES {
                let repeats = size / ROWS;
                let many = product(&x.repeat((repeats, 1))?)?;
                if same(&many, &y.repeat((repeats, 1))?)? {
                    sizes.push(size);
                }
            }
        }
        sizes.push(ROWS);
        Ok(Self::new(sizes, invariant))
    }

    /// The product of any number of rows, in blocks.
    pub fn product(&self, x: &Tensor, product: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let mut parts = Vec::new();
        let mut done = 0;
        while done < rows {
            let left = rows - done;
            let size = self.sizes.iter().copied().find(|size| *size <= left).unwrap_or(ROWS);
            let taken = size.min(left);
            let part = x.narrow(0, done, taken)?;
            parts.push(match taken == size {
                true => product(&part)?,
                false => self.filled_up(&part, &product)?,
            });
            done += taken;
        }
        match parts.as_slice() {
            [one] => Ok(one.clone()),
            [] => product(x),
            several => Tensor::cat(several, 0),
        }
    }

    /// The product of less than [`ROWS`] rows.
    fn filled_up(&self, x: &Tensor, product: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (rows, inputs) = x.dims2()?;
        let mut filled = lock(&self.filled);
        let filled = match &mut *filled {
            Some(filled) => filled,
            none => none.insert(Tensor::zeros((ROWS, inputs), x.dtype(), x.device())?),
        };
        filled.slice_set(&x.contiguous()?, 0, 0)?;
        product(filled)?.narrow(0, 0, rows)
    }
}

/// Numbers between -1 and 1 that are the same everywhere, of many magnitudes: sums in another order show.
pub(super) fn noise(count: usize, device: &Device) -> Result<Tensor> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        // Xorshift: G. Marsaglia, "Xorshift RNGs", 2003.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let unit = f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0;
        (unit * unit * unit) as f32
    };
    Tensor::from_vec((0..count).map(|_| next()).collect::<Vec<f32>>(), count, device)
}

/// The rows of `x`, the first `by` behind the others.
fn moved(x: &Tensor, by: usize) -> Result<Tensor> {
    let rows = x.dim(0)?;
    Tensor::cat(&[x.narrow(0, by, rows - by)?, x.narrow(0, 0, by)?], 0)
}

/// Whether all numbers are the same; a number that is none is not.
pub(super) fn same(a: &Tensor, b: &Tensor) -> Result<bool> {
    let different = a.ne(b)?.to_dtype(DType::F32)?.sum_all()?;
    Ok(different.to_scalar::<f32>()? == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: (usize, usize) = (24, 40);

    fn weight() -> Tensor {
        noise(SHAPE.0 * SHAPE.1, &Device::Cpu).unwrap().reshape(SHAPE).unwrap()
    }

    fn of(product: impl Fn(&Tensor) -> Result<Tensor>) -> Blocks {
        Blocks::of(SHAPE, DType::F32, &Device::Cpu, product).unwrap()
    }

    #[test]
    fn a_product_in_blocks_is_the_product_for_every_number_of_rows() {
        let weight = weight();
        let blocks = Blocks::new(vec![1024, ROWS], true);
        for rows in [0, 1, 255, 256, 257, 1023, 1024, 1500, 2600] {
            let x = noise(rows * SHAPE.0, &Device::Cpu).unwrap().reshape((rows, SHAPE.0)).unwrap();
            let taken = std::cell::RefCell::new(Vec::new());
            let y = blocks.product(&x, |x| {
                taken.borrow_mut().push(x.dim(0)?);
                x.matmul(&weight)
            });
            let (y, expected) = (y.unwrap(), x.matmul(&weight).unwrap());
            assert_eq!(y.dims(), [rows, SHAPE.1]);
            let off = (y - expected).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(off.iter().all(|d| *d < 1e-5));
            assert!(rows == 0 || taken.borrow().iter().all(|n| [1024, ROWS].contains(n)), "{rows}: {taken:?}");
        }
    }

    #[test]
    fn a_product_that_depends_on_the_place_is_found_out() {
        let weight = weight();
        let place = |x: &Tensor| {
            let rows = x.dim(0)?;
            let ramp = Tensor::arange(0f32, rows as f32, &Device::Cpu)?.reshape((rows, 1))?;
            x.matmul(&weight)?.broadcast_add(&(ramp * 1e-6)?)
        };
        let blocks = of(place);
        assert!(blocks.sizes == [ROWS] && !blocks.invariant, "{blocks:?}");
    }

    #[test]
    fn a_number_of_rows_that_changes_the_bits_is_not_taken() {
        let weight = weight();
        // A constant that only products of 1024 rows get.
        let shifted = |x: &Tensor| x.matmul(&weight)? + if x.dim(0)? == 1024 { 1e-3 } else { 0.0 };
        let blocks = of(shifted);
        assert!(!blocks.sizes.contains(&1024) && blocks.sizes.ends_with(&[ROWS]), "{blocks:?}");
    }

    #[test]
    fn what_is_no_number_is_not_the_same() {
        let x = Tensor::new(&[1.0f32, f32::NAN], &Device::Cpu).unwrap();
        assert!(!same(&x, &x).unwrap());
        assert!(same(&x.narrow(0, 0, 1).unwrap(), &x.narrow(0, 0, 1).unwrap()).unwrap());
    }
}
