//! One model's work, a pass at a time: texts that are written and rows that are scored share the passes.
//!
//! ```text
//! requests ─> waiting ─> active ──┐  one token each, or a part of a prompt
//! rows ─────> pool ───────────────┴─> pass ─> logits  ─> next tokens, finished texts
//!                        prefixes ─┘      └─> labels' likelihoods
//! ```
//!
//! A pass takes a bounded number of tokens. Texts that are being written come first, then prompts of waiting texts, as far
//! as memory for their keys and values goes, and rows to score fill what is left. Whatever begins alike shares what it
//! begins with: within a pass, and with prompts of the last passes. When memory runs short, the text that began last
//! is set back and computed again later.
//!
//! None of this changes a result: with kernels that are batch-invariant a token's bits depend on the tokens before it and
//! on nothing else. With other kernels, sequences are computed one at a time.

mod pass;
mod prefixes;
mod scoring;
mod writing;

use super::error::Result;
use super::generate::{GenerateFailure, Generated, Prompted};
use super::kernels::{self, Sequence};
use super::language_model::{Encoded, LanguageModel, PASS_TOKENS};
use super::ticket::Ticket;
use super::{ScoreFailure, Scored};
use crate::exec::RunError;
use crate::size;
use pass::{Pass, Ran};
use prefixes::Prefixes;
use rayon::prelude::*;
use scoring::{Pool, Row, ScoreAddress};
use std::collections::VecDeque;
use std::sync::Arc;
use writing::{GenerateAddress, Requests, Writing};

/// What bounds an engine. It changes how fast results come and how much memory they take, never what they are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tokens of a pass.
    pub pass_tokens: usize,
    /// Texts that are written at once.
    pub texts: usize,
    /// Bytes of keys and values that are kept from pass to pass.
    pub memory: u64,
}

impl Default for Limits {
    /// Passes for a processor, and memory without bound.
    fn default() -> Self {
        Self { pass_tokens: PASS_TOKENS, texts: 256, memory: u64::MAX }
    }
}

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub passes: u64,
    /// Tokens that went through the model.
    pub computed: u64,
    /// Tokens of all finished rows and texts, prompts included: what would have been computed if nothing was shared.
    pub asked: u64,
    /// Tokens that were written.
    pub written: u64,
    /// How often a text was set back to be computed again, for lack of memory.
    pub set_back: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passes += other.passes;
        self.computed += other.computed;
        self.asked += other.asked;
        self.written += other.written;
        self.set_back += other.set_back;
    }
}

impl std::ops::Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            passes: self.passes - before.passes,
            computed: self.computed - before.computed,
            asked: self.asked - before.asked,
            written: self.written - before.written,
            set_back: self.set_back - before.set_back,
        }
    }
}

/// The work for one model, and how far it is.
#[derive(Debug, Default)]
pub struct Engine {
    pub limits: Limits,
    pool: Pool,
    requests: Requests,
    waiting: VecDeque<Writing>,
    /// In the order in which they were begun.
    active: Vec<Writing>,
    prefixes: Prefixes,
    counts: Counts,
}

impl Engine {
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes rows on.
    pub fn score(&mut self, rows: Vec<Encoded>) -> Ticket<std::result::Result<Scored, ScoreFailure>> {
        let (ticket, addresses) = Ticket::new(rows.len());
        rows.into_iter().zip(addresses).for_each(|(row, address)| self.take_row(row, address));
        ticket
    }

    /// Takes requests on.
    pub fn generate(
        &mut self,
        requests: Vec<Prompted>,
    ) -> Ticket<std::result::Result<Vec<Generated>, GenerateFailure>> {
        let (ticket, addresses) = Ticket::new(requests.len());
        requests.into_iter().zip(addresses).for_each(|(request, address)| self.take_request(request, address));
        ticket
    }

    pub(super) fn take_row(&mut self, encoded: Encoded, address: ScoreAddress) {
        self.pool.push(Row { encoded, address });
    }

