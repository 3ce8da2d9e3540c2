//! `idiolect graph`.

/// Draws the operator graph.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> u8 {
    eprintln!("error: `idiolect graph` is not built yet");
    super::FAILED
}
