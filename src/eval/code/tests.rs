use super::assemble::completed;
use super::*;
use crate::eval::answer::MARKER;
use serde_json::{Value, json};

#[test]
fn code_stands_behind_the_marker_in_fences_or_alone() {
    for (response, code) in cases::READ {
        assert_eq!(read(response, MARKER), Ok(code.to_string()), "{response:?}");
    }
    assert_eq!(read("  \n", MARKER), Err(Fault::Empty));
    assert_eq!(read("It is this.\nFinal Answer:\n```python\n```", MARKER), Err(Fault::Unreadable));
}

#[test]
fn fences_are_taken_off_and_indentation_is_kept() {
    let cases = [
        ("def f():\n    return 1\n", "def f():\n    return 1"),
        ("\n\n    return 1\n", "    return 1"),
        ("Here it is:\n\n```\nimport re\n```\nand\n~~~\nx = '```'\n~~~\nDone.", "import re\n\nx = '```'"),
        ("```python\ndef f():\n    pass", "def f():\n    pass"),
        ("```\n```", ""),
        ("", ""),
    ];
    for (text, expected) in cases {
        assert_eq!(text_of(text), expected, "{text:?}");
    }
}

#[test]
fn bodies_go_on_and_whole_functions_come_anew() {
    let prompt = cases::PROMPT;
    for (code, tail) in cases::COMPLETED {
        assert_eq!(completed(prompt, code, Some("f")), format!("{prompt}{tail}\n"), "{code:?}");
    }
    assert_eq!(completed("def f(x):\n", "def f(x): return 1", Some("f")), "def f(x): pass\n\ndef f(x): return 1\n");
}

#[test]
fn problems_stand_in_the_columns_of_the_contracts() {
    let row = json!({"test_list": ["assert f(1) == 1", ""], "challenge_test_list": [], "test_setup_code": "",
        "test": "def check(c): assert c(1) == 1", "entry_point": "f", "question": "def f(x):"});
    let cell = |name: &str| row[name].clone();
    let mbpp = TestColumns::of(["id", "test", "test_list", "test_setup_code", "challenge_test_list"]).unwrap();
    assert_eq!(mbpp.names().collect::<Vec<_>>(), ["test_list", "challenge_test_list", "test_setup_code"]);
    let problem = mbpp.problem(cell).unwrap();
    assert_eq!(problem, CodeProblem { tests: vec!["assert f(1) == 1".into()], ..CodeProblem::default() });
    assert_eq!(mbpp.problem(|_| Value::Null).unwrap_err().0, "no-tests");
    let humaneval = TestColumns::of(["id", "question", "test", "entry_point"]).unwrap();
    let problem = humaneval.problem(cell).unwrap();
    assert_eq!(problem.prompt.as_deref(), Some("def f(x):"));
    assert_eq!((problem.setup.len(), problem.tests), (1, vec!["check(f)".to_string()]));
    let nameless = |name: &str| if name == "entry_point" { Value::Null } else { cell(name) };
    assert_eq!(humaneval.problem(nameless).unwrap_err().0, "null-value");
    assert_eq!(TestColumns::of(["id", "question", "test"]), None);
}