    pub(super) fn take_request(&mut self, prompt: Prompted, address: GenerateAddress) {
        if prompt.samples == 0 {
            return address.answer(Ok(Vec::new()));
        }
        let (request, prompt) = (self.requests.add(&prompt, address), Arc::new(prompt));
        let samples = 0..prompt.samples;
        self.waiting.extend(samples.map(|sample| Writing::new(request, prompt.clone(), sample)));
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.pool.is_empty() && self.waiting.is_empty() && self.active.is_empty()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Answers everything with an error.
    pub(super) fn fail(&mut self, error: &RunError) {
        while let Some(row) = self.pool.pop() {
            row.address.fail(error);
        }
        self.waiting.clear();
        self.active.clear();
        // They may be what memory ran out for.
        self.prefixes = Prefixes::default();
        self.requests.give_up(None, error);
    }

    /// Lets go of all keys and values, to compute again what is needed of them: the model is about to go.
    pub(super) fn set_back(&mut self, model: &LanguageModel) {
        while self.set_back_youngest(model) {}
        self.prefixes = Prefixes::default();
    }

    fn set_back_youngest(&mut self, model: &LanguageModel) -> bool {
        let Some(mut youngest) = self.active.pop() else { return false };
        youngest.set_back(!model.decoder().batch_invariant());
        self.waiting.push_front(youngest);
        self.counts.set_back += 1;
        true
    }

    /// Computes one pass, and answers what is finished. An error is the answer to everything.
    pub fn pass(&mut self, model: &LanguageModel) -> Result<()> {
        let done = match model.decoder().batch_invariant() {
            true => self.shared_pass(model),
            false => self.pass_alone(model),
        };
        if let Err(error) = &done {
            self.fail(error);
        }
        done
    }

    fn shared_pass(&mut self, model: &LanguageModel) -> Result<()> {
        self.drop_unwanted();
        let memory = self.make_room(model);
        let mut pass = Pass::new(self.limits.pass_tokens);
        self.go_on(&mut pass);
        self.admit(model, &mut pass, memory);
        self.add_rows(&mut pass);
        self.run(model, pass)
    }

    /// Forgets texts that nobody waits for.
    fn drop_unwanted(&mut self) {
        let requests = &self.requests;
        self.active.retain(|w| requests.is_wanted(w.request));
        self.waiting.retain(|w| requests.is_wanted(w.request));
    }

    /// How many tokens each active text takes in a pass: one where the next is to be chosen, and the rest of their
    /// prompts in what the pass has left.
    fn parts(&self) -> Vec<usize> {
        let mut left = self.limits.pass_tokens;
        let mut parts: Vec<usize> = self.active.iter().map(|w| usize::from(w.open() == 1)).collect();
        left = left.saturating_sub(parts.iter().sum());
        for (part, writing) in parts.iter_mut().zip(&self.active).filter(|(part, _)| **part == 0) {
            *part = writing.open().min(left);
            left -= *part;
        }
        parts
    }

    /// Sees to it that active texts can go on. Gives the bytes that are held then.
    fn make_room(&mut self, model: &LanguageModel) -> u64 {
        loop {
            let active = || self.active.iter().filter_map(|w| w.sequence.as_ref());
            let growth: u64 = active().zip(self.parts()).map(|(sequence, part)| sequence.growth(part)).sum();
            let needed = kernels::memory(active().chain(self.prefixes.sequences())).saturating_add(growth);
            if needed <= self.limits.memory {
                return needed;
            }
            if !self.prefixes.forget_one() && (self.active.len() <= 1 || !self.set_back_youngest(model)) {
                return needed;
            }
        }
    }

    fn go_on(&mut self, pass: &mut Pass) {
        let parts = self.parts();
        for (writing, part) in std::mem::take(&mut self.active).into_iter().zip(parts) {
            match part {
                0 => self.active.push(writing),
                _ => pass.go_on(writing, part),
            }
        }
    }

    /// Begins waiting texts.
    fn admit(&mut self, model: &LanguageModel, pass: &mut Pass, mut memory: u64) {
        let bytes = |tokens: usize| model.decoder().sequence_bytes(tokens);
        while pass.left() > 0 && self.active.len() + pass.texts() < self.limits.texts {
            let Some(front) = self.waiting.pop_front() else { return };
            if let Err(error) = self.fits(model, &front) {
                self.requests.give_up(Some(front.request), &error);
                continue;
            }
            let (all, alone) = (front.part(0, front.len()), self.active.is_empty() && pass.is_empty());
            let root = self.prefixes.find(&all, all.len() - 1);
            let shared = pass.shared(&all, root);
            // Room for the text, and for the next tokens of the others.
            let others = bytes(1).saturating_mul((self.active.len() + pass.texts()) as u64);
            let own = bytes(all.len() + 1).saturating_sub(bytes(shared)).saturating_add(bytes(1));
            if !alone && memory.saturating_add(own).saturating_add(others) > self.limits.memory {
                return self.waiting.push_front(front);
            }
            memory = memory.saturating_add(own);
            pass.begin(front, all, root, shared);
        }
    }

    /// Whether a text can ever be written to its end.
    fn fits(&self, model: &LanguageModel, writing: &Writing) -> Result<()> {
        let (prompt, most) = (writing.prompt.tokens.len(), writing.prompt.most);
        let needed = model.decoder().sequence_bytes(prompt + most);
        if needed <= self.limits.memory {
            return Ok(());
        }
        let (needed, free) = (size::show(needed), size::show(self.limits.memory));
        let message = format!(
            "keys and values of a prompt of {prompt} tokens and {most} new ones need {needed}, and {free} are left for them \
             beside the weights of {}",
            model.text.path().display()
        );
        Err(RunError::failed("out-of-memory", message)
            .help("lower the number of new tokens or the model's `context`, or take a smaller dtype for its weights"))
    }

    /// Lets rows ride along.
    fn add_rows(&mut self, pass: &mut Pass) {
        while let Some(row) = self.pool.front() {
            let tokens = &row.encoded.tokens;
            // The last token of the prompt is computed again: its hidden state foretells the first label.
            let root = self.prefixes.find(tokens, row.encoded.prompt - 1);
            let shared = pass.shared(tokens, root);
            if !pass.takes(tokens.len() - shared) {
                return;
            }
            let Some(row) = self.pool.pop() else { return };
            pass.score(row, root, shared);
        }
    }

    /// Computes what was planned, and hands results out.
    fn run(&mut self, model: &LanguageModel, mut pass: Pass) -> Result<()> {
        if pass.is_empty() {
            return Ok(());
        }
        let addresses = pass.take_addresses();
        let ran = pass.run(model, &mut self.prefixes);
        self.hand_out(addresses, ran)
    }

    fn hand_out(&mut self, addresses: Vec<ScoreAddress>, ran: Result<Ran>) -> Result<()> {
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) => {
                addresses.into_iter().for_each(|address| address.fail(&error));
                return Err(error);
            }
        };
        self.counts += ran.counts;
        addresses.into_iter().zip(ran.scored).for_each(|(address, result)| address.answer(result));
        ran.written.into_iter().for_each(|(writing, step)| self.after(writing, step));
        Ok(())
    }

    fn after(&mut self, writing: Writing, step: writing::Step) {
        match step {
            writing::Step::Waits => self.active.push(writing),
            writing::Step::GoesOn => {
                self.requests.step(writing.request);
                self.active.push(writing);
            }
            writing::Step::Done(generated) => {
                self.counts.asked += writing.len() as u64;
                self.requests.finish(writing.request, writing.sample, generated);
            }
            writing::Step::Failed(failure) => self.requests.fail(writing.request, failure),
        }
    }

    /// A step of one text, and some rows, each sequence by itself.
    fn pass_alone(&mut self, model: &LanguageModel) -> Result<()> {
        self.drop_unwanted();
        if self.active.is_empty()
            && let Some(mut next) = self.waiting.pop_front()
        {
            match self.fits(model, &next) {
                Ok(()) => {
                    next.sequence = Some(model.decoder().sequence());
                    self.active.push(next);
                }
                Err(error) => self.requests.give_up(Some(next.request), &error),
            }
        }
        if let Some(writing) = self.active.pop() {
            let mut pass = Pass::new(usize::MAX);
            let open = writing.open();
            pass.go_on(writing, open);
            self.run(model, pass)?;
        }
        self.score_alone(model)
    }

    /// On a processor, whole sequences are what cores can share out; a GPU takes one after the other.
    fn score_alone(&mut self, model: &LanguageModel) -> Result<()> {
        let threads = if model.on_cpu() { rayon::current_num_threads() } else { 1 };
        let (mut rows, mut tokens) = (Vec::new(), 0);
        while tokens < self.limits.pass_tokens.saturating_mul(threads)
            && let Some(row) = self.pool.pop()
        {
            tokens += row.encoded.tokens.len();
            rows.push(row);
        }
        let alone = |row: Row| {
            let mut pass = Pass::new(usize::MAX);
            pass.score(row, None, 0);
            (pass.take_addresses(), pass.run(model, &mut Prefixes::default()))
        };
        let ran: Vec<_> = match threads {
            1 => rows.into_iter().map(alone).collect(),
            _ => rows.into_par_iter().map(alone).collect(),
        };
        // All are answered, whichever failed.
        let done: Vec<Result<()>> = ran.into_iter().map(|(addresses, ran)| self.hand_out(addresses, ran)).collect();
        done.into_iter().collect()
    }
}

