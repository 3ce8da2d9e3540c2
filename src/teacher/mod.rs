//! Teachers: whoever writes responses when asked with a prompt. One trait behind hosted APIs, models of the pipeline and
//! recorded answers.
//!
//! An operator makes [`Ask`]s, looks in its journal for those that were answered before, and hands the others to a
//! [`Teacher`]; answers come to their addresses as they are finished, in any order. What is asked of whom decides an answer
//! and nothing else does: [`Ask::key`] under [`Teacher::scope`] is what journals know an answer by.

pub mod hosted;
mod kept;
mod local;
mod replay;
mod staff;

pub use kept::{Kept, local_digest, record, scope};
pub use local::LocalTeacher;
pub use replay::ReplayTeacher;
pub use staff::{NoTeachers, Staff, Teachers};

use crate::exec::RunError;
use crate::model::Address;
use crate::store::Journal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One call: a conversation, and how its answer is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Turns, (role, text): perhaps `system`, then `user` and `assistant` in turn, `user` last.
    pub messages: Vec<(String, String)>,
    pub settings: Arc<Settings>,
    /// Which of the samples of the same conversation this is, from 0.
    pub sample: u32,
    /// Fixes what is drawn, where the teacher can be held to it.
    pub seed: u64,
    pub row: Arc<Row>,
}

/// The row that an ask is for: how people and recordings name it. An answer does not depend on it, unless it is
/// recorded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub id: String,
    /// What the prompt was made of, by the names of the prompt's inputs, and the row's `id`.
    pub inputs: BTreeMap<String, String>,
}

/// A key as files and people write it.
pub fn hex(key: &[u8; 16]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How an answer is drawn. What is `None` is left to the teacher: a local one is greedy, a hosted one has defaults of its
/// own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The most tokens of an answer.
    pub max_tokens: u32,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u32>,
    /// Texts that end an answer where they first appear; they are not part of it.
    pub stop: Vec<String>,
}

impl Settings {
    /// Whether the same ask always has the same answer, as far as settings say: greedy decoding.
    pub fn is_greedy(&self) -> bool {
        self.temperature == Some(0.0) || self.top_k == Some(1)
    }
}

impl Ask {
    /// What the answer depends on besides the teacher. The seed and the number of the sample count unless decoding is
    /// greedy: a second sample of the same conversation is another call.
    pub fn key(&self) -> [u8; 16] {
        let draw = if self.settings.is_greedy() { Value::Null } else { json!([self.seed, self.sample]) };
        let text = json!([self.messages, &*self.settings, draw]).to_string();
        Journal::key(&[text.as_bytes()])
    }
}

/// What a teacher wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub text: String,
    pub finish: Finish,
    /// The model as the teacher names it, with its version where it tells.
    pub model: String,
    pub usage: Usage,
    /// US dollars, where the price is known.
    pub cost: Option<f64>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The teacher was done, or a stop text appeared.
    Stop,
    /// As many tokens as were asked for: the text is cut off.
    Length,
}

/// Tokens of a call, as the teacher counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: u64,
    /// Of the input: what the provider had in its cache.
    pub cached_tokens: u64,
    pub output_tokens: u64,
}

/// Why a call has no answer, when all that may help was tried; the others go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kebab-case kind: the reason in quarantine.
    pub reason: &'static str,
    /// For people: what was expected and what came.
    pub message: String,
}

impl Failure {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What becomes of a call.
pub type Outcome = Result<Answer, Failure>;

/// A call on its way.
pub struct Posted {
    pub ask: Ask,
    pub to: Address<Outcome>,
}

/// A writer of responses, shared by the operators that ask it.
pub trait Teacher: Send + Sync {
    /// Takes calls on. Each outcome goes to its address as soon as it is there. A failure of the teacher as a whole (a key
    /// that is refused, a budget that is spent, a model that cannot be loaded, a stop) is an `Err`, here or at the
    /// addresses of all calls that it concerns.
    ///
    /// `journal` is that of [`scope`](Self::scope); a teacher that hands calls on in batches notes there where they are,
    /// so that the next process collects them and does not pay again. Answers are journalled by the caller.
    fn submit(&self, calls: Vec<Posted>, journal: &Arc<Journal>) -> Result<(), RunError>;

    /// Nothing more will be submitted before an answer has come: what waits to be sent together is to be sent now.
    fn flush(&self) {}

    /// How many calls are worth having open at once.
    fn window(&self) -> usize;

    /// The [`scope`] of the journal that keeps answers, as [`Kept`]; `None` where asking again costs nothing (recorded answers).
    fn scope(&self) -> Option<Value>;
}
