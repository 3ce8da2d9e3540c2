//! What a run keeps, what a later run need not do, and that nothing but the pipeline decides about bytes.

use super::common::{Sandbox, lines, until};
use std::fs::File;

const PIPELINE: &str = r#"
pipeline "p" seed=3 { doc "Some rows, twice"; }
param "half" type="int" default=2
load "rows" path="rows.jsonl"
filter "some" from="rows" where="n % ${half} = 0"
sample "few" from="some" n=50
write "kept" from="some" path="kept.parquet"
write "sampled" from="few" path="sub/few.jsonl"
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("p.kdl", PIPELINE);
    sandbox.write("rows.jsonl", lines(5000));
    sandbox
}

#[test]
fn a_second_run_has_nothing_to_do_and_gives_the_files_again() {
    let s = sandbox();
    s.run(&["run", "p.kdl"]).exits(0).says(&["5 of 5 nodes to run", "5 nodes run", "runs/p/kept.parquet"]);
    let (kept, few) = (s.read("runs/p/kept.parquet"), s.read("runs/p/sub/few.jsonl"));
    assert_eq!(few.iter().filter(|b| **b == b'\n').count(), 50);
    std::fs::remove_dir_all(s.path("runs")).unwrap();
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached (5 nodes)", "runs/p/sub/few.jsonl"]);
    assert_eq!((s.read("runs/p/kept.parquet"), s.read("runs/p/sub/few.jsonl")), (kept, few));
    assert!(s.ran("runs/p").is_empty());
}