/// Work that a caller has in hand, without a queue.
impl LanguageModel {
    /// Scores encoded rows, in their order. `stopping` is asked between passes.
    pub fn score(
        &self,
        rows: &[&Encoded],
        stopping: &dyn Fn() -> bool,
    ) -> Result<Vec<std::result::Result<Scored, ScoreFailure>>> {
        let mut engine = self.engine();
        let ticket = engine.score(rows.iter().map(|row| (*row).clone()).collect());
        self.work_off(&mut engine, stopping)?;
        ticket.wait()
    }

    /// Generates texts for requests, in their order.
    pub fn generate(
        &self,
        requests: Vec<Prompted>,
        stopping: &dyn Fn() -> bool,
    ) -> Result<Vec<std::result::Result<Vec<Generated>, GenerateFailure>>> {
        let mut engine = self.engine();
        let ticket = engine.generate(requests);
        self.work_off(&mut engine, stopping)?;
        ticket.wait()
    }

    fn engine(&self) -> Engine {
        Engine::new(Limits { pass_tokens: self.pass_tokens(), ..Limits::default() })
    }

    /// Runs passes until there is nothing left to do.
    pub fn work_off(&self, engine: &mut Engine, stopping: &dyn Fn() -> bool) -> Result<()> {
        while !engine.is_idle() {
            match stopping() {
                true => return Err(RunError::Interrupted),
                false => engine.pass(self)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
