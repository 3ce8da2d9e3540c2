//! Corrections for many comparisons.

/// How p values of a family of comparisons are adjusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    None,
    /// The chance of even one false finding stays below the level. S. Holm, Scandinavian Journal of Statistics 6 (1979).
    Holm,
    /// The expected share of false ones among the findings stays below the level. Y. Benjamini and Y. Hochberg, JRSS B 57
    /// (1995).
    BenjaminiHochberg,
}

/// The adjusted p values, in the order given. What is `None` was not tested and does not count as a comparison.
pub fn adjust(p: &[Option<f64>], correction: Correction) -> Vec<Option<f64>> {
    let mut tested: Vec<(usize, f64)> = p.iter().enumerate().filter_map(|(at, p)| Some((at, (*p)?))).collect();
    tested.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let count = tested.len();
    let scaled = tested.iter().enumerate().map(|(rank, (_, p))| match correction {
        Correction::None => *p,
        Correction::Holm => ((count - rank) as f64 * p).min(1.0),
        Correction::BenjaminiHochberg => (p * count as f64 / (rank + 1) as f64).min(1.0),
    });
    let mut adjusted: Vec<f64> = scaled.collect();
    // Both are step procedures: an order of p values must not turn around.
    match correction {
        Correction::None => {}
        Correction::Holm => (1..count).for_each(|i| adjusted[i] = adjusted[i].max(adjusted[i - 1])),
        Correction::BenjaminiHochberg => {
            (1..count).rev().for_each(|i| adjusted[i - 1] = adjusted[i - 1].min(adjusted[i]));
        }
    }
    let mut result = vec![None; p.len()];
    tested.iter().zip(adjusted).for_each(|((at, _), p)| result[*at] = Some(p));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusted_values_are_those_of_statsmodels() {
        // statsmodels.stats.multitest.multipletests, methods holm and fdr_bh
        let p = [0.01, 0.04, 0.03, 0.005, 0.5, 1.0, 0.03].map(Some);
        let holm = [0.06, 0.15, 0.15, 0.035, 1.0, 1.0, 0.15];
        let bh = [0.035, 0.056, 0.0525, 0.035, 0.5833333333333334, 1.0, 0.0525];
        for (correction, expected) in [(Correction::Holm, holm), (Correction::BenjaminiHochberg, bh)] {
            for (found, expected) in adjust(&p, correction).into_iter().zip(expected) {
                assert!((found.unwrap() - expected).abs() < 1e-15, "{correction:?}: {found:?} is not {expected}");
            }
        }
        assert_eq!(adjust(&p, Correction::None), p);
    }

    #[test]
    fn what_was_not_tested_is_not_counted() {
        let p = [None, Some(0.02), None, Some(0.04)];
        assert_eq!(adjust(&p, Correction::Holm), [None, Some(0.04), None, Some(0.04)]);
        assert_eq!(adjust(&p, Correction::BenjaminiHochberg), [None, Some(0.04), None, Some(0.04)]);
        assert_eq!(adjust(&[None], Correction::Holm), [None]);
        assert_eq!(adjust(&[Some(0.3)], Correction::Holm), [Some(0.3)]);
    }
}
