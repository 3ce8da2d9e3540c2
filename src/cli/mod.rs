//! One file per subcommand; only this folder prints.
//!
//! stdout is data, stderr is talk. Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 3 finished with
//! more quarantined rows than tolerated.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod bench;
mod check;
mod common;
mod completions;
mod cost;
mod docs;
mod fetch;
mod fetch_progress;
mod fmt;
mod graph;
mod models;
mod op;
mod plan;
mod progress;
mod report;
mod run;
mod schema;
mod store;

/// Make, choose and prove training data for language models.
#[derive(Debug, Parser)]
#[command(name = "idiolect", version, about, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Plan(plan::Args),
    Graph(graph::Args),
    Report(report::Args),
    Fmt(fmt::Args),
    Op(op::Args),
    Fetch(fetch::Args),
    Store(store::Args),
    Schema(schema::Args),
    Bench(bench::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Docs(docs::Args),
}

/// Exit codes, as promised in `--help` and the docs.
pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
pub const WRONG_INPUT: u8 = 2;
pub const QUARANTINED: u8 = 3;
/// Stopped by Ctrl-C, as shells number it.
pub const INTERRUPTED: u8 = 130;

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    // Rust ignores SIGPIPE and panics when the reader of standard output goes away (`idiolect store ls | head`).
    // SAFETY: no other thread runs yet, and the default action is installed, not a handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let code = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Graph(args) => graph::run(args),
        Command::Report(args) => report::run(args),
        Command::Fmt(args) => fmt::run(args),
        Command::Op(args) => op::run(args),
        Command::Fetch(args) => fetch::run(args),
        Command::Store(args) => store::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Docs(args) => docs::run(args),
    };
    ExitCode::from(code)
}
