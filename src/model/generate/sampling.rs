//! Choosing the next token from its logits.

use crate::model::cpu::{Isa, log_sum_exp};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::cmp::Ordering;

/// How tokens are chosen. In this order: the penalty, the temperature, `top_k`, `top_p`, `min_p`, and a draw from what
/// is left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it. 0 is greedy: the token with the greatest logit, the lowest id among equals.
    pub temperature: f32,
    /// Only the so many most probable tokens; 0 for all.
    pub top_k: u32,
    /// Only the most probable tokens that together have at least this probability; 1 for all.
    pub top_p: f32,
    /// Only tokens with at least this share of the most probable one's probability; 0 for all.
    pub min_p: f32,
    /// Logits of tokens that the prompt or the text holds are divided by it if positive and multiplied with it if
    /// negative (Keskar et al. 2019); 1 for none.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl Sampling {
    /// Everything at its default but the temperature.
    pub fn at(temperature: f32) -> Self {
        Self { temperature, ..Self::default() }
    }

    /// What is wrong with the values, if anything.
    pub fn check(&self) -> Result<(), String> {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        let wrong = |name: &str, x: f32, expected: &str| Err(format!("`{name}` is {x}; expected {expected}"));
        match *self {
            Self { temperature: t, .. } if t != 0.0 && !positive(t) => {
                wrong("temperature", t, "0 for greedy text, or a positive number")
            }
            Self { top_p: p, .. } if !(positive(p) && p <= 1.0) => wrong("top-p", p, "above 0 and at most 1"),
            Self { min_p: p, .. } if !(0.0..=1.0).contains(&p) => wrong("min-p", p, "from 0 to 1"),
            Self { repetition_penalty: r, .. } if !positive(r) => wrong("repetition-penalty", r, "a positive number"),
            _ => Ok(()),
        }
    }
}

/// The random numbers of one sample: number `i` is the same whatever was drawn before.
#[derive(Debug, Clone)]
pub(in crate::model) struct Draws(ChaCha8Rng);

impl Draws {
    pub fn new(seed: u64, row: &[u8], sample: u32) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("idiolect sampling 1");
        hash.update(&seed.to_le_bytes()).update(&sample.to_le_bytes()).update(row);
        Self(ChaCha8Rng::from_seed(*hash.finalize().as_bytes()))
    }

    /// A number in [0, 1) for a position.
    fn at(&mut self, position: usize) -> f64 {
        self.0.set_word_pos(2 * position as u128);
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Chooses the token at a position of a text; `seen` are the tokens of prompt and text. Gives the token and its
/// log-probability before anything was done to the logits; `None` if a logit is NaN or infinite.
pub(in crate::model) fn choose(
    logits: &[f32],
    sampling: &Sampling,
    seen: &[&[u32]],
    draws: &mut Draws,
    position: usize,
) -> Option<(u32, f32)> {
    let sum = log_sum_exp(Isa::best(), logits);
    if !sum.is_finite() {
        return None;
    }
    let penalised = (sampling.repetition_penalty != 1.0).then(|| penalise(logits, sampling.repetition_penalty, seen));
    let changed = penalised.as_deref().unwrap_or(logits);
    let token = match sampling.temperature {
        0.0 => first_greatest(changed),
        _ => draw(changed, sampling, draws.at(position)),
    };
    Some((token, (f64::from(logits[token as usize]) - sum) as f32))
}

fn penalise(logits: &[f32], penalty: f32, seen: &[&[u32]]) -> Vec<f32> {
    let mut tokens: Vec<u32> = seen.concat();
    tokens.sort_unstable();
    tokens.dedup();
    let mut logits = logits.to_vec();
    for token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    logits
}

/// The greatest of logits that are not NaN.
fn greatest(logits: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    // In lanes, so that the compiler takes many at once.
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, logit)| *lane = greater(*lane, *logit));
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

fn first_greatest(logits: &[f32]) -> u32 {
    let greatest = greatest(logits);
    // First which chunk, all of whose logits are compared at once.
    let has = |chunk: &[f32]| chunk.iter().fold(false, |any, logit| any | (*logit == greatest));
    let from = logits.chunks(64).position(has).unwrap_or(0) * 64;
    (from + logits[from..].iter().position(|logit| *logit == greatest).unwrap_or(0)) as u32
}

