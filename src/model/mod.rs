//! All candle code: weights, tokenizer, chat template, decoder, kernels, scoring, generation.
//!
//! ```text
//! files -> Config + Tokenizer + ChatTemplate   (cheap; what a caller needs to count and to render)
//!       -> Weights -> Decoder over Kernels      (held by the lane of a device)
//! rows, requests -> lane -> Engine -> passes    (scores and texts)
//! ```
//!
//! A row's score and a request's text depend on the row and the model alone: never on what else is in a pass, on the
//! order of passes, or on the number of threads.

pub mod chat;
pub mod config;
pub mod decoder;
pub mod device;
mod engine;
mod error;
pub mod files;
pub mod generate;
mod gguf;
pub mod kernels;
mod lane;
mod language_model;
pub mod measure;
mod rope;
#[doc(hidden)]
pub mod synthetic;
mod ticket;
pub mod tokenizer;
pub mod train;
pub mod weights;

pub use device::{DEVICE_VARIABLE, DeviceChoice};
pub use engine::{Counts, Engine, Limits};
pub use files::{ModelFiles, Precision, WeightFiles};
pub use generate::{Finish, GenerateFailure, GenerateRequest, Generated, Prompt, Prompted, Sampling};
pub use lane::{FileSource, LaneOptions, ModelLanes};
pub use language_model::{Encoded, LanguageModel, TextModel};
pub use ticket::{Address, Mailbox, Ticket};

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

/// The samples of a request, or why it has none.
pub type Written = Result<Vec<Generated>, GenerateFailure>;

/// A model on a device, shared by the operators that use it. Their work goes through the same passes.
pub trait ModelLane: Send + Sync {
    /// Hands rows in to be scored. A row's result does not depend on what else is handed in.
    /// `max_tokens` bounds prompt and response together (the model's context if `None`).
    /// `Err`, here and from the ticket, is a failure of the whole model (missing weights, out of memory, stop).
    fn submit_score(
        &self,
        rows: &[ScoreRequest],
        max_tokens: Option<u32>,
    ) -> Result<Ticket<Result<Scored, ScoreFailure>>, RunError>;

    /// Hands requests in; each gives its samples to its address. A text does not depend on what else is handed in.
    fn post_generate(&self, requests: Vec<(GenerateRequest, Address<Written>)>) -> Result<(), RunError>;

    /// Hands requests in; each gives its samples.
    fn submit_generate(&self, requests: &[GenerateRequest]) -> Result<Ticket<Written>, RunError> {
        let (ticket, addresses) = Ticket::new(requests.len());
        self.post_generate(requests.iter().cloned().zip(addresses).collect())?;
        Ok(ticket)
    }

    /// Scores rows and waits for all of them.
    fn score(
        &self,
        rows: &[ScoreRequest],
        max_tokens: Option<u32>,
    ) -> Result<Vec<Result<Scored, ScoreFailure>>, RunError> {
        self.submit_score(rows, max_tokens)?.wait()
    }

    /// Generates and waits for all texts.
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Written>, RunError> {
        self.submit_generate(requests)?.wait()
    }

    /// Tokens of a text, none added. Needs the tokenizer alone: no weights are loaded for it.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, RunError>;

    /// Number of tokens of a text, as [`Self::tokens`] gives them.
    fn count_tokens(&self, text: &str) -> Result<usize, RunError> {
        Ok(self.tokens(text)?.len())
    }

    /// The model's context length in tokens: the limit where a request names none.
    fn context(&self) -> Result<u32, RunError>;

    /// Digest of everything about the model that changes a number, as in the plan. Scopes of journals name it.
    fn digest(&self) -> &str;
}

#[cfg(test)]
mod gguf_tests;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod real;
