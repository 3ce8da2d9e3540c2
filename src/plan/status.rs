//! What a run would do with each node, and why.

use super::{Fingerprint, NodeName, Plan, PlanNode, digest::ABSENT};
use crate::exec::survey::{Look, Task, tasks};
use indexmap::IndexMap;
use serde_json::Value;

/// What the plan asks of a store.
pub trait StoreView {
    /// Whether the output is there, whole.
    fn is_finished(&self, fingerprint: &Fingerprint) -> bool;
    /// Journalled rows of an unfinished node: done, and of how many where known.
    fn partial(&self, node: &PlanNode) -> Option<(u64, Option<u64>)>;
    /// The ingredients that a node of this pipeline and name had when it last ran.
    fn last_ingredients(&self, pipeline: &str, node: &NodeName) -> Option<IndexMap<String, String>>;
}

/// What would happen to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Cached,
    /// Not there, and all that reads it is.
    NotNeeded,
    Partial {
        done: u64,
        total: Option<u64>,
    },
    ToRun,
    /// Not run, for this reason.
    Skipped(String),
    /// Identical to an earlier node (index into the plan's nodes), which runs for both.
    Shared(usize),
}

/// The state of a node and the reasons for it, the most telling first.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub state: State,
    pub why: Vec<String>,
}

impl State {
    /// For tables and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::NotNeeded => "not needed",
            Self::Partial { .. } => "partial",
            Self::ToRun => "to run",
            Self::Skipped(_) => "skipped",
            Self::Shared(_) => "shared",
        }
    }

    /// The share of the node's own work that is still to do, from 0 to 1.
    pub fn left(&self) -> f64 {
        match self {
            Self::ToRun => 1.0,
            Self::Partial { done, total: Some(total) } if *total > 0 => 1.0 - (*done as f64 / *total as f64).min(1.0),
            Self::Partial { .. } => 1.0,
            Self::Cached | Self::NotNeeded | Self::Skipped(_) | Self::Shared(_) => 0.0,
        }
    }
}

/// The status of every node of a plan, in its order: what the executor would decide, by the executor's own survey.
/// Without a store nothing is finished.
pub fn statuses(plan: &Plan, store: Option<&dyn StoreView>) -> Vec<Status> {
    let finished = |at: usize| store.is_some_and(|s| s.is_finished(&plan.nodes[at].fingerprint));
    let tasks = tasks(plan, |at, _| if finished(at) { Look::Whole } else { Look::Missing });
    let only = |state, why| Status { state, why };
    let status = |(node, task): (&PlanNode, Task)| match task {
        Task::Skipped => {
            let reason = node.skipped.clone().unwrap_or_default();
            only(State::Skipped(reason.clone()), vec![reason])
        }
        Task::Shared(other) => only(State::Shared(other), vec![format!("same as `{}`", plan.nodes[other].name)]),
        Task::Cached => only(State::Cached, Vec::new()),
        Task::NotNeeded => only(State::NotNeeded, vec!["all that reads it is cached".into()]),
        Task::Run => to_run(plan, node, store),
    };
    plan.nodes.iter().zip(tasks).map(status).collect()
}

fn to_run(plan: &Plan, node: &PlanNode, store: Option<&dyn StoreView>) -> Status {
    let Some(store) = store else { return Status { state: State::ToRun, why: vec!["never run".into()] } };
    let partial = if node.journalled { store.partial(node) } else { None };
    let state = match partial {
        Some((done, total)) if done > 0 => State::Partial { done, total: total.or(node.estimate.rows) },
        _ => State::ToRun,
    };
    let why = match store.last_ingredients(&plan.name, &node.name) {
        None => vec!["never run".to_string()],
        Some(last) => match differences(plan, node, &last) {
            none if none.is_empty() && partial.is_some() => vec!["stopped before it was finished".into()],
            none if none.is_empty() => vec!["not finished, or removed from the store".into()],
            some => some,
        },
    };
    Status { state, why }
}