/// A token that may be drawn.
#[derive(Clone, Copy)]
struct Candidate {
    token: u32,
    logit: f32,
}

/// Probable tokens first, low ids first among equals.
fn by_probability(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// Draws a token by a number in [0, 1).
fn draw(logits: &[f32], sampling: &Sampling, number: f64) -> u32 {
    let greatest = greatest(logits);
    let below = |logit: f32| (logit - greatest) / sampling.temperature;
    let weight = |c: &Candidate| f64::from(below(c.logit)).exp();
    // What is less probable than any random number can tell is left out, and so is what `min_p` cuts off.
    let least = f64::from(sampling.min_p).ln().max(-45.0) as f32;
    let candidates = (0u32..).zip(logits).map(|(token, logit)| Candidate { token, logit: *logit });
    let mut candidates: Vec<Candidate> = candidates.filter(|c| below(c.logit) >= -45.0).collect();
    let k = sampling.top_k as usize;
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, by_probability);
        candidates.truncate(k);
    }
    if sampling.top_p < 1.0 {
        cut_top_p(&mut candidates, sampling.top_p, weight);
    }
    candidates.retain(|c| below(c.logit) >= least);
    // Where each stands must not depend on how they were selected.
    candidates.sort_unstable_by_key(|c| c.token);
    let total: f64 = candidates.iter().map(weight).sum();
    let mut rest = number * total;
    for candidate in &candidates {
        rest -= weight(candidate);
        if rest < 0.0 {
            return candidate.token;
        }
    }
    // Rounding may leave a trifle; the greatest logit is always a candidate.
    candidates.last().map_or(0, |c| c.token)
}

