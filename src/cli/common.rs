//! What subcommands that read a pipeline share: the file and its parameters, compiling, messages.

use crate::diag::{self, Diagnostics, Sources};
use crate::graph::{self, Graph};
use crate::plan::{self, FileDigests, Plan, PlanEnv};
use crate::{config, fetch};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unicode_width::UnicodeWidthStr;

/// A pipeline file and the parameters that the command line sets.
#[derive(Debug, Clone, clap::Args)]
pub struct PipelineArgs {
    /// The pipeline file
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Set a parameter, such as `-P limit=5`; the items of a list are separated by commas
    #[arg(short = 'P', value_name = "NAME=VALUE", value_parser = parse_override)]
    pub param: Vec<(String, String)>,
}

pub fn parse_override(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

/// Compiles pipelines and keeps what there is to say about them.
#[derive(Default)]
pub struct Compiler {
    pub sources: Sources,
    pub diagnostics: Diagnostics,
}

impl Compiler {
    pub fn new() -> Self {
        Self::default()
    }

    /// A planner's environment: models and data sets by the manifests known here, file digests remembered in `store`
    /// when there is one.
    pub fn env(&mut self, store: Option<&Path>) -> PlanEnv {
        let fetcher = Arc::new(fetch::open(&mut self.sources, &mut self.diagnostics));
        let mut env = PlanEnv::new(fetcher.clone());
        env.datasets = Some(fetcher);
        if let Some(store) = store {
            env.digests = FileDigests::kept_in(store);
        }
        env
    }

    /// The graph, as far as it can be made out. Look at `diagnostics` before trusting it.
    pub fn graph(&mut self, args: &PipelineArgs) -> Option<Graph> {
        let pipeline = config::load(&args.file, &args.param, &mut self.sources, &mut self.diagnostics)?;
        graph::build(pipeline, &mut self.diagnostics)
    }

    /// The plan; `None` when there is an error.
    pub fn plan(&mut self, args: &PipelineArgs, env: &PlanEnv) -> Option<Plan> {
        plan::compile(&args.file, &args.param, env, &mut self.sources, &mut self.diagnostics)
    }

    /// Prints all messages and their number to standard error.
    pub fn report(&self) {
        if !self.diagnostics.is_empty() {
            eprint!("{}", diag::render(&self.diagnostics, &self.sources, colour()));
            eprintln!("{}", diag::summary(&self.diagnostics));
        }
    }
}

/// Whether standard error shows colours.
pub fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Says something on standard error, on a terminal without breaking a word at its edge.
pub fn say(text: &str) {
    if !std::io::stderr().is_terminal() {
        eprintln!("{text}");
        return;
    }
    let width = usize::from(super::progress::console_width());
    for line in text.split('\n') {
        let indent = " ".repeat(line.len() - line.trim_start().len());
        let options = textwrap::Options::new(width)
            .subsequent_indent(&indent)
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .word_separator(textwrap::WordSeparator::AsciiSpace)
            .break_words(false);
        eprintln!("{}", textwrap::fill(line, options));
    }
}

/// Prints columns as wide as their widest cell; those named are aligned to the right.
pub fn print_table<const N: usize>(head: [&str; N], right: &[usize], rows: impl Iterator<Item = [String; N]>) {
    let rows: Vec<[String; N]> = std::iter::once(head.map(String::from)).chain(rows).collect();
    let width = |c: usize| rows.iter().map(|r| r[c].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &rows {
        let cell = |c: usize| {
            let pad = " ".repeat(widths[c] - row[c].width());
            if right.contains(&c) { format!("{pad}{}", row[c]) } else { format!("{}{pad}", row[c]) }
        };
        println!("{}", (0..N).map(cell).collect::<Vec<_>>().join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_split_at_its_first_equals_sign() {
        assert_eq!(parse_override("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_override("a").is_err() && parse_override("=a").is_err());
    }
}
