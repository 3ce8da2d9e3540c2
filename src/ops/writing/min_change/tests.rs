use crate::ops::testing_node::{Given, given, rows, rows_json};
use crate::ops::writing::testing::{asking, last_turn, problems, refused, rejected, said};
use crate::teacher::Ask;
use serde_json::{Value, json};

const RIGHT: &str = "1 + 1 = 2.\nFinal Answer: 2";
const WRONG: &str = "2 + 2 = 5.\nFinal Answer: 5";
const MENDED: &str = "2 + 2 = 4.\nFinal Answer: 4";

fn drafts() -> Vec<Given> {
    let drafts = json!([
        {"id": "a", "question": "1+1?", "gold": 2, "solution": "One more.", "initial_prediction": RIGHT},
        {"id": "b", "question": "2+2?", "gold": 4, "solution": "Two more.", "initial_prediction": WRONG},
        {"id": "c", "question": "3+3?", "gold": 6, "solution": "Three more.", "initial_prediction": " \n"},
    ]);
    vec![given("from", "drafts", rows(&drafts.to_string()))]
}

fn node(more: &str) -> String {
    format!(r#"min-change "m" from="drafts" teacher="teacher" {more} {{ inputs {{ groundtruth "solution" }} }}"#)
}

fn columns(batch: &arrow::array::RecordBatch, names: &[&str]) -> Vec<Value> {
    rows_json(batch).iter().map(|r| names.iter().map(|n| r[*n].clone()).collect()).collect()
}

#[test]
fn what_is_right_stays_and_the_rest_is_corrected() {
    let script = |ask: &Ask| Ok(said(if ask.row.id == "b" { MENDED } else { "It is 7.\nFinal Answer: 7" }));
    let (ran, asks) = asking(&node(r#"task="math" sees="groundtruth" usage=#true"#), &drafts(), script);
    let asked: Vec<&str> = asks.iter().map(|a| &*a.row.id).collect();
    assert_eq!(asked, ["b", "c"]);
    let prompt = last_turn(&asks[0]);
    assert!(prompt.contains(WRONG) && prompt.contains("Two more.") && prompt.contains("Example 3"), "{prompt}");
    assert!(!prompt.contains("The right answer"), "{prompt}");
    // An empty prediction is no draft: the teacher reasons itself.
    assert!(!last_turn(&asks[1]).contains("draft") && last_turn(&asks[1]).contains("Three more."));
    let names = ["id", "response", "response_kept", "response_correct", "response_output_tokens"];
    assert_eq!(
        columns(&ran.rows[0], &names),
        [
            json!(["a", RIGHT, true, true, null]),
            json!(["b", MENDED, false, true, MENDED.len()]),
            json!(["c", "It is 7.\nFinal Answer: 7", false, false, 24]),
        ]
    );
}

#[test]
fn a_teacher_sees_what_it_may_see() {
    let prompt = |sees: &str| {
        let (_, asks) = asking(&node(&format!(r#"task="math" sees="{sees}""#)), &drafts(), |_| Ok(said(MENDED)));
        last_turn(&asks[0]).to_string()
    };
    let (all, gold, nothing) = (prompt("groundtruth"), prompt("gold"), prompt("nothing"));
    assert!(all.contains("Two more.") && !all.contains("for you alone: 4"));
    assert!(!gold.contains("Two more.") && gold.contains("The right answer, for you alone: 4"));
    assert!(!nothing.contains("Two more.") && !nothing.contains("for you alone"));
}

#[test]
fn every_row_is_asked_where_nothing_is_kept() {
    let (ran, asks) =
        asking(&node(r#"task="math" sees="nothing" keep-correct=#false"#), &drafts(), |_| Ok(said(RIGHT)));
    assert_eq!(asks.len(), 3);
    assert_eq!(columns(&ran.rows[0], &["response_kept", "response_correct"])[0], json!([false, true]));
    // A column says what is right, in place of the checker; nobody then says what the text is worth.
    let rows_with = json!([{"id": "a", "question": "?", "initial_prediction": "yes", "ok": true}, {"id": "b", "question": "?", "initial_prediction": "no", "ok": null}]);
    let inputs = [given("from", "drafts", rows(&rows_with.to_string()))];
    let kdl = r#"min-change "m" from="drafts" teacher="teacher" sees="nothing" correct="ok""#;
    let (ran, asks) = asking(kdl, &inputs, |_| Ok(said("perhaps")));
    assert_eq!(asks.len(), 1);
    let names = ["response", "response_kept", "response_correct"];
    assert_eq!(columns(&ran.rows[0], &names), [json!(["yes", true, true]), json!(["perhaps", false, null])]);
}

#[test]
fn a_leak_is_asked_for_again_in_the_same_conversation() {
    let script = |ask: &Ask| match ask.messages.iter().filter(|(role, _)| role == "assistant").count() {
        0 => Ok(said("Corrected draft: 2 + 2 = 4.\nFinal Answer: 4")),
        _ => Ok(said(MENDED)),
    };
    let kdl = node(r#"task="math" sees="nothing""#);
    let (ran, asks) = asking(&kdl, &drafts(), script);
    assert_eq!(asks.len(), 4);
    let again = asks.iter().find(|a| a.messages.len() == 3).unwrap();
    assert!(last_turn(again).contains("\"Corrected draft\""), "{}", last_turn(again));
    assert_eq!(columns(&ran.rows[0], &["response"])[1], json!([MENDED]));

    let (ran, asks) = asking(&kdl, &drafts(), |_| Ok(said("The previous prediction was wrong. Final Answer: 4")));
    assert_eq!((asks.len(), rejected(&ran)), (6, vec![("b", "leak"), ("c", "leak")]));
    assert_eq!(ran.rejected[0].message, "the text says \"previous prediction\" (asked 3 times)");
}

#[test]
fn a_text_without_the_marker_is_not_right() {
    let kdl = node(r#"task="math" sees="nothing""#);
    let (ran, _) = asking(&kdl, &drafts(), |_| Ok(said("2 + 2 = 4, so Answer: 4")));
    assert_eq!(columns(&ran.rows[0], &["response_correct"])[1..], [json!([false]), json!([false])]);
    let (ran, _) = asking(&kdl, &drafts(), refused);
    assert_eq!(rejected(&ran), [("b", "refused"), ("c", "refused")]);
}

#[test]
fn code_is_extracted_and_then_corrected() {
    let tasks = json!([
        {"id": "a", "question": "Write f.", "code": "def f(): return 1", "initial_prediction": "I return 0:\ndef f(): return 0"},
        {"id": "b", "question": "Write g.", "code": "def g(): return 2", "initial_prediction": "I cannot."},
        {"id": "c", "question": "Write h.", "code": "def h(): return 3", "initial_prediction": ""},
    ]);
    let inputs = [given("from", "tasks", rows(&tasks.to_string()))];
    let kdl = r#"min-change "m" from="tasks" teacher="teacher" task="code" sees="groundtruth" {
        inputs { groundtruth "code" }
    }"#;
    let script = |ask: &Ask| {
        let prompt = last_turn(ask);
        Ok(said(match (&*ask.row.id, prompt.starts_with("Copy the code")) {
            ("a", true) => "```python\ndef f(): return 0\n```",
            (_, true) => "",
            ("a", false) => "```python\ndef f(): return 1\n```",
            (_, false) => "def own(): pass",
        }))
    };
    let (ran, asks) = asking(kdl, &inputs, script);
    assert_eq!(asks.iter().map(|a| &*a.row.id).collect::<Vec<_>>(), ["a", "a", "b", "b", "c"]);
    let of =
        |id: &str, start: &str| asks.iter().find(|a| a.row.id == id && last_turn(a).starts_with(start)).map(last_turn);
    assert!(of("a", "Copy the code").unwrap().contains("I return 0:"));
    let correct = of("a", "Correct this code").unwrap();
    assert!(correct.contains("def f(): return 0") && correct.contains("def f(): return 1"), "{correct}");
    assert!(!correct.contains("I return 0:") && !correct.contains("Example"));
    assert!(of("b", "Write code").is_some() && of("c", "Write code").is_some());
    assert_eq!(
        columns(&ran.rows[0], &["response", "response_kept", "response_correct"]),
        [
            json!(["Final Answer:\ndef f(): return 1", false, null]),
            json!(["Final Answer:\ndef own(): pass", false, null]),
            json!(["Final Answer:\ndef own(): pass", false, null]),
        ]
    );
}

#[test]
fn what_cannot_be_is_said_before_anything_is_asked() {
    let cases = [
        (node(r#"task="math" sees="nothing" gold="label""#), "column-missing", "`label`"),
        (node(r#"task="math" sees="groundtruth""#).replace("solution", "answer"), "column-missing", "`answer`"),
        (node(r#"task="code" sees="gold""#), "meaningless-field", "sees="),
        (node(r#"task="math" sees="nothing" correct="gold""#), "column-type", "boolean"),
        (node(r#"task="ecqa" sees="gold" extractor="boxed""#), "meaningless-field", "extractor"),
        (
            node(r#"task="math" sees="nothing""#).replace("groundtruth \"", "initial_predition \""),
            "unknown-input",
            "initial_prediction",
        ),
        (
            node(r#"task="math" sees="nothing""#).replace("groundtruth \"", "initial_prediction \"x"),
            "column-missing",
            "xsolution",
        ),
    ];
    for (kdl, code, words) in cases {
        let problem = problems(&kdl, &drafts());
        assert!(problem.contains(&format!("[{code}]")) && problem.contains(words), "{kdl}:\n{problem}");
    }
    // Without a column of right answers nothing can be kept, and everything can be asked for.
    let rows = rows(r#"[{"id":"a","question":"?","initial_prediction":"?"}]"#);
    let inputs = [given("from", "drafts", rows)];
    let (ran, _) = asking(
        r#"min-change "m" from="drafts" teacher="teacher" task="math" sees="nothing" keep-correct=#false"#,
        &inputs,
        |_| Ok(said(MENDED)),
    );
    assert_eq!(columns(&ran.rows[0], &["response_correct"]), [json!([null])]);
}
