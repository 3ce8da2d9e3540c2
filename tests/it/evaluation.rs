//! Evaluation through the binary: verdicts, samples, choices, kills.

use super::common::Sandbox;
use super::tiny;
use serde_json::{Value, json};

fn rows(s: &Sandbox, path: &str) -> Vec<Value> {
    let text = String::from_utf8(s.read(path)).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn column<'a>(rows: &'a [Value], name: &str) -> Vec<&'a Value> {
    rows.iter().map(|row| &row[name]).collect()
}

/// What a recorded teacher wrote is read and judged as the task says.
#[test]
fn recorded_answers_are_judged() {
    let s = Sandbox::new();
    let test = [
        json!({"id": "a", "country": "France", "capital": "Paris"}),
        json!({"id": "b", "country": "Peru", "capital": "Lima"}),
        json!({"id": "c", "country": "Chad", "capital": "N'Djamena"}),
        json!({"id": "d", "country": "Fiji", "capital": "Suva"}),
    ];
    let answers = [
        json!({"country": "France", "response": "It is old. Final Answer: paris."}),
        json!({"country": "Peru", "response": "Final Answer: Cusco"}),
        json!({"country": "Chad", "response": "N'Djamena, I think"}),
        json!({"country": "Fiji", "response": "Final Answer: Nadi. No: Final Answer: Suva"}),
    ];
    let lines = |rows: &[Value]| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    s.write("test.jsonl", lines(&test));
    s.write("answers.jsonl", lines(&answers));
    s.write(
        "p.kdl",
        r#"
        pipeline "p"
        task "capitals" kind="generate" {
            prompt "What is the capital of {{ country }}?"
            request "Say it after '{{ marker }}'"
            extract "marked"
            gold "capital"
            ignore "case" "punctuation"
        }
        teacher "recorded" kind="replay" path="answers.jsonl" on="country"
        load "test" path="test.jsonl"
        evaluate "tested" from="test" teacher="recorded" task="capitals"
        write "answers" from="tested" path="answers.jsonl"
        write "questions" from="tested.questions" path="questions.jsonl"
        "#,
    );
    s.run(&["run", "p.kdl"]).exits(0);
    let found = rows(&s, "runs/p/answers.jsonl");
    assert_eq!(column(&found, "correct"), [true, false, false, true], "{found:#?}");
    assert_eq!(column(&found, "reason"), [&Value::Null, &json!("wrong"), &json!("unmarked"), &Value::Null]);
    let asked = found[0]["asked"].as_str().expect("what was asked");
    assert_eq!(asked, "What is the capital of France?\n\nSay it after 'Final Answer:'");
    let questions = rows(&s, "runs/p/questions.jsonl");
    assert_eq!(column(&questions, "pass_at_1"), [1.0, 0.0, 0.0, 1.0]);
}

/// The human solutions, as a teacher that was recorded: the set comes from its package, by the product itself.
#[cfg(target_os = "linux")]
#[test]
fn the_solutions_of_humaneval_pass_as_answers() {
    let s = Sandbox::new();
    s.write(
        "p.kdl",
        r#"
        pipeline "p"
        teacher "people" kind="replay" dataset="humaneval" split="test" on="question"
        load "test" dataset="humaneval" split="test"
        evaluate "tested" from="test" teacher="people" task="humaneval"
        write "answers" from="tested" path="answers.jsonl"
        "#,
    );
    // The cache of the user, so that the package is fetched once.
    let ran = s.command(&["run", "p.kdl"]).env_remove("IDIOLECT_CACHE").output().expect("the binary starts");
    let ran = super::common::Ran::from(ran);
    if ran.code != Some(0) && ran.stderr.contains("fetch") && std::env::var_os("CI").is_none() {
        eprintln!("skipped: the set is not here and cannot be fetched:\n{}", ran.stderr);
        return;
    }
    ran.exits(0);
    let found = rows(&s, "runs/p/answers.jsonl");
    let wrong: Vec<&Value> = found.iter().filter(|row| row["correct"] != true).collect();
    assert!(found.len() == 164 && wrong.is_empty(), "{wrong:#?}");
}

