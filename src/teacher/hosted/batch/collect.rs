//! Looking at a batch until it has ended, and handing out its results.

use super::super::desk::given_up;
use super::super::verdict::Verdict;
use super::format::{Complaint, Ending, Line, Shown, State};
use super::talk::{self, Unheard};
use super::{Batches, Call, Claims, Key, named, notes};
use crate::exec::RunError;
use crate::teacher::{Failure, Outcome};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// A provider that takes no more calls at once for now.
const QUEUE_FULL: &str = "token_limit_exceeded";

/// What becomes of a call after a batch.
enum Next {
    Done(Outcome),
    Again,
    Stop(RunError),
}

impl Batches {
    /// Waits for a batch and hands out what it gives, until nobody waits for it. `order` is that of its lines, where it is
    /// known.
    pub(super) async fn follow(self: &Arc<Self>, nonce: &str, id: &str, order: &[Key]) {
        let mut pause = self.desk.pace.look;
        loop {
            let shown = match self.desk.unless_ended(self.look(id)).await {
                Ok(Ok(shown)) => shown,
                Ok(Err(unheard)) => return self.fail(nonce, Claims::new(), unheard.into(), true),
                Err(error) => return self.give_up(nonce, Claims::new(), &error, true),
            };
            match shown.state {
                State::Working => {
                    let slept = self.desk.unless_ended(self.doze(&mut pause)).await;
                    if let Err(error) = slept {
                        return self.give_up(nonce, Claims::new(), &error, true);
                    }
                }
                State::Failed(complaints) => return self.refused(nonce, &complaints, order).await,
                State::Ended { results, how } => {
                    if !self.hand_out(nonce, id, &results, how).await {
                        return;
                    }
                }
            }
        }
    }

    pub(super) async fn doze(&self, pause: &mut Duration) {
        sleep(*pause).await;
        *pause = pause.mul_f64(1.5).min(self.desk.pace.seldom);
    }

    pub(super) async fn look(&self, id: &str) -> Result<Shown, Unheard> {
        let gone = |status: u16| status == 404 || status == 410;
        match talk::ask(&self.desk, || self.get(&self.format.look(id))).await {
            Ok(batch) => self
                .format
                .shown(&batch)
                .ok_or_else(|| self.strange("told of a batch in a form that is not known").into()),
            Err(Unheard::Refused { status, .. }) if gone(status) => Err(Unheard::Refused {
                status,
                error: RunError::failed(
                    "batch-gone",
                    format!("teacher `{}`: the provider knows no batch `{id}`, which holds answers", self.desk.name),
                )
                .help("the key may be of another account or project than the one that sent it")
                .help(
                    "use the key of the account that sent it (results are kept for a month); to pay for the answers \
                     again, ask without `batch=#true`",
                ),
            }),
            Err(other) => Err(other),
        }
    }

    /// Hands out results. Whether more calls have come meanwhile that wait for the same batch.
    async fn hand_out(self: &Arc<Self>, nonce: &str, id: &str, results: &[String], how: Ending) -> bool {
        let mut claims = self.state().claims.get_mut(nonce).map(std::mem::take).unwrap_or_default();
        let mut after = After::default();
        for url in results {
            let mut take = |line: Value| {
                if let Some((name, line)) = self.format.result(&line)
                    && let Some((key, of)) = named(&name)
                    && of == nonce
                    && let Some(calls) = claims.remove(&key)
                {
                    self.judge(calls, &line, &mut after);
                }
                after.stop.is_none()
            };
            let read = talk::lines(&self.desk, || self.get(url), &mut take);
            match self.desk.unless_ended(read).await {
                Ok(Ok(())) => {}
                Ok(Err(unheard)) => {
                    self.fail(nonce, claims, unheard.into(), true);
                    return self.finish(after, id);
                }
                Err(error) => {
                    self.give_up(nonce, claims, &error, true);
                    return self.finish(after, id);
                }
            }
        }
        if let Some(error) = after.stop.take() {
            self.fail(nonce, claims, error, true);
            return self.finish(after, id);
        }
        for calls in claims.into_values() {
            match how {
                Ending::Completed => self.judge_missing(calls, &mut after),
                Ending::Expired => self.judge(calls, &Line::Expired, &mut after),
                Ending::Cancelled => self.judge(calls, &Line::Cancelled, &mut after),
            }
        }
        let mut state = self.state();
        let more = state.claims.get(nonce).is_some_and(|claims| !claims.is_empty());
        if !more {
            state.claims.remove(nonce);
        }
        drop(state);
        self.finish(after, id);
        more
    }

    /// Sends again what is to be sent again, and ends the work if the batch was cancelled.
    fn finish(self: &Arc<Self>, after: After, id: &str) -> bool {
        self.again(after.again);
        // Calls that waited for others to settle may go now.
        self.flush();
        if !after.cancelled.is_empty() {
            let count = after.cancelled.len();
            let closed = after.cancelled.iter().try_for_each(|c| notes::close(&c.journal, &[(c.key, c.generation)]));
            let error = closed.err().unwrap_or_else(|| {
                let name = &self.desk.name;
                let message =
                    format!("teacher `{name}`: batch `{id}` was cancelled at the provider, {count} calls of it");
                RunError::failed("batch-cancelled", message)
                    .help("what it had answered is kept: run again, and the others are sent anew")
            });
            let error = self.desk.stop(error);
            after.cancelled.into_iter().for_each(|call| call.to.fail(&error));
        }
        false
    }

