use crate::ops::testing_node::{Given, given, rows, rows_json};
use crate::ops::writing::testing::{asking, last_turn, problems, refused, rejected, said};
use crate::teacher::{Answer, Ask, Finish, Outcome};
use serde_json::{Value, json};

const MATH: &str = r#"style-transfer "s" from="problems" examples="shots" teacher="teacher" task="math""#;

fn inputs(own: &str) -> Vec<Given> {
    let problems = r#"[
        {"id":"a","question":"1+1?","groundtruth":"One more is 2.","gold":2},
        {"id":"b","question":"2+2?","groundtruth":"Two more is 4.","gold":4},
        {"id":"c","question":"3+3?","groundtruth":"Three more is 6.","gold":6}
    ]"#;
    let shots = json!([
        {"id": "x", "question": "0+0?", "groundtruth": "Nothing.", "gold": 0, own: "Zero plus zero. Final Answer: 0"},
        {"id": "y", "question": "0+1?", "groundtruth": "One.", "gold": 1, own: "Zero plus one. Final Answer: 1"},
    ]);
    vec![given("from", "problems", rows(problems)), given("examples", "shots", rows(&shots.to_string()))]
}

fn script(ask: &Ask) -> Outcome {
    Ok(match (&*ask.row.id, ask.sample) {
        ("a", _) => said("  I add 1 and 1. Final Answer: 2 "),
        ("b", 1) => said("I add again. Final Answer: 4"),
        ("b", _) => said("I add 2. Final Answer: 5"),
        _ => Answer { finish: Finish::Length, ..said("I add 3. Final Answer: 6") },
    })
}

#[test]
fn what_passes_is_kept_and_the_rest_is_dropped_with_its_reason() {
    let (ran, asks) = asking(MATH, &inputs("response"), script);
    assert!(rejected(&ran).is_empty());
    let turns: Vec<(&str, bool)> =
        asks[0].messages.iter().map(|(role, text)| (role.as_str(), text.contains("1+1?"))).collect();
    assert_eq!(turns, [("user", false), ("assistant", false), ("user", false), ("assistant", false), ("user", true)]);
    assert!(asks[0].messages[0].1.contains("Nothing.") && last_turn(&asks[0]).contains("One more is 2."));
    assert_eq!(asks[0].messages[3].1, "Zero plus one. Final Answer: 1");
    let (out, dropped) = (rows_json(&ran.rows[0]), rows_json(&ran.rows[1]));
    assert_eq!((out.len(), &out[0]["response"]), (1, &"I add 1 and 1. Final Answer: 2".into()));
    assert!(out[0].get("response_reason").is_none());
    let why: Vec<Value> = dropped.iter().map(|r| json!([r["id"], r["response_reason"]])).collect();
    assert_eq!(why, [json!(["b", "wrong"]), json!(["c", "truncated"])]);
}

#[test]
fn another_draw_may_pass() {
    let kdl = format!("{MATH} samples=3 temperature=0.8 usage=#true column=\"own\"");
    let (ran, asks) = asking(&kdl, &inputs("response"), script);
    assert_eq!(asks.len(), 1 + 2 + 3);
    let out: Vec<Value> = rows_json(&ran.rows[0]).iter().map(|r| json!([r["id"], r["own_input_tokens"]])).collect();
    assert_eq!(out, [json!(["a", 10]), json!(["b", 20])]);
    assert_eq!(rows_json(&ran.rows[1])[0]["own_cost"], 1.5);
}

#[test]
fn examples_may_have_their_answers_elsewhere() {
    let kdl = format!("{MATH} own=\"prediction\"");
    let (_, asks) = asking(&kdl, &inputs("prediction"), script);
    assert_eq!(asks[0].messages[1].1, "Zero plus zero. Final Answer: 0");
}

#[test]
fn rows_that_cannot_be_judged_or_are_refused_leave_with_a_reason() {
    let mut given_rows = inputs("response");
    let problems = r#"[{"id":"a","question":"?","groundtruth":"g","gold":"none"},{"id":"b","question":"?","groundtruth":"g","gold":"1"}]"#;
    given_rows[0] = given("from", "problems", rows(problems));
    let (ran, _) = asking(MATH, &given_rows, refused);
    assert_eq!(rejected(&ran), [("a", "gold-unreadable"), ("b", "refused")]);
}

#[test]
fn what_cannot_be_is_said_before_anything_is_asked() {
    let cases = [
        (format!("{MATH} own=\"prediction\""), "column-missing", "`prediction`"),
        (format!("{MATH} gold=\"label\""), "column-missing", "`label`"),
        (format!("{MATH} samples=2 temperature=0"), "same-samples", "temperature"),
        (MATH.replace("math", "ecqa"), "column-missing", "option_1"),
        (format!("{} extractor=\"boxed\"", MATH.replace("math", "ecqa")), "meaningless-field", "extractor"),
        (format!("{MATH} {{ inputs {{ groundtruth \"answer\" }} }}"), "column-missing", "`answer`"),
    ];
    for (kdl, code, words) in cases {
        let problem = problems(&kdl, &inputs("response"));
        assert!(problem.contains(&format!("[{code}]")) && problem.contains(words), "{kdl}:\n{problem}");
    }
}
