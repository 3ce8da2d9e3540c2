//! `idiolect bench prefill` and `idiolect bench decode`: one sequence, without sampling or text.

use super::{ModelArgs, Work};
use crate::exec::RunError;
use crate::model::LanguageModel;
use crate::model::kernels::{Packing, Sequence};
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens to read or to write
    #[arg(long, value_name = "N", default_value_t = 512)]
    tokens: usize,
    /// Times to measure; the fastest counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeat: usize,
}

/// Tokens that a sequence is begun with before writing is timed.
const BEGUN: usize = 8;

pub fn prefill(args: &Args) -> Result<(), RunError> {
    measure(args, |model, tokens| {
        let begin = Instant::now();
        step(model, &mut model.decoder().sequence(), tokens)?;
        Ok(begin.elapsed().as_secs_f64())
    })
}

pub fn decode(args: &Args) -> Result<(), RunError> {
    measure(args, |model, tokens| {
        let mut sequence = model.decoder().sequence();
        step(model, &mut sequence, &tokens[..BEGUN.min(tokens.len())])?;
        let begin = Instant::now();
        for token in tokens {
            step(model, &mut sequence, &[*token])?;
        }
        Ok(begin.elapsed().as_secs_f64())
    })
}

/// Appends tokens to a sequence and computes the logits that the next token is chosen from.
fn step(model: &LanguageModel, sequence: &mut Sequence, tokens: &[u32]) -> Result<(), RunError> {
    let mut packing = Packing::default();
    packing.go_on(tokens.len(), sequence.len());
    let last = tokens.len() as u32 - 1;
    let hidden = model.decoder().pass(tokens, &packing, &mut [Some(sequence)]);
    let logits = hidden.and_then(|hidden| model.decoder().logits(&hidden, &[last]));
    logits.map(|_| ()).map_err(|e| RunError::failed("model-failed", format!("{} tokens: {e}", tokens.len())))
}

fn measure(args: &Args, once: impl Fn(&LanguageModel, &[u32]) -> Result<f64, RunError>) -> Result<(), RunError> {
    if args.tokens == 0 || args.repeat == 0 {
        return Err(RunError::failed("no-rows", "`--tokens` and `--repeat` must be at least 1"));
    }
    let loaded = args.model.load()?;
    let vocabulary = loaded.model.text.config.vocab_size;
    // A stride that is prime to any usual vocabulary: all tokens differ for long.
    let tokens: Vec<u32> = (0..args.tokens).map(|i| ((7919 * i + 100) % vocabulary) as u32).collect();
    once(&loaded.model, &tokens)?;
    let (fastest, work) = loaded.time(|| {
        let mut times = (0..args.repeat).map(|_| once(&loaded.model, &tokens));
        times.try_fold(f64::INFINITY, |fastest, seconds| Ok(seconds?.min(fastest)))
    })?;
    loaded.report(&args.model, &Work { tokens: args.tokens, seconds: fastest, ..work }, &[]);
    Ok(())
}
