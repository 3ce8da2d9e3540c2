//! pass@k.

/// The unbiased estimate of the chance that at least one of `k` answers is right, from `n` answers of which `c` are:
/// 1 - C(n-c, k) / C(n, k), as a product that stays small (Chen et al., arXiv 2107.03374).
pub fn pass_at(k: u32, n: u32, c: u32) -> f64 {
    if n - c < k {
        return 1.0;
    }
    let none: f64 = (n - c + 1..=n).map(|i| 1.0 - f64::from(k) / f64::from(i)).product();
    1.0 - none
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the choices of k answers.
    fn counted(k: u32, n: u32, c: u32) -> f64 {
        let (mut all, mut hit) = (0u32, 0u32);
        for set in 0..1u32 << n {
            if set.count_ones() == k {
                all += 1;
                hit += u32::from(set & ((1 << c) - 1) != 0);
            }
        }
        f64::from(hit) / f64::from(all)
    }

    #[test]
    fn it_is_the_share_of_choices_with_a_right_answer() {
        for n in 1..=9 {
            for (k, c) in (1..=n).flat_map(|k| (0..=n).map(move |c| (k, c))) {
                let (got, expected) = (pass_at(k, n, c), counted(k, n, c));
                assert!((got - expected).abs() < 1e-12, "pass@{k} of {c} in {n}: {got} and {expected}");
            }
        }
    }
}
