//! `idiolect bench`: how fast a model runs on this machine.

mod generate;
mod rows;
mod score;
mod stream;
mod train;

use super::fetch_progress::FetchProgress;
use super::models::fetch_failed;
use crate::config::{ModelDecl, ModelSource};
use crate::diag::{Diagnostics, SourceId, Sources, Span, Spanned};
use crate::exec::RunError;
use crate::fetch;
use crate::model::measure::{Measured, Meters};
use crate::model::{DeviceChoice, Encoded, LanguageModel, ModelFiles, ScoreRequest, TextModel, kernels};
use clap::Subcommand;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measures how fast a model runs on this machine
///
/// Times the steady state over rows of your own: the model is loaded and one small batch is done before the clock
/// starts. Tokens are counted as given (prompt and response of every row), so that a question which is computed
/// once for several answers counts as often as it is asked.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Scores the response of every row
    Score(score::Args),
    /// Writes an answer to every row's question, all at once
    Generate(generate::Args),
    /// Trains a low-rank adapter on the response of every row
    Train(train::Args),
    /// Reads one prompt, whose tokens have no meaning
    Prefill(stream::Args),
    /// Writes one token after another, each for itself, in a single stream
    Decode(stream::Args),
}

/// The model to measure.
#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// A manifest's name, a GGUF file, or a folder in the hub's layout
    #[arg(long, value_name = "NAME|PATH", default_value = "smollm2-135m-instruct")]
    model: String,
    /// `f32`, `bf16`, or `quantized` for a GGUF file's own numbers
    #[arg(long, default_value = "bf16", value_parser = ["f32", "bf16", "quantized"])]
    dtype: String,
    /// The device to measure: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, value_name = "DEVICE", env = crate::model::DEVICE_VARIABLE, default_value = "auto")]
    device: DeviceChoice,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Also say where the time goes
    #[arg(long)]
    parts: bool,
}

/// A loaded model and what loading took.
struct Loaded {
    model: LanguageModel,
    meters: Arc<Meters>,
    seconds: f64,
    kernels: &'static str,
    device: String,
}

impl ModelArgs {
    fn load(&self) -> Result<Loaded, RunError> {
        let files = self.files()?;
        let (named, device) = self.device.open()?;
        let begin = Instant::now();
        let text = Arc::new(TextModel::load(&files)?);
        let (kernels, meters) = Measured::new(kernels::select(&device, files.precision)?);
        let kernels: Arc<dyn kernels::Kernels> = Arc::new(kernels);
        let name = kernels.name();
        let model = LanguageModel::load_with(&files, text, &device, kernels)?;
        Ok(Loaded { model, meters, seconds: begin.elapsed().as_secs_f64(), kernels: name, device: named })
    }

    fn files(&self) -> Result<ModelFiles, RunError> {
        let span = Span::new(SourceId(0), 0, 0);
        let path = PathBuf::from(&self.model);
        let fetcher = fetch::open(&mut Sources::new(), &mut Diagnostics::new());
        if !path.exists() {
            let known = fetcher.catalog.model(&self.model);
            known.map_err(|e| fetch_failed("model-missing", "no file and no folder either".into(), e))?;
        }
        let source = match path.exists() {
            true => ModelSource::Path(Spanned::new(path, span)),
            false => ModelSource::Manifest(Spanned::new(self.model.clone(), span)),
        };
        let decl = ModelDecl {
            name: "model".into(),
            source,
            dtype: Spanned::new(self.dtype.clone(), span),
            context: None,
            chat_template: None,
            span,
        };
        let fetched = fetcher.ensure_model(&decl, &FetchProgress::new(false));
        let fetched = fetched.map_err(|e| fetch_failed("fetch-failed", format!("model `{}`", self.model), e))?;
        ModelFiles::fetched(fetched, &decl)
    }
}

/// Work that was done, and its time.
struct Work {
    rows: Option<usize>,
    tokens: usize,
    /// What rates are reckoned by.
    seconds: f64,
    /// From the first to the last.
    elapsed: f64,
    /// The meters when it began.
    before: Vec<(Duration, u64)>,
}

impl Loaded {
    /// Rows as tokens; one that the model cannot take is an error.
    fn encode(&self, rows: &[ScoreRequest]) -> Result<Vec<Encoded>, RunError> {
        let text = &self.model.text;
        let encode = |(i, row)| {
            let encoded = text.encode(row, text.context)?;
            encoded.map_err(|e| RunError::failed("no-rows", format!("row {i} cannot be used: {e:?}")))
        };
        rows.iter().enumerate().map(encode).collect()
    }

