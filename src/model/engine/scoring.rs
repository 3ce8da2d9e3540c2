//! Rows that wait to be scored.

use crate::model::language_model::Encoded;
use crate::model::ticket::Address;
use crate::model::{ScoreFailure, Scored};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

pub(super) type ScoreAddress = Address<Result<Scored, ScoreFailure>>;

/// A row and where its score goes.
#[derive(Debug)]
pub(super) struct Row {
    pub encoded: Encoded,
    pub address: ScoreAddress,
}

/// Rows by prompt, the prompt that came first in front.
///
/// Whoever asks for a prompt's likelihoods, its rows are taken together, and the prompt is computed once. As long as
/// several callers go through the same prompts in the same order, each with a few of them waiting here, all are served at
/// the pace of the one who is ahead, and nobody waits for ever.
#[derive(Debug, Default)]
pub(super) struct Pool {
    groups: BTreeMap<u64, Group>,
    /// Which group a prompt is.
    places: HashMap<Arc<[u32]>, u64>,
    next: u64,
}

#[derive(Debug)]
struct Group {
    prompt: Arc<[u32]>,
    rows: VecDeque<Row>,
}

impl Pool {
    pub fn push(&mut self, row: Row) {
        let prompt = &row.encoded.tokens[..row.encoded.prompt];
        let number = match self.places.get(prompt) {
            Some(number) => *number,
            None => {
                let (prompt, number): (Arc<[u32]>, _) = (prompt.into(), self.next);
                self.next += 1;
                self.places.insert(prompt.clone(), number);
                self.groups.insert(number, Group { prompt, rows: VecDeque::new() });
                number
            }
        };
        let group = self.groups.get_mut(&number).expect("groups and places hold the same prompts");
        group.rows.push_back(row);
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The row that is next.
    pub fn front(&self) -> Option<&Row> {
        self.groups.values().next()?.rows.front()
    }

    /// Takes the row that is next. Rows that nobody waits for any more are dropped.
    pub fn pop(&mut self) -> Option<Row> {
        loop {
            let mut first = self.groups.first_entry()?;
            let row = first.get_mut().rows.pop_front();
            if first.get().rows.is_empty() {
                let group = first.remove();
                self.places.remove(&group.prompt);
            }
            if let Some(row) = row.filter(|row| row.address.is_wanted()) {
                return Some(row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ticket::Ticket;

    #[test]
    fn rows_of_a_prompt_come_together_and_the_oldest_prompt_first() {
        let rows = [[1, 2, 9], [1, 3, 9], [1, 2, 8], [1, 4, 9], [1, 3, 7], [1, 2, 7]];
        let (_ticket, addresses) = Ticket::new(rows.len());
        let mut pool = Pool::default();
        for (tokens, address) in rows.iter().zip(addresses) {
            pool.push(Row { encoded: Encoded { tokens: tokens.to_vec(), prompt: 2, end: 0 }, address });
        }
        // One whose caller is gone.
        let address = Ticket::new(1).1.remove(0);
        pool.push(Row { encoded: Encoded { tokens: vec![1, 3, 6], prompt: 2, end: 0 }, address });
        let mut order = Vec::new();
        while let Some(row) = pool.pop() {
            order.push(row.encoded.tokens[1..].to_vec());
        }
        assert_eq!(order, [[2, 9], [2, 8], [2, 7], [3, 9], [3, 7], [4, 9]]);
        assert!(pool.is_empty() && pool.places.is_empty());
    }
}
