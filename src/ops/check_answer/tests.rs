use crate::ops::testing_node::{Given, given, lines, refusal, rows, run};

const DRAFTS: &str = r#"[
    {"id": "right", "response": "48 + 24. Final Answer: $72", "gold": "72.0"},
    {"id": "wrong", "response": "Final Answer: 3/4", "gold": "0.8"},
    {"id": "unmarked", "response": "So it is 72.", "gold": "72"},
    {"id": "unreadable", "response": "Final Answer: many", "gold": "72"},
    {"id": "null", "response": null, "gold": "72"},
    {"id": "no-gold", "response": "Final Answer: 1", "gold": null},
    {"id": "bad-gold", "response": "Final Answer: 1", "gold": "one"}
]"#;

fn drafts() -> Vec<Given> {
    vec![given("from", "drafts", rows(DRAFTS))]
}

fn options(rows_json: &str) -> Vec<Given> {
    vec![given("from", "rows", rows(rows_json))]
}

#[test]
fn answers_become_columns_and_rows_without_a_right_one_leave() {
    for batch in [1, 2, 100] {
        let ran = run(r#"check-answer "c" from="drafts" task="math" prefix="a_""#, &drafts(), batch);
        let shown: String =
            lines(&ran.rows[0]).lines().map(|l| l.split_once("\"gold\":").unwrap().1.to_string() + "\n").collect();
        insta::allow_duplicates! {
            insta::assert_snapshot!(shown, @r#"
            "72.0","a_extracted":"72","a_correct":true,"a_reason":null}
            "0.8","a_extracted":"0.75","a_correct":false,"a_reason":"wrong"}
            "72","a_extracted":null,"a_correct":false,"a_reason":"unmarked"}
            "72","a_extracted":null,"a_correct":false,"a_reason":"unreadable"}
            "72","a_extracted":null,"a_correct":false,"a_reason":"empty"}
            "#);
        }
        let left: Vec<(&str, &str, &str)> =
            ran.rejected.iter().map(|r| (r.id.as_str(), r.reason, r.message.as_str())).collect();
        assert_eq!(
            left,
            [
                ("no-gold", "null-value", "`gold` is null"),
                ("bad-gold", "gold-unreadable", "`gold` holds no number: \"one\"")
            ]
        );
    }
}

#[test]
fn right_answers_may_be_numbers_and_rationales() {
    let rows = r#"[
        {"id": "a", "response": "\\boxed{0.5}", "gold": 0.5, "human": "1/2\n#### 1/2"},
        {"id": "b", "response": "It is 7 not 8", "gold": 7, "human": "so \\boxed{8}"}
    ]"#;
    let right = |gold: &str| {
        let node = format!("check-answer \"c\" from=\"rows\" task=\"math\" extractor=\"boxed\" gold=\"{gold}\"");
        let ran = run(&node, &options(rows), 10);
        lines(&ran.rows[0]).lines().map(|l| l.contains("\"correct\":true")).collect::<Vec<bool>>()
    };
    assert_eq!(right("gold"), [true, false]);
    assert_eq!(right("human"), [true, true]);
}

