//! A teacher's desk: calls wait in line, a bounded number is open, and each is pursued until it has an outcome.

use super::end::End;
use super::gate::{Exhausted, Gate, Told};
use super::ledger::{Hold, Ledger};
use super::office::{First, first};
use super::pace::{Pace, jitter};
use super::protocol::{Protocol, guess, most};
use super::verdict::{Judged, Verdict, Whom};
use super::wire::{Reply, Trouble, Wire};
use crate::config::Limits;
use crate::exec::RunError;
use crate::teacher::{Answer, Ask, Failure, Finish, Outcome, Posted, Usage};
use reqwest::header::CONTENT_TYPE;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::sleep;

/// Everything that the calls of a teacher share.
pub struct Desk {
    pub name: String,
    pub model: String,
    pub limits: Limits,
    pub pace: Pace,
    pub wire: Wire,
    pub protocol: Arc<dyn Protocol>,
    pub gate: Gate,
    /// Calls go through the gate one after another, in the order in which they came to it.
    pub turn: tokio::sync::Mutex<()>,
    pub ledger: Arc<Ledger>,
    pub end: End,
    pub line: Mutex<Line>,
    /// Answers of any kind that the server gave: one that gives none is down, and not only slow at times.
    pub replies: AtomicU64,
}

/// Calls that wait, and how many are worked on.
#[derive(Default)]
pub struct Line {
    waiting: VecDeque<Posted>,
    open: usize,
}

/// What was tried for a call.
struct Tries {
    /// By reason.
    failed: Vec<(&'static str, u32)>,
    rebuilt: bool,
    /// Replies that the desk had when the call began.
    replies: u64,
}

impl Tries {
    /// Counts a failure, and says whether the call may be made again.
    fn may_go_on(&mut self, reason: &'static str, most: u32, retries: u32) -> bool {
        let at = self.failed.iter().position(|(r, _)| *r == reason).unwrap_or(self.failed.len());
        if at == self.failed.len() {
            self.failed.push((reason, 0));
        }
        self.failed[at].1 += 1;
        self.failed[at].1 <= most && self.all() <= retries
    }

    fn all(&self) -> u32 {
        self.failed.iter().map(|(_, n)| n).sum()
    }
}

impl Desk {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn whom(&self) -> Whom<'_> {
        Whom { teacher: &self.name, model: &self.model, url: self.protocol.url(), wire: &self.wire }
    }

    /// Takes calls on.
    pub fn submit(self: &Arc<Self>, calls: Vec<Posted>, runtime: &Handle) -> Result<(), RunError> {
        let mut line = self.line();
        // Looked at under the lock: what ends the desk clears the line afterwards.
        if let Some(error) = self.end.error() {
            return Err(error);
        }
        line.waiting.extend(calls);
        let more = self.limits.concurrency.saturating_sub(line.open).min(line.waiting.len());
        line.open += more;
        for _ in 0..more {
            let desk = self.clone();
            runtime.spawn(async move { desk.work().await });
        }
        Ok(())
    }

    /// Nobody is asked any more: calls that wait fail.
    pub fn close(&self, error: RunError) {
        self.end.set(error.clone());
        let waiting = std::mem::take(&mut self.line().waiting);
        waiting.into_iter().for_each(|call| call.to.fail(&error));
    }

    /// Works on calls until none waits.
    async fn work(&self) {
        loop {
            let Some(call) = self.next() else { return };
            if !call.to.is_wanted() {
                continue;
            }
            let outcome = self.pursue(&call.ask).await;
            match outcome {
                Ok(outcome) => {
                    self.ledger.count(|s| {
                        s.calls += 1;
                        s.failed += u64::from(outcome.is_err());
                    });
                    call.to.answer(outcome);
                }
                Err(error) => call.to.fail(&error),
            }
        }
    }

    fn next(&self) -> Option<Posted> {
        let mut line = self.line();
        let next = line.waiting.pop_front();
        if next.is_none() {
            line.open -= 1;
        }
        next
    }

