//! What is asked of a model that writes, and what it gives.

mod sampling;
mod text;

pub use sampling::Sampling;
pub(super) use sampling::{Draws, choose};
pub(super) use text::Transcript;

/// What a model is to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, (role, content), under the model's chat template.
    Messages(Vec<(String, String)>),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// A prompt and how it is to be gone on from.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    pub prompt: Prompt,
    /// How many texts are drawn.
    pub samples: u32,
    /// The most tokens of a text; the model's context bounds it too.
    pub max_new_tokens: u32,
    pub sampling: Sampling,
    /// What is drawn depends on the seed, on `row`, on the sample's number, on the position and on the model's
    /// probabilities: on nothing else, in particular not on what is generated at the same time.
    pub seed: u64,
    /// What tells this row from others under the same seed: its id, or a hash of its content.
    pub row: Vec<u8>,
    /// Texts that end a sample where they first appear; they are not part of it.
    pub stop: Vec<String>,
    /// Goes on after the end of the turn, so that the number of tokens is fixed: for measuring.
    pub ignore_end: bool,
}

impl GenerateRequest {
    /// What is wrong with the settings, if anything.
    pub fn check(&self) -> Result<(), String> {
        match self.max_new_tokens {
            0 => Err("`max-new-tokens` is 0; expected 1 or more".into()),
            _ => self.sampling.check(),
        }
    }

    /// One greedy text that answers a conversation.
    pub fn greedy(messages: Vec<(String, String)>, max_new_tokens: u32) -> Self {
        Self {
            prompt: Prompt::Messages(messages),
            samples: 1,
            max_new_tokens,
            sampling: Sampling::default(),
            seed: 0,
            row: Vec::new(),
            stop: Vec::new(),
            ignore_end: false,
        }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// As many tokens as were asked for, or as the context takes.
    Length,
    /// This stop string appeared.
    StopString(String),
}

/// A text that a model wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Without special tokens, and without the stop string that ended it.
    pub text: String,
    /// All tokens but the one that ended the turn.
    pub tokens: Vec<u32>,
    pub finish: Finish,
    /// The natural logarithm of each token's probability under the model's own distribution: at temperature 1,
    /// before anything is cut off.
    pub logprobs: Vec<f32>,
}

/// Why a request has no texts; the others go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GenerateFailure {
    /// The prompt leaves no room for a token below the limit.
    TooLong { tokens: usize, limit: usize },
    /// The chat template refused the conversation, or the prompt is none.
    Template(String),
    /// The model gave a logit that is NaN or infinite.
    NotFinite,
}

/// A request as an engine takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompted {
    pub tokens: Vec<u32>,
    /// At least one.
    pub samples: u32,
    /// The most new tokens, at least one; the context holds them.
    pub most: usize,
    pub sampling: Sampling,
    pub seed: u64,
    pub row: Vec<u8>,
    pub stop: Vec<String>,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
}
