use crate::ops::testing_node::{Given, Node, Ran, given, refusal, rows, rows_json, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn input(name: &str, all: Vec<Value>) -> Given {
    given("from", name, rows(&Value::Array(all).to_string()))
}

/// Sound rows: question `i`, a response whose answer is `i`.
fn sound(count: i64, wording: &str) -> Vec<Value> {
    let row = |i: i64| {
        json!({
            "id": format!("x:{i}"), "question": format!("What is {i} times one, if anything?"),
            "response": format!("{wording} {i}.\nFinal Answer: {i}"), "gold": i, "ppl": 2.0 + i as f64 / 10.0,
        })
    };
    (0..count).map(row).collect()
}

fn changed(mut all: Vec<Value>, row: usize, field: &str, value: Value) -> Vec<Value> {
    all[row][field] = value;
    all
}

const MATH: &str = r#"lint "checks" from="x" task="math" answer="gold""#;

/// Check, input, count of every finding.
fn found(ran: &Ran) -> Vec<(String, String, u64)> {
    let text = |v: &Value| v.as_str().unwrap().to_string();
    rows_json(&ran.rows[0])
        .iter()
        .map(|f| (text(&f["check"]), text(&f["input"]), f["count"].as_u64().unwrap()))
        .collect()
}

fn only(ran: &Ran, check: &str) -> u64 {
    let all = found(ran);
    assert!(matches!(all.as_slice(), [(c, _, _)] if c == check), "{check}: {all:?}");
    all[0].2
}

#[test]
fn sound_data_has_no_findings() {
    let ran = run(MATH, &[input("a", sound(20, "It is"))], 3);
    assert_eq!(found(&ran), []);
    assert_eq!(ran.host.presented.lock().unwrap().concat(), "test: 0 errors, 0 warnings, 0 notes in 1 input\n");
}

#[test]
fn every_kind_of_bad_row_is_found() {
    let cases = [
        ("response-empty", "response", json!(" \n")),
        ("response-empty", "response", Value::Null),
        ("response-truncated", "response", json!("It is three. Final Answer:")),
        ("marker-missing", "response", json!("It is 3.")),
        ("answer-unreadable", "response", json!("Final Answer: unknown")),
        ("answer-wrong", "response", json!("It is 3. Final Answer: 33")),
        ("duplicate-ids", "id", json!("x:2")),
        ("duplicate-questions", "question", json!("What is 2 times one, if anything?")),
    ];
    for (check, field, value) in cases {
        let ran = run(MATH, &[input("a", changed(sound(20, "It is"), 3, field, value.clone()))], 4);
        let findings = found(&ran);
        assert!(findings.contains(&(check.into(), "a".into(), 1)), "{check}: {findings:?}");
        let allowed = format!("{MATH} {{ allow \"{check}\" \"answer-unreadable\" }}");
        let left = found(&run(&allowed, &[input("a", changed(sound(20, "It is"), 3, field, value))], 4));
        assert!(left.is_empty(), "{check}: {left:?}");
    }
    let forbid = format!("{MATH} {{ forbid \"it IS 4.\" }}");
    assert_eq!(only(&run(&forbid, &[input("a", sound(20, "It is"))], 7), "forbidden-phrase"), 1);
}

#[test]
fn columns_under_two_names_are_found() {
    let mut all = sound(5, "It is");
    for row in &mut all {
        (row["label"], row["kind"]) = (row["gold"].clone(), json!("train"));
    }
    let ran = run(MATH, &[input("a", all)], 2);
    let messages: Vec<Value> = rows_json(&ran.rows[0]).into_iter().map(|f| f["message"].clone()).collect();
    assert_eq!(messages, ["`gold` and `label` hold the same in every row", "`kind` say the same in all 5 rows"]);
}

#[test]
fn the_same_data_under_two_names_is_found() {
    let a = input("answers[writer=gpt-4]", sound(20, "It is"));
    let same = input("answers[writer=claude]", sound(20, "It is"));
    let other = input("answers[writer=human]", changed(sound(20, "That makes"), 1, "ppl", json!(7.5)));
    let ran = run(MATH, &[a, same, other], 6);
    let all = found(&ran);
    assert!(all.contains(&("duplicate-inputs".into(), "gpt-4 + claude".into(), 20)), "{all:?}");
    // Perplexities that stay although the wording changes were copied.
    assert!(all.contains(&("stale-perplexity".into(), "gpt-4 + human".into(), 19)), "{all:?}");
    assert!(all.contains(&("stale-perplexity".into(), "claude + human".into(), 19)), "{all:?}");
    assert_eq!(all.len(), 3);
}

#[test]
fn predictions_of_another_writer_are_found() {
    let with_prediction = |wording: &str| -> Vec<Value> {
        let mut all = sound(6, wording);
        for (i, row) in all.iter_mut().enumerate() {
            row.as_object_mut().unwrap().remove("ppl");
            row["original_prediction"] = json!(format!("prediction {i}"));
        }
        all
    };
    let ran = run(MATH, &[input("a", with_prediction("It is")), input("b", with_prediction("It must be"))], 6);
    assert_eq!(only(&ran, "stale-column"), 6);
}

#[test]
fn questions_of_the_test_set_are_found() {
    let question = "A farmer has three fields and sows each of them with a different crop. How many crops?";
    let test = rows(&json!([{ "id": "t", "question": question }, { "id": "u", "question": "What is 1?" }]).to_string());
    let mut train = changed(sound(6, "It is"), 0, "question", json!(question));
    train[1]["question"] = json!(question.to_uppercase().replace(' ', "  "));
    train[2]["question"] = json!(format!("{question}\n\nGive the answer after 'Final Answer:'"));
    train[3]["question"] = json!("What is 1? And more");
    let node = format!("{MATH} test=\"t\"");
    let ran = run(&node, &[input("a", train), given("test", "t", test)], 4);
    assert_eq!(found(&ran), [("test-overlap".into(), "a".into(), 1), ("test-overlap-near".into(), "a".into(), 2)]);
}

#[test]
fn options_are_judged_by_digit_or_text() {
    let row = |i: i64, response: &str| json!({ "id": i.to_string(), "question": format!("q{i}"), "response": response, "gold": "2", "a": "cat", "b": "dog" });
    let all = vec![
        row(0, "Final Answer: 2"),
        row(1, "Final Answer: dog."),
        row(2, "Final Answer: 1"),
        row(3, "Final Answer: ?"),
    ];
    let node = r#"lint "l" from="x" task="ecqa" answer="gold" { options "a" "b"; allow "constant-column" }"#;
    let ran = run(node, &[input("a", all)], 10);
    let expected = [("answer-unreadable".into(), "a".into(), 1), ("answer-wrong".into(), "a".into(), 1)];
    assert_eq!(found(&ran), expected);
}

#[test]
fn findings_are_shown_and_may_fail_the_run() {
    let mut skipped = input("answers[writer=claude]", sound(1, "x"));
    skipped.skipped = Some("there is no file `claude.json`".into());
    let inputs =
        [input("answers[writer=gpt-4]", changed(sound(8, "It is"), 3, "response", json!("It is not"))), skipped];
    let ran = run(MATH, &inputs, 10);
    insta::assert_snapshot!(ran.host.presented.lock().unwrap().concat(), @"
    test: 1 error, 1 warning, 1 note in 2 inputs

    error    marker-missing: gpt-4, 1 row (12.5%)
             responses without `Final Answer:`, first x:3

    warning  response-truncated: gpt-4, 1 row (12.5%)
             responses that stop midway, first x:3

    note     skipped-input: claude
             not checked: there is no file `claude.json`
    ");
    let node = Node::new(&format!("{MATH} fail-on=\"error\""), &inputs).unwrap();
    let Err(error) = node.run(10) else { panic!("accepted") };
    assert!(error.to_string().starts_with("findings of severity error or worse: 1"), "{error}");
    let lenient = r#"lint "l" from="x" fail-on="error""#;
    assert!(Node::new(lenient, &inputs[..1]).unwrap().run(10).is_ok());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let a = [input("a", sound(3, "It is"))];
    let refused = [
        refusal(r#"lint "l" from="x" answer="gold""#, &a),
        refusal(r#"lint "l" from="x" task="math" { options "gold" }"#, &a),
        refusal(r#"lint "l" from="x" question="questions" response="gold""#, &a),
    ];
    insta::assert_snapshot!(refused.join("\n"), @r#"
    error [meaningless-field]: `answer` needs `task`
      at: not read without it

    error [meaningless-field]: `options` needs `task="ecqa"`
      at: not read without it

    error [column-missing]: `test` needs a column `questions` that its input does not have
      at: column `questions` is read here
      at: `a` gives `id`, `question`, `response`, `gold` and `ppl`
      help: did you mean `question`?
    error [column-type]: column `gold` is integer, and `lint` needs text
      at: needs text
      at: `a` gives it as integer
    "#);
}

/// The released files of one set, if they are here, and never in CI; in every file rows align by index.
fn released(set: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/speak-my-language").join(set);
    let here = folder.is_dir() && std::env::var_os("CI").is_none();
    if !here {
        eprintln!("skipped: {} is not there, or this is CI", folder.display());
    }
    here.then_some(folder)
}

fn file(folder: &Path, name: &str) -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

/// A released file as an input, with the right answers of `gold`.
fn variant(folder: &Path, name: &str, gold: &[Value], gold_field: &str) -> Given {
    let row = |(i, (row, gold)): (usize, (Value, &Value))| {
        json!({
            "id": format!("{name}:{i}"), "question": row["question"], "response": row["answer"],
            "gold": gold[gold_field], "original_gpt4_prediction": row["original_gpt4_prediction"],
        })
    };
    let all = file(folder, &format!("{name}.json")).into_iter().zip(gold).enumerate().map(row).collect();
    input(&format!("answers[variant={name}]"), all)
}

#[test]
fn the_traps_of_the_released_gsm8k_files_are_found() {
    let Some(folder) = released("GSM8K") else { return };
    let gold = file(&folder, "groundtruth.json");
    let names = [
        "openai_gpt4_data",
        "openai_rewrite_groundtruth",
        "anthropic_Claud",
        "openai_direct_paraphrase_gpt4_answer",
        "anthropic_direct_paraphrase_gpt4_answer",
    ];
    let mut inputs: Vec<Given> = names.iter().map(|n| variant(&folder, n, &gold, "numerical_final_answer")).collect();
    let test = file(&folder, "test.json").into_iter().enumerate();
    let test: Vec<Value> = test.map(|(i, t)| json!({ "id": format!("test:{i}"), "question": t["question"] })).collect();
    inputs.push(given("test", "test", rows(&Value::Array(test).to_string())));
    let all = found(&run(&format!("{MATH} test=\"test\""), &inputs, 1000));
    let has = |check: &str, input: &str| all.iter().find(|(c, i, _)| c == check && i == input).map(|f| f.2);
    assert_eq!(has("duplicate-inputs", "openai_gpt4_data + openai_rewrite_groundtruth"), Some(1000), "{all:?}");
    let copied = "openai_direct_paraphrase_gpt4_answer + anthropic_direct_paraphrase_gpt4_answer";
    assert_eq!(has("stale-column", copied), Some(1000), "{all:?}");
    for name in ["openai_gpt4_data", "openai_direct_paraphrase_gpt4_answer", "anthropic_Claud"] {
        let wrong = has("answer-wrong", name).unwrap_or(0);
        assert!((20..=180).contains(&wrong), "{name}: {wrong} wrong answers; {all:?}");
    }
    assert!(has("marker-missing", "openai_direct_paraphrase_gpt4_answer").is_some(), "{all:?}");
}

#[test]
fn wrong_answers_of_the_released_math_files_are_found() {
    let Some(folder) = released("MATH") else { return };
    let gold = file(&folder, "groundtruth.json");
    let inputs: Vec<Given> = ["groundtruth", "openai_gpt4_data", "openai_step_by_step"]
        .iter()
        .map(|n| variant(&folder, n, &gold, "numerical_final_answer"))
        .collect();
    let all = found(&run(MATH, &inputs, 1000));
    let wrong = |name: &str| all.iter().find(|(c, i, _)| c == "answer-wrong" && i == name).map_or(0, |f| f.2);
    assert!(wrong("groundtruth") <= 10, "{all:?}");
    assert!((40..=180).contains(&wrong("openai_gpt4_data")), "{all:?}");
}
