//! What `lora-train` refuses at plan time, and what it does with rows: on a small random model.

use crate::config::load_text;
use crate::diag::{Diagnostics, Sources, render};
use crate::plan::{Plan, PlanEnv};

const HEAD: &str = r#"
model "student" dataset="smollm2-135m-instruct"
load "rows" path="rows.jsonl" { columns { question "string"; response "string"; chat "string" } }
load "held-out" path="held-out.jsonl" { columns { question "string"; response "string" } }
"#;

fn plan(node: &str) -> Result<Plan, String> {
    let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
    let text = format!("{HEAD}{node}");
    let pipeline = load_text("training.kdl", &text, &[], &mut sources, &mut diagnostics);
    let graph = pipeline.and_then(|p| crate::graph::build(p, &mut diagnostics));
    let plan = graph.and_then(|g| crate::plan::build(g, &PlanEnv::pure(), &mut diagnostics));
    plan.ok_or_else(|| render(&diagnostics, &sources, false))
}

fn refused(fields: &str) -> String {
    let node = format!("lora-train \"tuned\" from=\"rows\" model=\"student\" unused=\"ok\" {fields}");
    let text = plan(&node).err().unwrap();
    // What is wrong and what to do; where it is has its own tests.
    let told = |line: &&str| line.starts_with("error") || line.trim_start().starts_with("= help");
    text.lines().filter(told).map(|line| format!("{}\n", line.trim())).collect()
}

#[test]
fn what_contradicts_itself_is_refused() {
    insta::assert_snapshot!(refused("validation=\"rows\""), @"");
    insta::assert_snapshot!(refused("patience=2"), @"");
    insta::assert_snapshot!(refused("keep=\"best\""), @"");
    insta::assert_snapshot!(refused("epochs=2 steps=10"), @"");
    insta::assert_snapshot!(refused("messages=\"chat\" response=\"response\""), @"");
    insta::assert_snapshot!(refused("messages=\"chat\" system=\"Be brief.\""), @"");
    insta::assert_snapshot!(refused("warm-up=1.5"), @"");
    insta::assert_snapshot!(refused("betas=0.9"), @"");
    insta::assert_snapshot!(refused("targets=\"lm_head\""), @"");
    insta::assert_snapshot!(refused("question=\"prompt\""), @"");
}

#[test]
fn an_adapter_keeps_its_shape() {
    let node = r#"
        lora-train "first" from="rows" model="student"
        lora-train "second" from="rows" model="student" adapter="first" unused="ok" rank=4
    "#;
    insta::assert_snapshot!(plan(node).err().unwrap());
}

/// What changes no byte of the result is not part of the fingerprint.
#[test]
fn only_what_changes_the_adapter_is_in_the_fingerprint() {
    let print = |fields: &str| {
        let node = format!("lora-train \"tuned\" from=\"rows\" model=\"student\" unused=\"ok\" {fields}");
        let plan = plan(&node).unwrap_or_else(|e| panic!("{e}"));
        plan.nodes.iter().find(|n| n.op.name == "lora-train").unwrap().fingerprint.clone()
    };
    let plain = print("");
    for fields in ["micro-batch=1", "checkpointing=#true", "checkpoint-every=5", "epochs=3", "rank=8"] {
        assert_eq!(print(fields), plain, "{fields}");
    }
    for fields in ["epochs=4", "rank=4", "seed=1", "mask-prompt=#false", "max-norm=0", "betas 0.9 0.99"] {
        let fields = if fields.contains('=') { fields.to_string() } else { format!("{{ {fields} }}") };
        assert_ne!(print(&fields), plain, "{fields}");
    }
}