const TRAINED: &str = r#"
pipeline "p" seed=1 { doc "An adapter, and what it answers" }
param "samples" type="int" default=3
model "tiny" path="tiny"
task "seven" kind="generate" {
    prompt "{{ question }}"
    extract "text"
    gold "response"
}
load "rows" path="rows.jsonl"
load "test" path="test.jsonl"
task-prompt "prompted" from="rows" task="seven"
lora-train "tuned" from="prompted" model="tiny" question="prompt" {
    targets "all-linear"
    rank 16
    alpha 32
    learning-rate 0.05
    batch 4
    epochs 20
}
evaluate "tested" from="test" model="tiny" adapter="tuned" task="seven" max-tokens=8 {
    temperature 0.8
    samples "${samples}"
    seed 3
    k 1 2
}
evaluate "likeliest" from="test" model="tiny" adapter="tuned" task="seven" max-tokens=8
evaluate "untrained" from="test" model="tiny" task="seven" max-tokens=8
write "likeliest-answers" from="likeliest" path="likeliest.jsonl"
write "answers" from="tested" path="answers.jsonl"
write "questions" from="tested.questions" path="questions.jsonl"
write "untrained-answers" from="untrained" path="untrained.jsonl"
"#;

fn trained(tests: usize) -> Sandbox {
    let s = Sandbox::new();
    tiny::write(&s, "tiny");
    let row = |name: &str, i: usize| json!({"id": format!("{name}-{i}"), "question": format!("What is {i} + 0?"), "response": "7"});
    let lines = |name: &str, count: usize| (0..count).map(|i| format!("{}\n", row(name, i))).collect::<String>();
    s.write("rows.jsonl", lines("row", 12));
    // Other questions than those that are learned.
    s.write("test.jsonl", lines("test", tests).replace("+ 0?", "+ 1?"));
    s.write("p.kdl", TRAINED);
    s
}

/// An adapter learns the one answer that there is, and says it where the untrained model does not.
#[test]
fn an_adapter_is_evaluated_sample_by_sample() {
    let s = trained(5);
    s.run(&["run", "p.kdl"]).exits(0);
    let (answers, questions) = (rows(&s, "runs/p/answers.jsonl"), rows(&s, "runs/p/questions.jsonl"));
    assert_eq!((answers.len(), questions.len()), (15, 5));
    assert_eq!(answers[4]["id"], "test-1#1");
    assert_eq!(answers[4]["sample"], 1);
    let likeliest = rows(&s, "runs/p/likeliest.jsonl");
    assert!(likeliest.iter().all(|row| row["correct"] == true), "{likeliest:#?}");
    assert!(rows(&s, "runs/p/untrained.jsonl").iter().all(|row| row["correct"] == false));
    for (question, own) in questions.iter().zip(answers.chunks(3)) {
        let c = own.iter().filter(|row| row["correct"] == true).count();
        assert_eq!((question["n"].as_u64(), question["c"].as_u64()), (Some(3), Some(c as u64)));
        // 1 - C(3 - c, 2) / C(3, 2)
        let two = 1.0 - [3.0, 1.0, 0.0, 0.0][c] / 3.0;
        assert!((question["pass_at_2"].as_f64().unwrap() - two).abs() < 1e-12, "{question}");
    }
    // Texts are told of while they are written: in the end all of their tokens but those that end a turn.
    let events = String::from_utf8(s.read("runs/p/events.jsonl")).unwrap();
    let mut events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ended = events.rfind(|event| event["event"] == "node_finished" && event["node"] == "tested").unwrap();
    let written: u64 = answers.iter().map(|row| row["output_tokens"].as_u64().unwrap()).sum();
    let told = ended["counts"]["measured"]["tokens_written"].as_f64().unwrap() as u64;
    assert!(told > 0 && told <= written, "{told} of {written}: {ended}");
    // More samples draw the new ones only, and the old ones stay as they were.
    s.run(&["run", "p.kdl", "-P", "samples=4", "--out", "more"]).exits(0);
    let more = rows(&s, "more/answers.jsonl");
    let first: Vec<&Value> = more.iter().filter(|row| row["sample"].as_u64() < Some(3)).collect();
    assert_eq!(first.len(), answers.len());
    for (more, before) in first.into_iter().zip(&answers) {
        assert_eq!((&more["id"], &more["output"]), (&before["id"], &before["output"]));
    }
}

