//! Drives the tasks of rows over a teacher: a sliding window of open calls, answers journalled before they are used,
//! rows handed on in the order of the input.
//!
//! One loop decides everything and never waits but for news. What may wait for others (reading rows, writing the journal
//! and handing rows on) is done by a thread each, so that a call that was answered makes room for the next one at once.
//! What is held is bounded: the window's calls, and so many rows and bytes behind a row that is slow.

use super::calls::{Calls, Delivery, FIRST_CALL, Place};
use super::emit::emit;
use super::helper::{Event, Helper};
use super::input::Input;
use super::line::{Finished, Line};
use super::task::{InRow, NewRow, Step, Task};
use crate::exec::{NodeCx, RunError, TEXTS_OPEN, TOKENS_WRITTEN};
use crate::model::Mailbox;
use crate::teacher::{Ask, Failure, Outcome, Teacher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an operator makes of a row: its tasks, in the order of what they give. With several, the row of task `k` gets the
/// id `<id>#<k>`. An error sends the row to quarantine.
pub type OpenRow<'f, 't> = dyn Fn(&InRow) -> Result<Vec<Task<'t>>, Failure> + 'f;

/// Rows that may wait behind a slow one for each call of the window, and besides.
const WAITING_PER_CALL: usize = 4;
const WAITING_ROWS: usize = 1024;
/// Bytes of rows that are open or wait.
const WAITING_BYTES: u64 = 64 << 20;
/// How long finished rows may be held to be handed on together.
const HAND_ON: Duration = Duration::from_millis(100);
/// How often the driver looks whether the run is to stop, when there is no news.
const LOOK: Duration = Duration::from_millis(50);
/// How long calls that are already made are waited for when the run is to stop or the teacher has failed: they are paid.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

/// What the driver has others do.
const READ: usize = 0;
const COMMIT: usize = 1;
const EMIT: usize = 2;

/// Runs a writing operator on its first input.
pub fn drive<'t>(cx: &NodeCx, teacher: Arc<dyn Teacher>, open: &OpenRow<'_, 't>) -> Result<(), RunError> {
    drive_and(cx, teacher, open, Box::new(Ok))
}

/// What is done with finished rows before they are handed on, for work that takes a while: it is done beside the asking.
pub type Finishing = Box<dyn FnMut(Vec<Finished>) -> Result<Vec<Finished>, RunError> + Send>;

/// [`drive`], with something to be done with finished rows.
pub fn drive_and<'t>(
    cx: &NodeCx,
    teacher: Arc<dyn Teacher>,
    open: &OpenRow<'_, 't>,
    mut finishing: Finishing,
) -> Result<(), RunError> {
    let waiting_rows = teacher.window().saturating_mul(WAITING_PER_CALL).saturating_add(WAITING_ROWS);
    let host = cx.clone();
    let hand_on = move |rows| emit(&host, finishing(rows)?).map(|()| Event::Emitted);
    let driver = Driver {
        cx,
        open,
        mail: Mailbox::default(),
        input: Input::open(cx)?,
        calls: Calls::new(cx, teacher)?,
        line: Line::new(),
        waiting_rows,
        emitter: Helper::start("written", hand_on)?,
        emitting: false,
        emitted: Instant::now(),
        ending: None,
    };
    driver.run()
}

struct Driver<'d, 't> {
    cx: &'d NodeCx,
    open: &'d OpenRow<'d, 't>,
    mail: Mailbox<Event>,
    input: Input,
    calls: Calls,
    line: Line<'t>,
    /// The most rows in the line.
    waiting_rows: usize,
    emitter: Helper<Vec<Finished>>,
    emitting: bool,
    /// When rows were handed on last.
    emitted: Instant,
    /// Why no more calls are made, and until when answers are waited for.
    ending: Option<(RunError, Instant)>,
}