    /// Asks until there is an outcome. `Err` concerns the teacher as a whole.
    async fn pursue(&self, ask: &Ask) -> Result<Outcome, RunError> {
        let replies = self.replies.load(Ordering::Relaxed);
        let mut tries = Tries { failed: Vec::new(), rebuilt: false, replies };
        loop {
            match self.ask_once(ask).await? {
                Verdict::Answer(answer) => return Ok(Ok(answer)),
                Verdict::Row(failure) => return Ok(Err(failure)),
                Verdict::Again { failure, most, after } => {
                    if !tries.may_go_on(failure.reason, most, self.limits.retries) {
                        return Ok(Err(given_up(failure, tries.all())));
                    }
                    self.pause(tries.all(), after).await?;
                }
                Verdict::Unconnected(why) => {
                    if !tries.may_go_on("unreachable", u32::MAX, self.limits.retries) {
                        return self.down(why, &tries);
                    }
                    self.pause(tries.all(), None).await?;
                }
                Verdict::Wait { after, why } => self.hold_back(after, &why)?,
                Verdict::Rebuild if !tries.rebuilt => tries.rebuilt = true,
                Verdict::Rebuild => {
                    return Ok(Err(Failure::new("bad-request", "the provider takes neither form of the request")));
                }
                Verdict::Stop(error) => return Err(self.stop(error)),
            }
        }
    }

    /// Ends the work of this teacher; what was the reason first stays the reason.
    pub fn stop(&self, error: RunError) -> RunError {
        self.close(error.clone());
        self.end.error().unwrap_or(error)
    }

    /// A server that cannot be reached: where nobody had an answer meanwhile, no other row will fare better.
    fn down(&self, why: String, tries: &Tries) -> Result<Outcome, RunError> {
        if self.replies.load(Ordering::Relaxed) != tries.replies {
            let failure = Failure::new("unreachable", format!("no connection: {why}"));
            return Ok(Err(given_up(failure, tries.all())));
        }
        let url = self.protocol.url();
        let message = format!("teacher `{}`: {url} cannot be reached: {why} (tried {} times)", self.name, tries.all());
        Err(self.stop(RunError::failed("teacher-unreachable", message).help(
            "check that the server runs, `base-url`, the network, and HTTPS_PROXY and NO_PROXY if a proxy is needed",
        )))
    }

    /// Waits before a call is made again: longer each time, anywhere up to the span, so that calls which failed
    /// together do not come back together.
    async fn pause(&self, failed: u32, after: Option<Duration>) -> Result<(), RunError> {
        self.ledger.count(|s| s.retried += 1);
        let span = (self.pace.first * 2_u32.saturating_pow(failed.saturating_sub(1).min(16))).min(self.pace.longest);
        let pause = span.mul_f64(jitter()).max(after.unwrap_or_default().min(self.pace.patience));
        self.unless_ended(sleep(pause)).await
    }

    fn hold_back(&self, after: Option<Duration>, why: &str) -> Result<(), RunError> {
        self.ledger.count(|s| s.waits += 1);
        match self.gate.refused(after, jitter(), Instant::now()) {
            Ok(longer) => {
                self.ledger.waited(longer);
                Ok(())
            }
            Err(Exhausted(time)) => {
                let minutes = time.as_secs().div_ceil(60);
                let message =
                    format!("teacher `{}`: the provider refuses calls for {minutes} minutes: {why}", self.name);
                Err(self.stop(
                    RunError::failed("rate-limited", message)
                        .help("what was answered is kept: run again later, and only the rest is asked for"),
                ))
            }
        }
    }

    pub async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Result<T, RunError> {
        match first(self.end.come(), work).await {
            First::Left(error) => Err(error),
            First::Right(value) => Ok(value),
        }
    }

