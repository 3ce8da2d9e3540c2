//! `docs/cli.md`: every subcommand's help, as the binary prints it.

use clap::CommandFactory;
use std::fmt::Write;

const HEAD: &str = "\
# The command line

Made from the binary's own help by `idiolect docs --write`. Standard output is data, standard error is talk.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the run failed |
| 2 | the input is wrong: the command line, the pipeline, a manifest |
| 3 | done, with more rows in quarantine than tolerated |
| 130 | stopped by Ctrl-C; finished rows are kept |

";

pub fn page() -> String {
    let mut out = HEAD.to_string();
    // A fixed width, so that the page does not depend on the terminal.
    let mut root = crate::cli::Cli::command().term_width(96);
    root.build();
    section(&mut out, &mut root, "idiolect");
    out.trim_end().to_string() + "\n"
}

fn section(out: &mut String, command: &mut clap::Command, name: &str) {
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(out, "## {name}\n\n```text\n{}\n```\n\n", help.join("\n").trim_end());
    let children: Vec<String> = command
        .get_subcommands()
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
        .map(|c| c.get_name().to_string())
        .collect();
    for child in children {
        if let Some(inner) = command.find_subcommand_mut(&child) {
            section(out, inner, &format!("{name} {child}"));
        }
    }
}
