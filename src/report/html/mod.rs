//! The page of a run: one HTML file that needs nothing else.
//!
//! [`page`] says what stands on it, from `run.json` and the artifacts in the store; [`render`] makes markup of that with the
//! templates beside this file, which escape all that they are given. The same run folder and store give the same bytes.

pub mod model;
mod nodes;
mod results;
mod rows;
mod run;
mod setup;
mod speed;
#[cfg(test)]
mod tests;
mod text;

use crate::exec::{RunError, RunInfo};
use crate::graph::draw::{Kind, RunBox, RunLink, draw_run};
use crate::report::words::{duration, number};
use crate::store::Store;
use crate::teacher::hosted::usd;
use indexmap::IndexSet;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use model::{Fact, Link, Outcome, Page, Problem};
use run::{Run, State, group_anchor};
pub use speed::Speeds;
use text::{clean, cut, percent};

/// How much is on the page, and where it will lie.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rows of each output.
    pub samples: usize,
    /// The page lies in the run folder, so that it can lead to the files beside it.
    pub in_run_folder: bool,
    /// How fast nodes went.
    pub speeds: Speeds,
}

impl Default for Options {
    fn default() -> Self {
        Self { samples: 3, in_run_folder: true, speeds: Speeds::default() }
    }
}

/// Boxes that a picture can hold so that people can read it.
const BOXES: usize = 120;

/// The checksum of the page's script. The page's policy lets no other run, and nothing be loaded from anywhere.
const SCRIPT_HASH: &str = "sha256-qG2iF/LpU0ysTaaB46Qy2d1Q8863hvFyRMViP4HkZ24=";

/// What stands on the page of a run. Without a store, or with one that has lost outputs, there is less to see.
pub fn page(info: &RunInfo, store: Option<&Store>, options: &Options) -> Page {
    let run = Run::new(info, store);
    let link =
        |name: &str| Link { text: clean(name), href: if options.in_run_folder { beside(name) } else { String::new() } };
    let samples = rows::samples(&run, options.samples);
    let (graph_svg, graph_note) = graph(&run);
    Page {
        pipeline: clean(&info.pipeline),
        doc: clean(&info.doc),
        outcome: outcome(info),
        started: format!("{} UTC", info.started.get(..19).unwrap_or(&info.started).replace('T', " ")),
        took: duration(info.seconds),
        idiolect: info.idiolect.clone(),
        facts: facts(&run),
        problems: problems(&run),
        graph_svg,
        graph_note,
        results: results::results(&run, link),
        curves: results::curves(&run, &options.speeds),
        groups: nodes::groups(&run, samples),
        quarantine: setup::quarantine(&run),
        files: setup::files(&run, link),
        setup: setup::setup(&run),
    }
}

/// The address of a file beside the page. It begins with `./`, so that no name is taken for a scheme.
fn beside(name: &str) -> String {
    let parts: Vec<String> = name.split('/').map(|part| percent(part.as_bytes())).collect();
    format!("./{}", parts.join("/"))
}

fn outcome(info: &RunInfo) -> Outcome {
    let (tone, text) = match info.outcome.as_str() {
        "done" => ("good", "done"),
        "failed" => ("bad", "failed"),
        "interrupted" => ("warn", "stopped before its end"),
        "beyond_tolerance" => ("warn", "more rows in quarantine than tolerated"),
        _ => ("warn", "not finished: still at work, or killed"),
    };
    Outcome { tone, text: text.into() }
}

