//! Training through the binary, with a small random model.

use super::common::{Sandbox, until};
use super::tiny;
use std::fmt::Write;

const PIPELINE: &str = r#"
pipeline "p" seed=1 { doc "A training that takes a while" }
param "every" type="int" default=1 { doc "Steps between checkpoints" }
model "tiny" path="tiny"
load "rows" path="rows.jsonl"
load "held-out" path="held-out.jsonl"
lora-train "tuned" from="rows" validation="held-out" model="tiny" {
    rank 4
    alpha 8
    dropout 0.1
    targets "all-linear"
    learning-rate 0.01
    batch 4
    epochs 6
    validation-every 5
    checkpoint-every "${every}"
}
score-ppl "scored" from="held-out" model="tiny" adapter="tuned"
write "log" from="tuned.log" path="log.csv"
write "scores" from="scored" path="scores.jsonl"
"#;

fn rows(name: &str, count: usize) -> String {
    let mut lines = String::new();
    for i in 0..count {
        let answer = "so it is that number again and again ".repeat(1 + i * 7 % 5);
        writeln!(lines, r#"{{"id":"{name}-{i}","question":"What is {i}?","response":"{i}, {answer}"}}"#).unwrap();
    }
    lines
}

fn sandbox(count: usize) -> Sandbox {
    let s = Sandbox::new();
    tiny::write(&s, "tiny");
    s.write("rows.jsonl", rows("row", count));
    s.write("held-out.jsonl", rows("held-out", 6));
    s.write("p.kdl", PIPELINE);
    s
}

/// The column of a log.
fn column(s: &Sandbox, name: &str) -> Vec<String> {
    let text = String::from_utf8(s.read("runs/p/log.csv")).expect("UTF-8");
    let mut lines = text.lines();
    let at = lines.next().expect("a heading").split(',').position(|c| c == name).expect("the column");
    lines.map(|line| line.split(',').nth(at).expect("a cell").to_string()).collect()
}

#[test]
fn a_training_learns_and_its_adapter_is_used() {
    let s = sandbox(20);
    s.run(&["run", "p.kdl"]).exits(0);
    let losses: Vec<f64> = column(&s, "loss").iter().map(|l| l.parse().expect("a number")).collect();
    assert_eq!(losses.len(), 30);
    assert!(losses[29] < losses[0] - 0.5, "{losses:?}");
    let validation = column(&s, "validation_loss");
    let measured: Vec<usize> = (0..30).filter(|i| !validation[*i].is_empty()).map(|i| i + 1).collect();
    assert_eq!(measured, [5, 10, 15, 20, 25, 30]);
    // The best adapter's mean over tokens, by the scorer.
    let scores = String::from_utf8(s.read("runs/p/scores.jsonl")).expect("UTF-8");
    let (mut nll, mut labels) = (0.0, 0.0);
    for line in scores.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        nll += row["nll"].as_f64().expect("a number");
        labels += row["label_tokens"].as_f64().expect("a number");
    }
    let best = validation.iter().filter_map(|v| v.parse::<f64>().ok()).fold(f64::INFINITY, f64::min);
    assert!((nll / labels / best - 1.0).abs() < 1e-4, "{} and {best}", nll / labels);
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached"]);
}

#[test]
fn a_killed_training_goes_on_and_ends_in_the_same_bytes() {
    const ROWS: usize = 200;
    let s = sandbox(ROWS);
    s.run(&["run", "p.kdl", "-P", "every=100000"]).exits(0);
    let undisturbed = (s.parts(".idiolect/store"), s.read("runs/p/log.csv"), s.read("runs/p/scores.jsonl"));
    std::fs::remove_dir_all(s.path(".idiolect/store")).unwrap();
    std::fs::remove_dir_all(s.path("runs")).unwrap();
    let (mut kills, mut seen) = (0, 0);
    for wait in [5, 60, 20, 120, 0] {
        let mut run = s.spawn(&["run", "p.kdl", "--quiet"]);
        // Killed soon after it has kept further steps, so that every round gets somewhere.
        until("further steps or the end", || run.try_wait().unwrap().is_some() || steps_kept(&s) > seen);
        std::thread::sleep(std::time::Duration::from_millis(wait));
        let ended = run.try_wait().unwrap();
        run.kill().unwrap();
        run.wait().unwrap();
        if let Some(status) = ended {
            assert_eq!(status.code(), Some(0));
            break;
        }
        kills += 1;
        seen = steps_kept(&s);
        let plan = s.run(&["plan", "p.kdl"]).exits(0).stdout;
        assert!(plan.contains("of 300 steps done"), "{plan}");
    }
    assert!(kills >= 3, "only {kills} kills: the run is too quick for this test");
    s.run(&["run", "p.kdl"]).exits(0);
    assert_eq!(s.read("runs/p/log.csv"), undisturbed.1);
    assert_eq!(s.read("runs/p/scores.jsonl"), undisturbed.2);
    assert_eq!(s.parts(".idiolect/store"), undisturbed.0);
    assert_eq!(std::fs::read_dir(s.path(".idiolect/store/checkpoints")).unwrap().count(), 0, "nothing is left");
}

/// Steps that the checkpoint of a training under way has.
fn steps_kept(s: &Sandbox) -> u64 {
    let Ok(notes) = std::fs::read_dir(s.path(".idiolect/store/progress")) else { return 0 };
    let done = |path: std::path::PathBuf| -> Option<u64> {
        let note: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        note["done"].as_u64().filter(|_| note["total"] == 300)
    };
    notes.filter_map(|note| done(note.ok()?.path())).max().unwrap_or(0)
}
