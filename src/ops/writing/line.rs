//! Rows in the order of the input, from the moment that they are opened until they can be handed on.

use super::calls::Delivery;
use super::task::{Cell, InRow, NewRow, Task};
use crate::teacher::{Failure, Outcome};
use std::collections::VecDeque;

/// What became of a row.
pub struct Finished {
    pub row: InRow,
    /// Which of the row's tasks it is of, where it has several.
    pub sample: Option<usize>,
    pub outcome: Result<Vec<NewRow>, Failure>,
    bytes: u64,
}

struct Open<'a> {
    row: InRow,
    sample: Option<usize>,
    bytes: u64,
    state: State<'a>,
}

enum State<'a> {
    Asking { task: Task<'a>, outcomes: Vec<Option<Outcome>>, missing: usize },
    Finished(Result<Vec<NewRow>, Failure>),
}

/// A queue that rows leave in the order that they came in.
pub struct Line<'a> {
    rows: VecDeque<Open<'a>>,
    /// The number of the first.
    first: u64,
    /// Of rows and of what is made of them.
    bytes: u64,
    finished: u64,
}

impl<'a> Line<'a> {
    pub fn new() -> Self {
        Self { rows: VecDeque::new(), first: 0, bytes: 0, finished: 0 }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many rows were finished, all together.
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// A number for the next row of the line.
    pub fn next(&self) -> u64 {
        self.first + self.rows.len() as u64
    }

    /// Takes in a row that waits for outcomes; those that are `None` will come.
    pub fn ask(
        &mut self,
        row: InRow,
        sample: Option<usize>,
        bytes: u64,
        task: Task<'a>,
        outcomes: Vec<Option<Outcome>>,
    ) {
        self.bytes += bytes;
        self.rows.push_back(Open { row, sample, bytes, state: asking(task, outcomes) });
    }

    /// Takes in a row that is finished.
    pub fn finish(&mut self, row: InRow, sample: Option<usize>, bytes: u64, outcome: Result<Vec<NewRow>, Failure>) {
        let bytes = bytes + weight(&outcome);
        self.bytes += bytes;
        self.finished += 1;
        self.rows.push_back(Open { row, sample, bytes, state: State::Finished(outcome) });
    }

    /// Puts an outcome to its row; gives the task and all outcomes when none is missing any more.
    pub fn deliver(&mut self, (place, outcome): Delivery) -> Option<(Task<'a>, Vec<Outcome>)> {
        let open = self.at(place.row)?;
        let State::Asking { outcomes, missing, .. } = &mut open.state else { return None };
        *missing -= usize::from(outcomes[place.call].replace(outcome).is_none());
        if *missing > 0 {
            return None;
        }
        // The row is told what it is next before anything else happens.
        let state = std::mem::replace(&mut open.state, State::Finished(Ok(Vec::new())));
        let State::Asking { task, outcomes, .. } = state else { return None };
        Some((task, outcomes.into_iter().flatten().collect()))
    }

    /// A row of the line asks again.
    pub fn ask_again(&mut self, number: u64, task: Task<'a>, outcomes: Vec<Option<Outcome>>) {
        if let Some(open) = self.at(number) {
            open.state = asking(task, outcomes);
        }
    }

    /// A row of the line is finished.
    pub fn set_finished(&mut self, number: u64, outcome: Result<Vec<NewRow>, Failure>) {
        let more = weight(&outcome);
        if let Some(open) = self.at(number) {
            open.bytes += more;
            open.state = State::Finished(outcome);
            self.bytes += more;
            self.finished += 1;
        }
    }

    fn at(&mut self, number: u64) -> Option<&mut Open<'a>> {
        let at = number.checked_sub(self.first)?;
        self.rows.get_mut(usize::try_from(at).ok()?)
    }

    /// How many rows at its head are finished, counted up to a number.
    pub fn ready(&self, most: usize) -> usize {
        self.rows.iter().take(most).take_while(|r| matches!(r.state, State::Finished(_))).count()
    }

    /// Lets finished rows leave, this many at most.
    pub fn take(&mut self, most: usize) -> Vec<Finished> {
        let ready = self.ready(most);
        let mut out = Vec::with_capacity(ready);
        for Open { row, sample, bytes, state } in self.rows.drain(..ready) {
            if let State::Finished(outcome) = state {
                out.push(Finished { row, sample, outcome, bytes });
            }
        }
        self.first += ready as u64;
        self.bytes -= out.iter().map(|f| f.bytes).sum::<u64>();
        out
    }
}

fn asking(task: Task<'_>, outcomes: Vec<Option<Outcome>>) -> State<'_> {
    let missing = outcomes.iter().filter(|o| o.is_none()).count();
    State::Asking { task, outcomes, missing }
}

fn weight(outcome: &Result<Vec<NewRow>, Failure>) -> u64 {
    let cell = |c: &Cell| match c {
        Cell::Text(text) => text.len() as u64,
        _ => 8,
    };
    match outcome {
        Ok(rows) => rows.iter().flat_map(|r| &r.cells).map(cell).sum(),
        Err(failure) => failure.message.len() as u64,
    }
}