#[test]
fn a_killed_evaluation_goes_on_and_ends_in_the_same_bytes() {
    let s = trained(60);
    s.run(&["run", "p.kdl"]).exits(0);
    let undisturbed = s.parts(".idiolect/store");
    std::fs::remove_dir_all(s.path(".idiolect/store")).unwrap();
    std::fs::remove_dir_all(s.path("runs")).unwrap();
    let mut kills = 0;
    for wait in [0, 30, 90] {
        let seen = s.journalled().1;
        kills += u32::from(s.kill(&["run", "p.kdl", "--quiet"], wait, || s.journalled().1 > seen));
    }
    assert!(kills > 0, "the run is too quick for this test");
    s.run(&["run", "p.kdl"]).exits(0);
    assert_eq!(s.parts(".idiolect/store"), undisturbed);
}

const OVERLAPPING: &str = r#"
param "policy" type="string" default="fail"
model "tiny" path="tiny"
task "seven" kind="generate" {
    prompt "{{ question }}"
    request "Say it after '{{ marker }}'"
    extract "marked"
    gold "response"
}
load "rows" path="rows.jsonl"
load "more" path="more.jsonl"
load "test" path="test.jsonl"
task-prompt "asked" from="rows" task="seven"
lora-train "first" from="asked" model="tiny" question="prompt" steps=1
lora-train "second" from="more" model="tiny" adapter="first" steps=1
write-adapter "kept" adapter="second" path="adapters/kept"
merge-adapter "whole" adapter="second" model="tiny" path="merged"
evaluate "tested" from="test" model="tiny" adapter="second" task="seven" max-tokens=2 on-overlap="${policy}"
write "answers" from="tested" path="answers.jsonl"
"#;

/// Of the six test questions the first training had one, the second another with words of its own around it.
fn overlapping() -> Sandbox {
    let s = Sandbox::new();
    tiny::write(&s, "tiny");
    let lines = |name: &str, questions: &[&str]| -> String {
        let row = |(at, question): (usize, &&str)| json!({"id": format!("{name}-{at}"), "question": question, "response": "7"});
        questions.iter().enumerate().map(row).map(|row| format!("{row}\n")).collect()
    };
    s.write("rows.jsonl", lines("row", &["one?", "two?", "three?"]));
    s.write("more.jsonl", lines("more", &["four?\n\nBe brief.", "five?"]));
    s.write("test.jsonl", lines("test", &["six?", " two?", "seven?", "four?", "eight?", "Be brief."]));
    s.write("p.kdl", OVERLAPPING);
    s
}

