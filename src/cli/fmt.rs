//! `idiolect fmt`.

use crate::config;
use crate::diag::{Diagnostic, Diagnostics, Sources, render};
use crate::syntax;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

/// Formats pipeline files in place.
///
/// Four spaces for each block, one node on a line, at most one blank line, properties as `name=value`, string values in
/// quotes. Comments stay, and what the file means does not change. A file with syntax errors is left as it is.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 done, 1 with --check if a file is not formatted, 2 a file is wrong or unreadable."
)]
pub struct Args {
    /// Files to format, and folders whose `.kdl` files to format; `-` reads standard input and writes standard output
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Change nothing: name the files that are not formatted, and exit with 1 if there are any
    #[arg(long)]
    check: bool,
}

/// What happened to one file.
enum Outcome {
    Unchanged,
    /// Written, or with `--check` to be written.
    Changed,
    /// Already reported.
    Wrong,
}

pub fn run(args: Args) -> u8 {
    let mut changed = 0usize;
    let mut wrong = false;
    let files = args.files.iter().flat_map(|named| match pipelines(named) {
        Ok(files) => files,
        Err(e) => {
            eprintln!("error: cannot read `{}`: {e}", named.display());
            wrong = true;
            Vec::new()
        }
    });
    for file in files.collect::<Vec<_>>() {
        match one(&file, args.check) {
            Outcome::Unchanged => {}
            Outcome::Changed => changed += 1,
            Outcome::Wrong => wrong = true,
        }
    }
    if args.check && changed > 0 {
        let files = if changed == 1 { "file is" } else { "files are" };
        eprintln!("{changed} {files} not formatted\n\nhint: run `idiolect fmt` on them");
    }
    match (wrong, args.check && changed > 0) {
        (true, _) => super::WRONG_INPUT,
        (_, true) => super::FAILED,
        _ => super::DONE,
    }
}

/// The file itself, or the `.kdl` files below a folder, sorted.
fn pipelines(named: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !named.is_dir() {
        return Ok(vec![named.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(named)? {
        let (entry, path) = entry.map(|e| (e.file_type(), e.path()))?;
        if entry?.is_dir() {
            found.extend(pipelines(&path)?);
        } else if path.extension().is_some_and(|e| e == "kdl") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn one(file: &Path, check: bool) -> Outcome {
    let stdin = file == Path::new("-");
    let name = if stdin { "<stdin>".to_string() } else { file.display().to_string() };
    let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
    let text = if stdin { read_stdin() } else { config::read_text(file) };
    let formatted = text.map_err(|e| diagnostics.push(e)).ok().and_then(|text| {
        let source = sources.add(name.as_str(), (!stdin).then_some(file), text.as_str());
        syntax::format(&text, source, &mut diagnostics).map(|formatted| (text, formatted))
    });
    let Some((text, formatted)) = formatted else {
        eprint!("{}", render(&diagnostics, &sources, std::io::stderr().is_terminal()));
        return Outcome::Wrong;
    };
    let changed = formatted != text;
    let written = match (check, stdin) {
        (true, _) if changed => writeln!(std::io::stdout(), "{name}"),
        (true, _) => Ok(()),
        (false, true) => std::io::stdout().write_all(formatted.as_bytes()),
        (false, false) if changed => replace(file, &formatted),
        (false, false) => Ok(()),
    };
    match written {
        Ok(()) if changed => Outcome::Changed,
        Ok(()) => Outcome::Unchanged,
        Err(e) => {
            eprintln!("error: cannot write `{name}`: {e}");
            Outcome::Wrong
        }
    }
}

fn read_stdin() -> Result<String, Diagnostic> {
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to be told that it is too much.
    let limit = syntax::MAX_BYTES as u64 + 1;
    match std::io::stdin().take(limit).read_to_end(&mut bytes) {
        Ok(_) => config::utf8(bytes, "<stdin>"),
        Err(e) => Err(Diagnostic::error("file-unreadable", format!("cannot read standard input: {e}"))),
    }
}

/// Writes beside the file and renames over it, so that a crash leaves the old text or the new one.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    // A link keeps pointing at the file that it points at.
    let file = file.canonicalize()?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().set_permissions(std::fs::metadata(&file)?.permissions())?;
    beside.as_file().sync_all()?;
    beside.persist(&file)?;
    Ok(())
}
