use super::testing::{Scripted, last_turn, refused, said};
use crate::ops::testing_node::{Given, Node, Ran, given, rows, rows_json};
use crate::teacher::{Answer, Ask, Finish, Outcome};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Runs a node with a teacher; gives what it gave and everything that was asked.
fn asked(kdl: &str, inputs: &[Given], script: impl Fn(&Ask) -> Outcome + Send + Sync + 'static) -> (Ran, Vec<Ask>) {
    let log: Arc<Mutex<Vec<Ask>>> = Arc::default();
    let teacher = Arc::new(Scripted::new({
        let log = log.clone();
        move |ask: &Ask| {
            log.lock().unwrap().push(ask.clone());
            script(ask)
        }
    }));
    let node = Node::asking(kdl, inputs, teacher).unwrap_or_else(|problems| panic!("{problems}"));
    let ran = node.run(2).unwrap();
    let mut asks = log.lock().unwrap().clone();
    asks.sort_by(|a, b| (&a.row.id, a.sample).cmp(&(&b.row.id, b.sample)));
    (ran, asks)
}

fn problems(rest: &str) -> Vec<Given> {
    vec![given(
        "from",
        "problems",
        rows(&format!(
            r#"[{{"id":"a","problem":"What is 1+1?","gold":2.0 {rest}}},{{"id":"b","problem":"What is 2+2?","gold":4.5 {rest}}}]"#
        )),
    )]
}

fn refusal(kdl: &str, inputs: &[Given]) -> String {
    match Node::asking(kdl, inputs, Arc::new(Scripted::default())) {
        Ok(node) => panic!("accepted: {:?}", node.operator),
        Err(problems) => problems,
    }
}

fn answer(text: &str) -> impl Fn(&Ask) -> Outcome + Send + Sync + 'static {
    let text = text.to_string();
    move |_| Ok(said(&text))
}

#[test]
fn a_style_is_filled_with_columns_and_its_answer_becomes_one() {
    let kdl = r#"teacher-generate "t" from="problems" teacher="teacher" style="answer-directly" task="math" marker="So:" {
        inputs { question "problem" }
        system "Be brief."
        usage #true
    }"#;
    let (ran, asks) = asked(kdl, &problems(""), answer("\n  It is 2.\nSo: 2 \n"));
    assert_eq!(asks[0].messages[0], ("system".to_string(), "Be brief.".to_string()));
    let (role, text) = &asks[0].messages[1];
    assert!(role == "user" && text.contains("What is 1+1?") && text.contains("\"So:\""), "{text}");
    assert_eq!(asks[0].row.inputs["question"], "What is 1+1?");
    assert_eq!((&*asks[0].row.inputs["id"], &*asks[1].row.inputs["gold"]), ("a", "4.5"));
    assert_eq!((asks[0].settings.max_tokens, asks[0].settings.temperature, asks[0].seed), (1024, None, 7));
    let first = &rows_json(&ran.rows[0])[0];
    assert_eq!(
        *first,
        json!({"id": "a", "problem": "What is 1+1?", "gold": 2.0, "response": "It is 2.\nSo: 2", "response_finish": "stop",
            "response_input_tokens": 10, "response_output_tokens": 19, "response_cost": 0.5})
    );
}

#[test]
fn samples_are_rows_of_their_own() {
    let kdl = r#"teacher-generate "t" from="problems" teacher="teacher" style="step-by-step" column="text" {
        inputs { question "problem" }
        temperature 0.7; top-p 0.9; top-k 40; max-tokens 100; samples 3; stop "END"
    }"#;
    let script = |ask: &Ask| match (&*ask.row.id, ask.sample) {
        ("a", 1) => refused(ask),
        (id, n) => Ok(said(&format!("{id}{n}"))),
    };
    let (ran, asks) = asked(kdl, &problems(""), script);
    let settings = &asks[0].settings;
    assert_eq!((settings.top_p, settings.top_k, settings.max_tokens), (Some(0.9), Some(40), 100));
    assert_eq!(settings.stop, ["END"]);
    let texts: Vec<Value> = rows_json(&ran.rows[0]).iter().map(|r| json!([r["id"], r["text"], r["sample"]])).collect();
    assert_eq!(
        texts,
        [
            json!(["a#0", "a0", 0]),
            json!(["a#2", "a2", 2]),
            json!(["b#0", "b0", 0]),
            json!(["b#1", "b1", 1]),
            json!(["b#2", "b2", 2])
        ]
    );
    assert_eq!((&*ran.rejected[0].id, ran.rejected[0].reason), ("a#1", "refused"));
}

