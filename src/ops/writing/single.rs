//! Rows that take one call.

use super::settings::Writing;
use super::task::{RowTask, Step, Task, one};
use crate::teacher::{Ask, Failure, Outcome};

struct Single<'a, F> {
    writing: &'a Writing,
    ask: Ask,
    text: F,
}

/// Asks once. `text` makes the column's text of the answer's, which is neither blank nor cut off.
pub fn single<'a>(writing: &'a Writing, ask: Ask, text: impl Fn(&str) -> Result<String, Failure> + 'a) -> Task<'a> {
    Box::new(Single { writing, ask, text })
}

impl<F: Fn(&str) -> Result<String, Failure>> RowTask for Single<'_, F> {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        let Some(outcome) = one(last) else { return Step::ask(self.ask.clone()) };
        let written = outcome.and_then(|answer| {
            self.writing.check(&answer)?;
            let text = (self.text)(&answer.text)?;
            Ok(self.writing.cells(text, Some(&answer), self.ask.sample))
        });
        match written {
            Ok(cells) => Step::row(cells),
            Err(failure) => Step::Reject(failure),
        }
    }
}
