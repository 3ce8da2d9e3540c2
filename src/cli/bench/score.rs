//! `idiolect bench score`.

use super::rows::RowArgs;
use super::{Loaded, ModelArgs, Work};
use crate::exec::RunError;
use crate::model::{Encoded, Scored};
use serde_json::json;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rows: RowArgs,
}

pub fn run(args: &Args) -> Result<(), RunError> {
    let requests = args.rows.read()?;
    let loaded = args.model.load()?;
    let rows = loaded.encode(&requests)?;
    score(&loaded, &rows[..rows.len().min(4)])?;

    let (scored, work) = loaded.time(|| score(&loaded, &rows))?;
    let tokens = rows.iter().map(|row| row.tokens.len() + 1).sum();
    let mean = scored.iter().map(perplexity).sum::<f64>() / rows.len() as f64;
    loaded.report(&args.model, &Work { rows: Some(rows.len()), tokens, ..work }, &[("mean_ppl", json!(mean))]);
    Ok(())
}

fn score(loaded: &Loaded, rows: &[Encoded]) -> Result<Vec<Scored>, RunError> {
    let scored = loaded.model.score(&rows.iter().collect::<Vec<_>>(), &|| false)?;
    let failed = |e| RunError::failed("model-failed", format!("a row could not be scored: {e:?}"));
    scored.into_iter().map(|row| row.map_err(failed)).collect()
}

fn perplexity(row: &Scored) -> f64 {
    let sum: f64 = row.token_nll.iter().chain([&row.end_nll]).map(|v| f64::from(*v)).sum();
    (sum / (row.token_nll.len() + 1) as f64).exp()
}
