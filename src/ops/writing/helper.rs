//! Threads that do for the driver what may wait: reading rows, writing the journal, handing rows on.

use super::input::Batch;
use crate::exec::RunError;
use crate::model::Address;
use crate::teacher::Outcome;
use crossbeam_channel::{Sender, unbounded};
use std::thread::JoinHandle;

/// What the driver is told; failures of whoever was to do it come in place of it.
pub enum Event {
    /// The next rows; `None` at the end.
    Read(Option<Batch>),
    /// Answers are in the journal.
    Committed,
    /// Rows were handed on.
    Emitted,
    /// What became of a call.
    Answered(Outcome),
}

/// A thread that works when it is told to, and says so when it is done.
pub struct Helper<I> {
    tasks: Option<Sender<(I, Address<Event>)>>,
    thread: Option<JoinHandle<()>>,
}

impl<I: Send + 'static> Helper<I> {
    pub fn start(
        name: &str,
        mut work: impl FnMut(I) -> Result<Event, RunError> + Send + 'static,
    ) -> Result<Self, RunError> {
        let (tasks, told) = unbounded::<(I, Address<Event>)>();
        let run = move || {
            for (task, to) in told {
                match work(task) {
                    Ok(event) => to.answer(event),
                    Err(error) => to.fail(&error),
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        let thread = thread.map_err(|e| RunError::failed("no-thread", format!("cannot start a thread: {e}")))?;
        Ok(Self { tasks: Some(tasks), thread: Some(thread) })
    }

    /// Lets the thread end by itself: it may be waiting for another node.
    pub fn detached(mut self) -> Self {
        self.thread = None;
        self
    }

    pub fn tell(&self, task: I, to: Address<Event>) {
        if let Some(tasks) = &self.tasks {
            // A thread that is gone drops the address, and its driver hears of that.
            drop(tasks.send((task, to)));
        }
    }
}

impl<I> Drop for Helper<I> {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was answered when the address was dropped.
            let _ = thread.join();
        }
    }
}
