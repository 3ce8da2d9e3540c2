//! What a run would do with each node, and the reasons.

use super::plan;
use crate::plan::{Fingerprint, NodeName, Plan, PlanNode, State, Status, StoreView, statuses};
use indexmap::IndexMap;
use std::collections::{HashMap, HashSet};

/// What a store would know after runs.
#[derive(Default)]
struct Memory {
    finished: HashSet<Fingerprint>,
    last: HashMap<NodeName, IndexMap<String, String>>,
    partial: HashMap<Fingerprint, (u64, Option<u64>)>,
}

impl StoreView for Memory {
    fn is_finished(&self, fingerprint: &Fingerprint) -> bool {
        self.finished.contains(fingerprint)
    }
    fn partial(&self, node: &PlanNode) -> Option<(u64, Option<u64>)> {
        self.partial.get(&node.fingerprint).copied()
    }
    fn last_ingredients(&self, _: &str, node: &NodeName) -> Option<IndexMap<String, String>> {
        self.last.get(node).cloned()
    }
}

impl Memory {
    fn after(plan: &Plan) -> Self {
        let mut memory = Self::default();
        for node in plan.nodes.iter().filter(|n| n.skipped.is_none()) {
            memory.finished.insert(node.fingerprint.clone());
            memory.last.insert(node.name.clone(), node.ingredients.clone());
        }
        memory
    }
}

const TEXT: &str = "model \"m\" path=\"weights\"\nrows \"r\" limit=48\nscore \"s\" from=\"r\" model=\"m\"\n\
                    draw \"d\" from=\"s\"\nsave \"f\" from=\"d\"\n";

/// `name: state: why` of every node of `after`, for a store that has run `before`.
fn told(before: &str, after: &str) -> Vec<String> {
    let (memory, plan) = (Memory::after(&plan(before)), plan(after));
    let line = |(node, status): (&PlanNode, Status)| {
        format!("{}: {}: {}", node.name, status.state.word(), status.why.join("; "))
    };
    plan.nodes.iter().zip(statuses(&plan, Some(&memory))).map(line).collect()
}

#[test]
fn without_a_store_everything_is_to_run() {
    let plan = plan(TEXT);
    assert!(statuses(&plan, None).iter().all(|s| s.state == State::ToRun && s.why == ["never run"]));
}

#[test]
fn nothing_changed() {
    assert!(told(TEXT, TEXT).iter().all(|line| line.ends_with(": cached: ")));
}

#[test]
fn a_setting_changed() {
    assert_eq!(
        told(TEXT, &TEXT.replace("48", "96")),
        [
            "r: to run: config changed: limit `Int(48)` -> `Int(96)`",
            "s: to run: input `r` changed",
            "d: to run: input `s` changed",
            "f: to run: input `d` changed",
        ]
    );
}

#[test]
fn a_model_a_seed_a_new_node() {
    let lines = told(TEXT, &TEXT.replace("\"weights\"", "\"others\""));
    assert_eq!(lines[..2], ["r: cached: ", "s: to run: model `m` changed"]);
    let lines = told(TEXT, &format!("pipeline \"p\" seed=8\n{TEXT}"));
    assert_eq!(lines[1..3], ["s: cached: ", "d: to run: the seed changed"]);
    let lines = told(TEXT, &format!("{TEXT}save \"g\" from=\"d\"\n"));
    assert_eq!(lines[4], "g: shared: same as `f`");
    let lines = told(TEXT, &format!("{TEXT}draw \"g\" from=\"d\"\nsave \"h\" from=\"g\"\n"));
    assert_eq!(lines[4], "g: to run: never run");
}

#[test]
fn a_file_changed_came_and_went() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("data.json");
    let text = format!("rows \"r\" file=\"{}\"\nsave \"f\" from=\"r\"\n", file.display());
    let first = |before: &Plan| {
        let now = plan(&text);
        statuses(&now, Some(&Memory::after(before)))[0].why.join("; ")
    };
    let absent = plan(&text);
    std::fs::write(&file, "one").expect("write");
    assert_eq!(first(&absent), format!("file {} is new", file.display()));
    let one = plan(&text);
    std::fs::write(&file, "two").expect("write");
    assert_eq!(first(&one), format!("file {} changed", file.display()));
    std::fs::remove_file(&file).expect("remove");
    assert_eq!(first(&one), format!("file {} is gone", file.display()));
}