    /// One request. Before it is sent its cost is held and the gate is passed.
    async fn ask_once(&self, ask: &Ask) -> Result<Verdict, RunError> {
        let body = self.protocol.body(ask);
        let text = serde_json::Value::Object(body.clone()).to_string();
        let most = most(ask, &body, text.len());
        let hold = match self.unless_ended(self.ledger.hold(most)).await? {
            Ok(hold) => hold,
            Err(error) => return Ok(Verdict::Stop(error)),
        };
        let guessed = guess(ask, "");
        let estimate = (guessed.input_tokens + most.output_tokens) as f64;
        self.unless_ended(self.admit(estimate)).await?;
        let request = self.wire.client().post(self.protocol.url()).header(CONTENT_TYPE, "application/json").body(text);
        let limit = Duration::from_secs_f64(self.limits.timeout);
        // What was sent is waited for: it is paid.
        let reply = match first(self.wire.send(request, limit), self.end.out_of_patience(self.pace.grace)).await {
            First::Left(reply) => reply,
            First::Right(error) => {
                hold.lose();
                return Err(error);
            }
        };
        Ok(self.settle(ask, reply, hold, estimate))
    }

    /// Waits for the gate to open.
    pub async fn admit(&self, estimate: f64) {
        let _turn = self.turn.lock().await;
        while let Err(wait) = self.gate.pass(estimate, Instant::now()) {
            sleep(wait).await;
        }
    }

    /// Judges a reply and books what it cost.
    fn settle(&self, ask: &Ask, reply: Result<Reply, Trouble>, hold: Hold, estimate: f64) -> Verdict {
        let now = Instant::now();
        let reply = match reply {
            Ok(reply) => reply,
            Err(trouble) => {
                self.gate.answered(estimate, None, Told::default(), Told::default(), now);
                match trouble {
                    Trouble::Unconnected(_) => drop(hold),
                    _ => hold.lose(),
                }
                return trouble.into();
            }
        };
        self.replies.fetch_add(1, Ordering::Relaxed);
        let judged = self.protocol.read(ask, &reply, &self.whom());
        let busy = matches!(judged.verdict, Verdict::Wait { .. });
        let (verdict, usage) = self.book(ask, judged, reply.status, Some(hold));
        let taken = usage.map(|u| (u.input_tokens + u.output_tokens) as f64);
        let (requests, tokens) = self.protocol.told(&reply.headers);
        self.gate.answered(estimate, taken, requests, tokens, now);
        if !busy {
            self.gate.accepted();
        }
        verdict
    }

    /// Books what a call cost, and completes its answer. Without a hold nothing is booked.
    pub fn book(&self, ask: &Ask, judged: Judged, status: u16, hold: Option<Hold>) -> (Verdict, Option<Usage>) {
        let Judged { verdict, mut usage } = judged;
        if let (Verdict::Answer(answer), None) = (&verdict, usage) {
            usage = Some(guess(ask, &answer.text));
        }
        match (usage, hold) {
            (Some(usage), Some(hold)) => hold.settle(&usage),
            // An answer that cannot be read was written all the same.
            (None, Some(hold)) if status == 200 && matches!(verdict, Verdict::Again { .. } | Verdict::Row(_)) => {
                hold.lose();
            }
            (_, hold) => drop(hold),
        }
        let verdict = match verdict {
            Verdict::Answer(answer) => {
                let usage = usage.unwrap_or_default();
                unless_empty(Answer { usage, cost: self.ledger.cost(&usage), ..answer })
            }
            other => other,
        };
        (verdict, usage)
    }
}

/// The last failure of a call that was made this often.
pub fn given_up(failure: Failure, tried: u32) -> Failure {
    match tried {
        0 | 1 => failure,
        _ => Failure::new(failure.reason, format!("{} (asked {tried} times)", failure.message)),
    }
}

/// An answer of nothing is asked for once more, unless there was no room for one.
fn unless_empty(answer: Answer) -> Verdict {
    if !answer.text.trim().is_empty() {
        return Verdict::Answer(answer);
    }
    match answer.finish {
        Finish::Length => Verdict::row(
            "empty-answer",
            format!("all {} tokens went into what is not the answer: raise `max-tokens`", answer.usage.output_tokens),
        ),
        Finish::Stop => {
            let failure = Failure::new("empty-answer", "the teacher gave no text");
            Verdict::Again { failure, most: 1, after: None }
        }
    }
}
