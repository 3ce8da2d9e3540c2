//! `idiolect bench generate`.

use super::rows::RowArgs;
use super::{Loaded, ModelArgs};
use crate::exec::RunError;
use crate::model::{GenerateRequest, Generated, Prompted};
use serde_json::json;
use std::time::Instant;

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
    let before = loaded.meters();
    let begin = Instant::now();
    let texts = write(&loaded, &requests)?;
    let seconds = begin.elapsed().as_secs_f64();

    let tokens: usize = texts.iter().map(|text| text.tokens.len()).sum();
    let mut report = loaded.about(&args.model);
    report.insert("rows".into(), json!(texts.len()));
    report.insert("tokens".into(), json!(tokens));
    report.insert("seconds".into(), json!(seconds));
    report.insert("rows_per_s".into(), json!(texts.len() as f64 / seconds));
    report.insert("tokens_per_s".into(), json!(tokens as f64 / seconds));
    let first: String = texts.first().map_or_else(String::new, |text| text.text.chars().take(160).collect());
    report.insert("first".into(), json!(first));
    report.insert("peak_memory_bytes".into(), json!(super::peak_memory()));
    if args.model.parts {
        report.insert("parts".into(), loaded.parts(&before, seconds));
    }
    super::print(&report, args.model.json);
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
