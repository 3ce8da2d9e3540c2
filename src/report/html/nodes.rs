//! The sections of nodes: the instances of a sweep together, and what each was made of.

use super::model::{Detail, Group, InputRow, Instance, Sample, Schema};
use super::run::{Run, State, ending, group_anchor};
use super::text::clean;
use crate::exec::NodeInfo;
use crate::ops;
use crate::report::words::{duration, number};

/// Instances in a group's table, and those whose ingredients are on the page.
const LISTED: usize = 1000;
const DETAILED: usize = 12;

/// All groups, each with its samples.
pub fn groups(run: &Run<'_>, samples: Vec<Vec<Sample>>) -> Vec<Group> {
    let all = run.groups.iter().zip(samples).enumerate();
    all.map(|(at, ((name, instances), samples))| group(run, at, name, instances, samples)).collect()
}

fn group(run: &Run<'_>, at: usize, name: &str, instances: &[usize], samples: Vec<Sample>) -> Group {
    let first = &run.info.nodes[instances[0]];
    let left = |most: usize| match instances.len().saturating_sub(most) {
        0 => String::new(),
        more => number(more as u64),
    };
    let mut listed: Vec<Instance> =
        instances.iter().take(LISTED).enumerate().map(|(i, n)| instance(run, at, i, *n)).collect();
    Group {
        measures: worth_showing(&mut listed),
        id: group_anchor(at),
        name: clean(name),
        op: first.op.clone(),
        summary: ops::find(&first.op).map_or_else(String::new, |op| op.summary.to_string()),
        doc: clean(first.doc.as_deref().unwrap_or_default()),
        state: run.state(instances).class(),
        state_text: run.state_text(instances),
        time: run.time(instances).unwrap_or_default(),
        axes: first.name.bindings.0.iter().map(|(axis, _)| clean(axis)).collect(),
        instances: listed,
        more: left(LISTED),
        outputs: schemas(run, instances),
        details: instances.iter().take(DETAILED).map(|n| detail(run, *n)).collect(),
        undetailed: left(DETAILED),
        samples,
    }
}

fn instance(run: &Run<'_>, group: usize, at: usize, node: usize) -> Instance {
    let info = &run.info.nodes[node];
    Instance {
        id: format!("{}-{at}", group_anchor(group)),
        name: clean(&run.name(node)),
        values: info.name.bindings.0.iter().map(|(_, value)| clean(value)).collect(),
        state: State::of(info).class(),
        state_text: clean(&ending(info)),
        measures: measures(run, node),
        fingerprint: info.fingerprint.short().to_string(),
    }
}

/// What [`measures`] gives, in its order.
const MEASURES: [&str; 8] = [
    "rows in",
    "rows out",
    "quarantined",
    "tokens",
    "at work",
    "waiting for rows",
    "waiting for readers",
    "writing to the store",
];

/// What is counted of a node; empty where it is nothing.
fn measures(run: &Run<'_>, node: usize) -> Vec<String> {
    let info = &run.info.nodes[node];
    let counts = info.counts.as_ref();
    let time = |seconds: Option<f64>| seconds.filter(|s| *s >= 0.05).map(duration).unwrap_or_default();
    let count = |n: u64| if n == 0 { String::new() } else { number(n) };
    let made = run.artifacts[node].as_ref().map(|a| a.manifest.tokens);
    vec![
        count(info.rows_in),
        count(info.rows_out),
        count(info.quarantined),
        count(counts.map(|c| c.tokens).or(made).unwrap_or(0)),
        time(counts.map(|c| c.busy_seconds)),
        time(counts.map(|c| c.wait_in_seconds)),
        time(counts.map(|c| c.wait_out_seconds)),
        time(counts.map(|c| c.store_seconds)),
    ]
}

/// Leaves out what no instance has.
fn worth_showing(instances: &mut [Instance]) -> Vec<&'static str> {
    let shown: Vec<bool> = (0..MEASURES.len()).map(|m| instances.iter().any(|i| !i.measures[m].is_empty())).collect();
    let kept = |m: &usize| shown[*m];
    for instance in instances.iter_mut() {
        let all = std::mem::take(&mut instance.measures);
        instance.measures = all.into_iter().enumerate().filter(|(m, _)| kept(m)).map(|(_, text)| text).collect();
    }
    (0..MEASURES.len()).filter(kept).map(|m| MEASURES[m]).collect()
}

/// The outputs of the first instance, with the rows of all.
fn schemas(run: &Run<'_>, instances: &[usize]) -> Vec<Schema> {
    let rows = |output: usize| -> Option<u64> {
        let of = |i: &usize| Some(run.artifacts[*i].as_ref()?.manifest.outputs.get(output)?.rows);
        instances.iter().filter_map(of).reduce(|a, b| a + b)
    };
    let outputs = run.info.nodes[instances[0]].outputs.iter().enumerate();
    outputs
        .map(|(at, output)| Schema {
            name: output.name.clone(),
            rows: rows(at).map(number).unwrap_or_default(),
            columns: output.columns.iter().map(|c| [clean(&c.name), c.kind.clone()]).collect(),
        })
        .collect()
}

fn detail(run: &Run<'_>, node: usize) -> Detail {
    let info = &run.info.nodes[node];
    let shown = |(name, _): &(&String, &String)| {
        !name.starts_with("input:") && !["config", "format", "op"].contains(&name.as_str())
    };
    Detail {
        name: clean(&run.name(node)),
        fingerprint: info.fingerprint.to_string(),
        why: reasons(info),
        made: made(run, node),
        seed: info.seed.to_string(),
        config: info.ingredients.get("config").map(|c| clean(&pretty(c))).unwrap_or_default(),
        ingredients: info.ingredients.iter().filter(shown).map(|(n, v)| [clean(n), clean(v)]).collect(),
        inputs: inputs(run, info),
    }
}

/// Why it was run, or why not.
fn reasons(info: &NodeInfo) -> Vec<String> {
    match info.ending.word.as_str() {
        "cached" => vec!["the store has an output with this fingerprint".into()],
        _ if info.why.is_empty() => vec![clean(&ending(info))],
        _ => info.why.iter().map(|w| clean(w)).collect(),
    }
}

/// When and by whom its output was made.
fn made(run: &Run<'_>, node: usize) -> String {
    let Some(artifact) = &run.artifacts[node] else { return "its output is not in the store".into() };
    let m = &artifact.manifest;
    let when = m.created.get(..19).unwrap_or(&m.created).replace('T', " ");
    let by = format!(
        "{} UTC by {} of {} with idiolect {}, in {}",
        when,
        m.node,
        m.pipeline,
        m.idiolect,
        duration(m.seconds)
    );
    clean(&by)
}

fn inputs(run: &Run<'_>, info: &NodeInfo) -> Vec<InputRow> {
    let row = |input: &crate::store::manifest::InputRef| InputRow {
        port: input.port.clone(),
        node: clean(&input.node.to_string()),
        anchor: run.node_of(&input.fingerprint).map(|n| run.anchor(n)).unwrap_or_default(),
        output: input.output.clone(),
        fingerprint: input.fingerprint.short().to_string(),
    };
    info.inputs.iter().take(LISTED).map(row).collect()
}

/// JSON for people; as it is where it is none.
fn pretty(text: &str) -> String {
    let value: Result<serde_json::Value, _> = serde_json::from_str(text);
    value.map_or_else(|_| text.to_string(), |value| format!("{value:#}"))
}
