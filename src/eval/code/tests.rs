use super::assemble::{completed, read};
use super::*;
use crate::eval::answer::MARKER;
use serde_json::{Value, json};

#[test]
fn code_stands_behind_the_marker_in_fences_or_alone() {
    let cases = [
        ("Final Answer:\ndef f():\n    return 1\n", "def f():\n    return 1"),
        ("So:\nFinal Answer:\n\n    return 1\n", "    return 1"),
        ("```python\nwrong\n```\nFinal Answer:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("Final answer: x = 1", " x = 1"),
        ("Here:\n```python\nx = 1\n```\nprints\n```\n1 is it\n```", "x = 1"),
        ("```\nx = 1\n```\n```\ny = 2\n```", "x = 1\n\ny = 2"),
        ("x = 1", "x = 1"),
        ("```py\nx = 1", "x = 1"),
    ];
    for (response, code) in cases {
        assert_eq!(read(response, MARKER), Ok(code.to_string()), "{response:?}");
    }
    assert_eq!(read("  \n", MARKER), Err(Fault::Empty));
    assert_eq!(read("It is this.\nFinal Answer:\n```python\n```", MARKER), Err(Fault::Unreadable));
}

#[test]
fn bodies_go_on_and_whole_functions_come_anew() {
    let prompt = "import re\n\ndef f(x):\n    \"\"\"Doubles.\"\"\"\n";
    let cases = [
        ("    return 2 * x", "    return 2 * x"),
        ("return 2 * x", "    return 2 * x"),
        ("y = x\n    return 2 * y", "    y = x\n    return 2 * y"),
        ("if x:\n    return 1\nreturn 2", "    if x:\n        return 1\n    return 2"),
        ("if x:\n    return 1", "    if x:\n        return 1"),
        ("def g(x):\n    return x\nreturn g(x)", "    def g(x):\n        return x\n    return g(x)"),
        ("def f(x):\n    return 2 * x", "\ndef f(x):\n    return 2 * x"),
        ("import re\ndef f (x): return 2", "\nimport re\ndef f (x): return 2"),
    ];
    for (code, tail) in cases {
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
