//! What `lora-train` refuses at plan time, and what it does with rows: on a small random model.

use crate::config::load_text;
use crate::diag::{Diagnostics, Sources, render};
use crate::plan::{Plan, PlanEnv};

const HEAD: &str = r#"
model "student" dataset="smollm2-135m-instruct"
load "rows" path="rows.jsonl" { columns { question "string"; response "string"; chat "string" } }
load "held-out" path="held-out.jsonl" unused="ok" { columns { question "string"; response "string" } }
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
    plan(&node).err().unwrap_or_else(|| panic!("{fields} is taken"))
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (fields, said) in [
        ("validation=\"rows\"", "error[validation-overlap]: `rows` is trained on and validated on"),
        ("patience=2", "error[meaningless-field]: `patience` needs rows at `validation`"),
        ("keep=\"best\"", "error[meaningless-field]: `keep` needs rows at `validation`"),
        ("epochs=2 steps=10", "error[conflicting-fields]: `lora-train` takes `epochs` or `steps`, not both"),
        ("messages=\"chat\" response=\"response\"", "error[conflicting-fields]: `lora-train` takes `messages`, or"),
        ("messages=\"chat\" system=\"Be brief.\"", "error[meaningless-field]: `system` is for questions"),
        ("warm-up=1.5", "error[out-of-range]: `warm-up` is a share below 1 or a whole number, not 1.5"),
        ("betas=0.9", "error[out-of-range]: `betas` are two numbers, and 1 are given"),
        ("targets=\"lm_head\"", "error[unknown-choice]"),
        ("question=\"prompt\"", "error[column-missing]"),
    ] {
        let text = refused(fields);
        assert!(text.contains(said), "{fields}:\n{text}");
        assert_eq!(text.matches("error[").count(), 1, "{fields}:\n{text}");
    }
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

#[test]
fn rows_that_choose_an_adapter_do_not_test_it() {
    let test = |validation: &str, tested: &str| {
        plan(&format!(
            r#"
            load "train" dataset="gsm8k" split="train" unused="ok"
            load "test" dataset="gsm8k" split="test" unused="ok"
            load "few" dataset="gsm8k" split="test" limit=100 unused="ok"
            load "others" dataset="gsm8k" split="test" offset=100 unused="ok"
            load "train-few" dataset="gsm8k" split="train" limit=100 unused="ok"
            filter "half" from="test" where="length(question) < 200" unused="ok"
            filter "other-half" from="test" where="length(question) >= 200" unused="ok"
            sort "sorted" from="half" by="question" unused="ok"
            derive "more" from="few" unused="ok" {{ column "twice" "question" }}
            lora-train "tuned" from="train" validation="{validation}" model="student"
            evaluate "tested" from="{tested}" model="student" task="gsm8k" adapter="tuned" unused="ok"
        "#
        ))
    };
    for (validation, tested) in [
        ("test", "test"),
        ("few", "test"),
        ("test", "few"),
        ("more", "few"),
        ("half", "sorted"),
        ("half", "test"),
        ("few", "half"),
    ] {
        let text = test(validation, tested).err().unwrap_or_else(|| panic!("{validation} and {tested} are taken"));
        assert!(text.contains("error[validation-is-test]"), "{validation} {tested}: {text}");
    }
    for (validation, tested) in [("train-few", "test"), ("few", "others"), ("half", "other-half")] {
        let found = test(validation, tested).err().unwrap_or_default();
        assert!(!found.contains("validation-is-test"), "{validation} {tested}: {found}");
    }
}

#[test]
fn rows_that_an_adapter_was_trained_on_do_not_test_it() {
    let test = |trained: &str, tested: &str| {
        plan(&format!(
            r#"
            load "train" dataset="gsm8k" split="train" unused="ok"
            load "test" dataset="gsm8k" split="test" unused="ok"
            load "train-few" dataset="gsm8k" split="train" limit=100 unused="ok"
            load "train-rest" dataset="gsm8k" split="train" offset=100 unused="ok"
            task-prompt "asked" from="train-few" task="gsm8k" unused="ok"
            join "answered" left="asked" right="train" on="id" unused="ok"
            sample "some" from="train" n=10 unused="ok"
            lora-train "tuned" from="{trained}" model="student"
            evaluate "tested" from="{tested}" model="student" task="gsm8k" adapter="tuned" unused="ok"
        "#
        ))
    };
    for (trained, tested) in
        [("train", "train"), ("train-few", "train"), ("asked", "train-few"), ("answered", "train"), ("train", "some")]
    {
        let text = test(trained, tested).err().unwrap_or_else(|| panic!("{trained} and {tested} are taken"));
        assert!(text.contains("error[training-is-test]"), "{trained} {tested}: {text}");
        for allowed in ["keep", "quarantine"] {
            let found = test(trained, &format!("{tested}\" on-overlap=\"{allowed}")).err().unwrap_or_default();
            assert!(!found.contains("training-is-test"), "{trained} {tested}: {found}");
        }
    }
    for (trained, tested) in [("train", "test"), ("train-few", "train-rest"), ("answered", "some")] {
        let found = test(trained, tested).err().unwrap_or_default();
        assert!(!found.contains("training-is-test"), "{trained} {tested}: {found}");
    }
}
