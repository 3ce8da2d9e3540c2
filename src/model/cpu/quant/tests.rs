//! Every type of quantised matrix against the tensor library's numbers, in float64.

use super::super::testing::*;
use super::*;
use crate::model::cpu::{Path, Rows, label_nll, swiglu};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use rand::Rng;

fn dtype(kind: QuantType) -> GgmlDType {
    match kind {
        QuantType::Q4_0 => GgmlDType::Q4_0,
        QuantType::Q4_1 => GgmlDType::Q4_1,
        QuantType::Q5_0 => GgmlDType::Q5_0,
        QuantType::Q5_1 => GgmlDType::Q5_1,
        QuantType::Q8_0 => GgmlDType::Q8_0,
        QuantType::Q4K => GgmlDType::Q4K,
        QuantType::Q5K => GgmlDType::Q5K,
        QuantType::Q6K => GgmlDType::Q6K,
    }
}

/// A quantised matrix: the file's blocks, and its weights as the tensor library reads them.
struct Case {
    kind: QuantType,
    out: usize,
    blocks: Vec<u8>,
    weights: Vec<f32>,
}

impl Case {
    fn new(rng: &mut impl Rng, kind: QuantType, out: usize, inner: usize) -> Case {
        // Rows of different magnitudes, some of them lopsided, so that scales and minima differ.
        let mut values = uniform(rng, out * inner);
        for (j, row) in values.chunks_exact_mut(inner).enumerate() {
            row.iter_mut().for_each(|v| *v = (*v + 0.3 * (j % 3) as f32) * (1.0 + j as f32));
        }
        let tensor = Tensor::from_vec(values, (out, inner), &Device::Cpu).unwrap();
        let quantized = QTensor::quantize(&tensor, dtype(kind)).unwrap();
        let weights = quantized.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        Case { kind, out, blocks: quantized.data().unwrap().into_owned(), weights }
    }

    fn matrix(&self) -> QuantMatrix<'_> {
        QuantMatrix { kind: self.kind, out: self.out, blocks: &self.blocks }
    }

    fn layer(&self, inner: usize) -> QuantizedLinear {
        QuantizedLinear::pack(&[self.matrix()], inner)
    }
}

fn forward(layer: &QuantizedLinear, isa: Isa, x: &[f32], m: usize) -> Vec<f32> {
    let mut y = vec![f32::INFINITY; m * layer.out()];
    layer.forward(isa, x, m, &mut y);
    y
}

/// Inputs as activations are: a few much greater than the others.
fn inputs(rng: &mut impl Rng, n: usize) -> Vec<f32> {
    let mut x = uniform(rng, n);
    x.iter_mut().step_by(37).for_each(|x| *x *= 20.0);
    x
}

/// Asserts that outputs are as near to products in float64 as the rounding of inputs to 127ths of each block's greatest
/// magnitude (half a step for each input) and float32 sums over blocks allow.
fn assert_near(got: &[f32], weights: &[f32], x: &[f32], out: usize, inner: usize) {
    let greatest = |v: &[f32]| v.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    for (at, got) in got.iter().enumerate() {
        let (w, x) = (&weights[at % out * inner..][..inner], &x[at / out * inner..][..inner]);
        let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        let mut bound = 0.0;
        for (w, x) in w.chunks(32).zip(x.chunks(32)) {
            let magnitudes: f64 = w.iter().map(|w| f64::from(w.abs())).sum();
            // Numbers with an offset or a minimum are up to twice as great as the weights.
            let summed = 32.0 * 2.0 * greatest(w) * greatest(x);
            bound += magnitudes * greatest(x) / 254.0 + summed * (inner / 32 + 2) as f64 * 2f64.powi(-23);
        }
        assert!((f64::from(*got) - exact).abs() <= bound, "[{at}]: {got}, expected {exact} within {bound:e}");
    }
}

#[test]
fn rows_are_the_weights_that_the_tensor_library_reads() {
    let mut rng = rng(61);
    for kind in QuantType::ALL {
        for out in [1, 16, 37] {
            let inner = 256 * 3;
            let case = Case::new(&mut rng, kind, out, inner);
            let layer = case.layer(inner);
            for j in 0..out {
                let mut row = vec![f32::NAN; inner];
                layer.row(j, &mut row);
                assert_eq!(row, case.weights[j * inner..][..inner], "{kind:?} row {j} of {out}");
            }
        }
    }
}

#[test]
fn four_bits_stay_four_bits() {
    let mut rng = rng(62);
    for (kind, bits) in QuantType::ALL.into_iter().zip([4.5, 5.0, 8.5, 9.0, 8.5, 4.625, 8.625, 8.5625]) {
        let layer = Case::new(&mut rng, kind, 32, 512).layer(512);
        assert_eq!(layer.bytes() as f64 * 8.0 / (32.0 * 512.0), bits, "{kind:?}");
    }
}

