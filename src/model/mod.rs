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

pub mod adapter;
pub mod chat;
pub mod config;
mod conversation;
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

pub use adapter::AdapterFile;
pub use conversation::Conversation;
pub use device::{DEVICE_VARIABLE, DeviceChoice};
pub use engine::{Counts, Engine, Limits};
pub use files::{ModelFiles, Precision, WeightFiles};
pub use generate::{Finish, GenerateFailure, GenerateRequest, Generated, Prompt, Prompted, Sampling};
pub use lane::{FileSource, LaneOptions, ModelLanes};
pub use language_model::{Encoded, LanguageModel, TextModel};
pub use ticket::{Address, Mailbox, Ticket};

pub mod cpu;

use crate::exec::RunError;
use std::sync::Arc;

/// The role of a turn that is raw text: alone in a conversation, it goes to the model without a chat template, after the
/// token that texts begin with where the tokenizer puts one.
pub const RAW: &str = "text";

/// A prompt and a response under a model's chat template, or raw text ([`RAW`]) and what follows it. Raw text and what
/// follows are made tokens together and parted where the tokens of the text alone end; blanks at its end count to what
/// follows. (So does the lm-evaluation-harness.)
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRequest {
    /// The conversation before the response: (role, content), the last one the user's.
    pub messages: Vec<(String, String)>,
    pub response: String,
}

impl ScoreRequest {
    /// A question, after a system turn where there is one, and a response.
    pub fn new(system: Option<&str>, question: &str, response: &str) -> Self {
        let turn = |role: &str, text: &str| (role.to_string(), text.to_string());
        let system = system.map(|text| turn("system", text));
        let messages = system.into_iter().chain([turn("user", question)]).collect();
        Self { messages, response: response.to_string() }
    }
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

/// Work with a model itself, or with the reason why there is none.
pub type Call = Box<dyn FnOnce(Result<&LanguageModel, &RunError>) + Send>;

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

    /// The model's text side: tokenizer, chat template, configuration. No weights are loaded for it.
    fn text(&self) -> Result<Arc<TextModel>, RunError>;

    /// The same model with an adapter: its weights are shared, its digest names both. An adapter that does not fit fails
    /// on first use.
    fn adapted(&self, adapter: AdapterFile) -> Result<Arc<dyn ModelLane>, RunError>;

    /// Hands in work that uses the model itself, such as a step of training. It is done on the lane's thread, where nothing
    /// else computes meanwhile; other work has its turn between two calls. `Err` says why the model is not there.
    fn post_call(&self, call: Call) -> Result<(), RunError>;

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

impl dyn ModelLane {
    /// Has work done with the model itself and waits for what it gives.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&LanguageModel) -> Result<T, RunError> + Send + 'static,
    ) -> Result<T, RunError> {
        let (mut ticket, mut addresses) = Ticket::new(1);
        let address = addresses.pop().expect("one was asked for");
        self.post_call(Box::new(move |model| match model.map_err(Clone::clone).and_then(work) {
            Ok(given) => address.answer(given),
            Err(error) => address.fail(&error),
        }))?;
        ticket.next().expect("one result").map(|(_, given)| given)
    }
}

#[cfg(test)]
mod gguf_tests;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod real;
