//! `idiolect plan`.

/// Shows what a run would do, and why.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> u8 {
    eprintln!("error: `idiolect plan` is not built yet");
    super::FAILED
}
