//! Statistics of samples: compensated sums, quantiles, intervals, paired tests, corrections for many comparisons.
//!
//! Values that are not finite spread into the result, as in IEEE arithmetic; nothing is left out here.

pub mod multiple;
pub mod paired;
pub mod proportion;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

/// The sum in the order given, with Neumaier's compensation: its error does not grow with the number of values.
pub fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut total, mut lost) = (0.0_f64, 0.0_f64);
    for value in values {
        let next = total + value;
        lost += if total.abs() >= value.abs() { (total - next) + value } else { (value - next) + total };
        total = next;
    }
    // With an infinity on the way the compensation is NaN, and the plain sum is right.
    if total.is_finite() { total + lost } else { total }
}

/// The arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| sum(values.iter().copied()) / values.len() as f64)
}

/// The standard deviation of the sample (divisor n - 1); `None` for fewer than two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let degrees = values.len().checked_sub(1).filter(|d| *d > 0)?;
    Some((sum(values.iter().map(|v| (v - mean).powi(2))) / degrees as f64).sqrt())
}

/// The values in ascending order, NaN last.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().map(|v| if v.is_nan() { f64::NAN } else { *v }).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The quantile `q` of ascending values, interpolated linearly between neighbours (Hyndman and Fan's type 7); NaN
/// when a value is NaN.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = *sorted.last()?;
    if last.is_nan() {
        return Some(f64::NAN);
    }
    let position = q * (sorted.len() - 1) as f64;
    let below = (position.floor() as usize).min(sorted.len() - 1);
    let (low, high, share) = (sorted[below], sorted[(below + 1).min(sorted.len() - 1)], position - below as f64);
    // Between equal neighbours, two infinities too, there is nothing to interpolate.
    Some(if share == 0.0 || low == high { low } else { low + (high - low) * share })
}

/// The percentile bootstrap interval of the mean: quantiles of the means of `resamples` samples drawn with
/// replacement. Every resample has a random stream of its own, so the result does not depend on threads.
pub fn bootstrap_mean(values: &[f64], level: f64, resamples: usize, seed: u64) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let means: Vec<f64> = (0..resamples)
        .into_par_iter()
        .map(|stream| {
            let mut rng = stream_of(seed, stream);
            sum((0..values.len()).map(|_| values[below(&mut rng, values.len())])) / values.len() as f64
        })
        .collect();
    let means = sorted(&means);
    let tail = (1.0 - level) / 2.0;
    Some((quantile(&means, tail)?, quantile(&means, 1.0 - tail)?))
}

/// The random numbers of one resample.
fn stream_of(seed: u64, stream: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream as u64);
    rng
}

/// A number below `n`, by multiplication: its bias is below n / 2^64, and it is the same with every version of every
/// library.
fn below(rng: &mut impl RngCore, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Perplexity-like numbers; the facts about them below were computed by an independent implementation.
    const SAMPLE: [f64; 12] = [4.54, 2.35, 4.77, 2.27, 2.67, 2.59, 3.27, 2.30, 51.3, 6.35, 9.269, 11.96];

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * b.abs().max(1.0)
    }

    #[test]
    fn sums_keep_small_values() {
        assert_eq!(sum([1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(sum(std::iter::repeat_n(0.1, 10)), 1.0);
        assert_eq!(sum([]), 0.0);
        assert_eq!(sum([1.0, f64::INFINITY, 2.0]), f64::INFINITY);
        assert!(sum([f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }

    #[test]
    fn moments_are_those_of_numpy() {
        assert!(close(mean(&SAMPLE).unwrap(), 8.636583333333334));
        assert!(close(standard_deviation(&SAMPLE).unwrap(), 13.78319596437721));
        assert_eq!((mean(&[]), standard_deviation(&[3.0])), (None, None));
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let s = sorted(&SAMPLE);
        for (q, expected) in [(0.0, 2.27), (0.05, 2.2865), (0.25, 2.53), (0.5, 3.905), (0.95, 29.663), (1.0, 51.3)] {
            assert!(close(quantile(&s, q).unwrap(), expected), "quantile {q}: {:?}", quantile(&s, q));
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[2.0], 0.3), Some(2.0));
    }

    #[test]
    fn what_is_not_finite_is_seen_in_the_quantiles() {
        let infinite = sorted(&[1.0, f64::INFINITY, 2.0, f64::INFINITY]);
        assert_eq!(quantile(&infinite, 0.9), Some(f64::INFINITY));
        assert_eq!(quantile(&infinite, 0.0), Some(1.0));
        assert!(quantile(&sorted(&[-f64::NAN, 1.0, 2.0]), 0.5).unwrap().is_nan());
    }

    #[test]
    fn bootstrap_intervals_are_those_of_scipy() {
        // scipy.stats.bootstrap, percentile method, 400,000 resamples; the tolerance is for ours being fewer.
        for (level, low, high) in [(0.95, 3.5215, 17.065), (0.8, 4.206, 13.379)] {
            let (l, h) = bootstrap_mean(&SAMPLE, level, 50_000, 11).unwrap();
            assert!((l / low - 1.0).abs() < 0.02 && (h / high - 1.0).abs() < 0.02, "{level}: {l} to {h}");
        }
        assert_eq!(bootstrap_mean(&[], 0.95, 10, 1), None);
        assert_eq!(bootstrap_mean(&[2.5], 0.95, 10, 1), Some((2.5, 2.5)));
    }

    #[test]
    fn bootstrap_depends_on_the_seed_and_on_nothing_else() {
        let once = bootstrap_mean(&SAMPLE, 0.95, 500, 1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(once, pool.install(|| bootstrap_mean(&SAMPLE, 0.95, 500, 1)));
        assert_ne!(once, bootstrap_mean(&SAMPLE, 0.95, 500, 2));
    }
}
