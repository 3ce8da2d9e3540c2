//! `idiolect schema`.

/// Prints the column contracts.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> u8 {
    eprintln!("error: `idiolect schema` is not built yet");
    super::FAILED
}
