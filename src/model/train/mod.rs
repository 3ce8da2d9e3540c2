//! Training of low-rank adapters (LoRA) on a frozen decoder.
//!
//! ```text
//! rows -> Example (tokens, which of them are labels)
//! Adapter -> PreparedAdapter (packed for the device) ─┐
//! examples ──────────────────────> pass::gradients ───┴─> loss, gradients -> clip -> AdamW -> Adapter
//! ```
//!
//! On our own kernels every number is a function of the rows, the seeds and the settings, bit for bit: not of the number
//! of threads, and not of how a batch is cut into passes, because what is summed over tokens is summed sequence by
//! sequence, in the batch's order.

pub mod lengths;
pub mod optimizer;
pub mod order;
pub mod pass;
pub mod schedule;

pub use lengths::{Fitted, Lengths, TooLong};
pub use optimizer::{AdamW, AdamWConfig, clip, norm};
pub use order::Batches;
pub use pass::{Example, Gradients, PassOptions};
pub use schedule::{Schedule, Shape, WarmUp};

use super::adapter::Adapter;
use super::decoder::Decoder;
use super::error::Result;
use crate::exec::RunError;

/// What one optimizer step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Counted from 0.
    pub step: u64,
    pub learning_rate: f64,
    /// Mean negative log-likelihood over the batch's label tokens, before the update.
    pub loss: f64,
    /// Of all adapter gradients together, before clipping.
    pub grad_norm: f64,
    pub label_tokens: usize,
    /// Tokens of the rows, labels included.
    pub tokens: usize,
}

/// An adapter in training.
///
/// Everything that a resumed run needs is in `adapter`, `optimizer` and the number of steps done; dropout is drawn from
/// `seed` and the step.
#[derive(Debug)]
pub struct Trainer {
    pub adapter: Adapter,
    pub optimizer: AdamW,
    pub schedule: Schedule,
    /// Gradients are scaled down to this norm where theirs is greater.
    pub max_norm: Option<f64>,
    pub pass: PassOptions,
    pub seed: u64,
    /// Steps done.
    pub step: u64,
}

impl Trainer {
    /// A trainer before its first step.
    pub fn new(adapter: Adapter, optimizer: AdamWConfig, schedule: Schedule) -> Self {
        let optimizer = AdamW::new(optimizer, adapter.values.len());
        let pass = PassOptions::default();
        Self { adapter, optimizer, schedule, max_norm: None, pass, seed: 0, step: 0 }
    }

    /// One optimizer step over a batch: forward, backward, update. The adapter is unchanged where it fails.
    pub fn step(&mut self, decoder: &Decoder, batch: &[&Example]) -> Result<StepReport> {
        let prepared = self.adapter.prepare(decoder)?;
        let drawn = self.seed ^ self.step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut gradients = pass::gradients(decoder, &prepared, batch, &self.pass, drawn)?;
        let grad_norm = norm(&gradients.values);
        if !(gradients.loss.is_finite() && grad_norm.is_finite()) {
            let what = format!("the loss is {} and the gradients' norm {grad_norm}", gradients.loss);
            return Err(RunError::failed("loss-not-finite", what)
                .help("lower the learning rate, warm up longer, or clip gradients to a smaller norm"));
        }
        if let Some(max_norm) = self.max_norm {
            clip(&mut gradients.values, grad_norm, max_norm);
        }
        let learning_rate = self.schedule.rate(self.step);
        self.optimizer.step(&mut self.adapter.values, &gradients.values, learning_rate);
        let report = StepReport {
            step: self.step,
            learning_rate,
            loss: gradients.loss,
            grad_norm,
            label_tokens: gradients.label_tokens,
            tokens: gradients.tokens,
        };
        self.step += 1;
        Ok(report)
    }

    /// Negative log-likelihoods of a batch's labels, summed, and their number: without dropout.
    pub fn loss(&self, decoder: &Decoder, batch: &[&Example]) -> Result<(f64, usize)> {
        pass::loss(decoder, &self.adapter.prepare(decoder)?, batch, &self.pass)
    }
}

#[cfg(test)]
mod curves;
#[cfg(test)]
mod tests;
