//! `idiolect check`.

/// Checks a pipeline and reports every error.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> u8 {
    eprintln!("error: `idiolect check` is not built yet");
    super::FAILED
}
