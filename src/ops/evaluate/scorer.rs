//! A model that says how likely continuations are, as a teacher: so that likelihoods go the way of answers, journal included.

use crate::exec::RunError;
use crate::model::{ModelLane, ScoreFailure, ScoreRequest, Scored, Ticket};
use crate::store::Journal;
use crate::teacher::{Answer, Ask, Failure, Finish, Outcome, Posted, Teacher, Usage};
use crossbeam_channel::{Sender, unbounded};
use serde_json::{Value, json};
use std::sync::Arc;

/// Continuations that the model's engine chooses from.
const WINDOW: usize = 512;

type Rows = (Ticket<Result<Scored, ScoreFailure>>, Vec<crate::model::Address<Outcome>>);

/// Answers a conversation that ends in an assistant's turn with the log-likelihood of that turn.
pub struct Scorer {
    lane: Arc<dyn ModelLane>,
    waiting: Sender<Rows>,
}

impl Scorer {
    pub fn new(lane: Arc<dyn ModelLane>) -> Result<Self, RunError> {
        let (waiting, rows) = unbounded::<Rows>();
        let run = move || rows.into_iter().for_each(deliver);
        let thread = std::thread::Builder::new().name("likelihoods".into()).spawn(run);
        thread.map_err(|e| RunError::failed("no-thread", format!("cannot start a thread: {e}")))?;
        Ok(Self { lane, waiting })
    }
}

/// Hands likelihoods on as they come.
fn deliver((ticket, addresses): Rows) {
    let mut addresses: Vec<_> = addresses.into_iter().map(Some).collect();
    for scored in ticket {
        match scored {
            Ok((row, scored)) => {
                if let Some(address) = addresses.get_mut(row).and_then(Option::take) {
                    address.answer(outcome(scored));
                }
            }
            Err(error) => addresses.iter_mut().filter_map(Option::take).for_each(|address| address.fail(&error)),
        }
    }
}

fn outcome(scored: Result<Scored, ScoreFailure>) -> Outcome {
    let scored = scored.map_err(|failure| match failure {
        ScoreFailure::TooLong { tokens, limit } => {
            Failure::new("too-long", format!("prompt and choice have {tokens} tokens, and {limit} is the most"))
        }
        ScoreFailure::Empty => Failure::new("empty-response", "a choice has no tokens of its own"),
        ScoreFailure::Template(why) => {
            Failure::new("template", format!("the prompt cannot be put to the model: {why}"))
        }
        ScoreFailure::NotFinite => Failure::new("not-finite", "the model gave a likelihood that is no number"),
    })?;
    let nll: f64 = scored.token_nll.iter().copied().map(f64::from).sum();
    let tokens = scored.token_nll.len() as u64;
    let usage = Usage { input_tokens: scored.prompt_tokens.into(), cached_tokens: 0, output_tokens: tokens };
    Ok(Answer { text: json!(-nll).to_string(), finish: Finish::Stop, model: String::new(), usage, cost: None })
}

/// The log-likelihood that an answer says.
pub fn log_likelihood(answer: &Answer) -> Option<f64> {
    answer.text.parse().ok().filter(|ll: &f64| ll.is_finite())
}

impl Teacher for Scorer {
    fn submit(&self, calls: Vec<Posted>, _: &Arc<Journal>) -> Result<(), RunError> {
        let mut requests = Vec::with_capacity(calls.len());
        let mut addresses = Vec::with_capacity(calls.len());
        for Posted { ask: Ask { mut messages, .. }, to } in calls {
            let response = messages.pop().map(|(_, text)| text).unwrap_or_default();
            requests.push(ScoreRequest { messages, response });
            addresses.push(to);
        }
        let ticket = self.lane.submit_score(&requests, None)?;
        // The thread lives as long as this sender does.
        drop(self.waiting.send((ticket, addresses)));
        Ok(())
    }

    fn window(&self) -> usize {
        WINDOW
    }

    fn scope(&self) -> Option<Value> {
        Some(json!({ "likelihoods": self.lane.digest() }))
    }
}
