//! `idiolect run`.

/// Runs a pipeline.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> u8 {
    eprintln!("error: `idiolect run` is not built yet");
    super::FAILED
}
