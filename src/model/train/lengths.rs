//! Rows as examples: which tokens are labels, and what becomes of rows that are too long.

use super::Example;
use crate::model::{Conversation, Encoded};

/// The most tokens of a row's parts, and what becomes of longer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Of all that is no response.
    pub prompt: usize,
    /// Of the responses, without what closes them.
    pub response: usize,
    /// Of both together: the model's context.
    pub context: usize,
    /// Cut what is too long, rather than leave the row out.
    pub truncate: bool,
}

/// A row that is ready to be trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    pub example: Example,
    /// Tokens that were cut away.
    pub cut: usize,
}

/// A part of a row that is longer than it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLong {
    pub part: &'static str,
    pub tokens: usize,
    pub limit: usize,
}

impl Lengths {
    /// A prompt and its response. What is cut of the prompt is its beginning, and of the response its end, which then
    /// has no closing token: it does not end there. With `whole` the prompt's tokens are labels as well.
    pub fn fit(&self, row: &Encoded, whole: bool) -> Result<Fitted, TooLong> {
        let (prompt, response) = row.tokens.split_at(row.prompt);
        let too_long = self.exceeded(prompt.len(), response.len());
        if let Some(too_long) = too_long.filter(|_| !self.truncate) {
            return Err(too_long);
        }
        let most = self.response.min(self.context.saturating_sub(1));
        let kept = response.len().min(most);
        let from = prompt.len() - prompt.len().min(self.prompt).min(self.context - kept);
        let end = (kept == response.len()).then_some(row.end);
        let tokens: Vec<u32> = prompt[from..].iter().chain(&response[..kept]).copied().chain(end).collect();
        let labels = if whole { 1 } else { (prompt.len() - from).max(1) };
        let cut = from + response.len() - kept;
        Ok(Fitted { example: Example { labels: ranges(labels..tokens.len()), tokens }, cut })
    }

    /// A conversation. What is cut is its end, so that prompts and responses together have no more tokens than both
    /// limits and the context allow.
    pub fn fit_conversation(&self, row: &Conversation, whole: bool) -> Result<Fitted, TooLong> {
        let closing = row.responses.len();
        let said: usize = row.responses.iter().map(ExactSizeIterator::len).sum();
        let (prompt, response) = (row.tokens.len() - said, said.saturating_sub(closing));
        let too_long = self.exceeded(prompt, response);
        if let Some(too_long) = too_long.clone().filter(|_| !self.truncate) {
            return Err(too_long);
        }
        let kept = match too_long {
            None => row.tokens.len(),
            Some(_) => row.tokens.len().min(self.prompt.saturating_add(self.response)).min(self.context),
        };
        let labels = match whole {
            true => ranges(1..kept),
            false => {
                let within = row.responses.iter().map(|r| r.start.max(1)..r.end.min(kept));
                within.filter(|r| r.start < r.end).collect()
            }
        };
        let cut = row.tokens.len() - kept;
        Ok(Fitted { example: Example { tokens: row.tokens[..kept].to_vec(), labels }, cut })
    }

    fn exceeded(&self, prompt: usize, response: usize) -> Option<TooLong> {
        let parts = [
            ("the prompt", prompt, self.prompt),
            ("the response", response, self.response),
            ("prompt and response together", prompt + response, self.context),
        ];
        let beyond = parts.into_iter().find(|(_, tokens, limit)| tokens > limit);
        beyond.map(|(part, tokens, limit)| TooLong { part, tokens, limit })
    }
}

fn ranges(range: std::ops::Range<usize>) -> Vec<std::ops::Range<usize>> {
    std::iter::once(range).filter(|r| r.start < r.end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: Lengths = Lengths { prompt: 4, response: 3, context: 100, truncate: true };

    fn row(prompt: usize, response: usize) -> Encoded {
        Encoded { tokens: (0..(prompt + response) as u32).collect(), prompt, end: 99 }
    }

    fn fitted(lengths: Lengths, row: &Encoded, whole: bool) -> (Vec<u32>, std::ops::Range<usize>, usize) {
        let Fitted { example, cut } = lengths.fit(row, whole).unwrap();
        (example.tokens, example.labels[0].clone(), cut)
    }

    #[test]
    fn what_fits_is_left_alone() {
        let row = row(4, 3);
        assert_eq!(fitted(LENGTHS, &row, false), (vec![0, 1, 2, 3, 4, 5, 6, 99], 4..8, 0));
        assert_eq!(LENGTHS.fit(&row, false).unwrap().example, Example::response(&row));
        assert_eq!(LENGTHS.fit(&row, true).unwrap().example, Example::whole(&row));
    }

    #[test]
    fn prompts_lose_their_beginning_and_responses_their_end() {
        assert_eq!(fitted(LENGTHS, &row(6, 3), false), (vec![2, 3, 4, 5, 6, 7, 8, 99], 4..8, 2));
        assert_eq!(fitted(LENGTHS, &row(4, 5), false), (vec![0, 1, 2, 3, 4, 5, 6], 4..7, 2));
        assert_eq!(fitted(LENGTHS, &row(4, 5), true), (vec![0, 1, 2, 3, 4, 5, 6], 1..7, 2));
        let small = Lengths { context: 5, ..LENGTHS };
        assert_eq!(fitted(small, &row(4, 3), false), (vec![2, 3, 4, 5, 6, 99], 2..6, 2));
        let smallest = Lengths { context: 1, ..LENGTHS };
        assert!(smallest.fit(&row(4, 3), false).unwrap().example.tokens.len() <= 2);
    }

    #[test]
    fn rows_can_be_refused_instead() {
        let strict = Lengths { truncate: false, ..LENGTHS };
        let refused = |row: &Encoded| strict.fit(row, false).unwrap_err();
        assert_eq!(refused(&row(6, 3)), TooLong { part: "the prompt", tokens: 6, limit: 4 });
        assert_eq!(refused(&row(4, 5)), TooLong { part: "the response", tokens: 5, limit: 3 });
        let small = Lengths { context: 6, ..strict };
        assert_eq!(small.fit(&row(4, 3), false).unwrap_err().part, "prompt and response together");
    }

    #[test]
    fn conversations_are_cut_at_their_end() {
        let row = Conversation { tokens: (0..12).collect(), responses: vec![2..5, 8..12] };
        let of = |lengths: Lengths| lengths.fit_conversation(&row, false).unwrap();
        let whole = of(Lengths { prompt: 5, response: 5, ..LENGTHS });
        assert_eq!((whole.example.labels, whole.cut), (vec![2..5, 8..12], 0));
        let cut = of(Lengths { prompt: 5, response: 4, ..LENGTHS });
        assert_eq!((cut.example.labels, cut.example.tokens.len(), cut.cut), (vec![2..5, 8..9], 9, 3));
        let prompt_only = of(Lengths { prompt: 1, response: 1, ..LENGTHS });
        assert!(prompt_only.example.labels.is_empty());
        assert_eq!(LENGTHS.fit_conversation(&row, true).unwrap().example.labels[0], 1..7);
    }
}
