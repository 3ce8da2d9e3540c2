//! Beginnings that were computed lately, for those that begin alike.

use crate::model::kernels::{Sequence, common};

/// How many are kept.
const KEPT: usize = 16;
/// A common beginning that is shorter is computed again.
const SHORTEST: usize = 8;

/// Prompts with their keys and values, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Prefixes(Vec<Prefix>);

#[derive(Debug)]
struct Prefix {
    number: u64,
    tokens: Vec<u32>,
    sequence: Sequence,
}

impl Prefixes {
    /// The prefix that has most in common with a sequence, at most `most` tokens: its number, and how many they are.
    pub fn find(&self, tokens: &[u32], most: usize) -> Option<(u64, usize)> {
        let shared = |p: &Prefix| common(&p.tokens, tokens).min(most);
        let best = self.0.iter().map(|p| (shared(p), p.number)).max()?;
        (best.0 >= SHORTEST).then_some((best.1, best.0))
    }

    /// The first tokens of a prefix, which shares its memory.
    pub fn take(&mut self, number: u64, tokens: usize) -> candle_core::Result<Option<Sequence>> {
        let Some(at) = self.0.iter().position(|p| p.number == number) else { return Ok(None) };
        let prefix = self.0.remove(at);
        let mut sequence = prefix.sequence.clone();
        self.0.push(prefix);
        sequence.truncate(tokens)?;
        Ok(Some(sequence))
    }

    /// Keeps a sequence whose first tokens are these.
    pub fn keep(&mut self, tokens: &[u32], mut sequence: Sequence) -> candle_core::Result<()> {
        let number = self.0.iter().map(|p| p.number + 1).max().unwrap_or(0);
        // Whoever begins like one that is part of the new one begins like the new one.
        self.0.retain(|p| !tokens.starts_with(&p.tokens));
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        sequence.truncate(tokens.len())?;
        self.0.push(Prefix { number, tokens: tokens.to_vec(), sequence });
        Ok(())
    }

    /// Forgets what was used longest ago; `false` if there is nothing.
    pub fn forget_one(&mut self) -> bool {
        let any = !self.0.is_empty();
        self.0.drain(..usize::from(any));
        any
    }

    pub fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.0.iter().map(|p| &p.sequence)
    }
}
