//! All that a training needs to go on: what a checkpoint holds.

use super::log::Entry;
use crate::exec::RunError;
use crate::model::train::Trainer;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// What changes from step to step. The order of rows and what dropout draws are functions of the seed and the step.
#[derive(Debug)]
pub struct State {
    pub trainer: Trainer,
    pub log: Vec<Entry>,
    /// The adapter's values after the step with the lowest validation loss, where they are wanted.
    pub best: Option<Vec<f32>>,
}

const VALUES: &str = "values";
const FIRST: &str = "first_moments";
const SECOND: &str = "second_moments";
const BEST: &str = "best";
const LOG: &str = "log";
/// Numbers of a log's entry.
const WIDTH: usize = 8;

impl State {
    /// The state as bytes: a safetensors file.
    pub fn encode(&self) -> Result<Vec<u8>, RunError> {
        let floats = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
        let Trainer { adapter, optimizer, .. } = &self.trainer;
        let mut parts = vec![
            (VALUES, Dtype::F32, floats(&adapter.values)),
            (FIRST, Dtype::F32, floats(&optimizer.first_moments)),
            (SECOND, Dtype::F32, floats(&optimizer.second_moments)),
            (LOG, Dtype::F64, self.log.iter().flat_map(numbers).flat_map(f64::to_le_bytes).collect()),
        ];
        parts.extend(self.best.as_ref().map(|best| (BEST, Dtype::F32, floats(best))));
        let failed =
            |e: safetensors::SafeTensorError| RunError::failed("checkpoint", format!("cannot be written: {e}"));
        let views = parts.iter().map(|(name, kind, bytes)| {
            let length = bytes.len() * 8 / kind.bitsize();
            TensorView::new(*kind, vec![length], bytes).map(|view| (*name, view))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        safetensors::serialize(views, None).map_err(failed)
    }

    /// Takes over what a checkpoint holds; `None`, and nothing changed, where it does not fit.
    pub fn restore(&mut self, bytes: &[u8]) -> Option<()> {
        let tensors = SafeTensors::deserialize(bytes).ok()?;
        let values = |name: &str| -> Option<Vec<f32>> {
            let data = tensors.tensor(name).ok().filter(|t| t.dtype() == Dtype::F32)?.data().as_chunks::<4>().0;
            let values: Vec<f32> = data.iter().map(|b| f32::from_le_bytes(*b)).collect();
            (values.len() == self.trainer.adapter.values.len()).then_some(values)
        };
        let log = tensors.tensor(LOG).ok().filter(|t| t.dtype() == Dtype::F64)?;
        let numbers: Vec<f64> = log.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        let (entries, rest) = numbers.as_chunks::<WIDTH>();
        let (current, first, second) = (values(VALUES)?, values(FIRST)?, values(SECOND)?);
        let best = values(BEST);
        if !rest.is_empty() {
            return None;
        }
        self.log = entries.iter().map(entry).collect();
        self.best = best;
        let trainer = &mut self.trainer;
        trainer.adapter.values = current;
        (trainer.optimizer.first_moments, trainer.optimizer.second_moments) = (first, second);
        trainer.step = self.log.len() as u64;
        trainer.optimizer.steps = trainer.step;
        Some(())
    }
}

/// An entry as numbers: whole ones stay what they are up to 2^53, and what was not measured is NaN.
fn numbers(e: &Entry) -> [f64; WIDTH] {
    let (step, epoch, labels, tokens) = (e.step as f64, e.epoch as f64, e.label_tokens as f64, e.tokens as f64);
    [step, epoch, e.loss, e.learning_rate, e.grad_norm, labels, tokens, e.validation_loss.unwrap_or(f64::NAN)]
}

fn entry(numbers: &[f64; WIDTH]) -> Entry {
    let [step, epoch, loss, learning_rate, grad_norm, label_tokens, tokens, validation] = *numbers;
    Entry {
        step: step as u64,
        epoch: epoch as u64,
        loss,
        learning_rate,
        grad_norm,
        label_tokens: label_tokens as u64,
        tokens: tokens as u64,
        validation_loss: Some(validation).filter(|v| !v.is_nan()),
    }
}
