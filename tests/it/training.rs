//! Training through the binary, with a small random model.

use super::common::Sandbox;
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

/// The mean over the labels of scored rows.
fn mean_nll(s: &Sandbox) -> f64 {
    let (mut nll, mut labels) = (0.0, 0.0);
    for line in String::from_utf8(s.read("runs/p/scores.jsonl")).expect("UTF-8").lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        nll += row["nll"].as_f64().expect("a number");
        labels += row["label_tokens"].as_f64().expect("a number");
    }
    nll / labels
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
    // The best adapter is the one that the scorer has.
    let (best, score) =
        (validation.iter().filter_map(|v| v.parse::<f64>().ok()).fold(f64::INFINITY, f64::min), mean_nll(&s));
    assert!((score / best - 1.0).abs() < 1e-4, "{score} and {best}");
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached"]);
}

#[test]
fn a_killed_training_goes_on_and_ends_in_the_same_bytes() {
    const ROWS: usize = 120;
    let s = sandbox(ROWS);
    s.run(&["run", "p.kdl", "-P", "every=100000"]).exits(0);
    let undisturbed = (s.parts(".idiolect/store"), s.read("runs/p/log.csv"), s.read("runs/p/scores.jsonl"));
    std::fs::remove_dir_all(s.path(".idiolect/store")).unwrap();
    std::fs::remove_dir_all(s.path("runs")).unwrap();
    let (mut kills, mut seen) = (0, 0);
    for wait in [5, 60, 20, 120, 0] {
        // Killed soon after it has kept further steps, so that every round gets somewhere.
        if !s.kill(&["run", "p.kdl", "--quiet"], wait, || steps_kept(&s) > seen) {
            break;
        }
        kills += 1;
        seen = steps_kept(&s);
        let plan = s.run(&["plan", "p.kdl"]).exits(0).stdout;
        assert!(plan.contains("of 180 steps done"), "{plan}");
    }
    assert!(kills >= 3, "only {kills} kills: the run is too quick for this test");
    s.run(&["run", "p.kdl"]).exits(0);
    assert_eq!(s.read("runs/p/log.csv"), undisturbed.1);
    assert_eq!(s.read("runs/p/scores.jsonl"), undisturbed.2);
    assert_eq!(s.parts(".idiolect/store"), undisturbed.0);
    // A kill may have cut off the writing of a checkpoint: what there was of it went with the dead session's folder.
    assert_eq!(kept(&s), Vec::<String>::new(), "nothing is left");
    assert_eq!(std::fs::read_dir(s.path(".idiolect/store/tmp")).unwrap().count(), 0, "nor of sessions");
}