impl<'t> Driver<'_, 't> {
    fn run(mut self) -> Result<(), RunError> {
        loop {
            if self.cx.stopping() {
                self.end(RunError::Interrupted);
            }
            if self.ending.is_none() {
                self.open_rows();
                if let Err(error) = self.calls.submit() {
                    self.end(error);
                }
            }
            self.calls.commit(|| self.mail.address(COMMIT));
            if let Some((error, until)) = &self.ending {
                let open = self.calls.unanswered() > 0 && Instant::now() < *until;
                if !open && !self.calls.is_keeping() {
                    return Err(error.clone());
                }
            } else {
                self.hand_on();
                if self.input.is_done() && self.line.is_empty() && !self.emitting {
                    return Ok(());
                }
            }
            self.news();
        }
    }

    /// No more calls. The first reason is the one that is told, but a stop goes before what it brings about.
    fn end(&mut self, error: RunError) {
        self.calls.give_up_unsent();
        let error = if self.cx.stopping() { RunError::Interrupted } else { error };
        match &mut self.ending {
            Some((known, _)) if matches!(error, RunError::Interrupted) => *known = error,
            Some(_) => {}
            none => *none = Some((error, Instant::now() + LAST_ANSWERS)),
        }
    }

    /// Whether another row may be opened, now or when it has been read.
    fn can_open(&self) -> bool {
        let fits = self.line.len() < self.waiting_rows && self.line.bytes() < WAITING_BYTES;
        fits && self.calls.has_room() && !self.input.is_done()
    }

    fn open_rows(&mut self) {
        while self.can_open() {
            self.input.read_ahead(|| self.mail.address(READ));
            let Some((row, bytes)) = self.input.take() else { break };
            match (self.open)(&row) {
                Err(failure) => self.line.finish(row, None, bytes, Err(failure)),
                Ok(tasks) => {
                    let several = tasks.len() > 1;
                    for (sample, task) in tasks.into_iter().enumerate() {
                        self.start(row.clone(), several.then_some(sample), bytes, task);
                    }
                }
            }
        }
    }

    fn start(&mut self, row: InRow, sample: Option<usize>, bytes: u64, mut task: Task<'t>) {
        let number = self.line.next();
        match self.advance(number, &mut task, Vec::new()) {
            Advance::Asks(outcomes) => self.line.ask(row, sample, bytes, task, outcomes),
            Advance::Done(outcome) => self.line.finish(row, sample, bytes, outcome),
        }
    }

    /// Goes on with a task as far as the journal knows its answers.
    fn advance(&mut self, row: u64, task: &mut Task<'t>, mut last: Vec<Outcome>) -> Advance {
        loop {
            let asks: Vec<Ask> = match task.next(last) {
                Step::Ask(asks) => asks,
                Step::Ready(rows) => return Advance::Done(Ok(rows)),
                Step::Reject(failure) => return Advance::Done(Err(failure)),
            };
            let calls = asks.into_iter().enumerate();
            let outcomes: Vec<Option<Outcome>> =
                calls.map(|(call, ask)| self.calls.ask(ask, Place { row, call }, &self.mail).map(Ok)).collect();
            if outcomes.iter().any(Option::is_none) {
                return Advance::Asks(outcomes);
            }
            last = outcomes.into_iter().flatten().collect();
        }
    }

    fn deliver(&mut self, deliveries: Vec<Delivery>) {
        // What is asked no more needs no next step: the answer is in the journal for another run.
        if self.ending.is_some() {
            return;
        }
        for delivery in deliveries {
            let number = delivery.0.row;
            let Some((mut task, outcomes)) = self.line.deliver(delivery) else { continue };
            match self.advance(number, &mut task, outcomes) {
                Advance::Asks(outcomes) => self.line.ask_again(number, task, outcomes),
                Advance::Done(outcome) => self.line.set_finished(number, outcome),
            }
        }
    }

    /// Hands on what is ready: a batch, or what there is after a while.
    fn hand_on(&mut self) {
        let most = self.cx.options().batch_rows.max(1);
        let ready = if self.emitting { 0 } else { self.line.ready(most) };
        if ready == 0 || (ready < most && ready < self.line.len() && self.emitted.elapsed() < HAND_ON) {
            return;
        }
        self.emitting = true;
        self.emitter.tell(self.line.take(most), self.mail.address(EMIT));
    }

    /// Waits for news, and takes all that there are.
    fn news(&mut self) {
        let mut news = self.mail.look();
        if news.is_none() {
            if self.ending.is_none() && !self.can_open() {
                self.calls.flush();
            }
            news = self.mail.wait(LOOK);
        }
        while let Some((number, event)) = news {
            self.hear(number, event);
            news = self.mail.look();
        }
        self.cx.progress(self.line.finished(), None);
        // Long texts take minutes: until the first of them ends, there is nothing else to be told.
        let (open, written) = (self.calls.unanswered() as f64, self.mail.steps() as f64);
        self.cx.measured(&[(TEXTS_OPEN, open), (TOKENS_WRITTEN, written)]);
    }

    fn hear(&mut self, number: usize, event: Result<Event, RunError>) {
        match event {
            Ok(Event::Read(batch)) => self.input.arrived(batch),
            Ok(Event::Emitted) => {
                self.emitting = false;
                self.emitted = Instant::now();
            }
            Ok(Event::Committed) => {
                let deliveries = self.calls.committed();
                self.deliver(deliveries);
            }
            Ok(Event::Answered(outcome)) => {
                if let Ok(answer) = &outcome {
                    self.cx.count_tokens(answer.usage.input_tokens + answer.usage.output_tokens);
                }
                let deliveries = self.calls.answered(number, outcome);
                self.deliver(deliveries);
            }
            Err(error) => {
                match number {
                    COMMIT => self.calls.not_committed(),
                    EMIT => self.emitting = false,
                    call if call >= FIRST_CALL => self.calls.failed(call),
                    _ => {}
                }
                self.end(error);
            }
        }
    }
}

/// Where a task stands.
enum Advance {
    /// It waits for those outcomes that are `None`.
    Asks(Vec<Option<Outcome>>),
    Done(Result<Vec<NewRow>, Failure>),
}
