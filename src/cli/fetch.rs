//! `idiolect fetch`.

/// Fetches models and data sets.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> u8 {
    eprintln!("error: `idiolect fetch` is not built yet");
    super::FAILED
}