#[test]
fn a_changed_node_runs_again_with_what_depends_on_it_and_nothing_else() {
    let s = sandbox();
    s.run(&["run", "p.kdl"]).exits(0);
    s.write("p.kdl", PIPELINE.replace("n=50", "n=60"));
    s.run(&["run", "p.kdl"]).exits(0);
    assert_eq!(sorted(s.ran("runs/p")), ["few", "sampled"]);
    s.run(&["run", "p.kdl", "-P", "half=3"]).exits(0);
    assert_eq!(sorted(s.ran("runs/p")), ["few", "kept", "sampled", "some"]);
    // And back: what was computed once is still there.
    s.write("p.kdl", PIPELINE);
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached"]);
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn bytes_depend_on_the_pipeline_alone() {
    let s = sandbox();
    s.run(&["run", "p.kdl"]).exits(0);
    let tight = ["--batch-rows", "3", "--channel-batches", "1", "--stages", "1", "--memory", "64MiB"];
    let wide = ["--batch-rows", "100000", "--channel-batches", "64", "--stages", "64"];
    for (name, options) in [("tight", tight.as_slice()), ("wide", wide.as_slice())] {
        let (out, store) = (format!("out-{name}"), format!("store-{name}"));
        let command = ["run", "p.kdl", "--out", &out, "--store", &store];
        s.run(&[command.as_slice(), options].concat()).exits(0);
        for file in ["kept.parquet", "sub/few.jsonl", "plan.json"] {
            assert_eq!(s.read(&format!("{out}/{file}")), s.read(&format!("runs/p/{file}")), "{file} of {name}");
        }
        assert_eq!(s.parts(&store), s.parts(".idiolect/store"), "{name}");
    }
}

#[test]
fn two_runs_on_one_store_at_once_lose_nothing() {
    let s = sandbox();
    s.write("rows.jsonl", lines(60_000));
    let runs = ["a", "b", "c"].map(|out| s.spawn(&["run", "p.kdl", "--out", out]));
    for run in runs {
        super::common::Ran::from(run.wait_with_output().unwrap()).exits(0);
    }
    assert_eq!(s.read("a/kept.parquet"), s.read("b/kept.parquet"));
    assert_eq!(s.read("a/sub/few.jsonl"), s.read("c/sub/few.jsonl"));
    assert_eq!(std::fs::read_dir(s.path(".idiolect/store/tmp")).unwrap().count(), 0);
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached"]);
}

#[test]
fn one_run_folder_takes_one_run_at_a_time() {
    let s = sandbox();
    s.write("runs/p/.lock", "");
    let held = File::options().write(true).open(s.path("runs/p/.lock")).unwrap();
    held.lock().unwrap();
    s.run(&["run", "p.kdl"]).exits(1).says(&["another run is writing into `runs/p`", "--out DIR"]);
    s.run(&["run", "p.kdl", "--out", "other"]).exits(0);
}

#[test]
fn a_store_is_not_cleaned_under_a_run_and_a_run_waits_for_the_cleaning() {
    let s = sandbox();
    s.run(&["run", "p.kdl"]).exits(0);
    let lock = File::options().write(true).open(s.path(".idiolect/store/lock")).unwrap();
    lock.lock_shared().unwrap();
    s.run(&["store", "gc"]).exits(2).says(&["a run is working in", "when no run uses it"]);
    lock.unlock().unwrap();
    lock.lock().unwrap();
    let mut run = s.spawn(&["run", "p.kdl"]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(run.try_wait().unwrap().is_none(), "it waits");
    lock.unlock().unwrap();
    super::common::Ran::from(run.wait_with_output().unwrap()).exits(0);
}

#[test]
fn gc_keeps_what_the_last_runs_used_and_explain_goes_back_to_the_file() {
    let s = sandbox();
    s.run(&["run", "p.kdl"]).exits(0);
    s.run(&["run", "p.kdl", "-P", "half=5"]).exits(0);
    let listed = || -> Vec<serde_json::Value> {
        serde_json::from_str(&s.run(&["store", "ls", "--json"]).exits(0).stdout).unwrap()
    };
    assert_eq!(listed().len(), 9, "`rows` is in both");
    let dry = s.run(&["store", "gc", "--keep-runs", "1", "--dry-run"]).exits(0).says(&["would free"]);
    assert_eq!(dry.stdout.lines().count(), 4);
    assert_eq!(listed().len(), 9);
    s.run(&["store", "gc", "--keep-runs", "1"]).exits(0).says(&["freed", "4 entries"]);
    s.run(&["run", "p.kdl", "-P", "half=5"]).exits(0).says(&["everything is cached"]);
    let kept = listed().into_iter().find(|r| r["op"] == "write").unwrap();
    let print = kept["fingerprint"].as_str().unwrap();
    let told = s.run(&["store", "explain", &print[..9]]).exits(0).stdout;
    assert!(told.contains(print) && told.contains("`rows`  load") && told.contains("file:rows.jsonl"), "{told}");
    let json = s.run(&["store", "explain", print, "--json"]).exits(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let made_from = &json["inputs"][0]["artifact"]["op"];
    assert!(made_from == "filter" || made_from == "sample", "{json}");
    s.run(&["store", "explain", "zz"]).exits(2).says(&["begins with `zz`", "store ls"]);
    s.run(&["store", "ls", "--store", "nowhere"]).exits(2).says(&["no store at `nowhere`"]);
    assert!(!s.path("nowhere").exists());
}

#[test]
fn ctrl_c_stops_a_run_and_says_how_to_go_on() {
    let s = sandbox();
    s.write("rows.jsonl", lines(1_000_000));
    let run = s.spawn(&["run", "p.kdl", "--batch-rows", "1"]);
    until("the first node starts", || s.events("runs/p").iter().any(|e| e["event"] == "node_started"));
    interrupt(&run);
    let ran = super::common::Ran::from(run.wait_with_output().unwrap()).exits(130);
    ran.says(&["run the same command again", "finished rows are kept"]);
    assert_eq!(s.events("runs/p").last().unwrap()["outcome"], "interrupted");
    assert_eq!(std::fs::read_dir(s.path(".idiolect/store/tmp")).unwrap().count(), 0);
}

#[test]
fn ctrl_c_ends_a_run_that_waits_for_a_store() {
    let s = sandbox();
    s.run(&["run", "p.kdl"]).exits(0);
    let lock = File::options().write(true).open(s.path(".idiolect/store/lock")).unwrap();
    lock.lock().unwrap();
    let run = s.spawn(&["run", "p.kdl", "--out", "other"]);
    until("the run has begun", || s.path("other/plan.json").exists());
    interrupt(&run);
    super::common::Ran::from(run.wait_with_output().unwrap()).exits(130);
}

pub fn interrupt(run: &std::process::Child) {
    // SAFETY: a signal to a child that is not waited for yet, so that its number is still its own.
    assert_eq!(unsafe { libc::kill(run.id() as i32, libc::SIGINT) }, 0);
}

#[test]
fn the_report_is_json_on_request() {
    let s = sandbox();
    let ran = s.run(&["run", "p.kdl", "--json", "--quiet"]).exits(0);
    assert_eq!(ran.stderr, "");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["nodes"][0]["outcome"]["kind"], "ran");
    assert_eq!(report["nodes"][1]["rows_in"], 5000);
    assert_eq!(report["nodes"][1]["rows_out"], 2500);
    assert_eq!(report["nodes"][1]["counts"]["rows_out"], 2500);
    assert_eq!(report["files"].as_array().unwrap().len(), 2);
}

#[test]
fn events_count_rows_batches_and_time_for_every_node() {
    let s = sandbox();
    s.run(&["run", "p.kdl", "--batch-rows", "100"]).exits(0);
    let events = s.events("runs/p");
    assert_eq!(events[0]["event"], "run_started");
    let ended = events.iter().find(|e| e["event"] == "node_finished" && e["node"] == "some").unwrap();
    let counts = &ended["counts"];
    assert_eq!((&counts["rows_in"], &counts["rows_out"]), (&5000.into(), &2500.into()));
    assert!(counts["batches_in"].as_u64().unwrap() >= 50);
    for time in ["seconds", "busy_seconds", "wait_in_seconds", "wait_out_seconds", "store_seconds"] {
        assert!(counts[time].as_f64().unwrap() >= 0.0, "{time}");
    }
    assert!(counts["queue_max"].as_u64().unwrap() <= 4);
    assert!(events.iter().all(|e| e["time"].as_str().unwrap().ends_with('Z')));
}