/// The files of checkpoints.
fn kept(s: &Sandbox) -> Vec<String> {
    let files = std::fs::read_dir(s.path(".idiolect/store/checkpoints")).expect("a readable folder");
    files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Steps that the checkpoint of a training under way has.
fn steps_kept(s: &Sandbox) -> u64 {
    let Ok(notes) = std::fs::read_dir(s.path(".idiolect/store/progress")) else { return 0 };
    let done = |path: std::path::PathBuf| -> Option<u64> {
        let note: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        note["done"].as_u64().filter(|_| note["total"] == 180)
    };
    notes.filter_map(|note| done(note.ok()?.path())).max().unwrap_or(0)
}

/// Numbers of threads, packing and what is computed twice change no byte.
#[test]
fn nothing_but_rows_seed_and_settings_decides() {
    let s = sandbox(12);
    let text = PIPELINE.replace("epochs 6", "epochs 2");
    s.write("p.kdl", &text);
    s.run(&["run", "p.kdl"]).exits(0);
    let expected = s.parts(".idiolect/store");
    std::fs::remove_dir_all(s.path(".idiolect/store")).unwrap();
    s.write("p.kdl", text.replace("rank 4", "rank 4\n    micro-batch 1\n    checkpointing #true"));
    let ran = s.command(&["run", "p.kdl"]).env("RAYON_NUM_THREADS", "1").output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(s.parts(".idiolect/store"), expected);
}

/// What is trained on is what is scored: the loss of the first step is the score of its rows. A conversation of one
/// response is the same row.
#[test]
fn the_first_loss_is_the_score_of_its_rows() {
    let s = sandbox(9);
    let mut lines = String::new();
    for line in String::from_utf8(s.read("rows.jsonl")).expect("UTF-8").lines() {
        let mut row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let turn = |role: &str, text: &serde_json::Value| serde_json::json!({ "role": role, "content": text });
        row["chat"] = serde_json::json!([turn("user", &row["question"]), turn("assistant", &row["response"])]);
        writeln!(lines, "{row}").unwrap();
    }
    s.write("rows.jsonl", lines);
    s.write(
        "p.kdl",
        r#"
pipeline "p" seed=1 { doc "One step" }
model "tiny" path="tiny"
load "rows" path="rows.jsonl" { columns { chat "text"; question "string"; response "string" } }
lora-train "pairs" from="rows" model="tiny" seed=3 epochs=2 unused="ok"
lora-train "chats" from="rows" model="tiny" seed=3 epochs=2 messages="chat" unused="ok"
score-ppl "scored" from="rows" model="tiny"
write "log" from="pairs.log" path="log.csv"
write "chat-log" from="chats.log" path="chat-log.csv"
write "scores" from="scored" path="scores.jsonl"
"#,
    );
    s.run(&["run", "p.kdl"]).exits(0);
    let loss: f64 = column(&s, "loss")[0].parse().expect("a number");
    let score = mean_nll(&s);
    assert!((loss / score - 1.0).abs() < 1e-5, "{loss} and {score}");
    assert_eq!(s.read("runs/p/chat-log.csv"), s.read("runs/p/log.csv"));
}

#[test]
fn rows_that_cannot_be_learned_leave_with_a_reason() {
    let s = sandbox(4);
    let text = PIPELINE.replace("epochs 6", "epochs 1\n    max-response-tokens 300\n    max-prompt-tokens 60");
    let mut rows = String::from_utf8(s.read("rows.jsonl")).expect("UTF-8");
    writeln!(rows, r#"{{"id":"empty","question":"Nothing?","response":""}}"#).unwrap();
    writeln!(rows, r#"{{"id":"null","question":"Nothing?","response":null}}"#).unwrap();
    writeln!(rows, r#"{{"id":"long","question":"Long?","response":"{}"}}"#, "so ".repeat(200)).unwrap();
    writeln!(rows, r#"{{"id":"wide","question":"{}","response":"So."}}"#, "Wide? ".repeat(20)).unwrap();
    s.write("rows.jsonl", &rows);
    s.write("p.kdl", &text);
    s.run(&["run", "p.kdl"]).exits(3);
    let quarantine = String::from_utf8(s.read("runs/p/quarantine.jsonl")).expect("UTF-8");
    for (id, reason) in
        [("empty", "empty-response"), ("null", "null-value"), ("long", "too-long"), ("wide", "too-long")]
    {
        let said = |line: &str| line.contains(&format!("\"{id}\"")) && line.contains(&format!("\"{reason}\""));
        assert!(quarantine.lines().any(said), "{id}: {quarantine}");
    }
    // Cut instead, and said.
    s.write("p.kdl", text.replace("rank 4", "rank 4\n    on-too-long \"truncate\""));
    let ran = s.run(&["run", "p.kdl"]).exits(3);
    assert!(ran.stdout.contains("2 rows were cut to 60 prompt and 300 response tokens"), "{}", ran.stdout);
}

#[test]
fn rows_are_not_trained_on_and_validated_on() {
    let s = sandbox(4);
    s.write("held-out.jsonl", rows("row", 2));
    let ran = s.run(&["run", "p.kdl"]).exits(1);
    ran.says(&["validation-overlap", "2 rows are trained on and validated on", "`row-0` and `row-1`"]);
}

#[test]
fn what_does_not_fit_into_memory_is_refused() {
    let s = sandbox(4);
    let small = PIPELINE.replace("param \"every\"", "run { memory \"100KiB\" }\nparam \"every\"");
    s.write("p.kdl", small.replace("rank 4", "rank 4\n    micro-batch 4"));
    s.run(&["run", "p.kdl"]).exits(1).says(&["out-of-memory", "`micro-batch`", "`checkpointing #true`"]);
}

/// Without rows there is nothing to learn: an error, or where that is wanted an adapter that changes nothing.
#[test]
fn nothing_to_train_on_is_told() {
    let s = sandbox(4);
    let none = "filter \"none\" from=\"rows\" where=\"LENGTH(question) > 1000\"\nlora-train \"tuned\" from=\"none\"";
    let text = PIPELINE.replace("lora-train \"tuned\" from=\"rows\"", none);
    s.write("p.kdl", &text);
    s.run(&["run", "p.kdl"]).exits(1).says(&["no-rows", "on-empty=\"untrained\""]);
    let plain = "score-ppl \"plain\" from=\"held-out\" model=\"tiny\"\nwrite \"plain-scores\" from=\"plain\" path=\"plain.jsonl\"\n";
    s.write("p.kdl", text.replace("    rank 4\n", "    rank 4\n    on-empty \"untrained\"\n") + plain);
    let ran = s.run(&["run", "p.kdl"]).exits(0);
    assert!(ran.stdout.contains("tuned: no row to train on"), "{}", ran.stdout);
    assert_eq!(s.read("runs/p/scores.jsonl"), s.read("runs/p/plain.jsonl"), "it changes nothing");
}