#[test]
fn options_are_those_of_the_contract_or_as_named() {
    let row = |names: [&str; 5]| {
        let texts = ["cat", "dog", "cow", "pig", "hen"];
        let options: Vec<String> = names.iter().zip(texts).map(|(n, t)| format!("\"{n}\": \"{t}\"")).collect();
        format!(r#"[{{"id": "a", "response": "Final Answer: the cow", "gold": "3", {}}}]"#, options.join(", "))
    };
    let correct = |fields: &str, rows: &str| {
        let ran = run(&format!("check-answer \"c\" from=\"rows\" task=\"ecqa\" {fields}"), &options(rows), 10);
        lines(&ran.rows[0]).contains("\"extracted\":\"3\",\"correct\":true,\"reason\":null")
    };
    assert!(correct("", &row(["option_1", "option_2", "option_3", "option_4", "option_5"])));
    let others = row(["a", "b", "c", "d", "e"]);
    assert!(!correct("", &others));
    assert!(correct(r#"{ options "a" "b" "c" "d" "e" }"#, &others));
}

#[test]
fn what_is_wrong_is_said_at_plan_time() {
    let refused = |node: &str| refusal(&format!("check-answer \"c\" from=\"drafts\" {node}"), &drafts());
    insta::assert_snapshot!(refused(r#"task="codes""#), @r#"
    error[unknown-choice]: `task` of `check-answer` cannot be `codes`
     --> node.kdl:1:37
      |
    1 | check-answer "c" from="drafts" task="codes"
      |                                     ^^^^^^^ none of the choices
      |
      = help: did you mean `code`?
      = help: expected `math`, `ecqa` or `code`
    "#);
    insta::assert_snapshot!(refused(r#"task="math" gold="answer" response="idd""#), @r#"
    error [column-missing]: `test` needs a column `idd` that its input does not have
      at: column `idd` is read here
      at: `drafts` gives `id`, `response` and `gold`
      help: did you mean `id`?
    error [column-missing]: `test` needs a column `answer` that its input does not have
      at: column `answer` is read here
      at: `drafts` gives `id`, `response` and `gold`
    "#);
    insta::assert_snapshot!(refused(r#"task="math" marker=" " { options "gold" }"#), @r#"
    error [meaningless-field]: `options` is for `task="ecqa"`
      at: not read
      at: because of this
    error [empty-value]: the marker is empty
      at: needs a text that stands before every answer
      help: leave it out for `Final Answer:`
    "#);
    insta::assert_snapshot!(refused(r#"task="ecqa" extractor="boxed" { options "gold" "gold" }"#), @r#"
    error [meaningless-field]: `extractor` is for `task="math"`
      at: not read
      at: because of this
      help: options are read behind the marker: remove `extractor`
    error [bad-options]: `options` names 2 columns, not five
      at: one for each option, in their order
    "#);
    let taken = rows(r#"[{"id": "a", "response": true, "gold": ["x"], "correct": true}]"#);
    insta::assert_snapshot!(refusal(r#"check-answer "c" from="rows" task="math""#, &[given("from", "rows", taken)]), @r#"
    error [column-type]: column `response` is boolean, and `check-answer` needs string
      at: needs string
      at: `rows` gives it as boolean
    error [column-type]: column `gold` is list of text, and `check-answer` needs string or number
      at: needs string or number
      at: `rows` gives it as list of text
    error [duplicate-column]: the input already has a column `correct`
      at: `check-answer` adds it
      at: `rows` gives it
      help: drop or rename the column before, with `select`
    "#);
}

/// Code, where it can be run.
#[cfg(target_os = "linux")]
mod code {
    use super::*;

    const SOLUTIONS: &str = r#"[
        {"id": "right", "response": "So:\nFinal Answer:\ndef f(x):\n    print(x)\n    return x + one", "test_list": ["assert f(1) == 2", "assert f(2) == 3"], "test_setup_code": "one = 1"},
        {"id": "wrong", "response": "```python\ndef f(x): return 2\n```", "test_list": ["assert f(1) == 2", "assert f(2) == 3, 'not 3'"], "test_setup_code": ""},
        {"id": "raised", "response": "def f(x): return y", "test_list": ["assert f(1) == 2"], "test_setup_code": ""},
        {"id": "broken", "response": "I do not know.", "test_list": ["assert f(1) == 2"], "test_setup_code": ""},
        {"id": "left", "response": "import os; os._exit(0)", "test_list": ["assert f(1) == 2"], "test_setup_code": ""},
        {"id": "hungry", "response": "x = bytearray(1 << 40)", "test_list": ["assert f(1) == 2"], "test_setup_code": ""},
        {"id": "loud", "response": "while True: print('x' * 1000)", "test_list": ["assert f(1) == 2"], "test_setup_code": ""},
        {"id": "slow", "response": "while True: pass", "test_list": ["assert f(1) == 2"], "test_setup_code": ""},
        {"id": "null", "response": null, "test_list": ["assert f(1) == 2"], "test_setup_code": ""},
        {"id": "no-tests", "response": "x = 1", "test_list": [], "test_setup_code": ""}
    ]"#;

    #[test]
    fn code_is_judged_by_its_tests() {
        let given = [given("from", "solutions", rows(SOLUTIONS))];
        for batch in [3, 100] {
            let ran = run(r#"check-answer "c" from="solutions" task="code" timeout=1"#, &given, batch);
            let shown: String = crate::ops::testing_node::rows_json(&ran.rows[0])
                .iter()
                .map(|row| {
                    let text = |name: &str| row[name].as_str().unwrap_or("-").to_string();
                    let stdout: String = text("stdout").chars().take(9).collect();
                    format!("{}: {} {} [{}] {stdout:?}\n", text("id"), row["correct"], text("reason"), text("detail"))
                })
                .collect();
            insta::allow_duplicates! {
                insta::assert_snapshot!(shown);
            }
            let left: Vec<(&str, &str)> = ran.rejected.iter().map(|r| (r.id.as_str(), r.reason)).collect();
            assert_eq!(left, [("no-tests", "no-tests")]);
        }
    }

    #[test]
    fn prompts_go_on_and_columns_have_other_names() {
        let rows_json = r#"[
            {"id": "body", "response": "    return x + 1\n", "question": "def f(x):\n    \"\"\"Adds one.\"\"\"\n", "test": "def check(g): assert g(1) == 2", "entry_point": "f"},
            {"id": "whole", "response": "def f(x): return x + 2", "question": "def f(x):\n    \"\"\"Adds one.\"\"\"\n", "test": "def check(g): assert g(1) == 2", "entry_point": "f"}
        ]"#;
        let correct = |node: &str, rows_json: &str| {
            let ran = run(node, &[given("from", "rows", rows(rows_json))], 10);
            crate::ops::testing_node::rows_json(&ran.rows[0]).iter().map(|r| r["correct"] == true).collect::<Vec<_>>()
        };
        assert_eq!(correct(r#"check-answer "c" from="rows" task="code""#, rows_json), [true, false]);
        let renamed = rows_json
            .replace("\"question\"", "\"stub\"")
            .replace("\"test\"", "\"code\"")
            .replace("entry_point", "name");
        let named = r#"check-answer "c" from="rows" task="code" beginning="stub" entry-point="name" tests="code""#;
        assert_eq!(correct(named, &renamed), [true, false]);
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        let refused = |node: &str| refusal(&format!("check-answer \"c\" from=\"drafts\" {node}"), &drafts());
        insta::assert_snapshot!(refused(r#"task="code""#));
        insta::assert_snapshot!(refused(
            r#"task="code" gold="gold" extractor="boxed" tests="gold" { options "gold" }"#
        ));
        insta::assert_snapshot!(refused(r#"task="code" tests="goold" test-setup="id""#));
        insta::assert_snapshot!(refused(r#"task="code" tests="gold" python="no-such-python""#));
        insta::assert_snapshot!(refused(r#"task="code" tests="gold" program-memory="tiny""#));
        insta::assert_snapshot!(refused(r#"task="math" timeout=3 python="python3""#));
    }
}
