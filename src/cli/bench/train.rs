//! `idiolect bench train`.

use super::rows::RowArgs;
use super::{Loaded, ModelArgs, Work};
use crate::exec::RunError;
use crate::model::adapter::{Adapter, LoraConfig};
use crate::model::decoder::Decoder;
use crate::model::train::{AdamWConfig, Example, Schedule, Shape, StepReport, Trainer, WarmUp};
use serde_json::json;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rows: RowArgs,
    /// Rows of an optimizer step
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Rank of the adapter on queries and values
    #[arg(long, value_name = "R", default_value_t = 8)]
    rank: usize,
    #[arg(long, value_name = "RATE", default_value_t = 2e-5)]
    learning_rate: f64,
    /// Compute activations a second time instead of keeping them
    #[arg(long)]
    checkpointing: bool,
}

pub fn run(args: &Args) -> Result<(), RunError> {
    if args.batch == 0 || args.rank == 0 {
        return Err(RunError::failed("no-rows", "`--batch` and `--rank` must be at least 1"));
    }
    let requests = args.rows.read()?;
    let loaded = args.model.load()?;
    let mut rows: Vec<Example> = loaded.encode(&requests)?.iter().map(Example::response).collect();
    // Rows of like length together, as the peer has them.
    rows.sort_by_key(|row| row.tokens.len());
    let (decoder, mut trainer) = (loaded.model.decoder(), trainer(args, &loaded));
    steps(&mut trainer, decoder, &rows[..rows.len().min(args.batch)], args.batch)?;

    let (reports, work) = loaded.time(|| steps(&mut trainer, decoder, &rows, args.batch))?;
    let tokens = rows.iter().map(|row| row.tokens.len()).sum();
    let losses: Vec<_> = reports.iter().map(|step| step.loss).collect();
    let work = Work { rows: Some(rows.len()), tokens, ..work };
    loaded.report(&args.model, &work, &[("batch", json!(args.batch)), ("losses", json!(losses))]);
    Ok(())
}

fn trainer(args: &Args, loaded: &Loaded) -> Trainer {
    let config = LoraConfig { rank: args.rank, alpha: 2.0 * args.rank as f64, ..LoraConfig::default() };
    let adapter = Adapter::new(config, &loaded.model.text.config, 0);
    let schedule = Schedule {
        peak: args.learning_rate,
        shape: Shape::Constant,
        steps: u64::MAX,
        warm_up_steps: 0,
        warm_up: WarmUp::default(),
    };
    let mut trainer = Trainer::new(adapter, AdamWConfig::default(), schedule);
    trainer.pass.checkpointing = args.checkpointing;
    trainer
}

fn steps(
    trainer: &mut Trainer,
    decoder: &Decoder,
    rows: &[Example],
    batch: usize,
) -> Result<Vec<StepReport>, RunError> {
    rows.chunks(batch).map(|rows| trainer.step(decoder, &rows.iter().collect::<Vec<_>>())).collect()
}
