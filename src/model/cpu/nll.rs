//! Negative log-likelihoods of labels, without the matrix of all logits.

use super::Isa;
use super::linear::Target;
use super::product::{Product, ProductBlock};
use super::rows::padded;
use super::simd::{Kernel, Simd, dispatch};

/// Columns over which a maximum and a sum are taken before they are merged: fixed, so that the order of sums is.
pub(crate) const CHUNK: usize = 256;

/// Part of a softmax: the greatest logit of a chunk and the sum of `exp(logit - greatest)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    greatest: f32,
    sum: f32,
}

impl Part {
    /// The greatest logit and the sum of `exp(logit - greatest)` over all chunks, in their order.
    pub(crate) fn merged(parts: &[Part]) -> (f32, f64) {
        let greatest = parts.iter().map(|part| part.greatest).fold(f32::NEG_INFINITY, f32::max);
        let sum = parts.iter().map(|part| f64::from(part.sum) * f64::from(part.greatest - greatest).exp()).sum();
        (greatest, sum)
    }

    /// Of a softmax's label.
    pub(crate) fn nll((greatest, sum): (f32, f64), label: f32) -> f32 {
        (f64::from(greatest) - f64::from(label) + sum.ln()) as f32
    }
}

/// `-ln softmax(hidden · outputᵀ)[label]` per row, in nats; hidden is `[labels.len(), output.inner()]`.
///
/// The logits are computed a block at a time and forgotten, so memory is 8 bytes per label and 256 entries of the
/// vocabulary. Sums are f32 inside a chunk of 256 entries and f64 over chunks, in a fixed order. A logit that is NaN or
/// +infinite makes its row's result NaN.
///
/// # Panics
/// If the lengths disagree or a label is not below `output.out()`.
pub fn label_nll(isa: Isa, hidden: &[f32], output: &impl Product, labels: &[u32], nll: &mut [f32]) {
    assert_eq!(nll.len(), labels.len(), "one result per label");
    let vocabulary = output.out();
    assert!(labels.iter().all(|label| (*label as usize) < vocabulary), "labels below {vocabulary}");
    let chunks = vocabulary.div_ceil(CHUNK);
    let mut parts = vec![Part { greatest: f32::NEG_INFINITY, sum: 0.0 }; labels.len() * chunks];
    let mut of_label = vec![f32::NAN; labels.len()];
    let (parts_target, label_target) = (Target(parts.as_mut_ptr()), Target(of_label.as_mut_ptr()));
    output.for_each_block(isa, hidden, labels.len(), CHUNK / 16, |block: ProductBlock<'_>| {
        let (start, end) = (block.columns.start, block.columns.end);
        assert!(start.is_multiple_of(CHUNK) && (end.is_multiple_of(CHUNK) || end == vocabulary), "whole chunks");
        for row in block.rows.clone() {
            let logits = block.row(row);
            let first = block.columns.start / CHUNK;
            let count = logits.len().div_ceil(CHUNK);
            // SAFETY: blocks are disjoint and cut at chunks' bounds, so no other block writes these parts.
            let parts = unsafe { parts_target.slice(row * chunks + first, count) };
            for (part, logits) in parts.iter_mut().zip(logits.chunks(CHUNK)) {
                *part = dispatch(isa, PartOf(logits));
            }
            let label = labels[row] as usize;
            if block.columns.contains(&label) {
                // SAFETY: only one block has this row and this column.
                unsafe { label_target.slice(row, 1)[0] = logits[label - block.columns.start] };
            }
        }
    });
    for (row, nll) in nll.iter_mut().enumerate() {
        *nll = Part::nll(Part::merged(&parts[row * chunks..][..chunks]), of_label[row]);
    }
}

/// `ln(sum(exp(logits)))`, the sum in the order of [`label_nll`]. Not finite if a logit is NaN or +infinite.
pub fn log_sum_exp(isa: Isa, logits: &[f32]) -> f64 {
    let parts: Vec<Part> = logits.chunks(CHUNK).map(|chunk| dispatch(isa, PartOf(chunk))).collect();
    let (greatest, sum) = Part::merged(&parts);
    f64::from(greatest) + sum.ln()
}

pub(crate) struct PartOf<'a>(pub &'a [f32]);

