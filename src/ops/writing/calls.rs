//! Calls between the moment that they are asked for and the moment that their answers are safe.

use super::helper::{Event, Helper};
use crate::exec::{NodeCx, RunError};
use crate::model::{Address, Mailbox};
use crate::store::{Journal, JournalStore};
use crate::teacher::{Answer, Ask, Kept, Outcome, Posted, Teacher};
use std::collections::HashMap;
use std::sync::Arc;

type Key = [u8; 16];

/// Who waits for an outcome: a row's task, and which of its calls.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub row: u64,
    pub call: usize,
}

pub type Delivery = (Place, Outcome);

/// Numbers of calls begin here; those before it are the driver's own errands.
pub const FIRST_CALL: usize = 8;

pub struct Calls {
    teacher: Arc<dyn Teacher>,
    journal: Arc<Journal>,
    /// Whether answers are worth keeping. If not they may depend on the row as well, and each call is made for itself.
    kept: bool,
    committer: Helper<Vec<(Key, Vec<u8>)>>,
    /// Calls whose outcome is not delivered yet.
    open: HashMap<usize, Call>,
    by_key: HashMap<Key, usize>,
    next: usize,
    outbox: Vec<Posted>,
    /// Calls in the outbox or with the teacher.
    unanswered: usize,
    /// Answers that no journal has yet.
    arrived: Vec<(usize, Answer)>,
    /// Answers that the journal is being given.
    committing: Vec<(usize, Answer)>,
    flushed: bool,
}

struct Call {
    key: Key,
    /// What is asked, to be kept with its answer.
    ask: Option<Ask>,
    waiting: Vec<Place>,
}

impl Calls {
    pub fn new(cx: &NodeCx, teacher: Arc<dyn Teacher>) -> Result<Self, RunError> {
        let scope = teacher.scope();
        let journal = Arc::new(match &scope {
            Some(scope) => cx.journal(scope)?,
            None => Journal::new(Box::new(Forgetful)),
        });
        let keeper = journal.clone();
        let commit = move |answers: Vec<_>| keeper.put(&answers).map(|()| Event::Committed);
        Ok(Self {
            teacher,
            journal,
            kept: scope.is_some(),
            committer: Helper::start("answers", commit)?,
            open: HashMap::new(),
            by_key: HashMap::new(),
            next: FIRST_CALL,
            outbox: Vec::new(),
            unanswered: 0,
            arrived: Vec::new(),
            committing: Vec::new(),
            flushed: false,
        })
    }

    /// Whether the teacher could do with more calls.
    pub fn has_room(&self) -> bool {
        self.unanswered < self.teacher.window().max(1)
    }

    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Whether answers have come that are not in the journal.
    pub fn is_keeping(&self) -> bool {
        !self.arrived.is_empty() || !self.committing.is_empty()
    }

    /// The answer, if the journal has it. Otherwise it will be delivered: to be asked for with [`submit`](Self::submit).
    pub fn ask(&mut self, ask: Ask, place: Place, mail: &Mailbox<Event>) -> Option<Answer> {
        let key = ask.key();
        if self.kept {
            if let Some(call) = self.by_key.get(&key).and_then(|number| self.open.get_mut(number)) {
                call.waiting.push(place);
                return None;
            }
            // What is no answer is asked for again.
            let known = self.journal.get(&key).and_then(|bytes| Kept::decode(&bytes));
            if let Some(known) = known {
                return Some(known.answer);
            }
        }
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Call { key, ask: self.kept.then(|| ask.clone()), waiting: vec![place] });
        self.by_key.insert(key, number);
        self.outbox.push(Posted { ask, to: mail.address(number).map(Event::Answered) });
        self.unanswered += 1;
        None
    }

    /// Sends off what was asked.
    pub fn submit(&mut self) -> Result<(), RunError> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        self.flushed = false;
        self.teacher.submit(std::mem::take(&mut self.outbox), &self.journal)
    }

    /// Tells the teacher, once, that nothing more is coming.
    pub fn flush(&mut self) {
        if !self.flushed && self.unanswered > 0 && !self.is_keeping() {
            self.flushed = true;
            self.teacher.flush();
        }
    }

    /// What was not sent yet is not sent at all.
    pub fn give_up_unsent(&mut self) {
        self.outbox.clear();
    }

    /// An outcome came; gives whom it may be delivered to now.
    pub fn answered(&mut self, number: usize, outcome: Outcome) -> Vec<Delivery> {
        self.unanswered -= 1;
        match outcome {
            Ok(answer) if self.kept => {
                self.arrived.push((number, answer));
                Vec::new()
            }
            outcome => self.deliver(number, &outcome),
        }
    }

    /// A call will have no outcome.
    pub fn failed(&mut self, number: usize) {
        self.unanswered -= 1;
        self.close(number);
    }

    /// Has all answers that came journalled together, if the last ones are.
    pub fn commit(&mut self, address: impl FnOnce() -> Address<Event>) {
        if self.arrived.is_empty() || !self.committing.is_empty() {
            return;
        }
        self.committing = std::mem::take(&mut self.arrived);
        let entry = |(number, answer): &(usize, Answer)| {
            let call = self.open.get(number)?;
            Some((call.key, Kept::new(call.ask.as_ref()?, answer).encode()))
        };
        let entries = self.committing.iter().filter_map(entry).collect();
        self.committer.tell(entries, address());
    }

    /// The journal has them: gives whom they are delivered to.
    pub fn committed(&mut self) -> Vec<Delivery> {
        let answers = std::mem::take(&mut self.committing);
        answers.into_iter().flat_map(|(number, answer)| self.deliver(number, &Ok(answer))).collect()
    }

    /// The journal cannot be written.
    pub fn not_committed(&mut self) {
        self.committing.clear();
        self.arrived.clear();
    }

    fn deliver(&mut self, number: usize, outcome: &Outcome) -> Vec<Delivery> {
        let waiting = self.close(number);
        waiting.into_iter().map(|place| (place, outcome.clone())).collect()
    }

    /// Forgets a call; gives who waits for it.
    fn close(&mut self, number: usize) -> Vec<Place> {
        let Some(call) = self.open.remove(&number) else { return Vec::new() };
        if self.by_key.get(&call.key) == Some(&number) {
            self.by_key.remove(&call.key);
        }
        call.waiting
    }
}

/// The journal of teachers whose answers cost nothing.
struct Forgetful;

impl JournalStore for Forgetful {
    fn get(&self, _: &Key) -> Option<Vec<u8>> {
        None
    }

    fn put(&self, _: &[(Key, Vec<u8>)]) -> Result<(), RunError> {
        Ok(())
    }
}
