//! `idiolect plan`.

use super::common::{Compiler, PipelineArgs};
use super::progress::{duration, number};
use super::store::{StoreArg, print_error};
use crate::plan::{Plan, PlanNode, State, Status, StoreView, statuses};
use crate::size;
use crate::store::Store;
use arrow::datatypes::{DataType, Schema};
use indexmap::IndexMap;
use serde_json::{Value, json};

/// Lines are at most this wide, where names allow it.
pub(super) const WIDTH: usize = 80;

/// Shows what a run would do with every node, and why
///
/// For each node: the columns that it gives, its fingerprint, whether its output is cached, begun (n of m rows) or to be
/// computed and why, and what that will take. Runs nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  idiolect plan pipelines/quickstart.kdl
  idiolect plan figure.kdl -P limit=96       what a larger limit would run again
  idiolect plan construct.kdl --cost         calls, tokens, money and time, less what is cached
  idiolect plan figure.kdl --json | jq '.nodes[] | select(.state == \"to run\") | .name'

Exit codes: 0 when there is a plan, 2 when the pipeline has an error.")]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    store: StoreArg,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
    /// Estimate what teachers will be asked, and what that costs, instead of showing nodes
    #[arg(long)]
    cost: bool,
}

pub fn run(args: Args) -> u8 {
    let mut compiler = Compiler::new();
    let env = compiler.env(Some(&args.store.path));
    let plan = compiler.plan(&args.pipeline, &env);
    compiler.report();
    let Some(plan) = plan else { return super::WRONG_INPUT };
    match args.cost {
        true => super::cost::show(&plan, &args.store, args.json),
        false => show(&plan, &args.store, args.json),
    }
}

/// Prints a plan with the state of every node in a store, which need not exist.
pub fn show(plan: &Plan, store: &StoreArg, as_json: bool) -> u8 {
    let Some(states) = states(plan, store) else { return super::FAILED };
    if as_json {
        println!("{:#}", to_json(plan, &states));
    } else {
        print!("{}", text(plan, &states));
    }
    super::DONE
}

/// The state of every node; `None` after an error of the store.
pub(super) fn states(plan: &Plan, store: &StoreArg) -> Option<Vec<Status>> {
    let store = Store::existing(&store.path).map_err(|error| print_error(&error)).ok()?;
    Some(statuses(plan, store.as_ref().map(|s| s as &dyn StoreView)))
}

/// What is still to be done.
#[derive(Default)]
struct Totals {
    states: IndexMap<&'static str, usize>,
    rows: u64,
    tokens: u64,
    seconds: f64,
    memory: u64,
}

impl Totals {
    fn of(plan: &Plan, states: &[Status]) -> Self {
        let mut totals = Self::default();
        for word in ["cached", "not needed", "shared", "partial", "to run", "skipped"] {
            let count = states.iter().filter(|s| s.state.word() == word).count();
            if count > 0 {
                totals.states.insert(word, count);
            }
        }
        for (node, status) in plan.nodes.iter().zip(states) {
            if !matches!(status.state, State::ToRun | State::Partial { .. }) {
                continue;
            }
            let left = status.state.left();
            let part = |n: Option<u64>| (n.unwrap_or(0) as f64 * left).round() as u64;
            totals.rows += part(node.estimate.rows);
            totals.tokens += part(node.estimate.tokens);
            totals.seconds += node.estimate.seconds.unwrap_or(0.0) * left;
            totals.memory = totals.memory.max(node.estimate.memory.unwrap_or(0));
        }
        totals
    }

    fn line(&self, nodes: usize) -> String {
        let states: Vec<String> = self.states.iter().map(|(word, n)| format!("{n} {word}")).collect();
        let mut line = format!("{nodes} nodes: {}", states.join(", "));
        let work = effort(Some(self.rows), Some(self.tokens), Some(self.seconds), Some(self.memory));
        if !work.is_empty() {
            line += &format!("; to do: {work}");
        }
        line
    }
}

/// `48 rows  9 800 tokens  1m 3s  515 MiB`, as far as it is known and not nothing.
fn effort(rows: Option<u64>, tokens: Option<u64>, seconds: Option<f64>, memory: Option<u64>) -> String {
    let mut parts = Vec::new();
    parts.extend(rows.filter(|n| *n > 0).map(super::progress::rows));
    parts.extend(tokens.filter(|n| *n > 0).map(|n| format!("{} tokens", number(n))));
    parts.extend(seconds.filter(|s| *s >= 0.5).map(|s| format!("about {}", duration(s))));
    parts.extend(memory.filter(|b| *b > 0).map(size::show));
    parts.join(", ")
}

fn text(plan: &Plan, states: &[Status]) -> String {
    let mut out = format!("{}  seed {}\n\n", plan.name, plan.seed);
    let mut groups: IndexMap<&str, Vec<usize>> = IndexMap::new();
    for (at, node) in plan.nodes.iter().enumerate() {
        groups.entry(&node.name.base).or_default().push(at);
    }
    for instances in groups.values() {
        declaration(&mut out, plan, states, instances);
        out.push('\n');
    }
    out + &wrap(&Totals::of(plan, states).line(plan.nodes.len()), "")
}