#[test]
fn partly_done_unfinished_and_not_needed() {
    let plan = plan(TEXT);
    let mut memory = Memory::after(&plan);
    // Only the score's output is gone: what reads it is there, so it is not needed.
    memory.finished.remove(&plan.nodes[1].fingerprint);
    assert_eq!(statuses(&plan, Some(&memory))[1].state, State::NotNeeded);
    memory.finished.remove(&plan.nodes[2].fingerprint);
    memory.finished.remove(&plan.nodes[3].fingerprint);
    memory.partial.insert(plan.nodes[1].fingerprint.clone(), (3, None));
    let now = statuses(&plan, Some(&memory));
    assert_eq!(now[1].state, State::Partial { done: 3, total: Some(10) });
    assert_eq!(now[1].why, ["stopped before it was finished"]);
    assert_eq!(now[2].why, ["not finished, or removed from the store"]);
}

#[test]
fn skips_go_on_until_a_port_that_takes_them() {
    let text = "matrix \"m\" { set \"a\" \"b\"; }\nrows \"all\" matrix=\"m\" doc=\"${set}\" skip=\"no file for ${set}\"\n\
                draw \"d\" matrix=\"m\" from=\"all\"\ngather \"g\" from=\"d\"\nsave \"f\" from=\"g\"\n";
    let plan = plan(text);
    let skipped: Vec<Option<&str>> = plan.nodes.iter().map(|n| n.skipped.as_deref()).collect();
    let (a, b) = (Some("no file for a"), Some("no file for b"));
    assert_eq!(skipped, [a, b, a, b, None, None]);
    assert_eq!(plan.nodes[4].ingredients["input:from:1"], "skipped: no file for b");
    assert_eq!(statuses(&plan, None)[2].state, State::Skipped("no file for a".into()));
}

#[test]
fn gathered_inputs_keep_the_order_of_the_matrix() {
    let text = "matrix \"m\" { set \"b\" \"a\"; limit 2 1; }\nrows \"r\" matrix=\"m\" limit=\"${limit}\" doc=\"${set}\"\n\
                rows \"more\"\ngather \"g\" matrix=\"m\" over=\"set\" { from \"more\" \"r\"; }\ngather \"h\" from=\"g\"\nsave \"f\" from=\"h\"\n";
    let plan = plan(text);
    let inputs = |name: &str| -> Vec<String> {
        let node = plan.nodes.iter().find(|n| n.name.to_string() == name).expect("a node");
        let at = |(i, _)| node.ingredients[&format!("producer:from:{i}")].clone();
        node.inputs.iter().enumerate().map(at).collect()
    };
    assert_eq!(inputs("g[set=a]"), ["more", "r[set=a, limit=2]", "r[set=a, limit=1]"]);
    assert_eq!(inputs("h"), ["g[set=b]", "g[set=a]"]);
}

#[test]
fn a_thousand_instances_are_planned_once_each() {
    let values: Vec<String> = (1..=250).map(|i| i.to_string()).collect();
    let text = format!(
        "matrix \"m\" {{ limit {}; }}\nrows \"r\" matrix=\"m\" limit=\"${{limit}}\"\ndraw \"a\" matrix=\"m\" from=\"r\"\n\
         draw \"b\" matrix=\"m\" from=\"a\"\ndraw \"c\" matrix=\"m\" from=\"b\"\ngather \"g\" from=\"c\"\nsave \"f\" from=\"g\"\n",
        values.join(" ")
    );
    let plan = plan(&text);
    assert_eq!(plan.nodes.len(), 1002);
    assert_eq!(plan.nodes[1000].inputs.len(), 250);
}
