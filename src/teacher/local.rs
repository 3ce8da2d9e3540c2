//! A model of the pipeline as a teacher.

use super::{Answer, Ask, Failure, Finish, Outcome, Posted, Teacher, Usage};
use crate::exec::RunError;
use crate::model::{self, GenerateFailure, GenerateRequest, Generated, ModelLane, Prompt, Sampling, Written};
use crate::store::Journal;
use serde_json::Value;
use std::sync::Arc;

/// Calls that the model's engine chooses from.
const WINDOW: usize = 256;

/// Writes with a model's own runtime, in its chat template: calls of all operators go through the same passes.
pub struct LocalTeacher {
    lane: Arc<dyn ModelLane>,
    name: String,
}

impl LocalTeacher {
    /// `name` is the model's in its pipeline.
    pub fn new(lane: Arc<dyn ModelLane>, name: impl Into<String>) -> Self {
        Self { lane, name: name.into() }
    }
}

impl Teacher for LocalTeacher {
    fn submit(&self, calls: Vec<Posted>, _: &Arc<Journal>) -> Result<(), RunError> {
        let requests = calls.into_iter().map(|Posted { ask, to }| {
            // Here and not where answers are delivered: that is the thread of the lane, which has passes to make.
            let (name, read) = (self.name.clone(), prompt_tokens(&*self.lane, &ask.messages));
            (request(&ask), to.map(move |written| outcome(written, name, read)))
        });
        self.lane.post_generate(requests.collect())
    }

    fn window(&self) -> usize {
        WINDOW
    }

    fn scope(&self) -> Option<Value> {
        Some(super::scope(&super::local_digest(self.lane.digest())))
    }
}

/// The tokens of the conversation's own texts.
fn prompt_tokens(lane: &dyn ModelLane, messages: &[(String, String)]) -> u64 {
    messages.iter().filter_map(|(_, text)| lane.count_tokens(text).ok()).sum::<usize>() as u64
}

fn request(ask: &Ask) -> GenerateRequest {
    let settings = &ask.settings;
    let sampling = Sampling {
        temperature: settings.temperature.unwrap_or(0.0) as f32,
        top_p: settings.top_p.unwrap_or(1.0) as f32,
        top_k: settings.top_k.unwrap_or(0),
        ..Sampling::default()
    };
    GenerateRequest {
        prompt: Prompt::Messages(ask.messages.clone()),
        samples: 1,
        max_new_tokens: settings.max_tokens,
        sampling,
        seed: ask.seed,
        // The key tells samples of the same conversation apart.
        row: ask.key().to_vec(),
        stop: settings.stop.clone(),
        ignore_end: false,
    }
}

fn outcome(written: Written, model: String, input_tokens: u64) -> Outcome {
    let mut samples = written.map_err(failure)?;
    let Generated { text, tokens, finish, .. } =
        samples.pop().ok_or_else(|| Failure::new("empty-answer", "the model gave no text"))?;
    let finish = match finish {
        model::Finish::Length => Finish::Length,
        model::Finish::Stop | model::Finish::StopString(_) => Finish::Stop,
    };
    let usage = Usage { input_tokens, cached_tokens: 0, output_tokens: tokens.len() as u64 };
    Ok(Answer { text, finish, model, usage, cost: None })
}

fn failure(failure: GenerateFailure) -> Failure {
    match failure {
        GenerateFailure::TooLong { tokens, limit } => {
            Failure::new("too-long", format!("the prompt has {tokens} tokens and leaves no room below {limit}"))
        }
        GenerateFailure::Template(why) => {
            Failure::new("template", format!("the chat template cannot take this conversation: {why}"))
        }
        GenerateFailure::NotFinite => Failure::new("not-finite", "the model gave a probability that is no number"),
    }
}