/// Keeps the most probable candidates that together have at least the share `top_p`.
fn cut_top_p(candidates: &mut Vec<Candidate>, top_p: f32, weight: impl Fn(&Candidate) -> f64) {
    let enough = f64::from(top_p) * candidates.iter().map(&weight).sum::<f64>();
    let (mut sorted, mut step, mut sum) = (0, 64, 0.0);
    // Few are needed, as a rule: no more are sorted than that.
    while sorted < candidates.len() {
        let end = candidates.len().min(sorted + step);
        if end < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(end - sorted, by_probability);
        }
        candidates[sorted..end].sort_unstable_by(by_probability);
        for at in sorted..end {
            sum += weight(&candidates[at]);
            if sum >= enough {
                candidates.truncate(at + 1);
                return;
            }
        }
        (sorted, step) = (end, step * 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(temperature: f32) -> Sampling {
        Sampling::at(temperature)
    }

    /// How often each token is drawn, by numbers that are spread evenly.
    fn shares(logits: &[f32], sampling: &Sampling) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        let draws = 10_000;
        (0..draws).for_each(|i| counts[draw(logits, sampling, f64::from(i) / f64::from(draws)) as usize] += 1.0);
        counts.iter().map(|c| c / f64::from(draws)).collect()
    }

    fn near(found: &[f64], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 2e-3), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_gives_its_probability() {
        let mut logits = vec![0.0f32; 100];
        (logits[40], logits[77]) = (2.0, 2.0);
        let mut draws = Draws::new(1, b"row", 0);
        let (token, logprob) = choose(&logits, &at(0.0), &[], &mut draws, 0).unwrap();
        let expected = 2.0 - (98.0 + 2.0 * 2f64.exp()).ln();
        assert_eq!(token, 40);
        assert!((f64::from(logprob) - expected).abs() < 1e-6, "{logprob}, expected {expected}");
        for bad in [f32::NAN, f32::INFINITY] {
            logits[3] = bad;
            assert_eq!(choose(&logits, &at(0.0), &[], &mut draws, 0), None);
        }
    }

    #[test]
    fn draws_have_the_probabilities_of_the_softmax() {
        let probabilities = [0.1, 0.4, 0.2, 0.3];
        let logits: Vec<f32> = probabilities.iter().map(|p: &f64| p.ln() as f32 + 3.0).collect();
        near(&shares(&logits, &at(1.0)), &probabilities);
        let squared: Vec<f64> = probabilities.iter().map(|p| p * p / 0.3).collect();
        near(&shares(&logits, &at(0.5)), &squared);
        near(&shares(&logits, &Sampling { top_k: 2, ..at(1.0) }), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        near(&shares(&logits, &Sampling { top_p: 0.69, ..at(1.0) }), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        near(&shares(&logits, &Sampling { top_p: 0.71, ..at(1.0) }), &[0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]);
        near(&shares(&logits, &Sampling { min_p: 0.6, ..at(1.0) }), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        near(&shares(&logits, &Sampling { top_p: 1e-9, ..at(1.0) }), &[0.0, 1.0, 0.0, 0.0]);
    }

    /// Against a plain definition, over many tokens.
    #[test]
    fn top_p_over_a_large_vocabulary() {
        let logits: Vec<f32> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 1024.0).collect();
        for (temperature, top_p) in [(1.0, 0.5), (0.3, 0.9), (2.0, 0.99)] {
            let mut sorted: Vec<usize> = (0..logits.len()).collect();
            sorted.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
            let weight = |i: usize| (f64::from(logits[i] - 4.0) / temperature).exp();
            let enough = f64::from(top_p) * (0..logits.len()).map(weight).sum::<f64>();
            let mut sum = 0.0;
            let needed = sorted.iter().take_while(|i| {
                let before = sum;
                sum += weight(**i);
                before < enough
            });
            let needed = needed.count();
            let mut candidates: Vec<Candidate> =
                (0u32..).zip(&logits).map(|(token, logit)| Candidate { token, logit: *logit }).collect();
            cut_top_p(&mut candidates, top_p, |c| weight(c.token as usize));
            assert!(candidates.len().abs_diff(needed) <= 1, "{} {needed}", candidates.len());
            let same = candidates.iter().zip(&sorted).all(|(c, i)| c.token as usize == *i);
            assert!(same, "the most probable first");
        }
    }

    #[test]
    fn what_was_seen_is_penalised_once() {
        let sampling = Sampling { repetition_penalty: 2.0, ..at(0.0) };
        let mut draws = Draws::new(0, b"", 0);
        let mut chosen = |seen: &[&[u32]]| choose(&[3.0, 2.0, -1.0], &sampling, seen, &mut draws, 0).unwrap().0;
        assert_eq!(chosen(&[]), 0);
        assert_eq!(chosen(&[&[0, 0], &[0]]), 1);
        assert_eq!(chosen(&[&[0, 1], &[2, 9]]), 0);
        assert_eq!(penalise(&[3.0, -1.0], 2.0, &[&[0, 1, 1]]), [1.5, -2.0]);
    }

    #[test]
    fn numbers_depend_on_seed_row_sample_and_position_alone() {
        let number = |seed, row: &[u8], sample, position| Draws::new(seed, row, sample).at(position);
        let one = number(7, b"row", 0, 5);
        let mut forwards = Draws::new(7, b"row", 0);
        let all: Vec<f64> = (0..10).map(|p| forwards.at(p)).collect();
        assert_eq!(all[5], one);
        assert!(all.iter().all(|x| (0.0..1.0).contains(x)));
        for other in [number(8, b"row", 0, 5), number(7, b"raw", 0, 5), number(7, b"row", 1, 5), all[4], all[6]] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        assert_eq!(Sampling { top_k: 5, top_p: 0.5, min_p: 0.1, ..at(0.7) }.check(), Ok(()));
        for (wrong, name) in [
            (at(-1.0), "temperature"),
            (at(f32::NAN), "temperature"),
            (Sampling { top_p: 0.0, ..at(1.0) }, "top-p"),
            (Sampling { min_p: 1.5, ..at(1.0) }, "min-p"),
            (Sampling { repetition_penalty: 0.0, ..at(1.0) }, "repetition-penalty"),
        ] {
            let error = wrong.check().unwrap_err();
            assert!(error.starts_with(&format!("`{name}` is ")), "{error}");
        }
    }
}
