//! `idiolect store`.

use super::common::{print_table, say};
use crate::exec::RunError;
use crate::plan::Fingerprint;
use crate::size;
use crate::store::gc::{GcOptions, Removed};
use crate::store::{Artifact, Found, Manifest, Store};
use clap::Subcommand;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a store is when nobody says otherwise.
pub const DEFAULT_STORE: &str = ".idiolect/store";

/// The store to work with.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreArg {
    /// Folder of finished outputs and journals
    #[arg(long = "store", value_name = "DIR", env = "IDIOLECT_STORE", default_value = DEFAULT_STORE)]
    pub path: PathBuf,
}

/// Lists, explains and cleans what is kept
///
/// The store holds every finished output under a fingerprint of what it was made of, and the finished rows of costly
/// operators. It can be deleted at any time; what it held is then computed again.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists finished outputs, the newest first
    Ls {
        #[command(flatten)]
        store: StoreArg,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Removes outputs that no recent run refers to, and the remains of killed processes
    ///
    /// An output stays while one of the last runs of any pipeline refers to it. Finished rows in journals stay, and
    /// their files are merged; with `--journals` those go that no kept run needs, also none that was stopped. Refused
    /// while a run uses the store.
    Gc {
        #[command(flatten)]
        store: StoreArg,
        /// Keep the outputs of the last N runs of each pipeline
        #[arg(long, value_name = "N", default_value_t = 5)]
        keep_runs: usize,
        /// Remove only outputs made longer ago than this: `90m`, `12h`, `30d`
        #[arg(long, value_name = "AGE", default_value = "0d", value_parser = parse_age)]
        older_than: Duration,
        /// Also check every byte of what stays, and remove what is damaged
        #[arg(long)]
        broken: bool,
        /// Also remove finished rows of costly operators that none of the kept runs needs
        #[arg(long)]
        journals: bool,
        /// Say what would go, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Says what an output was made of, back to the files that were read
    Explain {
        /// The fingerprint, or its first characters
        fingerprint: String,
        #[command(flatten)]
        store: StoreArg,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: Args) -> u8 {
    let result = match args.command {
        Command::Ls { store, json } => list(&store.path, json),
        Command::Gc { store, keep_runs, older_than, broken, journals, dry_run } => {
            clean(&store.path, &GcOptions { keep_runs, older_than, broken, journals, dry_run })
        }
        Command::Explain { fingerprint, store, json } => explain(&store.path, &fingerprint, json),
    };
    match result {
        Ok(()) => super::DONE,
        Err(error) => {
            print_error(&error);
            super::WRONG_INPUT
        }
    }
}

/// An error and what to do about it, on standard error.
pub fn print_error(error: &RunError) {
    match error {
        RunError::Failed { code, message, help } => {
            say(&format!("error[{code}]: {message}"));
            if let Some(help) = help {
                say(&format!("\nhint: {help}"));
            }
        }
        other => eprintln!("error: {other}"),
    }
}

fn parse_age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no age: write a number and `s`, `m`, `h` or `d`, such as `30d`");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

fn open(path: &Path) -> Result<Store, RunError> {
    let missing = || {
        RunError::failed("no-store", format!("there is no store at `{}`", path.display()))
            .help("`idiolect run` makes one; name another with `--store DIR` or IDIOLECT_STORE")
    };
    Store::existing(path)?.ok_or_else(missing)
}

fn list(path: &Path, as_json: bool) -> Result<(), RunError> {
    let artifacts = open(path)?.artifacts()?;
    if as_json {
        let rows: Vec<_> = artifacts.iter().map(|a| summary(&a.manifest)).collect();
        return print_json(&json!(rows));
    }
    let cells = |Artifact { manifest: m, .. }: &Artifact| {
        let made = m.created.get(..16).unwrap_or(&m.created).replace('T', " ");
        let node = format!("{}/{}", m.pipeline, m.node);
        let (rows, bytes) = (m.rows_out().to_string(), size::show(m.bytes()));
        [m.fingerprint.short().to_string(), node, m.op.clone(), rows, bytes, made]
    };
    print_table(["FINGERPRINT", "NODE", "OP", "ROWS", "SIZE", "MADE"], &[3, 4], artifacts.iter().map(cells));
    let bytes: u64 = artifacts.iter().map(|a| a.manifest.bytes()).sum();
    eprintln!("{} outputs, {}", artifacts.len(), size::show(bytes));
    Ok(())
}

fn summary(m: &Manifest) -> serde_json::Value {
    json!({
        "fingerprint": m.fingerprint, "pipeline": m.pipeline, "node": m.node.to_string(), "op": m.op,
        "rows": m.rows_out(), "quarantined": m.rejected_rows(), "bytes": m.bytes(), "created": m.created,
    })
}

fn clean(path: &Path, options: &GcOptions) -> Result<(), RunError> {
    let store = open(path)?;
    let removed = store.gc(options)?;
    for Removed { what, why, bytes } in &removed {
        println!("{what}  {}  {why}", size::show(*bytes));
    }
    let bytes = size::show(removed.iter().map(|r| r.bytes).sum());
    match (removed.len(), options.dry_run) {
        (0, _) => eprintln!("nothing to remove"),
        (n, true) => eprintln!("would free {bytes} ({n} entries)"),
        (n, false) => eprintln!("freed {bytes} ({n} entries)"),
    }
    let idle = if options.journals { Vec::new() } else { store.idle_journals(options)? };
    if !idle.is_empty() {
        let bytes = size::show(idle.iter().map(|(_, bytes)| bytes).sum());
        eprintln!(
            "{} journals ({bytes}) hold finished rows that no kept run needs: `--journals` removes them",
            idle.len()
        );
    }
    Ok(())
}

fn explain(path: &Path, prefix: &str, as_json: bool) -> Result<(), RunError> {
    let store = open(path)?;
    let print = match store.matching(prefix)?.as_slice() {
        [one] => one.clone(),
        [] => {
            return Err(RunError::failed("no-artifact", format!("no output's fingerprint begins with `{prefix}`"))
                .help("`idiolect store ls` lists what is there"));
        }
        many => {
            let names: Vec<&str> = many.iter().take(5).map(Fingerprint::short).collect();
            let what = format!("{} fingerprints begin with `{prefix}`: {}", many.len(), names.join(", "));
            return Err(RunError::failed("ambiguous-fingerprint", what).help("give more characters"));
        }
    };
    let artifact = match store.look(&print) {
        Found::Whole(artifact) => artifact,
        Found::Broken(why) => {
            return Err(RunError::failed("corrupt-artifact", format!("`{}` is damaged: {why}", print.short()))
                .help("`idiolect store gc --broken` removes it; the next run makes it again"));
        }
        Found::Missing => return Err(RunError::failed("no-artifact", format!("`{print}` was removed just now"))),
    };
    if as_json {
        return print_json(&history_json(&store, &artifact));
    }
    print_history(&store, &artifact);
    Ok(())
}

/// The artifact and, inside it, those that it was made from.
fn history_json(store: &Store, artifact: &Artifact) -> serde_json::Value {
    let m = &artifact.manifest;
    let mut value = json!(m);
    let inputs = m.inputs.iter().map(|i| {
        let made_from = store.artifact(&i.fingerprint).map(|a| history_json(store, &a));
        json!({"port": i.port, "output": i.output, "node": i.node.to_string(), "fingerprint": i.fingerprint,
            "artifact": made_from})
    });
    value["inputs"] = inputs.collect();
    value["folder"] = json!(artifact.folder());
    value
}

fn print_history(store: &Store, artifact: &Artifact) {
    let m = &artifact.manifest;
    println!("{}  {}", m.fingerprint, m.op);
    println!("  made by    `{}` of pipeline `{}`, idiolect {}, {}", m.node, m.pipeline, m.idiolect, m.created);
    for output in &m.outputs {
        let columns: Vec<String> = output.columns.iter().map(|c| format!("{} {}", c.name, c.kind)).collect();
        println!("  {:<10} {} rows: {}", output.name, output.rows, columns.join(", "));
    }
    let work = if m.tokens > 0 { format!(", {} tokens", m.tokens) } else { String::new() };
    println!("  took       {:.1} s{work}, {} in the store", m.seconds, size::show(m.bytes()));
    if !m.rejected.is_empty() {
        let reasons: Vec<String> = m.rejected.iter().map(|(r, n)| format!("{n} {r}")).collect();
        println!("  quarantine {} of {} rows: {}", m.rejected_rows(), m.rows_in, reasons.join(", "));
    }
    for entry in &m.files {
        println!("  file       {}", entry.path.strip_prefix("files/").unwrap_or(&entry.path));
    }
    println!("  lies in    {}", artifact.folder().display());
    println!("  made of");
    for (name, value) in m.ingredients.iter().filter(|(name, _)| !name.starts_with("input:")) {
        println!("    {name}  {}", shorten(value));
    }
    let mut seen = vec![m.fingerprint.clone()];
    m.inputs.iter().for_each(|i| print_input(store, i, 2, &mut seen));
}

/// One line for an input and, below it, what that was made of; an artifact that was shown before is only named.
fn print_input(store: &Store, input: &crate::store::manifest::InputRef, depth: usize, seen: &mut Vec<Fingerprint>) {
    let indent = "  ".repeat(depth);
    let head = format!("{indent}{} = {}  `{}`", input.port, input.fingerprint.short(), input.node);
    if seen.contains(&input.fingerprint) {
        println!("{head}, as above");
        return;
    }
    seen.push(input.fingerprint.clone());
    let Some(artifact) = store.artifact(&input.fingerprint) else {
        println!("{head}, no longer in the store");
        return;
    };
    let m = &artifact.manifest;
    println!("{head}  {}, {}", m.op, super::progress::rows(m.rows_out()));
    for (name, value) in m.ingredients.iter().filter(|(n, _)| n.starts_with("file:") || n.starts_with("model:")) {
        println!("{indent}  {name}  {}", shorten(value));
    }
    m.inputs.iter().for_each(|i| print_input(store, i, depth + 1, seen));
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

fn print_json(value: &serde_json::Value) -> Result<(), RunError> {
    println!("{}", serde_json::to_string_pretty(value).expect("JSON values have string keys"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(parse_age("90m").unwrap().as_secs(), 5400);
        assert_eq!(parse_age("30d").unwrap().as_secs(), 2_592_000);
        for wrong in ["", "d", "3", "3y", "-1d", "99999999999999999999d", "9é"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
    }
}
