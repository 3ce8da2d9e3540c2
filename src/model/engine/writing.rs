//! Texts that are being written.

use crate::model::generate::{Draws, Finish, GenerateFailure, Generated, Prompted, Transcript, choose};
use crate::model::kernels::Sequence;
use crate::model::language_model::TextModel;
use crate::model::ticket::Address;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) type GenerateAddress = Address<Result<Vec<Generated>, GenerateFailure>>;

/// One sample of a request, from its prompt to its end.
#[derive(Debug)]
pub(super) struct Writing {
    pub request: u64,
    pub prompt: Arc<Prompted>,
    pub sample: u32,
    /// Keys and values of the first tokens of prompt and text; none while it waits.
    pub sequence: Option<Sequence>,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    transcript: Transcript,
    draws: Draws,
}

/// What a new token makes of a text.
pub(super) enum Step {
    /// Its prompt is not computed to the end.
    Waits,
    GoesOn,
    Done(Generated),
    Failed(GenerateFailure),
}

impl Writing {
    pub fn new(request: u64, prompt: Arc<Prompted>, sample: u32) -> Self {
        let draws = Draws::new(prompt.seed, &prompt.row, sample);
        let (tokens, logprobs, transcript) = Default::default();
        Self { request, prompt, sample, sequence: None, tokens, logprobs, transcript, draws }
    }

    /// Number of tokens of prompt and text.
    pub fn len(&self) -> usize {
        self.prompt.tokens.len() + self.tokens.len()
    }

    /// How many of them have keys and values.
    pub fn computed(&self) -> usize {
        self.sequence.as_ref().map_or(0, Sequence::len)
    }

    /// How many have none: one while it is written.
    pub fn open(&self) -> usize {
        self.len() - self.computed()
    }

    /// Whether nothing is written yet.
    pub fn is_new(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens of prompt and text from one position up to another.
    pub fn part(&self, from: usize, to: usize) -> Vec<u32> {
        let all = self.prompt.tokens.iter().chain(&self.tokens);
        all.skip(from).take(to.saturating_sub(from)).copied().collect()
    }

    /// Sets it back to be computed anew. `over`: the text as well, where what was written so cannot be computed again.
    pub fn set_back(&mut self, over: bool) {
        self.sequence = None;
        if over {
            *self = Self::new(self.request, self.prompt.clone(), self.sample);
        }
    }

    /// Chooses the next token from its logits.
    pub fn step(&mut self, logits: &[f32], model: &TextModel) -> Step {
        let prompt = &*self.prompt;
        let seen = [&prompt.tokens[..], &self.tokens];
        let chosen = choose(logits, &prompt.sampling, &seen, &mut self.draws, self.tokens.len());
        let Some((token, logprob)) = chosen else { return Step::Failed(GenerateFailure::NotFinite) };
        if prompt.ends.contains(&token) {
            return Step::Done(self.finished(model, None, Finish::Stop));
        }
        self.tokens.push(token);
        self.logprobs.push(logprob);
        let stop = match prompt.stop.is_empty() {
            true => None,
            false => self.transcript.push(&model.tokenizer, &self.tokens, &prompt.stop),
        };
        if let Some((text, which)) = stop {
            let finish = Finish::StopString(which.to_string());
            return Step::Done(self.finished(model, Some(text), finish));
        }
        match self.tokens.len() < prompt.most {
            true => Step::GoesOn,
            false => Step::Done(self.finished(model, None, Finish::Length)),
        }
    }

    fn finished(&self, model: &TextModel, text: Option<String>, finish: Finish) -> Generated {
        let text = text.unwrap_or_else(|| model.tokenizer.text_of(&self.tokens));
        Generated { text, tokens: self.tokens.clone(), finish, logprobs: self.logprobs.clone() }
    }
}

/// Requests with what their samples gave so far.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: HashMap<u64, Request>,
    next: u64,
}

#[derive(Debug)]
struct Request {
    address: GenerateAddress,
    samples: Vec<Option<Generated>>,
}

impl Requests {
    /// Takes a request on; gives its number.
    pub fn add(&mut self, prompt: &Prompted, address: GenerateAddress) -> u64 {
        self.next += 1;
        self.open.insert(self.next, Request { address, samples: vec![None; prompt.samples as usize] });
        self.next
    }

    /// Whether the request is open and somebody waits for it.
    pub fn is_wanted(&self, request: u64) -> bool {
        self.open.get(&request).is_some_and(|r| r.address.is_wanted())
    }

    /// A sample of the request has a token more.
    pub fn step(&self, request: u64) {
        self.open.get(&request).into_iter().for_each(|request| request.address.step());
    }

    /// Keeps a sample; answers the request with the last of them.
    pub fn finish(&mut self, request: u64, sample: u32, generated: Generated) {
        let Some(found) = self.open.get_mut(&request) else { return };
        found.samples[sample as usize] = Some(generated);
        if found.samples.iter().all(Option::is_some)
            && let Some(Request { address, samples }) = self.open.remove(&request)
        {
            address.answer(Ok(samples.into_iter().flatten().collect()));
        }
    }

    /// One sample's failure is the request's.
    pub fn fail(&mut self, request: u64, failure: GenerateFailure) {
        if let Some(request) = self.open.remove(&request) {
            request.address.answer(Err(failure));
        }
    }

    /// A request that cannot be worked on, or all of them, when there is none named.
    pub fn give_up(&mut self, request: Option<u64>, error: &crate::exec::RunError) {
        match request {
            Some(request) => {
                self.open.remove(&request).into_iter().for_each(|r| r.address.fail(error));
            }
            None => self.open.drain().for_each(|(_, r)| r.address.fail(error)),
        }
    }
}
