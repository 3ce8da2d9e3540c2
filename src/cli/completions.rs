//! `idiolect completions`.

use clap::CommandFactory;
use clap_complete::Shell;

/// Prints a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  idiolect completions bash > ~/.local/share/bash-completion/completions/idiolect
  idiolect completions zsh > ~/.zfunc/_idiolect
  idiolect completions fish > ~/.config/fish/completions/idiolect.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: Args) -> u8 {
    clap_complete::generate(args.shell, &mut super::Cli::command(), "idiolect", &mut std::io::stdout());
    super::DONE
}