    /// Prints what was measured: the model and the machine, the work and its rates, what is `further` to say, and
    /// where the time went.
    fn report(&self, args: &ModelArgs, work: &Work, further: &[(&str, Value)]) {
        let about = json!({
            "model": args.model, "dtype": args.dtype, "device": self.device, "kernels": self.kernels,
            "threads": rayon::current_num_threads(), "load_seconds": self.seconds,
        });
        let mut report = about.as_object().cloned().unwrap_or_default();
        let mut say = |name: &str, value: Value| report.insert(name.into(), value);
        if let Some(rows) = work.rows {
            say("rows", json!(rows));
            say("rows_per_s", json!(rows as f64 / work.seconds));
        }
        say("tokens", json!(work.tokens));
        say("seconds", json!(work.seconds));
        say("tokens_per_s", json!(work.tokens as f64 / work.seconds));
        for (name, value) in further {
            say(name, value.clone());
        }
        say("peak_memory_bytes", json!(peak_memory()));
        if args.parts {
            say("parts", self.parts(&work.before, work.elapsed));
        }
        print(&report, args.json);
    }

    /// Does the work and takes its time.
    fn time<T>(&self, work: impl FnOnce() -> Result<T, RunError>) -> Result<(T, Work), RunError> {
        let (before, begin) = (self.meters(), Instant::now());
        let done = work()?;
        let elapsed = begin.elapsed().as_secs_f64();
        Ok((done, Work { rows: None, tokens: 0, seconds: elapsed, elapsed, before }))
    }

    /// Seconds and rate of every kind of work since `before`.
    fn parts(&self, before: &[(Duration, u64)], elapsed: f64) -> Value {
        let mut parts = Map::new();
        let mut known = 0.0;
        for ((name, meter), (time, operations)) in self.meters.all().into_iter().zip(before) {
            let seconds = (meter.time_spent() - *time).as_secs_f64();
            known += seconds;
            let mut part = json!({ "seconds": seconds });
            let operations = meter.operations() - operations;
            if operations > 0 {
                part["gflops"] = json!(operations as f64 / seconds / 1e9);
            }
            parts.insert(name.into(), part);
        }
        parts.insert("other".into(), json!({ "seconds": elapsed - known }));
        Value::Object(parts)
    }

    fn meters(&self) -> Vec<(Duration, u64)> {
        self.meters.all().iter().map(|(_, meter)| (meter.time_spent(), meter.operations())).collect()
    }
}

pub fn run(args: Args) -> u8 {
    let result = match args.command {
        Command::Score(args) => score::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Prefill(args) => stream::prefill(&args),
        Command::Decode(args) => stream::decode(&args),
    };
    match result {
        Ok(()) => super::DONE,
        Err(error) => {
            super::store::print_error(&error);
            match &error {
                RunError::Failed { code, .. } if WRONG.contains(code) => super::WRONG_INPUT,
                _ => super::FAILED,
            }
        }
    }
}

/// Errors that are the input's.
const WRONG: [&str; 3] = ["file-unreadable", "no-rows", "model-missing"];

/// Prints a measurement: as one JSON object, or a figure a line.
fn print(report: &Map<String, Value>, as_json: bool) {
    if as_json {
        println!("{}", Value::Object(report.clone()));
        return;
    }
    let width = report.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in report {
        match value {
            Value::Object(parts) => parts.iter().for_each(|(part, value)| {
                let figures = value.as_object().into_iter().flatten().map(|(k, v)| format!("{} {k}", short(v)));
                println!("{:>width$}  {part}: {}", "", figures.collect::<Vec<_>>().join(", "));
            }),
            value => println!("{name:>width$}  {}", short(value)),
        }
    }
}

fn short(value: &Value) -> String {
    match (value, value.as_f64()) {
        (Value::String(text), _) => text.clone(),
        (Value::Number(n), Some(v)) if n.is_f64() && v.abs() < 1000.0 => format!("{v:.4}"),
        (Value::Number(n), Some(v)) if n.is_f64() => format!("{v:.1}"),
        (value, _) => value.to_string(),
    }
}

/// The most memory that this process held, if the system tells.
fn peak_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
