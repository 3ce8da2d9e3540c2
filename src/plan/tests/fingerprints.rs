//! What a fingerprint depends on, and what not.

use super::plan;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Names and fingerprints of a plan's nodes.
fn prints(text: &str) -> BTreeMap<String, String> {
    plan(text).nodes.into_iter().map(|n| (n.name.to_string(), n.fingerprint.0)).collect()
}

/// A small pipeline in which everything that must not matter can be varied.
fn pipeline(limit: u32, seed: u32, model: &str, idle: &Idle) -> String {
    let run = idle.batch.map(|b| format!("run {{ batch-rows {b}; stages {}; }}\n", b % 7 + 1)).unwrap_or_default();
    let threads = idle.threads.map(|t| format!("threads={t}")).unwrap_or_default();
    let doc = idle.doc.as_ref().map(|d| format!("doc=\"{d}\"")).unwrap_or_default();
    let (m, comment) = (&idle.model_name, &idle.comment);
    let rows = if idle.swapped { format!("{threads} limit={limit}") } else { format!("limit={limit} {threads}") };
    let score = if idle.swapped { format!("model=\"{m}\" from=\"r\"") } else { format!("from=\"r\" model=\"{m}\"") };
    let nodes = [
        format!("rows \"r\" {rows} {doc} // {comment}"),
        format!("score \"s\" {score}"),
        format!("draw \"d\" tolerance={} {{ from \"s\"; }}", f64::from(idle.threads.unwrap_or(0)) / 64.0),
        "save \"f\" from=\"d\"".to_string(),
    ];
    let mut nodes = nodes.to_vec();
    if idle.reversed {
        nodes.reverse();
    }
    format!("pipeline \"p\" seed={seed}\n{run}model \"{m}\" path=\"{model}\"\n{}\n", nodes.join("\n"))
}

/// What changes no result.
#[derive(Debug, Clone)]
struct Idle {
    threads: Option<u32>,
    batch: Option<u32>,
    doc: Option<String>,
    comment: String,
    model_name: String,
    swapped: bool,
    reversed: bool,
}

fn idle() -> impl Strategy<Value = Idle> {
    (
        prop::option::of(1u32..64),
        prop::option::of(1u32..5000),
        prop::option::of("[a-z ]{0,20}"),
        "[a-z {}\"]{0,20}",
        "m[a-z0-9-]{0,8}",
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(threads, batch, doc, comment, model_name, swapped, reversed)| Idle {
            threads,
            batch,
            doc,
            comment,
            model_name,
            swapped,
            reversed,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_changes_no_result_changes_no_fingerprint(a in idle(), b in idle()) {
        prop_assert_eq!(prints(&pipeline(5, 7, "w", &a)), prints(&pipeline(5, 7, "w", &b)));
    }

    #[test]
    fn a_value_a_model_and_a_seed_change_what_depends_on_them(limit in 2u32..1000, seed in 2u32..1000, idle in idle()) {
        let base = prints(&pipeline(1, 1, "w", &idle));
        let differs = |other: BTreeMap<String, String>| -> Vec<String> {
            base.iter().filter(|(name, print)| other[*name] != **print).map(|(name, _)| name.clone()).collect()
        };
        prop_assert_eq!(differs(prints(&pipeline(limit, 1, "w", &idle))), ["d", "f", "r", "s"]);
        prop_assert_eq!(differs(prints(&pipeline(1, 1, "other", &idle))), ["d", "f", "s"]);
        prop_assert_eq!(differs(prints(&pipeline(1, seed, "w", &idle))), ["d", "f"]);
    }
}

#[test]
fn the_content_of_a_file_counts_and_its_place_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let print = |name: &str| {
        prints(&format!("rows \"r\" file=\"{}\"\nsave \"f\" from=\"r\"\n", folder.path().join(name).display()))
    };
    for (name, content) in [("a", "same"), ("b", "same"), ("c", "other")] {
        std::fs::write(folder.path().join(name), content).expect("write");
    }
    assert_eq!(print("a"), print("b"));
    assert_ne!(print("a"), print("c"));
}

#[test]
fn which_output_and_which_cell_is_read_counts() {
    let halves = |output: &str| {
        prints(&format!("rows \"r\"\nhalves \"h\" from=\"r\"\nsave \"f\" from=\"h{output}\"\n"))["f"].clone()
    };
    assert_eq!(halves(""), halves(".lower"));
    assert_ne!(halves(".lower"), halves(".higher"));
    let cells = |set: &str| {
        prints(&format!(
            "matrix \"m\" {{ set \"{set}\"; }}\nrows \"r\" matrix=\"m\" doc=\"${{set}}\"\ngather \"g\" from=\"r\"\nsave \"f\" from=\"g\"\n"
        ))
    };
    assert_ne!(cells("x")["g"], cells("y")["g"]);
    assert_eq!(cells("x")["r[set=x]"], cells("y")["r[set=y]"]);
}

#[test]
fn equal_nodes_run_once_and_are_read_from_one_place() {
    let plan = plan("rows \"a\"\nrows \"b\"\nhalves \"h\" from=\"b\"\nsave \"f\" from=\"h\"\nsave \"g\" from=\"a\"\n");
    assert_eq!(plan.nodes[1].shared_with, Some(0));
    assert_eq!(plan.nodes[2].inputs[0].node, 0);
    // Drawing depends on the node's name, so these two are not equal.
    let plan = super::plan(
        "rows \"a\"\ndraw \"x\" from=\"a\"\ndraw \"y\" from=\"a\"\nsave \"f\" from=\"x\"\nsave \"g\" from=\"y\"\n",
    );
    assert!(plan.nodes.iter().all(|n| n.shared_with.is_none()));
}

#[test]
fn seeds_depend_on_the_pipeline_and_the_node_alone() {
    let seeds = |text: &str| -> BTreeMap<String, u64> {
        plan(text).nodes.into_iter().map(|n| (n.name.to_string(), n.seed)).collect()
    };
    let one = seeds("rows \"a\"\ndraw \"d\" from=\"a\"\nsave \"f\" from=\"d\"\n");
    let more = seeds("rows \"z\" unused=\"ok\"\nrows \"a\" limit=3\ndraw \"d\" from=\"a\"\nsave \"f\" from=\"d\"\n");
    assert_eq!((one["d"], one["a"]), (more["d"], more["a"]));
    assert_ne!(one["d"], one["a"]);
}