/// One node of the file with all its instances, those in the same state together.
fn declaration(out: &mut String, plan: &Plan, states: &[Status], instances: &[usize]) {
    let first = &plan.nodes[instances[0]];
    *out += &format!("{}  {}", first.name.base, first.op.name);
    let axes: Vec<&str> = first.name.bindings.0.iter().map(|(axis, _)| axis.as_str()).collect();
    if !axes.is_empty() {
        *out += &format!("  {} × {}", instances.len(), axes.join(", "));
    }
    out.push('\n');
    // A skipped instance has no columns to show.
    let shown = instances.iter().map(|&i| &plan.nodes[i]).find(|n| n.skipped.is_none()).unwrap_or(first);
    for (output, schema) in shown.op.outputs.iter().zip(&shown.outputs) {
        let name = if shown.op.outputs.len() > 1 { format!("{}: ", output.name) } else { String::new() };
        if !schema.fields().is_empty() {
            *out += &wrap(&format!("{name}{}", columns(schema)), "    ");
        }
    }
    let mut by_state: IndexMap<String, Vec<usize>> = IndexMap::new();
    for &at in instances {
        by_state.entry(heading(&states[at])).or_default().push(at);
    }
    for (mut heading, members) in by_state {
        let efforts: Vec<String> = members.iter().map(|&at| effort_of(&plan.nodes[at], &states[at])).collect();
        // What all have in common is said once.
        let common = members.len() > 1 && efforts.iter().all(|e| *e == efforts[0]) && !efforts[0].is_empty();
        if common {
            heading += &format!("; each {}", efforts[0]);
        }
        *out += &wrap(&heading, "  ");
        for (at, effort) in members.into_iter().zip(&efforts) {
            *out += &instance(&plan.nodes[at], &states[at], if common { "" } else { effort });
        }
    }
}

fn effort_of(node: &PlanNode, status: &Status) -> String {
    match status.state {
        State::Skipped(_) => String::new(),
        _ => effort(node.estimate.rows, node.estimate.tokens, node.estimate.seconds, node.estimate.memory),
    }
}

/// `to run: config changed: limit 48 -> 96`.
fn heading(status: &Status) -> String {
    let word = status.state.word();
    if status.why.is_empty() { word.to_string() } else { format!("{word}: {}", status.why.join("; ")) }
}

fn instance(node: &PlanNode, status: &Status, effort: &str) -> String {
    let mut parts = vec![node.fingerprint.short().to_string()];
    if let State::Partial { done, total } = status.state {
        let of = total.map(|t| format!(" of {}", number(t))).unwrap_or_default();
        parts.push(format!("{}{of} {} done", number(done), node.unit));
    }
    parts.push(effort.to_string());
    let values: Vec<&str> = node.name.bindings.0.iter().map(|(_, v)| v.as_str()).collect();
    parts.push(values.join(", "));
    parts.retain(|p| !p.is_empty());
    format!("    {}\n", parts.join("  "))
}

/// `id: string, score: float?`; a question mark where a value may be null.
fn columns(schema: &Schema) -> String {
    let column = |f: &std::sync::Arc<arrow::datatypes::Field>| {
        format!("{}: {}{}", f.name(), type_word(f.data_type()), if f.is_nullable() { "?" } else { "" })
    };
    schema.fields().iter().map(column).collect::<Vec<_>>().join(", ")
}

/// A type in the words of manifests and of `columns`.
pub fn type_word(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => "string".into(),
        DataType::Int64 => "int".into(),
        DataType::Float64 => "float".into(),
        DataType::Boolean => "bool".into(),
        DataType::List(item) if *item.data_type() == DataType::Utf8 => "strings".into(),
        DataType::List(item) => format!("list of {}", type_word(item.data_type())),
        other => other.to_string().to_lowercase(),
    }
}

pub(super) fn wrap(text: &str, indent: &str) -> String {
    let deeper = format!("{indent}  ");
    let options = textwrap::Options::new(WIDTH)
        .initial_indent(indent)
        .subsequent_indent(&deeper)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .break_words(false);
    textwrap::wrap(text, options).join("\n") + "\n"
}

fn to_json(plan: &Plan, states: &[Status]) -> Value {
    let nodes: Vec<Value> = plan.nodes.iter().zip(states).map(|(node, status)| node_json(plan, node, status)).collect();
    let totals = Totals::of(plan, states);
    json!({
        "pipeline": plan.name,
        "seed": plan.seed,
        "nodes": nodes,
        "totals": {
            "states": totals.states,
            "rows": totals.rows,
            "tokens": totals.tokens,
            "seconds": totals.seconds,
            "memory": totals.memory,
        },
    })
}

fn node_json(plan: &Plan, node: &PlanNode, status: &Status) -> Value {
    let (done, total) = match status.state {
        State::Partial { done, total } => (Some(done), total),
        _ => (None, None),
    };
    let inputs = node.inputs.iter().map(|i| {
        let producer = &plan.nodes[i.node];
        json!({ "port": i.port, "node": producer.name.to_string(), "output": producer.op.outputs[i.output].name })
    });
    let outputs = node.op.outputs.iter().zip(&node.outputs).map(|(output, schema)| {
        let column = |f: &std::sync::Arc<arrow::datatypes::Field>| {
            json!({ "name": f.name(), "type": type_word(f.data_type()), "nullable": f.is_nullable() })
        };
        json!({ "name": output.name, "columns": schema.fields().iter().map(column).collect::<Vec<_>>() })
    });
    json!({
        "name": node.name.to_string(),
        "base": node.name.base,
        "bindings": node.name.bindings.0.iter().cloned().collect::<IndexMap<_, _>>(),
        "op": node.op.name,
        "doc": node.doc,
        "state": status.state.word(),
        "why": status.why,
        "rows_done": done,
        "rows_total": total,
        "fingerprint": node.fingerprint,
        "inputs": inputs.collect::<Vec<_>>(),
        "outputs": outputs.collect::<Vec<_>>(),
        "estimate": node.estimate,
        "models": node.models,
        "files": node.files,
        "files_out": node.files_out,
        "barrier": node.barrier,
        "journalled": node.journalled,
        "tolerance": node.tolerance,
    })
}
