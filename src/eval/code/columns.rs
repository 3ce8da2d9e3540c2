//! Where the tests of a row stand.

use super::CodeProblem;
use serde_json::Value;

/// The columns of a problem. By default they have the names that the contracts of MBPP and HumanEval give them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TestColumns {
    /// Code, or lists of code: each passes by raising nothing.
    pub tests: Vec<String>,
    /// Code that is run before the tests.
    pub setup: Option<String>,
    /// The name of the function that the tests call. Where it is given, the tests define `check`, which is called with it.
    pub entry_point: Option<String>,
    /// The beginning of the program, which the response goes on from.
    pub prompt: Option<String>,
}

impl TestColumns {
    /// Those that the columns of an input give by their names. HumanEval's have an `entry_point` and its prompt, as
    /// `prompt` or as the question itself; MBPP's have lists of tests.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let names: Vec<&str> = names.into_iter().collect();
        let there = |name: &str| names.contains(&name).then(|| name.to_string());
        if let (Some(entry_point), Some(test)) = (there("entry_point"), there("test")) {
            let prompt = there("prompt").or_else(|| there("question"));
            return Some(Self { tests: vec![test], setup: None, entry_point: Some(entry_point), prompt });
        }
        let tests: Vec<String> = ["test_list", "challenge_test_list"].into_iter().filter_map(there).collect();
        let setup = there("test_setup_code");
        (!tests.is_empty()).then_some(Self { tests, setup, entry_point: None, prompt: None })
    }

    /// All of them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let others = [&self.setup, &self.entry_point, &self.prompt];
        self.tests.iter().map(String::as_str).chain(others.into_iter().flatten().map(String::as_str))
    }

    /// The problem of a row, by a look at its cells; or the reason why there is none, and a message.
    pub fn problem(&self, cell: impl Fn(&str) -> Value) -> Result<CodeProblem, (&'static str, String)> {
        let text = |name: &Option<String>| match name.as_deref().map(&cell) {
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
            _ => None,
        };
        let mut tests: Vec<String> = self.tests.iter().flat_map(|name| texts(cell(name))).collect();
        if tests.is_empty() {
            let message = format!(
                "no test stands in {}",
                crate::ops::list(&self.tests.iter().map(String::as_str).collect::<Vec<_>>())
            );
            return Err(("no-tests", message));
        }
        let mut setup: Vec<String> = text(&self.setup).into_iter().collect();
        let entry_point = text(&self.entry_point);
        if let Some(column) = &self.entry_point {
            let Some(name) = &entry_point else {
                return Err(("null-value", format!("`{column}` is null, and should name the function to test")));
            };
            setup.append(&mut tests);
            tests.push(format!("check({})", name.trim()));
        }
        Ok(CodeProblem { prompt: text(&self.prompt), entry_point, setup, tests })
    }
}

/// The texts of a cell that are not blank.
fn texts(cell: Value) -> Vec<String> {
    let all = match cell {
        Value::String(text) => vec![Value::String(text)],
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    let text = |item: Value| match item {
        Value::String(text) if !text.trim().is_empty() => Some(text),
        _ => None,
    };
    all.into_iter().filter_map(text).collect()
}
