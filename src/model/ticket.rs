//! Results that are on their way: what a queue hands out for work, and where the work's results go.

use super::error::Result;
use crate::exec::RunError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A promise of as many results as there were requests. Dropping it says that nobody waits any more.
#[derive(Debug)]
pub struct Ticket<T> {
    results: Receiver<(usize, Result<T>)>,
    /// How many have not come yet.
    open: usize,
    _wanted: Wanted,
}

/// Where the result of one request goes.
pub struct Address<T> {
    /// `None` once the result was delivered.
    deliver: Option<Deliver<T>>,
    wanted: Weak<AtomicU64>,
}

/// Lives as long as somebody waits for results, and counts the steps that are made towards them.
type Wanted = Arc<AtomicU64>;

type Deliver<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// A box that results fall into as they are finished, for requests that are made one after another.
#[derive(Debug)]
pub struct Mailbox<T> {
    results: Receiver<(usize, Result<T>)>,
    to: Sender<(usize, Result<T>)>,
    wanted: Wanted,
}

impl<T: Send + 'static> Default for Mailbox<T> {
    fn default() -> Self {
        let (to, results) = channel();
        Self { results, to, wanted: Wanted::default() }
    }
}

impl<T: Send + 'static> Mailbox<T> {
    /// An address whose result comes with this number.
    pub fn address(&self, number: usize) -> Address<T> {
        Address::new(number, self.to.clone(), &self.wanted)
    }

    /// The next result, waited for no longer than this.
    pub fn wait(&self, most: Duration) -> Option<(usize, Result<T>)> {
        self.results.recv_timeout(most).ok()
    }

    /// How many steps were made towards all results, those that came included.
    pub fn steps(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// A result that is there already.
    pub fn look(&self) -> Option<(usize, Result<T>)> {
        self.results.try_recv().ok()
    }
}

impl<T: Send + 'static> Ticket<T> {
    /// A ticket, and the addresses that its results are sent to.
    pub fn new(requests: usize) -> (Self, Vec<Address<T>>) {
        let ((to, results), wanted) = (channel(), Wanted::default());
        let address = |index| Address::new(index, to.clone(), &wanted);
        let addresses = (0..requests).map(address).collect();
        (Self { results, open: requests, _wanted: wanted }, addresses)
    }

    /// A ticket for what is there already.
    pub fn ready(results: Vec<T>) -> Self {
        let (ticket, addresses) = Self::new(results.len());
        addresses.into_iter().zip(results).for_each(|(address, result)| address.answer(result));
        ticket
    }

    /// How many results have not come yet; those that have are thrown away.
    #[cfg(test)]
    pub(super) fn open(&mut self) -> usize {
        self.open -= self.results.try_iter().count();
        self.open
    }

    /// Waits for all results; they come in the order of the requests. `Err` is a failure of the whole model.
    pub fn wait(mut self) -> Result<Vec<T>> {
        let mut results: Vec<Option<T>> = (0..self.open).map(|_| None).collect();
        for one in &mut self {
            let (index, result) = one?;
            results[index] = Some(result);
        }
        Ok(results.into_iter().map(|r| r.expect("every request was answered once")).collect())
    }
}

/// Results with the numbers of their requests, as they are finished; each is waited for.
impl<T> Iterator for Ticket<T> {
    type Item = Result<(usize, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.open = self.open.checked_sub(1)?;
        Some(match self.results.recv() {
            Ok((index, result)) => result.map(|result| (index, result)),
            // All addresses are gone, and each was answered or failed.
            Err(_) => {
                self.open = 0;
                Err(RunError::failed("model-failed", "a bug in the model's code"))
            }
        })
    }
}

impl<T: 'static> Address<T> {
    /// Sends the result with this number.
    fn new(number: usize, to: Sender<(usize, Result<T>)>, wanted: &Wanted) -> Self
    where
        T: Send,
    {
        // The caller may have gone away: then nobody wants it.
        let deliver = Box::new(move |result| drop(to.send((number, result))));
        Self { deliver: Some(deliver), wanted: Arc::downgrade(wanted) }
    }

    /// An address for results of another type, which this one gets converted.
    pub fn map<S>(mut self, convert: impl FnOnce(S) -> T + Send + 'static) -> Address<S> {
        let wanted = self.wanted.clone();
        let deliver = self
            .deliver
            .take()
            .map(|deliver| -> Deliver<S> { Box::new(move |result: Result<S>| deliver(result.map(convert))) });
        Address { deliver, wanted }
    }

    /// Whether somebody waits for the result.
    pub fn is_wanted(&self) -> bool {
        self.wanted.strong_count() > 0
    }

    /// Tells whoever waits that the result is a step nearer: that a text has a token more.
    pub fn step(&self) {
        if let Some(steps) = self.wanted.upgrade() {
            steps.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn answer(mut self, result: T) {
        self.deliver(Ok(result));
    }

    pub fn fail(mut self, error: &RunError) {
        self.deliver(Err(again(error)));
    }
}

impl<T> Address<T> {
    fn deliver(&mut self, result: Result<T>) {
        if let Some(deliver) = self.deliver.take() {
            deliver(result);
        }
    }
}

/// An address that is dropped unanswered fails: whoever waits must not wait for ever.
impl<T> Drop for Address<T> {
    fn drop(&mut self) {
        self.deliver(Err(RunError::failed("model-failed", "a bug in the model's code")));
    }
}

impl<T> std::fmt::Debug for Address<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address {{ open: {} }}", self.deliver.is_some())
    }
}

/// The same error for another caller.
fn again(error: &RunError) -> RunError {
    match error {
        RunError::Interrupted => RunError::Interrupted,
        RunError::Closed => RunError::Closed,
        RunError::Failed { code, message, help } => {
            RunError::Failed { code, message: message.clone(), help: help.clone() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_as_they_are_finished_and_are_put_in_order() {
        let (mut ticket, mut addresses) = Ticket::new(3);
        addresses.remove(2).answer("c");
        addresses.remove(0).answer("a");
        assert_eq!(ticket.next().unwrap().unwrap(), (2, "c"));
        assert_eq!(ticket.next().unwrap().unwrap(), (0, "a"));
        drop(addresses);
        let error = ticket.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("a bug in the model's code") && ticket.next().is_none(), "{error}");

        let (ticket, mut addresses) = Ticket::new(2);
        addresses.pop().unwrap().answer("b");
        addresses.pop().unwrap().answer("a");
        assert_eq!(ticket.wait().unwrap(), ["a", "b"]);
        assert_eq!(Ticket::ready(vec![1, 2, 3]).wait().unwrap(), [1, 2, 3]);
        assert_eq!(Ticket::<u8>::ready(Vec::new()).wait().unwrap(), [0; 0]);
    }

    #[test]
    fn steps_are_counted_until_nobody_waits() {
        let mailbox = Mailbox::<u8>::default();
        let address = mailbox.address(0).map(|text: String| text.len() as u8);
        (0..3).for_each(|_| address.step());
        assert_eq!((mailbox.steps(), mailbox.look().is_none()), (3, true));
        drop(mailbox);
        address.step();
    }

    #[test]
    fn a_dropped_ticket_is_wanted_by_nobody() {
        let (ticket, addresses) = Ticket::<u8>::new(1);
        assert!(addresses[0].is_wanted());
        drop(ticket);
        assert!(!addresses[0].is_wanted());
        addresses.into_iter().for_each(|a| a.fail(&RunError::Interrupted));
    }
}