#[test]
fn blank_and_cut_off_answers_are_no_responses() {
    let kdl = |more: &str| {
        format!(
            r#"teacher-generate "t" from="problems" teacher="teacher" style="answer-directly" {more} {{
                inputs {{ question "problem" }}
            }}"#
        )
    };
    let script = |ask: &Ask| match &*ask.row.id {
        "a" => Ok(said(" \n")),
        _ => Ok(Answer { finish: Finish::Length, ..said("half of") }),
    };
    let (ran, _) = asked(&kdl(""), &problems(""), script);
    let reasons: Vec<_> = ran.rejected.iter().map(|r| (&*r.id, r.reason)).collect();
    assert_eq!(reasons, [("a", "empty-answer"), ("b", "truncated")]);
    assert!(ran.rejected[1].message.contains("1024"), "{}", ran.rejected[1].message);
    let (ran, _) = asked(&kdl(r#"on-truncated="keep""#), &problems(""), script);
    assert_eq!(rows_json(&ran.rows[0])[0]["response"], "half of");
}

#[test]
fn ones_own_prompt_is_checked_and_filled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.jinja");
    let header = r#"{# prompt "mine" version=1 {
        doc "Asks"
        input "question" "text" doc="What is asked"
        input "gold" "number" doc="The answer"
        input "hint" "text" optional=#true doc="A hint"
    } #}"#;
    std::fs::write(
        &path,
        format!("{header}\n{{{{ question }}}} ({{{{ gold }}}}){{% if hint %}} {{{{ hint }}}}{{% endif %}}"),
    )
    .unwrap();
    let kdl = |inputs: &str| {
        format!(r#"teacher-generate "t" from="problems" teacher="teacher" prompt={path:?} {{ inputs {{ {inputs} }} }}"#)
    };
    let (_, asks) = asked(&kdl(r#"question "problem""#), &problems(""), answer("yes"));
    assert_eq!(last_turn(&asks[0]), "What is 1+1? (2)");
    let (_, asks) = asked(&kdl(r#"question "problem""#), &problems(r#", "hint": "Add.""#), answer("yes"));
    assert_eq!(last_turn(&asks[1]), "What is 2+2? (4.5) Add.");

    let all = [
        refusal(&kdl(r#"hint "problem""#), &problems("")),
        refusal(&kdl(r#"question "problem"; gold "problem""#), &problems("")),
        refusal(&kdl(r#"qestion "problem""#), &problems(r#", "question": "?""#)),
    ];
    assert!(all[0].contains("column-missing") && all[0].contains("input `question` of prompt `mine`"), "{}", all[0]);
    assert!(all[1].contains("column-type") && all[1].contains("number"), "{}", all[1]);
    assert!(all[2].contains("unknown-input") && all[2].contains("did you mean `question`?"), "{}", all[2]);

    std::fs::write(&path, format!("{header}\n{{{{ question }}}} {{{{ gold }}}} {{{{ hnt }}}}")).unwrap();
    let problem = refusal(&kdl(r#"question "problem""#), &problems(""));
    assert!(problem.contains("bad-prompt") && problem.contains("mine.jinja:7"), "{problem}");
    std::fs::remove_file(&path).unwrap();
    let problem = refusal(&kdl(r#"question "problem""#), &problems(""));
    assert!(problem.contains("file-unreadable"), "{problem}");
}

#[test]
fn what_cannot_be_is_said_before_anything_is_asked() {
    let node = |fields: &str| {
        format!(r#"teacher-generate "t" from="problems" {fields} {{ inputs {{ question "problem" }} }}"#)
    };
    let cases = [
        (r#"style="step-by-step""#, "missing-field", "neither `teacher` nor `model`"),
        (r#"teacher="teacher" model="m" style="step-by-step""#, "two-writers", "keep one"),
        (r#"teacher="teacher""#, "missing-field", "neither `style` nor `prompt`"),
        (r#"teacher="teacher" style="step-by-step" prompt="p.jinja""#, "two-prompts", "keep one"),
        (r#"teacher="teacher" style="step-by-step" column="gold""#, "duplicate-column", "`gold`"),
        (r#"teacher="teacher" style="step-by-step" temperature=0 samples=2"#, "same-samples", "`temperature`"),
        (r#"teacher="teacher" style="rewrite-groundtruth""#, "column-missing", "groundtruth"),
        (r#"teacher="teacher" style="answer-directly" task="ecqa""#, "column-missing", "option_1"),
        (r#"teacher="teacher" style="step-by-step" column=" ""#, "empty-value", "name"),
    ];
    for (fields, code, words) in cases {
        let problem = refusal(&node(fields), &problems(""));
        assert!(problem.contains(&format!("[{code}]")) && problem.contains(words), "{fields}:\n{problem}");
    }
}

#[test]
fn examples_stand_before_the_row() {
    let mut inputs = problems("");
    let shots = r#"[{"id":"x","problem":"What is 0+0?","response":"Nothing. Final Answer: 0"}]"#;
    inputs.push(given("examples", "shots", rows(shots)));
    // As turns, where the template has no place for them.
    let kdl = r#"teacher-generate "t" from="problems" examples="shots" teacher="teacher" style="rewrite-groundtruth" {
        inputs { question "problem"; groundtruth "problem" }
    }"#;
    let (_, asks) = asked(kdl, &inputs, answer("yes"));
    let roles: Vec<_> = asks[0].messages.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert!(asks[0].messages[0].1.contains("What is 0+0?"));
    assert_eq!(asks[0].messages[1].1, "Nothing. Final Answer: 0");
    assert!(last_turn(&asks[0]).contains("What is 1+1?"));
    // As the template's own input.
    let kdl = r#"initial-prediction "t" from="problems" examples="shots" teacher="teacher" task="math" {
        inputs { question "problem" }
    }"#;
    let (ran, asks) = asked(kdl, &inputs, answer("yes"));
    assert_eq!(asks[0].messages.len(), 3);
    assert_eq!(asks[0].messages[0].1.replace("0+0", "1+1"), asks[0].messages[2].1);
    assert_eq!(rows_json(&ran.rows[0])[0]["initial_prediction"], "yes");

    inputs[1] = given("examples", "shots", rows(r#"[{"id":"x","problem":"What is 0+0?"}]"#));
    let problem = refusal(kdl, &inputs);
    assert!(problem.contains("column-missing") && problem.contains("`response`"), "{problem}");
}

/// Answers each sample of a row from a list.
fn sampled(ask: &Ask) -> Outcome {
    let texts = match &*ask.row.id {
        "a" => ["Final Answer: 3", "First. Final Answer: 2", "Final Answer: 1", "Second. Final Answer: 2", ""],
        _ => ["Final Answer: 4", "none", "Final Answer: 5", "Final Answer: 45", "Final Answer:"],
    };
    match texts[ask.sample as usize] {
        "none" => refused(ask),
        text => Ok(said(text)),
    }
}

#[test]
fn a_right_sample_is_kept_and_rows_without_one_are_dropped() {
    let kdl = |more: &str| {
        format!(
            r#"self-sample "t" from="problems" teacher="teacher" check="math" {more} {{ inputs {{ question "problem" }} }}"#
        )
    };
    let kept = |more: &str, rest: &str| {
        let (ran, asks) = asked(&kdl(more), &problems(rest), sampled);
        assert_eq!(asks.len(), 10);
        let settings = &asks[0].settings;
        assert_eq!((settings.temperature, settings.top_p, settings.top_k), (Some(0.95), Some(0.7), Some(50)));
        assert!(ran.rejected.is_empty());
        let row = |r: &Value| json!([r["id"], r["response"], r["response_passed"]]);
        let out: Vec<Value> = rows_json(&ran.rows[0]).iter().map(row).collect();
        let dropped: Vec<Value> = rows_json(&ran.rows[1]).iter().map(|r| r["id"].clone()).collect();
        (out, dropped)
    };
    let first = json!(["a", "First. Final Answer: 2", 2]);
    let last = json!(["a", "Second. Final Answer: 2", 2]);
    assert_eq!(kept(r#"keep="first""#, ""), (vec![first.clone()], vec![json!("b")]));
    assert_eq!(kept(r#"keep="last""#, ""), (vec![last.clone()], vec![json!("b")]));
    let random = kept("", "");
    assert!(random.0 == [first.clone()] || random.0 == [last], "{random:?}");
    assert_eq!(random, kept("", ""));
    let (out, dropped) = kept(r#"keep="first" fallback="human""#, r#", "human": "As they say.""#);
    assert_eq!((out, dropped.len()), (vec![first, json!(["b", "As they say.", 0])], 0));
}

#[test]
fn which_right_sample_is_kept_is_drawn_for_each_row() {
    let ids: Vec<String> = (0..40).map(|i| format!(r#"{{"id":"r{i}","question":"q{i}","gold":"1"}}"#)).collect();
    let kdl = r#"self-sample "t" from="problems" teacher="teacher" check="math" samples=4"#;
    let kept = |ids: &[String]| {
        let inputs = [given("from", "problems", rows(&format!("[{}]", ids.join(","))))];
        let (ran, _) = asked(kdl, &inputs, |ask| Ok(said(&format!("{}. Final Answer: 1", ask.sample))));
        rows_json(&ran.rows[0]).iter().map(|r| r["response"].as_str().unwrap()[..1].to_string()).collect::<Vec<_>>()
    };
    let all = kept(&ids);
    for k in ["0", "1", "2", "3"] {
        let times = all.iter().filter(|t| *t == k).count();
        assert!((3..=18).contains(&times), "sample {k} is kept {times} times of 40");
    }
    assert_eq!(kept(&ids[7..9]), all[7..9], "a row's sample does not depend on the others");
}

#[test]
fn rows_that_cannot_be_judged_or_asked_leave_with_a_reason() {
    let inputs = [given(
        "from",
        "problems",
        rows(
            r#"[{"id":"a","question":"?","gold":"no number"},{"id":"b","question":"?","gold":null},{"id":"c","question":"?","gold":"7"}]"#,
        ),
    )];
    let kdl = r#"self-sample "t" from="problems" teacher="teacher" check="math""#;
    let (ran, _) = asked(kdl, &inputs, refused);
    let reasons: Vec<_> = ran.rejected.iter().map(|r| (&*r.id, r.reason)).collect();
    assert_eq!(reasons, [("a", "gold-unreadable"), ("b", "null-value"), ("c", "refused")]);
}

#[test]
fn code_is_put_behind_the_marker() {
    let inputs = [given("from", "answers", rows(r#"[{"id":"a","response":"Use f."},{"id":"b","response":"None."}]"#))];
    let script = |ask: &Ask| match &*ask.row.id {
        "a" => Ok(said("```python\ndef f():\n    return 1\n```")),
        _ => Ok(said("```\n\n```")),
    };
    let (ran, asks) = asked(r#"extract-code "t" from="answers" teacher="teacher""#, &inputs, script);
    assert!(last_turn(&asks[0]).contains("Use f."));
    let out = rows_json(&ran.rows[0]);
    assert_eq!(out[0]["extracted_code"], "Final Answer:\ndef f():\n    return 1");
    assert_eq!((ran.rejected[0].reason, out.len()), ("empty-answer", 1));
}