#[test]
fn questions_that_were_trained_on_do_not_test() {
    let s = overlapping();
    let found = "2 of 6 questions are among those that the model was trained on, such as `test-1` and `test-3`";
    s.run(&["run", "p.kdl"]).exits(1).says(&["training-overlap", found, "on-overlap=\"quarantine\""]);
    assert!(!s.path("runs/p/answers.jsonl").exists());
    let ids =
        || rows(&s, "runs/p/answers.jsonl").iter().map(|r| r["id"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    let ran = s.run(&["run", "p.kdl", "-P", "policy=keep"]).exits(0);
    assert!(ran.stdout.contains(&format!("tested: {found}; they are asked all the same")), "{}", ran.stdout);
    assert_eq!(ids().len(), 6);
    // Set aside they are part of what a run tolerates.
    s.write("p.kdl", OVERLAPPING.replace("model \"tiny\" path", "run { tolerance 0.5 }\nmodel \"tiny\" path"));
    let ran = s.run(&["run", "p.kdl", "-P", "policy=quarantine"]).exits(0);
    assert!(ran.stdout.contains(&format!("tested: {found}; they are set aside")), "{}", ran.stdout);
    assert_eq!(ids(), ["test-0", "test-2", "test-4", "test-5"]);
}

/// What was learned is known wherever the weights go.
#[test]
fn a_written_adapter_and_a_merged_model_say_what_they_were_trained_on() {
    let s = overlapping();
    s.run(&["run", "p.kdl", "-P", "policy=keep"]).exits(0);
    let elsewhere = |model: &str| {
        s.write(
            "q.kdl",
            OVERLAPPING[..OVERLAPPING.find("load \"rows\"").unwrap()].replace("path=\"tiny\"", model)
                + "load \"test\" path=\"test.jsonl\"\n",
        );
        let text = String::from_utf8(s.read("q.kdl")).unwrap();
        let adapter = model.contains("path=\"tiny\"");
        let load = if adapter { "load-adapter \"kept\" path=\"runs/p/adapters/kept\" model=\"tiny\"\n" } else { "" };
        let port = if adapter { "adapter=\"kept\"" } else { "" };
        let test = format!(
            "evaluate \"tested\" from=\"test\" model=\"tiny\" {port} task=\"seven\" max-tokens=2 on-overlap=\"${{policy}}\" unused=\"ok\"\n"
        );
        s.write("q.kdl", text + load + &test);
    };
    elsewhere("path=\"tiny\"");
    s.run(&["run", "q.kdl"]).exits(1).says(&["training-overlap", "2 of 6 questions"]);
    elsewhere("path=\"runs/p/merged\"");
    s.run(&["run", "q.kdl"]).exits(1).says(&["training-overlap", "2 of 6 questions"]);
    // Weights that say nothing, as those of other programs, are told.
    let path = "runs/p/adapters/kept/adapter_model.safetensors";
    let weights = String::from_utf8_lossy(&s.read(path)).into_owned();
    assert!(weights.contains("idiolect_trained_on"));
    let bytes = s.read(path);
    let at = bytes.windows(19).position(|w| w == b"idiolect_trained_on").unwrap();
    let mut bytes = bytes;
    bytes[at] = b'x';
    s.write(path, bytes);
    elsewhere("path=\"tiny\"");
    let ran = s.run(&["run", "q.kdl"]).exits(0);
    assert!(ran.stdout.contains("not all that the model was trained on is known"), "{}", ran.stdout);
}

/// A choice's likelihood is what `score-ppl` says of it as a response to the same prompt.
#[test]
fn choices_are_judged_by_their_likelihood() {
    let s = Sandbox::new();
    tiny::write(&s, "tiny");
    let choices = ["red", "a very dark blue", "green"];
    let row = |i: usize| json!({"id": format!("q{i}"), "question": format!("Colour {i}?"), "choices": choices, "gold": i % 3});
    s.write("test.jsonl", (0..6).map(|i| format!("{}\n", row(i))).collect::<String>());
    let pair = |(i, c): (usize, usize)| json!({"id": format!("q{i}-{c}"), "question": format!("Colour {i}?"), "response": choices[c]});
    let pairs = (0..6).flat_map(|i| (0..3).map(move |c| (i, c)));
    s.write("pairs.jsonl", pairs.map(|at| format!("{}\n", pair(at))).collect::<String>());
    s.write(
        "p.kdl",
        r#"
        pipeline "p"
        model "tiny" path="tiny"
        task "colours" kind="multiple-choice" {
            prompt "{{ question }}"
            choices "choices"
            gold "gold"
        }
        task "letters" kind="multiple-choice" {
            prompt "{{ question }}"
            continuation "{{ letter }}"
            choices "choices"
            gold "gold"
        }
        load "test" path="test.jsonl"
        load "pairs" path="pairs.jsonl"
        evaluate "tested" from="test" model="tiny" task="colours" format="chat"
        score-ppl "scored" from="pairs" model="tiny" count-end=#false
        evaluate "lettered" from="test" model="tiny" task="letters" format="chat"
        write "answers" from="tested" path="answers.jsonl"
        write "letters" from="lettered" path="letters.jsonl"
        write "scores" from="scored" path="scores.jsonl"
        "#,
    );
    s.run(&["run", "p.kdl"]).exits(0);
    let (answers, scores) = (rows(&s, "runs/p/answers.jsonl"), rows(&s, "runs/p/scores.jsonl"));
    assert_eq!(answers.len(), 6);
    // Letters are all as long, whatever they stand for.
    let letters = rows(&s, "runs/p/letters.jsonl");
    assert!(letters.len() == 6 && letters.iter().all(|row| row["correct"] == row["correct_norm"]), "{letters:#?}");
    for (i, (answer, scores)) in answers.iter().zip(scores.chunks(3)).enumerate() {
        let found: Vec<f64> =
            serde_json::from_str(answer["log_likelihoods"].as_str().expect("a text")).expect("a list");
        for (found, score) in found.iter().zip(scores) {
            let expected = -score["nll"].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-4 * expected.abs(), "{found} {expected}");
        }
        let greatest = |values: Vec<f64>| (0..3).max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap();
        assert_eq!(answer["correct"], greatest(found.clone()) == i % 3, "{answer}");
        let normed = found.iter().zip(choices).map(|(l, c)| l / c.len() as f64).collect();
        assert_eq!(answer["correct_norm"], greatest(normed) == i % 3, "{answer}");
    }
}
