//! `idiolect bench score`.

use super::rows::RowArgs;
use super::{Loaded, ModelArgs};
use crate::exec::RunError;
use crate::model::{Encoded, Scored};
use serde_json::json;
use std::time::Instant;

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

    let before = loaded.meters();
    let begin = Instant::now();
    let scored = score(&loaded, &rows)?;
    let seconds = begin.elapsed().as_secs_f64();

    let tokens: usize = rows.iter().map(|row| row.tokens.len() + 1).sum();
    let mut report = loaded.about(&args.model);
    report.insert("rows".into(), json!(rows.len()));
    report.insert("tokens".into(), json!(tokens));
    report.insert("seconds".into(), json!(seconds));
    report.insert("rows_per_s".into(), json!(rows.len() as f64 / seconds));
    report.insert("tokens_per_s".into(), json!(tokens as f64 / seconds));
    report.insert("mean_ppl".into(), json!(scored.iter().map(perplexity).sum::<f64>() / rows.len() as f64));
    report.insert("peak_memory_bytes".into(), json!(super::peak_memory()));
    if args.model.parts {
        report.insert("parts".into(), loaded.parts(&before, seconds));
    }
    super::print(&report, args.model.json);
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
