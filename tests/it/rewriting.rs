//! Paraphrases, minimal corrections and style transfer through the binary, with a teacher on loopback.

use super::common::Sandbox;
use super::faults::{Call, Fault, Teacher};
use serde_json::{Value, json};

const RIGHT: &str = "One and one is 2.\nFinal Answer: 2";
const WRONG: &str = "Two and two is 5.\nFinal Answer: 5";

fn pipeline(teacher: &Teacher) -> String {
    format!(
        r#"
pipeline "p" seed=1 {{ doc "Rewrites" }}
run {{ tolerance 1.0 }}
teacher "t" kind="openai" model="m" base-url="{}"
load "drafts" path="drafts.jsonl"
load "shots" path="shots.jsonl"
min-change "corrected" from="drafts" teacher="t" task="math" sees="gold" column="corrected"
paraphrase "reworded" from="corrected" teacher="t" task="math" {{
    inputs {{ response "corrected" }}
}}
style-transfer "styled" from="reworded" examples="shots" teacher="t" task="math" column="styled"
write "out" from="styled" path="out.jsonl"
write "dropped" from="styled.dropped" path="dropped.jsonl"
"#,
        teacher.url()
    )
}

/// A teacher that leaks, changes ends and refuses, once or for good.
fn script(call: &Call) -> Fault {
    let says = |text: &str| Fault::Says(text.to_string());
    let (prompt, of) = (call.prompt.as_str(), |question: &str| call.prompt.contains(question));
    if prompt.starts_with("Correct a draft") && of("2+2?") {
        return says("Corrected draft: Two and two is 4.\nFinal Answer: 4");
    }
    if prompt.starts_with("Your text speaks of how it came about: \"Corrected") {
        return says("Two and two is 4.\nFinal Answer: 4");
    }
    if of("3+3?") || of("\"ground truth\"") {
        return says("The ground truth is 6.\nFinal Answer: 6");
    }
    if prompt.starts_with("Solve a problem") {
        return Fault::Refusal;
    }
    if prompt.starts_with("Reword") && of("1+1?") {
        return says("One plus one makes two.\nFinal Answer: two");
    }
    if prompt.starts_with("The end of your text") {
        return says("One plus one makes 2.\nFinal Answer: 2");
    }
    if prompt.starts_with("Reword") {
        return says("Twice two makes 4.\nFinal Answer: 4");
    }
    if prompt.starts_with("Rewrite a solution") && of("1+1?") {
        return says("I add 1 and 1.\nFinal Answer: 2");
    }
    says("I am not sure.")
}

fn sandbox(teacher: &Teacher) -> Sandbox {
    let s = Sandbox::new();
    let lines = |rows: &[Value]| rows.iter().map(|r| format!("{r}\n")).collect::<String>();
    let draft = |id: &str, question: &str, gold: u8, draft: &str| json!({ "id": id, "question": question, "gold": gold, "groundtruth": "Count.", "initial_prediction": draft });
    s.write(
        "drafts.jsonl",
        lines(&[
            draft("a", "1+1?", 2, RIGHT),
            draft("b", "2+2?", 4, WRONG),
            draft("c", "3+3?", 6, ""),
            draft("d", "4+4?", 8, ""),
        ]),
    );
    s.write(
        "shots.jsonl",
        lines(&[json!({ "question": "0+0?", "groundtruth": "None.", "response": "0.\nFinal Answer: 0" })]),
    );
    s.write("p.kdl", pipeline(teacher));
    s
}

fn rows(s: &Sandbox, path: &str) -> Vec<Value> {
    String::from_utf8(s.read(path)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_a_teacher_gives_away_is_asked_again_and_what_it_keeps_is_checked() {
    let teacher = Teacher::with(script).start();
    let s = sandbox(&teacher);
    s.run(&["run", "p.kdl", "--out", "run"]).exits(0);
    let (out, dropped) = (rows(&s, "run/out.jsonl"), rows(&s, "run/dropped.jsonl"));
    let texts =
        |row: &Value| json!([row["id"], row["corrected"], row["corrected_kept"], row["paraphrase"], row["styled"]]);
    assert_eq!(
        texts(&out[0]),
        json!(["a", RIGHT, true, "One plus one makes 2.\nFinal Answer: 2", "I add 1 and 1.\nFinal Answer: 2"])
    );
    assert_eq!(
        texts(&dropped[0]),
        json!([
            "b",
            "Two and two is 4.\nFinal Answer: 4",
            false,
            "Twice two makes 4.\nFinal Answer: 4",
            "I am not sure."
        ])
    );
    assert_eq!(dropped[0]["styled_reason"], "unmarked");
    assert_eq!((out.len(), dropped.len()), (1, 1));
    let said: Vec<String> = teacher.paid();
    let asked = |start: &str| said.iter().filter(|p| p.starts_with(start)).count();
    // The right draft costs nothing; of `c` the leak is asked about twice, in vain.
    assert_eq!(asked("Your text speaks of how it came about: \"ground truth\""), 2);
    assert_eq!(asked("Correct a draft"), 1);
    assert_eq!(asked("Your text speaks of how it came about: \"Corrected draft\""), 1);
    let again = s.run(&["run", "p.kdl", "--out", "again"]).exits(0);
    assert_eq!(teacher.paid().len(), said.len(), "nothing is paid twice\n{}", again.stderr);
    assert_eq!(rows(&s, "again/out.jsonl"), out);
}

#[test]
fn an_operator_shows_its_prompts() {
    let s = Sandbox::new();
    let shown: Value = serde_json::from_str(&s.run(&["op", "show", "min-change", "--json"]).exits(0).stdout).unwrap();
    let names: Vec<&str> = shown["prompts"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["min-change", "extract-code", "min-change-code", "min-change-again"]);
    let first = &shown["prompts"][0];
    assert!(first["text"].as_str().unwrap().contains("{{ initial_prediction }}"));
    assert_eq!((&first["version"], &first["inputs"][0]["name"]), (&json!(1), &json!("question")));
    let text = s.run(&["op", "show", "min-change"]).exits(0).stdout;
    assert!(text.contains("### min-change (version 1)") && text.contains("{{ initial_prediction }}"), "{text}");
}
