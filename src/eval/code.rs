//! Whether a response's code is right: it is read, put together with a problem's tests, and run in the sandbox.
//!
//! ```text
//! response --read--> code --with prompt, setup, tests--> Program --sandbox--> CodeVerdict
//! ```
//!
//! [`answer`](super::answer) is the same for answers that are compared with a right one.

mod assemble;
pub mod cases;
mod columns;
#[cfg(test)]
mod tests;

use super::answer::Fault;
use super::sandbox::{Outcome, Program, Ran, Sandbox, Stage, Trouble};
use std::sync::Arc;

pub use assemble::{read, text_of};
pub use columns::TestColumns;

/// Messages of exceptions are kept up to this many characters.
const MESSAGE: usize = 300;

/// What a program has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CodeProblem {
    /// The beginning of the program: a signature and its docstring, in sets whose answers go on from there (HumanEval).
    pub prompt: Option<String>,
    /// The function that the tests call, where the set names it.
    pub entry_point: Option<String>,
    /// Code that is run behind the program, before the tests.
    pub setup: Vec<String>,
    /// Each passes by raising nothing.
    pub tests: Vec<String>,
}

/// Reads code, and judges it by running it.
#[derive(Debug, Clone)]
pub struct CodeChecker {
    pub sandbox: Arc<Sandbox>,
    pub marker: String,
}

/// A response's code and whether it is right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CodeVerdict {
    /// The code that was read.
    pub extracted: Option<String>,
    /// Why it is not right; `None` where it is.
    pub why: Option<Fault>,
    /// More on that, as in `test 2: AssertionError`: never a time, an address or a path.
    pub detail: Option<String>,
    /// The beginning of what it printed.
    pub stdout: String,
    /// The beginning of what it printed on standard error.
    pub stderr: String,
}

impl CodeVerdict {
    pub fn correct(&self) -> bool {
        self.why.is_none()
    }

    fn fault(why: Fault) -> Self {
        Self { why: Some(why), ..Self::default() }
    }
}

impl CodeChecker {
    /// Whether a response solves a problem. No response is a wrong one.
    pub fn check(
        &self,
        response: Option<&str>,
        problem: &CodeProblem,
        stop: &dyn Fn() -> bool,
    ) -> Result<CodeVerdict, Trouble> {
        match read(response.unwrap_or_default(), &self.marker) {
            Err(fault) => Ok(CodeVerdict::fault(fault)),
            Ok(code) => Ok(verdict(self.sandbox.run(&problem.program(&code), stop)?, code)),
        }
    }

    /// The same of many, side by side; verdicts in their order.
    pub fn check_all(
        &self,
        answers: &[(Option<&str>, &CodeProblem)],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<CodeVerdict>, Trouble> {
        let codes: Vec<Result<String, Fault>> =
            answers.iter().map(|(response, _)| read(response.unwrap_or_default(), &self.marker)).collect();
        let programs: Vec<Program> = codes
            .iter()
            .zip(answers)
            .filter_map(|(code, (_, problem))| Some(problem.program(code.as_ref().ok()?)))
            .collect();
        let mut ran = self.sandbox.run_all(&programs, stop)?.into_iter();
        let judged = codes.into_iter().map(|code| match code {
            Err(fault) => Some(CodeVerdict::fault(fault)),
            Ok(code) => Some(verdict(ran.next()?, code)),
        });
        // As many ran as there are codes.
        Ok(judged.flatten().collect())
    }
}

impl CodeProblem {
    /// The program that shows whether code solves the problem.
    pub fn program(&self, code: &str) -> Program {
        let code = match &self.prompt {
            Some(prompt) => assemble::completed(prompt, code, self.entry_point.as_deref()),
            None => code.to_string(),
        };
        Program { code, setup: self.setup.clone(), tests: self.tests.clone() }
    }
}

fn verdict(ran: Ran, code: String) -> CodeVerdict {
    let (why, detail) = match ran.outcome {
        Outcome::Passed => (None, None),
        Outcome::Failed { stage, kind, message } => {
            let wrong = matches!(stage, Stage::Test(_)) && kind == "AssertionError";
            (Some(if wrong { Fault::Wrong } else { Fault::Raised }), Some(raised(stage, &kind, &message)))
        }
        Outcome::Timeout => (Some(Fault::Timeout), None),
        Outcome::Memory => (Some(Fault::Memory), None),
        Outcome::Output => (Some(Fault::Output), None),
        Outcome::Exited(code) => (Some(Fault::Ended), Some(format!("exit code {code}, before the tests had passed"))),
        Outcome::Killed(signal) => (Some(Fault::Ended), Some(format!("signal {signal}"))),
    };
    CodeVerdict { extracted: Some(code), why, detail, stdout: ran.stdout, stderr: ran.stderr }
}

/// `test 2: AssertionError: too small`
fn raised(stage: Stage, kind: &str, message: &str) -> String {
    let place = match stage {
        Stage::Code => String::new(),
        Stage::Setup(_) => "setup: ".into(),
        Stage::Test(at) => format!("test {}: ", at + 1),
    };
    let message: String = message.chars().take(MESSAGE).collect();
    match message.trim() {
        "" => format!("{place}{kind}"),
        message => format!("{place}{kind}: {message}"),
    }
}
