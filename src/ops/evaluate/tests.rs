use crate::ops::testing_node::{given, lines, rows, rows_json};
use crate::ops::writing::testing::{asking, problems, rejected, said};
use crate::teacher::{Failure, Finish};

const ROWS: &str = r#####"[
    {"id": "a", "question": "2 + 2?", "response": "2 + 2 = 4\n#### 4"},
    {"id": "b", "question": "3 + 3?", "response": "#### 6"},
    {"id": "c", "question": "Say it after 'Final Answer:'. 1 + 1?", "response": "#### 2"}
]"#####;

#[test]
fn answers_are_judged_and_kept_with_what_was_asked() {
    let given = [given("from", "test", rows(ROWS))];
    let (ran, asks) = asking("evaluate \"e\" from=\"test\" teacher=\"teacher\" task=\"gsm8k\"", &given, |ask| {
        Ok(match ask.row.id.as_str() {
            "a" => said("It is 4.\nFinal Answer: 4"),
            "b" => crate::teacher::Answer { finish: Finish::Length, ..said("Final Answer: 7, I") },
            _ => said(" "),
        })
    });
    let request = "\n\nReason first. Then give the final answer, a number, at the end, after 'Final Answer:'";
    assert_eq!(asks[0].messages, [("user".to_string(), format!("2 + 2?{request}"))]);
    assert_eq!(asks[2].messages[0].1, "Say it after 'Final Answer:'. 1 + 1?", "the request is not made twice");
    assert!(asks.iter().all(|ask| ask.settings.is_greedy() && ask.settings.max_tokens == 1024));
    let rows = rows_json(&ran.rows[0]);
    assert_eq!(
        (&rows[0]["correct"], &rows[0]["extracted"], &rows[0]["reason"]),
        (&true.into(), &"4".into(), &().into())
    );
    assert_eq!((&rows[1]["reason"], &rows[1]["finish"]), (&"wrong".into(), &"length".into()));
    assert_eq!((&rows[2]["reason"], &rows[2]["extracted"]), (&"empty".into(), &().into()));
    assert_eq!(rows[1]["asked"], asks[1].messages[0].1.as_str());
    let questions = rows_json(&ran.rows[1]);
    let counts: Vec<_> =
        questions.iter().map(|q| (q["n"].as_i64(), q["c"].as_i64(), q["pass_at_1"].as_f64())).collect();
    assert_eq!(counts[..2], [(Some(1), Some(1), Some(1.0)), (Some(1), Some(0), Some(0.0))]);
}

#[test]
fn samples_are_rows_and_their_question_says_how_many_are_right() {
    let given = [given("from", "test", rows(ROWS))];
    let kdl =
        "evaluate \"e\" from=\"test\" teacher=\"teacher\" task=\"gsm8k\" samples=4 temperature=1.0 seed=3 { k 1 2 4 }";
    let (ran, asks) = asking(kdl, &given, |ask| match (ask.row.id.as_str(), ask.sample) {
        ("a", 1) => Ok(said("Final Answer: 4")),
        ("b", 2) => Err(Failure::new("refused", "no")),
        _ => Ok(said("Final Answer: 5")),
    });
    assert!(asks.iter().all(|ask| ask.seed == 3));
    let answers = rows_json(&ran.rows[0]);
    let ids: Vec<_> = answers.iter().map(|a| a["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a#0", "a#1", "a#2", "a#3", "c#0", "c#1", "c#2", "c#3"]);
    let right: Vec<_> = answers.iter().map(|a| a["correct"].as_bool().unwrap()).collect();
    assert_eq!(right[..4], [false, true, false, false]);
    let questions = lines(&ran.rows[1]);
    assert!(questions.contains(r#""n":4,"c":1,"pass_at_1":0.25,"pass_at_2":0.5,"pass_at_4":1.0"#), "{questions}");
    assert_eq!(rejected(&ran), [("b", "refused")], "what a question is worth is not known from some of its answers");
}

#[test]
fn examples_are_turns_and_the_request_can_be_anothers() {
    let shots = rows(r#"[{"id": "s", "question": "0 + 0?", "response": "Nothing.\nFinal Answer: 0"}]"#);
    let given = [given("from", "test", rows(ROWS)), given("examples", "shots", shots)];
    let kdl = "evaluate \"e\" from=\"test\" examples=\"shots\" teacher=\"teacher\" task=\"gsm8k\" request=\"End with '{{ marker }}'\" system=\"Be brief.\"";
    let (ran, asks) = asking(kdl, &given, |_| Ok(said("Final Answer: 6")));
    let turns: Vec<_> = asks[1].messages.iter().map(|(role, text)| format!("{role}: {text}")).collect();
    assert_eq!(
        turns,
        [
            "system: Be brief.",
            "user: 0 + 0?\n\nEnd with 'Final Answer:'",
            "assistant: Nothing.\nFinal Answer: 0",
            "user: 3 + 3?\n\nEnd with 'Final Answer:'"
        ]
    );
    assert_eq!(rows_json(&ran.rows[0])[1]["correct"], true);
}

/// An answer may be the text of an option instead of its number.
#[test]
fn options_are_read_where_the_prompt_reads_them() {
    let rows = rows(
        r#"[{"id": "q", "question": "Where?", "a": "sea", "b": "sky", "f": "wood", "d": "hill", "e": "hut", "gold": 3}]"#,
    );
    let kdl = r#"evaluate "e" from="test" teacher="teacher" task="ecqa" {
        inputs { option_1 "a"; option_2 "b"; option_3 "f"; option_4 "d"; option_5 "e" }
    }"#;
    let (ran, asks) = asking(kdl, &[given("from", "test", rows)], |_| Ok(said("Final Answer: wood")));
    assert!(asks[0].messages[0].1.contains("(3) wood"), "{:?}", asks[0].messages);
    assert_eq!(rows_json(&ran.rows[0])[0]["correct"], true);
}

#[test]
fn a_question_whose_answer_is_not_known_is_not_asked() {
    let rows =
        rows(r#"[{"id": "a", "question": "x?", "response": "none"}, {"id": "b", "question": "y?", "response": null}]"#);
    let (ran, asks) = asking(
        "evaluate \"e\" from=\"test\" teacher=\"teacher\" task=\"gsm8k\"",
        &[given("from", "test", rows)],
        |_| Ok(said("1")),
    );
    assert_eq!(asks.len(), 0);
    assert_eq!(rejected(&ran), [("a", "gold-unreadable"), ("b", "null-value")]);
}

#[test]
fn what_cannot_be_asked_is_said_before_anything_runs() {
    let given = [given("from", "test", rows(ROWS))];
    let said = |kdl: &str| problems(&format!("evaluate \"e\" from=\"test\" teacher=\"teacher\" {kdl}"), &given);
    let text = said("task=\"gsm9k\"");
    assert!(text.contains("unknown-task") && text.contains("did you mean `gsm8k`?"), "{text}");
    let text = said("task=\"gsm8k\" gold=\"gold\"");
    assert!(text.contains("column-missing"), "{text}");
    let text = said("task=\"ecqa\"");
    assert!(text.contains("option_1"), "{text}");
    let text = said("task=\"gsm8k\" k=5");
    assert!(text.contains("pass@5 is not known from 1 answers"), "{text}");
    let text = said("task=\"gsm8k\" samples=5");
    assert!(text.contains("same-samples"), "{text}");
}
