//! What a run spends on a teacher, and what it may.

use crate::config::{Budget, Price};
use crate::exec::RunError;
use crate::teacher::Usage;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// What a run has spent on a teacher so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    pub teacher: String,
    /// Calls that came to an end: with an answer, or to quarantine.
    pub calls: u64,
    /// Of these: calls without an answer.
    pub failed: u64,
    /// Calls made again because an answer was missing or useless.
    pub retried: u64,
    /// How often the provider asked to wait, and how long calls stood still for it, in seconds.
    pub waits: u64,
    pub waited_seconds: f64,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    /// US dollars; `None` where the price is unknown.
    pub money: Option<f64>,
    /// Calls whose answer was lost on the way: they may have been charged, and the budget counts the most they can
    /// cost. Their tokens and money are not in the numbers above.
    pub lost: u64,
    /// Batches that the provider still works on, and the calls in them: the next run collects them.
    pub open_batches: u64,
    pub open_calls: u64,
}

/// The books of a teacher.
pub struct Ledger {
    budget: Budget,
    price: Option<Price>,
    books: Mutex<Books>,
    /// Something that was held is free.
    freed: Notify,
}

#[derive(Default)]
struct Books {
    /// Counted against the budget.
    used: Amount,
    /// What calls on their way may cost at most.
    held: Amount,
    open: usize,
    spent: Spent,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Amount {
    tokens: u64,
    money: f64,
}

/// The most that a call can cost, held until it is known what it did cost.
pub struct Hold {
    ledger: Arc<Ledger>,
    amount: Amount,
}

impl Ledger {
    pub fn new(teacher: &str, budget: Budget, price: Option<Price>) -> Self {
        let spent = Spent { teacher: teacher.into(), money: price.map(|_| 0.0), ..Spent::default() };
        Self { budget, price, books: Mutex::new(Books { spent, ..Books::default() }), freed: Notify::new() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn spent(&self) -> Spent {
        self.books().spent.clone()
    }

    pub fn cost(&self, usage: &Usage) -> Option<f64> {
        self.price.map(|p| p.of(usage))
    }

    /// Holds the most that a call can cost, waiting for others to settle if it has to. `Err` where nothing is open and
    /// it does not fit.
    pub async fn hold(self: &Arc<Self>, most: Usage) -> Result<Hold, RunError> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(hold) = self.try_hold(most)? {
                return Ok(hold);
            }
            freed.await;
        }
    }

    /// Holds the most that a call can cost; `None` as long as others have to settle first.
    pub fn try_hold(self: &Arc<Self>, most: Usage) -> Result<Option<Hold>, RunError> {
        let amount = Amount { tokens: most.input_tokens + most.output_tokens, money: self.cost(&most).unwrap_or(0.0) };
        let mut books = self.books();
        let tokens = books.used.tokens + books.held.tokens + amount.tokens;
        let money = books.used.money + books.held.money + amount.money;
        // Sums of money are rounded a little.
        let fits = self.budget.tokens.is_none_or(|most| tokens <= most)
            && self.budget.money.is_none_or(|most| money <= most + 1e-9);
        if !fits && books.open == 0 {
            return Err(self.exhausted(&books, amount));
        }
        if !fits {
            return Ok(None);
        }
        books.held.add(amount);
        books.open += 1;
        Ok(Some(Hold { ledger: self.clone(), amount }))
    }

    fn exhausted(&self, books: &Books, next: Amount) -> RunError {
        let mut parts = Vec::new();
        if let Some(most) = self.budget.money {
            let (used, next) = (books.used.money, next.money);
            parts.push(format!("{} of {} are spent, and the next call may cost {}", usd(used), usd(most), usd(next)));
        }
        if let Some(most) = self.budget.tokens {
            let (used, next) = (books.used.tokens, next.tokens);
            parts.push(format!("{used} of {most} tokens are spent, and the next call may take {next}"));
        }
        let name = &books.spent.teacher;
        RunError::failed("budget-spent", format!("the budget of teacher `{name}` is spent: {}", parts.join("; ")))
            .help("what was answered is kept: raise `budget` and run again, and only the rest is asked for")
    }

    /// Counts what was paid outside the budget: answers of a batch that an earlier run sent.
    pub fn collected(&self, usage: &Usage) {
        let cost = self.cost(usage);
        self.books().spent.add(usage, cost);
    }

