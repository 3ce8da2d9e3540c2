//! Tests of two methods on the same questions.

use super::{stream_of, sum};
use rand_chacha::rand_core::RngCore;
use rayon::prelude::*;

/// Up to this many pairs that differ, the sign-flip test goes through all signs.
const EXACT_PAIRS: usize = 16;

/// The two-sided p value of McNemar's exact test: of the questions that exactly one method has right, `only_first` and
/// `only_second`, each is like the toss of a fair coin. 1 where the methods never differ.
pub fn mcnemar(only_first: u64, only_second: u64) -> f64 {
    let (n, fewer) = (only_first + only_second, only_first.min(only_second));
    if only_first == only_second {
        return 1.0;
    }
    // P(X <= fewer) of a binomial with p = 1/2, from the largest term down; logarithms, for 2^-n may be no number.
    let of = |k: u64| ((n - fewer + k) as f64 / k as f64).ln();
    let log_largest = sum((1..=fewer).map(of)) - n as f64 * std::f64::consts::LN_2;
    let mut term = 1.0;
    let mut terms = vec![term];
    for k in (1..=fewer).rev() {
        term *= k as f64 / (n - k + 1) as f64;
        if term < f64::EPSILON * 1e-3 {
            break;
        }
        terms.push(term);
    }
    (2.0 * log_largest.exp() * sum(terms)).min(1.0)
}

/// The two-sided p value of the paired permutation test: were both methods alike, each question's difference could as
/// well have the other sign. The statistic is the mean difference. Goes through all signs where few pairs differ,
/// otherwise draws `resamples` of them and counts the given ones as one more. `None` of no pairs, or where a difference
/// or the sum of their sizes is not finite.
///
/// Every resample has a random stream of its own, so the result does not depend on threads. On differences of -1, 0 and
/// 1 the exact form is McNemar's test.
pub fn sign_flip(differences: &[f64], resamples: usize, seed: u64) -> Option<f64> {
    if differences.is_empty() || differences.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let moved: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    let size = sum(moved.iter().map(|d| d.abs()));
    if !size.is_finite() {
        return None;
    }
    // Sums that are equal but for rounding count as equally extreme.
    let bound = sum(moved.iter().copied()).abs() - 1e-12 * size;
    if moved.len() <= EXACT_PAIRS {
        let all = 1_u32 << moved.len();
        let extreme = (0..all).filter(|signs| flipped(&moved, |i| signs >> i & 1 == 1).abs() >= bound).count();
        return Some(extreme as f64 / f64::from(all));
    }
    let extreme: usize = (0..resamples)
        .into_par_iter()
        .filter(|stream| {
            let mut rng = stream_of(seed, *stream);
            let signs: Vec<u64> = (0..moved.len().div_ceil(64)).map(|_| rng.next_u64()).collect();
            flipped(&moved, |i| signs[i / 64] >> (i % 64) & 1 == 1).abs() >= bound
        })
        .count();
    Some((extreme + 1) as f64 / (resamples + 1) as f64)
}

fn flipped(values: &[f64], negative: impl Fn(usize) -> bool) -> f64 {
    sum(values.iter().enumerate().map(|(i, v)| if negative(i) { -v } else { *v }))
}

#[cfg(test)]
mod tests {
    use super::super::bootstrap_mean;
    use super::*;

    const FIRST: [f64; 12] = [4.54, 2.35, 4.77, 2.27, 2.67, 2.59, 3.27, 2.30, 5.13, 6.35, 9.269, 11.96];
    const SECOND: [f64; 12] = [4.1, 2.35, 4.9, 2.0, 2.3, 2.7, 2.95, 2.1, 4.4, 6.0, 8.1, 12.5];

    fn differences() -> Vec<f64> {
        FIRST.iter().zip(SECOND).map(|(a, b)| a - b).collect()
    }

    #[test]
    fn mcnemar_is_that_of_scipy() {
        // scipy.stats.binomtest(min(b, c), b + c).pvalue; statsmodels' mcnemar(exact=True) agrees.
        for (b, c, expected) in [
            (0, 0, 1.0),
            (0, 1, 1.0),
            (1, 1, 1.0),
            (5, 5, 1.0),
            (3, 12, 0.03515625),
            (12, 3, 0.03515625),
            (0, 10, 0.001953125),
            (59, 27, 0.0007317100653124087),
            (500, 430, 0.023608839292547163),
            (100_500, 100_000, 0.26510509544159483),
        ] {
            let p = mcnemar(b, c);
            assert!((p - expected).abs() <= 1e-10 * expected, "{b} and {c}: {p} is not {expected}");
        }
        // Too small for a number.
        assert_eq!(mcnemar(0, 1100), 0.0);
    }

    #[test]
    fn sign_flips_are_those_of_scipy() {
        // scipy.stats.permutation_test, permutation_type="samples": all 4096 signs; 1,000,000 of them.
        assert_eq!(sign_flip(&differences(), 100, 1), Some(0.064453125));
        let many: Vec<f64> = (0..60).map(|i| f64::from(i * 7919 % 101 - 44) / 25.0).collect();
        let p = sign_flip(&many, 200_000, 3).unwrap();
        assert!((p - 0.1448).abs() < 0.003, "{p}");
    }

    #[test]
    fn sign_flips_of_verdicts_are_mcnemar() {
        for (b, c) in [(0_u32, 1_u32), (3, 12), (7, 2), (5, 5), (1, 0), (0, 16)] {
            let differences: Vec<f64> = std::iter::repeat_n(1.0, b as usize)
                .chain(std::iter::repeat_n(-1.0, c as usize))
                .chain([0.0; 30])
                .collect();
            let p = sign_flip(&differences, 100, 1).unwrap();
            assert!((p - mcnemar(b.into(), c.into())).abs() < 1e-15, "{b} and {c}: {p}");
        }
    }

    #[test]
    fn where_nothing_differs_nothing_is_shown() {
        assert_eq!(sign_flip(&[0.0; 40], 100, 1), Some(1.0));
        assert_eq!(sign_flip(&[0.7], 100, 1), Some(1.0));
        assert_eq!(sign_flip(&[], 100, 1), None);
        assert_eq!(sign_flip(&[1.0, f64::NAN], 100, 1), None);
        assert_eq!(sign_flip(&[f64::MAX; 3], 100, 1), None);
        // The smallest p value that so many draws can give.
        assert_eq!(sign_flip(&[1.0; 64], 999, 1), Some(0.001));
    }

    #[test]
    fn threads_change_nothing() {
        let many: Vec<f64> = (0..60).map(|i| f64::from(i * 7919 % 101 - 44) / 25.0).collect();
        let once = sign_flip(&many, 500, 1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(once, pool.install(|| sign_flip(&many, 500, 1)));
        assert_ne!(once, sign_flip(&many, 500, 2));
    }

    /// The paired bootstrap is the bootstrap of the differences: a question is drawn with both of its values.
    #[test]
    fn paired_bootstraps_are_those_of_scipy() {
        // scipy.stats.bootstrap(paired=True, method="percentile", n_resamples=400000) of mean(x - y)
        let (low, high) = bootstrap_mean(&differences(), 0.95, 100_000, 5).unwrap();
        assert!((low - 0.02333).abs() < 0.005 && (high - 0.49892).abs() < 0.005, "{low} to {high}");
    }
}
