//! `idiolect run`.

use super::common::{Compiler, PipelineArgs, say};
use super::models;
use super::progress::{Progress, duration, grouped, number};
use super::store::{StoreArg, print_error};
use crate::config::RunOptions;
use crate::diag::Source;
use crate::exec::{self, NodeOutcome, NodeReport, Provenance, RunConfig, RunError, RunReport, Stop, TextInfo};
use crate::fetch::Fetcher;
use crate::model::{DEVICE_VARIABLE, DeviceChoice};
use crate::plan::Plan;
use crate::size;
use crate::store::Store;
use crate::teacher::hosted::{Spent, usd};
use crate::teacher::{self, Staff};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Lines of one kind in the summary; the rest is counted.
const LINES: usize = 10;

/// Runs a pipeline: what is not finished yet, and nothing twice
///
/// Finished outputs and finished rows of costly operators are kept in the store. A run that was stopped, killed or
/// failed goes on where it was when the same command is given again. Tables and charts go to standard output, all else
/// to standard error; files go to the run folder, with the plan, the events and the rows in quarantine.
///
/// Exit codes: 0 done; 1 a node failed; 2 the pipeline is wrong; 3 more rows in quarantine than tolerated;
/// 130 stopped by Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Folder for tables, charts and other files [default: runs/<pipeline>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArg,
    /// Show what would run, and why, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the report of the run as JSON instead of tables and charts
    #[arg(long)]
    json: bool,
    /// Rows of a batch between operators; never changes a result
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_rows: Option<u32>,
    /// Batches that wait between two operators; never changes a result
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    channel_batches: Option<u32>,
    /// Memory for operators that hold their whole input, such as `4GiB`; never changes a result
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Groups of operators that run at once; never changes a result
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    stages: Option<u32>,
    /// Where models run: `cpu`, `cuda`, `cuda:N`, or `auto` for the first GPU if there is one
    #[arg(long, value_name = "DEVICE", env = DEVICE_VARIABLE, default_value = "auto")]
    device: DeviceChoice,
    /// Write `report.html` into the run folder when the run has ended
    #[arg(long)]
    report: bool,
    /// No progress and no summary; only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

impl Args {
    /// The options of the file, with those of the command line in their place.
    fn options(&self, file: &RunOptions) -> RunOptions {
        RunOptions {
            batch_rows: self.batch_rows.map_or(file.batch_rows, |n| n as usize),
            channel_batches: self.channel_batches.map_or(file.channel_batches, |n| n as usize),
            memory: self.memory.unwrap_or(file.memory),
            stages: self.stages.map_or(file.stages, |n| n as usize),
            tolerance: file.tolerance,
        }
    }
}

/// Bytes: `4GiB`, `512MiB`, `1500000`.
fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text).filter(|n| *n > 0);
    bytes.ok_or_else(|| format!("`{text}` is no size: write a number with a unit, such as `512MiB` or `4GiB`"))
}

