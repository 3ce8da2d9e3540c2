//! `idiolect schema`.

use super::docs::{dataset_contract, operator_contract};
use crate::diag::{Diagnostics, Sources};
use crate::fetch;
use crate::ops::{REGISTRY, did_you_mean};

/// Prints the column contracts of operators and data sets, as KDL
///
/// For an operator: its inputs, the fields that name columns, and the columns that it adds (in its example). For a data
/// set: its columns, and those of each split.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  idiolect schema                 everything
  idiolect schema score-ppl       one operator
  idiolect schema gsm8k sml-math  two data sets")]
pub struct Args {
    /// Operators and data sets [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

pub fn run(args: Args) -> u8 {
    let (mut sources, mut found) = (Sources::new(), Diagnostics::new());
    let fetcher = fetch::open(&mut sources, &mut found);
    if !found.is_empty() {
        eprint!("{}", crate::diag::render(&found, &sources, super::common::colour()));
    }
    let mut contracts: Vec<(&str, String)> = REGISTRY.iter().map(|op| (op.name, operator_contract(op))).collect();
    contracts.extend(fetcher.catalog.datasets().map(|d| (d.name.value.as_str(), dataset_contract(d))));
    let mut wrong = found.has_errors();
    for name in &args.names {
        if !contracts.iter().any(|(n, _)| n == name) {
            eprintln!("error[unknown-name]: there is no operator or data set `{name}`");
            match did_you_mean(name, contracts.iter().map(|(n, _)| *n)) {
                Some(near) => eprintln!("\nhint: did you mean `{near}`?"),
                None => eprintln!("\nhint: `idiolect op list` and `idiolect fetch --list` show what there is"),
            }
            wrong = true;
        }
    }
    contracts.retain(|(name, _)| args.names.is_empty() || args.names.iter().any(|n| n == name));
    let texts: Vec<String> = contracts.into_iter().map(|(_, text)| text).collect();
    print!("{}", texts.join("\n"));
    if wrong { super::WRONG_INPUT } else { super::DONE }
}
