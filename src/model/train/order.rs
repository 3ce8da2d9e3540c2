//! Which rows make a batch.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The order in which the rows of an epoch (counted from 0) are trained on: a function of the seed and the epoch alone.
pub fn epoch_order(rows: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut rng);
    order
}

/// How rows become optimizer steps. An epoch's last batch may be smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    pub rows: usize,
    /// Rows of a step, at least 1.
    pub batch: usize,
    /// What epochs are shuffled by; without, the rows stay in their order.
    pub shuffled: Option<u64>,
}

impl Batches {
    pub fn steps_per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.batch) as u64
    }

    /// The epoch, counted from 0, of a step counted from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch().max(1)
    }

    /// The rows of a step.
    pub fn of_step(&self, step: u64) -> Vec<usize> {
        let order = match self.shuffled {
            Some(seed) => epoch_order(self.rows, seed, self.epoch(step)),
            None => (0..self.rows).collect(),
        };
        let first = (step % self.steps_per_epoch().max(1)) as usize * self.batch;
        order.into_iter().skip(first).take(self.batch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kept as numbers: another order would change every adapter.
    #[test]
    fn orders_are_what_they_have_always_been() {
        assert_eq!(epoch_order(8, 1, 0), [3, 4, 5, 2, 7, 1, 6, 0]);
        assert_ne!(epoch_order(8, 1, 1), epoch_order(8, 1, 0));
        assert_ne!(epoch_order(8, 2, 0), epoch_order(8, 1, 0));
    }

    #[test]
    fn every_epoch_has_every_row_once() {
        for shuffled in [None, Some(5)] {
            let batches = Batches { rows: 10, batch: 4, shuffled };
            assert_eq!(batches.steps_per_epoch(), 3);
            for epoch in 0..3 {
                let mut rows: Vec<usize> = (0..3).flat_map(|i| batches.of_step(epoch * 3 + i)).collect();
                assert_eq!(batches.of_step(epoch * 3 + 2).len(), 2);
                assert_eq!(batches.epoch(epoch * 3 + 2), epoch);
                assert_eq!(rows == (0..10).collect::<Vec<_>>(), shuffled.is_none());
                rows.sort_unstable();
                assert_eq!(rows, (0..10).collect::<Vec<_>>());
            }
        }
        let batches = Batches { rows: 10, batch: 4, shuffled: Some(5) };
        assert_ne!(batches.of_step(0), batches.of_step(3));
    }
}
