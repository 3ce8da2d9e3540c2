//! All candle code: weights, tokenizer, chat template, decoder, kernels, scoring.

pub mod cpu;

use crate::exec::RunError;

/// A prompt and a response under a model's chat template.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRequest {
    /// The conversation before the response: (role, content), the last one the user's.
    pub messages: Vec<(String, String)>,
    pub response: String,
}

/// Negative log-likelihoods of a response's tokens, natural logarithm.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    pub prompt_tokens: u32,
    /// One per response token, without the end-of-turn token.
    pub token_nll: Vec<f32>,
    /// Of the end-of-turn token that closes the response.
    pub end_nll: f32,
}

/// Why one row could not be scored; the others go on.
#[derive(Debug, Clone, PartialEq)]
pub enum ScoreFailure {
    /// Prompt and response together are longer than the limit.
    TooLong { tokens: usize, limit: usize },
    /// The response has no tokens.
    Empty,
    /// The chat template refused the conversation.
    Template(String),
    /// A log-likelihood came out NaN or infinite.
    NotFinite,
}

/// A model on a device, shared by the operators that use it. Work is queued and batched across operators.
pub trait ModelLane: Send + Sync {
    /// Scores a group of rows. A row's result does not depend on the others of the group.
    /// `max_tokens` bounds prompt and response together (the model's context if `None`).
    /// Blocks until done; `Err` only for failures of the whole model (missing weights, out of memory, stop).
    fn score(
        &self,
        rows: &[ScoreRequest],
        max_tokens: Option<u32>,
    ) -> Result<Vec<Result<Scored, ScoreFailure>>, RunError>;
    /// Number of tokens of a text, without special tokens.
    fn count_tokens(&self, text: &str) -> Result<usize, RunError>;
}
