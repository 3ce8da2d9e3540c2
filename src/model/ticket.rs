//! Results that are on their way: what a queue hands out for work, and where the work's results go.

use super::error::Result;
use crate::exec::RunError;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

/// A promise of as many results as there were requests. Dropping it says that nobody waits any more.
#[derive(Debug)]
pub struct Ticket<T> {
    results: Receiver<(usize, Result<T>)>,
    /// How many have not come yet.
    open: usize,
    _wanted: Arc<()>,
}

/// Where the result of one request goes.
#[derive(Debug)]
pub struct Address<T> {
    index: usize,
    to: Sender<(usize, Result<T>)>,
    wanted: Weak<()>,
}

impl<T> Ticket<T> {
    /// A ticket, and the addresses that its results are sent to.
    pub fn new(requests: usize) -> (Self, Vec<Address<T>>) {
        let ((to, results), wanted) = (channel(), Arc::new(()));
        let address = |index| Address { index, to: to.clone(), wanted: Arc::downgrade(&wanted) };
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
            // Whoever held the address was unwound.
            Err(_) => {
                self.open = 0;
                Err(RunError::failed("model-failed", "a bug in the model's code"))
            }
        })
    }
}

impl<T> Address<T> {
    /// Whether somebody waits for the result.
    pub fn is_wanted(&self) -> bool {
        self.wanted.strong_count() > 0
    }

    pub fn answer(self, result: T) {
        // The caller may have gone away: then nobody wants it.
        let _ = self.to.send((self.index, Ok(result)));
    }

    pub fn fail(self, error: &RunError) {
        let _ = self.to.send((self.index, Err(again(error))));
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
    fn a_dropped_ticket_is_wanted_by_nobody() {
        let (ticket, addresses) = Ticket::<u8>::new(1);
        assert!(addresses[0].is_wanted());
        drop(ticket);
        assert!(!addresses[0].is_wanted());
        addresses.into_iter().for_each(|a| a.fail(&RunError::Interrupted));
    }
}