fn facts(run: &Run<'_>) -> Vec<Fact> {
    let nodes = &run.info.nodes;
    let count = |state: State| nodes.iter().filter(|n| State::of(n) == state).count() as u64;
    let mut facts = Vec::new();
    let mut add = |label, n: u64, tone| facts.extend((n > 0).then(|| Fact { label, value: number(n), tone }));
    add("nodes run", count(State::Ran), "");
    add("cached", count(State::Cached), "");
    add("failed", count(State::Failed), "bad");
    add("not finished", count(State::Unfinished), "warn");
    add("skipped", count(State::Skipped), "");
    let ran = || nodes.iter().filter_map(|n| n.counts.as_ref());
    add("rows made", ran().map(|c| c.rows_out).sum(), "");
    let beyond = nodes.iter().any(|n| n.beyond_tolerance);
    let own = nodes.iter().filter(|n| n.ending.word != "shared");
    add("in quarantine", own.map(|n| n.quarantined).sum(), if beyond { "bad" } else { "" });
    add("model tokens", ran().map(|c| c.tokens).sum(), "");
    let spent = || run.info.teachers.iter().filter_map(|t| t.spent.as_ref());
    add("teacher calls", spent().map(|s| s.calls).sum(), "");
    add("teacher tokens", spent().map(|s| s.input_tokens + s.output_tokens).sum(), "");
    let money: Option<f64> = spent().filter_map(|s| s.money).reduce(|a, b| a + b);
    facts.extend(money.map(|m| Fact { label: "spent", value: usd(m), tone: "" }));
    facts
}

fn problems(run: &Run<'_>) -> Vec<Problem> {
    let failed = run.info.nodes.iter().enumerate().filter(|(_, n)| State::of(n) == State::Failed);
    let problem = |(at, node): (usize, &crate::exec::NodeInfo)| Problem {
        node: clean(&run.name(at)),
        anchor: run.anchor(at),
        code: node.ending.code.clone().unwrap_or_default(),
        message: cut(node.ending.message.as_deref().unwrap_or_default()),
        help: node.ending.help.as_deref().map(cut),
    };
    failed.map(problem).collect()
}

/// The picture, or why there is none.
fn graph(run: &Run<'_>) -> (String, Option<String>) {
    if run.groups.len() > BOXES {
        let note = format!("{} nodes are too many for a picture that can be read.", number(run.groups.len() as u64));
        return (String::new(), Some(note));
    }
    let kind = |state| match state {
        State::Failed => Kind::Failed,
        State::Unfinished => Kind::Unfinished,
        State::Ran => Kind::Ran,
        State::Cached => Kind::Cached,
        State::Skipped => Kind::Skipped,
    };
    let boxed = |(at, (name, instances)): (usize, (&String, &Vec<usize>))| {
        let first = &run.info.nodes[instances[0]];
        let axes: Vec<&str> = first.name.bindings.0.iter().map(|(axis, _)| axis.as_str()).collect();
        RunBox {
            name: clean(name),
            op: first.op.clone(),
            kind: kind(run.state(instances)),
            sweep: if axes.is_empty() { String::new() } else { format!("{} × {}", instances.len(), axes.join(", ")) },
            stacked: instances.len() > 1,
            doc: first.doc.as_deref().map(clean),
            note: run.state_text(instances),
            href: format!("#{}", group_anchor(at)),
        }
    };
    let boxes = run.groups.iter().enumerate().map(boxed).collect();
    let mut links = IndexSet::new();
    for node in &run.info.nodes {
        let to = run.groups.get_index_of(&node.name.base);
        for input in &node.inputs {
            let from = run.groups.get_index_of(&input.node.base);
            if let (Some(from), Some(to)) = (from, to) {
                links.insert(RunLink { from, to, output: input.output.clone(), port: input.port.clone() });
            }
        }
    }
    let title = format!("Graph of {}", clean(&run.info.pipeline));
    (draw_run(&title, boxes, &links.into_iter().collect::<Vec<_>>()), None)
}

/// The page as HTML.
pub fn render(page: &Page) -> Result<String, RunError> {
    let environment = environment().map_err(template_failed)?;
    let template = environment.get_template("page.html").map_err(template_failed)?;
    template.render(Serde(page)).map_err(template_failed)
}

/// The templates. Everything is escaped but what is marked `|safe` in them: drawings of our own and the page's own style.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("page.html", include_str!("templates/page.html"))?;
    environment.add_template("parts.html", include_str!("templates/parts.html"))?;
    environment.add_global("style", include_str!("templates/style.css"));
    environment.add_global("script", include_str!("templates/script.js"));
    environment.add_global("script_hash", SCRIPT_HASH);
    Ok(environment)
}

fn template_failed(error: minijinja::Error) -> RunError {
    RunError::failed("report-template", format!("the page cannot be made: {error:#}"))
        .help("this is a mistake in idiolect: please report it")
}
