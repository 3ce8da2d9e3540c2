//! `idiolect fmt`.

/// Formats pipeline files.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> u8 {
    eprintln!("error: `idiolect fmt` is not built yet");
    super::FAILED
}
