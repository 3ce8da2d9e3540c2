//! `idiolect graph`.

use super::common::{Compiler, PipelineArgs};
use super::store::print_error;
use crate::exec::RunError;
use crate::graph::draw::{Format, draw};
use crate::store::write_atomically;
use std::path::{Path, PathBuf};

/// Draws a pipeline's graph
///
/// Boxes are operators, coloured by what they do; arrows are rows. A swept node is one stacked box that names its axes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  idiolect graph pipelines/quickstart.kdl -o quickstart.svg
  idiolect graph figure.kdl --format mermaid         for a Markdown page
  idiolect graph figure.kdl --format dot | dot -Tpdf > figure.pdf
  idiolect graph figure.kdl --expand -o cells.svg    every cell of the sweep")]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The picture's language [default: by the ending of FILE, else svg]
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Draw every instance of a sweep
    #[arg(long)]
    expand: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FormatArg {
    Svg,
    Dot,
    Mermaid,
}

impl Args {
    fn format(&self) -> Result<Format, RunError> {
        let ending = self.output.as_deref().and_then(Path::extension).map(|e| e.to_string_lossy().to_lowercase());
        match (self.format, ending.as_deref()) {
            (Some(FormatArg::Svg), _) | (None, None | Some("svg")) => Ok(Format::Svg),
            (Some(FormatArg::Dot), _) | (None, Some("dot" | "gv")) => Ok(Format::Dot),
            (Some(FormatArg::Mermaid), _) | (None, Some("mmd" | "mermaid" | "md")) => Ok(Format::Mermaid),
            (None, Some(other)) => {
                Err(RunError::failed("unknown-format", format!("a graph cannot be written as `.{other}`"))
                    .help("end the file in `.svg`, `.dot` or `.mmd`, or say `--format`"))
            }
        }
    }
}

pub fn run(args: Args) -> u8 {
    let format = match args.format() {
        Ok(format) => format,
        Err(error) => {
            print_error(&error);
            return super::WRONG_INPUT;
        }
    };
    let mut compiler = Compiler::new();
    let graph = compiler.graph(&args.pipeline).filter(|_| !compiler.diagnostics.has_errors());
    compiler.report();
    let Some(graph) = graph else { return super::WRONG_INPUT };
    let picture = draw(&graph, format, args.expand);
    let Some(path) = &args.output else {
        print!("{picture}");
        return super::DONE;
    };
    match write_atomically(path, picture.as_bytes()) {
        Ok(()) => {
            eprintln!("wrote {}", path.display());
            super::DONE
        }
        Err(error) => {
            print_error(&error);
            super::FAILED
        }
    }
}
