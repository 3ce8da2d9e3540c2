//! `idiolect docs`: the pages and schemas that are made from the code.

mod commands;
mod contracts;
mod operators;

pub(super) use contracts::{dataset_contract, operator_contract};
pub(super) use operators::{operator as operator_page, template_texts};

use crate::store::write_atomically;
use std::path::{Path, PathBuf};

/// Writes the generated pages of `docs/` and the contracts of `schemas/`, or checks that they are up to date
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Args {
    /// Write what has changed
    #[arg(long)]
    write: bool,
    /// Fail when a file differs from what would be written
    #[arg(long)]
    check: bool,
}

/// Every generated file: path from the repository's root, and content.
fn files() -> Vec<(PathBuf, String)> {
    let mut files = vec![
        ("docs/operators.md".into(), operators::page()),
        ("docs/diagnostics.md".into(), crate::diag::codes::markdown()),
        ("docs/cli.md".into(), commands::page()),
        ("docs/answers.md".into(), crate::eval::answer::cases::markdown()),
    ];
    files.extend(contracts::files());
    files
}

/// Files in `schemas/` that nothing generates any more.
fn stale(files: &[(PathBuf, String)]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("schemas").into_iter().flatten().flatten().map(|e| e.path());
    let mut stale: Vec<PathBuf> =
        entries.filter(|p| p.extension().is_some_and(|e| e == "kdl") && !files.iter().any(|(f, _)| f == p)).collect();
    stale.sort();
    stale
}

pub fn run(args: Args) -> u8 {
    let files = files();
    let differs = |(path, text): &&(PathBuf, String)| std::fs::read_to_string(path).ok().as_ref() != Some(text);
    let changed: Vec<&(PathBuf, String)> = files.iter().filter(differs).collect();
    let stale = stale(&files);
    if args.check {
        for path in changed.iter().map(|(p, _)| p).chain(&stale) {
            eprintln!("error[docs-outdated]: {} is not what the code gives", path.display());
        }
        if !changed.is_empty() || !stale.is_empty() {
            eprintln!("\nhint: run `idiolect docs --write` in the repository's root and commit the result");
            return super::FAILED;
        }
        return super::DONE;
    }
    for (path, text) in changed {
        if let Err(error) = write(path, text) {
            super::store::print_error(&error);
            return super::FAILED;
        }
        eprintln!("wrote {}", path.display());
    }
    for path in stale {
        if std::fs::remove_file(&path).is_ok() {
            eprintln!("removed {}", path.display());
        }
    }
    super::DONE
}

fn write(path: &Path, text: &str) -> Result<(), crate::exec::RunError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| crate::store::io_error("create", folder, &e))?;
    }
    write_atomically(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_files_are_up_to_date() {
        for (path, text) in super::files() {
            let there = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(there == text, "{} is outdated: run `idiolect docs --write`", path.display());
        }
        assert_eq!(super::stale(&super::files()), Vec::<std::path::PathBuf>::new());
    }
}