/// In words, what is different from the last time.
fn differences(plan: &Plan, node: &PlanNode, last: &IndexMap<String, String>) -> Vec<String> {
    let mut reasons = Vec::new();
    for (key, now) in &node.ingredients {
        match last.get(key) {
            Some(then) if then == now => {}
            Some(then) => reasons.extend(changed(plan, node, key, then, now)),
            None => reasons.push(format!("{} is new", describe(plan, node, key))),
        }
    }
    for key in last.keys().filter(|k| !node.ingredients.contains_key(*k)) {
        reasons.push(match key.as_str() {
            "skipped" => "no longer skipped".into(),
            key => format!("{} is gone", describe(plan, node, key)),
        });
    }
    reasons
}

fn changed(plan: &Plan, node: &PlanNode, key: &str, then: &str, now: &str) -> Vec<String> {
    match key {
        "config" => config_changes(then, now),
        "op" => vec![format!("operator changed: {then} -> {now}")],
        "seed" => vec!["the seed changed".into()],
        "format" => vec!["the store's format changed".into()],
        key if key.starts_with("file:") && now == ABSENT => vec![format!("{} is gone", describe(plan, node, key))],
        key if key.starts_with("file:") && then == ABSENT => vec![format!("{} is new", describe(plan, node, key))],
        key => vec![format!("{} changed", describe(plan, node, key))],
    }
}

/// An ingredient in the user's words: "input `rows`", "file data.json".
fn describe(plan: &Plan, node: &PlanNode, key: &str) -> String {
    match key.split_once(':') {
        Some(("input" | "producer", place)) => match producer(plan, node, place) {
            Some(name) => format!("input `{name}`"),
            None => format!("input {place}"),
        },
        Some(("model", name)) => format!("model `{name}`"),
        Some(("file", path)) => format!("file {path}"),
        _ => key.to_string(),
    }
}

fn producer<'a>(plan: &'a Plan, node: &PlanNode, place: &str) -> Option<&'a NodeName> {
    let (port, position) = place.rsplit_once(':')?;
    let input = node.inputs.iter().filter(|i| i.port == port).nth(position.parse().ok()?)?;
    Some(&plan.nodes[input.node].name)
}

/// "config changed: limit 48 -> 96", one for each value that differs.
fn config_changes(then: &str, now: &str) -> Vec<String> {
    let (Ok(then), Ok(now)) = (serde_json::from_str::<Value>(then), serde_json::from_str::<Value>(now)) else {
        return vec!["config changed".into()];
    };
    let mut changes = Vec::new();
    compare("", &then, &now, &mut changes);
    if changes.is_empty() {
        // Only the order of keys is different, which operators may give a meaning.
        return vec!["config changed: order of entries".into()];
    }
    changes.into_iter().map(|c| format!("config changed: {c}")).collect()
}

fn compare(path: &str, then: &Value, now: &Value, changes: &mut Vec<String>) {
    match (then, now) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in b {
                compare(&join(path, key), a.get(key).unwrap_or(&Value::Null), value, changes);
            }
            for (key, value) in a.iter().filter(|(k, _)| !b.contains_key(*k)) {
                compare(&join(path, key), value, &Value::Null, changes);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                compare(&join(path, &(i + 1).to_string()), x, y, changes);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.iter().chain(b).any(|v| v.is_array() || v.is_object()) => {
            changes.push(format!("{}: {} -> {} entries", named(path), a.len(), b.len()));
        }
        (a, b) if a != b => {
            let (a, b) = shown(&text_of(a), &text_of(b));
            changes.push(format!("{} {a} -> {b}", named(path)));
        }
        _ => {}
    }
}

fn named(path: &str) -> &str {
    if path.is_empty() { "value" } else { path }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "unset".into(),
        Value::String(s) => format!("`{s}`"),
        other => other.to_string(),
    }
}

/// Two values, each short enough to stand in one line: of long ones the part where they begin to differ.
fn shown(a: &str, b: &str) -> (String, String) {
    const WIDTH: usize = 40;
    let same = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    let start = if a.chars().count().max(b.chars().count()) <= WIDTH { 0 } else { same.saturating_sub(10) };
    let cut = |text: &str| {
        let head = if start > 0 { "…" } else { "" };
        let part: String = text.chars().skip(start).take(WIDTH).collect();
        let tail = if text.chars().count() > start + WIDTH { "…" } else { "" };
        format!("{head}{part}{tail}")
    };
    (cut(a), cut(b))
}
