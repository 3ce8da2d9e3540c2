use crate::ops::testing_node::{Given, given, rows, rows_json};
use crate::ops::writing::testing::{asking, last_turn, problems, refused, rejected, said};
use crate::teacher::{Answer, Ask, Finish, Outcome};
use serde_json::{Value, json};

const MATH: &str = r#"paraphrase "p" from="answers" teacher="teacher" task="math""#;

fn answers(responses: &[&str]) -> Vec<Given> {
    let row = |(at, text): (usize, &&str)| json!({"id": format!("r{at}"), "question": "How many?", "response": text});
    let all: Vec<Value> = responses.iter().enumerate().map(row).collect();
    vec![given("from", "answers", rows(&Value::from(all).to_string()))]
}

/// Answers the first call with one text, and each one after it with the next.
fn in_turn(texts: &'static [&'static str]) -> impl Fn(&Ask) -> Outcome + Send + Sync + 'static {
    move |ask| {
        let before = ask.messages.iter().filter(|(role, _)| role == "assistant").count();
        Ok(said(texts[before.min(texts.len() - 1)]))
    }
}

#[test]
fn a_response_is_reworded_and_its_end_stays() {
    let response = "There are 3 * 4 = 13 legs.\nFinal Answer: 13";
    let (ran, asks) = asking(MATH, &answers(&[response]), in_turn(&["  Legs: 3 * 4 = 13.\nFinal Answer: 13\n"]));
    assert_eq!(asks.len(), 1);
    assert!(last_turn(&asks[0]).contains(response) && last_turn(&asks[0]).contains("How many?"));
    let row = &rows_json(&ran.rows[0])[0];
    assert_eq!(
        (&row["paraphrase"], &row["response"]),
        (&"Legs: 3 * 4 = 13.\nFinal Answer: 13".into(), &response.into())
    );
}

#[test]
fn an_end_that_changed_is_asked_for_again() {
    let texts = &["It is 12.\nFinal Answer: 12", "It is 13. Answer: 13", "It is 13.\nFinal Answer: 13"];
    let kdl = format!("{MATH} usage=#true");
    let (ran, asks) = asking(&kdl, &answers(&["Thirteen.\nFinal Answer: 13"]), in_turn(texts));
    assert_eq!(asks.len(), 3);
    // What is asked again goes on from the last call.
    let roles = |ask: &Ask| ask.messages.iter().map(|(role, _)| role.clone()).collect::<Vec<_>>();
    let last = asks.iter().find(|a| a.messages.iter().any(|(_, t)| t == texts[1])).unwrap();
    assert_eq!(roles(last), ["user", "assistant", "user", "assistant", "user"]);
    assert!(last_turn(last).ends_with("Final Answer: 13"), "{}", last_turn(last));
    let row = &rows_json(&ran.rows[0])[0];
    assert_eq!(row["paraphrase"], texts[2]);
    assert_eq!((&row["paraphrase_input_tokens"], &row["paraphrase_cost"]), (&30.into(), &1.5.into()));
}

#[test]
fn an_end_that_never_comes_back_is_a_reason() {
    let (ran, asks) = asking(MATH, &answers(&["Five.\nFinal Answer: 5"]), in_turn(&["Six.\nFinal Answer: 6"]));
    assert_eq!((asks.len(), rejected(&ran)), (3, vec![("r0", "answer-changed")]));
    let message = &ran.rejected[0].message;
    assert_eq!(message, "expected the end to stay \"Final Answer: 5\", found \"Final Answer: 6\" (asked 3 times)");
    let (_, asks) = asking(&format!("{MATH} attempts=0"), &answers(&["5\nFinal Answer: 5"]), in_turn(&["none"]));
    assert_eq!(asks.len(), 1);
}

#[test]
fn ends_are_compared_as_the_task_reads_them() {
    let accepted = |task: &str, response: &str, text: &'static str| {
        let kdl = format!(r#"paraphrase "p" from="answers" teacher="teacher" task="{task}" attempts=0"#);
        let mut inputs = answers(&[response]);
        let options = r#"[{"id":"a","question":"?","response":"","option_1":"oven","option_2":"fridge","option_3":"c","option_4":"d","option_5":"e"}]"#;
        if task == "ecqa" {
            let mut row: Value = serde_json::from_str(options).unwrap();
            row[0]["response"] = response.into();
            inputs = vec![given("from", "answers", rows(&row.to_string()))];
        }
        asking(&kdl, &inputs, move |_| Ok(said(text))).0.rejected.is_empty()
    };
    assert!(accepted("math", "A. Final Answer: 72.", "B. Final Answer: 72"));
    assert!(accepted("math", "A. Final Answer: 1,000 dollars", "B.\nFinal Answer: $1000"));
    assert!(!accepted("math", "A. Final Answer: 72", "B. The final answer is 72"));
    assert!(accepted("math", "It is 5, I think", "Five, it seems"));
    assert!(!accepted("math", "It is 5, I think", "Five, it seems. Final Answer: 5"));
    assert!(accepted("ecqa", "A. Final Answer: 2", "B. Final Answer: (2)"));
    assert!(!accepted("ecqa", "A. Final Answer: 2", "B. Final Answer: 1"));
    assert!(accepted("code", "A. Final Answer:\ndef f():\n    return 1\n", "B. Final Answer:\ndef f():\n    return 1"));
    assert!(!accepted("code", "A. Final Answer:\ndef f():\n    return 1", "B. Final Answer:\ndef f():\n  return 1"));
    assert!(accepted("free", "A. Final Answer: 2", "B."));
}

#[test]
fn what_the_teacher_does_not_write_has_its_reason() {
    let script = |ask: &Ask| match &*ask.row.id {
        "r0" => refused(ask),
        "r1" => Ok(said(" ")),
        _ => Ok(Answer { finish: Finish::Length, ..said("Final Answer: 1") }),
    };
    let (ran, _) = asking(MATH, &answers(&["A. Final Answer: 1", "B. Final Answer: 1", "C. Final Answer: 1"]), script);
    assert_eq!(rejected(&ran), [("r0", "refused"), ("r1", "empty-answer"), ("r2", "truncated")]);
    let problem =
        problems(r#"paraphrase "p" from="answers" teacher="teacher" { inputs { response "text" } }"#, &answers(&["a"]));
    assert!(problem.contains("column-missing") && problem.contains("`text`"), "{problem}");
}