#[test]
fn agrees_with_f64_in_odd_shapes_on_all_paths() {
    let mut rng = rng(63);
    for kind in QuantType::ALL {
        for round in 0..8 {
            let (m, out) = (rng.random_range(1..14), rng.random_range(1..70));
            let inner = kind.block_inputs() * rng.random_range(1..=(1280 >> round) / kind.block_inputs().min(64) + 1);
            let case = Case::new(&mut rng, kind, out, inner);
            let x = inputs(&mut rng, m * inner);
            let layer = case.layer(inner);
            let y = same_on_all_paths(|isa| forward(&layer, isa, &x, m));
            assert_near(&y, &case.weights, &x, out, inner);
        }
    }
}

/// The greatest numbers that each type can hold, which no quantiser need have written: sums may not overflow.
#[test]
fn extreme_numbers_on_all_paths() {
    for kind in QuantType::ALL {
        let inner = kind.block_inputs();
        for byte in [0x00, 0x7f, 0x80, 0xff] {
            let mut block = vec![byte; kind.block_bytes()];
            let one = half::f16::ONE.to_le_bytes();
            match kind {
                QuantType::Q6K => block[208..].copy_from_slice(&one),
                QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4K | QuantType::Q5K => {
                    block[..2].copy_from_slice(&one);
                    block[2..4].copy_from_slice(&one);
                }
                _ => block[..2].copy_from_slice(&one),
            }
            let layer = QuantizedLinear::pack(&[QuantMatrix { kind, out: 1, blocks: &block }], inner);
            let mut weights = vec![0.0; inner];
            layer.row(0, &mut weights);
            for sign in [1.0, -1.0] {
                let exact: f64 = weights.iter().map(|w| f64::from(*w * sign)).sum();
                for m in [1, 11] {
                    let x = vec![sign; m * inner];
                    for y in same_on_all_paths(|isa| forward(&layer, isa, &x, m)) {
                        let error = (f64::from(y) - exact).abs();
                        assert!(error <= 1e-6 * exact.abs(), "{kind:?} {byte:x}: {y}, {exact}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_alone_in_groups_and_on_any_threads() {
    let mut rng = rng(64);
    let (m, out, inner) = (107, 333, 512);
    let x = inputs(&mut rng, m * inner);
    for kind in QuantType::ALL {
        let layer = Case::new(&mut rng, kind, out, inner).layer(inner);
        for isa in Isa::available().into_iter().filter(|isa| isa.path() != Path::Portable) {
            let whole = bits(&with_threads(1, || forward(&layer, isa, &x, m)));
            for threads in [2, 3, 7] {
                assert_eq!(bits(&with_threads(threads, || forward(&layer, isa, &x, m))), whole);
            }
            let mut from = 0;
            while from < m {
                let n = rng.random_range(1..20).min(m - from);
                let part = forward(&layer, isa, &x[from * inner..(from + n) * inner], n);
                assert_eq!(bits(&part), whole[from * out..(from + n) * out], "{kind:?} {isa:?} {from} {n}");
                from += n;
            }
        }
    }
}

#[test]
fn matrices_of_several_types_side_by_side() {
    let mut rng = rng(65);
    let (m, inner) = (5, 256);
    let x = inputs(&mut rng, m * inner);
    let cases: Vec<Case> = QuantType::ALL
        .into_iter()
        .zip([7, 16, 40, 1, 33, 100, 64, 5])
        .map(|(k, out)| Case::new(&mut rng, k, out, inner))
        .collect();
    let matrices: Vec<QuantMatrix<'_>> = cases.iter().map(Case::matrix).collect();
    let bias = uniform(&mut rng, 266);
    let joined = QuantizedLinear::pack(&matrices, inner).with_bias(bias.clone());
    let (stride, first) = (300, 20);
    for threads in [1, 2] {
        let mut y = vec![-1.0; m * stride];
        with_threads(threads, || joined.forward_at(Isa::best(), &x, m, &mut y, stride, first));
        let mut column = 0;
        for case in &cases {
            let own = forward(&case.layer(inner), Isa::best(), &x, m);
            for (i, own) in own.iter().enumerate() {
                let at = column + i % case.out;
                assert_eq!(y[i / case.out * stride + first + at], own + bias[at]);
            }
            let (mut row, mut own) = (vec![0.0; inner], vec![0.0; inner]);
            joined.row(column + case.out - 1, &mut row);
            case.layer(inner).row(case.out - 1, &mut own);
            assert_eq!(row, own);
            column += case.out;
        }
        assert!(y.chunks(stride).all(|y| y[..first].iter().chain(&y[first + column..]).all(|y| *y == -1.0)));
    }
}

#[test]
fn gates_are_the_same_without_the_product_in_memory() {
    let mut rng = rng(69);
    for (kind, out, m) in [(QuantType::Q4_1, 37, 1), (QuantType::Q4_1, 320, 23), (QuantType::Q8_0, 16, 7)] {
        let (inner, gates) = (64, Case::new(&mut rng, kind, out, 64));
        let up = Case::new(&mut rng, QuantType::Q5_0, out, inner);
        let layer = QuantizedLinear::pack(&[gates.matrix(), up.matrix()], inner);
        let bias = uniform(&mut rng, 2 * out);
        assert!(layer.has_halves() && !gates.layer(inner).has_halves());
        let layer = layer.with_bias(bias);
        let x = inputs(&mut rng, m * inner);
        let both = forward(&layer, Isa::best(), &x, m);
        let half = |from: usize| Rows { values: &both[from..], stride: 2 * out };
        let mut expected = vec![f32::NAN; m * out];
        swiglu(Isa::best(), half(0), half(out), out, &mut expected);
        let got = same_on_all_paths(|isa| {
            let mut y = vec![f32::NAN; m * out];
            layer.forward_gated(isa, &x, m, &mut y);
            y
        });
        assert_eq!(bits(&got), bits(&expected), "{kind:?} {out} {m}");
    }
}

#[test]
fn labels_of_a_quantised_head() {
    let mut rng = rng(66);
    let (vocabulary, inner, m) = (3001, 64, 30);
    for kind in [QuantType::Q8_0, QuantType::Q4_1] {
        let head = Case::new(&mut rng, kind, vocabulary, inner).layer(inner);
        let hidden: Vec<f32> = uniform(&mut rng, m * inner).iter().map(|x| x * 1e-3).collect();
        let labels: Vec<u32> = (0..m).map(|_| rng.random_range(0..vocabulary as u32)).collect();
        let nll = |isa, hidden: &[f32], labels: &[u32]| {
            let mut nll = vec![0.0; labels.len()];
            label_nll(isa, hidden, &head, labels, &mut nll);
            nll
        };
        let got = same_on_all_paths(|isa| nll(isa, &hidden, &labels));
        let logits = forward(&head, Isa::best(), &hidden, m);
        for (i, row) in logits.chunks(vocabulary).enumerate() {
            let exact = row.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln() - f64::from(row[labels[i] as usize]);
            assert!((f64::from(got[i]) - exact).abs() < 2e-5, "{} {exact}", got[i]);
            let alone = nll(Isa::best(), &hidden[i * inner..][..inner], &labels[i..=i]);
            assert_eq!(alone[0].to_bits(), got[i].to_bits());
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row_and_what_is_tiny_is_zero() {
    let mut rng = rng(67);
    let (out, inner) = (20, 512);
    for kind in QuantType::ALL {
        let layer = Case::new(&mut rng, kind, out, inner).layer(inner);
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![1.0; 3 * inner];
                x[inner + 300] = bad;
                let y = forward(&layer, isa, &x, 3);
                assert!(y[..out].iter().chain(&y[2 * out..]).all(|y| y.is_finite()));
                assert!(y[out..2 * out].iter().all(|y| y.is_nan()));
            }
            assert_eq!(forward(&layer, isa, &vec![-0.0; inner], 1), vec![0.0; out]);
            assert_eq!(forward(&layer, isa, &vec![1e-40; inner], 1), vec![0.0; out]);
        }
    }
}

#[test]
fn nothing_in_nothing_out() {
    let empty = QuantizedLinear::pack(&[QuantMatrix { kind: QuantType::Q4K, out: 0, blocks: &[] }], 256);
    empty.forward(Isa::best(), &[0.0; 768], 3, &mut []);
    QuantizedLinear::pack(&[], 64).forward(Isa::best(), &[0.0; 64], 1, &mut []);
    let layer = Case::new(&mut rng(68), QuantType::Q8_0, 3, 32).layer(32);
    layer.forward(Isa::best(), &[], 0, &mut []);
    let no_inputs = QuantizedLinear::pack(&[QuantMatrix { kind: QuantType::Q8_0, out: 2, blocks: &[] }], 0);
    assert_eq!(forward(&no_inputs.with_bias(vec![1.0, 2.0]), Isa::best(), &[], 2), [1.0, 2.0, 1.0, 2.0]);
}

proptest! {
    /// A block's bytes give its values back to half a step.
    #[test]
    fn inputs_are_rounded_to_the_nearest_byte(x in prop::collection::vec(-1e3f32..1e3, 32), scale in -20..20i32) {
        let x: Vec<f32> = x.into_iter().map(|x| x * 2f32.powi(scale)).collect();
        let rows = ByteRows::new(Isa::best(), &x, 32);
        let [step, sum] = rows.scales[0];
        for (x, byte) in x.iter().zip(&rows.values) {
            prop_assert!((x - step * f32::from(*byte)).abs() <= 0.5001 * step);
            prop_assert!(*byte != i8::MIN);
        }
        prop_assert_eq!(sum, step * rows.values.iter().map(|b| i32::from(*b)).sum::<i32>() as f32);
    }
}
