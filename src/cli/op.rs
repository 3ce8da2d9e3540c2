//! `idiolect op`.

/// Lists and explains operators.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> u8 {
    eprintln!("error: `idiolect op` is not built yet");
    super::FAILED
}