impl Kernel for PartOf<'_> {
    type Output = Part;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Part {
        let (chunks, rest) = self.0.as_chunks::<16>();
        let mut last = [f32::NEG_INFINITY; 16];
        last[..rest.len()].copy_from_slice(rest);
        let mut greatest = s.load(&last);
        for chunk in chunks {
            greatest = s.max(greatest, s.load(chunk));
        }
        let greatest = s.greatest(greatest);
        let shift = s.splat(greatest);
        let mut sum = s.splat(0.0);
        for chunk in chunks {
            sum = s.add(sum, s.exp(s.sub(s.load(chunk), shift)));
        }
        let mut tail = [0.0; 16];
        s.store(&mut tail, s.exp(s.sub(s.load(&last), shift)));
        let sum = s.add(sum, s.load(&padded(&tail[..rest.len()])));
        Part { greatest, sum: s.sum(sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::model::cpu::{Format, PackedLinear};
    use rand::Rng;

    fn nll(isa: Isa, hidden: &[f32], output: &PackedLinear, labels: &[u32]) -> Vec<f32> {
        let mut nll = vec![0.0; labels.len()];
        label_nll(isa, hidden, output, labels, &mut nll);
        nll
    }

    #[test]
    fn agrees_with_f64_and_is_the_same_in_any_group() {
        let mut rng = rng(21);
        for (vocabulary, inner, m) in [(1, 3, 2), (15, 8, 7), (256, 20, 3), (257, 20, 30), (3001, 33, 120)] {
            let w = uniform(&mut rng, vocabulary * inner);
            let hidden: Vec<f32> = uniform(&mut rng, m * inner).iter().map(|x| x * 4.0).collect();
            let bias = uniform(&mut rng, vocabulary);
            let labels: Vec<u32> = (0..m).map(|_| rng.random_range(0..vocabulary as u32)).collect();
            let output = PackedLinear::pack_f32(&w, vocabulary, inner, Format::F32).with_bias(bias.clone());
            let got = same_on_all_paths(|isa| nll(isa, &hidden, &output, &labels));
            let expected: Vec<f64> = (0..m)
                .map(|i| {
                    let logit = |j: usize| {
                        let pairs = hidden[i * inner..][..inner].iter().zip(&w[j * inner..][..inner]);
                        f64::from(bias[j]) + pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>()
                    };
                    (0..vocabulary).map(|j| logit(j).exp()).sum::<f64>().ln() - logit(labels[i] as usize)
                })
                .collect();
            assert_close("nll", &got, &expected, 2e-5);
            for threads in [1, 3] {
                let again = with_threads(threads, || nll(Isa::best(), &hidden, &output, &labels));
                assert_eq!(bits(&again), bits(&got));
            }
            for row in 0..m {
                let alone = nll(Isa::best(), &hidden[row * inner..][..inner], &output, &labels[row..=row]);
                assert_eq!(alone[0].to_bits(), got[row].to_bits());
            }
        }
    }

    #[test]
    fn a_row_by_itself_has_the_sum_that_labels_are_measured_by() {
        let logits = uniform(&mut rng(22), 1000);
        let output = PackedLinear::pack_f32(&logits, 1000, 1, Format::F32);
        let sum = same_on_all_paths(|isa| vec![log_sum_exp(isa, &logits) as f32])[0];
        let likelihood = nll(Isa::best(), &[1.0], &output, &[7])[0];
        assert!((f64::from(sum) - f64::from(logits[7]) - f64::from(likelihood)).abs() < 1e-6);
        let exact = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        assert!((f64::from(sum) - exact).abs() < 1e-5);
        assert!(!log_sum_exp(Isa::best(), &[0.0, f32::NAN]).is_finite());
        assert!(!log_sum_exp(Isa::best(), &[0.0, f32::INFINITY]).is_finite());
    }

    #[test]
    fn large_logits_and_what_is_not_finite() {
        let output = PackedLinear::pack_f32(&[1.0, -1.0, 0.5], 3, 1, Format::F32);
        let got = nll(Isa::best(), &[1e30, f32::NAN, f32::INFINITY, 0.0], &output, &[0, 0, 1, 2]);
        assert_eq!(got[0], 0.0);
        assert!(got[1].is_nan() && got[2].is_nan());
        assert!((got[3] - 3f32.ln()).abs() < 1e-6);
        assert!(nll(Isa::best(), &[], &output, &[]).is_empty());
    }
}
