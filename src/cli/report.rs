//! `idiolect report`.

use super::common::{Compiler, say};
use super::store::print_error;
use crate::config;
use crate::exec::{RUN_FILE, RUN_FORMAT, RunError, RunInfo, RunReport};
use crate::report::html::{self, Options, Speeds};
use crate::store::{Store, io_error, write_atomically};
use std::path::{Path, PathBuf};

/// The page's name in the run folder.
const PAGE: &str = "report.html";

/// Makes a page of a run: its graph, results, rows and versions
///
/// The page is one HTML file that needs nothing else: it can be mailed, printed and read without a network. It shows what
/// became of every node and how long that took, tables and charts, samples of rows with the rows that they were made from,
/// the quarantine, the configuration and all versions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  idiolect report runs/quickstart                    writes runs/quickstart/report.html
  idiolect report pipelines/quickstart.kdl           the same, by the pipeline's file
  idiolect report runs/quickstart -o page.html --samples 10
  idiolect run pipelines/quickstart.kdl --report     at the end of a run

Exit codes: 0 when the page is written, 1 when it cannot be, 2 when there is no such run.")]
pub struct Args {
    /// The run's folder, or its pipeline file for the folder `runs/<pipeline>`
    #[arg(value_name = "RUN", value_hint = clap::ValueHint::AnyPath)]
    run: PathBuf,
    /// Where to write the page, `-` for standard output [default: report.html in the run's folder]
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Rows to show of every output: the first, the last, and others drawn between them
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1000))]
    samples: u32,
    /// The store of the run [default: the one that the run used]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Print what stands on the page as JSON instead of writing it
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> u8 {
    let Some(folder) = folder(&args.run) else { return super::WRONG_INPUT };
    let (info, store) = match read(&folder).and_then(|info| Ok((store(&info, args.store.as_deref())?, info))) {
        Ok((store, info)) => (info, store),
        Err(error) => {
            print_error(&error);
            return super::WRONG_INPUT;
        }
    };
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    let output = args.output.clone().unwrap_or_else(|| folder.join(PAGE));
    let in_run_folder = !to_stdout && lies_in(&output, &folder);
    let options = Options { samples: args.samples as usize, in_run_folder, speeds: Speeds::read(&folder) };
    let page = html::page(&info, store.as_ref(), &options);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&page).expect("a page has string keys only"));
        return super::DONE;
    }
    let written = html::render(&page).and_then(|text| match to_stdout {
        true => {
            print!("{text}");
            Ok(())
        }
        false => write_atomically(&output, text.as_bytes()),
    });
    match written {
        Ok(()) => {
            if !to_stdout {
                say(&format!("wrote {}", output.display()));
            }
            super::DONE
        }
        Err(error) => {
            print_error(&error);
            super::FAILED
        }
    }
}

/// The page of a run that has just ended. The run is what counts: a page that cannot be written does not change how it
/// ended.
pub fn after_run(report: &RunReport, quiet: bool) {
    let written = read(&report.out).and_then(|info| {
        let options = Options { speeds: Speeds::read(&report.out), ..Options::default() };
        let page = html::page(&info, store(&info, None)?.as_ref(), &options);
        let output = report.out.join(PAGE);
        write_atomically(&output, html::render(&page)?.as_bytes()).map(|()| output)
    });
    match written {
        Ok(output) if !quiet => say(&format!("  report      {}", output.display())),
        Ok(_) => {}
        Err(error) => print_error(&error),
    }
}

/// The run's folder; of a pipeline file the one that a run of it has by default. Says what is wrong with the file.
fn folder(path: &Path) -> Option<PathBuf> {
    if !path.is_file() {
        return Some(path.to_path_buf());
    }
    let mut compiler = Compiler::new();
    let pipeline = config::load(path, &[], &mut compiler.sources, &mut compiler.diagnostics);
    if pipeline.is_none() {
        compiler.report();
    }
    pipeline.map(|p| Path::new("runs").join(p.name))
}

fn read(folder: &Path) -> Result<RunInfo, RunError> {
    let path = folder.join(RUN_FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Err(RunError::failed("no-run", format!("`{}` is not the folder of a run", folder.display())).help(
                format!("a run leaves `{RUN_FILE}` in its folder, which is `runs/<pipeline>` or what `run --out` says"),
            ));
        }
        Err(e) => return Err(io_error("read", &path, &e)),
    };
    let wrong = |why: String| {
        RunError::failed("run-format", format!("`{}` cannot be read: {why}", path.display()))
            .help("run the pipeline again: what is finished is not computed twice")
    };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    if value["format"] != RUN_FORMAT {
        return Err(wrong(format!("it has format {}, and this idiolect reads {RUN_FORMAT}", value["format"])));
    }
    serde_json::from_value(value).map_err(|e| wrong(e.to_string()))
}

/// The store that was named, or that of the run, which may be gone.
fn store(info: &RunInfo, named: Option<&Path>) -> Result<Option<Store>, RunError> {
    let path = named.unwrap_or(&info.store);
    let store = Store::existing(path)?;
    match (&store, named) {
        (None, Some(path)) => Err(RunError::failed("no-store", format!("there is no store at `{}`", path.display()))
            .help("leave `--store` out to use the store of the run")),
        (None, None) => {
            say(&format!("there is no store at `{}`: the page has no tables, charts and rows", path.display()));
            Ok(None)
        }
        _ => Ok(store),
    }
}

/// Whether a file lies directly in a folder.
fn lies_in(file: &Path, folder: &Path) -> bool {
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), folder.canonicalize()) {
        (Ok(parent), Ok(folder)) => parent == folder,
        _ => false,
    }
}
