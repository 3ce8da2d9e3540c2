//! Negative log-likelihoods of labels and their gradient, without the matrix of all logits.

use super::linear::Target;
use super::nll::{CHUNK, Part, PartOf};
use super::product::Product;
use super::rows::padded;
use super::simd::{Kernel, Simd, dispatch};
use super::{Isa, PackedLinear};
use rayon::prelude::*;

/// Bytes of the logits that are held at once.
const LOGIT_BYTES: usize = 32 << 20;

/// `nll[i] = -ln softmax(hidden[i] · outputᵀ)[labels[i]]`, bit for bit as [`label_nll`](super::label_nll), and
/// `d_hidden[i] = weight * d nll[i] / d hidden[i]`; hidden and `d_hidden` are `[labels.len(), output.inner()]`.
///
/// `transposed` is [`PackedLinear::transposed`] of `output`. Logits live for some rows at a time, in a buffer of a fixed
/// size in which they become their own gradients. A row's results do not depend on the other rows.
///
/// # Panics
/// If the lengths disagree or a label is not below `output.out()`.
#[allow(clippy::too_many_arguments)]
pub fn label_nll_backward(
    isa: Isa,
    hidden: &[f32],
    output: &impl Product,
    transposed: &PackedLinear,
    labels: &[u32],
    weight: f32,
    nll: &mut [f32],
    d_hidden: &mut [f32],
) {
    let (vocabulary, width) = (output.out(), output.inner());
    assert_eq!(nll.len(), labels.len(), "one result per label");
    assert_eq!((transposed.out(), transposed.inner()), (width, vocabulary), "the output layer's transpose");
    assert!(hidden.len() == labels.len() * width && hidden.len() == d_hidden.len(), "rows of {width}");
    assert!(labels.iter().all(|label| (*label as usize) < vocabulary), "labels below {vocabulary}");
    let rows = (LOGIT_BYTES / (4 * vocabulary.max(1))).clamp(1, labels.len().max(1));
    let mut logits = vec![0.0; rows * vocabulary];
    for (chunk, labels) in labels.chunks(rows).enumerate() {
        let part = chunk * rows * width..(chunk * rows + labels.len()) * width;
        let logits = &mut logits[..labels.len() * vocabulary];
        output.forward(isa, &hidden[part.clone()], labels.len(), logits);
        let nll = Target(nll[chunk * rows..].as_mut_ptr());
        logits.par_chunks_exact_mut(vocabulary.max(1)).zip(labels).enumerate().for_each(|(row, (logits, label))| {
            // SAFETY: one result per label, each written by one call.
            let nll = unsafe { &mut nll.slice(row, 1)[0] };
            *nll = to_gradient(isa, logits, *label as usize, weight);
        });
        transposed.forward(isa, logits, labels.len(), &mut d_hidden[part]);
    }
}

/// Turns a row of logits into `weight * (softmax - [label])` and gives the label's negative log-likelihood.
fn to_gradient(isa: Isa, logits: &mut [f32], label: usize, weight: f32) -> f32 {
    let parts: Vec<Part> = logits.chunks(CHUNK).map(|chunk| dispatch(isa, PartOf(chunk))).collect();
    let (greatest, sum) = Part::merged(&parts);
    let nll = Part::nll((greatest, sum), logits[label]);
    dispatch(isa, Softmax { logits, greatest, factor: (f64::from(weight) / sum) as f32 });
    logits[label] -= weight;
    nll
}

/// `logits = factor * exp(logits - greatest)`
struct Softmax<'a> {
    logits: &'a mut [f32],
    greatest: f32,
    factor: f32,
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shift, factor) = (s.splat(self.greatest), s.splat(self.factor));
        let (chunks, rest) = self.logits.as_chunks_mut::<16>();
        for chunk in chunks {
            let p = s.mul(factor, s.exp(s.sub(s.load(chunk), shift)));
            s.store(chunk, p);
        }
        let mut last = padded(rest);
        let p = s.mul(factor, s.exp(s.sub(s.load(&last), shift)));
        s.store(&mut last, p);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{Format, label_nll};
    use super::*;
    use rand::Rng;

    #[test]
    fn agrees_with_f64_and_with_the_score() {
        let mut rng = rng(51);
        for (vocabulary, inner, m) in [(1, 3, 2), (15, 8, 7), (257, 20, 30), (3001, 33, 40)] {
            let w = uniform(&mut rng, vocabulary * inner);
            let hidden: Vec<f32> = uniform(&mut rng, m * inner).iter().map(|x| x * 4.0).collect();
            let labels: Vec<u32> = (0..m).map(|_| rng.random_range(0..vocabulary as u32)).collect();
            let output = PackedLinear::pack_f32(&w, vocabulary, inner, Format::F32);
            let transposed = output.transposed();
            let run = |isa, hidden: &[f32], labels: &[u32]| {
                let (mut nll, mut d) = (vec![0.0; labels.len()], vec![f32::NAN; hidden.len()]);
                label_nll_backward(isa, hidden, &output, &transposed, labels, 0.25, &mut nll, &mut d);
                (nll, d)
            };
            let (nll, d) = run(Isa::best(), &hidden, &labels);
            same_on_all_paths(|isa| run(isa, &hidden, &labels).1);
            let mut scored = vec![0.0; m];
            label_nll(Isa::best(), &hidden, &output, &labels, &mut scored);
            assert_eq!(bits(&nll), bits(&scored));
            let mut expected = Vec::new();
            for i in 0..m {
                let logit = |j: usize| -> f64 {
                    let pairs = hidden[i * inner..][..inner].iter().zip(&w[j * inner..][..inner]);
                    pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
                };
                let e: Vec<f64> = (0..vocabulary).map(|j| logit(j).exp()).collect();
                let sum: f64 = e.iter().sum();
                let slope = |j: usize| 0.25 * (e[j] / sum - if j == labels[i] as usize { 1.0 } else { 0.0 });
                expected.extend(
                    (0..inner)
                        .map(|k| -> f64 { (0..vocabulary).map(|j| slope(j) * f64::from(w[j * inner + k])).sum() }),
                );
            }
            assert_close("d hidden", &d, &expected, 2e-6);
            for threads in [1, 3] {
                assert_eq!(bits(&with_threads(threads, || run(Isa::best(), &hidden, &labels)).1), bits(&d));
            }
            for row in 0..m {
                let part = row * inner..(row + 1) * inner;
                let alone = run(Isa::best(), &hidden[part.clone()], &labels[row..=row]);
                assert_eq!(bits(&alone.1), bits(&d[part]));
            }
        }
    }

    #[test]
    fn no_labels_and_what_is_not_finite() {
        let output = PackedLinear::pack_f32(&[1.0, -1.0, 0.5], 3, 1, Format::F32);
        label_nll_backward(Isa::best(), &[], &output, &output.transposed(), &[], 1.0, &mut [], &mut []);
        let (mut nll, mut d) = ([0.0; 2], [0.0; 2]);
        let hidden = [f32::NAN, 0.0];
        label_nll_backward(Isa::best(), &hidden, &output, &output.transposed(), &[0, 2], 1.0, &mut nll, &mut d);
        assert!(nll[0].is_nan() && d[0].is_nan() && nll[1].is_finite() && d[1].is_finite());
    }
}