    fn judge_missing(&self, calls: Vec<Call>, after: &mut After) {
        let failure = Failure::new("server-error", "the batch has ended without a line for this call");
        let verdict = || Verdict::Again { failure: failure.clone(), most: u32::MAX, after: None };
        for mut call in calls {
            let next = self.next(&mut call, verdict());
            after.take(call, next, self);
        }
    }

    fn judge(&self, calls: Vec<Call>, line: &Line, after: &mut After) {
        // The first call has paid; the same one for another row has not.
        let mut paid = false;
        for mut call in calls {
            let verdict = match line {
                Line::Answered(reply) => {
                    let judged = self.desk.protocol.read(&call.ask, reply, &self.desk.whom());
                    let earlier = call.hold.is_none() && !paid;
                    let (verdict, usage) =
                        self.desk.book(&call.ask, judged, reply.status, call.hold.take().filter(|_| !paid));
                    if let (true, Some(usage)) = (earlier, usage) {
                        self.desk.ledger.collected(&usage);
                    }
                    verdict
                }
                Line::Expired => Verdict::again("batch-expired", "the provider had no time for the call within a day"),
                Line::Cancelled => {
                    after.cancelled.push(call);
                    continue;
                }
            };
            paid = true;
            let next = self.next(&mut call, verdict);
            after.take(call, next, self);
        }
    }

    fn next(&self, call: &mut Call, verdict: Verdict) -> Next {
        let (failure, most) = match verdict {
            Verdict::Answer(answer) => return Next::Done(Ok(answer)),
            Verdict::Row(failure) => return Next::Done(Err(failure)),
            Verdict::Stop(error) => return Next::Stop(error),
            Verdict::Again { failure, most, .. } => (failure, most),
            Verdict::Wait { why, .. } | Verdict::Unconnected(why) => (Failure::new("server-error", why), u32::MAX),
            Verdict::Rebuild => return Next::Again,
        };
        call.failed += 1;
        if call.failed > most.min(self.desk.limits.retries) {
            return Next::Done(Err(given_up(failure, call.failed)));
        }
        self.desk.ledger.count(|s| s.retried += 1);
        Next::Again
    }

    /// The provider has read a batch and does not take it; nothing was asked.
    async fn refused(self: &Arc<Self>, nonce: &str, complaints: &[Complaint], order: &[Key]) {
        let mut claims = self.state().claims.remove(nonce).unwrap_or_default();
        let calls = claims.len();
        if complaints.iter().any(|c| c.code == QUEUE_FULL) && calls > 1 {
            // Fewer at once, and later.
            {
                let mut state = self.state();
                state.most = Some(state.most.unwrap_or(usize::MAX).min(calls).div_ceil(2));
            }
            self.desk.ledger.count(|s| s.waits += 1);
            let slept = self.desk.unless_ended(sleep(self.desk.pace.seldom)).await;
            return match slept {
                Ok(()) => self.again(claims.into_values().flatten()),
                Err(error) => claims.into_values().flatten().for_each(|call| call.to.fail(&error)),
            };
        }
        for complaint in complaints {
            let key = complaint.line.and_then(|line| order.get(line));
            let Some(bad) = key.and_then(|key| claims.remove(key)) else { continue };
            let words = self.desk.wire.quote(&complaint.message);
            let failure = Failure::new("bad-request", format!("the provider refused the call: {words}"));
            for call in bad {
                self.deliver(call, Err(failure.clone()));
            }
        }
        if claims.len() < calls {
            return self.again(claims.into_values().flatten());
        }
        let words: Vec<String> = complaints.iter().map(|c| self.desk.wire.quote(&c.message)).take(3).collect();
        let name = &self.desk.name;
        let message = format!("teacher `{name}`: the provider refused a batch of {calls} calls: {}", words.join("; "));
        let keys = claims.values().flatten().map(|call| (call.key, call.generation)).collect::<Vec<_>>();
        let journal = claims.values().flatten().map(|call| call.journal.clone()).next();
        // Nothing will come of it: the next run sends them again.
        let closed = journal.map_or(Ok(()), |journal| notes::close(&journal, &keys));
        let refused = RunError::failed("batch-refused", message)
            .help("nothing of it was asked or paid; the message has the provider's words");
        let error = self.desk.stop(closed.err().unwrap_or(refused));
        claims.into_values().flatten().for_each(|call| call.to.fail(&error));
    }

    fn deliver(&self, call: Call, outcome: Outcome) {
        self.desk.ledger.count(|s| {
            s.calls += 1;
            s.failed += u64::from(outcome.is_err());
        });
        call.to.answer(outcome);
    }
}

/// What is left to do after results were handed out.
#[derive(Default)]
struct After {
    again: Vec<Call>,
    cancelled: Vec<Call>,
    stop: Option<RunError>,
}

impl After {
    fn take(&mut self, call: Call, next: Next, batches: &Batches) {
        match next {
            Next::Done(outcome) => batches.deliver(call, outcome),
            Next::Again => self.again.push(call),
            Next::Stop(error) => {
                call.to.fail(&error);
                self.stop = Some(error);
            }
        }
    }
}
