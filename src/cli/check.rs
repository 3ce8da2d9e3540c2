//! `idiolect check`.

use super::common::{Compiler, PipelineArgs};
use crate::diag;
use crate::plan::{FileDigests, PlanEnv};
use serde_json::json;

/// Checks a pipeline: every error at once, each with its place and what to do
///
/// Names, types, ranges, references, sweeps, the columns of every edge, context lengths and chat templates: all that can
/// be known before a model is loaded or a row is read. Nothing is computed, fetched or written.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  idiolect check pipelines/quickstart.kdl
  idiolect check figure.kdl -P data=files -P limit=5
  idiolect check figure.kdl --env            also secrets, files and fetched models
  idiolect check figure.kdl --json | jq '.diagnostics[].code'

Exit codes: 0 when there is no error, 2 when there is one.")]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Print the messages as JSON to standard output
    #[arg(long)]
    json: bool,
    /// Also check what only a run needs: secrets, files, fetched models
    #[arg(long)]
    env: bool,
}

pub fn run(args: Args) -> u8 {
    let mut compiler = Compiler::new();
    // Nobody sees the fingerprints of a check, so no file is read for them.
    let digests = if args.env { FileDigests::in_memory() } else { FileDigests::off() };
    let env = PlanEnv { digests, check_environment: args.env, files_must_exist: args.env, ..compiler.env(None) };
    let plan = compiler.plan(&args.pipeline, &env);
    if args.json {
        let document = json!({
            "file": args.pipeline.file,
            "ok": plan.is_some(),
            "diagnostics": diag::to_json(&compiler.diagnostics, &compiler.sources),
        });
        println!("{document:#}");
    } else {
        compiler.report();
        if let Some(plan) = &plan {
            eprintln!("{}: {} nodes, no errors", args.pipeline.file.display(), plan.nodes.len());
        }
    }
    if plan.is_some() { super::DONE } else { super::WRONG_INPUT }
}
