//! Scoring through the binary. kill -9 while a model scores rows: the same command goes on, no finished row is scored
//! again, and the files are those of an undisturbed run.

use super::common::Sandbox;
use super::tiny;
use std::fmt::Write;

const PIPELINE: &str = r#"
pipeline "p" seed=1 { doc "Scores that take a while" }
model "tiny" path="tiny"
load "rows" path="rows.jsonl"
score-ppl "scored" from="rows" model="tiny"
filter "likely" from="scored" where="ppl < 1000000"
write "file" from="likely" path="scored.jsonl"
"#;

fn sandbox(rows: usize) -> Sandbox {
    let s = Sandbox::new();
    tiny::write(&s, "tiny");
    let mut lines = String::new();
    for i in 0..rows {
        let answer = "so it is that number again and again ".repeat(1 + i * 7 % 5);
        writeln!(lines, r#"{{"question":"What is {i}?","response":"{i}, {answer}"}}"#).unwrap();
    }
    s.write("rows.jsonl", lines);
    s.write("p.kdl", PIPELINE);
    s
}

#[test]
fn a_killed_scoring_goes_on_and_ends_in_the_same_bytes() {
    const ROWS: usize = 1600;
    let undisturbed = sandbox(ROWS);
    undisturbed.run(&["run", "p.kdl"]).exits(0);
    let s = sandbox(ROWS);
    let mut kills = 0;
    let mut seen = 0;
    for wait in [5, 60, 20, 120, 0, 40, 90].into_iter().cycle() {
        // Killed soon after it has finished further rows, so that every round gets somewhere.
        if !s.kill(&["run", "p.kdl", "--quiet"], wait, || s.journalled().1 > seen) {
            break;
        }
        kills += 1;
        let (keys, records) = s.journalled();
        assert_eq!(keys.len(), records, "a finished row was scored again");
        seen = records;
        if kills == 3 {
            let plan = s.run(&["plan", "p.kdl"]).exits(0).stdout;
            assert!(plan.contains("partial"), "{plan}");
        }
    }
    assert!(kills >= 3, "only {kills} kills: the run is too quick for this test");
    let (keys, records) = s.journalled();
    assert_eq!((keys.len(), records), (ROWS, ROWS), "every row is scored, and none twice");
    assert_eq!(s.read("runs/p/scored.jsonl"), undisturbed.read("runs/p/scored.jsonl"));
    assert_eq!(s.parts(".idiolect/store"), undisturbed.parts(".idiolect/store"));
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached"]);
}

#[test]
fn rows_scored_once_are_not_scored_again_when_the_pipeline_grows() {
    let s = sandbox(200);
    s.run(&["run", "p.kdl"]).exits(0);
    // More rows and another operator version of the same question: only the new rows go to the model.
    let more = s
        .read("rows.jsonl")
        .iter()
        .chain(br#"{"question":"And?","response":"One more."}"#)
        .copied()
        .collect::<Vec<_>>();
    s.write("rows.jsonl", more);
    s.write("p.kdl", PIPELINE.replace("model=\"tiny\"\nfilter", "model=\"tiny\" count-end=#false\nfilter"));
    s.run(&["run", "p.kdl"]).exits(0);
    let (keys, records) = s.journalled();
    assert_eq!((keys.len(), records), (201, 201));
}

#[test]
fn scores_do_not_depend_on_batches_stages_or_what_runs_beside() {
    let a = sandbox(300);
    a.run(&["run", "p.kdl"]).exits(0);
    let b = sandbox(300);
    b.run(&["run", "p.kdl", "--batch-rows", "7", "--channel-batches", "1", "--stages", "1"]).exits(0);
    assert_eq!(a.read("runs/p/scored.jsonl"), b.read("runs/p/scored.jsonl"));
    assert_eq!(a.parts(".idiolect/store"), b.parts(".idiolect/store"));
}

#[test]
fn rows_that_cannot_be_scored_leave_with_a_reason() {
    let s = sandbox(5);
    let mut rows = String::from_utf8(s.read("rows.jsonl")).expect("UTF-8");
    writeln!(rows, r#"{{"question":"Nothing?","response":""}}"#).unwrap();
    writeln!(rows, r#"{{"question":"Long?","response":"{}"}}"#, "so ".repeat(3000)).unwrap();
    s.write("rows.jsonl", rows);
    s.run(&["run", "p.kdl"]).exits(3).says(&["quarantine"]);
    let quarantine = String::from_utf8(s.read("runs/p/quarantine.jsonl")).expect("UTF-8");
    assert!(quarantine.contains("empty-response") && quarantine.contains("too-long"), "{quarantine}");
}