    /// Changes the counts that have nothing to do with money.
    pub fn count(&self, change: impl FnOnce(&mut Spent)) {
        change(&mut self.books().spent);
    }

    pub fn waited(&self, time: Duration) {
        self.count(|s| s.waited_seconds += time.as_secs_f64());
    }
}

impl Hold {
    /// The call cost this much.
    pub fn settle(self, usage: &Usage) {
        let cost = self.ledger.cost(usage);
        let mut books = self.ledger.books();
        books.used.add(Amount { tokens: usage.input_tokens + usage.output_tokens, money: cost.unwrap_or(0.0) });
        books.spent.add(usage, cost);
    }

    /// The answer was lost: nobody knows whether it was charged, so the budget counts the most.
    pub fn lose(self) {
        let mut books = self.ledger.books();
        books.used.add(self.amount);
        books.spent.lost += 1;
    }
}

/// Unless it was settled the call cost nothing.
impl Drop for Hold {
    fn drop(&mut self) {
        let mut books = self.ledger.books();
        books.held.tokens = books.held.tokens.saturating_sub(self.amount.tokens);
        books.held.money -= self.amount.money;
        books.open -= 1;
        if books.open == 0 {
            // What rounding left.
            books.held = Amount::default();
        }
        drop(books);
        self.ledger.freed.notify_waiters();
    }
}

impl Amount {
    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.money += other.money;
    }
}

impl Spent {
    fn add(&mut self, usage: &Usage, cost: Option<f64>) {
        self.input_tokens += usage.input_tokens;
        self.cached_tokens += usage.cached_tokens;
        self.output_tokens += usage.output_tokens;
        self.money = self.money.zip(cost).map(|(all, one)| all + one);
    }
}

/// `$1.20`; below a cent with as many digits as tell something.
pub fn usd(money: f64) -> String {
    if money == 0.0 || money >= 0.01 { format!("${money:.2}") } else { format!("${money:.6}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    fn most(input: u64, output: u64) -> Usage {
        Usage { input_tokens: input, cached_tokens: 0, output_tokens: output }
    }

    /// What a future has at once.
    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_call_waits_for_others_to_settle_and_fails_when_none_is_open() {
        let price = Price { input: 10.0, output: 30.0, cached_input: None };
        let budget = Budget { money: Some(0.01), tokens: None };
        let ledger = Arc::new(Ledger::new("t", budget, Some(price)));
        // 100 · 10/M + 200 · 30/M = 0.007.
        let first = poll(std::pin::pin!(ledger.hold(most(100, 200)))).unwrap().ok().unwrap();
        let mut second = std::pin::pin!(ledger.hold(most(100, 200)));
        assert!(poll(second.as_mut()).is_none());
        first.settle(&most(100, 50));
        let second = poll(second).unwrap().ok().unwrap();
        second.lose();
        // 0.0025 and 0.007 are counted.
        let error = poll(std::pin::pin!(ledger.hold(most(100, 0)))).unwrap().err().unwrap();
        let RunError::Failed { code, message, help } = error else { panic!() };
        assert_eq!(code, "budget-spent");
        assert_eq!(
            message,
            "the budget of teacher `t` is spent: $0.009500 of $0.01 are spent, and the next call may cost $0.001000"
        );
        assert!(help.unwrap().contains("raise `budget`"));
        let spent = ledger.spent();
        assert_eq!((spent.input_tokens, spent.output_tokens, spent.lost), (100, 50, 1));
        assert!((spent.money.unwrap() - 0.0025).abs() < 1e-12);
    }

    #[test]
    fn a_hold_that_is_dropped_costs_nothing_and_tokens_are_a_budget_too() {
        let ledger = Arc::new(Ledger::new("t", Budget { money: None, tokens: Some(100) }, None));
        drop(poll(std::pin::pin!(ledger.hold(most(50, 50)))).unwrap().ok().unwrap());
        let hold = poll(std::pin::pin!(ledger.hold(most(50, 50)))).unwrap().ok().unwrap();
        hold.settle(&most(50, 20));
        assert!(poll(std::pin::pin!(ledger.hold(most(20, 10)))).unwrap().is_ok());
        let error = poll(std::pin::pin!(ledger.hold(most(20, 20)))).unwrap().err().unwrap().to_string();
        assert!(error.contains("70 of 100 tokens are spent, and the next call may take 40"), "{error}");
        assert_eq!(ledger.spent().money, None);
    }
}
