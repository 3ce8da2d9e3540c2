//! `idiolect bench generate`.

use super::rows::RowArgs;
use super::{Loaded, ModelArgs, Work};
use crate::exec::RunError;
use crate::model::{GenerateRequest, Generated, Prompted};
use serde_json::json;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rows: RowArgs,
    /// Tokens to write for every row; the end of a turn does not stop them
    #[arg(long, value_name = "N", default_value_t = 128)]
    new_tokens: u32,
}

pub fn run(args: &Args) -> Result<(), RunError> {
    let rows = args.rows.read()?;
    let loaded = args.model.load()?;
    let request = |row: crate::model::ScoreRequest, new_tokens: u32| GenerateRequest {
        ignore_end: true,
        ..GenerateRequest::greedy(row.messages, new_tokens)
    };
    write(&loaded, &[request(rows[0].clone(), args.new_tokens.min(4))])?;

    let requests: Vec<GenerateRequest> = rows.into_iter().map(|row| request(row, args.new_tokens)).collect();
    let (texts, work) = loaded.time(|| write(&loaded, &requests))?;
    let tokens = texts.iter().map(|text| text.tokens.len()).sum();
    let first: String = texts.first().map_or_else(String::new, |text| text.text.chars().take(160).collect());
    loaded.report(&args.model, &Work { rows: Some(texts.len()), tokens, ..work }, &[("first", json!(first))]);
    Ok(())
}

/// One text for every request, all at once.
fn write(loaded: &Loaded, requests: &[GenerateRequest]) -> Result<Vec<Generated>, RunError> {
    let failed = |i: usize, why: &dyn std::fmt::Debug| {
        RunError::failed("no-rows", format!("row {i} cannot be gone on from: {why:?}"))
    };
    let prompted = requests.iter().enumerate().map(|(i, request)| {
        let prompted: Result<Prompted, _> = loaded.model.text.prompted(request)?;
        prompted.map_err(|e| failed(i, &e))
    });
    let prompted: Vec<Prompted> = prompted.collect::<Result<_, RunError>>()?;
    let texts = loaded.model.generate(prompted, &|| false)?.into_iter().enumerate();
    texts.map(|(i, samples)| samples.map_err(|e| failed(i, &e)).map(|mut samples| samples.remove(0))).collect()
}