pub fn run(args: Args) -> u8 {
    let Some((mut plan, fetcher, mut texts)) = compile(&args) else { return super::WRONG_INPUT };
    if args.dry_run {
        return super::plan::show(&plan, &args.store, args.json);
    }
    let store = match Store::open(&args.store.path) {
        Ok(store) => store,
        Err(error) => return failed(&error),
    };
    match models::fetch_needed(&plan, &store, &fetcher, args.quiet) {
        Ok(false) => {}
        Ok(true) => match compile(&args) {
            Some((known, _, read)) => (plan, texts) = (known, read),
            None => return super::WRONG_INPUT,
        },
        Err(error) => return failed(&error),
    }
    match execute(&args, &plan, &store, fetcher, texts) {
        Ok(report) => {
            if args.report {
                super::report::after_run(&report, args.quiet);
            }
            if args.json {
                println!("{}", serde_json::to_string_pretty(&report).expect("a report has string keys only"));
            } else {
                report.presented.iter().for_each(|text| println!("{text}"));
            }
            summarize(&report, args.quiet);
            exit_code(&report)
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &RunError) -> u8 {
    if matches!(error, RunError::Interrupted) {
        return super::INTERRUPTED;
    }
    print_error(error);
    super::FAILED
}

/// The plan, what fetches the models that it names, and the texts that it was made of.
fn compile(args: &Args) -> Option<(Plan, Arc<Fetcher>, Vec<TextInfo>)> {
    let mut compiler = Compiler::new();
    let env = compiler.env(Some(&args.store.path));
    // What is read before are manifests.
    let known = compiler.sources.iter().count();
    let plan = compiler.plan(&args.pipeline, &env);
    compiler.report();
    let text = |s: &Source| TextInfo { name: s.name.clone(), text: s.text.to_string() };
    let texts = compiler.sources.iter().skip(known).map(|(_, source)| text(source)).collect();
    Some((plan?, env.datasets?, texts))
}

fn execute(
    args: &Args,
    plan: &Plan,
    store: &Store,
    fetcher: Arc<Fetcher>,
    texts: Vec<TextInfo>,
) -> Result<RunReport, RunError> {
    let progress = Progress::new(args.quiet);
    let stop = Stop::default();
    watch_signals(&stop, progress.answer())?;
    let (quiet, print) = (args.quiet, progress.printer());
    let provenance = Provenance { texts, ..Provenance::default() };
    let device = provenance.device.clone();
    let opened = move |name: &str| {
        // The first one stays: a run has one device.
        let _ = device.set(name.to_string());
        if !quiet {
            print(&format!("models on {name}"))
        }
    };
    let lanes = models::lanes(fetcher, args.device, opened, &stop);
    let config = RunConfig {
        out: args.out.clone().unwrap_or_else(|| Path::new("runs").join(&plan.name)),
        options: args.options(&plan.options),
        teachers: Arc::new(Staff::new(lanes.clone(), &stop)),
        lanes,
        stop,
        provenance,
    };
    let report = exec::run(plan, store, &config, &progress)?;
    record(plan, store, args.quiet)?;
    Ok(report)
}

/// Writes the files of recorded answers that teachers ask for: also those of earlier runs, and of one that stopped.
fn record(plan: &Plan, store: &Store, quiet: bool) -> Result<(), RunError> {
    for teacher in plan.teachers.values() {
        let Some(path) = &teacher.decl.record else { continue };
        let answers = teacher::record(store, teacher, &path.value)?;
        if !quiet {
            let name = &teacher.decl.name;
            say(&format!("  recorded    {name}: {} answers in {}", number(answers as u64), path.value.display()));
        }
    }
    Ok(())
}

/// The first signal asks the run to stop, the second ends the process.
fn watch_signals(stop: &Stop, answer: impl Fn(&str, bool) + Send + 'static) -> Result<(), RunError> {
    let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]);
    let mut signals = signals.map_err(|e| RunError::failed("no-signals", format!("cannot watch for Ctrl-C: {e}")))?;
    let stop = stop.clone();
    let watch = move || {
        for signal in signals.forever() {
            if stop.is_set() {
                std::process::exit(i32::from(super::INTERRUPTED));
            }
            stop.set();
            answer("stopping when the rows in work are kept; once more to leave at once", signal == SIGINT);
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(watch);
    thread.map(drop).map_err(|e| RunError::failed("no-thread", format!("cannot watch for Ctrl-C: {e}")))
}

fn exit_code(report: &RunReport) -> u8 {
    match report.outcome() {
        "interrupted" => super::INTERRUPTED,
        "failed" => super::FAILED,
        "beyond_tolerance" => super::QUARANTINED,
        _ => super::DONE,
    }
}

/// What happened, on standard error. Failures and what to do about them are said also when quiet.
fn summarize(report: &RunReport, quiet: bool) {
    if !quiet {
        say(&headline(report));
        skipped(report);
        quarantined(report);
        report.teachers.iter().for_each(spent);
        if !report.files.is_empty() {
            say("files:");
            report.files.iter().for_each(|f| say(&format!("  {}", f.display())));
        }
    }
    failures(report);
    if report.interrupted {
        say("stopped before the end: run the same command again to go on; finished rows are kept");
    }
    for node in report.nodes.iter().filter(|n| n.beyond_tolerance).take(LINES) {
        let (bad, all) = (number(node.quarantined), number(node.rows_in));
        say(&format!(
            "error[quarantine]: {bad} of {all} rows of `{}` are in quarantine, more than its tolerance of {}",
            node.node, node.tolerance
        ));
    }
    if report.beyond_tolerance() {
        let path = report.out.join("quarantine.jsonl");
        say(&format!("\nhint: `{}` has the rows and reasons; `tolerance` says how many may go there", path.display()));
    }
}

/// `figure-2: 12 nodes run, 3 cached, 1 skipped, in 2m 10s`.
fn headline(report: &RunReport) -> String {
    let count = |kind: &str| report.count(|o| o.word() == kind);
    let ran = count("ran");
    let cached = count("cached") + count("not_needed") + count("shared");
    let took = duration(report.seconds);
    let name = &report.pipeline;
    if report.nodes.is_empty() {
        return format!("{name}: there is nothing to run");
    }
    if ran == 0 && cached + count("skipped") == report.nodes.len() {
        return format!("{name}: everything is cached ({cached} nodes), nothing to run, in {took}");
    }
    let rows = report.nodes.iter().filter(|n| n.outcome == NodeOutcome::Ran).map(|n| n.rows_out).sum();
    let mut parts = vec![format!("{ran} nodes run ({})", super::progress::rows(rows))];
    let others = [("cached", cached), ("skipped", count("skipped")), ("failed", count("failed"))];
    let stopped = [("not run", count("cancelled")), ("stopped", count("interrupted"))];
    parts.extend(others.into_iter().chain(stopped).filter(|(_, n)| *n > 0).map(|(word, n)| format!("{n} {word}")));
    format!("{name}: {}, in {took}", parts.join(", "))
}

/// `teacher gpt4: 160 calls, 3 retried, 41,210 tokens, $0.83`.
fn spent(spent: &Spent) {
    let mut parts = vec![format!("{} calls", number(spent.calls))];
    let counts = [
        (spent.failed, "without an answer"),
        (spent.retried, "retried"),
        (spent.waits, "held back"),
        (spent.lost, "lost on the way"),
    ];
    parts.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{} {word}", number(*n))));
    parts.push(format!("{} tokens", number(spent.input_tokens + spent.output_tokens)));
    parts.extend(spent.money.map(usd));
    say(&format!("  teacher {}: {}", spent.teacher, parts.join(", ")));
    if spent.open_batches > 0 {
        let (batches, calls) = (number(spent.open_batches), number(spent.open_calls));
        say(&format!(
            "    {batches} batches ({calls} calls) go on at the provider: the next run collects their answers"
        ));
    }
}

/// Prints the first lines and counts the others.
fn some_lines(lines: impl ExactSizeIterator<Item = String>) {
    let more = lines.len().saturating_sub(LINES);
    lines.take(LINES).for_each(|line| say(&line));
    if more > 0 {
        say(&format!("  … and {more} more"));
    }
}

fn skipped(report: &RunReport) {
    let reason = |n: &NodeReport| match &n.outcome {
        NodeOutcome::Skipped { reason } => Some((reason.clone(), n.node.to_string())),
        _ => None,
    };
    let groups = grouped(report.nodes.iter().filter_map(reason));
    some_lines(groups.into_iter().map(|(reason, nodes)| match nodes.as_slice() {
        [one] => format!("  skipped     {one}: {reason}"),
        [first, rest @ ..] => format!("  skipped     {first} and {} more: {reason}", rest.len()),
        [] => reason,
    }));
}

fn quarantined(report: &RunReport) {
    let own = |n: &&NodeReport| n.quarantined > 0 && !matches!(n.outcome, NodeOutcome::Shared { .. });
    let nodes: Vec<&NodeReport> = report.nodes.iter().filter(own).collect();
    some_lines(nodes.into_iter().map(|n| {
        let reasons: Vec<String> = n.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let (bad, all) = (number(n.quarantined), number(n.rows_in));
        format!("  quarantine  {}: {bad} of {all} rows ({})", n.node, reasons.join(", "))
    }));
}

fn failures(report: &RunReport) {
    let failed: Vec<&NodeReport> =
        report.nodes.iter().filter(|n| matches!(n.outcome, NodeOutcome::Failed { .. })).collect();
    for node in failed.iter().take(LINES) {
        let NodeOutcome::Failed { code, message, help } = &node.outcome else { continue };
        say(&format!("error[{code}]: `{}` failed: {message}", node.node));
        if let Some(help) = help {
            say(&format!("\nhint: {help}"));
        }
    }
    if failed.len() > LINES {
        let more = failed.len() - LINES;
        say(&format!("… and {more} more failed; `events.jsonl` in the run folder has them all"));
    }
    let because = |n: &NodeReport| match &n.outcome {
        NodeOutcome::Cancelled { because } => Some((because.clone(), n.node.to_string())),
        _ => None,
    };
    let groups = grouped(report.nodes.iter().filter_map(because));
    some_lines(groups.into_iter().map(|(because, nodes)| {
        let shown = nodes.iter().take(3).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let more = if nodes.len() > 3 { format!(" and {} more", nodes.len() - 3) } else { String::new() };
        format!("  not run because `{because}` failed: {shown}{more}")
    }));
}
