//! `idiolect store`.

/// Looks into the store.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> u8 {
    eprintln!("error: `idiolect store` is not built yet");
    super::FAILED
}
